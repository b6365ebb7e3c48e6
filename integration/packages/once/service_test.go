package once

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/vxcan/vxcan/integration/harness"
	"github.com/vxcan/vxcan/pkg/cantest"
)

// TestPackageService: where systemd runs, a package does at once what the next boot would do, its services do their work in
// their confinement, an upgrade replaces a driver that runs, and none runs after the removal.
func TestPackageService(t *testing.T) {
	s := harness.StartSystemd(t)
	// Container images have one that lets no service start. This machine is a copy.
	if err := os.RemoveAll("/usr/sbin/policy-rc.d"); err != nil {
		t.Fatal(err)
	}
	t.Run("deb", func(t *testing.T) {
		first, next := harness.Debs(t)
		testConfined(t, s, first)
		testService(t, s, []string{"dpkg", "-i", first}, []string{"dpkg", "-i", next}, []string{"dpkg", "--remove", "vxcan"})
	})
	if cantest.IsThorough() { // else TestPackageRPM installs it
		t.Run("rpm", func(t *testing.T) {
			// Debian's systemd enables what no preset mentions. rpm starts nothing.
			install := []string{"sh", "-ec", `rpm -i --nodeps "$0"; systemctl is-enabled vxcan-docker.socket; systemctl start vxcan-docker.socket`}
			testService(t, s, append(install, rpmPackage(t, harness.PackagesDir)),
				[]string{"rpm", "-U", "--nodeps", rpmPackage(t, harness.PackagesDir+"-next")}, []string{"rpm", "-e", "vxcan"})
		})
	}
	t.Run("apk", func(t *testing.T) { testOpenRC(t, harness.Package(t, harness.PackagesDir+"/vxcan*_x86_64.apk")) })
}

// testOpenRC: the script of a package for Alpine does the same where OpenRC runs and there is only busybox.
func testOpenRC(t *testing.T, apk string) {
	const systemdSysctl = "/usr/lib/systemd/systemd-sysctl"
	harness.Command(t, "mount", "--bind", "/dev/null", systemdSysctl)
	defer harness.Command(t, "umount", systemdSysctl)
	programs := t.TempDir()
	harness.Command(t, "ln", "-s", "/bin/busybox", programs+"/sysctl")
	t.Setenv("PATH", programs+":"+os.Getenv("PATH"))
	harness.Command(t, "install", "-D", "/dev/null", "/run/openrc/softlevel")
	defer harness.Remove(t, "/run/openrc/softlevel")
	unloadCAN(t)
	harness.Write(t, backlogFile, "1000")
	t.Log(harness.Command(t, "sh", "-ec", `tar -xzf "$1" -C / usr/lib/sysctl.d/40-vxcan.conf .post-install 2>/dev/null && sh /.post-install`, "sh", apk))
	expectLoaded(t)
}

func testService(t *testing.T, s *harness.Systemd, install, upgrade, remove []string) {
	run := func(command []string) string {
		t.Helper()
		out, err := s.Try(command[0], command[1:]...)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	want := func(unit, state string) {
		t.Helper()
		if out, _ := s.Try("systemctl", "is-active", unit); strings.TrimSpace(out) != state {
			t.Errorf("%s is %s, want %s", unit, strings.TrimSpace(out), state)
		}
	}
	// answered calls the driver, which then runs, and returns its process.
	answered := func() string {
		t.Helper()
		if status, _, err := harness.CallDriver("Plugin.Activate", ""); err != nil || status != 200 {
			t.Fatalf("Plugin.Activate: %d, %v", status, err)
		}
		return run([]string{"systemctl", "show", "--value", "-p", "MainPID", "vxcan-docker.service"})
	}
	const socket, service = "vxcan-docker.socket", "vxcan-docker.service"

	// An upgrade on a busy machine takes longer than a driver stays that nobody asks for anything.
	harness.InstallText(t, "/etc/systemd/system/"+service+".d/idle.conf", "[Service]\nExecStart=\nExecStart=/usr/libexec/vxcan-docker --idle 1h\n")
	unloadCAN(t)
	harness.Write(t, backlogFile, "1000")
	out := run(install)
	for _, words := range []string{"vcan, vxcan and can-gw are loaded", "net.core.netdev_max_backlog is 65536"} {
		if !strings.Contains(out, words) {
			t.Errorf("the installation does not say %q:\n%s", words, out)
		}
	}
	expectLoaded(t)
	want(socket, "active")
	want(service, "inactive")
	before := answered()
	run(upgrade)
	want(socket, "active")
	want(service, "active")
	if after := answered(); before == after {
		t.Errorf("after the upgrade the driver is process %swhich it was before", after)
	}
	run(remove)
	want(socket, "inactive")
	want(service, "inactive")
	if _, err := os.Lstat(harness.DriverSocket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after the removal: %s: %v", harness.DriverSocket, err)
	}
}

const backlogFile = "/proc/sys/net/core/netdev_max_backlog"

// unloadCAN takes the kernel modules away that a package loads.
func unloadCAN(t *testing.T) {
	t.Helper()
	harness.FreshHost(t)
	harness.Command(t, "modprobe", "-r", "can-gw", "vxcan", "vcan")
}

func expectLoaded(t *testing.T) {
	t.Helper()
	for _, module := range []string{"vcan", "vxcan", "can_gw"} {
		if _, err := os.Stat("/sys/module/" + module); err != nil {
			t.Error(err)
		}
	}
	if backlog, err := os.ReadFile(backlogFile); string(backlog) != "65536\n" {
		t.Errorf("backlog: %s (%v)", backlog, err)
	}
}

// testLend: a user without rights gets what is lent, by the service alone.
func testLend(t *testing.T, s *harness.Systemd) {
	t.Helper()
	const add = `unshare --net sleep 100 & while [ "$(readlink /proc/$!/ns/net)" = "$(readlink /proc/self/ns/net)" ]; do sleep 0.1; done; export CNI_COMMAND=ADD CNI_CONTAINERID=box CNI_IFNAME=can0 CNI_PATH=/usr/lib/cni CNI_NETNS=/proc/$!/ns/net
echo '{"cniVersion": "1.0.0", "name": "canbus0", "type": "vxcan", "lent": true}' | /usr/lib/cni/vxcan && nsenter --net=$CNI_NETNS ip -brief link show can0; code=$?; kill $!; exit $code`
	asUser := func() (string, error) {
		return s.Try("setpriv", "--reuid", "12345", "--regid", "12345", "--clear-groups", "unshare", "--user", "--map-root-user", "--net", "sh", "-c", add)
	}
	if out, err := asUser(); err == nil || !strings.Contains(out+err.Error(), "sudo vxcanctl lend HUB --user 12345, and sudo systemctl enable --now vxcan-lend.socket") {
		t.Errorf("nobody lends: %v\n%s", err, out)
	}
	s.Run("systemctl", "enable", "--now", "vxcan-lend.socket")
	if out, err := asUser(); err == nil || !strings.Contains(out+err.Error(), "no bus is lent on this host to user 12345: sudo vxcanctl lend HUB --user 12345") {
		t.Errorf("not lent: %v\n%s", err, out)
	}
	if out := s.Run("vxcanctl", "lend", "vcan0", "--user", "12345", "--send", "100-1FF", "--rate", "100"); out != "vcan0: lent to 12345, send 100-1FF, rate 100, 32 interfaces\n" {
		t.Errorf("vxcanctl lend says %q", out)
	}
	harness.Command(t, "modprobe", "-r", "act_police") // the service may load no module, and the kernel does
	if out, err := asUser(); err != nil || !strings.Contains(out, "can0@") {
		t.Errorf("lent: %v\n%s", err, out)
	}
	if out := s.Run("vxcanctl", "lend"); !strings.HasPrefix(out, "vcan0  12345  send 100-1FF, rate 100, ") || !strings.HasSuffix(out, " of 32 interfaces\n") {
		t.Errorf("what is lent: %q", out)
	}
	if out := s.Run("vxcanctl", "lend", "vcan0", "--user", "12345", "--revoke"); !strings.HasSuffix(out, "vcan0: not lent to 12345 any more\n") {
		t.Errorf("revoked: %q", out)
	}
	if out, err := asUser(); err == nil || !strings.Contains(out+err.Error(), "no bus is lent on this host to user 12345") {
		t.Errorf("not lent any more: %v\n%s", err, out)
	}
	s.Run("journalctl", "--sync")
	if out := s.Run("journalctl", "--no-pager", "-u", "vxcan-lend@*"); strings.Count(out, "INFO asked user=12345 verb=attach hub=vcan0 network=canbus0 containerID=box") != 1 {
		t.Errorf("its journal:\n%s", out)
	}
	s.Run("systemctl", "disable", "--now", "vxcan-lend.socket")
}

// testConfined: systemd counts an exposure of 3.0 at most of each service, and each one does all that it is for. The driver
// may load no module: systemd does it.
func testConfined(t *testing.T, s *harness.Systemd, deb string) {
	s.Run("dpkg", "-i", deb)
	const metricsDir = "/var/lib/prometheus/node-exporter"
	for _, unit := range []string{"vxcan-docker.service", "vxcan-heal@vcan0.service", "vxcan-metrics.service", "vxcan-lend@1.service"} {
		if out, err := s.Try("systemd-analyze", "security", "--no-pager", "--threshold=30", unit); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	}
	harness.Command(t, "modprobe", "-r", "can-gw")
	s.Run("ip", "netns", "add", "confined")
	const ids = `{"NetworkID":"n1","EndpointID":"e1"}`
	call := func(name, body string) {
		t.Helper()
		if status, answer, err := harness.CallDriver("NetworkDriver."+name, body); err != nil || status != 200 {
			t.Fatalf("%s: %d, %v, %v", name, status, answer, err)
		}
	}
	call("CreateNetwork", `{"NetworkID":"n1","Options":{"com.docker.network.generic":{"hub":"vcan0"}}}`)
	call("CreateEndpoint", ids)
	call("Join", `{"NetworkID":"n1","EndpointID":"e1","SandboxKey":"/run/netns/confined"}`)
	s.Run("ip", "-netns", "confined", "link", "show", "can0")

	// The directory is another user's.
	s.Run("install", "-d", "-o", "nobody", metricsDir)
	s.Run("systemctl", "start", "vxcan-metrics.service")
	if text := s.Run("cat", metricsDir+"/vxcan.prom"); !strings.Contains(text, `vxcan_bus_whole{hub="vcan0"} 1`) {
		t.Errorf("metrics:\n%s", text)
	}
	if mode := s.Run("stat", "-c", "%a", metricsDir+"/vxcan.prom"); mode != "644\n" {
		t.Errorf("mode of the metrics is %s", mode)
	}

	harness.Command(t, "ip", "link", "del", "vcan0-tx")
	harness.Command(t, "modprobe", "-r", "can-gw")
	s.Run("systemctl", "start", "vxcan-heal@vcan0.service")
	s.Run("systemctl", "start", "vxcan-metrics.service")
	if text := s.Run("cat", metricsDir+"/vxcan.prom"); !strings.Contains(text, `vxcan_bus_whole{hub="vcan0"} 1`) {
		t.Errorf("after the repair:\n%s", text)
	}

	testLend(t, s)

	call("Leave", ids)
	call("DeleteEndpoint", ids)
	call("DeleteNetwork", `{"NetworkID":"n1"}`)
	s.Run("ip", "netns", "del", "confined")
	s.Run("dpkg", "--remove", "vxcan") // purge cannot delete what bin/vm has mounted
	harness.ExpectNothing(t)
}
