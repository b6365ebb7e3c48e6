package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// hostDir is where a root of another release shows this machine's own.
const hostDir = "/host"

// makeTimeout ends the wait for a mirror that sends, but hardly.
const makeTimeout = 20 * time.Minute

// makeArgs are mmdebstrap's, and what a root is remembered by: a change makes a new one.
var makeArgs = []string{
	"--mode=root", "--variant=minbase",
	"--include=user-mode-linux,kmod,iproute2,iptables,nftables,can-utils,busybox-static,strace",
	"--include=podman,netavark,aardvark-dns,uidmap,slirp4netns,crun,conmon,docker.io,containerd,runc,containernetworking-plugins",
	"--include=?exact-name(docker-cli)", // the client is a package of its own from trixie on
	"--include=~n^tcc$~V.",              // see xstate.go; no version of it from forky on
	"--include=?exact-name(rootlesskit)",
	"--include=docker-compose,systemd,udev",
	"--customize-hook=mkdir $1" + hostDir,
}

// qemuArgs are for a root of a suite that also boots in QEMU.
var qemuArgs = []string{"--include=qemu-system-x86,linux-image-amd64"}

// rootFS is the file system a machine boots from.
type rootFS struct {
	dir  string   // "/" is this machine's own
	lock *os.File // held while the machine runs, so that nobody removes dir
}

// own tells whether it is this machine's own root, and so needs nothing made, entered or shared.
func (r *rootFS) own() bool { return r.dir == "/" }

// hostPath is where the root shows a path of this machine's.
func (r *rootFS) hostPath(path string) string {
	if r.own() {
		return path
	}
	return filepath.Join(hostDir, path)
}

func (r *rootFS) Close() error {
	if r.own() {
		return nil
	}
	return r.lock.Close()
}

// openRoot finds the root of a Debian suite, and makes it if need be. It blocks while another vm makes it.
func openRoot(suite string, qemu bool) (_ *rootFS, retErr error) {
	if isOwnSuite(suite) {
		if !qemu || bootsInQEMU() {
			return &rootFS{dir: "/"}, nil
		}
		suite = ownSuite()
	}
	if !mayMount() {
		return nil, fmt.Errorf("suite %s: only root can make and enter the root of another release, and in a container only a privileged one", suite)
	}
	cache := cacheDir()
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return nil, err
	}
	name, args := suite, makeArgs
	if qemu {
		name, args = suite+"+qemu", slices.Concat(makeArgs, qemuArgs)
	}
	lock, err := os.OpenFile(filepath.Join(cache, name+".lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() {
		if retErr != nil {
			retErr = errors.Join(retErr, lock.Close())
		}
	}()
	hash := fnv.New32a()
	fmt.Fprint(hash, args)
	dir := filepath.Join(cache, fmt.Sprintf("%s-%08x", name, hash.Sum32()))
	for {
		if err := flock(lock, unix.LOCK_SH); err != nil {
			return nil, err
		}
		if _, err := os.Stat(dir); err == nil {
			return &rootFS{dir, lock}, nil
		}
		// Changing the lock's kind gives it up in between: look again when it is ours.
		if err := flock(lock, unix.LOCK_EX); err != nil {
			return nil, err
		}
		if _, err := os.Stat(dir); err == nil {
			continue
		}
		if err := makeRoot(suite, dir, args); err != nil {
			return nil, err
		}
	}
}

// mayMount tells whether we are root, and not one of a container that may not mount.
func mayMount() bool {
	allowed, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, unix.CAP_SYS_ADMIN, 0, 0, 0)
	return os.Geteuid() == 0 && err == nil && allowed == 1
}

// isOwnSuite tells whether a suite is what this machine itself runs.
func isOwnSuite(suite string) bool { return suite == "" || suite == ownSuite() }

// ownSuite is the suite that this machine runs, or "".
func ownSuite() string { return osRelease("VERSION_CODENAME") }

// bootsInQEMU tells whether this machine has QEMU and a kernel to boot in it. Without, it takes a root of the same suite.
func bootsInQEMU() bool {
	kernels, _ := filepath.Glob("/boot/vmlinuz-*")
	_, err := os.Stat(qemuPath)
	return err == nil && len(kernels) > 0
}

func cacheDir() string {
	if dir := os.Getenv("XDG_CACHE_HOME"); dir != "" {
		return filepath.Join(dir, "vxcan")
	}
	return "/var/cache/vxcan" // not $HOME, which sudo may leave as it was
}

func flock(f *os.File, how int) error {
	for {
		if err := unix.Flock(int(f.Fd()), how); !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("flock", err)
		}
	}
}

// makeRoot makes the root of a suite under another name and renames it when complete, so that dir is never half made.
// The caller holds the suite's lock alone: what else there is of the suite is outdated or was interrupted.
func makeRoot(suite, dir string, args []string) (retErr error) {
	if findProgram("mmdebstrap") == "" {
		return errors.New("mmdebstrap is not installed: apt-get install mmdebstrap debian-archive-keyring")
	}
	name := dir[:strings.LastIndex(dir, "-")+1]
	old, err := filepath.Glob(name + "*")
	if err != nil {
		return err
	}
	for _, path := range old {
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	part, err := os.MkdirTemp(filepath.Dir(dir), filepath.Base(name)+"part-")
	if err != nil {
		return err
	}
	defer func() { retErr = errors.Join(retErr, os.RemoveAll(part)) }() // gone by then if all went well
	if err := os.Chmod(part, 0o755); err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "vm: making a root of %s in %s, once: some minutes, about 1 GB\n", suite, dir)
	if err := mmdebstrap(suite, part, args); err != nil {
		return fmt.Errorf("make a root of %s: %w", suite, err)
	}
	return os.Rename(part, dir)
}

func mmdebstrap(suite, target string, args []string) error {
	args = slices.Concat(args, aptOptions(), []string{suite, target}, mirror())
	ctx, cancel := context.WithTimeout(context.Background(), makeTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "mmdebstrap", args...)
	// In namespaces of its own: one kill ends all its processes, and its mounts go with them, which would otherwise
	// stay, for the next os.RemoveAll to walk into. Pdeathsig is the thread's, as in boot.
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWPID, Unshareflags: unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL,
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	out, err := cmd.CombinedOutput()
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("no end after %v: is the mirror slow? try again, or with another in apt's sources", makeTimeout)
	case err != nil:
		return fmt.Errorf("mmdebstrap: %w: %s (can this machine's apt reach its mirror?)", err, firstError(out))
	}
	return nil
}

// firstError picks the line of mmdebstrap's output that names the cause.
func firstError(out []byte) string {
	for line := range bytes.Lines(out) {
		if message, ok := bytes.CutPrefix(line, []byte("E: ")); ok {
			return string(bytes.TrimSpace(message))
		}
	}
	return tail(out, 1)
}

// mirror is where this machine's apt gets Debian from; none leaves the choice to mmdebstrap.
func mirror() []string {
	out, err := exec.Command("apt-get", "indextargets", "--format", "$(REPO_URI)",
		"Created-By: Packages", "Origin: Debian", "Label: Debian").Output()
	if err != nil {
		return nil
	}
	uri, _, _ := strings.Cut(string(out), "\n")
	return strings.Fields(uri)
}

// aptOptions hands mmdebstrap's apt, which reads no configuration of this machine's, how to deal with the mirror:
// proxies, time-outs, and whether it may lag.
func aptOptions() []string {
	out, err := exec.Command("apt-config", "dump", "--no-empty", "Acquire").Output()
	if err != nil {
		return nil
	}
	var options []string
	for _, line := range strings.Split(string(out), "\n") {
		for _, prefix := range []string{"Acquire::http", "Acquire::Retries", "Acquire::Check-Valid-Until"} {
			if strings.HasPrefix(line, prefix) {
				options = append(options, "--aptopt="+line)
			}
		}
	}
	return options
}

// enter prepares this thread, for good, to start a kernel in the root: it needs this machine's
// files, /proc and /dev.
func (r *rootFS) enter() error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	binds := []mount{
		{"/", r.dir + hostDir, "", unix.MS_BIND | unix.MS_REC, ""},
		{"/proc", r.dir + "/proc", "", unix.MS_BIND, ""},
		{"/dev", r.dir + "/dev", "", unix.MS_BIND, ""},
	}
	for _, m := range binds {
		if err := m.do(); err != nil {
			return err
		}
	}
	return nil
}

// sharedDirs is what a command needs of this machine and the root lacks: its repository, or just its directory, and its
// own file's directory, which `go test` makes outside the repository.
func (r *rootFS) sharedDirs(cwd, command string) []string {
	if r.own() {
		return nil
	}
	var dirs []string
	if repository := repositoryDir(cwd); repository != "" {
		dirs = append(dirs, repository)
	} else if r.lacks(cwd) {
		dirs = append(dirs, cwd)
	}
	if filepath.IsAbs(command) && r.lacks(command) {
		dirs = append(dirs, filepath.Dir(command))
	}
	return dirs
}

func (r *rootFS) lacks(path string) bool {
	_, err := os.Stat(filepath.Join(r.dir, path))
	return errors.Is(err, os.ErrNotExist)
}

// repositoryDir finds the outermost Go module that a directory is in, or "". integration/ is a module inside another one,
// and its tests read binaries and configurations of the outer one.
func repositoryDir(dir string) string {
	found := ""
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			found = dir
		}
	}
	return found
}
