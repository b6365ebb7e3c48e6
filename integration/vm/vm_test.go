package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestModuleFiles(t *testing.T) {
	dir := t.TempDir()
	deps := "kernel/a.ko:\nkernel/b.ko.xz: kernel/c.ko kernel/a.ko\nkernel/c.ko: kernel/a.ko\nkernel/other.ko: kernel/a.ko\n"
	if err := os.WriteFile(filepath.Join(dir, "modules.dep"), []byte(deps), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := moduleFiles(dir, []string{"b", "builtin", "c"})
	if want := []string{"kernel/a.ko", "kernel/c.ko", "kernel/b.ko.xz"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
}

// TestRepositoryDir: a module inside another one does not hide it.
func TestRepositoryDir(t *testing.T) {
	outer := t.TempDir()
	inner := filepath.Join(outer, "integration")
	if err := os.MkdirAll(filepath.Join(inner, "vm"), 0o755); err != nil {
		t.Fatal(err)
	}
	if got := repositoryDir(inner); got != "" {
		t.Errorf("without go.mod: got %q, want none", got)
	}
	for _, dir := range []string{outer, inner} {
		if err := os.WriteFile(filepath.Join(dir, "go.mod"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{outer, inner, filepath.Join(inner, "vm")} {
		if got := repositoryDir(dir); got != outer {
			t.Errorf("%s: got %q, want %q", dir, got, outer)
		}
	}
}

func TestIsHidden(t *testing.T) {
	for dir, want := range map[string]bool{
		"": false, "/": false, "/home/me/reports": false, "/runner/reports": false, "/run": true, "/run/reports": true, "/var/lib/ci": true,
	} {
		if got := isHidden(dir); got != want {
			t.Errorf("%q: got %t, want %t", dir, got, want)
		}
	}
}

func TestFirstError(t *testing.T) {
	for out, want := range map[string]string{
		"I: start\nE: no mirror\nE: second\n": "no mirror",
		"I: start\nI: last\n":                 "I: last",
		"":                                    "",
	} {
		if got := firstError([]byte(out)); got != want {
			t.Errorf("%q: got %q, want %q", out, got, want)
		}
	}
}

// vm prepares a run of a shell script on a booted kernel. What vm has in the file system is below tmp.
func vm(t *testing.T, script string, flags ...string) (cmd *exec.Cmd, tmp string) {
	t.Helper()
	if os.Getenv("VXCAN_TEST_CAN") == "" {
		t.Skip("boots a kernel with CAN: make test does it")
	}
	path, err := filepath.Abs("../../bin/vm")
	if err != nil {
		t.Fatal(err)
	}
	tmp = t.TempDir()
	cmd = exec.Command(path, append(flags, "-boot", "sh", "-c", script)...)
	cmd.Env = append(os.Environ(), "TMPDIR="+tmp)
	return cmd, tmp
}

// TestNotInstalled: on a machine that has nothing, vm says what to install or where else to run.
func TestNotInstalled(t *testing.T) {
	for name, test := range map[string]struct{ release, want string }{
		"Debian": {"NAME=\"Debian GNU/Linux\"\nID=debian\n", "vm: to boot a kernel with CAN, apt-get install e2fsprogs kmod user-mode-linux\n"},
		"Ubuntu": {"NAME=\"Ubuntu\"\nID=ubuntu\nID_LIKE=debian\nUBUNTU_CODENAME=noble\n", "vm: Ubuntu has no package of User Mode Linux"},
		"Fedora": {"NAME=\"Fedora Linux\"\nID=fedora\n", "vm: Fedora Linux has no package of User Mode Linux"},
	} {
		t.Run(name, func(t *testing.T) {
			cmd, _ := vm(t, "true")
			program, err := os.ReadFile(cmd.Path)
			if err != nil {
				t.Fatal(err)
			}
			root := t.TempDir()
			err = errors.Join(
				os.WriteFile(filepath.Join(root, "vm"), program, 0o755), os.Mkdir(filepath.Join(root, "etc"), 0o755),
				os.WriteFile(filepath.Join(root, "etc/os-release"), []byte(test.release), 0o644))
			if err != nil {
				t.Fatal(err)
			}
			cmd.Path, cmd.Dir = "/vm", "/"
			cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root}
			if os.Geteuid() != 0 {
				cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWUSER
				cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}}
			}
			out, _ := cmd.CombinedOutput()
			if !strings.HasPrefix(string(out), test.want) || cmd.ProcessState.ExitCode() != exitTrouble {
				t.Errorf("%v: %s", cmd.ProcessState, out)
			}
		})
	}
}

// TestUnprivileged: vm needs no root, no capability, and no home.
func TestUnprivileged(t *testing.T) {
	cmd, tmp := vm(t, "id -u && ip link add dev vcan0 type vcan")
	program, err := os.ReadFile(cmd.Path)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cmd.Path, cmd.Dir = filepath.Join(dir, "vm"), "/"
	err = errors.Join(os.WriteFile(cmd.Path, program, 0o755), os.Chmod(tmp, 0o777), os.Chmod(filepath.Dir(tmp), 0o755))
	if err != nil {
		t.Fatal(err)
	}
	cmd.Env = append(cmd.Env, "HOME=/nonexistent")
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
	if out, err := cmd.CombinedOutput(); err != nil || string(out) != "0\n" {
		t.Errorf("%v: %s", err, out)
	}
	expectEmpty(t, tmp)
}

// TestCommand: the command's output and exit status come out, and nothing that it writes.
func TestCommand(t *testing.T) {
	name := fmt.Sprintf("vxcan-vm-test-%d", os.Getpid())
	var files []string
	for _, dir := range []string{"/etc", "/root", "/var/lib", "/var/lib/cni", "/opt", "/run", t.TempDir()} {
		files = append(files, filepath.Join(dir, name))
	}
	cmd, tmp := vm(t, "mkdir -p "+filepath.Dir(files[len(files)-1])+"; for f in "+strings.Join(files, " ")+
		"; do echo x >$f || exit 8; done; echo $VXCAN_VM; echo words >&2; exit 7")
	var out, words bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &words
	if err := cmd.Run(); cmd.ProcessState.ExitCode() != 7 {
		t.Errorf("%v, want exit status 7", err)
	}
	if out.String() != "booted\n" || words.String() != "words\n" {
		t.Errorf("stdout %q, stderr %q", out.String(), words.String())
	}
	for _, file := range files {
		if err := os.Remove(file); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is on this machine (%v)", file, err)
		}
	}
	expectEmpty(t, tmp)
}

// TestTerminal: on a terminal, whose kernel stops a background process that sets it up, the command reads and writes.
func TestTerminal(t *testing.T) {
	cmd, tmp := vm(t, `read -r line; echo "got $line"; exit 7`)
	quoted := "'" + strings.Join(cmd.Args, "' '") + "'"
	terminal := exec.Command("script", "-qec", quoted, "/dev/null")
	terminal.Env = cmd.Env
	terminal.Stdin = strings.NewReader("words\n")
	timeout := time.AfterFunc(2*time.Minute, func() { _ = terminal.Process.Kill() }) // its end is a hang-up for vm
	defer timeout.Stop()
	out, err := terminal.CombinedOutput()
	if terminal.ProcessState.ExitCode() != 7 || !strings.Contains(string(out), "got words\r\n") {
		t.Errorf("%v, want exit status 7: %q", err, out)
	}
	expectEmpty(t, tmp)
}

// TestKeep: what the command writes to a kept directory is there afterwards, and nothing that it writes beside it.
func TestKeep(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink(dir+"/reports", dir+"/link"); err != nil { // leads outside while the machine is made
		t.Fatal(err)
	}
	if err := os.Mkdir(dir+"/reports", 0o755); err != nil {
		t.Fatal(err)
	}
	cmd, tmp := vm(t, "echo x >reports/deep/here && echo x >beside", "-keep", "link/deep")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "reports/deep/here")); err != nil || string(got) != "x\n" {
		t.Errorf("got %q, %v", got, err)
	}
	if err := errors.Join(os.RemoveAll(filepath.Join(dir, "reports")), os.Remove(filepath.Join(dir, "link"))); err != nil {
		t.Error(err)
	}
	expectEmpty(t, dir)
	expectEmpty(t, tmp)
	for _, system := range []string{"/", "/etc"} {
		cmd, _ := vm(t, "true", "-keep", system)
		if out, err := cmd.CombinedOutput(); cmd.ProcessState.ExitCode() != exitTrouble || !strings.Contains(string(out), "a directory of the system") {
			t.Errorf("-keep %s: %v: %s", system, err, out)
		}
	}
}

// TestDisk: the next boot with the same disk finds what the last one wrote, but not in /run.
func TestDisk(t *testing.T) {
	disk := filepath.Join(t.TempDir(), "disk")
	for _, script := range []string{
		"echo x | tee /var/lib/here /var/lib/cni/here /etc/here /run/here",
		"cat /var/lib/here /var/lib/cni/here /etc/here && test ! -e /run/here",
	} {
		cmd, tmp := vm(t, script, "-disk", disk)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", script, err, out)
		}
		expectEmpty(t, tmp)
	}
}

// TestInterrupted: an interrupt ends the machine, and nothing of it is left.
func TestInterrupted(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		t.Run(sig.String(), func(t *testing.T) {
			cmd, tmp := vm(t, "sleep 1000 & echo up; sleep 1000")
			out, err := cmd.StdoutPipe()
			if err == nil {
				err = cmd.Start()
			}
			if err != nil {
				t.Fatal(err)
			}
			if line, err := bufio.NewReader(out).ReadString('\n'); line != "up\n" {
				t.Errorf("got %q, %v", line, err)
			}
			kernel := childOf(t, cmd.Process.Pid)
			if err := errors.Join(syscall.Kill(-kernel, 0), cmd.Process.Signal(sig)); err != nil {
				t.Error(err)
			}
			if err := cmd.Wait(); cmd.ProcessState.ExitCode() != exitTrouble {
				t.Errorf("%v, want exit status %d", err, exitTrouble)
			}
			deadline := time.Now().Add(10 * time.Second)
			for !errors.Is(syscall.Kill(-kernel, 0), syscall.ESRCH) { // the kernel's process group
				if time.Now().After(deadline) {
					t.Fatalf("processes of group %d are left", kernel)
				}
				time.Sleep(10 * time.Millisecond)
			}
			expectEmpty(t, tmp)
		})
	}
}

// childOf finds a process by its parent.
func childOf(t *testing.T, parent int) int {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range stats {
		stat, _ := os.ReadFile(file) // it may be gone
		// "pid (name) state ppid ...", proc(5)
		if _, rest, _ := bytes.Cut(stat, []byte(") ")); len(rest) > 2 && strings.HasPrefix(string(rest[2:]), fmt.Sprint(parent, " ")) {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			if err != nil {
				t.Fatal(err)
			}
			return pid
		}
	}
	t.Fatalf("process %d has no child", parent)
	return 0
}

func expectEmpty(t *testing.T, dir string) {
	t.Helper()
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("in %s: %v, %v", dir, left, err)
	}
}
