package integration

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
)

// noBus is what heal says on a host without a bus.
const noBus = "no bus on this host\n"

// TestHeal: CHECK names what is missing of a bus, and the next ADD of another container repairs it and says so. (TestMend
// of pkg/bus does this with every kind of damage and with many containers.)
func TestHeal(t *testing.T) {
	for _, c := range []struct {
		name   string
		damage []string // a command
		words  string   // of CHECK and of the log of the next ADD
		own    bool     // only the container's own ADD repairs it
	}{
		{"hub deleted", []string{"ip", "link", "del", "vcan0"}, "hub vcan0 is missing", false},
		{"backplane deleted", []string{"ip", "link", "del", "vcan0-rx"}, "backplane vcan0-tx, vcan0-rx is missing", false},
		{"all rules flushed", []string{"cangw", "-F"}, "6 gateway rules are missing", false},
		{"one rule deleted", []string{"cangw", "-D", "-s", "vcan0-rx", "-d", "HOSTIF", "-X", "-i", "-l", "1"}, "1 gateway rule is missing (cangw -A -s vcan0-rx -d HOSTIF -X -i -l 1)", false},
		{
			"one rule added that changes frames", []string{"cangw", "-A", "-s", "vcan0-rx", "-d", "HOSTIF", "-i", "-l", "1", "-m", "SET:I:123.0.0000000000000000"},
			"1 gateway rule is not of this bus, but on its backplane (cangw -A -s vcan0-rx -d HOSTIF -i -l 1 -m SET:I:123.0.0000000000000000)", false,
		},
		{"one rule doubled", []string{"cangw", "-A", "-s", "vcan0-rx", "-d", "HOSTIF", "-i", "-l", "1"}, "1 gateway rule is there more than once", false},
		{
			"filters deleted", []string{"tc", "qdisc", "del", "dev", "HOSTIF", "clsact"},
			"filter of HOSTIF (tc filter show dev HOSTIF): ingress pref 1 is missing or another one, egress pref 1 is missing or another one", false,
		},
		{
			"filter of the hub deleted", []string{"tc", "filter", "del", "dev", "vcan0", "egress", "pref", "1"},
			"filter of vcan0 (tc filter show dev vcan0): egress pref 1 is missing or another one", false,
		},
		{
			"filter replaced", []string{"tc", "filter", "replace", "dev", "HOSTIF", "ingress", "pref", "1", "protocol", "all", "handle", "1", "bpf", "bytecode", "1,6 0 0 4294967295", "action", "drop"},
			"filter of HOSTIF (tc filter show dev HOSTIF): ingress pref 1 is missing or another one", false,
		},
		{"host end down", []string{"ip", "link", "set", "HOSTIF", "down"}, "host end HOSTIF of cni canbus0/a/eth0 is down", false},
		{"container end down", []string{"ip", "-netns", "a", "link", "set", "can0", "down"}, "container end can0 is down: ip link set can0 up in the container", true},
		{"container end renamed", []string{"ip", "netns", "exec", "a", "sh", "-c", "ip link set can0 down && ip link set can0 name can9 up"}, "container end is named can9", true},
		{
			"container end with a command as its name", []string{"ip", "netns", "exec", "a", "sh", "-c", "ip link set can0 down && ip link set can0 name 'a;reboot'"},
			"container end 'a;reboot' is down: ip link set 'a;reboot' up in the container", true,
		},
		{"container end classic", []string{"ip", "netns", "exec", "a", "sh", "-c", "ip link set can0 down && ip link set can0 mtu 16 up"}, "have MTU 72 and 16, want 72", true},
		{"pair deleted", []string{"ip", "link", "del", "HOSTIF"}, "host end HOSTIF is missing", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			freshHost(t)
			a, b := newContainer(t, "a"), newContainer(t, "b")
			first, _ := on(a).add(t)
			end := hostIf(first)
			if err := on(a).check(t, first); err != nil {
				t.Fatalf("before the damage: %v", err)
			}
			replace := strings.NewReplacer("HOSTIF", end)
			for i := range c.damage {
				c.damage[i] = replace.Replace(c.damage[i])
			}
			command(t, c.damage[0], c.damage[1:]...)

			err := on(a).check(t, first)
			var cniErr *types.Error
			if !errors.As(err, &cniErr) || !strings.Contains(cniErr.Msg, replace.Replace(c.words)) {
				t.Fatalf("CHECK: got %v, want %q", err, replace.Replace(c.words))
			}
			t.Logf("CHECK: %s", cniErr.Msg)

			if c.own {
				_, log := on(a).add(t)
				t.Logf("ADD: %s", log)
			}
			second, log := on(b).add(t)
			if want := replace.Replace("found and repaired: " + c.words); !c.own && !strings.Contains(log, want) {
				t.Errorf("the log of ADD lacks %q: %s", want, log)
			}
			if err := on(a).check(t, first); err != nil {
				t.Errorf("after ADD: %v", err)
			}
			expectWiring(t, true, "vcan0", end, hostIf(second))
			expectExactlyOnce(t, []station{{"host", nil, "vcan0"}, {"a", a.netns, "can0"}, {"b", b.netns, "can0"}}, 5, true)
		})
	}
}

// TestHealLargeBus: on a host with many endpoints one ADD repairs a hub that was deleted and made again by hand, and a
// flushed rule table; on a sound bus it finds nothing to repair.
func TestHealLargeBus(t *testing.T) {
	freshHost(t)
	crowd := newContainer(t, "crowd") // all in one netns, which takes less time to make
	add := func(name, members string) (hostEnd, log string) {
		result, log := call{containerID: name, netns: crowd.path, ifName: name}.with(`"hub":"vcan0"` + members).add(t)
		return hostIf(result), log
	}
	var ends, otherEnds []string
	for _, name := range containerNames("c", 30) {
		end, _ := add(name, "")
		ends = append(ends, end)
	}
	for _, name := range containerNames("o", 30) {
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
			command(t, words[0], words[1:]...)
		}
		end, log := add(fmt.Sprint("late", i), "")
		ends = append(ends, end)
		if damage.words == "" && strings.Contains(log, "repaired") || !strings.Contains(log, damage.words) {
			t.Errorf("%v: log: %s", damage.commands, log)
		}
	}
	end, _ := add("other-late", `,"hub":"vcan1","name":"other"`)
	otherEnds = append(otherEnds, end)
	expectLines(t, "gateway rules", rules(t), merge(wantRules(true, "vcan0", ends...), wantRules(true, "vcan1", otherEnds...)))
	expectLines(t, "filters", filters(t), merge(wantFilters(t, "vcan0", ends...), wantFilters(t, "vcan1", otherEnds...)))
	expectExactlyOnce(t, []station{{"host", nil, "vcan0"}, {"oldest", crowd.netns, "c0"}}, 5, true)
}

// TestHealWithoutRecord: heal works on every bus that status shows, also when its record is lost or its hub was renamed.
func TestHealWithoutRecord(t *testing.T) {
	for name, damage := range map[string]string{
		"record deleted, rules flushed": "rm " + stateDir + "/*/vcan0.json && cangw -F",
		"hub renamed":                   "ip link set vcan0 down && ip link set vcan0 name lab0 up",
		"record deleted, hub renamed":   "rm " + stateDir + "/*/vcan0.json && ip link set vcan0 down && ip link set vcan0 name lab0 up",
	} {
		t.Run(name, func(t *testing.T) {
			freshHost(t)
			a, b := newContainer(t, "a"), newContainer(t, "b")
			on(a).add(t)
			on(b).add(t)
			command(t, "sh", "-c", damage)
			if wrongWith(t, "vcan0") == "" {
				t.Error("status finds nothing")
			}
			t.Logf("%s", vxcanctl(t, "heal"))
			for _, bus := range statusOf(t) {
				if len(bus.Differences) > 0 {
					t.Errorf("after heal: %v", bus)
				}
			}
			expectExactlyOnce(t, []station{{"host", nil, "vcan0"}, {"a", a.netns, "can0"}, {"b", b.netns, "can0"}}, 5, true)
		})
	}
}

// TestHubMTU: a hub of ours that was made classic by hand is named, and set back where no program on it gets an error. Till
// then containers go on exchanging CAN FD frames.
func TestHubMTU(t *testing.T) {
	freshHost(t)
	a, b := newContainer(t, "a"), newContainer(t, "b")
	host, inA, inB := station{"host", nil, "vcan0"}, station{"a", a.netns, "can0"}, station{"b", b.netns, "can0"}
	first, _ := on(a).add(t)
	command(t, "sh", "-ec", "ip link set vcan0 down; ip link set vcan0 mtu 16 up")
	second, _ := on(b).add(t)
	vxcanctl(t, "heal")
	const words = "hub vcan0 has MTU 16, want 72: it takes no CAN FD frames: ip link set vcan0 down; ip link set vcan0 mtu 72 up"
	if err := on(a).check(t, first); err == nil || !strings.Contains(err.Error(), words) {
		t.Errorf("CHECK: %v", err)
	}
	if got := wrongWith(t, "vcan0"); got != words {
		t.Errorf("status: %s", got)
	}
	expectExactlyOnce(t, []station{inA, inB}, 5, true)
	expectExactlyOnce(t, []station{host, inA, inB}, 5, false)
	command(t, "ip", "link", "set", "vcan0", "down")
	vxcanctl(t, "heal")
	if err := on(a).check(t, first); err != nil {
		t.Error(err)
	}
	expectWiring(t, true, "vcan0", hostIf(first), hostIf(second))
	expectExactlyOnce(t, []station{host, inA, inB}, 5, true)
}

// TestOtherNetns: heal, ADD, GC and DEL in another network namespace, with the same state directory, leave the buses of the
// first one alone.
func TestOtherNetns(t *testing.T) {
	freshHost(t)
	a, b, other := newContainer(t, "a"), newContainer(t, "b"), newContainer(t, "other")
	limited := on(a).with(`"send":"100"`)
	result, _ := limited.add(t)
	before, err := os.ReadFile(recordFile(t, "vcan0"))
	if err != nil {
		t.Fatal(err)
	}
	there := []string{"ip", "netns", "exec", other.id}
	if out, log, status := control(t, there, "heal"); status != 0 || out+log != noBus {
		t.Errorf("heal: exit status %d, %s%s", status, out, log)
	}
	for _, verb := range []string{"ADD", "GC", "DEL"} {
		this := on(b).with(`"cni.dev/valid-attachments":[]`)
		this.wrap = there
		this.ok(t, verb)
	}
	if now, err := os.ReadFile(recordFile(t, "vcan0")); err != nil || string(now) != string(before) {
		t.Errorf("the record was\n%s\nand is now\n%s (%v)", before, now, err)
	}
	on(newContainer(t, "c")).add(t)
	if err := limited.check(t, result); err != nil {
		t.Error(err)
	}
	expectSends(t, station{a.id, a.netns, "can0"}, "vcan0", true, false)
}

// TestLikeReboot: devices, rules and netns are gone, and the records are an earlier boot's, of which heal does nothing. All
// containers come back by ADD with the same names, in new netns. (TestReboot of integration/reboot does it with a real one.)
func TestLikeReboot(t *testing.T) {
	freshHost(t)
	for range 2 {
		var ends []string
		for _, id := range []string{"a", "b"} {
			result, _ := on(newContainer(t, id)).add(t)
			ends = append(ends, hostIf(result))
		}
		expectWiring(t, true, "vcan0", ends...)
		for _, name := range []string{"a", "b"} {
			command(t, "ip", "netns", "del", name)
		}
		for _, name := range append(ends, "vcan0", "vcan0-tx") { // the test has the netns open
			command(t, "ip", "link", "del", name)
		}
		earlier := stateDir + "/x" + filepath.Base(recordDir(t))[1:]
		if err := os.Rename(recordDir(t), earlier); err != nil {
			t.Fatal(err)
		}
		if said := vxcanctl(t, "heal"); said != noBus {
			t.Errorf("heal after a reboot: %s", said)
		}
		expectNothing(t)
	}
}

// TestForeignRules: rules and filters of other programs, on the hub and elsewhere, are never touched. Rules from or to the hub
// carry no container's frames: CHECK, status and doctor name them with the command that ends them.
func TestForeignRules(t *testing.T) {
	freshHost(t)
	a := newContainer(t, "a")
	result, _ := on(a).add(t)
	command(t, "ip", "link", "add", "vcan9", "mtu", "72", "type", "vcan")
	for _, line := range []string{
		"cangw -A -s vcan9 -d vcan0 -e",
		"cangw -A -s vcan0 -d vcan9 -m SET:I:123.0.0000000000000000",
		"cangw -D -s vcan0 -d vcan0-tx -i -l 1",
		"tc qdisc add dev vcan9 clsact",
		"tc filter add dev vcan9 egress pref 1 protocol all matchall action continue",
		"tc filter add dev vcan0 ingress pref 3 protocol all matchall action continue",
		"tc filter add dev vcan0 ingress pref 100 protocol all matchall action continue",
		"tc filter del dev vcan0 egress pref 1",
	} {
		words := strings.Fields(line)
		command(t, words[0], words[1:]...)
	}
	other, _ := on(newContainer(t, "b")).add(t)
	hostIfs := []string{hostIf(result), hostIf(other)}
	isForeign := func(line string) bool { return strings.Contains(line, "vcan9") || strings.Contains(line, "matchall") }
	foreign := 0
	for _, all := range []struct {
		what      string
		got, want []string
	}{{"gateway rules", rules(t), wantRules(true, "vcan0", hostIfs...)}, {"filters", filters(t), wantFilters(t, "vcan0", hostIfs...)}} {
		ours := slices.DeleteFunc(slices.Clone(all.got), isForeign)
		expectLines(t, all.what, ours, all.want)
		foreign += len(all.got) - len(ours)
	}
	if foreign != 5 {
		t.Errorf("%d foreign rules and filters left, want 5: %v %v", foreign, rules(t), filters(t))
	}
	const words = "of another program carries no container's frame"
	err, status := on(a).check(t, result), wrongWith(t, "vcan0")
	if err == nil || strings.Count(err.Error(), words) != 2 || strings.Count(status, words) != 2 {
		t.Errorf("CHECK: %v; status: %s", err, status)
	}
	if out, _, _ := control(t, nil, "doctor"); !strings.Contains(out, words) {
		t.Errorf("doctor: %s", out)
	}
	for line := range strings.Lines(status) {
		_, cure, _ := strings.Cut(line, "; then ")
		command(t, "sh", "-ec", cure)
	}
	if got := wrongWith(t, "vcan0"); got != "" {
		t.Errorf("after the commands that status names: %s", got)
	}
	on(a).ok(t, "DEL")
	if err := on(a).check(t, result); err == nil {
		t.Error("CHECK after DEL succeeded")
	}
}

// TestForeignFilters: filters of other programs in the place of ours, or before them. CHECK and status name them with the
// command that ends them; after it, and heal, the bus is whole. There is no place before ours but with a program of our kind.
func TestForeignFilters(t *testing.T) {
	const all = "protocol all bpf bytecode '1,6 0 0 4294967295' action ok"
	for _, c := range []struct {
		name, dev string
		filter    string // of egress at pref 1
		instead   bool   // of ours
		add       uint   // error code of the next ADD, or 0
		words     string
	}{
		{"before ours on the hub", "vcan0", all, false, 0, "beside that of the bus (egress pref 1 handle 0x2): frames may arrive twice"},
		{"another kind on the hub", "vcan0", "protocol all matchall action ok", true, 7, "(matchall) at egress pref 1, which the bus needs"},
		{"another protocol on the hub", "vcan0", strings.Replace(all, "all", "0x000d", 1), true, 7, "(bpf) at egress pref 1, which the bus needs"},
		{"another kind on a host end", "HOSTIF", "protocol all matchall action ok", true, 0, "(matchall) at egress pref 1, which the bus needs"},
		{"another protocol on a host end", "HOSTIF", strings.Replace(all, "all", "0x000d", 1), true, 0, "(bpf) at egress pref 1, which the bus needs"},
	} {
		t.Run(c.name, func(t *testing.T) {
			freshHost(t)
			a, b := newContainer(t, "a"), newContainer(t, "b")
			first, _ := on(a).add(t)
			dev := strings.Replace(c.dev, "HOSTIF", hostIf(first), 1)
			for _, early := range []string{"priority 6", "mark 7"} {
				if _, err := try("sh", "-c", "tc filter add dev "+dev+" egress prio 1 matchall action skbedit "+early); err == nil {
					t.Errorf("%s has a filter before ours: %v", dev, filters(t))
				}
			}
			if c.instead {
				command(t, "tc", "filter", "del", "dev", dev, "egress", "pref", "1")
			}
			command(t, "sh", "-c", "tc filter add dev "+dev+" egress pref 1 "+c.filter)
			err, status := on(a).check(t, first), wrongWith(t, "vcan0")
			if err == nil || !strings.Contains(err.Error(), c.words) || !strings.Contains(status, c.words) {
				t.Errorf("CHECK: %v; status: %s", err, status)
			}
			if c.add != 0 {
				on(b).fails(t, "ADD", c.add, c.words)
			}
			cure := regexp.MustCompile(`tc filter del dev \S+ egress pref 1( handle 0x2 bpf)?`).FindString(status)
			command(t, "sh", "-ec", cure)
			second, _ := on(b).add(t)
			vxcanctl(t, "heal")
			if got := wrongWith(t, "vcan0"); got != "" {
				t.Errorf("after %s: %s", cure, got)
			}
			expectWiring(t, true, "vcan0", hostIf(first), hostIf(second))
			expectExactlyOnce(t, []station{{"host", nil, "vcan0"}, {"a", a.netns, "can0"}, {"b", b.netns, "can0"}}, 5, true)
		})
	}
}
