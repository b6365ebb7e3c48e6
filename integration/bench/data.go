package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"
	"golang.org/x/sys/unix"
)

// carrying measures the CPU time of a delivered frame, and a busy bus for as long as it takes to be sure of it.
func (b *bench) carrying() error {
	repeats, frames, seconds := 9, 3000, 60
	if b.quick {
		repeats, frames, seconds = 3, 1000, 5
	}
	star, err := b.star(31)
	if err != nil {
		return err
	}
	mesh, err := b.meshOf(31)
	if err != nil {
		return err
	}
	for i := range repeats {
		fmt.Fprintf(os.Stderr, "\rsending: round %d of %d ", i+1, repeats)
		cost := make(map[string]time.Duration)
		for _, t := range []topology{star, mesh} {
			if cost[t.name], err = deliveryCost(t, frames); err != nil {
				return err
			}
			b.note("delivery of a frame, "+t.name, cost[t.name])
		}
		b.ratio("delivery ÷ mesh", cost["star"], cost["mesh"])
	}
	fmt.Fprintf(os.Stderr, "\nsending for %d s at 6500 frames/s\n", seconds)
	const rate = 6500 // 80 % of a bus of 1 Mbit/s, with 8 bytes of data
	b.results.Traffic["paced"], err = send(star, 1, seconds*rate, rate)
	return err
}

// ordering measures latency, and floods the bus from two stations at once, on several CPUs.
func (b *bench) ordering() error {
	repeats, frames, floods := 15, 300, 10_000
	if b.quick {
		repeats, frames, floods = 5, 100, 5000
	}
	star, err := b.star(12)
	if err != nil {
		return err
	}
	mesh, err := b.meshOf(12)
	if err != nil {
		return err
	}
	// The bus of the latency has nobody else on it, as the bare pair has not.
	two, err := b.star(2)
	if err != nil {
		return err
	}
	bare, err := b.bare()
	if err != nil {
		return err
	}
	for i := range repeats {
		fmt.Fprintf(os.Stderr, "\rlatency: round %d of %d ", i+1, repeats)
		delay := make(map[string]time.Duration)
		for _, t := range []topology{bare, two} {
			all, err := latency(t, frames)
			if err != nil {
				return err
			}
			delay[t.name] = median(all)
			b.note("latency, "+t.name, delay[t.name])
		}
		b.ratio("latency ÷ bare pair", delay["star"], delay["bare pair"])
	}
	fmt.Fprintln(os.Stderr, "\nsending without a gap")
	for _, t := range []topology{star, mesh} {
		if b.results.Traffic["flood, "+t.name], err = send(t, 2, floods/2, 0); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) ratio(name string, of, to time.Duration) {
	b.results.Ratios[name] = append(b.results.Ratios[name], float64(of)/float64(to))
}

// topology is a bus to send frames over: every station can hear every other.
type topology struct {
	name     string
	stations []station
}

// station is a container on a bus.
type station struct {
	netns  ns.NetNS
	ifName string
}

// star is n containers on a bus of ours, mesh on one of the predecessor's, and bare is the limit of both: two ends of
// one vxcan pair.
func (b *bench) star(n int) (topology, error) {
	p := b.vxcan(fmt.Sprintf("star%d", n))
	return b.stations("star", n, func() (string, error) {
		a, err := b.stay(p)
		return a.id, err
	})
}

func (b *bench) meshOf(n int) (topology, error) {
	hub := fmt.Sprintf("mesh%d", n)
	if err := b.mesh(hub, 0); err != nil {
		return topology{}, err
	}
	return b.stations("mesh", n, func() (string, error) { return b.meshMember(hub) })
}

func (b *bench) bare() (topology, error) {
	one, err := b.netns()
	if err != nil {
		return topology{}, err
	}
	two, err := b.netns()
	if err != nil {
		return topology{}, err
	}
	err = run("ip", "-netns", one, "link", "add", "can0", "mtu", "72", "up", "type", "vxcan", "peer", "name", "can0", "mtu", "72", "netns", two)
	if err == nil {
		err = run("ip", "-netns", two, "link", "set", "can0", "up")
	}
	if err != nil {
		return topology{}, err
	}
	ids := []string{one, two}
	return b.stations("bare pair", 2, func() (string, error) {
		id := ids[0]
		ids = ids[1:]
		return id, nil
	})
}

func (b *bench) stations(name string, n int, attach func() (id string, err error)) (topology, error) {
	t := topology{name: name}
	for range n {
		id, err := attach()
		if err != nil {
			return t, fmt.Errorf("%s: %w", name, err)
		}
		netns, err := ns.GetNS("/run/netns/" + id)
		if err != nil {
			return t, err
		}
		t.stations = append(t.stations, station{netns, "can0"})
	}
	return t, nil
}

// frameSize is that of struct can_frame, linux/can.h.
const frameSize = 16

// frame is a classic frame: the sender in its ID, a number in its data.
func frame(sender, number uint32) []byte {
	b := make([]byte, frameSize)
	binary.NativeEndian.PutUint32(b[0:4], 0x100+sender)
	b[4] = 8
	binary.NativeEndian.PutUint32(b[8:12], number)
	return b
}

func (s station) open() (fd int, err error) {
	err = s.netns.Do(func(ns.NetNS) error {
		fd, err = unix.Socket(unix.AF_CAN, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.CAN_RAW)
		if err != nil {
			return err
		}
		iface, err := net.InterfaceByName(s.ifName)
		if err != nil {
			return err
		}
		return errors.Join(
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 128<<20),
			unix.Bind(fd, &unix.SockaddrCAN{Ifindex: iface.Index}))
	})
	return fd, err
}

// deliveryCost is the CPU time of one delivered frame, with one sender and all others receiving. A sender pays for
// every delivery itself, so its own CPU time is all there is; the receivers' sockets hold the frames until it is done.
func deliveryCost(t topology, frames int) (perFrame time.Duration, err error) {
	var receivers []int
	for _, s := range t.stations[1:] {
		fd, err := s.open()
		if err != nil {
			return 0, err
		}
		defer unix.Close(fd)
		receivers = append(receivers, fd)
	}
	sender, err := t.stations[0].open()
	if err != nil {
		return 0, err
	}
	defer unix.Close(sender)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before, after unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_THREAD, &before); err != nil {
		return 0, err
	}
	start := time.Now()
	for i := range frames {
		if _, err := unix.Write(sender, frame(0, uint32(i))); err != nil {
			return 0, err
		}
	}
	took := time.Since(start)
	if err := unix.Getrusage(unix.RUSAGE_THREAD, &after); err != nil {
		return 0, err
	}
	if cpu := cpuTime(&after) - cpuTime(&before); cpu > took/2 { // where the kernel accounts softirqs to the thread
		took = cpu
	}
	for _, fd := range receivers {
		n, err := drain(fd, 50*time.Millisecond, func([]byte) {}) // all is in the socket already
		if err != nil || n != frames {
			return 0, fmt.Errorf("%s: a receiver heard %d of %d frames: %v", t.name, n, frames, err)
		}
	}
	return took / time.Duration(frames*len(receivers)), nil
}

func cpuTime(r *unix.Rusage) time.Duration {
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// drain reads frames until none has come for a while.
func drain(fd int, quiet time.Duration, each func(frame []byte)) (n int, err error) {
	tv := unix.NsecToTimeval(quiet.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
		return 0, err
	}
	buf := make([]byte, frameSize)
	for {
		if _, err := unix.Read(fd, buf); errors.Is(err, unix.EAGAIN) {
			return n, nil
		} else if err != nil && !errors.Is(err, unix.EINTR) {
			return n, err
		} else if err == nil {
			n++
			each(buf)
		}
	}
}

// latency is the time from the sender's write to the receiver's read, for frames that go one at a time.
func latency(t topology, frames int) ([]time.Duration, error) {
	sender, err := t.stations[0].open()
	if err != nil {
		return nil, err
	}
	defer unix.Close(sender)
	receiver, err := t.stations[1].open()
	if err != nil {
		return nil, err
	}
	defer unix.Close(receiver)
	arrived := make(chan time.Time)
	go func() {
		runtime.LockOSThread()
		buf := make([]byte, frameSize)
		for range frames {
			if _, err := unix.Read(receiver, buf); err != nil {
				close(arrived)
				return
			}
			arrived <- time.Now()
		}
	}()
	var all []time.Duration
	for i := range frames {
		time.Sleep(time.Millisecond) // let the receiver block
		start := time.Now()
		if _, err := unix.Write(sender, frame(0, uint32(i))); err != nil {
			return nil, err
		}
		at, ok := <-arrived
		if !ok {
			return nil, fmt.Errorf("%s: the receiver failed", t.name)
		}
		all = append(all, at.Sub(start))
	}
	return all, nil
}

// traffic is what came of frames sent by some stations and heard by the others.
type traffic struct {
	Sent, Heard, Lost, Doubled int
	PerSecond                  int // frames sent a second, by all senders
	OutOfOrder                 int // frames that came behind a later one of the same sender
	Disagree                   int // frames of the first two senders that two receivers heard in different order, the worst pair
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
	for i := range receivers {
		r := &receivers[i]
		r.heard = make([][]uint32, senders)
		fd, err := t.stations[senders+i].open()
		if err != nil {
			return traffic{}, err
		}
		listening.Go(func() {
			defer unix.Close(fd)
			for last := false; r.err == nil && !last; {
				last = done.Load() // one more time, for what is still under way
				_, r.err = drain(fd, 500*time.Millisecond, func(f []byte) {
					from, number := binary.NativeEndian.Uint32(f[0:4])-0x100, binary.NativeEndian.Uint32(f[8:12])
					if int(from) < senders {
						r.heard[from] = append(r.heard[from], number)
						r.order = append(r.order, uint64(from)<<32|uint64(number))
					}
				})
			}
		})
	}
	errs := make([]error, senders)
	start := time.Now()
	for i := range senders {
		fd, err := t.stations[i].open()
		if err != nil {
			return traffic{}, err
		}
		defer unix.Close(fd)
		sending.Go(func() {
			runtime.LockOSThread()
			for n := range frames {
				if rate > 0 {
					time.Sleep(time.Until(start.Add(time.Duration(n) * time.Second / time.Duration(rate))))
				}
				if _, errs[i] = unix.Write(fd, frame(uint32(i), uint32(n))); errs[i] != nil {
					return
				}
			}
		})
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

// disagreements is how many places of two receivers' sequences hold different frames.
func disagreements(a, b []uint64) (n int) {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			n++
		}
	}
	return n
}

// machineName is the kernel and the number of CPUs, for the report.
func machineName() string {
	out, err := exec.Command("uname", "-srm").Output()
	if err != nil {
		return "unknown"
	}
	return fmt.Sprintf("%s, %d CPUs", strings.TrimSpace(string(out)), runtime.NumCPU())
}

func median(all []time.Duration) time.Duration {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[len(sorted)/2]
}
