package once

import (
	"os"
	"strings"
	"testing"

	"github.com/vxcan/vxcan/integration/harness"
)

// TestBadInput: one clear line that names what is wrong and what is allowed, and nothing made.
func TestBadInput(t *testing.T) {
	file := t.TempDir() + "/file"
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	harness.FreshHost(t)
	box := harness.NewContainer(t, "c")
	for _, c := range []struct {
		name  string
		conf  string // members of the configuration
		set   func(*harness.Call)
		code  uint
		words []string
	}{
		{"unknown key", `"hubb":"vcan1"`, nil, 7, []string{`"hubb"`, "hub, physical, interface, mtu, send, receive, "}},
		{"send null", `"send":null`, nil, 7, []string{`"send"`, "null", "leave the key out for the default"}},
		{"hub null", `"hub":null`, nil, 7, []string{`"hub"`, "null"}},
		{"hub that only a controller can be", `"hub":"can0"`, nil, 7, []string{`hub can0 is not there: for a controller set "physical": true`, "for a virtual bus name it vcanN"}},
		{"hub of another kind", `"hub":"wlan0"`, nil, 7, []string{`hub wlan0 is not there: for a controller set "physical": true`}},
		{"controller away", `"hub":"can0","physical":true`, nil, 11, []string{"hub can0: there is no such device"}},
		{"hub not a string", `"hub":3`, nil, 7, []string{`"hub"`, "value 3", "string"}},
		{"physical not a bool", `"physical":"yes"`, nil, 7, []string{`"physical"`, `"yes"`, "true or false"}},
		{"mtu not a number", `"mtu":"72"`, nil, 7, []string{`"mtu"`, `"72"`, "whole number"}},
		{"mtu 1500", `"mtu":1500`, nil, 7, []string{`"mtu"`, "1500", "16", "72"}},
		{"mtu 0", `"mtu":0`, nil, 7, []string{`"mtu"`, "16", "72"}},
		{"hub empty", `"hub":""`, nil, 7, []string{`"hub"`, "empty"}},
		{"hub too long", `"hub":"vcan567890123456"`, nil, 7, []string{`"hub"`, "16 bytes", "15"}},
		{"hub with a slash", `"hub":"../vcan0"`, nil, 7, []string{`"hub"`, `"/"`}},
		{"hub dot dot", `"hub":".."`, nil, 7, []string{`"hub"`}},
		{"hub like a backplane", `"hub":"vcan0-tx"`, nil, 7, []string{`"hub"`, "vcan0-tx", "backplanes"}},
		{"hub like an endpoint", `"hub":"vx0123456789abc"`, nil, 7, []string{`"hub"`, "vx0123456789abc", "endpoint"}},
		{"pod-hubs not a list", `"pod-hubs":"vcan1"`, nil, 7, []string{`"pod-hubs"`, `"vcan1"`, "array"}},
		{"pod-hubs with two stars", `"pod-hubs":["v*n*"]`, nil, 7, []string{`"pod-hubs"`, `"v*n*"`, "prefixes"}},
		{"hub with a blank", `"hub":"vcan 0"`, nil, 7, []string{`"hub"`}},
		{"interface too long", `"interface":"can4567890123456"`, nil, 7, []string{`"interface"`, "15"}},
		{"interface with a slash", `"interface":"a/b"`, nil, 7, []string{`"interface"`, `"/"`}},
		{"interface with a pattern, hub without a number", `"interface":"can%d","hub":"bench"`, nil, 7, []string{"can%d", `"bench" ends in none`}},
		{"interface with two patterns", `"interface":"can%d%d"`, nil, 7, []string{`"interface"`, `"%"`}},
		{"no name", `"name":""`, nil, 7, []string{"name"}},
		{"prevResult not an object", `"prevResult":7`, nil, 7, []string{`"prevResult"`}},
		{"container ID empty", ``, func(c *harness.Call) { c.ContainerID = "" }, 4, []string{"CNI_CONTAINERID"}},
		{"container ID hostile", ``, func(c *harness.Call) { c.ContainerID = "../../etc" }, 4, []string{"containerID"}},
		{"CNI_IFNAME too long", ``, func(c *harness.Call) { c.IfName = "eth4567890123456" }, 4, []string{"interface name"}},
		{"CNI_IFNAME with a slash", ``, func(c *harness.Call) { c.IfName = "a/b" }, 4, []string{"interface name"}},
		{"netns missing", ``, func(c *harness.Call) { c.Netns = "/run/netns/nobody" }, 4, []string{"/run/netns/nobody"}},
		{"netns not a netns", ``, func(c *harness.Call) { c.Netns = file }, 4, []string{file}},
		{"netns the host's", ``, func(c *harness.Call) { c.Netns = "/proc/self/ns/net" }, 4, []string{"host"}},
		{"not JSON", ``, func(c *harness.Call) { c.Conf = `{"cniVersion":` }, 6, nil},
		{"version too new", `"cniVersion":"9.0.0"`, nil, 1, nil},
		{"version too old", `"cniVersion":"0.2.0"`, nil, 1, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			this := harness.On(box).With(c.conf)
			if c.set != nil {
				c.set(&this)
			}
			this.Fails(t, "ADD", c.code, c.words...)
			harness.ExpectNothing(t)
		})
	}
	if got := box.Links(t); len(got) != 1 { // lo
		t.Errorf("devices in the container: %v", got)
	}
}

// TestNameTaken: the specification demands an error when the interface exists, and nothing may be left of the attempt.
func TestNameTaken(t *testing.T) {
	harness.FreshHost(t)
	c := harness.NewContainer(t, "c")
	harness.Command(t, "ip", "-netns", "c", "link", "add", "can0", "type", "dummy")
	harness.On(c).Fails(t, "ADD", 7, "can0", "already")
	harness.ExpectNothing(t)
	if got := c.Links(t); len(got) != 2 {
		t.Errorf("devices in the container: %v", got)
	}
	// Two entries of one network may not share a name either, and the first one stays as it is.
	harness.Command(t, "ip", "-netns", "c", "link", "del", "can0")
	result, _ := harness.On(c).Add(t)
	harness.On(c).With(`"hub":"vcan1"`).Fails(t, "ADD", 7, "can0", "vcan0")
	harness.ExpectWiring(t, true, "vcan0", harness.HostIf(result))
	for _, l := range harness.CANLinks(t) {
		if strings.HasPrefix(l, "vcan1") {
			t.Errorf("%s was left behind", l)
		}
	}
}

// TestReservedKeys: what CNI and its runtimes put into a configuration passes.
func TestReservedKeys(t *testing.T) {
	harness.FreshHost(t)
	harness.On(harness.NewContainer(t, "c")).With(`"cniVersions":["1.0.0"],"args":{"cni":{"x":1}},"capabilities":{"mac":true},` +
		`"runtimeConfig":{"mac":"02:00:00:00:00:01"},"ipam":{},"dns":{},"cni.dev/anything":1,"disableCheck":true`).Add(t)
}
