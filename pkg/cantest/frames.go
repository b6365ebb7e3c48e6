package cantest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"
	"golang.org/x/sys/unix"
)

// Frame is a CAN frame (struct can_frame and struct canfd_frame, linux/can.h).
type Frame struct {
	ID   uint32 // with unix.CAN_EFF_FLAG for an extended one
	FD   bool
	Data string // up to 8 bytes, or 64 in an FD frame
}

func (f Frame) marshal() []byte {
	b := make([]byte, 16)
	if f.FD {
		b = make([]byte, 72)
	}
	binary.NativeEndian.PutUint32(b[0:4], f.ID)
	b[4] = byte(len(f.Data))
	copy(b[8:], f.Data)
	return b
}

func unmarshalFrame(b []byte) (Frame, error) {
	if len(b) != 16 && len(b) != 72 {
		return Frame{}, fmt.Errorf("frame of %d bytes", len(b))
	}
	f := Frame{ID: binary.NativeEndian.Uint32(b[0:4]), FD: len(b) == 72}
	if size := int(b[4]); size <= len(b)-8 {
		f.Data = string(b[8 : 8+size])
	}
	return f, nil
}

// GrowReceiveQueue makes the receive queue of a socket as long as it can be, up to size bytes.
func GrowReceiveQueue(fd, size int) error {
	err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, size)
	if errors.Is(err, unix.EPERM) { // in a user namespace: net.core.rmem_max is the most
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, size)
	}
	return err
}

// openCAN opens a raw CAN socket on an interface of a netns; nil is the current one.
func openCAN(netns ns.NetNS, ifName string) (fd int, err error) {
	open := func() error {
		fd, err = unix.Socket(unix.AF_CAN, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.CAN_RAW)
		if err != nil {
			return err
		}
		iface, err := net.InterfaceByName(ifName)
		if err != nil {
			return errors.Join(err, unix.Close(fd))
		}
		return errors.Join(
			unix.SetsockoptInt(fd, unix.SOL_CAN_RAW, unix.CAN_RAW_FD_FRAMES, 1),
			GrowReceiveQueue(fd, 256<<20),
			unix.Bind(fd, &unix.SockaddrCAN{Ifindex: iface.Index}),
		)
	}
	if netns == nil {
		err = open()
	} else {
		err = netns.Do(func(ns.NetNS) error { return open() })
	}
	if err != nil {
		return 0, fmt.Errorf("CAN socket on %s: %w", ifName, err)
	}
	return fd, nil
}

// Sender sends frames from one interface.
type Sender struct {
	fd    int
	Close func() // once or more often; the end of the test does it too
}

// NewSender opens a sender; nil is the current netns.
func NewSender(t testing.TB, netns ns.NetNS, ifName string) *Sender {
	t.Helper()
	fd, err := openCAN(netns, ifName)
	if err != nil {
		t.Fatal(err)
	}
	s := &Sender{fd, sync.OnceFunc(func() { unix.Close(fd) })}
	t.Cleanup(s.Close)
	return s
}

// Send sends one frame.
func (s *Sender) Send(f Frame) error {
	_, err := unix.Write(s.fd, f.marshal())
	return err
}

// SetPriority sets the priority of what the sender sends (SO_PRIORITY), by which a transmit queue may choose a class.
func (s *Sender) SetPriority(priority int) error {
	return unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_PRIORITY, priority)
}

// SendOnce sends one frame from an interface of the current netns.
func SendOnce(ifName string, f Frame) error {
	fd, err := openCAN(nil, ifName)
	if err != nil {
		return err
	}
	_, err = unix.Write(fd, f.marshal())
	return errors.Join(err, unix.Close(fd))
}

// Listener counts the frames that an interface hears.
type Listener struct {
	Close func() // once or more often; the end of the test does it too

	mu      sync.Mutex
	foreign map[Frame]int // from other CAN interfaces
	own     map[Frame]int // sent by a program on this one, heard by local echo
	inOrder []Frame       // foreign
	times   []time.Time   // of these
	total   int
}

// Listen starts listening; nil is the current netns.
func Listen(t testing.TB, netns ns.NetNS, ifName string) *Listener {
	t.Helper()
	fd, err := openCAN(netns, ifName)
	if err != nil {
		t.Fatal(err)
	}
	return listen(t, fd, ifName)
}

// ListenErrors is Listen for error frames of all classes, and nothing else.
func ListenErrors(t testing.TB, netns ns.NetNS, ifName string) *Listener {
	t.Helper()
	fd, err := openCAN(netns, ifName)
	if err == nil {
		err = errors.Join(
			unix.SetsockoptInt(fd, unix.SOL_CAN_RAW, unix.CAN_RAW_ERR_FILTER, unix.CAN_ERR_MASK),
			unix.SetsockoptCanRawFilter(fd, unix.SOL_CAN_RAW, unix.CAN_RAW_FILTER, nil),
		)
	}
	if err != nil {
		t.Fatal(err)
	}
	return listen(t, fd, ifName)
}

func listen(t testing.TB, fd int, ifName string) *Listener {
	t.Helper()
	// With Go's poller, closing ends a read.
	if err := unix.SetNonblock(fd, true); err != nil {
		t.Fatal(err)
	}
	socket := os.NewFile(uintptr(fd), ifName)
	conn, err := socket.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	l := &Listener{foreign: make(map[Frame]int), own: make(map[Frame]int)}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		l.run(t, conn)
	}()
	l.Close = sync.OnceFunc(func() {
		socket.Close()
		<-stopped
	})
	t.Cleanup(l.Close)
	return l
}

func (l *Listener) run(t testing.TB, conn syscall.RawConn) {
	buf := make([]byte, 128)
	for {
		var n, flags int
		var err error
		closed := conn.Read(func(fd uintptr) bool {
			n, _, flags, _, err = unix.Recvmsg(int(fd), buf, nil, 0)
			return !errors.Is(err, unix.EAGAIN)
		})
		if closed != nil {
			return
		} else if errors.Is(err, unix.EINTR) {
			continue
		} else if errors.Is(err, unix.ENETDOWN) || errors.Is(err, unix.ENODEV) {
			return // the interface went
		} else if err != nil {
			t.Errorf("listen: %v", err)
			return
		}
		f, err := unmarshalFrame(buf[:n])
		if err != nil {
			t.Error(err)
			return
		}
		l.hear(f, flags&unix.MSG_DONTROUTE != 0) // "created on the local host", net/can/raw.c
	}
}

func (l *Listener) hear(f Frame, own bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if own {
		l.own[f]++
	} else {
		l.foreign[f]++
		l.inOrder, l.times = append(l.inOrder, f), append(l.times, time.Now())
	}
	l.total++
}

// WaitQuiet waits until none of the listeners has heard anything for a while, which is longer while they have not heard
// as many frames in all as they should: a busy kernel may take its time over delivery.
func WaitQuiet(want int, listeners ...*Listener) {
	const look = 50 * time.Millisecond
	// Looks are counted, not time: a machine that stands still for a while has heard nothing, and has not listened.
	for last, quiet := -1, time.Duration(0); ; quiet += look {
		total := 0
		for _, l := range listeners {
			l.mu.Lock()
			total += l.total
			l.mu.Unlock()
		}
		enough := 5 * time.Second
		if total >= want {
			enough = 300 * time.Millisecond
		}
		if total != last {
			last, quiet = total, 0
		} else if quiet > enough {
			return
		}
		time.Sleep(look)
	}
}

// Heard returns how often each frame was heard from other interfaces, and by local echo.
func (l *Listener) Heard() (foreign, own map[Frame]int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	copyOf := func(m map[Frame]int) map[Frame]int {
		c := make(map[Frame]int, len(m))
		for f, n := range m {
			c[f] = n
		}
		return c
	}
	return copyOf(l.foreign), copyOf(l.own)
}

// InOrder returns the frames heard from other interfaces, each as often as it was heard, in the order of their arrival.
func (l *Listener) InOrder() []Frame {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.inOrder)
}

// Times are when each of InOrder was heard.
func (l *Listener) Times() []time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.times)
}

// Has reports whether a frame was heard from another interface.
func (l *Listener) Has(f Frame) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.foreign[f] > 0
}

// Total is how many frames were heard.
func (l *Listener) Total() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.total
}
