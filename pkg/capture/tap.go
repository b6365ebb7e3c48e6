package capture

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/canlink"
	"github.com/vxcan/vxcan/pkg/config"
	"github.com/vxcan/vxcan/pkg/rtnl"
)

// ErrNoSenders is a kernel that does not tell a reader the mark of a frame.
var ErrNoSenders = errors.New("this kernel does not tell the sender of a frame; Linux 6.0 and newer do (candump shows frames without it)")

// buffer is how many bytes of frames the kernel keeps for a slow reader; it doubles that, and counts about 1 KiB a frame.
// It uses no memory before it is needed.
const buffer = 16 << 20

// tap is the socket on one bus.
type tap struct {
	Bus
	rx      string // name of the rx end of the backplane
	fd      int    // -1 while there is none
	index   int    // ifindex that fd is bound to, 0 while there is none
	want    int    // ifindex of the rx end that is there now, 0 for none
	drops   uint32 // frames that fd has lost, as its last frame told
	lost    uint64 // frames that sockets before fd have lost
	state   State
	since   time.Time // of state
	told    State     // that the handler knows
	members []Member
	data    [canlink.FDMTU]byte
	control [256]byte
}

func newTap(b Bus) *tap {
	_, rx := config.BackplaneNames(b.Hub)
	return &tap{Bus: b, rx: rx, fd: -1, state: Missing}
}

// Probe returns why this kernel or this user cannot capture frames, or nil.
func Probe() error {
	fd, err := socket()
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

// socket opens a raw CAN socket that tells marks.
func socket() (fd int, err error) {
	fd, err = unix.Socket(unix.AF_CAN, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.CAN_RAW)
	if err != nil {
		return -1, explain("open a CAN socket", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVMARK, 1); err != nil {
		return -1, errors.Join(explain("ask a CAN socket for marks", err), unix.Close(fd))
	}
	return fd, nil
}

// explain adds the cause where the kernel is at fault.
func explain(step string, err error) error {
	switch {
	case errors.Is(err, unix.ENOPROTOOPT):
		return fmt.Errorf("%s: %w: %w", step, err, ErrNoSenders)
	case errors.Is(err, unix.EAFNOSUPPORT), errors.Is(err, unix.EPROTONOSUPPORT):
		return fmt.Errorf("%s: %w: this kernel lacks CAN (CONFIG_CAN, CONFIG_CAN_RAW)", step, err)
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%s: %w: CAP_NET_RAW or CAP_NET_ADMIN is needed; run it as root", step, err)
	}
	return fmt.Errorf("%s: %w", step, err)
}

// open opens the socket on a device, the rx end of the backplane.
func (t *tap) open(index int) (retErr error) {
	fd, err := socket()
	if err != nil {
		return err
	}
	defer func() {
		if retErr != nil {
			retErr = errors.Join(fmt.Errorf("capture bus %s: %w", t.Hub, retErr), unix.Close(fd))
		}
	}()
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS_NEW, 1),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RXQ_OVFL, 1),
		rtnl.GrowReceiveQueue(fd, buffer),
		unix.SetsockoptInt(fd, unix.SOL_CAN_RAW, unix.CAN_RAW_FD_FRAMES, 1),
		unix.SetsockoptInt(fd, unix.SOL_CAN_RAW, unix.CAN_RAW_ERR_FILTER, int(t.Filter.Errors)),
	)
	if err == nil && len(t.Filter.IDs) > 0 {
		err = unix.SetsockoptCanRawFilter(fd, unix.SOL_CAN_RAW, unix.CAN_RAW_FILTER, t.Filter.IDs)
	}
	if err == nil && t.Filter.All {
		err = unix.SetsockoptInt(fd, unix.SOL_CAN_RAW, unix.CAN_RAW_JOIN_FILTERS, 1)
	}
	if err != nil {
		return err
	}
	err = unix.Bind(fd, &unix.SockaddrCAN{Ifindex: index})
	if errors.Is(err, unix.ENODEV) { // gone again, which the next change tells
		return unix.Close(fd)
	}
	if err != nil {
		return err
	}
	t.fd, t.index, t.drops = fd, index, 0
	return nil
}

// close closes the socket, and remembers what it has lost.
func (t *tap) close() error {
	if t.fd < 0 {
		return nil
	}
	lost, err := t.total()
	err = errors.Join(err, unix.Close(t.fd))
	t.fd, t.index, t.lost = -1, 0, lost
	return err
}

// total counts what all sockets of the bus have lost.
func (t *tap) total() (uint64, error) {
	if t.fd < 0 {
		return t.lost, nil
	}
	drops, err := drops(t.fd)
	return t.lost + uint64(drops), err
}

// drops counts the frames that a socket has lost. SO_RXQ_OVFL alone is not enough: a frame tells what was lost before it
// was queued, so that after the queue was full, all is known only with the next frame after the gap.
func drops(fd int) (uint32, error) {
	var info [unix.SK_MEMINFO_VARS]uint32
	size := uint32(unsafe.Sizeof(info))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_MEMINFO,
		uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0) // x/sys has no call for a list of numbers
	if errno != 0 {
		return 0, fmt.Errorf("ask a CAN socket what it lost: %w", errno)
	}
	return info[unix.SK_MEMINFO_DROPS], nil
}

// read reads the next frame into f, all but its sender, which its mark tells. ok is false if none is waiting.
func (t *tap) read(f *Frame) (mark uint32, ok bool, err error) {
	for {
		n, controlled, flags, _, err := unix.Recvmsg(t.fd, t.data[:], t.control[:], 0)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return 0, false, nil
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.ENETDOWN), errors.Is(err, unix.ENODEV):
			continue // told once, of a device that went; the frames before it are still there
		case err != nil:
			return 0, false, fmt.Errorf("read bus %s: %w", t.Hub, err)
		case flags&unix.MSG_DONTROUTE != 0: // a program has sent it on the rx end: it gets to nobody (net/can/raw.c)
			continue
		}
		if err := f.parse(t.data[:n]); err != nil {
			return 0, false, fmt.Errorf("read bus %s: %w", t.Hub, err)
		}
		mark, drops, err := f.parseControl(t.control[:controlled])
		if err != nil {
			return 0, false, fmt.Errorf("read bus %s: %w", t.Hub, err)
		}
		f.Lost = 0
		if drops != 0 { // the kernel does not tell 0
			f.Lost, t.drops = drops-t.drops, drops
		}
		return mark, true, nil
	}
}

// parse reads struct can_frame and struct canfd_frame of linux/can.h, which the sizes tell apart.
func (f *Frame) parse(b []byte) error {
	if len(b) != canlink.ClassicMTU && len(b) != canlink.FDMTU {
		return fmt.Errorf("frame of %d bytes, want %d or %d", len(b), canlink.ClassicMTU, canlink.FDMTU)
	}
	size := min(int(b[4]), len(b)-8)
	f.ID, f.FD, f.Flags, f.DLC, f.Data = binary.NativeEndian.Uint32(b), len(b) == canlink.FDMTU, 0, 0, b[8:8+size]
	if f.FD {
		f.Flags = b[5]
	} else {
		f.DLC = b[7]
	}
	return nil
}

// parseControl reads control messages: the time, the mark, and how many frames the socket has lost so far, 0 if they do not say.
func (f *Frame) parseControl(b []byte) (mark, drops uint32, err error) {
	messages, err := unix.ParseSocketControlMessage(b)
	if err != nil {
		return 0, 0, err
	}
	for _, m := range messages {
		want := 4
		if m.Header.Type == unix.SO_TIMESTAMPNS_NEW {
			want = 16
		}
		switch {
		case m.Header.Level != unix.SOL_SOCKET:
		case len(m.Data) < want:
			return 0, 0, fmt.Errorf("control message %d: %d bytes, want %d", m.Header.Type, len(m.Data), want)
		case m.Header.Type == unix.SO_TIMESTAMPNS_NEW: // struct __kernel_timespec
			f.Time = time.Unix(int64(binary.NativeEndian.Uint64(m.Data)), int64(binary.NativeEndian.Uint64(m.Data[8:])))
		case m.Header.Type == unix.SO_MARK:
			mark = binary.NativeEndian.Uint32(m.Data)
		case m.Header.Type == unix.SO_RXQ_OVFL:
			drops = binary.NativeEndian.Uint32(m.Data)
		}
	}
	return mark, drops, nil
}

// reopen makes the socket that of the rx end that is there now. Before, all frames of the old one must have been read.
func (t *tap) reopen() error {
	if t.index == t.want {
		return nil
	}
	if err := t.close(); err != nil || t.want == 0 {
		return err
	}
	return t.open(t.want)
}

// follow looks at the devices of the bus, and returns which members have come or gone.
func (t *tap) follow(w *watch) (changes []Change, err error) {
	rx := w.named(t.rx)
	t.want = rx.Index
	if t.fd < 0 {
		if err := t.reopen(); err != nil {
			return nil, err
		}
	}
	members := w.members(t.Hub)
	missing := func(of, in []Member, gone bool) {
		for _, m := range of {
			// One of the same name is the same, as after a repair.
			if !m.IsHub() && !slices.ContainsFunc(in, func(other Member) bool { return other.Device == m.Device }) {
				changes = append(changes, Change{Hub: t.Hub, Member: m, Gone: gone})
			}
		}
	}
	missing(members, t.members, false)
	missing(t.members, members, true)
	t.members = members
	if now := t.stateOf(w.named(t.Hub), rx); now != t.state {
		t.state, t.since = now, time.Now()
	}
	return changes, nil
}

func (t *tap) stateOf(hub, rx canlink.Link) State {
	switch {
	case rx.Index == 0 && hub.Index == 0:
		return Missing
	case rx.Index == 0:
		return BackplaneMissing
	case !rx.Up:
		return BackplaneDown
	case hub.Index == 0:
		return HubMissing
	case !hub.Up:
		return HubDown
	}
	return Whole
}
