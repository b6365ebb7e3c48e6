package harness

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"
	"golang.org/x/sys/unix"
)

const systemdPath = "/usr/lib/systemd/systemd"

// slowUnits are not needed here and take most of the time of a boot on an emulated CPU.
var slowUnits = []string{
	"ldconfig.service", "systemd-hwdb-update.service", "systemd-journal-catalog-update.service", "systemd-tmpfiles-setup.service",
	"systemd-tmpfiles-setup-dev.service", "systemd-tmpfiles-setup-dev-early.service", "systemd-udev-trigger.service",
	"systemd-sysusers.service", "systemd-sysctl.service", "systemd-journal-flush.service", "tmp.mount",
}

// Systemd is the systemd and udev of the machine that bin/vm boots, up to sysinit.target. It is process 1 of a PID namespace
// and has this machine's devices, which are of no namespace.
type Systemd struct {
	T   testing.TB
	cmd *exec.Cmd
}

// StartSystemd starts systemd with the rule and the service that make install installs, where it puts them. It skips
// the test where there is no systemd, or it would see the devices of somebody else's machine.
func StartSystemd(t testing.TB) *Systemd {
	t.Helper()
	if os.Getenv("VXCAN_VM") != "booted" {
		t.Skip("gives this machine another systemd: bin/vm boots one for that")
	}
	for _, file := range []string{systemdPath, "/usr/bin/udevadm"} {
		if _, err := os.Stat(file); errors.Is(err, os.ErrNotExist) {
			t.Skip(err)
		}
	}
	Command(t, "install", "-D", "-t", "/usr/local/bin", filepath.Join(BinDir(t), "vxcanctl"))
	Command(t, "install", "-D", "-m", "644", "-t", "/usr/local/lib/udev/rules.d", Repo("plugins/vxcanctl/90-vxcan.rules"))
	Command(t, "install", "-D", "-m", "644", "-t", "/usr/local/lib/systemd/system", Repo("plugins/vxcanctl/vxcan-heal@.service"))
	const runtime = "/run/systemd/system" // and the sign by which others know that systemd runs
	if err := os.MkdirAll(runtime, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, unit := range slowUnits {
		if err := os.Symlink(os.DevNull, filepath.Join(runtime, unit)); err != nil && !errors.Is(err, os.ErrExist) {
			t.Fatal(err)
		}
	}
	s := &Systemd{T: t}
	s.cmd = exec.Command("sh", "-ec", `mount --make-rprivate /
mount -t proc proc /proc
exec "$0" --unit=sysinit.target --show-status=no`, systemdPath)
	s.cmd.Env = []string{"container=test", "PATH=" + os.Getenv("PATH")} // else it would take the kernel's command line as its own
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS}
	var words bytes.Buffer
	s.cmd.Stdout, s.cmd.Stderr = &words, &words
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			out, err := s.Try("journalctl", "--no-pager", "-o", "short-monotonic", "-n", "200", "-u", "vxcan*", "-u", "systemd-udevd*")
			t.Logf("journal (%v):\n%s", err, out)
		}
		_ = s.cmd.Process.Kill() // and all of its namespace
		_ = s.cmd.Wait()
		if t.Failed() {
			t.Logf("systemd says:\n%s", &words)
		}
		for _, dir := range []string{"/run/systemd", "/run/udev", "/run/containerd"} {
			if err := os.RemoveAll(dir); err != nil {
				t.Error(err)
			}
		}
	})
	began := time.Now()
	s.WaitFor("systemd", func() bool {
		out, _ := s.Try("systemctl", "is-active", "sysinit.target", "systemd-udevd.service")
		return strings.Count(out, "active\n") == 2 && !strings.Contains(out, "inactive")
	})
	t.Logf("systemd is up after %v", time.Since(began).Round(time.Millisecond))
	return s
}

// Try runs a program where systemd knows it: in its namespaces.
func (s *Systemd) Try(name string, args ...string) (string, error) {
	args = append([]string{"-t", strconv.Itoa(s.cmd.Process.Pid), "-p", "-m", name}, args...)
	return Try("nsenter", args...)
}

// Run is Try for what must succeed; it returns the stdout.
func (s *Systemd) Run(name string, args ...string) string {
	s.T.Helper()
	out, err := s.Try(name, args...)
	if err != nil {
		s.T.Fatal(err)
	}
	return out
}

// WaitFor waits up to two minutes.
func (s *Systemd) WaitFor(what string, condition func() bool) {
	s.T.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !condition(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.T.Fatalf("waited two minutes for %s", what)
		}
	}
}

// properties are those of a device in udev's database.
func (s *Systemd) properties(device string) map[string]string {
	s.T.Helper()
	all := make(map[string]string)
	for line := range strings.Lines(Command(s.T, "udevadm", "info", "--query=property", "/sys/class/net/"+device)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		all[name] = value
	}
	return all
}

// Netns opens the network namespace of a process that systemd's PID namespace knows by a number.
func (s *Systemd) Netns(pid string) ns.NetNS {
	s.T.Helper()
	netns, err := ns.GetNS(fmt.Sprintf("/proc/%d/root/proc/%s/ns/net", s.cmd.Process.Pid, strings.TrimSpace(pid)))
	if err != nil {
		s.T.Fatal(err)
	}
	s.T.Cleanup(func() { netns.Close() })
	return netns
}

// Install puts files where systemd or a runtime looks for them, as long as the test runs.
func Install(t *testing.T, dir string, files ...string) {
	t.Helper()
	for _, file := range files {
		Command(t, "install", "-D", "-t", dir, file)
		t.Cleanup(func() { os.Remove(filepath.Join(dir, filepath.Base(file))) })
	}
}

// InstallText is Install for a file that only the test has.
func InstallText(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	Write(t, path, content)
	t.Cleanup(func() { os.Remove(path) })
}
