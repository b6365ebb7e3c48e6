package once

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"

	"github.com/vxcan/vxcan/integration/harness"
)

// TestHosts: a container of the network in conflist/hosts and one on another host are on one bus, and vxcanctl says so.
func TestHosts(t *testing.T) {
	far := harness.NewOtherHost(t)
	content, err := os.ReadFile(harness.Repo("conflist/hosts/hosts.conflist"))
	if err != nil {
		t.Fatal(err)
	}
	list, err := libcni.ConfListFromBytes(content)
	if err != nil {
		t.Fatal(err)
	}
	var plugin map[string]json.RawMessage
	if err := json.Unmarshal(list.Plugins[0].Bytes, &plugin); err != nil {
		t.Fatal(err)
	}
	keys := harness.SpanKeys()
	if said := fmt.Sprintf(`"hosts":%s,"bus-id":%s`, plugin["hosts"], plugin["bus-id"]); !strings.HasPrefix(strings.ReplaceAll(keys, " ", ""), strings.ReplaceAll(said, " ", "")) {
		t.Fatalf("%s, want %s", said, keys)
	}
	const sysctl = "/proc/sys/net/core/fb_tunnels_only_for_init_net"
	before, err := os.ReadFile(sysctl)
	if err != nil {
		t.Fatal(err)
	}
	harness.Write(t, sysctl, "1")
	t.Cleanup(func() { harness.Write(t, sysctl, string(before)) })
	a := harness.NewContainer(t, "a")
	call := harness.On(a).With(keys)
	result, _ := call.Add(t)
	if got := a.Links(t); len(got) != 2 {
		t.Errorf("a container has more than lo and can0: %v", got)
	}
	far.Attach(t)
	stations := []harness.Station{harness.Host("vcan0"), a.On("can0"), far.Box.On("can0")}
	harness.ExpectExactlyOnce(t, stations, 5, true)
	if err := call.Check(t, result); err != nil {
		t.Error(err)
	}
	for command, want := range map[string]string{
		"status":  `\(host 10\.9\.0\.2\) +vg\w+ +\d+ +\d+`,
		"graph":   `host 10\.9\.0\.2  vg\w+, sent \d+, heard \d+`,
		"metrics": `vxcan_trunk_transmitted_frames_total\{hub="vcan0",bus_id="7",local="10\.9\.0\.1",peer="10\.9\.0\.2"\} \d+`,
		"doctor":  `bus vcan0 with 1 container`,
	} {
		if out, _, _ := harness.Control(t, nil, command); !regexp.MustCompile(want).MatchString(out) {
			t.Errorf("%s: %s, want %s", command, out, want)
		}
	}
	if status := harness.StatusOf(t, "vcan0"); len(status[0].Differences) > 0 {
		t.Errorf("%v", status)
	}
	// A rootless bus, and a network of a user, have no other hosts.
	harness.On(harness.NewContainer(t, "user")).With(keys+`,"lent":true`).Fails(t, "ADD", 7, "is for who lends the bus")
	harness.On(harness.NewContainer(t, "other")).With(`"hosts":["10.9.0.1","10.9.0.3"],"bus-id":7`).Fails(t, "ADD", 7, "use the same, or remove those containers first")
	call.OK(t, "DEL")
	far.Run(t, "detach", "vcan0", "--netns", far.Box.ID)
	harness.Vxcanctl(t, "remove", "vcan0")
	far.Run(t, "remove", "vcan0")
	harness.ExpectNoTrunk(t)
}

// TestHostsLent: a user has a container on a bus of two hosts that root lends.
func TestHostsLent(t *testing.T) {
	far := harness.NewOtherHost(t)
	harness.NewUser(t)
	harness.Lends(t)
	lend := []string{"lend", "vcan0", "--user", harness.RootlessUser}
	for _, o := range harness.SpanOptions() {
		lend = append(lend, "--"+o)
	}
	harness.Vxcanctl(t, lend...)
	far.Attach(t)
	c := harness.NewUserContainer(t, "c")
	call := harness.OnLent(c)
	call.Add(t)
	harness.ExpectExactlyOnce(t, []harness.Station{harness.Host("vcan0"), c.On("can0"), far.Box.On("can0")}, 20, true)
	if wrong := harness.WrongWith(t, "vcan0"); wrong != "" {
		t.Error(wrong)
	}
	call.OK(t, "DEL")
	harness.Vxcanctl(t, "remove", "vcan0")
	harness.ExpectNoTrunk(t)
}

// TestHostsKilled: an ADD that asks for other hosts is killed at each of its messages. The next ADD of anything on the bus
// mends it.
func TestHostsKilled(t *testing.T) {
	harness.AtEach(t, "ADD of hosts", func(t *testing.T, n int) bool {
		far := harness.NewOtherHost(t)
		far.Attach(t)
		keys := harness.SpanKeys()
		victim := harness.On(harness.NewContainer(t, "victim")).With(keys)
		if !victim.KilledAt(t, "sendto", n) {
			return false
		}
		victim.Wrap = nil
		victim.OK(t, "DEL")
		a := harness.NewContainer(t, "a")
		harness.On(a).With(keys).Add(t)
		harness.ExpectExactlyOnce(t, []harness.Station{harness.Host("vcan0"), a.On("can0"), far.Box.On("can0")}, 2, true)
		if wrong := harness.WrongWith(t, "vcan0"); wrong != "" {
			t.Error(wrong)
		}
		return true
	})
}

// TestHostsMaxHops: where can-gw lets a frame pass three rules, no frame goes round between hosts, also with an administrator's
// ring of two buses on each.
func TestHostsMaxHops(t *testing.T) {
	if os.Getenv("VXCAN_VM") != "booted" {
		t.Skip("loads can-gw with another parameter: needs a kernel of its own (bin/vm -boot)")
	}
	far := harness.NewOtherHost(t)
	load := func(parameters ...string) {
		harness.Command(t, "modprobe", "--remove", "can-gw")
		harness.Command(t, "modprobe", append([]string{"can-gw"}, parameters...)...)
	}
	t.Cleanup(func() { load() })
	load("max_hops=3")
	a := harness.NewContainer(t, "a")
	harness.On(a).With(harness.SpanKeys()).Add(t)
	far.Attach(t)
	stations := []harness.Station{harness.Host("vcan0"), a.On("can0"), far.Box.On("can0")}
	harness.ExpectExactlyOnce(t, stations, 5, true)
	harness.Command(t, "ip", "link", "add", "vcan9", "mtu", "72", "up", "type", "vcan")
	for _, rule := range []string{"-s vcan0 -d vcan9 -e", "-s vcan9 -d vcan0 -e"} {
		_, _ = harness.Try("cangw", append([]string{"-A"}, strings.Fields(rule)...)...) // its exit status means nothing
	}
	harness.ExpectExactlyOnce(t, stations[1:], 5, true)
}
