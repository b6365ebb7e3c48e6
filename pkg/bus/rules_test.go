package bus

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vxcan/vxcan/pkg/cangw"
)

// Devices of the tests: the backplane, the hub, and a to d.
const (
	tx, rx  = 101, 102
	hub     = 1
	a, b, c = 11, 12, 13
	d       = 14
)

var (
	common = backplane{tx: tx, rx: rx}
	hubFD  = member{dev: hub, hub: true, fd: true}
)

func TestRules(t *testing.T) {
	const fd, tok, echo = cangw.FD, cangw.IIFTxOK, cangw.Echo
	hubRules := []cangw.Rule{
		{Src: hub, Dst: tx, Flags: tok, Hops: 1}, {Src: hub, Dst: tx, Flags: tok | fd, Hops: 1},
		{Src: rx, Dst: hub, Flags: echo | tok, Hops: 1}, {Src: rx, Dst: hub, Flags: echo | tok | fd, Hops: 1},
	}
	for name, test := range map[string]struct {
		members []member
		want    []cangw.Rule
	}{
		"nobody":   {nil, nil},
		"hub only": {[]member{hubFD}, hubRules},
		"classic hub and endpoint": {
			[]member{{dev: hub, hub: true}, {dev: a, access: anyAccess()}},
			[]cangw.Rule{
				{Src: hub, Dst: tx, Flags: tok, Hops: 1}, {Src: rx, Dst: hub, Flags: echo | tok, Hops: 1},
				{Src: rx, Dst: a, Flags: tok, Hops: 1},
			},
		},
		"endpoints of both kinds": {
			[]member{hubFD, {dev: a, fd: true, access: anyAccess()}, {dev: b, access: anyAccess()}},
			append(slices.Clone(hubRules),
				cangw.Rule{Src: rx, Dst: a, Flags: tok, Hops: 1}, cangw.Rule{Src: rx, Dst: a, Flags: tok | fd, Hops: 1},
				cangw.Rule{Src: rx, Dst: b, Flags: tok, Hops: 1},
			),
		},
		"one that hears nothing": {[]member{hubFD, {dev: a, fd: true}}, hubRules},
		"controller": {
			[]member{{dev: hub, hub: true, controller: true}, {dev: a, access: anyAccess()}},
			[]cangw.Rule{
				{Src: hub, Dst: tx, Flags: tok, Filter: errorFrames, Hops: 1}, {Src: hub, Dst: tx, Flags: tok, Hops: 1},
				{Src: rx, Dst: hub, Flags: echo | tok, Hops: 1},
				{Src: rx, Dst: a, Flags: tok, Filter: errorFrames, Hops: 1}, {Src: rx, Dst: a, Flags: tok, Hops: 1},
			},
		},
	} {
		if diff := cmp.Diff(test.want, rules(common, test.members)); diff != "" {
			t.Errorf("%s (- want, + got)\n%s", name, diff)
		}
	}
}

// An endpoint costs two rules, or one on a classic bus, however many there are. No rule is wanted twice.
func TestRulesCount(t *testing.T) {
	for n := range 60 {
		for _, fd := range []bool{false, true} {
			members := []member{{dev: hub, hub: true, fd: fd}}
			for i := range n {
				members = append(members, member{dev: uint32(1000 + i), fd: fd, access: anyAccess()})
			}
			got, want := rules(common, members), n+2
			if fd {
				want = 2*n + 4
			}
			if len(got) != want {
				t.Errorf("%d endpoints, FD %v: %d rules, want %d", n, fd, len(got), want)
			}
			once := make(map[cangw.Rule]bool)
			for _, r := range got {
				if once[r] {
					t.Errorf("%+v twice", r)
				}
				once[r] = true
			}
		}
	}
}

func TestCompare(t *testing.T) {
	want := rules(common, []member{hubFD, {dev: a, fd: true, access: anyAccess()}})
	plain := func(rules ...cangw.Rule) (jobs []cangw.Job) {
		for _, r := range rules {
			jobs = append(jobs, cangw.Job{Rule: r, Plain: true, Handled: 7, Dropped: 8, Deleted: 9})
		}
		return jobs
	}
	notPlain := func(r cangw.Rule) []cangw.Job { return []cangw.Job{{Rule: r}} }
	foreign := cangw.Rule{Src: hub, Dst: a} // of someone who connects the two in his own way
	unlimited := want[0]
	unlimited.Hops = 0
	filtered := want[0]
	filtered.Filter = cangw.Filter{ID: 0x123, Mask: 0x7ff}
	gone := rules(common, []member{{dev: b, access: anyAccess()}})
	for name, test := range map[string]struct {
		jobs                       []cangw.Job
		missing, doubled, unwanted []cangw.Rule
	}{
		"nothing there":           {jobs: nil, missing: want},
		"all there":               {jobs: plain(want...)},
		"one missing":             {jobs: plain(append(slices.Clone(want[:3]), want[4:]...)...), missing: want[3:4]},
		"one without a hop limit": {jobs: plain(append([]cangw.Rule{unlimited}, want[1:]...)...), missing: want[:1], unwanted: []cangw.Rule{unlimited}},
		"one twice":               {jobs: plain(append(want[2:3:3], want...)...), doubled: want[2:3]},
		"one three times":         {jobs: plain(append([]cangw.Rule{want[2], want[2]}, want...)...), doubled: []cangw.Rule{want[2], want[2]}},
		"other people's":          {jobs: plain(append([]cangw.Rule{foreign, foreign, {Src: b, Dst: c}}, want...)...)},
		"of who has left":         {jobs: plain(append(slices.Clone(gone), want...)...), unwanted: gone},
		"with another flag":       {jobs: plain(append([]cangw.Rule{{Src: rx, Dst: a, Flags: cangw.Echo}}, want...)...), unwanted: []cangw.Rule{{Src: rx, Dst: a, Flags: cangw.Echo}}},
		"with a filter":           {jobs: plain(append([]cangw.Rule{filtered}, want[1:]...)...), missing: want[:1], unwanted: []cangw.Rule{filtered}},
		"not plain, beside":       {jobs: append(notPlain(want[0]), plain(want...)...)},
		"not plain, instead":      {jobs: append(notPlain(want[0]), plain(want[1:]...)...), missing: want[:1]},
		"not plain, of no rule":   {jobs: append(notPlain(cangw.Rule{Src: tx, Dst: rx}), plain(want...)...)},
	} {
		missing, doubled, unwanted := compare(want, test.jobs, common)
		if diff := cmp.Diff(test.missing, missing, cmpEmpty); diff != "" {
			t.Errorf("%s: missing (- want, + got)\n%s", name, diff)
		}
		if diff := cmp.Diff(test.doubled, doubled, cmpEmpty); diff != "" {
			t.Errorf("%s: doubled (- want, + got)\n%s", name, diff)
		}
		if diff := cmp.Diff(test.unwanted, unwanted, cmpEmpty); diff != "" {
			t.Errorf("%s: unwanted (- want, + got)\n%s", name, diff)
		}
	}
	if len(want) != 6 || want[0].Src != hub {
		t.Errorf("compare changed its argument: %+v", want)
	}
}

// cmpEmpty makes no difference between no slice and an empty one.
var cmpEmpty = cmp.FilterValues(func(x, y []cangw.Rule) bool { return len(x)+len(y) == 0 },
	cmp.Comparer(func(x, y []cangw.Rule) bool { return true }))

// Without a backplane nothing is ours.
func TestCompareNoBackplane(t *testing.T) {
	jobs := []cangw.Job{{Rule: cangw.Rule{Src: hub, Dst: tx}, Plain: true}}
	if missing, doubled, unwanted := compare(nil, jobs, backplane{}); len(missing)+len(doubled)+len(unwanted) != 0 {
		t.Errorf("%+v, %+v, %+v", missing, doubled, unwanted)
	}
}

// Whatever jobs there are: what compare says, done, makes every wanted rule one job, and touches no one else's.
func TestCompareMends(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	devices := []uint32{hub, tx, rx, a, b, c, d}
	for range 2000 {
		members := []member{hubFD}
		for _, dev := range []uint32{a, b, c} {
			if random.IntN(2) == 0 {
				members = append(members, member{dev: dev, fd: random.IntN(2) == 0, access: anyAccess()})
			}
		}
		want := rules(common, members)
		var jobs, others []cangw.Job
		for range random.IntN(30) {
			j := cangw.Job{Rule: want[random.IntN(len(want))], Plain: random.IntN(5) > 0}
			if random.IntN(2) == 0 {
				j.Src, j.Dst = devices[random.IntN(len(devices))], devices[random.IntN(len(devices))]
			}
			jobs = append(jobs, j)
		}
		for _, j := range jobs {
			if !j.Plain || !slices.Contains(want, j.Rule) && !touches(j.Rule, common) {
				others = append(others, j)
			}
		}
		missing, doubled, unwanted := compare(want, jobs, common)
		for _, r := range append(doubled, unwanted...) {
			i := slices.IndexFunc(jobs, func(j cangw.Job) bool { return j.Plain && j.Rule == r })
			jobs = slices.Delete(jobs, i, i+1)
		}
		for _, r := range missing {
			jobs = append(jobs, cangw.Job{Rule: r, Plain: true})
		}
		count := make(map[cangw.Job]int)
		for _, j := range jobs {
			count[j]++
		}
		for _, r := range want {
			if n := count[cangw.Job{Rule: r, Plain: true}]; n != 1 {
				t.Fatalf("%+v: %d jobs", r, n)
			}
		}
		for _, j := range others {
			if !slices.Contains(jobs, j) {
				t.Fatalf("%+v is not ours, and gone", j)
			}
		}
		if len(jobs) != len(want)+len(others) {
			t.Fatalf("%d jobs, want %d and %d of others", len(jobs), len(want), len(others))
		}
		if missing, doubled, unwanted := compare(want, jobs, common); len(missing)+len(doubled)+len(unwanted) != 0 {
			t.Fatalf("not mended: missing %+v, doubled %+v, unwanted %+v", missing, doubled, unwanted)
		}
	}
}
