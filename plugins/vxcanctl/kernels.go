package main

import (
	"strconv"
	"strings"

	"github.com/vxcan/vxcan/pkg/bus"
)

// system is what tells which distribution's kernel is running.
type system struct {
	id, like, version string // of /etc/os-release: ID, ID_LIKE, VERSION_ID
	release           string // uname -r
	// foreign tells that the kernel's modules are not on the disk: it is of another distribution, or has been replaced.
	foreign bool
}

func (s system) is(id string) bool {
	return s.id == id || strings.Contains(" "+s.like+" ", " "+id+" ")
}

// kernelRemedy is how a system gets a module that it lacks. Special kernels are before those of their distribution.
func kernelRemedy(s system, m bus.Module) string {
	version, err := strconv.ParseFloat(s.version, 64)
	switch release := s.release; {
	case strings.HasSuffix(release, "-linuxkit"):
		return "use a virtual machine with Debian or Ubuntu in place of Docker Desktop"
	case strings.Contains(strings.ToLower(release), "-microsoft"):
		return "build a kernel for WSL2 with CONFIG_CAN_VCAN and CONFIG_CAN_VXCAN"
	case !s.foreign && s.is("fedora"):
		return "sudo dnf install kernel-modules-$(uname -r) kernel-modules-extra-$(uname -r)"
	case s.id == "raspbian" || strings.Contains(release, "+rpt") || strings.Contains(release, "-rpi"):
		return "sudo apt full-upgrade, then reboot"
	case strings.HasSuffix(release, "-azure"):
		return "sudo apt install linux-generic, then boot that kernel"
	case !s.foreign && s.id == "ubuntu" && err == nil && version < 25.10:
		return "sudo apt install linux-modules-extra-$(uname -r)"
	case s.id == "debian" && strings.Contains(release, "-cloud-"):
		return "sudo apt install linux-image-$(dpkg --print-architecture), then reboot"
	case !s.foreign && (s.is("debian") || s.is("ubuntu")):
		return "sudo apt install --reinstall linux-image-$(uname -r)"
	}
	return "use a kernel with " + m.Config
}
