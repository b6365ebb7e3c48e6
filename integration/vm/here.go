package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"

	"golang.org/x/sys/unix"
)

// machineDirs is what a machine owns and a test writes: container storage and CNI state, configuration and binaries.
var machineDirs = []string{
	"/var/lib/cni", "/var/lib/containers", "/var/lib/docker", "/var/lib/containerd",
	"/etc/cni", "/opt/cni", "/run/netns",
}

// hasCAN tells whether this kernel makes vxcan pairs and gateway rules for us, by making them in a throwaway netns.
func hasCAN() bool {
	script := "ip link add dev a type vxcan peer name b && { cangw -A -s a -d b || { modprobe can-gw && cangw -A -s a -d b; }; }"
	cmd := exec.Command("unshare", "--net", "sh", "-c", script)
	return os.Geteuid() == 0 && cmd.Run() == nil
}

// runHere runs args on this kernel, in a network namespace of its own and with empty machine directories.
func runHere(args []string) (int, error) {
	runtime.LockOSThread() // namespaces belong to the thread, and so to the child it starts
	if err := unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWNS); err != nil {
		return 0, fmt.Errorf("unshare: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return 0, fmt.Errorf("make mounts private: %w", err)
	}
	for _, dir := range machineDirs {
		if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
			continue // nothing of the host's to hide; tests make and remove what they need
		}
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
			return 0, fmt.Errorf("mount tmpfs on %s: %w", dir, err)
		}
	}
	// A new netns shows its devices only in a sysfs mounted from inside it.
	if err := unix.Mount("sysfs", "/sys", "sysfs", 0, ""); err != nil {
		return 0, fmt.Errorf("mount sysfs: %w", err)
	}
	if err := unix.Mount("cgroup2", "/sys/fs/cgroup", "cgroup2", 0, ""); err != nil {
		return 0, fmt.Errorf("mount cgroup2: %w", err)
	}
	if err := loopbackUp(); err != nil {
		return 0, err
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode(), nil
	}
	return 0, err
}
