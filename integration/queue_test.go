package integration

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/vxcan/vxcan/pkg/cantest"
)

// TestControllerFair: containers that send more than the wire takes leave a neighbour its place: every frame of one that
// sends little is on the wire, and the others share the rest equally.
func TestControllerFair(t *testing.T) {
	for name, conf := range map[string]string{"one queue for all": onController, "fair-queue": onController + `,"fair-queue":true`, "set up by us": setUpByUs} {
		t.Run(name, func(t *testing.T) {
			freshHost(t)
			controller := cantest.NewController(t, "slot0")
			if conf != setUpByUs {
				setUpController(t, controller, 1000)
			}
			const flooders = 3
			var boxes []*container
			for i := range flooders + 1 {
				box := newContainer(t, fmt.Sprint("c", i))
				on(box).with(conf).add(t)
				boxes = append(boxes, box)
			}
			fair(t, controller, boxes, conf != onController)
		})
	}
}

// fair floods a wire of 180 frames a second from all boxes but the last, which sends ten frames a second.
func fair(t *testing.T, controller *cantest.Controller, boxes []*container, want bool) {
	const wireRate, few, flood = 180, 60, 8 * time.Second
	controller.Pace(wireRate)
	wire := controller.Listen()
	var group sync.WaitGroup
	stop := make(chan bool)
	flooders := boxes[:len(boxes)-1]
	for i, box := range flooders {
		sender := cantest.NewSender(t, box.netns, "can0")
		group.Add(1)
		go func() {
			defer group.Done()
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				case <-time.After(2 * time.Millisecond):
					if err := sender.Send(cantest.Frame{ID: uint32(0x200 + i), Data: fmt.Sprintf("%08d", n)}); err != nil {
						t.Errorf("flooder: %v", err)
						return
					}
				}
			}
		}()
	}
	time.Sleep(flood / 4) // the queues are full
	quiet := cantest.NewSender(t, boxes[len(boxes)-1].netns, "can0")
	for n := range few {
		if err := quiet.Send(cantest.Frame{ID: 0x100, Data: fmt.Sprintf("%08d", n)}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond)
	}
	close(stop)
	group.Wait()
	controller.Pace(cantest.Unlimited)
	cantest.WaitQuiet(1, wire)
	count := make(map[uint32]int)
	for _, f := range wire.InOrder() {
		count[f.ID]++
	}
	t.Logf("on the wire, by ID: %x", count)
	if got := count[0x100]; (got == few) != want {
		t.Errorf("%d of the %d frames of the quiet container are on the wire", got, few)
	}
}
