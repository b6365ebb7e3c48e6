package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// checkInstalled tells what to install before anything is booted, all of it at once. For a root of another release this
// machine only makes the disk.
func (m *machine) checkInstalled() error {
	var packages []string
	need := func(there bool, missing ...string) {
		if !there {
			packages = append(packages, missing...)
		}
	}
	need(findProgram("mkfs.ext4") != "", "e2fsprogs")
	need(!isOwnSuite(m.suite) || findProgram("modprobe") != "", "kmod") // without it the kernel has no CAN
	switch {
	case !isOwnSuite(m.suite):
	case m.qemu:
		need(bootsInQEMU() || mayMount(), "qemu-system-x86", "linux-image-amd64") // else in a root of the same release
	default:
		if err := umlExpected(); err != nil {
			return err
		}
		need(findProgram(umlKernel) != "", "user-mode-linux")
		need(!needsPtrace("/") || compiler() != "", "tcc")
	}
	if len(packages) > 0 {
		return fmt.Errorf("to boot a kernel with CAN, apt-get install %s", strings.Join(packages, " "))
	}
	return nil
}

// umlExpected tells whether this machine can have User Mode Linux, and if not, what to do instead.
func umlExpected() error {
	if _, err := os.Stat(umlKernel); err == nil {
		return nil
	}
	const others = "where the kernel has CAN already, run vm as root, with iproute2 and can-utils installed"
	if runtime.GOARCH != "amd64" {
		return errors.New("vm boots a kernel on x86-64 only; " + others)
	}
	if id := osRelease("ID"); id != "debian" && !strings.Contains(osRelease("ID_LIKE"), "debian") || osRelease("UBUNTU_CODENAME") != "" {
		return fmt.Errorf("%s has no package of User Mode Linux: run vm in a container of debian:trixie, which needs no privileges, "+
			"or as root with -suite trixie; %s", osRelease("NAME"), others)
	}
	return nil
}

// findProgram is the path of a program, or "". The PATH of a plain user has no sbin.
func findProgram(name string) string {
	for _, path := range []string{name, filepath.Join("/usr/sbin", name), filepath.Join("/sbin", name)} {
		if found, err := exec.LookPath(path); err == nil {
			return found
		}
	}
	return ""
}

// osRelease is a value of os-release(5), or "".
func osRelease(key string) string {
	release, _ := os.ReadFile("/etc/os-release")
	for line := range strings.Lines(string(release)) {
		if value, ok := strings.CutPrefix(line, key+"="); ok {
			return strings.Trim(strings.TrimSpace(value), `"'`)
		}
	}
	return ""
}
