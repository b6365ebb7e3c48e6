package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
)

const (
	installEntry = `{"type":"vxcan","hub":"vcan0","pod-hubs":["bench*"],"capabilities":{"io.kubernetes.cri.pod-annotations":true}}`
	nodes        = "../../../plugins/install/testdata" // what nodes have
)

// inMemory makes the nodes of a test in memory, where fsync takes no time.
func inMemory(t *testing.T) {
	t.Helper()
	if shm, err := os.Stat("/dev/shm"); err == nil && shm.IsDir() {
		t.Setenv("TMPDIR", "/dev/shm")
	}
}

// node is what a node of Kubernetes has for CNI.
type node struct {
	bin, conf, entry string
}

// newNode has the pod network of a directory of testdata, or none.
func newNode(t *testing.T, network string) node {
	t.Helper()
	dir := t.TempDir()
	n := node{dir + "/bin", dir + "/net.d", dir + "/entry.json"}
	for _, dir := range []string{n.bin, n.conf} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	put(t, n.entry, installEntry)
	if network != "" {
		n.provide(t, network)
	}
	return n
}

// provide writes the files of a directory of testdata.
func (n node) provide(t *testing.T, network string) {
	t.Helper()
	for name, content := range contents(t, filepath.Join(nodes, network)) {
		if filepath.Ext(name) != ".after" {
			put(t, filepath.Join(n.conf, name), content)
		}
	}
}

func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	contents := map[string]string{}
	for _, file := range files {
		if file.IsDir() {
			continue
		}
		content, err := os.ReadFile(filepath.Join(dir, file.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // a temporary file
		}
		if err != nil {
			t.Fatal(err)
		}
		contents[file.Name()] = string(content)
	}
	return contents
}

// args is the installer's command line, behind another program that runs it.
func (n node) args(t *testing.T, wrap []string, flags ...string) []string {
	t.Helper()
	dir := binDir(t)
	return slices.Concat(wrap, []string{filepath.Join(dir, "vxcan-install"), "--plugin", filepath.Join(dir, "vxcan"),
		"--bin-dir", n.bin, "--conf-dir", n.conf, "--entry", n.entry}, flags)
}

// run runs the installer to its end.
func (n node) run(t *testing.T, flags ...string) (string, error) {
	t.Helper()
	args := n.args(t, nil, flags...)
	cmd, cancel := limited(args[0], args[1:]...)
	defer cancel()
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// start starts the installer, waits until a signal stops it and does not kill it, and stops it with the test.
func (n node) start(t *testing.T, wrap []string, flags ...string) *installing {
	t.Helper()
	i := &installing{node: n}
	args := n.args(t, wrap, flags...)
	i.cmd = exec.Command(args[0], args[1:]...)
	i.cmd.Stdout, i.cmd.Stderr = &i.log, &i.log
	if err := i.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(i.log.String())
		}
	})
	t.Cleanup(func() { stop(t, &i.cmd) })
	i.expectLog(t, "msg=started")
	return i
}

type installing struct {
	node
	cmd *exec.Cmd
	log lockedBuffer
}

// expectLog waits for words.
func (i *installing) expectLog(t *testing.T, words string) {
	t.Helper()
	if !wait(func() bool { return strings.Contains(i.log.String(), words) }) {
		t.Fatalf("no %q in: %s", words, i.log.String())
	}
}

// wait waits until a condition holds, three times as long as the installer's slow poll.
func wait(condition func() bool) bool {
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if condition() {
			return true
		}
	}
	return condition()
}

type lockedBuffer struct {
	sync.Mutex
	bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.Lock()
	defer b.Unlock()
	return b.Buffer.Write(p)
}

func (b *lockedBuffer) String() string {
	b.Lock()
	defer b.Unlock()
	return b.Buffer.String()
}

// eventually waits until --check succeeds. The installer may be at work still: its temporary file is there, or it has
// just seen a newer file and takes its own back.
func (n node) eventually(t *testing.T) {
	t.Helper()
	var out string
	if !wait(func() (done bool) {
		var err error
		out, err = n.run(t, "--check")
		return err == nil
	}) {
		t.Fatalf("not in place: %s", out)
	}
}

// eventuallyHas waits until the configuration directory has these files, and no others.
func (n node) eventuallyHas(t *testing.T, want map[string]string) {
	t.Helper()
	if !wait(func() bool { return maps.Equal(contents(t, n.conf), want) }) {
		t.Fatalf("got %v\nwant %v", contents(t, n.conf), want)
	}
}

// expectAfter expects the files that testdata says, and no others.
func (n node) expectAfter(t *testing.T, network string) {
	t.Helper()
	if got, want := contents(t, n.conf), after(t, network); !maps.Equal(got, want) {
		t.Errorf("got %v\nwant %v", got, want)
	}
}

// after returns the files that testdata says.
func after(t *testing.T, network string) map[string]string {
	t.Helper()
	want := map[string]string{}
	for name, content := range contents(t, filepath.Join(nodes, network)) {
		plain, isAfter := strings.CutSuffix(name, ".after")
		if _, there := want[plain]; isAfter || !there && filepath.Ext(name) != ".conf" {
			want[plain] = content
		}
	}
	return want
}

// expectValid expects that every file that a runtime takes can be read, and has at most one entry of vxcan, and that the
// plugin is the old one, which may be none, or ours.
func (n node) expectValid(t *testing.T, oldPlugin string) {
	t.Helper()
	for name, content := range contents(t, n.conf) {
		var err error
		switch filepath.Ext(name) {
		case ".conflist":
			_, err = libcni.ConfListFromBytes([]byte(content))
		case ".conf", ".json":
			_, err = libcni.NetworkPluginConfFromBytes([]byte(content))
		}
		if err != nil {
			t.Errorf("%s: %v\n%s", name, err, content)
		}
		if n := strings.Count(content, `"vxcan"`); n > 1 {
			t.Errorf("%s: %d entries", name, n)
		}
	}
	if plugin := contents(t, n.bin)["vxcan"]; plugin != oldPlugin && plugin != contents(t, binDir(t))["vxcan"] {
		t.Errorf("a plugin of %d bytes is not ours", len(plugin))
	}
}

// TestInstall: --once and --check on the pod networks of real nodes, whose files libcni takes.
func TestInstall(t *testing.T) {
	for _, network := range []string{"flannel", "calico", "cilium", "k3s", "microk8s", "kindnet", "multus"} {
		t.Run(network, func(t *testing.T) {
			n := newNode(t, network)
			if out, err := n.run(t, "--check"); err == nil || !strings.Contains(out, "/bin/vxcan is not the plugin") {
				t.Errorf("--check before: %v: %s", err, out)
			}
			for range 2 {
				if out, err := n.run(t, "--once"); err != nil {
					t.Fatalf("%v: %s", err, out)
				}
				n.expectAfter(t, network)
				n.expectValid(t, "")
				if out, err := n.run(t, "--check"); err != nil {
					t.Errorf("--check: %v: %s", err, out)
				}
			}
			n.provide(t, network)
			if out, err := n.run(t, "--check"); err == nil || !strings.Contains(out, "the entry of vxcan is not in the pod network") {
				t.Errorf("--check of a rewritten file: %v: %s", err, out)
			}
		})
	}
}

// TestInstallerVersions: what the unit tests of the installer take for granted.
func TestInstallerVersions(t *testing.T) {
	newNode(t, "")
	cmd := exec.Command(filepath.Join(binDir(t), "vxcan"))
	cmd.Env = []string{"CNI_COMMAND=VERSION"}
	cmd.Stdin = strings.NewReader("{}")
	out, err := cmd.Output()
	if err != nil || !strings.Contains(string(out), `["0.3.1","0.4.0","1.0.0","1.1.0"]`) {
		t.Errorf("%v: %s", err, out)
	}
}

// TestInstallRefuses: words and exit status.
func TestInstallRefuses(t *testing.T) {
	for _, test := range []struct {
		name    string
		network string
		flags   []string
		change  func(n node)
		status  int
		words   []string
	}{
		{name: "no pod network", status: 1, words: []string{"no pod network yet in ", "waiting"}},
		{name: "old CNI", network: "weave", status: 1, words: []string{`10-weave.conflist: cniVersion \"0.3.0\"`, "change it where"}},
		{name: "entry", network: "flannel", flags: []string{"--entry", `{"type":"vxcan","hubs":"x"}`}, status: 2, words: []string{`key \"hubs\": not one of`}},
		{name: "plugin", network: "flannel", flags: []string{"--plugin", "/no/plugin"}, status: 2, words: []string{"/no/plugin", "--plugin"}},
		{name: "flag", network: "flannel", flags: []string{"--chek"}, status: 2, words: []string{"-chek"}},
		{name: "argument", network: "flannel", flags: []string{"x"}, status: 2, words: []string{`unexpected argument "x"`}},
		{name: "no directory", flags: []string{"--conf-dir", "/no/dir"}, status: 1, words: []string{"/no/dir"}},
		{name: "only vxcan", status: 1, words: []string{"00-canbus0.conflist", "no IP"}, change: func(n node) {
			put(t, n.conf+"/00-canbus0.conflist", `{"name":"canbus0","cniVersion":"1.0.0","plugins":[{"type":"vxcan"}]}`)
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			n := newNode(t, test.network)
			if test.change != nil {
				test.change(n)
			}
			before := contents(t, n.conf)
			out, err := n.run(t, append([]string{"--once"}, test.flags...)...)
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != test.status {
				t.Errorf("%v, want status %d", err, test.status)
			}
			for _, word := range test.words {
				if !strings.Contains(out, word) {
					t.Errorf("no %q in: %s", word, out)
				}
			}
			if after := contents(t, n.conf); !maps.Equal(before, after) {
				t.Errorf("%v became %v", before, after)
			}
		})
	}
}

// TestInstallAsLibcni: the installer takes for a pod network what libcni does.
func TestInstallAsLibcni(t *testing.T) {
	for i, content := range []string{
		``, `null`, `[]`, `{}`, `{"name":"n"`, `{"name":"n","plugins":[{"type":"a"}]} x`,
		`{"name":"n","cniVersion":"1.0.0","plugins":[{"type":"a"}]}`,
		`{"Name":"n","cniVersion":"1.0.0","plugins":[{"type":"a"}]}`,
		`{"name":"n","cniVersion":"1.0.0","Plugins":[{"type":"a"}]}`,
		`{"name":"n","cniVersion":"1.0.0","plugins":[{"Type":"a"}]}`,
		`{"name":7,"cniVersion":"1.0.0","plugins":[{"type":"a"}]}`,
		`{"name":null,"cniVersion":"1.0.0","plugins":[{"type":"a"}]}`,
		`{"name":"n","cniVersion":7,"plugins":[{"type":"a"}]}`,
		`{"name":"n","cniVersion":"1.0.0","plugins":[]}`,
		`{"name":"n","cniVersion":"1.0.0","plugins":null}`,
		`{"name":"n","cniVersion":"1.0.0","plugins":{"type":"a"}}`,
		`{"name":"n","cniVersion":"1.0.0","plugins":[{"type":"a"},{}]}`,
		`{"name":"n","cniVersion":"1.0.0","plugins":[{"type":"a"},null]}`,
		`{"name":"n","cniVersion":"1.0.0","plugins":[{"type":"a"},"b"]}`,
		`{"name":"n","cniVersion":"1.0.0","plugins":[{"type":"a","ipam":"x"}]}`,
		`{"name":"n","cniVersion":"1.0.0","disableCheck":"True","plugins":[{"type":"a"}]}`,
		`{"name":"n","cniVersion":"1.0.0","disableCheck":1,"plugins":[{"type":"a"}]}`,
		`{"name":"n","cniVersion":"1.0.0","disableGC":"perhaps","plugins":[{"type":"a"}]}`,
		`{"name":"n","cniVersions":["0.3.0","1.0.0","9.0.0"],"plugins":[{"type":"a"}]}`,
		`{"name":"n","cniVersion":"0.3.0","cniVersions":["0.4.0"],"plugins":[{"type":"a"}]}`,
		`{"name":"n","cniVersion":"0.3.0","cniVersions":["0.2.0"],"plugins":[{"type":"a"}]}`,
		`{"name":"n","cniVersion":"1.0.0","cniVersions":"1.0.0","plugins":[{"type":"a"}]}`,
		`{"name":"n","cniVersion":"1.0.0","cniVersions":["x"],"plugins":[{"type":"a"}]}`,
		`{"name":"n","plugins":[{"type":"a"}]}`,
		"\ufeff" + `{"name":"n","cniVersion":"1.0.0","plugins":[{"type":"a"}]}`,
		`{"name":"n","cniVersion":"1.0.0","type":"a"}`,
		`{"name":"n","cniVersion":"1.0.0","type":""}`,
		`{"name":"n","cniVersion":"0.2.0","type":"a"}`,
	} {
		for _, ext := range []string{".conflist", ".conf", ".json"} {
			t.Run(fmt.Sprint(i, ext), func(t *testing.T) {
				n := newNode(t, "")
				path := filepath.Join(n.conf, "10-x"+ext)
				put(t, path, content)
				if err := os.Chtimes(path, time.Time{}, time.Now().Add(-time.Hour)); err != nil { // not half written
					t.Fatal(err)
				}
				list, want := libcni.ConfListFromBytes([]byte(content))
				if ext != ".conflist" {
					var conf *libcni.PluginConfig
					if conf, want = libcni.NetworkPluginConfFromBytes([]byte(content)); want == nil {
						list, want = libcni.ConfListFromConf(conf) //lint:ignore SA1019 containerd does so
					}
				}
				if want == nil && len(list.Plugins) == 0 {
					want = errors.New("containerd takes no list without plugins")
				}
				if want == nil && !slices.Contains([]string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"}, list.CNIVersion) {
					want = errors.New("cniVersion " + list.CNIVersion)
				}
				out, err := n.run(t, "--once")
				if (err == nil) != (want == nil) {
					t.Fatalf("%s\nlibcni: %v, installer: %v: %s", content, want, err, out)
				}
				if want == nil {
					n.expectValid(t, "")
					after, err := libcni.ConfListFromFile(filepath.Join(n.conf, "10-x.conflist"))
					if err != nil || after.Name != list.Name || after.CNIVersion != list.CNIVersion || len(after.Plugins) != len(list.Plugins)+1 {
						t.Errorf("%+v, %v", after, err)
					}
				} else if got := contents(t, n.conf); len(got) != 1 || got["10-x"+ext] != content {
					t.Errorf("refused, but %v", got)
				}
			})
		}
	}
}

// TestInstallRewritten: the pod network is written anew a hundred times while the installer runs. No reader ever finds
// broken JSON or two entries, the entry is never missing for a second, and no version of the other program is lost.
func TestInstallRewritten(t *testing.T) {
	inMemory(t) // else the second is also that of a disk, which others may keep busy
	for _, test := range []struct {
		name    string
		wrap    []string
		inPlace bool // as Calico writes; the others rename
	}{
		{name: "renamed"},
		{name: "in place", inPlace: true},
		{name: "without inotify", wrap: []string{"unshare", "--user", "--map-root-user", "sh", "-c",
			`echo 0 >/proc/sys/user/max_inotify_instances && exec "$@"`, "sh"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			n := newNode(t, "calico")
			if test.wrap != nil {
				if out, err := exec.Command(test.wrap[0], append(test.wrap[1:], "true")...).CombinedOutput(); err != nil {
					t.Skipf("no user namespaces here: %v: %s", err, out)
				}
			}
			path := filepath.Join(n.conf, "10-calico.conflist")
			calico := contents(t, n.conf)["10-calico.conflist"]
			i := n.start(t, test.wrap)
			n.eventually(t)
			if test.wrap != nil && !strings.Contains(i.log.String(), "cannot watch the directories") {
				t.Errorf("it has inotify: %s", i.log.String())
			}
			var writing sync.RWMutex // who reads in the middle of Calico's writing finds half a file, with and without us
			w := watchEntry(t, path, writing.RLocker())
			rewrites := 0
			version := func(i int) string { return strings.Replace(calico, `"mtu": 0`, fmt.Sprintf(`"mtu": %d`, i), 1) }
			for rewrites < 100 || !t.Failed() && w.reads.Load() < 300 { // a busy machine reads less often
				rewrites++
				if test.inPlace {
					writing.Lock()
					put(t, path, version(rewrites))
					writing.Unlock()
				} else {
					put(t, path+".theirs", version(rewrites))
					if err := os.Rename(path+".theirs", path); err != nil {
						t.Fatal(err)
					}
				}
				time.Sleep(time.Duration(rewrites*rewrites%37) * time.Millisecond)
			}
			want := after(t, "calico")["10-calico.conflist"]
			want = strings.Replace(want, `"mtu": 0`, fmt.Sprintf(`"mtu": %d`, rewrites), 1)
			n.eventuallyHas(t, map[string]string{"10-calico.conflist": want})
			w.end()
			if len(w.gaps) == 0 {
				t.Fatalf("%d reads, and never without the entry", w.reads.Load())
			}
			t.Logf("%d reads, %d times without the entry, usually for %v, at most for %v", w.reads.Load(), len(w.gaps), w.usual(), w.longest())
			if w.longest() > time.Second {
				t.Errorf("the entry was missing for %v", w.longest())
			}
		})
	}
}

// entryWatch reads a list all the time. The time for which a busy machine holds up a read does not count as a gap: it holds
// up the installer, too.
type entryWatch struct {
	stop  chan struct{}
	ended chan struct{}
	reads atomic.Int64
	gaps  []time.Duration // without the entry
}

const (
	readEvery = 200 * time.Microsecond
	readTakes = time.Millisecond // at most, on a machine that is not busy
)

// longest and usual are of the gaps.
func (w *entryWatch) longest() time.Duration { return slices.Max(w.gaps).Round(100 * time.Microsecond) }

func (w *entryWatch) usual() time.Duration {
	slices.Sort(w.gaps)
	return w.gaps[len(w.gaps)/2].Round(100 * time.Microsecond)
}

func watchEntry(t *testing.T, path string, lock sync.Locker) *entryWatch {
	w := &entryWatch{stop: make(chan struct{}), ended: make(chan struct{})}
	go func() {
		defer close(w.ended)
		var gap time.Duration
		missing, last := false, time.Now()
		for {
			select {
			case <-w.stop:
				return
			default:
			}
			lock.Lock()
			content, err := os.ReadFile(path)
			lock.Unlock()
			var list struct{ Plugins []struct{ Type string } }
			if err == nil {
				err = json.Unmarshal(content, &list)
			}
			if err != nil {
				t.Errorf("read %d: %v:\n%s", w.reads.Load(), err, content)
				return
			}
			w.reads.Add(1)
			now := time.Now()
			if missing {
				gap += min(now.Sub(last), readTakes)
			}
			last = now
			n := 0
			for _, plugin := range list.Plugins {
				if plugin.Type == "vxcan" {
					n++
				}
			}
			switch {
			case n > 1 || len(list.Plugins)-n != 3:
				t.Errorf("%d entries of vxcan:\n%s", n, content)
				return
			case n == 0 && !missing:
				missing, gap = true, 0
			case n == 1 && missing:
				w.gaps = append(w.gaps, gap)
				missing = false
			}
			time.Sleep(readEvery)
		}
	}()
	return w
}

func (w *entryWatch) end() {
	close(w.stop)
	<-w.ended
}

// TestInstallKeeps: it waits for a pod network, puts plugin and entry back when they go, follows its configuration, and
// leaves, or takes, its entry when it is stopped.
func TestInstallKeeps(t *testing.T) {
	n := newNode(t, "")
	i := n.start(t, nil)
	i.expectLog(t, "no pod network yet")
	n.provide(t, "k3s")
	n.eventuallyHas(t, after(t, "k3s"))
	n.eventually(t)

	remove(t, filepath.Join(n.bin, "vxcan"))
	n.eventually(t)
	put(t, filepath.Join(n.bin, "vxcan"), "an older one")
	n.eventually(t)
	remove(t, filepath.Join(n.conf, "10-flannel.conflist"))
	n.provide(t, "k3s")
	n.eventually(t)

	put(t, n.entry, "{") // is said, and what was right goes on
	n.provide(t, "k3s")
	other := strings.Replace(installEntry, "vcan0", "vcan7", 1)
	i.expectLog(t, "the entry from before is used")
	n.eventuallyHas(t, after(t, "k3s")) // a step before n.provide may have said that, too
	put(t, n.entry, other)
	n.provide(t, "k3s")
	n.eventually(t)
	if got := contents(t, n.conf)["10-flannel.conflist"]; !strings.Contains(got, other) {
		t.Errorf("not the new entry: %s", got)
	}

	began := time.Now()
	stop(t, &i.cmd)
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("it took %v to stop", took)
	}
	n.eventually(t) // still there

	i = n.start(t, nil, "--remove-on-exit")
	n.eventually(t)
	stop(t, &i.cmd)
	if got, want := contents(t, n.conf), contents(t, filepath.Join(nodes, "k3s")); len(got) != 1 || got["10-flannel.conflist"] != want["10-flannel.conflist"] {
		t.Errorf("taken out: %v", got)
	}
	if _, there := contents(t, n.bin)["vxcan"]; !there {
		t.Error("the plugin is gone, which pods need that are still there")
	}
}

// TestInstallNoEntry: with the entry {} the plugin is put in place alone, whatever the pod network is, and an entry that was
// there is taken out.
func TestInstallNoEntry(t *testing.T) {
	for _, network := range []string{"", "k3s", "multus", "weave"} {
		n := newNode(t, network)
		before := contents(t, n.conf)
		put(t, n.entry, "{}\n")
		if out, err := n.run(t, "--once"); err != nil {
			t.Errorf("%s: %v: %s", network, err, out)
		}
		if out, err := n.run(t, "--check"); err != nil || strings.TrimSpace(out) != "{}" {
			t.Errorf("%s: %v: %s", network, err, out)
		}
		if got := contents(t, n.conf); !maps.Equal(got, before) {
			t.Errorf("%s: %v became %v", network, before, got)
		}
	}

	n := newNode(t, "k3s")
	before := contents(t, n.conf)
	i := n.start(t, nil)
	n.eventually(t)
	n.expectAfter(t, "k3s")
	put(t, n.entry, "{}")
	n.provide(t, "k3s") // is seen at once, unlike the entry
	n.eventually(t)
	n.eventuallyHas(t, before)
	remove(t, filepath.Join(n.bin, "vxcan"))
	n.eventually(t)
	put(t, n.entry, installEntry)
	n.provide(t, "k3s")
	n.eventuallyHas(t, after(t, "k3s"))
	stop(t, &i.cmd)
}

// TestInstallLink: the pod network is a symbolic link to a directory that the installer does not watch. It stays one, gets
// its entry back when its target is rewritten, and no other file takes its place while it leads to none.
func TestInstallLink(t *testing.T) {
	n := newNode(t, "")
	dir := filepath.Join(filepath.Dir(n.conf), "calico")
	target, link := filepath.Join(dir, "10-calico.conflist"), filepath.Join(n.conf, "10-calico.conflist")
	const leadsTo, loopback = "../calico/10-calico.conflist", `{"name":"lo","cniVersion":"1.0.0","type":"loopback"}`
	if err := errors.Join(os.Mkdir(dir, 0o755), os.Symlink(leadsTo, link)); err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(n.conf, "99-loopback.conf"), loopback)
	without := contents(t, filepath.Join(nodes, "calico"))["10-calico.conflist"]
	with := after(t, "calico")["10-calico.conflist"]
	put(t, target, without)

	i := n.start(t, nil, "--remove-on-exit")
	expect := func(want string) {
		t.Helper()
		if !wait(func() bool { return maps.Equal(contents(t, dir), map[string]string{"10-calico.conflist": want}) }) {
			t.Errorf("beside: %v", contents(t, dir))
		}
		if got, err := os.Readlink(link); err != nil || got != leadsTo {
			t.Errorf("link to %s, %v", got, err)
		}
		if got := contents(t, n.conf); len(got) != 2 || got["99-loopback.conf"] != loopback {
			t.Errorf("in the directory of the link: %v", got)
		}
	}
	expect(with)
	put(t, target, without)
	expect(with)
	remove(t, target)
	const words = "10-calico.conflist is a symbolic link that leads to no file, to " + leadsTo
	i.expectLog(t, words)
	if out, err := n.run(t, "--check"); err == nil || !strings.Contains(out, words) {
		t.Errorf("--check: %v: %s", err, out)
	}
	if got := contents(t, n.conf); len(got) != 1 || got["99-loopback.conf"] != loopback {
		t.Errorf("without the target: %v", got)
	}
	put(t, target, without)
	expect(with)
	stop(t, &i.cmd)
	expect(without)
}

// TestInstallUnprivileged: as the container runs, uid 0 with no capability at all.
func TestInstallUnprivileged(t *testing.T) {
	n := newNode(t, "calico")
	if os.Getuid() != 0 {
		t.Skip("needs root, to be root without capabilities")
	}
	i := n.start(t, []string{"setpriv", "--no-new-privs", "--inh-caps=-all", "--bounding-set=-all"})
	n.eventuallyHas(t, after(t, "calico"))
	n.provide(t, "calico")
	n.eventuallyHas(t, after(t, "calico"))
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", i.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"Uid", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs"} {
		line := regexp.MustCompile(`(?m)^` + name + `:\s+.*`).FindString(string(status))
		t.Log(line)
		if strings.HasPrefix(name, "Cap") && strings.Trim(strings.TrimPrefix(line, name+":"), "\t0") != "" {
			t.Errorf("%s", line)
		}
	}
	if log := i.log.String(); !strings.Contains(log, "uid=0 capabilities=0000000000000000") {
		t.Errorf("log: %s", log)
	}
}

// TestInstallKilled: the installer is killed at any of its system calls. What is there is valid at once, and the next run
// makes it right and leaves nothing else.
func TestInstallKilled(t *testing.T) {
	inMemory(t)
	step := 5
	if os.Getenv("VXCAN_TEST_THOROUGH") == "1" {
		step = 1
	}
	for _, test := range []struct{ network, old string }{
		{network: "calico"},
		{network: "calico", old: strings.Replace(installEntry, "vcan0", "vcan9", 1)}, // of an older configuration
		{network: "multus"}, // becomes a list
	} {
		t.Run(fmt.Sprint(test.network, test.old != ""), func(t *testing.T) {
			prepare := func() node {
				n := newNode(t, test.network)
				if test.old != "" {
					put(t, n.entry, test.old)
					if out, err := n.run(t, "--once"); err != nil {
						t.Fatalf("%v: %s", err, out)
					}
					put(t, n.entry, installEntry)
					put(t, filepath.Join(n.bin, "vxcan"), "an older one")
				}
				return n
			}
			kills := 0
			for _, call := range systemCalls(t, prepare()) {
				for when := 1; ; when += step + when/16 { // a program that reads a lot reads the same way
					n := prepare()
					before := contents(t, n.bin)["vxcan"]
					args := n.args(t, []string{"strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=" + call,
						"-e", fmt.Sprintf("inject=%s:signal=KILL:when=%d", call, when)}, "--once")
					out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
					if err == nil {
						break
					}
					if !strings.Contains(string(out), "signal: killed") { // of the plugin, that it asks for its versions
						expectKilled(t, out, err)
					}
					kills++
					n.expectValid(t, before)
					if out, err := n.run(t, "--once"); err != nil {
						t.Fatalf("%s %d: %v: %s", call, when, err, out)
					}
					n.expectAfter(t, test.network)
					if left := contents(t, n.bin); len(left) != 1 {
						t.Errorf("%s %d: left in the directory of plugins: %v", call, when, slices.Sorted(maps.Keys(left)))
					}
					if t.Failed() {
						t.Fatalf("killed at %s %d", call, when)
					}
				}
			}
			t.Logf("killed %d times", kills)
			if kills < 50 {
				t.Error("does strace still inject?")
			}
		})
	}
}

// systemCalls are those that the installer makes, but for those of Go's scheduler and signals.
func systemCalls(t *testing.T, n node) (calls []string) {
	t.Helper()
	counts := filepath.Join(t.TempDir(), "counts")
	args := n.args(t, []string{"strace", "-f", "-qq", "-c", "-U", "name", "-o", counts}, "--once")
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	content, err := os.ReadFile(counts)
	if err != nil {
		t.Fatal(err)
	}
	calls = callNames(string(content))
	t.Logf("system calls: %s", strings.Join(calls, " "))
	return calls
}

var (
	callName  = regexp.MustCompile(`^[a-z_][a-z0-9_]*$`)
	noCall    = regexp.MustCompile(`^(syscall|total|syscall_0x[0-9a-f]+)$`) // strace takes no call without a name
	notToKill = regexp.MustCompile(`^(futex|nanosleep|sched_.*|rt_sig.*|sigaltstack|madvise|mmap|gettid|tgkill|epoll_p?wait)$`)
)

// callNames returns the system calls of strace's table, but for those of Go's scheduler and signals. Other lines may be
// before the table: of a thread that ended in the middle of a call, "25564 ???( <detached ...>".
func callNames(table string) (calls []string) {
	for line := range strings.Lines(table) {
		name := strings.TrimSpace(line)
		if callName.MatchString(name) && !noCall.MatchString(name) && !notToKill.MatchString(name) {
			calls = append(calls, name)
		}
	}
	return calls
}

// TestCallNames: what is no name of a system call is not handed to strace.
func TestCallNames(t *testing.T) {
	const table = `25564 ???( <detached ...>
25565 ????( <unavailable>) = ?
25566 <... read resumed>, "", 4096) = 0
25566 openat(AT_FDCWD, "/etc/cni/net.d", O_RDONLY <unfinished ...>
25567 +++ exited with 0 +++
25568 +++ killed by SIGKILL +++
--- SIGCHLD {si_signo=SIGCHLD, si_code=CLD_EXITED, si_pid=25569} ---
????(
<detached ...>
strace: Process 25570 attached
syscall
------------------
futex
read
  write
pread64
epoll_pwait
epoll_create1
rt_sigaction
sched_yield
_llseek
syscall_0x1f4

renameat2
------------------
total
`
	want := []string{"read", "write", "pread64", "epoll_create1", "_llseek", "renameat2"}
	if got := callNames(table); !slices.Equal(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
}
