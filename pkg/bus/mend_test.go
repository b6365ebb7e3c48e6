package bus

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"

	"github.com/vxcan/vxcan/pkg/canlink"
	"github.com/vxcan/vxcan/pkg/cantest"
	"github.com/vxcan/vxcan/pkg/config"
	"github.com/vxcan/vxcan/pkg/plan"
)

// world is a host in a netns of its own, with two buses, and containers on them.
type world struct {
	t       *testing.T
	netns   ns.NetNS // of the host
	crowd   ns.NetNS // of the containers that are there from the start
	host    Host
	notices []string
	ends    []Result // of the containers on vcan0
	moved   Result   // the container whose end was moved into place
}

func newWorld(t *testing.T) *world {
	t.Helper()
	cantest.Require(t)
	w := &world{t: t, netns: cantest.NewNetns(t), crowd: cantest.NewNetns(t)}
	w.host = Host{StateDir: t.TempDir(), Notice: func(_, what string) { w.notices = append(w.notices, what) }}
	return w
}

// do runs a part of the test on the host.
func (w *world) do(run func() error) {
	w.t.Helper()
	if err := w.netns.Do(func(ns.NetNS) error { return run() }); err != nil {
		w.t.Fatal(err)
	}
}

// run runs commands on the host.
func (w *world) run(lines ...string) {
	w.t.Helper()
	w.do(func() error {
		for _, line := range lines {
			if line == "cangw -F" && cantest.IsRootless() {
				if err := deleteCopies(); err != nil {
					return err
				}
				continue
			}
			words := strings.Fields(line)
			for i, word := range words {
				if word[0] >= '0' && word[0] <= '9' { // tc's bytecode
					words[i] = strings.ReplaceAll(word, "_", " ")
				}
			}
			if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil || len(out) > 0 { // cangw's status means nothing
				return fmt.Errorf("%s: %w: %s", line, errors.Join(err, errors.New("failed")), out)
			}
		}
		return nil
	})
}

// deleteCopies deletes the filters that are in the place of gateway rules, those of all buses.
func deleteCopies() error {
	devices, err := net.Interfaces()
	for _, d := range devices {
		if strings.HasSuffix(d.Name, "-rx") {
			err = errors.Join(err, exec.Command("tc", "filter", "del", "dev", d.Name, "ingress", "pref", "1").Run())
		}
	}
	return err
}

func request(hub, id string, netns ns.NetNS) Request {
	return Request{
		Attachment: config.Attachment{Runtime: "test", Network: "net", ContainerID: id}, Hub: config.Hub{Name: hub},
		Place: Place{NetnsPath: netns.Path(), Interface: "can-" + id},
	}
}

// here attaches a container to vcan0 whose end its runtime moves.
func (w *world) here(id string) (Result, error) {
	r := request("vcan0", id, w.crowd)
	r.Place = Place{Here: true}
	results, err := w.host.Attach(context.Background(), nil, r)
	if err != nil {
		return Result{}, err
	}
	return results[0], nil
}

// attach puts a container on a bus and returns what was noticed.
func (w *world) attach(hub, id string, netns ns.NetNS) (result Result, notices []string) {
	w.t.Helper()
	w.notices = nil
	w.do(func() error {
		results, err := w.host.Attach(context.Background(), nil, request(hub, id, netns))
		if err == nil {
			result = results[0]
		}
		return err
	})
	return result, w.notices
}

// attachHere puts a container on a bus as Docker up to 27 does: it moves the container end itself.
func (w *world) attachHere(id string) {
	w.t.Helper()
	w.do(func() (err error) {
		w.moved, err = w.here(id)
		return err
	})
	w.move(w.netns, w.moved.ContIf, w.crowd)
	w.up(w.crowd, w.moved.ContIf)
}

// move moves a device to another netns.
func (w *world) move(from ns.NetNS, name string, to ns.NetNS) {
	w.t.Helper()
	err := from.Do(func(ns.NetNS) error {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		return netlink.LinkSetNsFd(l, int(to.Fd()))
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) up(netns ns.NetNS, name string) {
	w.t.Helper()
	err := netns.Do(func(ns.NetNS) error {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(l)
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

// heal heals a bus and returns what it has done.
func (w *world) heal(hub string) (done []string) {
	w.t.Helper()
	w.do(func() (err error) {
		done, err = w.host.Heal(context.Background(), hub)
		return err
	})
	return done
}

// check is what Check says of the first container on vcan0.
func (w *world) check() (err error) {
	w.t.Helper()
	w.do(func() error {
		r := request("vcan0", "c0", w.crowd)
		err = w.host.Check(context.Background(), r, []string{w.ends[0].ContIf})
		return nil
	})
	return err
}

func (w *world) inventory() (all inventory) {
	w.do(func() error {
		all = takeInventory(w.t, w.host.StateDir)
		slices.Sort(all.links)
		return nil
	})
	return all
}

// expectExactlyOnce lets each of some interfaces send a classic, an extended, an FD and a remote frame, and fails unless all
// others hear each of them exactly once, and the sender does not.
func (w *world) expectExactlyOnce(interfaces ...port) {
	w.t.Helper()
	var listeners []*cantest.Listener
	for _, i := range interfaces {
		listeners = append(listeners, cantest.Listen(w.t, i.netns, i.name))
	}
	sent := make([][]cantest.Frame, len(interfaces))
	for i, from := range interfaces {
		sender := cantest.NewSender(w.t, from.netns, from.name)
		id := uint32(0x100 + i)
		sent[i] = []cantest.Frame{{ID: id, Data: "classic"}, {ID: id | 0x80000000, Data: "extended"}, {ID: id, FD: true, Data: "twelve bytes"}, {ID: id | 0x40000000}}
		for _, f := range sent[i] {
			if err := sender.Send(f); err != nil {
				w.t.Errorf("%s: %v", from.name, err)
			}
		}
		sender.Close()
	}
	cantest.WaitQuiet(4*len(interfaces)*len(interfaces), listeners...)
	for to, l := range listeners {
		foreign, _ := l.Heard()
		l.Close()
		for from, frames := range sent {
			for _, f := range frames {
				want := 1
				if from == to {
					want = 0
				}
				if got := foreign[f]; got != want {
					w.t.Errorf("%s hears a frame of %s %d times, want %d", interfaces[to].name, interfaces[from].name, got, want)
				}
			}
		}
	}
}

// port is a CAN interface.
type port struct {
	netns ns.NetNS
	name  string
}

// damages are all the ways in which a bus can differ from what it must be and that the next ADD of anything on it
// repairs. HOSTIF is the host end of the oldest container.
var damages = []struct {
	name     string
	commands []string
	do       func(w *world)
	words    []string // of CHECK and of the log of ADD
}{
	{name: "hub deleted", commands: []string{"ip link del vcan0"}, words: []string{"hub vcan0 is missing"}},
	{name: "hub down", commands: []string{"ip link set vcan0 down"}, words: []string{"hub vcan0 is down"}},
	{
		name:     "hub made again by hand",
		commands: []string{"ip link del vcan0", "ip link add vcan0 mtu 72 type vcan", "ip link set vcan0 alias mine up"},
		words:    []string{"4 gateway rules are missing (cangw -A -s vcan0 -d vcan0-tx -i -l 1, "},
	},
	{
		name:  "hub moved to another netns and back",
		do:    func(w *world) { w.move(w.netns, "vcan0", w.crowd); w.move(w.crowd, "vcan0", w.netns) },
		words: []string{"hub vcan0 is down", "4 gateway rules are missing"},
	},
	{name: "backplane deleted", commands: []string{"ip link del vcan0-rx"}, words: []string{"backplane vcan0-tx, vcan0-rx is missing"}},
	{name: "tx down", commands: []string{"ip link set vcan0-tx down"}, words: []string{"backplane vcan0-tx, vcan0-rx is down"}},
	{name: "rx down", commands: []string{"ip link set vcan0-rx down"}, words: []string{"backplane vcan0-tx, vcan0-rx is down"}},
	{
		name:     "tx renamed",
		commands: []string{"ip link set vcan0-tx down", "ip link set vcan0-tx name elsewhere up"},
		words:    []string{"backplane vcan0-tx, vcan0-rx is not one vxcan pair"},
	},
	{
		name:     "rx renamed",
		commands: []string{"ip link set vcan0-rx down", "ip link set vcan0-rx name elsewhere up"},
		words:    []string{"backplane vcan0-tx, vcan0-rx is not one vxcan pair"},
	},
	{
		name:  "rx moved away",
		do:    func(w *world) { w.move(w.netns, "vcan0-rx", w.crowd) },
		words: []string{"backplane vcan0-tx, vcan0-rx is not one vxcan pair"},
	},
	{
		name:     "backplane of classic CAN",
		commands: []string{"ip link set vcan0-rx down", "ip link set vcan0-rx mtu 16 up"},
		words:    []string{"backplane vcan0-tx, vcan0-rx has MTU 72 and 16, want 72"},
	},
	{name: "host end down", commands: []string{"ip link set HOSTIF down"}, words: []string{"host end HOSTIF of test net/c0 is down"}},
	{name: "all rules flushed", commands: []string{"cangw -F"}, words: []string{"gateway rules are missing (cangw -A -s "}},
	{
		name:     "a rule of the hub deleted",
		commands: []string{"cangw -D -s vcan0-rx -d vcan0 -e -i -l 1"},
		words:    []string{"1 gateway rule is missing (cangw -A -s vcan0-rx -d vcan0 -e -i -l 1)"},
	},
	{
		name:     "a rule of the oldest deleted",
		commands: []string{"cangw -D -s vcan0-rx -d HOSTIF -X -i -l 1"},
		words:    []string{"1 gateway rule is missing (cangw -A -s vcan0-rx -d HOSTIF -X -i -l 1)"},
	},
	{
		name:     "a rule three times",
		commands: []string{"cangw -A -s vcan0-rx -d HOSTIF -i -l 1", "cangw -A -s vcan0-rx -d HOSTIF -i -l 1"},
		words:    []string{"2 gateway rules are there more than once, so that frames arrive more than once (cangw -A -s vcan0-rx -d HOSTIF -i -l 1, "},
	},
	{
		name:     "a rule without a hop limit",
		commands: []string{"cangw -D -s vcan0-rx -d vcan0 -e -i -l 1", "cangw -A -s vcan0-rx -d vcan0 -e -i"},
		words: []string{
			"1 gateway rule is missing (cangw -A -s vcan0-rx -d vcan0 -e -i -l 1)",
			"1 gateway rule is not of this bus, but on a backplane (cangw -A -s vcan0-rx -d vcan0 -e -i)",
		},
	},
	{
		name:     "a rule that goes round",
		commands: []string{"cangw -A -s vcan0-rx -d vcan0-tx -i -l 1"},
		words:    []string{"1 gateway rule is not of this bus, but on a backplane (cangw -A -s vcan0-rx -d vcan0-tx -i -l 1)"},
	},
	{
		name: "filters deleted", commands: []string{"tc qdisc del dev HOSTIF clsact"},
		words: []string{"filter of HOSTIF (tc filter show dev HOSTIF): ingress pref 1 is missing or another one, egress pref 1 is missing or another one"},
	},
	{
		name: "a filter deleted", commands: []string{"tc filter del dev HOSTIF egress pref 1"},
		words: []string{"filter of HOSTIF (tc filter show dev HOSTIF): egress pref 1 is missing or another one"},
	},
	{
		name: "a filter of the hub deleted", commands: []string{"tc filter del dev vcan0 egress pref 1"},
		words: []string{"filter of vcan0 (tc filter show dev vcan0): egress pref 1 is missing or another one"},
	},
	{
		name: "another mark", commands: []string{"tc filter replace dev HOSTIF ingress pref 1 protocol all handle 1 bpf bytecode 1,6_0_0_4294967295 action skbedit mark 7 pipe action mirred egress redirect dev vcan0-tx"},
		words: []string{"filter of HOSTIF (tc filter show dev HOSTIF): ingress pref 1 is missing or another one"},
	},
}

// TestMend damages a bus in every way, with 1 and with 30 containers and a second bus on the host: CHECK says what is
// wrong, the next ADD of something else repairs it and says so, CHECK is silent, and frames arrive exactly once.
func TestMend(t *testing.T) {
	for _, n := range []int{1, 30} {
		w := newWorld(t)
		for i := range n {
			end, _ := w.attach("vcan0", fmt.Sprint("c", i), w.crowd)
			w.ends = append(w.ends, end)
		}
		w.attachHere("moved")
		for i := range 5 {
			w.attach("vcan1", fmt.Sprint("other", i), w.crowd)
		}
		for i, d := range damages {
			if n > 1 && (i%2 > 0 || testing.Short()) && !cantest.IsThorough() {
				continue
			}
			words := strings.NewReplacer("HOSTIF", w.ends[0].HostIf)
			t.Run(fmt.Sprintf("%s, %d endpoints", d.name, n), func(t *testing.T) {
				w.t = t
				if err := w.check(); err != nil {
					t.Fatalf("before the damage: %v", err)
				}
				before := w.inventory()
				for _, line := range d.commands {
					w.run(words.Replace(line))
				}
				if d.do != nil {
					d.do(w)
				}
				damage := w.check()
				late := cantest.NewNetns(t)
				end, notices := w.attach("vcan0", "late", late)
				for _, want := range d.words {
					want = words.Replace(want)
					if damage == nil || !strings.Contains(damage.Error(), want) {
						t.Errorf("CHECK: %v, want %q", damage, want)
					}
					if !slices.ContainsFunc(notices, func(n string) bool {
						return strings.HasPrefix(n, "found and repaired: ") && strings.Contains(n, want)
					}) {
						t.Errorf("ADD: %q, want %q", notices, want)
					}
				}
				if err := w.check(); err != nil {
					t.Errorf("after ADD: %v", err)
				}
				ports := []port{{w.netns, "vcan0"}, {late, end.ContIf}, {w.crowd, w.ends[0].ContIf}, {w.crowd, w.moved.ContIf}}
				if n > 1 {
					ports = append(ports, port{w.crowd, w.ends[n-1].ContIf})
				}
				w.expectExactlyOnce(ports...)
				w.do(func() error {
					return w.host.Detach(context.Background(), "vcan0", request("vcan0", "late", late).Attachment)
				})
				if d.name == "all rules flushed" { // those of the other bus too
					w.heal("vcan1")
				}
				after := w.inventory()
				if !slices.Equal(before.links, after.links) || len(before.rules) != len(after.rules) {
					t.Errorf("before: %v, %d rules; after: %v, %d rules", before.links, len(before.rules), after.links, len(after.rules))
				}
				if d.name == "hub made again by hand" { // give it back
					w.run("ip link del vcan0")
					w.heal("vcan0")
				}
			})
			w.t = t
		}
	}
}

type asked struct {
	hub config.Hub
	mtu int
}

// TestRefused: what only the administrator can change is refused, and nothing is made or changed.
func TestRefused(t *testing.T) {
	for name, test := range map[string]struct {
		commands []string
		asked    asked
		want     error
		words    string
	}{
		"somebody's hub is down": {[]string{"ip link add vcan0 type vcan"}, asked{hub: config.Hub{Name: "vcan0"}}, plan.ErrNotReady, "hub vcan0 is down: ip link set vcan0 up"},
		"no controller":          {nil, asked{hub: config.Hub{Name: "slcan0", Physical: true}}, plan.ErrNotReady, "hub slcan0: there is no such device"},
		"no CAN device":          {nil, asked{hub: config.Hub{Name: "lo"}}, config.ErrInvalid, "hub lo is not a CAN device"},
		"not said to be physical": {
			[]string{"ip link add slot0 type vxcan peer name slot1"}, asked{hub: config.Hub{Name: "slot0"}}, config.ErrInvalid, `hub slot0 is a vxcan device, not vcan: set "physical": true`,
		},
		"classic hub": {
			[]string{"ip link add vcan0 mtu 16 type vcan", "ip link set vcan0 up"}, asked{hub: config.Hub{Name: "vcan0"}, mtu: canlink.FDMTU},
			config.ErrInvalid, "hub vcan0 has MTU 16 (classic CAN), less than the mtu 72 of this network",
		},
		"another name": {
			[]string{"ip link add vcan0 type vcan", "ip link set vcan0 up", "ip link property add dev vcan0 altname frontcan"},
			asked{hub: config.Hub{Name: "frontcan"}}, config.ErrInvalid, "hub frontcan is another name of device vcan0: name vcan0",
		},
		"another name of the backplane": {
			[]string{"ip link add d0 type dummy", "ip link property add dev d0 altname vcan0-rx"},
			asked{hub: config.Hub{Name: "vcan0"}}, config.ErrInvalid, "vcan0-rx is another name of device d0, and the backplane needs it: ip link property del dev d0 altname vcan0-rx",
		},
		"backplane of somebody": {
			[]string{"ip link add vcan0-rx type vcan"}, asked{hub: config.Hub{Name: "vcan0"}}, config.ErrInvalid, "vcan0-rx is another program's device, and the backplane needs this name: rename or delete it",
		},
		"named like a backplane": {nil, asked{hub: config.Hub{Name: "vcan0-tx"}}, config.ErrInvalid, "names that end in -tx and -rx are those of backplanes"},
		"named like an endpoint": {nil, asked{hub: config.Hub{Name: (config.Attachment{}).HostIf()}}, config.ErrInvalid, "it could be the name of an endpoint's device"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			for _, line := range test.commands {
				w.run(line)
			}
			before := w.inventory()
			r := request("", "c0", w.crowd)
			r.Hub, r.Endpoint.MTU = test.asked.hub, test.asked.mtu
			here := r
			here.Place = Place{Here: true}
			w.do(func() error {
				_, attach := w.host.Attach(context.Background(), nil, r)
				_, attachHere := w.host.Attach(context.Background(), nil, here)
				check := w.host.Check(context.Background(), r, []string{"can0"})
				for verb, err := range map[string]error{"Attach": attach, "Attach here": attachHere, "Check": check} {
					if verb != "Check" && !errors.Is(err, test.want) || err == nil || !strings.Contains(err.Error(), test.words) {
						t.Errorf("%s: %v, want %q", verb, err, test.words)
					}
				}
				if r.Endpoint.MTU != 0 { // of no concern to a hub
					return nil
				}
				// What is not ready yet does not keep a network from being made.
				wait := r.Hub.Physical && test.want == plan.ErrNotReady
				if err := w.host.Make(context.Background(), r.Hub); errors.Is(err, test.want) == wait {
					t.Errorf("Make: %v", err)
				}
				return nil
			})
			after := w.inventory()
			if !slices.Equal(before.links, after.links) || len(after.rules) > 0 || len(after.files) > 0 {
				t.Errorf("before %+v, after %+v", before, after)
			}
		})
	}
}
