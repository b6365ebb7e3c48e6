package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
)

// Sizes of buses: of a large one, of the largest, and how many containers start at once.
const (
	large   = 100
	largest = 1000
	atOnce  = 32
)

// attaching counts what it takes to attach a container, in rounds of everything, one after the other.
func (b *bench) attaching() error {
	rounds, warmUp := 7, 1
	if b.quick {
		rounds, warmUp = 5, 1
	}
	fmt.Fprintln(os.Stderr, "making the buses")
	if err := b.prepare(); err != nil {
		return err
	}
	for round := range warmUp + rounds {
		fmt.Fprintf(os.Stderr, "attaching: round %d of %d\n", round+1, warmUp+rounds)
		if err := b.round(); err != nil {
			return err
		}
		if round+1 == warmUp {
			clear(b.results.Samples)
			clear(b.results.Waits)
		}
	}
	return nil
}

// The hubs, each on a host of its own.
var (
	empty   = vxcan("vcan0") // warm, with nobody there
	one     = vxcan("vcan1")
	hundred = vxcan("vcan2")
	most    = vxcan("vcan3")
	cold    = vxcan("vcan4")
	crowd   = vxcan("vcan5")
)

// round counts everything once.
func (b *bench) round() error {
	steps := []func() error{
		b.version,
		b.floor,
		func() error { return b.pair("", empty) },
		func() error { return b.pair("loopback ", loopback) },
		func() error { return b.pair("bridge ", bridge) },
		func() error { return b.pair("1 there ", one) },
		func() error { return b.pair("100 there ", hundred) },
		func() error { return b.pair("one queue ", oneQueue) },
		func() error { return b.pair("queue each ", queueEach) },
		func() error { return b.check("1 there CHECK", one, b.one) },
		func() error { return b.check("100 there CHECK", hundred, b.hundredth) },
		b.cold,
		b.together,
		func() error { return b.predecessor("predecessor, 1 there", "pre0", 1) },
		func() error { return b.predecessor("predecessor, 30 there", "pre1", 30) },
	}
	if !b.quick {
		steps = append(steps, func() error { return b.pair("1000 there ", most) })
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) version() error {
	took, _, err := b.call(empty, "VERSION", attachment{"x", "can0"}, nil)
	b.note("VERSION", took)
	return err
}

// pair counts ADD and DEL of one more container.
func (b *bench) pair(name string, p plugin) error {
	a, err := b.box(p.host)
	if err != nil {
		return err
	}
	took, _, err := b.call(p, "ADD", a, nil)
	if err != nil {
		return err
	}
	b.note(name+"ADD", took)
	if took, _, err = b.call(p, "DEL", a, nil); err != nil {
		return err
	}
	b.note(name+"DEL", took)
	return nil
}

func (b *bench) check(name string, p plugin, a attached) error {
	took, _, err := b.call(p, "CHECK", a.attachment, a.result)
	b.note(name, took)
	return err
}

// prepare makes what is there before anything is counted.
func (b *bench) prepare() error {
	info, err := os.Stat(empty.path)
	if err != nil {
		return err
	}
	b.results.BinaryBytes = info.Size()
	if err := b.pair("", empty); err != nil {
		return err
	}
	if err := b.memory(); err != nil {
		return err
	}
	if b.one, err = b.populate(one, 1); err != nil {
		return err
	}
	if b.hundredth, err = b.populate(hundred, large); err != nil {
		return err
	}
	if err := b.on(hundred.host, func() (err error) { b.results.Rules, err = countRules(); return err }); err != nil {
		return err
	}
	if !b.quick {
		if _, err = b.populate(most, largest); err != nil {
			return err
		}
	}
	return errors.Join(b.mesh("pre0", 1), b.mesh("pre1", 30), b.wire("one queue", oneQueue), b.wire("queue each", queueEach))
}

// memory measures the peak memory of an ADD.
func (b *bench) memory() error {
	a, err := b.box(empty.host)
	if err != nil {
		return err
	}
	call, err := empty.ready("ADD", a, nil)
	if err != nil {
		return err
	}
	defer call.close()
	err = b.on(empty.host, func() (err error) { b.results.PeakKiB, err = peakMemory(call); return err })
	if err != nil {
		return err
	}
	_, _, err = b.call(empty, "DEL", a, nil)
	return err
}

// countRules counts a host's gateway rules by cangw.
func countRules() (n int, err error) {
	cmd := exec.Command("cangw", "-L")
	out, err := cmd.Output()
	if cmd.ProcessState == nil { // its exit status means nothing
		return 0, err
	}
	return bytes.Count(out, []byte("cangw -A")), nil
}

// attached is an endpoint that stays.
type attached struct {
	attachment
	result []byte
}

// populate puts n endpoints on a bus, all in one container, and returns the last.
func (b *bench) populate(p plugin, n int) (last attached, err error) {
	id, err := b.netns()
	for i := 0; i < n && err == nil; i++ {
		last, err = b.stay(p, attachment{id, "c" + strconv.Itoa(i)})
	}
	return last, err
}

func (b *bench) stay(p plugin, a attachment) (attached, error) {
	call, err := p.ready("ADD", a, nil)
	if err != nil {
		return attached{}, err
	}
	defer call.close()
	if err := b.on(p.host, call.run); err != nil {
		return attached{}, err
	}
	result, err := call.result()
	return attached{a, result}, err
}

// cold counts an ADD that finds nothing: no hub, no backplane, no record.
func (b *bench) cold() error {
	a, err := b.box(cold.host)
	if err != nil {
		return err
	}
	took, _, err := b.call(cold, "ADD", a, nil)
	if err != nil {
		return err
	}
	b.note("cold ADD", took)
	if _, _, err := b.call(cold, "DEL", a, nil); err != nil {
		return err
	}
	return b.on(cold.host, func() error { // the record has gone with the endpoint
		return errors.Join(run("ip", "link", "del", "vcan4"), run("ip", "link", "del", "vcan4-tx"))
	})
}

// together counts many ADDs to one bus in a row, and at once, as when a host boots.
func (b *bench) together() error {
	for _, how := range []struct {
		name string
		do   func([]*process) error
	}{{"32 ADDs in a row", inARow}, {"32 ADDs at once", allAtOnce}} {
		if err := b.many(how.name, how.do); err != nil {
			return fmt.Errorf("%s: %w", how.name, err)
		}
	}
	return nil
}

func (b *bench) many(name string, do func([]*process) error) error {
	var adds, dels []*process
	for i := range atOnce {
		a, err := b.box(fmt.Sprintf("crowd %d", i))
		if err != nil {
			return err
		}
		for verb, list := range map[string]*[]*process{"ADD": &adds, "DEL": &dels} {
			call, err := crowd.ready(verb, a, nil)
			if err != nil {
				return err
			}
			defer call.close()
			*list = append(*list, call)
		}
	}
	took, err := b.countOn(crowd.host, func() error { return do(adds) })
	if err != nil {
		return err
	}
	b.note(name, took)
	return b.on(crowd.host, func() error { return inARow(dels) })
}

func inARow(calls []*process) error {
	for _, call := range calls {
		if err := call.run(); err != nil {
			return err
		}
		if _, err := call.result(); err != nil {
			return err
		}
	}
	return nil
}

func allAtOnce(calls []*process) error {
	var started []*os.Process
	for _, call := range calls {
		p, err := call.start()
		if err != nil {
			return err
		}
		started = append(started, p)
	}
	for i, call := range calls {
		var err error
		if call.state, err = started[i].Wait(); err != nil {
			return err
		}
		if _, err := call.result(); err != nil {
			return err
		}
	}
	return nil
}
