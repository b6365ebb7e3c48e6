package integration

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// TestRules: n endpoints take exactly 2n+4 rules on an FD bus and n+2 on a classic one, and 2n+2 filters. They are what
// cangw and tc make of the commands.
func TestRules(t *testing.T) {
	for _, bus := range []struct {
		mtu, modes int
	}{{72, 2}, {16, 1}} {
		t.Run(fmt.Sprintf("mtu %d", bus.mtu), func(t *testing.T) {
			freshHost(t)
			command(t, "ip", "link", "add", "vcan0", "mtu", fmt.Sprint(bus.mtu), "type", "vcan")
			command(t, "ip", "link", "set", "vcan0", "up")
			var hostIfs []string
			for n := 1; n <= 5; n++ {
				c := newContainer(t, fmt.Sprintf("c%d", n))
				result, _ := on(c).add(t)
				hostIfs = append(hostIfs, hostIf(result))
				if got, want := len(rules(t)), bus.modes*(n+2); got != want {
					t.Errorf("%d endpoints: %d rules, want %d", n, got, want)
				}
				expectWiring(t, bus.mtu == 72, "vcan0", hostIfs...)
				for _, end := range append(c.links(t), links(t)...) {
					if (end.Kind == "vcan" || end.Name == "can0" || slices.Contains(hostIfs, end.Name)) && (end.MTU != bus.mtu || !end.Up) {
						t.Errorf("%s: MTU %d, up %v; want MTU %d, up", end.Name, end.MTU, end.Up, bus.mtu)
					}
				}
			}
			t.Logf("5 endpoints, %d rules, %d filters", len(rules(t)), len(filters(t)))
			expectSameAsReference(t, bus.mtu == 72, hostIfs)
		})
	}
}

// expectSameAsReference makes the same rules with cangw and the same filters with tc, between devices of the same names and
// indexes in another netns, and fails the test unless both netns list the same.
func expectSameAsReference(t *testing.T, fd bool, hostIfs []string) {
	t.Helper()
	reference := newContainer(t, "reference")
	for _, l := range links(t) {
		if l.Kind == "vcan" || l.Kind == "vxcan" {
			command(t, "ip", "-netns", reference.id, "link", "add", l.Name, "index", fmt.Sprint(l.Index), "type", "vcan")
		}
	}
	for _, name := range append([]string{"vcan0"}, hostIfs...) {
		command(t, "tc", "-netns", reference.id, "qdisc", "add", "dev", name, "clsact")
	}
	for _, line := range append(wantRules(fd, "vcan0", hostIfs...), wantFilters(t, "vcan0", hostIfs...)...) {
		args := []string{"netns", "exec", reference.id}
		for _, word := range strings.Fields(line) {
			if strings.Contains(word, ",") { // a program
				word = strings.ReplaceAll(word, "_", " ")
			}
			args = append(args, word)
		}
		command(t, "ip", args...)
	}
	listing, _ := try("ip", "netns", "exec", reference.id, "cangw", "-L")
	expectLines(t, "gateway rules", rules(t), sortedRules(listing))
	theirs, err := filtersIn(t, "-netns", reference.id)
	if err != nil {
		t.Fatal(err)
	}
	expectLines(t, "filters", filters(t), theirs)
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
	expectLines(t, "gateway rules", rules(t), merge(wantRules(true, "vcan0", hostIf(fdResult)), wantRules(false, "vcan0", hostIf(classicResult))))
	expectLines(t, "filters", filters(t), wantFilters(t, "vcan0", hostIf(fdResult), hostIf(classicResult)))
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
	expectWiring(t, false, "vcan0", hostIf(result))

	// A network with physical and one without it share the hub.
	other := on(newContainer(t, "other")).with(`"physical":true,"name":"other"`)
	otherResult, log := other.add(t)
	_, again := on(c).add(t)
	if strings.Contains(log+again, "repaired") {
		t.Errorf("one network repairs what the other one made: %s%s", log, again)
	}
	expectWiring(t, false, "vcan0", hostIf(result), hostIf(otherResult))
	if err := errors.Join(on(c).check(t, result), other.check(t, otherResult)); err != nil {
		t.Error(err)
	}
	other.ok(t, "DEL")
	on(c).ok(t, "DEL")

	// A vxcan end is also a CAN device that is not vcan, and does CAN FD, which slcan does not. Its wire is the other end.
	wire := newContainer(t, "wire")
	command(t, "ip", "link", "add", "slot0", "mtu", "72", "type", "vxcan", "peer", "name", "slot1", "mtu", "72", "netns", "wire")
	command(t, "ip", "link", "set", "slot0", "up")
	command(t, "ip", "-netns", "wire", "link", "set", "slot1", "up")
	controller := on(c).with(`"hub":"slot0","physical":true`)
	controller.add(t)
	expectExactlyOnce(t, []station{{"wire", wire.netns, "slot1"}, {"c", c.netns, "can0"}}, 20, true)
	controller.ok(t, "DEL")

	on(c).with(`"hub":"lo"`).fails(t, "ADD", 7, "lo", "not a CAN device")
	// Of an earlier vxcan, that took a controller's name for that of a vcan.
	command(t, "ip", "link", "add", "can0", "type", "vcan")
	command(t, "ip", "link", "set", "can0", "alias", "vxcan hub")
	on(c).with(`"hub":"can0","physical":true,"bitrate":500000`).fails(t, "ADD", 7, "hub can0 is a vcan that vxcan made, not a controller", "ip link delete can0")
	for _, name := range []string{"vcan0", "slot0"} {
		if !slices.Contains(canLinks(t), name) {
			t.Errorf("%s was deleted", name)
		}
	}
}

// TestIngressQdisc: an ingress qdisc of another program on the hub takes filters of one direction only. The hub is refused,
// with what helps, and not wired wrongly.
func TestIngressQdisc(t *testing.T) {
	freshHost(t)
	c := newContainer(t, "c")
	command(t, "ip", "link", "add", "vcan0", "mtu", "72", "type", "vcan")
	command(t, "ip", "link", "set", "vcan0", "up")
	command(t, "tc", "qdisc", "add", "dev", "vcan0", "ingress")
	on(c).fails(t, "ADD", 7, "vcan0", "ingress", "clsact")
	if got := canLinks(t); !slices.Equal(got, []string{"vcan0"}) {
		t.Errorf("left behind: %v", got)
	}
	command(t, "tc", "qdisc", "del", "dev", "vcan0", "ingress")
	result, _ := on(c).add(t)
	expectWiring(t, true, "vcan0", hostIf(result))

	// The same with filters that other devices share.
	const words, cure = "the filters of vcan0 are in a block that it shares with other devices", "tc qdisc del dev vcan0 clsact"
	for range 2 {
		command(t, "sh", "-ec", cure+"; tc qdisc add dev vcan0 ingress_block 7 clsact")
		on(newContainer(t, "b")).fails(t, "ADD", 7, words, cure)
		command(t, "ip", "netns", "del", "b")
		if _, log, status := control(t, nil, "heal"); status != 1 || !strings.Contains(log, words) {
			t.Errorf("heal: exit status %d, %s", status, log)
		}
	}
	if err := on(c).check(t, result); err == nil || strings.Contains(err.Error(), "bytes") {
		t.Errorf("CHECK: %v", err)
	}
	if shown := wrongWith(t, "vcan0"); !strings.Contains(shown, "vcan0") || strings.Contains(shown, "bytes") {
		t.Errorf("status: %s", shown)
	}
	command(t, "sh", "-ec", cure)
	vxcanctl(t, "heal")
	expectWiring(t, true, "vcan0", hostIf(result))
}
