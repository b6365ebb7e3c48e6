package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
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

// onTerminal prepares a run of vm on a terminal, and returns its keyboard.
func onTerminal(t *testing.T, cmd *exec.Cmd) (terminal *exec.Cmd, keyboard io.WriteCloser) {
	t.Helper()
	terminal = exec.Command("script", "-qec", "'"+strings.Join(cmd.Args, "' '")+"'", "/dev/null")
	terminal.Env = cmd.Env
	keyboard, err := terminal.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	timeout := time.AfterFunc(5*time.Minute, func() { _ = terminal.Process.Kill() }) // its end is a hang-up for vm
	t.Cleanup(func() { timeout.Stop() })
	return terminal, keyboard
}

// TestTerminal: on a terminal, whose kernel stops a background process that sets it up, the command reads and writes, has
// job control, and gets ^C.
func TestTerminal(t *testing.T) {
	for name, test := range map[string]struct{ script, keys, want string }{
		"lines":       {`echo ready; read -r line; echo "got $line"; exit 7`, "words\r", "got words\r\n"},
		"^C":          {`trap "echo caught; exit 7" INT; echo ready; while :; do sleep 0.1; done`, "\x03", "caught\r\n"},
		"job control": {`echo ready; exec bash --norc -i`, "set -o | grep monitor; exit 7\r", "monitor        \ton\r\n"},
		"escape":      {`trap "" INT; echo ready; sleep 1000`, "\x1d\x1d\x1d", "vm: interrupted"},
	} {
		t.Run(name, func(t *testing.T) {
			cmd, tmp := vm(t, test.script)
			terminal, keyboard := onTerminal(t, cmd)
			screen, err := terminal.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := terminal.Start(); err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewReader(screen)
			if line, err := lines.ReadString('\n'); line != "ready\r\n" {
				t.Fatalf("got %q, %v", line, err)
			}
			if _, err := io.WriteString(keyboard, test.keys); err != nil {
				t.Fatal(err)
			}
			out, err := io.ReadAll(lines)
			if err != nil || !strings.Contains(string(out), test.want) {
				t.Errorf("got %q (%v), want %q in it", out, err, test.want)
			}
			_ = terminal.Wait()
			want := 7
			if name == "escape" {
				want = exitTrouble
			}
			if status := terminal.ProcessState.ExitCode(); status != want {
				t.Errorf("exit status %d, want %d", status, want)
			}
			expectEmpty(t, tmp)
		})
	}
}

// TestTerminalInput: without a terminal as its stdout, vm passes on lines, and its output is what the command wrote.
func TestTerminalInput(t *testing.T) {
	cmd, tmp := vm(t, `read -r line; echo "got $line"; exit 7`)
	file := filepath.Join(t.TempDir(), "out")
	terminal, keyboard := onTerminal(t, cmd)
	terminal.Args[2] += " >" + file
	if _, err := io.WriteString(keyboard, "words\n"); err != nil {
		t.Fatal(err)
	}
	out, err := terminal.CombinedOutput()
	if terminal.ProcessState.ExitCode() != 7 {
		t.Errorf("%v, want exit status 7: %q", err, out)
	}
	if got, err := os.ReadFile(file); string(got) != "got words\n" {
		t.Errorf("got %q (%v)", got, err)
	}
	expectEmpty(t, tmp)
}

// TestCopyKeys: three escape keys in a row end the machine, and all else goes to the command.
func TestCopyKeys(t *testing.T) {
	for keys, want := range map[string]struct {
		passed string
		ended  bool
	}{
		"\x03a":              {"\x03a", false},
		"a\x1d\x1db\x1d":     {"a\x1d\x1db\x1d", false},
		"\x1d\x1d\x1d never": {"\x1d\x1d", true},
	} {
		var passed strings.Builder
		ended := false
		copyKeys(&passed, iotest.OneByteReader(strings.NewReader(keys)), func() { ended = true })
		if passed.String() != want.passed || ended != want.ended {
			t.Errorf("%q: passed %q, ended %t", keys, passed.String(), ended)
		}
	}
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
