SUMMARY = "CAN buses for containers of Docker, Podman, containerd and Kubernetes"
HOMEPAGE = "https://github.com/vxcan/vxcan"
SECTION = "net"
LICENSE = "Apache-2.0"
LIC_FILES_CHKSUM = "file://src/${GO_IMPORT}/LICENSE;md5=3b83ef96387f14655fc854ddc3c6bd57"

GO_IMPORT = "github.com/vxcan/vxcan"
GO_INSTALL = "${GO_IMPORT}/plugins/..."

# The commit that the clone around this layer is at, so that recipe, modules and source are always of one version. For a
# copy of this recipe in another layer, set both to a repository and a commit.
VXCAN_SOURCE ?= "git://${@os.path.abspath(d.getVar('THISDIR') + '/../../../..')};protocol=file;usehead=1"
SRCREV ?= "${AUTOREV}"
SRC_URI = "${VXCAN_SOURCE};destsuffix=${GO_SRCURI_DESTSUFFIX}"
PV = "0.1.0+git"

# bitbake -c update_modules vxcan writes these after a change of go.mod. Where it says Unknown, name the license in spdx=,
# which it keeps, and run it again.
require ${BPN}-go-mods.inc
require ${BPN}-licenses.inc

inherit go-mod go-mod-update-modules systemd

# The Makefile builds as everywhere else: static binaries without cgo, for which Go needs no other toolchain, and by a
# program for the build host, man pages and completion.
DEPENDS_GOLANG:class-target = "go-native"
GOROOT = "${STAGING_LIBDIR_NATIVE}/go"
GOTOOLDIR = "${GOROOT}/pkg/tool/${BUILD_GOTUPLE}"
# Makes the cache of Go's modules writable, so that BitBake can delete it.
export GOFLAGS = "-modcacherw"

EXTRA_OEMAKE = "SETUP=: PREFIX=${prefix} BIN=${bindir} LIBEXEC=${libexecdir} CNI_BIN=${libexecdir}/cni \
    SYSTEMD=${systemd_system_unitdir} UDEV=${nonarch_base_libdir}/udev/rules.d"

do_compile() {
    oe_runmake -C ${S}/src/${GO_IMPORT} build
}

do_install() {
    oe_runmake -C ${S}/src/${GO_IMPORT} install DESTDIR=${D}
}

PACKAGE_BEFORE_PN = "${PN}-netavark ${PN}-docker ${PN}-ctl"

SUMMARY:${PN} = "CNI plugin that puts containers on a CAN bus"
SUMMARY:${PN}-netavark = "Plugin of netavark (Podman 5) that puts containers on a CAN bus"
SUMMARY:${PN}-docker = "Network driver of Docker that puts containers on a CAN bus"
SUMMARY:${PN}-ctl = "Status, repair and metrics of CAN buses of containers"

FILES:${PN} += "${nonarch_libdir}/modules-load.d ${nonarch_libdir}/sysctl.d"
FILES:${PN}-netavark = "${libexecdir}/netavark"
FILES:${PN}-docker = "${libexecdir}/vxcan-docker"
FILES:${PN}-ctl = "${bindir}/vxcanctl ${nonarch_base_libdir}/udev ${datadir}/bash-completion ${datadir}/zsh ${datadir}/fish \
    ${systemd_system_unitdir}"

SYSTEMD_PACKAGES = "${PN}-docker ${PN}-ctl"
SYSTEMD_SERVICE:${PN}-docker = "vxcan-docker.socket"
SYSTEMD_SERVICE:${PN}-ctl = "vxcan-metrics.timer vxcan-lend.socket"
SYSTEMD_AUTO_ENABLE:${PN}-ctl = "disable"

# The package of the CNI plugin loads the modules at boot and sets the sysctl value.
RDEPENDS:${PN}-netavark = "${PN}"
RDEPENDS:${PN}-docker = "${PN}"
RDEPENDS:${PN}-ctl = "${PN}"
RRECOMMENDS:${PN} = "kernel-module-can-raw kernel-module-can-gw kernel-module-vcan kernel-module-vxcan \
    kernel-module-sch-ingress kernel-module-cls-bpf kernel-module-act-gact kernel-module-act-skbedit \
    kernel-module-act-mirred kernel-module-act-police \
    kernel-module-sch-drr kernel-module-cls-fw kernel-module-ip-gre kernel-module-ip6-gre kernel-module-nf-tables kernel-module-nft-ct"

INSANE_SKIP:${PN} += "already-stripped"
