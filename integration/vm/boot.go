package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Debian's user-mode-linux package.
const (
	umlKernel  = "/usr/bin/linux.uml"
	umlModules = "/usr/lib/uml/modules"
)

// diskSize is the size of a new scratch disk in bytes. The file is sparse.
const diskSize = 8 << 30

// machine is a kernel with CAN to run a command on.
type machine struct {
	suite      string // Debian release; "" is this machine's own
	alwaysBoot bool
	disk       string // kept over boots; "" is a throwaway one
	keep       string // directory that is no copy; "" is none
	memMiB     int
	qemu       bool // instead of User Mode Linux
	cpus       int  // QEMU's; User Mode Linux has one
	icount     bool // QEMU's clock counts instructions
}

// job is what the booted machine is to do, handed over as a file in the scratch directory.
type job struct {
	Args, Env []string
	Dir       string
	Shared    []string  // directories of this machine's that the root lacks
	Kept      string    // a directory that is this machine's own, not a copy
	KeptPath  string    // where the root shows it
	InMemory  bool      // the scratch disk
	Terminal  *terminal // that the command gets; nil is none
}

// Names in the scratch directory, which both sides see.
const (
	jobFile    = "job.json"
	statusFile = "status"
	logFile    = "kernel.log"
)

// run runs args and returns their exit status.
func (m *machine) run(args []string) (int, error) {
	if err := m.openKeep(); err != nil {
		return 0, err
	}
	if !m.alwaysBoot && !m.qemu && m.disk == "" && isOwnSuite(m.suite) && hasCAN() {
		if isHidden(m.keep) {
			return 0, fmt.Errorf("keep %s: on this machine's own kernel that is a copy; -boot boots one", m.keep)
		}
		return runHere(args)
	}
	return m.bootAndRun(args)
}

// systemDirs are what a booted machine writes to before the command, and is made of.
var systemDirs = []string{"/bin", "/boot", "/dev", "/etc", "/lib", "/proc", "/run", "/sbin", "/sys", "/usr"}

// openKeep makes the directory to keep, and finds its path without links, which lead elsewhere inside.
func (m *machine) openKeep() (err error) {
	if m.keep == "" {
		return nil
	}
	if m.keep, err = filepath.Abs(m.keep); err != nil {
		return err
	}
	if err := os.MkdirAll(m.keep, 0o755); err != nil {
		return err
	}
	if m.keep, err = filepath.EvalSymlinks(m.keep); err != nil {
		return err
	}
	if m.keep == "/" || slices.ContainsFunc(systemDirs, func(dir string) bool { return strings.HasPrefix(m.keep+"/", dir+"/") }) {
		return fmt.Errorf("keep %s: a directory of the system; name one of your own", m.keep)
	}
	return nil
}

// bootAndRun boots User Mode Linux for one command. Nothing of it is left when it returns, save a disk to keep.
func (m *machine) bootAndRun(args []string) (status int, retErr error) {
	if err := m.checkInstalled(); err != nil {
		return 0, err
	}
	root, err := openRoot(m.suite, m.qemu)
	if err != nil {
		return 0, err
	}
	defer func() { retErr = errors.Join(retErr, root.Close()) }()
	scratch, err := os.MkdirTemp("", "vxcan-vm-")
	if err != nil {
		return 0, err
	}
	defer func() { retErr = errors.Join(retErr, os.RemoveAll(scratch)) }()

	disk := m.disk
	if disk == "" {
		disk = filepath.Join(scratch, "disk")
	}
	if disk, err = filepath.Abs(disk); err != nil {
		return 0, err
	}
	if err := makeDisk(disk); err != nil {
		return 0, err
	}
	var t *terminal
	if !m.qemu { // which has no stdin
		t = callersTerminal()
	}
	if err := m.writeJob(scratch, root, args, t); err != nil {
		return 0, err
	}
	command, env := m.umlCommand(root, scratch, disk), os.Environ()
	if m.qemu {
		if command, err = m.qemuCommand(root, scratch, disk); err != nil {
			return 0, err
		}
	} else if needsPtrace(root.dir) {
		ptrace, err := buildPtrace(scratch)
		if err != nil {
			return 0, err
		}
		env = append(env, "LD_PRELOAD="+root.hostPath(ptrace))
	}
	if status, err = boot(root, command, env, scratch, t); err != nil {
		return 0, err
	}
	return status, nil
}

func (m *machine) writeJob(scratch string, root *rootFS, args []string, t *terminal) error {
	dir, err := os.Getwd()
	if err != nil {
		return err
	}
	j := job{Args: args, Env: os.Environ(), Dir: dir, Shared: root.sharedDirs(dir, args[0]), InMemory: m.icount, Terminal: t}
	if m.keep != "" {
		j.Kept, j.KeptPath = m.keep, root.hostPath(m.keep)
	}
	data, err := json.Marshal(j)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(scratch, jobFile), data, 0o600)
}

// makeDisk makes an empty ext4 file system in a file, unless the file is there already.
func makeDisk(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, os.ErrExist) {
		return nil
	} else if err != nil {
		return err
	}
	if err := errors.Join(f.Truncate(diskSize), f.Close()); err != nil {
		return err
	}
	if out, err := exec.Command(findProgram("mkfs.ext4"), "-q", "-F", path).CombinedOutput(); err != nil {
		return fmt.Errorf("make disk %s: %w: %s", path, err, out)
	}
	return nil
}

// umlCommand is the command that boots User Mode Linux. What the kernel does not know (scratchEnv) becomes init's
// environment.
func (m *machine) umlCommand(root *rootFS, scratch, disk string) []string {
	self, err := os.Executable()
	if err != nil {
		self = os.Args[0]
	}
	return []string{
		umlKernel, fmt.Sprintf("mem=%dM", m.memMiB),
		"root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro", "ubda=" + root.hostPath(disk),
		"init=" + root.hostPath(self), scratchEnv + "=" + root.hostPath(scratch),
		// Else it is below $HOME, and without one to write to the kernel does not come up.
		"uml_dir=" + root.hostPath(scratch) + "/",
		// From 6.16 on the kernel can run its processes under seccomp, which is much faster than under ptrace.
		"seccomp=auto",
		// The kernel's own words go to its stdout, the command's to our stdout and stderr, unmixed.
		"con=null", "con0=null,fd:1", "con1=fd:5,fd:3", "con2=null,fd:4",
	}
}

// boot runs a machine to its end and returns the exit status its command left in scratch.
func boot(root *rootFS, command, env []string, scratch string, t *terminal) (int, error) {
	log, err := os.OpenFile(filepath.Join(scratch, logFile), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return 0, err
	}
	defer log.Close()
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = log, log
	copied, err := pipeOutput(cmd)
	if err != nil {
		return 0, err
	}
	defer copied()
	interrupted := make(chan os.Signal, 1)
	stdin, restore, err := input(t, func() { interrupted <- syscall.SIGINT })
	if err != nil {
		return 0, err
	}
	defer restore()
	defer stdin.Close()
	cmd.ExtraFiles = append(cmd.ExtraFiles, stdin) // fd 5
	cmd.Env = append(env, "TMPDIR="+root.hostPath(memoryDir(scratch)))
	// A process group of its own, so that one kill reaches the kernel and the processes it traces. Pdeathsig is sent
	// when the *thread* ends that started the child: it must be the main one's own.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread()
	if !root.own() {
		if err := root.enter(); err != nil {
			return 0, err
		}
		cmd.SysProcAttr.Chroot = root.dir // the kernel is linked with the libraries of its release
	}

	signal.Notify(interrupted, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	defer signal.Stop(interrupted)
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("start %s: %w", command[0], err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case sig := <-interrupted:
		err := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		<-done
		return 0, errors.Join(fmt.Errorf("interrupted: %v", sig), err)
	case err = <-done:
		// User Mode Linux may leave a process behind that was just ending in the machine. Untraced, it would go on here.
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	}
	var status int
	data, statusErr := os.ReadFile(filepath.Join(scratch, statusFile))
	if _, scanErr := fmt.Sscan(string(data), &status); statusErr != nil || scanErr != nil {
		words, _ := os.ReadFile(log.Name())
		return 0, fmt.Errorf("the kernel went down before the command ended (%v); its last words:\n%s", err, tail(words, 30))
	}
	return status, nil
}

// pipeOutput gives the kernel pipes to our stdout and stderr as fd 3 and 4: QEMU opens its files anew and at their
// beginning, and User Mode Linux would be stopped when it sets up a terminal that it is not in the foreground of. The
// function it returns waits until all is copied.
func pipeOutput(cmd *exec.Cmd) (copied func(), err error) {
	var wg sync.WaitGroup
	for _, to := range []*os.File{os.Stdout, os.Stderr} {
		r, w, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		cmd.ExtraFiles = append(cmd.ExtraFiles, w)
		wg.Add(1)
		go func() {
			defer wg.Done()
			io.Copy(to, r)
		}()
	}
	outputs := slices.Clone(cmd.ExtraFiles)
	return func() {
		for _, w := range outputs {
			w.Close()
		}
		wg.Wait()
	}, nil
}

// memoryDir picks where the kernel keeps its memory file: its own choice (/dev/shm) when the memory fits there, which
// it does not in a container with Docker's default of 64 MiB.
func memoryDir(scratch string) string {
	var fs unix.Statfs_t
	if err := unix.Statfs("/dev/shm", &fs); err == nil && fs.Bavail*uint64(fs.Bsize) > 1<<31 && fs.Flags&unix.ST_NOEXEC == 0 {
		return "/dev/shm"
	}
	return scratch
}

func tail(text []byte, lines int) string {
	all := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
