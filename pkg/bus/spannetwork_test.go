package bus

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
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
			var err error
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
		"1 Mbit/s":                {do: []string{"tc qdisc replace dev eth0 root tbf rate 1mbit burst 2000 limit 4000"}, undo: []string{"tc qdisc del dev eth0 root"}, loses: true, told: true},
		"5 % loss":                {do: []string{"tc qdisc replace dev eth0 root netem loss 5%"}, undo: []string{"tc qdisc del dev eth0 root"}, loses: true},
		"delay and another order": {do: []string{"tc qdisc replace dev eth0 root netem delay 5ms reorder 25%"}, undo: []string{"tc qdisc del dev eth0 root"}},
		"device down":             {do: []string{"ip link set eth0 down"}, undo: []string{"ip link set eth0 up"}, loses: true, told: true},
		"no address":              {do: []string{"ip address flush dev eth0"}, undo: []string{"ip address add 10.9.0.1/24 dev eth0"}, loses: true, told: true},
	} {
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
			r.Hub.Span = config.Span{Hosts: lists[(i+j)%3], BusID: uint32(7 + j), Unprotected: true}
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

func newAttacker(t *testing.T, w *world, masquerade bool) *attacker {
	t.Helper()
	a := &attacker{t: t, netns: cantest.NewNetns(t)}
	w.run("ip link add docker0 type veth peer name box0", "ip address add 172.17.0.1/16 dev docker0", "ip link set docker0 up")
	w.move(w.netns, "box0", a.netns)
	inside(t, a.netns, "ip link set lo up", "ip address add 172.17.0.2/16 dev box0", "ip link set box0 up", "ip route add default via 172.17.0.1")
	for file, value := range map[string]string{"ip_forward": "1", "conf/all/rp_filter": "0", "conf/docker0/rp_filter": "2"} {
		w.do(func() error { return os.WriteFile("/proc/sys/net/ipv4/"+file, []byte(value), 0o644) })
	}
	if masquerade {
		w.run("iptables -t nat -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE")
	}
	err := a.netns.Do(func(ns.NetNS) (err error) {
		a.fd, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_GRE)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(a.fd) })
	return a
}

// send sends a CAN frame in GRE with a key, from its own address, or from one that it forges.
func (a *attacker) send(to, from string, key, id uint32) {
	a.t.Helper()
	packet := []byte{0x20, 0, 0, unix.ETH_P_CAN}
	packet = binary.BigEndian.AppendUint32(packet, key)
	frame := binary.NativeEndian.AppendUint32(nil, id)
	packet = append(append(packet, frame...), 8, 0, 0, 0, 'i', 'n', 'j', 'e', 'c', 't', 'e', 'd')
	fd := a.fd
	if from != "" {
		err := a.netns.Do(func(ns.NetNS) (err error) {
			fd, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
			return err
		})
		if err != nil {
			a.t.Fatal(err)
		}
		defer unix.Close(fd)
		head := []byte{0x45, 0, 0, byte(20 + len(packet)), 0, 1, 0x40, 0, 64, unix.IPPROTO_GRE, 0, 0}
		head = append(append(head, netip.MustParseAddr(from).AsSlice()...), netip.MustParseAddr(to).AsSlice()...)
		packet = append(head, packet...)
	}
	if err := unix.Sendto(fd, packet, 0, &unix.SockaddrInet4{Addr: netip.MustParseAddr(to).As4()}); err != nil {
		a.t.Fatal(err)
	}
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

// TestSpanAttack: what an ordinary container that is on no bus can do without the firewall rules, and with them, before the first
// frame of its host and after it. The rules are those that ADD names.
func TestSpanAttack(t *testing.T) {
	for _, first := range []bool{false, true} {
		for _, protected := range []bool{false, true} {
			t.Run(fmt.Sprintf("first %v, protected %v", first, protected), func(t *testing.T) {
				h := newHosts(t, 2, false)
				a, b := h.worlds[0], h.worlds[1]
				evil := newAttacker(t, a, true)
				attach := func() {
					t.Helper()
					for _, w := range h.worlds {
						r := h.request("c0", w.crowd)
						r.Hub.Span.Unprotected = !protected
						err := w.attachRequest(r)
						for protected && err != nil {
							_, cure, found := strings.Cut(err.Error(), "(conflist/hosts): ")
							if !found {
								t.Fatal(err)
							}
							w.run(strings.Split(cure, "; ")...)
							if err = w.attachRequest(r); err != nil {
								t.Fatal(err)
							}
						}
						if err != nil {
							t.Fatal(err)
						}
					}
				}
				attach()
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
				evil.send(h.names[1], "", 7, 0x666)         // to the other host, by masquerading
				evil.send(h.names[0], h.names[1], 7, 0x667) // to its own host, from the other one's address
				exchange(5)
				stolen := evil.hears()
				cantest.WaitQuiet(0, onA, onB)
				injected := 0
				honest := 0
				for _, l := range []*cantest.Listener{onA, onB} {
					for f, n := range mustHear(l) {
						if f.Data == "honest" {
							honest += n
						} else {
							injected += n
						}
					}
				}
				want := map[bool]int{false: 20, true: 10}[first]
				t.Logf("injected %d, stolen %d, honest frames heard %d of %d", injected, stolen, honest, want)
				if protected && (injected+stolen > 0 || honest != want) {
					t.Errorf("injected %d, stolen %d, honest frames heard %d of %d", injected, stolen, honest, want)
				}
				if !protected && injected == 0 {
					t.Error("without the rules nothing is injected: is the attack one?")
				}
				if !protected && first && stolen == 0 {
					t.Error("without the rules nothing is stolen: is the attack one?")
				}
				if all, err := a.status("vcan0"); err != nil || all[0].Unprotected == protected {
					t.Errorf("%+v, %v", all, err)
				}
			})
		}
	}
}

func mustHear(l *cantest.Listener) map[cantest.Frame]int { foreign, _ := l.Heard(); return foreign }

// TestSpanFirewallGoes: without the rules, trunks that are there stay, and CHECK, status and the next ADD name them.
func TestSpanFirewallGoes(t *testing.T) {
	h := newHosts(t, 2, false)
	ports := h.populate(1) // unprotected
	w := h.worlds[0]
	r := h.request("late", w.crowd)
	r.Hub.Span.Unprotected = false
	err := w.attachRequest(r)
	const rules = "iptables -t raw -A PREROUTING -p gre ! -i eth0 -j DROP; iptables -t raw -A PREROUTING -p gre -j CT --notrack; iptables -t raw -A OUTPUT -p gre -j CT --notrack"
	if err == nil || !strings.HasSuffix(err.Error(), rules) {
		t.Fatalf("%v, want %s", err, rules)
	}
	for _, line := range strings.Split(rules, "; ") { // all of them are needed
		if err := w.attachRequest(r); err == nil {
			t.Errorf("before %s: no error", line)
		}
		w.run(line)
	}
	if err := w.attachRequest(r); err != nil {
		t.Fatal(err)
	}
	for _, more := range []string{"-i docker0 -j ACCEPT", "-j RETURN", "-s 192.0.2.1 -j ACCEPT"} { // a hole before them
		w.run("iptables -t raw -I PREROUTING " + more)
		err = w.attachRequest(r)
		if hole := !strings.HasPrefix(more, "-i docker0"); hole != (err != nil) {
			t.Errorf("%s: %v", more, err)
		}
		w.run("iptables -t raw -D PREROUTING " + more)
	}
	w.run("ip link add docker0 type bridge", "iptables -t raw -I PREROUTING -i docker0 -j ACCEPT")
	if err = w.attachRequest(r); err == nil {
		t.Error("a device whose packets are accepted: no error")
	}
	w.run("iptables -t raw -F")
	w.do(func() error {
		if err := w.host.Check(context.Background(), r, []string{"can-late"}); err == nil || !strings.Contains(err.Error(), rules) {
			t.Errorf("CHECK: %v", err)
		}
		return nil
	})
	w.expectExactlyOnce(ports...)
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
