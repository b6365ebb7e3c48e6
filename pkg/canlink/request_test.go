package canlink

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/rtnl"
)

// unhex reads hexadecimal bytes, in lines of which some begin with # and say where the bytes come from.
func unhex(t testing.TB, text string) []byte {
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

// tree is a request with its attributes by kind, because their order says nothing: netlink attributes are a set.
type tree struct {
	Header string // struct nlmsghdr less length, sequence and who wants an acknowledgement; struct ifinfomsg
	Attrs  map[uint16]any
}

func parseTree(t *testing.T, b []byte) tree {
	t.Helper()
	if got, want := int(binary.NativeEndian.Uint32(b)), len(b); got != want {
		t.Fatalf("length %d in the header of %d bytes", got, want)
	}
	kind, flags := binary.NativeEndian.Uint16(b[4:]), binary.NativeEndian.Uint16(b[6:])&^unix.NLM_F_ACK
	b = b[unix.SizeofNlMsghdr:]
	return tree{
		Header: fmt.Sprintf("kind %d flags %#x % x", kind, flags, b[:unix.SizeofIfInfomsg]),
		Attrs:  parseAttrs(t, nil, b[unix.SizeofIfInfomsg:]),
	}
}

// parseAttrs reads attributes, and those in them where path says that there are some.
func parseAttrs(t *testing.T, path []uint16, b []byte) map[uint16]any {
	t.Helper()
	attrs := make(map[uint16]any)
	err := rtnl.Attrs(b, func(kind uint16, value []byte) error {
		if attrs[kind] != nil {
			t.Errorf("attribute %v %d twice", path, kind)
		}
		switch here := fmt.Sprint(append(path, kind)); here {
		case fmt.Sprint([]uint16{unix.IFLA_LINKINFO}), fmt.Sprint([]uint16{unix.IFLA_LINKINFO, nl.IFLA_INFO_DATA}):
			attrs[kind] = parseAttrs(t, append(path, kind), value)
		case fmt.Sprint([]uint16{unix.IFLA_LINKINFO, nl.IFLA_INFO_DATA, 1}):
			if len(value) == bitTimingSize { // IFLA_CAN_BITTIMING, linux/can/netlink.h
				attrs[kind] = fmt.Sprintf("% x", value)
				break
			}
			attrs[kind] = tree{ // VXCAN_INFO_PEER, linux/can/vxcan.h
				Header: fmt.Sprintf("% x", value[:unix.SizeofIfInfomsg]),
				Attrs:  parseAttrs(t, append(path, kind), value[unix.SizeofIfInfomsg:]),
			}
		default:
			attrs[kind] = fmt.Sprintf("% x", value)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	return attrs
}

// fdNetns is a network namespace of which nothing is known but a file descriptor.
type fdNetns struct {
	ns.NetNS
	fd uintptr
}

func (n fdNetns) Fd() uintptr { return n.fd }

// The requests that these commands of iproute2 6.1 send, by strace -e trace=network -e write=3.
func TestAddRequests(t *testing.T) {
	for _, test := range []struct {
		command string
		got     *nl.NetlinkRequest
		want    string
	}{{
		command: "ip link add vcan9 mtu 72 up type vcan",
		got:     vcanRequest("vcan9", 0, 72),
		want: `
			40 00 00 00 10 00 05 06 57 b7 03 6b 00 00 00 00 00 00 00 00 00 00 00 00 01 00 00 00 01 00 00 00
			08 00 04 00 48 00 00 00 0a 00 03 00 76 63 61 6e 39 00 00 00 0c 00 12 00 08 00 01 00 76 63 61 6e`,
	}, {
		// With netns n1 open as file descriptor 4.
		command: "ip link add vxa index 100001 mtu 72 up type vxcan peer name can0 mtu 72 netns n1 index 100001",
		got:     Pair{Name: "vxa", PeerName: "can0", MTU: 72, Index: 100001, PeerIndex: 100001, PeerNetns: fdNetns{fd: 4}}.request(),
		want: `
			74 00 00 00 10 00 05 06 55 b7 03 6b 00 00 00 00 00 00 00 00 a1 86 01 00 01 00 00 00 01 00 00 00
			08 00 04 00 48 00 00 00 08 00 03 00 76 78 61 00 44 00 12 00 09 00 01 00 76 78 63 61 6e 00 00 00
			34 00 02 00 30 00 01 00 00 00 00 00 a1 86 01 00 00 00 00 00 00 00 00 00 08 00 04 00 48 00 00 00
			08 00 1c 00 04 00 00 00 09 00 03 00 63 61 6e 30 00 00 00 00`,
	}, {
		command: "ip link add vxb mtu 16 up type vxcan peer name vxc mtu 16",
		got:     Pair{Name: "vxb", PeerName: "vxc", MTU: 16}.request(),
		want: `
			68 00 00 00 10 00 05 06 56 b7 03 6b 00 00 00 00 00 00 00 00 00 00 00 00 01 00 00 00 01 00 00 00
			08 00 04 00 10 00 00 00 08 00 03 00 76 78 62 00 38 00 12 00 09 00 01 00 76 78 63 61 6e 00 00 00
			28 00 02 00 24 00 01 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 08 00 04 00 10 00 00 00
			08 00 03 00 76 78 63 00`,
	}} {
		t.Run(test.command, func(t *testing.T) {
			got, want := parseTree(t, test.got.Serialize()), parseTree(t, unhex(t, test.want))
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(- ip, + we)\n%s", diff)
			}
		})
	}
}

func TestAliasRequest(t *testing.T) {
	// ip link set dev vxa alias 'vxcan vcan0 cni'
	ip := parseTree(t, unhex(t, `
		34 00 00 00 10 00 05 00 58 b7 03 6b 00 00 00 00 00 00 00 00 a1 86 01 00 00 00 00 00 00 00 00 00
		13 00 14 00 76 78 63 61 6e 20 76 63 61 6e 30 20 63 6e 69 00`))
	if diff := cmp.Diff(ip, parseTree(t, aliasRequest(100001, "vxcan vcan0 cni").Serialize())); diff != "" {
		t.Errorf("(- ip, + we)\n%s", diff)
	}
}

var linkFiles = map[string]Link{
	"lo.hex":   {Name: "lo", Index: 1, MTU: 65536},
	"vcan.hex": {Name: "vcan0", Index: 2, Kind: Vcan, CAN: true, MTU: 72, Up: true},
	"vxcan.hex": {
		Name: "vxa", Index: 100001, Kind: Vxcan, CAN: true, MTU: 72, Up: true, Alias: "vxcan vcan0 cni",
		PeerIndex: 100001, PeerElsewhere: true,
	},
}

func readLink(t testing.TB, file string) []byte {
	t.Helper()
	text, err := os.ReadFile("testdata/" + file)
	if err != nil {
		t.Fatal(err)
	}
	return unhex(t, string(text))
}

func TestParseLink(t *testing.T) {
	for file, want := range linkFiles {
		got, err := parseLink(readLink(t, file))
		if err != nil {
			t.Error(file, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (- want, + got)\n%s", file, diff)
		}
	}
}

// A message that ends anywhere gives an error, or, where an attribute ends, no value that is wrong.
func TestParseLinkTruncated(t *testing.T) {
	for file, want := range linkFiles {
		data := readLink(t, file)
		errs := 0
		for n := range data {
			got, err := parseLink(data[:n])
			if err != nil {
				errs++
				continue
			}
			if n < unix.SizeofIfInfomsg {
				t.Errorf("%s cut to %d bytes: no error", file, n)
			}
			if got.Name != "" && got.Name != want.Name || got.Kind != "" && got.Kind != want.Kind ||
				got.MTU != 0 && got.MTU != want.MTU || got.Alias != "" && got.Alias != want.Alias ||
				got.PeerIndex != 0 && got.PeerIndex != want.PeerIndex {
				t.Errorf("%s cut to %d bytes: %+v", file, n, got)
			}
		}
		if errs < len(data)*2/3 {
			t.Errorf("%s: only %d of %d cuts are errors", file, errs, len(data))
		}
	}
}

func TestParseLinkWrongLength(t *testing.T) {
	for _, kind := range []uint16{unix.IFLA_MTU, unix.IFLA_LINK, unix.IFLA_LINK_NETNSID} {
		for size := range 9 {
			data := append(make([]byte, unix.SizeofIfInfomsg), nl.NewRtAttr(int(kind), make([]byte, size)).Serialize()...)
			if _, err := parseLink(data); (err == nil) != (size == 4) {
				t.Errorf("attribute %d of %d bytes: %v", kind, size, err)
			}
		}
	}
}

func FuzzParseLink(f *testing.F) {
	for file := range linkFiles {
		f.Add(readLink(f, file))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		link, err := parseLink(data)
		if err != nil && !cmp.Equal(link, Link{}) {
			t.Errorf("%+v with an error", link)
		}
	})
}
