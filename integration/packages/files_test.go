// Package packages tests what is in the packages that make packages builds.
package packages

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/vxcan/vxcan/integration/harness"
	"github.com/vxcan/vxcan/pkg/cantest"
)

// format is what differs between the packages of the distributions.
type format struct {
	name, cniDir  string
	systemd       bool
	architectures []string
	list          string // prints the files of package $1 as tar -tv does
	about         string // prints name, version, architecture and what it recommends
}

var formats = []format{
	{
		name: "deb", cniDir: "/usr/lib/cni", systemd: true,
		architectures: []string{"amd64", "arm64", "armhf", "riscv64"},
		list:          `dpkg-deb --fsys-tarfile "$1" | tar -tv`,
		about:         `dpkg-deb --show --showformat='${Package} ${Version} ${Architecture} ${Recommends}' "$1"`,
	},
	{
		name: "rpm", cniDir: "/usr/libexec/cni", systemd: true,
		architectures: []string{"x86_64", "aarch64", "armv7hl", "riscv64"},
		list:          `rpm -qp --qf '[%{FILEMODES:perms} 00:00 %{FILENAMES} -> %{FILELINKTOS}\n]' "$1" | sed 's/ -> $//'; rpm --checksig --nosignature "$1" >&2`,
		about:         `rpm -qp --qf '%{NAME} %{VERSION} %{ARCH} %{RECOMMENDS}' "$1"`,
	},
	{
		name: "apk", cniDir: "/usr/libexec/cni",
		architectures: []string{"x86_64", "aarch64", "armv7", "riscv64"},
		list:          `tar -tvzf "$1" 2>/dev/null`, // apk's checksums are new to tar
		about:         `tar -xzOf "$1" .PKGINFO 2>/dev/null | sed -n 's/^pkgname = //p; s/^pkgver = //p; s/^arch = //p'`,
	},
	{
		name: "ipk", cniDir: "/usr/libexec/cni", systemd: true,
		architectures: []string{"x86_64", "aarch64", "armv7ahf-vfp", "riscv64"},
		list:          `tar -xzOf "$1" ./data.tar.gz | tar -tvz`,
		about: `tar -xzOf "$1" ./control.tar.gz | tar -xzO ./control >/tmp/control
for field in Package Version Architecture Recommends; do sed -n "s/^$field: //p" /tmp/control; done`,
	},
}

// TestPackageFiles: each package has each file where its distribution's runtimes look, with its mode, and no other.
func TestPackageFiles(t *testing.T) {
	for _, f := range formats {
		for i, arch := range f.architectures {
			if goarch := []string{"amd64", "arm64", "arm", "riscv64"}[i]; !cantest.IsThorough() && goarch != "arm" && goarch != runtime.GOARCH {
				continue // make test builds none
			}
			t.Run(f.name+"/"+arch, func(t *testing.T) {
				file := harness.Package(t, harness.PackagesDir+"/vxcan*[._]"+arch+"."+f.name)
				got := listed(harness.Command(t, "bash", "-eo", "pipefail", "-c", f.list, "bash", file))
				if want := f.files(t); !slices.Equal(got, want) {
					t.Errorf("files:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
				}
				want := []string{"vxcan", arch, "can-utils"}
				if f.name == "apk" {
					want = want[:2] // it cannot recommend
				}
				about := strings.Fields(harness.Command(t, "sh", "-ec", f.about, "sh", file))
				if got := slices.Delete(slices.Clone(about), 1, 2); !slices.Equal(got, want) {
					t.Errorf("the package says it is %q, want %q", got, want)
				}
				// What comes behind the number each format writes in its own way.
				if number, _, _ := strings.Cut(harness.BinaryVersion(t), "-"); !strings.HasPrefix(about[1], number) {
					t.Errorf("the package's version is %s, want %s", about[1], number)
				}
			})
		}
	}
}

// TestPackageSums: what a user downloads is compared with one command.
func TestPackageSums(t *testing.T) {
	sums := harness.Package(t, harness.PackagesDir+"/SHA256SUMS")
	cmd := exec.Command("sha256sum", "--check", "--strict", sums)
	cmd.Dir = filepath.Dir(sums)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	content, err := os.ReadFile(sums)
	if err != nil {
		t.Fatal(err)
	}
	all, err := os.ReadDir(cmd.Dir)
	if err != nil || strings.Count(string(content), "\n") != len(all)-1 {
		t.Errorf("%d files and %d sums (%v)", len(all)-1, strings.Count(string(content), "\n"), err)
	}
}

// listed makes "mode path" or "mode path -> target" of each line but those of directories and of apk's own entries.
func listed(long string) []string {
	var files []string
	for line := range strings.Lines(long) {
		mode, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		// Behind the time, which is the last that has a colon.
		path := rest[strings.LastIndex(rest, ":")+len(":00 "):]
		if mode[0] == 'd' || path == ".PKGINFO" || path == ".post-install" {
			continue
		}
		if mode[0] == 'l' {
			mode = "link" // its own mode means nothing
		}
		files = append(files, mode+" /"+strings.TrimLeft(path, "./"))
	}
	slices.Sort(files)
	return files
}

// files is what the packages of a format must have, as listed writes it.
func (f format) files(t testing.TB) []string {
	const executable, plain = "-rwxr-xr-x ", "-rw-r--r-- "
	files := []string{
		executable + "/usr/bin/vxcanctl",
		executable + f.cniDir + "/vxcan",
		executable + "/usr/libexec/netavark/vxcan",
		executable + "/usr/libexec/vxcan-docker",
		plain + "/usr/lib/modules-load.d/vxcan.conf",
		plain + "/usr/lib/sysctl.d/40-vxcan.conf",
		plain + "/usr/share/bash-completion/completions/vxcanctl",
		plain + "/usr/share/fish/vendor_completions.d/vxcanctl.fish",
	}
	zsh := "site-functions"
	if f.name == "deb" {
		zsh = "vendor-completions"
	}
	files = append(files, plain+"/usr/share/zsh/"+zsh+"/_vxcanctl")
	pages, err := filepath.Glob(filepath.Join(harness.BinDir(t), "share/*.8"))
	if err != nil || len(pages) == 0 {
		t.Fatalf("man pages: %q, %v", pages, err)
	}
	for _, page := range pages {
		files = append(files, plain+"/usr/share/man/man8/"+filepath.Base(page)+".gz")
	}
	if f.systemd {
		for _, unit := range []string{"vxcan-docker.socket", "vxcan-docker.service", "vxcan-heal@.service", "vxcan-metrics.service", "vxcan-metrics.timer", "vxcan-lend.socket", "vxcan-lend@.service"} {
			files = append(files, plain+"/usr/lib/systemd/system/"+unit)
		}
		files = append(files, plain+"/usr/lib/udev/rules.d/90-vxcan.rules")
	}
	const doc = "/usr/share/doc/vxcan/"
	for _, name := range []string{"README.md", "CHANGELOG.md", "LICENSE", "copyright", "integration/packages/README.md",
		"plugins/docker/README.md", "plugins/install/README.md", "plugins/label/README.md", "plugins/netavark/README.md", "plugins/vxcan/README.md", "plugins/vxcanctl/README.md"} {
		files = append(files, plain+doc+name)
	}
	for _, path := range strings.Fields(harness.Command(t, "find", harness.Repo("conflist"), "-name", "yocto", "-prune", "-o", "-name", "buildroot", "-prune", "-o", "-type", "f", "-print")) {
		files = append(files, plain+doc+strings.TrimPrefix(path, harness.Repo("")))
	}
	slices.Sort(files)
	return files
}
