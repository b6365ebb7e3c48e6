// Package capture reads every frame of a bus together with the member that sent it, and puts nothing on the bus.
//
// All frames of a bus come out of the rx end of its backplane, and the mark of each is the ifindex of the device of its
// sender: filters in the host's netns set it, where no container can choose it (pkg/plan). A raw CAN socket on the rx end
// reads the mark with SO_RCVMARK, which needs Linux 6.0. A frame that a policy keeps back never gets there.
//
// Kernel: linux/can.h, linux/can/raw.h, net/can/raw.c, sock_recv_cmsgs of net/socket.c.
package capture

import (
	"context"
	"errors"
	"maps"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/config"
	"github.com/vxcan/vxcan/pkg/plan"
)

// ErrStop ends a capture without an error when a Handler returns it.
var ErrStop = errors.New("stop")

// Member is a sender of frames on a bus: the hub, for programs on the host and for the wire, the host end of an endpoint, or a
// trunk, for all members on another host.
type Member struct {
	Hub    string // name of the bus
	Index  int    // ifindex of the device
	Device string // name of the hub or the host end, "" for a device that was never seen
	Peer   string // of a trunk, the address of the other host
	// Attachment is that of the endpoint; it is zero for the hub and a trunk, and for a device whose alias does not tell it.
	config.Attachment
}

// IsHub reports whether the member is the hub itself.
func (m Member) IsHub() bool { return m.Device == m.Hub }

// IsEndpoint reports whether the member is an endpoint, or may be.
func (m Member) IsEndpoint() bool { return !m.IsHub() && m.Peer == "" }

// Frame is a frame of a bus.
type Frame struct {
	From  Member
	Time  time.Time // when the kernel handed it over, at the rx end of the backplane
	ID    uint32    // can_id of struct can_frame, with CAN_EFF_FLAG, CAN_RTR_FLAG and CAN_ERR_FLAG
	FD    bool
	Flags uint8 // of a CAN FD frame: BRS, ESI, FDF
	DLC   uint8 // len8_dlc of a classic frame: 9 to 15 where that was its DLC, else 0
	// Data is valid until the handler returns. A remote frame has as many zero bytes as it asks for.
	Data []byte
	// Lost counts frames of the bus that came before this one and were lost, because this program did not read in time.
	Lost uint32
}

// Flags of a CAN FD frame (linux/can.h).
const (
	BRS = 0x01 // CANFD_BRS: data at the second bit rate
	ESI = 0x02 // CANFD_ESI: its sender is error-passive
	FDF = 0x04 // CANFD_FDF: it is a CAN FD frame
)

// State is what a bus has of the devices that a capture depends on.
type State int

// States of a bus.
const (
	Whole            State = iota
	HubDown                // frames of endpoints are still read
	HubMissing             // the same
	BackplaneDown          // no frames
	BackplaneMissing       // the same
	Missing                // hub and backplane are missing
)

// Change is a member that came or went while a bus was captured, or, without a member, a new state of the bus.
type Change struct {
	Hub    string
	Member Member
	Gone   bool // the member
	State  State
}

// Handler takes what a capture reads. Run calls its methods one after the other. An error ends the capture.
type Handler interface {
	// Frame takes a frame. Those of one bus come in the order of the kernel.
	Frame(f *Frame) error
	// Change takes a change. A member that has come is told before its first frame.
	Change(c Change) error
	// Idle is called when no frame is waiting.
	Idle() error
}

// Filter selects frames in the kernel, as candump does.
type Filter struct {
	IDs    []unix.CanFilter // a frame that matches one of them is read; without any, every frame is
	All    bool             // a frame must match all of them
	Errors uint32           // classes of error frames that are read
}

// Bus names a bus, and the frames to read.
type Bus struct {
	Hub    string
	Filter Filter
}

// Capture reads frames of buses. It is not safe for concurrent use.
type Capture struct {
	watch *watch
	taps  []*tap
	rest  *Filter // for all other buses, those that come later too; nil for none
	frame Frame
}

// Open starts the capture of buses of this host. With rest it captures all others, too, and those that come later. A bus
// that is missing is no error. Frames are kept in the kernel until Run reads them.
func Open(buses []Bus, rest *Filter) (_ *Capture, retErr error) {
	w, err := newWatch()
	if err != nil {
		return nil, err
	}
	c := &Capture{watch: w, rest: rest}
	defer func() {
		if retErr != nil {
			retErr = errors.Join(retErr, c.Close())
		}
	}()
	for _, b := range buses {
		c.taps = append(c.taps, newTap(b))
	}
	return c, c.follow(nil)
}

// Close ends the capture.
func (c *Capture) Close() error {
	c.watch.events.Close()
	var errs []error
	for _, t := range c.taps {
		errs = append(errs, t.close())
	}
	return errors.Join(errs...)
}

// Hubs names the buses that are or were captured.
func (c *Capture) Hubs() (names []string) {
	for _, t := range c.taps {
		names = append(names, t.Hub)
	}
	return names
}

// Members returns the members of a bus.
func (c *Capture) Members(hub string) []Member {
	members := c.watch.members(hub)
	slices.SortFunc(members, func(a, b Member) int { return a.Index - b.Index })
	return members
}

// Lost counts the frames of a bus that were lost, because this program did not read in time.
func (c *Capture) Lost(hub string) (frames uint64, err error) {
	for _, t := range c.taps {
		if t.Hub == hub {
			return t.total()
		}
	}
	return 0, nil
}

// Run hands frames and changes to h until ctx ends, which is no error, and then those frames that came before that. It
// tells of buses that are not whole from the start, too.
func (c *Capture) Run(ctx context.Context, h Handler) (retErr error) {
	ended, end, err := os.Pipe()
	if err != nil {
		return err
	}
	defer func() {
		if retErr = errors.Join(retErr, ended.Close()); errors.Is(retErr, ErrStop) {
			retErr = nil
		}
	}()
	defer context.AfterFunc(ctx, func() { end.Close() })()
	defer end.Close() // twice is no harm
	for idle := false; ctx.Err() == nil; {
		wait, err := c.tellStates(h)
		if err != nil {
			return err
		}
		if !idle {
			wait = 0
		}
		ready, err := c.poll(int(ended.Fd()), wait)
		switch {
		case err != nil:
			return err
		case ready == 0:
			idle = true
			err = h.Idle()
		default:
			idle = false
			err = c.read(h, time.Time{})
		}
		if err != nil {
			return err
		}
	}
	return errors.Join(c.read(h, time.Now()), h.Idle())
}

// settle is how long a state must last to be told: a device that is deleted is down first, and a repair is several steps.
const settle = 200 * time.Millisecond

// tellStates tells the states of buses that have lasted. wait is how long the next one may take, in milliseconds, or -1.
func (c *Capture) tellStates(h Handler) (wait int, err error) {
	wait = -1
	for _, t := range c.taps {
		switch {
		case t.state == t.told:
		case time.Since(t.since) < settle:
			wait = int(settle / time.Millisecond)
		default:
			t.told = t.state
			if err := h.Change(Change{Hub: t.Hub, State: t.state}); err != nil {
				return 0, err
			}
		}
	}
	return wait, nil
}

// poll waits for something to read, for some milliseconds, or with -1 for as long as it takes.
func (c *Capture) poll(ended, wait int) (ready int, err error) {
	fds := []unix.PollFd{{Fd: int32(ended), Events: unix.POLLIN}, {Fd: int32(c.watch.events.GetFd()), Events: unix.POLLIN}}
	for _, t := range c.taps {
		if t.index != t.want { // read takes what is left of the old rx end
			return 1, nil
		}
		if t.fd >= 0 {
			fds = append(fds, unix.PollFd{Fd: int32(t.fd), Events: unix.POLLIN})
		}
	}
	ready, err = unix.Poll(fds, wait)
	if errors.Is(err, unix.EINTR) { // by a signal, as after a stop of the process
		return 1, nil
	}
	return ready, err
}

// turn is how many frames of one bus are read before it is the turn of the next one.
const turn = 256

// read reads what is there: changes, and then of each bus a turn of frames, or with until, all that came before.
func (c *Capture) read(h Handler, until time.Time) error {
	if err := c.changes(h); err != nil {
		return err
	}
	f := &c.frame
	for _, t := range c.taps {
		for n := 0; t.fd >= 0 && (n < turn || !until.IsZero()); n++ {
			mark, ok, err := t.read(f)
			if err != nil {
				return err
			}
			if !ok {
				if err := t.reopen(); err != nil {
					return err
				}
				break
			}
			if !until.IsZero() && f.Time.After(until) {
				break
			}
			if f.From, ok = c.watch.sender(t.Hub, mark); !ok { // it has come since
				if err := c.changes(h); err != nil {
					return err
				}
				f.From = c.watch.senderOrDevice(t.Hub, mark)
			}
			if err := h.Frame(f); err != nil {
				return err
			}
		}
	}
	return nil
}

// changes reads what has happened to devices, and tells the handler what of that concerns buses.
func (c *Capture) changes(h Handler) error {
	changed, err := c.watch.read()
	if err != nil || !changed {
		return err
	}
	return c.follow(h.Change)
}

// follow makes the sockets those of the buses that there are. It calls tell, which may be nil, for each change.
func (c *Capture) follow(tell func(Change) error) error {
	if c.rest != nil {
		for _, hub := range (plan.View{Links: slices.Collect(maps.Values(c.watch.links))}).Buses() {
			if !slices.ContainsFunc(c.taps, func(t *tap) bool { return t.Hub == hub }) {
				c.taps = append(c.taps, newTap(Bus{hub, *c.rest}))
			}
		}
	}
	for _, t := range c.taps {
		changes, err := t.follow(c.watch)
		if err != nil {
			return err
		}
		for i := 0; tell != nil && i < len(changes); i++ {
			if err := tell(changes[i]); err != nil {
				return err
			}
		}
	}
	return nil
}
