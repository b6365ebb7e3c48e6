// Package host tests what people have: vxcanctl, and a bus with containers of every runtime.
package host

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vxcan/vxcan/integration/harness"
	"github.com/vxcan/vxcan/pkg/cantest"
)

// TestStatusAndGraph: with two buses and two runtimes, status and graph show the containers by name, what they sent, and
// a controller that is bus-off.
func TestStatusAndGraph(t *testing.T) {
	harness.TwoBuses(t)
	for _, c := range []struct {
		args  string
		words []string
	}{
		{"", []string{
			`slot0  can  classic CAN  (down  )?500 kbit/s  bus-off  1 problem\n  FAIL controller slot0 is bus-off\n       look for the fault on the wire, then\n       sudo ip link set slot0 down; sudo ip link set slot0 up\n`,
			`  lab/engine-0 +kubernetes +canbus0 +can0 +0 `,
			`vcan0  vcan  CAN FD  healthy\n  CONTAINER +RUNTIME +NETWORK +INTERFACE +SENT +SEND DENIED +HEARD\n`,
			`  a +cni +canbus0 +can0 +2 +1 +0\n    policy: send 100-1FF\n`, `  name +podman +canbus0 +can0 +0 +0 +2\n`,
		}},
		{"status vcan0", []string{`^vcan0  vcan`}},
		{"ls name", []string{`^vcan0  vcan .*\n.*\n  \(host\) .*\n  name +podman .*\n$`}},
		{"graph", []string{`(?m)^slot0  can, .*\(controller slot0 is bus-off\)$`, "\\|- the wire\n`- lab/engine-0  can0 \\(kubernetes canbus0\\)\n", "`- name  can0 \\(podman canbus0\\)\n$"}},
		{"graph -o dot", []string{`"bus vcan0" -- "netavark b" \[label="can0\\ncanbus0"\];`, `(?s)^graph vxcan \{.*\}\n$`}},
		{"graph -o json", []string{`(?s)^\{\n  "version": 1,\n  "buses": \[`}},
	} {
		expectShown(t, c.args, c.words...)
	}
	for args, want := range map[string]string{"status can9": "vxcanctl: can9: there is no such bus, and no container of this name on a bus\n", "status -o xml": "vxcanctl: invalid output \"xml\": want text or json\n"} {
		if out, words, status := harness.Control(t, nil, strings.Fields(args)...); status != 1 || out != "" || words != want {
			t.Errorf("vxcanctl %s: exit status %d, %s%s", args, status, out, words)
		}
	}
	noRoot := []string{"setpriv", "--reuid=65534", "--clear-groups"}
	for _, args := range []string{"", "status", "graph", "metrics"} {
		if out, words, status := harness.Control(t, noRoot, strings.Fields(args)...); status != 1 || out != "" || !strings.Contains(words, "needs root: run it with sudo") {
			t.Errorf("vxcanctl %s without root: exit status %d, %s%s", args, status, out, words)
		}
	}
}

// doctorHost makes a host on which doctor finds nothing wrong: every plugin is where its runtime looks.
func doctorHost(t *testing.T) {
	t.Helper()
	harness.FreshHost(t)
	for _, dir := range []string{"/opt", "/usr/local", "/usr/libexec"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		harness.Command(t, "mount", "-t", "tmpfs", "tmpfs", dir)
		t.Cleanup(func() { harness.Command(t, "umount", dir) })
	}
	for _, file := range []string{"/opt/cni/bin/vxcan", "/usr/local/libexec/netavark/vxcan", "/run/docker/plugins/vxcan.sock"} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, nil, 0o755)); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.Remove(file) })
	}
	harness.Command(t, "modprobe", "-a", "vcan", "vxcan", "can-gw")
}

// TestDoctorHosts: what doctor says of broken hosts, and its exit status, with and without --strict.
func TestDoctorHosts(t *testing.T) {
	if os.Getenv("VXCAN_VM") != "booted" {
		t.Skip("unloads the kernel's CAN modules: needs a kernel of its own (bin/vm -boot)")
	}
	for _, c := range []struct {
		name           string
		do             func(t *testing.T)
		wrap           []string
		status, strict int
		codes          []string // of what doctor must not call ok, among others that depend on the machine
	}{
		{"no modules", func(t *testing.T) { t.Cleanup(harness.WithoutModules(t, "can-gw", "vxcan", "vcan")) }, nil, 1, 1, []string{"VX101", "VX102", "VX103"}},
		{"no root", nil, []string{"setpriv", "--reuid=65534", "--clear-groups"}, 0, 1, []string{"VX100"}},
		{"rootless", nil, []string{"unshare", "--user", "--map-root-user", "--net"}, 0, -1, nil},
		{"wrong directory", func(t *testing.T) {
			harness.Remove(t, "/opt/cni/bin/vxcan")
			harness.Remove(t, "/usr/local/libexec/netavark/vxcan")
		}, nil, 1, 1, []string{"VX20"}},
		{"short queue", func(t *testing.T) {
			harness.SetUpController(t, cantest.NewController(t, "slot0"), 0)
			harness.On(harness.NewContainer(t, "c")).With(harness.OnController).Add(t)
		}, nil, 0, 1, []string{"VX302"}},
		{"dead bus", func(t *testing.T) {
			harness.On(harness.NewContainer(t, "c")).Add(t)
			harness.Command(t, "ip", "link", "del", "vcan0")
		}, nil, 1, 1, []string{"VX301"}},
		{"sound", func(t *testing.T) { harness.On(harness.NewContainer(t, "c")).Add(t) }, nil, 0, -1, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			doctorHost(t)
			if c.do != nil {
				c.do(t)
			}
			out, _, status := harness.Control(t, c.wrap, "doctor", "-o", "short")
			t.Logf("exit status %d\n%s", status, out)
			for _, code := range c.codes {
				if !strings.Contains(out, "["+code) {
					t.Errorf("no %s", code)
				}
			}
			if _, _, strict := harness.Control(t, c.wrap, "doctor", "--strict"); status != c.status || c.strict >= 0 && strict != c.strict {
				t.Errorf("exit status %d, with --strict %d; want %d, %d", status, strict, c.status, c.strict)
			}
		})
	}
}
