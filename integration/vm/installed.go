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

// checkInstalled tells what to install before anything is booted, all of it at once. Of a root of another release only
// the disk is made by this machine.
func (m *machine) checkInstalled() error {
	needed := [][2]string{{"mkfs.ext4", "e2fsprogs"}}
	if isOwnSuite(m.suite) && !m.qemu {
		if err := umlExpected(); err != nil {
			return err
		}
		// Without modprobe the kernel has no CAN.
		needed = append(needed, [2]string{umlKernel, "user-mode-linux"}, [2]string{"modprobe", "kmod"})
	}
	var packages []string
	for _, n := range needed {
		if findProgram(n[0]) == "" {
			packages = append(packages, n[1])
		}
	}
	if len(packages) > 0 {
		return fmt.Errorf("missing to boot a kernel with CAN: apt-get install %s", strings.Join(packages, " "))
	}
	return nil
}

// umlExpected tells whether this machine can have User Mode Linux, and if not, what to do instead.
func umlExpected() error {
	if _, err := os.Stat(umlKernel); err == nil {
		return nil
	}
	const others = "on a kernel with CAN, vm needs no other: run it as root, with iproute2 and can-utils"
	if runtime.GOARCH != "amd64" {
		return errors.New("there is no User Mode Linux but for x86-64; " + others)
	}
	if id := osRelease("ID"); id != "debian" && !strings.Contains(osRelease("ID_LIKE"), "debian") || osRelease("UBUNTU_CODENAME") != "" {
		return fmt.Errorf("%s has no package of User Mode Linux: run vm in a container of debian:trixie, which needs no privileges, or as root with -suite trixie; %s",
			osRelease("NAME"), others)
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
