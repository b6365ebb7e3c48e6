// Package recipes tests the layer for Yocto and the external tree for Buildroot in conflist/, as far as it goes without
// either: what they say about the kernel, the modules, the licenses and the files is what this repository says.
package recipes

import (
	"crypto/md5"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/vxcan/vxcan/pkg/bus"
)

const (
	root      = "../../../"
	yocto     = root + "conflist/yocto/"
	buildroot = root + "conflist/buildroot/"
	recipes   = yocto + "recipes-containers/vxcan/"
	fragment  = yocto + "recipes-kernel/linux/files/vxcan.cfg"
)

// paths are what OE-Core calls directories, in a distribution with systemd.
var paths = strings.NewReplacer("${PN}", "vxcan", "${prefix}", "/usr", "${bindir}", "/usr/bin", "${libexecdir}", "/usr/libexec",
	"${datadir}", "/usr/share", "${nonarch_libdir}", "/usr/lib", "${nonarch_base_libdir}", "/usr/lib",
	"${systemd_system_unitdir}", "/usr/lib/systemd/system")

func read(t testing.TB, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// recipe is that of Yocto, a variable or function in each line.
func recipe(t testing.TB) string {
	return strings.ReplaceAll(read(t, recipes+"vxcan_git.bb"), "\\\n", " ")
}

// variable is the value of one in the recipe, with others filled in that the tests need.
func variable(t testing.TB, name string) string {
	t.Helper()
	found := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(name) + ` \+?= "(.*)"$`).FindStringSubmatch(recipe(t))
	if found == nil {
		t.Fatalf("the recipe has no %s", name)
	}
	return paths.Replace(found[1])
}

// TestKernelFragment: the kernel gets each option that the README names, and the image each module.
func TestKernelFragment(t *testing.T) {
	has := make(map[string]bool)
	for _, found := range regexp.MustCompile(`(?m)^(CONFIG_\w+)=[my]$`).FindAllStringSubmatch(read(t, fragment), -1) {
		has[found[1]] = true
	}
	_, row, _ := strings.Cut(read(t, root+"README.md"), "| Yocto, Buildroot | ") // a test of vxcanctl compares it with bus.Modules
	row, _, _ = strings.Cut(row, "\n")
	needed := regexp.MustCompile(`CONFIG_\w+`).FindAllString(row, -1)
	if len(needed) < len(bus.Modules) {
		t.Fatalf("README.md names only the options %q", needed)
	}
	for _, option := range needed {
		if !has[option] {
			t.Errorf("%s lacks %s", fragment, option)
		}
	}
	recommended := strings.Fields(variable(t, "RRECOMMENDS:${PN}"))
	for _, m := range bus.Modules {
		if name := "kernel-module-" + strings.ReplaceAll(m.Name, "_", "-"); !slices.Contains(recommended, name) {
			t.Errorf("the recipe does not recommend %s", name)
		}
	}
	// The kernel of Debian has all of them, so that a name that is not there is a wrong one.
	kernels, _ := filepath.Glob("/boot/config-*")
	for _, kernel := range kernels {
		config := read(t, kernel)
		if strings.Contains(kernel, "-cloud-") { // has no CAN
			continue
		}
		for option := range has {
			if !regexp.MustCompile(`(?m)^` + option + `=[my]$`).MatchString(config) {
				t.Errorf("%s lacks %s", kernel, option)
			}
		}
	}
}

// TestModules: what Yocto fetches is all that the build needs, nothing else, and what go.sum says it is.
func TestModules(t *testing.T) {
	list := []string{"list", "-deps", "-f", `{{with .Module}}{{if not .Main}}{{.Path}}@{{.Version}}{{end}}{{end}}`, "github.com/vxcan/vxcan/plugins/..."} // as the task does that writes the file
	want := uniq(strings.Fields(goTool(t, nil, list...)))
	var got []string
	cache, goSum := t.TempDir(), read(t, root+"go.sum")
	machine := strings.TrimSpace(goTool(t, nil, "env", "GOMODCACHE"))
	uri := regexp.MustCompile(`gomod://(\S+);version=([^;\s]+)(;mod=1)?;sha256sum=([0-9a-f]{64}) `)
	for _, found := range uri.FindAllStringSubmatch(read(t, recipes+"vxcan-go-mods.inc"), -1) {
		path, version, onlyMod, sum := found[1], found[2], found[3] != "", found[4]
		file := "cache/download/" + escape(path) + "/@v/" + version
		// As BitBake's fetcher puts it.
		module := read(t, filepath.Join(machine, file+".mod"))
		write(t, filepath.Join(cache, file+".mod"), module)
		if !onlyMod {
			got = append(got, path+"@"+version)
			module = read(t, filepath.Join(machine, file+".zip"))
			write(t, filepath.Join(cache, file+".zip"), module)
		}
		if !strings.Contains(goSum, path+" "+version+"/go.mod ") {
			t.Errorf("go.sum lacks %s %s", path, version)
		}
		expectSum(t, path, sum, fmt.Sprintf("%x", sha256.Sum256([]byte(module))))
	}
	if got = uniq(got); !slices.Equal(got, want) {
		t.Fatalf("vxcan-go-mods.inc fetches\n%s\nwant\n%s\nrun: bitbake -c update_modules vxcan", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	goTool(t, []string{"GOMODCACHE=" + cache, "GOPROXY=off", "GOFLAGS=-modcacherw"}, list...)

	licenses := sums(read(t, recipes+"vxcan-licenses.inc"), "file://pkg/mod/")
	for file, sum := range licenses {
		expectSum(t, file, sum, fmt.Sprintf("%x", md5.Sum([]byte(read(t, filepath.Join(cache, file))))))
	}
	if len(licenses) < len(want) {
		t.Errorf("licenses of %d modules, want %d", len(licenses), len(want))
	}
}

// TestLicense: ours has the hashes that the recipes say.
func TestLicense(t *testing.T) {
	license := []byte(read(t, root+"LICENSE"))
	expectSum(t, "LICENSE", sums(recipe(t), "file://src/${GO_IMPORT}/")["LICENSE"], fmt.Sprintf("%x", md5.Sum(license)))
	if hash := fmt.Sprintf("sha256  %x  LICENSE\n", sha256.Sum256(license)); !strings.Contains(read(t, buildroot+"package/vxcan/vxcan.hash"), hash) {
		t.Errorf("vxcan.hash lacks %s", hash)
	}
}

// TestVersion: the recipe has that of the newest entry in CHANGELOG.md. Buildroot's is the commit.
func TestVersion(t *testing.T) {
	newest := regexp.MustCompile(`(?m)^## \[(.*?)\]`).FindStringSubmatch(read(t, root+"CHANGELOG.md"))
	if got, want := variable(t, "PV"), newest[1]+"+git"; got != want {
		t.Errorf("the recipe has version %s, want %s", got, want)
	}
}

// TestFiles: each file that make install installs is in one package, and each package has what it is for.
func TestFiles(t *testing.T) {
	// Stands in for what is built, as only the names count.
	out, destination := t.TempDir(), t.TempDir()
	for _, name := range []string{"vxcan", "netavark/vxcan", "vxcan-docker", "vxcanctl", "share/vxcanctl.8", "share/vxcanctl", "share/_vxcanctl", "share/vxcanctl.fish"} {
		write(t, filepath.Join(out, name), "")
		if err := os.Chmod(filepath.Join(out, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	options := append(strings.Fields(variable(t, "EXTRA_OEMAKE")), "OUT="+out, "DESTDIR="+destination)
	run(t, nil, "make", append([]string{"-s", "-C", root, "install"}, options...)...)

	packages := map[string][]string{
		"vxcan":     {"/usr/lib/modules-load.d", "/usr/lib/sysctl.d", "/usr/libexec"}, // the last one is OE-Core's
		"vxcan-doc": {"/usr/share/doc", "/usr/share/man"},                             // OE-Core's
	}
	names := append(strings.Fields(variable(t, "PACKAGE_BEFORE_PN")), "vxcan-doc", "vxcan") // the first that matches takes it
	for _, name := range names[:3] {
		packages[name] = strings.Fields(variable(t, "FILES:${PN}"+strings.TrimPrefix(name, "vxcan")))
	}
	for _, name := range strings.Fields(variable(t, "SYSTEMD_PACKAGES")) {
		for _, unit := range strings.Fields(variable(t, "SYSTEMD_SERVICE:${PN}"+strings.TrimPrefix(name, "vxcan"))) {
			unit = "/usr/lib/systemd/system/" + unit
			packages[name] = append(packages[name], unit, strings.TrimSuffix(unit, ".socket")+".service") // as the class does
		}
	}
	got := make(map[string]string)
	for _, path := range strings.Fields(run(t, nil, "find", destination, "-type", "f", "-printf", "/%P\n")) {
		owner := ""
		for _, name := range names {
			if owner == "" && slices.ContainsFunc(packages[name], func(prefix string) bool { return path == prefix || strings.HasPrefix(path, prefix+"/") }) {
				owner = name
			}
		}
		if owner == "" {
			t.Errorf("no package has %s", path)
		}
		got[path] = owner
	}
	for path, want := range map[string]string{
		"/usr/libexec/cni/vxcan": "vxcan", "/usr/lib/modules-load.d/vxcan.conf": "vxcan", "/usr/lib/sysctl.d/40-vxcan.conf": "vxcan",
		"/usr/libexec/netavark/vxcan": "vxcan-netavark", "/usr/libexec/vxcan-docker": "vxcan-docker",
		"/usr/lib/systemd/system/vxcan-docker.socket": "vxcan-docker", "/usr/lib/systemd/system/vxcan-docker.service": "vxcan-docker",
		"/usr/lib/systemd/system/vxcan-heal@.service": "vxcan-ctl", "/usr/bin/vxcanctl": "vxcan-ctl",
		"/usr/lib/udev/rules.d/90-vxcan.rules": "vxcan-ctl", "/usr/share/man/man8/vxcanctl.8": "vxcan-doc",
	} {
		if got[path] != want {
			t.Errorf("%s is in package %q, want %s", path, got[path], want)
		}
	}
}

func uniq(words []string) []string {
	return slices.Compact(slices.Sorted(slices.Values(words)))
}

// sums are the MD5 sums of files, by their path behind a prefix.
func sums(text, prefix string) map[string]string {
	all := make(map[string]string)
	for _, found := range regexp.MustCompile(regexp.QuoteMeta(prefix)+`(\S+?);md5=([0-9a-f]{32})`).FindAllStringSubmatch(text, -1) {
		all[found[1]] = found[2]
	}
	return all
}

func expectSum(t testing.TB, name, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: the recipe says %q, want %s", name, got, want)
	}
}

// escape is how Go's cache writes a module path: !m for M.
func escape(path string) string {
	return regexp.MustCompile(`[A-Z]`).ReplaceAllStringFunc(path, func(letter string) string { return "!" + strings.ToLower(letter) })
}

func write(t testing.TB, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func goTool(t testing.TB, env []string, args ...string) string {
	t.Helper()
	return run(t, env, "go", append([]string{"-C", root}, args...)...)
}

func run(t testing.TB, env []string, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	var stderr strings.Builder
	cmd.Env, cmd.Stderr = append(os.Environ(), env...), &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s%s", cmd, err, out, &stderr)
	}
	return string(out)
}
