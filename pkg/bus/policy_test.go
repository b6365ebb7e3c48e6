package bus

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"
	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/canid"
	"github.com/vxcan/vxcan/pkg/canlink"
	"github.com/vxcan/vxcan/pkg/cantc"
	"github.com/vxcan/vxcan/pkg/cantest"
	"github.com/vxcan/vxcan/pkg/config"
	"github.com/vxcan/vxcan/pkg/plan"
)

// Two lists that have something in common.
const (
	listA = "100-11F,130,140:7F0,18FE0000-18FE7FFF,18FF0000:1FFF0000,00000123,7FF,055,056"
	listB = "110-17F,18FE4000-18FEFFFF,00000123,7FF,050-055"
)

// boxed is a container with a netns of its own.
func boxed(id string, netns ns.NetNS, p config.Policy) Request {
	r := request("vcan0", id, netns)
	r.Endpoint.Policy, r.Place.Interface = p, "can0"
	return r
}

// attachAs puts a container on vcan0 with a policy; moved is the way of Docker up to 27.
func (w *world) attachAs(id string, netns ns.NetNS, p config.Policy, moved bool) (result Result) {
	w.t.Helper()
	r := boxed(id, netns, p)
	r.Place.Here = moved
	w.do(func() error {
		results, err := w.host.Attach(context.Background(), nil, r)
		if err == nil {
			result = results[0]
		}
		return err
	})
	if moved {
		w.move(w.netns, result.ContIf, netns)
		w.up(netns, result.ContIf)
	}
	return result
}

// checkAs is what Check says of a container with a policy.
func (w *world) checkAs(id string, netns ns.NetNS, p config.Policy, contIf string) (err error) {
	w.t.Helper()
	r := boxed(id, netns, p)
	w.do(func() error {
		err = w.host.Check(context.Background(), r, []string{contIf})
		return nil
	})
	return err
}

// packets is how many frames each action of the filters of a host end has seen. The device is left out of the hooks.
func (w *world) packets(hostIf string) map[cantc.Hook][]uint64 {
	w.t.Helper()
	counts := make(map[cantc.Hook][]uint64)
	w.do(func() error {
		k, err := w.host.connect(nil)
		if err != nil {
			return err
		}
		defer k.close()
		link, err := k.link(hostIf)
		if err != nil {
			return err
		}
		filters, err := k.tc.Get(plan.Hooks(link.Index, true)...)
		for _, f := range filters {
			f.Hook.Dev = 0
			counts[f.Hook] = f.Packets
		}
		return err
	})
	return counts
}

// view is a device of the host.
func (w *world) view(name string) (link canlink.Link) {
	w.t.Helper()
	w.do(func() error {
		k, err := new(Host).connect(nil)
		if err != nil {
			return err
		}
		defer k.close()
		link, err = k.link(name)
		return err
	})
	return link
}

// recordFile is the path of a bus's record.
func (w *world) recordFile(hub string) string {
	w.t.Helper()
	files, err := filepath.Glob(w.host.StateDir + "/*/" + hub + ".json")
	if err != nil || len(files) != 1 {
		w.t.Fatalf("records of %s: %v, %v", hub, files, err)
	}
	return files[0]
}

// The filters that count what is denied.
var (
	deniedToSend = cantc.Hook{Dir: cantc.Ingress, Prio: plan.SecondPrio, Handle: 1}
	deniedToHear = cantc.Hook{Dir: cantc.Egress, Prio: plan.SecondPrio, Handle: 1}
)

// mixedFrame is a frame of any kind, one that can be told from all others. Half of the IDs are in the lists or next to
// them.
func mixedFrame(random *rand.Rand, number int) cantest.Frame {
	id := random.Uint32() & unix.CAN_SFF_MASK
	if random.IntN(3) == 0 {
		id = random.Uint32()&unix.CAN_EFF_MASK | unix.CAN_EFF_FLAG
	}
	if random.IntN(2) == 0 {
		near := []uint32{
			0x100, 0x11f, 0x130, 0x140, 0x14f, 0x17f, 0x7ff, 0x055, 0x050, 0x18fe0000 | unix.CAN_EFF_FLAG, 0x18fe4000 | unix.CAN_EFF_FLAG,
			0x18fe7fff | unix.CAN_EFF_FLAG, 0x18feffff | unix.CAN_EFF_FLAG, 0x18ff1234 | unix.CAN_EFF_FLAG, 0x123 | unix.CAN_EFF_FLAG,
		}
		id = near[random.IntN(len(near))] + uint32(random.IntN(3)) - 1
	}
	switch random.IntN(10) {
	case 0:
		id |= unix.CAN_RTR_FLAG
	case 1:
		id |= unix.CAN_ERR_FLAG
	case 2:
		if id&unix.CAN_EFF_FLAG == 0 {
			id |= random.Uint32() & (unix.CAN_EFF_MASK &^ unix.CAN_SFF_MASK) // junk
		}
	}
	f := cantest.Frame{ID: id, Data: fmt.Sprintf("%08d", number)}
	if random.IntN(3) == 0 {
		f.FD, f.Data = true, f.Data+"0123456789ab"
	}
	return f
}

func mustParse(t testing.TB, text string) canid.IDs {
	t.Helper()
	ids, err := canid.ParseIDs(text)
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

// sendInStep sends frames and lets a witness, which hears those that pass, keep up: no queue of the kernel may overflow.
func sendInStep(t testing.TB, from *cantest.Sender, witness *cantest.Listener, frames []cantest.Frame, passes func(cantest.Frame) bool) {
	t.Helper()
	want := witness.Total()
	for i, f := range frames {
		if err := from.Send(f); err != nil {
			t.Fatal(err)
		}
		if passes(f) {
			want++
		}
		for deadline := time.Now().Add(10 * time.Second); i%50 == 49 && witness.Total() < want && time.Now().Before(deadline); {
			time.Sleep(time.Millisecond)
		}
	}
}

// tally compares what was heard with what must and may be heard. It returns how many frames passed.
func tally(t testing.TB, who string, l *cantest.Listener, sent []cantest.Frame, must, may func(cantest.Frame) bool) (passed int) {
	t.Helper()
	heard, _ := l.Heard()
	lost, leaked, doubled := 0, 0, 0
	for _, f := range sent {
		n := heard[f]
		delete(heard, f)
		switch {
		case n == 0 && must(f):
			lost++
		case n > 0 && !may(f):
			leaked++
		case n > 1:
			doubled++
		}
		passed += min(n, 1)
	}
	t.Logf("%s: %d sent, %d passed, %d lost, %d leaked, %d doubled", who, len(sent), passed, lost, leaked, doubled)
	if lost+leaked+doubled > 0 {
		t.Errorf("%s: %d lost, %d leaked, %d doubled", who, lost, leaked, doubled)
	}
	return passed
}

func count(frames []cantest.Frame, pass func(cantest.Frame) bool) (n int) {
	for _, f := range frames {
		if pass(f) {
			n++
		}
	}
	return n
}

func contains(lists ...canid.IDs) func(cantest.Frame) bool {
	return func(f cantest.Frame) bool {
		return !slices.ContainsFunc(lists, func(ids canid.IDs) bool { return !ids.Contains(f.ID) })
	}
}

// TestPolicyFrames: of 10 000 frames of all kinds, those in the list pass, each once, and the others are counted. Sent by
// the container with the policy and heard by it, however its runtime attaches it.
func TestPolicyFrames(t *testing.T) {
	for _, moved := range []bool{false, true} {
		t.Run(fmt.Sprintf("moved %v", moved), func(t *testing.T) {
			w := newWorld(t)
			box, other := cantest.NewNetns(t), cantest.NewNetns(t)
			end := w.attachAs("box", box, config.Policy{Send: listA, Receive: listA}, moved)
			free := w.attachAs("free", other, config.Policy{}, !moved)
			in, noError := contains(mustParse(t, listA)), func(f cantest.Frame) bool { return f.ID&unix.CAN_ERR_FLAG == 0 }
			random := rand.New(rand.NewPCG(12, 0))
			var frames []cantest.Frame
			for i := range 10_000 {
				frames = append(frames, mixedFrame(random, i))
			}
			hub, ear := cantest.Listen(t, w.netns, "vcan0"), cantest.Listen(t, other, free.ContIf)
			sendInStep(t, cantest.NewSender(t, box, end.ContIf), hub, frames, in)
			cantest.WaitQuiet(2*count(frames, in), hub, ear)
			passed := tally(t, "hub", hub, frames, in, in)
			tally(t, "another container", ear, frames, in, in)
			if got, want := w.packets(end.HostIf)[deniedToSend][0], len(frames)-passed; got != uint64(want) {
				t.Errorf("%d frames counted that it may not send, want %d", got, want)
			}
			hub.Close()
			ear.Close()

			hub, ear = cantest.Listen(t, w.netns, "vcan0"), cantest.Listen(t, box, end.ContIf)
			sendInStep(t, cantest.NewSender(t, other, free.ContIf), hub, frames, noError)
			cantest.WaitQuiet(count(frames, noError)+count(frames, in), hub, ear)
			all := tally(t, "hub", hub, frames, noError, noError)
			passed = tally(t, "the container", ear, frames, in, in)
			if got, want := w.packets(end.HostIf)[deniedToHear][0], all-passed; got != uint64(want) {
				t.Errorf("%d frames counted that it may not hear, want %d", got, want)
			}
			if err := w.checkAs("box", box, config.Policy{Send: listA, Receive: listA}, end.ContIf); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestPolicyReplaced: a policy is replaced 20 times under traffic. Frames that both lists have arrive once, and those that
// neither has never do.
func TestPolicyReplaced(t *testing.T) {
	for _, direction := range []string{"send", "receive"} {
		t.Run(direction, func(t *testing.T) {
			w := newWorld(t)
			box, other := cantest.NewNetns(t), cantest.NewNetns(t)
			policy := func(list string) config.Policy {
				if direction == "send" {
					return config.Policy{Send: list}
				}
				return config.Policy{Receive: list}
			}
			end, free := w.attachAs("box", box, policy(listA), false), w.attachAs("free", other, config.Policy{}, false)
			from, to := port{box, end.ContIf}, port{other, free.ContIf}
			if direction == "receive" {
				from, to = to, from
			}
			a, b := mustParse(t, listA), mustParse(t, listB)
			must := contains(a, b)
			may := func(f cantest.Frame) bool { return a.Contains(f.ID) || b.Contains(f.ID) }
			ear, sender := cantest.Listen(t, to.netns, to.name), cantest.NewSender(t, from.netns, from.name)
			var replaced atomic.Int32
			var sent []cantest.Frame
			done := make(chan bool)
			go func() {
				defer close(done)
				random := rand.New(rand.NewPCG(13, 0))
				// What passes either way lets the sender know that all before it has arrived.
				for i := 0; replaced.Load() < 20 || i < 10_000; i++ {
					f := mixedFrame(random, i)
					if i%50 == 49 {
						f.ID = 0x7ff
					}
					sent = append(sent, f)
					if err := sender.Send(f); err != nil {
						t.Error(err)
						return
					}
					for deadline := time.Now().Add(10 * time.Second); i%50 == 49 && !ear.Has(f) && time.Now().Before(deadline); {
						time.Sleep(time.Millisecond)
					}
				}
			}()
			link := w.view(end.HostIf)
			for i := range 20 {
				list := []string{listB, listA}[i%2]
				if again := w.attachAs("box", box, policy(list), false); again.Made || again.HostIf != end.HostIf || again.ContIf != end.ContIf || w.view(end.HostIf).Index != link.Index {
					t.Errorf("made anew: %+v", again)
				}
				if err := w.checkAs("box", box, policy(list), end.ContIf); err != nil {
					t.Error(err)
				}
				replaced.Add(1)
			}
			<-done
			cantest.WaitQuiet(0, ear)
			tally(t, direction, ear, sent, must, may)
		})
	}
}

// TestPolicyEdited: CHECK tells that a policy which was edited in the configuration has not taken effect; ADD makes it so,
// also one that goes or comes, for which the endpoint is made anew.
func TestPolicyEdited(t *testing.T) {
	w := newWorld(t)
	box := cantest.NewNetns(t)
	policies := []config.Policy{{}, {Send: "100"}, {Send: "none", Receive: "100"}, {Rate: 1_000_000}, {Send: "200", Rate: 1_000_000, Burst: 7}, {Receive: "none"}, {}}
	for i, p := range policies {
		if i > 0 {
			before := policies[i-1]
			if err := w.checkAs("box", box, p, "can0"); err == nil || !strings.Contains(err.Error(), "policy is "+before.String()+", and the configuration says "+p.String()) {
				t.Errorf("%s instead of %s: CHECK says %v", p, before, err)
			}
		}
		end := w.attachAs("box", box, p, false)
		if err := w.checkAs("box", box, p, end.ContIf); err != nil {
			t.Errorf("%s: %v", p, err)
		}
		hub, contIf := port{w.netns, "vcan0"}, port{box, end.ContIf}
		w.expectPolicy(p.Send, contIf, hub)
		w.expectPolicy(p.Receive, hub, contIf)
	}
}

// expectPolicy sends two frames, and fails the test unless those arrive that the list has.
func (w *world) expectPolicy(list string, from, to port) {
	w.t.Helper()
	if list == "" {
		list = "all"
	}
	ids, frames := mustParse(w.t, list), []cantest.Frame{{ID: 0x100}, {ID: 0x200}}
	l, s := cantest.Listen(w.t, to.netns, to.name), cantest.NewSender(w.t, from.netns, from.name)
	defer l.Close()
	defer s.Close()
	for _, f := range frames {
		if err := s.Send(f); err != nil {
			w.t.Error(err)
		}
	}
	cantest.WaitQuiet(0, l)
	for _, f := range frames {
		if got, want := l.Has(f), ids.Contains(f.ID); got != want {
			w.t.Errorf("%s: %03X from %s to %s passes: %v, want %v", list, f.ID, from.name, to.name, got, want)
		}
	}
}

// TestPolicyEditFails: every call of an ADD that changes a policy in place, or makes the pair anew, fails in turn. The container
// has its interface with the old policy again, and what neither list has never passes; its own ADD makes it as configured.
func TestPolicyEditFails(t *testing.T) {
	if testing.Short() {
		t.Skip("many failures of our own, which depend on no kernel")
	}
	wide, narrow := config.Policy{Send: "100,200", Receive: "100,200"}, config.Policy{Send: "100", Receive: "none", Rate: 1_000_000}
	for _, edit := range []struct {
		old, now config.Policy
		mtu      int
	}{{wide, narrow, 0}, {config.Policy{}, narrow, 0}, {narrow, config.Policy{}, 0}, {wide, narrow, canlink.ClassicMTU}} {
		w := newWorld(t)
		box := cantest.NewNetns(t)
		hub := port{w.netns, "vcan0"}
		r := boxed("box", box, edit.now)
		r.Endpoint.MTU = edit.mtu
		n, step := cantest.Steps(fmt.Sprint(edit))
		for failed := true; failed; n += step {
			end := w.attachAs("box", box, edit.old, false)
			f := fault{n: n}
			w.host.tap(f.step)
			err := w.attachRequest(r)
			w.unhook()
			if failed = f.called != ""; failed == (err == nil) || n > 100 {
				t.Fatalf("%v, %d: %q failed: %v", edit, n, f.called, err)
			}
			if failed {
				if err := w.checkAs("box", box, edit.old, end.ContIf); err != nil {
					t.Errorf("%v, %d: %s failed: %v", edit, n, f.called, err)
				}
				l, s := cantest.Listen(t, hub.netns, hub.name), cantest.NewSender(t, box, end.ContIf)
				for _, id := range []uint32{0x100, 0x300} {
					if err := s.Send(cantest.Frame{ID: id}); err != nil {
						t.Errorf("%v, %d: %s failed: %v", edit, n, f.called, err)
					}
				}
				s.Close()
				cantest.WaitQuiet(1, l)
				in := cantest.Listen(t, box, end.ContIf)
				fromHub := cantest.NewSender(t, w.netns, "vcan0")
				for _, id := range []uint32{0x200, 0x400} {
					if err := fromHub.Send(cantest.Frame{ID: id}); err != nil {
						t.Fatal(err)
					}
				}
				fromHub.Close()
				cantest.WaitQuiet(1, in)
				if hears := edit.old.Receive != "none"; in.Has(cantest.Frame{ID: 0x200}) != hears || in.Has(cantest.Frame{ID: 0x400}) != (edit.old.Receive == "") {
					t.Errorf("%v, %d: %s failed, and it hears %v", edit, n, f.called, in.InOrder())
				}
				in.Close()
				if !l.Has(cantest.Frame{ID: 0x100}) || l.Has(cantest.Frame{ID: 0x300}) != (edit.old.Send == "") {
					t.Errorf("%v, %d: %s failed, and these pass: %v", edit, n, f.called, l.InOrder())
				}
				l.Close()
				if err := w.attachRequest(r); err != nil {
					t.Errorf("%v, %d: %s failed, and its own ADD: %v", edit, n, f.called, err)
				}
			}
			w.do(func() error { return w.host.Check(context.Background(), r, []string{end.ContIf}) })
		}
		w.expectPolicy(edit.now.Send, port{box, "can0"}, hub)
	}
}

// TestPolicyLost: the record of running containers with policies is lost or damaged. They are never opened: the next ADD of
// another container cuts them off, CHECK says so, and their own ADD makes them as configured.
func TestPolicyLost(t *testing.T) {
	if testing.Short() && !cantest.IsThorough() {
		t.Skip("depends on no kernel")
	}
	for name, damage := range map[string]func(whole string) string{
		"deleted":           nil,
		"cut":               func(whole string) string { return whole[:len(whole)/2] },
		"empty":             func(string) string { return "" },
		"policy unreadable": func(whole string) string { return strings.ReplaceAll(whole, `"send":"100"`, `"send":"1x0"`) },
		"policy missing":    func(whole string) string { return strings.ReplaceAll(whole, `"policy"`, `"police"`) },
		"policy of none":    func(whole string) string { return strings.ReplaceAll(whole, `"send":"100"`, `"send":""`) },
	} {
		for _, moved := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, moved %v", name, moved), func(t *testing.T) {
				w := newWorld(t)
				box := cantest.NewNetns(t)
				policy := config.Policy{Send: "100"}
				end := w.attachAs("box", box, policy, moved)
				hub, contIf := port{w.netns, "vcan0"}, port{box, end.ContIf}
				l, s := cantest.Listen(t, hub.netns, hub.name), cantest.NewSender(t, box, end.ContIf)
				stop, stopped := make(chan bool), make(chan bool)
				go func() {
					defer close(stopped)
					for {
						select {
						case <-stop:
							return
						default:
							_ = s.Send(cantest.Frame{ID: 0x300})
							time.Sleep(time.Millisecond)
						}
					}
				}()
				file := w.recordFile("vcan0")
				if damage == nil {
					if err := os.Remove(file); err != nil {
						t.Fatal(err)
					}
				} else {
					whole, err := os.ReadFile(file)
					if err != nil {
						t.Fatal(err)
					}
					if err := os.WriteFile(file, []byte(damage(string(whole))), 0o600); err != nil {
						t.Fatal(err)
					}
				}
				w.attach("vcan0", "late", w.crowd)
				w.heal("vcan0")
				close(stop)
				<-stopped
				w.expectPolicy("none", contIf, hub)
				w.expectPolicy("none", hub, contIf)
				want := "the record of the policy of test net/box is lost: without it an ADD lets it neither send nor receive: remove the container and start it again"
				if err := w.checkAs("box", box, policy, end.ContIf); err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("CHECK: %v, want %q", err, want)
				}
				if moved {
					s.Close()
					box = cantest.NewNetns(t) // Docker makes a new one
				}
				end = w.attachAs("box", box, policy, moved)
				w.expectPolicy("100", port{box, end.ContIf}, hub)
				w.expectPolicy("all", hub, port{box, end.ContIf})
				if err := w.checkAs("box", box, policy, end.ContIf); err != nil {
					t.Errorf("CHECK after its ADD: %v", err)
				}
				heard, _ := l.Heard()
				for f, n := range heard {
					if f.ID == 0x300 {
						t.Errorf("the hub hears %d of what the container may not send", n)
					}
				}
			})
		}
	}
}

// TestPolicyFiltersDeleted: somebody deletes the filters of a host end. The container cannot send then. It hears all, until
// the next ADD of anything, which is what CHECK says.
func TestPolicyFiltersDeleted(t *testing.T) {
	if testing.Short() && !cantest.IsThorough() {
		t.Skip("depends on no kernel")
	}
	w := newWorld(t)
	box := cantest.NewNetns(t)
	policy := config.Policy{Send: "100", Receive: "200", Rate: 1_000_000}
	end := w.attachAs("box", box, policy, false)
	hub, contIf := port{w.netns, "vcan0"}, port{box, end.ContIf}
	for _, test := range []struct{ command, send, receive, words string }{
		{"tc qdisc del dev HOSTIF clsact", "none", "all", "ingress pref 1 is missing or another one, egress pref 1 is missing or another one, ingress pref 2 is missing or another one, egress pref 2 is missing or another one"},
		{"tc filter del dev HOSTIF ingress pref 1", "none", "200", "ingress pref 1 is missing or another one"},
		{"tc filter del dev HOSTIF ingress pref 2", "100", "200", "ingress pref 2 is missing or another one"},
		{"tc filter del dev HOSTIF egress pref 2", "100", "all", "egress pref 2 is missing or another one"},
		{"ip link del vcan0-tx", "none", "none", "backplane vcan0-tx, vcan0-rx is missing"},
	} {
		w.run(strings.ReplaceAll(test.command, "HOSTIF", end.HostIf))
		w.expectPolicy(test.send, contIf, hub)
		w.expectPolicy(test.receive, hub, contIf)
		err := w.checkAs("box", box, policy, end.ContIf)
		if err == nil || !strings.Contains(err.Error(), test.words) || !strings.Contains(err.Error(), plan.ByAnyAdd) {
			t.Errorf("%s: CHECK: %v, want %q", test.command, err, test.words)
		}
		if _, notices := w.attach("vcan0", "late", w.crowd); !strings.Contains(strings.Join(notices, "\n"), test.words) {
			t.Errorf("%s: the next ADD: %q, want %q", test.command, notices, test.words)
		}
		w.expectPolicy(policy.Send, contIf, hub)
		w.expectPolicy(policy.Receive, hub, contIf)
		if err := w.checkAs("box", box, policy, end.ContIf); err != nil {
			t.Errorf("%s: CHECK after an ADD: %v", test.command, err)
		}
	}
}
