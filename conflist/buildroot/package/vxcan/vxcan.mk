################################################################################
#
# vxcan
#
################################################################################

# The commit that the clone around this tree is at. It has no hash:
# this file is in the archive, and cannot hold the hash of it.
VXCAN_CLONE = $(realpath $(BR2_EXTERNAL_VXCAN_PATH)/../..)
VXCAN_VERSION := $(shell git -C $(VXCAN_CLONE) rev-parse HEAD)
VXCAN_SITE = file://$(VXCAN_CLONE)
VXCAN_SITE_METHOD = git
BR_NO_CHECK_HASH_FOR += $(VXCAN_SOURCE)
VXCAN_LICENSE = Apache-2.0
VXCAN_LICENSE_FILES = LICENSE
VXCAN_GOMOD = github.com/vxcan/vxcan

VXCAN_MAKE_OPTS = SETUP=: PREFIX=/usr DESTDIR=$(TARGET_DIR)

# The Makefile builds as everywhere else: static binaries without cgo.
define VXCAN_BUILD_CMDS
	$(HOST_GO_TARGET_ENV) $(MAKE) -C $(@D) $(VXCAN_MAKE_OPTS) build
endef

define VXCAN_INSTALL_TARGET_CMDS
	$(MAKE) -C $(@D) $(VXCAN_MAKE_OPTS) install
endef

# The units and the udev rule, which calls one, are for systemd.
ifneq ($(BR2_INIT_SYSTEMD),y)
define VXCAN_REMOVE_UNITS
	rm -f $(TARGET_DIR)/usr/lib/systemd/system/vxcan-* \
		$(TARGET_DIR)/usr/lib/udev/rules.d/90-vxcan.rules
endef
VXCAN_POST_INSTALL_TARGET_HOOKS += VXCAN_REMOVE_UNITS
endif

# The options are those of the layer for Yocto.
VXCAN_KERNEL_OPTIONS = $(shell sed -n 's/=[my]$$//p' \
	$(VXCAN_CLONE)/conflist/yocto/recipes-kernel/linux/files/vxcan.cfg)

define VXCAN_LINUX_CONFIG_FIXUPS
	$(foreach option,$(VXCAN_KERNEL_OPTIONS),
		$(call KCONFIG_ENABLE_OPT,$(option))
	)
endef

$(eval $(golang-package))
