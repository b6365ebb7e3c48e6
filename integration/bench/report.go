package main

import (
	"encoding/json"
	"fmt"
	"image/color"
	"math"
	"os"
	"slices"
	"strings"
	"time"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
)

// goal is a figure and how far it may go.
type goal struct {
	name  string
	most  float64 // negative: at least so much
	value func(r *results) (value, spread float64, unit string)
}

// ratio is the median of ratios within rounds, and their interquartile range.
func ratio(name string) func(r *results) (float64, float64, string) {
	return func(r *results) (float64, float64, string) {
		all := slices.Sorted(slices.Values(r.Ratios[name]))
		if len(all) == 0 {
			return 0, 0, "not measured"
		}
		return all[len(all)/2], all[len(all)*3/4] - all[len(all)/4], ""
	}
}

func lostOrDoubled(name string) func(r *results) (float64, float64, string) {
	return func(r *results) (float64, float64, string) {
		t, ok := r.Traffic[name]
		if !ok {
			return 0, 0, "not measured"
		}
		return float64(t.Lost + t.Doubled), 0, fmt.Sprintf("of %d heard, sent at %d/s", t.Heard, t.PerSecond)
	}
}

var goals = []goal{
	{"ADD, 1st endpoint on a warm hub ÷ bridge ADD", 0.6, ratio("ADD ÷ bridge ADD")},
	{"ADD ÷ own VERSION", 1.25, ratio("ADD ÷ VERSION")},
	{"ADD ÷ (VERSION + floor)", 1.25, ratio("ADD ÷ (VERSION + floor)")},
	{"ADD with 100 endpoints ÷ ADD with 1, each over VERSION", 1.1, ratio("ADD 100 ÷ 1")},
	{"predecessor's attach ÷ ADD, 1 endpoint", -5, ratio("predecessor ÷ ADD, 1")},
	{"predecessor's attach ÷ ADD, 30 endpoints", -40, ratio("predecessor ÷ ADD, 30")},
	{"cold ADD ÷ warm ADD", 1.5, ratio("cold ÷ warm")},
	{"DEL ÷ bridge DEL", 0.9, ratio("DEL ÷ bridge DEL")},
	{"CHECK with 100 endpoints ÷ with 1", 2, ratio("CHECK 100 ÷ 1")},
	{"gateway rules for 100 endpoints", 404, func(r *results) (float64, float64, string) { return float64(r.Rules), 0, "" }},
	{"CPU time of a delivered frame ÷ predecessor's mesh, 30 receivers", 0.8, ratio("delivery ÷ mesh")},
	{"one-way latency ÷ bare pair", 2.5, ratio("latency ÷ bare pair")},
	{"lost or doubled in a minute's traffic (80 % of 1 Mbit/s), 5 receivers", 0, lostOrDoubled("paced, 5 receivers")},
	{"lost or doubled in a minute's traffic (80 % of 1 Mbit/s), 30 receivers", 0, lostOrDoubled("paced, 30 receivers")},
	{"lost or doubled in a flood, 2 senders, 10 receivers", 0, lostOrDoubled("flood, star")},
	{"frames of one sender out of order", 0, func(r *results) (float64, float64, string) {
		n := 0
		for _, t := range r.Traffic {
			n += t.OutOfOrder
		}
		return float64(n), 0, ""
	}},
	{"two senders' frames in different order at two receivers ÷ mesh", 1, func(r *results) (float64, float64, string) {
		value, spread, unit := ratio("order ÷ mesh")(r)
		if star, mesh := r.Traffic["flood, star"], r.Traffic["flood, mesh"]; unit == "" {
			unit = fmt.Sprintf("(%d and %d of %d)", star.Disagree, mesh.Disagree, star.Sent)
		}
		return value, spread, unit
	}},
	{"peak memory of an ADD", 15, func(r *results) (float64, float64, string) { return float64(r.PeakKiB) / 1024, 0, "MiB" }},
	{"bin/vxcan, stripped", 4, func(r *results) (float64, float64, string) { return float64(r.BinaryBytes) / (1 << 20), 0, "MiB" }},
}

// table is the figures as a Markdown table, and the times they come from.
func (r *results) table() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\n| figure | at most | measured | spread | |\n| --- | --- | --- | --- | --- |\n", r.Machine)
	for _, g := range goals {
		value, spread, unit := g.value(r)
		limit, ok := fmt.Sprintf("%g", g.most), value <= g.most
		if g.most < 0 {
			limit, ok = fmt.Sprintf("at least %g", -g.most), value >= -g.most
		}
		verdict := "reached"
		if unit == "not measured" {
			verdict = unit
		} else if !ok {
			verdict = "missed"
		}
		fmt.Fprintf(&b, "| %s | %s | %.3g %s | %.2g | %s |\n", g.name, limit, value, unit, spread, verdict)
	}
	b.WriteString("\n| time | median | first to third quartile |\n| --- | --- | --- |\n")
	for _, name := range r.names() {
		all := slices.Sorted(slices.Values(r.Samples[name]))
		fmt.Fprintf(&b, "| %s | %v | %v to %v |\n", name, short(median(all)), short(all[len(all)/4]), short(all[len(all)*3/4]))
	}
	return b.String()
}

func short(d time.Duration) time.Duration {
	switch {
	case d > 10*time.Millisecond:
		return d.Round(100 * time.Microsecond)
	case d > 10*time.Microsecond:
		return d.Round(100 * time.Nanosecond)
	}
	return d
}

// names are what was timed, fastest first.
func (r *results) names() []string {
	var names []string
	for name := range r.Samples {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int { return int(median(r.Samples[a]) - median(r.Samples[b])) })
	return names
}

func (r *results) writeJSON(path string) error {
	data, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(data, '\n'), 0o644)
}

// writeChart draws how long an attach takes, by whom.
func (r *results) writeChart(path string) error {
	ours, theirs := color.RGBA{R: 0x1f, G: 0x77, B: 0xb4, A: 0xff}, color.Gray{Y: 0xa0}
	bars := []struct {
		label, sample string
		color         color.Color
	}{
		{"netlink\nfloor", "floor: netlink of an ADD", ours},
		{"vxcan\nVERSION", "VERSION", ours},
		{"vxcan\nADD", "warm ADD", ours},
		{"vxcan ADD\n100 there", "100 endpoints ADD", ours},
		{"vxcan ADD\ncold", "cold ADD", ours},
		{"loopback", "loopback ADD", theirs},
		{"bridge", "bridge ADD", theirs},
		{"ptp", "ptp ADD", theirs},
		{"predecessor\n1 there", "predecessor, 1 endpoint", theirs},
		{"predecessor\n30 there", "predecessor, 30 endpoints", theirs},
	}
	var values []float64
	var labels []string
	for _, bar := range bars {
		all := r.Samples[bar.sample]
		if len(all) == 0 {
			return fmt.Errorf("chart: %s was not measured", bar.sample)
		}
		values = append(values, float64(median(all))/float64(time.Millisecond))
		labels = append(labels, bar.label)
	}
	p := plot.New()
	p.Title.Text = "Attaching a container, median in ms (log scale)\n" + r.Machine
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
		bar.Width, bar.Color = vg.Points(36), bars[i].color
		p.Add(bar)
	}
	p.X.Min, p.X.Max = -0.5, float64(len(values))-0.5
	return p.Save(28*vg.Centimeter, 12*vg.Centimeter, path)
}
