package bus

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/vxcan/vxcan/integration/harness"
)

// TestRules: n endpoints take exactly 2n+4 rules on an FD bus and n+2 on a classic one, and 2n+2 filters. They are what
// cangw and tc make of the commands.
func TestRules(t *testing.T) {
	for _, bus := range []struct {
		mtu, modes int
	}{{72, 2}, {16, 1}} {
		t.Run(fmt.Sprintf("mtu %d", bus.mtu), func(t *testing.T) {
			harness.FreshHost(t)
			harness.Command(t, "ip", "link", "add", "vcan0", "mtu", fmt.Sprint(bus.mtu), "type", "vcan")
			harness.Command(t, "ip", "link", "set", "vcan0", "up")
			var hostIfs []string
			for n := 1; n <= 5; n++ {
				c := harness.NewContainer(t, fmt.Sprintf("c%d", n))
				result, _ := harness.On(c).Add(t)
				hostIfs = append(hostIfs, harness.HostIf(result))
				if got, want := len(harness.Rules(t)), bus.modes*(n+2); got != want {
					t.Errorf("%d endpoints: %d rules, want %d", n, got, want)
				}
				harness.ExpectWiring(t, bus.mtu == 72, "vcan0", hostIfs...)
				for _, end := range append(c.Links(t), harness.Links(t)...) {
					if (end.Kind == "vcan" || end.Name == "can0" || slices.Contains(hostIfs, end.Name)) && (end.MTU != bus.mtu || !end.Up) {
						t.Errorf("%s: MTU %d, up %v; want MTU %d, up", end.Name, end.MTU, end.Up, bus.mtu)
					}
				}
			}
			t.Logf("5 endpoints, %d rules, %d filters", len(harness.Rules(t)), len(harness.Filters(t)))
			expectSameAsReference(t, bus.mtu == 72, hostIfs)
		})
	}
}

// expectSameAsReference makes the same rules with cangw and the same filters with tc, between devices of the same names and
// indexes in another netns, and fails the test unless both netns list the same.
func expectSameAsReference(t *testing.T, fd bool, hostIfs []string) {
	t.Helper()
	reference := harness.NewContainer(t, "reference")
	for _, l := range harness.Links(t) {
		if l.Kind == "vcan" || l.Kind == "vxcan" {
			harness.Command(t, "ip", "-netns", reference.ID, "link", "add", l.Name, "index", fmt.Sprint(l.Index), "type", "vcan")
		}
	}
	for _, name := range append([]string{"vcan0"}, hostIfs...) {
		harness.Command(t, "tc", "-netns", reference.ID, "qdisc", "add", "dev", name, "clsact")
	}
	for _, line := range append(harness.WantRules(fd, "vcan0", hostIfs...), harness.WantFilters(t, "vcan0", hostIfs...)...) {
		args := []string{"netns", "exec", reference.ID}
		for _, word := range strings.Fields(line) {
			if strings.Contains(word, ",") { // a program
				word = strings.ReplaceAll(word, "_", " ")
			}
			args = append(args, word)
		}
		harness.Command(t, "ip", args...)
	}
	listing, _ := harness.Try("ip", "netns", "exec", reference.ID, "cangw", "-L")
	harness.ExpectLines(t, "gateway rules", harness.Rules(t), harness.SortedRules(listing))
	theirs, err := harness.FiltersIn(t, "-netns", reference.ID)
	if err != nil {
		t.Fatal(err)
	}
	harness.ExpectLines(t, "filters", harness.Filters(t), theirs)
}

// TestTwoBuses: different hubs never hear each other, networks on one hub do, and a container may be on both.
func TestTwoBuses(t *testing.T) {
	harness.FreshHost(t)
	a, b, both := harness.NewContainer(t, "a"), harness.NewContainer(t, "b"), harness.NewContainer(t, "both")
	harness.On(a).Add(t)
	other := harness.On(b).With(`"name":"canbus1","hub":"vcan1"`)
	other.Add(t)
	harness.On(both).Add(t)
	// A second network on the first hub, and one on the second, in one container.
	second := harness.Call{ContainerID: both.ID, Netns: both.Path, IfName: "eth1"}.With(`"name":"canbus1","hub":"vcan1","interface":"can1"`)
	second.Add(t)
	shared := harness.NewContainer(t, "shared")
	harness.On(shared).With(`"name":"another"`).Add(t)

	harness.ExpectExactlyOnce(t, []harness.Station{harness.Host("vcan0"), a.On("can0"), both.On("can0"), shared.On("can0")}, 20, true)
	harness.ExpectExactlyOnce(t, []harness.Station{harness.Host("vcan1"), b.On("can0"), both.On("can1")}, 20, true)

	second.OK(t, "DEL")
	harness.ExpectExactlyOnce(t, []harness.Station{harness.Host("vcan0"), a.On("can0"), both.On("can0")}, 5, true)
	if names := both.Links(t); slices.ContainsFunc(names, func(l harness.Link) bool { return l.Name == "can1" }) {
		t.Errorf("can1 is still in the container after DEL: %v", names)
	}
}
