package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// topology is a bus to send frames over: every station can hear every other.
type topology struct {
	name     string
	stations []station
}

// station is a container on a bus.
type station struct {
	netnsPath, ifName string
}

// star is n containers on a bus of ours, listed two with lists of n CAN IDs each way, half of them standard, mesh n on a
// bus of the predecessor's, and bare two on one vxcan pair.
func (b *bench) star(n int) (topology, error) {
	return b.starOf("star", vxcan(fmt.Sprintf("star%d", n)), n)
}

func (b *bench) listed(n int) (topology, error) {
	ids := make([]string, n)
	for i := range ids {
		ids[i] = fmt.Sprintf("%03X", (0x100+2*(i/2))&0x7ff) // the first is what frames have
		if i%2 == 1 {
			ids[i] = fmt.Sprintf("%08X", 0x18fef100+2*i)
		}
	}
	p, list := vxcan(fmt.Sprintf("listed%d", n)), strings.Join(ids, ",")
	p.conf = strings.TrimSuffix(p.conf, "}") + fmt.Sprintf(`,"send":%q,"receive":%q}`, list, list)
	return b.starOf(fmt.Sprintf("star, lists of %d", n), p, 2)
}

func (b *bench) starOf(name string, p plugin, n int) (topology, error) {
	return stations(name, n, func() (string, error) {
		id, err := b.netns()
		if err == nil {
			_, err = b.stay(p, attachment{id, "can0"})
		}
		return id, err
	})
}

func (b *bench) meshOf(n int) (topology, error) {
	hub := fmt.Sprintf("mesh%d", n)
	if err := b.mesh(hub, 0); err != nil {
		return topology{}, err
	}
	return stations("mesh", n, func() (string, error) { return b.meshMember(hub) })
}

func (b *bench) bare() (topology, error) {
	one, err := b.netns()
	if err != nil {
		return topology{}, err
	}
	two, err := b.netns()
	if err != nil {
		return topology{}, err
	}
	err = run("ip", "-netns", one, "link", "add", "can0", "mtu", "72", "up", "type", "vxcan", "peer", "name", "can0", "mtu", "72", "netns", two)
	if err == nil {
		err = run("ip", "-netns", two, "link", "set", "can0", "up")
	}
	if err != nil {
		return topology{}, err
	}
	ids := []string{one, two}
	return stations("bare pair", 2, func() (string, error) {
		id := ids[0]
		ids = ids[1:]
		return id, nil
	})
}

func stations(name string, n int, attach func() (id string, err error)) (topology, error) {
	t := topology{name: name}
	for range n {
		id, err := attach()
		if err != nil {
			return t, fmt.Errorf("%s: %w", name, err)
		}
		t.stations = append(t.stations, station{netnsPath(id), "can0"})
	}
	return t, nil
}

// oneDevice is n programs on one vcan, each with a socket: nobody can do better.
func (b *bench) oneDevice(n int) (topology, error) {
	id, err := b.netns()
	if err == nil {
		err = run("ip", "-netns", id, "link", "add", "can0", "mtu", "72", "up", "type", "vcan")
	}
	if err != nil {
		return topology{}, err
	}
	return stations("one vcan", n, func() (string, error) { return id, nil })
}

// frameSize is that of struct can_frame, linux/can.h.
const frameSize = 16

// frame is a classic frame: the sender in its ID, a number in its data.
func frame(sender, number uint32) (b [frameSize]byte) {
	binary.NativeEndian.PutUint32(b[0:4], 0x100+sender)
	b[4] = 8
	binary.NativeEndian.PutUint32(b[8:12], number)
	return b
}

func (s station) open() (fd int, err error) {
	err = in(s.netnsPath, func() error {
		fd, err = unix.Socket(unix.AF_CAN, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.CAN_RAW)
		if err != nil {
			return err
		}
		iface, err := net.InterfaceByName(s.ifName)
		if err != nil {
			return err
		}
		return errors.Join(
			growReceiveQueue(fd),
			unix.Bind(fd, &unix.SockaddrCAN{Ifindex: iface.Index}))
	})
	return fd, err
}

// growReceiveQueue makes the receive queue of a socket longer. In a user namespace net.core.rmem_max is the most.
func growReceiveQueue(fd int) error {
	const size = 128 << 20
	err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, size)
	if errors.Is(err, unix.EPERM) {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, size)
	}
	return err
}

// drain reads frames until none has come for a while.
func drain(fd int, quiet time.Duration, each func(frame []byte)) (n int, err error) {
	tv := unix.NsecToTimeval(quiet.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
		return 0, err
	}
	batch := newBatch()
	for {
		got, err := batch.receive(fd)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return n, nil
		case err != nil && !errors.Is(err, unix.EINTR):
			return n, err
		}
		for i := range got {
			each(batch.frames[i][:])
		}
		n += got
	}
}

// batch is many frames that one system call takes from a socket, or sends: it costs more than a frame.
type batch struct {
	headers [64]struct { // struct mmsghdr, recvmmsg(2)
		unix.Msghdr
		length uint32
	}
	vectors [64]unix.Iovec
	frames  [64][frameSize]byte
}

func newBatch() *batch {
	b := new(batch)
	for i := range b.headers {
		b.vectors[i].Base = &b.frames[i][0]
		b.vectors[i].SetLen(frameSize)
		b.headers[i].Iov = &b.vectors[i]
		b.headers[i].SetIovlen(1)
	}
	return b
}

// receive waits for a frame and takes as many as there are.
func (b *batch) receive(fd int) (n int, err error) {
	return b.call(unix.SYS_RECVMMSG, fd, len(b.headers), unix.MSG_WAITFORONE)
}

// send sends the first n frames.
func (b *batch) send(fd, n int) error {
	sent, err := b.call(unix.SYS_SENDMMSG, fd, n, 0)
	if err == nil && sent < n {
		err = fmt.Errorf("only %d of %d frames were sent", sent, n)
	}
	return err
}

func (b *batch) call(number uintptr, fd, n, flags int) (done int, err error) {
	got, _, errno := unix.Syscall6(number, uintptr(fd), uintptr(unsafe.Pointer(&b.headers)), uintptr(n), uintptr(flags), 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(got), nil
}
