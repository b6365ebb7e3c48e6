package bus

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vxcan/vxcan/pkg/cangw"
)

// Devices of the tests: the common backplane, the hub, and a to d.
const (
	tx, rx   = 101, 102
	hub      = 1
	a, b, c  = 11, 12, 13
	d        = 14
	dTx, dRx = 104, 105
)

var (
	common = backplane{tx: tx, rx: rx}
	hubFD  = member{dev: hub, hub: true, fd: true}
)

func TestRules(t *testing.T) {
	const fd, tok, echo = cangw.FD, cangw.IIFTxOK, cangw.Echo
	hubRules := []cangw.Rule{
		{Src: hub, Dst: tx, Flags: tok}, {Src: hub, Dst: tx, Flags: tok | fd},
		{Src: rx, Dst: hub, Flags: echo}, {Src: rx, Dst: hub, Flags: echo | fd},
	}
	for name, test := range map[string]struct {
		members []member
		want    []cangw.Rule
	}{
		"nobody":   {nil, nil},
		"hub only": {[]member{hubFD}, hubRules},
		"classic hub and endpoint": {
			[]member{{dev: hub, hub: true}, {dev: a}},
			[]cangw.Rule{
				{Src: hub, Dst: tx, Flags: tok}, {Src: rx, Dst: hub, Flags: echo},
				{Src: a, Dst: tx, Flags: tok}, {Src: rx, Dst: a},
			},
		},
		"endpoints of both kinds": {
			[]member{hubFD, {dev: a, fd: true}, {dev: b}},
			append(slices.Clone(hubRules),
				cangw.Rule{Src: a, Dst: tx, Flags: tok}, cangw.Rule{Src: a, Dst: tx, Flags: tok | fd},
				cangw.Rule{Src: rx, Dst: a}, cangw.Rule{Src: rx, Dst: a, Flags: fd},
				cangw.Rule{Src: b, Dst: tx, Flags: tok}, cangw.Rule{Src: rx, Dst: b},
			),
		},
		"private backplane": {
			[]member{hubFD, {dev: a}, {dev: d, fd: true, private: backplane{dTx, dRx}}},
			append(slices.Clone(hubRules),
				cangw.Rule{Src: a, Dst: tx, Flags: tok}, cangw.Rule{Src: rx, Dst: a},
				cangw.Rule{Src: d, Dst: dTx, Flags: tok}, cangw.Rule{Src: d, Dst: dTx, Flags: tok | fd},
				cangw.Rule{Src: rx, Dst: d, Flags: tok}, cangw.Rule{Src: rx, Dst: d, Flags: tok | fd},
				cangw.Rule{Src: dRx, Dst: hub, Flags: echo | tok}, cangw.Rule{Src: dRx, Dst: hub, Flags: echo | tok | fd},
				cangw.Rule{Src: dRx, Dst: a, Flags: tok},
			),
		},
		"two private backplanes": {
			[]member{{dev: hub, hub: true}, {dev: c, private: backplane{201, 202}}, {dev: d, private: backplane{dTx, dRx}}},
			[]cangw.Rule{
				{Src: hub, Dst: tx, Flags: tok}, {Src: rx, Dst: hub, Flags: echo},
				{Src: c, Dst: 201, Flags: tok}, {Src: rx, Dst: c, Flags: tok},
				{Src: 202, Dst: hub, Flags: echo | tok}, {Src: 202, Dst: d, Flags: tok},
				{Src: d, Dst: dTx, Flags: tok}, {Src: rx, Dst: d, Flags: tok},
				{Src: dRx, Dst: hub, Flags: echo | tok}, {Src: dRx, Dst: c, Flags: tok},
			},
		},
	} {
		if diff := cmp.Diff(test.want, rules(common, test.members)); diff != "" {
			t.Errorf("%s (- want, + got)\n%s", name, diff)
		}
	}
}

// An endpoint costs four rules, or two on a classic bus, however many there are. No rule is wanted twice.
func TestRulesCount(t *testing.T) {
	for n := range 60 {
		for _, fd := range []bool{false, true} {
			members := []member{{dev: hub, hub: true, fd: fd}}
			for i := range n {
				members = append(members, member{dev: uint32(1000 + i), fd: fd})
			}
			got, want := rules(common, members), 2*n+2
			if fd {
				want = 4*n + 4
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

// glance relies on the youngest endpoint's rules being the last ones.
func TestRulesYoungestLast(t *testing.T) {
	members := []member{hubFD, {dev: a, fd: true}, {dev: b}}
	for i := range members {
		all, older, own := rules(common, members[:i+1]), rules(common, members[:i]), rules(common, members[i:i+1])
		if diff := cmp.Diff(all, append(older, own...)); diff != "" {
			t.Error(diff)
		}
	}
}

func TestCompare(t *testing.T) {
	want := rules(common, []member{hubFD, {dev: a, fd: true}})
	plain := func(rules ...cangw.Rule) (jobs []cangw.Job) {
		for _, r := range rules {
			jobs = append(jobs, cangw.Job{Rule: r, Plain: true, Handled: 7, Dropped: 8, Deleted: 9})
		}
		return jobs
	}
	notPlain := func(r cangw.Rule) []cangw.Job { return []cangw.Job{{Rule: r}} }
	foreign := cangw.Rule{Src: hub, Dst: a} // of someone who connects the two in his own way
	filtered := want[0]
	filtered.Filter = cangw.Filter{ID: 0x123, Mask: 0x7ff}
	gone := rules(common, []member{{dev: b}})
	for name, test := range map[string]struct {
		jobs             []cangw.Job
		missing, surplus []cangw.Rule
	}{
		"nothing there":         {jobs: nil, missing: want},
		"all there":             {jobs: plain(want...)},
		"one missing":           {jobs: plain(append(slices.Clone(want[:3]), want[4:]...)...), missing: want[3:4]},
		"one twice":             {jobs: plain(append(want[2:3:3], want...)...), surplus: want[2:3]},
		"one three times":       {jobs: plain(append([]cangw.Rule{want[2], want[2]}, want...)...), surplus: []cangw.Rule{want[2], want[2]}},
		"other people's":        {jobs: plain(append([]cangw.Rule{foreign, foreign, {Src: b, Dst: c}}, want...)...)},
		"of who has left":       {jobs: plain(append(slices.Clone(gone), want...)...), surplus: gone},
		"with another flag":     {jobs: plain(append([]cangw.Rule{{Src: rx, Dst: a, Flags: cangw.Echo}}, want...)...), surplus: []cangw.Rule{{Src: rx, Dst: a, Flags: cangw.Echo}}},
		"with a filter":         {jobs: plain(append([]cangw.Rule{filtered}, want[1:]...)...), missing: want[:1], surplus: []cangw.Rule{filtered}},
		"not plain, beside":     {jobs: append(notPlain(want[0]), plain(want...)...)},
		"not plain, instead":    {jobs: append(notPlain(want[0]), plain(want[1:]...)...), missing: want[:1]},
		"not plain, of no rule": {jobs: append(notPlain(cangw.Rule{Src: tx, Dst: rx}), plain(want...)...)},
	} {
		missing, surplus := compare(want, test.jobs, common)
		if diff := cmp.Diff(test.missing, missing, cmpEmpty); diff != "" {
			t.Errorf("%s: missing (- want, + got)\n%s", name, diff)
		}
		if diff := cmp.Diff(test.surplus, surplus, cmpEmpty); diff != "" {
			t.Errorf("%s: surplus (- want, + got)\n%s", name, diff)
		}
	}
	if len(want) != 8 || want[0].Src != hub {
		t.Errorf("compare changed its argument: %+v", want)
	}
}

// cmpEmpty makes no difference between no slice and an empty one.
var cmpEmpty = cmp.FilterValues(func(x, y []cangw.Rule) bool { return len(x)+len(y) == 0 },
	cmp.Comparer(func(x, y []cangw.Rule) bool { return true }))

// Without a backplane nothing is ours.
func TestCompareNoBackplane(t *testing.T) {
	jobs := []cangw.Job{{Rule: cangw.Rule{Src: hub, Dst: tx}, Plain: true}}
	if missing, surplus := compare(nil, jobs, backplane{}); len(missing)+len(surplus) != 0 {
		t.Errorf("%+v, %+v", missing, surplus)
	}
}

// Whatever jobs there are: what compare says, done, makes every wanted rule one job, and touches no one else's.
func TestCompareHeals(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	devices := []uint32{hub, tx, rx, a, b, c, d}
	for range 2000 {
		members := []member{hubFD}
		for _, dev := range []uint32{a, b, c} {
			if random.IntN(2) == 0 {
				members = append(members, member{dev: dev, fd: random.IntN(2) == 0})
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
		missing, surplus := compare(want, jobs, common)
		for _, r := range surplus {
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
		if missing, surplus := compare(want, jobs, common); len(missing)+len(surplus) != 0 {
			t.Fatalf("not healed: missing %+v, surplus %+v", missing, surplus)
		}
	}
}
