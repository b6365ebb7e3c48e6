package controller

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"

	"github.com/vxcan/vxcan/integration/harness"
	"github.com/vxcan/vxcan/pkg/cantest"
)

// These tests are about a controller that is plugged in after the runtime has started its containers, with the runtimes' own
// units and those of conflist/controller, under systemd.

// patience is how long a container that nobody starts stays away.
const patience = 3 * time.Second

// lateContainer is a container that a runtime under systemd has on the controller.
type lateContainer struct {
	s       *harness.Systemd
	inspect func(format string) string // of the runtime
}

func (c lateContainer) running() bool { return c.inspect("{{.State.Running}}") == "true" }

func (c lateContainer) waitFor() ns.NetNS {
	c.s.T.Helper()
	c.s.WaitFor("the container", c.running)
	return c.s.Netns(c.inspect("{{.State.Pid}}"))
}

// expectStopped fails the test if the container runs, now or in a few seconds.
func (c lateContainer) expectStopped(when string) {
	c.s.T.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		if c.running() {
			c.s.T.Errorf("%s: it runs: say so in conflist/controller and in the README", when)
			return
		}
	}
}

// expectStays plugs the controller in and out while the container runs, which must go on: the same process, with its
// interface on the wire again.
func (c lateContainer) expectStays(t *testing.T, controller *cantest.Controller) {
	t.Helper()
	netns, pid := c.waitFor(), c.inspect("{{.State.Pid}}")
	listener := cantest.Listen(t, netns, "can0")
	for range 2 {
		controller.Unplug()
		time.Sleep(time.Second)
		if !c.running() {
			t.Fatal("the container ended with its controller")
		}
		controller = cantest.NewController(t, harness.LateController)
		before := listener.Total()
		c.s.WaitFor("the wire to be heard again", func() bool {
			if err := controller.Send(cantest.Frame{ID: 0x123}); err != nil {
				t.Fatal(err)
			}
			return listener.Total() > before
		})
	}
	if now := c.inspect("{{.State.Pid}}"); now != pid {
		t.Errorf("the container was started again: %s, before: %s", now, pid)
	}
	listener.Close()
	harness.ExpectOnWire(t, controller, []harness.Station{harness.Host(harness.LateController), {Name: "engine", Netns: netns, IfName: "can0"}}, 10)
}

// TestLateDocker: Docker does not start a container whose controller was not there when Docker started, also when it comes
// later, whatever the restart policy. engine-start.service does, and leaves one that runs alone.
func TestLateDocker(t *testing.T) {
	harness.FreshHost(t)
	for _, dir := range []string{harness.DriverStateDir, "/var/lib/docker", "/run/docker"} {
		if err := harness.RemoveContent(dir); err != nil {
			t.Fatal(err)
		}
	}
	harness.Install(t, "/usr/local/libexec", harness.BinDir(t)+"/vxcan-docker")
	harness.Install(t, "/usr/local/lib/systemd/system", harness.Repo("plugins/docker/vxcan-docker.socket"), harness.Repo("plugins/docker/vxcan-docker.service"))
	harness.Install(t, "/etc/systemd/system", harness.Repo("conflist/controller/engine-start.service"))
	// As harness.StartDocker has it; without dbus, systemd makes no cgroups for others.
	harness.InstallText(t, "/etc/default/docker", "DOCKER_OPTS='--bridge=none --iptables=false --exec-opt native.cgroupdriver=cgroupfs'\nDOCKER_RAMDISK=1\n")
	s := harness.StartSystemd(t)
	d := harness.NewDocker(t)
	c := lateContainer{s, func(format string) string { return d.Docker("inspect", "-f", format, "engine") }}
	s.Run("systemctl", "start", "vxcan-docker.socket", "docker.service")
	t.Logf("Docker %s", d.Version())
	d.Docker("load", "-i", harness.ImageArchive(t, harness.DockerImage))
	policies := []string{"unless-stopped"}
	if cantest.IsThorough() {
		policies = append(policies, "always")
	}
	for _, policy := range policies {
		t.Run(policy, func(t *testing.T) {
			controller := cantest.NewController(t, harness.LateController)
			d.Docker("network", "create", "-d", "vxcan", "--ipam-driver", "null", "-o", "hub="+harness.LateController, "-o", "physical=true",
				"-o", "bitrate=500000", "engine")
			d.Docker("run", "-d", "--name", "engine", "--network", "engine", "--restart", policy, harness.DockerImage)
			c.waitFor()
			s.Run("systemctl", "stop", "docker.service", "docker.socket")
			controller.Unplug()
			s.Run("systemctl", "start", "docker.service")
			c.expectStopped("without the controller")
			t.Logf("without the controller: %s", c.inspect("{{.State.Status}}, {{.State.Error}}"))
			controller = cantest.NewController(t, harness.LateController)
			c.expectStopped("the controller came")

			controller.Unplug()
			s.Run("systemctl", "enable", "engine-start.service")
			controller = cantest.NewController(t, harness.LateController)
			plugged := time.Now()
			netns := c.waitFor()
			t.Logf("with engine-start.service the container runs %v after the plug", time.Since(plugged).Round(time.Millisecond))
			harness.ExpectOnWire(t, controller, []harness.Station{harness.Host(harness.LateController), {Name: "engine", Netns: netns, IfName: "can0"}}, 10)
			if policy == "unless-stopped" { // the policies differ only in what Docker itself does
				c.expectStays(t, controller)
			}
			s.Run("systemctl", "disable", "engine-start.service")
			d.Docker("rm", "-f", "engine")
			d.Docker("network", "rm", "engine")
		})
	}
	s.Run("systemctl", "stop", "docker.service", "docker.socket")
}

// latePodman is Podman as systemd's units and users run it, with that image.
func latePodman(t *testing.T, s *harness.Systemd) {
	t.Helper()
	harness.InstallText(t, "/etc/containers/containers.conf.d/zz-test.conf", "[engine]\ncgroup_manager=\"cgroupfs\"\nevents_logger=\"file\"\n"+
		"[containers]\nlog_driver=\"k8s-file\"\n")
	harness.Install(t, "/usr/local/libexec/netavark", harness.BinDir(t)+"/netavark/vxcan")
	harness.Install(t, "/opt/cni/bin", harness.BinDir(t)+"/vxcan")
	s.Run("podman", "load", "--quiet", "-i", harness.ImageArchive(t, harness.LateImage, "candump"))
	t.Cleanup(func() {
		s.Run("podman", "rm", "--all", "--force", "--time", "0")
		_, _ = s.Try("podman", "network", "rm", harness.LateController)
	})
}

func podmanContainer(s *harness.Systemd, name string) lateContainer {
	return lateContainer{s, func(format string) string {
		out, _ := s.Try("podman", "inspect", "--type", "container", "--format", format, name)
		return strings.TrimSpace(out)
	}}
}

// TestLatePodmanRestart: podman-restart.service fails without the controller, and its containers are not started when it
// comes. engine-start.service, written for Podman, does.
func TestLatePodmanRestart(t *testing.T) {
	harness.FreshHost(t)
	unit, err := os.ReadFile(harness.Repo("conflist/controller/engine-start.service"))
	if err != nil {
		t.Fatal(err)
	}
	text := strings.NewReplacer("/usr/bin/docker", "/usr/bin/podman", "After=docker.service ", "After=", "Requires=docker.service\n", "").Replace(string(unit))
	harness.InstallText(t, "/etc/systemd/system/engine-start.service", text)
	s := harness.StartSystemd(t)
	latePodman(t, s)
	if harness.HasNetavark() {
		s.Run("podman", "network", "create", "-d", "vxcan", "-o", "hub="+harness.LateController, "-o", "physical=true", "-o", "bitrate=500000", harness.LateController)
	} else {
		harness.InstallText(t, "/etc/cni/net.d/can-engine.conflist", `{"cniVersion":"1.0.0","name":"can-engine","plugins":[{"type":"vxcan","interface":"can0",`+
			`"hub":"can-engine","physical":true,"bitrate":500000}]}`)
	}
	controller := cantest.NewController(t, harness.LateController)
	s.Run("podman", "run", "-d", "--name", "engine", "--restart", "always", "--network", harness.LateController, harness.LateImage)
	c := podmanContainer(s, "engine")
	c.waitFor()
	s.Run("podman", "stop", "engine") // as a shutdown does
	controller.Unplug()
	_, err = s.Try("systemctl", "start", "podman-restart.service")
	t.Logf("podman-restart.service: %v; %s", err, s.Run("sh", "-c", "journalctl --no-pager -o cat -u podman-restart.service | grep -i error || true"))
	if err == nil {
		t.Error("podman-restart.service succeeds without the controller")
	}
	controller = cantest.NewController(t, harness.LateController)
	c.expectStopped("the controller came")
	controller.Unplug()
	s.Run("systemctl", "enable", "engine-start.service")
	controller = cantest.NewController(t, harness.LateController)
	plugged := time.Now()
	netns := c.waitFor()
	t.Logf("with engine-start.service the container runs %v after the plug", time.Since(plugged).Round(time.Millisecond))
	harness.ExpectOnWire(t, controller, []harness.Station{harness.Host(harness.LateController), {Name: "engine", Netns: netns, IfName: "can0"}}, 10)
	c.expectStays(t, controller)
	s.Run("systemctl", "disable", "engine-start.service")
}

// TestLateQuadlet: the quadlet of conflist/controller starts its container when the controller comes, and only then.
func TestLateQuadlet(t *testing.T) {
	harness.FreshHost(t)
	if _, err := os.Stat("/usr/lib/systemd/system-generators/podman-system-generator"); err != nil {
		t.Logf("nothing to test: Podman without quadlets: %v", err)
		return
	}
	s := harness.StartSystemd(t)
	latePodman(t, s)
	harness.Install(t, "/etc/containers/systemd", harness.Repo("conflist/controller/engine.container"), harness.Repo("conflist/controller/can-engine.network"))
	s.Run("systemctl", "daemon-reload")
	c := podmanContainer(s, "systemd-engine")
	c.expectStopped("without the controller")
	controller := cantest.NewController(t, harness.LateController)
	plugged := time.Now()
	netns := c.waitFor()
	t.Logf("the container runs %v after the plug", time.Since(plugged).Round(time.Millisecond))
	harness.ExpectOnWire(t, controller, []harness.Station{harness.Host(harness.LateController), {Name: "engine", Netns: netns, IfName: "can0"}}, 10)
	c.expectStays(t, controller)

	s.Run("podman", "kill", "systemd-engine") // its policy
	pid := c.inspect("{{.State.Pid}}")
	s.WaitFor("the container to be started again", func() bool { return c.running() && c.inspect("{{.State.Pid}}") != pid })
	s.Run("systemctl", "stop", "engine.service", "can-engine-network.service")
}
