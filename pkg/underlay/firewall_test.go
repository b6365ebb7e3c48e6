package underlay

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/vxcan/vxcan/pkg/cantest"
)

// golden has the messages of a file by their type.
func golden(t testing.TB) map[int][][]byte {
	t.Helper()
	content, err := os.ReadFile("testdata/iptables.hex")
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[int][][]byte)
	for line := range strings.Lines(string(content)) {
		var kind int
		var digits string
		if strings.HasPrefix(line, "#") {
			continue
		}
		if _, err := fmt.Sscan(line, &kind, &digits); err != nil {
			t.Fatal(err)
		}
		message, err := hex.DecodeString(digits)
		if err != nil {
			t.Fatal(err)
		}
		all[kind] = append(all[kind], message)
	}
	return all
}

// replay is a lister of messages, cut off at a size, or whole.
func replay(all map[int][][]byte, size int) lister {
	return func(message int, _ *dumpFilter, each func(uint8, []byte) error) error {
		for _, m := range all[map[int]int{msgGetTable: 0, msgGetChain: 3, msgGetRule: 6}[message]] {
			const head = 4 // struct nfgenmsg
			if err := each(m[0], m[head:max(head, min(len(m), size))]); err != nil {
				return err
			}
		}
		return nil
	}
}

// TestGolden: what the kernel says of the rules on the page is what they mean, and none of it cut off is taken for it.
func TestGolden(t *testing.T) {
	all := golden(t)
	f, err := readOnce(replay(all, 1<<20))
	eth, other := Packet{Dev: 2, Name: "wg0"}, Packet{Dev: 3, Name: "docker0"}
	if err != nil || !f.Drops(other) || f.Drops(eth) || !f.Untracked(eth) || !f.Untracked(Packet{}) || f.Drops(Packet{}) {
		t.Errorf("%v, %+v", err, f)
	}
	for size := range 400 {
		_, _ = readOnce(replay(all, size))
	}
	for _, m := range all[6] {
		if r, _, _, err := unmarshalRule(m[4:]); err != nil || len(r) < 3 {
			t.Errorf("%v, %+v", err, r)
		}
	}
}

// FuzzRule: whatever a message says, it is read or refused.
func FuzzRule(f *testing.F) {
	for _, messages := range golden(f) {
		for _, m := range messages {
			f.Add(m[4:])
		}
	}
	f.Fuzz(func(_ *testing.T, b []byte) {
		r, table, name, _ := unmarshalRule(b)
		c, _, _ := unmarshalChain(b)
		_, _ = unmarshalTable(b)
		_, _, _ = unmarshalElements(b)
		c.base, c.family, c.table, c.name, c.rules = true, familyInet, table, name, []rule{r}
		Firewall{c}.Drops(Packet{Name: "eth0"})
	})
}

// FuzzLegacy: the same of a table of iptables-legacy.
func FuzzLegacy(f *testing.F) {
	info := make([]byte, infoSize)
	info[32] = 1 // NF_INET_PRE_ROUTING
	entry := make([]byte, 152)
	entry[88], entry[90] = 112, 152
	f.Add(info, append(entry, entry...))
	f.Fuzz(func(_ *testing.T, info, entries []byte) {
		if len(info) != infoSize {
			return
		}
		for _, l := range layouts {
			all, _ := l.chains(info, entries)
			all.Drops(Packet{Name: "eth0"})
		}
	})
}

// TestWayMessages: routes and addresses as linux/rtnetlink.h and linux/if_addr.h lay them out, whole and cut off. TestWays asks the
// kernel.
func TestWayMessages(t *testing.T) {
	route := cantest.Unhex(t, `
		02 20 00 00 fe 00 00 01 00 02 00 00 08 00 0f 00 fe 00 00 00 08 00 01 00 c0 00 02 01 08 00 04 00
		32 00 00 00 08 00 07 00 0a 09 00 01 08 00 10 00 00 00 00 00 08 00 05 00 0a 09 00 09 0c 00 08 00
		08 00 02 00 e8 03 00 00`)
	if way, err := unmarshalWay(route); err != nil || way != (Way{Dev: 50, MTU: 1000}) {
		t.Errorf("%+v, %v", way, err)
	}
	address := cantest.Unhex(t, `
		02 20 80 00 33 00 00 00 08 00 01 00 0a 08 00 02 08 00 02 00 0a 08 00 01 08 00 08 00 80 00 00 00`)
	if a, err := unmarshalAddress(address); err != nil || a != netip.MustParseAddr("10.8.0.1") {
		t.Errorf("%v, %v", a, err)
	}
	for size := range len(route) {
		_, _ = unmarshalWay(route[:size])
	}
	for size := range len(address) {
		_, _ = unmarshalAddress(address[:size])
	}
	if _, err := unmarshalWay(route[:4]); err == nil {
		t.Error("a message without struct rtmsg: no error")
	}
}
