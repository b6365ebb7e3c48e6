package podman

import (
	"testing"

	"github.com/vxcan/vxcan/integration/harness"
)

// TestPagePodman: the lines for Podman, with the backend that is here.
func TestPagePodman(t *testing.T) {
	harness.FreshHost(t)
	p := harness.NewPodman(t)
	p.Do("load", "--quiet", "-i", harness.ImageArchive(t, harness.LateImage, "candump", "cansend"))
	y := harness.NewTypist(t)
	if p.Backend == "netavark" {
		y.Run(harness.PageLines(t, "../../README.md", "Podman"), harness.FromBoth...)
	} else {
		t.Chdir("../..") // where the lines find conflist/
		y.Run(harness.PageLines(t, "conflist/podman/README.md", "Podman 4 with CNI"), harness.FromBoth[0])
	}
	p.Do("run", "-d", "--name", "other", "--network", "none", harness.LateImage)
	if _, err := harness.Try("podman", "network", "connect", "canbus0", "other"); err == nil {
		t.Error("a container with --network none can be connected: plugins/netavark says that it cannot")
	}
}
