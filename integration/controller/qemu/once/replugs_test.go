package once

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/vxcan/vxcan/integration/harness"
	"github.com/vxcan/vxcan/pkg/cantest"
)

// TestUSBAdapterReplugs: an adapter is unplugged and plugged in again many times while both sides send. The sockets that
// a container had from the start hear every frame that is on the wire while the adapter is plugged in and healed, and each
// of their frames then reaches the wire.
func TestUSBAdapterReplugs(t *testing.T) {
	harness.FreshHost(t)
	adapter := cantest.NewUSBAdapter(t, "slot0", "A1B2C3")
	a := harness.NewContainer(t, "a")
	result, _ := harness.On(a).With(harness.USBSetUpByUs).Add(t)
	inA, fromA, wire := cantest.Listen(t, a.Netns, "can0"), cantest.NewSender(t, a.Netns, "can0"), adapter.Listen()

	var mu sync.Mutex
	next := 0
	stop, ended := make(chan bool), make(chan bool)
	go func() { // traffic that does not care
		defer close(ended)
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
			}
			mu.Lock()
			i := next
			next++
			mu.Unlock()
			if err := adapter.Send(wireFrame(i)); err != nil {
				t.Error(err)
			}
			if err := fromA.Send(containerFrame(i)); err != nil {
				t.Errorf("a container cannot send: %v", err)
			}
		}
	}()
	current := func() int {
		mu.Lock()
		defer mu.Unlock()
		return next
	}
	heardFrom := func(l *cantest.Listener, f cantest.Frame) bool {
		return l.Has(f)
	}
	waitFor := func(what string, ready func() bool) {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); !ready(); time.Sleep(2 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s: not after 10 s", what)
			}
		}
	}
	type span struct{ from, to int }
	var spans []span
	var firsts []time.Duration
	rounds := 10
	if cantest.IsThorough() {
		rounds = 100
	}
	start := time.Now()
	for round := range rounds {
		from := current() + 1
		waitFor("traffic", func() bool { return current() > from+20 })
		to := current() - 1
		waitFor(fmt.Sprint("round ", round, ": the wire's frames"), func() bool { return heardFrom(inA, wireFrame(to)) })
		waitFor(fmt.Sprint("round ", round, ": the container's frames"), func() bool { return heardFrom(wire, containerFrame(to)) })
		spans = append(spans, span{from, to})
		adapter.Unplug()
		before := inA.Total()
		plugged := time.Now()
		adapter.Plug()
		harness.Vxcanctl(t, "heal", "slot0")
		waitFor("a first frame", func() bool { return inA.Total() > before })
		firsts = append(firsts, time.Since(plugged))
	}
	took := time.Since(start)
	close(stop)
	<-ended
	heard, _ := inA.Heard()
	sent, _ := wire.Heard()
	frames := 0
	for _, s := range spans {
		for i := s.from; i <= s.to; i++ {
			frames++
			if heard[wireFrame(i)] != 1 || sent[containerFrame(i)] != 1 {
				t.Errorf("frame %d: heard %d times in the container, %d times on the wire", i, heard[wireFrame(i)], sent[containerFrame(i)])
			}
		}
	}
	for _, all := range []map[cantest.Frame]int{heard, sent} {
		for f, n := range all {
			if n > 1 {
				t.Errorf("%v is heard %d times", f, n)
			}
		}
	}
	if err := harness.On(a).With(harness.USBSetUpByUs).Check(t, result); err != nil {
		t.Error(err)
	}
	ten := slices.Sorted(slices.Values(firsts[:min(10, len(firsts))]))
	slices.Sort(firsts)
	t.Logf("%d replugs in %v, %d frames each way; from plug to the first frame in an old socket: median of 10 %v, of all %v, most %v",
		rounds, took, frames, ten[len(ten)/2], firsts[len(firsts)/2], firsts[len(firsts)-1])
}

func wireFrame(i int) cantest.Frame { return cantest.Frame{ID: 0x200, Data: fmt.Sprintf("%08d", i)} }

func containerFrame(i int) cantest.Frame {
	return cantest.Frame{ID: 0x300, Data: fmt.Sprintf("%08d", i)}
}
