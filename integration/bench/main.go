// Command bench measures vxcan beside what people use instead, and says how the figures compare.
//
//	bench [-quick] [-out DIR] [-counting COMMAND] [-smp COMMAND]
//
// It runs itself on two machines. -counting runs a command on one whose clock counts instructions, the kernel's
// included: what attaching and a delivered frame cost is measured there, and is the same on every host and under any
// load. -smp runs one on a machine with real CPUs, at least two: order, and losses in a flood.
//
// It prints the figures, and writes them to DIR: every sample to results.json, a chart to chart.svg, and the table to
// README.md, between the two lines that mark its place there.
//
//	bench -where [-counting COMMAND]
//
// tells where the instructions of an ADD go, see where.go.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// bench is the measuring side, on the machine with CAN.
type bench struct {
	quick   bool
	results results

	count  int                   // of network namespaces
	hosts  map[string]bool       // the network namespaces that stand for hosts
	boxes  map[string]attachment // by what is attached there, again and again
	meshes map[string][]string   // the predecessor's host ends by hub
	wires  []topology            // that attaching leaves for carrying

	one, hundredth attached // endpoints to CHECK
}

func main() {
	quick := flag.Bool("quick", false, "fewer rounds, no bus of a thousand")
	where := flag.Bool("where", false, "tell where the instructions of an ADD go")
	measure := flag.String("measure", "", "measure some `parts` here (attaching,carrying,rootless,flooding,where) and write JSON to stdout")
	out := flag.String("out", ".", "`directory` for results.json, chart.svg and the table in README.md")
	counting := flag.String("counting", "bin/vm -suite trixie -qemu -icount", "`command` that runs a command on a machine that counts instructions")
	smp := flag.String("smp", "bin/vm -suite trixie -qemu", "the same on one with several CPUs")
	flag.Parse()
	var err error
	switch {
	case *measure != "":
		err = measureHere(*measure, *quick)
	case *where:
		err = measureBy(strings.Fields(*counting), "where", *quick, new(results))
	default:
		err = measureAndReport(*quick, strings.Fields(*counting), strings.Fields(*smp), *out)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func measureAndReport(quick bool, counting, smp []string, out string) error {
	var r, flood results
	if err := measureBy(counting, "attaching,carrying,rootless", quick, &r); err != nil {
		return err
	}
	if err := measureBy(smp, "flooding", quick, &flood); err != nil {
		return err
	}
	r.SMP = flood.Machine
	for name, all := range flood.Traffic {
		r.Traffic[name] = all
	}
	fmt.Print(r.table(), "\n", r.counts())
	return errors.Join(r.writeJSON(filepath.Join(out, "results.json")), r.writeChart(filepath.Join(out, "chart.svg")),
		r.writeTable(filepath.Join(out, "README.md")))
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
	if os.Getenv("VXCAN_VM") == "" { // it replaces the plugins in /opt/cni/bin
		return errors.New("not on this machine itself: make bench")
	}
	if err := installAndExec(); err != nil {
		return err
	}
	runtime.LockOSThread()  // this thread changes its network namespace
	debug.SetGCPercent(400) // rarely: it would run while something is measured
	b := &bench{
		quick: quick,
		hosts: make(map[string]bool), boxes: make(map[string]attachment), meshes: make(map[string][]string),
		results: newResults(),
	}
	for part := range strings.SplitSeq(parts, ",") {
		var err error
		switch part {
		case "attaching":
			err = b.attaching()
		case "carrying":
			err = b.carrying()
		case "rootless":
			err = b.rootless()
		case "flooding":
			err = b.flooding()
		case "where":
			err = b.where()
		default:
			err = fmt.Errorf("no part %q: want attaching, carrying, rootless, flooding or where", part)
		}
		if err != nil {
			return err
		}
	}
	return json.NewEncoder(os.Stdout).Encode(b.results)
}

// pluginDir is on a file system in memory where the machine counts instructions: to wait for a disk or for another
// machine's files would be counted as time. The reference plugins are those of Debian's containernetworking-plugins.
const (
	pluginDir    = "/opt/cni/bin"
	referenceDir = "/usr/lib/cni"
)

// installAndExec copies the plugins and this program to pluginDir, and goes on as that copy.
func installAndExec() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if filepath.Dir(self) == pluginDir {
		return nil
	}
	files := []string{self, filepath.Join(filepath.Dir(self), "vxcan"), filepath.Join(filepath.Dir(self), "vxcanctl")}
	for _, p := range []plugin{bridge, loopback} {
		files = append(files, filepath.Join(referenceDir, filepath.Base(p.path)))
	}
	if out, err := exec.Command("install", append([]string{"-D", "-t", pluginDir}, files...)...).CombinedOutput(); err != nil {
		return fmt.Errorf("install plugins: %w: %s", err, out)
	}
	if err := predecessorIntoMemory(); err != nil {
		return err
	}
	return unix.Exec(filepath.Join(pluginDir, filepath.Base(self)), os.Args, os.Environ())
}
