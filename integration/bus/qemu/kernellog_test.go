package qemu

import (
	"bytes"
	"errors"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/integration/harness"
)

// kernelLog is the kernel's log from a point in time on.
type kernelLog struct{ fd int }

// openKernelLog starts reading behind what the kernel has logged so far.
func openKernelLog(t testing.TB) *kernelLog {
	t.Helper()
	fd, err := unix.Open("/dev/kmsg", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatalf("open /dev/kmsg: %v", err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if _, err := unix.Seek(fd, 0, unix.SEEK_END); err != nil {
		t.Fatalf("seek in /dev/kmsg: %v", err)
	}
	return &kernelLog{fd}
}

// lines returns what the kernel has logged since the last call. It fails the test if some of it was overwritten.
func (l *kernelLog) lines(t testing.TB) (all []string) {
	t.Helper()
	record := make([]byte, 16<<10) // one for each read
	for {
		switch n, err := unix.Read(l.fd, record); {
		case errors.Is(err, unix.EAGAIN):
			return all
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EPIPE):
			t.Error("lines of the kernel's log were overwritten before they were read")
		case err != nil:
			t.Fatalf("read /dev/kmsg: %v", err)
		default: // "priority,number,time,flags;text", and lines of KEY=value
			_, text, _ := bytes.Cut(record[:n], []byte(";"))
			text, _, _ = bytes.Cut(text, []byte("\n"))
			all = append(all, string(text))
		}
	}
}

// kernelTrouble is in a line of the kernel's log that tells of a fault in the kernel, or of a reference to a device that
// nobody gives back ("unregister_netdevice: waiting for can0 to become free").
var kernelTrouble = regexp.MustCompile(`\bBUG\b|WARNING|Call Trace|refcount|waiting for`)

// troubleIn returns the lines of a kernel's log that must not be there.
func troubleIn(lines []string) []string {
	return slices.DeleteFunc(slices.Clone(lines), func(line string) bool { return !kernelTrouble.MatchString(line) })
}

// TestKernelTrouble: each kind of trouble is found among lines that are harmless.
func TestKernelTrouble(t *testing.T) {
	harmless := []string{
		"can: controller area network core",
		"can-gw: netlink gateway (rev 20190810) max_hops=1",
		"tc mirred to Houston: device vcan0-tx is down",
		"tc mirred: target device is gone",
		"vxcan: Virtual CAN Tunnel driver",
		"DEBUG: nothing to warn of",
		"hrtimer: interrupt took 5012345 ns",
	}
	if got := troubleIn(harmless); len(got) > 0 {
		t.Errorf("harmless, but found: %q", got)
	}
	for _, line := range []string{
		"BUG: kernel NULL pointer dereference, address: 0000000000000010",
		"kernel BUG at net/core/dev.c:10955!",
		"watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [ip:1234]",
		"WARNING: CPU: 0 PID: 42 at net/can/af_can.c:120 can_sock_destruct+0x1a/0x20 [can]",
		"------------[ cut here ]------------ WARNING: possible circular locking dependency detected",
		" Call Trace:",
		"refcount_t: underflow; use-after-free.",
		"unregister_netdevice: waiting for vcan0 to become free. Usage count = 2",
	} {
		if got := troubleIn(slices.Concat(harmless, []string{line}, harmless)); !slices.Equal(got, []string{line}) {
			t.Errorf("found %q, want %q", got, line)
		}
	}
}

// TestKernelLog: what the kernel logs is read once, and not what it logged before.
func TestKernelLog(t *testing.T) {
	if os.Getenv("VXCAN_VM") != "booted" {
		t.Skip("writes to the kernel's log: needs a kernel of its own (bin/vm)")
	}
	log := func(line string) { harness.Write(t, "/dev/kmsg", line+"\n") }
	log("test: BUG before")
	l := openKernelLog(t)
	for _, line := range []string{"test: refcount one", "test: Call Trace two"} {
		log("test: harmless")
		log(line)
		if got := troubleIn(l.lines(t)); !slices.Equal(got, []string{line}) {
			t.Errorf("found %q, want %q", got, line)
		}
	}
	if got := strings.Join(l.lines(t), "\n"); strings.Contains(got, "test:") {
		t.Errorf("read again: %s", got)
	}
}
