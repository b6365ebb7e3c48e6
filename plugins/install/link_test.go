package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	podList  = `{"name":"pods","cniVersion":"1.0.0","plugins":[{"type":"bridge"}]}`
	podPlain = `{"name":"pods","cniVersion":"1.0.0","type":"bridge"}`
	chained  = `{"name":"pods","cniVersion":"1.0.0","plugins":[{"type":"bridge"},` + testEntry + `]}`
	loopback = `{"name":"lo","cniVersion":"1.0.0","type":"loopback"}`
)

// linkNode is an installer for a configuration directory that has only the loopback, with a directory beside it.
func linkNode(t *testing.T) (in *installer, beside string) {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	in, beside = newInstaller(), filepath.Join(dir, "beside")
	in.confDir, in.binDir, in.plugin, in.entry = filepath.Join(dir, "net.d"), filepath.Join(dir, "bin"), filepath.Join(dir, "vxcan"), testEntry
	for _, dir := range []string{in.confDir, in.binDir, beside} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, in.plugin, "plugin")
	write(t, filepath.Join(in.confDir, "99-loopback.conf"), loopback)
	return in, beside
}

// symlink makes a link that is not new.
func symlink(t *testing.T, target, path string) {
	t.Helper()
	old := unix.NsecToTimespec(time.Now().Add(-2 * settles).UnixNano())
	if err := errors.Join(os.Symlink(target, path),
		unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{old, old}, unix.AT_SYMLINK_NOFOLLOW)); err != nil {
		t.Fatal(err)
	}
}

func expectLink(t *testing.T, path, target string) {
	t.Helper()
	if got, err := os.Readlink(path); err != nil || got != target {
		t.Errorf("%s links to %q, %v; want %s", path, got, err, target)
	}
}

func expectFile(t *testing.T, path, want string) {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil || !info.Mode().IsRegular() {
		t.Fatalf("%s: %v, %v", path, info, err)
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != want {
		t.Errorf("%s: %v\n got %s\nwant %s", path, err, got, want)
	}
}

// expectNames expects a directory to have just these files.
func expectNames(t *testing.T, dir string, want ...string) {
	t.Helper()
	if got := names(t, dir); !slices.Equal(got, want) {
		t.Errorf("%s: %v, want %v", dir, got, want)
	}
}

func names(t *testing.T, dir string) (names []string) {
	t.Helper()
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		names = append(names, file.Name())
	}
	return names
}

// TestLink: a pod network that is a symbolic link stays one, and its target is changed, in its own directory.
func TestLink(t *testing.T) {
	for _, test := range []struct{ name, target, link string }{
		{name: "same directory", target: "net.d/20-pods.conflist", link: "DIR/net.d/20-pods.conflist"},
		{name: "same directory, relative", target: "net.d/20-pods.conflist", link: "20-pods.conflist"},
		{name: "another directory", target: "beside/pods.conflist", link: "DIR/beside/pods.conflist"},
		{name: "another directory, relative", target: "beside/pods.conflist", link: "../beside/pods.conflist"},
		{name: "target without the suffix", target: "beside/pods", link: "../beside/pods"},
		{name: "link to a link", target: "beside/pods.conflist", link: "../beside/link"},
	} {
		t.Run(test.name, func(t *testing.T) {
			in, beside := linkNode(t)
			dir := filepath.Dir(beside)
			target, link := filepath.Join(dir, test.target), filepath.Join(in.confDir, "10-pods.conflist")
			leadsTo := strings.ReplaceAll(test.link, "DIR", dir)
			write(t, target, podList)
			if err := os.Chmod(target, 0o600); err != nil {
				t.Fatal(err)
			}
			symlink(t, leadsTo, link)
			symlink(t, "pods.conflist", filepath.Join(beside, "link"))
			before := [2][]string{names(t, in.confDir), names(t, beside)}
			write(t, filepath.Join(filepath.Dir(target), tempName), "of a run that was killed")

			expect := func(want string) {
				t.Helper()
				expectLink(t, link, leadsTo)
				expectFile(t, target, want)
				if info, err := os.Stat(target); err != nil || info.Mode().Perm() != 0o600 {
					t.Errorf("mode %v, %v", info, err)
				}
				expectFile(t, filepath.Join(in.confDir, "99-loopback.conf"), loopback)
				expectNames(t, in.confDir, before[0]...)
				expectNames(t, beside, before[1]...)
			}
			for _, first := range []bool{true, false} {
				if wrote, err := in.install(t.Context()); wrote != first || err != nil {
					t.Fatal(wrote, err)
				}
				expect(chained)
			}
			if err := in.inPlace(); err != nil {
				t.Error(err)
			}
			if err := in.remove(); err != nil {
				t.Error(err)
			}
			expect(podList)
		})
	}
}

// TestDeadLink: no other file becomes the pod network in the place of a link that leads to no file, and the error says
// which link that is and what to do.
func TestDeadLink(t *testing.T) {
	for _, target := range []string{"/no/such/pods.conflist", "../beside/pods.conflist", "nowhere", "10-pods.conflist", "../beside/loop"} {
		t.Run(target, func(t *testing.T) {
			in, beside := linkNode(t)
			link := filepath.Join(in.confDir, "10-pods.conflist")
			symlink(t, target, link)
			symlink(t, link, filepath.Join(beside, "loop"))
			expect := func(err error) {
				t.Helper()
				if !errors.Is(err, errLink) || passes(err) {
					t.Errorf("error %v", err)
					return
				}
				for _, words := range []string{link + " ", " to " + target + " ", "create the target or remove the link"} {
					if !strings.Contains(err.Error(), words) {
						t.Errorf("no %q in: %v", words, err)
					}
				}
			}
			_, err := in.install(t.Context())
			expect(err)
			expect(in.inPlace())
			expect(in.remove())
			expectLink(t, link, target)
			expectFile(t, filepath.Join(in.confDir, "99-loopback.conf"), loopback)
			expectNames(t, in.confDir, "10-pods.conflist", "99-loopback.conf")

			// A new link may get its target in a moment.
			if err := errors.Join(os.Remove(link), os.Symlink(target, link)); err != nil {
				t.Fatal(err)
			}
			if _, err := in.install(t.Context()); !passes(err) {
				t.Error(err)
			}
		})
	}
}

// TestDeadLinkRemove: the entry is also taken out when a link before its file leads to no file by then.
func TestDeadLinkRemove(t *testing.T) {
	in, _ := linkNode(t)
	path := filepath.Join(in.confDir, "20-pods.conflist")
	write(t, path, podList)
	if _, err := in.install(t.Context()); err != nil {
		t.Fatal(err)
	}
	expectFile(t, path, chained)
	symlink(t, "nowhere", filepath.Join(in.confDir, "10-link.conflist"))
	if err := in.remove(); !errors.Is(err, errLink) {
		t.Error(err)
	}
	expectFile(t, path, podList)
}

// TestDeadLinkBehind: a link behind the pod network does not matter.
func TestDeadLinkBehind(t *testing.T) {
	in, _ := linkNode(t)
	path := filepath.Join(in.confDir, "10-pods.conflist")
	write(t, path, podList)
	symlink(t, "nowhere", filepath.Join(in.confDir, "20-link.conflist"))
	if _, err := in.install(t.Context()); err != nil {
		t.Fatal(err)
	}
	expectFile(t, path, chained)
}

// TestLinkMoves: the entry goes with the link, and is not lost where two names are one file.
func TestLinkMoves(t *testing.T) {
	in, beside := linkNode(t)
	first, second, link := filepath.Join(beside, "first"), filepath.Join(beside, "second"), filepath.Join(in.confDir, "10-pods.conflist")
	write(t, first, podList)
	write(t, second, podList)
	expect := func(wantFirst, wantSecond string) {
		t.Helper()
		if _, err := in.install(t.Context()); err != nil {
			t.Fatal(err)
		}
		expectFile(t, first, wantFirst)
		expectFile(t, second, wantSecond)
	}
	symlink(t, first, link)
	expect(chained, podList)
	if err := os.Remove(link); err != nil {
		t.Fatal(err)
	}
	symlink(t, second, link)
	expect(podList, chained)
	symlink(t, "10-pods.conflist", filepath.Join(in.confDir, "05-pods.conflist"))
	expect(podList, chained)
	if err := os.Remove(filepath.Join(in.confDir, "05-pods.conflist")); err != nil {
		t.Fatal(err)
	}
	expect(podList, chained)
}

// TestLinkOfOnePlugin: the configuration of one plugin cannot become a list behind its link.
func TestLinkOfOnePlugin(t *testing.T) {
	in, beside := linkNode(t)
	target, link := filepath.Join(beside, "pods.conf"), filepath.Join(in.confDir, "10-pods.conf")
	write(t, target, podPlain)
	symlink(t, target, link)
	if _, err := in.install(t.Context()); err == nil || !strings.Contains(err.Error(), link+" is a symbolic link to "+target) {
		t.Error(err)
	}
	if err := in.remove(); err != nil {
		t.Error(err)
	}
	expectLink(t, link, target)
	expectFile(t, target, podPlain)
	expectNames(t, in.confDir, "10-pods.conf", "99-loopback.conf")
}

// TestLinkInTheWay: the list that a configuration of one plugin becomes is a link.
func TestLinkInTheWay(t *testing.T) {
	in, beside := linkNode(t)
	target, link := filepath.Join(beside, "pods"), filepath.Join(in.confDir, "10-pods.conflist")
	symlink(t, target, link)
	write(t, filepath.Join(in.confDir, "10-pods.conf"), podPlain)
	if _, err := in.install(t.Context()); !errors.Is(err, errLink) {
		t.Error(err)
	}
	expectNames(t, beside)
	write(t, target, podList)
	if _, err := in.install(t.Context()); err != nil {
		t.Error(err)
	}
	expectLink(t, link, target)
	if got := readDir(t, beside); len(got) != 1 || !strings.Contains(got["pods"], testEntry) {
		t.Errorf("%v", got)
	}
	expectNames(t, in.confDir, "10-pods.conflist", "99-loopback.conf")
}

// TestReplaceFileByLink: a link that comes in the place of a file is not lost, though it leads to the same content.
func TestReplaceFileByLink(t *testing.T) {
	dir := t.TempDir()
	path, temp := filepath.Join(dir, "10-x.conflist"), filepath.Join(dir, tempName)
	write(t, filepath.Join(dir, "target"), "was")
	symlink(t, "target", path)
	if err := replaceFile(path, 0o644, []byte("was"), []byte("new")); !errors.Is(err, errChanged) {
		t.Error(err)
	}
	expectLink(t, path, "target")
	write(t, temp, "new")
	if err := renameIfStill(temp, path, []byte("was")); !errors.Is(err, errChanged) {
		t.Error(err)
	}
	expectLink(t, path, "target")
	expectFile(t, filepath.Join(dir, "target"), "was")
}

// TestLinkWatched: a target that is written anew in a directory that is not watched, or that comes back, gets the entry
// long before the slow poll.
func TestLinkWatched(t *testing.T) {
	in, beside := linkNode(t)
	target := filepath.Join(beside, "pods.conflist")
	write(t, target, podList)
	symlink(t, target, filepath.Join(in.confDir, "10-pods.conflist"))
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- in.keepInstalled(ctx) }()
	expect := func() {
		t.Helper()
		for began := time.Now(); time.Since(began) < slowPoll*8/10; time.Sleep(10 * time.Millisecond) {
			if got, _, err := readFile(target); err == nil && string(got) == chained {
				return
			}
		}
		t.Error("no entry")
	}
	expect()
	write(t, target, podList)
	expect()
	if err := os.Remove(target); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * fastPoll)
	write(t, target, podList)
	expect()
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
