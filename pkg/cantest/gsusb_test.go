package cantest

import (
	"encoding/hex"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// unhex reads bytes as usbmon prints them, and adds zeros up to a size: it prints 32 at most.
func unhex(t testing.TB, text string, size int) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(text, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return append(b, make([]byte, size-len(b))...)
}

// driverFrames are what the driver of Linux 6.1 sent for frames of cansend(1): cat /sys/kernel/debug/usb/usbmon/0u. A
// device with fd on sends each as long as one with 64 bytes.
var driverFrames = []struct {
	frame, bytes string
	size         int
	want         Frame
}{
	{"123#112233", "00000000 23010000 03000000 11223300 00000000", 20, Frame{ID: 0x123, Data: "\x11\x22\x33"}},
	{
		"12345678#R3", "00000000 785634d2 03000000 00000000 00000000", 20,
		Frame{ID: unix.CAN_EFF_FLAG | unix.CAN_RTR_FLAG | 0x12345678, Data: "\x00\x00\x00"},
	},
	{"7FF#", "00000000 ff070000 00000000 00000000 00000000", 20, Frame{ID: 0x7FF}},
	{
		"123#112233 with fd on", "00000000 23010000 03000000 11223300 00000000 00000000 00000000 00000000", 76,
		Frame{ID: 0x123, Data: "\x11\x22\x33"},
	},
	{
		"123##0112233445566778899AABBCC", "00000000 23010000 09000200 11223344 55667788 99aabbcc 00000000 00000000", 76,
		Frame{ID: 0x123, FD: true, Data: "\x11\x22\x33\x44\x55\x66\x77\x88\x99\xAA\xBB\xCC"},
	},
	{
		"123##1112233", "00000000 23010000 03000600 11223300 00000000 00000000 00000000 00000000", 76,
		Frame{ID: 0x123, FD: true, Data: "\x11\x22\x33"},
	},
}

func TestUnmarshalHostFrame(t *testing.T) {
	for _, c := range driverFrames {
		b := unhex(t, c.bytes, c.size)
		if got, err := unmarshalHostFrame(b); err != nil || got != (hostFrame{frame: c.want}) {
			t.Errorf("%s: got %+v, %v, want %+v", c.frame, got, err, c.want)
		}
		for size := range hostFrameSize + len(c.want.Data) {
			if got, err := unmarshalHostFrame(b[:size]); err == nil {
				t.Errorf("%s: %d bytes are %+v, want an error", c.frame, size, got)
			}
		}
	}
	for _, text := range []string{
		"00000000 23010000 09000000", // classic with DLC 9
		"00000000 23010000 10000200", // DLC 16
		"00000000 23010000 01010000", // channel 1
	} {
		if got, err := unmarshalHostFrame(unhex(t, text, 76)); err == nil {
			t.Errorf("%s is %+v, want an error", text, got)
		}
	}
}

// TestMarshalHostFrame: the adapter's frames have the driver's bytes, but for echo and bit rate switch, and always the
// whole length.
func TestMarshalHostFrame(t *testing.T) {
	for _, c := range driverFrames {
		if strings.HasPrefix(c.frame, "123##1") {
			continue // Frame has no flag for the bit rate
		}
		want := unhex(t, c.bytes, 76)
		if got, err := (hostFrame{frame: c.want}).marshal(); err != nil || string(got) != string(want) {
			t.Errorf("%s: got %x, %v, want %x", c.frame, got, err, want)
		}
	}
	h := hostFrame{echoID: notEcho, frame: Frame{ID: 1}, overflow: true}
	if got, err := h.marshal(); err != nil || string(got) != string(unhex(t, "ffffffff 01000000 00000100", 76)) {
		t.Errorf("%+v: got %x, %v", h, got, err)
	}
	for _, f := range []Frame{{Data: "123456789"}, {FD: true, Data: "123456789"}, {FD: true, Data: strings.Repeat("x", 65)}} {
		if got, err := (hostFrame{frame: f}).marshal(); err == nil {
			t.Errorf("%v: got %x, want an error", f, got)
		}
	}
}

// TestDriverRequests: what the driver of Linux 6.1 sent for ip link set slot0 up type can bitrate 500000 dbitrate 2000000
// fd on, and down, in words.
func TestDriverRequests(t *testing.T) {
	for _, c := range []struct {
		request     uint8
		bytes, want string
	}{
		{gsHostFormat, "efbe0000", "host format 0xbeef"},
		{gsBitTiming, "45000000 46000000 14000000 01000000 01000000", "bitrate 500000 sample-point 0.875"},
		{gsDataBitTiming, "0e000000 0f000000 0a000000 01000000 01000000", "dbitrate 2000000 dsample-point 0.750"},
		{gsMode, "01000000 00000000", "start"},
		{gsMode, "01000000 00010000", "start fd"},
		{gsMode, "00000000 00000000", "reset"},
		{gsSetTermination, "01000000", "termination on"},
		{gsSetTermination, "00000000", "termination off"},
	} {
		a := newUSBAdapter(t, "", "")
		a.obey(c.request, unhex(t, c.bytes, gsRequestSizes[c.request]))
		if got := a.Commands(); len(got) != 1 || got[0] != c.want {
			t.Errorf("request %d with %s is %q, want %q", c.request, c.bytes, got, c.want)
		}
	}
	a := newUSBAdapter(t, "", "")
	for _, request := range []uint8{gsDeviceConfig, gsBTConst, gsBTConstExt, gsGetTermination, gsGetState} {
		if got := len(a.answerTo(request)); got < gsRequestSizes[request] {
			t.Errorf("the answer to request %d has %d bytes", request, got)
		}
	}
}

func FuzzUnmarshalHostFrame(f *testing.F) {
	for _, c := range driverFrames {
		f.Add(unhex(f, c.bytes, c.size))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := unmarshalHostFrame(b)
		if err != nil {
			return
		}
		again, err := h.marshal()
		if err != nil {
			t.Fatalf("%+v: %v", h, err)
		}
		if got, err := unmarshalHostFrame(again); err != nil || got != h {
			t.Errorf("%+v becomes %+v, %v", h, got, err)
		}
	})
}
