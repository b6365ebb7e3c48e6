package bus

import (
	"errors"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/vxcan/vxcan/integration/harness"
	"github.com/vxcan/vxcan/pkg/cantest"
)

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
			"1 gateway rule is not of this bus, but on a backplane (cangw -A -s vcan0-rx -d HOSTIF -i -l 1 -m SET:I:123.0.0000000000000000)", false,
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
		{
			"filter that doubles frames on the backplane", []string{"sh", "-ec", "tc qdisc add dev vcan0-rx clsact; tc filter add dev vcan0-rx ingress pref 2 matchall action mirred egress mirror dev HOSTIF"},
			"vcan0-rx has filters of another program: frames may arrive twice, or not at all", false,
		},
		{
			"filter that drops frames on the backplane", []string{"sh", "-ec", "tc qdisc add dev vcan0-tx clsact; tc filter add dev vcan0-tx egress pref 1 matchall action drop"},
			"vcan0-tx has filters of another program: frames may arrive twice, or not at all", false,
		},
		{"queue on the backplane", []string{"tc", "qdisc", "add", "dev", "vcan0-tx", "root", "netem", "loss", "100%"},
			"vcan0-tx has a netem qdisc of another program: frames may wait, or be lost", false},
		{"block of filters on the backplane", []string{"tc", "qdisc", "add", "dev", "vcan0-rx", "ingress_block", "22", "clsact"}, "vcan0-rx has filters of another program", false},
		{
			"rule to another bus's backplane", []string{"sh", "-ec", "ip link add v99-tx type vxcan peer name v99-rx; ip link set v99-tx alias 'vxcan backplane v99'; cangw -A -s vcan0 -d v99-tx -e"},
			"1 gateway rule is not of this bus, but on a backplane", false,
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
			harness.FreshHost(t)
			a, b := harness.NewContainer(t, "a"), harness.NewContainer(t, "b")
			first, _ := harness.On(a).Add(t)
			end := harness.HostIf(first)
			if err := harness.On(a).Check(t, first); err != nil {
				t.Fatalf("before the damage: %v", err)
			}
			replace := strings.NewReplacer("HOSTIF", end)
			for i := range c.damage {
				c.damage[i] = replace.Replace(c.damage[i])
			}
			harness.Command(t, c.damage[0], c.damage[1:]...)

			err := harness.On(a).Check(t, first)
			var cniErr *types.Error
			if !errors.As(err, &cniErr) || !strings.Contains(cniErr.Msg, replace.Replace(c.words)) {
				t.Fatalf("CHECK: got %v, want %q", err, replace.Replace(c.words))
			}
			t.Logf("CHECK: %s", cniErr.Msg)

			if c.own {
				_, log := harness.On(a).Add(t)
				t.Logf("ADD: %s", log)
			}
			second, log := harness.On(b).Add(t)
			if want := replace.Replace("found and repaired: " + c.words); !c.own && !strings.Contains(log, want) {
				t.Errorf("the log of ADD lacks %q: %s", want, log)
			}
			if err := harness.On(a).Check(t, first); err != nil {
				t.Errorf("after ADD: %v", err)
			}
			harness.ExpectWiring(t, true, "vcan0", end, harness.HostIf(second))
			harness.ExpectExactlyOnce(t, []harness.Station{harness.Host("vcan0"), a.On("can0"), b.On("can0")}, 5, true)
		})
	}
}

// TestForeignRules: rules and filters of other programs, on the hub and elsewhere, are never touched. Rules from or to the hub
// carry no container's frames: CHECK, status and doctor name them with the command that ends them.
func TestForeignRules(t *testing.T) {
	harness.FreshHost(t)
	a := harness.NewContainer(t, "a")
	result, _ := harness.On(a).Add(t)
	harness.Command(t, "ip", "link", "add", "vcan9", "mtu", "72", "type", "vcan")
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
		harness.Command(t, words[0], words[1:]...)
	}
	other, _ := harness.On(harness.NewContainer(t, "b")).Add(t)
	hostIfs := []string{harness.HostIf(result), harness.HostIf(other)}
	isForeign := func(line string) bool { return strings.Contains(line, "vcan9") || strings.Contains(line, "matchall") }
	foreign := 0
	for _, all := range []struct {
		what      string
		got, want []string
	}{{"gateway rules", harness.Rules(t), harness.WantRules(true, "vcan0", hostIfs...)}, {"filters", harness.Filters(t), harness.WantFilters(t, "vcan0", hostIfs...)}} {
		ours := slices.DeleteFunc(slices.Clone(all.got), isForeign)
		harness.ExpectLines(t, all.what, ours, all.want)
		foreign += len(all.got) - len(ours)
	}
	if foreign != 5 {
		t.Errorf("%d foreign rules and filters left, want 5: %v %v", foreign, harness.Rules(t), harness.Filters(t))
	}
	const words = "of another program carries no container's frame"
	err, status := harness.On(a).Check(t, result), harness.WrongWith(t, "vcan0")
	if err == nil || strings.Count(err.Error(), words) != 2 || strings.Count(status, words) != 2 {
		t.Errorf("CHECK: %v; status: %s", err, status)
	}
	if out, _, _ := harness.Control(t, nil, "doctor"); !strings.Contains(out, words) {
		t.Errorf("doctor: %s", out)
	}
	for line := range strings.Lines(status) {
		_, cure, _ := strings.Cut(line, "; then ")
		harness.Command(t, "sh", "-ec", cure)
	}
	if got := harness.WrongWith(t, "vcan0"); got != "" {
		t.Errorf("after the commands that status names: %s", got)
	}
	harness.On(a).OK(t, "DEL")
	if err := harness.On(a).Check(t, result); err == nil {
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
			harness.FreshHost(t)
			a, b := harness.NewContainer(t, "a"), harness.NewContainer(t, "b")
			first, _ := harness.On(a).Add(t)
			dev := strings.Replace(c.dev, "HOSTIF", harness.HostIf(first), 1)
			for _, early := range []string{"priority 6", "mark 7"} {
				if _, err := harness.Try("sh", "-c", "tc filter add dev "+dev+" egress prio 1 matchall action skbedit "+early); err == nil {
					t.Errorf("%s has a filter before ours: %v", dev, harness.Filters(t))
				}
			}
			if c.instead {
				harness.Command(t, "tc", "filter", "del", "dev", dev, "egress", "pref", "1")
			}
			harness.Command(t, "sh", "-c", "tc filter add dev "+dev+" egress pref 1 "+c.filter)
			err, status := harness.On(a).Check(t, first), harness.WrongWith(t, "vcan0")
			if err == nil || !strings.Contains(err.Error(), c.words) || !strings.Contains(status, c.words) {
				t.Errorf("CHECK: %v; status: %s", err, status)
			}
			if c.add != 0 {
				harness.On(b).Fails(t, "ADD", c.add, c.words)
			}
			cure := regexp.MustCompile(`tc filter del dev \S+ egress pref 1( handle 0x2 bpf)?`).FindString(status)
			harness.Command(t, "sh", "-ec", cure)
			second, _ := harness.On(b).Add(t)
			harness.Vxcanctl(t, "heal")
			if got := harness.WrongWith(t, "vcan0"); got != "" {
				t.Errorf("after %s: %s", cure, got)
			}
			harness.ExpectWiring(t, true, "vcan0", harness.HostIf(first), harness.HostIf(second))
			harness.ExpectExactlyOnce(t, []harness.Station{harness.Host("vcan0"), a.On("can0"), b.On("can0")}, 5, true)
		})
	}
}

// TestForeignQdisc: a qdisc of another program in the place of clsact, which took our filters with it, is named with what ends
// it. On a host end the rest of the bus is repaired beside it, others are attached, and a container with a policy gets nothing.
func TestForeignQdisc(t *testing.T) {
	for _, qdisc := range []string{"ingress", "ingress_block 22 clsact", "egress_block 22 clsact"} {
		for _, dev := range []string{"vcan0", "HOSTIF"} {
			t.Run(qdisc+" on "+dev, func(t *testing.T) {
				harness.FreshHost(t)
				a, b, c := harness.NewContainer(t, "a"), harness.NewContainer(t, "b"), harness.NewContainer(t, "c")
				first, _ := harness.On(a).With(`"send":"101","receive":"201"`).Add(t)
				harness.On(b).Add(t)
				dev := strings.Replace(dev, "HOSTIF", harness.HostIf(first), 1)
				harness.Command(t, "sh", "-ec", "tc qdisc del dev "+dev+" clsact; tc qdisc add dev "+dev+" "+qdisc+"; cangw -F")
				kind := qdisc[strings.LastIndex(qdisc, " ")+1:]
				cure := "tc qdisc del dev " + dev + " " + kind
				err, status := harness.On(a).With(`"send":"101","receive":"201"`).Check(t, first), harness.WrongWith(t, "vcan0")
				if err == nil || !strings.Contains(err.Error(), cure) || !strings.Contains(status, cure) {
					t.Errorf("CHECK: %v; status: %s; want %s", err, status, cure)
				}
				if dev == "vcan0" {
					harness.On(c).Fails(t, "ADD", 7, dev, cure)
				} else {
					harness.On(a).With(`"send":"101","receive":"201"`).Fails(t, "ADD", 7, dev, cure)
					harness.On(c).Add(t)
					harness.ExpectExactlyOnce(t, []harness.Station{harness.Host("vcan0"), b.On("can0"), c.On("can0")}, 5, true)
					listener := cantest.Listen(t, a.Netns, "can0")
					for _, id := range []uint32{0x201, 0x202} {
						if err := cantest.NewSender(t, b.Netns, "can0").Send(cantest.Frame{ID: id}); err != nil {
							t.Fatal(err)
						}
					}
					cantest.WaitQuiet(2, listener)
					if heard, _ := listener.Heard(); heard[cantest.Frame{ID: 0x202}] > 0 || kind == "ingress" && len(heard) > 0 {
						t.Errorf("a container with a list hears %v while the filter for it is away", heard)
					}
				}
				harness.Command(t, "sh", "-ec", cure)
				harness.Vxcanctl(t, "heal")
				if got := harness.WrongWith(t, "vcan0"); got != "" {
					t.Errorf("after %s: %s", cure, got)
				}
				if dev == "vcan0" {
					harness.ExpectExactlyOnce(t, []harness.Station{harness.Host("vcan0"), b.On("can0")}, 5, true)
				}
			})
		}
	}
}
