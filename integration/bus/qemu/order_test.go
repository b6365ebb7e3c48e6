package qemu

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"
	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/integration/harness"
	"github.com/vxcan/vxcan/pkg/cantest"
)

// TestOneOrder: by the page's rule of udev, one CPU delivers the frames of a bus. Each member hears all others in one order,
// and each sender in its own, although every sender goes to and fro between two CPUs. Requests and answers of ISO-TP of the
// greatest length arrive whole, although the kernel sends them from either CPU.
func TestOneOrder(t *testing.T) {
	harness.RequireTwoCPUs(t)
	harness.FreshHost(t)
	steer(t)
	a, b, c, d := harness.NewContainer(t, "a"), harness.NewContainer(t, "b"), harness.NewContainer(t, "c"), harness.NewContainer(t, "d")
	for _, container := range []*harness.Container{a, b, c, d} {
		harness.On(container).Add(t)
	}
	waitSteered(t)
	if out, _, _ := harness.Control(t, nil, "doctor"); !strings.Contains(out, "bus vcan0 with 4 containers") || strings.Contains(out, "rps_cpus") {
		t.Errorf("doctor: %s", out)
	}

	t.Run("flood", func(t *testing.T) {
		const host = 2
		senders := []*cantest.Sender{cantest.NewSender(t, a.Netns, "can0"), cantest.NewSender(t, b.Netns, "can0"), cantest.NewSender(t, nil, "vcan0")}
		ears := []*cantest.Listener{cantest.Listen(t, c.Netns, "can0"), cantest.Listen(t, d.Netns, "can0"), cantest.Listen(t, nil, "vcan0")}
		sends := make([][]cantest.Frame, len(senders))
		var sending sync.WaitGroup
		for i, s := range senders {
			sends[i] = harness.Mixed(uint32(0x100+i), 750)
			sending.Add(1)
			go func() {
				defer sending.Done()
				for n, f := range sends[i] {
					if n%10 == 0 {
						stayOn(t, (i+n/10)%2)
					}
					if err := s.Send(f); err != nil {
						t.Error(err)
						return
					}
				}
			}()
		}
		sending.Wait()
		total := len(senders) * len(sends[0])
		cantest.WaitQuiet(total*len(ears)-len(sends[host]), ears...)
		heard := ears[0].InOrder()
		if len(heard) != total {
			t.Errorf("heard %d frames of %d", len(heard), total)
		}
		if !slices.Equal(heard, ears[1].InOrder()) {
			t.Error("two containers heard the frames in different order")
		}
		of := func(i int) func(cantest.Frame) bool {
			return func(f cantest.Frame) bool { return f.ID&0x7FF == uint32(0x100+i) }
		}
		if !slices.Equal(slices.DeleteFunc(slices.Clone(heard), of(host)), ears[2].InOrder()) {
			t.Error("the host heard the containers' frames in another order than a container")
		}
		for i, want := range sends {
			got := slices.DeleteFunc(slices.Clone(heard), func(f cantest.Frame) bool { return !of(i)(f) })
			if !slices.Equal(got, want) {
				t.Errorf("%d frames of sender %d, of %d, or in another order", len(got), i, len(want))
			}
		}
	})

	t.Run("ISO-TP", func(t *testing.T) {
		const messages, longest = 10, 4095
		harness.Command(t, "modprobe", "can-isotp")
		request, answer := openISOTP(t, a.Netns, 0x7E0, 0x7E8), openISOTP(t, b.Netns, 0x7E8, 0x7E0)
		pass := func(from, to, n int) error {
			message, got := bytes.Repeat([]byte{byte(n), byte(n + 1), byte(n + 2)}, longest/3), make([]byte, longest+1)
			if _, err := again(func() (int, error) { return unix.Write(from, message) }); err != nil {
				return err
			}
			length, err := again(func() (int, error) { return unix.Read(to, got) })
			if err == nil && !bytes.Equal(got[:length], message) {
				err = fmt.Errorf("%d bytes, or others", length)
			}
			return err
		}
		for n := range messages {
			if err := errors.Join(pass(request, answer, 2*n), pass(answer, request, 2*n+1)); err != nil {
				t.Fatalf("message %d: %v", n, err)
			}
		}
	})
}

// steer runs udev with the rule of the page.
func steer(t *testing.T) {
	t.Helper()
	if err := os.MkdirAll("/etc/udev/rules.d", 0o755); err != nil {
		t.Fatal(err)
	}
	for _, line := range harness.PageLines(t, harness.Repo("plugins/vxcan/README.md"), "One order for all") {
		harness.NewTypist(t).Must(line)
	}
	harness.Command(t, "/usr/lib/systemd/systemd-udevd", "--daemon")
	t.Cleanup(func() { harness.Command(t, "udevadm", "control", "--exit") })
}

// waitSteered waits until udev has seen each device.
func waitSteered(t *testing.T) {
	t.Helper()
	for _, name := range harness.CANLinks(t) {
		mask := ""
		for deadline := time.Now().Add(time.Minute); mask != "1"; time.Sleep(50 * time.Millisecond) {
			content, err := os.ReadFile("/sys/class/net/" + name + "/queues/rx-0/rps_cpus")
			if err != nil || time.Now().After(deadline) {
				t.Fatalf("%s: rps_cpus is %q, %v", name, mask, err)
			}
			mask = strings.TrimLeft(strings.TrimSpace(string(content)), "0,")
		}
	}
}

// openISOTP opens a socket of can-isotp (linux/can/isotp.h) on can0 of a container.
func openISOTP(t *testing.T, netns ns.NetNS, tx, rx uint32) (fd int) {
	t.Helper()
	err := netns.Do(func(ns.NetNS) error {
		device, err := net.InterfaceByName("can0")
		if err != nil {
			return err
		}
		if fd, err = unix.Socket(unix.AF_CAN, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.CAN_ISOTP); err != nil {
			return err
		}
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 60}); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrCAN{Ifindex: device.Index, TxID: tx, RxID: rx})
	})
	if err != nil {
		t.Fatalf("a socket of ISO-TP: %v", err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// again is for calls that Go's own signals interrupt, because the socket has a timeout (signal(7)).
func again(call func() (int, error)) (n int, err error) {
	for err = unix.EINTR; err == unix.EINTR; {
		n, err = call()
	}
	return n, err
}
