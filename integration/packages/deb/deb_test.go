// Package deb installs the deb, upgrades it and removes it.
package deb

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/integration/harness"
)

// TestPackageDeb: apt installs, upgrades, removes and purges the package in this Debian release, and nothing is left.
func TestPackageDeb(t *testing.T) {
	first, next := harness.Debs(t)
	root := newRootCopy(t)
	const enabled = "/etc/systemd/system/sockets.target.wants/vxcan-docker.socket"
	state := []string{"/var/lib/cni/vxcan/boot-netns/vcan0.json", "/var/lib/vxcan-docker/networks"}

	root.run("rm", append([]string{"-rf"}, vmDirs...)...)

	root.aptInstall(first)
	root.wantVersion(harness.BinaryVersion(t))
	root.want(false, "/opt/cni")
	root.pluginsPackage()
	root.wantVersion(harness.BinaryVersion(t), "/opt/cni/bin/vxcan")
	root.want(true, enabled)
	if root.has("/usr/bin/systemctl") {
		if out := root.run("systemctl", "is-enabled", "vxcan-docker.socket"); out != "enabled\n" {
			t.Errorf("systemctl is-enabled: %s", out)
		}
		// Units of others may have their faults.
		out := root.run("sh", "-c", "systemd-analyze verify --man=no vxcan-docker.socket vxcan-docker.service vxcan-heal@can0.service vxcan-metrics.service vxcan-metrics.timer vxcan-lend.socket vxcan-lend@1.service 2>&1 | grep vxcan || true")
		if out != "" {
			t.Errorf("systemd-analyze verify: %s", out)
		}
	}
	for _, path := range state {
		root.write(path, "{}")
	}
	// An administrator's choice, which an upgrade respects.
	root.run("rm", enabled)

	root.aptInstall(next)
	root.wantVersion(nextVersion, "/opt/cni/bin/vxcan")
	root.want(false, enabled)
	root.want(true, state...)

	root.run("apt-get", "-y", "remove", "vxcan")
	root.want(false, "/usr/bin/vxcanctl", "/usr/lib/cni/vxcan", "/opt/cni/bin/vxcan")
	root.want(true, state...)
	root.run("dpkg", "--purge", "plugins")
	root.run("mkdir", "-p", "/opt") // of base-files, which does not own it, so that dpkg deletes it when it is empty

	root.run("apt-get", "-y", "purge", "vxcan")
	if changes := root.changes(); len(changes) > 0 {
		t.Errorf("written or deleted after purge:\n%s", strings.Join(changes, "\n"))
	}
}

// nextVersion is that of the package that make test-packages builds as the upgrade.
const nextVersion = "99.0.0"

// rootCopy is a copy on write of this machine's root to run programs in.
type rootCopy struct {
	t            testing.TB
	dir, written string
}

func newRootCopy(t testing.TB) *rootCopy {
	// Not in t.TempDir, which may be on an overlay: one cannot be written to on another.
	top, err := os.MkdirTemp("/dev/shm", "root-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(top); err != nil {
			t.Error(err)
		}
	})
	r := &rootCopy{t, filepath.Join(top, "root"), filepath.Join(top, "written")}
	work := filepath.Join(top, "work")
	for _, dir := range []string{r.dir, r.written, work} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	r.mount("overlay", "", "overlay", 0, "lowerdir=/,upperdir="+r.written+",workdir="+work)
	r.mount("/dev", "/dev", "", unix.MS_BIND, "")
	r.mount("proc", "/proc", "proc", 0, "")
	r.mount("tmpfs", "/run", "tmpfs", 0, "mode=0755") // without the sign of a systemd that runs
	return r
}

func (r *rootCopy) mount(source, target, kind string, flags uintptr, data string) {
	r.t.Helper()
	path := r.dir + target
	if err := unix.Mount(source, path, kind, flags, data); err != nil {
		r.t.Fatalf("mount %s on %s: %v", source, path, err)
	}
	r.t.Cleanup(func() {
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
			r.t.Errorf("unmount %s: %v", path, err)
		}
	})
}

// run runs a program in the root and returns its stdout.
func (r *rootCopy) run(name string, args ...string) string {
	r.t.Helper()
	cmd, cancel := harness.Limited("chroot", append([]string{r.dir, name}, args...)...)
	defer cancel()
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C"}
	var out, words bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &words
	if err := cmd.Run(); err != nil {
		r.t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, &out, &words)
	}
	return out.String()
}

func (r *rootCopy) write(path, content string) {
	r.t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(r.dir+path), 0o755), os.WriteFile(r.dir+path, []byte(content), 0o644)); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rootCopy) has(path string) bool {
	_, err := os.Lstat(r.dir + path)
	return err == nil
}

func (r *rootCopy) want(there bool, paths ...string) {
	r.t.Helper()
	for _, path := range paths {
		if r.has(path) != there {
			r.t.Errorf("%s: there is %v, want %v", path, !there, there)
		}
	}
}

// aptInstall hands apt a package as people do.
func (r *rootCopy) aptInstall(deb string) {
	r.t.Helper()
	content, err := os.ReadFile(deb)
	if err != nil {
		r.t.Fatal(err)
	}
	const path = "/var/cache/apt/archives/vxcan.deb" // what is written there does not count
	r.write(path, string(content))
	r.run("apt-get", "-y", "--no-install-recommends", "install", path)
	r.run("rm", "-f", path) // apt may have done it
}

// pluginsPackage installs a package with other plugins in /opt/cni/bin, as kubernetes-cni is.
func (r *rootCopy) pluginsPackage() {
	r.t.Helper()
	const dir = "/var/cache/apt/archives/plugins" // what is written there does not count
	r.write(dir+"/DEBIAN/control", "Package: plugins\nVersion: 1\nArchitecture: all\nMaintainer: nobody <nobody@example.com>\nDescription: plugins\n")
	r.write(dir+"/opt/cni/bin/bridge", "")
	r.run("dpkg-deb", "--build", dir)
	r.run("dpkg", "--install", dir+".deb")
}

// wantVersion asks all programs for their version, and the CNI plugin by more paths.
func (r *rootCopy) wantVersion(version string, plugins ...string) {
	r.t.Helper()
	for _, path := range append(plugins, "/usr/bin/vxcanctl", "/usr/lib/cni/vxcan", "/usr/libexec/vxcan-docker") {
		if got := r.run(path, "--version"); got != filepath.Base(path)+" "+version+"\n" {
			r.t.Errorf("%s says %q, want %q", path, got, version)
		}
	}
	if got := r.run("/usr/libexec/netavark/vxcan", "info"); !strings.Contains(got, `"version":"`+version+`"`) {
		r.t.Errorf("/usr/libexec/netavark/vxcan says %s, want version %s", got, version)
	}
}

// ownFiles is what apt, dpkg and man-db write for themselves.
var ownFiles = []string{
	"/var/lib/dpkg/", "/var/lib/apt/", "/var/cache/apt/", "/var/log/apt/", "/var/log/dpkg.log", "/var/cache/debconf/", "/var/cache/man/",
}

// vmDirs are what bin/vm made to mount on. The package shall find none of them.
var vmDirs = []string{"/opt/cni", "/var/lib/cni", "/var/lib/vxcan-docker"}

// changes is each file that was written or deleted, and each new directory, but for ownFiles that are not of the package.
func (r *rootCopy) changes() []string {
	r.t.Helper()
	var changes []string
	err := filepath.WalkDir(r.written, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		inRoot := strings.TrimPrefix(path, r.written)
		_, missing := os.Lstat("/" + inRoot)
		own := slices.ContainsFunc(ownFiles, func(prefix string) bool { return strings.HasPrefix(inRoot, prefix) })
		switch deleted := entry.Type()&fs.ModeCharDevice != 0; {
		case own && (deleted || !strings.Contains(inRoot, "vxcan")):
		case deleted && slices.Contains(vmDirs, inRoot):
		case entry.IsDir() && missing == nil:
		default:
			changes = append(changes, inRoot)
		}
		return nil
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return changes
}
