package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// carrying counts what a delivered frame takes, and sends at the pace of a busy bus.
func (b *bench) carrying() error {
	repeats, seconds := 9, 10
	if b.quick {
		repeats, seconds = 5, 2
	}
	var many, two []topology
	for _, make := range []func(n int) (topology, error){b.star, b.meshOf, b.oneDevice} {
		t, err := make(31)
		if err != nil {
			return err
		}
		many = append(many, t)
	}
	for _, make := range []func() (topology, error){
		func() (topology, error) { return b.star(2) }, b.bare,
		func() (topology, error) { return b.listed(1) },
		func() (topology, error) { return b.listed(50) },
		func() (topology, error) { return b.listed(1000) },
	} {
		t, err := make()
		if err != nil {
			return err
		}
		two = append(two, t)
	}
	two = append(two, b.wires...)
	for i := range repeats {
		fmt.Fprintf(os.Stderr, "sending: round %d of %d\n", i+1, repeats)
		for _, t := range many {
			if err := b.send("delivery, "+t.name, delivery, t); err != nil {
				return err
			}
		}
		for _, t := range two {
			if err := b.send("passage, "+t.name, passage, t); err != nil {
				return err
			}
		}
	}
	if err := b.dumped(many[0], "star31", repeats); err != nil {
		return err
	}
	busy, err := b.star(11) // with more receivers, who all read, that one CPU does not keep the pace
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "sending %d frames at %d frames/s\n", seconds*pace, pace)
	all, err := send(busy, 1, seconds*pace, pace)
	b.results.Traffic["busy bus"] = []traffic{all}
	return err
}

// send counts what it takes to send a frame.
func (b *bench) send(name string, way func(t topology) (time.Duration, error), t topology) error {
	took, err := way(t)
	b.note(name, cost{instructions: took})
	return err
}

// openAll opens a socket at each station.
func openAll(t topology) (fds []int, err error) {
	for _, s := range t.stations {
		fd, err := s.open()
		if err != nil {
			return fds, err
		}
		fds = append(fds, fd)
	}
	return fds, nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

// delivery is what one delivered frame takes, with one sender and all others receiving. Where there is one CPU all of it
// is done before the sender's write returns; the receivers' sockets hold the frames until they are read, which is not
// counted.
func delivery(t topology) (perFrame time.Duration, err error) {
	const bursts, burst = 10, 100
	fds, err := openAll(t)
	defer closeAll(fds)
	if err != nil {
		return 0, err
	}
	sender, receivers := fds[0], fds[1:]
	var took time.Duration
	for range bursts {
		start := time.Now()
		for i := range burst {
			one := frame(0, uint32(i))
			if _, err := unix.Write(sender, one[:]); err != nil {
				return 0, err
			}
		}
		took += time.Since(start)
		for _, fd := range receivers {
			n, err := drain(fd, time.Millisecond, func([]byte) {}) // all is in the socket already
			if err != nil || n != burst {
				return 0, errors.Join(fmt.Errorf("%s: a receiver heard %d of %d frames", t.name, n, burst), err)
			}
		}
	}
	return took / time.Duration(bursts*burst*len(receivers)), nil
}

// passage is what it takes to write a frame at one station and to read it at another.
func passage(t topology) (perFrame time.Duration, err error) {
	const frames = 1000
	fds, err := openAll(t)
	defer closeAll(fds)
	if err != nil {
		return 0, err
	}
	start := time.Now()
	for i := range frames {
		one := frame(0, uint32(i))
		if _, err := unix.Write(fds[0], one[:]); err != nil {
			return 0, err
		}
		if _, err := unix.Read(fds[1], one[:]); err != nil {
			return 0, err
		}
	}
	return time.Since(start) / frames, nil
}
