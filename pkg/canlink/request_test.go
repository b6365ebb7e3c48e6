package canlink

import (
	"testing"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/cantest"
)

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
			got, want := cantest.ParseTree(t, test.got.Serialize()), cantest.ParseTree(t, cantest.Unhex(t, test.want))
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(- ip, + we)\n%s", diff)
			}
		})
	}
}

func TestAliasRequest(t *testing.T) {
	// ip link set dev vxa alias 'vxcan vcan0 cni'
	ip := cantest.ParseTree(t, cantest.Unhex(t, `
		34 00 00 00 10 00 05 00 58 b7 03 6b 00 00 00 00 00 00 00 00 a1 86 01 00 00 00 00 00 00 00 00 00
		13 00 14 00 76 78 63 61 6e 20 76 63 61 6e 30 20 63 6e 69 00`))
	if diff := cmp.Diff(ip, cantest.ParseTree(t, aliasRequest(100001, "vxcan vcan0 cni").Serialize())); diff != "" {
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

func readLink(t testing.TB, file string) []byte { return cantest.ReadHex(t, "testdata/"+file) }

func TestParseLink(t *testing.T) {
	for file, want := range linkFiles {
		got, err := ParseLink(readLink(t, file))
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
			got, err := ParseLink(data[:n])
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
			if _, err := ParseLink(data); (err == nil) != (size == 4) {
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
		link, err := ParseLink(data)
		if err != nil && !cmp.Equal(link, Link{}) {
			t.Errorf("%+v with an error", link)
		}
	})
}
