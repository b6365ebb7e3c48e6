package controller

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Settings are how a controller is to be set up. They are comparable, and zero is what a key that is not given means;
// only without a bit rate there is nothing to set up.
type Settings struct {
	Bitrate         uint32 `json:"bitrate,omitempty"`         // bits per second
	SamplePoint     uint32 `json:"samplePoint,omitempty"`     // in 0.1 %; 0 leaves it to the kernel
	FD              bool   `json:"fd,omitempty"`              // with DataBitrate
	DataBitrate     uint32 `json:"dataBitrate,omitempty"`     // bits per second, of the data of CAN FD frames
	DataSamplePoint uint32 `json:"dataSamplePoint,omitempty"` // in 0.1 %; 0 leaves it to the kernel
	RestartMS       uint32 `json:"restartMS,omitempty"`       // milliseconds from bus-off to a restart, 0 is never
	// Termination in ohms, 0 is off. Without SetTermination it is left as it is.
	Termination    uint16 `json:"termination,omitempty"`
	SetTermination bool   `json:"setTermination,omitempty"`

	ListenOnly     bool `json:"listenOnly,omitempty"`
	OneShot        bool `json:"oneShot,omitempty"`
	TripleSampling bool `json:"tripleSampling,omitempty"`
	BerrReporting  bool `json:"berrReporting,omitempty"`
	PresumeAck     bool `json:"presumeAck,omitempty"`
	FDNonISO       bool `json:"fdNonISO,omitempty"`
}

// String is the settings as ip link spells them.
func (s Settings) String() string {
	words := []string{fmt.Sprintf("bitrate %d", s.Bitrate)}
	add := func(set bool, format string, value any) {
		if set {
			words = append(words, fmt.Sprintf(format, value))
		}
	}
	add(s.SamplePoint != 0, "sample-point %s", formatPoint(s.SamplePoint))
	add(s.DataBitrate != 0, "dbitrate %d", s.DataBitrate)
	add(s.DataSamplePoint != 0, "dsample-point %s", formatPoint(s.DataSamplePoint))
	add(s.RestartMS != 0, "restart-ms %d", s.RestartMS)
	add(s.SetTermination, "termination %d", s.Termination)
	add(s.modes() != 0, "%v", s.modes())
	return strings.Join(words, ", ")
}

// modes are those that are to be on. All others of ourModes are to be off.
func (s Settings) modes() Modes {
	var on Modes
	for _, m := range []struct {
		on   bool
		mode Modes
	}{
		{s.FD, ModeFD}, {s.ListenOnly, ModeListenOnly}, {s.OneShot, ModeOneShot}, {s.TripleSampling, ModeTripleSampling},
		{s.BerrReporting, ModeBerrReporting}, {s.PresumeAck, ModePresumeAck}, {s.FDNonISO, ModeFDNonISO},
	} {
		if m.on {
			on |= m.mode
		}
	}
	return on
}

// Validate checks what can be known without a controller. Errors name the keys as ip link spells them.
func (s Settings) Validate() error {
	switch {
	case s.Bitrate == 0:
		return errors.New("bitrate is missing")
	case s.SamplePoint > 999:
		return fmt.Errorf("sample-point %s: want less than 1", formatPoint(s.SamplePoint))
	case s.DataSamplePoint > 999:
		return fmt.Errorf("dsample-point %s: want less than 1", formatPoint(s.DataSamplePoint))
	case !s.FD && s.DataBitrate != 0:
		return errors.New("dbitrate needs fd")
	case !s.FD && s.DataSamplePoint != 0:
		return errors.New("dsample-point needs fd")
	case !s.FD && s.FDNonISO:
		return errors.New("fd-non-iso needs fd")
	case s.FD && s.DataBitrate == 0:
		return errors.New("fd needs dbitrate")
	case s.FD && s.DataBitrate < s.Bitrate: // the kernel takes it, and then refuses to set the device up (open_candev)
		return fmt.Errorf("dbitrate %d: want at least the bitrate, %d", s.DataBitrate, s.Bitrate)
	}
	return nil
}

// Check reports whether the controller can be set up so, before anything is sent to the kernel. The error names the
// controller, the key and what there is instead. Warnings are about what will be left out. That a driver cannot restart
// after bus-off is not known here: SetUp finds it out.
func (c Device) Check(s Settings) (warnings []string, err error) {
	if err := s.Validate(); err != nil {
		return nil, err
	}
	if err := c.checkModes(s.modes()); err != nil {
		return nil, err
	}
	rates := []rate{c.rate(s)}
	if s.FD {
		rates = append(rates, c.dataRate(s))
	}
	for _, r := range rates {
		warning, err := r.check(c.Clock, c.MaxBitrate)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c, err)
		}
		if warning != "" {
			warnings = append(warnings, fmt.Sprintf("%s: %s", c, warning))
		}
	}
	if s.SetTermination && !slices.Contains(c.Terminations, s.Termination) {
		if len(c.Terminations) == 0 {
			return nil, fmt.Errorf("%s: termination %d: it cannot be switched", c, s.Termination)
		}
		return nil, fmt.Errorf("%s: termination %d: there is %s", c, s.Termination, list(c.Terminations))
	}
	return warnings, nil
}

func (c Device) checkModes(want Modes) error {
	if !c.KnowsSupported { // then the kernel must find out
		return nil
	}
	if lacks := want &^ (c.Supported | c.static()); lacks != 0 {
		return fmt.Errorf("%s: not supported: %s", c, lacks)
	}
	always := c.static() & ourModes
	if want&ModeFD == 0 { // of classic frames, none is ISO or not
		always &^= ModeFDNonISO
	}
	if extra := always &^ want; extra != 0 {
		return fmt.Errorf("%s: cannot be switched off: %s", c, extra)
	}
	return nil
}

// Tolerances of what is set against what is wanted.
const (
	rateTolerance  = 5  // in 0.1 % of the bit rate
	pointTolerance = 50 // in 0.1 % of a bit
)

// rate is a bit rate with its sample point, that of a whole frame or that of the data of CAN FD frames.
type rate struct {
	key, pointKey string // as ip link spells them
	want, point   uint32
	now           BitTiming
	limits        Limits
	list          []uint32
}

func (c Device) rate(s Settings) rate {
	return rate{"bitrate", "sample-point", s.Bitrate, s.SamplePoint, c.Timing, c.Limits, c.Bitrates}
}

func (c Device) dataRate(s Settings) rate {
	return rate{"dbitrate", "dsample-point", s.DataBitrate, s.DataSamplePoint, c.DataTiming, c.DataLimits, c.DataBitrates}
}

func (r rate) check(clock, highest uint32) (warning string, err error) {
	if highest != 0 && r.want > highest {
		return "", fmt.Errorf("%s %d: its transceiver can do %d at most", r.key, r.want, highest)
	}
	if !r.limits.usable() || clock == 0 {
		if len(r.list) > 0 && !slices.Contains(r.list, r.want) {
			return "", fmt.Errorf("%s %d: there is %s", r.key, r.want, list(r.list))
		}
		if r.point != 0 {
			return r.pointKey + " is left to the adapter", nil
		}
		return "", nil
	}
	agrees := func(t BitTiming, ok bool) bool { return ok && rateAgrees(t.Bitrate, r.want) }
	timing, ok := r.limits.timing(clock, r.want, r.point)
	if !agrees(timing, ok) {
		if usual, ok := r.limits.timing(clock, r.want, 0); agrees(usual, ok) {
			return "", fmt.Errorf("%s %s: cannot be had at %s %d, the usual %s can",
				r.pointKey, formatPoint(r.point), r.key, r.want, formatPoint(usual.SamplePoint))
		}
		return "", fmt.Errorf("%s %d: cannot be done within 0.5 %%, nearest is %d", r.key, r.want, r.limits.nearest(clock, r.want))
	}
	if r.point != 0 && !pointAgrees(timing.SamplePoint, r.point) {
		return "", fmt.Errorf("%s %s: nearest at %s %d is %s", r.pointKey, formatPoint(r.point), r.key, r.want, formatPoint(timing.SamplePoint))
	}
	return "", nil
}

// Differs tells in which settings the controller is not as wanted, in words such as "bitrate 250000, want 500000". None
// means that it can be used as it is. Bit rates agree within 0.5 %, sample points that were asked for within 5 % of a bit.
//
// A restart-ms of 0 agrees with every other, because some drivers can do nothing else, and because what was not asked for
// may have been set by the owner.
func (c Device) Differs(s Settings) []string {
	differences := c.rate(s).differs()
	if s.FD {
		differences = append(differences, c.dataRate(s).differs()...)
	}
	now, want := c.Modes&ourModes, s.modes()
	if now&ModeFD == 0 && want&ModeFD == 0 {
		now &^= c.static() & ModeFDNonISO
	}
	for _, n := range modeNames {
		if (now^want)&n.mode != 0 {
			differences = append(differences, fmt.Sprintf("%s %s, want %s", n.name, onOff(now&n.mode != 0), onOff(want&n.mode != 0)))
		}
	}
	if s.RestartMS != 0 && c.RestartMS != 0 && s.RestartMS != c.RestartMS {
		differences = append(differences, fmt.Sprintf("restart-ms %d, want %d", c.RestartMS, s.RestartMS))
	}
	if s.SetTermination && s.Termination != c.Termination {
		differences = append(differences, fmt.Sprintf("termination %d, want %d", c.Termination, s.Termination))
	}
	return differences
}

func (r rate) differs() []string {
	if !r.now.known() {
		return []string{fmt.Sprintf("%s unknown, want %d", r.key, r.want)}
	}
	if !rateAgrees(r.now.Bitrate, r.want) {
		return []string{fmt.Sprintf("%s %d, want %d", r.key, r.now.Bitrate, r.want)}
	}
	// A driver that leaves it to the adapter has a sample point only if somebody gave it one for nothing.
	if r.point != 0 && r.limits.usable() && !pointAgrees(r.now.SamplePoint, r.point) {
		return []string{fmt.Sprintf("%s %s, want %s", r.pointKey, formatPoint(r.now.SamplePoint), formatPoint(r.point))}
	}
	return nil
}

// rounded tells of bit rates that are not exactly as wanted. A 6.1 kernel says nothing of it.
func (c Device) rounded(s Settings) []string {
	var words []string
	for _, r := range []rate{c.rate(s), c.dataRate(s)} {
		if r.want != 0 && r.now.Bitrate != r.want {
			words = append(words, fmt.Sprintf("%s: %s is %d, as near to %d as it can be", c, r.key, r.now.Bitrate, r.want))
		}
	}
	return words
}

// known reports whether the kernel knows the bit rate. slcan has one without when it is set up as its adapter was before
// (CAN_BITRATE_UNKNOWN, drivers/net/can/dev/dev.c).
func (t BitTiming) known() bool { return t.Bitrate != 0 && t.Bitrate != 1<<32-1 }

func rateAgrees(now, want uint32) bool {
	return uint64(distance(now, want))*1000 <= uint64(want)*rateTolerance
}

func pointAgrees(now, want uint32) bool { return distance(now, want) <= pointTolerance }

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

// formatPoint writes a sample point as ip link does.
func formatPoint(point uint32) string { return fmt.Sprintf("%d.%03d", point/1000, point%1000) }

func list[T any](values []T) string {
	return strings.ReplaceAll(strings.Trim(fmt.Sprint(values), "[]"), " ", ", ")
}
