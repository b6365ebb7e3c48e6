// Package once tests the rpm, and the service of the deb and of the rpm.
package once

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vxcan/vxcan/integration/harness"
)

// rpmPackage is the one for this machine in a directory.
func rpmPackage(t testing.TB, dir string) string {
	t.Helper()
	return harness.Package(t, dir+"/vxcan-*."+strings.TrimSpace(harness.Command(t, "rpm", "--eval", "%{_arch}"))+".rpm")
}

// TestPackageRPM: rpm takes the package, and what it puts into a root is what the package lists.
func TestPackageRPM(t *testing.T) {
	if _, err := exec.LookPath("rpm"); err != nil {
		t.Skip(err)
	}
	file := rpmPackage(t, harness.PackagesDir)
	root := t.TempDir()
	rpm := func(args ...string) string {
		return harness.Command(t, "rpm", append([]string{"--root", root, "--nodeps"}, args...)...)
	}
	// What the scripts run. Not /opt/cni/bin, which the package does not make.
	harness.Command(t, "install", "-D", "-t", root+"/bin", "/bin/busybox")
	for _, name := range []string{"sh", "ln", "readlink", "rm"} {
		harness.Command(t, "ln", "-s", "busybox", root+"/bin/"+name)
	}
	rpm("-i", file)
	if _, err := os.Stat(root + "/opt"); err == nil {
		t.Error("the package makes /opt")
	}
	rpm("-e", "vxcan")
	harness.Command(t, "mkdir", "-p", root+"/opt/cni/bin")
	rpm("-i", file)
	if out := harness.Command(t, filepath.Join(root, "usr/libexec/cni/vxcan"), "--version"); out != "vxcan "+harness.BinaryVersion(t)+"\n" {
		t.Errorf("the plugin says %q", out)
	}
	if target, err := os.Readlink(filepath.Join(root, "opt/cni/bin/vxcan")); err != nil || target != "/usr/libexec/cni/vxcan" {
		t.Errorf("/opt/cni/bin/vxcan leads to %q (%v)", target, err)
	}
	rpm("-e", "vxcan")
	if left := harness.Command(t, "find", root, "-name", "*vxcan*"); left != "" {
		t.Errorf("left after rpm -e:\n%s", left)
	}
}
