package cantest

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// The gs_usb protocol of candleLight adapters, from the adapter's side (drivers/net/can/usb/gs_usb.c). All numbers are
// little endian. The driver sends control requests to the interface, with the channel in wValue.
const (
	gsVendor  = 0x1d50 // USB_GS_USB_1_VENDOR_ID
	gsProduct = 0x606f // USB_GS_USB_1_PRODUCT_ID
)

// enum gs_usb_breq
const (
	gsHostFormat     = 0
	gsBitTiming      = 1
	gsMode           = 2
	gsBTConst        = 4
	gsDeviceConfig   = 5
	gsDataBitTiming  = 10
	gsBTConstExt     = 11
	gsSetTermination = 12
	gsGetTermination = 13
	gsGetState       = 14
)

// gsRequestSizes are how many bytes the driver sends or wants with each request.
var gsRequestSizes = map[uint8]int{
	gsHostFormat: 4, gsBitTiming: 20, gsMode: 8, gsDataBitTiming: 20, gsSetTermination: 4,
	gsBTConst: 40, gsDeviceConfig: 12, gsBTConstExt: 72, gsGetTermination: 4, gsGetState: 12,
}

// GS_CAN_FEATURE_… of an adapter and, where they have the same names, GS_CAN_MODE_… of struct gs_device_mode.
const (
	gsListenOnly    = 1 << 0
	gsOneShot       = 1 << 3
	gsFD            = 1 << 8
	gsExtConst      = 1 << 10
	gsTermination   = 1 << 11
	gsBerrReporting = 1 << 12
	gsState         = 1 << 13

	gsFeatures = gsListenOnly | gsOneShot | gsFD | gsExtConst | gsTermination | gsBerrReporting | gsState
)

// gsModeNames are the words of `ip link` for the modes.
var gsModeNames = []struct {
	flag uint32
	name string
}{{gsListenOnly, "listen-only"}, {gsOneShot, "one-shot"}, {gsFD, "fd"}, {gsBerrReporting, "berr-reporting"}}

// gsClock is the clock of the bit timing, in Hz.
const gsClock = 80_000_000

// gsConst is struct gs_device_bt_const_extended; its first 40 bytes are struct gs_device_bt_const. The limits are those
// of a Bosch M_CAN.
func gsConst() []byte {
	return le32(
		gsFeatures, gsClock,
		2, 256, 2, 128, 128, 1, 512, 1, // tseg1, tseg2, sjw, brp: least, most; brp's step
		1, 32, 1, 16, 16, 1, 32, 1, // the same of the data phase
	)
}

// gsConfig is struct gs_device_config: one channel, and versions of software and hardware.
func gsConfig() []byte { return le32(0, 2, 1) }

// gsBitRate is struct gs_device_bittiming in words of `ip link`.
func gsBitRate(prefix string, b []byte) string {
	prop, seg1, seg2, brp := u32(b, 0), u32(b, 1), u32(b, 2), u32(b, 4)
	quanta := 1 + prop + seg1 + seg2
	if brp == 0 {
		return prefix + "bitrate with brp 0"
	}
	return fmt.Sprintf("%sbitrate %d %ssample-point %.3f",
		prefix, gsClock/(quanta*brp), prefix, float64(1+prop+seg1)/float64(quanta))
}

// gsModeWords is struct gs_device_mode in words.
func gsModeWords(b []byte) string {
	if u32(b, 0) == 0 {
		return "reset"
	}
	words := []string{"start"}
	for _, mode := range gsModeNames {
		if u32(b, 1)&mode.flag != 0 {
			words = append(words, mode.name)
		}
	}
	return strings.Join(words, " ")
}

// hostFrame is struct gs_host_frame without a time stamp.
type hostFrame struct {
	echoID   uint32 // of the driver's frame, which it wants back when it is sent; or notEcho
	frame    Frame
	overflow bool // GS_CAN_FLAG_OVERFLOW: frames before this one were lost
}

const (
	notEcho           = 0xFFFFFFFF
	gsMaxTX           = 10 // GS_MAX_TX_URBS: frames that the driver sends before it has an echo
	hostFrameSize     = 12 // without data
	hostFrameFullSize = hostFrameSize + 64
	gsFlagOverflow    = 1 << 0
	gsFlagFD          = 1 << 1
)

// fdLengths are the lengths by DLC: linux/can/length.h.
var fdLengths = []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 20, 24, 32, 48, 64}

// marshal always makes a frame as long as one with 64 bytes of data: what is longer than 64 bytes in all, dummy_hcd does
// not keep in a buffer of its own, where it could not be taken back.
func (h hostFrame) marshal() ([]byte, error) {
	dlc := slices.Index(fdLengths, len(h.frame.Data))
	if dlc < 0 || (!h.frame.FD && dlc > 8) {
		return nil, fmt.Errorf("no such frame: %v", h.frame)
	}
	b := make([]byte, hostFrameFullSize)
	binary.LittleEndian.PutUint32(b[0:4], h.echoID)
	binary.LittleEndian.PutUint32(b[4:8], h.frame.ID)
	b[8] = byte(dlc)
	if h.frame.FD {
		b[10] |= gsFlagFD
	}
	if h.overflow {
		b[10] |= gsFlagOverflow
	}
	copy(b[hostFrameSize:], h.frame.Data)
	return b, nil
}

func unmarshalHostFrame(b []byte) (hostFrame, error) {
	if len(b) < hostFrameSize {
		return hostFrame{}, fmt.Errorf("host frame of %d bytes", len(b))
	}
	dlc, channel, flags := int(b[8]), b[9], b[10]
	h := hostFrame{
		echoID:   binary.LittleEndian.Uint32(b[0:4]),
		frame:    Frame{ID: binary.LittleEndian.Uint32(b[4:8]), FD: flags&gsFlagFD != 0},
		overflow: flags&gsFlagOverflow != 0,
	}
	if channel != 0 || dlc > 15 || (!h.frame.FD && dlc > 8) || len(b) < hostFrameSize+fdLengths[dlc] {
		return hostFrame{}, fmt.Errorf("host frame of %d bytes: DLC %d, channel %d, flags %#x", len(b), dlc, channel, flags)
	}
	h.frame.Data = string(b[hostFrameSize : hostFrameSize+fdLengths[dlc]])
	return h, nil
}

// State is the state of a controller, as enum gs_can_state has it.
type State uint32

// The states that the wire can bring a controller into.
const (
	ErrorActive  State = 0
	ErrorWarning State = 1
	ErrorPassive State = 2
	BusOff       State = 3
)

// errorFrame is what a controller reports when it enters a state (linux/can/error.h). CAN_ERR_CNT is not set, as in most
// adapters: candump -e takes an error class with it for invalid.
func (s State) errorFrame(txErrors, rxErrors uint8) Frame {
	id, data := uint32(unix.CAN_ERR_FLAG), make([]byte, 8)
	switch s {
	case ErrorActive:
		id |= unix.CAN_ERR_CRTL
		data[1] = unix.CAN_ERR_CRTL_ACTIVE
	case ErrorWarning:
		id |= unix.CAN_ERR_CRTL
		data[1] = unix.CAN_ERR_CRTL_TX_WARNING
	case ErrorPassive:
		id |= unix.CAN_ERR_CRTL
		data[1] = unix.CAN_ERR_CRTL_TX_PASSIVE
	case BusOff:
		id |= unix.CAN_ERR_BUSOFF
	}
	data[6], data[7] = txErrors, rxErrors
	return Frame{ID: id, Data: string(data)}
}

func le32(values ...uint32) []byte {
	var b []byte
	for _, v := range values {
		b = binary.LittleEndian.AppendUint32(b, v)
	}
	return b
}

// u32 is the n-th number of a struct of such.
func u32(b []byte, n int) uint32 { return binary.LittleEndian.Uint32(b[4*n:]) }
