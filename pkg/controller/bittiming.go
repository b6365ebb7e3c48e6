package controller

// This is the kernel's calculation of bit timings, to know what a controller would do before it is asked to:
// can_calc_bittiming of drivers/net/can/dev/calc_bittiming.c (bittiming.c in older kernels). Of several equally good
// results it picks the one of 6.12. Older kernels may pick another, of which bit rate and sample point are as far off.

// syncSeg is the first segment of each bit in time quanta (CAN_SYNC_SEG, linux/can/bittiming.h).
const syncSeg = 1

// usable reports whether there are limits, and such as bit timings can be calculated with.
func (l Limits) usable() bool {
	const most = 1 << 10 // of a segment; controllers have up to 512
	return l.Tseg1Min+l.Tseg2Min > 0 && l.Tseg1Max >= l.Tseg1Min && l.Tseg2Max >= l.Tseg2Min &&
		l.Tseg1Max < most && l.Tseg2Max < most && l.BRPMin > 0 && l.BRPInc > 0 && l.BRPMax >= l.BRPMin
}

// timing returns bit rate, sample point and prescaler of the best bit timing that there is: what the kernel would set. ok
// is false if no prescaler in range gives one, or if the best has no segment before the sample point, which 6.12 refuses
// and 6.1 sets although no controller can do it. How far off the bit rate is is not judged here: the kernel takes up to
// 5 %. samplePoint is in 0.1 %, 0 leaves it to the kernel. Limits must be usable, bitrate not 0.
func (l Limits) timing(clock, bitrate, samplePoint uint32) (best BitTiming, ok bool) {
	if samplePoint == 0 {
		samplePoint = defaultSamplePoint(bitrate)
	}
	var bestRateError, bestPointError uint32 = 1<<32 - 1, 1<<32 - 1
	// An even count rounds the prescaler down, an odd one up.
	for count := 2*(l.Tseg1Max+l.Tseg2Max) + 1; count >= 2*(l.Tseg1Min+l.Tseg2Min); count-- {
		tseg := count / 2
		bit := syncSeg + tseg
		brp := divide(clock, bit, bitrate) + count%2
		brp -= brp % l.BRPInc
		if brp < l.BRPMin || brp > l.BRPMax {
			continue
		}
		rate := divide(clock, brp, bit)
		rateError := distance(rate, bitrate)
		if rateError > bestRateError {
			continue
		}
		if rateError < bestRateError {
			bestPointError = 1<<32 - 1
		}
		point, pointError, tseg1 := l.samplePoint(samplePoint, tseg)
		if pointError >= bestPointError {
			continue
		}
		bestRateError, bestPointError = rateError, pointError
		best, ok = BitTiming{Bitrate: rate, SamplePoint: point, BRP: brp}, tseg1 > 0
		if rateError == 0 && pointError == 0 {
			break
		}
	}
	return best, ok
}

// samplePoint is the sample point of a bit of 1+tseg time quanta that is the nearest to the wanted one and not behind it,
// how far away that is, and how many time quanta there are between the first one and it (can_update_sample_point).
func (l Limits) samplePoint(want, tseg uint32) (point, pointError, tseg1 uint32) {
	pointError = 1<<32 - 1
	for less := range uint32(2) {
		tseg2 := tseg + syncSeg - want*(tseg+syncSeg)/1000 - less
		tseg2 = max(l.Tseg2Min, min(tseg2, l.Tseg2Max))
		if tseg1 := tseg - tseg2; tseg1 > l.Tseg1Max {
			tseg2 = tseg - l.Tseg1Max
		}
		here := 1000 * (tseg + syncSeg - tseg2) / (tseg + syncSeg)
		if here <= want && want-here < pointError {
			point, pointError, tseg1 = here, want-here, tseg-tseg2
		}
	}
	return point, pointError, tseg1
}

// nearest is the bit rate next to the wanted one, however far away, that there is a bit timing for.
func (l Limits) nearest(clock, bitrate uint32) uint32 {
	best := uint32(0)
	for bit := syncSeg + l.Tseg1Min + l.Tseg2Min; bit <= syncSeg+l.Tseg1Max+l.Tseg2Max; bit++ {
		brp := min(divide(clock, bit, bitrate), l.BRPMax)
		brp -= brp % l.BRPInc
		for _, brp := range []uint32{max(brp, l.BRPMin), min(max(brp+l.BRPInc, l.BRPMin), l.BRPMax)} {
			if rate := divide(clock, brp, bit); best == 0 || distance(rate, bitrate) < distance(best, bitrate) {
				best = rate
			}
		}
	}
	return best
}

// defaultSamplePoint is what the kernel takes where nothing else is asked for, in 0.1 %: as CiA recommends.
func defaultSamplePoint(bitrate uint32) uint32 {
	switch {
	case bitrate > 800_000:
		return 750
	case bitrate > 500_000:
		return 800
	}
	return 875
}

// divide is a/(b*c). The kernel lets b*c overflow, with bit rates that no clock reaches.
func divide(a, b, c uint32) uint32 { return uint32(uint64(a) / (uint64(b) * uint64(c))) }

func distance(a, b uint32) uint32 { return max(a, b) - min(a, b) }
