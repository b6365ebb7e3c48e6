package harness

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"
)

// Lends runs what systemd runs for vxcan-lend.socket.
func Lends(t testing.TB) {
	t.Helper()
	lends(t, filepath.Join(BinDir(t), "vxcanctl"), "serve-lend")
}

func lends(t testing.TB, service ...string) {
	t.Helper()
	const socket = "/var/lib/vxcan/lend"
	Command(t, "install", "-d", "-m", "755", "/var/lib/vxcan")
	cmd := exec.Command("systemd-socket-activate", append([]string{"--seqpacket", "--accept", "--inetd", "--listen=" + socket}, service...)...)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		Command(t, "rm", "-rf", "/var/lib/vxcan", "/etc/vxcan")
	})
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if err := os.Chmod(socket, 0o600); err == nil {
			Vxcanctl(t, "serve-lend", "--admit")
			return
		} else if time.Now().After(deadline) {
			t.Fatal("nobody listens: ", err)
		}
	}
}

// Lender lends by a service that a test can have killed.
type Lender struct{ dir string }

// The files once and each name a system call and its number. The first request takes once away.
const killableService = `#!/bin/sh
cd "$0.d"
at=$(cat each 2>/dev/null) || { mv once taken && at=$(cat taken); } 2>/dev/null || exec %[1]s serve-lend
set -- $at
strace -f -qq -o /dev/null -e trace=$1 -e inject=$1:signal=KILL:when=$2 %[1]s serve-lend
test $? != 137 || echo >>killed
while test -e each; do sleep 0.02; done # the borrower waits as long, and asks no other service
`

// NewLender is Lends with such a service.
func NewLender(t testing.TB) Lender {
	t.Helper()
	service := filepath.Join(t.TempDir(), "service")
	Write(t, service, fmt.Sprintf(killableService, filepath.Join(BinDir(t), "vxcanctl")))
	Command(t, "chmod", "755", service)
	Command(t, "mkdir", service+".d")
	lends(t, "/bin/sh", service)
	return Lender{service + ".d"}
}

// KillOnce has the service of the next request killed at its nth system call of this name.
func (l Lender) KillOnce(t testing.TB, name string, n int) { l.kill(t, "once", name, n) }

// KillEach has the service of each request killed so, until KillNone.
func (l Lender) KillEach(t testing.TB, name string, n int) { l.kill(t, "each", name, n) }

func (l Lender) kill(t testing.TB, file, name string, n int) {
	t.Helper()
	l.KillNone(t)
	Write(t, filepath.Join(l.dir, "new"), fmt.Sprintln(name, n))
	if err := os.Rename(filepath.Join(l.dir, "new"), filepath.Join(l.dir, file)); err != nil {
		t.Fatal(err)
	}
}

// HasKilled reports whether a service was killed.
func (l Lender) HasKilled() bool {
	_, err := os.Stat(filepath.Join(l.dir, "killed"))
	return err == nil
}

// KillNone has no service killed any more, and reports whether one was.
func (l Lender) KillNone(t testing.TB) (killed bool) {
	t.Helper()
	killed = l.HasKilled()
	if err := RemoveContent(l.dir); err != nil {
		t.Fatal(err)
	}
	return killed
}

// NewUserContainer makes a container as a rootless runtime does: a process of the user's with a user namespace and a network
// namespace of its own.
func NewUserContainer(t testing.TB, id string) *Container {
	t.Helper()
	cmd := UserCommand("unshare", "--user", "--map-root-user", "--net", "sleep", "123457")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	proc := fmt.Sprint("/proc/", cmd.Process.Pid)
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if line, _ := os.ReadFile(proc + "/cmdline"); strings.HasPrefix(string(line), "sleep\x00") {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("the container of the user does not start: %q", line)
		}
	}
	netns, err := ns.GetNS(proc + "/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	c := &Container{ID: id, Path: proc + "/ns/net", Netns: netns}
	t.Cleanup(func() { netns.Close() })
	return c
}

// OnLent is the call that the user's runtime makes for a container of his, to have it on a bus that is lent.
func OnLent(c *Container) Call {
	call := On(c).With(`"hub":"vcan0","lent":true`)
	call.Wrap = AsUserArgs()
	return call
}
