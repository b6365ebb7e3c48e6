package cantest

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Unhex reads hexadecimal bytes, in lines of which some begin with # and say where the bytes come from.
func Unhex(t testing.TB, text string) []byte {
	t.Helper()
	digits := ""
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "#") {
			digits += strings.Join(strings.Fields(line), "")
		}
	}
	b, err := hex.DecodeString(digits)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Tree is a request with its attributes by kind, because their order says nothing: netlink attributes are a set.
type Tree struct {
	Header string // struct nlmsghdr less length, sequence and who wants an acknowledgement; struct ifinfomsg
	Attrs  map[uint16]any
}

// ParseTree reads a request about a device.
func ParseTree(t *testing.T, b []byte) Tree {
	t.Helper()
	if got, want := int(binary.NativeEndian.Uint32(b)), len(b); got != want {
		t.Fatalf("length %d in the header of %d bytes", got, want)
	}
	kind, flags := binary.NativeEndian.Uint16(b[4:]), binary.NativeEndian.Uint16(b[6:])&^unix.NLM_F_ACK
	b = b[unix.SizeofNlMsghdr:]
	return Tree{
		Header: fmt.Sprintf("kind %d flags %#x % x", kind, flags, b[:unix.SizeofIfInfomsg]),
		Attrs:  parseAttrs(t, nil, b[unix.SizeofIfInfomsg:]),
	}
}

// parseAttrs reads attributes, and those in them where path says that there are some.
func parseAttrs(t *testing.T, path []uint16, b []byte) map[uint16]any {
	t.Helper()
	attrs := make(map[uint16]any)
	all, err := nl.ParseRouteAttr(b)
	if err != nil {
		t.Error(err)
	}
	for _, a := range all {
		kind, value := a.Attr.Type&^unix.NLA_F_NESTED, a.Value
		if attrs[kind] != nil {
			t.Errorf("attribute %v %d twice", path, kind)
		}
		switch here := fmt.Sprint(append(path, kind)); here {
		case fmt.Sprint([]uint16{unix.IFLA_LINKINFO}), fmt.Sprint([]uint16{unix.IFLA_LINKINFO, nl.IFLA_INFO_DATA}):
			attrs[kind] = parseAttrs(t, append(path, kind), value)
		case fmt.Sprint([]uint16{unix.IFLA_LINKINFO, nl.IFLA_INFO_DATA, 1}):
			if len(value) == canBitTimingSize { // IFLA_CAN_BITTIMING, linux/can/netlink.h
				attrs[kind] = fmt.Sprintf("% x", value)
				break
			}
			attrs[kind] = Tree{ // VXCAN_INFO_PEER, linux/can/vxcan.h
				Header: fmt.Sprintf("% x", value[:unix.SizeofIfInfomsg]),
				Attrs:  parseAttrs(t, append(path, kind), value[unix.SizeofIfInfomsg:]),
			}
		default:
			attrs[kind] = fmt.Sprintf("% x", value)
		}
	}
	return attrs
}

const canBitTimingSize = 32 // struct can_bittiming

// ReadHex reads a file for Unhex.
func ReadHex(t testing.TB, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return Unhex(t, string(text))
}
