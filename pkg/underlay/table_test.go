package underlay

import (
	"errors"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"github.com/containernetworking/plugins/pkg/ns"

	"github.com/vxcan/vxcan/pkg/cantest"
	"github.com/vxcan/vxcan/pkg/rtnl"
)

var a = netip.MustParseAddr

// Tables, and how nft makes them.
var tables = []struct {
	table Table
	nft   string
}{
	{Table{Name: "vxcan-vcan0", Local: a("10.9.0.1"), Key: 7, Peers: []Source{{a("10.9.0.2"), "eth0"}, {a("10.9.0.3"), ""}}}, `table inet vxcan-vcan0 {
	chain prerouting {
		type filter hook prerouting priority -450; policy accept;
		iifname "eth0" ip saddr 10.9.0.2 ip frag-off & 0xbfff == 0 ip ttl 255 ip daddr 10.9.0.1 meta l4proto gre @th,0,16 0x2000 @th,32,32 7 meta mark set 0x3163
		ip saddr 10.9.0.2 meta l4proto gre ip daddr 10.9.0.1 @th,0,16 0x2000 @th,32,32 7 notrack
		ip saddr 10.9.0.3 meta l4proto gre ip daddr 10.9.0.1 @th,0,16 0x2000 @th,32,32 7 notrack
	}
	chain output {
		type filter hook output priority raw; policy accept;
		ip saddr 10.9.0.1 meta l4proto gre ip daddr 10.9.0.2 @th,0,16 0x2000 @th,32,32 7 notrack
		ip saddr 10.9.0.1 meta l4proto gre ip daddr 10.9.0.3 @th,0,16 0x2000 @th,32,32 7 notrack
	}
}
`},
	{Table{Name: "vxcan-slot0", Local: a("2001:db8::1"), Key: 0xfffffffe, Peers: []Source{{a("2001:db8::2"), "a-long-name-15b"}}}, `table inet vxcan-slot0 {
	chain prerouting {
		type filter hook prerouting priority -450; policy accept;
		iifname "a-long-name-15b" ip6 saddr 2001:db8::2 ip6 nexthdr gre ip6 hoplimit 255 ip6 daddr 2001:db8::1 @th,0,16 0x2000 @th,32,32 0xfffffffe meta mark set 0x3163
		ip6 saddr 2001:db8::2 meta l4proto gre ip6 daddr 2001:db8::1 @th,0,16 0x2000 @th,32,32 0xfffffffe notrack
	}
	chain output {
		type filter hook output priority raw; policy accept;
		ip6 saddr 2001:db8::1 meta l4proto gre ip6 daddr 2001:db8::2 @th,0,16 0x2000 @th,32,32 0xfffffffe notrack
	}
}
`},
}

// within does something with the tables of a new network namespace.
func within(t *testing.T, do func(*Tables)) {
	t.Helper()
	cantest.Require(t)
	err := cantest.NewNetns(t).Do(func(ns.NetNS) error {
		conn, err := rtnl.DialNetfilter()
		if err != nil {
			return err
		}
		do(On(conn))
		return conn.Close()
	})
	if err != nil {
		t.Fatal(err)
	}
}

func run(t *testing.T, stdin string, words ...string) string {
	t.Helper()
	cmd := exec.Command(words[0], words[1:]...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%q: %v: %s", words, err, out)
	}
	return string(out)
}

// TestTables: nft lists the same table, and the same table made by nft is the same to us. Each other one is not.
func TestTables(t *testing.T) {
	within(t, func(k *Tables) {
		listing := func() string {
			t.Helper()
			text, err := k.Listing(tables[0].table.Name)
			if err != nil {
				t.Error(err)
			}
			return text
		}
		set := func(table Table) {
			t.Helper()
			if err := k.Set(table); err != nil {
				t.Error(err)
			}
		}
		if err := k.Probe(); cantest.LacksTables() {
			var missing *rtnl.NoModuleError
			if !errors.As(err, &missing) || missing.Module != ModuleTables || k.Delete("vxcan-vcan0") != nil || listing() != "" {
				t.Errorf("without nf_tables: %v", err)
			}
			return
		} else if err != nil {
			t.Fatal(err)
		}
		if err := k.Delete("vxcan-vcan0"); err != nil || listing() != "" {
			t.Errorf("delete what is not there: %v", err)
		}
		for _, test := range tables {
			list := func() string { return run(t, "", "nft", "-s", "list", "table", "inet", test.table.Name) }
			run(t, test.nft, "nft", "-f", "-")
			want := list()
			for range 3 { // made by nft, in the place of that, and in that of itself
				if got := list(); got != want {
					t.Errorf("nft lists\n%swant\n%s", got, want)
				}
				if got, err := k.Listing(test.table.Name); err != nil || got != test.table.Listing() {
					t.Errorf("%v\n%s\nwant\n%s", err, got, test.table.Listing())
				}
				for _, p := range test.table.Peers {
					if got := test.table.Device(test.table.Listing(), p.Address); got != p.Device {
						t.Errorf("device on the way to %s: %q, want %q", p.Address, got, p.Device)
					}
				}
				set(test.table)
			}
			if err := k.Delete(test.table.Name); err != nil {
				t.Error(err)
			}
		}
		const marks = `ip saddr 10.9.0.2 ip frag-off & 0xbfff == 0 ip ttl 255 ip daddr 10.9.0.1 meta l4proto gre @th,0,16 0x2000 @th,32,32 7 meta mark set 0x3163`
		for _, change := range []string{
			"flush ruleset", "flush table inet vxcan-vcan0", "flush chain inet vxcan-vcan0 prerouting", "add table inet vxcan-vcan0 { flags dormant; }",
			"delete chain inet vxcan-vcan0 output", "add chain inet vxcan-vcan0 mine", "add set inet vxcan-vcan0 mine { type mark; }",
			"add chain inet vxcan-vcan0 output { policy drop; }", "add rule inet vxcan-vcan0 prerouting counter", "insert rule inet vxcan-vcan0 output accept",
			"flush chain inet vxcan-vcan0 prerouting; add rule inet vxcan-vcan0 prerouting " + marks, "add rule inet vxcan-vcan0 prerouting " + marks,
			"delete table inet vxcan-vcan0; add table inet vxcan-vcan0",
			"delete chain inet vxcan-vcan0 prerouting; add chain inet vxcan-vcan0 prerouting { type filter hook prerouting priority -399; }; " +
				`add rule inet vxcan-vcan0 prerouting iifname "eth0" ` + marks,
		} {
			set(tables[0].table)
			run(t, change, "nft", "-f", "-")
			if listing() == tables[0].table.Listing() {
				t.Errorf("%s: not noticed", change)
			}
		}
		set(tables[0].table)
		run(t, `add table ip vxcan-vcan0; add table inet other { chain c { type filter hook input priority 0; counter; }; }; add rule inet vxcan-vcan0 output accept`, "nft", "-f", "-")
		set(tables[0].table)
		if listing() != tables[0].table.Listing() || !strings.Contains(run(t, "", "nft", "list", "ruleset"), "table inet other") {
			t.Errorf("beside others: %s", listing())
		}
	})
}

// TestTableFails: a transaction that fails, or that nobody may make, changes nothing.
func TestTableFails(t *testing.T) {
	if cantest.LacksTables() {
		return // TestTables has what is different then
	}
	within(t, func(k *Tables) {
		if err := k.Set(tables[0].table); err != nil {
			t.Fatal(err)
		}
		wrong := tables[0].table
		wrong.Local = netip.Addr{} // a rule that the kernel refuses
		if err := k.Set(wrong); err == nil {
			t.Error("no error")
		}
		if got, err := k.Listing(wrong.Name); err != nil || got != tables[0].table.Listing() {
			t.Errorf("%v, %s", err, got)
		}
		long := Table{Name: "vxcan-vcan0", Local: a("10.9.0.1")}
		for n := a("10.9.0.2"); len(long.Peers) < 31; n = n.Next() {
			long.Peers = append(long.Peers, Source{n, "eth0"})
		}
		if err := k.Set(long); err != nil {
			t.Error(err)
		}
		if got, err := k.Listing(wrong.Name); err != nil || got != long.Listing() {
			t.Errorf("31 peers: %v, %s", err, got)
		}
	})
}

// TestWays: addresses of the host, and the way to others, from the right address.
func TestWays(t *testing.T) {
	cantest.Require(t)
	run(t, "", "modprobe", "ipv6")
	hosts := []netip.Addr{a("10.9.0.1"), a("10.9.0.2"), a("192.0.2.1"), a("198.51.100.1"), a("198.51.100.2"), a("203.0.113.1"), a("203.0.113.5")}
	hosts6 := []netip.Addr{a("2001:db8::1"), a("2001:db8::2"), a("2001:db8:1::1")}
	want := map[netip.Addr]Way{
		a("10.9.0.2"): {Dev: 50}, a("192.0.2.1"): {Dev: 50, MTU: 1000, Routed: true}, a("198.51.100.1"): {Dev: 51, Aside: true}, a("198.51.100.2"): {Dev: 51, Routed: true, Aside: true},
		a("203.0.113.5"): {Dev: 51, Aside: true}, a("2001:db8::2"): {Dev: 50}, a("2001:db8:1::1"): {Dev: 50, Routed: true},
	}
	err := cantest.NewNetns(t).Do(func(ns.NetNS) error {
		run(t, "", "sh", "-e", "-c", `ip link add eth0 index 50 type veth peer name peer0; ip link set peer0 up; ip address add 10.9.0.1/24 dev eth0
			ip address add 2001:db8::1/64 nodad dev eth0; ip link set eth0 up
			ip link add eth1 index 51 mtu 1400 type veth peer name peer1; ip link set peer1 up; ip address add 10.8.0.1 peer 10.8.0.2 dev eth1; ip link set eth1 up
			ip route add 192.0.2.0/24 via 10.9.0.9 mtu 1000; ip route add 198.51.100.1 dev eth1; ip route add 198.51.100.2 via inet6 fe80::1 dev eth1
			ip route add unreachable 203.0.113.0/24; ip -6 route add 2001:db8:1::/64 via 2001:db8::9
			ip rule add from 10.9.0.1 to 203.0.113.5 lookup 100; ip route add 203.0.113.5 dev eth1 table 100`)
		conn, err := rtnl.Dial()
		if err != nil {
			return err
		}
		for _, list := range [][]netip.Addr{hosts, hosts6} {
			u, err := Read(conn, list...)
			if err != nil {
				return err
			}
			for _, host := range list {
				got := u.Ways[host]
				if host.Is6() { // of which some kernels tell the MTU of the device
					got.MTU = 0
				}
				if got != want[host] {
					t.Errorf("%s: %+v, want %+v", host, got, want[host])
				}
			}
			if len(u.Addresses) < 3 {
				t.Errorf("addresses: %v", u.Addresses)
			}
		}
		return conn.Close()
	})
	if err != nil {
		t.Fatal(err)
	}
}
