package main

import (
	"bufio"
	"debug/elf"
	"debug/gosym"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// samplePeriod is how many instructions are between two samples. The kernel takes none below 10 000.
const samplePeriod = 10_000

// ringPages is how many pages the records of one call have: a power of two, and more than it fills.
const ringPages = 1 << 13

// profiler samples where the one CPU is, in programs and in the kernel: a software event of
// perf_event_open(2), which needs no counters of the CPU.
type profiler struct {
	fd   int
	ring []byte // a page about it, and the records
}

func newProfiler() (*profiler, error) {
	attr := unix.PerfEventAttr{
		Type: unix.PERF_TYPE_SOFTWARE, Config: unix.PERF_COUNT_SW_CPU_CLOCK, Sample: samplePeriod,
		Sample_type: unix.PERF_SAMPLE_TID | unix.PERF_SAMPLE_CALLCHAIN, Bits: unix.PerfBitDisabled | unix.PerfBitExcludeIdle,
	}
	attr.Size = uint32(unsafe.Sizeof(attr))
	// The kernel sets a lower rate for itself where samples take long; told not to, it takes no other rate either.
	const rate, limit = "/proc/sys/kernel/perf_event_max_sample_rate", "/proc/sys/kernel/perf_cpu_time_max_percent"
	if err := errors.Join(os.WriteFile(rate, []byte("100000"), 0), os.WriteFile(limit, []byte("0"), 0)); err != nil {
		return nil, err
	}
	fd, err := unix.PerfEventOpen(&attr, -1, 0, -1, unix.PERF_FLAG_FD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("perf_event_open: %w", err)
	}
	ring, err := unix.Mmap(fd, 0, os.Getpagesize()*(1+ringPages), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("mmap: %w", err)
	}
	return &profiler{fd, ring}, nil
}

func (p *profiler) close() {
	unix.Munmap(p.ring)
	unix.Close(p.fd)
}

func (p *profiler) switchTo(request uint) error { return unix.IoctlSetInt(p.fd, request, 0) }

// samples are the call chains that were sampled in a process, or in all if pid is 0, each with the innermost function's
// instruction first. It forgets them.
func (p *profiler) samples(pid int) (chains [][]uint64) {
	page := (*unix.PerfEventMmapPage)(unsafe.Pointer(&p.ring[0]))
	data := p.ring[os.Getpagesize():]
	word := func(i uint64) uint64 { return binary.NativeEndian.Uint64(data[i%uint64(len(data)):]) }
	for at := page.Data_tail; at < page.Data_head; {
		// struct perf_event_header; the size of a record is a multiple of 8 bytes
		kind, size := uint32(word(at)), word(at)>>48
		if kind == unix.PERF_RECORD_SAMPLE && (pid == 0 || uint32(word(at+8)) == uint32(pid)) {
			var chain []uint64
			for i := range word(at + 16) {
				if ip := word(at + 24 + 8*i); ip < ^uint64(4095) { // others mark where kernel and program begin
					chain = append(chain, ip)
				}
			}
			chains = append(chains, chain)
		}
		at += size
		page.Data_tail = at
	}
	return chains
}

// symbols names the functions of the kernel and of a Go program.
type symbols struct {
	starts []uint64
	names  []string
	table  *gosym.Table
}

func newSymbols(program string) (*symbols, error) {
	f, err := elf.Open(program)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	lines, err := f.Section(".gopclntab").Data()
	if err != nil {
		return nil, err
	}
	s := new(symbols)
	if s.table, err = gosym.NewTable(nil, gosym.NewLineTable(lines, f.Section(".text").Addr)); err != nil {
		return nil, err
	}
	kernel, err := os.Open("/proc/kallsyms")
	if err != nil {
		return nil, err
	}
	defer kernel.Close()
	type symbol struct {
		start uint64
		name  string
	}
	var all []symbol
	for scan := bufio.NewScanner(kernel); scan.Scan(); {
		var y symbol
		var kind string
		if _, err := fmt.Sscanf(scan.Text(), "%x %s %s", &y.start, &kind, &y.name); err == nil && strings.ContainsAny(kind, "tTwW") {
			all = append(all, y)
		}
	}
	slices.SortStableFunc(all, func(a, b symbol) int {
		if a.start < b.start {
			return -1
		}
		return int(min(a.start-b.start, 1))
	})
	for _, y := range all {
		s.starts, s.names = append(s.starts, y.start), append(s.names, y.name)
	}
	return s, nil
}

func isKernel(ip uint64) bool { return ip>>63 == 1 }

// name is the function that an instruction is in.
func (s *symbols) name(ip uint64) string {
	if isKernel(ip) {
		i, found := slices.BinarySearch(s.starts, ip)
		if !found {
			i--
		}
		return s.names[max(i, 0)]
	}
	if f := s.table.PCToFunc(ip); f != nil {
		return f.Name
	}
	return "?"
}
