package plan

import (
	"slices"
	"strings"
	"testing"
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
