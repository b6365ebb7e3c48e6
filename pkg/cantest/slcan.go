package cantest

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Controller is a CAN controller with a real driver and no hardware: slcan (drivers/net/can/slcan), which speaks the
// ASCII protocol of serial adapters on a terminal. The terminal is a pseudo-terminal here, and its other side, which the
// test has, is both the adapter and the wire.
//
// It has what a vxcan end lacks: a transmit queue, which is 10 frames long unless the owner changes that; a wire that
// takes frames no faster than the test reads them; bit rates; states; and it can be unplugged. It is not CAN FD, does not
// confirm sent frames (no IFF_ECHO), and cannot restart after bus-off by itself: set it down and up.
//
// A new one is down and has no bit rate. It is set up as any controller: ip link set NAME up type can bitrate 500000.
// While it is set up or down, the driver sends commands and waits a second for the wire to take each.
type Controller struct {
	Name string // of the device

	// Unplug closes the terminal: the device goes, with the frames that it had not sent. Once or more often; the end of
	// the test does it too.
	Unplug func()

	wire *os.File // the pseudo-terminal's master

	mu        sync.Mutex
	changed   *sync.Cond // what follows
	rate      int
	idle      bool // nothing is read from the wire
	unplugged bool
	commands  []string
	listeners []*Listener
}

// Rates for Pace beside frames per second.
const (
	Stopped   = 0  // the wire takes nothing, as when nobody acknowledges
	Unlimited = -1 // the wire takes everything at once
)

// NewController makes a controller with a name in the current netns. The wire is unlimited. It skips the test where
// the kernel has no slcan.
func NewController(t testing.TB, name string) *Controller {
	t.Helper()
	Require(t)
	master, slave, err := openPTY()
	if err != nil {
		t.Fatal(err)
	}
	// With Go's poller, closing ends a read, and so does a deadline.
	c := &Controller{Name: name, wire: os.NewFile(uintptr(master), "wire of "+name), rate: Unlimited}
	c.changed = sync.NewCond(&c.mu)
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		c.run(t)
	}()
	c.Unplug = sync.OnceFunc(func() {
		c.mu.Lock()
		c.unplugged = true
		c.changed.Broadcast()
		c.mu.Unlock()
		c.wire.Close() // returns when the device is gone
		<-stopped
		unix.Close(slave)
	})
	t.Cleanup(c.Unplug)
	if err := attachSLCAN(slave, name); errors.Is(err, errNoSLCAN) {
		t.Skip(err)
	} else if err != nil {
		t.Fatal(err)
	}
	return c
}

// Pace sets how many frames the wire takes in a second, or Stopped or Unlimited. Once it returns from Stopped, the wire
// takes nothing. The driver holds one frame until the wire takes it; those behind wait in the device's queue.
func (c *Controller) Pace(framesPerSecond int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rate = framesPerSecond
	c.changed.Broadcast()
	deadline := time.Time{} // none
	if framesPerSecond == Stopped {
		deadline = time.Unix(1, 0) // ends a read
	}
	_ = c.wire.SetReadDeadline(deadline) // fails only after Unplug
	// A read that the deadline has ended may still find what comes before it runs again.
	for c.rate == Stopped && !c.idle && !c.unplugged {
		c.changed.Wait()
	}
}

// Send sends a classic frame from the wire, as another node of the bus. The device hears it if it is up.
func (c *Controller) Send(f Frame) error {
	line, err := marshalSLCAN(f)
	if err != nil {
		return err
	}
	return c.WriteRaw(line)
}

// WriteRaw writes what an adapter may say beside frames, such as its state and both error counters: "sw096000\r" is
// warning, "sp128000\r" passive, "sb256000\r" bus-off.
func (c *Controller) WriteRaw(line string) error {
	_, err := c.wire.WriteString(line)
	return err
}

// Listen starts listening on the wire: to the frames that the device sends, and not to those of Send.
func (c *Controller) Listen() *Listener {
	l := &Listener{foreign: make(map[Frame]int), own: make(map[Frame]int)}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.listeners = append(c.listeners, l)
	l.Close = sync.OnceFunc(func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.listeners = slices.DeleteFunc(c.listeners, func(other *Listener) bool { return other == l })
	})
	return l
}

// Commands are what the driver has told the adapter so far: "C" when the device goes down, and "C", "S6" (500 kbit/s),
// "O" when it comes up. A first time for which the wire was late, so that whoever set the device up did so again, does not count.
func (c *Controller) Commands() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	commands := slices.Clone(c.commands)
	for {
		if opened := slices.Index(commands, "O"); opened > 2 {
			commands = commands[opened-2:]
		}
		if len(commands) < 5 || !strings.HasPrefix(commands[4], "S") { // it went down in between: "C", "C"
			return commands
		}
		commands = commands[3:]
	}
}

// run takes from the wire what the driver writes, until Unplug.
func (c *Controller) run(t testing.TB) {
	reader := bufio.NewReader(c.wire)
	line := ""
	for c.waitTurn() {
		part, err := reader.ReadString('\r')
		line += part
		if errors.Is(err, os.ErrDeadlineExceeded) {
			continue // Stopped
		} else if err != nil {
			return
		}
		c.take(t, strings.TrimSuffix(line, "\r"))
		line = ""
	}
}

// waitTurn waits until the wire may take something, and reports whether there still is one.
func (c *Controller) waitTurn() bool {
	c.mu.Lock()
	for c.rate == Stopped && !c.unplugged {
		c.idle = true
		c.changed.Broadcast()
		c.changed.Wait()
	}
	c.idle = false
	rate, unplugged := c.rate, c.unplugged
	c.mu.Unlock()
	if rate > 0 && !unplugged {
		time.Sleep(time.Second / time.Duration(rate))
	}
	return !unplugged
}

func (c *Controller) take(t testing.TB, line string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if line == "" || !strings.Contains("tTrR", line[:1]) {
		c.commands = append(c.commands, line)
		return
	}
	f, err := unmarshalSLCAN(line)
	if err != nil {
		t.Errorf("%s: %v", c.Name, err)
		return
	}
	for _, l := range c.listeners {
		l.hear(f, false)
	}
}

// marshalSLCAN is a frame as adapters write it: its kind, three or eight digits of id, the number of bytes, the bytes.
func marshalSLCAN(f Frame) (string, error) {
	if f.FD || len(f.Data) > 8 {
		return "", fmt.Errorf("slcan has classic frames only, not %+v", f)
	}
	kind, id := "t", fmt.Sprintf("%03X", f.ID&unix.CAN_SFF_MASK)
	if f.ID&unix.CAN_EFF_FLAG != 0 {
		kind, id = "T", fmt.Sprintf("%08X", f.ID&unix.CAN_EFF_MASK)
	}
	data := fmt.Sprintf("%X", f.Data)
	if f.ID&unix.CAN_RTR_FLAG != 0 { // asks for that many bytes and has none
		kind, data = map[string]string{"t": "r", "T": "R"}[kind], ""
	}
	return fmt.Sprintf("%s%s%d%s\r", kind, id, len(f.Data), data), nil
}

// unmarshalSLCAN reads a frame without the carriage return behind it. The data of a remote frame are zeros, as in
// struct can_frame.
func unmarshalSLCAN(line string) (Frame, error) {
	bad := fmt.Errorf("slcan: not a frame: %q", line)
	flags, digits := uint32(0), 3
	switch line[:1] {
	case "r":
		flags = unix.CAN_RTR_FLAG
	case "T":
		flags, digits = unix.CAN_EFF_FLAG, 8
	case "R":
		flags, digits = unix.CAN_EFF_FLAG|unix.CAN_RTR_FLAG, 8
	}
	if len(line) < 1+digits+1 {
		return Frame{}, bad
	}
	id, err := strconv.ParseUint(line[1:1+digits], 16, 32)
	size := int(line[1+digits]) - '0'
	data, dataErr := hex.DecodeString(line[1+digits+1:])
	if flags&unix.CAN_RTR_FLAG != 0 && len(data) == 0 && size >= 0 && size <= 8 {
		data = make([]byte, size)
	}
	if err != nil || dataErr != nil || len(data) != size || size > 8 {
		return Frame{}, bad
	}
	return Frame{ID: uint32(id) | flags, Data: string(data)}, nil
}

// openPTY opens both sides of a pseudo-terminal. The master does not block.
func openPTY() (master, slave int, err error) {
	const flags = unix.O_RDWR | unix.O_NOCTTY | unix.O_CLOEXEC
	master, err = unix.Open("/dev/ptmx", flags|unix.O_NONBLOCK, 0)
	if err != nil {
		return 0, 0, fmt.Errorf("open /dev/ptmx: %w", err)
	}
	if err = unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0); err == nil {
		fd, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(master), unix.TIOCGPTPEER, flags)
		if slave = int(fd); errno == 0 {
			return master, slave, nil
		}
		err = errno
	}
	return 0, 0, errors.Join(fmt.Errorf("open the other side of a pseudo-terminal: %w", err), unix.Close(master))
}

// errNoSLCAN is a kernel without the driver.
var errNoSLCAN = errors.New("this kernel has no slcan (CONFIG_CAN_SLCAN)")

// attachSLCAN makes a terminal a CAN device with a name in the current netns.
func attachSLCAN(tty int, name string) error {
	const slcan = 17 // N_SLCAN, linux/tty.h
	err := unix.IoctlSetPointerInt(tty, unix.TIOCSETD, slcan)
	if errors.Is(err, unix.EINVAL) { // no such line discipline, although the kernel has tried to load it
		if out, err := exec.Command("modinfo", "slcan").CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", errNoSLCAN, bytes.TrimSpace(out))
		}
		out, modprobeErr := exec.Command("modprobe", "slcan").CombinedOutput()
		if modprobeErr != nil {
			return fmt.Errorf("modprobe slcan: %w: %s", modprobeErr, bytes.TrimSpace(out))
		}
		err = unix.IoctlSetPointerInt(tty, unix.TIOCSETD, slcan)
	}
	if err != nil {
		return fmt.Errorf("set line discipline slcan: %w", err)
	}
	device, err := unix.NewIfreq("")
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(tty, unix.SIOCGIFNAME, device); err != nil {
		return fmt.Errorf("name of the slcan device: %w", err)
	}
	if err := fetchDevice(device.Name(), name); err != nil {
		return fmt.Errorf("rename %s to %s: %w", device.Name(), name, err)
	}
	return nil
}

// machineNetns is the machine's own netns, where bin/vm runs tests in one of theirs.
const machineNetns = "/run/vm/netns"

// fetchDevice renames a device and brings it into the current netns: the kernel makes those of a terminal in its first.
func fetchDevice(from, to string) error {
	here, err := ns.GetCurrentNS()
	if err != nil {
		return err
	}
	defer here.Close()
	fetch := func(ns.NetNS) error {
		device, err := netlink.LinkByName(from)
		if err != nil {
			return err
		}
		request := nl.NewNetlinkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK)
		message := nl.NewIfInfomsg(unix.AF_UNSPEC)
		message.Index = int32(device.Attrs().Index)
		request.AddData(message)
		request.AddData(nl.NewRtAttr(unix.IFLA_NET_NS_FD, nl.Uint32Attr(uint32(here.Fd()))))
		request.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(to)))
		_, err = request.Execute(unix.NETLINK_ROUTE, 0)
		return err
	}
	machine, err := ns.GetNS(machineNetns)
	if errors.As(err, new(ns.NSPathNotExistErr)) {
		return fetch(nil)
	} else if err != nil {
		return err
	}
	defer machine.Close()
	return machine.Do(fetch)
}
