// Package reboot tests containerd in a machine that starts again.
package reboot

import (
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/vxcan/vxcan/integration/harness"
)

// TestRebootContainerd: after a reboot a kubelet removes the dead pods, whose netns are gone, and runs new ones.
func TestRebootContainerd(t *testing.T) { harness.Reboot(t, rebootContainerd) }

func rebootContainerd(t *testing.T, boot int) {
	c := harness.NewContainerd(t)
	if boot == 2 {
		harness.ExpectNoHub(t, "vcan2")
		dead, err := c.CRI.ListPodSandbox(t.Context(), &cri.ListPodSandboxRequest{})
		if err != nil || len(dead.Items) != 2 {
			t.Fatalf("pods of the first boot: %v, %v", dead, err)
		}
		for _, pod := range dead.Items {
			c.RemovePod(pod.Id)
		}
	}
	stations := []harness.Station{harness.Host("vcan2")}
	for _, name := range []string{"engine", "dashboard"} {
		stations = append(stations, c.Station(c.RunPod(name, "vcan2:can0"), "can0"))
	}
	harness.ExpectExactlyOnce(t, stations, 50, true)
}
