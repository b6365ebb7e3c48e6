package main

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// where tells where the instructions of an ADD go: what calls take that end earlier, and which functions the CPU is in
// while an ADD runs.
func (b *bench) where() error {
	if err := b.pair("", empty); err != nil { // makes hub and backplane
		return err
	}
	calls := 200
	if b.quick {
		calls = 20
	}
	for range calls / 10 {
		if err := b.stages(); err != nil {
			return err
		}
	}
	fmt.Fprintln(os.Stderr, b.results.counts())
	p, err := newProfiler()
	if err != nil {
		return err
	}
	defer p.close()
	for _, verb := range []string{"VERSION", "ADD"} {
		if err := b.profile(p, verb, calls); err != nil {
			return err
		}
	}
	return nil
}

// stages counts calls that each do a bit more.
func (b *bench) stages() error {
	a, err := b.box("where")
	if err != nil {
		return err
	}
	refused := empty
	refused.conf = strings.Replace(empty.conf, "hub", "bus", 1)
	for _, stage := range []struct {
		name, verb string
		p          plugin
		a          attachment
	}{
		{"VERSION", "VERSION", empty, a},
		{"ADD, refused for its configuration", "ADD", refused, a},
		{"ADD, refused for its netns", "ADD", empty, attachment{"nobody", "can0"}},
		{"ADD", "ADD", empty, a},
		{"ADD again, nothing to do", "ADD", empty, a},
		{"DEL", "DEL", empty, a},
		{"DEL again, nothing to do", "DEL", empty, a},
	} {
		call, err := stage.p.ready(stage.verb, stage.a, nil)
		if err != nil {
			return err
		}
		took, err := b.countOn(stage.p.host, call.run)
		if err != nil {
			return err
		}
		took.faults = faultsOf(call)
		call.close()
		b.note(stage.name, took)
	}
	return nil
}

// profile prints which functions the CPU is in while a plugin is called, of the plugin's own process.
func (b *bench) profile(p *profiler, verb string, calls int) error {
	a, err := b.box("where")
	if err != nil {
		return err
	}
	symbols, err := newSymbols(empty.path)
	if err != nil {
		return err
	}
	in, under := make(map[string]int), make(map[string]int) // samples by function: the innermost, and all of the chain
	total, kernel := 0, 0
	for range calls {
		call, err := empty.ready(verb, a, nil)
		if err != nil {
			return err
		}
		if err := p.switchTo(unix.PERF_EVENT_IOC_ENABLE); err != nil {
			return err
		}
		_, err = b.countOn(empty.host, call.run)
		if err := p.switchTo(unix.PERF_EVENT_IOC_DISABLE); err != nil {
			return err
		}
		if err == nil {
			_, err = call.result()
		}
		if err != nil {
			return err
		}
		for _, chain := range p.samples(call.state.Pid()) {
			seen := make(map[string]bool)
			for i, ip := range chain {
				name := symbols.name(ip)
				if i == 0 {
					in[name]++
					total++
					if isKernel(ip) {
						kernel++
					}
				}
				if !seen[name] {
					under[name]++
				}
				seen[name] = true
			}
		}
		call.close()
		if verb == "ADD" {
			if _, _, err := b.call(empty, "DEL", a, nil); err != nil {
				return err
			}
			p.samples(0)
		}
	}
	fmt.Fprintf(os.Stderr, "%s: %d samples of %d calls, %.1f %% of them in the kernel\n", verb, total, calls, percent(kernel, total))
	fmt.Fprintln(os.Stderr, "in the function itself:")
	printSamples(in, total, 40)
	fmt.Fprintln(os.Stderr, "in the function or what it calls:")
	printSamples(under, total, 150)
	return nil
}

func printSamples(by map[string]int, total, most int) {
	names := slices.SortedFunc(maps.Keys(by), func(a, b string) int { return by[b] - by[a] })
	for _, name := range names[:min(len(names), most)] {
		fmt.Fprintf(os.Stderr, "\t%5.2f %%  %s\n", percent(by[name], total), name)
	}
}

func percent(part, of int) float64 { return 100 * float64(part) / float64(max(1, of)) }
