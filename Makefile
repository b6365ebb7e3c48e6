PREFIX  ?= /usr/local
CNI_BIN ?= /opt/cni/bin
BIN      = $(PREFIX)/bin
LIBEXEC  = $(PREFIX)/libexec
SYSTEMD  = $(PREFIX)/lib/systemd/system
UDEV     = $(PREFIX)/lib/udev/rules.d
MODULES  = $(PREFIX)/lib/modules-load.d/vxcan.conf
SYSCTL   = $(PREFIX)/lib/sysctl.d/40-vxcan.conf
DOC      = $(PREFIX)/share/doc/vxcan
MAN      = $(PREFIX)/share/man/man8
BASH     = $(PREFIX)/share/bash-completion/completions
ZSH      = $(PREFIX)/share/zsh/site-functions
FISH     = $(PREFIX)/share/fish/vendor_completions.d
UNITS    = vxcan-docker.socket vxcan-docker.service vxcan-heal@.service vxcan-metrics.service vxcan-metrics.timer

# What is installed, what only tests, demo and benchmarks use, and the package each is built from. The tools are in a
# Go module of their own, integration/, so that the product's module depends on nothing that only they need.
PRODUCT = bin/vxcan bin/netavark/vxcan bin/vxcan-docker bin/vxcanctl
TOOLS   = bin/vm bin/cnitool bin/bench
bin/vxcan:          package = ./plugins/vxcan
bin/netavark/vxcan: package = ./plugins/netavark
bin/vxcan-docker:   package = ./plugins/docker
bin/vxcanctl:       package = ./plugins/vxcanctl
bin/vm:             package = ./vm
bin/bench:          package = ./bench
bin/cnitool:        package = github.com/containernetworking/cni/cnitool

DOCS    = README.md LICENSE CHANGELOG.md $(shell find conflist -type f)
SCRIPTS = .ci/run integration/setup $(wildcard integration/*/*.sh)

# Installs what a target needs and this machine lacks. SETUP=: leaves that to you.
SETUP ?= integration/setup
SUDO  := $(if $(filter 0,$(shell id -u)),,sudo --preserve-env=VXCAN_TEST_CAN,VXCAN_TEST_USB,VXCAN_VM_SUITE,VXCAN_BOOT)
VM     = $(strip $(SUDO) $(CURDIR)/bin/vm)

# Where this machine's Go is too old, setup puts a newer one in bin/go.
export PATH := $(CURDIR)/bin/go/bin:$(PATH)
export CGO_ENABLED = 0

.PHONY: help build bin/share test test-on-own test-matrix test-controllers test-unit test-install demo bench bench-quick bench-where lint install uninstall clean $(PRODUCT) $(TOOLS)
# Steps depend on what setup did before them; Go itself uses all CPUs.
.NOTPARALLEL:

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile | expand -t 20

build: $(PRODUCT) bin/share ## build what is installed into bin/

# The version is that of the git tag, or without one, of the newest entry in CHANGELOG.md: the same for a clone and an
# archive of it. Only our own .git counts, not one around an archive.
VERSION = $(patsubst v%,%,$(or $(TAG),$(NEWEST)))
TAG     = $(shell test ! -e .git || git describe --tags --match 'v[0-9]*' --abbrev=12 --dirty 2>/dev/null)
NEWEST  = $(shell awk -F '[][]' '/^.. \[/ { print $$2 ($$3 ~ /unreleased/ ? "-unreleased" : ""); exit }' CHANGELOG.md)

# Always asks Go, which knows best what is up to date. The bytes are the same in every directory, clone or not.
$(PRODUCT): setup-build
	go build $(GO_BUILD) -ldflags '-s -w -X main.buildVersion=$(VERSION)' -o $@ $(package)

# Man pages and completions, by a vxcanctl for this machine, whatever it is built for.
bin/share: setup-build
	rm -rf $@
	env -u GOOS -u GOARCH go run $(GO_BUILD) -ldflags '-X main.buildVersion=$(VERSION)' ./plugins/vxcanctl generate $@

$(TOOLS): setup-build
	go -C integration build $(GO_BUILD) -ldflags '-s -w' -o $(CURDIR)/$@ $(package)

GO_BUILD = -trimpath -buildvcs=false

setup-%:
	@$(SETUP) $*

# The kernel and the runtimes of the Debian release that this machine is, and of others, whose roots are made once and
# kept. On another release, what depends on its kernel and its runtimes.
OTHER_SUITES = trixie
BY_RELEASE = Frames|Burst$$|Controller$$|ControllerQueue|ControllerErrors|ControllerSetUp|Rules|TwoBuses|Heal$$|Podman|Netavark|Docker$$|DockerDaemon|Containerd|AllRuntimes|StatusAndGraph|DoctorHosts
GO_TEST = test -count=1 -timeout 60m

# The releases go side by side: a test of a container runtime is mostly waiting for it.
test: setup-test lint test-unit test-install bin/vm bin/cnitool ## test everything, as CI does: on a kernel with CAN, booted where this one has none
	@tests= failed=; \
	for suite in own $(OTHER_SUITES); do $(MAKE) --no-print-directory test-on-$$suite & tests="$$tests $$!"; done; \
	for test in $$tests; do wait $$test || failed=1; done; test ! "$$failed"

test-on-%: export VXCAN_TEST_CAN = 1
test-on-%: export VXCAN_VM_COMMAND = $(VM)
test-on-own:
	go $(GO_TEST) -exec '$(VM)' ./...
	go -C integration $(GO_TEST) -exec '$(VM)' -skip '^TestReboot' .
	go -C integration $(GO_TEST) -p 1 -parallel 2 ./reboot ./vm
	$(VM) integration/demo/demo.sh

test-on-%: export VXCAN_VM_SUITE = $*
test-on-%:
	go $(GO_TEST) -exec '$(VM)' ./pkg/...
	go -C integration $(GO_TEST) -exec '$(VM)' -run '$(BY_RELEASE)' -skip '^TestReboot' .
	go -C integration $(GO_TEST) -parallel 2 ./reboot
	test $* != $(firstword $(OTHER_SUITES)) || $(MAKE) --no-print-directory test-controllers

# Controllers that User Mode Linux has not: two SJA1000 on PCI, and a CAN FD adapter on USB.
test-controllers: export VXCAN_TEST_USB = 1
test-controllers:
	go $(GO_TEST) -exec '$(VM) -qemu' -run SJA1000 ./pkg/canlink
	go -C integration $(GO_TEST) -exec '$(VM) -qemu' -run '^Test(USBAdapter|SJA1000|Replug)' -skip 'TestReplug/slcan' .

test-matrix: OTHER_SUITES = trixie forky
test-matrix: test ## the same with one more Debian release, newer than the stable one

# What install installs has the version, systemd can read it where there is one, and uninstall leaves no file of it.
test-install: root = $(CURDIR)/bin/root
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
	go test ./...
	go -C integration test ./...

demo: setup-demo bin/vxcan bin/vm bin/cnitool ## show containers talking on a bus
	$(VM) integration/demo/demo.sh

# What a machine counts that counts instructions does not depend on this one, nor on what else it does.
BENCH = bin/bench -counting '$(VM) -suite trixie -qemu -icount' -smp '$(VM) -suite trixie -qemu'

bench: ## count what a container and a frame cost, beside what people use instead, in a quarter of an hour
bench-quick: ## the same in a few minutes, into bin
bench-where: ## tell where the instructions of an ADD go
bench bench-quick bench-where: setup-bench bin/vm bin/vxcan bin/bench
	$(BENCH) $(if $(filter %-where,$@),-where,$(if $(filter %-quick,$@),-quick -out bin,-out integration/bench))

# The newest that the Go of our modules can build.
STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.6.1

lint: setup-lint ## check format and code
	! $$(go env GOROOT)/bin/gofmt -d . | grep .
	for module in . integration; do go -C $$module vet ./... && go -C $$module run $(STATICCHECK) ./... || exit; done
	shellcheck $(SCRIPTS)

# Tells this machine's systemd and udev, where it has them and we install for it.
tell = @test '$(DESTDIR)' || $(1) 2>/dev/null || true

# Each runtime looks for its plugin in a place of its own. Builds only when nothing is built: with sudo there may be no Go.
install: ## install what was built (DESTDIR, PREFIX, CNI_BIN)
	@test -x bin/vxcanctl && test -d bin/share || $(MAKE) build
	install -D -t $(DESTDIR)$(CNI_BIN) bin/vxcan
	install -D -t $(DESTDIR)$(LIBEXEC)/netavark bin/netavark/vxcan
	install -D -t $(DESTDIR)$(LIBEXEC) bin/vxcan-docker
	install -D -t $(DESTDIR)$(BIN) bin/vxcanctl
	install -D -m 644 plugins/vxcan/40-vxcan.conf $(DESTDIR)$(SYSCTL)
	install -d $(DESTDIR)$(SYSTEMD) $(DESTDIR)$(dir $(MODULES))
	for unit in $(UNITS); do sed 's|/usr/local/|$(PREFIX)/|' plugins/*/$$unit >$(DESTDIR)$(SYSTEMD)/$$unit || exit; done
	install -D -m 644 -t $(DESTDIR)$(UDEV) plugins/vxcanctl/90-vxcan.rules
	install -D -m 644 -t $(DESTDIR)$(MAN) bin/share/*.8
	install -D -m 644 -t $(DESTDIR)$(BASH) bin/share/vxcanctl
	install -D -m 644 -t $(DESTDIR)$(ZSH) bin/share/_vxcanctl
	install -D -m 644 -t $(DESTDIR)$(FISH) bin/share/vxcanctl.fish
	printf '%s\n' vcan vxcan can-gw >$(DESTDIR)$(MODULES)
	for file in $(DOCS); do install -D -m 644 $$file $(DESTDIR)$(DOC)/$$file || exit; done
	$(call tell,systemctl daemon-reload)
	$(call tell,udevadm control --reload)
	@echo 'The larger queue for bursts of frames is set at the next boot, or now by: sysctl -p $(SYSCTL)'

uninstall: ## remove what install installed
	$(call tell,systemctl disable --now vxcan-docker.socket vxcan-metrics.timer)
	rm -f $(DESTDIR)$(CNI_BIN)/vxcan $(DESTDIR)$(LIBEXEC)/netavark/vxcan $(DESTDIR)$(LIBEXEC)/vxcan-docker $(DESTDIR)$(BIN)/vxcanctl
	rm -f $(DESTDIR)$(UDEV)/90-vxcan.rules
	rm -f $(DESTDIR)$(MAN)/vxcanctl.8 $(DESTDIR)$(MAN)/vxcanctl-*.8
	rm -f $(DESTDIR)$(BASH)/vxcanctl $(DESTDIR)$(ZSH)/_vxcanctl $(DESTDIR)$(FISH)/vxcanctl.fish
	rm -f $(UNITS:%=$(DESTDIR)$(SYSTEMD)/%) $(DESTDIR)$(MODULES) $(DESTDIR)$(SYSCTL) $(DOCS:%=$(DESTDIR)$(DOC)/%)
	test ! -d $(DESTDIR)$(DOC) || find $(DESTDIR)$(DOC) -type d -empty -delete
	$(call tell,systemctl daemon-reload)
	$(call tell,udevadm control --reload)
	@echo 'Not removed: state in /var/lib/cni/vxcan and /var/lib/vxcan-docker; devices and sysctl values until the next boot.'

clean: ## remove what was built
	rm -rf bin
