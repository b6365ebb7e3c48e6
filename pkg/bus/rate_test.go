package bus

import (
	"fmt"
	"testing"
	"time"

	"github.com/vxcan/vxcan/pkg/cantc"
	"github.com/vxcan/vxcan/pkg/cantest"
	"github.com/vxcan/vxcan/pkg/config"
	"github.com/vxcan/vxcan/pkg/plan"
)

// TestRate: of 20 times as much as a container may send passes what the rate says, and the rest is counted; of nine tenths
// of it, all passes. What the rate says is reckoned from when each frame was sent, so that a slow machine fails nothing.
func TestRate(t *testing.T) {
	for _, test := range []struct {
		rate, burst uint32
		offered     float64 // times the rate
	}{{100, 10, 20}, {100, 10, 0.9}, {1000, 50, 0.9}} {
		t.Run(fmt.Sprintf("%d, offered %g", test.rate, test.offered), func(t *testing.T) {
			w := newWorld(t)
			box := cantest.NewNetns(t)
			policy := config.Policy{Rate: test.rate, Burst: test.burst}
			end := w.attachAs("box", box, policy, false)
			hub, s := cantest.Listen(t, w.netns, "vcan0"), cantest.NewSender(t, box, end.ContIf)
			time.Sleep(time.Second * time.Duration(test.burst) / time.Duration(test.rate)) // the kernel begins with none of the burst
			const long = 3 * time.Second
			apart := time.Duration(float64(time.Second) / test.offered / float64(test.rate))
			late := time.Second * time.Duration(test.burst) / time.Duration(2*test.rate) // more is not made up for
			sent, expected, bucket := 0, 0, float64(test.burst)
			start := time.Now()
			for due, last := start, start; due.Sub(start) < long; due = due.Add(apart) {
				now := time.Now()
				for ; now.Before(due); now = time.Now() {
					time.Sleep(due.Sub(now))
				}
				if test.offered < 1 && now.Sub(due) > late {
					due = now
				}
				bucket = min(float64(test.burst), bucket+now.Sub(last).Seconds()*float64(test.rate))
				if last = now; bucket >= 1 {
					bucket--
					expected++
				}
				if err := s.Send(cantest.Frame{ID: 0x100, Data: fmt.Sprintf("%08d", sent)}); err != nil {
					t.Fatal(err)
				}
				sent++
			}
			offered := float64(sent) / time.Since(start).Seconds() / float64(test.rate)
			cantest.WaitQuiet(0, hub)
			passed := hub.Total()
			t.Logf("%d sent, %.2f times the rate: %d pass, %d expected", sent, offered, passed, expected)
			if test.offered < 1 && passed != sent {
				t.Errorf("%d of %d frames lost", sent-passed, sent)
			}
			if off := float64(passed-expected) / float64(expected); off > 0.02 || off < -0.02 {
				t.Errorf("%d frames pass, want %d", passed, expected)
			}
			if got := w.packets(end.HostIf)[cantc.Hook{Prio: plan.FirstPrio, Handle: 1}]; got[0] != uint64(sent) || got[1] != uint64(passed) {
				t.Errorf("counted: %d, want %d sent and %d passed", got, sent, passed)
			}
			if err := w.checkAs("box", box, policy, end.ContIf); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestFlood: a container with a policy sends in an endless loop. What others say to each other arrives all the same.
func TestFlood(t *testing.T) {
	for _, p := range []config.Policy{{Rate: 100}, {Send: "none"}} {
		t.Run(p.String(), func(t *testing.T) {
			w := newWorld(t)
			box, a, b := cantest.NewNetns(t), cantest.NewNetns(t), cantest.NewNetns(t)
			end, endA, endB := w.attachAs("box", box, p, false), w.attachAs("a", a, config.Policy{}, false), w.attachAs("b", b, config.Policy{}, false)
			flood := cantest.NewSender(t, box, end.ContIf)
			stop, stopped := make(chan bool), make(chan int)
			go func() {
				for n := 0; ; n++ {
					select {
					case <-stop:
						stopped <- n
						return
					default:
						_ = flood.Send(cantest.Frame{ID: 0x300})
					}
				}
			}()
			var frames []cantest.Frame
			for i := range 2000 {
				frames = append(frames, cantest.Frame{ID: 0x100, Data: fmt.Sprintf("%08d", i)})
			}
			ear, hub, s := cantest.Listen(t, b, endB.ContIf), cantest.Listen(t, w.netns, "vcan0"), cantest.NewSender(t, a, endA.ContIf)
			any := func(cantest.Frame) bool { return true }
			start := time.Now()
			sendInStep(t, s, hub, frames, any)
			took := time.Since(start)
			close(stop)
			t.Logf("%d frames in %v, beside %d of the flood", len(frames), took, <-stopped)
			cantest.WaitQuiet(0, ear, hub)
			tally(t, "another container", ear, frames, any, any)
			tally(t, "hub", hub, frames, any, any)
		})
	}
}
