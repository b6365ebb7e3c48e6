// Package docker tests Docker with the network driver.
package docker

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vxcan/vxcan/integration/harness"
	"github.com/vxcan/vxcan/pkg/cantest"
)

// TestDocker: the real daemon, the real driver, and what users do with them.
func TestDocker(t *testing.T) {
	d := harness.StartDocker(t)
	t.Logf("Docker %s", d.Version())
	host := harness.Host("vcan0")

	t.Run("refusals", sub(d, testRefusals))
	t.Run("a controller", sub(d, testController))

	d.Network("canbus", "0", "vxcan.peer=can")
	if got, want := harness.CANLinks(t), []string{"vcan0", "vcan0-rx", "vcan0-tx"}; !slices.Equal(got, want) {
		t.Errorf("after network create: %v, want %v", got, want)
	}
	c1, c2 := d.Run("c1", "--network", "canbus"), d.Run("c2", "--network", "canbus")
	c1.ExpectInterfaces("can0")
	c2.ExpectInterfaces("can0")
	harness.ExpectBus(t, "vcan0", 2)
	harness.ExpectExactlyOnce(t, []harness.Station{host, c1.On("can0"), c2.On("can0")}, 300, true)

	t.Run("disconnect and connect", sub(d, func(d *harness.DockerHost) {
		d.Docker("network", "disconnect", "canbus", "c1")
		c1.ExpectInterfaces()
		harness.ExpectBus(d.T, "vcan0", 1)
		d.Docker("network", "connect", "canbus", "c1")
		c1.ExpectInterfaces("can0")
		harness.ExpectBus(d.T, "vcan0", 2)
		harness.ExpectExactlyOnce(d.T, []harness.Station{host, c1.On("can0"), c2.On("can0")}, 300, true)
		d.Docker("network", "disconnect", "canbus", "c1")
		d.Docker("network", "connect", "--driver-opt", "com.docker.network.endpoint.ifname=engine", "canbus", "c1")
		c1.ExpectInterfaces("engine")
		harness.ExpectExactlyOnce(d.T, []harness.Station{host, c1.On("engine"), c2.On("can0")}, 100, true)
	}))

	t.Run("two networks in one container", sub(d, func(d *harness.DockerHost) {
		d.Network("other", "1", "vxcan.peer=bus")
		d.Docker("create", "--name", "c3", "--network", "canbus", harness.DockerImage)
		d.Docker("network", "connect", "other", "c3")
		d.Docker("start", "c3")
		c3 := d.Container("c3")
		c3.ExpectInterfaces("bus0", "can0")
		harness.ExpectExactlyOnce(d.T, []harness.Station{host, c1.On("engine"), c2.On("can0"), c3.On("can0")}, 100, true)
		harness.ExpectExactlyOnce(d.T, []harness.Station{harness.Host("vcan1"), c3.On("bus0")}, 100, true)
		d.Docker("rm", "-f", "c3")
		d.Docker("network", "rm", "other")
	}))

	t.Run("a CNI container on the same bus", sub(d, func(d *harness.DockerHost) {
		c := harness.NewContainer(d.T, "cni")
		result, _ := harness.On(c).Add(d.T)
		harness.ExpectBus(d.T, "vcan0", 3)
		harness.ExpectExactlyOnce(d.T, []harness.Station{host, c1.On("engine"), c2.On("can0"), c.On("can0")}, 100, true)
		if err := harness.On(c).Check(d.T, result); err != nil {
			d.T.Error(err)
		}
		harness.On(c).OK(d.T, "DEL")
		harness.ExpectBus(d.T, "vcan0", 2)
	}))

	t.Run("driver killed between CreateEndpoint and Join", sub(d, func(d *harness.DockerHost) {
		d.StopDriver(os.Kill)
		const behind = "/run/vxcan-behind.sock"
		d.StartDriverAt(behind)
		killed := false
		calls, stop := proxy(d, behind, func(call string) {
			if call == "Join" && !killed {
				killed = true
				d.StopDriver(os.Kill)
				d.StartDriverAt(behind)
			}
		})
		c3 := d.Run("c3", "--network", "canbus")
		c3.ExpectInterfaces("can0")
		harness.ExpectExactlyOnce(d.T, []harness.Station{host, c2.On("can0"), c3.On("can0")}, 100, true)
		d.Docker("rm", "-f", "c3")
		d.T.Logf("calls: %v", calls())
		if !killed {
			d.T.Error("no Join")
		}
		stop()
		d.StopDriver(os.Interrupt)
		d.StartDriver()
		harness.ExpectBus(d.T, "vcan0", 2)
	}))

	t.Run("driver restarted while frames flow", sub(d, func(d *harness.DockerHost) {
		listener, onHost := cantest.Listen(d.T, c2.Netns, "can0"), cantest.Listen(d.T, nil, "vcan0")
		sender := cantest.NewSender(d.T, c1.Netns, "engine")
		const count = 3000
		for i := range count {
			if err := sender.Send(cantest.Frame{ID: 0x123, Data: fmt.Sprintf("%08d", i)}); err != nil {
				d.T.Fatal(err)
			}
			time.Sleep(500 * time.Microsecond)
			switch i {
			case 500:
				d.StopDriver(os.Kill)
			case 1000:
				d.StartDriver()
			case 1500:
				d.StopDriver(os.Interrupt)
			case 2000:
				d.StartDriver()
			}
		}
		cantest.WaitQuiet(2*count, listener, onHost)
		for _, l := range []*cantest.Listener{listener, onHost} {
			heard, _ := l.Heard()
			for i := range count {
				if n := heard[cantest.Frame{ID: 0x123, Data: fmt.Sprintf("%08d", i)}]; n != 1 {
					d.T.Fatalf("frame %d heard %d times", i, n)
				}
			}
		}
		harness.ExpectBus(d.T, "vcan0", 2)
	}))

	t.Run("a missing hub comes back", sub(d, func(d *harness.DockerHost) {
		harness.Command(d.T, "ip", "link", "del", "vcan0")
		harness.Command(d.T, "ip", "link", "del", "vcan0-tx")
		c3 := d.Run("c3", "--network", "canbus")
		harness.ExpectBus(d.T, "vcan0", 3)
		harness.ExpectExactlyOnce(d.T, []harness.Station{host, c1.On("engine"), c2.On("can0"), c3.On("can0")}, 100, true)
		expectRepaired(d, "vcan0")
		d.Docker("rm", "-f", "c3")
	}))

	t.Run("calls lost while the driver is down", sub(d, func(d *harness.DockerHost) {
		d.Run("c3", "--network", "canbus").Netns.Close()
		d.StopDriver(os.Kill)
		stop := refuseAll(d)
		_, err := d.Try("rm", "-f", "c3")
		d.T.Logf("docker rm without a driver: %v; left: %v", err, harness.CANLinks(d.T))
		stop()
		d.StartDriver()
		// What Docker did not move back goes with the netns, which Docker keeps for up to two minutes.
		d.WaitFor("the end of c3", func() bool { return len(harness.HostEnds(d.T)) == 2 })
		harness.ExpectBus(d.T, "vcan0", 2)
		harness.ExpectExactlyOnce(d.T, []harness.Station{host, c1.On("engine"), c2.On("can0")}, 100, true)
	}))

	t.Run("names", sub(d, testNames))

	d.RemoveAll("canbus", "vcan0", "c1", "c2")
}

// testNames: a container on two buses keeps its names, whether it was connected before or while it ran. A second network
// with a name that the container has is refused, and the container starts again without it.
func testNames(d *harness.DockerHost) {
	d.Network("same", "1")
	d.Network("bus", "1", "vxcan.peer=bus")
	d.Docker("create", "--name", "both", "--network", "canbus", harness.DockerImage)
	d.Docker("network", "connect", "same", "both") // of which the driver learns when it starts
	words := []string{"can0", "already", "vxcan.peer=", "endpoint.ifname=", "docker network disconnect"}
	refusesToRun(d, []string{"start", "both"}, words...)
	d.Docker("network", "disconnect", "same", "both")
	d.Docker("start", "both")

	restart := func() { d.Docker("restart", "-t", "0", "both") }
	station := func(ifName string) harness.Station { return d.Container("both").On(ifName) }
	refusesToRun(d, []string{"network", "connect", "same", "both"}, words...)
	if _, err := d.Try("restart", "-t", "0", "both"); err != nil { // Docker has noted the network nevertheless
		d.T.Logf("restart after a connect that failed: %v", err)
		d.Docker("network", "disconnect", "same", "both")
		d.Docker("start", "both")
	}
	hubs := map[string]string{"can0": "vcan0"}
	harness.ExpectNames(d.T, hubs, station)

	hubs["bus0"] = "vcan1"
	for range 2 {
		d.Docker("network", "connect", "bus", "both")
		harness.ExpectNames(d.T, hubs, station)
		d.T.Logf("connected: %v", d.Container("both").Interfaces())
		d.Docker("network", "disconnect", "bus", "both")
	}
	d.Docker("network", "connect", "bus", "both")

	// A name of its own in one container. Docker up to 27 can give only what ends in 0.
	connect := func(ifName string) {
		d.T.Helper()
		d.Docker("network", "connect", "--driver-opt", "com.docker.network.endpoint.ifname="+ifName, "same", "both")
		hubs[ifName] = "vcan1"
		harness.ExpectNames(d.T, hubs, station)
	}
	connect("can5")
	if major, _ := strconv.Atoi(d.MajorVersion()); major < 28 {
		refusesToRun(d, []string{"restart", "-t", "0", "both"}, "can5", "end in 0", "vxcan.peer=", "docker network disconnect")
		d.Docker("network", "disconnect", "same", "both")
		d.Docker("start", "both")
		delete(hubs, "can5")
		connect("can10")
	}
	harness.ExpectNamesStay(d.T, hubs, restart, station)
	d.Container("both").ExpectInterfaces(slices.Sorted(maps.Keys(hubs))...)
	d.Docker("rm", "-f", "both")
	d.Docker("network", "rm", "same", "bus")
}

// TestDaemonRestart: dockerd goes and comes back, as it should and as it should not. Docker then tells nothing of
// its networks, and of its containers only those that it starts.
func TestDaemonRestart(t *testing.T) {
	d := harness.StartDocker(t)
	d.Network("canbus", "0")
	for _, name := range []string{"c1", "c2"} {
		d.Run(name, "--network", "canbus", "--restart", "always")
	}
	everybody := func() []harness.Station {
		all := []harness.Station{harness.Host("vcan0")}
		for _, name := range []string{"c1", "c2"} {
			c := d.Container(name)
			c.ExpectInterfaces("can0")
			all = append(all, c.On("can0"))
		}
		return all
	}
	t.Run("in good order", sub(d, func(d *harness.DockerHost) {
		d.StopDaemon(os.Interrupt)
		harness.ExpectBus(d.T, "vcan0", 0)
		d.StartDaemon()
		stations := everybody()
		harness.ExpectBus(d.T, "vcan0", 2)
		harness.ExpectExactlyOnce(d.T, stations, 100, true)
	}))
	t.Run("killed", sub(d, func(d *harness.DockerHost) {
		d.StopDaemon(os.Kill)
		d.StartDaemon()
		stations := everybody()
		harness.ExpectBus(d.T, "vcan0", 2)
		harness.ExpectExactlyOnce(d.T, stations, 100, true)
	}))
	t.Run("killed, with a container on two buses", sub(d, func(d *harness.DockerHost) {
		d.Network("bus", "1", "vxcan.peer=bus")
		d.Docker("create", "--name", "both", "--network", "bus", harness.DockerImage)
		d.Docker("network", "connect", "canbus", "both")
		d.Docker("start", "both")
		d.StopDaemon(os.Kill)
		d.StartDaemon()
		d.Docker("start", "both") // which may run still
		harness.ExpectNames(d.T, map[string]string{"can0": "vcan0", "bus0": "vcan1"}, func(ifName string) harness.Station { return d.Container("both").On(ifName) })
		d.Docker("rm", "-f", "both")
		d.Docker("network", "rm", "bus")
	}))
	t.Run("live restore", sub(d, func(d *harness.DockerHost) {
		d.StopDaemon(os.Interrupt)
		d.Args = append(d.Args, "--live-restore")
		d.StartDaemon()
		stations := everybody()
		d.StopDaemon(os.Interrupt)
		harness.ExpectExactlyOnce(d.T, stations, 100, true)
		d.StartDaemon()
		harness.ExpectExactlyOnce(d.T, stations, 100, true)
		harness.ExpectBus(d.T, "vcan0", 2)
		d.Docker("restart", "c2")
		harness.ExpectExactlyOnce(d.T, everybody(), 100, true)
		d.Docker("network", "disconnect", "canbus", "c1")
		harness.ExpectBus(d.T, "vcan0", 1)
		if slices.Contains([]string{"28", "29"}, d.MajorVersion()) {
			return // connected again and stopped, it makes dockerd panic before 29.7: https://github.com/moby/moby/pull/53237
		}
		d.Docker("network", "connect", "canbus", "c1")
		stations = everybody()
		harness.ExpectBus(d.T, "vcan0", 2)
		harness.ExpectExactlyOnce(d.T, stations, 100, true)
	}))
	d.RemoveAll("canbus", "vcan0", "c1", "c2")
}

// sub is d for a subtest.
func sub(d *harness.DockerHost, test func(*harness.DockerHost)) func(*testing.T) {
	return func(t *testing.T) {
		outer := d.T
		defer func() { d.T = outer }()
		d.T = t
		test(d)
	}
}

// testRefusals: what cannot work is refused with words that say what would.
func testRefusals(d *harness.DockerHost) {
	create := []string{"network", "create", "-d", "vxcan"}
	null := append(slices.Clone(create), "--ipam-driver", "null")
	with := func(base []string, args ...string) []string { return append(slices.Clone(base), args...) }
	harness.Command(d.T, "ip", "link", "add", "real0", "type", "dummy")
	defer harness.Try("ip", "link", "del", "real0")
	for _, c := range []struct {
		args  []string
		words []string
	}{
		{with(create, "n"), []string{"no IP addresses", "--ipam-driver null"}},
		{with(create, "--subnet", "10.1.0.0/16", "n"), []string{"10.1.0.0/16", "--ipam-driver null"}},
		{with(null, "-o", "mut=16", "n"), []string{`"mut"`, "mtu", "vxcan.dev"}},
		{with(null, "-o", "mtu=1500", "n"), []string{"1500", "16", "72"}},
		{with(null, "-o", "vxcan.id=one", "n"), []string{"vxcan.id", "one", "number"}},
		{with(null, "-o", "vxcan.dev=averyveryverylongname", "n"), []string{"hub", "15"}},
		{with(null, "-o", "vxcan.peer=c/n", "n"), []string{"vxcan.peer", "/"}},
		{with(null, "-o", "hub=vcan5", "-o", "vxcan.id=6", "n"), []string{"vcan5", "vcan6"}},
		{with(null, "-o", "physical=maybe", "n"), []string{"physical", "true or false"}},
		{with(null, "-o", "hub=real0", "n"), []string{"real0", "not a CAN device"}},
	} {
		if !refusesToRun(d, c.args, c.words...) {
			_, _ = d.Try("network", "rm", "n")
		}
	}
	if got := harness.CANLinks(d.T); len(got) > 0 {
		d.T.Errorf("refused networks left %v", got)
	}

	d.Network("canbus", "0")
	for _, c := range []struct {
		args  []string
		words []string
	}{
		{[]string{"--mac-address", "02:00:00:00:00:01"}, []string{"02:00:00:00:00:01", "--mac-address"}},
		{[]string{"--ip", "10.1.2.3"}, []string{"IP"}},
	} {
		args := append([]string{"run", "-d", "--rm", "--network", "canbus"}, c.args...)
		refusesToRun(d, append(args, harness.DockerImage), c.words...)
	}
	d.Docker("network", "rm", "canbus")
	d.ExpectClean()
}

// refusesToRun runs docker, which must fail with these words, and of ours in one line.
func refusesToRun(d *harness.DockerHost, args []string, words ...string) bool {
	d.T.Helper()
	_, err := d.Try(args...)
	if err == nil {
		d.T.Errorf("docker %s: no error", strings.Join(args, " "))
		return false
	}
	_, said, _ := strings.Cut(err.Error(), "rror response from daemon: ")
	line, more, _ := strings.Cut(said, "\n")
	d.T.Log(line)
	// Docker's own refusals may have several lines, and of some commands it says where their help is, or that they failed.
	more = strings.TrimSpace(more)
	isDockers := func(begin string) bool { return strings.HasPrefix(strings.TrimPrefix(more, "Error: "), begin) }
	if strings.Contains(line, "NetworkDriver.") && more != "" && !slices.ContainsFunc([]string{"See ", "Run ", "failed to start "}, isDockers) {
		d.T.Errorf("docker %s: not one line: %s", strings.Join(args, " "), said)
	}
	for _, w := range words {
		if !strings.Contains(said, w) {
			d.T.Errorf("docker %s: the message lacks %q: %s", strings.Join(args, " "), w, said)
		}
	}
	return true
}

// expectRepaired fails the test unless the driver's log says, once each, that hub and backplane were made anew and the
// rules put back.
func expectRepaired(d *harness.DockerHost, hub string) {
	d.T.Helper()
	log := d.Log()
	for _, words := range []string{"repaired: hub " + hub + " is missing", "repaired: backplane " + hub + "-tx, " + hub + "-rx is missing", "gateway rules are missing"} {
		if n := strings.Count(log, words); n != 1 {
			d.T.Errorf("the driver's log has %q %d times, want 1", words, n)
		}
	}
}

// testController: a hub that is a CAN controller, with a driver, a queue and a wire.
func testController(d *harness.DockerHost) {
	controller := cantest.NewController(d.T, "slot0")
	harness.SetUpController(d.T, controller, 1000)
	up := harness.ControllerState(d.T, "slot0")
	d.Docker("network", "create", "-d", "vxcan", "--ipam-driver", "null", "-o", "hub=slot0", "-o", "physical=true", "controller")
	c1, c2 := d.Run("c1", "--network", "controller"), d.Run("c2", "--network", "controller")
	harness.ExpectOnWire(d.T, controller, []harness.Station{harness.Host("slot0"), c1.On("can0"), c2.On("can0")}, 100)
	d.Docker("rm", "-f", "c1", "c2")
	if now := harness.ControllerState(d.T, "slot0"); now != up {
		d.T.Errorf("the controller was changed:\n%s\n%s", up, now)
	}
	if got := controller.Commands(); !slices.Equal(got, harness.UpCommands) {
		d.T.Errorf("the controller was told %q, want %q", got, harness.UpCommands)
	}

	// A network can be created while the controller is away. A container says so, until the controller is there.
	controller.Unplug()
	d.Docker("network", "rm", "controller")
	d.ExpectClean()
	d.Docker("network", "create", "-d", "vxcan", "--ipam-driver", "null", "-o", "hub=slot0", "-o", "physical=true", "controller")
	if got := harness.CANLinks(d.T); len(got) > 0 {
		d.T.Errorf("made for a controller that is away: %v", got)
	}
	start := time.Now()
	refusesToRun(d, []string{"run", "-d", "--rm", "--network", "controller", harness.DockerImage}, "slot0", "no such device", "connect the controller")
	if took := time.Since(start); took > 20*time.Second { // Docker asks again for half a minute when it thinks that it helps
		d.T.Errorf("it took %v", took)
	}
	controller = cantest.NewController(d.T, "slot0")
	harness.SetUpController(d.T, controller, 1000)
	c1 = d.Run("c1", "--network", "controller")
	harness.ExpectOnWire(d.T, controller, []harness.Station{harness.Host("slot0"), c1.On("can0")}, 5)
	d.Docker("rm", "-f", "c1")
	controller.Unplug()
	d.Docker("network", "rm", "controller")
	d.ExpectClean()
}
