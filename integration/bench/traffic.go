package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// flooding floods the bus from two stations at once, on several CPUs.
func (b *bench) flooding() error {
	floods := 15
	if b.quick {
		floods = 3
	}
	star, err := b.star(12)
	if err != nil {
		return err
	}
	mesh, err := b.meshOf(12)
	if err != nil {
		return err
	}
	for i := range floods {
		fmt.Fprintf(os.Stderr, "sending without a gap: round %d of %d\n", i+1, floods)
		for _, t := range []topology{star, mesh} {
			flood, err := send(t, 2, 5000, 0)
			if err != nil {
				return err
			}
			b.results.Traffic["flood, "+t.name] = append(b.results.Traffic["flood, "+t.name], flood)
		}
	}
	return nil
}

// The pace of a busy bus in frames a second: 80 % of 1 Mbit/s, with 8 bytes of data. They are sent in batches, as their
// receivers sleep for a while at a time: to wait for each takes more time than the bus.
const (
	pace      = 6500
	paceBatch = 20
	napTime   = 250 * time.Millisecond
)

// traffic is what came of frames sent by some stations and heard by the others.
type traffic struct {
	Sent, Heard, Lost, Doubled int
	PerSecond                  int // frames sent a second, by all senders
	OutOfOrder                 int // frames that came behind a later one of the same sender
	Disagree                   int // frames that two receivers heard in different order, the worst pair
}

// send has the first senders of a topology send so many frames each, rate a second or without a gap if it is 0, and the
// others listen while they do.
func send(t topology, senders, frames int, rate int) (traffic, error) {
	type receiver struct {
		heard [][]uint32 // by sender: the numbers, in order
		order []uint64   // of all: sender and number
		err   error
	}
	receivers := make([]receiver, len(t.stations)-senders)
	var listening, sending sync.WaitGroup
	var done atomic.Bool
	quiet := 500 * time.Millisecond
	if rate > 0 {
		quiet = time.Microsecond
	}
	for i := range receivers {
		r := &receivers[i]
		r.heard = make([][]uint32, senders)
		for from := range r.heard { // to grow them takes time from the sender
			r.heard[from] = make([]uint32, 0, frames)
		}
		fd, err := t.stations[senders+i].open()
		if err != nil {
			return traffic{}, err
		}
		listening.Add(1)
		go func() {
			defer listening.Done()
			defer unix.Close(fd)
			for last := false; r.err == nil && !last; {
				last = done.Load() // one more time, for what is still under way
				if rate > 0 {
					time.Sleep(napTime) // frames wait in its socket; to wake for each of them takes more time than the bus
				}
				_, r.err = drain(fd, quiet, func(f []byte) {
					from, number := binary.NativeEndian.Uint32(f[0:4])-0x100, binary.NativeEndian.Uint32(f[8:12])
					if int(from) < senders {
						r.heard[from] = append(r.heard[from], number)
						if senders > 1 {
							r.order = append(r.order, uint64(from)<<32|uint64(number))
						}
					}
				})
			}
		}()
	}
	errs := make([]error, senders)
	start := time.Now()
	for i := range senders {
		fd, err := t.stations[i].open()
		if err != nil {
			return traffic{}, err
		}
		defer unix.Close(fd)
		sending.Add(1)
		go func() {
			defer sending.Done()
			runtime.LockOSThread()
			each := 1
			if rate > 0 {
				each = paceBatch
			}
			batch := newBatch()
			for n := 0; n < frames && errs[i] == nil; n += each {
				if rate > 0 {
					time.Sleep(time.Until(start.Add(time.Duration(n) * time.Second / time.Duration(rate))))
				}
				now := min(each, frames-n)
				for j := range now {
					batch.frames[j] = frame(uint32(i), uint32(n+j))
				}
				errs[i] = batch.send(fd, now)
			}
		}()
	}
	sending.Wait()
	took := time.Since(start)
	done.Store(true)
	listening.Wait()
	result := traffic{Sent: senders * frames, PerSecond: int(float64(senders*frames) / took.Seconds())}
	for i := range receivers {
		errs = append(errs, receivers[i].err)
		for _, numbers := range receivers[i].heard {
			result.count(numbers, frames)
		}
	}
	for i := range receivers {
		for j := range i {
			result.Disagree = max(result.Disagree, disagreements(receivers[i].order, receivers[j].order))
		}
	}
	return result, errors.Join(errs...)
}

func (r *traffic) count(numbers []uint32, frames int) {
	seen := make([]int, frames)
	latest := -1
	for _, n := range numbers {
		seen[n]++
		if int(n) < latest {
			r.OutOfOrder++
		}
		latest = max(latest, int(n))
	}
	for _, n := range seen {
		switch {
		case n == 0:
			r.Lost++
		case n > 1:
			r.Doubled++
		}
	}
	r.Heard += len(numbers)
}

// disagreements is how few frames would have to be left out for two receivers to have heard all others in one order:
// those that are not in a longest common subsequence.
func disagreements(a, b []uint64) int {
	place := make(map[uint64]int, len(a))
	for i, frame := range a {
		place[frame] = i
	}
	// Each frame comes once, so what is common is what rises in a's places; ends[n] is the lowest place that n+1 of
	// them can end at.
	var ends []int
	for _, frame := range b {
		if i, ok := place[frame]; ok {
			if n, _ := slices.BinarySearch(ends, i); n < len(ends) {
				ends[n] = i
			} else {
				ends = append(ends, i)
			}
		}
	}
	return max(len(a), len(b)) - len(ends)
}
