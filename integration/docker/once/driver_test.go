// Package once tests the network driver without a Docker.
package once

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"

	"github.com/vxcan/vxcan/integration/harness"
)

// driver is a driver without a Docker, which the test calls: for what no daemon says in a test's time.
type driver struct{ *harness.DockerHost }

func driverTest(t *testing.T) driver {
	t.Helper()
	harness.FreshHost(t)
	if err := harness.RemoveContent(harness.DriverStateDir); err != nil {
		t.Fatal(err)
	}
	d := driver{&harness.DockerHost{T: t, Logs: t.TempDir()}}
	t.Cleanup(func() {
		d.StopDriver(os.Interrupt)
		if t.Failed() {
			t.Log(d.Log())
		}
	})
	return d
}

// ok calls the driver, which must not refuse.
func (d driver) ok(call, body string) map[string]any {
	d.T.Helper()
	status, answer, err := harness.CallDriver(call, body)
	if err != nil {
		d.T.Fatal(err)
	}
	if status != 200 || answer["Err"] != nil {
		d.T.Fatalf("%s: %d %v", call, status, answer)
	}
	return answer
}

// refused calls the driver, which must refuse with these words.
func (d driver) refused(call, body string, status int, words ...string) {
	d.T.Helper()
	got, answer, err := harness.CallDriver(call, body)
	if err != nil {
		d.T.Fatal(err)
	}
	message, _ := answer["Err"].(string)
	if got != status || message == "" {
		d.T.Errorf("%s %s: %d %v, want %d and Err", call, body, got, answer, status)
	}
	for _, w := range words {
		if !strings.Contains(message, w) {
			d.T.Errorf("%s %s: the message lacks %q: %s", call, body, w, message)
		}
	}
}

const (
	someNetwork  = `{"NetworkID":"n1","Options":{"com.docker.network.generic":{"vxcan.dev":"vcan","vxcan.id":"0"}},"IPv4Data":[{"AddressSpace":"null","Pool":"0.0.0.0/0"}],"IPv6Data":[]}`
	someEndpoint = `{"NetworkID":"n1","EndpointID":"e1","Interface":{"Address":"","AddressIPv6":"","MacAddress":""},"Options":{"com.docker.network.endpoint.exposedports":[],"com.docker.network.portmap":[]}}`
	someJoin     = `{"NetworkID":"n1","EndpointID":"e1","SandboxKey":"/var/run/docker/netns/0123456789ab","Options":{}}`
	someIDs      = `{"NetworkID":"n1","EndpointID":"e1"}`
)

// TestDockerCalls: every call of the protocol, each as often as Docker may repeat it, and in the wrong order.
func TestDockerCalls(t *testing.T) {
	d := driverTest(t)
	d.StartDriver()
	if got := fmt.Sprint(d.ok("Plugin.Activate", "")); got != "map[Implements:[NetworkDriver]]" {
		t.Errorf("Activate: %s", got)
	}
	if got := d.ok("NetworkDriver.GetCapabilities", ""); got["Scope"] != "local" {
		t.Errorf("GetCapabilities: %v", got)
	}
	for _, call := range []string{
		"GwAllocCheck", "AllocateNetwork", "FreeNetwork", "ProgramExternalConnectivity", "RevokeExternalConnectivity",
		"DiscoverNew", "DiscoverDelete",
	} {
		d.ok("NetworkDriver."+call, someIDs)
	}
	d.refused("NetworkDriver.Nonsense", "{}", 404, "no such call")
	for _, call := range []string{"CreateNetwork", "DeleteNetwork", "CreateEndpoint", "DeleteEndpoint", "Join", "Leave"} {
		d.refused("NetworkDriver."+call, "", 400, "empty")
		d.refused("NetworkDriver."+call, "{", 400)
		d.refused("NetworkDriver."+call, "{}", 400, "NetworkID")
	}
	d.refused("NetworkDriver.CreateEndpoint", someEndpoint, 409, "n1", "not on record", "create it again")
	d.refused("NetworkDriver.Join", someJoin, 409, "n1", "not on record")
	harness.ExpectNothing(t)
	for range 2 {
		d.ok("NetworkDriver.CreateNetwork", someNetwork)
		harness.ExpectBus(t, "vcan0", 0)
	}
	var names []string
	for range 2 {
		d.ok("NetworkDriver.CreateEndpoint", someEndpoint)
	}
	for range 2 {
		answer := d.ok("NetworkDriver.Join", someJoin)
		names = append(names, fmt.Sprint(answer["InterfaceName"]))
		if answer["DisableGatewayService"] != true {
			t.Errorf("Join: %v", answer)
		}
		harness.ExpectBus(t, "vcan0", 1)
	}
	if names[0] != names[1] || !strings.Contains(names[0], "DstPrefix:can") {
		t.Errorf("Join twice: %v", names)
	}
	if got := d.ok("NetworkDriver.EndpointOperInfo", someIDs); got["Value"] == nil {
		t.Errorf("EndpointOperInfo: %v", got)
	}
	d.refused("NetworkDriver.CreateEndpoint", strings.Replace(someEndpoint, `"Address":""`, `"Address":"10.0.0.2/24"`, 1), 400, "--ipam-driver null")
	d.refused("NetworkDriver.CreateEndpoint", strings.Replace(someEndpoint, `"MacAddress":""`, `"MacAddress":"02:00:00:00:00:01"`, 1), 400, "--mac-address")
	d.refused("NetworkDriver.CreateEndpoint", strings.Replace(someEndpoint, `"com.docker.network.portmap"`, `"mtu"`, 1), 400, `"mtu"`, "ifname")
	for range 2 {
		d.ok("NetworkDriver.Leave", someIDs)
		harness.ExpectBus(t, "vcan0", 0)
	}
	for range 2 {
		d.ok("NetworkDriver.DeleteEndpoint", someIDs)
	}
	for range 2 {
		d.ok("NetworkDriver.DeleteNetwork", `{"NetworkID":"n1"}`)
	}
	harness.ExpectNothing(t)
	for _, call := range []string{"Leave", "DeleteEndpoint"} { // of a network that is not known either
		d.ok("NetworkDriver."+call, someIDs)
	}
	harness.ExpectNothing(t)
}

// TestDockerForgetful: the driver has lost all memory, of its networks and of the bus, and still takes away what it is
// told to.
func TestDockerForgetful(t *testing.T) {
	d := driverTest(t)
	d.StartDriver()
	d.ok("NetworkDriver.CreateNetwork", someNetwork)
	d.ok("NetworkDriver.Join", someJoin) // of an endpoint that was never created
	if !strings.Contains(d.Log(), "was not on record") {
		t.Error("taking in an unknown endpoint was not logged")
	}
	if err := errors.Join(harness.RemoveContent(harness.DriverStateDir), harness.RemoveContent(harness.StateDir)); err != nil {
		t.Fatal(err)
	}
	d.ok("NetworkDriver.DeleteEndpoint", someIDs)
	if got, want := harness.CANLinks(t), []string{"vcan0", "vcan0-rx", "vcan0-tx"}; !slices.Equal(got, want) {
		t.Errorf("left: %v, want %v", got, want)
	}

	if err := os.WriteFile(harness.DriverStateDir+"/networks.json", []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	d.refused("NetworkDriver.Join", someJoin, 409, "not on record")
	if aside, _ := filepath.Glob(harness.DriverStateDir + "/networks.broken-*"); len(aside) != 1 {
		t.Errorf("a broken file was set aside as %v", aside)
	}
}

// TestDockerSharedHub: the hub stays while it is named by another network or in use by another runtime, and for ever if
// it is not ours.
func TestDockerSharedHub(t *testing.T) {
	d := driverTest(t)
	d.StartDriver()
	d.ok("NetworkDriver.CreateNetwork", someNetwork)
	d.ok("NetworkDriver.CreateNetwork", strings.Replace(someNetwork, "n1", "n2", 1))
	d.ok("NetworkDriver.DeleteNetwork", `{"NetworkID":"n1"}`)
	harness.ExpectBus(t, "vcan0", 0)
	c := harness.NewContainer(t, "cni")
	harness.On(c).Add(t)
	d.ok("NetworkDriver.DeleteNetwork", `{"NetworkID":"n2"}`)
	harness.ExpectBus(t, "vcan0", 1)
	harness.On(c).OK(t, "DEL")
	d.ok("NetworkDriver.CreateNetwork", someNetwork)
	d.ok("NetworkDriver.DeleteNetwork", `{"NetworkID":"n1"}`)
	harness.ExpectNothing(t)

	harness.Command(t, "ip", "link", "add", "vcan0", "type", "vcan")
	harness.Command(t, "ip", "link", "set", "vcan0", "up")
	d.ok("NetworkDriver.CreateNetwork", someNetwork)
	d.ok("NetworkDriver.DeleteNetwork", `{"NetworkID":"n1"}`)
	if got, want := harness.CANLinks(t), []string{"vcan0"}; !slices.Equal(got, want) {
		t.Errorf("left: %v, want %v", got, want)
	}
}

// TestDockerOrphans: what Docker left behind while no driver ran goes with the next driver, or if it does harm, with the
// next container on the bus. A container end that Docker has not moved yet is none of it.
func TestDockerOrphans(t *testing.T) {
	d := driverTest(t)
	d.StartDriver()
	d.ok("NetworkDriver.CreateNetwork", someNetwork)
	source := func() string {
		answer := d.ok("NetworkDriver.Join", someJoin)
		return answer["InterfaceName"].(map[string]any)["SrcName"].(string)
	}
	restart := func() {
		d.StopDriver(os.Kill)
		d.StartDriver()
	}
	contEnd := source()
	restart()
	harness.ExpectBus(t, "vcan0", 1)
	if !slices.Contains(harness.CANLinks(t), contEnd) {
		t.Errorf("%s was deleted before Docker could move it", contEnd)
	}

	c := harness.NewContainer(t, "sandbox")
	move := func() { // as libnetwork does
		harness.Command(t, "ip", "link", "set", contEnd, "netns", c.ID)
		harness.Command(t, "ip", "-n", c.ID, "link", "set", contEnd, "name", "can0")
		harness.Command(t, "ip", "-n", c.ID, "link", "set", "can0", "up")
	}
	moveBack := func() {
		harness.Command(t, "ip", "-n", c.ID, "link", "set", "can0", "down")
		harness.Command(t, "ip", "-n", c.ID, "link", "set", "can0", "name", contEnd)
		harness.Command(t, "ip", "-n", c.ID, "link", "set", contEnd, "netns", "1")
	}
	move()
	restart()
	harness.ExpectBus(t, "vcan0", 1)
	moveBack()
	restart()
	d.WaitFor("what is left to go", func() bool { return len(harness.HostEnds(t)) == 0 }) // the driver answers before
	harness.ExpectBus(t, "vcan0", 0)

	contEnd = source()
	move()
	other := harness.NewContainer(t, "cni")
	harness.Command(t, "ip", "-n", c.ID, "link", "del", "can0") // as with a netns that went
	harness.On(other).Add(t)
	harness.ExpectBus(t, "vcan0", 1)
	if log := d.Log(); strings.Contains(log, "gateway rule") || strings.Contains(log, "filter of") {
		t.Error("rules or filters that went with their devices were reported")
	}
	harness.On(other).OK(t, "DEL")
	d.ok("NetworkDriver.DeleteNetwork", `{"NetworkID":"n1"}`)
	harness.ExpectNothing(t)
}

// TestDockerDamage: what a clumsy hand takes from a Docker container's endpoint, the next container on the bus puts back.
func TestDockerDamage(t *testing.T) {
	d := driverTest(t)
	d.StartDriver()
	d.ok("NetworkDriver.CreateNetwork", someNetwork)
	answer := d.ok("NetworkDriver.Join", someJoin)
	contEnd := answer["InterfaceName"].(map[string]any)["SrcName"].(string)
	c, other := harness.NewContainer(t, "sandbox"), harness.NewContainer(t, "cni")
	harness.Command(t, "ip", "link", "set", contEnd, "netns", c.ID)
	harness.Command(t, "ip", "-n", c.ID, "link", "set", contEnd, "name", "can0")
	harness.Command(t, "ip", "-n", c.ID, "link", "set", "can0", "up")
	result, _ := harness.On(other).Add(t)
	check := func() { t.Helper(); harness.On(other).Add(t); harness.ExpectBus(t, "vcan0", 2) }
	everybody := []harness.Station{harness.Host("vcan0"), c.On("can0"), other.On("can0")}

	hostEnd := "vx" + contEnd[2:]
	for _, damage := range []struct{ line, words string }{ // words of CHECK of the CNI container
		{"ip link set HOSTIF down", "host end HOSTIF"},
		{"cangw -D -s vcan0-rx -d HOSTIF -X -i -l 1", "cangw -A -s vcan0-rx -d HOSTIF -X -i -l 1"},
		{"cangw -A -s vcan0-rx -d HOSTIF -i -l 1", "there more than once"},
		{"cangw -A -s HOSTIF -d vcan0-tx -i -l 1", "not of this bus"},
		{"tc filter del dev HOSTIF ingress pref 1", "tc filter show dev HOSTIF"},
		{"tc qdisc del dev HOSTIF clsact", "tc filter show dev HOSTIF"},
	} {
		replace := strings.NewReplacer("HOSTIF", hostEnd)
		args := strings.Fields(replace.Replace(damage.line))
		harness.Command(t, args[0], args[1:]...)
		if err := harness.On(other).Check(t, result); err == nil || !strings.Contains(err.Error(), replace.Replace(damage.words)) {
			t.Errorf("CHECK of the CNI container after %s: %v", args, err)
		}
		check()
	}
	if err := harness.RemoveContent(harness.StateDir); err != nil {
		t.Fatal(err)
	}
	check()
	if err := harness.On(other).Check(t, result); err != nil {
		t.Error(err)
	}
	harness.ExpectExactlyOnce(t, everybody, 200, true)
}

// TestDockerLock: a lock that is not freed is an error in time, because Docker itself waits for ever.
func TestDockerLock(t *testing.T) {
	d := driverTest(t)
	t.Setenv("VXCAN_LOCK_TIMEOUT", "3s")
	d.StartDriver()
	d.ok("NetworkDriver.CreateNetwork", someNetwork)
	defer harness.HoldLock(t, "vcan0")()
	start := time.Now()
	d.refused("NetworkDriver.Join", someJoin, 503, "vcan0.lock", "held by another call", "VXCAN_LOCK_TIMEOUT")
	if took := time.Since(start); took > 15*time.Second {
		t.Errorf("it took %v", took)
	}
}

// TestDockerManyNetworks: with a hundred networks the driver answers as soon as it is started, while it looks for what
// lost calls left behind, and goes when it is told to.
func TestDockerManyNetworks(t *testing.T) {
	d := driverTest(t)
	d.StartDriver()
	const networks = 100
	for i := range networks {
		d.ok("NetworkDriver.CreateNetwork", strings.NewReplacer(`"n1"`, fmt.Sprintf(`"n%d"`, i), `"vxcan.id":"0"`, fmt.Sprintf(`"vxcan.id":"%d"`, i)).Replace(someNetwork))
	}
	d.ok("NetworkDriver.CreateEndpoint", someEndpoint)
	d.ok("NetworkDriver.Join", someJoin)
	d.ok("NetworkDriver.CreateEndpoint", strings.Replace(someEndpoint, "e1", "e2", 1))
	d.ok("NetworkDriver.Join", strings.NewReplacer("e1", "e2", "0123456789ab", "ba9876543210").Replace(someJoin)) // another container
	d.StopDriver(os.Kill)
	// As if Docker's call had been lost.
	state, err := os.ReadFile(harness.DriverStateDir + "/networks.json")
	if err != nil {
		t.Fatal(err)
	}
	harness.Write(t, harness.DriverStateDir+"/networks.json", strings.Replace(string(state), `"e2"`, `"gone"`, 1))

	start := time.Now()
	d.StartDriver()
	d.ok("Plugin.Activate", "")
	t.Logf("first answer after %v", time.Since(start))
	d.WaitFor("the lost endpoint to go", func() bool { return len(harness.HostEnds(t)) == 1 })
	t.Logf("collected after %v", time.Since(start))
	if got, want := len(harness.Rules(t)), 4*networks+2; got != want {
		t.Errorf("%d rules, want %d", got, want)
	}
	d.StopDriver(syscall.SIGTERM)
	start = time.Now()
	d.StartDriver()
	d.StopDriver(syscall.SIGTERM)
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("start and SIGTERM took %v", took)
	}
}

// TestDockerActivation: systemd's part is played by the test: it listens, and starts the driver when somebody knocks.
func TestDockerActivation(t *testing.T) {
	d := driverTest(t)
	if err := os.MkdirAll(filepath.Dir(harness.DriverSocket), 0o755); err != nil {
		t.Fatal(err)
	}
	os.Remove(harness.DriverSocket)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: harness.DriverSocket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	socket, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	activate := func(args string) *exec.Cmd {
		t.Helper()
		cmd := exec.Command("sh", "-c", "LISTEN_PID=$$ LISTEN_FDS=1 exec "+filepath.Join(harness.BinDir(t), "vxcan-docker")+" "+args)
		cmd.ExtraFiles = []*os.File{socket}
		d.Start("driver", cmd)
		t.Cleanup(func() { _ = cmd.Process.Kill() })
		return cmd
	}
	// Callers knock all the time while drivers come and go: none is turned away, and none is left waiting.
	var calls atomic.Int64
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for ; ; calls.Add(1) {
			select {
			case <-stop:
				return
			default:
			}
			if status, answer, err := harness.CallDriver("NetworkDriver.CreateNetwork", someNetwork); err != nil || status != 200 {
				t.Errorf("call %d: %d %v %v", calls.Load(), status, answer, err)
				return
			}
		}
	}()
	finish := sync.OnceFunc(func() { close(stop); <-stopped })
	defer finish()
	for range 8 {
		before := calls.Load()
		cmd := activate("-idle 1h")
		// Before it answers, it may not have come to know signals. The one before may have answered the next call.
		d.WaitFor("a call to be answered", func() bool { return calls.Load() > before+1 || t.Failed() })
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("stopped: %v", err)
		}
	}
	last := activate("-idle 500ms")
	finish()
	t.Logf("%d calls answered by 9 drivers", calls.Load())
	tooLong := time.AfterFunc(time.Minute, func() { _ = last.Process.Kill() })
	if err := last.Wait(); err != nil {
		t.Errorf("idle for half a second, the driver did not leave in good order: %v", err)
	}
	tooLong.Stop()
	if _, err := os.Stat(harness.DriverSocket); err != nil {
		t.Errorf("the driver took systemd's socket away: %v", err)
	}
	harness.ExpectBus(t, "vcan0", 0)

	driver := filepath.Join(harness.BinDir(t), "vxcan-docker")
	if _, err := harness.Try(driver, "--socket", harness.DriverSocket); err == nil || !strings.Contains(err.Error(), "another process serves it") {
		t.Errorf("a second driver on the same socket: %v", err)
	}
	if _, err := harness.Try(driver); err == nil || !strings.Contains(err.Error(), "vxcan-docker.socket") {
		t.Errorf("without a socket: %v", err)
	}
}

// TestDockerAtOnce: as `docker compose up` has it, endpoints come and go at the same time, with and without a netns at Join.
func TestDockerAtOnce(t *testing.T) {
	d := driverTest(t)
	d.StartDriver()
	d.ok("NetworkDriver.CreateNetwork", someNetwork)
	const count = 12
	joins := make([]string, count)
	for i := range joins {
		joins[i] = strings.NewReplacer("e1", fmt.Sprint("e", i), "0123456789ab", fmt.Sprintf("%012d", i)).Replace(someJoin)
		if i%2 == 1 {
			c := harness.NewContainer(t, fmt.Sprint("c", i))
			joins[i] = strings.Replace(joins[i], "/var/run/docker/netns/0123456789ab", c.Path, 1)
		}
	}
	atOnce := func(calls ...string) {
		t.Helper()
		var all sync.WaitGroup
		for _, join := range joins {
			all.Add(1)
			go func() {
				defer all.Done()
				for _, call := range calls {
					if status, answer, err := harness.CallDriver("NetworkDriver."+call, join); err != nil || status != 200 {
						t.Errorf("%s: %d %v %v", call, status, answer, err)
					}
				}
			}()
		}
		all.Wait()
	}
	atOnce("CreateEndpoint", "Join")
	harness.ExpectBus(t, "vcan0", count)
	atOnce("Leave", "DeleteEndpoint", "CreateEndpoint", "Join")
	harness.ExpectBus(t, "vcan0", count)
	atOnce("Leave", "DeleteEndpoint")
	harness.ExpectBus(t, "vcan0", 0)
	d.ok("NetworkDriver.DeleteNetwork", `{"NetworkID":"n1"}`)
	harness.ExpectNothing(t)
}

// TestDockerNames: where Docker numbers interfaces itself, a name that it cannot give is refused, and so is one that the
// container has already. An endpoint that was lost, in a netns that is gone, is in nobody's way.
func TestDockerNames(t *testing.T) {
	d := driverTest(t)
	d.StartDriver()
	d.ok("NetworkDriver.CreateNetwork", someNetwork)
	d.ok("NetworkDriver.CreateNetwork", strings.NewReplacer("n1", "n2", `"0"`, `"1"`).Replace(someNetwork))
	d.ok("NetworkDriver.CreateNetwork", strings.NewReplacer("n1", "n3", `"0"`, `"1","vxcan.peer":"bus"`).Replace(someNetwork))
	// join puts an endpoint on a network, as a container with a netns of this name starts, and returns its prefix.
	join := func(network, endpoint, netns, ifName string, words ...string) (prefix any) {
		t.Helper()
		r := strings.NewReplacer("n1", network, "e1", endpoint, "0123456789ab", netns,
			`"com.docker.network.portmap":[]`, `"com.docker.network.endpoint.ifname":"`+ifName+`"`)
		if ifName == "" {
			r = strings.NewReplacer("n1", network, "e1", endpoint, "0123456789ab", netns)
		}
		d.ok("NetworkDriver.CreateEndpoint", r.Replace(someEndpoint))
		if words != nil {
			d.refused("NetworkDriver.Join", r.Replace(someJoin), 400, words...)
			d.ok("NetworkDriver.DeleteEndpoint", r.Replace(someIDs))
			return nil
		}
		return d.ok("NetworkDriver.Join", r.Replace(someJoin))["InterfaceName"].(map[string]any)["DstPrefix"]
	}
	const first, second, third = "aaaaaaaaaaaa", "bbbbbbbbbbbb", "cccccccccccc"
	for _, c := range []struct{ network, endpoint, netns, ifName, want string }{
		{"n1", "e1", first, "", "can"},
		{"n2", "e2", second, "", "can"},
		{"n3", "e3", first, "", "bus"},
		{"n2", "e4", first, "can10", "can1"},
	} {
		if got := join(c.network, c.endpoint, c.netns, c.ifName); got != c.want {
			t.Errorf("%v: prefix %v", c, got)
		}
	}
	before := harness.CANLinks(t)
	join("n2", "e5", first, "", "can0", "already", "network n1", "vxcan.peer=", "docker network disconnect")
	join("n2", "e5", first, "bus0", "bus0", "already", "network n3")
	join("n2", "e5", first, "can5", "can5", "end in 0", "vxcan.peer=")
	if got := harness.CANLinks(t); !slices.Equal(got, before) {
		t.Errorf("devices after refusals: %v, want %v", got, before)
	}
	d.StopDriver(os.Kill)
	d.StartDriver()
	if got := join("n2", "e6", third, ""); got != "can" {
		t.Errorf("prefix %v", got)
	}
	join("n1", "e7", third, "", "can0", "already", "network n2")
}

// TestDockerExactName: where the netns exists at Join, the interface is made in it with the very name that is wanted.
func TestDockerExactName(t *testing.T) {
	d := driverTest(t)
	d.StartDriver()
	d.ok("NetworkDriver.CreateNetwork", someNetwork)
	c := harness.NewContainer(t, "sandbox")
	d.ok("NetworkDriver.CreateEndpoint", strings.Replace(someEndpoint, `"com.docker.network.portmap":[]`, `"com.docker.network.endpoint.ifname":"can7"`, 1))
	for range 2 {
		if answer := d.ok("NetworkDriver.Join", strings.Replace(someJoin, "/var/run/docker/netns/0123456789ab", c.Path, 1)); answer["InterfaceName"] != nil {
			t.Errorf("Join: %v", answer)
		}
		harness.ExpectBus(t, "vcan0", 1)
	}
	err := c.Netns.Do(func(ns.NetNS) error { _, err := net.InterfaceByName("can7"); return err })
	if err != nil {
		t.Error(err)
	}
	second := strings.NewReplacer("e1", "e2", "/var/run/docker/netns/0123456789ab", c.Path)
	d.ok("NetworkDriver.CreateEndpoint", second.Replace(strings.Replace(someEndpoint, `"com.docker.network.portmap":[]`, `"com.docker.network.endpoint.ifname":"can7"`, 1)))
	d.refused("NetworkDriver.Join", second.Replace(someJoin), 400, "can7", "choose another name", "docker network disconnect")
	harness.ExpectBus(t, "vcan0", 1)
}
