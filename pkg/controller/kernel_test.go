package controller

import (
	"errors"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/canlink"
	"github.com/vxcan/vxcan/pkg/cantest"
	"github.com/vxcan/vxcan/pkg/rtnl"
)

// Controllers are in the netns of the test itself: the kernel makes them in the machine's.
func dialHere(t *testing.T) *Conn {
	t.Helper()
	conn, err := rtnl.Dial()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return On(conn)
}

// get finds a device of any kind.
func get(t *testing.T, c *Conn, name string) canlink.Link {
	t.Helper()
	links, err := canlink.On(c.conn).Get(name)
	if err != nil {
		t.Fatal(err)
	}
	return links[0]
}

func readController(t *testing.T, c *Conn, index int) Device {
	t.Helper()
	controller, err := c.Get(index)
	if err != nil {
		t.Fatal(err)
	}
	return controller
}

// settled is a controller less what changes by itself and what having been up leaves.
func settled(c Device) Device {
	c.State, c.TxErrors, c.RxErrors, c.Used, c.Active = 0, 0, 0, false, false
	c.Traffic, c.Events = canlink.Traffic{}, Events{}
	return c
}

func newSLCAN(t *testing.T, c *Conn) (*cantest.Controller, Device) {
	t.Helper()
	adapter := cantest.NewController(t, "slot0")
	return adapter, readController(t, c, get(t, c, "slot0").Index)
}

// The whole life of the commonest kind of adapter: one that knows no restart, no FD and no bit timings.
func TestSLCAN(t *testing.T) {
	cantest.Require(t)
	c := dialHere(t)
	adapter, fresh := newSLCAN(t, c)
	want := with(slcanFresh, func(c *Device) { c.Name, c.Index = "slot0", fresh.Index })
	if diff := cmp.Diff(want, fresh); diff != "" {
		t.Fatalf("fresh (- want, + got)\n%s", diff)
	}

	s := Settings{Bitrate: 500_000, SamplePoint: 700, RestartMS: 100}
	up, warnings, err := c.SetUp(fresh, s, 1000)
	if err != nil {
		t.Fatal(err)
	}
	wantWarnings := []string{
		"slot0: sample-point is left to the adapter",
		"slot0: no restart-ms: its driver cannot restart after bus-off",
	}
	if diff := cmp.Diff(wantWarnings, warnings); diff != "" {
		t.Errorf("warnings (- want, + got)\n%s", diff)
	}
	want = with(fresh, func(c *Device) { c.Up, c.Queue, c.Timing.Bitrate = true, 1000, 500_000 })
	if diff := cmp.Diff(settled(want), settled(up)); diff != "" {
		t.Errorf("up (- want, + got)\n%s", diff)
	}
	eventually(t, "set-up of the adapter: C, S6, O", func() bool {
		return slices.Equal(adapter.Commands(), []string{"C", "S6", "O"})
	})
	if differs := up.Differs(s); differs != nil {
		t.Errorf("%q", differs)
	}

	// Up, it is not touched but for the queue.
	for name, before := range map[string]Device{"says so": up, "says it is down": fresh} {
		if _, _, err := c.SetUp(before, Settings{Bitrate: 250_000}, 500); !errors.Is(err, unix.EBUSY) {
			t.Errorf("up, before %s: %v, want EBUSY", name, err)
		}
	}
	if now := readController(t, c, up.Index); !cmp.Equal(settled(now), settled(up)) {
		t.Errorf("a second time changed it: %s", cmp.Diff(settled(up), settled(now)))
	}
	if err := c.SetTxQueue(up.Index, 2000); err != nil {
		t.Error(err)
	}
	if now := readController(t, c, up.Index); now.Queue != 2000 || !now.Up {
		t.Errorf("queue %d, up %t", now.Queue, now.Up)
	}
	if err := c.Restart(up.Index); !errors.Is(err, unix.EOPNOTSUPP) {
		t.Errorf("restart: %v, want EOPNOTSUPP", err)
	}

	for state, line := range map[State]string{StateErrorWarning: "sw096000\r", StateErrorPassive: "sp128000\r", StateBusOff: "sb256000\r"} {
		if err := adapter.WriteRaw(line); err != nil {
			t.Fatal(err)
		}
		eventually(t, "state "+state.String(), func() bool { return readController(t, c, up.Index).State == state })
	}

	// Back to what it was: only the bit rate cannot be forgotten.
	if err := c.Restore(fresh); err != nil {
		t.Error(err)
	}
	want = with(fresh, func(c *Device) { c.Timing.Bitrate = 500_000 })
	if diff := cmp.Diff(settled(want), settled(readController(t, c, fresh.Index))); diff != "" {
		t.Errorf("restored (- want, + got)\n%s", diff)
	}
	if err := c.Restore(up); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(settled(up), settled(readController(t, c, fresh.Index))); diff != "" {
		t.Errorf("restored to up (- want, + got)\n%s", diff)
	}

	for range 2 {
		if err := c.SetDown(up.Index); err != nil {
			t.Error(err)
		}
	}
	adapter.Unplug()
	for what, err := range map[string]error{"restore": c.Restore(up), "set down": c.SetDown(up.Index)} {
		if err != nil {
			t.Errorf("%s, unplugged: %v", what, err)
		}
	}
	if _, err := c.Get(up.Index); !errors.Is(err, canlink.ErrNotFound) {
		t.Errorf("read, unplugged: %v", err)
	}
	if _, _, err := c.SetUp(fresh, Settings{Bitrate: 500_000}, 1000); !errors.Is(err, unix.ENODEV) {
		t.Errorf("set up, unplugged: %v", err)
	}
}

// What the last owner left is not kept, and what the kernel refuses half-way is undone.
func TestSLCANLeftover(t *testing.T) {
	cantest.Require(t)
	c := dialHere(t)
	adapter, fresh := newSLCAN(t, c)
	run(t, "ip", "link", "set", "slot0", "txqueuelen", "55", "type", "can", "bitrate", "125000", "listen-only", "on")
	before := readController(t, c, fresh.Index)
	if before.Modes != ModeListenOnly || before.Timing.Bitrate != 125_000 || before.Queue != 55 {
		t.Fatalf("%v, %+v, queue %d", before.Modes, before.Timing, before.Queue)
	}

	told := len(adapter.Commands())
	for _, s := range []Settings{
		{}, {Bitrate: 300_000}, {Bitrate: 500_000, OneShot: true}, {Bitrate: 500_000, FD: true, DataBitrate: 1_000_000},
		{Bitrate: 500_000, SetTermination: true, Termination: 120},
	} {
		_, _, err := c.SetUp(before, s, 1000)
		if err == nil || errors.As(err, new(unix.Errno)) {
			t.Errorf("%+v: %v, want our own words", s, err)
		}
	}
	// The check cannot know what an old kernel does not tell; then the kernel says it, after it has set the bit rate.
	blind := with(before, func(c *Device) { c.KnowsSupported, c.Bitrates = false, nil })
	for what, s := range map[string]Settings{
		"mode": {Bitrate: 500_000, OneShot: true}, "bit rate": {Bitrate: 300_000},
		"termination": {Bitrate: 500_000, SetTermination: true, Termination: 120},
	} {
		blind.Terminations = []uint16{120}
		_, _, err := c.SetUp(blind, s, 1000)
		if !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EINVAL) {
			t.Errorf("%s: %v", what, err)
		}
		if diff := cmp.Diff(settled(before), settled(readController(t, c, before.Index))); diff != "" {
			t.Errorf("%s (- before, + after)\n%s", what, diff)
		}
	}
	if commands := adapter.Commands(); len(commands) != told {
		t.Errorf("the adapter was told %q", commands)
	}

	up, warnings, err := c.SetUp(before, Settings{Bitrate: 500_000}, 0)
	if err != nil || len(warnings) != 0 || up.Modes != 0 || up.Queue != 55 {
		t.Errorf("%v, queue %d, %q, %v", up.Modes, up.Queue, warnings, err)
	}
	if err := c.Restore(before); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(settled(before), settled(readController(t, c, before.Index))); diff != "" {
		t.Errorf("restored (- want, + got)\n%s", diff)
	}
}

// A controller that another program brought up without telling the kernel its bit rate.
func TestSLCANUnknownBitrate(t *testing.T) {
	cantest.Require(t)
	c := dialHere(t)
	_, fresh := newSLCAN(t, c)
	run(t, "ip", "link", "set", "slot0", "up")
	up := readController(t, c, fresh.Index)
	if diff := cmp.Diff([]string{"bitrate unknown, want 500000"}, up.Differs(Settings{Bitrate: 500_000})); diff != "" {
		t.Errorf("%+v\n%s", up.Timing, diff)
	}
	if err := c.Restore(up); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(settled(up), settled(readController(t, c, fresh.Index))); diff != "" {
		t.Errorf("restored (- want, + got)\n%s", diff)
	}
}

func TestControllerOfOtherKind(t *testing.T) {
	cantest.Require(t)
	conn, err := rtnl.DialAt(cantest.NewNetns(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	c := On(conn)
	if err := canlink.On(conn).AddVcan("vcan0", 5000, canlink.FDMTU, ""); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"lo", "vcan0"} {
		if _, err := c.Get(get(t, c, name).Index); !errors.Is(err, ErrNotController) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := c.Get(4711); !errors.Is(err, canlink.ErrNotFound) {
		t.Errorf("none: %v", err)
	}
	if _, _, err := c.SetUp(Device{Link: get(t, c, "vcan0")}, Settings{Bitrate: 500_000}, 0); !errors.Is(err, unix.EBUSY) {
		t.Errorf("vcan, which is up: %v", err)
	}
}

func run(t *testing.T, command ...string) []byte {
	t.Helper()
	out, err := exec.Command(command[0], command[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(command, " "), err, out)
	}
	return out
}

// eventually waits for what a driver does in its own time.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}

// A controller that had no queue gets one that holds frames, and after a failure has none again.
func TestSLCANEmptyQueue(t *testing.T) {
	cantest.Require(t)
	c := dialHere(t)
	_, _ = newSLCAN(t, c)
	run(t, "ip", "link", "set", "slot0", "txqueuelen", "0")
	before := readController(t, c, get(t, c, "slot0").Index)
	if _, _, err := c.SetUp(before, Settings{Bitrate: 500_000}, 1<<32-1); err == nil {
		t.Error("a queue of 4294967295 frames is no error")
	}
	if now := readController(t, c, before.Index); now.Queue != 0 || now.Up {
		t.Errorf("after a failure: queue %d, up %t", now.Queue, now.Up)
	}
	if up, _, err := c.SetUp(before, Settings{Bitrate: 500_000}, 1000); err != nil || up.Queue != 1000 {
		t.Errorf("queue %d, %v", up.Queue, err)
	}
	if out, err := exec.Command("tc", "qdisc", "show", "dev", "slot0").Output(); err != nil || !strings.Contains(string(out), "pfifo_fast") {
		t.Errorf("tc: %s, %v", out, err)
	}
}

// A controller that was renamed since it was read is left as it was: the name may be another one's now.
func TestSLCANRenamed(t *testing.T) {
	cantest.Require(t)
	c := dialHere(t)
	_, before := newSLCAN(t, c)
	run(t, "ip", "link", "set", "slot0", "name", "slot9")
	if _, _, err := c.SetUp(before, Settings{Bitrate: 500_000}, 1000); !errors.Is(err, unix.ENODEV) || !strings.Contains(err.Error(), "slot9") {
		t.Errorf("%v, want ENODEV, and slot9", err)
	}
	now := readController(t, c, before.Index)
	if want := with(before, func(c *Device) { c.Name, c.Timing.Bitrate = "slot9", 500_000 }); !cmp.Equal(settled(want), settled(now)) {
		t.Errorf("(- want, + got)\n%s", cmp.Diff(settled(want), settled(now)))
	}
}

// A signal while slcan waits for its adapter, as Go's own, does not fail the set-up.
func TestSLCANSignal(t *testing.T) {
	cantest.Require(t)
	c := dialHere(t)
	adapter, fresh := newSLCAN(t, c)
	defer adapter.Unplug()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	thread := unix.Gettid()
	for i := range 20 {
		stop, stopped := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(stopped)
			for n := 0; n < 5; n++ {
				select {
				case <-stop:
					return
				case <-time.After(time.Duration(i) * 100 * time.Microsecond):
					_ = unix.Tgkill(unix.Getpid(), thread, unix.SIGURG)
				}
			}
		}()
		_, _, err := c.SetUp(fresh, Settings{Bitrate: 500000}, 10)
		close(stop)
		<-stopped
		if err != nil {
			t.Fatalf("set-up %d: %v", i, err)
		}
		if err := c.Restore(fresh); err != nil {
			t.Fatalf("restore %d: %v", i, err)
		}
	}
}

// A serial adapter that is late with its answer, as on a busy machine, is asked again.
func TestSLCANLate(t *testing.T) {
	cantest.Require(t)
	c := dialHere(t)
	adapter, fresh := newSLCAN(t, c)
	defer adapter.Unplug()
	adapter.Pace(cantest.Stopped)
	taking := time.AfterFunc(1500*time.Millisecond, func() { adapter.Pace(cantest.Unlimited) })
	defer taking.Stop()
	start := time.Now()
	if _, _, err := c.SetUp(fresh, Settings{Bitrate: 500000}, 10); err != nil || time.Since(start) < time.Second {
		t.Errorf("after %v: %v", time.Since(start), err)
	}
}

// SetDown sets a device down. One that is down or gone is no error.
func (c *Conn) SetDown(index int) error {
	if err := rtnl.Do(c.conn, canlink.DownRequest(index)); err != nil && !errors.Is(err, unix.ENODEV) {
		return err
	}
	return nil
}
