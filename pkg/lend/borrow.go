package lend

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/bus"
	"github.com/vxcan/vxcan/pkg/config"
)

// Buses are what a front end needs of bus.Host, and a Borrower has as well.
type Buses interface {
	Attach(ctx context.Context, deliver func([]bus.Result) error, requests ...bus.Request) ([]bus.Result, error)
	Check(ctx context.Context, r bus.Request, contIfs []string) error
	Detach(ctx context.Context, hub string, a config.Attachment) error
	Ready() error
}

// Of returns the buses of a network: the host's, or a Borrower if the bus is lent.
func Of(n config.Network, host *bus.Host) Buses {
	if n.Lent {
		return Borrower{}
	}
	return host
}

// Detach takes an attachment off its bus, which may be one of the host or a lent one, whatever its network says by now.
func Detach(ctx context.Context, n config.Network, host *bus.Host, hub string, a config.Attachment) error {
	err := Of(n, host).Detach(ctx, hub, a)
	_, noSocket := os.Stat(Socket)
	if os.Geteuid() == 0 && (n.Lent || noSocket == nil && bus.IsRootless()) {
		n.Lent = !n.Lent
		short, cancel := context.WithTimeout(ctx, 3*time.Second) // it rarely has anything, and must not hold up a teardown
		defer cancel()
		if other := Of(n, host).Detach(short, hub, a); short.Err() == nil {
			err = errors.Join(err, other)
		}
	}
	return err
}

// Borrower does for a user's containers what bus.Host does for those of root, on buses that are lent.
type Borrower struct {
	// Socket is "" for the one of this host.
	Socket string
}

// Attach is bus.Host.Attach for one request. Of the hub it takes the name alone.
func (b Borrower) Attach(ctx context.Context, deliver func([]bus.Result) error, requests ...bus.Request) ([]bus.Result, error) {
	if len(requests) != 1 {
		return nil, fmt.Errorf("%w: %d interfaces at once on lent buses, want one", config.ErrInvalid, len(requests))
	}
	r := requests[0]
	a, err := b.ask(ctx, attach, r, nil)
	if err != nil {
		return nil, err
	}
	if deliver != nil {
		err := deliver(a.Results)
		if err != nil && a.Results[0].Made { // else it was a container's before
			err = errors.Join(err, b.Detach(ctx, r.Hub.Name, r.Attachment))
		}
		if err != nil {
			return nil, err
		}
	}
	return a.Results, nil
}

// Detach is bus.Host.Detach. It needs no consent. Where nobody lends, it leaves the interface to end with its network namespace.
func (b Borrower) Detach(ctx context.Context, hub string, a config.Attachment) error {
	if config.CheckHub(hub) != nil { // it was edited since
		hub = ""
	}
	_, err := b.ask(ctx, detach, bus.Request{Attachment: a, Hub: config.Hub{Name: hub}}, nil)
	if errors.Is(err, errNobody) || errors.Is(err, config.ErrInvalid) { // of what could never be attached, nothing is there
		return nil
	}
	return err
}

// Check is bus.Host.Check, with the policy of the consent.
func (b Borrower) Check(ctx context.Context, r bus.Request, contIfs []string) error {
	a, err := b.ask(ctx, check, r, contIfs)
	if err == nil && len(a.Damage) > 0 {
		err = bus.Damage(a.Damage)
	}
	return err
}

// Ready reports whether somebody lends on this host.
func (b Borrower) Ready() error {
	conn, err := b.dial()
	if err != nil {
		return err
	}
	return conn.Close()
}

// errNobody is a host where nobody listens, or not to this user.
var errNobody = errors.New("no bus is lent on this host")

func (b Borrower) dial() (*net.UnixConn, error) {
	path := cmp.Or(b.Socket, Socket)
	conn, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: path, Net: "unixpacket"})
	switch {
	case errors.Is(err, unix.EACCES):
		return nil, fmt.Errorf("%w to user %d: sudo vxcanctl lend HUB --user %[2]d", errNobody, ownUser())
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ECONNREFUSED):
		return nil, fmt.Errorf("%w: nobody listens at %s: sudo vxcanctl lend HUB --user %d, and sudo systemctl enable --now vxcan-lend.socket", errNobody, path, ownUser())
	}
	return conn, err
}

// ask sends a request and waits for its answer. Systemd closes connections when too many are open; then it asks again for a
// while, which is always safe.
func (b Borrower) ask(ctx context.Context, v verb, r bus.Request, contIfs []string) (answer, error) {
	packet, err := json.Marshal(request{
		Verb: v, Hub: r.Hub.Name, Network: r.Network, ContainerID: r.ContainerID, IfName: r.IfName, Entry: r.Entry,
		Name: r.Endpoint.Name, Interface: r.Place.Interface, ContIfs: contIfs,
	})
	if err != nil {
		return answer{}, err
	}
	var rights []byte
	if v != detach {
		netns, err := os.Open(r.Place.NetnsPath)
		if err != nil {
			return answer{}, fmt.Errorf("%w: %w", bus.ErrInvalidNetns, err)
		}
		defer netns.Close()
		rights = unix.UnixRights(int(netns.Fd()))
	}
	const persistence = 20 * time.Second
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(2 * bus.DefaultLockTimeout)
	}
	start := time.Now()
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		a, err := b.askOnce(packet, rights, deadline)
		again := errors.Is(err, io.EOF) || errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EAGAIN)
		if again && ctx.Err() == nil && time.Since(start) < persistence {
			time.Sleep(wait)
			continue
		}
		if again {
			err = fmt.Errorf("%w; journalctl -u vxcan-lend.socket -u 'vxcan-lend@*' says why", err)
		}
		if err == nil && v == attach && len(a.Results) != 1 {
			err = fmt.Errorf("the lender of bus %s returned %d interfaces, want one", r.Hub.Name, len(a.Results))
		}
		return a, err
	}
}

func (b Borrower) askOnce(packet, rights []byte, deadline time.Time) (a answer, retErr error) {
	conn, err := b.dial()
	if err != nil {
		return a, err
	}
	defer func() { retErr = errors.Join(retErr, conn.Close()) }()
	if err := conn.SetDeadline(deadline); err != nil {
		return a, err
	}
	if _, _, err := conn.WriteMsgUnix(packet, rights, nil); err != nil {
		return a, fmt.Errorf("ask for a lent bus: %w", err)
	}
	reply := make([]byte, maxAnswer)
	n, err := conn.Read(reply)
	if err != nil {
		return a, fmt.Errorf("ask for a lent bus: no answer: %w", err)
	}
	if err := json.Unmarshal(reply[:n], &a); err != nil {
		return a, fmt.Errorf("answer of the lender: %w", err)
	}
	return a, a.err()
}

// ownUser is this process's user, as the host knows him: in a user namespace he is root.
func ownUser() int {
	var inside, outside int
	uidMap, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return os.Getuid()
	}
	if n, _ := fmt.Sscan(string(uidMap), &inside, &outside); n < 2 || inside != os.Getuid() {
		return os.Getuid()
	}
	return outside
}

// maxAnswer bounds an answer, in bytes.
const maxAnswer = 64 << 10
