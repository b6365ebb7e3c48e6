package bus

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vxcan/vxcan/pkg/canlink"
	"github.com/vxcan/vxcan/pkg/cantest"
	"github.com/vxcan/vxcan/pkg/config"
)

// longest are two lists about as long as a program can be: single IDs far from each other, of both kinds. The first one has
// 100, the second one 200.
func longest() (send, receive string) {
	var a, b []string
	for i := range 500 {
		a = append(a, fmt.Sprintf("%03X", 0x101+2*i), fmt.Sprintf("%08X", 0x10000000+5*i))
		b = append(b, fmt.Sprintf("%03X", 0x202+2*i), fmt.Sprintf("%08X", 0x11000000+7*i))
	}
	return strings.Join(append(a, "100"), ","), strings.Join(append(b, "200"), ",")
}

// TestProductFrames is the part of the product of features that needs the verbs and the kernel: policies × requests of one
// call × containers that are there × kinds of hubs, with real frames on each hub.
func TestProductFrames(t *testing.T) {
	send, receive := longest()
	policies := map[string]config.Policy{
		"none": {}, "lists": {Send: "100", Receive: "200"}, "longest lists": {Send: send, Receive: receive},
		"nothing": {Send: "none", Receive: "none"}, "rate": {Rate: 1_000_000, Receive: "100"},
	}
	for _, others := range []int{0, 30} {
		if others > 0 && testing.Short() && !cantest.IsThorough() {
			continue
		}
		w := newWorld(t)
		w.run("ip link add mine mtu 72 type vcan", "ip link set mine alias mine up")
		for i := range others {
			w.attach("vcan0", fmt.Sprint("c", i), w.crowd)
		}
		hubs := []config.Hub{{Name: "vcan0"}, {Name: "bench1", Transient: true}, {Name: "mine", Physical: true}, {Name: "bench1", Transient: true}}
		for name, policy := range policies {
			for _, count := range []int{1, 2, 4} {
				if others > 0 && (count < 4 || !strings.Contains(name, "lists")) || count == 1 && !cantest.IsThorough() {
					continue
				}
				t.Run(fmt.Sprintf("policy %s, %d requests, %d others", name, count, others), func(t *testing.T) {
					w.t = t
					box := cantest.NewNetns(t)
					before := w.inventory()
					var requests []Request
					for i, hub := range hubs[:count] {
						r := request(hub.Name, "box", box)
						r.Hub, r.Entry, r.Place.Interface = hub, fmt.Sprint(i), fmt.Sprint("can", i)
						r.Endpoint = config.Endpoint{Policy: policy, MTU: canlink.FDMTU}
						requests = append(requests, r)
					}
					attach := func(requests ...Request) (err error) {
						w.do(func() error { _, err = w.host.Attach(context.Background(), nil, requests...); return nil })
						return err
					}
					bad := request("lo", "box", box)
					if err := attach(append(requests, bad)...); !errors.Is(err, config.ErrInvalid) {
						t.Errorf("with one hub more, which is none: %v", err)
					}
					undelivered := errors.New("nobody reads the result")
					w.do(func() error {
						_, err := w.host.Attach(context.Background(), func([]Result) error { return undelivered }, requests...)
						if !errors.Is(err, undelivered) {
							t.Errorf("result not delivered: %v", err)
						}
						return nil
					})
					if after := w.inventory(); !before.equal(after) {
						t.Fatalf("after ADDs that failed: before %+v, after %+v", before, after)
					}
					if err := attach(requests...); err != nil {
						t.Fatal(err)
					}
					for i, r := range requests {
						hub, end := port{w.netns, r.Hub.Name}, port{box, fmt.Sprint("can", i)}
						w.expectPolicy(policy.Send, end, hub)
						w.expectPolicy(policy.Receive, hub, end)
						w.do(func() error {
							if err := w.host.Check(context.Background(), r, []string{end.name}); err != nil {
								t.Errorf("CHECK on %s: %v", r.Hub.Name, err)
							}
							return nil
						})
					}
					for _, r := range requests {
						w.do(func() error { return w.host.Detach(context.Background(), r.Hub.Name, r.Attachment) })
					}
					// Hub and backplane stay, but for a hub that was made for pods.
					for _, link := range w.inventory().links {
						if !slices.Contains(before.links, link) && !strings.HasPrefix(link, "vcan0") && !strings.HasPrefix(link, "mine") {
							t.Errorf("after DEL there is %s", link)
						}
					}
				})
			}
		}
		w.t = t
	}
}

// TestLongestLists: 50 containers with two lists of the greatest length. Whatever can be set can be read back, and after
// every damage be repaired.
func TestLongestLists(t *testing.T) {
	if testing.Short() && !cantest.IsThorough() {
		t.Skip("depends on no kernel")
	}
	w := newWorld(t)
	send, receive := longest()
	policy := config.Policy{Send: send, Receive: receive}
	const count = 50
	for i := range count {
		w.attachWith(fmt.Sprint("c", i), policy)
	}
	box := cantest.NewNetns(t)
	end := w.attachAs("box", box, policy, false)
	hub, contIf := port{w.netns, "vcan0"}, port{box, end.ContIf}
	for _, damage := range [][]string{
		nil,
		{"ip link del vcan0-tx"},
		{"ip link del vcan0"},
		{"cangw -F"},
		{"tc qdisc del dev " + end.HostIf + " clsact"},
		{"tc filter del dev " + end.HostIf + " egress pref 2"},
		{"ip link set " + end.HostIf + " down"},
	} {
		w.run(damage...)
		start := time.Now()
		w.heal("vcan0")
		took := time.Since(start)
		all, err := w.status("vcan0")
		if err != nil || len(all[0].Endpoints) != count+1 || len(all[0].Differences) > 0 {
			t.Errorf("after %q and heal: %v, %+v", damage, err, all[0].Differences)
		}
		t.Logf("heal after %q: %v", damage, took)
		w.expectPolicy("100", contIf, hub)
		w.expectPolicy("200", hub, contIf)
		if err := w.checkAs("box", box, policy, end.ContIf); err != nil {
			t.Error(err)
		}
	}
	w.do(func() error {
		return w.host.Collect(context.Background(), func(config.Attachment, bool) bool { return true })
	})
	if all, err := w.status("vcan0"); err != nil || len(all[0].Endpoints) > 0 {
		t.Errorf("after GC of all: %+v, %v", all, err)
	}
}

// TestOtherNetns: a host in another network namespace has the same state directory. Each has its own records, and neither
// drops the other's.
func TestOtherNetns(t *testing.T) {
	w, other := newWorld(t), newWorld(t)
	other.host.StateDir = w.host.StateDir
	box, far := cantest.NewNetns(t), cantest.NewNetns(t)
	policy := config.Policy{Send: "100", Receive: "200"}
	end := w.attachAs("box", box, policy, false)
	other.attachAs("far", far, policy, false)
	other.do(func() error {
		for _, hub := range []string{"vcan0", "vcan1"} {
			if _, err := other.host.Heal(context.Background(), hub); err != nil && !errors.Is(err, ErrNoBus) {
				return err
			}
		}
		return other.host.Collect(context.Background(), func(config.Attachment, bool) bool { return true })
	})
	w.attach("vcan0", "late", w.crowd)
	if err := w.checkAs("box", box, policy, end.ContIf); err != nil {
		t.Error(err)
	}
	w.expectPolicy("100", port{box, end.ContIf}, port{w.netns, "vcan0"})
}

// TestHealFound: a bus whose record is gone, and one whose hub has another name, are healed as they are shown.
func TestHealFound(t *testing.T) {
	w := newWorld(t)
	end, _ := w.attach("vcan0", "a", w.crowd)
	other, _ := w.attach("vcan0", "b", w.crowd)
	heal := func() {
		t.Helper()
		w.do(func() error {
			hubs, err := w.host.Buses()
			for _, hub := range hubs {
				_, e := w.host.Heal(context.Background(), hub)
				err = errors.Join(err, e)
			}
			return err
		})
		all, err := w.status()
		for _, s := range all {
			if err != nil || len(s.Differences) > 0 {
				t.Errorf("%s: %v, %+v", s.Hub, err, s.Differences)
			}
		}
		w.expectExactlyOnce(port{w.netns, "vcan0"}, port{w.crowd, end.ContIf}, port{w.crowd, other.ContIf})
	}
	w.run("rm -r "+w.host.StateDir, "cangw -F")
	heal()
	w.run("ip link set vcan0 down", "ip link set vcan0 name other up", "cangw -F")
	heal()
	// What was the hub has no way to the bus any more.
	listener := cantest.Listen(t, w.crowd, end.ContIf)
	for _, dev := range []string{"other", "vcan0"} {
		if err := cantest.NewSender(t, w.netns, dev).Send(cantest.Frame{ID: 0x123, Data: dev}); err != nil {
			t.Fatal(err)
		}
	}
	cantest.WaitQuiet(1, listener)
	if heard, _ := listener.Heard(); listener.Total() != 1 || heard[cantest.Frame{ID: 0x123, Data: "vcan0"}] != 1 {
		t.Errorf("after the hub was renamed, a container hears %v", heard)
	}
}

// TestForeign: what other programs have on a bus is named with the command that ends it; what is on the backplane is removed.
func TestForeign(t *testing.T) {
	for name, test := range map[string]struct {
		before, after []string // the first ADD
		policy        config.Policy
		others        bool     // another container can be attached beside it
		refused       bool     // the ADD after that
		want          []string // words of CHECK, or of the ADD
		cure          []string
	}{
		"a filter before ours is impossible": {
			after: []string{"! tc filter add dev vcan0 egress prio 1 matchall action skbedit priority 6", "! tc filter add dev HOSTIF ingress prio 1 matchall action ok"},
		},
		"filters behind ours are no harm": {
			after: []string{"tc filter add dev vcan0 egress prio 3 matchall action ok", "tc filter add dev vcan0 ingress prio 3 matchall action ok"},
		},
		"pref held by another kind": {
			before:  []string{"ip link add vcan0 mtu 72 type vcan", "ip link set vcan0 up", "tc qdisc add dev vcan0 clsact", "tc filter add dev vcan0 egress prio 1 matchall action ok"},
			refused: true, want: []string{"device vcan0 has a filter of another program (matchall) at egress pref 1", "tc filter del dev vcan0 egress pref 1"},
			cure: []string{"tc filter del dev vcan0 egress pref 1"},
		},
		"pref held by another protocol": {
			before:  []string{"ip link add vcan0 mtu 72 type vcan", "ip link set vcan0 up", "tc qdisc add dev vcan0 clsact", "tc filter add dev vcan0 ingress prio 1 protocol ip bpf bytecode 1,6_0_0_4294967295 action ok"},
			refused: true, want: []string{"device vcan0 has a filter of another program (bpf) at ingress pref 1", "tc filter del dev vcan0 ingress pref 1"},
			cure: []string{"tc filter del dev vcan0 ingress pref 1"},
		},
		"a second program at our pref": {
			after: []string{"tc filter add dev vcan0 egress prio 1 handle 7 bpf bytecode 1,6_0_0_4294967295 action skbedit priority 6"},
			want:  []string{"device vcan0 has a filter of another program beside that of the bus (egress pref 1 handle 0x7): frames may arrive twice, or not at all: tc filter del dev vcan0 egress pref 1 handle 0x7 bpf"},
			cure:  []string{"tc filter del dev vcan0 egress pref 1 handle 0x7 bpf"},
		},
		"pref of a host end held": {
			after: []string{"tc qdisc del dev HOSTIF clsact", "tc qdisc add dev HOSTIF clsact", "tc filter add dev HOSTIF egress prio 1 protocol all matchall action ok"},
			want:  []string{"device HOSTIF has a filter of another program (matchall) at egress pref 1, which the bus needs: tc filter del dev HOSTIF egress pref 1"},
			cure:  []string{"tc filter del dev HOSTIF egress pref 1"},
		},
		"pref 2 of a host end held": {
			policy: config.Policy{Receive: "none"},
			after:  []string{"tc filter del dev HOSTIF egress pref 2", "tc filter add dev HOSTIF egress prio 2 protocol all matchall action ok"},
			want:   []string{"device HOSTIF has a filter of another program (matchall) at egress pref 2, which the bus needs: tc filter del dev HOSTIF egress pref 2"},
			cure:   []string{"tc filter del dev HOSTIF egress pref 2"}, others: true,
		},
		"a rule to a host end": {
			after: []string{"cangw -A -s vcan0 -d HOSTIF"},
			want:  []string{"gateway rule cangw -A -s vcan0 -d HOSTIF of another program connects the hub and a container that the bus connects: frames arrive twice: cangw -D -s vcan0 -d HOSTIF"},
			cure:  []string{"cangw -D -s vcan0 -d HOSTIF"}, others: true,
		},
		"shared block": {
			before:  []string{"ip link add vcan0 mtu 72 type vcan", "ip link set vcan0 up", "tc qdisc add dev vcan0 ingress_block 22 clsact"},
			refused: true, want: []string{"the filters of device vcan0 are in a block", "tc qdisc del dev vcan0 clsact"},
			cure: []string{"tc qdisc del dev vcan0 clsact"},
		},
		"a rule to another device": {
			after: []string{"ip link add vcan9 mtu 72 type vcan", "ip link set vcan9 up", "cangw -A -s vcan0 -d vcan9 -e"},
			want:  []string{"gateway rule cangw -A -s vcan0 -d vcan9 -e of another program carries no container's frame", "make vcan9 the hub of a network (physical), or put containers on both buses; then cangw -D -s vcan0 -d vcan9 -e"},
			cure:  []string{"cangw -D -s vcan0 -d vcan9 -e"},
		},
		"a modified rule on the backplane": {
			after: []string{"cangw -A -s vcan0-rx -d HOSTIF -i -l 1 -m SET:I:123.8.0000000000000000"},
			want:  []string{"1 gateway rule is not of this bus, but on a backplane (cangw -A -s vcan0-rx -d HOSTIF -i -l 1 -m SET:I:123.8.0000000000000000)"},
			cure:  []string{"ADD"},
		},
		"the hub's MTU": {
			after: []string{"ip link set vcan0 down", "ip link set vcan0 mtu 16 up"},
			want:  []string{"hub vcan0 has MTU 16, want 72: it takes no CAN FD frames: ip link set vcan0 down; ip link set vcan0 mtu 72 up"},
			cure:  []string{"ip link set vcan0 down", "ip link set vcan0 mtu 72 up"},
		},
		"the hub's MTU, down": {
			after: []string{"ip link set vcan0 down", "ip link set vcan0 mtu 16"}, want: []string{"hub vcan0 has MTU 16, want 72"}, cure: []string{"ADD"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			box, late := cantest.NewNetns(t), cantest.NewNetns(t)
			r := boxed("box", box, test.policy)
			attach := func(r Request) (err error) {
				w.do(func() error { _, err = w.host.Attach(context.Background(), nil, r); return nil })
				return err
			}
			words := strings.NewReplacer("HOSTIF", r.HostIf(), "_", " ")
			run := func(lines []string) {
				t.Helper()
				for _, line := range lines {
					if fails, ok := strings.CutPrefix(words.Replace(line), "! "); ok {
						w.do(func() error {
							if exec.Command("sh", "-c", fails).Run() == nil {
								t.Errorf("%s: no error", fails)
							}
							return nil
						})
						continue
					}
					w.run(strings.NewReplacer("HOSTIF", r.HostIf()).Replace(line))
				}
			}
			said := func(err error) {
				t.Helper()
				for _, want := range test.want {
					if want = strings.ReplaceAll(want, "HOSTIF", r.HostIf()); err == nil || !strings.Contains(err.Error(), want) {
						t.Errorf("%v\nwant %q", err, want)
					}
				}
			}
			run(test.before)
			if test.refused {
				before := w.inventory()
				err := attach(r)
				said(err)
				if after := w.inventory(); err == nil || !before.equal(after) {
					t.Errorf("refused: %v; before %+v, after %+v", err, before, after)
				}
				run(test.cure)
				if err := attach(r); err != nil {
					t.Fatal(err)
				}
			} else {
				if err := attach(r); err != nil {
					t.Fatal(err)
				}
				run(test.after)
				if len(test.want) > 0 {
					said(w.checkAs("box", box, test.policy, "can0"))
				}
				if test.others {
					if err := attach(boxed("other", cantest.NewNetns(t), config.Policy{})); err != nil {
						t.Error(err)
					}
				}
				if len(test.cure) > 0 && test.cure[0] != "ADD" {
					run(test.cure)
				}
			}
			if err := attach(boxed("late", late, config.Policy{})); err != nil {
				t.Fatal(err)
			}
			if err := w.checkAs("box", box, test.policy, "can0"); err != nil {
				t.Errorf("in the end: %v", err)
			}
			if test.policy != (config.Policy{}) {
				w.expectPolicy(test.policy.Receive, port{w.netns, "vcan0"}, port{box, "can0"})
				return
			}
			w.expectExactlyOnce(port{w.netns, "vcan0"}, port{box, "can0"}, port{late, "can0"})
		})
	}
}

// TestNoVcanForController: a name that an adapter would get is not given to a vcan.
func TestNoVcanForController(t *testing.T) {
	w := newWorld(t)
	for _, hub := range []string{"can0", "eth0", "wlan0"} {
		r := boxed("box", w.crowd, config.Policy{})
		r.Hub.Name = hub
		w.do(func() error {
			_, attach := w.host.Attach(context.Background(), nil, r)
			for verb, err := range map[string]error{"ADD": attach, "Make": w.host.Make(context.Background(), r.Hub)} {
				if !errors.Is(err, config.ErrInvalid) || !strings.Contains(err.Error(), "hub "+hub+` is not there: for a controller set "physical": true (option physical=true), for a virtual bus name it vcanN`) {
					t.Errorf("%s on %s: %v", verb, hub, err)
				}
			}
			return nil
		})
	}
	// An earlier release made one.
	w.run("ip link add can0 mtu 72 type vcan", "ip link set can0 up")
	w.do(func() error {
		return exec.Command("ip", "link", "set", "can0", "alias", "vxcan hub").Run()
	})
	r := boxed("box", w.crowd, config.Policy{})
	r.Hub = config.Hub{Name: "can0", Physical: true}
	w.do(func() error {
		_, err := w.host.Attach(context.Background(), nil, r)
		if !errors.Is(err, config.ErrInvalid) || !strings.Contains(err.Error(), "hub can0 is a vcan that vxcan made, not a controller: end the containers on it, ip link delete can0, and plug the adapter in again") {
			t.Errorf("a vcan with the name of a controller: %v", err)
		}
		return nil
	})
}

// TestUndoKeeps: a call that fails takes away what it made for itself. What it repaired for the container that is there
// stays, whole, and a policy that it changed in place is the old one again.
func TestUndoKeeps(t *testing.T) {
	w := newWorld(t)
	box, late := cantest.NewNetns(t), cantest.NewNetns(t)
	policy := config.Policy{Send: "100", Receive: "200"}
	end := w.attachAs("box", box, policy, false)
	hub, contIf := port{w.netns, "vcan0"}, port{box, end.ContIf}
	undelivered := errors.New("nobody reads the result")
	fail := func(r Request) {
		t.Helper()
		w.notices = nil
		w.do(func() error {
			if _, err := w.host.Attach(context.Background(), func([]Result) error { return undelivered }, r); !errors.Is(err, undelivered) {
				t.Errorf("%v", err)
			}
			return nil
		})
		if slices.ContainsFunc(w.notices, func(n string) bool { return strings.Contains(n, "repaired") }) {
			t.Errorf("said of a call that failed: %q", w.notices)
		}
	}
	whole := func(what string) {
		t.Helper()
		if err := w.checkAs("box", box, policy, end.ContIf); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		w.expectPolicy("100", contIf, hub)
		w.expectPolicy("200", hub, contIf)
	}
	for _, damage := range []string{"ip link del vcan0", "ip link del vcan0-tx", "cangw -F", "tc qdisc del dev vcan0 clsact"} {
		w.run(damage)
		fail(boxed("late", late, config.Policy{}))
		whole(damage)
	}
	// A hub of the administrator, made again.
	w.run("ip link del vcan0", "ip link add vcan0 mtu 72 type vcan", "ip link set vcan0 alias mine up")
	fail(boxed("late", late, config.Policy{}))
	whole("hub made again by hand")
	for _, other := range []config.Policy{{Send: "100,200", Receive: "100,200"}, {Send: "none", Receive: "none"}, {}} {
		ear := cantest.Listen(t, box, end.ContIf)
		fail(boxed("box", box, other))
		whole("another policy in place")
		if !ear.Has(cantest.Frame{ID: 0x200}) {
			t.Error("another policy in place: a program in the container hears no more")
		}
		ear.Close()
	}
	other := boxed("box", box, config.Policy{})
	other.Endpoint.MTU = canlink.ClassicMTU
	fail(other)
	whole("another MTU")
	other = boxed("box", box, policy)
	other.Place.Interface = "can1"
	fail(other)
	whole("another name")
	fail(boxed("box", late, policy)) // the earlier pair is out of reach
	if now := w.inventory(); len(now.files) > 0 || w.view(end.HostIf).Index != 0 {
		t.Errorf("in another container: %+v", now)
	}
}

// TestPhysicalHubGone: no vcan takes the name of an adapter that is unplugged, even where the record is lost.
func TestPhysicalHubGone(t *testing.T) {
	w := newWorld(t)
	w.run("ip link add can-engine mtu 72 type vcan", "ip link set can-engine alias mine up") // plays the adapter
	r := boxed("box", w.crowd, config.Policy{})
	r.Hub = config.Hub{Name: "can-engine", Physical: true}
	other := request("can-engine", "other", w.crowd)
	other.Hub.Physical = true
	w.do(func() error {
		_, err := w.host.Attach(context.Background(), nil, r, other)
		return err
	})
	w.run("ip link del can-engine", "rm -r "+w.host.StateDir, "cangw -F")
	w.heal("can-engine")
	if link := w.view("can-engine"); link.Index != 0 {
		t.Errorf("made: %+v", link)
	}
	w.expectExactlyOnce(port{w.crowd, "can0"}, port{w.crowd, "can-other"})
	all, err := w.status("can-engine")
	if err != nil || len(all[0].Differences) != 1 || !strings.Contains(all[0].Differences[0].What, "hub can-engine: there is no such device") {
		t.Errorf("%+v, %v", all, err)
	}
}

// TestHubThatStays: a hub that the administrator's network asked for is made again as one that stays, also by a pod's ADD.
func TestHubThatStays(t *testing.T) {
	w := newWorld(t)
	w.attach("bench1", "a", w.crowd)
	w.run("ip link del bench1")
	pod := request("bench1", "pod", w.crowd)
	pod.Hub.Transient = true
	w.do(func() error {
		_, err := w.host.Attach(context.Background(), nil, pod)
		return errors.Join(err, w.host.Detach(context.Background(), "bench1", pod.Attachment),
			w.host.Detach(context.Background(), "bench1", request("bench1", "a", w.crowd).Attachment))
	})
	if w.view("bench1").Index == 0 {
		t.Error("the hub went with the pod")
	}
}
