package harness

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/cantest"
)

// Replugged is a controller that a test plugs and unplugs, and another node on its wire.
type Replugged struct {
	Name         string // of the device, once udev has named it
	Plug, Unplug func()
	Listen       func() *cantest.Listener // on the wire; those from before may hear nothing after a plug
	Send         func(cantest.Frame) error
	SetUp        string // arguments of `ip link set`, for an owner that sets it up
	Keys         string // of a network, for us to set it up
}

// isUp reports whether a device is there and up (IFF_UP, linux/if.h).
func isUp(name string) bool {
	text, _ := os.ReadFile("/sys/class/net/" + name + "/flags")
	flags, err := strconv.ParseUint(strings.TrimSpace(string(text)), 0, 32)
	return err == nil && flags&unix.IFF_UP != 0
}

// Replug: when a controller is plugged in again, udev and systemd have its bus repaired, and the controller set up as
// the containers' network says. Sockets that containers opened before hear the wire, and are heard there, although no
// container starts. Devices of our own start nothing.
func Replug(t *testing.T, newController func(*testing.T) *Replugged, byOwner bool) {
	const count = 10
	rounds, loose := 2, 3 // times that a loose contact plugs: udev runs the rules for each, one after the other, also when it has gone
	if cantest.IsThorough() {
		rounds, loose = 5, 10
	}
	FreshHost(t)
	r := newController(t)
	s := StartSystemd(t)
	conf := fmt.Sprintf(`"hub":%q,"physical":true`, r.Name)
	if byOwner {
		// On a busy machine slcan does not open within the second that it allows itself.
		Command(t, "mkdir", "-p", "/run/udev/rules.d")
		Write(t, "/run/udev/rules.d/95-set-up.rules", `ACTION!="remove", SUBSYSTEM=="net", ATTR{type}=="280", `+
			`ENV{ID_NET_DRIVER}!="vcan|vxcan", RUN+="/bin/sh -c 'sleep 0.5; for try in 1 2 3; do ip link set $name up `+r.SetUp+` && break; done'"`+"\n")
		s.Run("udevadm", "control", "--reload")
	} else {
		conf += "," + r.Keys
	}
	r.Plug()
	s.WaitFor(r.Name, func() bool {
		return !byOwner && slices.ContainsFunc(Links(t), func(l Link) bool { return l.Name == r.Name }) || isUp(r.Name)
	})
	a, b := NewContainer(t, "a"), NewContainer(t, "b")
	On(a).With(conf).Add(t)
	On(b).With(conf).Add(t)
	if queue := strings.TrimSpace(Command(t, "cat", "/sys/class/net/"+r.Name+"/tx_queue_len")); queue != "1000" {
		t.Errorf("the queue of %s is %s, want 1000", r.Name, queue)
	}
	fromA, inA, inB := cantest.NewSender(t, a.Netns, "can0"), cantest.Listen(t, a.Netns, "can0"), cantest.Listen(t, b.Netns, "can0")
	var took []time.Duration
	for round := range rounds {
		frame := func(id uint32, i int) cantest.Frame {
			return cantest.Frame{ID: id, Data: fmt.Sprintf("%04d%04d", round, i)}
		}
		for range 1 + round%2*(loose-1) {
			r.Unplug()
			r.Plug()
		}
		r.Unplug()
		if err := fromA.Send(frame(0x100, 9999)); err != nil {
			t.Fatal(err)
		}
		plugged := time.Now()
		r.Plug()
		s.WaitFor("the wire to be heard", func() bool {
			if err := r.Send(frame(0x200, 9999)); err != nil {
				t.Fatal(err)
			}
			heard, _ := inA.Heard()
			return heard[frame(0x200, 9999)] > 0 && isUp(r.Name) // slcan receives while it is still being opened
		})
		took = append(took, time.Since(plugged).Round(time.Millisecond))
		wire := r.Listen()
		for i := range count {
			if err := r.Send(frame(0x300, i)); err != nil {
				t.Fatal(err)
			}
			if err := fromA.Send(frame(0x400, i)); err != nil {
				t.Fatal(err)
			}
		}
		expect := func(where string, l *cantest.Listener, id uint32) {
			t.Helper()
			missing := func() (wrong []string) {
				heard, _ := l.Heard()
				for i := range count {
					if n := heard[frame(id, i)]; n != 1 {
						wrong = append(wrong, fmt.Sprintf("%d: %d times", i, n))
					}
				}
				return wrong
			}
			for deadline := time.Now().Add(10 * time.Second); missing() != nil && time.Now().Before(deadline); {
				time.Sleep(10 * time.Millisecond)
			}
			time.Sleep(100 * time.Millisecond) // for a second one
			if wrong := missing(); wrong != nil {
				t.Errorf("round %d: %s hears of %x %v", round, where, id, wrong)
			}
		}
		expect("a", inA, 0x300)
		expect("b", inB, 0x300)
		expect("b", inB, 0x400)
		expect("the wire", wire, 0x400)
	}
	slices.Sort(took)
	t.Logf("from the plug to the first frame in an old socket: %v, median %v", took, took[len(took)/2])

	// An earlier event may have been enough, and the last one not be over.
	s.WaitFor("udev's last word on "+r.Name, func() bool {
		return s.properties(r.Name)["SYSTEMD_WANTS"] == "vxcan-heal@"+r.Name+".service"
	})
	s.WaitFor("the last repair", func() bool { return s.Run("systemctl", "list-jobs", "--no-legend", "vxcan-heal@*") == "" })
	for _, l := range Links(t) {
		if l.Kind == "vcan" || l.Kind == "vxcan" {
			if wants := s.properties(l.Name)["SYSTEMD_WANTS"]; wants != "" {
				t.Errorf("%s starts %s", l.Name, wants)
			}
		}
	}
	if failed := s.Run("systemctl", "list-units", "--failed", "--no-legend", "vxcan-heal@*"); failed != "" {
		t.Errorf("failed: %s", failed)
	}
}
