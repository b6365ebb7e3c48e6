package bus

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/containernetworking/plugins/pkg/testutils"
	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/cantest"
	"github.com/vxcan/vxcan/pkg/config"
)

// hostRequest is what vxcanctl attach asks for.
func hostRequest(t *testing.T, hub config.Hub, path string, p config.Policy) Request {
	t.Helper()
	id, err := NetnsID(path)
	if err != nil {
		t.Fatal(err)
	}
	return Request{
		Attachment: config.Attachment{Runtime: "host", Network: hub.Name, ContainerID: id, IfName: "can0"},
		Hub:        hub, Endpoint: config.Endpoint{Name: "rig", Policy: p}, Place: Place{NetnsPath: path, Interface: "can0"},
	}
}

// guest is a network namespace that a test can end.
type guest struct {
	path string
	end  func() error
}

// newGuest makes a network namespace that only a process keeps, or only a file.
func newGuest(t *testing.T, process bool) guest {
	t.Helper()
	if process {
		cmd := exec.Command("sleep", "1000")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		end := func() error { return errors.Join(cmd.Process.Kill(), ignore(cmd.Wait())) }
		t.Cleanup(func() { _ = end() })
		return guest{fmt.Sprintf("/proc/%d/ns/net", cmd.Process.Pid), end}
	}
	netns, err := testutils.NewNS()
	if err != nil {
		t.Fatal(err)
	}
	path := netns.Path()
	if err := netns.Close(); err != nil {
		t.Fatal(err)
	}
	end := func() error { return errors.Join(unix.Unmount(path, unix.MNT_DETACH), os.Remove(path)) }
	t.Cleanup(func() { _ = end() })
	return guest{path, end}
}

// ignore drops the error of a process that was killed.
func ignore(error) error { return nil }

// port is its interface. The namespace is open until done is called.
func (g guest) port(t *testing.T) (at port, done func()) {
	t.Helper()
	netns, err := ns.GetNS(g.path)
	if err != nil {
		t.Fatal(err)
	}
	return port{netns, "can0"}, func() { netns.Close() }
}

// gone waits until a device of the host is gone: the kernel takes its time with a network namespace.
func (w *world) gone(name string) {
	w.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); w.view(name).Index != 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatalf("%s is still there", name)
		}
	}
}

// TestProductHost is the product for what is attached without a runtime: kinds of hubs × policies × damage × what repairs it,
// with real frames: the namespace, another one and programs on the host hear each other once, as far as the policy allows.
func TestProductHost(t *testing.T) {
	send, receive := longest()
	policies := map[string]config.Policy{"none": {}, "lists": {Send: "100", Receive: "200"}, "longest lists": {Send: send, Receive: receive}}
	hubs := map[string]config.Hub{"own": {Name: "vcan0"}, "of others": {Name: "mine", Physical: true}, "of pods": {Name: "bench1"}}
	const killed, unmounted = "process killed", "file of the netns gone"
	n := 0
	for d, damage := range []string{killed, unmounted, "ip link del HUB", "ip link del HUB-tx", "cangw -F", "ip link del HOSTIF"} {
		for h, hubName := range slices.Sorted(maps.Keys(hubs)) {
			for p, policyName := range slices.Sorted(maps.Keys(policies)) {
				hub, policy := hubs[hubName], policies[policyName]
				if hubName == "of others" && damage == "ip link del HUB" || policyName == "longest lists" && hubName != "own" {
					continue
				}
				if (policyName == "longest lists" || (d+h+p/2)%2 > 0) && !cantest.IsThorough() || hubName != "own" && testing.Short() {
					continue
				}
				cure := []string{"heal", "ADD"}[(n+d)%2] // each damage is repaired by both
				n++
				t.Run(fmt.Sprintf("%s, hub %s, policy %s, %s", damage, hubName, policyName, cure), func(t *testing.T) {
					w := newWorld(t)
					w.run("ip link add mine mtu 72 type vcan", "ip link set mine alias mine up")
					if hubName == "of pods" {
						pod := request(hub.Name, "pod", w.crowd)
						pod.Hub.Transient = true
						w.do(func() error {
							_, err := w.host.Attach(context.Background(), nil, pod)
							return err
						})
					}
					g, stays := newGuest(t, damage == killed), newGuest(t, damage != killed)
					r, other := hostRequest(t, hub, g.path, policy), hostRequest(t, hub, stays.path, config.Policy{})
					attach := func(requests ...Request) {
						t.Helper()
						w.notices = nil
						w.do(func() error {
							_, err := w.host.Attach(context.Background(), nil, requests...)
							return err
						})
					}
					attach(r)
					attach(other)
					before := w.inventory()
					if attach(r); !before.equal(w.inventory()) || len(w.notices) > 0 {
						t.Errorf("the same again: %q", w.notices)
					}
					host := port{w.netns, hub.Name}
					works := func(own bool) {
						t.Helper()
						second, done := stays.port(t)
						defer done()
						if !own {
							w.expectExactlyOnce(host, second)
							return
						}
						first, done := g.port(t)
						defer done()
						if policy == (config.Policy{}) {
							w.expectExactlyOnce(host, first, second)
							return
						}
						w.expectPolicy(policy.Send, first, host)
						w.expectPolicy(policy.Send, first, second)
						w.expectPolicy(policy.Receive, host, first)
						w.expectPolicy(policy.Receive, second, first)
					}
					works(true)
					fatal := damage == killed || damage == unmounted || strings.Contains(damage, "HOSTIF")
					if damage == killed || damage == unmounted {
						if err := g.end(); err != nil {
							t.Fatal(err)
						}
						w.gone(r.HostIf())
					} else {
						w.run(strings.NewReplacer("HUB", hub.Name, "HOSTIF", r.HostIf()).Replace(damage))
					}
					w.notices = nil
					var done []string
					if cure == "heal" {
						done = w.heal(hub.Name)
					} else {
						attach(request(hub.Name, "late", w.crowd))
					}
					t.Logf("%q, %q", done, w.notices)
					if all, err := w.status(hub.Name); err != nil || len(all[0].Differences) > 0 || cure == "heal" && len(done) == 0 {
						t.Errorf("%s: %q; %+v, %v", cure, done, all, err)
					}
					if dropped := fmt.Sprintf("dropped the record of %s: its devices are gone", r.Attachment); fatal != slices.Contains(w.notices, dropped) {
						t.Errorf("%q", w.notices)
					}
					if cure == "heal" {
						if again := w.heal(hub.Name); len(again) > 0 {
							t.Errorf("heal again: %q", again)
						}
					}
					works(!fatal)
					if strings.Contains(damage, "HOSTIF") {
						attach(r)
						works(true)
					}
					w.do(func() error { return w.host.Detach(context.Background(), hub.Name, other.Attachment) })
					if w.view(hub.Name).Index == 0 || w.view(other.HostIf()).Index != 0 {
						t.Error("after DEL the hub is gone, or the pair is there")
					}
				})
			}
		}
	}
}

// TestHostOfEarlierBoot: what an earlier boot recorded of a network namespace says nothing of one that has its number now.
func TestHostOfEarlierBoot(t *testing.T) {
	w := newWorld(t)
	g := newGuest(t, true)
	r := hostRequest(t, config.Hub{Name: "vcan0"}, g.path, config.Policy{Send: "none", Receive: "none"})
	attach := func() {
		t.Helper()
		w.do(func() error {
			_, err := w.host.Attach(context.Background(), nil, r)
			return err
		})
	}
	attach()
	w.run("ip link del vcan0", "ip link del vcan0-tx", "ip link del "+r.HostIf())
	now := filepath.Dir(w.recordFile("vcan0"))
	earlier := filepath.Join(w.host.StateDir, "00000000-"+strings.SplitN(filepath.Base(now), "-", 2)[1])
	if err := os.Rename(now, earlier); err != nil {
		t.Fatal(err)
	}
	w.notices = nil
	w.do(func() error {
		if _, err := w.host.Heal(context.Background(), "vcan0"); !errors.Is(err, ErrNoBus) {
			t.Errorf("heal: %v", err)
		}
		if hubs, err := w.host.Buses(); err != nil || len(hubs) > 0 {
			t.Errorf("buses %q, %v", hubs, err)
		}
		return nil
	})
	r.Endpoint.Policy = config.Policy{}
	attach()
	if len(w.notices) > 0 {
		t.Errorf("%q", w.notices)
	}
	at, done := g.port(t)
	defer done()
	w.expectExactlyOnce(port{w.netns, "vcan0"}, at)
	if _, err := os.Stat(earlier); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s: %v", earlier, err)
	}
}

// TestNetnsID: a namespace has one number, however it is named, and another one has another.
func TestNetnsID(t *testing.T) {
	w := newWorld(t)
	g := newGuest(t, true)
	w.do(func() error {
		id, err := NetnsID(g.path)
		if err != nil {
			return err
		}
		netns, err := ns.GetNS(g.path)
		if err != nil {
			return err
		}
		defer netns.Close()
		if same, err := NetnsID(fmt.Sprintf("/proc/self/fd/%d", netns.Fd())); err != nil || same != id {
			t.Errorf("%s and %s, %v", id, same, err)
		}
		if other, err := NetnsID(w.crowd.Path()); err != nil || other == id {
			t.Errorf("%s and %s, %v", id, other, err)
		}
		if _, err := NetnsID(w.netns.Path()); !errors.Is(err, ErrInvalidNetns) || !strings.Contains(err.Error(), "it is the host's") {
			t.Errorf("the host's: %v", err)
		}
		return nil
	})
}

// TestRemove: a bus goes, whatever has become of it, and nothing else does. While it is in use it stays whole.
func TestRemove(t *testing.T) {
	for name, test := range map[string]struct {
		before []string // others' devices
		hub    config.Hub
		damage []string
		stays  []string // commands that find what is others'
	}{
		"own":                  {hub: config.Hub{Name: "vcan0"}},
		"long name":            {hub: config.Hub{Name: "left-front-door"}},
		"hub deleted":          {hub: config.Hub{Name: "vcan0"}, damage: []string{"ip link del vcan0"}},
		"rules flushed":        {hub: config.Hub{Name: "vcan0"}, damage: []string{"cangw -F"}},
		"backplane deleted":    {hub: config.Hub{Name: "vcan0"}, damage: []string{"ip link del vcan0-tx"}},
		"half of it elsewhere": {hub: config.Hub{Name: "vcan0"}, damage: []string{"ip link set vcan0-tx down", "ip link set vcan0-tx name elsewhere"}},
		"of others":            {before: []string{"ip link add mine mtu 72 type vcan", "ip link set mine up"}, hub: config.Hub{Name: "mine"}, stays: []string{"ip link show mine up"}},
		"of others, used":      {before: []string{"ip link add mine mtu 16 type vcan", "ip link set mine up"}, hub: config.Hub{Name: "mine", Physical: true}, stays: []string{"ip link show mine up"}},
		"of others, with a rule": {
			before: []string{"ip link add mine mtu 72 type vcan", "ip link add other mtu 72 type vcan", "ip link set mine up", "cangw -A -s mine -d other"}, hub: config.Hub{Name: "mine"},
			stays: []string{"cangw -L | grep -q 'cangw -A -s mine -d other'"},
		},
		"of others, with a filter": {
			before: []string{"ip link add mine mtu 72 type vcan", "ip link set mine up", "tc qdisc add dev mine clsact", "tc filter add dev mine egress prio 3 matchall action ok"}, hub: config.Hub{Name: "mine"},
			stays: []string{"tc filter show dev mine egress | grep -q 'pref 3 matchall'"},
		},
		"a filter of others in place of ours": {
			before: []string{"ip link add mine mtu 72 type vcan", "ip link set mine up"}, hub: config.Hub{Name: "mine"},
			damage: []string{"tc filter del dev mine egress pref 1", "tc filter add dev mine egress pref 1 handle 1 bpf bytecode 1,6_0_0_4294967295 action drop"},
			stays:  []string{"tc filter show dev mine egress | grep -q 'pref 1 bpf'", "! tc filter show dev mine ingress | grep -q pref"},
		},
		"backplane of others": {
			before: []string{"ip link add vcan0-tx mtu 72 up type vxcan peer name vcan0-rx mtu 72", "ip link set vcan0-rx up"}, hub: config.Hub{Name: "vcan0"},
			stays: []string{"ip link show vcan0-tx up", "ip link show vcan0-rx up"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.run(test.before...)
			remove := func() (err error) {
				w.do(func() error { err = w.host.Remove(context.Background(), test.hub.Name); return nil })
				return err
			}
			before := w.inventory()
			if err := remove(); !errors.Is(err, ErrNoBus) {
				t.Errorf("before there is a bus: %v", err)
			}
			g := newGuest(t, true)
			r := hostRequest(t, test.hub, g.path, config.Policy{})
			pod := request(test.hub.Name, "pod", w.crowd)
			pod.Hub = test.hub
			w.do(func() error {
				_, err := w.host.Attach(context.Background(), nil, r, pod)
				return err
			})
			used := w.inventory()
			err := remove()
			want := fmt.Sprintf("it is in use by rig (%s), %s", r.Attachment, pod.Attachment)
			if !errors.Is(err, ErrInUse) || err.Error() != want {
				t.Errorf("%v, want %s", err, want)
			}
			if !used.equal(w.inventory()) {
				t.Errorf("in use: %+v, then %+v", used, w.inventory())
			}
			w.do(func() error { return w.host.Detach(context.Background(), test.hub.Name, pod.Attachment) })
			if err := g.end(); err != nil { // nobody says so: the record has it
				t.Fatal(err)
			}
			w.gone(r.HostIf())
			for _, line := range test.damage {
				w.run(line)
			}
			if err := remove(); err != nil {
				t.Error(err)
			}
			after := w.inventory()
			if test.damage == nil || !strings.HasPrefix(name, "a filter") {
				if !before.equal(after) {
					t.Errorf("before %+v, after %+v", before, after)
				}
			}
			if len(after.files) > 0 || len(after.rules) != len(before.rules) || !slices.Equal(after.links, before.links) {
				t.Errorf("before %+v, after %+v", before, after)
			}
			for _, line := range test.stays {
				w.do(func() error {
					if out, err := exec.Command("sh", "-c", line).CombinedOutput(); err != nil {
						t.Errorf("%s: %v: %s", line, err, out)
					}
					return nil
				})
			}
			if err := remove(); !errors.Is(err, ErrNoBus) {
				t.Errorf("again: %v", err)
			}
		})
	}
}

// TestRemoveFails lets every message to the kernel fail in turn. The next Remove ends what this one has begun.
func TestRemoveFails(t *testing.T) {
	if testing.Short() && !cantest.IsThorough() {
		t.Skip("depends on no kernel")
	}
	for _, hub := range []string{"vcan0", "mine"} {
		failed := true
		for n := 1; failed; n++ {
			w := newWorld(t)
			w.run("ip link add mine mtu 72 type vcan", "ip link set mine alias mine up")
			before := w.inventory()
			r := request(hub, "c0", w.crowd)
			f := fault{n: n, done: []float64{0, 0.5, 1}[n%3]}
			w.do(func() error {
				if _, err := w.host.Attach(context.Background(), nil, r); err != nil {
					return err
				}
				if err := w.host.Detach(context.Background(), hub, r.Attachment); err != nil {
					return err
				}
				w.host.tap(f.step)
				err := w.host.Remove(context.Background(), hub)
				w.unhook()
				if failed = f.called != ""; failed != errors.Is(err, errInjected) {
					t.Errorf("hub %s, %g of message %d (%s): %v", hub, f.done, n, f.called, err)
				}
				if err := w.host.Remove(context.Background(), hub); err != nil && !errors.Is(err, ErrNoBus) {
					t.Errorf("hub %s, after %g of message %d (%s): %v", hub, f.done, n, f.called, err)
				}
				return nil
			})
			if after := w.inventory(); !before.equal(after) {
				t.Errorf("hub %s, after %g of message %d (%s): before %+v, after %+v", hub, f.done, n, f.called, before, after)
			}
			if n > 50 {
				t.Fatal("no end of messages")
			}
		}
	}
}

// TestHealWords: what heal says it has done, what is left then, and of what it says that there is no bus.
func TestHealWords(t *testing.T) {
	w := newWorld(t)
	w.attach("vcan0", "c0", w.crowd)
	w.run("ip link add mine mtu 72 type vcan", "ip link set mine alias mine up")
	r := request("mine", "c1", w.crowd)
	r.Hub.Physical = true
	w.do(func() error {
		_, err := w.host.Attach(context.Background(), nil, r)
		return err
	})
	for _, test := range []struct {
		commands   []string
		hub        string
		done, left string
	}{
		{nil, "vcan0", "", ""},
		{[]string{"ip link del vcan0"}, "vcan0", "made the hub again, set 2 filters, added 4 rules", ""},
		{[]string{"ip link del vcan0-tx"}, "vcan0", "made the backplane again, set 1 filter, added 6 rules", ""},
		{[]string{"ip link set vcan0 down"}, "vcan0", "set the hub up", ""},
		{[]string{"cangw -F"}, "vcan0", "added 6 rules", ""},
		{[]string{"ip link del mine"}, "mine", "added 2 rules", "hub mine: there is no such device: connect the controller or load its driver"},
	} {
		w.run(test.commands...)
		done := strings.Join(w.heal(test.hub), ", ")
		all, err := w.status(test.hub)
		var left []string
		for _, d := range all[0].Differences {
			left = append(left, d.What+": "+d.Cure)
		}
		if err != nil || done != test.done || strings.Join(left, "\n") != test.left {
			t.Errorf("%q: %s; %q, %v, want %s; %s", test.commands, done, left, err, test.done, test.left)
		}
	}
	w.do(func() error {
		for _, hub := range []string{"vcan9", "lo", "vcan0-tx", "no such"} {
			if _, err := w.host.Heal(context.Background(), hub); !errors.Is(err, ErrNoBus) {
				t.Errorf("%s: %v", hub, err)
			}
		}
		return nil
	})
}
