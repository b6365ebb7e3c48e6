package integration

import (
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/vxcan/vxcan/pkg/cantest"
)

// TestAllRuntimes: a Docker container, a Podman container, a pod and the host on one hub hear each other exactly once,
// vxcanctl shows each by its name, and one runtime's garbage collection leaves the others' endpoints alone.
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

	controller := cantest.NewController(t, "slot0")
	setUpController(t, controller, 1000)
	d.docker("network", "create", "-d", "vxcan", "--ipam-driver", "null", "-o", "hub=slot0", "-o", "physical=true", "wire")
	d.run("logger", "--network", "wire")
	busOff(t, controller)
	expectShown(t, "", `slot0  can  .*bus-off  1 problem\n  FAIL controller slot0 is bus-off`, `  logger +docker +wire +can0 `,
		`vcan0  vcan  CAN FD  healthy\n`, `  docker +docker +canbus +can0 +300 `, `  podman +podman +canbus0 +can0 +300 `, `  default/pod +kubernetes +pods +can0 +300 `)
	expectShown(t, "metrics", `vxcan_endpoint_sent_frames_total\{hub="vcan0",runtime="docker",network="[0-9a-f]{64}",container="[0-9a-f]{64}",name="docker",`)
	expectShown(t, "graph", `slot0  can, .*bus-off.*\n\|- programs on the host\n\|- the wire\n`+"`- logger  can0 \\(docker wire\\)", `- docker  can0 \(docker canbus\)`, `- podman  can0`, `- default/pod  can0`)
	d.docker("rm", "-f", "logger")
	d.docker("network", "rm", "wire")

	// What containers break, the commands that status prints repair.
	down := func(pid string) { command(t, "nsenter", "--net", "--target", pid, "ip", "link", "set", "can0", "down") }
	down(d.docker("inspect", "-f", "{{.State.Pid}}", "docker"))
	down(p.do("inspect", "-f", "{{.State.Pid}}", "podman"))
	command(t, "cangw", "-F")
	out, _, _ := control(t, nil, "status", "vcan0")
	t.Logf("%s", out)
	cures := regexp.MustCompile(`(?m)^ {7}sudo (.*)$`).FindAllStringSubmatch(out, -1)
	for _, cure := range cures {
		line := strings.ReplaceAll(cure[1], "sudo ", "")
		command(t, "sh", "-c", strings.Replace(line, "vxcanctl", filepath.Join(binDir(t), "vxcanctl"), 1))
	}
	expectShown(t, "status vcan0", `^vcan0  vcan  CAN FD  healthy\n`)
	if len(cures) != 3 || !strings.Contains(out, "FAIL container end can0 of docker is down\n") || !strings.Contains(out, "FAIL container end can0 of podman is down\n") ||
		!strings.Contains(out, "FAIL docker, podman, default/pod: 10 gateway rules are missing\n") {
		t.Errorf("%d commands: %s", len(cures), out)
	}
	expectExactlyOnce(t, stations, 20, true)

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

// expectShown expects something in what vxcanctl says.
func expectShown(t *testing.T, args string, patterns ...string) {
	t.Helper()
	out, words, status := control(t, nil, strings.Fields(args)...)
	t.Logf("vxcanctl %s\n%s", args, out)
	for _, pattern := range patterns {
		if !regexp.MustCompile(pattern).MatchString(out) {
			t.Errorf("vxcanctl %s lacks %q", args, pattern)
		}
	}
	if status != 0 || words != "" {
		t.Errorf("vxcanctl %s: exit status %d, %s", args, status, words)
	}
}
