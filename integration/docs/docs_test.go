package docs

import (
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v2"

	"github.com/vxcan/vxcan/pkg/config"
)

// TestLinks: each link leads to a file or directory that there is, and its anchor to a heading there.
func TestLinks(t *testing.T) {
	all := make(map[string]page)
	for _, p := range pages(t) {
		all[p.path] = p
	}
	for _, p := range all {
		for _, l := range p.links {
			path, anchor, ok := p.target(l)
			if !ok {
				continue
			}
			if _, err := os.Stat(root + path); err != nil {
				t.Errorf("%s: link %s: %v", p.path, l, err)
			} else if anchor != "" && !slices.Contains(all[path].anchors, anchor) {
				t.Errorf("%s: link %s: the headings of %s are %s", p.path, l, path, strings.Join(all[path].anchors, ", "))
			}
		}
	}
}

// TestCodeAnchors: the same for links to pages in the messages of the programs, and in files to copy.
func TestCodeAnchors(t *testing.T) {
	all := make(map[string]page)
	for _, p := range pages(t) {
		all[p.path] = p
	}
	url := regexp.MustCompile(`github\.com/vxcan/vxcan/(?:blob|tree)/\w+/([\w./-]+)(?:#([\w-]+))?`)
	for _, dir := range []string{"pkg", "plugins", "conflist"} {
		err := filepath.WalkDir(root+dir, func(path string, entry os.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			content, err := os.ReadFile(path)
			for _, found := range url.FindAllStringSubmatch(string(content), -1) {
				if _, err := os.Stat(root + found[1]); err != nil {
					t.Errorf("%s: %v", path, err)
				} else if found[2] != "" && !slices.Contains(all[found[1]].anchors, found[2]) {
					t.Errorf("%s: %s has no heading %s", path, found[1], found[2])
				}
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestLength: README is short.
func TestLength(t *testing.T) {
	content, err := os.ReadFile(root + "README.md")
	if err != nil {
		t.Fatal(err)
	}
	const most = 1500
	if words := len(strings.Fields(string(content))); words > most {
		t.Errorf("README.md has %d words, at most %d are wanted: move some to the page of the subject", words, most)
	}
}

// inClone begins the paths of what packages do not have, and pages of them may name.
var inClone = []string{"integration/", "conflist/yocto", "conflist/buildroot", ".github/", "bin/"}

// TestInstalled: what is installed has each page for users, and a link between such pages leads to one that is installed.
func TestInstalled(t *testing.T) {
	cmd := exec.Command("make", "-s", "--no-print-directory", "-C", root, "--eval", `print-docs: ; @echo $(DOCS)`, "print-docs")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	installed := strings.Fields(string(out))
	clone := func(path string) bool {
		return slices.ContainsFunc(inClone, func(prefix string) bool { return strings.HasPrefix(path, prefix) })
	}
	for _, p := range pages(t) {
		if !slices.Contains(installed, p.path) {
			if !clone(p.path) && !strings.Contains(p.path, "/testdata/") {
				t.Errorf("%s is not installed", p.path)
			}
			continue
		}
		for _, l := range p.links {
			if path, _, ok := p.target(l); ok && !clone(path) && !slices.Contains(installed, path) {
				t.Errorf("%s: link %s leads to what is not installed", p.path, l)
			}
		}
	}
}

// TestPaths: what looks like a path of the repository is one.
func TestPaths(t *testing.T) {
	path := regexp.MustCompile(`(?:^|[\s"'=(])((?:conflist|plugins|pkg|integration)/[\w./*@-]+)`)
	for _, p := range pages(t) {
		if strings.Contains(p.path, "/testdata/") { // of other repositories
			continue
		}
		text := strings.Join(p.code, "\n")
		for _, b := range p.blocks {
			text += "\n" + strings.Join(b.lines, "\n")
		}
		for _, found := range path.FindAllStringSubmatch(text, -1) {
			name := strings.TrimRight(found[1], ".")
			if files, err := filepath.Glob(root + name); err != nil || len(files) == 0 {
				t.Errorf("%s: there is no %s", p.path, name)
			}
		}
	}
}

// TestPrograms: each program of plugins/ and each folder of conflist/ with a page of its own is named by README.
func TestPrograms(t *testing.T) {
	var readme page
	all := pages(t)
	for _, p := range all {
		if p.path == "README.md" {
			readme = p
		}
	}
	for _, p := range all {
		switch dir, name := filepath.Split(p.path); {
		case name != "README.md" || filepath.Dir(filepath.Clean(dir)) != "plugins" && filepath.Dir(filepath.Clean(dir)) != "conflist":
		case p.path == "conflist/yocto/README.md": // by the page of packages
		case !slices.ContainsFunc(readme.links, func(l string) bool { path, _, _ := readme.target(l); return path == p.path }):
			t.Errorf("README.md has no link to %s", p.path)
		}
	}
}

// TestJSON: each configuration in a page is one that the CNI plugin takes.
func TestJSON(t *testing.T) {
	members := regexp.MustCompile(`^"[\w-]+": `)
	checked := 0
	for _, p := range pages(t) {
		for _, b := range p.blocks {
			if b.language != "json" {
				continue
			}
			var list struct {
				Plugins []map[string]json.RawMessage
			}
			if err := json.Unmarshal([]byte(strings.Join(b.lines, "\n")), &list); err != nil || len(list.Plugins) == 0 {
				t.Errorf("%s: %v\n%s", p.path, err, strings.Join(b.lines, "\n"))
			}
			for _, plugin := range list.Plugins {
				checkKeys(t, p.path, plugin)
			}
			checked++
		}
		for _, code := range p.code {
			if !members.MatchString(code) {
				continue
			}
			var keys map[string]json.RawMessage
			if err := json.Unmarshal([]byte("{"+code+"}"), &keys); err != nil {
				t.Errorf("%s: %s: %v", p.path, code, err)
			}
			checkKeys(t, p.path, keys)
			checked++
		}
	}
	if checked < 5 {
		t.Errorf("%d configurations in all pages", checked)
	}
}

func checkKeys(t *testing.T, path string, keys map[string]json.RawMessage) {
	t.Helper()
	n := config.NewNetwork()
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		if key == "type" || key == "capabilities" {
			continue
		}
		if known, err := n.SetJSON(key, keys[key]); err != nil || !known {
			t.Errorf("%s: key %q: known %v, %v", path, key, known, err)
		}
	}
	if _, named := keys["hub"]; named {
		if err := n.Check(); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// TestYAML: each example can be read.
func TestYAML(t *testing.T) {
	for _, p := range pages(t) {
		for _, b := range p.blocks {
			if b.language != "yaml" {
				continue
			}
			var any map[string]any
			if err := yaml.UnmarshalStrict([]byte(strings.Join(b.lines, "\n")), &any); err != nil || len(any) == 0 {
				t.Errorf("%s: %v\n%s", p.path, err, strings.Join(b.lines, "\n"))
			}
		}
	}
}

// TestPolicyPage: the table of policies says what is in the files.
func TestPolicyPage(t *testing.T) {
	content, err := os.ReadFile(root + "conflist/policy/README.md")
	if err != nil {
		t.Fatal(err)
	}
	row := regexp.MustCompile("(?m)^\\| `(\\w+\\.conflist)` \\| [^|]+ \\| `([^`]+)` \\|$")
	found := row.FindAllStringSubmatch(string(content), -1)
	files, _ := filepath.Glob(root + "conflist/policy/*.conflist")
	if len(found) != len(files) || len(files) == 0 {
		t.Fatalf("%d rows for %q", len(found), files)
	}
	for _, f := range found {
		text, err := os.ReadFile(root + "conflist/policy/" + f[1])
		if err != nil || !strings.Contains(string(text), f[2]) {
			t.Errorf("%s lacks %s (%v)", f[1], f[2], err)
		}
	}
}
