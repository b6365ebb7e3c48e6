package cantest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// gadget is a USB device that this machine is and has at once: dummy_hcd connects a device controller (UDC) with a host
// controller, configfs describes the device, and FunctionFS hands its endpoints to a program
// (Documentation/usb/functionfs.rst). It has one interface with a bulk endpoint in each direction.
type gadget struct {
	dir     string // in configfs
	mounted string // FunctionFS
	control int    // endpoint 0, a file descriptor as the next ones
	in, out int    // to and from the host
	undo    []func() error
}

// gadgetStrings are what the device says of itself.
type gadgetStrings struct{ manufacturer, product, serial, function string }

const (
	configFS  = "/sys/kernel/config"
	gadgetDir = configFS + "/usb_gadget"
	udcDir    = "/sys/class/udc"
	english   = 0x0409
)

// errNoGadget is a kernel without what a gadget or its driver needs.
var errNoGadget = errors.New("no emulated USB CAN adapters on this kernel")

// loadGadgetModules loads all that is needed; the driver too, because without udev a plugged device loads none. dummy_hcd
// gets two controllers.
func loadGadgetModules() error {
	if os.Getenv("VXCAN_VM") != "booted" {
		return fmt.Errorf("%w: it is not the test's own (bin/vm -qemu)", errNoGadget)
	}
	// CONFIG_USB_LIBCOMPOSITE, CONFIG_USB_CONFIGFS_F_FS, CONFIG_CAN_GS_USB and CONFIG_USB_DUMMY_HCD.
	for _, module := range [][]string{{"libcomposite"}, {"usb_f_fs"}, {"gs_usb"}, {"dummy_hcd", "num=2"}} {
		if out, err := exec.Command("modprobe", module...).CombinedOutput(); err != nil {
			return fmt.Errorf("%w: modprobe %s: %w: %s", errNoGadget, module[0], err, strings.TrimSpace(string(out)))
		}
	}
	err := unix.Mount("configfs", configFS, "configfs", 0, "")
	if err != nil && !errors.Is(err, unix.EBUSY) { // EBUSY: it is mounted
		return fmt.Errorf("mount configfs: %w", err)
	}
	return nil
}

// newGadget makes a device that is not plugged. The name is that of its directories, and unique on the machine.
func newGadget(name, mountpoint string, vendor, product uint16, words gadgetStrings) (_ *gadget, retErr error) {
	g := &gadget{dir: filepath.Join(gadgetDir, name), mounted: mountpoint}
	defer func() {
		if retErr != nil {
			retErr = errors.Join(retErr, g.remove())
		}
	}()
	function, config := filepath.Join(g.dir, "functions/ffs."+name), filepath.Join(g.dir, "configs/c.1")
	for _, dir := range []string{g.dir, filepath.Join(g.dir, "strings/0x409"), config, function} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return nil, err
		}
		g.undo = append(g.undo, func() error { return os.Remove(dir) })
	}
	for file, value := range map[string]string{
		"idVendor":                   fmt.Sprintf("%#04x", vendor),
		"idProduct":                  fmt.Sprintf("%#04x", product),
		"strings/0x409/manufacturer": words.manufacturer,
		"strings/0x409/product":      words.product,
		"strings/0x409/serialnumber": words.serial,
	} {
		if err := os.WriteFile(filepath.Join(g.dir, file), []byte(value), 0o644); err != nil {
			return nil, err
		}
	}
	link := filepath.Join(config, "ffs."+name)
	if err := os.Symlink(function, link); err != nil {
		return nil, err
	}
	g.undo = append(g.undo, func() error { return os.Remove(link) })
	if err := unix.Mount(name, mountpoint, "functionfs", 0, ""); err != nil {
		return nil, fmt.Errorf("mount functionfs: %w", err)
	}
	g.undo = append(g.undo, func() error { return os.NewSyscallError("unmount functionfs", unix.Unmount(mountpoint, 0)) })
	return g, g.open(words.function)
}

// open describes the function to the kernel, which then has files for its endpoints.
func (g *gadget) open(function string) (err error) {
	// Go's poller may miss an event: poll(2) does not tell of one while another thread is in a read.
	if g.control, err = g.openEndpoint("ep0", unix.O_RDWR); err != nil {
		return err
	}
	for _, b := range [][]byte{functionDescriptors(), functionStrings(function)} {
		if _, err := unix.Write(g.control, b); err != nil {
			return fmt.Errorf("describe the function: %w", err)
		}
	}
	// Not blocking, a transfer on an endpoint that the host has not enabled fails. Otherwise it would wait for that.
	if g.in, err = g.openEndpoint("ep1", unix.O_WRONLY|unix.O_NONBLOCK); err != nil {
		return err
	}
	g.out, err = g.openEndpoint("ep2", unix.O_RDONLY|unix.O_NONBLOCK)
	return err
}

func (g *gadget) openEndpoint(name string, flags int) (int, error) {
	fd, err := unix.Open(filepath.Join(g.mounted, name), flags|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("open %s: %w", name, err)
	}
	g.undo = append(g.undo, func() error { return unix.Close(fd) })
	return fd, nil
}

// remove undoes newGadget. The device must not be plugged.
func (g *gadget) remove() error {
	var errs []error
	for i := len(g.undo) - 1; i >= 0; i-- {
		errs = append(errs, g.undo[i]())
	}
	g.undo = nil
	return errors.Join(errs...)
}

// plug plugs the device into the first of the machine's emulated controllers that is free.
func (g *gadget) plug() error {
	controllers, err := filepath.Glob(udcDir + "/dummy_udc.*")
	if err != nil {
		return err
	}
	err = fmt.Errorf("no dummy_udc in %s", udcDir)
	for _, controller := range controllers {
		// Where the controller is in use: EBUSY on 6.1 and later, and ENODEV before.
		if err = os.WriteFile(filepath.Join(g.dir, "UDC"), []byte(filepath.Base(controller)), 0o644); err == nil {
			return nil
		}
	}
	return fmt.Errorf("plug: %w", err)
}

// unplug ends all transfers.
func (g *gadget) unplug() error {
	if err := os.WriteFile(filepath.Join(g.dir, "UDC"), []byte("\n"), 0o644); err != nil {
		return fmt.Errorf("unplug: %w", err)
	}
	return nil
}

// functionDescriptors are struct usb_functionfs_descs_head_v2 with an interface and two endpoints, for full and for high
// speed (linux/usb/functionfs.h).
func functionDescriptors() []byte {
	const magic, hasFullSpeed, hasHighSpeed = 3, 1, 2 // FUNCTIONFS_DESCRIPTORS_MAGIC_V2, FUNCTIONFS_HAS_…
	descriptors := func(packet uint16) []byte {
		b := []byte{9, 4, 0, 0, 2, 0xFF, 0xFF, 0xFF, 1} // interface of the vendor's own class, named by string 1
		for _, address := range []byte{0x81, 0x02} {    // gs_usb of old kernels looks at no other addresses
			b = append(b, 7, 5, address, 2, byte(packet), byte(packet>>8), 0) // bulk endpoint
		}
		return b
	}
	body := append(descriptors(64), descriptors(512)...)
	const count, headSize = 3, 20
	return append(le32(magic, uint32(headSize+len(body)), hasFullSpeed|hasHighSpeed, count, count), body...)
}

// functionStrings are struct usb_functionfs_strings_head with one string in English.
func functionStrings(function string) []byte {
	const magic, headSize = 2, 16 // FUNCTIONFS_STRINGS_MAGIC
	body := binary.LittleEndian.AppendUint16(nil, english)
	body = append(append(body, function...), 0)
	return append(le32(magic, uint32(headSize+len(body)), 1, 1), body...)
}

// event is struct usb_functionfs_event.
type event struct {
	kind    uint8
	request request
}

// request is struct usb_ctrlrequest.
type request struct {
	requestType, request uint8
	value, index, length uint16
}

func (r request) toHost() bool { return r.requestType&0x80 != 0 }

// enum usb_functionfs_event_type
const (
	eventUnbind  = 1 // unplugged; the last event
	eventEnable  = 2 // the host has chosen the configuration: the endpoints can be used
	eventDisable = 3 // they cannot any more; left out where eventUnbind follows at once
	eventSetup   = 4 // a control request
)

// events waits for events of a plugged device. It, answer, receive and refuse are for a thread that gets no signals.
func (g *gadget) events() ([]event, error) {
	const size = 12
	buf := make([]byte, 4*size)
	n, err := unix.Read(g.control, buf)
	if errors.Is(err, unix.EIDRM) || errors.Is(err, unix.EL2HLT) {
		return nil, nil // a request that the host has taken back, or that an unplug kept us from answering
	} else if err != nil {
		return nil, fmt.Errorf("read events: %w", err)
	}
	var all []event
	for b := buf[:n]; len(b) >= size; b = b[size:] {
		all = append(all, event{b[8], request{
			b[0], b[1], binary.LittleEndian.Uint16(b[2:]), binary.LittleEndian.Uint16(b[4:]), binary.LittleEndian.Uint16(b[6:]),
		}})
	}
	return all, nil
}

// answer sends the host what it has requested.
func (g *gadget) answer(r request, data []byte) error {
	_, err := unix.Write(g.control, data[:min(len(data), int(r.length))])
	return ignoreGone(err)
}

// receive takes what the host sends with a request, which is nil if the host has gone.
func (g *gadget) receive(r request) ([]byte, error) {
	data := make([]byte, r.length)
	n, err := unix.Read(g.control, data)
	if err != nil {
		return nil, ignoreGone(err)
	}
	return data[:n], nil
}

// refuse stalls a request, by moving data against its direction.
func (g *gadget) refuse(r request) error {
	var err error
	if r.toHost() {
		_, err = unix.Read(g.control, nil)
	} else {
		_, err = unix.Write(g.control, nil)
	}
	if errors.Is(err, unix.EL2HLT) {
		return nil // stalled
	}
	return ignoreGone(err)
}

// ignoreGone drops what a request ends with that the host has taken back, or that an unplug has ended.
func ignoreGone(err error) error {
	for _, gone := range []error{unix.EIDRM, unix.ESHUTDOWN, unix.ECONNRESET, unix.EOVERFLOW} {
		if errors.Is(err, gone) {
			return nil
		}
	}
	return err
}

// blockSignals ties the goroutine to its thread for good, and lets that get no signals, as those of Go's scheduler: when
// one comes while a control request is answered, FunctionFS drops the data and returns EINTR, even if the host has taken
// the answer already.
func blockSignals() error {
	runtime.LockOSThread() // a thread that is never unlocked ends with its goroutine
	var all unix.Sigset_t
	for i := range all.Val {
		all.Val[i] = ^uint64(0)
	}
	return os.NewSyscallError("block signals", unix.PthreadSigmask(unix.SIG_BLOCK, &all, nil))
}

// usbPath is the name of the plugged device with a serial number in /sys/bus/usb/devices, or "".
func usbPath(serial string) string {
	files, _ := filepath.Glob("/sys/bus/usb/devices/*/serial")
	for _, file := range files {
		if text, err := os.ReadFile(file); err == nil && strings.TrimSpace(string(text)) == serial {
			return filepath.Base(filepath.Dir(file))
		}
	}
	return ""
}

// poll waits up to a minute for a condition.
func poll(condition func() (bool, error)) error {
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if done, err := condition(); done || err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return os.ErrDeadlineExceeded
		}
	}
}
