package qemu

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"
	"golang.org/x/sys/unix"
)

// flood is the traffic of one bus: each member sends classic and FD frames by turns as fast as the kernel takes them, and
// counts the frames of the others.
type flood struct {
	mu          sync.Mutex
	members     []*floodMember // those that still send
	sent, heard uint64         // by those that do not any more
}

// floodMember sends and listens on one device. When the device goes, it goes on with the next one of that name.
type floodMember struct {
	name   string
	number int
	ifName string
	netns  ns.NetNS // nil is the host's

	sent    atomic.Uint64
	heard   [mostMembers][2]atomic.Uint64 // by the sender's number: classic and FD frames
	stopped atomic.Bool
	running sync.WaitGroup
}

const (
	mostMembers = 16 // of one flood, ever

	classicID, fdID     = 0x100, 0x200 // of member 0
	classicSize, fdSize = 16, 72       // struct can_frame and struct canfd_frame
)

// join starts a member.
func (f *flood) join(name string, netns ns.NetNS, ifName string, number int) *floodMember {
	m := &floodMember{name: name, number: number, ifName: ifName, netns: netns}
	for _, use := range []func(fd int) error{m.send, m.listen} {
		m.running.Add(1)
		go func() {
			defer m.running.Done()
			m.keepOpen(use)
		}()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.members = append(f.members, m)
	return m
}

// leave ends a member. Its sockets are closed then, so that they do not hold its network namespace.
func (f *flood) leave(m *floodMember) {
	m.stopped.Store(true)
	m.running.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.members = slices.DeleteFunc(f.members, func(other *floodMember) bool { return other == m })
	f.sent += m.sent.Load()
	for from := range m.heard {
		for kind := range m.heard[from] {
			f.heard += m.heard[from][kind].Load()
		}
	}
}

// keepOpen uses one socket after the other until the member is to stop.
//
// It gives way to everything else: a plugin that shares two emulated CPUs with some twenty busy threads takes ten times as
// long. While it waits for the kernel, and on the other CPU, frames flow as before.
func (m *floodMember) keepOpen(use func(fd int) error) {
	runtime.LockOSThread() // never unlocked: the thread ends with its goroutine, and its priority with it
	_ = unix.Setpriority(unix.PRIO_PROCESS, 0, 10)
	for !m.stopped.Load() {
		fd, err := m.open()
		if err == nil {
			err = errors.Join(use(fd), unix.Close(fd))
		}
		if err != nil { // there is no such device, or not any more
			time.Sleep(10 * time.Millisecond)
		}
	}
}

func (m *floodMember) open() (fd int, err error) {
	open := func(ns.NetNS) error {
		iface, err := net.InterfaceByName(m.ifName)
		if err != nil {
			return err
		}
		if fd, err = unix.Socket(unix.AF_CAN, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.CAN_RAW); err != nil {
			return err
		}
		wait := unix.Timeval{Usec: 100_000}
		if err := errors.Join(
			unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait),
			unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &wait),
			unix.SetsockoptInt(fd, unix.SOL_CAN_RAW, unix.CAN_RAW_FD_FRAMES, 1),
			unix.Bind(fd, &unix.SockaddrCAN{Ifindex: iface.Index}),
		); err != nil {
			return errors.Join(err, unix.Close(fd))
		}
		return nil
	}
	if m.netns == nil {
		return fd, open(nil)
	}
	return fd, m.netns.Do(open)
}

// passing reports whether a socket may go on after an error: nothing came for a while, or a queue is full.
func passing(err error) bool {
	return errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) || errors.Is(err, unix.ENOBUFS)
}

func (m *floodMember) send(fd int) error {
	classic, flexible := make([]byte, classicSize), make([]byte, fdSize)
	binary.NativeEndian.PutUint32(classic, classicID+uint32(m.number))
	binary.NativeEndian.PutUint32(flexible, fdID+uint32(m.number))
	classic[4], flexible[4] = 8, 64 // bytes of data
	for !m.stopped.Load() {
		for _, frame := range [][]byte{classic, flexible} {
			if _, err := unix.Write(fd, frame); err == nil {
				m.sent.Add(1)
			} else if !passing(err) {
				return err
			}
		}
	}
	return nil
}

func (m *floodMember) listen(fd int) error {
	frame := make([]byte, fdSize)
	for !m.stopped.Load() {
		n, err := unix.Read(fd, frame)
		if err != nil {
			if !passing(err) {
				return err
			}
			continue
		}
		kind, from := 0, binary.NativeEndian.Uint32(frame)-classicID
		if n == fdSize {
			kind, from = 1, binary.NativeEndian.Uint32(frame)-fdID
		}
		if from < mostMembers {
			m.heard[from][kind].Add(1)
		}
	}
	return nil
}

// stream is what one member hears of another one.
type stream struct {
	to, from string
	fd       bool
}

func (s stream) String() string {
	return fmt.Sprintf("%s hears too few %s frames of %s", s.to, map[bool]string{false: "classic", true: "FD"}[s.fd], s.from)
}

// counts returns the frames of each stream so far.
func (f *flood) counts() map[stream]uint64 {
	all := make(map[stream]uint64)
	for _, to := range f.members {
		for _, from := range f.members {
			if to != from {
				all[stream{to.name, from.name, false}] = to.heard[from.number][0].Load()
				all[stream{to.name, from.name, true}] = to.heard[from.number][1].Load()
			}
		}
	}
	return all
}

// silent returns the streams of now that have not grown by so many frames since before.
func silent(before, now map[stream]uint64, least uint64) (all []string) {
	for s, n := range now {
		if n < before[s]+least {
			all = append(all, s.String())
		}
	}
	slices.Sort(all)
	return all
}

// expectFlow waits until each member has heard more frames of each other one, of both kinds, and fails the test if that
// does not happen.
func (f *flood) expectFlow(t testing.TB, when string) {
	t.Helper()
	const least = 10
	before := f.counts()
	if len(before) == 0 {
		t.Fatalf("%s: nobody sends", when)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		quiet := silent(before, f.counts(), least)
		if len(quiet) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %d of %d streams do not flow: %q", when, len(quiet), len(before), quiet)
		}
	}
}

// TestSilent: a stream with too few frames is found, also one that is new, and also when all are silent.
func TestSilent(t *testing.T) {
	classic, fd, late := stream{"a", "b", false}, stream{"a", "b", true}, stream{"b", "a", false}
	before := map[stream]uint64{classic: 100, fd: 100}
	for _, c := range []struct {
		now  map[stream]uint64
		want []string
	}{
		{map[stream]uint64{classic: 110, fd: 110, late: 10}, nil},
		{map[stream]uint64{classic: 109, fd: 110, late: 10}, []string{"a hears too few classic frames of b"}},
		{map[stream]uint64{classic: 110, fd: 100, late: 9}, []string{"a hears too few FD frames of b", "b hears too few classic frames of a"}},
		{before, []string{"a hears too few FD frames of b", "a hears too few classic frames of b"}},
	} {
		if got := silent(before, c.now, 10); !slices.Equal(got, c.want) {
			t.Errorf("%v: got %q, want %q", c.now, got, c.want)
		}
	}
}
