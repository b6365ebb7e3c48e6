package plan

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

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
		"no hub": {
			[]member{{dev: a, access: anyAccess()}, {dev: b, access: anyAccess()}},
			[]cangw.Rule{{Src: rx, Dst: a, Flags: tok, Hops: 1}, {Src: rx, Dst: b, Flags: tok, Hops: 1}},
		},
		"controller": {
			[]member{{dev: hub, hub: true, controller: true}, {dev: a, access: anyAccess()}},
			[]cangw.Rule{
				{Src: hub, Dst: tx, Flags: tok, Filter: ErrorFrames, Hops: 1}, {Src: hub, Dst: tx, Flags: tok, Hops: 1},
				{Src: rx, Dst: hub, Flags: echo | tok, Hops: 1},
				{Src: rx, Dst: a, Flags: tok, Filter: ErrorFrames, Hops: 1}, {Src: rx, Dst: a, Flags: tok, Hops: 1},
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

func noBackplane(uint32) bool { return false }

func TestCompare(t *testing.T) {
	want := rules(common, []member{hubFD, {dev: a, fd: true, access: anyAccess()}})
	modified := func(r cangw.Rule) cangw.Job { return cangw.Job{Rule: r, Raw: "modified"} }
	bypass := cangw.Rule{Src: hub, Dst: a} // of someone who connects the two in his own way
	unlimited := want[0]
	unlimited.Hops = 0
	filtered := want[0]
	filtered.Filter = cangw.Filter{ID: 0x123, Mask: 0x7ff}
	gone := rules(common, []member{{dev: b, access: anyAccess()}})
	for name, test := range map[string]struct {
		jobs                       []cangw.Job
		missing                    []cangw.Rule
		doubled, unwanted, foreign []cangw.Job
	}{
		"nothing there":           {jobs: nil, missing: want},
		"all there":               {jobs: plain(want...)},
		"one missing":             {jobs: plain(append(slices.Clone(want[:3]), want[4:]...)...), missing: want[3:4]},
		"one without a hop limit": {jobs: plain(append([]cangw.Rule{unlimited}, want[1:]...)...), missing: want[:1], unwanted: plain(unlimited)},
		"one twice":               {jobs: plain(append(want[2:3:3], want...)...), doubled: plain(want[2])},
		"one three times":         {jobs: plain(append([]cangw.Rule{want[2], want[2]}, want...)...), doubled: plain(want[2], want[2])},
		"other people's":          {jobs: plain(append([]cangw.Rule{bypass, bypass, {Src: b, Dst: c}}, want...)...), foreign: plain(bypass, bypass)},
		"of who has left":         {jobs: plain(append(slices.Clone(gone), want...)...), unwanted: plain(gone...)},
		"with another flag":       {jobs: plain(append([]cangw.Rule{{Src: rx, Dst: a, Flags: cangw.Echo}}, want...)...), unwanted: plain(cangw.Rule{Src: rx, Dst: a, Flags: cangw.Echo})},
		"with a filter":           {jobs: plain(append([]cangw.Rule{filtered}, want[1:]...)...), missing: want[:1], unwanted: plain(filtered)},
		"modified, beside":        {jobs: append(plain(want...), modified(want[0])), unwanted: []cangw.Job{modified(want[0])}},
		"modified, instead":       {jobs: append(plain(want[1:]...), modified(want[0])), missing: want[:1], unwanted: []cangw.Job{modified(want[0])}},
		"modified, of no rule":    {jobs: append(plain(want...), modified(cangw.Rule{Src: tx, Dst: rx})), unwanted: []cangw.Job{modified(cangw.Rule{Src: tx, Dst: rx})}},
		"modified, elsewhere":     {jobs: append(plain(want...), modified(cangw.Rule{Src: b, Dst: c}))},
	} {
		missing, doubled, unwanted, foreign := compare(want, test.jobs, common, hub, noBackplane)
		for what, diff := range map[string]string{
			"missing": cmp.Diff(test.missing, missing, cmpopts.EquateEmpty()), "doubled": cmp.Diff(test.doubled, doubled, cmpopts.EquateEmpty()),
			"unwanted": cmp.Diff(test.unwanted, unwanted, cmpopts.EquateEmpty()), "foreign": cmp.Diff(test.foreign, foreign, cmpopts.EquateEmpty()),
		} {
			if diff != "" {
				t.Errorf("%s: %s (- want, + got)\n%s", name, what, diff)
			}
		}
	}
	if len(want) != 6 || want[0].Src != hub {
		t.Errorf("compare changed its argument: %+v", want)
	}
}

func plain(rules ...cangw.Rule) (jobs []cangw.Job) {
	for _, r := range rules {
		jobs = append(jobs, cangw.Job{Rule: r, Plain: true})
	}
	return jobs
}

// Without a backplane nothing is ours.
func TestCompareNoBackplane(t *testing.T) {
	jobs := []cangw.Job{{Rule: cangw.Rule{Src: hub, Dst: tx}, Plain: true}}
	if missing, doubled, unwanted, _ := compare(nil, jobs, backplane{}, hub, noBackplane); len(missing)+len(doubled)+len(unwanted) != 0 {
		t.Errorf("%+v, %+v, %+v", missing, doubled, unwanted)
	}
}

// Whatever jobs there are: what compare says, done, makes every wanted rule one job, leaves nothing else on the backplane,
// and touches nobody else's.
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
			if !touches(j.Rule, common) {
				others = append(others, j)
			}
		}
		missing, doubled, unwanted, _ := compare(want, jobs, common, hub, noBackplane)
		for _, j := range append(doubled, unwanted...) {
			i := slices.Index(jobs, j)
			jobs = slices.Delete(jobs, i, i+1)
		}
		jobs = append(jobs, plain(missing...)...)
		for _, j := range append(plain(want...), others...) {
			i := slices.Index(jobs, j)
			if i < 0 {
				t.Fatalf("%+v is missing", j)
			}
			jobs = slices.Delete(jobs, i, i+1)
		}
		if len(jobs) > 0 {
			t.Fatalf("left over: %+v", jobs)
		}
	}
}
