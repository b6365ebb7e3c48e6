package canlink

import (
	"bytes"
	"fmt"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/cantest"
	"github.com/vxcan/vxcan/pkg/rtnl"
)

var (
	tunnel4 = Tunnel{Local: netip.MustParseAddr("10.9.0.1"), Remote: netip.MustParseAddr("10.9.0.2"), Key: 7, TTL: 255}
	tunnel6 = Tunnel{Local: netip.MustParseAddr("2001:db8::1"), Remote: netip.MustParseAddr("2001:db8::2"), Key: 7, TTL: 255}
)

// flat has the attributes of a request for a device by their path.
func flat(t *testing.T, request []byte) map[string][]byte {
	t.Helper()
	all := make(map[string][]byte)
	var walk func(path string, b []byte) error
	walk = func(path string, b []byte) error {
		return rtnl.Attrs(b, func(kind uint16, value []byte) error {
			switch at := fmt.Sprint(path, "/", kind); at {
			case fmt.Sprint("/", unix.IFLA_LINKINFO), fmt.Sprint("/", unix.IFLA_LINKINFO, "/", nl.IFLA_INFO_DATA):
				return walk(at, value)
			default:
				all[at] = value
			}
			return nil
		})
	}
	if err := walk("", request[unix.SizeofNlMsghdr+unix.SizeofIfInfomsg:]); err != nil {
		t.Error(err)
	}
	return all
}

// The requests that these commands of iproute2 6.1 send, by strace -e trace=sendmsg -e write=3. They have more attributes than
// ours, with the values that the kernel gives to those that are missing.
func TestTunnelRequests(t *testing.T) {
	for _, test := range []struct {
		command string
		tunnel  Tunnel
		want    string
	}{{
		"ip link add vgx index 100001 type gre local 10.9.0.1 remote 10.9.0.2 key 7 ttl 255", tunnel4, `
			a8 00 00 00 10 00 05 06 50 00 0c 6b 00 00 00 00 00 00 00 00 a1 86 01 00 00 00 00 00 00 00 00 00
			08 00 03 00 76 67 78 00 80 00 12 00 07 00 01 00 67 72 65 00 74 00 02 00 08 00 04 00 00 00 00 07
			08 00 05 00 00 00 00 07 06 00 02 00 20 00 00 00 06 00 03 00 20 00 00 00 08 00 06 00 0a 09 00 01
			08 00 07 00 0a 09 00 02 05 00 0a 00 01 00 00 00 05 00 09 00 00 00 00 00 05 00 08 00 ff 00 00 00
			08 00 14 00 00 00 00 00 06 00 0e 00 00 00 00 00 06 00 0f 00 00 00 00 00 06 00 10 00 00 00 00 00
			06 00 11 00 00 00 00 00`,
	}, {
		"ip link add vgx index 100001 type ip6gre local 2001:db8::1 remote 2001:db8::2 key 7 hoplimit 255 encaplimit none", tunnel6, `
			d4 00 00 00 10 00 05 06 50 00 0c 6b 00 00 00 00 00 00 00 00 a1 86 01 00 00 00 00 00 00 00 00 00
			08 00 03 00 76 67 78 00 ac 00 12 00 0a 00 01 00 69 70 36 67 72 65 00 00 9c 00 02 00 08 00 04 00
			00 00 00 07 08 00 05 00 00 00 00 07 06 00 02 00 20 00 00 00 06 00 03 00 20 00 00 00 14 00 06 00
			20 01 0d b8 00 00 00 00 00 00 00 00 00 00 00 01 14 00 07 00 20 01 0d b8 00 00 00 00 00 00 00 00
			00 00 00 02 05 00 08 00 ff 00 00 00 05 00 0b 00 04 00 00 00 08 00 0c 00 00 00 00 00 08 00 0d 00
			01 00 00 00 08 00 14 00 00 00 00 00 05 00 16 00 01 00 00 00 06 00 0e 00 00 00 00 00 06 00 0f 00
			02 00 00 00 06 00 10 00 00 00 00 00 06 00 11 00 00 00 00 00`,
	}} {
		golden := cantest.Unhex(t, test.want)
		request := test.tunnel.request("vgx", 100001).Serialize()
		if head := unix.SizeofNlMsghdr + unix.SizeofIfInfomsg; !bytes.Equal(request[unix.SizeofNlMsghdr:head], golden[unix.SizeofNlMsghdr:head]) {
			t.Errorf("%s: % x", test.command, request[:head])
		}
		want, got := flat(t, golden), flat(t, request)
		for at, value := range got {
			if !bytes.Equal(value, want[at]) {
				t.Errorf("%s: attribute %s is % x, want % x", test.command, at, value, want[at])
			}
		}
		if len(got) < 9 {
			t.Errorf("%s: %v", test.command, got)
		}
		// An answer has the same attributes.
		l, err := ParseLink(golden[unix.SizeofNlMsghdr:])
		if err != nil || l.Kind != test.tunnel.Kind() || l.Tunnel != test.tunnel || l.CAN {
			t.Errorf("%s: %+v, %v", test.command, l, err)
		}
		for size := unix.SizeofNlMsghdr; size < len(golden); size++ {
			_, _ = ParseLink(golden[unix.SizeofNlMsghdr:size])
		}
	}
}
