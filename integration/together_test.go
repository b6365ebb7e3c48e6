package integration

import "testing"

// TestAllRuntimes: a Docker container, a Podman container, a pod and the host on one hub hear each other exactly once,
// and one runtime's garbage collection leaves the others' endpoints alone.
func TestAllRuntimes(t *testing.T) {
	d := startDocker(t) // on a host with nothing on it
	p := newPodman(t, "canbus0")
	c := newContainerd(t)
	d.network("canbus", "0", "vxcan.peer=can")
	fromDocker := d.run("docker", "--network", "canbus")
	p.run("podman", "--network", "canbus0")
	pod := c.runPod("pod", "can0")
	stations := []station{{"host", nil, "vcan0"}, fromDocker.on("can0"), p.station("podman", "can0"), c.station(pod, "can0")}
	expectExactlyOnce(t, stations, 100, true)

	// What is stale for a CNI network that knows nobody is nobody else's.
	for _, network := range []string{"canbus0", "pods"} {
		collect := call{}.with(`"name":"` + network + `","cni.dev/valid-attachments":[]`)
		if network == "pods" {
			c.removePod(pod)
			stations = stations[:3]
		} else if p.backend == "cni" { // this is Podman's own network
			continue
		}
		collect.ok(t, "GC")
		expectExactlyOnce(t, stations, 20, true)
	}
	p.do("rm", "--force", "podman")
	expectExactlyOnce(t, stations[:2], 20, true)
	d.docker("rm", "-f", "docker")
	d.docker("network", "rm", "canbus")
	d.expectClean()
}
