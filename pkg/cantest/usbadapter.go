package cantest

import (
	"errors"
	"os"
	"slices"
	"sync"
	"testing"

	"github.com/vishvananda/netlink"
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
	Name   string // of the device, when it was plugged in last
	Serial string // number; several adapters have different ones

	t       testing.TB
	rename  bool // the device gets the name
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

// PromisedUSB is the environment variable that, when it is 1, says that this kernel has USB gadgets: tests that need them
// then fail where they would be skipped.
const PromisedUSB = "VXCAN_TEST_USB"

const (
	inSlots  = 30 // GS_MAX_RX_URBS: what the driver takes at once
	outSlots = gsMaxTX
	// maxToHost frames may wait for the driver before Send waits, too.
	maxToHost = 100
)

// NewUSBAdapter makes an adapter and plugs it in. Its device gets the name, or if that is "", the one that the kernel
// gives it, which udev may change. The wire is unlimited. It skips the test where the kernel has no USB gadgets or no
// gs_usb, and where it is not the test's own, because all of a machine sees a USB device: bin/vm -qemu has one.
func NewUSBAdapter(t testing.TB, name, serial string) *USBAdapter {
	t.Helper()
	Require(t)
	err := loadGadgetModules()
	if errors.Is(err, errNoGadget) && os.Getenv(PromisedUSB) != "1" {
		t.Skip(err)
	} else if err != nil {
		t.Fatal(err)
	}
	a := newUSBAdapter(t, name, serial)
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

func newUSBAdapter(t testing.TB, name, serial string) *USBAdapter {
	a := &USBAdapter{Name: name, Serial: serial, t: t, rename: name != "", rate: Unlimited}
	a.changed = sync.NewCond(&a.mu)
	return a
}

// Plug plugs an unplugged adapter in and waits for its device, which is a new one and down.
func (a *USBAdapter) Plug() {
	a.t.Helper()
	if err := a.gadget.plug(); err != nil {
		a.t.Fatal(err)
	}
	a.mu.Lock()
	a.plugged, a.started, a.state, a.txErrors, a.rxErrors, a.termination = true, false, ErrorActive, 0, 0, false
	a.mu.Unlock()
	a.stopped = make(chan struct{})
	go a.run()
	var device netlink.Link
	err := poll(func() (_ bool, err error) {
		device, err = a.find()
		return device != nil, err
	})
	if err == nil && a.rename {
		err = netlink.LinkSetName(device, a.Name)
	}
	if err != nil {
		a.t.Fatalf("device of USB adapter %s: %v", a.Serial, err)
	}
	a.ifIndex = device.Attrs().Index
	if !a.rename {
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
	a.state, a.txErrors, a.rxErrors = ErrorActive, txErrors, rxErrors // for give
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
