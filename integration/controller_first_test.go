package integration

import (
	"fmt"
	"regexp"
	"slices"
	"testing"

	"github.com/vxcan/vxcan/integration/harness"
	"github.com/vxcan/vxcan/pkg/cantest"
)

// TestControllerOthers: a controller that somebody else has set up is used untouched when it agrees with the network, and
// refused and never taken down when it does not.
func TestControllerOthers(t *testing.T) {
	harness.FreshHost(t)
	controller := cantest.NewController(t, "slot0")
	harness.SetUpController(t, controller, 2000)
	up := harness.ControllerState(t, "slot0")
	a := harness.NewContainer(t, "a")
	harness.On(a).With(harness.OnController+`,"bitrate":250000`).Fails(t, "ADD", 7, "slot0 is up with bitrate 500000, want 250000")
	harness.On(a).With(harness.OnController+`,"bitrate":500000,"listen-only":true`).Fails(t, "ADD", 7, "slot0 is up with", "listen-only")
	harness.ExpectNothing(t)

	// With a filter that is run before ours, or in the place of ours, frames from the wire would go back to it.
	harness.Command(t, "tc", "qdisc", "add", "dev", "slot0", "clsact")
	cures := regexp.MustCompile(`tc filter del dev slot0 egress pref 1( handle 0x2 bpf)?`)
	for _, filter := range []string{"matchall action skbedit priority 6", "protocol all handle 2 bpf bytecode '1,6 0 0 4294967295' action ok"} {
		harness.Command(t, "sh", "-c", "tc filter add dev slot0 egress prio 1 "+filter)
		_, _, err := harness.On(a).With(harness.SetUpByUs).Exec(t, "ADD")
		cure := cures.FindString(fmt.Sprint(err))
		if err == nil || cure == "" {
			t.Fatalf("ADD with the filter %s: %v", filter, err)
		}
		harness.Command(t, "sh", "-c", cure)
		harness.ExpectNothing(t)
	}
	result, _ := harness.On(a).With(harness.SetUpByUs).Add(t)
	harness.Vxcanctl(t, "heal", "slot0")
	if err := harness.On(a).With(harness.SetUpByUs).Check(t, result); err != nil {
		t.Error(err)
	}
	harness.ExpectOnWire(t, controller, []harness.Station{harness.Host("slot0"), a.On("can0")}, 20)
	harness.On(a).With(harness.SetUpByUs).OK(t, "DEL")
	if now := harness.ControllerState(t, "slot0"); now != up {
		t.Errorf("the controller was changed:\n%s\n%s", up, now)
	}
	if got := controller.Commands(); !slices.Equal(got, harness.UpCommands) {
		t.Errorf("the controller was told %q, want %q", got, harness.UpCommands)
	}
}

// TestControllerDocker: from a fresh controller to a container that hears its wire in two commands.
func TestControllerDocker(t *testing.T) {
	harness.FreshHost(t)
	controller := cantest.NewController(t, "slot0")
	c := harness.DockerFromNothing(t, "bitrate=500000")
	harness.ExpectOnWire(t, controller, []harness.Station{harness.Host("slot0"), c.On("can0")}, 50)
}

// TestUSBAdapterDocker is TestControllerDocker with a CAN FD adapter.
func TestUSBAdapterDocker(t *testing.T) {
	harness.FreshHost(t)
	adapter := cantest.NewUSBAdapter(t, "slot0", "A1B2C3")
	c := harness.DockerFromNothing(t, "bitrate=500000", "fd=true", "dbitrate=2000000")
	harness.Exchange(t, []harness.Party{{Name: "wire", Listener: adapter.Listen(), Send: adapter.Send, Echo: false}, harness.Host("slot0").Party(t), c.On("can0").Party(t)}, 50, true)
}

// TestControllerPodman is TestControllerDocker with Podman.
func TestControllerPodman(t *testing.T) {
	harness.FreshHost(t)
	controller := cantest.NewController(t, "slot0")
	if p, ok := harness.PodmanFromNothing(t, "bitrate=500000"); ok {
		harness.ExpectOnWire(t, controller, []harness.Station{harness.Host("slot0"), p.Station("c", "can0")}, 50)
	}
}

// TestUSBAdapterPodman is TestUSBAdapterDocker with Podman.
func TestUSBAdapterPodman(t *testing.T) {
	harness.FreshHost(t)
	adapter := cantest.NewUSBAdapter(t, "slot0", "A1B2C3")
	if p, ok := harness.PodmanFromNothing(t, "bitrate=500000", "fd=true", "dbitrate=2000000"); ok {
		harness.Exchange(t, []harness.Party{{Name: "wire", Listener: adapter.Listen(), Send: adapter.Send, Echo: false}, harness.Host("slot0").Party(t), p.Station("c", "can0").Party(t)}, 50, true)
	}
}

// TestUSBAdapterConflist is TestUSBAdapterDocker with a CNI configuration list.
func TestUSBAdapterConflist(t *testing.T) {
	harness.FreshHost(t)
	adapter := cantest.NewUSBAdapter(t, "slot0", "A1B2C3")
	a, dir := harness.NewContainer(t, "a"), t.TempDir()
	list := `{"cniVersion":"1.1.0","name":"engine","plugins":[{"type":"vxcan","interface":"can0",` + harness.USBSetUpByUs + `}]}`
	harness.Write(t, dir+"/engine.conflist", list)
	env := []string{"NETCONFPATH=" + dir, "CNI_PATH=" + harness.BinDir(t), harness.BinDir(t) + "/cnitool"}
	t.Logf("%s\n$ cnitool add engine %s\n%s", list, a.Path, harness.Command(t, "env", append(env, "add", "engine", a.Path)...))
	harness.Exchange(t, []harness.Party{{Name: "wire", Listener: adapter.Listen(), Send: adapter.Send, Echo: false}, harness.Host("slot0").Party(t), a.On("can0").Party(t)}, 50, true)
	harness.Command(t, "env", append(env, "check", "engine", a.Path)...)
	harness.Command(t, "env", append(env, "del", "engine", a.Path)...)
}
