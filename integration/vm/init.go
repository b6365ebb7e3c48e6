package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// scratchEnv names the scratch directory to init, through the kernel's command line.
const scratchEnv = "VXCAN_VM_SCRATCH"

// scratchMount is where the booted machine sees the scratch directory.
const scratchMount = "/run/vm"

// initMain is process 1 of the booted machine: it makes a machine out of a kernel, runs the job, and powers off.
func initMain() {
	j, err := readJob(os.Getenv(scratchEnv))
	if err == nil {
		err = setUp(j.Shared)
	}
	if err != nil {
		fmt.Println("vm: set up the machine:", err) // to the kernel's log: no status file follows, so it will be shown
		unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	}
	status, err := runJob(j)
	if err != nil {
		fmt.Println("vm: run the command:", err)
	} else if err := os.WriteFile(filepath.Join(scratchMount, statusFile), []byte(strconv.Itoa(status)), 0o600); err != nil {
		fmt.Println("vm:", err)
	}
	unix.Kill(-1, unix.SIGKILL)
	unix.Sync()
	unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

func readJob(scratch string) (job, error) {
	var j job
	data, err := os.ReadFile(filepath.Join(scratch, jobFile))
	if err != nil {
		return j, err
	}
	return j, json.Unmarshal(data, &j)
}

type mount struct {
	source, target, fsType string
	flags                  uintptr
	data                   string
}

func (m mount) do() error {
	if err := os.MkdirAll(m.target, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(m.source, m.target, m.fsType, m.flags, m.data); err != nil {
		return fmt.Errorf("mount %s on %s: %w", m.source, m.target, err)
	}
	return nil
}

// disk is where the scratch disk is mounted first.
const disk = "/mnt"

// setUp turns the bare kernel into a machine. Its root is the host's, read-only through hostfs, under an overlay on
// the scratch disk; container storage lies on the disk itself, because an overlay cannot be the upper layer of one.
func setUp(shared []string) error {
	release, err := kernelRelease()
	if err != nil {
		return err
	}
	const root = disk + "/root"
	if err := (mount{"/dev/ubda", disk, "ext4", 0, ""}).do(); err != nil {
		return err
	}
	if err := loadOverlay(release); err != nil {
		return err
	}
	if err := mountCopy("/", root, "copy"); err != nil {
		return err
	}
	for _, dir := range shared {
		if err := mountCopy(hostDir+dir, root+dir, "copy-"+url.PathEscape(dir)); err != nil {
			return err
		}
	}
	mounts := []mount{
		{"proc", root + "/proc", "proc", 0, ""},
		{"sysfs", root + "/sys", "sysfs", 0, ""},
		{"cgroup2", root + "/sys/fs/cgroup", "cgroup2", 0, ""},
		{"devtmpfs", root + "/dev", "devtmpfs", 0, ""},
		{"devpts", root + "/dev/pts", "devpts", 0, "ptmxmode=0666"},
		{"tmpfs", root + "/dev/shm", "tmpfs", 0, ""},
		{"tmpfs", root + "/run", "tmpfs", 0, "mode=0755"},
		{"none", root + scratchMount, "hostfs", 0, os.Getenv(scratchEnv)},
	}
	for _, dir := range machineDirs {
		if filepath.Dir(dir) == "/run" {
			continue // a tmpfs already, and gone after a reboot as it should be
		}
		kept := filepath.Join(disk, "machine", dir)
		if err := os.MkdirAll(kept, 0o755); err != nil {
			return err
		}
		mounts = append(mounts, mount{kept, root + dir, "", unix.MS_BIND, ""})
	}
	for _, m := range mounts {
		if err := m.do(); err != nil {
			return err
		}
	}
	if err := errors.Join(os.Chdir(root), unix.Mount(".", "/", "", unix.MS_MOVE, ""), unix.Chroot("."), os.Chdir("/")); err != nil {
		return fmt.Errorf("enter %s: %w", root, err)
	}
	if err := errors.Join(makeLinks(release), writeNoFirewall(), loopbackUp()); err != nil {
		return err
	}
	return unix.Sethostname([]byte("vm"))
}

// mountCopy mounts lower on target, copy on write: what is written goes to a directory of the disk.
func mountCopy(lower, target, name string) error {
	upper, work := filepath.Join(disk, name, "upper"), filepath.Join(disk, name, "work")
	if err := errors.Join(os.MkdirAll(upper, 0o755), os.MkdirAll(work, 0o755)); err != nil {
		return err
	}
	options := "lowerdir=" + lower + ",upperdir=" + upper + ",workdir=" + work
	return mount{"overlay", target, "overlay", 0, options}.do()
}

func kernelRelease() (string, error) {
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return "", err
	}
	return unix.ByteSliceToString(uts.Release[:]), nil
}

// loadOverlay loads the one module that is needed before modprobe can work.
func loadOverlay(release string) error {
	f, err := os.Open(filepath.Join(umlModules, release, "kernel/fs/overlayfs/overlay.ko"))
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("load overlay: %w", err)
	}
	return nil
}

// makeLinks makes the links that a distribution's own boot makes, or would make for this kernel.
func makeLinks(release string) error {
	links := []struct{ target, path string }{
		{"/proc/self/fd", "/dev/fd"},
		{"/proc/self/fd/0", "/dev/stdin"},
		{"/proc/self/fd/1", "/dev/stdout"},
		{"/proc/self/fd/2", "/dev/stderr"},
		{filepath.Join(umlModules, release), filepath.Join("/lib/modules", release)}, // where modprobe looks
		// This kernel's nf_tables know no IP, but up to 6.12 it has the older tables.
		{"/usr/sbin/iptables-legacy", "/etc/alternatives/iptables"},
		{"/usr/sbin/ip6tables-legacy", "/etc/alternatives/ip6tables"},
	}
	for _, l := range links {
		if err := os.MkdirAll(filepath.Dir(l.path), 0o755); err != nil {
			return err
		}
		if err := os.Remove(l.path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if err := os.Symlink(l.target, l.path); err != nil {
			return err
		}
	}
	return nil
}

// writeNoFirewall tells Podman's netavark to do without nftables, where it has no choice of its own.
func writeNoFirewall() error {
	const dir = "/etc/containers/containers.conf.d"
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "vm.conf"), []byte("[network]\nfirewall_driver = \"none\"\n"), 0o644)
}

// loopbackUp does what every machine does for its programs.
func loopbackUp() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}

// runJob runs the job on the consoles, and as process 1 must, reaps whatever else ends meanwhile.
func runJob(j job) (int, error) {
	out, err := openRaw("/dev/tty1")
	if err != nil {
		return 0, err
	}
	errOut, err := openRaw("/dev/tty2")
	if err != nil {
		return 0, err
	}
	os.Clearenv()
	for _, entry := range j.Env {
		name, value, _ := strings.Cut(entry, "=")
		os.Setenv(name, value)
	}
	if err := os.MkdirAll(os.TempDir(), 0o1777); err != nil { // $TMPDIR, which another root may lack
		return 0, err
	}
	if err := os.Chdir(j.Dir); err != nil {
		return 0, err
	}
	path, err := exec.LookPath(j.Args[0])
	if err != nil {
		fmt.Fprintln(errOut, "vm:", err)
		return 127, nil
	}
	child, err := os.StartProcess(path, j.Args, &os.ProcAttr{
		Env: j.Env, Files: []*os.File{out, out, errOut},
		Sys: &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0},
	})
	if err != nil {
		fmt.Fprintln(errOut, "vm:", err)
		return 126, nil
	}
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 0, err
		case pid == child.Pid && ws.Signaled():
			return 128 + int(ws.Signal()), nil
		case pid == child.Pid:
			return ws.ExitStatus(), nil
		}
	}
}

// openRaw opens a console that passes bytes through as they are.
func openRaw(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	fd := int(f.Fd())
	tio, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return nil, err
	}
	tio.Oflag &^= unix.OPOST
	tio.Lflag &^= unix.ECHO
	return f, unix.IoctlSetTermios(fd, unix.TCSETS, tio)
}
