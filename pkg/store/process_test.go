package store

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// helperEnv makes this test binary another process that works on the directory of its value.
const (
	helperEnv = "VXCAN_STORE_HELPER"
	dirEnv    = "VXCAN_STORE_DIR"
)

func TestMain(m *testing.M) {
	helper, dir := os.Getenv(helperEnv), os.Getenv(dirEnv)
	if helper == "" {
		os.Exit(m.Run())
	}
	if err := helpers[helper](dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

var helpers = map[string]func(dir string) error{
	"hold": func(dir string) error {
		if _, err := Open(context.Background(), dir, "vcan0", time.Minute); err != nil {
			return err
		}
		fmt.Println("held")
		time.Sleep(time.Minute)
		return nil
	},
	// Saves short and long records in turn, for ever.
	"save": func(dir string) error {
		f, err := Open(context.Background(), dir, "vcan0", time.Minute)
		if err != nil {
			return err
		}
		fmt.Println("saving")
		for i := 0; ; i++ {
			r := record{Name: fmt.Sprint(i), Items: make([]string, i%2*5000)}
			for j := range r.Items {
				r.Items[j] = r.Name
			}
			if err := f.Save(r); err != nil {
				return err
			}
		}
	},
	// Appends to what is there, under the lock each time.
	"append": func(dir string) error {
		for range appends {
			if err := appendItem(dir, fmt.Sprint(os.Getpid())); err != nil {
				return err
			}
		}
		return nil
	},
}

const appends = 20

func appendItem(dir, item string) (retErr error) {
	f, err := Open(context.Background(), dir, "vcan0", time.Minute)
	if err != nil {
		return err
	}
	defer func() { retErr = errors.Join(retErr, f.Close()) }()
	var r record
	if _, err := f.Load(&r); err != nil {
		return err
	}
	r.Items = append(r.Items, item)
	return f.Save(r)
}

// start starts another process. When it says something, if it is to, start returns.
func start(t *testing.T, helper, dir string, speaks bool) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), helperEnv+"="+helper, dirEnv+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	})
	if speaks && !bufio.NewScanner(out).Scan() {
		t.Fatal("the other process said nothing")
	}
	return cmd
}

func kill(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
}

// A lock that another process holds is waited for, up to a time. It is free when that process dies.
func TestLockOfAnotherProcess(t *testing.T) {
	dir := t.TempDir()
	holder := start(t, "hold", dir, true)
	const patience = 100 * time.Millisecond
	began := time.Now()
	_, err := Open(context.Background(), dir, "vcan0", patience)
	if !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), filepath.Join(dir, "vcan0.lock")) {
		t.Fatalf("%v, want ErrLocked and the name of the lock", err)
	}
	if waited := time.Since(began); waited < patience || waited > 50*patience {
		t.Errorf("waited %v, want %v", waited, patience)
	}
	opened := make(chan error)
	go func() {
		f, err := Open(context.Background(), dir, "vcan0", time.Minute)
		if err == nil {
			err = f.Close()
		}
		opened <- err
	}()
	kill(t, holder)
	select {
	case err := <-opened:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("the lock is not free after its holder's death")
	}
}

// A process that is killed while it saves leaves the old content or the new, whole.
func TestKilledWhileSaving(t *testing.T) {
	dir := t.TempDir()
	kills := 40
	if testing.Short() {
		kills = 5
	}
	last, found := record{Name: "-1"}, false
	for i := range kills {
		saver := start(t, "save", dir, true)
		time.Sleep(time.Duration(i%20) * 500 * time.Microsecond)
		for deadline := time.Now().Add(10 * time.Second); i == kills-1 && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
			if _, err := os.Stat(dir + "/vcan0.json"); err == nil { // which a busy machine may not have come to before
				break
			}
		}
		kill(t, saver)
		f := open(t, dir, "vcan0")
		var r record
		ok, err := f.Load(&r)
		if err != nil || found && !ok {
			t.Fatalf("after kill %d: %v, %v", i, ok, err)
		}
		if found = ok; found {
			last = r
		}
		for _, item := range r.Items {
			if item != r.Name {
				t.Fatalf("after kill %d: record %s has an item of record %s", i, r.Name, item)
			}
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		for _, name := range files(t, dir) {
			if name != "vcan0.json" && name != "vcan0.lock" && name != "vcan0.json.new" {
				t.Fatalf("after kill %d: litter %s", i, name)
			}
		}
	}
	if last.Name == "-1" {
		t.Error("nothing was ever saved")
	}
}

// Many processes at once lose nothing of each other.
func TestConcurrentProcesses(t *testing.T) {
	dir := t.TempDir()
	const processes = 6
	var all []*exec.Cmd
	for range processes {
		all = append(all, start(t, "append", dir, false))
	}
	for _, cmd := range all {
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
	var r record
	if found, err := open(t, dir, "vcan0").Load(&r); !found || err != nil {
		t.Fatal(found, err)
	}
	count := make(map[string]int)
	for _, item := range r.Items {
		count[item]++
	}
	if len(count) != processes || len(r.Items) != processes*appends {
		t.Errorf("%d items of %d processes, want %d of %d", len(r.Items), len(count), processes*appends, processes)
	}
}
