PREFIX  ?= /usr/local
# Where the runtimes of this machine find the CNI plugins that it has, or else where most look.
CNI_BIN ?= $(or $(if $(DESTDIR),,$(firstword $(CNI_HERE))),/opt/cni/bin)
CNI_HERE = $(patsubst %/loopback,%,$(wildcard $(CNI_DIRS:%=%/loopback)))
CNI_ELSE = $(filter-out $(CNI_BIN),$(CNI_HERE))
CNI_DIRS = /opt/cni/bin /usr/local/libexec/cni /usr/local/lib/cni /usr/libexec/cni /usr/lib/cni
BIN      = $(PREFIX)/bin
LIBEXEC  = $(PREFIX)/libexec
SYSTEMD  = $(PREFIX)/lib/systemd/system
UDEV     = $(PREFIX)/lib/udev/rules.d
MODULES  = $(PREFIX)/lib/modules-load.d/vxcan.conf
SYSCTL   = $(PREFIX)/lib/sysctl.d/40-vxcan.conf
DOC      = $(PREFIX)/share/doc/vxcan
MANDIR   = $(PREFIX)/share/man/man8
BASHDIR  = $(PREFIX)/share/bash-completion/completions
ZSHDIR   = $(PREFIX)/share/zsh/site-functions
FISHDIR  = $(PREFIX)/share/fish/vendor_completions.d
UNITS    = vxcan-docker.socket vxcan-docker.service vxcan-heal@.service vxcan-metrics.service vxcan-metrics.timer vxcan-lend.socket vxcan-lend@.service

# What is installed, what is in the image for Kubernetes, what only tests, demo and benchmarks use, and the package each is
# built from. The tools are in a Go module of their own, integration/, so that the product's module depends on nothing that
# only they need; vm is in another one, which others can `go install`.
OUT       = bin
PRODUCT   = $(OUT)/vxcan $(OUT)/netavark/vxcan $(OUT)/vxcan-docker $(OUT)/vxcanctl
INSTALLER = bin/vxcan-install
TOOLS     = bin/vm bin/cnitool bin/bench
$(OUT)/vxcan:          package = ./plugins/vxcan
$(OUT)/netavark/vxcan: package = ./plugins/netavark
$(OUT)/vxcan-docker:   package = ./plugins/docker
$(OUT)/vxcanctl:       package = ./plugins/vxcanctl
$(INSTALLER):           package = ./plugins/install
bin/vm:             package = .
bin/bench:          package = ./bench
bin/cnitool:        package = github.com/containernetworking/cni/cnitool

# Pages for users, and what they can copy. What builds from the clone around it is of no use elsewhere.
DOCS    = README.md LICENSE CHANGELOG.md $(wildcard plugins/*/README.md) integration/packages/README.md $(shell find conflist -name yocto -prune -o -name buildroot -prune -o -type f -print)
SCRIPTS = .ci/run integration/setup $(wildcard integration/*/*.sh integration/vm/example/*.sh integration/packages/*/p*)

# Installs what a target needs and this machine lacks. SETUP=: leaves that to you.
SETUP ?= integration/setup
SUDO  := $(if $(filter 0,$(shell id -u)),,sudo --preserve-env=VXCAN_TEST_CAN,VXCAN_TEST_USB,VXCAN_TEST_TEARDOWN,VXCAN_TEST_RESTARTS,VXCAN_TEST_THOROUGH,VXCAN_VM_SUITE,VXCAN_BOOT)
VM     = $(strip $(SUDO) $(CURDIR)/bin/vm)

# Where this machine's Go is too old, setup puts a newer one in bin/go.
export PATH := $(CURDIR)/bin/go/bin:$(PATH)
export CGO_ENABLED = 0

.PHONY: help build $(OUT)/share packages image push check test job test-pkg-own test-sja1000 test-vm test-matrix test-unit test-install test-packages test-kube test-kube-only test-kubelet test-cluster test-nerdctl demo bench bench-quick bench-where lint install uninstall clean $(PRODUCT) $(INSTALLER) $(TOOLS)
# Steps depend on what setup did before them; Go itself uses all CPUs.
.NOTPARALLEL:

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile | expand -t 22

build: $(PRODUCT) $(INSTALLER) $(OUT)/share ## build what is installed into bin/

# The version is that of the git tag, or without one, of the newest entry in CHANGELOG.md: the same for a clone and an
# archive of it. Only our own .git counts, not one around an archive, and also where another user than root made the clone.
VERSION = $(patsubst v%,%,$(or $(TAG),$(NEWEST)))
TAG     = $(shell test ! -e .git || $(GIT) describe --tags --match 'v[0-9]*' --abbrev=12 --dirty 2>/dev/null)
NEWEST  = $(shell awk -F '[][]' '/^.. \[/ { print $$2 ($$3 ~ /unreleased/ ? "-unreleased" : ""); exit }' CHANGELOG.md)

GIT     = git -c safe.directory='$(CURDIR)'

# Always asks Go, which knows best what is up to date. The bytes are the same in every directory, clone or not.
$(PRODUCT) $(INSTALLER): setup-build
	go build $(GO_BUILD) -ldflags '-s -w -X main.buildVersion=$(VERSION)' -o $@ $(package)

# Man pages and completions, by a vxcanctl for this machine, whatever it is built for.
$(OUT)/share: setup-build
	rm -rf $@
	env -u GOOS -u GOARCH go run $(GO_BUILD) -ldflags '-X main.buildVersion=$(VERSION)' ./plugins/vxcanctl generate $@

$(TOOLS): directory = integration
bin/vm: directory = integration/vm
$(TOOLS): setup-build
	go -C $(directory) build $(GO_BUILD) -ldflags '-s -w' -o $(CURDIR)/$@ $(package)

GO_BUILD = -trimpath -buildvcs=false

# Kubernetes pulls for each node what fits it. GOARM is for arm alone. The module of the tool asks for a newer Go.
PLATFORMS = amd64 arm64 arm/v7 riscv64
# Tests of the image and of packages make do with this machine's architecture and the one of 32 bits; test-matrix has all.
test test-kube: PLATFORMS = $(if $(MATRIX),amd64 arm64 arm/v7 riscv64,$(sort $(subst armv7,arm/v7,$(THIS_ARCH)) arm/v7))
KUBERNETES = go -C integration/kubernetes/installer

# The name of the image, and where the manifests are written that have it, with the version.
IMAGE     = localhost/vxcan-install
MANIFESTS = bin/kubernetes

image: setup-build ## make the container image for Kubernetes, an OCI layout in bin/image and bin/image.tar, and its manifests in bin/kubernetes
	for platform in $(PLATFORMS); do for binary in vxcan:./plugins/vxcan vxcan-install:./plugins/install vxcan-label:./plugins/label vxcanctl:./plugins/vxcanctl; do \
		GOOS=linux GOARCH=$${platform%/*} GOARM=7 go build $(GO_BUILD) -ldflags '-s -w -X main.buildVersion=$(VERSION)' \
			-o bin/platforms/$$platform/$${binary%:*} $${binary#*:} || exit; done; done
	$(make_image) -binaries $(CURDIR)/bin/platforms $(PLATFORMS)

push: setup-build ## push that image to a registry, and name it in bin/kubernetes: IMAGE=registry.example.com/vxcan-install
	$(make_image) -push $(PLATFORMS)

make_image = $(KUBERNETES) run . -image $(IMAGE) -version $(VERSION) -out $(CURDIR)/bin/image \
	-manifests $(CURDIR)/conflist/kubernetes -to $(abspath $(MANIFESTS))

setup-%:
	@$(SETUP) $*

# What CI runs is jobs: a target, or SUITE:MACHINE:FOLDER, a folder of integration/ on a machine. Suite own is the Debian
# release that this machine is. The others, whose roots are made once and kept, run what depends on their kernel and their
# runtimes. Machine uml is User Mode Linux, qemu an emulated PC, and here none, for tests that boot machines themselves. What
# takes long comes first. In CI, Podman's folders run on both releases, because their network backends differ, and the others
# on one; test-matrix runs the folders of a subject on all, and what is rare.
MATRIX       = $(VXCAN_TEST_THOROUGH)
OTHER_SUITES ?= trixie
ON_EACH      = podman podman/reboot $(if $(MATRIX),docker controller bus kubernetes host docker/reboot kubernetes/reboot)
EMULATED     = $(if $(MATRIX),$(if $(shell grep -x VERSION_CODENAME=bookworm /etc/os-release),own)) $(firstword $(OTHER_SUITES))
RARE         = $(if $(MATRIX),$(EMULATED:%=%:qemu:controller/qemu/runtimes) $(firstword $(OTHER_SUITES)):qemu:host/qemu/once)
JOBS = test-packages test-pkg-own $(OTHER_SUITES:%=test-pkg-%) \
	$(EMULATED:%=%:qemu:controller/qemu) $(firstword $(OTHER_SUITES)):qemu:controller/qemu/once own:uml:controller/once own:uml:bus/once \
	$(foreach folder,docker controller bus podman kubernetes host,$(patsubst %,%:uml:$(folder),$(if $(filter $(folder),$(ON_EACH)),own) $(OTHER_SUITES))) \
	$(EMULATED:%=%:qemu:bus/qemu) $(RARE) \
	$(foreach folder,docker/reboot podman/reboot kubernetes/reboot,$(patsubst %,%:here:$(folder),$(if $(filter $(folder),$(ON_EACH)),own) $(OTHER_SUITES))) \
	$(patsubst %,own:uml:%,docker/once host/once kubernetes/once bus/check) $(OTHER_SUITES:%=%:here:ci) test-kube-only test-vm demo lint test-unit
# lint vets all packages.
GO_TEST = test -vet=off -count=1 -timeout 60m

check: setup-demo lint test-unit build bin/vm ## check format and code, what needs no kernel, and one bus on a kernel, in three minutes
	VXCAN_TEST_CAN=1 go -C integration $(GO_TEST) -exec '$(VM)' ./bus/check

# Jobs go side by side, because a test often waits for a runtime or for the kernel. Where vm boots no kernel, two tests at once
# would be in each other's way.
test: setup-test setup-packages build image bin/vm bin/cnitool test-install ## test everything, as CI does: on a kernel with CAN, booted where this one has none
	@at_once=3; $(VM) sh -c 'test $$VXCAN_VM = booted' || at_once=1; \
	printf '%s\n' $(JOBS) | xargs -P $$at_once -I {} $(MAKE) --no-print-directory SETUP=: job JOB={}

job_word = $(word $(1),$(subst :, ,$(JOB)))
suite    = $(filter-out own,$(call job_word,1))
machine  = $(call job_word,2)
exec     = $(if $(filter uml,$(machine)),-exec '$(VM)',$(if $(filter qemu,$(machine)),-exec '$(VM) -qemu'))
test-pkg-% test-vm: export VXCAN_TEST_CAN = 1
job: export VXCAN_VM_COMMAND = $(VM)
job: ## run one of them, such as JOB=own:uml:podman
	@echo "$(JOB) begins"
	@begin=$$(date +%s); $(if $(findstring :,$(JOB)),VXCAN_TEST_CAN=1 VXCAN_VM_SUITE=$(suite) VXCAN_TEST_USB=$(if $(filter qemu,$(machine)),1) \
		go -C integration $(GO_TEST) $(exec) ./$(call job_word,3),$(MAKE) --no-print-directory $(JOB)) \
		&& result=passed || result=FAILED; echo "$(JOB) $$result after $$(($$(date +%s) - begin)) s"; test $$result = passed

# What talks to the kernel: all of it in each machine is for test-matrix.
KERNEL_PKGS = $(if $(MATRIX),./...,$(patsubst %,./pkg/%,bus cangw canid canlink cantc capture controller lend rtnl underlay))
# -short is without the many failures of our own, one after the other, which depend on no kernel.
test-pkg-own:
	go $(GO_TEST) -exec '$(VM)' $(KERNEL_PKGS)
	! grep -qx VERSION_CODENAME=bookworm /etc/os-release || test ! "$(MATRIX)" || $(MAKE) --no-print-directory test-sja1000 test-tables
test-pkg-%: export VXCAN_VM_SUITE = $*
test-pkg-%:
	go $(GO_TEST) -short -exec '$(VM)' $(filter-out %/canid,$(KERNEL_PKGS))
	$(MAKE) --no-print-directory test-sja1000 test-tables

# What needs nftables, which User Mode Linux does not have: the tables, and all that a bus of several hosts does with them.
test-tables:
	go $(GO_TEST) -exec '$(VM) -qemu' ./pkg/underlay
	$(if $(MATRIX),go $(GO_TEST) -exec '$(VM) -qemu' -run 'TestSpan(Refused|Damage|RecordLost|Fails|Attack|Table|Leaves|Nodes)' ./pkg/bus)

test-sja1000: export VXCAN_TEST_USB = 1
test-sja1000:
	go $(GO_TEST) -exec '$(VM) -qemu' -run SJA1000 ./pkg/controller

test-vm:
	go -C integration/vm $(GO_TEST) -parallel 2 .

test-matrix: export OTHER_SUITES = trixie forky
test-matrix: export VXCAN_TEST_CLEAN = 1
test-matrix: export VXCAN_TEST_THOROUGH = 1
test-matrix: export VXCAN_TEST_TEARDOWN = 20
test-matrix: export VXCAN_TEST_RESTARTS = 10
test-matrix: test test-kubelet test-cluster test-nerdctl ## the same with one more Debian release, newer than the stable one, with a kubelet, a cluster and nerdctl

# nerdctl as a module that pins it with all that is in it, on the containerd of each release.
test-nerdctl: export VXCAN_TEST_CAN = 1
test-nerdctl: setup-test build bin/vm ## test with nerdctl, in a few minutes
	go -C integration/tools/nerdctl build $(GO_BUILD) -ldflags '-s -w' -o $(CURDIR)/bin/nerdctl github.com/containerd/nerdctl/v2/cmd/nerdctl
	install -t bin $$(go -C integration/tools/nerdctl list -m -f '{{.Dir}}' github.com/containerd/nerdctl/v2)/extras/rootless/*.sh
	for suite in $(OTHER_SUITES); do VXCAN_VM_SUITE=$$suite go -C integration $(GO_TEST) -exec '$(VM)' ./nerdctl || exit; done

# What install installs has the version, systemd can read it where there is one, and uninstall leaves no file of it.
test-install: root = $(CURDIR)/bin/root
test-install: export CNI_BIN = /opt/cni/bin
test-install: build
	rm -rf $(root)
	$(MAKE) -s install DESTDIR=$(root)
	echo '[Unit]' >$(root)$(SYSTEMD)/sysinit.target # which services require
	! command -v systemd-analyze >/dev/null || ! systemd-analyze verify --man=no --root=$(root) $(UNITS) 2>&1 | grep .
	rm $(root)$(SYSTEMD)/sysinit.target
	! udevadm verify --help >/dev/null 2>&1 || udevadm verify --no-summary $(root)$(UDEV)/90-vxcan.rules
	test "$$($(root)$(CNI_BIN)/vxcan --version)" = 'vxcan $(VERSION)'
	test "$$($(root)$(LIBEXEC)/vxcan-docker --version)" = 'vxcan-docker $(VERSION)'
	test "$$($(root)$(BIN)/vxcanctl --version)" = 'vxcanctl $(VERSION)'
	$(root)$(LIBEXEC)/netavark/vxcan info | grep -F '"version":"$(VERSION)"' >/dev/null
	grep -x 'net.core.netdev_max_backlog = 65536' $(root)$(SYSCTL) >/dev/null
	$(MAKE) -s uninstall DESTDIR=$(root)
	! find $(root) ! -type d | grep .

test-unit: setup-build ## test what needs neither root nor CAN, in seconds
	go test -vet=off ./...
	go -C integration test -vet=off ./...
	go -C integration/vm test -vet=off .

# What is packed, with which tools: nfpm needs a newer Go than ours do, which Go fetches as the module that it is.
PACKAGES  = bin/packages
ARCHS     = amd64 arm64 armv7 riscv64
FORMATS   = deb rpm apk ipk
NFPM      = bin/nfpm@v2.45.2
CYCLONEDX = bin/cyclonedx-gomod@v1.10.0
$(NFPM):      module = github.com/goreleaser/nfpm/v2/cmd/nfpm
$(CYCLONEDX): module = github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod

$(NFPM) $(CYCLONEDX): | setup-build
	mkdir -p bin/go-tools
	GOTOOLCHAIN=auto GOBIN=$(CURDIR)/bin/go-tools go install $(module)@$(lastword $(subst @, ,$@))
	mv bin/go-tools/$(notdir $(module)) $@

# A package says that everything in it is as old as the commit, or in an archive of one, as this file.
SOURCE_DATE_EPOCH ?= $(or $(shell test ! -e .git || $(GIT) log -1 --format=%ct 2>/dev/null),$(shell stat -c %Y Makefile))

packages: setup-build $(NFPM) $(CYCLONEDX) ## build deb, rpm, apk and ipk packages, their SBOMs and SHA256SUMS into bin/packages
	VERSION='$(VERSION)' SOURCE_DATE_EPOCH='$(SOURCE_DATE_EPOCH)' ARCHS='$(ARCHS)' FORMATS='$(FORMATS)' \
		NFPM='$(NFPM)' CYCLONEDX='$(CYCLONEDX)' integration/packages/build.sh $(PACKAGES)

THIS_ARCH = $(shell go env GOARCH | sed 's/^arm$$/armv7/')
# The bytes are the same again, whatever the umask and the time zone. The upgrade is a package of a later version.
test-packages: ARCHS = $(if $(MATRIX),amd64 arm64 armv7 riscv64,$(sort $(THIS_ARCH) armv7))
test-packages: export VXCAN_TEST_CAN = 1
test-packages: setup-packages build packages bin/vm ## test the packages: what is in them, and the deb in a Debian release, by test-matrix in each
	umask 077; TZ=Asia/Tokyo $(MAKE) -s --no-print-directory packages PACKAGES=$(PACKAGES)-again ARCHS='$(if $(MATRIX),$(ARCHS),$(THIS_ARCH))'
	cd $(PACKAGES)-again && for file in vxcan*; do cmp $$file $(CURDIR)/$(PACKAGES)/$$file || exit; done
	$(MAKE) -s --no-print-directory packages PACKAGES=$(PACKAGES)-next VERSION=99.0.0 ARCHS=$(THIS_ARCH) FORMATS='deb rpm'
	go -C integration $(GO_TEST) ./packages
	@tests= failed=; \
	for suite_folder in :once $(if $(MATRIX),:deb :bus) $(foreach suite,$(if $(MATRIX),$(OTHER_SUITES),$(firstword $(OTHER_SUITES))),$(suite):deb $(suite):bus); do \
		VXCAN_VM_SUITE=$${suite_folder%:*} go -C integration $(GO_TEST) -exec '$(VM)' ./packages/$${suite_folder#*:} & \
		tests="$$tests $$!"; \
	done; for test in $$tests; do wait $$test || failed=1; done; test ! "$$failed"

# The installer needs no kernel with CAN: not in a virtual machine, where strace takes its time.
test-kube: build image test-kube-only ## test the installer for Kubernetes, its image and its manifests, in two minutes
test-kube-only:
	$(KUBERNETES) $(GO_TEST) .

# The versions of Kubernetes and etcd are in its go.mod, which may ask for a newer Go than ours do. Helm asks the API server
# for its version.
bin/kube: integration/kube/go.mod integration/kube/main.go | setup-build
	GOTOOLCHAIN=auto go -C $(<D) build $(GO_BUILD) -ldflags "-s -w -X k8s.io/component-base/version.gitVersion=$$(awk '$$1 == "k8s.io/kubernetes" { print $$2; exit }' $<)" -o $(CURDIR)/$@ .

# Always on a kernel of its own, whose settings a kubelet changes.
test-kubelet: export VXCAN_TEST_CAN = 1
test-kubelet: export VXCAN_VM_COMMAND = $(VM)
test-kubelet: export VXCAN_VM_SUITE = trixie
test-kubelet: setup-test build bin/vm bin/kube ## test pods of a kubelet, which takes minutes to build, on Debian's containerd
	go -C integration $(GO_TEST) -exec '$(VM) -boot' ./kubernetes/kubelet
	go -C integration $(GO_TEST) -parallel 1 ./kubernetes/kubelet/reboot

test-cluster: export VXCAN_TEST_CAN = 1
test-cluster: export VXCAN_VM_COMMAND = $(VM)
test-cluster: export VXCAN_VM_SUITE = trixie
test-cluster: setup-test build image bin/vm bin/kube ## test a whole cluster of Kubernetes, which takes long to build, on Debian's containerd
	VXCAN_HELM='$(CURDIR)/bin/kube helm' $(KUBERNETES) $(GO_TEST) -run Chart .
	go -C integration $(GO_TEST) -exec '$(VM) -boot -mem 4096' ./kubernetes/cluster

# integration/demo/demo.svg is made by: termtosvg demo.svg -c 'make -s demo' -g 100x22 -t gjm8 -M 1500 -D 4000
demo: setup-demo bin/vxcan bin/vxcanctl bin/netavark/vxcan bin/vm bin/cnitool ## show containers talking on a bus
	$(VM) integration/demo/demo.sh

# What a machine counts that counts instructions does not depend on this one, nor on what else it does.
BENCH = bin/bench -counting '$(VM) -suite trixie -qemu -icount' -smp '$(VM) -suite trixie -qemu'

bench: ## count what a container and a frame cost, beside what people use instead, in some twenty minutes
bench-quick: ## the same in a few minutes, into bin
bench-where: ## tell where the instructions of an ADD go
bench bench-quick bench-where: setup-bench bin/vm bin/vxcan bin/vxcanctl bin/bench
	$(BENCH) $(if $(filter %-where,$@),-where,$(if $(filter %-quick,$@),-quick -out bin,-out integration/bench))

# The newest that the Go of our modules can build.
STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.6.1

lint: setup-lint ## check format and code
	! $$(go env GOROOT)/bin/gofmt -d . | grep .
	for module in . integration integration/vm integration/kubernetes/installer; do go -C $$module vet ./... && go -C $$module run $(STATICCHECK) ./... || exit; done
	shellcheck $(SCRIPTS)

# Tells this machine's systemd and udev, where it has them and we install for it.
tell = @test '$(DESTDIR)' || $(1) 2>/dev/null || true

# Each runtime looks for its plugin in a place of its own. The CNI plugin is renamed, so that no pod that starts or ends
# meanwhile finds none. Builds only when nothing is built: with sudo there may be no Go.
install: ## install what was built (DESTDIR, PREFIX, CNI_BIN)
	@test -x $(OUT)/vxcanctl && test -d $(OUT)/share || $(MAKE) build
	install -D $(OUT)/vxcan $(DESTDIR)$(CNI_BIN)/.vxcan && mv $(DESTDIR)$(CNI_BIN)/.vxcan $(DESTDIR)$(CNI_BIN)/vxcan
	install -D -t $(DESTDIR)$(LIBEXEC)/netavark $(OUT)/netavark/vxcan
	install -D -t $(DESTDIR)$(LIBEXEC) $(OUT)/vxcan-docker
	install -D -t $(DESTDIR)$(BIN) $(OUT)/vxcanctl
	install -D -m 644 plugins/vxcan/40-vxcan.conf $(DESTDIR)$(SYSCTL)
	install -d $(DESTDIR)$(SYSTEMD) $(DESTDIR)$(dir $(MODULES))
	for unit in $(UNITS); do sed 's|/usr/local/|$(PREFIX)/|' plugins/*/$$unit >$(DESTDIR)$(SYSTEMD)/$$unit || exit; done
	install -D -m 644 -t $(DESTDIR)$(UDEV) plugins/vxcanctl/90-vxcan.rules
	install -D -m 644 -t $(DESTDIR)$(MANDIR) $(OUT)/share/*.8
	install -D -m 644 -t $(DESTDIR)$(BASHDIR) $(OUT)/share/vxcanctl
	install -D -m 644 -t $(DESTDIR)$(ZSHDIR) $(OUT)/share/_vxcanctl
	install -D -m 644 -t $(DESTDIR)$(FISHDIR) $(OUT)/share/vxcanctl.fish
	printf '%s\n' vcan vxcan can-gw >$(DESTDIR)$(MODULES)
	for file in $(DOCS); do install -D -m 644 $$file $(DESTDIR)$(DOC)/$$file || exit; done
	$(call tell,systemctl daemon-reload)
	$(call tell,udevadm control --reload)
	@test '$(DESTDIR)' || echo 'The CNI plugin is $(CNI_BIN)/vxcan.$(if $(CNI_ELSE), For a runtime that looks in $(CNI_ELSE): make install CNI_BIN=DIR.)'
	@echo 'At each boot the kernel modules are loaded, and the queue for bursts of frames is set. To do so now:'
	@echo '  sudo modprobe -a vcan vxcan can-gw && sudo sysctl -p $(SYSCTL)'

uninstall: ## remove what install installed
	$(call tell,systemctl disable --now vxcan-docker.socket vxcan-metrics.timer vxcan-lend.socket)
	rm -f $(DESTDIR)$(CNI_BIN)/vxcan $(DESTDIR)$(CNI_BIN)/.vxcan $(DESTDIR)$(LIBEXEC)/netavark/vxcan $(DESTDIR)$(LIBEXEC)/vxcan-docker $(DESTDIR)$(BIN)/vxcanctl
	rm -f $(DESTDIR)$(UDEV)/90-vxcan.rules
	rm -f $(DESTDIR)$(MANDIR)/vxcanctl.8 $(DESTDIR)$(MANDIR)/vxcanctl-*.8
	rm -f $(DESTDIR)$(BASHDIR)/vxcanctl $(DESTDIR)$(ZSHDIR)/_vxcanctl $(DESTDIR)$(FISHDIR)/vxcanctl.fish
	rm -f $(UNITS:%=$(DESTDIR)$(SYSTEMD)/%) $(DESTDIR)$(MODULES) $(DESTDIR)$(SYSCTL) $(DOCS:%=$(DESTDIR)$(DOC)/%)
	test ! -d $(DESTDIR)$(DOC) || find $(DESTDIR)$(DOC) -type d -empty -delete
	$(call tell,systemctl daemon-reload)
	$(call tell,udevadm control --reload)
	@echo 'Not removed: state in /var/lib/cni/vxcan and /var/lib/vxcan-docker, consents in /etc/vxcan; devices and sysctl values until the next boot.'

clean: ## remove what was built
	rm -rf bin
