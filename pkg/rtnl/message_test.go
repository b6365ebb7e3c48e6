package rtnl

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Datagrams of a little-endian 6.1 kernel, as `strace -e trace=network -e read=3` shows what these commands receive.
const (
	// cangw -A -s vcan0 -d bpT -i
	ackDatagram = `
		24 00 00 00 02 00 00 01 00 00 00 00 ce 02 00 00 00 00 00 00 24 00 00 00 18 00 05 00 00 00 00 00
		00 00 00 00`
	// cangw -D -s vcan0 -d bpT -i, when there is no such rule
	errorDatagram = `
		38 00 00 00 02 00 00 00 00 00 00 00 10 03 00 00 ea ff ff ff 24 00 00 00 19 00 05 00 00 00 00 00
		00 00 00 00 1d 01 04 00 08 00 09 00 02 00 00 00 08 00 0a 00 04 00 00 00`
	// ip link add vcan0 numtxqueues 5000 type vcan
	extAckDatagram = `
		7c 00 00 00 02 00 00 02 26 bb 03 6b c3 02 00 00 ea ff ff ff 40 00 00 00 10 00 05 06 26 bb 03 6b
		00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 08 00 1f 00 88 13 00 00 0a 00 03 00
		76 63 61 6e 30 00 00 00 0c 00 12 00 08 00 01 00 76 63 61 6e 26 00 01 00 49 6e 76 61 6c 69 64 20
		6e 75 6d 62 65 72 20 6f 66 20 74 72 61 6e 73 6d 69 74 20 71 75 65 75 65 73 00 00 00`
	// ip link set can0 type can bitrate 700000, by iproute2 6.15 on a 6.12 kernel: done, with a warning
	warningDatagram = `
		3c 00 00 00 02 00 00 03 98 a4 05 6b d8 00 00 00 00 00 00 00 54 00 00 00 10 00 05 00 98 a4 05 6b
		00 00 00 00 18 00 01 00 62 69 74 72 61 74 65 20 65 72 72 6f 72 3a 20 33 2e 38 25 00`
	// cangw -L, with two jobs: -s bpR -d vcan0 -f 123~7FF and -s bpR -d vcan0 -e -l 1 (whose last attribute but two is
	// one byte long, and padded)
	dumpDatagram = `
		30 00 00 00 18 00 02 00 00 00 00 00 d5 02 00 00 1d 01 00 00 0c 00 0b 00 23 01 00 20 ff 07 00 00
		08 00 09 00 03 00 00 00 08 00 0a 00 02 00 00 00
		2c 00 00 00 18 00 02 00 00 00 00 00 d5 02 00 00 1d 01 01 00 05 00 0d 00 01 00 00 00 08 00 09 00
		03 00 00 00 08 00 0a 00 02 00 00 00`
	// ip link show target-netnsid 4711, on a 6.18 kernel: the end of a dump that failed
	failedDatagram = `
		3c 00 00 00 03 00 02 02 01 00 00 00 b3 34 00 00 ea ff ff ff 28 00 01 00 49 6e 76 61 6c 69 64 20
		74 61 72 67 65 74 20 6e 65 74 77 6f 72 6b 20 6e 61 6d 65 73 70 61 63 65 20 69 64 00`
	doneDatagram = `14 00 00 00 03 00 02 00 00 00 00 00 04 03 00 00 00 00 00 00`
)

func unhex(t testing.TB, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(text), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func parseOne(t *testing.T, text string) message {
	t.Helper()
	messages, err := parseMessages(unhex(t, text))
	if err != nil || len(messages) != 1 {
		t.Fatalf("%d messages, %v; want 1", len(messages), err)
	}
	return messages[0]
}

func TestParseMessages(t *testing.T) {
	messages, err := parseMessages(unhex(t, dumpDatagram))
	if err != nil || len(messages) != 2 {
		t.Fatalf("%d messages, %v; want 2", len(messages), err)
	}
	for i, size := range []int{32, 28} {
		m := messages[i]
		if m.kind() != unix.RTM_NEWROUTE || m.flags() != unix.NLM_F_MULTI || m.seq() != 0 || len(m.data()) != size || m.data()[0] != unix.AF_CAN {
			t.Errorf("message %d: % x", i, m)
		}
	}
	if m := parseOne(t, doneDatagram); m.kind() != unix.NLMSG_DONE {
		t.Errorf("end of dump: % x", m)
	}
	if m := parseOne(t, extAckDatagram); m.seq() != 0x6b03bb26 {
		t.Errorf("seq %#x", m.seq())
	}
}

// A datagram that ends anywhere gives an error or fewer messages, and never a message that is not whole.
func TestParseMessagesTruncated(t *testing.T) {
	whole := unhex(t, dumpDatagram)
	const first = 0x30
	for n := range whole {
		messages, err := parseMessages(whole[:n])
		switch rest := n % first; {
		case n < unix.SizeofNlMsghdr, n >= first && rest < unix.SizeofNlMsghdr: // no more than a piece of a header
			if err != nil || len(messages) != n/first {
				t.Errorf("%d bytes: %d messages, %v", n, len(messages), err)
			}
		case err == nil:
			t.Errorf("%d bytes: no error", n)
		}
	}
}

func TestParseMessagesWrongLength(t *testing.T) {
	for _, length := range []uint32{0, 1, unix.SizeofNlMsghdr - 1, 0x25, 1 << 31, 1<<32 - 1} {
		b := unhex(t, ackDatagram)
		binary.NativeEndian.PutUint32(b, length)
		if _, err := parseMessages(b); err == nil {
			t.Errorf("length %d of %d bytes: no error", length, len(b))
		}
	}
	// The last message need not be padded.
	b := unhex(t, ackDatagram)
	b = b[:len(b)-1]
	binary.NativeEndian.PutUint32(b, uint32(len(b)))
	if messages, err := parseMessages(b); err != nil || len(messages) != 1 {
		t.Errorf("unpadded: %d messages, %v", len(messages), err)
	}
}

func TestMessageErr(t *testing.T) {
	if err := parseOne(t, ackDatagram).err(); err != nil {
		t.Error("acknowledgement:", err)
	}
	if err := parseOne(t, errorDatagram).err(); err != unix.EINVAL {
		t.Errorf("%v, want EINVAL alone", err)
	}
	err := parseOne(t, extAckDatagram).err()
	if !errors.Is(err, unix.EINVAL) || err.Error() != "invalid argument (Invalid number of transmit queues)" {
		t.Errorf("%v, want EINVAL and the kernel's words", err)
	}
}

// The end of a dump has an error number of its own. Cut off, it is an error still; only the kernel's words may be lost.
func TestDoneErr(t *testing.T) {
	if err := parseOne(t, doneDatagram).err(); err != nil {
		t.Error("a whole dump:", err)
	}
	whole := parseOne(t, failedDatagram)
	if err := whole.err(); !errors.Is(err, unix.EINVAL) || err.Error() != "invalid argument (Invalid target network namespace id)" {
		t.Errorf("%v, want EINVAL and the kernel's words", err)
	}
	for n := range whole.data() {
		m := whole[:unix.SizeofNlMsghdr+n]
		if err := m.err(); err == nil || n >= 4 && !errors.Is(err, unix.EINVAL) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

// EPERM and EACCES mean the same and stay what they are.
func TestErrPermission(t *testing.T) {
	for _, errno := range []unix.Errno{unix.EPERM, unix.EACCES, unix.EINVAL} {
		for _, text := range []string{errorDatagram, extAckDatagram} {
			m := parseOne(t, text)
			binary.NativeEndian.PutUint32(m.data(), -uint32(errno))
			if err := m.err(); !errors.Is(err, errno) || errors.Is(err, ErrPermission) != (errno != unix.EINVAL) {
				t.Errorf("%v: %v", errno, err)
			}
		}
	}
}

// What the kernel remarks on a request that it carried out is no error. Cut off, only the words may be lost.
func TestMessageWarning(t *testing.T) {
	whole := parseOne(t, warningDatagram)
	if words := whole.extAck(); whole.err() != nil || words != "bitrate error: 3.8%" {
		t.Errorf("%q, %v", words, whole.err())
	}
	if words := parseOne(t, ackDatagram).extAck(); words != "" {
		t.Errorf("an acknowledgement alone says %q", words)
	}
	for n := 4; n < len(whole.data()); n++ {
		m := whole[:unix.SizeofNlMsghdr+n]
		if words := m.extAck(); m.err() != nil || words != "" {
			t.Errorf("%d bytes: %q, %v", n, words, m.err())
		}
	}
}

// An error that is cut off is an error still; only the kernel's words may be lost.
func TestMessageErrTruncated(t *testing.T) {
	whole := parseOne(t, extAckDatagram)
	for n := range whole.data() {
		m := whole[:unix.SizeofNlMsghdr+n]
		err := m.err()
		if err == nil || n >= 4 && !errors.Is(err, unix.EINVAL) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

// The kernel repeats the request's header only, if it is told to cap: its words follow at once.
func TestMessageErrCapped(t *testing.T) {
	m := parseOne(t, extAckDatagram)
	words := bytes.Index(m, []byte{0x26, 0, 1, 0})
	m = slices.Delete(m, 4+2*unix.SizeofNlMsghdr, words)
	binary.NativeEndian.PutUint16(m[6:8], m.flags()|unix.NLM_F_CAPPED)
	if err := m.err(); err.Error() != "invalid argument (Invalid number of transmit queues)" {
		t.Error(err)
	}
}

// The request that an error repeats says its length itself, which may be wrong.
func TestMessageErrWrongLength(t *testing.T) {
	for _, length := range []uint32{0, 3, 0x7c, 1<<31 - 1, 1 << 31, 1<<32 - 4, 1<<32 - 1} {
		m := parseOne(t, extAckDatagram)
		binary.NativeEndian.PutUint32(m.data()[4:8], length)
		if err := m.err(); !errors.Is(err, unix.EINVAL) {
			t.Errorf("length %d: %v", length, err)
		}
	}
}

func FuzzParseMessages(f *testing.F) {
	for _, datagram := range []string{ackDatagram, errorDatagram, extAckDatagram, warningDatagram, dumpDatagram, doneDatagram, failedDatagram} {
		f.Add(unhex(f, datagram))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		messages, err := parseMessages(b)
		if err != nil {
			return
		}
		size := 0
		for _, m := range messages {
			size += unix.SizeofNlMsghdr + len(m.data())
			_ = m.err()
		}
		if size > len(b) {
			t.Errorf("%d bytes of messages in a datagram of %d", size, len(b))
		}
	})
}
