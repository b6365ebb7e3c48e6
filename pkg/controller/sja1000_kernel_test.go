package controller

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/canlink"
	"github.com/vxcan/vxcan/pkg/cantest"
	"github.com/vxcan/vxcan/pkg/rtnl"
)

// requireSJA1000 finds the two controllers of a machine that bin/vm -qemu emulates, down. Elsewhere it skips the test.
func requireSJA1000(t *testing.T, c *Conn) (first, second Device) {
	t.Helper()
	const kvaser = "0x10e88406" // vendor and device, drivers/net/can/sja1000/kvaser_pci.c
	cards := 0
	vendors, err := filepath.Glob("/sys/bus/pci/devices/*/vendor")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range vendors {
		vendor, _ := os.ReadFile(file)
		device, _ := os.ReadFile(filepath.Join(filepath.Dir(file), "device"))
		if strings.TrimSpace(string(vendor))+strings.TrimPrefix(strings.TrimSpace(string(device)), "0x") == kvaser {
			cards++
		}
	}
	if cards < 2 {
		t.Skip("needs two Kvaser PCI cards (bin/vm -qemu)")
	}
	cantest.Require(t)
	run(t, "modprobe", "kvaser_pci")
	var found []Device
	eventually(t, "two controllers", func() bool {
		links, err := canlink.On(c.conn).List()
		if err != nil {
			t.Fatal(err)
		}
		found = nil
		for _, l := range links {
			if l.Kind == Can {
				found = append(found, readController(t, c, l.Index))
			}
		}
		return len(found) == 2
	})
	down := func() {
		for _, controller := range found {
			if err := c.SetDown(controller.Index); err != nil {
				t.Error(err)
			}
		}
	}
	down()
	t.Cleanup(down)
	return readController(t, c, found[0].Index), readController(t, c, found[1].Index)
}

// A controller with bit timings, restart and most modes.
func TestSJA1000(t *testing.T) {
	c := dialHere(t)
	first, second := requireSJA1000(t, c)
	for _, controller := range []Device{first, second} {
		want := with(sjaFresh, func(c *Device) { c.Link, c.Driver = controller.Link, "kvaser_pci" })
		want.Timing, want.Modes, want.RestartMS, want.Queue = controller.Timing, controller.Modes, controller.RestartMS, controller.Queue
		if diff := cmp.Diff(settled(want), settled(controller)); diff != "" {
			t.Errorf("(- want, + got)\n%s", diff)
		}
	}

	// Settings of an earlier owner, with a bit timing by segments, which no bit rate and sample point would give.
	run(t, "ip", "link", "set", first.Name, "txqueuelen", "55", "type", "can", "tq", "250", "prop-seg", "1", "phase-seg1", "3",
		"phase-seg2", "3", "sjw", "2", "restart-ms", "70", "triple-sampling", "on", "berr-reporting", "on", "one-shot", "off")
	before := readController(t, c, first.Index)
	if before.Timing.Bitrate != 500_000 || before.Timing.SamplePoint != 625 || before.Timing.SJW != 2 || before.RestartMS != 70 ||
		before.Modes != ModeTripleSampling|ModeBerrReporting {
		t.Fatalf("%+v", before.Timing)
	}

	s := Settings{Bitrate: 250_000, SamplePoint: 800, RestartMS: 100, OneShot: true}
	up, warnings, err := c.SetUp(before, s, 1000)
	if err != nil || len(warnings) != 0 {
		t.Fatalf("%q, %v", warnings, err)
	}
	if !up.Up || up.Modes != ModeOneShot || up.RestartMS != 100 || up.Queue != 1000 || up.Timing.Bitrate != 250_000 || up.Timing.SamplePoint != 750 {
		t.Errorf("modes %v, restart-ms %d, queue %d, %+v", up.Modes, up.RestartMS, up.Queue, up.Timing)
	}
	agreesWithIP(t, up)
	if err := c.Restart(up.Index); !errors.Is(err, unix.EINVAL) {
		t.Errorf("restart of one that restarts by itself: %v, want EINVAL", err)
	}
	if _, _, err := c.SetUp(before, s, 500); !errors.Is(err, unix.EBUSY) {
		t.Errorf("a second time: %v, want EBUSY", err)
	}
	if now := readController(t, c, up.Index); !cmp.Equal(settled(now), settled(up)) {
		t.Errorf("a second time changed it: %s", cmp.Diff(settled(up), settled(now)))
	}
	restored := func(what string, want Device) {
		t.Helper()
		now := readController(t, c, want.Index)
		if diff := cmp.Diff(settled(want), settled(now)); diff != "" {
			t.Errorf("%s (- want, + got)\n%s", what, diff)
		}
	}
	for range 2 {
		if err := c.Restore(before); err != nil {
			t.Error(err)
		}
		restored("restored", before)
	}
	if err := c.Restore(up); err != nil {
		t.Error(err)
	}
	restored("restored to up", up)
	if err := c.Restore(before); err != nil {
		t.Error(err)
	}

	// What the check cannot know in advance is refused half-way, and undone.
	blind := with(before, func(c *Device) { c.KnowsSupported, c.DataLimits, c.Terminations = false, sjaLimits, []uint16{120} })
	unchecked := with(blind, func(c *Device) { c.Limits = Limits{} })
	for what, test := range map[string]struct {
		before Device
		s      Settings
	}{
		"fd":          {blind, Settings{Bitrate: 250_000, FD: true, DataBitrate: 500_000}},
		"termination": {blind, Settings{Bitrate: 250_000, RestartMS: 1, OneShot: true, SetTermination: true, Termination: 120}},
		"rounded":     {unchecked, Settings{Bitrate: 700_000}},
		"off":         {unchecked, Settings{Bitrate: 3_000_000}},
		"too high":    {unchecked, Settings{Bitrate: 100_000_000}},
		"too low":     {unchecked, Settings{Bitrate: 1}},
	} {
		_, _, err := c.SetUp(test.before, test.s, 1000)
		if err == nil {
			t.Errorf("%s: no error", what)
		}
		t.Logf("%s: %v", what, err)
		restored(what, before)
	}

	// Restart is for bus-off only.
	up, _, err = c.SetUp(before, Settings{Bitrate: 500_000}, 1000)
	if err != nil || up.RestartMS != 0 {
		t.Fatalf("restart-ms %d, %v", up.RestartMS, err)
	}
	if err := c.Restart(up.Index); !errors.Is(err, unix.EBUSY) {
		t.Errorf("restart of one that is not in bus-off: %v, want EBUSY", err)
	}
	_, warnings, err = c.SetUp(second, Settings{Bitrate: 83_300}, 1000)
	if want := []string{second.Name + " (kvaser_pci): bitrate is 83333, as near to 83300 as it can be"}; err != nil || !slices.Equal(warnings, want) {
		t.Errorf("rounded: %q, %v; want %q", warnings, err, want)
	}
}

// What the calculation says is what the kernel sets, whatever is asked for.
func TestSJA1000Timing(t *testing.T) {
	c := dialHere(t)
	controller, _ := requireSJA1000(t, c)
	var rates []uint32
	for rate := uint32(4_000); rate < 4_000_000; rate += rate/97 + 1 {
		rates = append(rates, rate)
	}
	rates = append(rates, 5_000, 10_000, 20_000, 33_333, 50_000, 83_333, 100_000, 125_000, 250_000, 500_000, 800_000, 1_000_000, 1, 10_000_000)
	taken, refused, short := 0, 0, 0
	for _, point := range []uint32{0, 1, 125, 300, 500, 625, 700, 750, 800, 875, 900, 999} {
		for _, rate := range rates {
			got, kernelOK := kernelTiming(t, c, controller.Index, rate, point)
			want, ok := controller.Limits.timing(controller.Clock, rate, point)
			ok = ok && uint64(distance(want.Bitrate, rate))*1000/uint64(rate) <= 50 // CAN_CALC_MAX_ERROR
			if !ok && kernelOK && got.PropSeg+got.PhaseSeg1 == 0 {
				short++ // 6.1 sets that
				continue
			}
			if ok != kernelOK {
				t.Errorf("bitrate %d sample-point %d: kernel %t %+v, we %t %+v", rate, point, kernelOK, got, ok, want)
				continue
			}
			if !ok {
				refused++
				continue
			}
			taken++
			if distance(got.Bitrate, rate) != distance(want.Bitrate, rate) || got.SamplePoint != want.SamplePoint {
				t.Errorf("bitrate %d sample-point %d: kernel %+v, we %+v", rate, point, got, want)
			}
		}
	}
	t.Logf("%d bit timings taken, %d refused, %d taken that have no segment before the sample point", taken, refused, short)
	if taken < 1000 || refused < 1000 {
		t.Error("too few to prove anything")
	}
}

// kernelTiming asks the kernel for a bit timing, and returns the one that it then has.
func kernelTiming(t *testing.T, c *Conn, index int, bitrate, point uint32) (BitTiming, bool) {
	t.Helper()
	timing := BitTiming{Bitrate: bitrate, SamplePoint: point}.attr(nl.IFLA_CAN_BITTIMING)
	r := rtnl.With(canlink.ChangeRequest(index), canlink.Info(Can, timing))
	replies, err := c.conn.Batch(r, canlink.GetRequest(index))
	if err != nil {
		t.Fatal(err)
	}
	if errors.Is(replies[0].Err, unix.EINVAL) || errors.Is(replies[0].Err, unix.EDOM) {
		return BitTiming{}, false
	}
	if replies[0].Err != nil {
		t.Fatal(replies[0].Err)
	}
	controller, err := unmarshalDevice(replies[1].Data)
	if err != nil {
		t.Fatal(err)
	}
	return controller.Timing, true
}

// agreesWithIP compares with what ip says.
func agreesWithIP(t *testing.T, c Device) {
	t.Helper()
	var links []struct {
		TxQLen   int `json:"txqlen"`
		LinkInfo struct {
			Kind string `json:"info_kind"`
			Data struct {
				State     string   `json:"state"`
				CtrlMode  []string `json:"ctrlmode"`
				RestartMS uint32   `json:"restart_ms"`
				BitTiming struct {
					Bitrate     uint32 `json:"bitrate"`
					SamplePoint string `json:"sample_point"`
					TQ          uint32 `json:"tq"`
					BRP         uint32 `json:"brp"`
				} `json:"bittiming"`
				Clock uint32 `json:"clock"`
			} `json:"info_data"`
		} `json:"linkinfo"`
	}
	out := run(t, "ip", "-d", "-j", "link", "show", "dev", c.Name)
	if err := json.Unmarshal(out, &links); err != nil || len(links) != 1 {
		t.Fatalf("%v in %s", err, out)
	}
	data := links[0].LinkInfo.Data
	got := fmt.Sprintln(links[0].TxQLen, links[0].LinkInfo.Kind, strings.ToLower(data.State), strings.ToLower(strings.Join(data.CtrlMode, ", ")), data.RestartMS,
		data.BitTiming.Bitrate, data.BitTiming.SamplePoint, data.BitTiming.TQ, data.BitTiming.BRP, data.Clock)
	want := fmt.Sprintln(c.Queue, c.Kind, c.State, c.Modes, c.RestartMS, c.Timing.Bitrate, formatPoint(c.Timing.SamplePoint), c.Timing.TQ, c.Timing.BRP, c.Clock)
	if got != want {
		t.Errorf("ip says %s, we %s", got, want)
	}
}
