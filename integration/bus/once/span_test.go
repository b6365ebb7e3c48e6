package once

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"

	"github.com/vxcan/vxcan/integration/harness"
)

// otherHost is a network namespace that plays another host, on one wire with this one. Each has the firewall that the page
// says, of iptables.
type otherHost struct {
	name string
	box  *harness.Container // that is on its bus
}

func newOtherHost(t *testing.T) otherHost {
	t.Helper()
	harness.Command(t, "modprobe", "-a", "ip_gre", "ip6_gre")
	harness.FreshHost(t)
	far := harness.NewContainer(t, "far")
	harness.Command(t, "ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", far.ID)
	t.Cleanup(func() { _, _ = harness.Try("ip", "link", "del", "eth0") })
	for _, line := range []string{"ip address add 10.9.0.%d/24 dev eth0", "ip link set eth0 up", "iptables -t raw -F",
		"iptables -t raw -A PREROUTING -p gre ! -i eth0 -j DROP", "iptables -t raw -A PREROUTING -p gre -j CT --notrack", "iptables -t raw -A OUTPUT -p gre -j CT --notrack"} {
		for i, netns := range []string{"", "ip netns exec " + far.ID + " "} {
			words := strings.Fields(netns + strings.ReplaceAll(line, "%d", fmt.Sprint(i+1)))
			harness.Command(t, words[0], words[1:]...)
		}
	}
	t.Cleanup(func() { _, _ = harness.Try("iptables", "-t", "raw", "-F") })
	return otherHost{far.ID, harness.NewContainer(t, "box")}
}

// run runs vxcanctl there.
func (o otherHost) run(t *testing.T, args ...string) string {
	t.Helper()
	out, words, status := harness.Control(t, []string{"ip", "netns", "exec", o.name}, args...)
	if status != 0 {
		t.Fatalf("vxcanctl %s: %s%s", strings.Join(args, " "), out, words)
	}
	return out
}

// TestHosts: a container of the network in conflist/hosts and one on another host are on one bus, and vxcanctl says so.
func TestHosts(t *testing.T) {
	far := newOtherHost(t)
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
	keys := fmt.Sprintf(`"hosts":%s,"bus-id":%s`, plugin["hosts"], plugin["bus-id"])
	a := harness.NewContainer(t, "a")
	call := harness.On(a).With(keys)
	result, _ := call.Add(t)
	far.run(t, "attach", "vcan0", "--netns", far.box.ID, "--hosts", "10.9.0.2,10.9.0.1", "--bus-id", "7")
	stations := []harness.Station{harness.Host("vcan0"), a.On("can0"), far.box.On("can0")}
	harness.ExpectExactlyOnce(t, stations, 5, true)
	if err := call.Check(t, result); err != nil {
		t.Error(err)
	}
	for command, want := range map[string]string{
		"status":  `\(host 10\.9\.0\.2\) +vg\w+ +\d+ +\d+`,
		"graph":   `host 10\.9\.0\.2  vg\w+, sent \d+, heard \d+`,
		"metrics": `vxcan_trunk_transmitted_frames_total\{hub="vcan0",local="10\.9\.0\.1",peer="10\.9\.0\.2"\} \d+`,
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
	harness.On(harness.NewContainer(t, "other")).With(`"hosts":["10.9.0.1","10.9.0.3"],"bus-id":7`).Fails(t, "ADD", 7, "use the same list and number")
	call.OK(t, "DEL")
	far.run(t, "detach", "vcan0", "--netns", far.box.ID)
	harness.Vxcanctl(t, "remove", "vcan0")
	far.run(t, "remove", "vcan0")
	if out, _ := exec.Command("ip", "-brief", "link").CombinedOutput(); strings.Contains(string(out), "vg") {
		t.Errorf("left: %s", out)
	}
}

// TestHostsKilled: an ADD that asks for other hosts is killed at each of its messages. The next ADD of anything on the bus mends
// it.
func TestHostsKilled(t *testing.T) {
	harness.AtEach(t, "ADD of hosts", func(t *testing.T, n int) bool {
		far := newOtherHost(t)
		far.run(t, "attach", "vcan0", "--netns", far.box.ID, "--hosts", "10.9.0.2,10.9.0.1", "--bus-id", "7")
		const keys = `"hosts":["10.9.0.1","10.9.0.2"],"bus-id":7`
		victim := harness.On(harness.NewContainer(t, "victim")).With(keys)
		if !victim.KilledAt(t, "sendto", n) {
			return false
		}
		victim.Wrap = nil
		victim.OK(t, "DEL")
		a := harness.NewContainer(t, "a")
		harness.On(a).With(keys).Add(t)
		harness.ExpectExactlyOnce(t, []harness.Station{harness.Host("vcan0"), a.On("can0"), far.box.On("can0")}, 2, true)
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
	far := newOtherHost(t)
	load := func(parameters ...string) {
		harness.Command(t, "modprobe", "--remove", "can-gw")
		harness.Command(t, "modprobe", append([]string{"can-gw"}, parameters...)...)
	}
	t.Cleanup(func() { load() })
	load("max_hops=3")
	a := harness.NewContainer(t, "a")
	harness.On(a).With(`"hosts":["10.9.0.1","10.9.0.2"],"bus-id":7`).Add(t)
	far.run(t, "attach", "vcan0", "--netns", far.box.ID, "--hosts", "10.9.0.2,10.9.0.1", "--bus-id", "7")
	stations := []harness.Station{harness.Host("vcan0"), a.On("can0"), far.box.On("can0")}
	harness.ExpectExactlyOnce(t, stations, 5, true)
	harness.Command(t, "ip", "link", "add", "vcan9", "mtu", "72", "up", "type", "vcan")
	for _, rule := range []string{"-s vcan0 -d vcan9 -e", "-s vcan9 -d vcan0 -e"} {
		_, _ = harness.Try("cangw", append([]string{"-A"}, strings.Fields(rule)...)...) // its exit status means nothing
	}
	harness.ExpectExactlyOnce(t, stations[1:], 5, true)
}
