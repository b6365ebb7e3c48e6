package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// netavarkCall is one execution of the netavark plugin for a container, as netavark makes it.
type netavarkCall struct {
	network string // members of the network's JSON, ",…"
	options string // members of network_options
	c       *container
	netns   string // "" is the container's
	wrap    []string
}

// exec runs a verb and returns what it says on stdout and stderr.
func (n netavarkCall) exec(t testing.TB, verb string) (stdout, stderr string, err error) {
	t.Helper()
	netns := n.netns
	if netns == "" {
		netns = n.c.path
	}
	options := n.options
	if options == "" {
		options = `"interface_name":"eth0"`
	}
	args := append(slices.Clone(n.wrap), filepath.Join(binDir(t), "netavark/vxcan"), verb, netns)
	cmd, cancel := limited(args[0], args[1:]...)
	defer cancel()
	cmd.Stdin = strings.NewReader(fmt.Sprintf(`{"container_id":%q,"container_name":"name","port_mappings":null,"network":{"name":"canbus0",`+
		`"id":"%064d","driver":"vxcan","ipam_options":{"driver":"none"}%s},"network_options":{"aliases":["alias"],%s}}`,
		n.c.id, 1, n.network, options))
	var out, words bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &words
	err = cmd.Run()
	return out.String(), words.String(), err
}

// setup must succeed, say nothing on stderr, and name this interface.
func (n netavarkCall) setup(t testing.TB, ifName string) {
	t.Helper()
	out, words, err := n.exec(t, "setup")
	want := `{"interfaces":{"` + ifName + `":{"mac_address":"","subnets":[]}},"dns_search_domains":[],"dns_server_ips":[]}` + "\n"
	if err != nil || out != want || words != "" {
		t.Fatalf("setup %s: %v, stdout %s, stderr %s", n.c.id, err, out, words)
	}
}

func (n netavarkCall) teardown(t testing.TB) {
	t.Helper()
	if out, words, err := n.exec(t, "teardown"); err != nil || out != "" || words != "" {
		t.Fatalf("teardown %s: %v, stdout %s, stderr %s", n.c.id, err, out, words)
	}
}

// fails runs setup, which must fail with words and leave nothing.
func (n netavarkCall) fails(t testing.TB, words ...string) {
	t.Helper()
	out, _, err := n.exec(t, "setup")
	var answer map[string]string
	if err == nil || json.Unmarshal([]byte(out), &answer) != nil || len(answer) != 1 {
		t.Fatalf("setup: %v, stdout %s; want an error", err, out)
	}
	for _, w := range words {
		if !strings.Contains(answer["error"], w) {
			t.Errorf("the error lacks %q: %s", w, answer["error"])
		}
	}
}

// TestNetavark: the plugin as netavark executes it.
func TestNetavark(t *testing.T) {
	freshHost(t)
	a, b := newContainer(t, "a"), newContainer(t, "b")
	toA, toB := netavarkCall{c: a}, netavarkCall{c: b, options: `"interface_name":"can5"`}
	toA.setup(t, "can0")
	toB.setup(t, "can5")
	all := []station{{"host", nil, "vcan0"}, {"a", a.netns, "can0"}, {"b", b.netns, "can5"}}
	expectExactlyOnce(t, all, 100, true)
	expectBus(t, "vcan0", 2)
	before := wiring(t)

	// The same again changes nothing; nor does a name that podman network reload has got from our own answer.
	toA.setup(t, "can0")
	netavarkCall{c: a, options: `"interface_name":"can0"`}.setup(t, "can0")
	expectLines(t, "after three times the same setup", wiring(t), before)

	// What was taken away is repaired, and reported.
	command(t, "cangw", "-F")
	_, words, err := toA.exec(t, "setup")
	if err != nil || !strings.Contains(words, "repaired: 6 gateway rules are missing") || strings.Count(words, "\n") != 1 {
		t.Errorf("setup after cangw -F: %v, stderr %s", err, words)
	}
	expectExactlyOnce(t, all, 5, true)

	// The container starts anew, in another netns, without a teardown.
	command(t, "ip", "netns", "del", "a")
	a.netns.Close()
	a = newContainer(t, "a")
	if out, _, err := (netavarkCall{c: a}).exec(t, "setup"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	all[1].netns = a.netns
	expectExactlyOnce(t, all, 5, true)

	// Teardown without netns, twice, of an unknown container, of a network that was edited meanwhile.
	gone := netavarkCall{c: a, netns: "/run/netns/gone"}
	gone.teardown(t)
	gone.teardown(t)
	netavarkCall{c: &container{id: "nobody", path: "/run/netns/gone"}}.teardown(t)
	if got := a.links(t); len(got) != 1 {
		t.Errorf("in the container after teardown: %v", got)
	}
	netavarkCall{c: b, network: `,"options":{"mtu":"1500","hub":"vcan0"},"subnets":[{"subnet":"10.0.0.0/24"}]`}.teardown(t)
	expectWiring(t, true, "vcan0")
}

// TestNetavarkFails: netavark calls no teardown after a setup that failed. Nothing may be left of it, and what was there
// stays.
func TestNetavarkFails(t *testing.T) {
	freshHost(t)
	file := t.TempDir() + "/file"
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c := newContainer(t, "c")
	command(t, "ip", "-netns", "c", "link", "add", "can0", "type", "dummy")
	for _, bad := range []struct {
		name  string
		call  netavarkCall
		words []string
	}{
		{"interface taken", netavarkCall{}, []string{"can0", "already", "--network canbus0:interface_name=", "podman network disconnect canbus0 name"}},
		{"netns missing", netavarkCall{netns: "/run/netns/gone"}, []string{"/run/netns/gone"}},
		{"netns not a netns", netavarkCall{netns: file}, []string{file}},
		{"netns the host's", netavarkCall{netns: "/proc/self/ns/net"}, []string{"host"}},
		{"controller missing", netavarkCall{network: `,"options":{"hub":"can7","physical":"true"}`}, []string{"can7", "no such device"}},
		{"hub not CAN", netavarkCall{network: `,"options":{"hub":"lo"}`}, []string{"lo", "not a CAN device"}},
		{"unknown option", netavarkCall{network: `,"options":{"hubb":"vcan0"}`}, []string{`"hubb"`}},
		{"user namespace", netavarkCall{wrap: []string{"unshare", "--user", "--map-root-user"}}, []string{"user namespace", "rootful"}},
	} {
		t.Run(bad.name, func(t *testing.T) {
			bad.call.c = c
			bad.call.fails(t, bad.words...)
			expectNothing(t)
			bad.call.netns = "/run/netns/gone"
			bad.call.teardown(t)
		})
	}

	// A neighbour's bus is not taken along.
	b := newContainer(t, "b")
	netavarkCall{c: b}.setup(t, "can0")
	before := wiring(t)
	netavarkCall{c: c}.fails(t, "can0", "already")
	expectLines(t, "a neighbour's bus after a setup that failed", wiring(t), before)
	expectBus(t, "vcan0", 1)
}
