package capture

import (
	"encoding/binary"
	"errors"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// frame is struct can_frame or struct canfd_frame of so many bytes.
func frame(size int, id uint32, header ...byte) []byte {
	b := append(binary.NativeEndian.AppendUint32(nil, id), header...)
	for len(b) < size {
		b = append(b, byte(len(b)))
	}
	return b
}

func TestParseFrame(t *testing.T) {
	for name, test := range map[string]struct {
		bytes []byte
		want  Frame
		data  string
	}{
		"classic":                 {frame(16, 0x123, 2, 0, 0, 0), Frame{ID: 0x123}, "\x08\x09"},
		"with a DLC of 14":        {frame(16, 0x123, 8, 0, 0, 14), Frame{ID: 0x123, DLC: 14}, "\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f"},
		"FD":                      {frame(72, 0x92345678, 3, BRS|FDF, 7, 7), Frame{ID: 0x92345678, FD: true, Flags: BRS | FDF}, "\x08\x09\x0a"},
		"longer than it can be":   {frame(16, 1, 200, 0, 0, 0), Frame{ID: 1}, "\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f"},
		"empty, after other ones": {frame(16, 2, 0, 0, 0, 0), Frame{ID: 2}, ""},
	} {
		got := Frame{FD: true, Flags: 1, DLC: 9, Data: []byte("old")}
		if err := got.parse(test.bytes); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if string(got.Data) != test.data || got.ID != test.want.ID || got.FD != test.want.FD || got.Flags != test.want.Flags || got.DLC != test.want.DLC {
			t.Errorf("%s: %+v, want %+v with %q", name, got, test.want, test.data)
		}
	}
	whole := frame(80, 1, 8, 0, 0, 0)
	for size := range whole {
		var f Frame
		if err := f.parse(whole[:size]); (err == nil) != (size == 16 || size == 72) {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
}

// control is a control message of SOL_SOCKET.
func control(kind int32, data ...byte) []byte {
	b := make([]byte, unix.CmsgSpace(len(data)))
	header := unix.Cmsghdr{Level: unix.SOL_SOCKET, Type: kind}
	header.SetLen(unix.CmsgLen(len(data)))
	n, err := binary.Encode(b, binary.NativeEndian, &header)
	if err != nil {
		panic(err)
	}
	copy(b[n:], data)
	return b
}

func TestParseControl(t *testing.T) {
	when := time.Unix(1795906269, 717574869)
	stamp := binary.NativeEndian.AppendUint64(binary.NativeEndian.AppendUint64(nil, uint64(when.Unix())), uint64(when.Nanosecond()))
	word := func(n uint32) []byte { return binary.NativeEndian.AppendUint32(nil, n) }
	all := append(append(control(unix.SO_TIMESTAMPNS_NEW, stamp...), control(unix.SO_MARK, word(7)...)...), control(unix.SO_RXQ_OVFL, word(3)...)...)
	var f Frame
	if mark, drops, err := f.parseControl(all); err != nil || mark != 7 || drops != 3 || !f.Time.Equal(when) {
		t.Errorf("mark %d, %d drops, %v, %v", mark, drops, f.Time, err)
	}
	for _, kind := range []int32{unix.SO_TIMESTAMPNS_NEW, unix.SO_MARK, unix.SO_RXQ_OVFL} {
		if _, _, err := f.parseControl(control(kind, 1, 2, 3)); err == nil || !strings.Contains(err.Error(), "3 bytes, want") {
			t.Errorf("message %d of 3 bytes: %v", kind, err)
		}
	}
	if _, _, err := f.parseControl(all[:len(all)-5]); err == nil {
		t.Error("a message that is cut off is taken")
	}
}

// TestProbe: this machine can capture, or the error says what it lacks.
func TestProbe(t *testing.T) {
	err := Probe()
	t.Log(err)
	if err != nil && !strings.Contains(err.Error(), "CONFIG_CAN") && !errors.Is(err, unix.EPERM) && !errors.Is(err, ErrNoSenders) {
		t.Error(err)
	}
}
