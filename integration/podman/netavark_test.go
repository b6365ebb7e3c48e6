package podman

import (
	"os"
	"strings"
	"testing"

	"github.com/vxcan/vxcan/integration/harness"
)

// TestNetavark: the plugin as netavark executes it.
func TestNetavark(t *testing.T) {
	harness.FreshHost(t)
	a, b := harness.NewContainer(t, "a"), harness.NewContainer(t, "b")
	toA, toB := harness.NetavarkCall{C: a}, harness.NetavarkCall{C: b, Options: `"interface_name":"can5"`}
	toA.Setup(t, "can0")
	toB.Setup(t, "can5")
	all := []harness.Station{harness.Host("vcan0"), a.On("can0"), b.On("can5")}
	harness.ExpectExactlyOnce(t, all, 100, true)
	harness.ExpectBus(t, "vcan0", 2)
	before := harness.Wiring(t)

	// The same again changes nothing; nor does a name that podman network reload has got from our own answer.
	toA.Setup(t, "can0")
	harness.NetavarkCall{C: a, Options: `"interface_name":"can0"`}.Setup(t, "can0")
	harness.ExpectLines(t, "after three times the same setup", harness.Wiring(t), before)

	// What was taken away is repaired, and reported.
	harness.Command(t, "cangw", "-F")
	_, words, err := toA.Exec(t, "setup")
	if err != nil || !strings.Contains(words, "repaired: 6 gateway rules are missing") || strings.Count(words, "\n") != 1 {
		t.Errorf("setup after cangw -F: %v, stderr %s", err, words)
	}
	harness.ExpectExactlyOnce(t, all, 5, true)

	// The container starts anew, in another netns, without a teardown.
	harness.Command(t, "ip", "netns", "del", "a")
	a.Netns.Close()
	a = harness.NewContainer(t, "a")
	if out, _, err := (harness.NetavarkCall{C: a}).Exec(t, "setup"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	all[1].Netns = a.Netns
	harness.ExpectExactlyOnce(t, all, 5, true)

	// Teardown without netns, twice, of an unknown container, of a network that was edited meanwhile.
	gone := harness.NetavarkCall{C: a, Netns: "/run/netns/gone"}
	gone.Teardown(t)
	gone.Teardown(t)
	harness.NetavarkCall{C: &harness.Container{ID: "nobody", Path: "/run/netns/gone"}}.Teardown(t)
	if got := a.Links(t); len(got) != 1 {
		t.Errorf("in the container after teardown: %v", got)
	}
	harness.NetavarkCall{C: b, Network: `,"options":{"mtu":"1500","hub":"vcan0"},"subnets":[{"subnet":"10.0.0.0/24"}]`}.Teardown(t)
	harness.ExpectWiring(t, true, "vcan0")
}

// TestNetavarkFails: netavark calls no teardown after a setup that failed. Nothing may be left of it, and what was there
// stays.
func TestNetavarkFails(t *testing.T) {
	harness.FreshHost(t)
	file := t.TempDir() + "/file"
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c := harness.NewContainer(t, "c")
	harness.Command(t, "ip", "-netns", "c", "link", "add", "can0", "type", "dummy")
	for _, bad := range []struct {
		name  string
		call  harness.NetavarkCall
		words []string
	}{
		{"interface taken", harness.NetavarkCall{}, []string{"can0", "already", "--network canbus0:interface_name=", "podman network disconnect canbus0 name"}},
		{"netns missing", harness.NetavarkCall{Netns: "/run/netns/gone"}, []string{"/run/netns/gone"}},
		{"netns not a netns", harness.NetavarkCall{Netns: file}, []string{file}},
		{"netns the host's", harness.NetavarkCall{Netns: "/proc/self/ns/net"}, []string{"host"}},
		{"controller missing", harness.NetavarkCall{Network: `,"options":{"hub":"can7","physical":"true"}`}, []string{"can7", "no such device"}},
		{"hub not CAN", harness.NetavarkCall{Network: `,"options":{"hub":"lo"}`}, []string{"lo", "not a CAN device"}},
		{"unknown option", harness.NetavarkCall{Network: `,"options":{"hubb":"vcan0"}`}, []string{`"hubb"`}},
		{"user namespace", harness.NetavarkCall{Wrap: []string{"unshare", "--user", "--map-root-user"}}, []string{"user namespace", "podman unshare"}},
	} {
		t.Run(bad.name, func(t *testing.T) {
			bad.call.C = c
			bad.call.Fails(t, bad.words...)
			harness.ExpectNothing(t)
			bad.call.Netns = "/run/netns/gone"
			bad.call.Teardown(t)
		})
	}

	// A neighbour's bus is not taken along.
	b := harness.NewContainer(t, "b")
	harness.NetavarkCall{C: b}.Setup(t, "can0")
	before := harness.Wiring(t)
	harness.NetavarkCall{C: c}.Fails(t, "can0", "already")
	harness.ExpectLines(t, "a neighbour's bus after a setup that failed", harness.Wiring(t), before)
	harness.ExpectBus(t, "vcan0", 1)
}
