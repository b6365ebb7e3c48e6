package harness

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/vxcan/vxcan/pkg/cantest"
)

// OtherHost is a network namespace that plays another host, 10.9.0.2, on one wire with this one, 10.9.0.1.
type OtherHost struct {
	*Container
	Box *Container // that is on its bus
}

// NewOtherHost makes one, and an empty host here.
func NewOtherHost(t *testing.T) OtherHost {
	t.Helper()
	FreshHost(t)
	// While they are loaded, each new network namespace gets devices of the modules' own.
	Command(t, "modprobe", "-a", "ip_gre", "ip6_gre")
	t.Cleanup(unloadGRE)
	far := NewContainer(t, "far")
	Command(t, "ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", far.ID)
	t.Cleanup(func() { _, _ = Try("ip", "link", "del", "eth0") })
	for _, line := range []string{"ip address add 10.9.0.%d/24 dev eth0", "ip link set eth0 up"} {
		for i, netns := range []string{"", "ip netns exec " + far.ID + " "} {
			words := strings.Fields(netns + strings.ReplaceAll(line, "%d", fmt.Sprint(i+1)))
			Command(t, words[0], words[1:]...)
		}
	}
	return OtherHost{far, NewContainer(t, "box")}
}

// unloadGRE takes the modules away, for which the kernel must have taken away the network namespaces with tunnels.
func unloadGRE() {
	for range 100 {
		if _, err := Try("modprobe", "-r", "ip6_gre", "ip_gre"); err == nil {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// Run runs vxcanctl there.
func (o OtherHost) Run(t *testing.T, args ...string) string {
	t.Helper()
	out, words, status := Control(t, []string{"ip", "netns", "exec", o.ID}, args...)
	if status != 0 {
		t.Fatalf("vxcanctl %s: %s%s", strings.Join(args, " "), out, words)
	}
	return out
}

// Attach puts Box on the bus vcan0 of both hosts.
func (o OtherHost) Attach(t *testing.T) {
	t.Helper()
	o.Run(t, append([]string{"attach", "vcan0", "--netns", o.Box.ID, "--hosts", "10.9.0.2,10.9.0.1", "--bus-id", "7"}, open("--unprotected")...)...)
}

// SpanKeys are the keys of a network on that bus.
func SpanKeys() string {
	return strings.Join(append([]string{`"hosts":["10.9.0.1","10.9.0.2"],"bus-id":7`}, open(`"unprotected":true`)...), ",")
}

// SpanOptions are the same keys as options of Docker and Podman.
func SpanOptions() []string {
	return append([]string{"hosts=10.9.0.1,10.9.0.2", "bus-id=7"}, open("unprotected=true")...)
}

// ExpectNoTrunk fails the test if a trunk is left on this host.
func ExpectNoTrunk(t *testing.T) {
	t.Helper()
	for _, l := range Links(t) {
		if strings.Contains(l.Alias, " trunk ") {
			t.Errorf("left: %+v", l)
		}
	}
}

// open is what a kernel without nftables needs.
func open(key string) []string {
	if cantest.LacksTables() {
		return []string{key}
	}
	return nil
}
