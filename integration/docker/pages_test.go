package docker

import (
	"strings"
	"testing"

	"github.com/vxcan/vxcan/integration/harness"
	"github.com/vxcan/vxcan/pkg/cantest"
)

// TestPageDocker: the lines of README for Docker, for an adapter, and for a second bus.
func TestPageDocker(t *testing.T) {
	d := harness.StartDocker(t)
	t.Logf("Docker %s", d.Version())
	d.Docker("load", "-i", harness.ImageArchive(t, "can-utils:latest", "candump", "cansend"))
	y := harness.NewTypist(t)
	t.Cleanup(func() {
		_, _ = d.Try("rm", "-f", "engine", "logger", "dashboard")
		_, _ = d.Try("network", "rm", "canbus0", "canbus1", "wire")
	})
	y.Run(harness.PageLines(t, "../../README.md", "Docker"), harness.FromBoth...)

	const page = "../../plugins/docker/README.md"
	for _, line := range harness.PageLines(t, page, "Names, and two buses") {
		y.Must(line)
	}
	d.Container("engine").ExpectInterfaces("bus0", "can0")
	for _, mode := range []string{"none", "host"} {
		d.Docker("run", "-d", "--name", "other", "--network", mode, "can-utils")
		if _, err := d.Try("network", "connect", "canbus0", "other"); err == nil {
			t.Errorf("a container with --network %s can be connected: %s says that it cannot", mode, page)
		}
		d.Docker("rm", "-f", "other")
	}

	controller := cantest.NewController(t, "can0")
	lines := harness.PageLines(t, "../../README.md", "A real adapter")
	if out := y.Must(lines[0]); !strings.HasPrefix(out, "can0 ") {
		t.Errorf("%s: %q", lines[0], out)
	}
	for _, line := range lines[1:4] {
		y.Must(line)
	}
	d.WaitFor("a frame from the wire", func() bool {
		if err := controller.Send(cantest.Frame{ID: 0x123, Data: "\x11\x22"}); err != nil {
			t.Fatal(err)
		}
		return strings.Contains(y.Must(lines[4]), harness.FromBoth[0])
	})
	if out := y.Must(lines[5]); !strings.Contains(out, "can0") || !strings.Contains(out, "logger") || !strings.Contains(out, "500 kbit/s") {
		t.Errorf("%s:\n%s", lines[5], out)
	}
}
