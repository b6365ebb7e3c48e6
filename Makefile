PREFIX  ?= /usr/local
CNI_BIN ?= /opt/cni/bin
DOC      = $(PREFIX)/share/doc/vxcan

# What is installed, what only tests and demo use, and the package each is built from.
PRODUCT = bin/vxcan bin/netavark/vxcan bin/vxcan-docker
TOOLS   = bin/vm bin/cnitool
bin/vxcan:          package = ./plugins/vxcan
bin/netavark/vxcan: package = ./plugins/netavark
bin/vxcan-docker:   package = ./plugins/docker
bin/vm:             package = ./integration/vm
bin/cnitool:        package = github.com/containernetworking/cni/cnitool

DOCS    = README.md LICENSE $(shell find conflist -type f)
SCRIPTS = .ci/run integration/setup $(wildcard integration/*/*.sh)

# Installs what a target needs and this machine lacks. SETUP=: leaves that to you.
SETUP ?= integration/setup
SUDO  := $(if $(filter 0,$(shell id -u)),,sudo --preserve-env=VXCAN_TEST_CAN)
VM     = $(strip $(SUDO) $(CURDIR)/bin/vm)

# Where this machine's Go is too old, setup puts a newer one in bin/go.
export PATH := $(CURDIR)/bin/go/bin:$(PATH)
export CGO_ENABLED = 0

.PHONY: help build test test-unit demo lint install uninstall clean $(PRODUCT) $(TOOLS)
# Steps depend on what setup did before them; Go itself uses all CPUs.
.NOTPARALLEL:

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile | expand -t 20

build: $(PRODUCT) $(TOOLS) ## build everything into bin/

# Always asks Go, which knows best what is up to date. The bytes are the same in every directory, clone or not.
$(PRODUCT) $(TOOLS): setup-build
	go build -trimpath -buildvcs=false -ldflags '-s -w' -o $@ $(package)

setup-%:
	@$(SETUP) $*

test: setup-test lint test-unit build ## test everything, as CI does: on a kernel with CAN, booted where this one has none
	VXCAN_TEST_CAN=1 go test -count=1 -exec '$(VM)' ./pkg/... ./plugins/... ./integration
	VXCAN_TEST_CAN=1 go test -count=1 ./integration/reboot

test-unit: setup-build ## test what needs neither root nor CAN, in seconds
	go test ./...

demo: setup-demo build ## show containers talking on a bus
	$(VM) integration/demo/demo.sh

lint: setup-lint ## check format and code
	! $$(go env GOROOT)/bin/gofmt -d . | grep .
	go vet ./...
	go run honnef.co/go/tools/cmd/staticcheck@v0.8.2 ./...
	shellcheck $(SCRIPTS)

# Builds only when nothing is built: with sudo there may be no Go.
install: ## install what was built (DESTDIR, PREFIX, CNI_BIN)
	@ls $(PRODUCT) >/dev/null 2>&1 || $(MAKE) build
	install -D -t $(DESTDIR)$(CNI_BIN) bin/vxcan
	install -D -t $(DESTDIR)$(PREFIX)/lib/netavark bin/netavark/vxcan
	install -D -t $(DESTDIR)$(PREFIX)/bin bin/vxcan-docker
	for file in $(DOCS); do install -D -m 644 $$file $(DESTDIR)$(DOC)/$$file || exit; done

uninstall: ## remove what install installed
	rm -f $(DESTDIR)$(CNI_BIN)/vxcan $(DESTDIR)$(PREFIX)/lib/netavark/vxcan $(DESTDIR)$(PREFIX)/bin/vxcan-docker
	rm -f $(DOCS:%=$(DESTDIR)$(DOC)/%)
	test ! -d $(DESTDIR)$(DOC) || find $(DESTDIR)$(DOC) -type d -empty -delete

clean: ## remove what was built
	rm -rf bin
