package bus

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"
	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/cantest"
	"github.com/vxcan/vxcan/pkg/capture"
	"github.com/vxcan/vxcan/pkg/config"
)

// flood sends frames from some ports at once, each with numbers, and returns how many of them a listener lacks, has twice, or
// has in another order than their sender sent them. It waits longer where none may be lost.
func flood(t *testing.T, frames int, from []port, loses bool, ears ...*cantest.Listener) (lost, doubled, disordered int) {
	t.Helper()
	done := make(chan error)
	for i, p := range from {
		sender := cantest.NewSender(t, p.netns, p.name)
		go func() {
			runtime.LockOSThread() // for ever: the thread ends with its goroutine
			var cpu unix.CPUSet    // a sender that changes its CPU sends out of order, on any bus
			cpu.Set(i % runtime.NumCPU())
			err := unix.SchedSetaffinity(0, &cpu)
			for n := range frames {
				f := cantest.Frame{ID: uint32(0x100 + i), FD: n%2 > 0, Data: fmt.Sprint(n)}
				for err = sender.Send(f); errors.Is(err, unix.ENOBUFS); err = sender.Send(f) {
					time.Sleep(time.Millisecond)
				}
			}
			done <- err
		}()
	}
	for range from {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	want := frames * len(from) * len(ears)
	if loses {
		want = 0
	}
	cantest.WaitQuiet(want, ears...)
	for _, l := range ears {
		last := make(map[uint32]int)
		count := make(map[uint32]int)
		for _, f := range l.InOrder() {
			var n int
			fmt.Sscan(f.Data, &n)
			if n < last[f.ID] {
				disordered++
			}
			last[f.ID] = max(last[f.ID], n)
			count[f.ID]++
		}
		all, _ := l.Heard()
		for _, n := range all {
			doubled += n - 1
		}
		lost += frames*len(from) - len(all)
	}
	return lost, doubled, disordered
}

// TestSpanFlood: three hosts send as fast as they can, and everybody has every frame once and in order.
func TestSpanFlood(t *testing.T) {
	h := newHosts(t, 3, false)
	ports := h.populate(1)
	h.worlds[0].expectExactlyOnce(ports...) // until a host has the hardware address of another one, few frames wait for that
	frames := 1000
	if cantest.IsThorough() {
		frames = 5000
	}
	var ears []*cantest.Listener
	for _, w := range h.worlds {
		ears = append(ears, cantest.Listen(t, w.netns, "vcan0"))
	}
	start := time.Now()
	lost, doubled, disordered := flood(t, frames, []port{ports[1], ports[3], ports[5]}, false, ears...)
	t.Logf("3 x %d frames in %v: %d lost, %d doubled, %d out of order", frames, time.Since(start), lost, doubled, disordered)
	if lost+doubled+disordered > 0 {
		t.Errorf("%d lost, %d doubled, %d out of order", lost, doubled, disordered)
	}
}

// TestSpanNetwork: whatever the network does, members of one host notice nothing, no frame is doubled, and what this host
// drops is told.
func TestSpanNetwork(t *testing.T) {
	h := newHosts(t, 2, false)
	ports := h.populate(2)
	a, b := h.worlds[0], h.worlds[1]
	trunk := func() TrunkStatus {
		all, err := a.status("vcan0")
		if err != nil || len(all[0].Trunks) != 1 {
			t.Fatalf("%+v, %v", all, err)
		}
		return all[0].Trunks[0]
	}
	across := func(frames int, loses bool) (lost, doubled, disordered int) {
		local, far := cantest.Listen(t, a.crowd, "can-c1"), cantest.Listen(t, b.crowd, "can-c0")
		defer local.Close()
		defer far.Close()
		lost, doubled, disordered = flood(t, frames, []port{ports[1]}, loses, far)
		if got, _ := local.Heard(); len(got) != frames || len(local.InOrder()) != frames {
			t.Errorf("on the same host: %d of %d frames, %d in all", len(got), frames, len(local.InOrder()))
		}
		return lost, doubled, disordered
	}
	for name, test := range map[string]struct {
		do, undo []string // on the host that sends
		loses    bool     // frames
		told     bool     // as dropped here
	}{
		"nothing":                 {},
		"MTU 90":                  {do: []string{"ip link set eth0 mtu 90"}, undo: []string{"ip link set eth0 mtu 1500"}, loses: true, told: true},
		"slow":                    {do: []string{"tc qdisc replace dev eth0 root tbf rate 64kbit burst 2000 limit 4000"}, undo: []string{"tc qdisc del dev eth0 root"}, loses: true, told: true}, // than any sender
		"5 % loss":                {do: []string{"tc qdisc replace dev eth0 root netem loss 5%"}, undo: []string{"tc qdisc del dev eth0 root"}, loses: true},
		"delay and another order": {do: []string{"tc qdisc replace dev eth0 root netem delay 5ms reorder 25%"}, undo: []string{"tc qdisc del dev eth0 root"}},
		"device down":             {do: []string{"ip link set eth0 down"}, undo: []string{"ip link set eth0 up"}, loses: true, told: true},
		"no address":              {do: []string{"ip address flush dev eth0"}, undo: []string{"ip address add 10.9.0.1/24 dev eth0"}, loses: true, told: true},
	} {
		across(20, true) // the kernel looks the other host's hardware address up first, and keeps few packets meanwhile
		a.run(test.do...)
		before := trunk()
		lost, doubled, disordered := across(400, test.loses)
		after := trunk()
		t.Logf("%s: %d of 400 lost, %d doubled, %d out of order; sent %d, dropped here %d", name, lost, doubled, disordered, after.Heard-before.Heard, after.Lost-before.Lost)
		if (lost > 0) != test.loses || doubled > 0 || test.told != (after.Lost > before.Lost) || disordered > 0 && !strings.Contains(name, "order") {
			t.Errorf("%s: %d of 400 lost, %d doubled, %d out of order; before %+v, after %+v", name, lost, doubled, disordered, before, after)
		}
		if test.told && after.Lost-before.Lost != uint64(lost) {
			t.Errorf("%s: %d lost, and %d are told", name, lost, after.Lost-before.Lost)
		}
		all, err := a.status("vcan0")
		if words := fmt.Sprint(err, all[0].Differences); (name == "MTU 90") != strings.Contains(words, "the way to 10.9.0.2 by eth0 has MTU 90: CAN FD frames need 100, and are lost") {
			t.Errorf("%s: %s", name, words)
		} else if name == "no address" && !strings.Contains(words, "none of hosts 10.9.0.1, 10.9.0.2 is an address of this host") {
			t.Errorf("%s: %s", name, words)
		}
		a.run(test.undo...)
	}
	across(20, true)
	a.expectExactlyOnce(ports...)
	h.expectWhole()

	// The other host reboots: its devices and its records are gone.
	if lost, _, _ := across(50, false); lost > 0 {
		t.Errorf("before a reboot: %d lost", lost)
	}
	b.run("rm -r "+b.host.StateDir, "ip link del vcan0", "ip link del vcan0-tx", "ip link del "+config.TrunkName("vcan0", netip.MustParseAddr(h.names[0])))
	for _, id := range []string{"c0", "c1"} {
		b.run("ip link del " + h.request(id, b.crowd).HostIf())
	}
	a.expectExactlyOnce(ports[:3]...)
	h.expectWholeAt(0)
	h.worlds = []*world{b}
	h.populate(2)
	a.expectExactlyOnce(ports...)
}

// expectWholeAt is expectWhole of one host.
func (h *hosts) expectWholeAt(i int) {
	h.t.Helper()
	one := *h
	one.worlds = h.worlds[i : i+1]
	one.expectWhole()
}

// TestSpanCircles: whatever hosts and administrators configure, no frame goes round, and nobody has one twice.
func TestSpanCircles(t *testing.T) {
	h := newHosts(t, 3, false)
	lists := []string{"10.9.0.1,10.9.0.2,10.9.0.3", "10.9.0.1,10.9.0.2", "10.9.0.1,10.9.0.2,10.9.0.3"}
	for i, w := range h.worlds {
		for j, hub := range []string{"vcan0", "vcan1"} {
			r := request(hub, hub, w.crowd)
			r.Hub.Span = config.Span{Hosts: lists[(i+j)%3], BusID: uint32(7 + j), Unprotected: h.open}
			if err := w.attachRequest(r); err != nil {
				t.Fatal(err)
			}
		}
		// A ring of two buses, on each host.
		w.do(func() error {
			_ = runLines("cangw -A -s vcan0 -d vcan1 -e", "cangw -A -s vcan1 -d vcan0 -e", "cangw -A -s vcan0 -d vcan1 -e -X", "cangw -A -s vcan1 -d vcan0 -e -X")
			return nil
		})
	}
	var ears []*cantest.Listener
	for _, w := range h.worlds {
		ears = append(ears, cantest.Listen(t, w.crowd, "can-vcan0"), cantest.Listen(t, w.netns, "vcan0"))
	}
	for i, w := range h.worlds {
		for _, at := range []port{{w.crowd, "can-vcan0"}, {w.netns, "vcan0"}} {
			sender := cantest.NewSender(t, at.netns, at.name)
			for n := range 5 {
				if err := sender.Send(cantest.Frame{ID: uint32(0x100 + i), Data: fmt.Sprint(at.name, n)[:min(8, len(fmt.Sprint(at.name, n)))]}); err != nil {
					t.Error(err)
				}
			}
			sender.Close()
		}
	}
	cantest.WaitQuiet(1, ears...)
	most := 0
	for _, l := range ears {
		got, _ := l.Heard()
		for _, n := range got {
			most = max(most, n)
		}
	}
	total := 0
	for _, l := range ears {
		total += l.Total()
	}
	t.Logf("%d frames heard in all, one at most %d times", total, most)
	if most > 5 { // each was sent 5 times at most
		t.Errorf("a frame is heard %d times", most)
	}
}

// TestSpanDump: what comes by a trunk has the trunk as its sender.
func TestSpanDump(t *testing.T) {
	h := newHosts(t, 2, false)
	ports := h.populate(1)
	var c *capture.Capture
	h.worlds[0].do(func() (err error) {
		c, err = capture.Open([]capture.Bus{{Hub: "vcan0", Filter: capture.Filter{IDs: []unix.CanFilter{{}}}}}, nil)
		return err
	})
	defer c.Close()
	var want []string
	for i, p := range ports {
		if err := cantest.NewSender(t, p.netns, p.name).Send(cantest.Frame{ID: uint32(0x100 + i)}); err != nil {
			t.Fatal(err)
		}
	}
	want = []string{"100 hub", "101 box c0", "102 host 10.9.0.2", "103 host 10.9.0.2"}
	e := &eavesdropper{most: len(want)}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	h.worlds[0].do(func() error { return c.Run(ctx, e) })
	if slices.Sort(e.heard); !slices.Equal(e.heard, want) {
		t.Errorf("%q, want %q", e.heard, want)
	}
}

// eavesdropper notes the senders of frames.
type eavesdropper struct {
	heard []string
	most  int
}

func (e *eavesdropper) Frame(f *capture.Frame) error {
	from := "box " + f.From.ContainerID
	if f.From.IsHub() {
		from = "hub"
	} else if f.From.Peer != "" {
		from = "host " + f.From.Peer
	}
	if e.heard = append(e.heard, fmt.Sprintf("%X %s", f.ID, from)); len(e.heard) == e.most {
		return capture.ErrStop
	}
	return nil
}
func (e *eavesdropper) Change(capture.Change) error { return nil }
func (e *eavesdropper) Idle() error                 { return nil }

// TestSpanPolicy: a policy and a rate hold for what other hosts send and hear.
func TestSpanPolicy(t *testing.T) {
	h := newHosts(t, 2, false)
	ports := h.populate(1)
	a, b := h.worlds[0], h.worlds[1]
	box := cantest.NewNetns(t)
	r := h.request("box", box)
	r.Endpoint.Policy = config.Policy{Send: "100-1FF", Receive: "200"}
	if err := a.attachRequest(r); err != nil {
		t.Fatal(err)
	}
	far := port{b.crowd, "can-c0"}
	a.expectPolicy(r.Endpoint.Policy.Send, port{box, "can-box"}, far)
	a.expectPolicy(r.Endpoint.Policy.Send, port{box, "can-box"}, port{b.netns, "vcan0"})
	a.expectPolicy(r.Endpoint.Policy.Receive, far, port{box, "can-box"})
	_ = ports
}

// attacker is a container of a host that is on an IP network behind it, and on no bus.
type attacker struct {
	t     *testing.T
	netns ns.NetNS
	fd    int // of a raw socket for GRE
}

func newAttacker(t *testing.T, w *world, ipv6 bool) *attacker {
	t.Helper()
	a := &attacker{t: t, netns: cantest.NewNetns(t)}
	w.run("ip link add docker0 type veth peer name box0", "ip address add 172.17.0.1/16 dev docker0", "ip link set docker0 up")
	w.move(w.netns, "box0", a.netns)
	inside(t, a.netns, "ip link set lo up", "ip address add 172.17.0.2/16 dev box0", "ip link set box0 up", "ip route add default via 172.17.0.1")
	w.run("ip address add 2001:db8:17::1/64 nodad dev docker0", "ip6tables -t nat -A POSTROUTING -s 2001:db8:17::/64 ! -o docker0 -j MASQUERADE")
	inside(t, a.netns, "ip address add 2001:db8:17::2/64 nodad dev box0", "ip route add default via 2001:db8:17::1")
	w.do(func() error { return os.WriteFile("/proc/sys/net/ipv6/conf/all/forwarding", []byte("1"), 0o644) })
	w.set("ip_forward", "1")
	w.set("conf/all/rp_filter", "0")
	w.run("iptables -t nat -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE")
	family := map[bool]int{false: unix.AF_INET, true: unix.AF_INET6}[ipv6]
	err := a.netns.Do(func(ns.NetNS) (err error) {
		a.fd, err = unix.Socket(family, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_GRE)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(a.fd) })
	return a
}

// set sets a parameter of IPv4.
func (w *world) set(file, value string) {
	w.do(func() error { return os.WriteFile("/proc/sys/net/ipv4/"+file, []byte(value), 0o644) })
}

// send sends a frame by its own address, or by one that it forges.
func (a *attacker) send(to, from string, key, id uint32) {
	a.t.Helper()
	a.sendPart(to, from, key, id, cantest.Whole)
}

func (a *attacker) sendPart(to, from string, key, id uint32, part cantest.Part) {
	if from == "" {
		from = "172.17.0.2"
		if strings.Contains(to, ":") {
			from = "2001:db8:17::2"
		}
	}
	cantest.SendGRE(a.t, a.netns, from, to, key, id, part)
}

// hears counts the GRE packets that have come in since the last call.
func (a *attacker) hears() (n int) {
	time.Sleep(200 * time.Millisecond)
	for buf := make([]byte, 2048); ; n++ {
		if _, _, err := unix.Recvfrom(a.fd, buf, 0); err != nil {
			return n
		}
	}
}

// TestSpanAttack: what ordinary containers that are on no bus can do to one of two hosts of three, with and without protection,
// before the first frame of their host and after it. One is on the first host, and one on the third, which is in the list, and
// has neither a bus nor a firewall: what is sent to it, nothing keeps from its containers, as conflist/hosts says.
func TestSpanAttack(t *testing.T) {
	for n := range 8 {
		first, open, ipv6 := n&1 > 0, n&2 == 0, n&4 > 0
		if !open && cantest.LacksTables() || ipv6 && open { // TestHostsGuarded of integration/bus/qemu has these
			continue
		}
		t.Run(fmt.Sprintf("first %v, unprotected %v, IPv6 %v", first, open, ipv6), func(t *testing.T) {
			h := newHosts(t, 3, ipv6)
			h.open = open
			a, b := h.worlds[0], h.worlds[1]
			near, far := newAttacker(t, a, ipv6), newAttacker(t, h.worlds[2], ipv6)
			for _, w := range h.worlds[:2] {
				if err := w.attachRequest(h.request("c0", w.crowd)); err != nil {
					t.Fatal(err)
				}
			}
			onA, onB := cantest.Listen(t, a.crowd, "can-c0"), cantest.Listen(t, b.crowd, "can-c0")
			exchange := func(n uint32) {
				for _, from := range []port{{a.crowd, "can-c0"}, {b.crowd, "can-c0"}} {
					sender := cantest.NewSender(t, from.netns, from.name)
					for i := range n {
						if err := sender.Send(cantest.Frame{ID: 0x100 + i, Data: "honest"}); err != nil {
							t.Error(err)
						}
					}
					sender.Close()
				}
			}
			if !first {
				exchange(5)
			}
			attack := func() {
				near.send(h.names[1], "", 7, 0x601) // by masquerading
				far.send(h.names[0], "", 7, 0x602)
				far.send(h.names[1], "", 7, 0x603)
				for i, loose := range []string{"0", "2"} {
					id := uint32(0x610 + 0x10*i)
					for _, w := range h.worlds {
						w.set("conf/all/rp_filter", loose)
					}
					for _, forged := range h.names[1:] {
						near.send(h.names[0], forged, 7, id+1) // to its own host
					}
					near.send(h.names[1], h.names[0], 7, id+2)
					near.send(h.names[1], h.names[2], 7, id+3)
					far.send(h.names[0], h.names[1], 7, id+4)
					far.send(h.names[0], h.names[2], 7, id+5)
					// Two of them put a packet together: the forged beginning with the whole TTL, and an end that comes by the right device.
					near.sendPart(h.names[0], h.names[2], 7, id+6, cantest.First)
					far.sendPart(h.names[0], "", 7, id+6, cantest.First)
					far.sendPart(h.names[0], "", 7, id+6, cantest.Last)
				}
			}
			attack()
			if !ipv6 { // as an ICMP message makes it that a container sends: packets go without DF
				a.run("ip route add " + h.names[1] + " dev " + uplink + " mtu lock 500")
			}
			exchange(5)
			stolen, elsewhere := near.hears(), far.hears()
			attack()
			cantest.WaitQuiet(0, onA, onB)
			injected, honest := make(map[uint32]int), 0
			for _, l := range []*cantest.Listener{onA, onB} {
				all, _ := l.Heard()
				for f, n := range all {
					if f.Data == "honest" {
						honest += n
					} else {
						injected[f.ID] += n
					}
				}
			}
			want := map[bool]int{false: 20, true: 10}[first]
			t.Logf("injected %x, stolen %d, and %d on the host without a bus, honest frames heard %d of %d", injected, stolen, elsewhere, honest, want)
			if !open && (len(injected)+stolen > 0 || honest != want) {
				t.Errorf("injected %x, stolen %d, honest frames heard %d of %d", injected, stolen, honest, want)
			}
			if open && len(injected) == 0 {
				t.Error("unprotected, nothing is injected: is the attack one?")
			}
			if open && first && stolen == 0 {
				t.Error("unprotected, nothing is stolen: is the attack one?")
			}
			all, err := b.status("vcan0")
			if err != nil || all[0].Unprotected != open || len(all[0].Differences) > 0 || !open && all[0].Trunks[1].Denied == 0 {
				t.Errorf("%+v, %v", all, err)
			}
		})
	}
}

// TestSpanTable: whatever becomes of the table while frames come in, the trunk is closed or as it was, it has words, and the
// next ADD and heal repair it.
func TestSpanTable(t *testing.T) {
	cantest.Require(t)
	if cantest.LacksTables() {
		return // TestSpanRefused has what is said then
	}
	for _, ipv6 := range []bool{false, true} {
		h := newHosts(t, 2, ipv6)
		ports := h.populate(1)
		w := h.worlds[0]
		match := "ip saddr 10.9.0.2 meta l4proto gre ip daddr 10.9.0.1"
		if ipv6 {
			match = "ip6 saddr 2001:db8::2 meta l4proto gre ip6 daddr 2001:db8::1"
		}
		for i, damage := range []struct {
			nft, words string
			open       bool // it takes nothing away
		}{
			{"flush ruleset", "table inet vxcan-vcan0 is missing: frames from other hosts are dropped", false},
			{"delete table inet vxcan-vcan0", "table inet vxcan-vcan0 is missing", false},
			{"flush table inet vxcan-vcan0", "table inet vxcan-vcan0 is not as it must be (nft list table inet vxcan-vcan0)", false},
			{"flush chain inet vxcan-vcan0 prerouting", "is not as it must be", false},
			{"delete chain inet vxcan-vcan0 output", "is not as it must be", true},
			{"add rule inet vxcan-vcan0 prerouting " + match + " meta mark set 0x3163", "is not as it must be", true},
			{"add table inet vxcan-vcan0 { flags dormant; }", "is not as it must be", false},
			{"insert rule inet vxcan-vcan0 prerouting drop", "is not as it must be", false},
			{"delete table inet vxcan-vcan0; add table inet vxcan-vcan0 { set mine { type mark; }; chain theirs { }; }", "is not as it must be", false},
		} {
			stop, done := make(chan bool), make(chan int)
			go func() { // traffic from the other host
				sender := cantest.NewSender(t, ports[3].netns, ports[3].name)
				defer sender.Close()
				for n := 0; ; n++ {
					select {
					case <-stop:
						done <- n
						return
					default:
						_ = sender.Send(cantest.Frame{ID: 0x100, Data: fmt.Sprint(n)})
						time.Sleep(time.Millisecond)
					}
				}
			}()
			w.do(func() error {
				if out, err := exec.Command("nft", damage.nft).CombinedOutput(); err != nil {
					return fmt.Errorf("%s: %w: %s", damage.nft, err, out)
				}
				return nil
			})
			time.Sleep(20 * time.Millisecond) // for what is on its way
			ear := cantest.Listen(t, ports[1].netns, ports[1].name)
			all, err := w.status("vcan0")
			if words := fmt.Sprint(all[0].Differences); err != nil || !strings.Contains(words, damage.words) {
				t.Errorf("%s: %v, %s, want %s", damage.nft, err, words, damage.words)
			}
			time.Sleep(50 * time.Millisecond)
			if heard := ear.Total(); (heard > 0) != damage.open {
				t.Errorf("%s: %d frames from the other host", damage.nft, heard)
			}
			if i%2 == 0 {
				if repaired := w.heal("vcan0"); !slices.Contains(repaired, "set the table") {
					t.Errorf("%s: heal: %q", damage.nft, repaired)
				}
			} else if err := w.attachRequest(h.request("late", w.crowd)); err != nil {
				t.Errorf("%s: ADD: %v", damage.nft, err)
			}
			if again := w.heal("vcan0"); len(again) > 0 {
				t.Errorf("%s: heal again: %q", damage.nft, again)
			}
			before := ear.Total()
			time.Sleep(50 * time.Millisecond)
			close(stop)
			if sent := <-done; ear.Total() == before {
				t.Errorf("%s: repaired, and none of %d frames is heard", damage.nft, sent)
			}
			ear.Close()
			w.expectExactlyOnce(ports...)
		}
		h.expectWhole()
		if !ipv6 { // an address of IPv6 goes with the wire, and then ADD is refused
			h.away(ports)
		}
	}
}

// away: the wire is away while a container starts. The table stays as it is, and when the wire is back, so are the other hosts.
func (h *hosts) away(ports []port) {
	h.t.Helper()
	w := h.worlds[0]
	want := w.inventory().tables
	w.run("ip link set eth0 down")
	if err := w.attachRequest(h.request("away", w.crowd)); err != nil {
		h.t.Errorf("the wire is away: %v", err)
	}
	if got := w.inventory().tables; got != want {
		h.t.Errorf("the wire is away: table\n%s\nwant\n%s", got, want)
	}
	w.run("ip link set eth0 up")
	ear, sender := cantest.Listen(h.t, ports[1].netns, ports[1].name), cantest.NewSender(h.t, ports[3].netns, ports[3].name)
	defer ear.Close()
	defer sender.Close()
	for deadline := time.Now().Add(20 * time.Second); ear.Total() == 0; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			h.t.Fatal("the wire is back, and nothing is heard")
		}
		_ = sender.Send(cantest.Frame{ID: 0x100})
	}
}

// TestSpanLeaves: on a hub of others, nothing of other hosts is left when the last container goes that asks for them, with or
// without a DEL; on one that we made, it stays with the hub, and is repaired.
func TestSpanLeaves(t *testing.T) {
	h := newHosts(t, 2, false)
	w := h.worlds[0]
	w.run("ip link add mine mtu 72 type vcan", "ip link set mine up")
	left := func() string {
		all := w.inventory()
		trunks := slices.ContainsFunc(all.links, func(name string) bool { return strings.HasPrefix(name, "vg") })
		return fmt.Sprint("trunks ", trunks, " table ", strings.Contains(all.tables, "vxcan-"))
	}
	with := func(hub, id string, span config.Span) Request {
		r := request(hub, id, w.crowd)
		r.Hub.Span, r.Hub.Physical = span, hub == "mine"
		return r
	}
	for _, how := range []string{"DEL", "GC", "heal"} {
		asks, silent := with("mine", "asks", h.span()), with("mine", "silent", config.Span{})
		for _, r := range []Request{asks, silent} {
			if err := w.attachRequest(r); err != nil {
				t.Fatal(err)
			}
		}
		if got, want := left(), fmt.Sprint("trunks true table ", !h.open); got != want {
			t.Errorf("%s: %s, want %s", how, got, want)
		}
		w.do(func() error {
			switch how {
			case "DEL":
				return w.host.Detach(context.Background(), "mine", asks.Attachment)
			case "GC":
				return w.host.Collect(context.Background(), func(a config.Attachment, _ bool) bool { return a == asks.Attachment })
			}
			return runLines("ip link del " + asks.HostIf())
		})
		if how == "heal" {
			w.heal("mine")
		}
		if got := left(); got != "trunks false table false" {
			t.Errorf("%s: %s", how, got)
		}
		if all, err := w.status("mine"); err != nil || len(all[0].Differences) > 0 || len(all[0].Trunks) > 0 {
			t.Errorf("%s: %+v, %v", how, all, err)
		}
		w.expectExactlyOnce(port{w.crowd, "can-silent"}, port{w.netns, "mine"})
		w.do(func() error { return w.host.Detach(context.Background(), "mine", silent.Attachment) })
	}
	alone := with("mine", "alone", h.span())
	if err := w.attachRequest(alone); err != nil {
		t.Fatal(err)
	}
	w.run("ip link del " + alone.HostIf())
	if all, err := w.status("mine"); err != nil || len(all) != 1 || len(all[0].Trunks) != 1 {
		t.Errorf("without a container: %+v, %v", all, err)
	}
	if w.heal("mine"); left() != "trunks false table false" {
		t.Errorf("after heal: %s", left())
	}
	if err := w.attachRequest(alone); err != nil {
		t.Fatal(err)
	}
	w.run("ip link del "+alone.HostIf(), "ip link del "+config.TrunkName("mine", netip.MustParseAddr(h.names[1])))
	w.do(func() error { return w.host.Detach(context.Background(), "mine", alone.Attachment) })
	if left() != "trunks false table false" { // the DEL of an ADD that was killed before it made a trunk
		t.Errorf("after DEL: %s", left())
	}
	if !h.open { // as an ADD leaves it that is killed
		w.run("nft add table inet vxcan-mine")
		if done := w.heal("mine"); len(done) == 0 || left() != "trunks false table false" {
			t.Errorf("a table on an empty bus: heal: %q, %s", done, left())
		}
	}
	ours := with("vcan0", "ours", h.span())
	if err := w.attachRequest(ours); err != nil {
		t.Fatal(err)
	}
	w.do(func() error { return w.host.Detach(context.Background(), "vcan0", ours.Attachment) })
	if got, want := left(), fmt.Sprint("trunks true table ", !h.open); got != want {
		t.Errorf("our hub: %s, want %s", got, want)
	}
	if !h.open {
		w.run("nft flush ruleset")
		if done := w.heal("vcan0"); !slices.Contains(done, "set the table") {
			t.Errorf("our hub: heal: %q", done)
		}
	}
	w.do(func() error { return w.host.Remove(context.Background(), "vcan0") })
	if got := left(); got != "trunks false table false" {
		t.Errorf("removed: %s", got)
	}
	if !h.open { // as a call leaves it that is killed
		if err := w.attachRequest(with("vcan0", "silent", config.Span{})); err != nil {
			t.Fatal(err)
		}
		w.run("nft add table inet vxcan-vcan0")
		if done := w.heal("vcan0"); len(done) == 0 || left() != "trunks false table false" {
			t.Errorf("a table alone: heal: %q, %s", done, left())
		}
	}
}

// TestSpanRecordLost: on a hub of others, a container whose record is lost goes on with the other hosts, whatever comes and goes
// beside it, until it goes itself.
func TestSpanRecordLost(t *testing.T) {
	h := newHosts(t, 2, false)
	w, far := h.worlds[0], h.worlds[1]
	w.run("ip link add mine mtu 72 type vcan", "ip link set mine up")
	asks, silent, other := h.request("asks", w.crowd), request("mine", "silent", w.crowd), h.request("other", far.crowd)
	asks.Hub.Name, asks.Hub.Physical, silent.Hub.Physical = "mine", true, true
	if err := errors.Join(w.attachRequest(asks), far.attachRequest(other)); err != nil {
		t.Fatal(err)
	}
	hub, first, second := port{w.netns, "mine"}, port{w.crowd, "can-asks"}, port{far.crowd, "can-other"}
	whole := func(when string, ports ...port) {
		t.Helper()
		all, err := w.status("mine")
		if err != nil || len(all) != 1 || len(all[0].Trunks) != 1 || len(all[0].Differences) > 0 {
			t.Errorf("%s: %+v, %v", when, all, err)
		}
		w.expectExactlyOnce(append(ports, hub, first, second)...)
	}
	w.run("rm -r " + w.host.StateDir)
	whole("record deleted")
	w.heal("mine")
	whole("heal")
	w.run("rm -r " + w.host.StateDir)
	if err := w.attachRequest(silent); err != nil {
		t.Fatal(err)
	}
	whole("ADD of another network", port{w.crowd, "can-silent"})
	w.run("rm -r " + w.host.StateDir)
	collect := func(stale Request) {
		w.do(func() error {
			return w.host.Collect(context.Background(), func(a config.Attachment, _ bool) bool { return a == stale.Attachment })
		})
	}
	collect(silent)
	whole("GC of another network")
	if err := w.attachRequest(silent); err != nil {
		t.Fatal(err)
	}
	gone := func(when string) {
		t.Helper()
		now := w.inventory()
		if strings.Contains(now.tables, "vxcan-") || slices.ContainsFunc(now.links, func(name string) bool { return strings.HasPrefix(name, "vg") }) {
			t.Errorf("%s: %+v", when, now)
		}
	}
	collect(asks)
	gone("GC of the one that asked")
	w.expectExactlyOnce(hub, port{w.crowd, "can-silent"})
	for _, first := range []string{"heal", "DEL"} {
		if err := w.attachRequest(asks); err != nil {
			t.Fatal(err)
		}
		w.run("rm -r " + w.host.StateDir)
		if first == "heal" {
			w.heal("mine")
		}
		detach := func(r Request) {
			w.do(func() error { return w.host.Detach(context.Background(), "mine", r.Attachment) })
		}
		detach(silent)
		whole(first + ", DEL of another network")
		detach(asks)
		gone(first + ", DEL")
	}
}

// TestSpanSpeed shows what a trunk costs beside a bus of one host: the time of a frame and its answer, and frames a second.
func TestSpanSpeed(t *testing.T) {
	if !cantest.IsThorough() {
		t.Skip("shows figures")
	}
	h := newHosts(t, 2, false)
	h.populate(2)
	from := port{h.worlds[0].crowd, "can-c0"}
	for name, to := range map[string]port{"the same host": {h.worlds[0].crowd, "can-c1"}, "the other host": {h.worlds[1].crowd, "can-c0"}} {
		ear, echo := cantest.Listen(t, from.netns, from.name), cantest.Listen(t, to.netns, to.name)
		ask, answer := cantest.NewSender(t, from.netns, from.name), cantest.NewSender(t, to.netns, to.name)
		var times []time.Duration
		for n := range 500 {
			start := time.Now()
			_ = ask.Send(cantest.Frame{ID: 0x100, Data: fmt.Sprint(n)})
			for !echo.Has(cantest.Frame{ID: 0x100, Data: fmt.Sprint(n)}) {
				time.Sleep(0)
			}
			_ = answer.Send(cantest.Frame{ID: 0x101, Data: fmt.Sprint(n)})
			for !ear.Has(cantest.Frame{ID: 0x101, Data: fmt.Sprint(n)}) {
				time.Sleep(0)
			}
			times = append(times, time.Since(start))
		}
		slices.Sort(times)
		ask.Close()
		answer.Close()
		ear.Close()
		echo.Close()
		far := cantest.Listen(t, to.netns, to.name)
		start := time.Now()
		lost, doubled, disordered := flood(t, 20000, []port{from}, false, far)
		took := time.Since(start) - 300*time.Millisecond // of WaitQuiet
		far.Close()
		t.Logf("%s: frame and answer %v (median of 500), 90 %% below %v; %d frames/s, %d lost, %d doubled, %d out of order",
			name, times[250], times[450], int(20000/took.Seconds()), lost, doubled, disordered)
	}
}
