package bus

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/plugins/pkg/ns"

	"github.com/vxcan/vxcan/pkg/cangw"
	"github.com/vxcan/vxcan/pkg/cantc"
	"github.com/vxcan/vxcan/pkg/cantest"
	"github.com/vxcan/vxcan/pkg/config"
	"github.com/vxcan/vxcan/pkg/plan"
)

// TestAttachFails lets every message to the kernel fail in turn, unsent, half done, and done but unanswered: on a new bus
// nothing may be left, and on one that is in use, all must be as before. So must a hub that is somebody else's, and all
// buses of a call for two.
func TestAttachFails(t *testing.T) {
	if testing.Short() {
		t.Skip("many failures of our own, which depend on no kernel")
	}
	cantest.Require(t)
	done := []float64{0, 0.5, 1} // in turn: each message fails in all ways, but not on every kind of bus
	for _, here := range []bool{false, true} {
		for i, before := range []string{"nothing", "a hub", "a neighbour", "two requests"} {
			n, step := cantest.Steps(before)
			for failed := true; failed; n += step {
				f := fault{n: n, done: done[(n+i)%len(done)]}
				t.Run(fmt.Sprintf("here %v, before: %s, %g of message %d", here, before, f.done, n), func(t *testing.T) {
					failed = attachFailingAt(t, f, here, before)
				})
				if n > 100 {
					t.Fatal("no end of messages")
				}
			}
		}
	}
}

// attachFailingAt reports whether Attach got as far as the message of a fault, which failed then.
func attachFailingAt(t *testing.T, f fault, here bool, there string) bool {
	hostNS, neighbour, box := cantest.NewNetns(t), cantest.NewNetns(t), cantest.NewNetns(t)
	dir := t.TempDir()
	sound, breaking := &Host{StateDir: dir}, &Host{StateDir: dir}
	breaking.tap(f.step)
	attach := func(h *Host, id string, netns ns.NetNS, hubs ...string) error {
		var requests []Request
		for i, hub := range hubs {
			r := request(hub, id, netns)
			r.Endpoint.Policy = config.Policy{Send: "100-1FF", Receive: "200", Rate: 10}
			r.Place.Interface, r.Entry, r.Place.Here = fmt.Sprint("can", i), fmt.Sprint(i), here
			requests = append(requests, r)
		}
		_, err := h.Attach(context.Background(), nil, requests...)
		return err
	}
	hubs := []string{"vcan0"}
	var before, after inventory
	err := hostNS.Do(func(ns.NetNS) error {
		switch there {
		case "a hub":
			for _, command := range []string{"link add vcan0 mtu 72 type vcan", "link set vcan0 up"} {
				if out, err := exec.Command("ip", strings.Fields(command)...).CombinedOutput(); err != nil {
					return fmt.Errorf("%w: %s", err, out)
				}
			}
		case "a neighbour":
			if err := attach(sound, "neighbour", neighbour, "vcan0"); err != nil {
				return err
			}
		case "two requests":
			hubs = []string{"vcan1", "vcan0"}
		}
		before = takeInventory(t, dir)
		err := attach(breaking, "box", box, hubs...)
		after = takeInventory(t, dir)
		return err
	})
	if f.called == "" {
		if err != nil {
			t.Errorf("without a failure: %v", err)
		}
		return false
	}
	if !errors.Is(err, errInjected) {
		t.Errorf("%s failed and Attach said %v", f.called, err)
	}
	if !before.equal(after) {
		t.Errorf("%s failed: before %+v, after %+v", f.called, before, after)
	}
	if err := box.Do(func(ns.NetNS) error {
		if left := takeInventory(t, dir).links; !slices.Equal(left, []string{"lo"}) {
			t.Errorf("%s failed, and the container has %v", f.called, left)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return true
}

type inventory struct {
	links, files []string
	tables       string // of nftables
	rules        []cangw.Rule
	filters      []string
}

func (i inventory) equal(j inventory) bool {
	return slices.Equal(i.links, j.links) && slices.Equal(i.rules, j.rules) && slices.Equal(i.files, j.files) && slices.Equal(i.filters, j.filters) && i.tables == j.tables
}

// takeInventory lists what is in the current netns and in the state directory.
func takeInventory(t *testing.T, dir string) inventory {
	t.Helper()
	k, err := new(Host).connect(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer k.close()
	links, err := k.links.List()
	if err != nil {
		t.Fatal(err)
	}
	jobs, err := k.gw.List()
	if err != nil {
		t.Fatal(err)
	}
	var all inventory
	var where []cantc.Hook
	for _, l := range links {
		all.links = append(all.links, l.Name)
		where = append(where, plan.Hooks(l.Index, true)...)
		if strings.HasSuffix(l.Name, "-rx") {
			copies, err := k.tc.List(plan.CopyHooks(l.Index, 0)...)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range copies {
				if e.Handle > 1 { // else it is the host end of a container, whose filters are looked at anyway
					where = append(where, e.Hook)
				}
			}
		}
	}
	filters, err := k.tc.Get(where...)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range filters {
		all.filters = append(all.filters, fmt.Sprint(f.Filter))
	}
	for _, j := range jobs {
		all.rules = append(all.rules, j.Rule)
	}
	if all.files, err = filepath.Glob(dir + "/*/*"); err != nil {
		t.Fatal(err)
	}
	if !cantest.LacksTables() {
		out, err := exec.Command("nft", "-s", "list", "ruleset").CombinedOutput()
		if err != nil {
			t.Fatalf("nft: %v: %s", err, out)
		}
		all.tables = string(out)
	}
	return all
}
