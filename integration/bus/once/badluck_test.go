package once

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/integration/harness"
	"github.com/vxcan/vxcan/pkg/cantest"
)

// TestKilled: an ADD that is killed at any system call that matters, with SIGKILL. Whatever it left, the next ADD, DEL
// or GC of it puts right. strace delivers the signal when the call has been made, or instead of it.
func TestKilled(t *testing.T) {
	harness.FreshHost(t)
	const most = 100 // calls of one name, many times what an ADD makes
	next, all := []string{"ADD", "DEL", "GC"}, 0
	for _, bus := range []string{"cold", "warm"} {
		for _, name := range []string{"sendto", "write", "renameat", "openat", "recvfrom"} {
			kills := 0
			first, step := cantest.Steps(bus + name)
			if name == "renameat" || name == "write" { // of which there are few
				first, step = 1, 1
			}
			for n := first; n <= most; n += step {
				killed := false
				verb := next[all%len(next)] // another one also for names that are called once
				t.Run(fmt.Sprintf("%s %s %d then %s", bus, name, n, verb), func(t *testing.T) {
					harness.FreshHost(t)
					// On a warm bus is an endpoint that must go on; on a cold one all is made anew.
					neighbour, neighbourIf := harness.On(harness.NewContainer(t, "neighbour")), ""
					if bus == "warm" {
						result, _ := neighbour.Add(t)
						neighbourIf = harness.HostIf(result)
					}
					victim := harness.On(harness.NewContainer(t, "victim"))
					if killed = victim.KilledAt(t, name, n); killed { // else it made fewer calls than that
						expectHealed(t, verb, victim, neighbour, neighbourIf)
					}
				})
				if !killed {
					break
				}
				kills, all = kills+1, all+1
			}
			t.Logf("%s: killed at %d calls of %s", bus, kills, name)
			if kills == 0 || kills == most {
				t.Errorf("%s: killed at %d calls of %s: does strace still inject signals?", bus, kills, name)
			}
		}
	}
}

// expectHealed runs the verb for the victim of a kill and looks at what is there afterwards.
func expectHealed(t *testing.T, verb string, victim, neighbour harness.Call, neighbourIf string) {
	t.Helper()
	var want []string
	if neighbourIf != "" {
		want = append(want, neighbourIf)
	}
	switch verb {
	case "ADD":
		result, _ := victim.Add(t)
		want = append(want, harness.HostIf(result))
		if err := victim.Check(t, result); err != nil {
			t.Error(err)
		}
	case "DEL":
		victim.OK(t, "DEL")
	case "GC":
		victim.With(`"cni.dev/valid-attachments":[{"containerID":"neighbour","ifname":"eth0"}]`).OK(t, "GC")
	}
	if verb != "ADD" { // hub and backplane may be half made; the bus is whole when somebody needs it
		result, _ := neighbour.Add(t)
		want = []string{harness.HostIf(result)}
	}
	harness.ExpectWiring(t, true, "vcan0", want...)
	devices := append([]string{"vcan0", "vcan0-rx", "vcan0-tx"}, want...)
	slices.Sort(devices)
	if got := harness.CANLinks(t); !slices.Equal(got, devices) {
		t.Errorf("devices %v, want %v", got, devices)
	}
	if got := harness.Recorded(t, "vcan0"); got != len(want) {
		t.Errorf("%d endpoints in the record, want %d", got, len(want))
	}
}

// TestBrokenState: the bus goes on when its record cannot be read.
func TestBrokenState(t *testing.T) {
	stateFile := harness.RecordFile(t, "vcan0")
	for name, damage := range map[string]func(whole string) string{
		"cut in half":        func(whole string) string { return whole[:len(whole)/2] },
		"not JSON":           func(string) string { return "vcan0 is fine\n" },
		"empty":              func(string) string { return "" },
		"older version":      func(whole string) string { return strings.Replace(whole, `"version":2`, `"version":1`, 1) },
		"wrong type":         func(string) string { return `{"version":2,"data":{"endpoints":7}}` },
		"somebody else's":    func(string) string { return `[1,2,3]` },
		"of nobody's wish":   func(whole string) string { return strings.Replace(whole, `"endpoints":["0 `, `"endpoints":["7 `, 1) },
		"without attachment": func(string) string { return `{"version":2,"data":{}}` },
	} {
		t.Run(name, func(t *testing.T) {
			harness.FreshHost(t)
			a, b := harness.NewContainer(t, "a"), harness.NewContainer(t, "b")
			first, _ := harness.On(a).Add(t)
			whole, err := os.ReadFile(stateFile)
			if err != nil {
				t.Fatal(err)
			}
			harness.Write(t, stateFile, damage(string(whole)))
			// The next one on the bus takes the first one's rules back in, though nobody recorded it.
			harness.Command(t, "cangw", "-F")
			second, log := harness.On(b).Add(t)
			harness.ExpectWiring(t, true, "vcan0", harness.HostIf(first), harness.HostIf(second))
			if fine := name == "without attachment"; strings.Contains(log, "going on without the record") == fine {
				t.Errorf("log: %s", log)
			}
			harness.ExpectExactlyOnce(t, []harness.Station{harness.Host("vcan0"), a.On("can0"), b.On("can0")}, 5, true)
		})
	}
}

// TestNewerRecord: a record of a later release is left alone. ADD and heal say what helps; DEL succeeds.
func TestNewerRecord(t *testing.T) {
	harness.FreshHost(t)
	a, b := harness.NewContainer(t, "a"), harness.NewContainer(t, "b")
	result, _ := harness.On(a).Add(t)
	whole, err := os.ReadFile(harness.RecordFile(t, "vcan0"))
	if err != nil {
		t.Fatal(err)
	}
	newer := strings.Replace(string(whole), `"version":2`, `"version":3,"more":{}`, 1)
	harness.Write(t, harness.RecordFile(t, "vcan0"), newer)
	words := []string{harness.RecordFile(t, "vcan0"), "version 3", "install the later vxcan"}
	harness.On(b).Fails(t, "ADD", 5, words...)
	if _, log, status := harness.Control(t, nil, "heal"); status != 1 || !strings.Contains(log, words[2]) {
		t.Errorf("heal: exit status %d, %s", status, log)
	}
	harness.ExpectWiring(t, true, "vcan0", harness.HostIf(result))
	harness.ExpectExactlyOnce(t, []harness.Station{harness.Host("vcan0"), a.On("can0")}, 5, true)
	harness.On(a).OK(t, "DEL")
	harness.ExpectWiring(t, true, "vcan0")
	if now, err := os.ReadFile(harness.RecordFile(t, "vcan0")); err != nil || string(now) != newer {
		t.Errorf("the record was changed: %s, %v", now, err)
	}
}

// TestResultLost: an ADD that cannot print its result fails and leaves nothing.
func TestResultLost(t *testing.T) {
	harness.FreshHost(t)
	c := harness.NewContainer(t, "c")
	if _, log, err := harness.On(c).Untaken().Exec(t, "ADD"); err == nil {
		t.Errorf("ADD without a result succeeds: %s", log)
	}
	harness.ExpectNothing(t)
	if got := c.Links(t); len(got) != 1 { // lo
		t.Errorf("devices in the container: %v", got)
	}
}

// TestDisk: a directory that cannot be written and a full disk make a clear error, and nothing else.
func TestDisk(t *testing.T) {
	for _, c := range []struct {
		name, options string
		fill          bool
		words         string
	}{
		{"read-only", "ro", false, "read-only file system"},
		{"full", "size=8k,nr_inodes=8", true, "no space left on device"},
	} {
		t.Run(c.name, func(t *testing.T) {
			harness.FreshHost(t)
			box := harness.NewContainer(t, "c")
			if err := os.MkdirAll(harness.StateDir, 0o700); err != nil {
				t.Fatal(err)
			}
			harness.Command(t, "mount", "-t", "tmpfs", "-o", c.options, "tmpfs", harness.StateDir)
			t.Cleanup(func() { _, _ = harness.Try("umount", harness.StateDir) })
			filler, probe := harness.RecordDir(t)+"/filler", harness.RecordDir(t)+"/probe"
			if c.fill {
				harness.Command(t, "mkdir", harness.RecordDir(t))
				harness.Write(t, filler, strings.Repeat("x", 8192))
			}
			harness.On(box).Fails(t, "ADD", 5, c.words, harness.StateDir)
			if got := harness.CANLinks(t); len(got) > 0 {
				t.Errorf("left behind: %v", got)
			}
			if files := harness.RecordFiles(t); len(files) > 0 {
				t.Errorf("half a file: %v", files)
			}
			if c.fill { // and with room again, all is well
				harness.Remove(t, filler)
				result, _ := harness.On(box).Add(t)
				gone, _ := harness.On(harness.NewContainer(t, "gone")).Add(t)
				harness.Write(t, filler, "") // takes no room; now fill what is left
				_, _ = harness.Try("sh", "-c", "yes | dd of="+filler+" bs=512 2>/dev/null")
				if err := os.WriteFile(probe, []byte("x"), 0o600); !errors.Is(err, unix.ENOSPC) {
					t.Fatalf("the disk is not full: %v", err)
				}
				harness.Remove(t, probe)
				if _, _, err := harness.On(box).With(`"send":"100"`).Exec(t, "ADD"); err == nil || strings.Count(err.Error(), c.words) != 1 {
					t.Errorf("another policy: %v", err)
				}
				harness.Command(t, "cangw", "-F")
				harness.Command(t, "ip", "link", "del", harness.HostIf(gone)) // which heal would write into the record
				harness.Vxcanctl(t, "heal")
				harness.ExpectWiring(t, true, "vcan0", harness.HostIf(result))
				harness.On(box).OK(t, "DEL") // the record cannot be rewritten, the devices can go
				if slices.Contains(harness.CANLinks(t), harness.HostIf(result)) {
					t.Error("DEL on a full disk left the pair")
				}
			}
		})
	}
}

// TestLock: a lock that somebody holds is waited for, and given up with its name after the time that was set.
func TestLock(t *testing.T) {
	harness.FreshHost(t)
	c := harness.NewContainer(t, "c")
	release, released := harness.HoldLock(t, "vcan0"), make(chan struct{})
	time.AfterFunc(2*time.Second, func() {
		close(released)
		release()
	})
	harness.On(c).Add(t)
	select {
	case <-released:
	default:
		t.Error("ADD did not wait for the lock")
	}
	harness.On(c).OK(t, "DEL")
	defer harness.HoldLock(t, "vcan0")()
	start := time.Now()
	impatient := harness.On(c)
	impatient.Env = []string{"VXCAN_LOCK_TIMEOUT=3s"}
	impatient.Fails(t, "ADD", 11, "vcan0.lock", "VXCAN_LOCK_TIMEOUT")
	if waited := time.Since(start); waited < 3*time.Second || waited > 30*time.Second {
		t.Errorf("ADD gave up after %v, want 3 s", waited)
	}
}

// TestManyAtOnce: 32 ADDs on one hub at the same time, then 32 DELs, mixed with CHECK and GC.
func TestManyAtOnce(t *testing.T) {
	harness.FreshHost(t)
	const n = 32
	calls := make([]harness.Call, n)
	hostIfs := make([]string, n)
	var valid []string
	for i := range calls {
		c := harness.NewContainer(t, fmt.Sprintf("c%d", i))
		calls[i] = harness.On(c)
		valid = append(valid, fmt.Sprintf(`{"containerID":"c%d","ifname":"eth0"}`, i))
	}
	collect := harness.Call{}.With(`"cni.dev/valid-attachments":[` + strings.Join(valid, ",") + `]`)

	var all sync.WaitGroup
	for i, this := range calls {
		all.Add(1)
		go func() {
			defer all.Done()
			out, _, err := this.Exec(t, "ADD")
			if err != nil {
				t.Errorf("ADD %d: %v", i, err)
				return
			}
			result, err := types100.NewResult([]byte(out))
			if err != nil {
				t.Errorf("result of ADD %d: %v", i, err)
				return
			}
			hostIfs[i] = harness.HostIf(result.(*types100.Result))
			if i%8 == 0 {
				if _, _, err := this.With(`"prevResult":`+out).Exec(t, "CHECK"); err != nil {
					t.Errorf("CHECK %d: %v", i, err)
				}
				if _, _, err := collect.Exec(t, "GC"); err != nil {
					t.Errorf("GC: %v", err)
				}
			}
		}()
	}
	all.Wait()
	harness.ExpectWiring(t, true, "vcan0", hostIfs...)
	for i, this := range calls {
		all.Add(1)
		go func() {
			defer all.Done()
			if _, _, err := this.Exec(t, "DEL"); err != nil {
				t.Errorf("DEL %d: %v", i, err)
			}
			if i%8 == 0 {
				if _, _, err := collect.Exec(t, "GC"); err != nil {
					t.Errorf("GC: %v", err)
				}
			}
		}()
	}
	all.Wait()
	harness.ExpectWiring(t, true, "vcan0")
	if got, want := harness.CANLinks(t), []string{"vcan0", "vcan0-rx", "vcan0-tx"}; !slices.Equal(got, want) {
		t.Errorf("devices %v, want %v", got, want)
	}
	if files := harness.RecordFiles(t); len(files) > 0 {
		t.Errorf("records left: %v", files)
	}
}

// TestKilledTransient: an ADD of a pod is killed at any call to the kernel. After DEL nothing is left.
func TestKilledTransient(t *testing.T) {
	first, step := cantest.Steps(t.Name())
	for n := first; n < 40; n += step {
		killed := false
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			harness.FreshHost(t)
			this := harness.Pod(harness.NewContainer(t, "pod"), `,"vxcan/networks":"bench0:can0"`)
			if killed = this.KilledAt(t, "sendto", n); !killed {
				return
			}
			this.Wrap = nil
			this.OK(t, "DEL")
			if got := harness.CANLinks(t); len(got) > 0 {
				t.Errorf("left: %v", got)
			}
			if files, _ := filepath.Glob(harness.StateDir + "/*/*"); len(files) > 0 {
				t.Errorf("left: %v", files)
			}
		})
		if !killed {
			return
		}
	}
}

// TestReceiveFails: a receive from netlink fails (ENOBUFS, ENOMEM). What ADD made must be gone: netavark calls no
// teardown.
func TestReceiveFails(t *testing.T) {
	first, step := cantest.Steps(t.Name())
	for n := first; n < 40; n += step {
		failed := false
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			harness.FreshHost(t)
			this := harness.On(harness.NewContainer(t, "c"))
			this.Wrap = []string{"strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=recvfrom", "-e", fmt.Sprintf("inject=recvfrom:error=ENOBUFS:when=%d", n)}
			out, _, err := this.Exec(t, "ADD")
			if failed = err != nil; !failed {
				return
			}
			if got := harness.CANLinks(t); len(got) > 0 {
				t.Errorf("left: %v; ADD said %s", got, out)
			}
		})
		if !failed {
			return
		}
	}
}

// TestTwoInterfaces: a container is twice on one network (Multus: "canbus@can0,canbus@can1"). DEL of one leaves the
// other.
func TestTwoInterfaces(t *testing.T) {
	for _, test := range []struct{ key, first, second string }{
		{"can%d", "eth0", "net1"}, // can0 by the hub's number
		{"can0", "can0", "net1"},
	} {
		t.Run(test.key, func(t *testing.T) {
			harness.FreshHost(t)
			first := harness.On(harness.NewContainer(t, "c")).With(fmt.Sprintf(`"interface":%q`, test.key))
			second := first
			first.IfName, second.IfName = test.first, test.second
			first.Add(t)
			result, _ := second.Add(t)
			first.OK(t, "DEL")
			if !slices.Contains(harness.CANLinks(t), harness.HostIf(result)) {
				t.Errorf("DEL of %s took %s along", test.first, test.second)
			}
			second.OK(t, "DEL")
		})
	}
}

// TestReadOnly: an SD card went read-only. heal goes on, and DEL must succeed, or the container can never be removed.
func TestReadOnly(t *testing.T) {
	harness.FreshHost(t)
	if err := os.MkdirAll(harness.StateDir, 0o700); err != nil {
		t.Fatal(err)
	}
	harness.Command(t, "mount", "-t", "tmpfs", "tmpfs", harness.StateDir)
	t.Cleanup(func() { _, _ = harness.Try("umount", harness.StateDir) })
	this := harness.Pod(harness.NewContainer(t, "pod"), `,"vxcan/networks":"bench0:can0"`)
	result, _ := this.Add(t)
	harness.Command(t, "mount", "-o", "remount,ro", harness.StateDir)
	harness.Command(t, "cangw", "-F")
	harness.Vxcanctl(t, "heal")
	harness.ExpectWiring(t, true, "bench0", harness.HostIf(result))
	for _, c := range []harness.Call{this, this, harness.On(harness.NewContainer(t, "other")).With(`"hub":"vcan7"`)} {
		if out, _, err := c.Exec(t, "DEL"); err != nil {
			t.Errorf("DEL: %v %s", err, out)
		}
	}
	if got := harness.CANLinks(t); len(got) > 0 {
		t.Errorf("left: %v", got)
	}
}
