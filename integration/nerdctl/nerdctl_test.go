// Package nerdctl tests nerdctl, which make test-nerdctl builds.
package nerdctl

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"

	"github.com/vxcan/vxcan/integration/harness"
)

const nerdctlImage = "docker.io/vxcan/busybox:latest"

// nerdctl is the real one on Debian's containerd, with all its defaults.
type nerdctl struct {
	t     testing.TB
	calls string   // a file with a line for each call of our plugin
	as    []string // runs a command as another user
}

// newNerdctl does what a user would: it installs the plugins and the networks, and loads an image.
func newNerdctl(t testing.TB, conflists ...string) nerdctl {
	t.Helper()
	harness.FreshHost(t)
	c := &harness.Containerd{T: t, Dir: t.TempDir()}
	n := nerdctl{t: t, calls: c.Dir + "/calls"}
	const bin = "/opt/cni/bin"
	for _, plugin := range []string{"bridge", "host-local", "portmap", "firewall", "tuning"} { // of its own network, bridge
		harness.Command(t, "install", "-D", "-t", bin, "/usr/lib/cni/"+plugin)
	}
	logging := fmt.Sprintf("#!/bin/sh\necho \"$CNI_COMMAND $CNI_CONTAINERID netns=$CNI_NETNS $CNI_IFNAME\" >>%s\nexec %s\n",
		n.calls, filepath.Join(harness.BinDir(t), "vxcan"))
	if err := os.WriteFile(bin+"/vxcan", []byte(logging), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, file := range conflists {
		harness.Command(t, "install", "-D", "-m", "644", "-t", "/etc/cni/net.d", harness.Repo("conflist/")+file+".conflist")
	}
	harness.Write(t, c.Dir+"/config.toml", "version = 2\n")
	t.Cleanup(c.End)
	c.Start()
	t.Cleanup(n.removeAll)
	t.Logf("%s, containerd %s", n.do("--version"), c.Version())
	n.do("load", "--quiet", "--input", harness.ImageArchive(t, nerdctlImage))
	return n
}

// removeAll removes every container.
func (n nerdctl) removeAll() {
	n.t.Helper()
	for id := range strings.FieldsSeq(n.do("ps", "--all", "--quiet")) {
		n.do("rm", "--force", id)
	}
}

// do runs a nerdctl command.
func (n nerdctl) do(args ...string) string {
	n.t.Helper()
	out, err := n.try(args...)
	if err != nil {
		n.t.Fatal(err)
	}
	return out
}

// try is do for what may fail.
func (n nerdctl) try(args ...string) (string, error) {
	n.t.Helper()
	command := append(append(slices.Clone(n.as), filepath.Join(harness.BinDir(n.t), "nerdctl")), args...)
	out, err := harness.Try(command[0], command[1:]...)
	return strings.TrimSpace(out), err
}

// network makes a network of a plugin with these keys, or changes them.
func (n nerdctl) network(name, plugin, keys string) {
	n.t.Helper()
	harness.Write(n.t, "/etc/cni/net.d/"+name+".conflist", fmt.Sprintf(`{"cniVersion":"1.0.0","name":%q,"plugins":[{"type":%q,%s}]}`, name, plugin, keys))
}

// ipNetwork is nerdctl's own network, or where the kernel has no iptables, one that does without.
func (n nerdctl) ipNetwork() string {
	n.t.Helper()
	if _, err := harness.Try("iptables", "--list"); err == nil {
		return "bridge"
	}
	n.network("ip", "bridge", `"bridge":"cni-ip","ipam":{"type":"host-local","ranges":[[{"subnet":"10.89.43.0/24"}]]}`)
	return "ip"
}

// run starts a container that sleeps, with more options, and returns its ID.
func (n nerdctl) run(name string, options ...string) string {
	n.t.Helper()
	return n.do(append(append([]string{"run", "--detach", "--name", name}, options...), nerdctlImage)...)
}

// inspect returns a container's status, and its process, or 0 where there is none.
func (n nerdctl) inspect(name string) (status string, pid int) {
	n.t.Helper()
	status, number, _ := strings.Cut(n.do("inspect", "--format", "{{.State.Status}} {{.State.Pid}}", name), " ")
	pid, _ = strconv.Atoi(number)
	return status, pid
}

// kill kills a container's process and waits until the container has exited, or where it restarts always, runs again.
func (n nerdctl) kill(name, wanted string) {
	n.t.Helper()
	_, pid := n.inspect(name)
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		n.t.Fatal(err)
	}
	for range 150 {
		if status, now := n.inspect(name); status == wanted && (now != pid || status != "running") {
			return
		}
		time.Sleep(200 * time.Millisecond)
	}
	n.t.Fatalf("%s is not %s half a minute after its process was killed", name, wanted)
}

// station is a running container's interface.
func (n nerdctl) station(name, ifName string) harness.Station {
	n.t.Helper()
	_, pid := n.inspect(name)
	netns, err := ns.GetNS(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { netns.Close() })
	return harness.Station{Name: name, Netns: netns, IfName: ifName}
}

// expectInterfaces fails the test unless a container has these, each with " IP" behind its name if it has an IP address.
func (n nerdctl) expectInterfaces(name string, want ...string) {
	n.t.Helper()
	var all []struct {
		Name      string                    `json:"ifname"`
		Addresses []struct{ Family string } `json:"addr_info"`
	}
	_, pid := n.inspect(name)
	out := harness.Command(n.t, "nsenter", "--net=/proc/"+strconv.Itoa(pid)+"/ns/net", "ip", "-json", "address")
	if err := json.Unmarshal([]byte(out), &all); err != nil {
		n.t.Fatal(err)
	}
	var got []string
	for _, i := range all {
		if i.Name == "lo" {
			continue
		}
		if len(i.Addresses) > 0 && i.Addresses[0].Family == "inet" {
			i.Name += " IP"
		}
		got = append(got, i.Name)
	}
	if slices.Sort(got); !slices.Equal(got, want) {
		n.t.Errorf("%s has %v, want %v", name, got, want)
	}
}

// TestNerdctl: run, restart, stop and start, a killed process, remove; every call that the plugin gets.
func TestNerdctl(t *testing.T) {
	n := newNerdctl(t, "canbus0")
	const upNow = `read flags </sys/class/net/can0/flags; echo $(( flags & 1 ))`
	if up := n.do("run", "--rm", "--network", "canbus0", nerdctlImage, "/bin/sh", "-c", upNow); up != "1" {
		t.Errorf("can0 is not up when the process starts: %q", up)
	}
	harness.Remove(t, n.calls)

	id := "default-" + n.run("engine", "--network", "canbus0")
	_, pid := n.inspect("engine")
	calls, err := os.ReadFile(n.calls)
	if want := fmt.Sprintf("DEL %s netns= eth0\nADD %[1]s netns=/proc/%d/ns/net eth0\n", id, pid); err != nil || string(calls) != want {
		t.Errorf("calls: %v\n%s\nwant:\n%s", err, calls, want)
	}
	if len(id) != len("default-")+64 || !slices.ContainsFunc(harness.Links(t), func(l harness.Link) bool { return slices.Contains(strings.Fields(l.Alias), id) }) {
		t.Errorf("no device has %s in its alias: %v", id, harness.Links(t))
	}
	n.run("dashboard", "--network", "canbus0", "--restart", "always")
	expectBoth := func() {
		t.Helper()
		harness.ExpectBus(t, "vcan0", 2)
		harness.ExpectExactlyOnce(t, []harness.Station{harness.Host("vcan0"), n.station("engine", "can0"), n.station("dashboard", "can0")}, 20, true)
	}
	expectBoth()
	if status := harness.Vxcanctl(t, "status", "vcan0"); !strings.Contains(status, "engine     nerdctl  ") || !strings.Contains(status, "dashboard  nerdctl  ") {
		t.Errorf("vxcanctl status: %s", status)
	}
	n.do("restart", "engine")
	expectBoth()
	n.do("stop", "engine")
	harness.ExpectBus(t, "vcan0", 1)
	n.do("start", "engine")
	expectBoth()
	n.kill("engine", "exited")
	n.do("start", "engine")
	expectBoth()
	n.kill("dashboard", "running") // containerd starts it
	expectBoth()

	n.do("rm", "--force", "engine")
	n.do("rm", "--force", "dashboard")
	harness.ExpectUnused(t, "vcan0")
	if left, _ := filepath.Glob("/var/lib/cni/results/*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if _, err := n.try("network", "rm", "canbus0"); err == nil || !strings.Contains(err.Error(), "managed outside nerdctl") {
		t.Errorf("nerdctl network rm of a file that it did not make: %v", err)
	}
	if _, err := n.try("network", "create", "-d", "vxcan", "more"); err == nil || !strings.Contains(err.Error(), "unsupported cni driver") {
		t.Errorf("network create -d vxcan: %v", err)
	}
	if _, err := n.try("run", "--network", "canbus0", "--mac-address", "02:00:00:00:00:01", nerdctlImage); err == nil {
		t.Error("run --mac-address: it was not refused")
	}
	n.do("network", "prune", "--force")
	n.run("engine", "--network", "canbus0")
	harness.ExpectBus(t, "vcan0", 1)
}

// TestNerdctlNetworks: two buses; a bus and an IP network, in either order, or chained in one; a network that names no
// interface.
func TestNerdctlNetworks(t *testing.T) {
	n := newNerdctl(t, "canbus0", "canbus1", "bridge")
	ip := n.ipNetwork()
	t.Logf("the IP network is %s", ip)
	n.run("buses", "--network", "canbus0", "--network", "canbus1")
	n.run("ip-first", "--network", ip, "--network", "canbus0")
	n.run("ip-last", "--network", "canbus0", "--network", ip)
	n.run("chained", "--network", "robot")
	n.network("plain", "vxcan", `"hub":"vcan1"`)
	n.run("unnamed", "--network", ip, "--network", "plain")
	n.expectInterfaces("buses", "can0", "can1")
	n.expectInterfaces("ip-first", "can0", "eth0 IP")
	n.expectInterfaces("ip-last", "can0", "eth1 IP")
	n.expectInterfaces("chained", "can0", "eth0 IP")
	n.expectInterfaces("unnamed", "eth0 IP", "eth1")
	stations := []harness.Station{harness.Host("vcan0")}
	for _, name := range []string{"buses", "ip-first", "ip-last", "chained"} {
		stations = append(stations, n.station(name, "can0"))
	}
	harness.ExpectExactlyOnce(t, stations, 20, true)
	harness.ExpectExactlyOnce(t, []harness.Station{harness.Host("vcan1"), n.station("buses", "can1"), n.station("unnamed", "eth1")}, 20, true)
	harness.ExpectNamesStay(t, map[string]string{"can0": "vcan0", "can1": "vcan1"}, func() { n.do("restart", "--time", "0", "buses") },
		func(ifName string) harness.Station { return n.station("buses", ifName) })
	n.expectInterfaces("buses", "can0", "can1")
	n.removeAll()
	harness.ExpectUnused(t, "vcan0", "vcan1")
}

// TestNerdctlPolicy: what a network allows, and how nerdctl tells that a network is wrong.
func TestNerdctlPolicy(t *testing.T) {
	n := newNerdctl(t)
	n.network("policy", "vxcan", `"interface":"can0","send":["100"],"receive":["200"]`)
	n.run("gateway", "--network", "policy")
	gateway := n.station("gateway", "can0")
	harness.ExpectSends(t, gateway, "vcan0", true, false)
	harness.ExpectPass(t, harness.Host("vcan0"), gateway, false, true)

	n.network("policy", "vxcan", `"send":["1x0"]`)
	if _, err := n.try("run", "--detach", "--name", "wrong", "--network", "policy", nerdctlImage); err == nil || !strings.Contains(err.Error(), "1x0") {
		t.Errorf("a network that is wrong: %v", err)
	} else {
		t.Log(err)
	}
	n.removeAll()
	harness.ExpectUnused(t, "vcan0")
}
