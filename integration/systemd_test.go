package integration

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const systemdPath = "/usr/lib/systemd/systemd"

// slowUnits are not needed here and take most of the time of a boot on an emulated CPU.
var slowUnits = []string{
	"ldconfig.service", "systemd-hwdb-update.service", "systemd-journal-catalog-update.service", "systemd-tmpfiles-setup.service",
	"systemd-tmpfiles-setup-dev.service", "systemd-tmpfiles-setup-dev-early.service", "systemd-udev-trigger.service",
	"systemd-sysusers.service", "systemd-sysctl.service", "systemd-journal-flush.service", "tmp.mount",
}

// systemd is the systemd and udev of the machine that bin/vm boots, up to sysinit.target. It is process 1 of a PID namespace
// and has this machine's devices, which are of no namespace.
type systemd struct {
	t   testing.TB
	cmd *exec.Cmd
}

// startSystemd starts systemd with the rule and the service that make install installs, where it puts them. It skips
// the test where there is no systemd, or it would see the devices of somebody else's machine.
func startSystemd(t testing.TB) *systemd {
	t.Helper()
	if os.Getenv("VXCAN_VM") != "booted" {
		t.Skip("gives this machine another systemd: bin/vm boots one for that")
	}
	for _, file := range []string{systemdPath, "/usr/bin/udevadm"} {
		if _, err := os.Stat(file); errors.Is(err, os.ErrNotExist) {
			t.Skip(err)
		}
	}
	command(t, "install", "-D", "-t", "/usr/local/bin", filepath.Join(binDir(t), "vxcanctl"))
	command(t, "install", "-D", "-m", "644", "-t", "/usr/local/lib/udev/rules.d", "../plugins/vxcanctl/90-vxcan.rules")
	command(t, "install", "-D", "-m", "644", "-t", "/usr/local/lib/systemd/system", "../plugins/vxcanctl/vxcan-heal@.service")
	const runtime = "/run/systemd/system" // and the sign by which others know that systemd runs
	if err := os.MkdirAll(runtime, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, unit := range slowUnits {
		if err := os.Symlink(os.DevNull, filepath.Join(runtime, unit)); err != nil && !errors.Is(err, os.ErrExist) {
			t.Fatal(err)
		}
	}
	s := &systemd{t: t}
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
			out, err := s.try("journalctl", "--no-pager", "-o", "short-monotonic", "-n", "200", "-u", "vxcan*", "-u", "systemd-udevd*")
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
	s.waitFor("systemd", func() bool {
		out, _ := s.try("systemctl", "is-active", "sysinit.target", "systemd-udevd.service")
		return strings.Count(out, "active\n") == 2 && !strings.Contains(out, "inactive")
	})
	t.Logf("systemd is up after %v", time.Since(began).Round(time.Millisecond))
	return s
}

// try runs a program where systemd knows it: in its namespaces.
func (s *systemd) try(name string, args ...string) (string, error) {
	args = append([]string{"-t", strconv.Itoa(s.cmd.Process.Pid), "-p", "-m", name}, args...)
	return try("nsenter", args...)
}

func (s *systemd) run(name string, args ...string) string {
	s.t.Helper()
	out, err := s.try(name, args...)
	if err != nil {
		s.t.Fatal(err)
	}
	return out
}

// waitFor waits up to two minutes.
func (s *systemd) waitFor(what string, condition func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !condition(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("waited two minutes for %s", what)
		}
	}
}

// properties are those of a device in udev's database.
func (s *systemd) properties(device string) map[string]string {
	s.t.Helper()
	all := make(map[string]string)
	for line := range strings.Lines(command(s.t, "udevadm", "info", "--query=property", "/sys/class/net/"+device)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		all[name] = value
	}
	return all
}
