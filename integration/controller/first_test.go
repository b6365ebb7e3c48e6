package controller

import (
	"testing"

	"github.com/vxcan/vxcan/integration/harness"
	"github.com/vxcan/vxcan/pkg/cantest"
)

// TestControllerDocker: from a fresh controller to a container that hears its wire in two commands.
func TestControllerDocker(t *testing.T) {
	harness.FreshHost(t)
	controller := cantest.NewController(t, "slot0")
	c := harness.DockerFromNothing(t, "bitrate=500000")
	harness.ExpectOnWire(t, controller, []harness.Station{harness.Host("slot0"), c.On("can0")}, 50)
}

// TestControllerPodman is TestControllerDocker with Podman.
func TestControllerPodman(t *testing.T) {
	harness.FreshHost(t)
	controller := cantest.NewController(t, "slot0")
	if p, ok := harness.PodmanFromNothing(t, "bitrate=500000"); ok {
		harness.ExpectOnWire(t, controller, []harness.Station{harness.Host("slot0"), p.Station("c", "can0")}, 50)
	}
}
