package underlay

import (
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/containernetworking/plugins/pkg/ns"

	"github.com/vxcan/vxcan/pkg/cantest"
	"github.com/vxcan/vxcan/pkg/rtnl"
)

// read runs commands of the shell in a new network namespace and reads what they have made.
func read(t *testing.T, script string, hosts ...netip.Addr) (u Underlay) {
	t.Helper()
	if withNFT() {
		script = strings.ReplaceAll(script, "tables -t", "tables-nft -t")
	} else {
		script = strings.ReplaceAll(script, "tables -t", "tables-legacy -t")
	}
	err := cantest.NewNetns(t).Do(func(ns.NetNS) (err error) {
		if out, err := exec.Command("sh", "-e", "-c", script).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", script, err, out)
		}
		conn, err := rtnl.Dial()
		if err != nil {
			return err
		}
		u, err = Read(conn, hosts...)
		return errors.Join(err, conn.Close())
	})
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// withNFT reports whether the kernel has nftables: User Mode Linux has iptables-legacy alone.
var withNFT = sync.OnceValue(func() bool {
	return exec.Command("unshare", "-n", "iptables-nft", "-t", "raw", "-A", "PREROUTING", "-j", "ACCEPT").Run() == nil
})

const (
	withIPTables = "iptables -t raw -A PREROUTING -p gre ! -i eth0 -j DROP; iptables -t raw -A PREROUTING -p gre -j CT --notrack; iptables -t raw -A OUTPUT -p gre -j CT --notrack"
	chains       = "add table inet t; add chain inet t p { type filter hook prerouting priority raw; policy accept; }; add chain inet t o { type filter hook output priority raw; }; "
)

// TestFirewall: the rules of conflist/hosts in all forms, and what is in the way of them or not enough.
func TestFirewall(t *testing.T) {
	cantest.Require(t)
	page, err := os.ReadFile("../../conflist/hosts/vxcan-hosts.nft")
	if err != nil {
		t.Fatal(err)
	}
	nft := func(rules string) string { return "nft '" + chains + rules + "'" }
	for name, test := range map[string]struct {
		script string
		want   string // D: dropped from docker0, d: from a device that is unknown, A: not from eth0, T: not tracked, O: nor on its way out
	}{
		"nothing":               {"true", "A"},
		"iptables":              {withIPTables, "DdATO"},
		"iptables, inserted":    {strings.ReplaceAll(withIPTables, "-A", "-I"), "DdATO"},
		"ip6tables":             {strings.ReplaceAll(withIPTables, "iptables", "ip6tables"), "A"}, // not for IPv4
		"in a chain":            {strings.ReplaceAll("iptables -t raw -N GRE; iptables -t raw -A PREROUTING -p gre -j GRE; "+withIPTables, "-A PREROUTING -p gre ! -i", "-A GRE ! -i"), "DdATO"},
		"docker0 alone":         {"iptables -t raw -A PREROUTING -p gre -i docker0 -j DROP", "DA"},
		"docker* alone":         {"iptables -t raw -A PREROUTING -p gre -i docker+ -j DROP", "DA"},
		"from one address":      {"iptables -t raw -A PREROUTING -p gre -s 10.9.0.2 ! -i eth0 -j DROP", "A"},
		"too late":              {"iptables -t mangle -A PREROUTING -p gre ! -i eth0 -j DROP; iptables -t mangle -A PREROUTING -p gre -j ACCEPT", "A"},
		"all of GRE":            {"iptables -t raw -A PREROUTING -p gre -j DROP", "Dd"},
		"all":                   {"iptables -t raw -P PREROUTING DROP", "Dd"},
		"all but lo":            {"iptables -t raw -A PREROUTING ! -i lo -j DROP", "Dd"},
		"accepted before":       {"iptables -t raw -A PREROUTING -j ACCEPT; " + withIPTables, "AO"},
		"some accepted before":  {"iptables -t raw -A PREROUTING -m ttl --ttl-gt 5 -j ACCEPT; " + withIPTables, "AO"},
		"tcp accepted before":   {"iptables -t raw -A PREROUTING -p tcp -j ACCEPT; " + withIPTables, "DdATO"},
		"logged before":         {"iptables -t raw -A PREROUTING -p gre -j LOG; " + withIPTables, "DdATO"},
		"limited":               {"iptables -t raw -A PREROUTING -p gre ! -i eth0 -m limit --limit 5/s -j DROP", "A"},
		"another protocol":      {strings.ReplaceAll(withIPTables, "-p gre", "-p esp"), "A"},
		"nft: the page":         {"nft -f - <<'E'\n" + string(page) + "\nE", "DdATO"},
		"nft: the page twice":   {"nft -f ../../conflist/hosts/vxcan-hosts.nft; nft -f ../../conflist/hosts/vxcan-hosts.nft", "DdATO"},
		"nft: dormant":          {"nft -f ../../conflist/hosts/vxcan-hosts.nft; nft 'add table inet vxcan_hosts { flags dormant; }'", "A"},
		"nft: two devices":      {nft(`add rule inet t p meta l4proto gre iifname != { "eth0", "eth1" } counter drop`), "DdA"},
		"nft: a set":            {nft(`add set inet t up { type ifname; elements = { "eth0", "eth1" } ; }; add rule inet t p meta l4proto 47 iifname != @up drop`), "DdA"},
		"nft: a set with time":  {nft(`add set inet t up { type ifname; flags timeout; elements = { "eth0" timeout 1h } ; }; add rule inet t p meta l4proto 47 iifname != @up drop`), "A"},
		"nft: a verdict map":    {nft(`add rule inet t p meta l4proto gre iifname vmap { "docker0" : drop, "eth0" : accept }`), "A"},
		"nft: table ip":         {strings.ReplaceAll(nft(`add rule inet t p ip protocol gre iifname != "eth0" drop; add rule inet t p ip protocol gre notrack; add rule inet t o ip protocol gre notrack`), "inet t", "ip t"), "DdATO"},
		"nft: table ip6":        {strings.ReplaceAll(nft(`add rule inet t p iifname != "eth0" drop`), "inet t", "ip6 t"), "A"},
		"nft: inet, ip only":    {nft(`add rule inet t p ip protocol gre iifname != "eth0" drop`), "DdA"},
		"nft: not tracked once": {nft(`add rule inet t p ip saddr 10.9.0.2 notrack; add rule inet t o limit rate 5/second notrack`), "A"},
		"nft: goto":             {nft(`add chain inet t g; add rule inet t g iifname "eth0" return; add rule inet t g drop; add rule inet t p meta l4proto gre goto g`), "DdA"},
		"nft: jump, perhaps":    {nft(`add chain inet t g; add rule inet t g accept; add rule inet t p meta mark 5 jump g; add rule inet t p iifname != "eth0" drop`), "A"},
		"nft: jump, harmless":   {nft(`add chain inet t g; add rule inet t g counter; add rule inet t p meta mark 5 jump g; add rule inet t p iifname != "eth0" drop`), "DdA"},
		"nft: policy drop":      {nft(`add chain inet t p { policy drop; }; add rule inet t p iifname "eth0" accept; add rule inet t p meta l4proto 6 accept`), "DdA"},
	} {
		t.Run(name, func(t *testing.T) {
			if strings.HasPrefix(name, "nft") {
				if _, err := exec.LookPath("nft"); err != nil || !withNFT() {
					t.Skip("needs nft, and a kernel with nftables")
				}
			}
			f := read(t, test.script).Firewall
			got := ""
			add := func(is bool, letter string) {
				if is {
					got += letter
				}
			}
			add(f.Drops(Packet{Dev: 7, Name: "docker0"}), "D")
			add(f.Drops(Packet{Dev: -1, Name: "?"}), "d")
			eth := Packet{Dev: 2, Name: "eth0"}
			add(!f.Drops(eth), "A")
			add(f.Untracked(eth), "T")
			add(f.Untracked(Packet{}), "O")
			if got != test.want {
				t.Errorf("%s: %s, want %s\n%+v", test.script, got, test.want, f)
			}
		})
	}
}

// TestFirewallIPv6: the same rules keep IPv6.
func TestFirewallIPv6(t *testing.T) {
	cantest.Require(t)
	for script, want := range map[string]bool{
		strings.ReplaceAll(withIPTables, "iptables", "ip6tables"): true,
		withIPTables: false,
	} {
		f := read(t, script).Firewall
		in, out := Packet{IPv6: true, Dev: 7, Name: "docker0"}, Packet{IPv6: true}
		if f.Drops(in) != want || f.Untracked(Packet{IPv6: true, Dev: 2, Name: "eth0"}) != want || f.Untracked(out) != want {
			t.Errorf("%s: %v, %v, want %v\n%+v", script, f.Drops(in), f.Untracked(out), want, f)
		}
	}
}

// TestWays: addresses of the host, and the way to others.
func TestWays(t *testing.T) {
	cantest.Require(t)
	a := netip.MustParseAddr
	hosts := []netip.Addr{a("10.9.0.1"), a("10.9.0.2"), a("192.0.2.1"), a("198.51.100.1"), a("203.0.113.1"), a("2001:db8::1"), a("2001:db8::2"), a("2001:db8:1::1")}
	u := read(t, `ip link add eth0 index 50 type veth peer name peer0; ip link set peer0 up; ip address add 10.9.0.1/24 dev eth0; ip address add 2001:db8::1/64 nodad dev eth0; ip link set eth0 up
		ip link add eth1 index 51 mtu 1400 type veth peer name peer1; ip link set peer1 up; ip address add 10.8.0.1 peer 10.8.0.2 dev eth1; ip link set eth1 up
		ip route add 192.0.2.0/24 via 10.9.0.9 mtu 1000; ip route add 198.51.100.0/24 via 10.8.0.2; ip route add unreachable 203.0.113.0/24`, hosts...)
	for _, own := range []string{"10.9.0.1", "2001:db8::1", "10.8.0.1"} {
		found := false
		for _, address := range u.Addresses {
			found = found || address == a(own)
		}
		if !found {
			t.Errorf("%s is none of %v", own, u.Addresses)
		}
	}
	want := map[netip.Addr]Way{a("10.9.0.2"): {Dev: 50}, a("192.0.2.1"): {Dev: 50, MTU: 1000}, a("198.51.100.1"): {Dev: 51}, a("2001:db8::2"): {Dev: 50}}
	for _, host := range hosts {
		if got := u.Ways[host]; got != want[host] && !(host.Is6() && got.Dev == want[host].Dev) { // IPv6 tells the MTU of the device
			t.Errorf("%s: %+v, want %+v", host, got, want[host])
		}
	}
	if len(u.Firewall) > 0 {
		t.Errorf("%+v", u.Firewall)
	}
}
