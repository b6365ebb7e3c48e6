package controller

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/canlink"
	"github.com/vxcan/vxcan/pkg/rtnl"
)

// SetUp gives a controller that is down all its settings and a transmit queue of so many frames (0 leaves the
// queue as it is), and brings it up. before is what Get has just read of it. It returns the controller as it is
// then, and warnings: what was left out, and what the kernel remarked. Some drivers block for seconds.
//
// Nothing is changed where Check refuses, and where the controller is up already, by before or because another program
// has just brought it up: that is EBUSY. Where the kernel refuses anything else, or sets something else than it was asked
// for, or the controller has another name by now, which is ENODEV, it is put back to what it was, see Restore.
func (c *Conn) SetUp(before Device, s Settings, queue int) (after Device, warnings []string, retErr error) {
	if warnings, retErr = before.Check(s); retErr != nil {
		return Device{}, nil, retErr
	}
	if before.Up {
		return Device{}, nil, fmt.Errorf("set up %s: it is up: %w", before, unix.EBUSY)
	}
	if s.RestartMS != 0 && c.refusesRestart(before.Index) {
		warnings = append(warnings, fmt.Sprintf("%s: no restart-ms: its driver cannot restart after bus-off", before))
		s.RestartMS = 0
	}
	if before.Queue == 0 && queue != 0 {
		// A device that goes up with a queue of 0, or of a length that there is no memory for, gets a queueing discipline
		// without a queue, which a length set later does not change (attach_default_qdiscs, net/sched/sch_generic.c).
		if err := c.SetTxQueue(before.Index, 1); err != nil {
			return Device{}, nil, err
		}
	}
	request := before.setUpRequest(s, queue)
	request.Flags |= unix.NLM_F_ACK // for the warning
	replies, err := c.repeat(request, canlink.GetRequest(before.Index))
	if err == nil {
		err = replies[0].Err
	}
	if replies != nil && errors.Is(err, unix.EBUSY) { // which a driver may answer too, and then the device is down
		if now, lookErr := c.parseReply(before.Index, replies[1]); lookErr == nil && now.Up {
			return Device{}, nil, fmt.Errorf("set up %s: another program has just brought it up: %w", before, err)
		}
	}
	defer func() {
		if retErr != nil {
			after, warnings, retErr = Device{}, nil, errors.Join(retErr, c.Restore(before))
		}
	}()
	if err != nil {
		return Device{}, nil, fmt.Errorf("set up %s: %w", before, err)
	}
	if after, err = c.parseReply(before.Index, replies[1]); err != nil {
		return Device{}, nil, fmt.Errorf("set up %s: %w", before, err)
	}
	if after.Name != before.Name { // somebody has renamed it, so that it may not be the one that was meant
		return Device{}, nil, fmt.Errorf("set up %s: it is called %s now: %w", before, after.Name, unix.ENODEV)
	}
	if differences := after.Differs(s); len(differences) > 0 {
		return Device{}, nil, fmt.Errorf("set up %s: the kernel has set %s", before, strings.Join(differences, "; "))
	}
	rounded := after.rounded(s)
	if words := replies[0].Warning; words != "" && len(rounded) == 0 { // else it says the same, only less exactly
		warnings = append(warnings, fmt.Sprintf("%s: %s", before, words))
	}
	return after, append(warnings, rounded...), nil
}

// Restore sets a controller down, gives it back the settings and the queue in before, and brings it up if it was up. A
// controller that is gone is no error.
//
// Two things it cannot undo: a controller that never had a bit rate keeps the one that it got since, and the transmitter
// delay compensation of CAN FD is calculated anew.
func (c *Conn) Restore(before Device) error {
	now, err := c.Get(before.Index)
	if errors.Is(err, canlink.ErrNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("restore %s: %w", before, err)
	}
	requests := []*nl.NetlinkRequest{canlink.DownRequest(before.Index), before.restoreRequest(now)}
	if before.Up {
		requests = append(requests, canlink.UpRequest(before.Index))
	}
	replies, err := c.repeat(requests...)
	for _, r := range replies {
		if r.Err != nil && !errors.Is(r.Err, unix.ENODEV) {
			err = errors.Join(err, r.Err)
		}
	}
	if err != nil {
		return fmt.Errorf("restore %s: %w", before, err)
	}
	return nil
}

// errRestart is what the kernel answers when a signal came while a driver waited for its adapter, as slcan does when it is
// brought up: ERESTARTSYS of linux/errno.h, which a program should never see. Go has signals of its own, to take turns.
const errRestart = syscall.Errno(512)

// repeat is Batch for requests that can be repeated: as often as a signal comes in between, and a few times where an adapter does
// not answer in time, as a serial one on a busy machine within the second that slcan gives it.
func (c *Conn) repeat(requests ...*nl.NetlinkRequest) (replies []rtnl.Reply, err error) {
	answers := func(errno error) bool {
		return slices.ContainsFunc(replies, func(r rtnl.Reply) bool { return errors.Is(r.Err, errno) })
	}
	const mostLate = 3
	late := 0
	for range 100 {
		replies, err = c.conn.Batch(requests...)
		if answers(unix.ETIMEDOUT) {
			late++
		} else if !answers(errRestart) {
			break
		}
		if late == mostLate {
			break
		}
	}
	return replies, err
}

// Restart restarts a controller that is in bus-off. The kernel answers EOPNOTSUPP if the driver cannot, EBUSY if it is in
// another state, and EINVAL if it is down or restarts by itself (restart-ms).
func (c *Conn) Restart(index int) error {
	if err := rtnl.Do(c.conn, restartRequest(index)); err != nil {
		return fmt.Errorf("restart controller with index %d: %w", index, err)
	}
	return nil
}

// SetTxQueue sets how many frames the transmit queue of a device holds. The device may be up.
func (c *Conn) SetTxQueue(index, frames int) error {
	if err := rtnl.Do(c.conn, queueRequest(index, frames)); err != nil {
		return fmt.Errorf("set transmit queue of device with index %d to %d frames: %w", index, frames, err)
	}
	return nil
}

// refusesRestart reports whether the driver of a controller that is down cannot restart after bus-off. To ask is the only
// way to know, and changes nothing: the kernel looks at the driver first and then refuses because the device is down.
// Kernels that do not look at the driver refuse for that alone, and take a restart-ms from every driver.
func (c *Conn) refusesRestart(index int) bool {
	return errors.Is(rtnl.Do(c.conn, restartRequest(index)), unix.EOPNOTSUPP)
}

func queueRequest(index, frames int) *nl.NetlinkRequest {
	return rtnl.With(canlink.ChangeRequest(index), rtnl.Number(unix.IFLA_TXQLEN, uint32(frames)))
}

func restartRequest(index int) *nl.NetlinkRequest {
	return rtnl.With(canlink.ChangeRequest(index), canlink.Info(Can, rtnl.Number(nl.IFLA_CAN_RESTART, 1)))
}

// setUpRequest sets everything and brings the controller up. The kernel changes bit rate, modes, restart-ms, data bit
// rate and termination in this order; the first that it refuses ends it, and those before stay changed. Then it brings
// the controller up, and then it changes the queue. All modes are named, because those of an earlier owner are still on.
func (c Device) setUpRequest(s Settings, queue int) *nl.NetlinkRequest {
	r := canlink.UpRequest(c.Index)
	if queue != 0 {
		r.AddData(rtnl.Number(unix.IFLA_TXQLEN, uint32(queue)))
	}
	want, mask := s.modes()|c.static(), ourModes&c.Supported|c.static()
	if !c.KnowsSupported { // to name a mode that the driver lacks could be an error, even to switch it off
		mask = want | ourModes&c.Modes
	}
	data := []*nl.RtAttr{c.rate(s).timing().attr(nl.IFLA_CAN_BITTIMING), ctrlMode(mask, want)}
	if s.RestartMS != c.RestartMS { // some drivers refuse to be told
		data = append(data, rtnl.Number(nl.IFLA_CAN_RESTART_MS, s.RestartMS))
	}
	if s.FD {
		data = append(data, c.dataRate(s).timing().attr(nl.IFLA_CAN_DATA_BITTIMING))
	}
	if s.SetTermination {
		data = append(data, nl.NewRtAttr(nl.IFLA_CAN_TERMINATION, nl.Uint16Attr(s.Termination)))
	}
	return rtnl.With(r, canlink.Info(Can, data...))
}

// timing is what to ask for. A driver with a list of bit rates would record a sample point that it can do nothing about.
func (r rate) timing() BitTiming {
	if !r.limits.usable() && len(r.list) > 0 {
		return BitTiming{Bitrate: r.want}
	}
	return BitTiming{Bitrate: r.want, SamplePoint: r.point}
}

// restoreRequest gives a controller that is down, and now has other settings, the old ones.
func (c Device) restoreRequest(now Device) *nl.NetlinkRequest {
	var data []*nl.RtAttr
	modes, mask := c.Modes, now.Supported|now.static()
	if !now.KnowsSupported {
		mask = c.Modes | now.Modes
	}
	mask &^= modeTDC // so that the kernel calculates it
	if c.Timing.known() {
		data = append(data, c.Timing.again().attr(nl.IFLA_CAN_BITTIMING))
	}
	switch {
	case modes&ModeFD == 0:
	case c.Timing.known() && c.DataTiming.known():
		data = append(data, c.DataTiming.again().attr(nl.IFLA_CAN_DATA_BITTIMING))
	default: // FD on by MTU alone, which the kernel refuses here without both bit rates
		modes &^= ModeFD
	}
	data = append(data, ctrlMode(mask, modes&mask))
	if c.RestartMS != now.RestartMS {
		data = append(data, rtnl.Number(nl.IFLA_CAN_RESTART_MS, c.RestartMS))
	}
	if c.Termination != now.Termination {
		data = append(data, nl.NewRtAttr(nl.IFLA_CAN_TERMINATION, nl.Uint16Attr(c.Termination)))
	}
	return rtnl.With(queueRequest(c.Index, c.Queue), canlink.Info(Can, data...))
}

// again asks for a bit timing that a controller had: by its segments if they are known. The kernel takes these or a bit rate.
func (t BitTiming) again() BitTiming {
	if t.TQ == 0 {
		return BitTiming{Bitrate: t.Bitrate, SamplePoint: t.SamplePoint}
	}
	return BitTiming{TQ: t.TQ, PropSeg: t.PropSeg, PhaseSeg1: t.PhaseSeg1, PhaseSeg2: t.PhaseSeg2, SJW: t.SJW}
}

// ctrlMode is IFLA_CAN_CTRLMODE: struct can_ctrlmode of linux/can/netlink.h.
func ctrlMode(mask, flags Modes) *nl.RtAttr {
	return nl.NewRtAttr(nl.IFLA_CAN_CTRLMODE, append(nl.Uint32Attr(uint32(mask)), nl.Uint32Attr(uint32(flags))...))
}
