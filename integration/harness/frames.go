package harness

import (
	"fmt"
	"sync"
	"testing"

	"github.com/containernetworking/plugins/pkg/ns"
	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/cantest"
)

// Station is where frames are sent and heard.
type Station struct {
	Name   string
	Netns  ns.NetNS // nil is the host's
	IfName string
}

// Host is where a program on the host sends and hears: the hub.
func Host(hub string) Station { return Station{"host", nil, hub} }

// Frames are what the station with this number sends: numbered classic, extended and, if fd, FD frames.
func Frames(number, count int, fd bool) []cantest.Frame {
	var all []cantest.Frame
	for i := range count {
		data := fmt.Sprintf("%02x%06x", number, i)
		all = append(all,
			cantest.Frame{ID: 0x100 + uint32(number), Data: data},
			cantest.Frame{ID: (0x10000 + uint32(number)) | unix.CAN_EFF_FLAG, Data: data})
		if fd {
			all = append(all, cantest.Frame{ID: 0x200 + uint32(number), FD: true, Data: data + "0123456789ab"})
		}
	}
	return all
}

// Party is a station with what it hears and how it sends.
type Party struct {
	Name     string
	Listener *cantest.Listener
	Send     func(cantest.Frame) error
	Echo     bool // hears its own frames as its own
}

// Party opens the station's sockets.
func (s Station) Party(t *testing.T) Party {
	t.Helper()
	sender := cantest.NewSender(t, s.Netns, s.IfName)
	return Party{s.Name, cantest.Listen(t, s.Netns, s.IfName), sender.Send, true}
}

// ExpectExactlyOnce lets every station send and fails the test unless everybody hears everything exactly once.
func ExpectExactlyOnce(t *testing.T, stations []Station, count int, fd bool) {
	t.Helper()
	var all []Party
	for _, s := range stations {
		all = append(all, s.Party(t))
	}
	Exchange(t, all, count, fd)
}

// Exchange is ExpectExactlyOnce for parties, which it closes the listeners of.
func Exchange(t *testing.T, parties []Party, count int, fd bool) {
	t.Helper()
	var listeners []*cantest.Listener
	var senders sync.WaitGroup
	want := 0
	for i, p := range parties {
		defer p.Listener.Close()
		listeners = append(listeners, p.Listener)
		want += len(parties) * len(Frames(i, count, fd))
		if !p.Echo {
			want -= len(Frames(i, count, fd))
		}
	}
	for i, p := range parties {
		senders.Add(1)
		go func() {
			defer senders.Done()
			for _, f := range Frames(i, count, fd) {
				if err := p.Send(f); err != nil {
					t.Errorf("%s: send: %v", p.Name, err)
					return
				}
			}
		}()
	}
	senders.Wait()
	cantest.WaitQuiet(want, listeners...)
	heard := 0
	for i, l := range listeners {
		foreign, own := l.Heard()
		for j, from := range parties {
			lost, doubled := 0, 0
			for _, f := range Frames(j, count, fd) {
				n := foreign[f]
				if i == j {
					if n != 0 {
						t.Fatalf("%s hears its own frame %v as a foreign one", from.Name, f)
					}
					if !from.Echo {
						continue
					}
					n = own[f]
				}
				heard += n
				delete(foreign, f)
				switch {
				case n == 0:
					lost++
				case n > 1:
					doubled++
				}
			}
			if lost+doubled > 0 {
				t.Errorf("%s from %s: %d frames lost, %d doubled", parties[i].Name, from.Name, lost, doubled)
			}
		}
		if len(foreign) > 0 {
			t.Errorf("%s hears %d frames that nobody sent", parties[i].Name, len(foreign))
		}
	}
	t.Logf("%d stations, %d frames sent, %d heard", len(parties), len(parties)*len(Frames(0, count, fd)), heard)
}
