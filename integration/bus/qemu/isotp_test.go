package qemu

import (
	"bytes"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"
	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/integration/harness"
	"github.com/vxcan/vxcan/pkg/cantest"
)

// TestISOTP: messages of the greatest length, in bursts of frames without a pause between them (STmin 0), arrive whole from
// container to container, beside a third one that floods the bus. One frame out of order would end a message.
func TestISOTP(t *testing.T) {
	const messages, longest = 30, 4095
	harness.RequireTwoCPUs(t)
	harness.FreshHost(t)
	harness.Command(t, "modprobe", "can-isotp")
	tester, ecu, other := harness.NewContainer(t, "tester"), harness.NewContainer(t, "ecu"), harness.NewContainer(t, "other")
	for _, c := range []*harness.Container{tester, ecu, other} {
		harness.On(c).Add(t)
	}
	from, to := openISOTP(t, tester.Netns, 0x7E0, 0x7E8), openISOTP(t, ecu.Netns, 0x7E8, 0x7E0)
	flood, end := cantest.NewSender(t, other.Netns, "can0"), make(chan bool)
	ended := make(chan int)
	go func() {
		for n := 0; ; n++ {
			select {
			case <-end:
				ended <- n
				return
			default:
				_ = flood.Send(cantest.Frame{ID: 0x111, Data: "flood"}) // what is lost of it is nobody's
				time.Sleep(time.Millisecond)
			}
		}
	}()
	failed := make(chan error, 1)
	message := func(n int) []byte { return bytes.Repeat([]byte{byte(n), byte(n + 1), byte(n + 2)}, longest/3) }
	go func() {
		for n := range messages {
			if _, err := unix.Write(from, message(n)); err != nil {
				failed <- fmt.Errorf("send message %d: %w", n, err)
				return
			}
		}
		failed <- nil
	}()
	got := make([]byte, longest+1)
	for n := range messages {
		length, err := unix.Read(to, got)
		if err != nil || !bytes.Equal(got[:length], message(n)) {
			t.Fatalf("message %d: %d bytes, %v", n, length, err)
		}
	}
	if err := <-failed; err != nil {
		t.Error(err)
	}
	close(end)
	t.Logf("%d messages of %d bytes, beside %d frames of somebody else", messages, longest, <-ended)
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
