package integration

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// TestRules: n endpoints take exactly 4n+4 rules on an FD bus and 2n+2 on a classic one, and they are what cangw itself
// makes of the commands.
func TestRules(t *testing.T) {
	for _, bus := range []struct {
		mtu, perMember int
	}{{72, 4}, {16, 2}} {
		t.Run(fmt.Sprintf("mtu %d", bus.mtu), func(t *testing.T) {
			freshHost(t)
			command(t, "ip", "link", "add", "vcan0", "mtu", fmt.Sprint(bus.mtu), "type", "vcan")
			command(t, "ip", "link", "set", "vcan0", "up")
			var hostIfs []string
			for n := 1; n <= 5; n++ {
				c := newContainer(t, fmt.Sprintf("c%d", n))
				result, _ := on(c).add(t)
				hostIfs = append(hostIfs, hostIf(result))
				if got, want := len(rules(t)), bus.perMember*(n+1); got != want {
					t.Errorf("%d endpoints: %d rules, want %d", n, got, want)
				}
				expectRules(t, bus.mtu == 72, "vcan0", hostIfs...)
				for _, end := range append(c.links(t), links(t)...) {
					if (end.Kind == "vcan" || end.Name == "can0" || slices.Contains(hostIfs, end.Name)) && (end.MTU != bus.mtu || !end.Up) {
						t.Errorf("%s: MTU %d, up %v; want MTU %d, up", end.Name, end.MTU, end.Up, bus.mtu)
					}
				}
			}
			t.Logf("5 endpoints, %d rules", len(rules(t)))
			expectSameAsCangw(t, bus.mtu == 72, hostIfs)
		})
	}
}

// expectSameAsCangw makes the same rules with cangw, between devices of the same names in another netns, and fails the
// test unless both netns list the same.
func expectSameAsCangw(t *testing.T, fd bool, hostIfs []string) {
	t.Helper()
	reference := newContainer(t, "reference")
	for _, name := range append([]string{"vcan0", "vcan0-tx", "vcan0-rx"}, hostIfs...) {
		command(t, "ip", "-netns", reference.id, "link", "add", name, "type", "vcan")
	}
	for _, rule := range wantRules(fd, "vcan0", hostIfs...) {
		command(t, "ip", append([]string{"netns", "exec", reference.id}, strings.Fields(rule)...)...)
	}
	listing, _ := try("ip", "netns", "exec", reference.id, "cangw", "-L")
	if got, want := rules(t), sortedRules(listing); !slices.Equal(got, want) {
		t.Errorf("rules:\n%s\ncangw's own:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestMaxHops: guides tell people to load can-gw with more hops. A frame must arrive exactly once then, too, and not go
// round for ever.
func TestMaxHops(t *testing.T) {
	if os.Getenv("VXCAN_VM") != "booted" {
		t.Skip("loads can-gw with another parameter: needs a kernel of its own (bin/vm -boot)")
	}
	freshHost(t)
	load := func(parameters ...string) {
		command(t, "modprobe", "--remove", "can-gw")
		command(t, "modprobe", append([]string{"can-gw"}, parameters...)...)
	}
	t.Cleanup(func() { load() })
	for _, hops := range []string{"2", "6"} {
		load("max_hops=" + hops)
		stations := []station{{"host", nil, "vcan0"}}
		for _, name := range []string{"a", "b"} {
			c := newContainer(t, name+hops)
			on(c).add(t)
			stations = append(stations, station{name, c.netns, "can0"})
		}
		expectExactlyOnce(t, stations, 5, true)
	}
}

// TestMTUOrder: networks with different MTUs share a hub, whichever comes first.
func TestMTUOrder(t *testing.T) {
	for _, order := range [][]int{{16, 72}, {72, 16}} {
		freshHost(t)
		stations := []station{{"host", nil, "vcan0"}}
		for _, mtu := range order {
			c := newContainer(t, fmt.Sprint("mtu", mtu))
			on(c).with(fmt.Sprintf(`"name":"net%d","mtu":%d`, mtu, mtu)).add(t)
			stations = append(stations, station{c.id, c.netns, "can0"})
		}
		expectExactlyOnce(t, stations, 5, false)
		for _, c := range stations[1:] {
			command(t, "ip", "netns", "del", c.name)
		}
	}
}

// TestMixedMTU: a classic endpoint on an FD bus takes no FD rules.
func TestMixedMTU(t *testing.T) {
	freshHost(t)
	fd, classic := newContainer(t, "fd"), newContainer(t, "classic")
	fdResult, _ := on(fd).add(t)
	classicResult, _ := on(classic).with(`"mtu":16`).add(t)
	want := append(wantRules(true, "vcan0", hostIf(fdResult)), wantRules(false, "vcan0", hostIf(classicResult))...)
	slices.Sort(want)
	want = slices.Compact(want) // the hub's
	if got := rules(t); !slices.Equal(got, want) {
		t.Errorf("rules:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	expectExactlyOnce(t, []station{{"host", nil, "vcan0"}, {"fd", fd.netns, "can0"}, {"classic", classic.netns, "can0"}}, 10, false)
}

// TestTwoBuses: different hubs never hear each other, networks on one hub do, and a container may be on both.
func TestTwoBuses(t *testing.T) {
	freshHost(t)
	a, b, both := newContainer(t, "a"), newContainer(t, "b"), newContainer(t, "both")
	on(a).add(t)
	other := on(b).with(`"name":"canbus1","hub":"vcan1"`)
	other.add(t)
	on(both).add(t)
	// A second network on the first hub, and one on the second, in one container.
	second := call{containerID: both.id, netns: both.path, ifName: "eth1"}.with(`"name":"canbus1","hub":"vcan1","interface":"can1"`)
	second.add(t)
	shared := newContainer(t, "shared")
	on(shared).with(`"name":"another"`).add(t)

	expectExactlyOnce(t, []station{{"host", nil, "vcan0"}, {"a", a.netns, "can0"}, {"both", both.netns, "can0"}, {"shared", shared.netns, "can0"}}, 20, true)
	expectExactlyOnce(t, []station{{"host", nil, "vcan1"}, {"b", b.netns, "can0"}, {"both", both.netns, "can1"}}, 20, true)

	second.ok(t, "DEL")
	expectExactlyOnce(t, []station{{"host", nil, "vcan0"}, {"a", a.netns, "can0"}, {"both", both.netns, "can0"}}, 5, true)
	if names := both.links(t); slices.ContainsFunc(names, func(l link) bool { return l.Name == "can1" }) {
		t.Errorf("can1 is still in the container after DEL: %v", names)
	}
}

// TestExistingHub: a vcan that is there is used and never deleted or changed. TestController is the same for controllers.
func TestExistingHub(t *testing.T) {
	freshHost(t)
	c := newContainer(t, "c")
	command(t, "ip", "link", "add", "vcan0", "mtu", "16", "type", "vcan")

	on(c).fails(t, "ADD", 11, "vcan0", "down", "ip link set vcan0 up")
	command(t, "ip", "link", "set", "vcan0", "up")
	on(c).with(`"mtu":72`).fails(t, "ADD", 7, "mtu 72", "MTU 16")
	if got := canLinks(t); !slices.Equal(got, []string{"vcan0"}) {
		t.Errorf("after failed ADDs: %v", got)
	}
	result, _ := on(c).add(t)
	expectRules(t, false, "vcan0", hostIf(result))
	on(c).ok(t, "DEL")

	// A vxcan end is also a CAN device that is not vcan, and does CAN FD, which slcan does not. Its wire is the other end,
	// which has the same ifindex, because what a controller receives carries the controller's own.
	wire := newContainer(t, "wire")
	command(t, "ip", "link", "add", "slot0", "index", "5000", "mtu", "72", "type", "vxcan",
		"peer", "name", "slot1", "mtu", "72", "netns", "wire", "index", "5000")
	command(t, "ip", "link", "set", "slot0", "up")
	command(t, "ip", "-netns", "wire", "link", "set", "slot1", "up")
	controller := on(c).with(`"hub":"slot0","physical":true`)
	controller.add(t)
	expectExactlyOnce(t, []station{{"wire", wire.netns, "slot1"}, {"c", c.netns, "can0"}}, 20, true)
	controller.ok(t, "DEL")

	on(c).with(`"hub":"lo"`).fails(t, "ADD", 7, "lo", "not a CAN device")
	for _, name := range []string{"vcan0", "slot0"} {
		if !slices.Contains(canLinks(t), name) {
			t.Errorf("%s was deleted", name)
		}
	}
}
