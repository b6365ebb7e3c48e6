package host

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/vxcan/vxcan/integration/harness"
	"github.com/vxcan/vxcan/pkg/cantest"
)

// TestAllRuntimes: a Docker container, a Podman container, a pod and the host on one hub hear each other exactly once,
// vxcanctl shows each by its name, and one runtime's garbage collection leaves the others' endpoints alone.
func TestAllRuntimes(t *testing.T) {
	d := harness.StartDocker(t) // on a host with nothing on it
	p := harness.NewPodman(t, "canbus0")
	c := harness.NewContainerd(t)
	d.Network("canbus", "0", "vxcan.peer=can")
	fromDocker := d.Run("docker", "--network", "canbus")
	p.Run("podman", "--network", "canbus0")
	pod := c.RunPod("pod", "can0")
	stations := []harness.Station{harness.Host("vcan0"), fromDocker.On("can0"), p.Station("podman", "can0"), c.Station(pod, "can0")}
	harness.ExpectExactlyOnce(t, stations, 100, true)

	controller := cantest.NewController(t, "slot0")
	harness.SetUpController(t, controller, 1000)
	d.Docker("network", "create", "-d", "vxcan", "--ipam-driver", "null", "-o", "hub=slot0", "-o", "physical=true", "wire")
	d.Run("logger", "--network", "wire")
	harness.BusOff(t, controller)
	expectShown(t, "", `slot0  can  .*bus-off  1 problem\n  FAIL controller slot0 is bus-off`, `  logger +docker +wire +can0 `,
		`vcan0  vcan  CAN FD  healthy\n`, `  docker +docker +canbus +can0 +300 `, `  podman +podman +canbus0 +can0 +300 `, `  default/pod +kubernetes +pods +can0 +300 `)
	expectShown(t, "metrics", `vxcan_endpoint_sent_frames_total\{hub="vcan0",runtime="docker",network="[0-9a-f]{64}",container="[0-9a-f]{64}",name="docker",`)
	expectShown(t, "graph", `slot0  can, .*bus-off.*\n\|- programs on the host\n\|- the wire\n`+"`- logger  can0 \\(docker wire\\)", `- docker  can0 \(docker canbus\)`, `- podman  can0`, `- default/pod  can0`)
	expectFits(t, 80)
	expectFits(t, 120)
	d.Docker("rm", "-f", "logger")
	d.Docker("network", "rm", "wire")

	// What containers break, the commands that status prints repair.
	down := func(pid string) {
		harness.Command(t, "nsenter", "--net", "--target", pid, "ip", "link", "set", "can0", "down")
	}
	down(d.Docker("inspect", "-f", "{{.State.Pid}}", "docker"))
	down(p.Do("inspect", "-f", "{{.State.Pid}}", "podman"))
	harness.Command(t, "cangw", "-F")
	out, _, _ := harness.Control(t, nil, "status", "vcan0")
	t.Logf("%s", out)
	cures := regexp.MustCompile(`(?m)^ {7}sudo (.*)$`).FindAllStringSubmatch(out, -1)
	for _, cure := range cures {
		line := strings.ReplaceAll(cure[1], "sudo ", "")
		harness.Command(t, "sh", "-c", strings.Replace(line, "vxcanctl", filepath.Join(harness.BinDir(t), "vxcanctl"), 1))
	}
	expectShown(t, "status vcan0", `^vcan0  vcan  CAN FD  healthy\n`)
	if len(cures) != 3 || !strings.Contains(out, "FAIL container end can0 of docker is down\n") || !strings.Contains(out, "FAIL container end can0 of podman is down\n") ||
		!strings.Contains(out, "FAIL docker, podman, default/pod: 10 gateway rules are missing\n") {
		t.Errorf("%d commands: %s", len(cures), out)
	}
	harness.ExpectExactlyOnce(t, stations, 20, true)

	// What is stale for a CNI network that knows nobody is nobody else's.
	for _, network := range []string{"canbus0", "pods"} {
		collect := harness.Call{}.With(`"name":"` + network + `","cni.dev/valid-attachments":[]`)
		if network == "pods" {
			c.RemovePod(pod)
			stations = stations[:3]
		} else if p.Backend == "cni" { // this is Podman's own network
			continue
		}
		collect.OK(t, "GC")
		harness.ExpectExactlyOnce(t, stations, 20, true)
	}
	p.Do("rm", "--force", "podman")
	harness.ExpectExactlyOnce(t, stations[:2], 20, true)
	d.Docker("rm", "-f", "docker")
	d.Docker("network", "rm", "canbus")
	d.ExpectClean()
}

// expectFits expects that status fits into a terminal of this many columns.
func expectFits(t *testing.T, columns int) {
	t.Helper()
	status := fmt.Sprintf("stty cols %d; %s/vxcanctl status", columns, harness.BinDir(t))
	out := harness.Command(t, "script", "--quiet", "--return", "--command", status, "/dev/null")
	plain := regexp.MustCompile(`\x1b\[[0-9;]*m|\r`).ReplaceAllString(out, "")
	t.Logf("%d columns:\n%s", columns, plain)
	for line := range strings.Lines(plain) {
		if utf8.RuneCountInString(strings.TrimSuffix(line, "\n")) > columns {
			t.Errorf("%d columns: %s", columns, line)
		}
	}
	if !strings.Contains(out, "\x1b[") {
		t.Errorf("%d columns: a terminal, and nothing is in colour", columns)
	}
}

// expectShown expects something in what vxcanctl says.
func expectShown(t *testing.T, args string, patterns ...string) {
	t.Helper()
	out, words, status := harness.Control(t, nil, strings.Fields(args)...)
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
