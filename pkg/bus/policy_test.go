package bus

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"
	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/cantc"
	"github.com/vxcan/vxcan/pkg/cantest"
)

// Two lists that have something in common.
const (
	listA = "100-11F,130,140:7F0,18FE0000-18FE7FFF,18FF0000:1FFF0000,00000123,7FF,055,056"
	listB = "110-17F,18FE4000-18FEFFFF,00000123,7FF,050-055"
)

// attachAs puts a container on vcan0 with a policy; moved is the way of Docker up to 27.
func (w *world) attachAs(id string, netns ns.NetNS, p Policy, moved bool) (result Result) {
	w.t.Helper()
	r := request("vcan0", id, netns)
	r.Policy = p
	w.do(func() error {
		if moved {
			var err error
			result, err = w.host.AttachHere(context.Background(), r.Spec, r.Attachment)
			return err
		}
		results, err := w.host.Attach(context.Background(), r)
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
func (w *world) checkAs(id string, netns ns.NetNS, p Policy, contIf string) (err error) {
	w.t.Helper()
	r := request("vcan0", id, netns)
	r.Policy = p
	w.do(func() error {
		err = w.host.Check(context.Background(), r.Spec, r.Attachment, []string{contIf}, netns.Path())
		return nil
	})
	return err
}

// packets is how many frames each action of the filters of a host end has seen. The device is left out of the hooks.
func (w *world) packets(hostIf string) map[cantc.Hook][]uint64 {
	w.t.Helper()
	counts := make(map[cantc.Hook][]uint64)
	w.do(func() error {
		k, err := dialKernel()
		if err != nil {
			return err
		}
		defer k.Close()
		links, err := k.Links(hostIf)
		if err != nil {
			return err
		}
		filters, err := k.Filters(hooks(links[0].Index, true)...)
		for _, f := range filters {
			f.Hook.Dev = 0
			counts[f.Hook] = f.Packets
		}
		return err
	})
	return counts
}

// The filters that count what is denied.
var (
	deniedToSend = cantc.Hook{Dir: cantc.Ingress, Prio: secondPrio}
	deniedToHear = cantc.Hook{Dir: cantc.Egress, Prio: secondPrio}
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

func mustParse(t testing.TB, text string) cantc.IDs {
	t.Helper()
	ids, err := cantc.ParseIDs(text)
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

func contains(lists ...cantc.IDs) func(cantest.Frame) bool {
	return func(f cantest.Frame) bool {
		return !slices.ContainsFunc(lists, func(ids cantc.IDs) bool { return !ids.Contains(f.ID) })
	}
}

// TestPolicyFrames: of 10 000 frames of all kinds, those in the list pass, each once, and the others are counted. Sent by
// the container with the policy and heard by it, however its runtime attaches it.
func TestPolicyFrames(t *testing.T) {
	for _, moved := range []bool{false, true} {
		t.Run(fmt.Sprintf("moved %v", moved), func(t *testing.T) {
			w := newWorld(t)
			box, other := cantest.NewNetns(t), cantest.NewNetns(t)
			end := w.attachAs("box", box, Policy{Send: listA, Receive: listA}, moved)
			free := w.attachAs("free", other, Policy{}, !moved)
			in, noError := contains(mustParse(t, listA)), func(f cantest.Frame) bool { return f.ID&unix.CAN_ERR_FLAG == 0 }
			random := rand.New(rand.NewPCG(12, 0))
			var frames []cantest.Frame
			for i := range 10_000 {
				frames = append(frames, mixedFrame(random, i))
			}
			hub, ear := cantest.Listen(t, w.netns, "vcan0"), cantest.Listen(t, other, free.ContIf)
			sendInStep(t, cantest.NewSender(t, box, end.ContIf), hub, frames, in)
			cantest.WaitQuiet(0, hub, ear)
			passed := tally(t, "hub", hub, frames, in, in)
			tally(t, "another container", ear, frames, in, in)
			if got, want := w.packets(end.HostIf)[deniedToSend][0], len(frames)-passed; got != uint64(want) {
				t.Errorf("%d frames counted that it may not send, want %d", got, want)
			}
			hub.Close()
			ear.Close()

			hub, ear = cantest.Listen(t, w.netns, "vcan0"), cantest.Listen(t, box, end.ContIf)
			sendInStep(t, cantest.NewSender(t, other, free.ContIf), hub, frames, noError)
			cantest.WaitQuiet(0, hub, ear)
			all := tally(t, "hub", hub, frames, noError, noError)
			passed = tally(t, "the container", ear, frames, in, in)
			if got, want := w.packets(end.HostIf)[deniedToHear][0], all-passed; got != uint64(want) {
				t.Errorf("%d frames counted that it may not hear, want %d", got, want)
			}
			if err := w.checkAs("box", box, Policy{Send: listA, Receive: listA}, end.ContIf); err != nil {
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
			policy := func(list string) Policy {
				if direction == "send" {
					return Policy{Send: list}
				}
				return Policy{Receive: list}
			}
			end, free := w.attachAs("box", box, policy(listA), false), w.attachAs("free", other, Policy{}, false)
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
			for i := range 20 {
				list := []string{listB, listA}[i%2]
				if again := w.attachAs("box", box, policy(list), false); again.ContIf != end.ContIf || len(again.made) > 0 {
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
	policies := []Policy{{}, {Send: "100"}, {Send: "none", Receive: "100"}, {Rate: 1_000_000}, {Send: "200", Rate: 1_000_000, Burst: 7}, {Receive: "none"}, {}}
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
