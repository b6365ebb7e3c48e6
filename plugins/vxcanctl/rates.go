package main

import (
	"slices"

	"github.com/vxcan/vxcan/pkg/bus"
	"github.com/vxcan/vxcan/pkg/canlink"
)

// bitRates are those of a wire, in bits per second: of the arbitration, and of the data of CAN FD frames.
type bitRates struct{ nominal, data uint32 }

// rateSince makes counters frames per second since an earlier look.
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

// perSecond is a bus with frames per second in the place of those sent and heard, and how many a second are on the bus.
func (r *rateSince) perSecond(s bus.BusStatus) (_ bus.BusStatus, frames uint64) {
	type counters struct{ sent, heard uint64 }
	before := map[string]counters{r.before.Hub: {r.before.Sent, r.before.Heard}} // by device
	for _, e := range r.before.Endpoints {
		before[e.HostIf] = counters{e.Sent, e.Heard}
	}
	for _, t := range r.before.Trunks {
		before[t.Device] = counters{t.Sent, t.Heard}
	}
	change := func(device string, sent, heard *uint64) {
		old, ok := before[device]
		if !ok { // one that has just come
			old = counters{*sent, *heard}
		}
		*sent, *heard = uint64(r.per(old.sent, *sent)+0.5), uint64(r.per(old.heard, *heard)+0.5)
		frames += *sent
	}
	s.Endpoints, s.Trunks = slices.Clone(s.Endpoints), slices.Clone(s.Trunks)
	change(s.Hub, &s.Sent, &s.Heard)
	for i := range s.Endpoints {
		change(s.Endpoints[i].HostIf, &s.Endpoints[i].Sent, &s.Endpoints[i].Heard)
	}
	for i := range s.Trunks {
		change(s.Trunks[i].Device, &s.Trunks[i].Sent, &s.Trunks[i].Heard)
	}
	return s, frames
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
