// Command bench measures vxcan beside what people use instead, all in one run, interleaved, and says how the figures
// compare. Machines differ and have neighbours: only ratios of one run mean anything.
//
//	bench [-quick] [-out DIR] [-vm COMMAND] [-smp COMMAND]
//
// It runs itself on two kernels with CAN: by -smp, which should have several CPUs, for attaching, latency and order, and
// by -vm, which should be fast, for a busy bus. It prints a table, and writes it to DIR as results.json and chart.svg.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"
)

// bench is the measuring side, on the kernel with CAN.
type bench struct {
	quick   bool
	results results

	count  int                 // of network namespaces
	hosts  map[string]ns.NetNS // by the bus or bridge that is there
	boxes  map[string]string   // network namespaces by what is attached there, again and again
	meshes map[string][]string // the predecessor's host ends by hub

	one, hundredth attached // endpoints to CHECK
}

// results is what is written as JSON.
type results struct {
	Machine string `json:"machine"`
	// Samples are times in nanoseconds, by what was measured.
	Samples map[string][]time.Duration `json:"samples"`
	// Ratios are of times that were measured one after the other, by what was compared.
	Ratios  map[string][]float64 `json:"ratios"`
	Traffic map[string]traffic   `json:"traffic"`
	// PeakKiB is the peak memory of an ADD, resident.
	PeakKiB int `json:"peakKiB"`
	// BinaryBytes is the size of the stripped plugin.
	BinaryBytes int64 `json:"binaryBytes"`
	// Rules are the gateway rules on the bus with a hundred endpoints.
	Rules int `json:"rules"`
}

func (b *bench) note(name string, took time.Duration) {
	b.results.Samples[name] = append(b.results.Samples[name], took)
}

func main() {
	quick := flag.Bool("quick", false, "a few minutes instead of a quarter of an hour")
	measure := flag.String("measure", "", "measure some `parts` here (attaching,carrying,ordering,keeping) and write JSON to stdout")
	out := flag.String("out", ".", "`directory` for results.json and chart.svg")
	smp := flag.String("smp", "bin/vm -suite trixie -qemu", "`command` that runs a command on a kernel with CAN and several CPUs")
	vm := flag.String("vm", "bin/vm", "the same on a fast one")
	flag.Parse()
	var err error
	if *measure != "" {
		err = measureHere(*measure, *quick)
	} else {
		err = measureAndReport(*quick, strings.Fields(*smp), strings.Fields(*vm), *out)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func measureAndReport(quick bool, smp, vm []string, out string) error {
	var r, busy results
	if err := measureBy(smp, "attaching,carrying,ordering", quick, &r); err != nil {
		return err
	}
	if err := measureBy(vm, "keeping", quick, &busy); err != nil {
		return err
	}
	r.Machine += "; busy bus: " + busy.Machine
	maps.Copy(r.Samples, busy.Samples)
	maps.Copy(r.Ratios, busy.Ratios)
	maps.Copy(r.Traffic, busy.Traffic)
	fmt.Print(r.table())
	return errors.Join(r.writeJSON(filepath.Join(out, "results.json")), r.writeChart(filepath.Join(out, "chart.svg")))
}

// measureBy runs this program by vm for some parts of the results.
func measureBy(vm []string, parts string, quick bool, r *results) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	args := append(slices.Clone(vm[1:]), self, "-measure", parts, fmt.Sprintf("-quick=%v", quick))
	var stdout bytes.Buffer
	cmd := exec.Command(vm[0], args...)
	cmd.Stdout, cmd.Stderr = &stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", strings.Join(cmd.Args, " "), err)
	}
	return json.Unmarshal(stdout.Bytes(), r)
}

func measureHere(parts string, quick bool) error {
	if os.Getenv("VXCAN_VM") == "" { // it replaces the plugins in /opt/cni/bin, whosever they are
		return errors.New("not on this machine itself: make bench")
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	b := &bench{
		quick: quick,
		hosts: make(map[string]ns.NetNS), boxes: make(map[string]string), meshes: make(map[string][]string),
	}
	b.results = results{
		Machine: machineName(), Samples: make(map[string][]time.Duration),
		Ratios: make(map[string][]float64), Traffic: make(map[string]traffic),
	}
	if err := b.install(filepath.Dir(self)); err != nil {
		return err
	}
	for part := range strings.SplitSeq(parts, ",") {
		var err error
		switch part {
		case "attaching":
			err = b.attaching()
		case "carrying":
			err = b.carrying()
		case "ordering":
			err = b.ordering()
		case "keeping":
			err = b.keeping()
		default:
			err = fmt.Errorf("no part %q: want attaching, carrying, ordering or keeping", part)
		}
		if err != nil {
			return err
		}
	}
	return json.NewEncoder(os.Stdout).Encode(b.results)
}

// attaching measures what it takes to attach a container.
func (b *bench) attaching() error {
	if err := b.prepare(); err != nil {
		return err
	}
	rounds, warmUp := 30, 3
	if b.quick {
		rounds, warmUp = 5, 1
	}
	for round := range warmUp + rounds {
		fmt.Fprintf(os.Stderr, "\rattaching: round %d of %d ", round+1, warmUp+rounds)
		if err := b.control(); err != nil {
			return err
		}
		if round+1 == warmUp {
			clear(b.results.Samples)
			clear(b.results.Ratios)
		}
	}
	fmt.Fprintln(os.Stderr)
	return nil
}
