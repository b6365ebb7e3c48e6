package harness

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/plugins/pkg/ns"
)

// Podman is a Podman with our plugin, and an image called busybox that sleeps.
type Podman struct {
	T       testing.TB
	Backend string   // of its networks: "cni" or "netavark"
	as      []string // the command that runs podman as another user, if it is his
}

// podmanNetworks are the networks that tests ask for, for each backend: a file of conflist/, and options.
var podmanNetworks = map[string]struct {
	conflist string
	options  []string
}{
	"canbus0": {"canbus0", nil},
	"canbus1": {"canbus1", []string{"-o", "hub=vcan1", "-o", "interface=can1"}},
	"lent0":   {"podman/lent", []string{"-o", "lent=true"}},
}

// NewPodman does what a user would: it installs the plugin, and makes networks, unless an earlier boot did.
func NewPodman(t testing.TB, networks ...string) Podman {
	t.Helper()
	conf := filepath.Join(t.TempDir(), "containers.conf")
	t.Setenv("CONTAINERS_CONF", conf)
	// There is no systemd in the test machine, which the defaults ask for.
	lines := "[engine]\ncgroup_manager=\"cgroupfs\"\nevents_logger=\"file\"\n[containers]\nlog_driver=\"k8s-file\"\n"
	Write(t, conf, lines)
	Command(t, "install", "-D", "-t", "/opt/cni/bin", filepath.Join(BinDir(t), "vxcan"))
	p := Podman{T: t}
	t.Cleanup(p.removeAll)
	if p.Backend = "netavark"; !HasNetavark() {
		p.Backend = "cni"
	} else {
		// Not in a user's directories, which here may be a developer's. Firewalls are more than a test kernel has.
		Write(t, conf, lines+fmt.Sprintf("[network]\nfirewall_driver=\"none\"\nnetavark_plugin_dirs=[%q]\nnetwork_config_dir=%q\n",
			filepath.Join(BinDir(t), "netavark"), "/var/lib/containers/networks"))
	}
	for _, name := range networks {
		network := podmanNetworks[name]
		if p.Backend == "cni" {
			Command(t, "install", "-D", "-m", "644", "-t", "/etc/cni/net.d", Repo("conflist/")+network.conflist+".conflist")
		} else {
			p.Do(append(append([]string{"network", "create", "--ignore", "-d", "vxcan"}, network.options...), name)...)
		}
	}
	about := p.Do("info", "--format", "Podman {{.Version.Version}}, {{.Host.OCIRuntime.Name}}, {{.Host.NetworkBackend}}")
	if t.Log(about); !strings.HasSuffix(about, ", "+p.Backend) {
		t.Fatalf("%s; want the network backend %s", about, p.Backend)
	}
	if _, err := Try("podman", "image", "exists", "busybox"); err != nil {
		p.Do("import", "--quiet", "--change", `CMD ["/bin/sleep","100000"]`, BusyboxImage(t), "busybox")
	}
	return p
}

// NewNetavarkPodman is NewPodman for what only its newer network backend can do. Podman 4 may be without it, and then
// there is nothing to test (false); that is no skip, which says that something is missing here.
func NewNetavarkPodman(t testing.TB, networks ...string) (Podman, bool) {
	t.Helper()
	if HasNetavark() {
		return NewPodman(t, networks...), true
	}
	version := strings.TrimSpace(Command(t, "podman", "--version"))
	if !strings.HasPrefix(version, "podman version 4.") {
		t.Fatalf("%s without netavark: apt-get install netavark", version)
	}
	t.Logf("nothing to test: %s with the CNI backend", version)
	return Podman{}, false
}

// Network makes a network on a hub, whose number its interfaces have.
func (p Podman) Network(name, hub string) {
	p.T.Helper()
	if p.Backend == "netavark" {
		p.Do("network", "create", "-d", "vxcan", "-o", "hub="+hub, "-o", "interface=can%d", name)
		return
	}
	file := "/etc/cni/net.d/" + name + ".conflist"
	Write(p.T, file, fmt.Sprintf(`{"cniVersion":"1.0.0","name":%q,"plugins":[{"type":"vxcan","hub":%q,"interface":"can%%d"}]}`, name, hub))
	p.T.Cleanup(func() { os.Remove(file) })
}

// removeAll removes every container and every network of ours, also those of a test that failed half-way: the next test
// shall not find them. What a reboot is to bring back stays.
func (p Podman) removeAll() {
	p.T.Helper()
	if os.Getenv("VXCAN_BOOT") == "1" {
		return
	}
	p.Do("pod", "rm", "--all", "--force", "--time", "0")
	p.Do("rm", "--all", "--force", "--time", "0")
	for name := range strings.FieldsSeq(p.Do("network", "ls", "--quiet", "--filter", "driver=vxcan")) {
		p.Do("network", "rm", name)
	}
}

// HasNetavark reports whether Podman's newer network backend is there, which it then prefers.
func HasNetavark() bool {
	for _, dir := range []string{"/usr/lib/podman", "/usr/libexec/podman", "/usr/local/lib/podman", "/usr/local/libexec/podman"} {
		if _, err := os.Stat(filepath.Join(dir, "netavark")); err == nil {
			return true
		}
	}
	return false
}

// BusyboxImage makes the root file system of a container as a tar file: a static busybox.
func BusyboxImage(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	Command(t, "install", "-D", "-t", dir+"/bin", "/bin/busybox")
	for _, name := range []string{"sh", "sleep"} {
		if err := os.Symlink("busybox", filepath.Join(dir, "bin", name)); err != nil {
			t.Fatal(err)
		}
	}
	tar := filepath.Join(t.TempDir(), "busybox.tar")
	Command(t, "tar", "-C", dir, "-cf", tar, ".")
	return tar
}

// Do runs a podman command.
func (p Podman) Do(args ...string) string {
	p.T.Helper()
	command := append(append(slices.Clone(p.as), "podman"), args...)
	return strings.TrimSpace(Command(p.T, command[0], command[1:]...))
}

// Run starts a container that sleeps, with more options.
func (p Podman) Run(name string, options ...string) {
	p.T.Helper()
	// Process 1 of a container ignores every signal that it does not handle, but this one.
	sleep := []string{"--name", name, "--stop-signal", "KILL", "busybox"}
	p.Do(append(append([]string{"run", "--detach"}, options...), sleep...)...)
}

// Station is a running container's interface.
func (p Podman) Station(name, ifName string) Station {
	p.T.Helper()
	netns, err := ns.GetNS("/proc/" + p.Do("inspect", "--format", "{{.State.Pid}}", name) + "/ns/net")
	if err != nil {
		p.T.Fatal(err)
	}
	p.T.Cleanup(func() { netns.Close() })
	return Station{name, netns, ifName}
}

// PodmanFromNothing is DockerFromNothing with Podman, where it has netavark.
func PodmanFromNothing(t *testing.T, options ...string) (Podman, bool) {
	t.Helper()
	p, ok := NewNetavarkPodman(t)
	if !ok {
		return p, false
	}
	create := []string{"network", "create", "-d", "vxcan", "-o", "hub=slot0", "-o", "physical=true"}
	for _, o := range options {
		create = append(create, "-o", o)
	}
	create = append(create, "engine")
	t.Logf("$ podman %s\n%s", strings.Join(create, " "), p.Do(create...))
	p.Run("c", "--network", "engine")
	t.Logf("$ podman run -d --name c --network engine …\n%s", Command(t, "ip", "-details", "link", "show", "dev", "slot0"))
	t.Cleanup(func() { p.Do("network", "rm", "--force", "--time", "0", "engine") })
	return p, true
}
