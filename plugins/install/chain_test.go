package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const testEntry = `{"type":"vxcan","hub":"vcan0","pod-hubs":["bench*"],"capabilities":{"io.kubernetes.cri.pod-annotations":true}}`

// spoken are the versions of CNI that the plugin answers; TestInstallerVersions of integration/kubernetes/installer asks it.
var spoken = []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"}

func newInstaller() *installer {
	return &installer{valid: json.RawMessage(testEntry), versions: spoken, nodes: newNodes("x")}
}

// copyDir is a copy of a directory of testdata, without what is expected of it.
func copyDir(t *testing.T, name string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range readDir(t, filepath.Join("testdata", name)) {
		if !strings.HasSuffix(name, ".after") {
			write(t, filepath.Join(dir, name), content)
		}
	}
	return dir
}

func readDir(t *testing.T, dir string) map[string]string {
	t.Helper()
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	contents := map[string]string{}
	for _, file := range files {
		content, err := os.ReadFile(filepath.Join(dir, file.Name()))
		if err != nil {
			t.Fatal(err)
		}
		contents[file.Name()] = string(content)
	}
	return contents
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// place does what a step does with the pod network.
func place(t *testing.T, in *installer, dir string) (wrote bool, err error) {
	t.Helper()
	n, broken, err := podNetwork(dir)
	if err != nil || broken != nil {
		t.Fatal(err, broken)
	}
	return in.placeEntry(n)
}

// TestNodes: the files of real nodes, before and after. A second run changes nothing, another entry takes the place of
// the old one, and without the entry every byte is as it was.
func TestNodes(t *testing.T) {
	for _, test := range []struct{ name, takenFrom, refused string }{
		{name: "flannel"},
		{name: "calico"},
		{name: "cilium"},
		{name: "k3s"},
		{name: "microk8s"},
		{name: "kindnet"},
		{name: "multus", takenFrom: "00-multus.conf"}, // a list from then on
		{name: "weave", refused: `cniVersion "0.3.0": vxcan speaks 0.3.1, 0.4.0, 1.0.0, 1.1.0`},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := copyDir(t, test.name)
			before := readDir(t, dir)
			in := newInstaller()
			wrote, err := place(t, in, dir)
			if test.refused != "" {
				if err == nil || !strings.Contains(err.Error(), test.refused) {
					t.Errorf("error %v, want %q", err, test.refused)
				}
				if diff := cmp.Diff(before, readDir(t, dir)); diff != "" {
					t.Error(diff)
				}
				return
			}
			if err != nil || !wrote {
				t.Fatal(wrote, err)
			}
			want := map[string]string{}
			for name, content := range readDir(t, filepath.Join("testdata", test.name)) {
				plain, isAfter := strings.CutSuffix(name, ".after")
				if _, there := want[plain]; name != test.takenFrom && (isAfter || !there) {
					want[plain] = content
				}
			}
			if diff := cmp.Diff(want, readDir(t, dir)); diff != "" {
				t.Error(diff)
			}
			if wrote, err := place(t, in, dir); wrote || err != nil {
				t.Error("second run:", wrote, err)
			}
			if diff := cmp.Diff(want, readDir(t, dir)); diff != "" {
				t.Error(diff)
			}

			in.valid = json.RawMessage(defaultEntry)
			if wrote, err := place(t, in, dir); !wrote || err != nil {
				t.Error("other entry:", wrote, err)
			}
			for name, content := range want {
				want[name] = strings.Replace(content, testEntry, defaultEntry, 1)
			}
			if diff := cmp.Diff(want, readDir(t, dir)); diff != "" {
				t.Error(diff)
			}

			if err := takeOut(in.chained); err != nil {
				t.Error(err)
			}
			if test.takenFrom == "" {
				if diff := cmp.Diff(before, readDir(t, dir)); diff != "" {
					t.Error("taken out: ", diff)
				}
			}
		})
	}
}

func TestChain(t *testing.T) {
	const ours = `{"type":"vxcan"}`
	for _, test := range []struct{ name, list, want string }{
		{"one line", `{"name":"n","plugins":[{"type":"a"}]}`, `{"name":"n","plugins":[{"type":"a"},{"type":"vxcan"}]}`},
		{"spaces", `{ "plugins" : [ { "type": "a" } , { "type": "b" } ] }`, `{ "plugins" : [ { "type": "a" } , { "type": "b" },  {"type":"vxcan"} ] }`},
		{"not ours to change", `{"u":"<ä\u00e4>","n":1e2,"big":12345678901234567890,"plugins":[{"type":"a","x":1.0}],"z":null}`,
			`{"u":"<ä\u00e4>","n":1e2,"big":12345678901234567890,"plugins":[{"type":"a","x":1.0},{"type":"vxcan"}],"z":null}`},
		{"old entry, in the middle", `{"plugins":[{"type":"a"},{"hub":"x","type":"vxcan"},{"type":"b"}]}`, `{"plugins":[{"type":"a"},{"type":"vxcan"},{"type":"b"}]}`},
		{"three times", `{"plugins":[{"type":"a"},{"type":"vxcan"}, {"type":"b"}, {"type":"vxcan"},{"TYPE":"vxcan"}]}`, `{"plugins":[{"type":"a"},{"type":"vxcan"}, {"type":"b"}]}`},
		{"written otherwise", `{"plugins":[{"type":"a"},{ "type" : "\u0076xcan" }]}`, `{"plugins":[{"type":"a"},{ "type" : "\u0076xcan" }]}`},
		{"brackets in strings", `{"a":"\"plugins\":[]","plugins":[{"type":"]}"}]}`, `{"a":"\"plugins\":[]","plugins":[{"type":"]}"},{"type":"vxcan"}]}`},
		{"not the plugins of a plugin", `{"plugins":[{"type":"a","plugins":[{"type":"vxcan"}]}]}`, `{"plugins":[{"type":"a","plugins":[{"type":"vxcan"}]},{"type":"vxcan"}]}`},
		{"two arrays", `{"plugins":[{"type":"a"}],"plugins":[{"type":"b"}]}`, `{"plugins":[{"type":"a"}],"plugins":[{"type":"b"},{"type":"vxcan"}]}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := chain([]byte(test.list), json.RawMessage(ours))
			if err != nil || string(got) != test.want {
				t.Errorf("%v\n got %s\nwant %s", err, got, test.want)
			}
			if again, err := chain(got, json.RawMessage(ours)); string(again) != string(got) || err != nil {
				t.Errorf("again: %s, %v", again, err)
			}
		})
	}
	for _, list := range []string{`{"plugins":[{"type":"vxcan"}]}`, `{"plugins":[{"type":"vxcan"},{"type":"a"}]}`} {
		if _, err := chain([]byte(list), json.RawMessage(ours)); err == nil || !strings.Contains(err.Error(), "no IP") {
			t.Errorf("%s: %v", list, err)
		}
	}
}

// FuzzChain: what is a list stays one, with the entry once, and is the same text again without it.
func FuzzChain(f *testing.F) {
	files, err := filepath.Glob("testdata/*/*.conf*")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(content)
	}
	f.Fuzz(func(t *testing.T, list []byte) {
		if _, _, err := parseList(list); err != nil {
			return
		}
		chained, err := chain(list, json.RawMessage(testEntry))
		if err != nil {
			return
		}
		if _, _, err := parseList(chained); err != nil {
			t.Fatalf("%q: %v", chained, err)
		}
		without, err := chain(chained, json.RawMessage(noEntry))
		if err != nil {
			t.Fatal(err)
		}
		again, err := chain(without, json.RawMessage(testEntry))
		if err != nil {
			t.Fatal(err)
		}
		_, plugins, err := findPlugins(again)
		if err != nil {
			t.Fatal(err)
		}
		others := slices.DeleteFunc(slices.Clone(plugins), func(p span) bool { return typeOf(again[p.from:p.to]) == pluginType })
		if len(others) != len(plugins)-1 {
			t.Fatalf("%d of %d plugins are not ours in %q", len(others), len(plugins), again)
		}
		if untouched, err := chain(list, json.RawMessage(noEntry)); err != nil || string(untouched) == string(list) && string(without) != string(list) {
			t.Fatalf("%v: %q became %q", err, list, without)
		}
	})
}
