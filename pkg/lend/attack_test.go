package lend

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/bus"
	"github.com/vxcan/vxcan/pkg/cantest"
	"github.com/vxcan/vxcan/pkg/config"
)

// as carries a request of a user out, with a network namespace of his, as Serve does, but for many at once.
func (l *lender) as(uid uint32, r request, netns string) (granted bool, retErr error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false, err
	}
	defer unix.Close(fds[0])
	end := os.NewFile(uintptr(fds[1]), "")
	conn, err := net.FileConn(end)
	if retErr = errors.Join(err, end.Close()); retErr != nil {
		return false, retErr
	}
	defer conn.Close()
	given, err := os.Open(netns)
	if err != nil {
		return false, err
	}
	defer given.Close()
	if err := unix.Sendmsg(fds[0], []byte("{}"), unix.UnixRights(int(given.Fd())), nil, 0); err != nil {
		return false, err
	}
	err = l.do(context.Background(), uid, r, conn.(*net.UnixConn), func(answer) error { granted = true; return nil })
	return granted && err == nil, nil
}

// TestLendRaces: a user who asks for much at once has no more than his consent allows, nothing once it is revoked, and touches no
// bus that is not lent to him.
func TestLendRaces(t *testing.T) {
	l := newLender(t)
	alice := newBorrower(t, l.socket, 1000, "/dev/null")
	atOnce := func(many int, meanwhile func()) (granted int) {
		var group sync.WaitGroup
		var mu sync.Mutex
		for i := range many {
			group.Add(1)
			go func() {
				defer group.Done()
				ok, err := l.as(1000, newRequest(attach, fmt.Sprint("c", i)), alice.netns)
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					t.Error(err)
				}
				if ok {
					granted++
				}
			}()
		}
		meanwhile()
		group.Wait()
		return granted
	}
	lend := func(lines ...string) {
		if err := l.Consents.Write("vcan0", 1000, lines...); err != nil {
			t.Fatal(err)
		}
	}
	away := func(many int) {
		for i := range many {
			alice.request(detach, fmt.Sprint("c", i))
		}
		if there := l.endpoints(t); there != nil {
			t.Errorf("left: %q", there)
		}
	}

	lend("limit=2")
	if granted := atOnce(20, func() {}); granted != 2 || len(l.endpoints(t)) != 2 {
		t.Errorf("limit=2: %d granted, there %q", granted, l.endpoints(t))
	}
	away(20)

	tries := 5
	if cantest.IsThorough() {
		tries = 60
	}
	for i := range tries {
		lend()
		granted := atOnce(3, func() {
			time.Sleep(time.Duration(i) * 60 * time.Millisecond / time.Duration(tries))
			if err := l.Consents.Remove("vcan0", 1000); err != nil {
				t.Error(err)
			}
			all, err := l.Host.Status(context.Background(), "vcan0") // as vxcanctl lend --revoke does
			if err != nil && !errors.Is(err, bus.ErrNoBus) {
				t.Error(err)
			}
			for _, b := range all {
				for _, e := range b.Endpoints {
					if err := l.Host.Detach(context.Background(), "vcan0", e.Attachment); err != nil {
						t.Error(err)
					}
				}
			}
		})
		if there := l.endpoints(t); there != nil {
			t.Errorf("revoked, %d granted before, and there: %q", granted, there)
		}
	}

	// What is detached by the names of another bus and of another interface goes from its own bus, and the other one stays as it
	// is.
	lend()
	foreign := bus.Request{
		Attachment: config.Attachment{Runtime: "cni", Network: "canbus7", ContainerID: "root", IfName: "eth0"},
		Hub:        config.Hub{Name: "vcan7"}, Place: bus.Place{NetnsPath: alice.netns, Interface: "can7"},
	}
	if _, err := l.Host.Attach(context.Background(), nil, foreign); err != nil {
		t.Fatal(err)
	}
	defer func() {
		err := l.Host.Detach(context.Background(), "vcan7", foreign.Attachment)
		if err = errors.Join(err, l.Host.Remove(context.Background(), "vcan7")); err != nil {
			t.Error(err)
		}
	}()
	alice.request(attach, "c0")
	elsewhere := newRequest(detach, "c0")
	elsewhere.Hub, elsewhere.Entry = "vcan7", "can7"
	if a := alice.ask(order{Packet: packet(t, elsewhere)}); a.Error != "" || l.endpoints(t) != nil {
		t.Errorf("detached by the name of another bus: %+v, there %q", a, l.endpoints(t))
	}
	if left, err := filepath.Glob(l.Host.StateDir + "/*/vcan0.json"); err != nil || len(left) > 0 {
		t.Errorf("detached by the name of another bus: %q, %v", left, err)
	}
	if all, err := l.Host.Status(context.Background(), "vcan7"); err != nil || len(all[0].Endpoints) != 1 {
		t.Errorf("the other bus: %+v, %v", all, err)
	}
}
