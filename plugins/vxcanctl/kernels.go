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

// olderThan compares VERSION_ID. An unknown one is not older.
func (s system) olderThan(version float64) bool {
	v, err := strconv.ParseFloat(s.version, 64)
	return err == nil && v < version
}

// kernelHome tells where a distribution has the kernel modules.
type kernelHome struct {
	system string // for the README's table
	where  string
	is     func(system) bool
	remedy string // a command that brings them
}

// kernelHomes are in the order of the README. The last one that is it holds: special kernels are behind those of the
// distribution that they come with.
var kernelHomes = [...]kernelHome{
	{
		"Debian 12 and 13; Ubuntu from 25.10", "in the kernel packages",
		func(s system) bool { return !s.foreign && (s.is("debian") || s.is("ubuntu")) },
		"sudo apt install --reinstall linux-image-$(uname -r)",
	},
	{
		"Debian *cloud* kernels", "none: `sudo apt install linux-image-$(dpkg --print-architecture)`, reboot",
		func(s system) bool { return s.id == "debian" && strings.Contains(s.release, "-cloud-") },
		"sudo apt install linux-image-$(dpkg --print-architecture), then reboot",
	},
	{
		"Ubuntu up to 25.04", "`can-gw` is there, `vcan` and `vxcan` are not: `sudo apt install linux-modules-extra-$(uname -r)`",
		func(s system) bool { return !s.foreign && s.id == "ubuntu" && s.olderThan(25.10) },
		"sudo apt install linux-modules-extra-$(uname -r)",
	},
	{
		"Ubuntu *azure* kernels", "none: `sudo apt install linux-generic`, boot that kernel",
		func(s system) bool { return strings.HasSuffix(s.release, "-azure") },
		"sudo apt install linux-generic, then boot that kernel",
	},
	{
		"Raspberry Pi OS", "`vxcan` only in kernels from September 2026 on: `sudo apt full-upgrade`, reboot; or build the module",
		func(s system) bool {
			return s.id == "raspbian" || strings.Contains(s.release, "+rpt") || strings.Contains(s.release, "-rpi")
		},
		"sudo apt full-upgrade, then reboot",
	},
	{
		"Fedora", "`sudo dnf install kernel-modules kernel-modules-extra`",
		func(s system) bool { return !s.foreign && s.is("fedora") },
		"sudo dnf install kernel-modules-$(uname -r) kernel-modules-extra-$(uname -r)",
	},
	{
		"WSL2", "`can-gw`, from 6.18 on `vcan`, never `vxcan`: build a kernel with CONFIG_CAN_VCAN and CONFIG_CAN_VXCAN, or take [vm](integration/vm/README.md) in a container",
		func(s system) bool { return strings.Contains(strings.ToLower(s.release), "-microsoft") },
		"build a kernel for WSL2 with CONFIG_CAN_VCAN and CONFIG_CAN_VXCAN",
	},
	{
		"Docker Desktop", "none: use a virtual machine with Debian or Ubuntu",
		func(s system) bool { return strings.HasSuffix(s.release, "-linuxkit") },
		"use a virtual machine with Debian or Ubuntu in place of Docker Desktop",
	},
	{
		"Yocto, Buildroot", allConfigs(),
		func(system) bool { return false },
		"",
	},
}

// allConfigs are all options of the kernel that a bus needs.
func allConfigs() string {
	all := []string{"CONFIG_CAN", "CONFIG_CAN_RAW", "CONFIG_NET_CLS_ACT"}
	for _, m := range bus.Modules {
		all = append(all, m.Config)
	}
	return strings.Join(all, ", ")
}

// kernelRemedy is how a system gets a module that it lacks.
func kernelRemedy(s system, m bus.Module) string {
	remedy := "use a kernel with " + m.Config
	for _, k := range kernelHomes {
		if k.is(s) {
			remedy = k.remedy
		}
	}
	return remedy
}
