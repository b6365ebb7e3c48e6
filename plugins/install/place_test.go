package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func age(t *testing.T, path string) {
	t.Helper()
	if err := os.Chtimes(path, time.Time{}, time.Now().Add(-2*settles)); err != nil {
		t.Fatal(err)
	}
}

// TestPodNetwork: the first valid file in the order of names, whatever else is there.
func TestPodNetwork(t *testing.T) {
	dir := t.TempDir()
	if _, _, err := podNetwork(dir); !errors.Is(err, errNoNetwork) {
		t.Fatal(err)
	}
	const list, plugin = `{"name":"%s","cniVersion":"1.0.0","plugins":[{"type":"a"}]}`, `{"name":"%s","cniVersion":"1.0.0","type":"a"}`
	add := func(name, format string) {
		t.Helper()
		write(t, filepath.Join(dir, name), fmt.Sprintf(strings.ReplaceAll(format, "%s", "%[1]s"), name))
	}
	expect := func(want, brokenWord string) {
		t.Helper()
		n, broken, err := podNetwork(dir)
		if err != nil || filepath.Base(n.path) != want || n.name != want || n.cniVersion != "1.0.0" {
			t.Fatalf("%+v, %v; want %s", n, err, want)
		}
		if (broken != nil) != (brokenWord != "") || broken != nil && !strings.Contains(broken.Error(), brokenWord) {
			t.Fatalf("broken: %v, want %q", broken, brokenWord)
		}
	}
	add("87-podman-bridge.conflist", list)
	expect("87-podman-bridge.conflist", "")
	add("20-b.json", plugin)
	expect("20-b.json", "")
	add("10-b.conflist", list)
	expect("10-b.conflist", "")
	add("10-b.conf", plugin)
	expect("10-b.conf", "")
	for _, ignored := range []string{"00-calico-kubeconfig", "00-x.conflist.cilium_bak", tempName, "00-x.conf~", "00-x.yaml"} {
		add(ignored, list)
	}
	if err := os.MkdirAll(filepath.Join(dir, "00-dir.conf"), 0o755); err != nil {
		t.Fatal(err)
	}
	expect("10-b.conf", "")

	// Half written, it is waited for; left like that, it is broken.
	half := filepath.Join(dir, "05-half.conflist")
	write(t, half, `{"name":"half","plugins":[{"ty`)
	if _, _, err := podNetwork(dir); !errors.Is(err, errUnsettled) {
		t.Fatal(err)
	}
	age(t, half)
	expect("10-b.conf", "05-half.conflist is broken")
	fifo := filepath.Join(dir, "04-fifo.conf") // that would never be read to its end
	if err := syscall.Mkfifo(fifo, 0o644); err != nil {
		t.Fatal(err)
	}
	age(t, fifo)
	expect("10-b.conf", "not a regular file")
	add("05-half.conflist", list)
	expect("05-half.conflist", "not a regular file")
}

// TestNetworkMoves: when another file becomes the pod network, the entry goes with it.
func TestNetworkMoves(t *testing.T) {
	dir := copyDir(t, "k3s")
	old := readDir(t, dir)["10-flannel.conflist"]
	in := newInstaller()
	if _, err := place(t, in, dir); err != nil {
		t.Fatal(err)
	}
	calico := readDir(t, "testdata/calico")["10-calico.conflist"]
	write(t, filepath.Join(dir, "10-calico.conflist"), calico)
	if _, err := place(t, in, dir); err != nil {
		t.Fatal(err)
	}
	if got := readDir(t, dir); got["10-flannel.conflist"] != old || !strings.Contains(got["10-calico.conflist"], testEntry) {
		t.Errorf("%v", got)
	}
}

// TestConvertRefused: a list that is another network is not written over.
func TestConvertRefused(t *testing.T) {
	dir := copyDir(t, "multus")
	write(t, filepath.Join(dir, "00-multus.conflist"), `{"name":"other","cniVersion":"1.0.0","plugins":[{"type":"a"}]}`)
	before := readDir(t, dir)
	_, err := place(t, newInstaller(), dir)
	if err == nil || !strings.Contains(err.Error(), "00-multus.conflist, which is another: remove one") {
		t.Error(err)
	}
	if after := readDir(t, dir); len(after) != 3 || after["00-multus.conflist"] != before["00-multus.conflist"] {
		t.Errorf("%v", after)
	}
	write(t, filepath.Join(dir, "00-multus.conflist"), `{"name":"multus-cni-network","cniVersion":"1.0.0","plugins":[{"type":"a"}]}`) // ours of before
	if wrote, err := place(t, newInstaller(), dir); err != nil || !wrote {
		t.Error(wrote, err)
	}
}

// TestReplaceFile: content that is newer than what was read is never lost, though it comes at any time.
func TestReplaceFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "10-x.conflist")
	const rounds = 300
	write(t, path, "version 0")
	done := make(chan error)
	go func() {
		for i := 1; i <= rounds; i++ {
			theirs := filepath.Join(dir, "theirs.temp")
			err := os.WriteFile(theirs, fmt.Appendf(nil, "version %d", i), 0o644)
			if err = errors.Join(err, os.Rename(theirs, path)); err != nil {
				done <- err
				return
			}
			time.Sleep(time.Duration(i%7) * 300 * time.Microsecond)
		}
		done <- nil
	}()
	var replaced, changed int
	step := func() {
		was, _, err := readFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(string(was), " ours") {
			return
		}
		switch err := replaceFile(path, 0o644, was, append(was[:len(was):len(was)], " ours"...)); {
		case errors.Is(err, errChanged):
			changed++
		case err != nil:
			t.Fatal(err)
		default:
			replaced++
		}
	}
	for {
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			step()
			if got := readDir(t, dir); len(got) != 1 || got["10-x.conflist"] != fmt.Sprintf("version %d ours", rounds) {
				t.Errorf("at the end: %v", got)
			}
			t.Logf("%d replaced, %d given up because a newer one came", replaced, changed)
			return
		default:
			step()
		}
	}
}

// TestReplaceFileGone: a file that was removed is not made again.
func TestReplaceFileGone(t *testing.T) {
	dir := t.TempDir()
	if err := replaceFile(filepath.Join(dir, "10-x.conflist"), 0o644, []byte("was"), []byte("new")); !errors.Is(err, errChanged) {
		t.Error(err)
	}
	if left := readDir(t, dir); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestInstallPlugin(t *testing.T) {
	dir := t.TempDir()
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
	write(t, from, "new")
	expect := func(want bool) {
		t.Helper()
		if copied, err := installPlugin(from, to); copied != want || err != nil {
			t.Errorf("copied %v, %v; want %v", copied, err, want)
		}
		if same, err := samePlugin(from, to); !same || err != nil {
			t.Error(same, err)
		}
	}
	expect(true)
	expect(false)
	write(t, to, "old")
	expect(true)
	if err := os.Chmod(to, 0o644); err != nil {
		t.Fatal(err)
	}
	expect(true)
	if err := errors.Join(os.Remove(to), os.Symlink("from", to)); err != nil {
		t.Fatal(err)
	}
	expect(true)
	if _, err := installPlugin(filepath.Join(dir, "no"), to); exitStatus(err) != statusUsage {
		t.Error(err)
	}
}

func TestEntry(t *testing.T) {
	for _, right := range []string{defaultEntry, testEntry, "\n { \"type\" : \"vxcan\" }\n", `{"type":"vxcan","hub":"can-engine","physical":true,"bitrate":500000}`} {
		if entry, err := readEntry(right); err != nil || strings.ContainsAny(string(entry), "\n") {
			t.Errorf("%s: %s, %v", right, entry, err)
		}
	}
	for _, none := range []string{`{}`, "\n{ }\n", `null`} {
		if entry, err := parseEntry([]byte(none)); err != nil || !isNone(entry) {
			t.Errorf("%s: %s, %v", none, entry, err)
		}
	}
	for wrong, word := range map[string]string{
		``:                                      "read it",
		`{`:                                     "want a JSON object like",
		`{"type":"bridge"}`:                     `key "type": want "vxcan"`,
		`{"type":"vxcan","hubs":"x"}`:           `key "hubs": not one of type, capabilities, hub`,
		`{"type":"vxcan","hub":7}`:              `key "hub"`,
		`{"type":"vxcan","name":"pods"}`:        `key "name": not one of`,
		`{"type":"vxcan","bitrate":500000}`:     "set physical to true",
		`{"type":"vxcan","capabilities":["a"]}`: `key "capabilities"`,
		`/no/such/file`:                         "read it: open /no/such/file",
	} {
		if _, err := readEntry(wrong); err == nil || !strings.Contains(err.Error(), word) || exitStatus(err) != statusUsage {
			t.Errorf("%s: %v, want %q", wrong, err, word)
		}
	}
}

// TestEntryOfNode: the entry of a node's own name goes before that of all.
func TestEntryOfNode(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"entry", "node-2.example"} {
		if err := os.WriteFile(filepath.Join(dir, name+".json"), []byte(testEntry), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	all := filepath.Join(dir, "entry.json")
	for _, c := range []struct{ entry, node, want string }{
		{all, "", all},
		{all, "node-1", all},
		{all, "node-2.example", filepath.Join(dir, "node-2.example.json")},
		{testEntry, "node-2.example", testEntry},
		{filepath.Join(dir, "no.json"), "node-1", filepath.Join(dir, "no.json")},
	} {
		if got := (options{entry: c.entry, node: c.node}).entryOfNode(); got != c.want {
			t.Errorf("node %q: %s, want %s", c.node, got, c.want)
		}
	}
}

// TestPace: a quarrel is slowed down, and a rewrite now and then is not.
func TestPace(t *testing.T) {
	p := pace{left: burst, at: time.Now()}
	for i := range burst - 1 {
		if d := p.delay(true); d != 0 {
			t.Fatalf("write %d is held back %v", i, d)
		}
	}
	p.delay(true)
	if d := p.delay(true); d != heldBack {
		t.Errorf("held back %v", d)
	}
	if d := p.delay(false); d != 0 {
		t.Errorf("what writes nothing is held back %v", d)
	}
	p.at = p.at.Add(-time.Minute)
	if d := p.delay(true); d != 0 {
		t.Errorf("a minute later: %v", d)
	}
	for range burst + quarrel {
		p.delay(true)
	}
	if d := p.delay(true); d != heldLong {
		t.Errorf("a quarrel without an end is held back %v", d)
	}
	p.at = p.at.Add(-time.Hour)
	for range burst + 1 {
		p.delay(true)
	}
	if d := p.delay(true); d != heldBack {
		t.Errorf("an hour later: %v", d)
	}
}

// TestRenameIfStill is the way where files cannot be exchanged.
func TestRenameIfStill(t *testing.T) {
	dir := t.TempDir()
	temp, path := filepath.Join(dir, tempName), filepath.Join(dir, "10-x.conflist")
	write(t, temp, "new")
	if err := renameIfStill(temp, path, []byte("was")); !errors.Is(err, errChanged) {
		t.Error("gone:", err)
	}
	write(t, path, "newer")
	if err := renameIfStill(temp, path, []byte("was")); !errors.Is(err, errChanged) {
		t.Error("newer:", err)
	}
	write(t, path, "was")
	if err := renameIfStill(temp, path, []byte("was")); err != nil {
		t.Error(err)
	}
	if got := readDir(t, dir); len(got) != 1 || got["10-x.conflist"] != "new" {
		t.Errorf("%v", got)
	}
}

// TestConvertRace: the configuration of one plugin that is written anew while it is made a list is not lost.
func TestConvertRace(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "10-x.conf")
	const rounds = 200
	conf := func(i int) string { return fmt.Sprintf(`{"name":"n","cniVersion":"1.0.0","type":"a","version":%d}`, i) }
	write(t, path, conf(0))
	done := make(chan error)
	go func() {
		for i := 1; i <= rounds; i++ {
			theirs := filepath.Join(dir, "theirs.temp")
			err := os.WriteFile(theirs, []byte(conf(i)), 0o644)
			if err = errors.Join(err, os.Rename(theirs, path)); err != nil {
				done <- err
				return
			}
			time.Sleep(time.Duration(i%7) * 300 * time.Microsecond)
		}
		done <- nil
	}()
	in := newInstaller()
	for ended := false; ; {
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			ended = true
		default:
		}
		n, broken, err := podNetwork(dir)
		if err != nil || broken != nil { // there always is one
			t.Fatal(err, broken)
		}
		if _, err := in.placeEntry(n); err != nil && !passes(err) {
			t.Fatal(err)
		} else if ended && err == nil {
			break
		}
	}
	got := readDir(t, dir)
	if len(got) != 1 || !strings.Contains(got["10-x.conflist"], conf(rounds)) || strings.Count(got["10-x.conflist"], `"vxcan"`) != 1 {
		t.Errorf("%v", got)
	}
}
