package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// machineDirs is what a machine owns and a test empties and writes: state, which may not lie on an overlay, and
// configuration that would send a runtime to state elsewhere.
var machineDirs = []string{
	"/var/lib/cni", "/var/lib/containers", "/var/lib/docker", "/var/lib/containerd", "/var/lib/vxcan-docker",
	"/etc/cni", "/etc/docker", "/opt/cni",
}

// copiedDirs are around them, and are copied on write.
var copiedDirs = []string{"/etc", "/opt", "/var/lib"}

// isHidden tells whether hideMachine hides what is written below a directory.
func isHidden(dir string) bool {
	for _, hidden := range append([]string{"/run"}, copiedDirs...) {
		if strings.HasPrefix(dir+"/", hidden+"/") {
			return true
		}
	}
	return false
}

// hasCAN tells whether this kernel makes vxcan pairs and gateway rules for us, by making them in a throwaway netns.
func hasCAN() bool {
	script := "ip link add dev a type vxcan peer name b && { cangw -A -s a -d b || { modprobe can-gw && cangw -A -s a -d b; }; }"
	cmd := exec.Command("unshare", "--net", "sh", "-c", script)
	return os.Geteuid() == 0 && cmd.Run() == nil
}

// runHere runs args on this kernel, in namespaces of its own: what it starts ends with it, and what it writes to where
// a machine keeps its things is gone afterwards.
func runHere(args []string) (int, error) {
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	cmd := exec.Command(self, args...) // hereMain
	cmd.Env = append(os.Environ(), startedEnv+"="+startedHere)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	netns, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return 0, err
	}
	defer netns.Close()
	cmd.ExtraFiles = []*os.File{netns} // netnsFD
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL,
	}
	runtime.LockOSThread() // Pdeathsig is the thread's, as in boot
	leaveInterrupts()
	before := cgroups(cgroupDir) // no namespace hides those that runtimes make
	err = cmd.Run()
	for group := range cgroups(cgroupDir) {
		if !before[group] {
			removeCgroup(group)
		}
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Exited() {
		return exit.ExitCode(), nil
	}
	return 0, err
}

// netnsFD is this machine's own netns to hereMain.
const netnsFD = 3

// netnsFile is where the command finds that netns: the kernel makes the devices of serial CAN adapters there.
const netnsFile = "/run/vm/netns"

// showNetns makes netnsFile.
func showNetns() error {
	if err := errors.Join(os.MkdirAll(filepath.Dir(netnsFile), 0o755), os.WriteFile(netnsFile, nil, 0o600)); err != nil {
		return err
	}
	if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", netnsFD), netnsFile, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount this machine's netns on %s: %w", netnsFile, err)
	}
	return unix.Close(netnsFD)
}

// leaveInterrupts leaves a ^C to the command, which gets it too, and may be a shell.
func leaveInterrupts() { signal.Notify(make(chan os.Signal, 1), syscall.SIGINT) }

// hereMain is process 1 of runHere's namespaces. The kernel ends all others in there with it.
func hereMain() {
	leaveInterrupts()
	status, err := setUpAndRunHere(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "vm:", err)
		status = exitTrouble
	}
	os.Exit(status)
}

func setUpAndRunHere(args []string) (int, error) {
	dir, err := os.Getwd()
	if err != nil {
		return 0, err
	}
	if err := hideMachine(); err != nil {
		return 0, err
	}
	if err := os.Chdir(dir); err != nil { // it would show the directory as it was
		return 0, err
	}
	if err := loopbackUp(); err != nil {
		return 0, err
	}
	return runAndReap(args, &os.ProcAttr{Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}})
}

// hideMachine makes the machine's directories empty, and those around them copies on write, for this mount namespace.
// Sockets of its daemons are in /run.
func hideMachine() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	mounts := []mount{
		{"tmpfs", "/run", "tmpfs", 0, "mode=0755"},
		{"proc", "/proc", "proc", 0, ""},  // of the new PIDs
		{"sysfs", "/sys", "sysfs", 0, ""}, // of the new devices
		{"cgroup2", cgroupDir, "cgroup2", 0, ""},
	}
	for _, m := range mounts {
		if err := m.do(); err != nil {
			return err
		}
	}
	if err := showNetns(); err != nil {
		return err
	}
	for _, dir := range copiedDirs {
		if err := mountCopy(dir, dir, filepath.Join("/run/vm", dir)); err != nil {
			return err
		}
	}
	for _, dir := range machineDirs {
		if err := (mount{"tmpfs", dir, "tmpfs", 0, "mode=0755"}).do(); err != nil {
			return err
		}
	}
	// It may put the containers elsewhere.
	if err := os.Remove("/etc/containers/storage.conf"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return ensureResolver()
}

// ensureResolver makes an empty resolv.conf where the one there is leads into /run: containerd insists on one.
func ensureResolver() error {
	const path = "/etc/resolv.conf"
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return os.WriteFile(path, nil, 0o644)
}

const cgroupDir = "/sys/fs/cgroup"

// cgroups are the directories of the cgroups right in one, by path.
func cgroups(dir string) map[string]bool {
	all := make(map[string]bool)
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if e.IsDir() {
			all[filepath.Join(dir, e.Name())] = true
		}
	}
	return all
}

// removeCgroup removes an empty cgroup and those in it.
func removeCgroup(dir string) {
	for group := range cgroups(dir) {
		removeCgroup(group)
	}
	_ = unix.Rmdir(dir) // somebody else's, if it is in use
}
