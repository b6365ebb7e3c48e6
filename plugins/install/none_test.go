package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// noneNode is an installer of the plugin alone, for a configuration directory that is empty.
func noneNode(t *testing.T) *installer {
	t.Helper()
	in, _ := linkNode(t)
	if err := os.Remove(filepath.Join(in.confDir, "99-loopback.conf")); err != nil {
		t.Fatal(err)
	}
	in.entry, in.valid = noEntry, json.RawMessage(noEntry)
	return in
}

// TestNoEntry: with the entry {} the plugin is put in place, and the pod network is as it would be without vxcan.
func TestNoEntry(t *testing.T) {
	const other = `{"name":"pods","cniVersion":"0.3.0","plugins":[{"type":"weave-net"}]}` // of a version that vxcan does not speak
	for _, c := range []struct {
		name, file, content, want string
	}{
		{name: "no network"},
		{"a list", "10-pods.conflist", podList, podList},
		{"a list of another version", "10-pods.conflist", other, other},
		{"one plugin", "00-multus.conf", podPlain, podPlain},
		{"our entry of before", "10-pods.conflist", chained, podList},
		{"an entry of somebody else", "10-pods.conflist", strings.Replace(chained, testEntry, defaultEntry, 1), podList},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := noneNode(t)
			want := map[string]string{}
			if c.file != "" {
				write(t, filepath.Join(in.confDir, c.file), c.content)
				want[c.file] = c.want
			}
			if err := in.inPlace(); err == nil {
				t.Error("in place without the plugin")
			}
			if wrote, err := in.install(t.Context()); err != nil || wrote != (c.content != c.want) {
				t.Errorf("wrote %v, %v", wrote, err)
			}
			if wrote, err := in.install(t.Context()); err != nil || wrote {
				t.Errorf("second step: wrote %v, %v", wrote, err)
			}
			if err := in.inPlace(); err != nil {
				t.Error(err)
			}
			if err := in.remove(); err != nil {
				t.Error(err)
			}
			if got := readDir(t, in.confDir); len(got) != len(want) || got[c.file] != want[c.file] {
				t.Errorf("got %v, want %v", got, want)
			}
			expectNames(t, in.binDir, pluginType)
		})
	}
}

// TestNoEntryAnyMore: an entry that is taken away goes out of the file that has it, also where another one, or none, is the pod
// network by then; and it comes back when it is wanted again.
func TestNoEntryAnyMore(t *testing.T) {
	const flannel = "10-flannel.conflist"
	for _, c := range []struct {
		name  string
		other string // file that becomes the pod network
	}{
		{"the same file", ""}, {"another list", "00-pods.conflist"}, {"one plugin", "00-multus.conf"},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := noneNode(t)
			path := filepath.Join(in.confDir, flannel)
			write(t, path, podList)
			in.entry = testEntry
			if _, err := in.install(t.Context()); err != nil {
				t.Fatal(err)
			}
			expectFile(t, path, chained)
			in.entry = noEntry
			want := []string{flannel}
			switch filepath.Ext(c.other) {
			case ".conf":
				write(t, filepath.Join(in.confDir, c.other), podPlain)
				want = []string{c.other, flannel}
			case listSuffix:
				write(t, filepath.Join(in.confDir, c.other), podList)
				want = []string{c.other, flannel}
			}
			in.valid = json.RawMessage(noEntry) // as --check of another process has it
			if err := in.inPlace(); (err == nil) != (c.other != "") || err != nil && !strings.Contains(err.Error(), "an entry of vxcan is in the pod network") {
				t.Errorf("in place: %v", err)
			}
			if _, err := in.install(t.Context()); err != nil {
				t.Fatal(err)
			}
			expectFile(t, path, podList)
			expectNames(t, in.confDir, want...)
			in.entry = testEntry
			if wrote, err := in.install(t.Context()); err != nil || !wrote {
				t.Errorf("back: wrote %v, %v", wrote, err)
			}
			if err := in.inPlace(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestNoEntryWithoutNodes: DNS is not asked for the nodes of an entry that was taken away.
func TestNoEntryWithoutNodes(t *testing.T) {
	for _, files := range []map[string]string{{"10-pods.conflist": podList}, {"10-pods.conf": podPlain}, {}} {
		in := noneNode(t)
		for name, content := range files {
			write(t, filepath.Join(in.confDir, name), content)
		}
		in.nodes.wanted = true
		if _, err := in.install(t.Context()); err != nil || in.nodes.wanted {
			t.Errorf("%v: wanted %v, %v", files, in.nodes.wanted, err)
		}
	}
}

// TestMoveAgain: an entry that could not be taken out of the network of before is taken out at the next step.
func TestMoveAgain(t *testing.T) {
	in := noneNode(t)
	path, other := filepath.Join(in.confDir, "10-pods.conflist"), filepath.Join(in.confDir, "00-pods.conflist")
	write(t, path, podList)
	in.entry = testEntry
	if _, err := in.install(t.Context()); err != nil {
		t.Fatal(err)
	}
	write(t, other, podList)
	write(t, path, `{"plugins":`) // half written
	if _, err := in.install(t.Context()); err == nil {
		t.Error("no error")
	}
	write(t, path, chained)
	if _, err := in.install(t.Context()); err != nil {
		t.Error(err)
	}
	expectFile(t, path, podList)
	expectFile(t, other, chained)
}
