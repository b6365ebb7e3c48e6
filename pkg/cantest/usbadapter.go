package cantest

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// USBAdapter is a USB CAN FD adapter without hardware: a gadget that speaks the protocol of candleLight adapters, on the
// USB bus of dummy_hcd. The kernel's own driver gs_usb makes a device for it. The test has the adapter's other side, which
// is the wire.
//
// It has what Controller lacks: CAN FD, termination, a serial number, confirmed frames (IFF_ECHO: a program on the host
// hears its own frame once it is sent), error frames and states with counters, a real plug. The driver gives it up to ten
// frames and waits for their confirmation; the next ones wait in the device's queue.
//
// A new device is down and has no bit rate. It is set up as any controller:
// ip link set NAME up type can bitrate 500000 dbitrate 2000000 fd on.
type USBAdapter struct {
	Name   string // of the device
	Serial string // number; several adapters have different ones

	t       testing.TB
	gadget  *gadget
	ifIndex int
	stopped chan struct{} // closed when no goroutine of the plugged adapter is left

	mu          sync.Mutex
	changed     *sync.Cond // what follows
	plugged     bool
	started     bool // the device is up
	state       State
	txErrors    uint8
	rxErrors    uint8
	termination bool
	rate        int
	idle        bool        // no frame is on its way to the wire
	unsent      []hostFrame // in the adapter, for the wire
	toHost      [][]byte    // in the adapter, for the driver
	in, out     *transfers  // nil unless the endpoints are enabled
	outBusy     bool        // transfers of out are under way
	commands    []string
	listeners   []*Listener
	peers       []*USBAdapter
}

const (
	inSlots  = 30 // GS_MAX_RX_URBS: what the driver takes at once
	outSlots = gsMaxTX
	// maxToHost frames may wait for the driver before Send waits, too.
	maxToHost = 100
)

// NewUSBAdapter makes an adapter and plugs it. Its device gets the name, or if that is "", the one that the kernel or
// udev gives it. The wire is unlimited. It skips the test where the kernel has no USB gadgets or no gs_usb, and where it
// is not the test's own: everybody on a machine sees a USB device.
func NewUSBAdapter(t testing.TB, name, serial string) *USBAdapter {
	t.Helper()
	Require(t)
	if os.Getenv("VXCAN_VM") != "booted" {
		t.Skip("plugs a USB device in: needs a kernel of its own (bin/vm -qemu)")
	}
	if err := loadGadgetModules(); errors.Is(err, errNoGadget) {
		t.Skip(err)
	} else if err != nil {
		t.Fatal(err)
	}
	a := &USBAdapter{Name: name, Serial: serial, t: t, rate: Unlimited}
	a.changed = sync.NewCond(&a.mu)
	var err error
	a.gadget, err = newGadget("can-"+serial, t.TempDir(), gsVendor, gsProduct, gadgetStrings{
		manufacturer: "vxcan", product: "USB CAN FD adapter", serial: serial, function: "gs_usb",
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		a.Unplug()
		if err := a.gadget.remove(); err != nil {
			t.Errorf("remove USB gadget: %v", err)
		}
	})
	a.Plug()
	return a
}

// Plug plugs an unplugged adapter in and waits for its device, which is a new one and down.
func (a *USBAdapter) Plug() {
	a.t.Helper()
	if err := a.gadget.plug(); err != nil {
		a.t.Fatal(err)
	}
	a.mu.Lock()
	a.plugged, a.started, a.state, a.txErrors, a.rxErrors, a.termination = true, false, Active, 0, 0, false
	a.mu.Unlock()
	a.stopped = make(chan struct{})
	go a.run()
	var device netlink.Link
	err := poll(func() (_ bool, err error) {
		device, err = a.find()
		return device != nil, err
	})
	if err == nil && a.Name != "" && device.Attrs().Name != a.Name {
		err = netlink.LinkSetName(device, a.Name)
	}
	if err != nil {
		a.t.Fatalf("device of USB adapter %s: %v", a.Serial, err)
	}
	a.ifIndex = device.Attrs().Index
	if a.Name == "" {
		a.Name = device.Attrs().Name
	}
}

// find finds the device, which is nil unless there is one.
func (a *USBAdapter) find() (netlink.Link, error) {
	path := usbPath(a.Serial)
	if path == "" {
		return nil, nil
	}
	all, err := netlink.LinkList()
	if errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, nil // try again
	} else if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(all, func(l netlink.Link) bool { return l.Attrs().ParentDev == path+":1.0" })
	if i < 0 {
		return nil, nil
	}
	return all[i], nil
}

// Unplug unplugs the adapter and waits until its device is gone, with the frames that it had not sent. Once or more
// often; the end of the test does it too.
func (a *USBAdapter) Unplug() {
	a.t.Helper()
	a.mu.Lock()
	plugged := a.plugged
	a.plugged = false
	a.reset()
	a.changed.Broadcast()
	a.mu.Unlock()
	if !plugged {
		return
	}
	if err := a.gadget.unplug(); err != nil {
		a.t.Error(err)
		return
	}
	<-a.stopped
	err := poll(func() (bool, error) {
		_, err := netlink.LinkByIndex(a.ifIndex)
		if errors.As(err, new(netlink.LinkNotFoundError)) {
			return usbPath(a.Serial) == "", nil
		}
		return false, err
	})
	if err != nil {
		a.t.Errorf("device of the unplugged USB adapter %s: %v", a.Serial, err)
	}
}

// Pace is Controller.Pace. With Stopped, nobody acknowledges: the adapter keeps the frames that it has, ten at most, and
// confirms none.
func (a *USBAdapter) Pace(framesPerSecond int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.rate = framesPerSecond
	a.changed.Broadcast()
	for a.rate == Stopped && !a.idle && a.plugged {
		a.changed.Wait()
	}
}

// Send sends a frame from the wire, as another node of the bus; with unix.CAN_ERR_FLAG in its id and 8 bytes of data it is
// an error frame, which the adapter reports to the driver. The device hears it if it is up. Send waits while the driver is
// far behind.
func (a *USBAdapter) Send(f Frame) error { return a.send(hostFrame{echoID: notEcho, frame: f}) }

// SendOverflow is Send, and tells the driver that frames before this one were lost in the adapter.
func (a *USBAdapter) SendOverflow(f Frame) error {
	return a.send(hostFrame{echoID: notEcho, frame: f, overflow: true})
}

func (a *USBAdapter) send(h hostFrame) error {
	b, err := h.marshal()
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for a.started && len(a.toHost) >= maxToHost {
		a.changed.Wait()
	}
	a.give(b)
	return nil
}

// SetState changes the state and the error counters of the adapter, and has it report that by an error frame. In bus-off
// it sends and hears nothing until the device is set down and up.
func (a *USBAdapter) SetState(s State, txErrors, rxErrors uint8) error {
	b, err := hostFrame{echoID: notEcho, frame: s.errorFrame(txErrors, rxErrors)}.marshal()
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.state, a.txErrors, a.rxErrors = Active, txErrors, rxErrors // for give
	a.give(b)
	a.state = s
	a.changed.Broadcast()
	return nil
}

// Listen is Controller.Listen.
func (a *USBAdapter) Listen() *Listener {
	l := &Listener{foreign: make(map[Frame]int), own: make(map[Frame]int)}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.listeners = append(a.listeners, l)
	l.Close = sync.OnceFunc(func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.listeners = slices.DeleteFunc(a.listeners, func(other *Listener) bool { return other == l })
	})
	return l
}

// Connect puts two adapters on one wire: each hears what the device of the other sends. Send still reaches one of them.
func (a *USBAdapter) Connect(b *USBAdapter) {
	for _, pair := range [][2]*USBAdapter{{a, b}, {b, a}} {
		pair[0].mu.Lock()
		pair[0].peers = append(pair[0].peers, pair[1])
		pair[0].mu.Unlock()
	}
}

// Commands are what the driver has told the adapter and asked of it so far, as "start fd", "reset", "termination on",
// "bitrate 500000 sample-point 0.875", "get termination".
func (a *USBAdapter) Commands() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.commands)
}

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

// reset makes the adapter forget its frames and troubles; a.mu is held.
func (a *USBAdapter) reset() {
	a.started, a.state, a.txErrors, a.rxErrors = false, Active, 0, 0
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

// endpointGone tells whether a transfer failed because there is no host, or was cancelled.
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
