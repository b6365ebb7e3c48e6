// Package controller reads real CAN controllers and sets them up by rtnetlink: bit rates, modes, the transmit queue. It
// knows no bus, starts no process and keeps nothing. The devices that vxcan makes itself are in pkg/canlink.
//
// Kernel: drivers/net/can/dev/, linux/can/netlink.h.
package controller

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/canlink"
	"github.com/vxcan/vxcan/pkg/rtnl"
)

// Can is the kind of the controllers that can be set up by netlink (IFLA_INFO_KIND).
const Can = "can"

// ErrNotController is returned, wrapped, for a device of another kind than Can.
var ErrNotController = errors.New("not a controller that can be set up by netlink")

// Device is a CAN controller as the kernel shows it: linux/can/netlink.h and drivers/net/can/dev/netlink.c.
type Device struct {
	canlink.Link
	Driver   string // of the device, such as "kvaser_pci"; "" where it has none, as on a terminal (slcan)
	Hardware string // name of the controller's type, such as "sja1000"; "" where the driver gives none
	Queue    int    // frames that the transmit queue holds (IFLA_TXQLEN)
	State    State

	Timing, DataTiming BitTiming // zero as long as none was set
	Limits, DataLimits Limits    // zero where the driver has none
	Bitrates           []uint32  // the only bit rates that there are, where the driver has such a list
	DataBitrates       []uint32
	MaxBitrate         uint32 // of the transceiver, in bits per second; 0 is no limit
	Clock              uint32 // in Hz

	Modes          Modes
	Supported      Modes // what can be switched
	KnowsSupported bool  // the kernel tells Supported (IFLA_CAN_CTRLMODE_EXT); old ones do not

	RestartMS    uint32   // milliseconds from bus-off to a restart, 0 is never
	Termination  uint16   // ohms, 0 is off
	Terminations []uint16 // what there is to choose from, 0 included; none where termination cannot be switched

	TxErrors, RxErrors uint16 // error counters, 0 where the driver does not tell them
	KnowsErrors        bool   // the driver tells them
	Traffic            canlink.Traffic
	Events             Events
}

// Events counts what has happened to a controller since it was made (struct can_device_stats of linux/can/netlink.h).
type Events struct {
	BusErrors       uint32 `json:"busErrors"`
	ErrorWarning    uint32 `json:"errorWarning"`
	ErrorPassive    uint32 `json:"errorPassive"`
	BusOff          uint32 `json:"busOff"`
	ArbitrationLost uint32 `json:"arbitrationLost"`
	Restarts        uint32 `json:"restarts"`
}

// State is the state of a controller (enum can_state, linux/can/netlink.h). Some drivers say StateStopped while they
// work: nothing but StateBusOff proves anything.
type State uint32

// States of a controller.
const (
	StateErrorActive  State = 0 // CAN_STATE_ERROR_ACTIVE
	StateErrorWarning State = 1 // CAN_STATE_ERROR_WARNING
	StateErrorPassive State = 2 // CAN_STATE_ERROR_PASSIVE
	StateBusOff       State = 3 // CAN_STATE_BUS_OFF
	StateStopped      State = 4 // CAN_STATE_STOPPED
	StateSleeping     State = 5 // CAN_STATE_SLEEPING
)

func (s State) String() string {
	names := []string{"error-active", "error-warning", "error-passive", "bus-off", "stopped", "sleeping"}
	if int64(s) < int64(len(names)) {
		return names[s]
	}
	return fmt.Sprintf("state %d", uint32(s))
}

// Modes are what can be on or off in a controller (struct can_ctrlmode, linux/can/netlink.h).
type Modes uint32

// Modes of a controller.
const (
	ModeLoopback       Modes = 0x01  // CAN_CTRLMODE_LOOPBACK
	ModeListenOnly     Modes = 0x02  // CAN_CTRLMODE_LISTENONLY
	ModeTripleSampling Modes = 0x04  // CAN_CTRLMODE_3_SAMPLES
	ModeOneShot        Modes = 0x08  // CAN_CTRLMODE_ONE_SHOT
	ModeBerrReporting  Modes = 0x10  // CAN_CTRLMODE_BERR_REPORTING
	ModeFD             Modes = 0x20  // CAN_CTRLMODE_FD
	ModePresumeAck     Modes = 0x40  // CAN_CTRLMODE_PRESUME_ACK
	ModeFDNonISO       Modes = 0x80  // CAN_CTRLMODE_FD_NON_ISO
	modeCCLen8DLC      Modes = 0x100 // CAN_CTRLMODE_CC_LEN8_DLC
	modeTDC            Modes = 0x600 // CAN_CTRLMODE_TDC_AUTO and CAN_CTRLMODE_TDC_MANUAL
)

// ourModes are those that Settings decide: all that change what is on the wire or what the host hears of it. Not among
// them is CC_LEN8_DLC, which tells a program the DLC of a frame in a byte that is unused otherwise; nor TDC, which the
// kernel works out with the data bit rate, unless a request names it.
const ourModes = ModeLoopback | ModeListenOnly | ModeTripleSampling | ModeOneShot | ModeBerrReporting | ModeFD |
	ModePresumeAck | ModeFDNonISO

var modeNames = []struct {
	mode Modes
	name string
}{
	{ModeLoopback, "loopback"}, {ModeListenOnly, "listen-only"}, {ModeTripleSampling, "triple-sampling"},
	{ModeOneShot, "one-shot"}, {ModeBerrReporting, "berr-reporting"}, {ModeFD, "fd"}, {ModePresumeAck, "presume-ack"},
	{ModeFDNonISO, "fd-non-iso"}, {modeCCLen8DLC, "cc-len8-dlc"}, {0x200, "tdc-auto"}, {0x400, "tdc-manual"},
}

// String names the modes that are on as ip link does, separated by a comma.
func (m Modes) String() string {
	var names []string
	for _, n := range modeNames {
		if m&n.mode != 0 {
			names = append(names, n.name)
			m &^= n.mode
		}
	}
	if m != 0 {
		names = append(names, fmt.Sprintf("%#x", uint32(m)))
	}
	return strings.Join(names, ", ")
}

// BitTiming is struct can_bittiming of linux/can/netlink.h. All but the first four and the last are in time quanta.
type BitTiming struct {
	Bitrate     uint32 // bits per second
	SamplePoint uint32 // in 0.1 %
	TQ          uint32 // time quantum in ns
	PropSeg     uint32
	PhaseSeg1   uint32
	PhaseSeg2   uint32
	SJW         uint32
	BRP         uint32 // the clock is divided by it
}

// Limits is struct can_bittiming_const of linux/can/netlink.h less its name. Segments are in time quanta.
type Limits struct {
	Tseg1Min, Tseg1Max     uint32 // PropSeg and PhaseSeg1
	Tseg2Min, Tseg2Max     uint32 // PhaseSeg2
	SJWMax                 uint32
	BRPMin, BRPMax, BRPInc uint32
}

// Numbers from linux/can/netlink.h.
const (
	canCtrlModeExt       = 17 // IFLA_CAN_CTRLMODE_EXT
	canCtrlModeSupported = 1  // IFLA_CAN_CTRLMODE_SUPPORTED, in IFLA_CAN_CTRLMODE_EXT

	bitTimingSize   = 32 // struct can_bittiming
	limitsNameSize  = 16 // can_bittiming_const.name
	limitsSize      = 48 // struct can_bittiming_const
	ctrlModeSize    = 8  // struct can_ctrlmode
	berrCounterSize = 4  // struct can_berr_counter
	deviceStatsSize = 24 // struct can_device_stats
)

// Conn works on the controllers of one network namespace.
type Conn struct{ conn rtnl.Conn }

// On works on the controllers of the namespace that conn was opened in. The caller closes conn.
func On(conn rtnl.Conn) *Conn { return &Conn{conn} }

// Get reads a controller by its ifindex. It fails with canlink.ErrNotFound or, for a device of another kind, ErrNotController.
func (c *Conn) Get(index int) (Device, error) {
	replies, err := c.conn.Batch(canlink.GetRequest(index))
	if err != nil {
		return Device{}, err
	}
	return c.parseReply(index, replies[0])
}

// parseReply reads the answer to canlink.GetRequest(index), and adds what only ethtool knows.
func (c *Conn) parseReply(index int, r rtnl.Reply) (Device, error) {
	if errors.Is(r.Err, unix.ENODEV) {
		return Device{}, fmt.Errorf("device with index %d: %w", index, canlink.ErrNotFound)
	}
	if r.Err != nil {
		return Device{}, fmt.Errorf("look up device with index %d: %w", index, r.Err)
	}
	controller, err := unmarshalDevice(r.Data)
	if err != nil {
		return Device{}, err
	}
	if controller.Kind != Can {
		return Device{}, fmt.Errorf("device %s of kind %q: %w", controller.Name, controller.Kind, ErrNotController)
	}
	// It is only for messages. A device without a driver of its own gets the name of its kind from the kernel.
	if driver, err := c.conn.Driver(controller.Name); err == nil && driver != Can {
		controller.Driver = driver
	}
	return controller, nil
}

// String names the controller and what it is, for messages: "can0 (kvaser_pci)".
func (c Device) String() string {
	if words := cmp.Or(c.Driver, c.Hardware); words != "" {
		return c.Name + " (" + words + ")"
	}
	return c.Name
}

// static are the modes that are on and that nobody can switch off: the driver has them so.
func (c Device) static() Modes {
	if !c.KnowsSupported {
		return 0
	}
	return c.Modes &^ c.Supported
}

// unmarshalDevice reads struct ifinfomsg and its attributes as canlink.ParseLink does, and those of a controller.
func unmarshalDevice(data []byte) (Device, error) {
	link, err := canlink.ParseLink(data)
	if err != nil {
		return Device{}, err
	}
	c := Device{Link: link}
	err = rtnl.Attrs(data[unix.SizeofIfInfomsg:], func(kind uint16, value []byte) error {
		switch kind {
		case unix.IFLA_TXQLEN:
			queue, err := unmarshalUint32("IFLA_TXQLEN", value)
			c.Queue = int(queue)
			return err
		case unix.IFLA_STATS64:
			return c.Traffic.ParseAttr(kind, value)
		case unix.IFLA_LINKINFO:
			return c.unmarshalInfo(value)
		}
		return nil
	})
	if err != nil {
		return Device{}, err
	}
	return c, nil
}

// unmarshalInfo reads what is in IFLA_LINKINFO. The data of another kind of device mean something else.
func (c *Device) unmarshalInfo(info []byte) error {
	if c.Kind != Can {
		return nil
	}
	return rtnl.Attrs(info, func(kind uint16, value []byte) error {
		switch kind {
		case nl.IFLA_INFO_DATA:
			return rtnl.Attrs(value, c.unmarshalAttr)
		case nl.IFLA_INFO_XSTATS:
			if len(value) < deviceStatsSize {
				return fmt.Errorf("IFLA_INFO_XSTATS: %d bytes, want at least %d", len(value), deviceStatsSize)
			}
			number := func(i int) uint32 { return binary.NativeEndian.Uint32(value[4*i:]) }
			c.Events = Events{number(0), number(1), number(2), number(3), number(4), number(5)}
		}
		return nil
	})
}

func (c *Device) unmarshalAttr(kind uint16, value []byte) (err error) {
	switch kind {
	case nl.IFLA_CAN_BITTIMING:
		c.Timing, err = unmarshalBitTiming("IFLA_CAN_BITTIMING", value)
	case nl.IFLA_CAN_DATA_BITTIMING:
		c.DataTiming, err = unmarshalBitTiming("IFLA_CAN_DATA_BITTIMING", value)
	case nl.IFLA_CAN_BITTIMING_CONST:
		c.Hardware, c.Limits, err = unmarshalLimits("IFLA_CAN_BITTIMING_CONST", value)
	case nl.IFLA_CAN_DATA_BITTIMING_CONST:
		_, c.DataLimits, err = unmarshalLimits("IFLA_CAN_DATA_BITTIMING_CONST", value)
	case nl.IFLA_CAN_BITRATE_CONST:
		c.Bitrates, err = unmarshalList("IFLA_CAN_BITRATE_CONST", value, 4, binary.NativeEndian.Uint32)
	case nl.IFLA_CAN_DATA_BITRATE_CONST:
		c.DataBitrates, err = unmarshalList("IFLA_CAN_DATA_BITRATE_CONST", value, 4, binary.NativeEndian.Uint32)
	case nl.IFLA_CAN_BITRATE_MAX:
		c.MaxBitrate, err = unmarshalUint32("IFLA_CAN_BITRATE_MAX", value)
	case nl.IFLA_CAN_CLOCK: // struct can_clock is this one number
		c.Clock, err = unmarshalUint32("IFLA_CAN_CLOCK", value)
	case nl.IFLA_CAN_RESTART_MS:
		c.RestartMS, err = unmarshalUint32("IFLA_CAN_RESTART_MS", value)
	case nl.IFLA_CAN_STATE:
		var state uint32
		state, err = unmarshalUint32("IFLA_CAN_STATE", value)
		c.State = State(state)
	case nl.IFLA_CAN_CTRLMODE:
		if err = wantSize("IFLA_CAN_CTRLMODE", value, ctrlModeSize); err == nil {
			c.Modes = Modes(binary.NativeEndian.Uint32(value[4:8])) // flags; the mask before them is for requests
		}
	case canCtrlModeExt:
		return rtnl.Attrs(value, c.unmarshalCtrlModeExt)
	case nl.IFLA_CAN_BERR_COUNTER:
		if err = wantSize("IFLA_CAN_BERR_COUNTER", value, berrCounterSize); err == nil {
			c.TxErrors, c.RxErrors = binary.NativeEndian.Uint16(value[0:2]), binary.NativeEndian.Uint16(value[2:4])
			c.KnowsErrors = true
		}
	case nl.IFLA_CAN_TERMINATION:
		if err = wantSize("IFLA_CAN_TERMINATION", value, 2); err == nil {
			c.Termination = binary.NativeEndian.Uint16(value)
		}
	case nl.IFLA_CAN_TERMINATION_CONST:
		c.Terminations, err = unmarshalList("IFLA_CAN_TERMINATION_CONST", value, 2, binary.NativeEndian.Uint16)
	}
	return err
}

func (c *Device) unmarshalCtrlModeExt(kind uint16, value []byte) error {
	if kind != canCtrlModeSupported {
		return nil
	}
	supported, err := unmarshalUint32("IFLA_CAN_CTRLMODE_SUPPORTED", value)
	c.Supported, c.KnowsSupported = Modes(supported), err == nil
	return err
}

func wantSize(name string, value []byte, want int) error {
	if len(value) != want {
		return fmt.Errorf("%s: %d bytes, want %d", name, len(value), want)
	}
	return nil
}

func unmarshalUint32(name string, value []byte) (uint32, error) {
	if err := wantSize(name, value, 4); err != nil {
		return 0, err
	}
	return binary.NativeEndian.Uint32(value), nil
}

// unmarshalList reads numbers of size bytes each.
func unmarshalList[T any](name string, value []byte, size int, number func([]byte) T) (all []T, err error) {
	if len(value)%size != 0 {
		return nil, fmt.Errorf("%s: %d bytes, want a multiple of %d", name, len(value), size)
	}
	for b := range slices.Chunk(value, size) {
		all = append(all, number(b))
	}
	return all, nil
}

func unmarshalBitTiming(name string, b []byte) (BitTiming, error) {
	if err := wantSize(name, b, bitTimingSize); err != nil {
		return BitTiming{}, err
	}
	n := eight(b)
	return BitTiming{n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7]}, nil
}

func (t BitTiming) marshal() []byte {
	b := make([]byte, 0, bitTimingSize)
	for _, n := range [...]uint32{t.Bitrate, t.SamplePoint, t.TQ, t.PropSeg, t.PhaseSeg1, t.PhaseSeg2, t.SJW, t.BRP} {
		b = binary.NativeEndian.AppendUint32(b, n)
	}
	return b
}

func (t BitTiming) attr(kind int) *nl.RtAttr { return nl.NewRtAttr(kind, t.marshal()) }

// eight reads the numbers of struct can_bittiming, and those of struct can_bittiming_const behind its name.
func eight(b []byte) (numbers [8]uint32) {
	for i := range numbers {
		numbers[i] = binary.NativeEndian.Uint32(b[4*i:])
	}
	return numbers
}

func unmarshalLimits(name string, b []byte) (string, Limits, error) {
	if err := wantSize(name, b, limitsSize); err != nil {
		return "", Limits{}, err
	}
	n := eight(b[limitsNameSize:])
	return unix.ByteSliceToString(b[:limitsNameSize]), Limits{n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7]}, nil
}
