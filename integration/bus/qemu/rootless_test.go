package qemu

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"

	"github.com/vxcan/vxcan/integration/harness"
	"github.com/vxcan/vxcan/pkg/cantest"
)

// rootlessHost is a network namespace of a user namespace, which plays the host of a rootless runtime.
type rootlessHost struct {
	cmd    *exec.Cmd
	netns  ns.NetNS
	flood  flood
	inside []*inhabitant
	made   int
}

func newRootlessHost(t *testing.T) *rootlessHost {
	t.Helper()
	h := &rootlessHost{cmd: exec.Command("unshare", "--user", "--map-root-user", "--net", "--mount", "sh", "-c",
		"mount -t tmpfs tmpfs /run && mkdir /run/netns && exec sleep 123458")}
	if err := h.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.kill)
	proc := fmt.Sprint("/proc/", h.cmd.Process.Pid)
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		if line, _ := os.ReadFile(proc + "/cmdline"); strings.HasPrefix(string(line), "sleep\x00") {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("the user's host does not start: %q", line)
		}
	}
	var err error
	if h.netns, err = ns.GetNS(proc + "/ns/net"); err != nil {
		t.Fatal(err)
	}
	return h
}

// kill ends the user's processes. What is in the network namespaces ends with them.
func (h *rootlessHost) kill() {
	_ = h.cmd.Process.Kill()
	_ = h.cmd.Wait()
	if h.netns != nil {
		_ = h.netns.Close() // once or more often
	}
}

// as is what another command begins with, to be run there.
func (h *rootlessHost) as() []string {
	return []string{"nsenter", "--target", fmt.Sprint(h.cmd.Process.Pid), "--user", "--net", "--mount", "--preserve-credentials"}
}

func (h *rootlessHost) do(t *testing.T, args ...string) {
	t.Helper()
	command := append(h.as(), args...)
	if _, err := harness.Try(command[0], command[1:]...); err != nil {
		t.Error(err)
	}
}

func (h *rootlessHost) call(id string) harness.Call {
	return harness.Call{ContainerID: id, Netns: "/run/netns/" + id, Wrap: h.as()}
}

// add puts one more container on the bus, and returns the log of ADD.
func (h *rootlessHost) add(t *testing.T) (c *harness.Container, log string) {
	t.Helper()
	id := fmt.Sprint("c", h.made)
	h.made++
	h.do(t, "ip", "netns", "add", id)
	netns, err := ns.GetNS(fmt.Sprintf("/proc/%d/root/run/netns/%s", h.cmd.Process.Pid, id))
	if err != nil {
		t.Fatal(err)
	}
	_, log = h.call(id).Add(t)
	return &harness.Container{ID: id, Netns: netns}, log
}

// addFlooding is add for one that floods the bus from then on.
func (h *rootlessHost) addFlooding(t *testing.T) (log string) {
	t.Helper()
	c, log := h.add(t)
	h.inside = append(h.inside, &inhabitant{c, h.flood.join(c.ID, c.Netns, "can0", h.made)})
	return log
}

// quiet ends what still floods.
func (h *rootlessHost) quiet() {
	for _, m := range slices.Clone(h.flood.members) {
		h.flood.leave(m)
	}
}

// end ends all of it, in one of three ways.
func (h *rootlessHost) end(t *testing.T, way int) {
	switch way % 3 {
	case 0: // containers, each second one without DEL, and then everything at once
	case 1:
		h.do(t, "ip", "link", "del", "vcan0")
		h.do(t, "ip", "link", "del", "vcan0-rx")
	case 2: // all processes of the user
		h.kill()
	}
	for i, c := range h.inside {
		if way%3 != 2 && i%2 == 0 {
			if _, log, err := h.call(c.ID).Exec(t, "DEL"); err != nil {
				t.Errorf("DEL: %v\n%s", err, log)
			}
		}
		h.flood.leave(c.member)
		_ = c.Netns.Close()
		if way%3 != 2 {
			h.do(t, "ip", "netns", "del", c.ID)
		}
	}
	h.quiet()
	h.kill()
}

// TestTeardownRootless is TestTeardown for the buses of rootless runtimes.
func TestTeardownRootless(t *testing.T) {
	hosts, containers := teardownBuses(t), 3
	if cantest.IsThorough() {
		containers = containersPerBus
	}
	harness.RequireTwoCPUs(t)
	harness.FreshHost(t)
	modules := []string{"can-gw", "vxcan", "vcan", "can-raw"}
	t.Cleanup(func() { harness.Command(t, "modprobe", append([]string{"-a"}, modules...)...) })
	log, start := openKernelLog(t), time.Now()
	var lines []string
	var sent, heard uint64
	for first := 0; first < hosts; first += 2 {
		t.Run(fmt.Sprint("hosts from ", first), func(t *testing.T) {
			var pair []*rootlessHost
			for range min(2, hosts-first) {
				h := newRootlessHost(t)
				t.Cleanup(h.quiet)
				for range containers - 1 {
					h.addFlooding(t)
				}
				h.flood.join("hub", h.netns, "vcan0", 0)
				pair = append(pair, h)
			}
			for i, h := range pair {
				h.flood.expectFlow(t, "at first")
				h.do(t, "ip", "link", "del", []string{"vcan0", "vcan0-rx"}[i])
				if log := h.addFlooding(t); !strings.Contains(log, "is missing") {
					t.Errorf("ADD repairs nothing: %s", log)
				}
				h.flood.expectFlow(t, "repaired")
			}
			var ending sync.WaitGroup
			for i, h := range pair {
				ending.Add(1)
				go func() {
					defer ending.Done()
					h.end(t, first+i)
				}()
			}
			ending.Wait()
			for _, h := range pair {
				sent, heard = sent+h.flood.sent, heard+h.flood.heard
			}
		})
		lines = append(lines, log.lines(t)...)
	}
	t.Logf("%d hosts and %d network namespaces in %v, %d frames sent, %d heard", hosts, hosts*(1+containers),
		time.Since(start).Round(time.Second), sent, heard)
	expectUnloadable(t, modules)
	lines = append(lines, log.lines(t)...)
	expectNoTrouble(t, lines)
}

// TestOrderRootless: two containers flood a rootless bus, each from a CPU of its own. The others hear every frame once, and
// those of each sender in order.
func TestOrderRootless(t *testing.T) {
	harness.RequireTwoCPUs(t)
	harness.FreshHost(t)
	count := 1000
	if cantest.IsThorough() {
		count = 5000
	}
	h := newRootlessHost(t)
	hears := map[string]*cantest.Listener{}
	var sends [2][]cantest.Frame
	var senders [len(sends)]*cantest.Sender
	for i := range 4 {
		c, _ := h.add(t)
		defer c.Netns.Close()
		if i < len(sends) {
			sends[i] = harness.Mixed(uint32(0x100+i), count)
			senders[i] = cantest.NewSender(t, c.Netns, "can0")
		} else {
			hears[c.ID] = cantest.Listen(t, c.Netns, "can0")
		}
	}
	hears["hub"] = cantest.Listen(t, h.netns, "vcan0")
	var sending sync.WaitGroup
	start := time.Now()
	for cpu, sender := range senders {
		sending.Add(1)
		go func() {
			defer sending.Done()
			stayOn(t, cpu)
			for _, f := range sends[cpu] {
				if err := sender.Send(f); err != nil {
					t.Error(err)
					return
				}
			}
		}()
	}
	sending.Wait()
	t.Logf("%d frames sent in %v", 2*len(sends[0]), time.Since(start))
	listeners := []*cantest.Listener{}
	for _, l := range hears {
		listeners = append(listeners, l)
	}
	cantest.WaitQuiet(len(listeners)*2*len(sends[0]), listeners...)
	for name, l := range hears {
		all := l.InOrder()
		for i, want := range sends {
			own := map[cantest.Frame]bool{}
			for _, f := range want {
				own[f] = true
			}
			got := slices.DeleteFunc(slices.Clone(all), func(f cantest.Frame) bool { return !own[f] })
			if !slices.Equal(got, want) {
				t.Errorf("%s hears %d frames of sender %d, want %d, or in another order", name, len(got), i, len(want))
			}
		}
		if len(all) != 2*len(sends[0]) {
			t.Errorf("%s hears %d frames", name, len(all))
		}
	}
}
