// Package bus tests a bus by the files of the deb alone.
package bus

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vxcan/vxcan/integration/harness"
)

// TestPackageBus: what the package installs is enough for a first bus, with the lines of README.md and nothing of ours in
// Podman's configuration. This machine is a copy, and should have no other test of the package behind this one.
func TestPackageBus(t *testing.T) {
	deb, _ := harness.Debs(t)
	if os.Getenv("VXCAN_VM") != "booted" {
		t.Skip("installs the package on this machine: bin/vm boots another one for that")
	}
	harness.FreshHost(t)
	log := func(name string, args ...string) string {
		t.Helper()
		out, err := harness.Try(name, args...)
		t.Logf("# %s %s\n%s", name, strings.Join(args, " "), out)
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(out)
	}
	t.Setenv("DEBIAN_FRONTEND", "noninteractive")
	log("apt-get", "-qq", "-o", "Dpkg::Use-Pty=0", "-y", "--no-install-recommends", "install", deb)
	log("modprobe", "-a", "vcan", "vxcan", "can-gw")

	// There is no systemd in the test machine, and no firewall in its kernel, which the defaults of Podman ask for.
	conf := filepath.Join(t.TempDir(), "containers.conf")
	harness.Write(t, conf, "[engine]\ncgroup_manager=\"cgroupfs\"\nevents_logger=\"file\"\n[containers]\nlog_driver=\"k8s-file\"\n[network]\nfirewall_driver=\"none\"\n")
	t.Setenv("CONTAINERS_CONF", conf)
	log("podman", "import", "--quiet", "--change", `CMD ["/bin/sleep","100000"]`, harness.BusyboxImage(t), "busybox")
	backend := log("podman", "info", "-f", "{{.Host.NetworkBackend}}")
	if want := map[bool]string{true: "netavark", false: "cni"}[harness.HasNetavark()]; backend != want {
		t.Fatalf("Podman's backend is %s, want %s", backend, want)
	}
	if backend == "netavark" {
		log("podman", "network", "create", "-d", "vxcan", "canbus0")
	} else {
		log("install", "-D", "-m", "644", "/usr/share/doc/vxcan/conflist/canbus0.conflist", "/etc/cni/net.d/canbus0.conflist")
	}
	p := harness.Podman{T: t, Backend: backend}
	stations := []harness.Station{harness.Host("vcan0")}
	for _, name := range []string{"engine", "dashboard"} {
		log("podman", "run", "-d", "--name", name, "--network", "canbus0", "--stop-signal", "KILL", "busybox")
		stations = append(stations, p.Station(name, "can0"))
	}
	harness.ExpectExactlyOnce(t, stations, 50, true)
	if out := log("vxcanctl", "status"); strings.Count(out, "can0") < 2 {
		t.Error("vxcanctl status lacks a container")
	}
	log("vxcanctl", "graph")
	log("vxcanctl", "doctor")
	log("podman", "rm", "--all", "--force", "--time", "0")
	log("apt-get", "-qq", "-o", "Dpkg::Use-Pty=0", "-y", "remove", "vxcan") // purge cannot delete what bin/vm has mounted
}
