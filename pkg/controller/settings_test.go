package controller

import (
	"fmt"
	"github.com/vxcan/vxcan/pkg/canlink"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What kernels have answered; the tests with controllers ask for thousands of others.
func TestTiming(t *testing.T) {
	for _, test := range []struct {
		limits                      Limits
		clock, bitrate, samplePoint uint32
		wantRate, wantPoint, brp    uint32
	}{
		{sjaLimits, 8_000_000, 500_000, 0, 500_000, 875, 1},
		{sjaLimits, 8_000_000, 250_000, 800, 250_000, 750, 2},
		{sjaLimits, 8_000_000, 125_000, 0, 125_000, 875, 4},
		{sjaLimits, 8_000_000, 700_000, 0, 727_272, 727, 1},
		{sjaLimits, 8_000_000, 1_000_000, 800, 1_000_000, 750, 1},
	} {
		got, ok := test.limits.timing(test.clock, test.bitrate, test.samplePoint)
		want := BitTiming{Bitrate: test.wantRate, SamplePoint: test.wantPoint, BRP: test.brp}
		if !ok || got != want {
			t.Errorf("bitrate %d sample-point %d: %+v, %t; want %+v", test.bitrate, test.samplePoint, got, ok, want)
		}
	}
	for _, bitrate := range []uint32{1, 100, 4_000, 4_000_000, 1 << 28, 1<<32 - 1} {
		if got, ok := sjaLimits.timing(8_000_000, bitrate, 0); ok && rateAgrees(got.Bitrate, bitrate) {
			t.Errorf("bitrate %d: %+v", bitrate, got)
		}
	}
}

// The nearest bit rate is one that can be had, and none that can be had is nearer.
func TestNearest(t *testing.T) {
	reachable := make(map[uint32]bool)
	for brp := sjaLimits.BRPMin; brp <= sjaLimits.BRPMax; brp++ {
		for bit := 3; bit <= 25; bit++ {
			reachable[8_000_000/(brp*uint32(bit))] = true
		}
	}
	for _, bitrate := range []uint32{1, 4_999, 5_000, 33_333, 123_456, 500_000, 700_000, 701_000, 999_999, 2_000_000, 2_300_000, 2_700_000, 1 << 31} {
		got := sjaLimits.nearest(8_000_000, bitrate)
		if !reachable[got] {
			t.Errorf("nearest to %d: %d, which cannot be had", bitrate, got)
		}
		for other := range reachable {
			if distance(other, bitrate) < distance(got, bitrate) {
				t.Errorf("nearest to %d: %d, but %d is nearer", bitrate, got, other)
			}
		}
	}
}

var (
	sja   = with(sjaFresh, func(c *Device) { c.Driver = "kvaser_pci" })
	fdBus = Settings{Bitrate: 500_000, FD: true, DataBitrate: 2_000_000}
)

func set(s Settings, change func(*Settings)) Settings {
	change(&s)
	return s
}

func TestCheck(t *testing.T) {
	at := func(bitrate uint32) Settings { return Settings{Bitrate: bitrate} }
	for name, test := range map[string]struct {
		controller Device
		settings   Settings
		err        string // "" is none
		warning    string
	}{
		"plain":            {sja, at(500_000), "", ""},
		"0.1 % off":        {sja, at(500_500), "", ""},
		"all modes":        {sja, Settings{Bitrate: 125_000, ListenOnly: true, OneShot: true, TripleSampling: true, BerrReporting: true, PresumeAck: true}, "", ""},
		"sample point":     {sja, Settings{Bitrate: 250_000, SamplePoint: 800}, "", ""},
		"point 5 % off":    {sja, Settings{Bitrate: 1_000_000, SamplePoint: 800}, "", ""},
		"point 20 % off":   {sja, Settings{Bitrate: 2_000_000, SamplePoint: 700}, "can0 (kvaser_pci): sample-point 0.700: nearest at bitrate 2000000 is 0.500", ""},
		"no first segment": {sja, Settings{Bitrate: 1_000_000, SamplePoint: 200}, "can0 (kvaser_pci): sample-point 0.200: cannot be had at bitrate 1000000, the usual 0.750 can", ""},
		"point too early":  {sja, Settings{Bitrate: 10_000, SamplePoint: 300}, "can0 (kvaser_pci): sample-point 0.300: cannot be had at bitrate 10000, the usual 0.875 can", ""},
		"restart-ms":       {sja, Settings{Bitrate: 500_000, RestartMS: 100}, "", ""},
		"none":             {sja, Settings{}, "bitrate is missing", ""},
		"between":          {sja, at(700_000), "can0 (kvaser_pci): bitrate 700000: cannot be done within 0.5 %, nearest is 727272", ""},
		"too low":          {sja, at(1_000), "can0 (kvaser_pci): bitrate 1000: cannot be done within 0.5 %, nearest is 5000", ""},
		"too high":         {sja, at(4_000_000), "can0 (kvaser_pci): bitrate 4000000: cannot be done within 0.5 %, nearest is 2666666", ""},
		"highest":          {sja, at(1<<32 - 1), "can0 (kvaser_pci): bitrate 4294967295: cannot be done within 0.5 %, nearest is 2666666", ""},
		"transceiver":      {with(sja, func(c *Device) { c.MaxBitrate = 1_000_000 }), at(2_000_000), "can0 (kvaser_pci): bitrate 2000000: its transceiver can do 1000000 at most", ""},
		"classic only":     {sja, fdBus, "can0 (kvaser_pci): not supported: fd", ""},
		"two modes":        {slcanFresh, Settings{Bitrate: 500_000, OneShot: true, ListenOnly: true, PresumeAck: true}, "can0: not supported: one-shot, presume-ack", ""},
		"no termination":   {sja, Settings{Bitrate: 500_000, SetTermination: true}, "can0 (kvaser_pci): termination 0: it cannot be switched", ""},
		"listed":           {slcanFresh, at(800_000), "", ""},
		"not listed":       {slcanFresh, at(300_000), "can0: bitrate 300000: there is 10000, 20000, 50000, 100000, 125000, 250000, 500000, 800000, 1000000", ""},
		"listed, point":    {slcanFresh, Settings{Bitrate: 500_000, SamplePoint: 800}, "", "can0: sample-point is left to the adapter"},
		"nothing known":    {Device{Link: canlink.Link{Name: "can9"}}, set(fdBus, func(s *Settings) { s.OneShot = true }), "", ""},
		"fd":               {fdController, fdBus, "", ""},
		"dbitrate":         {fdController, set(fdBus, func(s *Settings) { s.DataBitrate = 7_000_000 }), "can0 (gs_usb): dbitrate 7000000: cannot be done within 0.5 %, nearest is 7272727", ""},
		"dsample-point":    {fdController, set(fdBus, func(s *Settings) { s.DataBitrate, s.DataSamplePoint = 20_000_000, 200 }), "can0 (gs_usb): dsample-point 0.200: cannot be had at dbitrate 20000000, the usual 0.750 can", ""},
		"dbitrate, static": {with(fdController, func(c *Device) { c.DataLimits, c.DataBitrates = Limits{}, []uint32{1_000_000} }), fdBus, "can0 (gs_usb): dbitrate 2000000: there is 1000000", ""},
		"slow dbitrate":    {fdController, set(fdBus, func(s *Settings) { s.DataBitrate = 250_000 }), "dbitrate 250000: want at least the bitrate, 500000", ""},
		"fd alone":         {fdController, Settings{Bitrate: 500_000, FD: true}, "fd needs dbitrate", ""},
		"dbitrate alone":   {fdController, Settings{Bitrate: 500_000, DataBitrate: 1}, "dbitrate needs fd", ""},
		"dpoint alone":     {fdController, Settings{Bitrate: 500_000, DataSamplePoint: 1}, "dsample-point needs fd", ""},
		"non-iso alone":    {fdController, Settings{Bitrate: 500_000, FDNonISO: true}, "fd-non-iso needs fd", ""},
		"point of 1":       {fdController, Settings{Bitrate: 500_000, SamplePoint: 1000}, "sample-point 1.000: want less than 1", ""},
		"dpoint of 1":      {fdController, set(fdBus, func(s *Settings) { s.DataSamplePoint = 1001 }), "dsample-point 1.001: want less than 1", ""},
		"termination":      {fdController, Settings{Bitrate: 500_000, Termination: 120, SetTermination: true}, "", ""},
		"termination 60":   {fdController, Settings{Bitrate: 500_000, Termination: 60, SetTermination: true}, "can0 (gs_usb): termination 60: there is 0, 120", ""},
		"always fd":        {with(fdController, func(c *Device) { c.Supported, c.Modes = 0, ModeFD }), at(500_000), "can0 (gs_usb): cannot be switched off: fd", ""},
		"always fd, asked": {with(fdController, func(c *Device) { c.Supported, c.Modes = 0, ModeFD }), fdBus, "", ""},
		"always non-iso":   {with(fdController, func(c *Device) { c.Supported, c.Modes = ModeFD, ModeFDNonISO }), at(500_000), "", ""},
		"always non-iso, fd": {
			with(fdController, func(c *Device) { c.Supported, c.Modes = ModeFD, ModeFDNonISO }), fdBus, "can0 (gs_usb): cannot be switched off: fd-non-iso", "",
		},
		"last owner's modes": {with(sja, func(c *Device) { c.Modes = ModeLoopback | ModeOneShot }), at(500_000), "", ""},
	} {
		warnings, err := test.controller.Check(test.settings)
		if got := fmt.Sprint(err); test.err == "" && err != nil || !strings.HasPrefix(got, test.err) {
			t.Errorf("%s: %v, want %s", name, err, test.err)
		}
		if got := strings.Join(warnings, "; "); got != test.warning {
			t.Errorf("%s: warnings %q, want %q", name, got, test.warning)
		}
	}
}

func TestDiffers(t *testing.T) {
	running := with(sjaUp, func(c *Device) { c.Modes, c.RestartMS = 0, 0 })
	fd := with(fdController, func(c *Device) {
		c.Timing, c.DataTiming, c.Modes, c.Termination = BitTiming{Bitrate: 500_000, SamplePoint: 875}, BitTiming{Bitrate: 2_000_000, SamplePoint: 750}, ModeFD|0x200, 120
	})
	for name, test := range map[string]struct {
		controller Device
		settings   Settings
		want       []string
	}{
		"equal":          {running, Settings{Bitrate: 125_000}, nil},
		"0.5 % above":    {running, Settings{Bitrate: 124_379}, nil},
		"more":           {running, Settings{Bitrate: 124_378}, []string{"bitrate 125000, want 124378"}},
		"0.5 % below":    {running, Settings{Bitrate: 125_628}, nil},
		"less":           {running, Settings{Bitrate: 125_629}, []string{"bitrate 125000, want 125629"}},
		"point asked":    {running, Settings{Bitrate: 125_000, SamplePoint: 875}, nil},
		"5 % earlier":    {running, Settings{Bitrate: 125_000, SamplePoint: 925}, nil},
		"earlier":        {running, Settings{Bitrate: 125_000, SamplePoint: 926}, []string{"sample-point 0.875, want 0.926"}},
		"later":          {running, Settings{Bitrate: 125_000, SamplePoint: 824}, []string{"sample-point 0.875, want 0.824"}},
		"fresh":          {sjaFresh, Settings{Bitrate: 125_000}, []string{"bitrate unknown, want 125000"}},
		"unknown":        {with(slcanUp, func(c *Device) { c.Timing.Bitrate = 1<<32 - 1 }), Settings{Bitrate: 125_000, ListenOnly: true}, []string{"bitrate unknown, want 125000"}},
		"adapter":        {slcanUp, Settings{Bitrate: 250_000, SamplePoint: 500, ListenOnly: true}, nil},
		"mode missing":   {running, Settings{Bitrate: 125_000, ListenOnly: true}, []string{"listen-only off, want on"}},
		"mode too many":  {sjaUp, Settings{Bitrate: 125_000, OneShot: true}, []string{"berr-reporting on, want off"}},
		"loopback":       {with(running, func(c *Device) { c.Modes = ModeLoopback }), Settings{Bitrate: 125_000}, []string{"loopback on, want off"}},
		"len8":           {with(running, func(c *Device) { c.Modes = modeCCLen8DLC }), Settings{Bitrate: 125_000}, nil},
		"several":        {sjaUp, Settings{Bitrate: 500_000}, []string{"bitrate 125000, want 500000", "one-shot on, want off", "berr-reporting on, want off"}},
		"restart-ms":     {sjaUp, Settings{Bitrate: 125_000, RestartMS: 50, OneShot: true, BerrReporting: true}, []string{"restart-ms 100, want 50"}},
		"restart never":  {running, Settings{Bitrate: 125_000, RestartMS: 50}, nil},
		"restart theirs": {sjaUp, Settings{Bitrate: 125_000, OneShot: true, BerrReporting: true}, nil},
		"fd equal":       {fd, fdBus, nil},
		"fd faster":      {fd, set(fdBus, func(s *Settings) { s.DataBitrate = 4_000_000 }), []string{"dbitrate 2000000, want 4000000"}},
		"fd point":       {fd, set(fdBus, func(s *Settings) { s.DataSamplePoint = 600 }), []string{"dsample-point 0.750, want 0.600"}},
		"fd too much":    {fd, Settings{Bitrate: 500_000}, []string{"fd on, want off"}},
		"fd missing":     {with(fd, func(c *Device) { c.Modes = 0 }), fdBus, []string{"fd off, want on"}},
		"fd unset":       {fdController, fdBus, []string{"bitrate unknown, want 500000", "dbitrate unknown, want 2000000", "fd off, want on"}},
		"termination":    {fd, set(fdBus, func(s *Settings) { s.SetTermination = true }), []string{"termination 120, want 0"}},
		"terminated":     {fd, set(fdBus, func(s *Settings) { s.SetTermination, s.Termination = true, 120 }), nil},
		"always non-iso": {
			with(fd, func(c *Device) { c.Supported, c.Modes = ModeFD, ModeFDNonISO }), Settings{Bitrate: 500_000}, nil,
		},
	} {
		if diff := cmp.Diff(test.want, test.controller.Differs(test.settings)); diff != "" {
			t.Errorf("%s (- want, + got)\n%s", name, diff)
		}
	}
}
