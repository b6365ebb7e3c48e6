// Package cantest is for tests that need a kernel with CAN. Only _test.go files and integration/harness import it.
//
// It is in pkg/ because two Go modules use it: the product's, in the tests of pkg/, and integration/. A package of
// integration/ would make the product's module depend on that one. cantest uses nothing else of pkg/, so that the tests
// of every package there can use it.
package cantest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"testing"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/containernetworking/plugins/pkg/testutils"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Promised is the environment variable that, when it is 1, says that this kernel has CAN: tests that need it then fail
// where they would be skipped.
const Promised = "VXCAN_TEST_CAN"

// Thorough is the environment variable that, when it is 1, has tests with very many cases go through all of them.
const Thorough = "VXCAN_TEST_THOROUGH"

// A goroutine that ends on a thread which is in another network namespace ends the thread, but for the main one, which would stay
// there for ever, as /proc/PID/ns/net of all of the process.
func init() { runtime.LockOSThread() }

// IsThorough reports whether tests are to go through all of their cases.
func IsThorough() bool { return os.Getenv(Thorough) == "1" }

// Steps tells how a test goes through the calls of a program that can fail: one by one where all are asked for, see Thorough,
// and else in larger steps. Tests of different names begin at different calls, of the first few, which every program makes.
// Calls count from 1.
func Steps(name string) (first, step int) {
	const few, fewer = 4, 10
	if IsThorough() {
		return 1, 1
	}
	sum := 0
	for _, c := range name {
		sum += int(c)
	}
	return 1 + sum%few, fewer
}

// Require skips the test, or fails it where CAN was promised, unless we are root on a kernel that makes vxcan pairs and
// gateway rules. It finds out by making one of each in a network namespace of its own.
func Require(t testing.TB) {
	t.Helper()
	switch err := probe(); {
	case err == nil:
	case os.Getenv(Promised) == "1":
		t.Fatalf("%s=1, but this kernel has no CAN for us: %v", Promised, err)
	default:
		t.Skipf("needs root and a kernel with CAN (bin/vm): %v", err)
	}
}

// LacksTables reports a kernel without nftables for IP, and without WireGuard: that of Debian's User Mode Linux.
func LacksTables() bool {
	cpu, _ := os.ReadFile("/proc/cpuinfo")
	return bytes.Contains(cpu, []byte("User Mode Linux"))
}

// NewNetns makes a network namespace, with nothing in it but its lo, and deletes it when the test ends.
func NewNetns(t testing.TB) ns.NetNS {
	t.Helper()
	netns, err := testutils.NewNS() // on a locked thread that ends with its goroutine
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(netns.Close(), testutils.UnmountNS(netns)); err != nil {
			t.Error(err)
		}
	})
	return netns
}

// probe leaves nothing: its netns is that of a thread which is never unlocked, and so ends with its goroutine.
var probe = sync.OnceValue(func() error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("unshare: %w", err)
			return
		}
		done <- makePairAndRule()
	}()
	return <-done
})

func makePairAndRule() error {
	pair := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK)
	pair.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	pair.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated("a")))
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, []byte("vxcan"))
	pair.AddData(info)
	if _, err := pair.Execute(unix.NETLINK_ROUTE, 0); err != nil {
		return fmt.Errorf("make vxcan pair: %w", err)
	}
	a, err := netlink.LinkByName("a")
	if err != nil || IsRootless() { // which gets no rules
		return err
	}
	add := func() error {
		rule := nl.NewNetlinkRequest(unix.RTM_NEWROUTE, unix.NLM_F_ACK)
		rule.AddRawData([]byte{unix.AF_CAN, 1, 0, 0}) // struct rtcanmsg, linux/can/gw.h
		// CGW_SRC_IF and CGW_DST_IF, which newer kernels refuse to be the same.
		rule.AddRawData(nl.NewRtAttr(9, nl.Uint32Attr(uint32(a.Attrs().Index))).Serialize())
		rule.AddRawData(nl.NewRtAttr(10, nl.Uint32Attr(uint32(a.Attrs().ParentIndex))).Serialize())
		_, err := rule.Execute(unix.NETLINK_ROUTE, 0)
		return err
	}
	if err = add(); !errors.Is(err, unix.EOPNOTSUPP) {
		return err
	}
	if out, err := exec.Command("modprobe", "can-gw").CombinedOutput(); err != nil {
		return fmt.Errorf("modprobe can-gw: %w: %s", err, bytes.TrimSpace(out))
	}
	return add()
}
