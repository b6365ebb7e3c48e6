package qemu

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"
	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/integration/harness"
	"github.com/vxcan/vxcan/pkg/cantest"
)

// TestISOTP: requests and answers of the greatest length, as of UDS, in bursts of frames without a pause between them (STmin 0),
// arrive whole, beside a third container that sends, too. One frame out of order would end a message.
func TestISOTP(t *testing.T) {
	const messages, longest = 30, 4095
	harness.RequireTwoCPUs(t)
	harness.FreshHost(t)
	harness.Command(t, "modprobe", "can-isotp")
	tester, ecu, other := harness.NewContainer(t, "tester"), harness.NewContainer(t, "ecu"), harness.NewContainer(t, "other")
	for _, c := range []*harness.Container{tester, ecu, other} {
		harness.On(c).Add(t)
	}
	request, answer := openISOTP(t, tester.Netns, 0x7E0, 0x7E8), openISOTP(t, ecu.Netns, 0x7E8, 0x7E0)
	beside := cantest.NewSender(t, other.Netns, "can0")
	end, ended := make(chan bool), make(chan int)
	go func() {
		for n := 0; ; n++ {
			select {
			case <-end:
				ended <- n
				return
			case <-time.After(time.Millisecond):
				_ = beside.Send(cantest.Frame{ID: 0x111, Data: "beside"}) // what is lost of it is nobody's
			}
		}
	}()
	pass := func(from, to, n int) error {
		message, got := bytes.Repeat([]byte{byte(n), byte(n + 1), byte(n + 2)}, longest/3), make([]byte, longest+1)
		if _, err := unix.Write(from, message); err != nil {
			return err
		}
		length, err := unix.Read(to, got)
		if err == nil && !bytes.Equal(got[:length], message) {
			err = fmt.Errorf("%d bytes, or others", length)
		}
		return err
	}
	for n := range messages {
		if err := errors.Join(pass(request, answer, 2*n), pass(answer, request, 2*n+1)); err != nil {
			t.Errorf("message %d: %v", n, err)
			break
		}
	}
	close(end)
	t.Logf("%d requests and answers of %d bytes, beside %d frames of somebody else", messages, longest, <-ended)
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
