package harness

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Rules lists the gateway rules of the host by `cangw -L`, without counters, sorted.
func Rules(t testing.TB) []string {
	t.Helper()
	out, _ := Try("cangw", "-L") // its exit status means nothing
	return SortedRules(out)
}

// SortedRules are the rules in what `cangw -L` says.
func SortedRules(listing string) []string {
	var all []string
	for line := range strings.Lines(listing) {
		// Without can-gw the kernel lists the routes of IP, and cangw complains of each.
		if rule, _, _ := strings.Cut(line, " #"); strings.HasPrefix(rule, "cangw ") {
			all = append(all, strings.TrimSpace(rule))
		}
	}
	slices.Sort(all)
	return all
}

// Filters lists the tc filters of the host's devices, by `tc`, each as the command that makes it, sorted.
func Filters(t testing.TB) []string {
	t.Helper()
	var err error
	for range 3 {
		var all []string
		if all, err = FiltersIn(t); err == nil { // else a device may have gone since it was listed
			return all
		}
	}
	t.Fatal(err)
	return nil
}

// FiltersIn is Filters with options for `ip` and `tc`: -netns and a name.
func FiltersIn(t testing.TB, options ...string) ([]string, error) {
	t.Helper()
	type hook struct{ dev, direction string }
	var hooks []hook
	var batch strings.Builder
	for _, l := range parseLinks(t, Command(t, "ip", append(options, "-details", "-json", "link")...)) {
		for _, direction := range []string{"ingress", "egress"} {
			hooks = append(hooks, hook{l.Name, direction})
			fmt.Fprintf(&batch, "filter show dev %s %s\n", l.Name, direction)
		}
	}
	file := filepath.Join(t.TempDir(), "batch")
	Write(t, file, batch.String())
	out, err := Try("tc", append(options, "-json", "-batch", file)...)
	if err != nil {
		return nil, err
	}
	var all []string
	lists := json.NewDecoder(strings.NewReader(out)) // a list for each hook
	for _, h := range hooks {
		var shown []shownFilter
		if err := lists.Decode(&shown); err != nil {
			t.Fatalf("tc filter show dev %s %s: %v\n%s", h.dev, h.direction, err, out)
		}
		for _, f := range shown {
			if f.Options != nil { // else it is the head of the list of filters of one priority
				all = append(all, fmt.Sprintf("tc filter add dev %s %s pref %d protocol %s %s", h.dev, h.direction, f.Pref, f.Protocol, f.arguments()))
			}
		}
	}
	slices.Sort(all)
	return all, nil
}

// shownFilter is a filter as `tc -json filter show` shows it.
type shownFilter struct {
	Protocol, Kind string
	Pref           int
	Options        *struct {
		Bytecode struct {
			Insns []struct{ Code, Jt, Jf, K uint32 }
		}
		Actions []struct {
			Kind   string
			Mark   uint32
			Mirred string `json:"mirred_action"`
			Where  string `json:"direction"`
			Dev    string `json:"to_dev"`
			After  struct {
				Type string
			} `json:"control_action"`
		}
	}
}

// arguments are those of `tc filter add` from the kind on, with _ for the blanks within one argument.
func (f shownFilter) arguments() string {
	words := []string{f.Kind}
	if f.Kind == "bpf" {
		program := []string{fmt.Sprint(len(f.Options.Bytecode.Insns))}
		for _, op := range f.Options.Bytecode.Insns {
			program = append(program, fmt.Sprintf("%d_%d_%d_%d", op.Code, op.Jt, op.Jf, op.K))
		}
		words = append(words, "bytecode", strings.Join(program, ","))
	}
	for _, a := range f.Options.Actions {
		switch words = append(words, "action"); a.Kind {
		case "gact":
			words = append(words, a.After.Type)
		case "skbedit":
			words = append(words, a.Kind, "mark", fmt.Sprint(a.Mark), a.After.Type)
		case "mirred":
			words = append(words, a.Kind, a.Where, a.Mirred, "dev", a.Dev)
		default:
			words = append(words, a.Kind)
		}
	}
	return strings.Join(words, " ")
}

// ExpectWiring fails the test unless rules and filters are those of a bus on hub, FD or classic, with these host ends, as
// the tables in the README have them.
func ExpectWiring(t testing.TB, fd bool, hub string, hostIfs ...string) {
	t.Helper()
	ExpectLines(t, "gateway rules", Rules(t), WantRules(fd, hub, hostIfs...))
	ExpectLines(t, "filters", Filters(t), WantFilters(t, hub, hostIfs...))
}

// ExpectLines fails the test unless these are the same.
func ExpectLines(t testing.TB, what string, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s:\n%s\nwant:\n%s", what, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// Merge is all lines of both, sorted, each once.
func Merge(a, b []string) []string {
	return slices.Compact(slices.Sorted(slices.Values(slices.Concat(a, b))))
}

// Wiring is the host's gateway rules and filters.
func Wiring(t testing.TB) []string {
	t.Helper()
	return slices.Concat(Rules(t), Filters(t))
}

// WantRules is what the topology says, written as cangw commands and independent of the code.
func WantRules(fd bool, hub string, hostIfs ...string) []string {
	modes := []string{""}
	if fd {
		modes = append(modes, " -X")
	}
	var all []string
	for _, mode := range modes {
		all = append(all,
			fmt.Sprintf("cangw -A -s %s -d %s-tx%s -i -l 1", hub, hub, mode),
			fmt.Sprintf("cangw -A -s %s-rx -d %s%s -e -i -l 1", hub, hub, mode))
		for _, hostIf := range hostIfs {
			all = append(all, fmt.Sprintf("cangw -A -s %s-rx -d %s%s -i -l 1", hub, hostIf, mode))
		}
	}
	slices.Sort(all)
	return all
}

// WantFilters is what the topology says, written as tc commands. What a member sends has the ifindex of its device as a
// mark, and what comes back with it is dropped. Error frames go no further than the host end.
func WantFilters(t testing.TB, hub string, hostIfs ...string) []string {
	t.Helper()
	const anyFrame, noErrorFrame = "1,6_0_0_4294967295", "4,48_0_0_3,69_1_0_32,6_0_0_4294967295,6_0_0_0"
	index := make(map[string]int)
	for _, l := range Links(t) {
		index[l.Name] = l.Index
	}
	ingress := func(dev, program, after string) string {
		return fmt.Sprintf("tc filter add dev %s ingress pref 1 protocol all bpf bytecode %s action skbedit mark %d %s", dev, program, index[dev], after)
	}
	own := func(dev string) string {
		return fmt.Sprintf("tc filter add dev %s egress pref 1 protocol all bpf bytecode 4,32_0_0_4294963220,21_0_1_%d,6_0_0_4294967295,6_0_0_0 action drop", dev, index[dev])
	}
	all := []string{ingress(hub, anyFrame, "continue"), own(hub)}
	for _, hostIf := range hostIfs {
		all = append(all, ingress(hostIf, noErrorFrame, "pipe action mirred egress redirect dev "+hub+"-tx"), own(hostIf))
	}
	slices.Sort(all)
	return all
}

// ExpectBus fails the test unless there is one bus, of this hub, with n endpoints and exactly its rules and filters.
func ExpectBus(t testing.TB, hub string, n int) {
	t.Helper()
	hostIfs := HostEnds(t)
	if len(hostIfs) != n {
		t.Errorf("%d endpoints, want %d: %v", len(hostIfs), n, CANLinks(t))
	}
	ExpectWiring(t, true, hub, hostIfs...)
}

// ExpectUnused fails the test unless these hubs are what is left on the host, without an endpoint or a record of one.
func ExpectUnused(t testing.TB, hubs ...string) {
	t.Helper()
	var devices, wantedRules, wantedFilters []string
	for _, hub := range hubs {
		devices = append(devices, hub, hub+"-rx", hub+"-tx")
		wantedRules = Merge(wantedRules, WantRules(true, hub))
		wantedFilters = Merge(wantedFilters, WantFilters(t, hub))
	}
	if files := RecordFiles(t); len(files) > 0 {
		t.Errorf("left behind: %v", files)
	}
	ExpectLines(t, "devices", CANLinks(t), devices)
	ExpectLines(t, "gateway rules", Rules(t), wantedRules)
	ExpectLines(t, "filters", Filters(t), wantedFilters)
}
