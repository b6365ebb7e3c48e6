package integration

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
)

// TestHeal: whoever takes something of a bus away, CHECK says what is missing, and the next ADD of anything on this bus
// puts it back for everybody, in one line of the log a thing.
func TestHeal(t *testing.T) {
	for _, c := range []struct {
		name   string
		damage []string // a command
		check  string   // in the words of CHECK
		log    string   // in the log of the next ADD
	}{
		{"hub deleted", []string{"ip", "link", "del", "vcan0"}, "hub vcan0 is missing", "made vcan0, which was missing"},
		{"hub down", []string{"ip", "link", "set", "vcan0", "down"}, "hub vcan0 is down", "set hub vcan0 up"},
		{"backplane deleted", []string{"ip", "link", "del", "vcan0-rx"}, "backplane vcan0-tx, vcan0-rx is missing", "made vcan0-tx, which was missing"},
		{"backplane down", []string{"ip", "link", "set", "vcan0-rx", "down"}, "backplane vcan0-tx, vcan0-rx is down", "set backplane vcan0-rx up"},
		{"all rules flushed", []string{"cangw", "-F"}, "is missing", "gateway rules that were missing"},
		{"one rule deleted", []string{"cangw", "-D", "-s", "vcan0-rx", "-d", "HOSTIF", "-X"}, "gateway rule (cangw -A -s vcan0-rx -d HOSTIF -X) is missing", "added 1 gateway rules"},
		{"one rule doubled", []string{"cangw", "-A", "-s", "HOSTIF", "-d", "vcan0-tx", "-i"}, "is there 2 times", "deleted 1 gateway rules that were too many"},
		{"host end down", []string{"ip", "link", "set", "HOSTIF", "down"}, "host end HOSTIF is down: ip link set HOSTIF up", ""},
		{"container end down", []string{"ip", "-netns", "a", "link", "set", "can0", "down"}, "container end can0 is down", ""},
		{"container end renamed", []string{"ip", "netns", "exec", "a", "sh", "-c", "ip link set can0 down && ip link set can0 name can9 up"}, "container end is named can9", ""},
		{"pair deleted", []string{"ip", "link", "del", "HOSTIF"}, "host end HOSTIF is missing", ""},
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
			if !errors.As(err, &cniErr) || !strings.Contains(cniErr.Msg, replace.Replace(c.check)) {
				t.Fatalf("CHECK: got %v, want %q", err, replace.Replace(c.check))
			}
			t.Logf("CHECK: %s", cniErr.Msg)

			if c.log == "" { // this endpoint's own devices, which only its own ADD makes anew
				_, log := on(a).add(t)
				t.Logf("ADD: %s", log)
			}
			second, log := on(b).add(t)
			if c.log != "" && !strings.Contains(log, c.log) {
				t.Errorf("the log of ADD lacks %q: %s", c.log, log)
			}
			if err := on(a).check(t, first); err != nil {
				t.Errorf("after ADD: %v", err)
			}
			expectRules(t, true, "vcan0", end, hostIf(second))
			expectExactlyOnce(t, []station{{"host", nil, "vcan0"}, {"a", a.netns, "can0"}, {"b", b.netns, "can0"}}, 5, true)
		})
	}
}

// TestHealLargeBus: on a bus whose rules do not fit into one look, a flushed rule table is seen all the same, and so is
// one that other buses' rules hide.
func TestHealLargeBus(t *testing.T) {
	freshHost(t)
	crowd := newContainer(t, "crowd") // all in one netns, which takes less time to make
	add := func(name, members string) string {
		result, _ := call{containerID: name, netns: crowd.path}.with(`"interface":"can%d"` + members).add(t)
		return hostIf(result)
	}
	const many = 60 // whose 244 rules are more than a look at the youngest shows
	var ends, otherEnds []string
	for _, name := range containerNames("c", many) {
		ends = append(ends, add(name, ""))
	}
	expectRules(t, true, "vcan0", ends...)
	command(t, "cangw", "-F")
	result, log := on(newContainer(t, "late")).add(t)
	ends = append(ends, hostIf(result))
	if !strings.Contains(log, "added 244 gateway rules") {
		t.Errorf("log: %s", log)
	}
	expectRules(t, true, "vcan0", ends...)

	for _, name := range containerNames("o", many) {
		otherEnds = append(otherEnds, add(name, `,"hub":"vcan1","name":"other"`))
	}
	// The first bus's youngest rules are out of sight now; one ADD there must see that nothing is wrong.
	result, log = on(newContainer(t, "later")).add(t)
	ends = append(ends, hostIf(result))
	if strings.Contains(log, "gateway rules") {
		t.Errorf("log of an ADD on a sound bus: %s", log)
	}
	got, want := rules(t), append(wantRules(true, "vcan0", ends...), wantRules(true, "vcan1", otherEnds...)...)
	if len(got) != len(want) {
		t.Errorf("%d rules, want %d", len(got), len(want))
	}
}

// TestLikeReboot: devices, rules and netns are gone, and the records are an earlier boot's. Everybody comes back by
// ADD with the same names, in new netns. (TestReboot of integration/reboot does it with a real one.)
func TestLikeReboot(t *testing.T) {
	freshHost(t)
	for range 2 {
		var ends []string
		for _, id := range []string{"a", "b"} {
			result, _ := on(newContainer(t, id)).add(t)
			ends = append(ends, hostIf(result))
		}
		expectRules(t, true, "vcan0", ends...)
		for _, name := range []string{"a", "b"} {
			command(t, "ip", "netns", "del", name)
		}
		for _, name := range []string{"vcan0", "vcan0-tx"} {
			command(t, "ip", "link", "del", name)
		}
		state, err := os.ReadFile(stateDir + "/vcan0.json")
		if err != nil {
			t.Fatal(err)
		}
		write(t, stateDir+"/vcan0.json", strings.Replace(string(state), `"bootID":"`, `"bootID":"0`, 1))
	}
}

// TestForeignRules: other people's rules, on the hub and elsewhere, are never touched.
func TestForeignRules(t *testing.T) {
	freshHost(t)
	a := newContainer(t, "a")
	result, _ := on(a).add(t)
	command(t, "ip", "link", "add", "vcan9", "mtu", "72", "type", "vcan")
	command(t, "cangw", "-A", "-s", "vcan9", "-d", "vcan0", "-e")
	command(t, "cangw", "-A", "-s", "vcan0", "-d", "vcan9", "-m", "SET:I:123.0.0000000000000000")
	command(t, "cangw", "-D", "-s", "vcan0", "-d", "vcan0-tx", "-i")
	on(newContainer(t, "b")).add(t)
	foreign := 0
	for _, rule := range rules(t) {
		if strings.Contains(rule, "vcan9") {
			foreign++
		}
	}
	if foreign != 2 {
		t.Errorf("%d foreign rules left, want 2: %v", foreign, rules(t))
	}
	on(a).ok(t, "DEL")
	if err := on(a).check(t, result); err == nil {
		t.Error("CHECK after DEL succeeded")
	}
}
