package integration

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vxcan/vxcan/pkg/cantest"
)

// TestDocker: the real daemon, the real driver, and what users do with them.
func TestDocker(t *testing.T) {
	d := startDocker(t)
	t.Logf("Docker %s", d.version())
	host := station{"host", nil, "vcan0"}

	t.Run("refusals", d.sub((*dockerHost).testRefusals))
	t.Run("a controller", d.sub((*dockerHost).testController))

	d.network("canbus", "0", "vxcan.peer=can")
	if got, want := canLinks(t), []string{"vcan0", "vcan0-rx", "vcan0-tx"}; !slices.Equal(got, want) {
		t.Errorf("after network create: %v, want %v", got, want)
	}
	c1, c2 := d.run("c1", "--network", "canbus"), d.run("c2", "--network", "canbus")
	c1.expectInterfaces("can0")
	c2.expectInterfaces("can0")
	expectBus(t, "vcan0", 2)
	expectExactlyOnce(t, []station{host, c1.on("can0"), c2.on("can0")}, 300, true)

	t.Run("disconnect and connect", d.sub(func(d *dockerHost) {
		d.docker("network", "disconnect", "canbus", "c1")
		c1.expectInterfaces()
		expectBus(d.t, "vcan0", 1)
		d.docker("network", "connect", "canbus", "c1")
		c1.expectInterfaces("can0")
		expectBus(d.t, "vcan0", 2)
		expectExactlyOnce(d.t, []station{host, c1.on("can0"), c2.on("can0")}, 300, true)
		d.docker("network", "disconnect", "canbus", "c1")
		d.docker("network", "connect", "--driver-opt", "com.docker.network.endpoint.ifname=engine", "canbus", "c1")
		c1.expectInterfaces("engine")
		expectExactlyOnce(d.t, []station{host, c1.on("engine"), c2.on("can0")}, 100, true)
	}))

	t.Run("two networks in one container", d.sub(func(d *dockerHost) {
		d.network("other", "1", "vxcan.peer=bus")
		d.docker("create", "--name", "c3", "--network", "canbus", dockerImage)
		d.docker("network", "connect", "other", "c3")
		d.docker("start", "c3")
		c3 := d.container("c3")
		c3.expectInterfaces("bus0", "can0")
		expectExactlyOnce(d.t, []station{host, c1.on("engine"), c2.on("can0"), c3.on("can0")}, 100, true)
		expectExactlyOnce(d.t, []station{{"host", nil, "vcan1"}, c3.on("bus0")}, 100, true)
		d.docker("rm", "-f", "c3")
		d.docker("network", "rm", "other")
	}))

	t.Run("a CNI container on the same bus", d.sub(func(d *dockerHost) {
		c := newContainer(d.t, "cni")
		result, _ := on(c).add(d.t)
		expectBus(d.t, "vcan0", 3)
		expectExactlyOnce(d.t, []station{host, c1.on("engine"), c2.on("can0"), {"cni", c.netns, "can0"}}, 100, true)
		if err := on(c).check(d.t, result); err != nil {
			d.t.Error(err)
		}
		on(c).ok(d.t, "DEL")
		expectBus(d.t, "vcan0", 2)
	}))

	t.Run("driver killed between CreateEndpoint and Join", d.sub(func(d *dockerHost) {
		d.stopDriver(os.Kill)
		const behind = "/run/vxcan-behind.sock"
		d.startDriverAt(behind)
		killed := false
		calls, stop := d.proxy(behind, func(call string) {
			if call == "Join" && !killed {
				killed = true
				d.stopDriver(os.Kill)
				d.startDriverAt(behind)
			}
		})
		c3 := d.run("c3", "--network", "canbus")
		c3.expectInterfaces("can0")
		expectExactlyOnce(d.t, []station{host, c2.on("can0"), c3.on("can0")}, 100, true)
		d.docker("rm", "-f", "c3")
		d.t.Logf("calls: %v", calls())
		if !killed {
			d.t.Error("no Join")
		}
		stop()
		d.stopDriver(os.Interrupt)
		d.startDriver()
		expectBus(d.t, "vcan0", 2)
	}))

	t.Run("driver restarted while frames flow", d.sub(func(d *dockerHost) {
		listener, onHost := cantest.Listen(d.t, c2.netns, "can0"), cantest.Listen(d.t, nil, "vcan0")
		sender := cantest.NewSender(d.t, c1.netns, "engine")
		const count = 3000
		for i := range count {
			if err := sender.Send(cantest.Frame{ID: 0x123, Data: fmt.Sprintf("%08d", i)}); err != nil {
				d.t.Fatal(err)
			}
			time.Sleep(500 * time.Microsecond)
			switch i {
			case 500:
				d.stopDriver(os.Kill)
			case 1000:
				d.startDriver()
			case 1500:
				d.stopDriver(os.Interrupt)
			case 2000:
				d.startDriver()
			}
		}
		cantest.WaitQuiet(2*count, listener, onHost)
		for _, l := range []*cantest.Listener{listener, onHost} {
			heard, _ := l.Heard()
			for i := range count {
				if n := heard[cantest.Frame{ID: 0x123, Data: fmt.Sprintf("%08d", i)}]; n != 1 {
					d.t.Fatalf("frame %d heard %d times", i, n)
				}
			}
		}
		expectBus(d.t, "vcan0", 2)
	}))

	t.Run("a missing hub comes back", d.sub(func(d *dockerHost) {
		command(d.t, "ip", "link", "del", "vcan0")
		command(d.t, "ip", "link", "del", "vcan0-tx")
		c3 := d.run("c3", "--network", "canbus")
		expectBus(d.t, "vcan0", 3)
		expectExactlyOnce(d.t, []station{host, c1.on("engine"), c2.on("can0"), c3.on("can0")}, 100, true)
		d.expectRepaired("vcan0")
		d.docker("rm", "-f", "c3")
	}))

	t.Run("calls lost while the driver is down", d.sub(func(d *dockerHost) {
		d.run("c3", "--network", "canbus").netns.Close()
		d.stopDriver(os.Kill)
		stop := d.refuseAll()
		_, err := d.try("rm", "-f", "c3")
		d.t.Logf("docker rm without a driver: %v; left: %v", err, canLinks(d.t))
		stop()
		d.startDriver()
		// What Docker did not move back goes with the netns, which Docker keeps for up to two minutes.
		d.waitFor("the end of c3", func() bool { return len(hostEnds(d.t)) == 2 })
		expectBus(d.t, "vcan0", 2)
		expectExactlyOnce(d.t, []station{host, c1.on("engine"), c2.on("can0")}, 100, true)
	}))

	t.Run("names", d.sub((*dockerHost).testNames))

	d.removeAll("canbus", "vcan0", "c1", "c2")
}

// testNames: a container on two buses keeps its names, whether it was connected before or while it ran. A second network
// with a name that the container has is refused, and the container starts again without it.
func (d *dockerHost) testNames() {
	d.network("same", "1")
	d.network("bus", "1", "vxcan.peer=bus")
	d.docker("create", "--name", "both", "--network", "canbus", dockerImage)
	d.docker("network", "connect", "same", "both") // of which the driver learns when it starts
	words := []string{"can0", "already", "vxcan.peer=", "endpoint.ifname=", "docker network disconnect"}
	d.refusesToRun([]string{"start", "both"}, words...)
	d.docker("network", "disconnect", "same", "both")
	d.docker("start", "both")

	restart := func() { d.docker("restart", "-t", "0", "both") }
	station := func(ifName string) station { return d.container("both").on(ifName) }
	d.refusesToRun([]string{"network", "connect", "same", "both"}, words...)
	if _, err := d.try("restart", "-t", "0", "both"); err != nil { // Docker has noted the network nevertheless
		d.t.Logf("restart after a connect that failed: %v", err)
		d.docker("network", "disconnect", "same", "both")
		d.docker("start", "both")
	}
	hubs := map[string]string{"can0": "vcan0"}
	expectNames(d.t, hubs, station)

	hubs["bus0"] = "vcan1"
	for range 2 {
		d.docker("network", "connect", "bus", "both")
		expectNames(d.t, hubs, station)
		d.t.Logf("connected: %v", d.container("both").interfaces())
		d.docker("network", "disconnect", "bus", "both")
	}
	d.docker("network", "connect", "bus", "both")

	// A name of its own in one container. Docker up to 27 can give only what ends in 0.
	connect := func(ifName string) {
		d.t.Helper()
		d.docker("network", "connect", "--driver-opt", "com.docker.network.endpoint.ifname="+ifName, "same", "both")
		hubs[ifName] = "vcan1"
		expectNames(d.t, hubs, station)
	}
	connect("can5")
	if major, _ := strconv.Atoi(d.majorVersion()); major < 28 {
		d.refusesToRun([]string{"restart", "-t", "0", "both"}, "can5", "end in 0", "vxcan.peer=", "docker network disconnect")
		d.docker("network", "disconnect", "same", "both")
		d.docker("start", "both")
		delete(hubs, "can5")
		connect("can10")
	}
	testNames(d.t, hubs, restart, station)
	d.container("both").expectInterfaces(slices.Sorted(maps.Keys(hubs))...)
	d.docker("rm", "-f", "both")
	d.docker("network", "rm", "same", "bus")
}

// TestDockerDaemonRestart: dockerd goes and comes back, as it should and as it should not. Docker then tells nothing of
// its networks, and of its containers only those that it starts.
func TestDockerDaemonRestart(t *testing.T) {
	d := startDocker(t)
	d.network("canbus", "0")
	for _, name := range []string{"c1", "c2"} {
		d.run(name, "--network", "canbus", "--restart", "always")
	}
	everybody := func() []station {
		all := []station{{"host", nil, "vcan0"}}
		for _, name := range []string{"c1", "c2"} {
			c := d.container(name)
			c.expectInterfaces("can0")
			all = append(all, c.on("can0"))
		}
		return all
	}
	t.Run("in good order", d.sub(func(d *dockerHost) {
		d.stopDaemon(os.Interrupt)
		expectBus(d.t, "vcan0", 0)
		d.startDaemon()
		stations := everybody()
		expectBus(d.t, "vcan0", 2)
		expectExactlyOnce(d.t, stations, 100, true)
	}))
	t.Run("killed", d.sub(func(d *dockerHost) {
		d.stopDaemon(os.Kill)
		d.startDaemon()
		stations := everybody()
		expectBus(d.t, "vcan0", 2)
		expectExactlyOnce(d.t, stations, 100, true)
	}))
	t.Run("killed, with a container on two buses", d.sub(func(d *dockerHost) {
		d.network("bus", "1", "vxcan.peer=bus")
		d.docker("create", "--name", "both", "--network", "bus", dockerImage)
		d.docker("network", "connect", "canbus", "both")
		d.docker("start", "both")
		d.stopDaemon(os.Kill)
		d.startDaemon()
		d.docker("start", "both") // which may run still
		expectNames(d.t, map[string]string{"can0": "vcan0", "bus0": "vcan1"}, func(ifName string) station { return d.container("both").on(ifName) })
		d.docker("rm", "-f", "both")
		d.docker("network", "rm", "bus")
	}))
	t.Run("live restore", d.sub(func(d *dockerHost) {
		d.stopDaemon(os.Interrupt)
		d.args = append(d.args, "--live-restore")
		d.startDaemon()
		stations := everybody()
		d.stopDaemon(os.Interrupt)
		expectExactlyOnce(d.t, stations, 100, true)
		d.startDaemon()
		expectExactlyOnce(d.t, stations, 100, true)
		expectBus(d.t, "vcan0", 2)
		d.docker("restart", "c2")
		expectExactlyOnce(d.t, everybody(), 100, true)
		d.docker("network", "disconnect", "canbus", "c1")
		expectBus(d.t, "vcan0", 1)
		if slices.Contains([]string{"28", "29"}, d.majorVersion()) {
			return // connected again and stopped, it makes dockerd panic before 29.7: https://github.com/moby/moby/pull/53237
		}
		d.docker("network", "connect", "canbus", "c1")
		stations = everybody()
		expectBus(d.t, "vcan0", 2)
		expectExactlyOnce(d.t, stations, 100, true)
	}))
	d.removeAll("canbus", "vcan0", "c1", "c2")
}

// TestRebootDocker: after a reboot Docker starts its containers and says nothing of their network; there is no hub, no
// pair and no rule, and of the endpoints nobody has heard.
func TestRebootDocker(t *testing.T) {
	boot := bootNumber(t)
	d := newDocker(t)
	const hub = "vcan9"
	if boot == 1 {
		d.startDriver()
		d.startDaemon()
		d.docker("load", "-i", imageArchive(t, dockerImage))
		d.network("canbus", "9")
		d.run("c1", "--network", "canbus", "--restart", "always")
		d.run("c2", "--network", "canbus", "--restart", "always")
		d.run("c3", "--network", "canbus")
	} else {
		expectNoHub(t, hub)
		d.startDriver()
		d.startDaemon()
	}
	c1, c2 := d.container("c1"), d.container("c2")
	expectExactlyOnce(t, []station{{"host", nil, hub}, c1.on("can0"), c2.on("can0")}, 100, true)
	if boot == 1 {
		return // and the power fails
	}
	expectBus(t, hub, 2)
	d.docker("start", "c3") // not back yet until now
	expectExactlyOnce(t, []station{{"host", nil, hub}, c1.on("can0"), c2.on("can0"), d.container("c3").on("can0")}, 100, true)
	t.Log(d.log())
	d.removeAll("canbus", hub, "c1", "c2", "c3")
	d.stopDaemon(os.Interrupt)
	d.stopDriver(os.Interrupt)
}

// sub is d for a subtest.
func (d *dockerHost) sub(test func(*dockerHost)) func(*testing.T) {
	return func(t *testing.T) {
		outer := d.t
		defer func() { d.t = outer }()
		d.t = t
		test(d)
	}
}

// testRefusals: what cannot work is refused with words that say what would.
func (d *dockerHost) testRefusals() {
	create := []string{"network", "create", "-d", "vxcan"}
	null := append(slices.Clone(create), "--ipam-driver", "null")
	with := func(base []string, args ...string) []string { return append(slices.Clone(base), args...) }
	command(d.t, "ip", "link", "add", "real0", "type", "dummy")
	defer try("ip", "link", "del", "real0")
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
		if !d.refusesToRun(c.args, c.words...) {
			_, _ = d.try("network", "rm", "n")
		}
	}
	if got := canLinks(d.t); len(got) > 0 {
		d.t.Errorf("refused networks left %v", got)
	}

	d.network("canbus", "0")
	for _, c := range []struct {
		args  []string
		words []string
	}{
		{[]string{"--mac-address", "02:00:00:00:00:01"}, []string{"02:00:00:00:00:01", "--mac-address"}},
		{[]string{"--ip", "10.1.2.3"}, []string{"IP"}},
	} {
		args := append([]string{"run", "-d", "--rm", "--network", "canbus"}, c.args...)
		d.refusesToRun(append(args, dockerImage), c.words...)
	}
	d.docker("network", "rm", "canbus")
	d.expectClean()
}

// refusesToRun runs docker, which must fail with these words, and of ours in one line.
func (d *dockerHost) refusesToRun(args []string, words ...string) bool {
	d.t.Helper()
	_, err := d.try(args...)
	if err == nil {
		d.t.Errorf("docker %s: no error", strings.Join(args, " "))
		return false
	}
	_, said, _ := strings.Cut(err.Error(), "rror response from daemon: ")
	line, more, _ := strings.Cut(said, "\n")
	d.t.Log(line)
	// Docker's own refusals may have several lines, and of some commands it says where their help is, or that they failed.
	more = strings.TrimSpace(more)
	isDockers := func(begin string) bool { return strings.HasPrefix(strings.TrimPrefix(more, "Error: "), begin) }
	if strings.Contains(line, "NetworkDriver.") && more != "" && !slices.ContainsFunc([]string{"See ", "Run ", "failed to start "}, isDockers) {
		d.t.Errorf("docker %s: not one line: %s", strings.Join(args, " "), said)
	}
	for _, w := range words {
		if !strings.Contains(said, w) {
			d.t.Errorf("docker %s: the message lacks %q: %s", strings.Join(args, " "), w, said)
		}
	}
	return true
}

// removeAll removes a network and its containers, after which nothing of its bus may be there.
func (d *dockerHost) removeAll(network, hub string, containers ...string) {
	d.t.Helper()
	d.docker(append([]string{"rm", "-f"}, containers...)...)
	expectBus(d.t, hub, 0)
	d.docker("network", "rm", network)
	d.expectClean()
}

// expectRepaired fails the test unless the driver's log says, once each, that hub and backplane were made anew and the
// rules put back.
func (d *dockerHost) expectRepaired(hub string) {
	d.t.Helper()
	log := d.log()
	for _, words := range []string{"repaired: hub " + hub + " is missing", "repaired: backplane " + hub + "-tx, " + hub + "-rx is missing", "gateway rules are missing"} {
		if n := strings.Count(log, words); n != 1 {
			d.t.Errorf("the driver's log has %q %d times, want 1", words, n)
		}
	}
}

// testController: a hub that is a CAN controller, with a driver, a queue and a wire.
func (d *dockerHost) testController() {
	controller := cantest.NewController(d.t, "slot0")
	setUpController(d.t, controller, 1000)
	up := controllerState(d.t, "slot0")
	d.docker("network", "create", "-d", "vxcan", "--ipam-driver", "null", "-o", "hub=slot0", "-o", "physical=true", "controller")
	c1, c2 := d.run("c1", "--network", "controller"), d.run("c2", "--network", "controller")
	expectOnWire(d.t, controller, []station{{"host", nil, "slot0"}, c1.on("can0"), c2.on("can0")}, 100)
	d.docker("rm", "-f", "c1", "c2")
	if now := controllerState(d.t, "slot0"); now != up {
		d.t.Errorf("the controller was changed:\n%s\n%s", up, now)
	}
	if got := controller.Commands(); !slices.Equal(got, upCommands) {
		d.t.Errorf("the controller was told %q, want %q", got, upCommands)
	}

	// A network can be created while the controller is away. A container says so, until the controller is there.
	controller.Unplug()
	d.docker("network", "rm", "controller")
	d.expectClean()
	d.docker("network", "create", "-d", "vxcan", "--ipam-driver", "null", "-o", "hub=slot0", "-o", "physical=true", "controller")
	if got := canLinks(d.t); len(got) > 0 {
		d.t.Errorf("made for a controller that is away: %v", got)
	}
	start := time.Now()
	d.refusesToRun([]string{"run", "-d", "--rm", "--network", "controller", dockerImage}, "slot0", "no such device", "connect the controller")
	if took := time.Since(start); took > 20*time.Second { // Docker asks again for half a minute when it thinks that it helps
		d.t.Errorf("it took %v", took)
	}
	controller = cantest.NewController(d.t, "slot0")
	setUpController(d.t, controller, 1000)
	c1 = d.run("c1", "--network", "controller")
	expectOnWire(d.t, controller, []station{{"host", nil, "slot0"}, c1.on("can0")}, 5)
	d.docker("rm", "-f", "c1")
	controller.Unplug()
	d.docker("network", "rm", "controller")
	d.expectClean()
}
