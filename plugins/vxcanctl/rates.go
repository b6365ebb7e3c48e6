package main

import (
	"github.com/vxcan/vxcan/pkg/bus"
	"github.com/vxcan/vxcan/pkg/canlink"
)

// bitRates are those of a wire, in bits per second: of the arbitration, and of the data of CAN FD frames.
type bitRates struct{ nominal, data uint32 }

// rateSince makes counters frames per second since an earlier look. nil leaves them as they are.
type rateSince struct {
	seconds float64
	before  bus.BusStatus
}

// per is how much a counter has grown in a second. One that is smaller than before was made anew.
func (r *rateSince) per(before, now uint64) float64 {
	if now < before {
		before = 0
	}
	return float64(now-before) / r.seconds
}

func (r *rateSince) hub(s bus.BusStatus) (sent, heard uint64) {
	if r == nil {
		return s.Sent, s.Heard
	}
	return uint64(r.per(r.before.Sent, s.Sent) + 0.5), uint64(r.per(r.before.Heard, s.Heard) + 0.5)
}

func (r *rateSince) endpoint(e bus.EndpointStatus) (sent, heard uint64) {
	if r == nil {
		return e.Sent, e.Heard
	}
	old := e // one that has just come
	for _, b := range r.before.Endpoints {
		if b.HostIf == e.HostIf {
			old = b
		}
	}
	return uint64(r.per(old.Sent, e.Sent) + 0.5), uint64(r.per(old.Heard, e.Heard) + 0.5)
}

func (r *rateSince) trunk(t bus.TrunkStatus) (sent, heard uint64) {
	if r == nil {
		return t.Sent, t.Heard
	}
	old := t // one that was just made
	for _, b := range r.before.Trunks {
		if b.Device == t.Device {
			old = b
		}
	}
	return uint64(r.per(old.Sent, t.Sent) + 0.5), uint64(r.per(old.Heard, t.Heard) + 0.5)
}

// frames is how many frames a second are on the bus.
func (r *rateSince) frames(s bus.BusStatus) uint64 {
	frames, _ := r.hub(s)
	for _, e := range s.Endpoints {
		sent, _ := r.endpoint(e)
		frames += sent
	}
	for _, t := range s.Trunks {
		sent, _ := r.trunk(t)
		frames += sent
	}
	return frames
}

// load estimates which part of the time the wire is in use, see statusHelp. assumed are the bit rates of a bus that has
// none; ok is false if there are none at all.
func (r *rateSince) load(s bus.BusStatus, assumed bitRates) (load float64, ok bool) {
	now, old := s.Traffic, r.before.Traffic
	if c, o := s.Controller, r.before.Controller; c != nil && o != nil {
		now, old = c.Traffic, o.Traffic
		if c.Bitrate != 0 {
			assumed = bitRates{c.Bitrate, c.DataBitrate}
		}
	} else { // a vcan counts each frame as sent, and as received again
		now, old = canlink.Traffic{TxFrames: now.TxFrames, TxBytes: now.TxBytes}, canlink.Traffic{TxFrames: old.TxFrames, TxBytes: old.TxBytes}
	}
	if assumed.nominal == 0 {
		return 0, false
	}
	if assumed.data == 0 {
		assumed.data = assumed.nominal
	}
	frames := r.per(old.RxFrames+old.TxFrames, now.RxFrames+now.TxFrames)
	size := r.per(old.RxBytes+old.TxBytes, now.RxBytes+now.TxBytes)
	return 55*frames/float64(assumed.nominal) + 10*size/float64(assumed.data), true
}
