package cantest

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// What a plugged USBAdapter does: goroutines for control requests, for frames in each direction, and for the wire.

// run is a plugged adapter, until Unplug.
func (a *USBAdapter) run() {
	defer close(a.stopped)
	var pumps sync.WaitGroup
	defer pumps.Wait()
	pumps.Add(1)
	go func() {
		defer pumps.Done()
		a.runWire()
	}()
	if err := blockSignals(); err != nil {
		a.t.Error(err)
	}
	for {
		events, err := a.gadget.events()
		if err != nil {
			a.t.Errorf("USB adapter %s: %v", a.Serial, err)
			return
		}
		for _, e := range events {
			var err error
			switch e.kind {
			case eventEnable:
				a.disable()
				err = a.enable(&pumps)
			case eventDisable:
				a.disable()
			case eventSetup:
				err = a.control(e.request)
			case eventUnbind:
				a.disable()
				return
			}
			if err != nil {
				a.t.Errorf("USB adapter %s: %v", a.Serial, err)
			}
		}
	}
}

// control answers a control request.
func (a *USBAdapter) control(r request) error {
	size, known := gsRequestSizes[r.request]
	const vendorInterface = 0x41 // USB_TYPE_VENDOR | USB_RECIP_INTERFACE
	if !known || r.requestType&0x7F != vendorInterface || int(r.length) != size {
		a.note(fmt.Sprintf("refused request %#x %d of %d bytes", r.requestType, r.request, r.length))
		return a.gadget.refuse(r)
	}
	if r.toHost() {
		return a.gadget.answer(r, a.answerTo(r.request))
	}
	data, err := a.gadget.receive(r)
	if err == nil && len(data) == size {
		a.obey(r.request, data)
	}
	return err
}

func (a *USBAdapter) note(command string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.commands = append(a.commands, command)
}

func (a *USBAdapter) answerTo(request uint8) []byte {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch request {
	case gsDeviceConfig:
		a.commands = append(a.commands, "get config")
		return gsConfig()
	case gsBTConst, gsBTConstExt:
		a.commands = append(a.commands, "get limits")
		return gsConst()
	case gsGetTermination:
		a.commands = append(a.commands, "get termination")
		if a.termination {
			return le32(1) // GS_CAN_TERMINATION_STATE_ON
		}
		return le32(0)
	default: // gsGetState
		return le32(uint32(a.state), uint32(a.rxErrors), uint32(a.txErrors)) // no command: whoever looks at the device asks
	}
}

func (a *USBAdapter) obey(request uint8, data []byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var command string
	switch request {
	case gsHostFormat:
		command = fmt.Sprintf("host format %#x", u32(data, 0))
	case gsBitTiming:
		command = gsBitRate("", data)
	case gsDataBitTiming:
		command = gsBitRate("d", data)
	case gsSetTermination:
		a.termination = u32(data, 0) != 0
		command = "termination off"
		if a.termination {
			command = "termination on"
		}
	case gsMode:
		command = gsModeWords(data)
		a.reset()
		for a.outBusy { // until frames from before are forgotten
			a.changed.Wait()
		}
		a.started = command != "reset"
		a.changed.Broadcast()
	}
	a.commands = append(a.commands, command)
}

// reset makes the adapter forget its frames and errors; a.mu is held.
func (a *USBAdapter) reset() {
	a.started, a.state, a.txErrors, a.rxErrors = false, ErrorActive, 0, 0
	a.unsent, a.toHost = nil, nil
	for _, x := range []*transfers{a.in, a.out} {
		if x != nil {
			x.cancelAll()
		}
	}
	a.changed.Broadcast()
}

// enable makes it possible to start the transfers of the endpoints, until disable.
func (a *USBAdapter) enable(pumps *sync.WaitGroup) error {
	in, err := newTransfers(a.gadget.in, aioWrite, inSlots)
	if err != nil {
		return err
	}
	out, err := newTransfers(a.gadget.out, aioRead, outSlots)
	if err != nil {
		return errors.Join(err, in.close())
	}
	a.mu.Lock()
	a.in, a.out = in, out
	a.mu.Unlock()
	pumps.Add(2)
	go func() {
		defer pumps.Done()
		a.runOut(out)
	}()
	go func() {
		defer pumps.Done()
		a.runIn(in)
	}()
	return nil
}

// disable is for when the kernel has ended the transfers.
func (a *USBAdapter) disable() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.reset()
	a.in, a.out = nil, nil
	for a.outBusy {
		a.changed.Wait()
	}
}

// runOut takes frames from the driver while the adapter is started.
func (a *USBAdapter) runOut(out *transfers) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for a.out == out {
		if !a.started {
			a.changed.Wait()
			continue
		}
		for slot := range outSlots {
			a.submitFromHost(out, slot)
		}
		for len(out.free) < outSlots {
			a.mu.Unlock()
			slot, size, err := out.wait()
			a.mu.Lock()
			out.free = append(out.free, slot)
			if err == nil && a.started {
				a.takeFromHost(out.buffer(slot)[:size])
				a.submitFromHost(out, slot)
			} else if err != nil && !endpointGone(err) {
				a.t.Errorf("USB adapter %s: read: %v", a.Serial, err)
			}
		}
		a.outBusy = false
		a.changed.Broadcast()
		a.started = false // if it is not, the host has disabled the endpoint, and disable follows
	}
	if err := out.close(); err != nil {
		a.t.Error(err)
	}
}

// submitFromHost has the driver's next frame go to a slot; a.mu is held.
func (a *USBAdapter) submitFromHost(out *transfers, slot int) {
	if err := out.submit(slot, bufSize); err != nil {
		a.t.Errorf("USB adapter %s: read: %v", a.Serial, err)
		return
	}
	out.free = slices.DeleteFunc(out.free, func(other int) bool { return other == slot })
	a.outBusy = true
}

// takeFromHost takes a frame from the driver; a.mu is held.
func (a *USBAdapter) takeFromHost(b []byte) {
	h, err := unmarshalHostFrame(b)
	if err != nil {
		a.t.Errorf("USB adapter %s: from the driver: %v", a.Serial, err)
		return
	}
	a.unsent = append(a.unsent, h)
	a.changed.Broadcast()
}

// runIn gives frames to the driver as it takes them. give starts with them.
func (a *USBAdapter) runIn(in *transfers) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for a.in == in || len(in.free) < inSlots {
		if len(in.free) == inSlots {
			a.changed.Wait()
			continue
		}
		a.mu.Unlock()
		slot, _, err := in.wait()
		if err != nil && !endpointGone(err) {
			a.t.Errorf("USB adapter %s: write: %v", a.Serial, err)
		}
		a.mu.Lock()
		in.free = append(in.free, slot)
		a.submitToHost()
		a.changed.Broadcast()
	}
	if err := in.close(); err != nil {
		a.t.Error(err)
	}
}

// endpointGone reports whether a transfer failed because there is no host, or was cancelled.
func endpointGone(err error) bool {
	for _, gone := range []error{unix.ESHUTDOWN, unix.ECONNRESET, unix.EAGAIN, unix.ENODEV, unix.ECANCELED} {
		if errors.Is(err, gone) {
			return true
		}
	}
	return false
}

// give lets the driver have a frame, if it listens; a.mu is held.
func (a *USBAdapter) give(b []byte) {
	if a.started && a.state != BusOff {
		a.toHost = append(a.toHost, b)
		a.submitToHost()
	}
}

// submitToHost starts as many transfers as there are free slots; a.mu is held.
func (a *USBAdapter) submitToHost() {
	for a.in != nil && len(a.toHost) > 0 && len(a.in.free) > 0 {
		b, slot := a.toHost[0], a.in.free[0]
		copy(a.in.buffer(slot), b)
		if err := a.in.submit(slot, len(b)); err != nil {
			a.t.Errorf("USB adapter %s: write: %v", a.Serial, err)
			return
		}
		a.toHost, a.in.free = a.toHost[1:], a.in.free[1:]
		a.changed.Broadcast()
	}
}

// runWire takes frames from the adapter and has it confirm them, until Unplug.
func (a *USBAdapter) runWire() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for a.plugged {
		if a.rate == Stopped || a.state == BusOff || len(a.unsent) == 0 {
			a.idle = true
			a.changed.Broadcast()
			a.changed.Wait()
			continue
		}
		a.idle = false
		if a.rate > 0 {
			rate := a.rate
			a.mu.Unlock()
			time.Sleep(time.Second / time.Duration(rate))
			a.mu.Lock()
			if a.rate == Stopped || a.state == BusOff || len(a.unsent) == 0 {
				continue
			}
		}
		h := a.unsent[0]
		a.unsent = a.unsent[1:]
		for _, l := range a.listeners {
			l.hear(h.frame, false)
		}
		if echo, err := h.marshal(); err != nil {
			a.t.Errorf("USB adapter %s: %v", a.Serial, err)
		} else {
			a.give(echo)
		}
		peers := slices.Clone(a.peers)
		a.mu.Unlock()
		for _, peer := range peers {
			if err := peer.Send(h.frame); err != nil {
				a.t.Errorf("USB adapter %s: %v", peer.Serial, err)
			}
		}
		a.mu.Lock()
	}
}
