package bus

import (
	"context"
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"

	"github.com/vxcan/vxcan/pkg/cantest"
	"github.com/vxcan/vxcan/pkg/config"
)

// TestTraffic: frames flow while the same ADDs are repeated, others come and go, and everybody is checked.
func TestTraffic(t *testing.T) {
	w := newWorld(t)
	a, b := cantest.NewNetns(t), cantest.NewNetns(t)
	endA, _ := w.attach("vcan0", "a", a)
	endB, _ := w.attach("vcan0", "b", b)
	listeners := []*cantest.Listener{cantest.Listen(t, b, endB.ContIf), cantest.Listen(t, w.netns, "vcan0")}
	sender := cantest.NewSender(t, a, endA.ContIf)
	stop, sent := make(chan bool), make(chan int)
	go func() {
		for n := 0; ; n++ {
			select {
			case <-stop:
				sent <- n
				return
			default:
			}
			if err := sender.Send(cantest.Frame{ID: 0x100, Data: fmt.Sprint(n)}); err != nil {
				t.Errorf("send %d: %v", n, err)
			}
			time.Sleep(300 * time.Microsecond)
		}
	}()
	for i := range 60 {
		w.attach("vcan0", "a", a)
		w.attach("vcan0", "b", b)
		if i%5 == 0 {
			w.attach("vcan0", fmt.Sprint("c", i), w.crowd)
		}
		if i%5 == 3 {
			w.do(func() error {
				return w.host.Detach(context.Background(), "vcan0", request("vcan0", fmt.Sprint("c", i-3), w.crowd).Attachment)
			})
		}
		if i%10 == 0 {
			w.do(func() error {
				_, err := w.here("private")
				return err
			})
		}
	}
	close(stop)
	n := <-sent
	cantest.WaitQuiet(2*n, listeners...)
	for i, l := range listeners {
		foreign, _ := l.Heard()
		lost, doubled := 0, 0
		for k := range n {
			switch c := foreign[cantest.Frame{ID: 0x100, Data: fmt.Sprint(k)}]; {
			case c == 0:
				lost++
			case c > 1:
				doubled++
			}
		}
		t.Logf("listener %d: %d sent, %d lost, %d doubled", i, n, lost, doubled)
		if lost+doubled > 0 {
			t.Errorf("listener %d: %d lost, %d doubled", i, lost, doubled)
		}
	}
}

func TestThousand(t *testing.T) {
	w := newWorld(t)
	w.host.Notice = nil
	members := 250
	if cantest.IsThorough() {
		members = 1000
	}
	w.attach("vcan1", "x", w.crowd)
	start := time.Now()
	for i := range members {
		before := time.Now()
		w.do(func() error {
			r := request("vcan0", fmt.Sprint("c", i), w.crowd)
			r.Place.Interface = fmt.Sprint("k", i)
			_, err := w.host.Attach(context.Background(), nil, r)
			return err
		})
		if i%200 == 0 || i == members-1 {
			t.Logf("ADD %d: %v", i, time.Since(before))
		}
	}
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	alloc := m.TotalAlloc
	t.Logf("%d ADDs %v", members, time.Since(start))
	w.attach("vcan0", "late", w.crowd)
	runtime.ReadMemStats(&m)
	t.Logf("one ADD allocates %d KiB", (m.TotalAlloc-alloc)>>10)
	start = time.Now()
	w.do(func() error {
		return w.host.Detach(context.Background(), "vcan0", request("vcan0", "late", w.crowd).Attachment)
	})
	t.Logf("DEL %v", time.Since(start))
	start = time.Now()
	w.do(func() error {
		return w.host.Collect(context.Background(), func(a config.Attachment, left bool) bool { return false })
	})
	t.Logf("Collect of nothing %v", time.Since(start))
	start = time.Now()
	w.attach("vcan1", "y", w.crowd)
	t.Logf("ADD to the other bus %v", time.Since(start))
	stop, done := make(chan bool), make(chan int)
	go func() { // another bus is busy
		h := Host{StateDir: w.host.StateDir}
		n := 0
		for ; ; n++ {
			select {
			case <-stop:
				done <- n
				return
			default:
			}
			_ = w.netns.Do(func(ns.NetNS) error {
				r := request("vcan1", "busy", w.crowd)
				_, err := h.Attach(context.Background(), nil, r)
				if err == nil {
					err = h.Detach(context.Background(), "vcan1", r.Attachment)
				}
				if err != nil {
					t.Error(err)
				}
				return nil
			})
		}
	}()
	start = time.Now()
	for i := range 20 {
		w.attach("vcan0", fmt.Sprint("late", i), w.crowd)
	}
	t.Logf("20 ADDs while another bus is busy %v", time.Since(start))
	close(stop)
	t.Logf("%d there", <-done)
}
