package once

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vxcan/vxcan/integration/harness"
)

// TestHealLargeBus: on a host with many endpoints one ADD repairs a hub that was deleted and made again by hand, and a
// flushed rule table; on a sound bus it finds nothing to repair.
func TestHealLargeBus(t *testing.T) {
	harness.FreshHost(t)
	crowd := harness.NewContainer(t, "crowd") // all in one netns, which takes less time to make
	add := func(name, members string) (hostEnd, log string) {
		result, log := harness.Call{ContainerID: name, Netns: crowd.Path, IfName: name}.With(`"hub":"vcan0"` + members).Add(t)
		return harness.HostIf(result), log
	}
	var ends, otherEnds []string
	for _, name := range harness.ContainerNames("c", 30) {
		end, _ := add(name, "")
		ends = append(ends, end)
	}
	for _, name := range harness.ContainerNames("o", 30) {
		end, _ := add(name, `,"hub":"vcan1","name":"other"`)
		otherEnds = append(otherEnds, end)
	}
	for i, damage := range []struct {
		commands []string
		words    string
	}{
		{nil, ""},
		{[]string{"ip link del vcan0", "ip link add vcan0 mtu 72 type vcan", "ip link set vcan0 up"}, "found and repaired: 4 gateway rules are missing"},
		{[]string{"cangw -F"}, "found and repaired: 68 gateway rules are missing"},
	} {
		for _, line := range damage.commands {
			words := strings.Fields(line)
			harness.Command(t, words[0], words[1:]...)
		}
		end, log := add(fmt.Sprint("late", i), "")
		ends = append(ends, end)
		if damage.words == "" && strings.Contains(log, "repaired") || !strings.Contains(log, damage.words) {
			t.Errorf("%v: log: %s", damage.commands, log)
		}
	}
	end, _ := add("other-late", `,"hub":"vcan1","name":"other"`)
	otherEnds = append(otherEnds, end)
	harness.ExpectLines(t, "gateway rules", harness.Rules(t), harness.Merge(harness.WantRules(true, "vcan0", ends...), harness.WantRules(true, "vcan1", otherEnds...)))
	harness.ExpectLines(t, "filters", harness.Filters(t), harness.Merge(harness.WantFilters(t, "vcan0", ends...), harness.WantFilters(t, "vcan1", otherEnds...)))
	harness.ExpectExactlyOnce(t, []harness.Station{harness.Host("vcan0"), crowd.On("c0")}, 5, true)
}

// TestHealWithoutRecord: heal works on every bus that status shows, also when its record is lost or its hub was renamed.
func TestHealWithoutRecord(t *testing.T) {
	for name, damage := range map[string]string{
		"record deleted, rules flushed": "rm " + harness.StateDir + "/*/vcan0.json && cangw -F",
		"hub renamed":                   "ip link set vcan0 down && ip link set vcan0 name lab0 up",
		"record deleted, hub renamed":   "rm " + harness.StateDir + "/*/vcan0.json && ip link set vcan0 down && ip link set vcan0 name lab0 up",
	} {
		t.Run(name, func(t *testing.T) {
			harness.FreshHost(t)
			a, b := harness.NewContainer(t, "a"), harness.NewContainer(t, "b")
			harness.On(a).Add(t)
			harness.On(b).Add(t)
			harness.Command(t, "sh", "-c", damage)
			if harness.WrongWith(t, "vcan0") == "" {
				t.Error("status finds nothing")
			}
			t.Logf("%s", harness.Vxcanctl(t, "heal"))
			for _, bus := range harness.StatusOf(t) {
				if len(bus.Differences) > 0 {
					t.Errorf("after heal: %v", bus)
				}
			}
			harness.ExpectExactlyOnce(t, []harness.Station{harness.Host("vcan0"), a.On("can0"), b.On("can0")}, 5, true)
		})
	}
}

// TestHubMTU: a hub of ours that was made classic by hand is named, and set back where no program on it gets an error. Till
// then containers go on exchanging CAN FD frames.
func TestHubMTU(t *testing.T) {
	harness.FreshHost(t)
	a, b := harness.NewContainer(t, "a"), harness.NewContainer(t, "b")
	host, inA, inB := harness.Host("vcan0"), a.On("can0"), b.On("can0")
	first, _ := harness.On(a).Add(t)
	harness.Command(t, "sh", "-ec", "ip link set vcan0 down; ip link set vcan0 mtu 16 up")
	second, _ := harness.On(b).Add(t)
	harness.Vxcanctl(t, "heal")
	const words = "hub vcan0 has MTU 16, want 72: it takes no CAN FD frames: ip link set vcan0 down; ip link set vcan0 mtu 72 up"
	if err := harness.On(a).Check(t, first); err == nil || !strings.Contains(err.Error(), words) {
		t.Errorf("CHECK: %v", err)
	}
	if got := harness.WrongWith(t, "vcan0"); got != words {
		t.Errorf("status: %s", got)
	}
	harness.ExpectExactlyOnce(t, []harness.Station{inA, inB}, 5, true)
	harness.ExpectExactlyOnce(t, []harness.Station{host, inA, inB}, 5, false)
	harness.Command(t, "ip", "link", "set", "vcan0", "down")
	harness.Vxcanctl(t, "heal")
	if err := harness.On(a).Check(t, first); err != nil {
		t.Error(err)
	}
	harness.ExpectWiring(t, true, "vcan0", harness.HostIf(first), harness.HostIf(second))
	harness.ExpectExactlyOnce(t, []harness.Station{host, inA, inB}, 5, true)
}

// TestOtherNetns: heal, ADD, GC and DEL in another network namespace, with the same state directory, leave the buses of the
// first one alone.
func TestOtherNetns(t *testing.T) {
	harness.FreshHost(t)
	a, b, other := harness.NewContainer(t, "a"), harness.NewContainer(t, "b"), harness.NewContainer(t, "other")
	limited := harness.On(a).With(`"send":"100"`)
	result, _ := limited.Add(t)
	before, err := os.ReadFile(harness.RecordFile(t, "vcan0"))
	if err != nil {
		t.Fatal(err)
	}
	there := []string{"ip", "netns", "exec", other.ID}
	if out, log, status := harness.Control(t, there, "heal"); status != 0 || out+log != harness.NoBus {
		t.Errorf("heal: exit status %d, %s%s", status, out, log)
	}
	for _, verb := range []string{"ADD", "GC", "DEL"} {
		this := harness.On(b).With(`"cni.dev/valid-attachments":[]`)
		this.Wrap = there
		this.OK(t, verb)
	}
	if now, err := os.ReadFile(harness.RecordFile(t, "vcan0")); err != nil || string(now) != string(before) {
		t.Errorf("the record was\n%s\nand is now\n%s (%v)", before, now, err)
	}
	harness.On(harness.NewContainer(t, "c")).Add(t)
	if err := limited.Check(t, result); err != nil {
		t.Error(err)
	}
	harness.ExpectSends(t, a.On("can0"), "vcan0", true, false)
}

// TestLikeReboot: devices, rules and netns are gone, and the records are an earlier boot's, of which heal does nothing. All
// containers come back by ADD with the same names, in new netns. (The folders called reboot do it with a real one.)
func TestLikeReboot(t *testing.T) {
	harness.FreshHost(t)
	for range 2 {
		var ends []string
		for _, id := range []string{"a", "b"} {
			result, _ := harness.On(harness.NewContainer(t, id)).Add(t)
			ends = append(ends, harness.HostIf(result))
		}
		harness.ExpectWiring(t, true, "vcan0", ends...)
		for _, name := range []string{"a", "b"} {
			harness.Command(t, "ip", "netns", "del", name)
		}
		for _, name := range append(ends, "vcan0", "vcan0-tx") { // the test has the netns open
			harness.Command(t, "ip", "link", "del", name)
		}
		earlier := harness.StateDir + "/x" + filepath.Base(harness.RecordDir(t))[1:]
		if err := os.Rename(harness.RecordDir(t), earlier); err != nil {
			t.Fatal(err)
		}
		if said := harness.Vxcanctl(t, "heal"); said != harness.NoBus {
			t.Errorf("heal after a reboot: %s", said)
		}
		harness.ExpectNothing(t)
	}
}
