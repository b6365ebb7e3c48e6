package harness

import (
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/vxcan/vxcan/pkg/cantest"
)

// Few is how many frames the quiet container of FloodAndSend sends.
const Few = 60

// Wire is the other side of a controller.
type Wire interface {
	Pace(framesPerSecond int)
	Listen() *cantest.Listener
}

// FloodAndSend has all containers but the last send far more than the wire takes, and the last one, meanwhile, ten frames a
// second. It returns how many frames of each container are on the wire, by their CAN IDs: 0x200 and up, and 0x100 for the
// last one.
func FloodAndSend(t *testing.T, wire Wire, boxes []*Container) map[uint32]int {
	t.Helper()
	const wireRate, full = 180, 2 * time.Second
	wire.Pace(wireRate)
	listener := wire.Listen()
	var stops []func()
	for i, box := range boxes[:len(boxes)-1] {
		stops = append(stops, Flood(t, box, uint32(0x200+i)))
	}
	time.Sleep(full) // the queues are
	quiet := cantest.NewSender(t, boxes[len(boxes)-1].Netns, "can0")
	var starts [Few]time.Time
	for n := range Few {
		starts[n] = time.Now()
		if err := quiet.Send(cantest.Frame{ID: 0x100, Data: fmt.Sprintf("%08d", n)}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond)
	}
	for _, stop := range stops {
		stop()
	}
	wire.Pace(cantest.Unlimited)
	cantest.WaitQuiet(1, listener)
	sent, waits, times := make(map[uint32]int), []time.Duration{}, listener.Times()
	for i, f := range listener.InOrder() {
		if sent[f.ID]++; f.ID == 0x100 {
			n, err := strconv.Atoi(f.Data)
			if err != nil || n >= Few {
				t.Fatalf("frame %v", f)
			}
			waits = append(waits, times[i].Sub(starts[n]).Round(time.Millisecond))
		}
	}
	t.Logf("on the wire, by ID: %d", sent)
	if slices.Sort(waits); len(waits) > 0 {
		t.Logf("the quiet container's after %v (median), %v at most", waits[len(waits)/2], waits[len(waits)-1])
	}
	return sent
}

// Flood has a container send some 500 frames a second until stop.
func Flood(t *testing.T, box *Container, id uint32) (stop func()) {
	t.Helper()
	sender := cantest.NewSender(t, box.Netns, "can0")
	stopped, done := make(chan bool), make(chan bool)
	go func() {
		defer close(done)
		for n := 0; ; n++ {
			select {
			case <-stopped:
				return
			case <-time.After(2 * time.Millisecond):
				if err := sender.Send(cantest.Frame{ID: id, Data: fmt.Sprintf("%08d", n)}); err != nil {
					t.Errorf("flooder: %v", err)
					return
				}
			}
		}
	}()
	return func() {
		close(stopped)
		<-done
	}
}

// ExpectEqualShares fails the test unless the containers that flood have within a tenth the same number of frames on the
// wire.
func ExpectEqualShares(t *testing.T, sent map[uint32]int) {
	t.Helper()
	least, most := 0, 0
	for id, n := range sent {
		if id == 0x100 {
			continue
		}
		if least == 0 || n < least {
			least = n
		}
		most = max(most, n)
	}
	if (most-least)*10 > most {
		t.Errorf("the shares are %v", sent)
	}
}
