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
	"unsafe"

	"github.com/containernetworking/plugins/pkg/ns"
	"golang.org/x/sys/unix"
)

// carrying measures the CPU time of a delivered frame.
func (b *bench) carrying() error {
	repeats, frames := 9, 1000
	if b.quick {
		repeats, frames = 3, 500
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
	fmt.Fprintln(os.Stderr)
	return nil
}

// napTime is how long a receiver of a paced bus sleeps at a time.
const napTime = 250 * time.Millisecond

// paced is the pace of a busy bus in frames a second: 80 % of 1 Mbit/s, with 8 bytes of data. To look at the clock takes
// as long as to send on some machines, so they go by pacedBatch.
const (
	paced      = 6500
	pacedBatch = 20
)

// keeping sends at the pace of a busy bus, for as long as it takes to be sure of it.
func (b *bench) keeping() error {
	seconds := 60
	if b.quick {
		seconds = 5
	}
	for _, receivers := range []int{5, 30} { // how many of them leave time to keep the pace is up to the machine
		star, err := b.star(1 + receivers)
		if err != nil {
			return err
		}
		fmt.Fprintf(os.Stderr, "sending %d frames at %d frames/s to %d receivers\n", seconds*paced, paced, receivers)
		name := fmt.Sprintf("paced, %d receivers", receivers)
		if b.results.Traffic[name], err = send(star, 1, seconds*paced, paced); err != nil {
			return err
		}
	}
	return nil
}

// ordering measures latency, and floods the bus from two stations at once, on several CPUs.
func (b *bench) ordering() error {
	repeats, frames, floods := 15, 300, 15
	if b.quick {
		repeats, frames, floods = 5, 100, 3
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
	fmt.Fprintln(os.Stderr)
	for i := range floods {
		fmt.Fprintf(os.Stderr, "\rsending without a gap: round %d of %d ", i+1, floods)
		disagree := make(map[string]int)
		for _, t := range []topology{star, mesh} {
			flood, err := send(t, 2, 5000, 0)
			if err != nil {
				return err
			}
			disagree[t.name] = flood.Disagree
			b.results.Traffic["flood, "+t.name] = b.results.Traffic["flood, "+t.name].plus(flood)
		}
		b.results.Ratios["order ÷ mesh"] = append(b.results.Ratios["order ÷ mesh"], float64(disagree["star"])/float64(max(1, disagree["mesh"])))
	}
	fmt.Fprintln(os.Stderr)
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
func frame(sender, number uint32) (b [frameSize]byte) {
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
		one := frame(0, uint32(i))
		if _, err := unix.Write(sender, one[:]); err != nil {
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
	batch := newBatch()
	for {
		got, err := batch.receive(fd)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return n, nil
		case err != nil && !errors.Is(err, unix.EINTR):
			return n, err
		}
		for i := range got {
			each(batch.frames[i][:])
		}
		n += got
	}
}

// batch is many frames that one system call takes from a socket, or sends: it costs more than a frame.
type batch struct {
	headers [64]struct { // struct mmsghdr, recvmmsg(2)
		unix.Msghdr
		length uint32
	}
	vectors [64]unix.Iovec
	frames  [64][frameSize]byte
}

func newBatch() *batch {
	b := new(batch)
	for i := range b.headers {
		b.vectors[i].Base = &b.frames[i][0]
		b.vectors[i].SetLen(frameSize)
		b.headers[i].Iov = &b.vectors[i]
		b.headers[i].SetIovlen(1)
	}
	return b
}

// receive waits for a frame and takes as many as there are.
func (b *batch) receive(fd int) (n int, err error) {
	return b.call(unix.SYS_RECVMMSG, fd, len(b.headers), unix.MSG_WAITFORONE)
}

// send sends the first n frames.
func (b *batch) send(fd, n int) error {
	sent, err := b.call(unix.SYS_SENDMMSG, fd, n, 0)
	if err == nil && sent < n {
		err = fmt.Errorf("only %d of %d frames were sent", sent, n)
	}
	return err
}

func (b *batch) call(number uintptr, fd, n, flags int) (done int, err error) {
	got, _, errno := unix.Syscall6(number, uintptr(fd), uintptr(unsafe.Pointer(&b.headers)), uintptr(n), uintptr(flags), 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(got), nil
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
		one := frame(0, uint32(i))
		if _, err := unix.Write(sender, one[:]); err != nil {
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
				each = pacedBatch
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

func (r traffic) plus(o traffic) traffic {
	return traffic{
		r.Sent + o.Sent, r.Heard + o.Heard, r.Lost + o.Lost, r.Doubled + o.Doubled,
		max(r.PerSecond, o.PerSecond), r.OutOfOrder + o.OutOfOrder, r.Disagree + o.Disagree,
	}
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
