package cangw

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/google/go-cmp/cmp"

	"github.com/vxcan/vxcan/pkg/canlink"
	"github.com/vxcan/vxcan/pkg/cantest"
	"github.com/vxcan/vxcan/pkg/rtnl"
)

// gateway is a network namespace with devices to put rules between.
type gateway struct {
	*Conn
	netns ns.NetNS
	index map[string]uint32
}

func newGateway(t *testing.T, devices ...string) gateway {
	t.Helper()
	cantest.Require(t)
	g := gateway{netns: cantest.NewNetns(t), index: make(map[string]uint32)}
	conn := g.dial(t)
	g.Conn = On(conn)
	links := canlink.On(conn)
	for i, name := range devices {
		if err := links.AddVcan(name, 5000+i, canlink.FDMTU, ""); err != nil {
			t.Fatal(err)
		}
		g.index[name] = uint32(5000 + i)
	}
	return g
}

func (g gateway) dial(t *testing.T) rtnl.Conn {
	t.Helper()
	conn, err := rtnl.DialAt(g.netns)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func (g gateway) list(t *testing.T) []Job {
	t.Helper()
	jobs, err := g.List()
	if err != nil {
		t.Fatal(err)
	}
	return jobs
}

// cangw runs the reference program.
func (g gateway) cangw(t *testing.T, args ...string) string {
	t.Helper()
	var out []byte
	err := g.netns.Do(func(ns.NetNS) error {
		out, _ = exec.Command("cangw", args...).CombinedOutput() // its status is that of a sendto
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func (g gateway) nameOf(index uint32) string {
	for name, i := range g.index {
		if i == index {
			return name
		}
	}
	return "?"
}

// What we add, cangw lists as the arguments that Format says.
func TestAddAgreesWithCangw(t *testing.T) {
	g := newGateway(t, "a", "b")
	rules := []Rule{
		{Flags: 0}, {Flags: FD}, {Flags: Echo}, {Flags: IIFTxOK}, {Flags: SrcTS | FD}, {Flags: Echo | IIFTxOK | FD | SrcTS},
		{Filter: Filter{ID: 0x123, Mask: 0x7ff}}, {Flags: FD, Filter: Filter{ID: 0x92345678, Mask: 0xdfffffff}},
		{Filter: Filter{ID: 0, Mask: 0x7ff}}, {Filter: Filter{ID: 0x7ff, Mask: 0}},
	}
	for i := range rules {
		rules[i].Src, rules[i].Dst = g.index["a"], g.index["b"]
	}
	if err := g.Add(rules...); err != nil {
		t.Fatal(err)
	}
	var want, got, listed []string
	for i := range rules { // the youngest is listed first
		want = append(want, rules[len(rules)-1-i].Format(g.nameOf))
	}
	for _, j := range g.list(t) {
		if !j.Plain {
			t.Errorf("not plain: %+v", j)
		}
		got = append(got, j.Format(g.nameOf))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("List (- want, + got)\n%s", diff)
	}
	for line := range strings.Lines(g.cangw(t, "-L")) {
		args, _, _ := strings.Cut(strings.TrimPrefix(line, "cangw -A "), " # ")
		listed = append(listed, args)
	}
	if diff := cmp.Diff(listed, got); diff != "" {
		t.Errorf("(- cangw -L, + List)\n%s", diff)
	}
}

// What cangw adds, we list, and call plain only what we could have added.
func TestListAgreesWithCangw(t *testing.T) {
	g := newGateway(t, "a", "b")
	a, b := g.index["a"], g.index["b"]
	for _, test := range []struct {
		args string
		want Job
	}{
		{"-X -i", Job{Rule: Rule{Src: a, Dst: b, Flags: FD | IIFTxOK}, Plain: true}},
		{"-e -f 123:7FF", Job{Rule: Rule{Src: a, Dst: b, Flags: Echo, Filter: Filter{0x123, 0x7ff}}, Plain: true}},
		{"-l 1", Job{Rule: Rule{Src: a, Dst: b, Hops: 1}, Plain: true}},
		{"-m SET:I:222.8.1122334455667788", Job{Rule: Rule{Src: a, Dst: b}}},
	} {
		if out := g.cangw(t, append([]string{"-A", "-s", "a", "-d", "b"}, strings.Fields(test.args)...)...); out != "" {
			t.Fatal(out)
		}
		got := g.list(t)[0]
		if (got.Raw == "") != got.Plain {
			t.Errorf("%s: %d bytes of a message, plain is %v", test.args, len(got.Raw), got.Plain)
		}
		got.Raw = ""
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s (- want, + got)\n%s", test.args, diff)
		}
	}
}

// Deleting takes one job of each rule, and leaves jobs alone that do more than the rule says.
func TestDelete(t *testing.T) {
	g := newGateway(t, "a", "b")
	r := Rule{Src: g.index["a"], Dst: g.index["b"], Flags: IIFTxOK}
	other := Rule{Src: r.Dst, Dst: r.Src}
	if err := g.Add(r, r, other); err != nil {
		t.Fatal(err)
	}
	g.cangw(t, "-A", "-s", "a", "-d", "b", "-i", "-m", "SET:I:222.8.1122334455667788")
	for _, left := range []int{3, 2, 2} {
		if err := g.Delete(r); err != nil {
			t.Error(err)
		}
		if jobs := g.list(t); len(jobs) != left {
			t.Errorf("%d jobs left, want %d: %+v", len(jobs), left, jobs)
		}
	}
	if jobs := g.list(t); jobs[0].Plain || jobs[1].Rule != other {
		t.Errorf("left: %+v", jobs)
	}
}

// modified are rules with modifications, each one different from the others in one point that the gateway compares.
var modified = []string{
	"-m SET:I:123.8.0000000000000000",
	"-m SET:I:124.8.0000000000000000",
	"-m SET:IL:123.8.0000000000000000",
	"-m SET:I:123.8.0000000000000000 -u 1F",
	"-m SET:I:123.8.0000000000000000 -u 2A",
	"-e -m SET:I:123.8.0000000000000000",
	"-i -l 1 -m SET:I:123.8.0000000000000000",
	"-l 1 -m AND:ILD:7FF.F.FFFFFFFFFFFFFFFF -m OR:L:000.8.1122334455667788 -m XOR:D:000.0.FF00FF00FF00FF00 -m SET:I:123.8.0000000000000000 -f 456:7FF",
	"-m SET:D:000.8.1122334455667788 -x 0:6:7:A5",
	"-m SET:D:000.8.1122334455667788 -x -8:-2:-1:00",
	"-m SET:D:000.8.1122334455667788 -c 0:6:7:00:FF:" + crcTable,
	"-m SET:D:000.8.1122334455667788 -c 0:6:7:00:FF:" + crcTable + " -p 1:5A",
	"-m SET:D:000.8.1122334455667788 -c 0:6:7:00:FF:" + crcTable + " -p 2:00112233445566778899AABBCCDDEEFF",
	"-m SET:D:000.8.1122334455667788 -c 0:6:7:00:FF:" + crcTable + " -p 3:",
	"-X -M SET:IFLD:123.1.40." + strings.Repeat("5A", 64),
	"-X -M XOR:I:001.0.0." + strings.Repeat("00", 64) + " -M SET:F:000.2.0." + strings.Repeat("00", 64) + " -u 3",
}

var crcTable = strings.Repeat("0123456789ABCDEF", 32)

// A job with modifications is deleted, and no other, also not those that only differ in modifications. It is written as
// cangw -L writes it.
func TestDeleteJobs(t *testing.T) {
	g := newGateway(t, "a", "b")
	ours := []Rule{{Src: g.index["a"], Dst: g.index["b"]}, {Src: g.index["a"], Dst: g.index["b"], Flags: IIFTxOK, Hops: 1}}
	if err := g.Add(ours...); err != nil {
		t.Fatal(err)
	}
	for _, args := range modified {
		if out := g.cangw(t, append([]string{"-A", "-s", "a", "-d", "b"}, strings.Fields(args)...)...); out != "" {
			t.Fatalf("%s: %s", args, out)
		}
	}
	before := g.list(t)
	if len(before) != len(ours)+len(modified) {
		t.Fatalf("%d jobs, want %d", len(before), len(ours)+len(modified))
	}
	lines := strings.Split(strings.TrimSpace(g.cangw(t, "-L")), "\n")
	for i, j := range before {
		listed, _, _ := strings.Cut(strings.TrimPrefix(lines[i], "cangw -A "), " # ")
		if text := j.Format(g.nameOf); text != listed {
			t.Errorf("job %d:\n%s\ncangw -L:\n%s", i, text, listed)
		}
	}
	for len(before) > len(ours) {
		i := (len(before) - len(ours)) / 2 // of the middle, so that others are before and behind it
		if before[i].Plain {
			t.Fatalf("job %d is plain", i)
		}
		for range 2 { // the second time there is none
			if err := g.DeleteJobs(before[i]); err != nil {
				t.Fatal(err)
			}
		}
		want := slices.Delete(slices.Clone(before), i, i+1)
		after := g.list(t)
		if diff := cmp.Diff(want, after); diff != "" {
			t.Fatalf("after %s (- want, + got)\n%s", before[i].Format(g.nameOf), diff)
		}
		before = after
	}
	if err := g.DeleteJobs(before...); err != nil || len(g.list(t)) != 0 {
		t.Errorf("delete plain jobs: %v", err)
	}
}

// A job with frames counted is the same job.
func TestDeleteJobCounted(t *testing.T) {
	g := newGateway(t, "a", "b")
	g.cangw(t, "-A", "-s", "a", "-d", "b", "-e", "-m", "SET:I:123.8.0000000000000000")
	if err := cantest.NewSender(t, g.netns, "a").Send(cantest.Frame{ID: 0x123}); err != nil {
		t.Fatal(err)
	}
	jobs := g.list(t)
	if len(jobs) != 1 || jobs[0].Handled != 1 {
		t.Fatalf("%+v", jobs)
	}
	if err := g.DeleteJobs(jobs...); err != nil || len(g.list(t)) != 0 {
		t.Errorf("%v, left: %+v", err, g.list(t))
	}
	if err := g.DeleteJobs(Job{Rule: jobs[0].Rule}); err == nil {
		t.Error("a job without its message: no error")
	}
}

// Index 0 on both sides would be everything.
func TestDeleteIndex0(t *testing.T) {
	g := newGateway(t, "a", "b")
	r := Rule{Src: g.index["a"], Dst: g.index["b"]}
	if err := g.Add(r); err != nil {
		t.Fatal(err)
	}
	for _, wrong := range []Rule{{}, {Src: r.Src}, {Dst: r.Dst}} {
		if err := g.Delete(r, wrong); err == nil {
			t.Errorf("%+v: no error", wrong)
		}
	}
	if jobs := g.list(t); len(jobs) != 1 {
		t.Errorf("%d jobs left, want 1", len(jobs))
	}
}

// One that fails does not stop the others, and is named.
func TestAddPartly(t *testing.T) {
	g := newGateway(t, "a", "b")
	r := Rule{Src: g.index["a"], Dst: g.index["b"]}
	err := g.Add(r, Rule{Src: 4711, Dst: r.Dst}, Rule{Src: r.Src, Dst: 4712}, r)
	if err == nil || !strings.Contains(err.Error(), "4711 -> ") || !strings.Contains(err.Error(), " -> 4712") {
		t.Errorf("%v, want the two rules named", err)
	}
	if jobs := g.list(t); len(jobs) != 2 {
		t.Errorf("%d jobs, want 2", len(jobs))
	}
}

// Buses of any size: more rules than a datagram holds, more jobs than a datagram, more errors than a socket holds.
func TestMany(t *testing.T) {
	g := newGateway(t, "a", "b")
	var rules []Rule
	for i := range uint32(1200) {
		rules = append(rules, Rule{Src: g.index["a"], Dst: g.index["b"], Filter: Filter{ID: i, Mask: 0x7ff}})
	}
	if err := g.Delete(rules...); err != nil {
		t.Errorf("delete what is not there: %v", err)
	}
	bad := make([]Rule, len(rules))
	for i, r := range rules {
		bad[i] = Rule{Src: 4711, Dst: r.Dst}
	}
	if err := g.Add(bad...); err == nil || strings.Count(err.Error(), "4711 -> ") != len(bad) {
		t.Errorf("add what cannot be: %.300v", err)
	}
	if err := g.Add(rules...); err != nil {
		t.Fatal(err)
	}
	jobs := g.list(t)
	if len(jobs) != len(rules) {
		t.Fatalf("%d jobs, want %d", len(jobs), len(rules))
	}
	for i, j := range jobs {
		if j.Rule != rules[len(rules)-1-i] {
			t.Fatalf("job %d: %+v", i, j)
		}
	}
	if err := g.Delete(rules...); err != nil {
		t.Error(err)
	}
	if jobs := g.list(t); len(jobs) != 0 {
		t.Errorf("%d jobs left", len(jobs))
	}
}

// While others change theirs, a list has every one of ours once.
func TestListWhileOthersChange(t *testing.T) {
	g := newGateway(t, "a", "b")
	other := On(g.dial(t))
	rule := func(i int) Rule {
		return Rule{Src: g.index["a"], Dst: g.index["b"], Filter: Filter{ID: uint32(i), Mask: 1}}
	}
	const stable = 1500
	for i := range stable {
		if err := g.Add(rule(i)); err != nil {
			t.Fatal(err)
		}
	}
	stop, done := make(chan bool), make(chan error)
	go func() {
		var err error
		for err == nil {
			select {
			case <-stop:
				done <- nil
				return
			default:
				err = errors.Join(other.Add(rule(stable)), other.Delete(rule(stable)))
			}
		}
		done <- err
	}()
	given := 0
	for range 50 {
		jobs, err := g.List()
		if err != nil { // it says so, rather than something wrong
			given++
			continue
		}
		seen := make(map[Rule]int)
		for _, j := range jobs {
			seen[j.Rule]++
		}
		for i := range stable {
			if n := seen[rule(i)]; n != 1 {
				t.Fatalf("rule %d is %d times in the list", i, n)
			}
		}
	}
	close(stop)
	if err := <-done; err != nil {
		t.Error(err)
	}
	t.Logf("%d of 50 lists given up", given)
}

func TestProbe(t *testing.T) {
	g := newGateway(t, "a", "b")
	if err := g.Add(Rule{Src: g.index["a"], Dst: g.index["b"]}); err != nil {
		t.Fatal(err)
	}
	if err := g.Probe(); err != nil {
		t.Error(err)
	}
	if jobs := g.list(t); len(jobs) != 1 {
		t.Errorf("%d jobs after the probe, want 1", len(jobs))
	}
}

// A kernel without can-gw, or before it is loaded, has routes of other kinds, and says what is missing.
func TestNoModule(t *testing.T) {
	cantest.Require(t)
	if cpu, err := os.ReadFile("/proc/cpuinfo"); err != nil || !bytes.Contains(cpu, []byte("User Mode Linux")) {
		t.Skip("unloading can-gw would take away the rules of this machine")
	}
	if out, err := exec.Command("rmmod", "can-gw").CombinedOutput(); err != nil {
		t.Skipf("rmmod can-gw: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("modprobe", "can-gw").CombinedOutput(); err != nil {
			t.Errorf("modprobe can-gw: %v: %s", err, out)
		}
	})
	conn, err := rtnl.DialAt(cantest.NewNetns(t))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c := On(conn)
	for what, err := range map[string]error{
		"probe": c.Probe(), "add": c.Add(Rule{Src: 1, Dst: 1}), "delete": c.Delete(Rule{Src: 1, Dst: 1}),
	} {
		if missing := (*rtnl.NoModuleError)(nil); !errors.As(err, &missing) || missing.Module != Module {
			t.Errorf("%s: %v, want a NoModuleError for %s", what, err, Module)
		}
	}
	if jobs, err := c.List(); err != nil || len(jobs) != 0 {
		t.Errorf("list: %v, %v", jobs, err)
	}
}

// Delete deletes the first job of each rule. Jobs with modifications stay.
func (c *Conn) Delete(rules ...Rule) error { return c.DeleteJobs(jobs(rules)...) }
