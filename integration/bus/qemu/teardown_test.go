// Package qemu floods buses and ends them under traffic, on a kernel with two CPUs.
package qemu

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/integration/harness"
)

// teardownVariable names the environment variable with the number of buses that TestTeardown ends.
const teardownVariable = "VXCAN_TEST_TEARDOWN"

const (
	containersPerBus = 5 // so many network namespaces end with each bus: one more comes after each disaster
	hubSenders       = 2
)

// TestTeardown: network namespaces and whole buses end while frames flood them. Before that each bus loses its hub, its
// backplane and all its rules, and the next ADD mends it. Afterwards nothing is left, the kernel has logged no trouble,
// and its modules can be unloaded, which a leaked reference prevents.
func TestTeardown(t *testing.T) {
	buses := teardownBuses(t)
	harness.RequireTwoCPUs(t)
	harness.FreshHost(t)
	modules := []string{"can-gw", "vxcan", "vcan", "can-raw"}
	t.Cleanup(func() { harness.Command(t, "modprobe", append([]string{"-a"}, modules...)...) }) // for the tests behind this one
	log, start := openKernelLog(t), time.Now()
	var lines []string
	var sent, heard uint64
	for first := 0; first < buses; first += 2 { // two at a time, which end at the same time
		t.Run(fmt.Sprint("buses from ", first), func(t *testing.T) {
			pair := []*floodedBus{newFloodedBus(first), newFloodedBus(first + 1)}[:min(2, buses-first)]
			for _, b := range pair {
				t.Cleanup(b.quiet)
			}
			floodAndEnd(t, pair)
			for _, b := range pair {
				sent, heard = sent+b.flood.sent, heard+b.flood.heard
			}
		})
		lines = append(lines, log.lines(t)...)
	}
	t.Logf("%d buses and %d network namespaces in %v, %d frames sent, %d heard", buses, buses*containersPerBus,
		time.Since(start).Round(time.Second), sent, heard)

	harness.WaitGone(t, "network namespaces to go", func() string { return strings.Join(netnsIDs(t), ", ") })
	expectUnloadable(t, modules)
	lines = append(lines, log.lines(t)...)
	expectNoTrouble(t, lines)
}

// expectNoTrouble fails the test, and shows the kernel's log, if there is trouble in it.
func expectNoTrouble(t *testing.T, lines []string) {
	t.Helper()
	for _, line := range troubleIn(lines) {
		t.Errorf("the kernel logs: %s", line)
	}
	if t.Failed() {
		t.Logf("the kernel's log:\n%s", strings.Join(lines, "\n"))
	}
}

// teardownBuses returns how many buses are to end: few where nobody asks for more.
func teardownBuses(t *testing.T) int {
	t.Helper()
	text := os.Getenv(teardownVariable)
	if text == "" {
		return 2
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s=%s: want a number of buses", teardownVariable, text)
	}
	return n
}

// floodedBus is a bus that every member floods.
type floodedBus struct {
	hub    string
	end    func(*floodedBus, *testing.T)
	call   func(*harness.Container) harness.Call
	flood  flood
	inside []*inhabitant
	made   int
}

// inhabitant is a container on a bus, with its member of the flood.
type inhabitant struct {
	*harness.Container
	member *floodMember
}

// newFloodedBus returns a bus that is not there yet. Its number decides how it ends.
func newFloodedBus(number int) *floodedBus {
	b := &floodedBus{hub: fmt.Sprint("vcan", number), end: teardowns[number%len(teardowns)]}
	b.call = func(c *harness.Container) harness.Call { return harness.On(c).With(fmt.Sprintf(`"hub":%q`, b.hub)) }
	if number%len(teardowns) == podsTeardown {
		b.hub = fmt.Sprint("bench", number)
		b.call = func(c *harness.Container) harness.Call {
			return harness.Pod(c, fmt.Sprintf(`,"vxcan/networks":"%s:can0"`, b.hub))
		}
	}
	return b
}

// disasters strike buses in turn: with several strikes, neighbours are struck in different ways. A strike returns words of
// the log of the ADD that mends it.
var disasters = []struct {
	name    string
	strikes []func(*testing.T, *floodedBus) (words string)
}{
	{"hub or backplane deleted", []func(*testing.T, *floodedBus) string{deleteHub, deleteBackplane}},
	{"all rules flushed", []func(*testing.T, *floodedBus) string{flushRules}},
	{"backplane or hub deleted", []func(*testing.T, *floodedBus) string{deleteBackplane, deleteHub}},
}

func deleteHub(t *testing.T, b *floodedBus) string {
	harness.Command(t, "ip", "link", "del", b.hub)
	return "hub " + b.hub + " is missing"
}

func deleteBackplane(t *testing.T, b *floodedBus) string {
	harness.Command(t, "ip", "link", "del", b.hub+"-rx")
	return "backplane " + b.hub + "-tx, " + b.hub + "-rx is missing"
}

func flushRules(*testing.T, *floodedBus) string {
	_, _ = harness.Try("cangw", "-F") // of all buses; its exit status means nothing
	return "gateway rules are missing"
}

// floodAndEnd has buses made, struck by each disaster, and ended.
func floodAndEnd(t *testing.T, buses []*floodedBus) {
	rulesBefore, filtersBefore := harness.Rules(t), harness.Filters(t) // a controller of an earlier test has kept its filters
	expectFlow := func(when string) {
		t.Helper()
		for _, b := range buses {
			b.flood.expectFlow(t, b.hub+" "+when)
		}
	}
	for _, b := range buses {
		for range containersPerBus - len(disasters) {
			b.add(t)
		}
		for i := range hubSenders {
			b.flood.join(fmt.Sprint("hub sender ", i), nil, b.hub, i)
		}
	}
	expectFlow("at first")
	for _, disaster := range disasters {
		var words []string
		for i, b := range buses {
			words = append(words, disaster.strikes[i%len(disaster.strikes)](t, b))
		}
		for i, b := range buses {
			if log := b.add(t); !strings.Contains(log, "repaired") || !strings.Contains(log, words[i]) {
				t.Errorf("%s: %s: the log of ADD lacks %q: %s", b.hub, disaster.name, words[i], log)
			}
		}
		expectFlow("after " + disaster.name)
	}
	if ids := netnsIDs(t); len(ids) != len(buses)*containersPerBus {
		t.Errorf("%d ids of network namespaces: %q", len(ids), ids)
	}

	var ending sync.WaitGroup
	for _, b := range buses {
		ending.Add(1)
		go func() {
			defer ending.Done()
			b.end(b, t)
		}()
	}
	ending.Wait()
	harness.WaitGone(t, "devices to go", func() string { return strings.Join(harness.CANLinks(t), " ") })
	for _, b := range buses {
		b.quiet()
	}
	harness.ExpectLines(t, "gateway rules", harness.Rules(t), rulesBefore)
	harness.ExpectLines(t, "filters", harness.Filters(t), filtersBefore)
}

// add puts one more container on the bus, which floods it from then on, and returns the log of ADD.
func (b *floodedBus) add(t *testing.T) (log string) {
	t.Helper()
	c := harness.NewContainer(t, fmt.Sprintf("%s-%d", b.hub, b.made))
	b.made++
	_, log = b.call(c).Add(t)
	b.inside = append(b.inside, &inhabitant{c, b.flood.join(c.ID, c.Netns, "can0", hubSenders-1+b.made)})
	return log
}

// teardowns are the ways in which a bus ends. All of them run beside the tests' own goroutine.
var teardowns = []func(*floodedBus, *testing.T){
	func(b *floodedBus, t *testing.T) { // everything at once
		var all sync.WaitGroup
		steps := []func(){func() { b.delete(t, b.hub) }, func() { b.delete(t, b.hub+"-tx") }}
		for i, c := range b.inside {
			steps = append(steps, func() { b.endContainer(t, i, c) })
		}
		for _, step := range steps {
			all.Add(1)
			go func() {
				defer all.Done()
				step()
			}()
		}
		all.Wait()
	},
	podsTeardown: func(b *floodedBus, t *testing.T) { // the last DEL takes along the hub that was made for pods
		for i, c := range b.inside {
			b.endContainer(t, i, c)
			b.del(t, c) // as a kubelet does, which calls DEL until it has succeeded, also without a netns
		}
	},
	func(b *floodedBus, t *testing.T) { // containers, then the rest
		for i, c := range b.inside {
			b.endContainer(t, i, c)
		}
		b.delete(t, b.hub)
		b.delete(t, b.hub+"-rx")
	},
	func(b *floodedBus, t *testing.T) { // the rest, then containers
		b.delete(t, b.hub+"-rx")
		b.delete(t, b.hub)
		for i, c := range b.inside {
			b.endContainer(t, i, c)
		}
	},
}

const podsTeardown = 1

func (b *floodedBus) delete(t *testing.T, device string) {
	if _, err := harness.Try("ip", "link", "del", device); err != nil {
		t.Error(err)
	}
}

func (b *floodedBus) del(t *testing.T, c *inhabitant) {
	if _, log, err := b.call(c.Container).Exec(t, "DEL"); err != nil {
		t.Errorf("DEL: %v\n%s", err, log)
	}
}

// endContainer ends a network namespace: every second one as a crash does, the others after DEL, while it still sends.
func (b *floodedBus) endContainer(t *testing.T, number int, c *inhabitant) {
	if number%2 == 1 {
		b.del(t, c)
	}
	b.flood.leave(c.member)
	if err := c.Netns.Close(); err != nil {
		t.Error(err)
	}
	if _, err := harness.Try("ip", "netns", "del", c.ID); err != nil {
		t.Error(err)
	}
}

// quiet ends what still floods.
func (b *floodedBus) quiet() {
	for _, m := range slices.Clone(b.flood.members) {
		b.flood.leave(m)
	}
}

// netnsIDs lists the ids that the kernel has given to network namespaces with a pair to this one. An id is there until
// nothing refers to its namespace any more. Its own, which a look into a container by vxcanctl status gives it, does not count.
func netnsIDs(t *testing.T) []string {
	t.Helper()
	own, err := netlink.GetNetNsIdByPid(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	all := slices.Collect(strings.Lines(harness.Command(t, "ip", "netns", "list-id")))
	return slices.DeleteFunc(all, func(line string) bool { return strings.HasPrefix(line, fmt.Sprintf("nsid %d ", own)) })
}

// expectUnloadable fails the test unless the kernel gives modules back.
func expectUnloadable(t *testing.T, modules []string) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_CAN, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.CAN_RAW)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := harness.Try("modprobe", "-r", "can-raw"); err == nil {
		t.Error("can-raw was unloaded while a socket was open: does unloading still find references?")
	}
	unix.Close(fd)
	unloaded := make(chan error, 1)
	go func() { // with a reference to a device it never ends, and no signal helps
		_, err := harness.Try("modprobe", append([]string{"-r"}, modules...)...)
		unloaded <- err
	}()
	select {
	case err := <-unloaded:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(2 * time.Minute):
		t.Errorf("unloading %v does not end", modules)
		return
	}
	for _, module := range modules {
		if _, err := os.Stat("/sys/module/" + strings.ReplaceAll(module, "-", "_")); err == nil {
			t.Errorf("module %s is still loaded", module)
		}
	}
}
