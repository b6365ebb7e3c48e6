PREFIX  ?= /usr/local
CNI_BIN ?= /opt/cni/bin
LIBEXEC  = $(PREFIX)/libexec
SYSTEMD  = $(PREFIX)/lib/systemd/system
MODULES  = $(PREFIX)/lib/modules-load.d/vxcan.conf
DOC      = $(PREFIX)/share/doc/vxcan
UNITS    = vxcan-docker.socket vxcan-docker.service

# What is installed, what only tests and demo use, and the package each is built from.
PRODUCT = bin/vxcan bin/netavark/vxcan bin/vxcan-docker
TOOLS   = bin/vm bin/cnitool
bin/vxcan:          package = ./plugins/vxcan
bin/netavark/vxcan: package = ./plugins/netavark
bin/vxcan-docker:   package = ./plugins/docker
bin/vm:             package = ./integration/vm
bin/bench:          package = ./integration/bench
bin/cnitool:        package = github.com/containernetworking/cni/cnitool

DOCS    = README.md LICENSE $(shell find conflist -type f)
SCRIPTS = .ci/run integration/setup $(wildcard integration/*/*.sh)

# Installs what a target needs and this machine lacks. SETUP=: leaves that to you.
SETUP ?= integration/setup
SUDO  := $(if $(filter 0,$(shell id -u)),,sudo --preserve-env=VXCAN_TEST_CAN,VXCAN_VM_SUITE,VXCAN_BOOT)
VM     = $(strip $(SUDO) $(CURDIR)/bin/vm)

# Where this machine's Go is too old, setup puts a newer one in bin/go.
export PATH := $(CURDIR)/bin/go/bin:$(PATH)
export CGO_ENABLED = 0

.PHONY: help build test test-on-own test-matrix test-unit test-install demo bench bench-quick bench-where lint install uninstall clean $(PRODUCT) $(TOOLS) bin/bench
# Steps depend on what setup did before them; Go itself uses all CPUs.
.NOTPARALLEL:

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile | expand -t 20

build: $(PRODUCT) $(TOOLS) ## build everything into bin/

# Always asks Go, which knows best what is up to date. The bytes are the same in every directory, clone or not.
$(PRODUCT) $(TOOLS) bin/bench: setup-build
	go build -trimpath -buildvcs=false -ldflags '-s -w' -o $@ $(package)

setup-%:
	@$(SETUP) $*

# The kernel and the runtimes of the Debian release that this machine is, and of others, whose roots are made once and
# kept. On another release, what depends on its kernel and its runtimes.
OTHER_SUITES = trixie
BY_RELEASE = Frames|Burst|Rules|TwoBuses|Heal$$|Podman|Netavark|Docker$$|DockerDaemon|Containerd|AllRuntimes
GO_TEST = VXCAN_TEST_CAN=1 go test -count=1 -timeout 60m

# The releases go side by side: a test of a container runtime is mostly waiting for it.
test: setup-test lint test-unit build test-install ## test everything, as CI does: on a kernel with CAN, booted where this one has none
	@tests= failed=; \
	for suite in own $(OTHER_SUITES); do $(MAKE) --no-print-directory test-on-$$suite & tests="$$tests $$!"; done; \
	for test in $$tests; do wait $$test || failed=1; done; test ! "$$failed"

test-on-own:
	$(GO_TEST) -exec '$(VM)' -skip '^TestReboot' ./pkg/... ./plugins/... ./integration
	VXCAN_VM_COMMAND='$(VM)' $(GO_TEST) -p 1 -parallel 2 ./integration/reboot ./integration/vm
	$(VM) integration/demo/demo.sh

test-on-%: export VXCAN_VM_SUITE = $*
test-on-%:
	$(GO_TEST) -exec '$(VM)' ./pkg/...
	$(GO_TEST) -exec '$(VM)' -run '$(BY_RELEASE)' -skip '^TestReboot' ./integration
	VXCAN_VM_COMMAND='$(VM)' $(GO_TEST) -parallel 2 ./integration/reboot

test-matrix: OTHER_SUITES = trixie forky
test-matrix: test ## the same with one more Debian release, newer than the stable one

# What install installs is read by systemd where there is one, and uninstall leaves no file of it.
test-install: root = $(CURDIR)/bin/root
test-install: build
	rm -rf $(root)
	$(MAKE) -s install DESTDIR=$(root)
	! command -v systemd-analyze >/dev/null || ! systemd-analyze verify --man=no --root=$(root) $(UNITS) 2>&1 | grep .
	$(MAKE) -s uninstall DESTDIR=$(root)
	! find $(root) ! -type d | grep .

test-unit: setup-build ## test what needs neither root nor CAN, in seconds
	go test ./...

demo: setup-demo bin/vxcan bin/vm bin/cnitool ## show containers talking on a bus
	$(VM) integration/demo/demo.sh

# What a machine counts that counts instructions does not depend on this one, nor on what else it does.
BENCH = bin/bench -counting '$(VM) -suite trixie -qemu -icount' -smp '$(VM) -suite trixie -qemu'

bench: ## count what a container and a frame cost, beside what people use instead, in a quarter of an hour
bench-quick: ## the same in a few minutes, into bin
bench-where: ## tell where the instructions of an ADD go
bench bench-quick bench-where: setup-bench bin/vm bin/vxcan bin/bench
	$(BENCH) $(if $(filter %-where,$@),-where,$(if $(filter %-quick,$@),-quick -out bin,-out integration/bench))

lint: setup-lint ## check format and code
	! $$(go env GOROOT)/bin/gofmt -d . | grep .
	go vet ./...
	go run honnef.co/go/tools/cmd/staticcheck@v0.8.2 ./...
	shellcheck $(SCRIPTS)

# Tells this machine's systemd, where it has one and we install for it.
systemctl = @test '$(DESTDIR)' || systemctl $(1) 2>/dev/null || true

# Each runtime looks for its plugin in a place of its own. Builds only when nothing is built: with sudo there may be no Go.
install: ## install what was built (DESTDIR, PREFIX, CNI_BIN)
	@test -x bin/vxcan-docker || $(MAKE) build
	install -D -t $(DESTDIR)$(CNI_BIN) bin/vxcan
	install -D -t $(DESTDIR)$(LIBEXEC)/netavark bin/netavark/vxcan
	install -D -t $(DESTDIR)$(LIBEXEC) bin/vxcan-docker
	install -d $(DESTDIR)$(SYSTEMD) $(DESTDIR)$(dir $(MODULES))
	for unit in $(UNITS); do sed 's|/usr/local/libexec|$(LIBEXEC)|' plugins/docker/$$unit >$(DESTDIR)$(SYSTEMD)/$$unit || exit; done
	printf '%s\n' vcan vxcan can-gw >$(DESTDIR)$(MODULES)
	for file in $(DOCS); do install -D -m 644 $$file $(DESTDIR)$(DOC)/$$file || exit; done
	$(call systemctl,daemon-reload)

uninstall: ## remove what install installed
	$(call systemctl,disable --now vxcan-docker.socket)
	rm -f $(DESTDIR)$(CNI_BIN)/vxcan $(DESTDIR)$(LIBEXEC)/netavark/vxcan $(DESTDIR)$(LIBEXEC)/vxcan-docker
	rm -f $(UNITS:%=$(DESTDIR)$(SYSTEMD)/%) $(DESTDIR)$(MODULES) $(DOCS:%=$(DESTDIR)$(DOC)/%)
	test ! -d $(DESTDIR)$(DOC) || find $(DESTDIR)$(DOC) -type d -empty -delete
	$(call systemctl,daemon-reload)

clean: ## remove what was built
	rm -rf bin
