package bus

import (
	"context"
	"fmt"
	"testing"

	"github.com/vxcan/vxcan/pkg/cantest"
	"github.com/vxcan/vxcan/pkg/config"
)

// These tests are about endpoints that neither the name of a device nor the record of the bus that a call names can find. The
// alias can.

// detach is DEL.
func (w *world) detach(hub string, a config.Attachment) {
	w.t.Helper()
	w.do(func() error { return w.host.Detach(context.Background(), hub, a) })
}

// differences are what status says of a bus.
func (w *world) differences(hub string) (words []string) {
	w.t.Helper()
	all, err := w.status(hub)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, d := range all[0].Differences {
		words = append(words, d.What+": "+d.Cure)
	}
	return words
}

// TestDetachEdited: DEL finds an attachment whatever was edited since its ADD, with or without the record, and nothing else. The
// bus that is named and has nothing of it stays as it is.
func TestDetachEdited(t *testing.T) {
	for _, lost := range []bool{false, true} {
		for _, hub := range []string{"vcan0", "vcan1", "vcan9", "", "no/name"} {
			for _, entry := range []string{"", "can7"} {
				t.Run(fmt.Sprintf("record lost %v, hub %q, interface %q", lost, hub, entry), func(t *testing.T) {
					w := newWorld(t)
					r := boxed("box", cantest.NewNetns(t), config.Policy{Send: "100"})
					r.IfName = "eth0"
					second := r
					second.Hub.Name, second.Entry, second.Place.Interface = "bench1", "can1", "can1"
					second.Hub.Transient = true
					other := r // another interface of the container
					other.IfName, other.Place.Interface, other.Endpoint = "eth1", "can2", config.Endpoint{}
					w.do(func() error {
						_, err := w.host.Attach(context.Background(), nil, r, second, other)
						return err
					})
					w.attach("vcan1", "stays", w.crowd)
					if lost {
						w.run("rm -r " + w.host.StateDir)
					}
					first := r.Attachment
					first.Entry = entry
					w.detach(hub, first)
					if hub == "vcan0" && (entry == "" || !lost) { // found there; the runtime calls DEL for the other one, too
						w.detach("bench1", second.Attachment)
					}
					for name, there := range map[string]bool{r.HostIf(): false, second.HostIf(): false, "bench1": false, "bench1-tx": false, other.HostIf(): true, "vcan0": true} {
						if (w.view(name).Index != 0) != there {
							t.Errorf("%s is there: %v", name, !there)
						}
					}
					for _, name := range []string{"vcan0", "vcan1"} {
						if words := w.differences(name); len(words) > 0 {
							t.Errorf("%s: %q", name, words)
						}
					}
					before := w.inventory()
					w.detach(hub, first)
					if after := w.inventory(); !before.equal(after) {
						t.Errorf("DEL again: before %+v, after %+v", before, after)
					}
				})
			}
		}
	}
}

// TestCheckElsewhere: CHECK says that the container is on another bus than the configuration.
func TestCheckElsewhere(t *testing.T) {
	w := newWorld(t)
	w.attach("vcan0", "c0", w.crowd)
	w.attach("vcan1", "c1", w.crowd)
	r := request("vcan1", "c0", w.crowd)
	w.do(func() error {
		err := w.host.Check(context.Background(), r, []string{"can-c0"})
		want := "host end " + r.HostIf() + " is on bus vcan0, and the configuration says vcan1: remove the container and start it again"
		if err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
		return nil
	})
}
