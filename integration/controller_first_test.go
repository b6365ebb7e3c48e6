package integration

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/vxcan/vxcan/pkg/cantest"
)

// TestControllerOthers: a controller that somebody else has set up is used untouched when it agrees with the network, and
// refused and never taken down when it does not.
func TestControllerOthers(t *testing.T) {
	freshHost(t)
	controller := cantest.NewController(t, "slot0")
	setUpController(t, controller, 2000)
	up := controllerState(t, "slot0")
	a := newContainer(t, "a")
	on(a).with(onController+`,"bitrate":250000`).fails(t, "ADD", 7, "slot0 is up with bitrate 500000, want 250000")
	on(a).with(onController+`,"bitrate":500000,"listen-only":true`).fails(t, "ADD", 7, "slot0 is up with", "listen-only")
	expectNothing(t)

	// With a filter that is run before ours, or in the place of ours, frames from the wire would go back to it.
	command(t, "tc", "qdisc", "add", "dev", "slot0", "clsact")
	cures := regexp.MustCompile(`tc filter del dev slot0 egress pref 1( handle 0x2 bpf)?`)
	for _, filter := range []string{"matchall action skbedit priority 6", "protocol all handle 2 bpf bytecode '1,6 0 0 4294967295' action ok"} {
		command(t, "sh", "-c", "tc filter add dev slot0 egress prio 1 "+filter)
		_, _, err := on(a).with(setUpByUs).exec(t, "ADD")
		cure := cures.FindString(fmt.Sprint(err))
		if err == nil || cure == "" {
			t.Fatalf("ADD with the filter %s: %v", filter, err)
		}
		command(t, "sh", "-c", cure)
		expectNothing(t)
	}
	result, _ := on(a).with(setUpByUs).add(t)
	vxcanctl(t, "heal", "slot0")
	if err := on(a).with(setUpByUs).check(t, result); err != nil {
		t.Error(err)
	}
	expectOnWire(t, controller, []station{{"host", nil, "slot0"}, {"a", a.netns, "can0"}}, 20)
	on(a).with(setUpByUs).ok(t, "DEL")
	if now := controllerState(t, "slot0"); now != up {
		t.Errorf("the controller was changed:\n%s\n%s", up, now)
	}
	if got := controller.Commands(); !slices.Equal(got, upCommands) {
		t.Errorf("the controller was told %q, want %q", got, upCommands)
	}
}

// dockerFromNothing runs the commands from a controller that was just plugged in to a container on it.
func dockerFromNothing(t *testing.T, options ...string) *dockerContainer {
	t.Helper()
	d := startDocker(t)
	create := []string{"network", "create", "-d", "vxcan", "--ipam-driver", "null", "-o", "hub=slot0", "-o", "physical=true"}
	for _, o := range options {
		create = append(create, "-o", o)
	}
	create = append(create, "engine")
	t.Logf("$ docker %s\n%s", strings.Join(create, " "), d.docker(create...))
	t.Cleanup(func() { d.docker("network", "rm", "engine") })
	run := []string{"run", "-d", "--name", "engine1", "--network", "engine", dockerImage}
	t.Logf("$ docker %s\n%s", strings.Join(run, " "), d.docker(run...))
	t.Logf("the driver: %s\n%s", d.log(), command(t, "ip", "-details", "link", "show", "dev", "slot0"))
	t.Cleanup(func() { d.docker("rm", "-f", "engine1") })
	return d.container("engine1")
}

// TestControllerDocker: from a fresh controller to a container that hears its wire in two commands.
func TestControllerDocker(t *testing.T) {
	freshHost(t)
	controller := cantest.NewController(t, "slot0")
	c := dockerFromNothing(t, "bitrate=500000")
	expectOnWire(t, controller, []station{{"host", nil, "slot0"}, c.on("can0")}, 50)
}

// TestUSBAdapterDocker is TestControllerDocker with a CAN FD adapter.
func TestUSBAdapterDocker(t *testing.T) {
	freshHost(t)
	adapter := cantest.NewUSBAdapter(t, "slot0", "A1B2C3")
	c := dockerFromNothing(t, "bitrate=500000", "fd=true", "dbitrate=2000000")
	exchange(t, []party{{"wire", adapter.Listen(), adapter.Send, false}, station{"host", nil, "slot0"}.party(t), c.on("can0").party(t)}, 50, true)
}

// podmanFromNothing is dockerFromNothing with Podman, where it has netavark.
func podmanFromNothing(t *testing.T, options ...string) (podman, bool) {
	t.Helper()
	p, ok := newNetavarkPodman(t)
	if !ok {
		return p, false
	}
	create := []string{"network", "create", "-d", "vxcan", "-o", "hub=slot0", "-o", "physical=true"}
	for _, o := range options {
		create = append(create, "-o", o)
	}
	create = append(create, "engine")
	t.Logf("$ podman %s\n%s", strings.Join(create, " "), p.do(create...))
	p.run("c", "--network", "engine")
	t.Logf("$ podman run -d --name c --network engine …\n%s", command(t, "ip", "-details", "link", "show", "dev", "slot0"))
	t.Cleanup(func() { p.do("network", "rm", "--force", "--time", "0", "engine") })
	return p, true
}

// TestControllerPodman is TestControllerDocker with Podman.
func TestControllerPodman(t *testing.T) {
	freshHost(t)
	controller := cantest.NewController(t, "slot0")
	if p, ok := podmanFromNothing(t, "bitrate=500000"); ok {
		expectOnWire(t, controller, []station{{"host", nil, "slot0"}, p.station("c", "can0")}, 50)
	}
}

// TestUSBAdapterPodman is TestUSBAdapterDocker with Podman.
func TestUSBAdapterPodman(t *testing.T) {
	freshHost(t)
	adapter := cantest.NewUSBAdapter(t, "slot0", "A1B2C3")
	if p, ok := podmanFromNothing(t, "bitrate=500000", "fd=true", "dbitrate=2000000"); ok {
		exchange(t, []party{{"wire", adapter.Listen(), adapter.Send, false}, station{"host", nil, "slot0"}.party(t), p.station("c", "can0").party(t)}, 50, true)
	}
}

// TestUSBAdapterConflist is TestUSBAdapterDocker with a CNI configuration list.
func TestUSBAdapterConflist(t *testing.T) {
	freshHost(t)
	adapter := cantest.NewUSBAdapter(t, "slot0", "A1B2C3")
	a, dir := newContainer(t, "a"), t.TempDir()
	list := `{"cniVersion":"1.1.0","name":"engine","plugins":[{"type":"vxcan","interface":"can0",` + usbSetUpByUs + `}]}`
	write(t, dir+"/engine.conflist", list)
	env := []string{"NETCONFPATH=" + dir, "CNI_PATH=" + binDir(t), binDir(t) + "/cnitool"}
	t.Logf("%s\n$ cnitool add engine %s\n%s", list, a.path, command(t, "env", append(env, "add", "engine", a.path)...))
	exchange(t, []party{{"wire", adapter.Listen(), adapter.Send, false}, station{"host", nil, "slot0"}.party(t), station{"a", a.netns, "can0"}.party(t)}, 50, true)
	command(t, "env", append(env, "check", "engine", a.path)...)
	command(t, "env", append(env, "del", "engine", a.path)...)
}
