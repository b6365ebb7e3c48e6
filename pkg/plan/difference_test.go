package plan

import (
	"slices"
	"strings"
	"testing"

	"github.com/vxcan/vxcan/pkg/canlink"
	"github.com/vxcan/vxcan/pkg/config"
)

// TestSummary: what is done about each kind of damage has words, and the words for many are a number.
func TestSummary(t *testing.T) {
	for i, d := range damages {
		if d.after != repaired || d.kind == "" || d.kind == HubTransient {
			continue
		}
		tried := false
		for _, newHost := range hubs {
			h := newHost()
			if !populate(t, h, asks["to send nothing"], 3) || !d.do(h) { // which has no filter at one of its hooks
				continue
			}
			tried = true
			var done []Difference
			for range 3 { // as mend: devices first, and then what they need
				all := h.differences()
				for _, d := range all {
					if d.Change.TouchesDevices() || d.Change.Repairs() {
						done = append(done, d)
					}
				}
				h.apply(all)
			}
			if words := Summary(done); len(words) == 0 || strings.Contains(strings.Join(words, ","), " 0 ") {
				t.Errorf("damage %d (%s): %q", i, d.kind, words)
			}
		}
		if !tried {
			t.Errorf("damage %d (%s): not tried", i, d.kind)
		}
	}
	h := hubs["own"]()
	populate(t, h, asks["nothing"], 2)
	h.remove(h.link("vcan0").Index)
	h.link(h.records[0].HostIf()).Up = false
	devices := h.differences()
	h.apply(devices)
	devices = slices.DeleteFunc(devices, func(d Difference) bool { return !d.Change.TouchesDevices() }) // the rest comes behind them
	const want = "made the hub again, set 1 host end up, set 2 filters, added 4 rules"
	if got := strings.Join(Summary(append(devices, h.differences()...)), ", "); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// TestAgain: who attached an endpoint can attach it again.
func TestAgain(t *testing.T) {
	for runtime, want := range map[string]string{
		"cni":              byThisAdd,
		config.HostRuntime: "attach it again with all its keys, vxcanctl attach vcan0 --netns NETNS --interface can1",
	} {
		h := newHost(config.Hub{Name: "vcan0"})
		r := Record{Attachment: config.Attachment{Runtime: runtime, Network: "vcan0", ContainerID: "4026532190", IfName: "can1"}, Ask: Ask{Hub: h.hub}}
		h.addLink(canlink.Link{Name: r.HostIf(), Kind: canlink.Vxcan, MTU: canlink.FDMTU, Up: true, PeerElsewhere: true, PeerIndex: 2, Alias: Alias(h.hub, r.Attachment, config.Policy{Send: "100"})})
		if err := h.mend(); err != nil {
			t.Fatal(err)
		}
		if all := h.differences(); len(all) != 1 || all[0].Kind != PolicyLost || all[0].Cure != want {
			t.Errorf("%s: %v, want %q", runtime, all, want)
		}
	}
}
