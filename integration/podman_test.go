package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/plugins/pkg/ns"
)

// podman is a Podman with our plugin, and an image called busybox that sleeps.
type podman struct {
	t       testing.TB
	backend string // of its networks: "cni" or "netavark"
}

// podmanNetworks are the networks that tests ask for, for each backend: a file of conflist/, and options.
var podmanNetworks = map[string]struct {
	conflist string
	options  []string
}{
	"canbus0": {"podman4", nil},
	"canbus1": {"canbus1", []string{"-o", "hub=vcan1", "-o", "interface=can1"}},
}

// newPodman does what a user would: it installs the plugin, and makes networks, unless an earlier boot did.
func newPodman(t testing.TB, networks ...string) podman {
	t.Helper()
	conf := filepath.Join(t.TempDir(), "containers.conf")
	t.Setenv("CONTAINERS_CONF", conf)
	// There is no systemd in the test machine, which the defaults ask for.
	lines := "[engine]\ncgroup_manager=\"cgroupfs\"\nevents_logger=\"file\"\n[containers]\nlog_driver=\"k8s-file\"\n"
	write(t, conf, lines)
	command(t, "install", "-D", "-t", "/opt/cni/bin", filepath.Join(binDir(t), "vxcan"))
	p := podman{t: t}
	t.Cleanup(p.removeAll)
	if p.backend = "netavark"; !hasNetavark() {
		p.backend = "cni"
	} else {
		// Not in a user's directories, which here may be a developer's. Firewalls are more than a test kernel has.
		write(t, conf, lines+fmt.Sprintf("[network]\nfirewall_driver=\"none\"\nnetavark_plugin_dirs=[%q]\nnetwork_config_dir=%q\n",
			filepath.Join(binDir(t), "netavark"), "/var/lib/containers/networks"))
	}
	for _, name := range networks {
		network := podmanNetworks[name]
		if p.backend == "cni" {
			command(t, "install", "-D", "-m", "644", "-t", "/etc/cni/net.d", "../conflist/"+network.conflist+".conflist")
		} else {
			p.do(append(append([]string{"network", "create", "--ignore", "-d", "vxcan"}, network.options...), name)...)
		}
	}
	about := p.do("info", "--format", "Podman {{.Version.Version}}, {{.Host.OCIRuntime.Name}}, {{.Host.NetworkBackend}}")
	if t.Log(about); !strings.HasSuffix(about, ", "+p.backend) {
		t.Fatalf("%s; want the network backend %s", about, p.backend)
	}
	if _, err := try("podman", "image", "exists", "busybox"); err != nil {
		p.do("import", "--quiet", "--change", `CMD ["/bin/sleep","100000"]`, busyboxImage(t), "busybox")
	}
	return p
}

// network makes a network on a hub, whose number its interfaces have.
func (p podman) network(name, hub string) {
	p.t.Helper()
	if p.backend == "netavark" {
		p.do("network", "create", "-d", "vxcan", "-o", "hub="+hub, "-o", "interface=can%d", name)
		return
	}
	file := "/etc/cni/net.d/" + name + ".conflist"
	write(p.t, file, fmt.Sprintf(`{"cniVersion":"1.0.0","name":%q,"plugins":[{"type":"vxcan","hub":%q,"interface":"can%%d"}]}`, name, hub))
	p.t.Cleanup(func() { os.Remove(file) })
}

// removeAll removes every container and every network of ours, also those of a test that failed half-way: the next test
// shall not find them. What a reboot is to bring back stays.
func (p podman) removeAll() {
	p.t.Helper()
	if os.Getenv("VXCAN_BOOT") == "1" {
		return
	}
	p.do("pod", "rm", "--all", "--force", "--time", "0")
	p.do("rm", "--all", "--force", "--time", "0")
	for name := range strings.FieldsSeq(p.do("network", "ls", "--quiet", "--filter", "driver=vxcan")) {
		p.do("network", "rm", name)
	}
}

// hasNetavark tells whether Podman's newer network backend is there, which it then prefers.
func hasNetavark() bool {
	for _, dir := range []string{"/usr/lib/podman", "/usr/libexec/podman", "/usr/local/lib/podman", "/usr/local/libexec/podman"} {
		if _, err := os.Stat(filepath.Join(dir, "netavark")); err == nil {
			return true
		}
	}
	return false
}

// busyboxImage makes the root file system of a container as a tar file: a static busybox.
func busyboxImage(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	command(t, "install", "-D", "-t", dir+"/bin", "/bin/busybox")
	for _, name := range []string{"sh", "sleep"} {
		if err := os.Symlink("busybox", filepath.Join(dir, "bin", name)); err != nil {
			t.Fatal(err)
		}
	}
	tar := filepath.Join(t.TempDir(), "busybox.tar")
	command(t, "tar", "-C", dir, "-cf", tar, ".")
	return tar
}

// do runs a podman command.
func (p podman) do(args ...string) string {
	p.t.Helper()
	return strings.TrimSpace(command(p.t, "podman", args...))
}

// run starts a container that sleeps, with more options.
func (p podman) run(name string, options ...string) {
	p.t.Helper()
	// Process 1 of a container ignores every signal that it does not handle, but this one.
	sleep := []string{"--name", name, "--stop-signal", "KILL", "busybox"}
	p.do(append(append([]string{"run", "--detach"}, options...), sleep...)...)
}

// station is a running container's interface.
func (p podman) station(name, ifName string) station {
	p.t.Helper()
	netns, err := ns.GetNS("/proc/" + p.do("inspect", "--format", "{{.State.Pid}}", name) + "/ns/net")
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { netns.Close() })
	return station{name, netns, ifName}
}

// TestPodman: run, restart, reload, stop and remove, two buses, inspect, with either of Podman's network backends.
func TestPodman(t *testing.T) {
	freshHost(t)
	p := newPodman(t, "canbus0", "canbus1")
	p.run("a", "--network", "canbus0")
	p.run("b", "--network", "canbus0", "--restart", "always")
	host := station{"host", nil, "vcan0"}
	expectExactlyOnce(t, []station{host, p.station("a", "can0"), p.station("b", "can0")}, 50, true)

	var networks []struct{ Name, Driver string }
	if err := json.Unmarshal([]byte(p.do("network", "inspect", "canbus0")), &networks); err != nil {
		t.Fatal(err)
	}
	if len(networks) != 1 || networks[0].Name != "canbus0" || networks[0].Driver != "vxcan" {
		t.Errorf("podman network inspect: %v", networks)
	}

	p.do("restart", "a")
	expectExactlyOnce(t, []station{host, p.station("a", "can0"), p.station("b", "can0")}, 50, true)
	expectBus(t, "vcan0", 2)

	// One container on two buses, and a name that was asked for.
	p.run("both", "--network", "canbus0:interface_name=can5", "--network", "canbus1")
	expectExactlyOnce(t, []station{host, p.station("a", "can0"), p.station("both", "can5")}, 5, true)
	expectExactlyOnce(t, []station{{"host", nil, "vcan1"}, p.station("both", "can1")}, 5, true)

	p.do("network", "reload", "a")
	expectExactlyOnce(t, []station{host, p.station("a", "can0"), p.station("b", "can0")}, 5, true)

	// Each name stays on its bus, though Podman calls for the networks in any order.
	p.network("numbered2", "vcan2")
	p.network("numbered3", "vcan3")
	p.run("named", "--network", "canbus0", "--network", "numbered3", "--network", "numbered2")
	testNames(t, map[string]string{"can0": "vcan0", "can2": "vcan2", "can3": "vcan3"},
		func() { p.do("restart", "named") }, func(ifName string) station { return p.station("named", ifName) })

	p.do("stop", "a", "b", "both", "named")
	expectUnused(t, "vcan0", "vcan1", "vcan2", "vcan3")
	p.do("rm", "a", "b", "both", "named")
}

// TestRebootPodman: containers with and without a restart policy are back on the bus after a reboot, though nobody
// called DEL before it.
func TestRebootPodman(t *testing.T) {
	boot := bootNumber(t)
	p := newPodman(t, "canbus0")
	if boot == 1 {
		p.run("always", "--network", "canbus0", "--restart", "always")
		p.run("manual", "--network", "canbus0")
	} else {
		expectNoHub(t, "vcan0")
		p.do("start", "--all", "--filter", "restart-policy=always") // podman-restart.service
		p.do("start", "manual")
	}
	expectExactlyOnce(t, []station{{"host", nil, "vcan0"}, p.station("always", "can0"), p.station("manual", "can0")}, 50, true)
	if boot == 2 {
		p.do("rm", "--force", "always", "manual")
		if n := recorded(t, "vcan0"); n > 0 {
			t.Errorf("%d endpoints on record", n)
		}
	}
}
