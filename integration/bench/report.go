package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"image/color"
	"math"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
)

// results is what is written as JSON.
type results struct {
	Machine string `json:"machine"` // that counts instructions
	SMP     string `json:"smp"`     // that has several CPUs
	// Samples are numbers of instructions, by what was counted, one a round.
	Samples map[string][]int64 `json:"samples"`
	// Waits are the nanoseconds that passed in the same samples while the CPU had nothing to do.
	Waits map[string][]int64 `json:"waits"`
	// Faults are the page faults of the same samples, where it is one process.
	Faults  map[string][]int64   `json:"faults"`
	Traffic map[string][]traffic `json:"traffic"`
	// PeakKiB is the peak memory of an ADD, resident.
	PeakKiB int `json:"peakKiB"`
	// BinaryBytes is the size of the stripped plugin.
	BinaryBytes int64 `json:"binaryBytes"`
	// Rules are the gateway rules on the bus with a hundred endpoints.
	Rules int `json:"rules"`
}

func newResults() results {
	return results{
		Machine: machineName(), Samples: make(map[string][]int64), Waits: make(map[string][]int64),
		Faults: make(map[string][]int64), Traffic: make(map[string][]traffic),
	}
}

// machineName is the kernel and the number of CPUs.
func machineName() string {
	out, err := exec.Command("uname", "-srm").Output()
	if err != nil {
		return "unknown"
	}
	return fmt.Sprintf("%s, CPUs: %d", strings.TrimSpace(string(out)), runtime.NumCPU())
}

func (b *bench) note(name string, took cost) {
	b.results.Samples[name] = append(b.results.Samples[name], took.instructions.Nanoseconds())
	b.results.Waits[name] = append(b.results.Waits[name], took.waiting.Nanoseconds())
	if took.faults > 0 {
		b.results.Faults[name] = append(b.results.Faults[name], took.faults)
	}
}

// value is a figure: a number, its spread from first to third quartile, and words to go with it.
type value struct {
	of, from, to float64
	unit         string
	missing      bool
}

// row is a figure of the table and its limit.
type row struct {
	name  string
	most  float64 // negative: at least so much; NaN: none
	value func(r *results) value
}

var rows = []row{
	{"ADD ÷ ADD of `loopback`, which sets one device up and keeps nothing", math.NaN(), ratio("ADD", "loopback ADD")},
	{"ADD ÷ ADD of `bridge`", 0.88, ratio("ADD", "bridge ADD")},
	{"ADD ÷ (VERSION + netlink floor)", math.NaN(), ratio("ADD", "VERSION", "netlink floor")},
	{"ADD with 100 there ÷ with 1", 3, ratio("100 there ADD", "1 there ADD")},
	{"ADD with 1000 there ÷ with 1", 22, ratio("1000 there ADD", "1 there ADD")},
	{"32 ADDs at once ÷ 32 in a row", 1.2, ratio("32 ADDs at once", "32 ADDs in a row")},
	{"cold ADD (no hub, no backplane) ÷ ADD", 1.5, ratio("cold ADD", "ADD")},
	{"DEL ÷ DEL of `bridge`", 0.9, ratio("DEL", "bridge DEL")},
	{"CHECK with 100 there ÷ with 1", 3, ratio("100 there CHECK", "1 there CHECK")},
	{"the predecessor's attach ÷ ADD, with 1 there", -3.8, ratio("predecessor, 1 there", "1 there ADD")},
	{"the predecessor's attach ÷ ADD, with 30 there", -25, ratio("predecessor, 30 there", "1 there ADD")},
	{"a delivered frame, 30 receivers ÷ the predecessor's mesh (0.54 is the floor with can-gw)", 0.58, ratio("delivery, star", "delivery, mesh")},
	{"the same ÷ 30 sockets on one vcan (nobody can do better)", math.NaN(), ratio("delivery, star", "delivery, one vcan")},
	{"a frame written and read ÷ the same on a vxcan pair", 2.5, ratio("passage, star", "passage, bare pair")},
	{"the same with lists of 1 CAN ID each way ÷ without", math.NaN(), ratio("passage, star, lists of 1", "passage, star")},
	{"the same with lists of 50 CAN IDs", math.NaN(), ratio("passage, star, lists of 50", "passage, star")},
	{"the same with lists of 1000 CAN IDs", 1.05, ratio("passage, star, lists of 1000", "passage, star")},
	{"a delivered frame beside a `vxcanctl dump` that reads nothing ÷ without", 1.15, ratio("delivery, star, dump", "delivery, star")},
	{"rootless: ADD ÷ ADD", math.NaN(), ratio("rootless ADD", "ADD")},
	{"rootless: DEL ÷ DEL", math.NaN(), ratio("rootless DEL", "DEL")},
	{"rootless: a delivered frame ÷ the same", 1.1, ratio("rootless delivery, star", "delivery, star")},
	{"rootless: a frame written and read ÷ the same", 1.1, ratio("rootless passage, star", "passage, star")},
	{"a controller: ADD with a queue for each container ÷ with one for all", math.NaN(), ratio("queue each ADD", "one queue ADD")},
	{"a controller: a frame written and read on the wire ÷ the same", 1.2, ratio("passage, queue each", "passage, one queue")},
	{"lost or doubled on a busy bus, 10 receivers", 0, lostOrDoubled("busy bus")},
	{"lost or doubled in a flood, 2 senders on 2 CPUs, 10 receivers", 0, lostOrDoubled("flood, star")},
	{"frames of one sender out of order", 0, outOfOrder},
	{"frames of two senders in different order at two receivers ÷ mesh", 1, disagreement},
	{"gateway rules for 100 endpoints", 204, func(r *results) value { return exactly(float64(r.Rules), "") }},
	{"peak memory of an ADD, MiB", 15, func(r *results) value { return exactly(float64(r.PeakKiB)/1024, "") }},
	{"size of the plugin, MiB", 4.5, func(r *results) value { return exactly(float64(r.BinaryBytes)/(1<<20), "") }},
}

func exactly(n float64, unit string) value { return value{n, n, n, unit, false} }

// ratio is the median of a sum's ratio to another one's, and its quartiles over the rounds.
func ratio(name string, to ...string) func(r *results) value {
	return func(r *results) value {
		var all []float64
		for i, of := range r.Samples[name] {
			sum := int64(0)
			for _, name := range to {
				if i >= len(r.Samples[name]) {
					return value{missing: true}
				}
				sum += r.Samples[name][i]
			}
			all = append(all, float64(of)/float64(sum))
		}
		if len(all) == 0 {
			return value{missing: true}
		}
		slices.Sort(all)
		return value{of: median(all), from: all[len(all)/4], to: all[len(all)*3/4]}
	}
}

func median[T int64 | float64](all []T) T {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[len(sorted)/2]
}

func lostOrDoubled(name string) func(r *results) value {
	return func(r *results) value {
		n, heard, pace := 0, 0, 0
		for _, t := range r.Traffic[name] {
			n, heard, pace = n+t.Lost+t.Doubled, heard+t.Heard, max(pace, t.PerSecond)
		}
		if heard == 0 {
			return value{missing: true}
		}
		return exactly(float64(n), fmt.Sprintf("of %d heard, sent at %d/s", heard, pace))
	}
}

func outOfOrder(r *results) value {
	if len(r.Traffic) == 0 {
		return value{missing: true}
	}
	n := 0
	for _, all := range r.Traffic {
		for _, t := range all {
			n += t.OutOfOrder
		}
	}
	return exactly(float64(n), "")
}

func disagreement(r *results) value {
	if len(r.Traffic["flood, star"]) == 0 {
		return value{missing: true}
	}
	star, mesh, sent := 0, 0, 0
	for i, t := range r.Traffic["flood, star"] {
		star, mesh, sent = star+t.Disagree, mesh+r.Traffic["flood, mesh"][i].Disagree, sent+t.Sent
	}
	return exactly(float64(star)/float64(max(1, mesh)), fmt.Sprintf("(%d and %d of %d)", star, mesh, sent))
}

// table is the figures in Markdown.
func (r *results) table() string {
	var b strings.Builder
	fmt.Fprintf(&b, "Counted on %s. Flood and order: %s.\n\n", r.Machine, r.SMP)
	b.WriteString("| figure | at most | measured | quartiles | |\n| --- | --- | --- | --- | --- |\n")
	for _, row := range rows {
		v := row.value(r)
		limit, ok := fmt.Sprintf("%.4g", row.most), v.of <= row.most
		switch {
		case math.IsNaN(row.most):
			limit, ok = "–", true
		case row.most < 0:
			limit, ok = fmt.Sprintf("at least %.4g", -row.most), v.of >= -row.most
		}
		verdict, spread := "", ""
		if v.from != v.to {
			spread = fmt.Sprintf("%s to %s", number(v.from), number(v.to))
		}
		measured := strings.TrimSpace(number(v.of) + " " + v.unit)
		switch {
		case v.missing:
			measured, verdict = "", "not measured"
		case !ok:
			verdict = "missed"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", row.name, limit, measured, spread, verdict)
	}
	return b.String()
}

func number(f float64) string {
	if f >= 100 || f == math.Trunc(f) {
		return fmt.Sprintf("%.0f", f)
	}
	return fmt.Sprintf("%.3g", f)
}

// counts are the numbers behind the figures, in Markdown.
func (r *results) counts() string {
	var names []string
	for name := range r.Samples {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int { return int(median(r.Samples[a]) - median(r.Samples[b])) })
	var b strings.Builder
	b.WriteString("| counted | instructions | quartiles | wait | page faults |\n| --- | --- | --- | --- | --- |\n")
	for _, name := range names {
		all := slices.Sorted(slices.Values(r.Samples[name]))
		middle := median(all)
		low, high := all[len(all)/4]-middle, all[len(all)*3/4]-middle
		wait, faults := "", ""
		if ns := time.Duration(median(r.Waits[name])).Round(100 * time.Microsecond); ns > 0 {
			wait = ns.String()
		}
		if n := r.Faults[name]; len(n) > 0 {
			faults = fmt.Sprint(median(n))
		}
		fmt.Fprintf(&b, "| %s | %s | %+.1f to %+.1f %% | %s | %s |\n", name, instructions(middle),
			100*float64(low)/float64(middle), 100*float64(high)/float64(middle), wait, faults)
	}
	return b.String()
}

func instructions(n int64) string {
	if n < 100_000 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%.2f million", float64(n)/1e6)
}

// The table's place in README.md is between these lines.
const tableBegin, tableEnd = "<!-- table: written by bench -->\n", "<!-- end of table -->\n"

// writeTable puts the figures in their place in a text, if there is one.
func (r *results) writeTable(path string) error {
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(text), tableBegin)
	_, after, closed := strings.Cut(rest, tableEnd)
	if !ok || !closed {
		return fmt.Errorf("%s has no place for the table: want the lines %q and %q", path, tableBegin, tableEnd)
	}
	return os.WriteFile(path, []byte(before+tableBegin+"\n"+r.table()+"\n"+r.counts()+"\n"+tableEnd+after), 0o644)
}

// numbers are those of one array, a line each.
var numbers = regexp.MustCompile(`\[[\s\d,]+\]`)

func (r *results) writeJSON(path string) error {
	data, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	data = numbers.ReplaceAllFunc(data, func(array []byte) []byte { return []byte(strings.Join(strings.Fields(string(array)), " ")) })
	return os.WriteFile(path, append(data, '\n'), 0o644)
}

// writeChart draws what an attach takes, by whom.
func (r *results) writeChart(path string) error {
	ours, theirs := color.RGBA{R: 0x1f, G: 0x77, B: 0xb4, A: 0xff}, color.Gray{Y: 0xa0}
	bars := []struct {
		label, sample string
		color         color.Color
	}{
		{"vxcan", "ADD", ours},
		{"vxcan\n100 there", "100 there ADD", ours},
		{"loopback", "loopback ADD", theirs},
		{"bridge", "bridge ADD", theirs},
		{"predecessor\n1 there", "predecessor, 1 there", theirs},
		{"predecessor\n30 there", "predecessor, 30 there", theirs},
	}
	var values []float64
	var labels []string
	for _, bar := range bars {
		all := r.Samples[bar.sample]
		if len(all) == 0 {
			return fmt.Errorf("chart: %s was not measured", bar.sample)
		}
		values = append(values, float64(median(all))/1e6)
		labels = append(labels, fmt.Sprintf("%s\n%.3g", bar.label, values[len(values)-1]))
	}
	p := plot.New()
	p.Title.Text = "Attaching a container: millions of instructions, kernel included (log scale)"
	p.Y.Scale, p.Y.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
	p.Y.Min = math.Pow(10, math.Floor(math.Log10(slices.Min(values))))
	p.Y.Max = math.Pow(10, math.Ceil(math.Log10(slices.Max(values))))
	p.Add(plotter.NewGrid())
	p.NominalX(labels...)
	// plotter.BarChart draws from 0, which a log scale has not: a bar is a thick line from the axis up.
	for i, value := range values {
		bar, err := plotter.NewLine(plotter.XYs{{X: float64(i), Y: p.Y.Min}, {X: float64(i), Y: value}})
		if err != nil {
			return err
		}
		bar.Width, bar.Color = vg.Points(48), bars[i].color
		p.Add(bar)
	}
	p.X.Min, p.X.Max = -0.5, float64(len(values))-0.5
	return p.Save(24*vg.Centimeter, 11*vg.Centimeter, path)
}
