package once

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/vxcan/vxcan/integration/harness"
)

// TestPackageService: where systemd runs, the driver answers when its socket is enabled, an upgrade replaces one that
// runs, and none runs after the removal.
func TestPackageService(t *testing.T) {
	s := harness.StartSystemd(t)
	// Container images have one that lets no service start. This machine is a copy.
	if err := os.RemoveAll("/usr/sbin/policy-rc.d"); err != nil {
		t.Fatal(err)
	}
	t.Run("deb", func(t *testing.T) {
		first, next := harness.Debs(t)
		testService(t, s, []string{"dpkg", "-i", first}, []string{"dpkg", "-i", next}, []string{"dpkg", "--remove", "vxcan"})
	})
	t.Run("rpm", func(t *testing.T) {
		// Debian's systemd enables what no preset mentions. rpm starts nothing.
		install := []string{"sh", "-ec", `rpm -i --nodeps "$0"; systemctl is-enabled vxcan-docker.socket; systemctl start vxcan-docker.socket`}
		testService(t, s, append(install, rpmPackage(t, harness.PackagesDir)),
			[]string{"rpm", "-U", "--nodeps", rpmPackage(t, harness.PackagesDir+"-next")}, []string{"rpm", "-e", "vxcan"})
	})
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

	run(install)
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
