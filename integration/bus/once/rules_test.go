package once

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/vxcan/vxcan/integration/harness"
)

// TestMaxHops: guides tell people to load can-gw with more hops. A frame must arrive exactly once then, too, and not go
// round for ever.
func TestMaxHops(t *testing.T) {
	if os.Getenv("VXCAN_VM") != "booted" {
		t.Skip("loads can-gw with another parameter: needs a kernel of its own (bin/vm -boot)")
	}
	harness.FreshHost(t)
	load := func(parameters ...string) {
		harness.Command(t, "modprobe", "--remove", "can-gw")
		harness.Command(t, "modprobe", append([]string{"can-gw"}, parameters...)...)
	}
	t.Cleanup(func() { load() })
	for _, hops := range []string{"2", "6"} {
		load("max_hops=" + hops)
		stations := []harness.Station{harness.Host("vcan0")}
		for _, name := range []string{"a", "b"} {
			c := harness.NewContainer(t, name+hops)
			harness.On(c).Add(t)
			stations = append(stations, c.On("can0"))
		}
		harness.ExpectExactlyOnce(t, stations, 5, true)
	}
}

// TestMTUOrder: networks with different MTUs share a hub, whichever comes first.
func TestMTUOrder(t *testing.T) {
	for _, order := range [][]int{{16, 72}, {72, 16}} {
		harness.FreshHost(t)
		stations := []harness.Station{harness.Host("vcan0")}
		for _, mtu := range order {
			c := harness.NewContainer(t, fmt.Sprint("mtu", mtu))
			harness.On(c).With(fmt.Sprintf(`"name":"net%d","mtu":%d`, mtu, mtu)).Add(t)
			stations = append(stations, c.On("can0"))
		}
		harness.ExpectExactlyOnce(t, stations, 5, false)
		for _, c := range stations[1:] {
			harness.Command(t, "ip", "netns", "del", c.Name)
		}
	}
}

// TestMixedMTU: a classic endpoint on an FD bus takes no FD rules.
func TestMixedMTU(t *testing.T) {
	harness.FreshHost(t)
	fd, classic := harness.NewContainer(t, "fd"), harness.NewContainer(t, "classic")
	fdResult, _ := harness.On(fd).Add(t)
	classicResult, _ := harness.On(classic).With(`"mtu":16`).Add(t)
	harness.ExpectLines(t, "gateway rules", harness.Rules(t), harness.Merge(harness.WantRules(true, "vcan0", harness.HostIf(fdResult)), harness.WantRules(false, "vcan0", harness.HostIf(classicResult))))
	harness.ExpectLines(t, "filters", harness.Filters(t), harness.WantFilters(t, "vcan0", harness.HostIf(fdResult), harness.HostIf(classicResult)))
	harness.ExpectExactlyOnce(t, []harness.Station{harness.Host("vcan0"), fd.On("can0"), classic.On("can0")}, 10, false)
}

// TestExistingHub: a vcan that is there is used and never deleted or changed. TestController is the same for controllers.
func TestExistingHub(t *testing.T) {
	harness.FreshHost(t)
	c := harness.NewContainer(t, "c")
	harness.Command(t, "ip", "link", "add", "vcan0", "mtu", "16", "type", "vcan")

	harness.On(c).Fails(t, "ADD", 11, "vcan0", "down", "ip link set vcan0 up")
	harness.Command(t, "ip", "link", "set", "vcan0", "up")
	harness.On(c).With(`"mtu":72`).Fails(t, "ADD", 7, "mtu 72", "MTU 16")
	if got := harness.CANLinks(t); !slices.Equal(got, []string{"vcan0"}) {
		t.Errorf("after failed ADDs: %v", got)
	}
	result, _ := harness.On(c).Add(t)
	harness.ExpectWiring(t, false, "vcan0", harness.HostIf(result))

	// A network with physical and one without it share the hub.
	other := harness.On(harness.NewContainer(t, "other")).With(`"physical":true,"name":"other"`)
	otherResult, log := other.Add(t)
	_, again := harness.On(c).Add(t)
	if strings.Contains(log+again, "repaired") {
		t.Errorf("one network repairs what the other one made: %s%s", log, again)
	}
	harness.ExpectWiring(t, false, "vcan0", harness.HostIf(result), harness.HostIf(otherResult))
	if err := errors.Join(harness.On(c).Check(t, result), other.Check(t, otherResult)); err != nil {
		t.Error(err)
	}
	other.OK(t, "DEL")
	harness.On(c).OK(t, "DEL")

	// A vxcan end is also a CAN device that is not vcan, and does CAN FD, which slcan does not. Its wire is the other end.
	wire := harness.NewContainer(t, "wire")
	harness.Command(t, "ip", "link", "add", "slot0", "mtu", "72", "type", "vxcan", "peer", "name", "slot1", "mtu", "72", "netns", "wire")
	harness.Command(t, "ip", "link", "set", "slot0", "up")
	harness.Command(t, "ip", "-netns", "wire", "link", "set", "slot1", "up")
	controller := harness.On(c).With(`"hub":"slot0","physical":true`)
	controller.Add(t)
	harness.ExpectExactlyOnce(t, []harness.Station{wire.On("slot1"), c.On("can0")}, 20, true)
	controller.OK(t, "DEL")

	harness.On(c).With(`"hub":"lo"`).Fails(t, "ADD", 7, "lo", "not a CAN device")
	// Of an earlier vxcan, that took a controller's name for that of a vcan.
	harness.Command(t, "ip", "link", "add", "can0", "type", "vcan")
	harness.Command(t, "ip", "link", "set", "can0", "alias", "vxcan hub")
	harness.On(c).With(`"hub":"can0","physical":true,"bitrate":500000`).Fails(t, "ADD", 7, "hub can0 is a vcan that vxcan made, not a controller", "ip link delete can0")
	for _, name := range []string{"vcan0", "slot0"} {
		if !slices.Contains(harness.CANLinks(t), name) {
			t.Errorf("%s was deleted", name)
		}
	}
}

// TestIngressQdisc: an ingress qdisc of another program on the hub takes filters of one direction only. The hub is refused,
// with what helps, and not wired wrongly. (TestForeignQdisc does this to a bus that is there.)
func TestIngressQdisc(t *testing.T) {
	harness.FreshHost(t)
	c := harness.NewContainer(t, "c")
	harness.Command(t, "ip", "link", "add", "vcan0", "mtu", "72", "type", "vcan")
	harness.Command(t, "ip", "link", "set", "vcan0", "up")
	harness.Command(t, "tc", "qdisc", "add", "dev", "vcan0", "ingress")
	harness.On(c).Fails(t, "ADD", 7, "vcan0", "ingress", "clsact")
	if got := harness.CANLinks(t); !slices.Equal(got, []string{"vcan0"}) {
		t.Errorf("left behind: %v", got)
	}
	harness.Command(t, "tc", "qdisc", "del", "dev", "vcan0", "ingress")
	result, _ := harness.On(c).Add(t)
	harness.ExpectWiring(t, true, "vcan0", harness.HostIf(result))
}
