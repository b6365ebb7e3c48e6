package store

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/cantest"
)

// record is something to store.
type record struct {
	Name  string   `json:"name"`
	Items []string `json:"items"`
}

var sample = record{Name: "vcan0", Items: []string{"a", "ä\n\x00", `"}`}}

func open(t testing.TB, dir, name string) *File {
	t.Helper()
	f, err := Open(context.Background(), dir, name, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// files lists what is in a directory, sorted.
func files(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestSaveLoadRemove(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "not", "yet", "there")
	f := open(t, dir, "vcan0")
	var got record
	if found, err := f.Load(&got); found || err != nil {
		t.Fatalf("nothing saved: %v, %v", found, err)
	}
	for _, want := range []record{sample, {}, {Items: make([]string, 10000)}, {Name: "short"}} {
		if err := f.Save(want); err != nil {
			t.Fatal(err)
		}
		got = record{}
		if found, err := f.Load(&got); !found || err != nil || !cmp.Equal(want, got) {
			t.Errorf("%v, %v %s", found, err, cmp.Diff(want, got))
		}
	}
	if diff := cmp.Diff([]string{"vcan0.json", "vcan0.lock"}, files(t, dir)); diff != "" {
		t.Error(diff)
	}
	for path, want := range map[string]os.FileMode{"": 0o700, "vcan0.json": 0o600, "vcan0.lock": 0o600} {
		info, err := os.Stat(filepath.Join(dir, path))
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v; want mode %v", path, info.Mode(), err, want)
		}
	}
	killed := filepath.Join(dir, "vcan0.json.new") // what a call left that was killed before it had written all
	if err := os.WriteFile(killed, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time there is none
		if err := f.Remove(); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(killed); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still there (%v)", killed, err)
	}
	if found, err := f.Load(&got); found || err != nil {
		t.Errorf("removed: %v, %v", found, err)
	}
	if left := files(t, dir); len(left) > 0 {
		t.Errorf("removed: left %v", left)
	}
}

// What is saved with a wait for the disk is the same file.
func TestSaveSynced(t *testing.T) {
	f := open(t, filepath.Join(t.TempDir(), "made"), "vcan0")
	if err := f.SaveSynced(sample); err != nil {
		t.Fatal(err)
	}
	var got record
	if found, err := f.Load(&got); !found || err != nil || !cmp.Equal(sample, got) {
		t.Errorf("%v, %v %s", found, err, cmp.Diff(sample, got))
	}
}

// expectUnusable loads a file of that content, and checks that it is refused and kept.
func expectUnusable(t *testing.T, content string, newer bool) *UnusableError {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "vcan0.json")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	f := open(t, dir, "vcan0")
	var got record
	var unusable *UnusableError
	for range 2 { // loading changes nothing
		if found, err := f.Load(&got); found || !errors.As(err, &unusable) {
			t.Fatalf("%q: %v, %v; want an UnusableError", content, found, err)
		}
	}
	if unusable.Newer != newer {
		t.Errorf("%q: newer %v, want %v", content, unusable.Newer, newer)
	}
	if unusable.Path != path || !strings.Contains(unusable.Error(), path) {
		t.Errorf("message does not name the file: %v", unusable)
	}
	aside, err := f.SetAside()
	if kept, readErr := os.ReadFile(aside); err != nil || readErr != nil || string(kept) != content {
		t.Errorf("%q: kept %q, %v, %v", content, kept, err, readErr)
	}
	// The state goes on, and the unusable file stays.
	if found, err := f.Load(&got); found || err != nil {
		t.Errorf("%q, set aside: %v, %v", content, found, err)
	}
	if err := f.Save(sample); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(aside); err != nil {
		t.Error(err)
	}
	if names, err := Names(dir); err != nil || !cmp.Equal(names, []string{"vcan0"}) {
		t.Errorf("names beside an unusable file: %q, %v", names, err)
	}
	return unusable
}

func TestLoadCut(t *testing.T) {
	dir := t.TempDir()
	if err := open(t, dir, "vcan0").Save(sample); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(filepath.Join(dir, "vcan0.json"))
	if err != nil {
		t.Fatal(err)
	}
	for n := range len(whole) - 1 { // of the last line's end nothing depends
		expectUnusable(t, string(whole[:n]), false)
	}
}

func TestLoadUnusable(t *testing.T) {
	for name, content := range map[string]string{
		"no JSON":            "hello",
		"zeros":              strings.Repeat("\x00", 512),
		"another type":       `[1]`,
		"null":               `null`,
		"no version":         `{"data":{"name":"vcan0"}}`,
		"version 0":          `{"version":0,"data":{}}`,
		"negative version":   `{"version":-1,"data":{}}`,
		"data of wrong type": `{"version":2,"data":{"name":5}}`,
		"two documents":      `{"version":2,"data":{}}{"version":2,"data":{}}`,
	} {
		t.Run(name, func(t *testing.T) { expectUnusable(t, content, false) })
	}
}

// A newer version says so, also when its data is of another kind.
func TestLoadNewer(t *testing.T) {
	for _, content := range []string{`{"version":3,"data":{}}`, `{"version":3,"data":{"name":["not","a","string"]}}`, `{"version":3,"data":7}`} {
		if err := expectUnusable(t, content, true); !strings.Contains(err.Error(), "format version 3, want 2") {
			t.Errorf("%s: %v", content, err)
		}
	}
}

// Keys that are not known are no harm: a later release of this version may write them.
func TestLoadUnknownKeys(t *testing.T) {
	dir := t.TempDir()
	content := `{"version":2,"new":true,"data":{"name":"vcan0","newer":[]}}`
	if err := os.WriteFile(filepath.Join(dir, "vcan0.json"), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	var got record
	if found, err := open(t, dir, "vcan0").Load(&got); !found || err != nil || got.Name != "vcan0" {
		t.Errorf("%v, %v, %+v", found, err, got)
	}
}

func TestSaveUnmarshalable(t *testing.T) {
	f := open(t, t.TempDir(), "vcan0")
	var wrong *json.UnsupportedTypeError
	if err := f.Save(make(chan int)); !errors.As(err, &wrong) {
		t.Error(err)
	}
}

// What a crash left of a temporary file is no obstacle.
func TestSaveOverLitter(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "vcan0.json.new"), make([]byte, 100000), 0o600); err != nil {
		t.Fatal(err)
	}
	f := open(t, dir, "vcan0")
	var got record
	if found, err := f.Load(&got); found || err != nil {
		t.Errorf("%v, %v", found, err)
	}
	if err := f.Save(sample); err != nil {
		t.Fatal(err)
	}
	if found, err := f.Load(&got); !found || err != nil || !cmp.Equal(sample, got) {
		t.Errorf("%v, %v", found, err)
	}
}

func TestUnwritable(t *testing.T) {
	t.Run("directory is a file", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(context.Background(), path, "vcan0", time.Minute); !errors.Is(err, ErrIO) || !errors.Is(err, unix.ENOTDIR) {
			t.Error(err)
		}
		if _, err := Names(path); !errors.Is(err, ErrIO) {
			t.Error(err)
		}
	})
	t.Run("files are directories", func(t *testing.T) {
		dir := t.TempDir()
		f := open(t, dir, "vcan0")
		for _, name := range []string{"vcan0.json", "vcan0.json.new"} {
			if err := os.MkdirAll(filepath.Join(dir, name, "full"), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		var got record
		_, loadErr := f.Load(&got)
		for what, err := range map[string]error{"load": loadErr, "save": f.Save(sample), "remove": f.Remove()} {
			if !errors.Is(err, ErrIO) {
				t.Errorf("%s: %v, want ErrIO", what, err)
			}
		}
	})
	t.Run("no permission", func(t *testing.T) {
		dir := t.TempDir()
		f := open(t, dir, "vcan0")
		if err := os.Chmod(dir, 0o500); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.Chmod(dir, 0o700) })
		if os.Geteuid() == 0 { // who may write everywhere; as somebody else this thread may not
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			if err := unix.Setfsuid(65534); err != nil {
				t.Fatal(err)
			}
			defer unix.Setfsuid(0)
		}
		_, openErr := Open(context.Background(), dir, "vcan1", time.Minute)
		for what, err := range map[string]error{"open": openErr, "save": f.Save(sample)} {
			if !errors.Is(err, ErrIO) || !errors.Is(err, os.ErrPermission) {
				t.Errorf("%s: %v, want ErrIO and ErrPermission", what, err)
			}
		}
	})
}

// mountTmpfs mounts a file system of that size on a new directory.
func mountTmpfs(t *testing.T, size string) string {
	t.Helper()
	cantest.Require(t) // root, and a machine made for tests
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func TestReadOnlyDisk(t *testing.T) {
	dir := mountTmpfs(t, "1m")
	f := open(t, dir, "vcan0")
	if err := errors.Join(f.Save(sample), f.Close()); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	_, openErr := Open(context.Background(), dir, "vcan1", time.Minute)
	f = open(t, dir, "vcan0") // to lock takes no writing
	for what, err := range map[string]error{"open": openErr, "save": f.Save(sample), "remove": f.Remove()} {
		if !errors.Is(err, ErrIO) || !errors.Is(err, unix.EROFS) {
			t.Errorf("%s: %v, want ErrIO and EROFS", what, err)
		}
	}
	var got record
	if found, err := f.Load(&got); !found || err != nil || !cmp.Equal(sample, got) {
		t.Errorf("%v, %v, %+v", found, err, got)
	}
	if names, err := Names(dir); err != nil || !cmp.Equal(names, []string{"vcan0"}) {
		t.Errorf("%q, %v", names, err)
	}
}

// On a full disk the old content stays, and the attempt leaves nothing behind.
func TestFullDisk(t *testing.T) {
	dir := mountTmpfs(t, "64k")
	f := open(t, dir, "vcan0")
	if err := f.Save(sample); err != nil {
		t.Fatal(err)
	}
	big := record{Name: strings.Repeat("x", 1<<20)}
	if err := f.Save(big); !errors.Is(err, ErrIO) || !errors.Is(err, unix.ENOSPC) {
		t.Errorf("%v, want ErrIO and ENOSPC", err)
	}
	var got record
	if found, err := f.Load(&got); !found || err != nil || !cmp.Equal(sample, got) {
		t.Errorf("%v, %v, %+v", found, err, got)
	}
	if diff := cmp.Diff([]string{"vcan0.json", "vcan0.lock"}, files(t, dir)); diff != "" {
		t.Error(diff)
	}
	if err := f.Save(record{Name: "small"}); err != nil {
		t.Errorf("there is room again: %v", err)
	}
}

func TestNames(t *testing.T) {
	if names, err := Names(filepath.Join(t.TempDir(), "none")); err != nil || names != nil {
		t.Errorf("no directory: %q, %v", names, err)
	}
	dir := t.TempDir()
	const locked = "only-locked" // as after a Remove that was killed
	want := []string{".hub", "a.json", "b", locked, "x.lock"}
	for _, name := range want {
		f := open(t, dir, name)
		if name == locked {
			continue
		}
		if err := f.Save(sample); err != nil {
			t.Fatal(err)
		}
	}
	if names, err := Names(dir); err != nil || !cmp.Equal(names, want) {
		t.Errorf("%q, %v; want %q", names, err, want)
	}
}

func TestOpenAfterClose(t *testing.T) {
	dir := t.TempDir()
	for range 3 {
		if err := open(t, dir, "vcan0").Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// Two buses do not wait for each other; the same one does, also in one process.
func TestLockInProcess(t *testing.T) {
	dir := t.TempDir()
	open(t, dir, "vcan0")
	open(t, dir, "vcan1")
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Millisecond)
	defer cancel()
	if _, err := Open(ctx, dir, "vcan0", time.Minute); !errors.Is(err, ErrLocked) {
		t.Errorf("%v, want ErrLocked", err)
	}
}

// Whoever waits for a lock whose file is removed by its holder gets the lock of the next file of that name, and nobody
// else has it.
func TestLockOfRemovedFile(t *testing.T) {
	dir := t.TempDir()
	for range 50 {
		first := open(t, dir, "vcan0")
		const waiting = 3
		var inside atomic.Int32
		opened := make(chan error)
		for range waiting {
			go func() {
				f, err := Open(context.Background(), dir, "vcan0", time.Minute)
				if err == nil {
					if inside.Add(1) != 1 {
						err = errors.New("two hold the lock")
					}
					runtime.Gosched()
					inside.Add(-1)
					err = errors.Join(err, f.Remove(), f.Close())
				}
				opened <- err
			}()
		}
		time.Sleep(time.Millisecond)
		if err := errors.Join(first.Remove(), first.Close()); err != nil {
			t.Fatal(err)
		}
		for range waiting {
			if err := <-opened; err != nil {
				t.Fatal(err)
			}
		}
	}
	if left := files(t, dir); len(left) > 0 {
		t.Errorf("left %v", left)
	}
}

// A call that gave up waiting does not keep the lock when it comes.
func TestLockGivenUp(t *testing.T) {
	dir := t.TempDir()
	first := open(t, dir, "vcan0")
	if _, err := Open(context.Background(), dir, "vcan0", 100*time.Millisecond); err == nil {
		t.Fatal("opened twice")
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if err := open(t, dir, "vcan0").Close(); err != nil {
		t.Error(err)
	}
}

// TestDirRemoved: the administrator removes the state (rm -r /var/lib/cni) while a call holds a lock. Its Remove
// must leave the lock file of the next call.
func TestDirRemoved(t *testing.T) {
	dir := t.TempDir() + "/state"
	open := func() *File {
		f, err := Open(context.Background(), dir, "vcan0", 100*time.Millisecond)
		if err != nil {
			return nil
		}
		return f
	}
	a := open()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	b := open()
	if b == nil {
		t.Fatal("not free after rm -r")
	}
	if err := b.Save("b"); err != nil {
		t.Fatal(err)
	}
	if err := a.Remove(); err != nil { // what a call without a record does at its end
		t.Fatal(err)
	}
	var data string
	if found, _ := b.Load(&data); !found {
		t.Error("the record of b is gone")
	}
	if c := open(); c != nil {
		t.Error("b and c both hold the lock")
	}
}
