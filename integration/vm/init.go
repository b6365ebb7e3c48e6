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
	"time"

	"golang.org/x/sys/unix"
)

// scratchEnv names the scratch directory to init, through the kernel's command line.
const scratchEnv = "VXCAN_VM_SCRATCH"

// scratchMount is where the booted machine sees the scratch directory.
const scratchMount = "/run/vm"

// initMain is process 1 of the booted machine: it makes a machine out of a kernel, runs the job, and powers off.
func initMain() {
	p, j, err := setUp()
	if err != nil {
		fmt.Println("vm: set up the machine:", err) // to the kernel's log: no status file follows, so it will be shown
		unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	}
	status, err := runJob(p, j)
	if err != nil {
		fmt.Println("vm: run the command:", err)
	} else if err := os.WriteFile(filepath.Join(scratchMount, statusFile), []byte(strconv.Itoa(status)), 0o600); err != nil {
		fmt.Println("vm:", err)
	}
	endAll()
	unix.Sync()
	unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

// endAll kills every other process and waits for their ends, which all become known to process 1: User Mode Linux
// forgets a process that is still ending when the power goes, and it would go on outside. One that cannot die must not
// keep the machine up.
func endAll() {
	_ = unix.Kill(-1, unix.SIGKILL)
	for patience := time.Now().Add(5 * time.Second); time.Now().Before(patience); {
		switch pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); {
		case errors.Is(err, unix.ECHILD):
			return
		case pid == 0:
			time.Sleep(10 * time.Millisecond)
		}
	}
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

// disk is where the scratch disk is mounted first, and newRoot where the machine's root is put together.
const (
	disk    = "/mnt"
	newRoot = disk + "/root"
)

// setUp turns the bare kernel into a machine, and tells what it is to do.
func setUp() (p platform, j job, err error) {
	release, err := kernelRelease()
	if err != nil {
		return p, j, err
	}
	if p, err = newPlatform(release); err != nil {
		return p, j, err
	}
	if j, err = readJob(p.scratch.data); err != nil {
		return p, j, err
	}
	if err = mountAll(p, j); err != nil {
		return p, j, err
	}
	err = errors.Join(os.Chdir(newRoot), unix.Mount(".", "/", "", unix.MS_MOVE, ""), unix.Chroot("."), os.Chdir("/"))
	if err != nil {
		return p, j, fmt.Errorf("enter %s: %w", newRoot, err)
	}
	if err = makeLinks(devLinks); err == nil && p.uml {
		err = errors.Join(makeLinks(umlLinks(release)), writeNoFirewall())
	}
	return p, j, errors.Join(err, ensureResolver(), loopbackUp(), lengthenBacklog(), unix.Sethostname([]byte("vm")))
}

// mountAll puts the machine's root together: a read-only one under an overlay on the scratch disk. Container storage
// lies on the disk itself, because an overlay cannot be the upper layer of one.
func mountAll(p platform, j job) error {
	scratch := mount{p.disk, disk, "ext4", 0, ""}
	if j.InMemory {
		scratch = mount{"tmpfs", disk, "tmpfs", 0, "mode=0755"}
	}
	if err := scratch.do(); err != nil {
		return err
	}
	if err := mountCopy(p.root, newRoot, filepath.Join(disk, "copy")); err != nil {
		return err
	}
	for _, dir := range j.Shared {
		if err := mountCopy(p.host+dir, newRoot+dir, filepath.Join(disk, "copy-"+url.PathEscape(dir))); err != nil {
			return err
		}
	}
	p.scratch.target = newRoot + scratchMount
	mounts := []mount{
		{"proc", newRoot + "/proc", "proc", 0, ""},
		{"sysfs", newRoot + "/sys", "sysfs", 0, ""},
		{"cgroup2", newRoot + "/sys/fs/cgroup", "cgroup2", 0, ""},
		{"devtmpfs", newRoot + "/dev", "devtmpfs", 0, ""},
		{"devpts", newRoot + "/dev/pts", "devpts", 0, "ptmxmode=0666"},
		{"tmpfs", newRoot + "/dev/shm", "tmpfs", 0, ""},
		{"tmpfs", newRoot + "/run", "tmpfs", 0, "mode=0755"},
		p.scratch,
	}
	for _, dir := range machineDirs {
		kept := filepath.Join(disk, "machine", dir)
		if err := os.MkdirAll(kept, 0o755); err != nil {
			return err
		}
		mounts = append(mounts, mount{kept, newRoot + dir, "", unix.MS_BIND, ""})
	}
	if j.Kept != "" {
		kept := mount{p.host + j.Kept, newRoot + j.Kept, "", unix.MS_BIND, ""}
		if p.uml {
			kept = mount{"none", newRoot + j.Kept, "hostfs", 0, j.KeptPath}
		}
		mounts = append(mounts, kept)
	}
	for _, m := range mounts {
		if err := m.do(); err != nil {
			return err
		}
	}
	return nil
}

// mountCopy mounts lower on target, copy on write: what is written goes below the directory written.
func mountCopy(lower, target, written string) error {
	upper, work := filepath.Join(written, "upper"), filepath.Join(written, "work")
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

type link struct{ target, path string }

// devLinks are what a distribution's own boot makes.
var devLinks = []link{
	{"/proc/self/fd", "/dev/fd"},
	{"/proc/self/fd/0", "/dev/stdin"},
	{"/proc/self/fd/1", "/dev/stdout"},
	{"/proc/self/fd/2", "/dev/stderr"},
}

// umlLinks fit a root to User Mode Linux.
func umlLinks(release string) []link {
	return []link{
		{filepath.Join(umlModules, release), filepath.Join("/lib/modules", release)}, // where modprobe looks
		// This kernel's nf_tables know no IP, but up to 6.12 it has the older tables.
		{"/usr/sbin/iptables-legacy", "/etc/alternatives/iptables"},
		{"/usr/sbin/ip6tables-legacy", "/etc/alternatives/ip6tables"},
	}
}

func makeLinks(links []link) error {
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
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP)
	return os.NewSyscallError("set lo up", unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo))
}

// lengthenBacklog gives a burst of frames to many containers enough places, as the sysctl file of vxcan does. The
// kernel's default is 1000.
func lengthenBacklog() error {
	return os.WriteFile("/proc/sys/net/core/netdev_max_backlog", []byte("65536"), 0)
}

// runJob runs the job on the consoles.
func runJob(p platform, j job) (int, error) {
	out, errOut, err := openConsoles(p, j.Terminal)
	if err != nil {
		return 0, err
	}
	os.Clearenv()
	for _, entry := range j.Env {
		name, value, _ := strings.Cut(entry, "=")
		os.Setenv(name, value)
	}
	os.Setenv(startedEnv, startedBooted)
	if err := os.MkdirAll(os.TempDir(), 0o1777); err != nil { // $TMPDIR, which another root may lack
		return 0, err
	}
	if err := os.Chdir(j.Dir); err != nil {
		return 0, err
	}
	return runAndReap(j.Args, &os.ProcAttr{
		Files: []*os.File{out, out, errOut},
		Sys:   &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0},
	})
}

// runAndReap runs args to their end, and as process 1 must, reaps whatever else ends meanwhile. What keeps args from
// running goes where their stderr would.
func runAndReap(args []string, attr *os.ProcAttr) (int, error) {
	path, err := exec.LookPath(args[0])
	if err != nil {
		fmt.Fprintln(attr.Files[2], "vm:", err)
		return 127, nil
	}
	child, err := os.StartProcess(path, args, attr)
	if err != nil {
		fmt.Fprintln(attr.Files[2], "vm:", err)
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

// openConsoles opens what the command has as its stdin and stdout, and as its stderr: with a terminal the same one, as
// a shell needs it for job control.
func openConsoles(p platform, t *terminal) (out, errOut *os.File, err error) {
	if t == nil {
		out, err = openRaw(p.out)
	} else if out, err = os.OpenFile(p.out, os.O_RDWR|unix.O_NOCTTY, 0); err == nil {
		err = t.set(out)
	}
	if err != nil || t != nil && t.Stderr {
		return out, out, err
	}
	errOut, err = openRaw(p.errOut)
	return out, errOut, err
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
