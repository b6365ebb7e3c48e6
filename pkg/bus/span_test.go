package bus

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"

	"github.com/vxcan/vxcan/pkg/cantest"
	"github.com/vxcan/vxcan/pkg/config"
	"github.com/vxcan/vxcan/pkg/plan"
)

// hosts are hosts in one kernel, each with eth0 on one switch.
type hosts struct {
	t      *testing.T
	worlds []*world
	names  []string // addresses
	wire   ns.NetNS // the switch
	open   bool     // unprotected
}

// uplink is the device of each host on the way to the others.
const uplink = "eth0"

func newHosts(t *testing.T, n int, ipv6 bool) *hosts {
	t.Helper()
	cantest.Require(t)
	// Before there is a network namespace: each gets devices of the modules' own, such as gre0.
	if out, err := exec.Command("modprobe", "-a", "ip_gre", "ip6_gre").CombinedOutput(); err != nil {
		t.Fatalf("modprobe: %v: %s", err, out)
	}
	h := &hosts{t: t, wire: cantest.NewNetns(t), open: cantest.LacksTables()}
	h.onWire("ip link add br0 type bridge", "ip link set br0 up")
	for i := range n {
		w := newWorld(t)
		h.worlds = append(h.worlds, w)
		name := fmt.Sprintf("10.9.0.%d", i+1)
		if ipv6 {
			name = fmt.Sprintf("2001:db8::%x", i+1)
		}
		h.names = append(h.names, name)
		port := fmt.Sprint("port", i)
		h.onWire("ip link add " + port + " type veth peer name " + uplink)
		w.move(h.wire, uplink, w.netns)
		h.onWire("ip link set "+port+" master br0", "ip link set "+port+" up")
		length := map[bool]string{false: "/24", true: "/64 nodad"}[ipv6]
		w.run("ip link set lo up", "ip address add "+name+length+" dev "+uplink, "ip link set "+uplink+" up")
	}
	return h
}

// onWire runs commands where the hosts' network is.
func (h *hosts) onWire(lines ...string) {
	h.t.Helper()
	err := h.wire.Do(func(ns.NetNS) error { return runLines(lines...) })
	if err != nil {
		h.t.Fatal(err)
	}
}

func runLines(lines ...string) error {
	for _, line := range lines {
		words := strings.Fields(line)
		if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", line, err, out)
		}
	}
	return nil
}

// span is what each host's network says.
func (h *hosts) span() config.Span {
	return config.Span{Hosts: strings.Join(h.names, ","), BusID: 7, Unprotected: h.open}
}

// request is for a container on vcan0 of a host.
func (h *hosts) request(id string, netns ns.NetNS) Request {
	r := request("vcan0", id, netns)
	r.Hub.Span = h.span()
	return r
}

// attach puts a container on the bus.
func (w *world) attachRequest(r Request) (err error) {
	w.t.Helper()
	w.do(func() error { _, err = w.host.Attach(context.Background(), nil, r); return nil })
	return err
}

// populate puts containers on vcan0 of each host, and returns what is on the bus, with the hubs.
func (h *hosts) populate(containers int) (ports []port) {
	h.t.Helper()
	for _, w := range h.worlds {
		ports = append(ports, port{w.netns, "vcan0"})
		for i := range containers {
			r := h.request(fmt.Sprint("c", i), w.crowd)
			if err := w.attachRequest(r); err != nil {
				h.t.Fatal(err)
			}
			ports = append(ports, port{w.crowd, r.Place.Interface})
		}
	}
	return ports
}

// expectWhole fails the test unless each host's bus is whole.
func (h *hosts) expectWhole() {
	h.t.Helper()
	for i, w := range h.worlds {
		all, err := w.status("vcan0")
		if err != nil || len(all) != 1 || len(all[0].Differences) > 0 {
			h.t.Errorf("host %d: %v, %+v", i, err, all)
		}
	}
}

// TestSpan: nine members on three hosts hear each other once, by IPv4 and by IPv6.
func TestSpan(t *testing.T) {
	for _, ipv6 := range []bool{false, true} {
		t.Run(fmt.Sprint("IPv6 ", ipv6), func(t *testing.T) {
			h := newHosts(t, 3, ipv6)
			ports := h.populate(2)
			h.worlds[0].expectExactlyOnce(ports...)
			h.expectWhole()
			for _, w := range h.worlds { // the same again changes nothing
				w.notices = nil
				before := w.inventory()
				if err := w.attachRequest(h.request("c0", w.crowd)); err != nil || !before.equal(w.inventory()) || len(w.notices) > 0 {
					t.Errorf("again: %v, %q; before %+v, after %+v", err, w.notices, before, w.inventory())
				}
				for _, name := range h.names {
					a := netip.MustParseAddr(name)
					l, err := netlinkLink(w, config.TrunkName("vcan0", a))
					if isPeer := name != h.names[0]; w == h.worlds[0] && (err == nil) != isPeer {
						t.Errorf("trunk to %s: %v, %v", name, l, err)
					}
				}
			}
		})
	}
}

func netlinkLink(w *world, name string) (l netlink.Link, err error) {
	w.do(func() error { l, err = netlink.LinkByName(name); return nil })
	return l, err
}

// inside runs commands in a container's netns.
func inside(t *testing.T, netns ns.NetNS, lines ...string) {
	t.Helper()
	if err := netns.Do(func(ns.NetNS) error { return runLines(lines...) }); err != nil {
		t.Fatal(err)
	}
}

// TestSpanErrorFrames: error frames of a controller on one host reach the containers and the programs of all hosts, once, and
// no other wire. Containers elsewhere reach its wire.
func TestSpanErrorFrames(t *testing.T) {
	h := newHosts(t, 3, false)
	var wires []*cantest.Controller
	for _, w := range h.worlds[:2] {
		wires = append(wires, cantest.NewController(t, "slot0"))
		l, err := netlink.LinkByName("slot0")
		if err == nil {
			err = netlink.LinkSetNsFd(l, int(w.netns.Fd()))
		}
		if err != nil {
			t.Fatal(err)
		}
		w.run("ip link set slot0 txqueuelen 1000 up type can bitrate 500000")
	}
	var ears []*cantest.Listener
	var ports []port
	for i, w := range h.worlds {
		r := h.request("c0", w.crowd)
		if i < len(wires) {
			r.Hub.Name, r.Hub.Physical = "slot0", true
		}
		if err := w.attachRequest(r); err != nil {
			t.Fatal(err)
		}
		ears = append(ears, cantest.ListenErrors(t, w.crowd, "can-c0"))
		ports = append(ports, port{w.crowd, "can-c0"})
	}
	ears = append(ears, cantest.ListenErrors(t, h.worlds[2].netns, "vcan0"))
	wire := wires[1].Listen()
	if err := wires[0].WriteRaw("e1a\r"); err != nil { // an ACK error
		t.Fatal(err)
	}
	cantest.WaitQuiet(len(ears), ears...)
	for i, l := range ears {
		if got := l.InOrder(); len(got) != 1 {
			t.Errorf("listener %d hears %v, want one error frame", i, got)
		}
		l.Close()
	}
	if got := wire.InOrder(); len(got) > 0 {
		t.Errorf("the other wire gets %v", got)
	}
	listeners := []*cantest.Listener{wires[0].Listen(), wires[1].Listen(), cantest.Listen(t, h.worlds[1].crowd, "can-c0")}
	sender := cantest.NewSender(t, ports[2].netns, ports[2].name)
	want := cantest.Frame{ID: 0x123, Data: "far"}
	if err := sender.Send(want); err != nil {
		t.Fatal(err)
	}
	cantest.WaitQuiet(len(listeners), listeners...)
	for i, l := range listeners {
		if got := l.InOrder(); len(got) != 1 || got[0] != want {
			t.Errorf("wire or container %d hears %v", i, got)
		}
	}
}

// TestSpanRefused: what cannot be is refused by name, and changes nothing.
func TestSpanRefused(t *testing.T) {
	h := newHosts(t, 1, false)
	w := h.worlds[0]
	empty := w.inventory()
	if err := w.attachRequest(request("vcan5", "plain", w.crowd)); err != nil {
		t.Fatal(err)
	}
	with := func(hosts string, id uint32) Request {
		r := request("vcan0", "box", w.crowd)
		r.Hub.Span = config.Span{Hosts: hosts, BusID: id, Unprotected: h.open}
		return r
	}
	for want, change := range map[string]func(r *Request){
		"hub vcan0: none of hosts 10.9.0.2, 10.9.0.3 is an address of this host: add it":                                        func(r *Request) { r.Hub.Span.Hosts = "10.9.0.2,10.9.0.3" },
		"hub vcan0: of hosts 10.9.0.1, 10.9.1.1, both 10.9.0.1 and 10.9.1.1 are addresses of this host: leave one of them out":  func(r *Request) { r.Hub.Span.Hosts = "10.9.0.1,10.9.1.1" },
		"hub vcan0: device mine of another program has a GRE tunnel to 10.9.0.2 with key 9":                                     func(r *Request) { r.Hub.Span.BusID = 9 },
		config.TrunkName("vcan0", netip.MustParseAddr("10.9.0.4")) + " is the name of another program's device, and the trunk ": func(r *Request) { r.Hub.Span.Hosts = "10.9.0.1,10.9.0.4" },
		"hub vcan0: host 192.0.2.1 is behind a router, so that its packets cannot be told from those that a host forwards for its containers: use WireGuard": func(r *Request) {
			r.Hub.Span.Hosts, r.Hub.Span.Unprotected = "10.9.0.1,192.0.2.1", false
		},
		"module nf_tables (CONFIG_NF_TABLES_INET) is missing, which the key hosts (but for unprotected) needs": func(r *Request) { r.Hub.Span.Unprotected = false },
	} {
		if strings.HasPrefix(want, "module") && !cantest.LacksTables() {
			continue
		}
		w.run("ip route replace 192.0.2.0/24 via 10.9.0.9", "ip address replace 10.9.1.1/24 dev eth0", "ip link add mine type gre local 10.9.0.1 remote 10.9.0.2 key 9")
		w.run("ip link add " + config.TrunkName("vcan0", netip.MustParseAddr("10.9.0.4")) + " type vcan")
		r := with("10.9.0.1,10.9.0.2", 7)
		change(&r)
		before := w.inventory()
		if err := w.attachRequest(r); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
		if after := w.inventory(); !before.equal(after) {
			t.Errorf("%s: before %+v, after %+v", want, before, after)
		}
		w.run("ip link del mine", "ip link del "+config.TrunkName("vcan0", netip.MustParseAddr("10.9.0.4")))
	}
	if err := w.attachRequest(with("10.9.0.1,10.9.0.2", 7)); err != nil {
		t.Fatal(err)
	}
	refused := func(r Request, id, want string) {
		t.Helper()
		r.ContainerID, r.Place.Interface = id, "can-"+id
		before := w.inventory()
		if err := w.attachRequest(r); !errors.Is(err, config.ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
		if after := w.inventory(); !before.equal(after) {
			t.Errorf("%s: before %+v, after %+v", want, before, after)
		}
	}
	refused(with("10.9.0.1,10.9.0.3", 7), "list", "hub vcan0: containers that are there have "+with("10.9.0.1,10.9.0.2", 7).Hub.Span.String()+", this network has "+with("10.9.0.1,10.9.0.3", 7).Hub.Span.String()+": use the same")
	changed := with("10.9.0.1,10.9.0.2", 7)
	changed.Hub.Span.Unprotected = !h.open
	refused(changed, "open", "hub vcan0: containers that are there have hosts 10.9.0.1,10.9.0.2, bus-id 7")
	refused(with("10.9.0.1,10.9.0.2", 8), "number", "this network has hosts 10.9.0.1,10.9.0.2, bus-id 8")
	other := with("10.9.0.1,10.9.0.3", 7)
	other.Hub.Name = "vcan1"
	refused(other, "hub", "hub vcan1: bus-id 7 is that of hub vcan0")
	for _, id := range []string{"silent", "same"} { // a network without hosts, and one with the same
		r := with("10.9.0.1,10.9.0.2", 7)
		if id == "silent" {
			r.Hub.Span = config.Span{}
		}
		r.ContainerID, r.Place.Interface = id, "can-"+id
		if err := w.attachRequest(r); err != nil {
			t.Errorf("%s: %v", id, err)
		}
	}
	// The only container that asks for hosts may ask for others, at its next ADD.
	w.do(func() error {
		r := with("", 0)
		r.ContainerID = "same"
		return w.host.Detach(context.Background(), "vcan0", r.Attachment)
	})
	if err := w.attachRequest(with("10.9.0.1,10.9.0.3,10.9.0.4", 11)); err != nil {
		t.Fatal(err)
	}
	all, err := w.status("vcan0")
	if err != nil || len(all[0].Trunks) != 2 || all[0].Trunks[0].Peer != "10.9.0.3" || len(all[0].Differences) > 0 || all[0].Unprotected != h.open {
		t.Errorf("%+v, %v", all, err)
	}
	w.do(func() error { // and all goes with the hub
		return w.host.Collect(context.Background(), func(a config.Attachment, _ bool) bool { return true })
	})
	if all, err = w.status("vcan0"); err != nil || len(all[0].Trunks) != 2 {
		t.Errorf("without a container: %+v, %v", all, err)
	}
	w.do(func() error {
		return errors.Join(w.host.Remove(context.Background(), "vcan0"), w.host.Remove(context.Background(), "vcan5"))
	})
	if left := w.inventory(); !slices.Equal(left.links, empty.links) || len(left.filters)+len(left.rules)+len(left.files) > 0 {
		t.Errorf("left: %+v", left)
	}
}

// TestSpanDamage: each damage to trunks has words, and heal and the next ADD repair it.
func TestSpanDamage(t *testing.T) {
	h := newHosts(t, 2, false)
	ports := h.populate(1)
	w := h.worlds[0]
	trunk := config.TrunkName("vcan0", netip.MustParseAddr(h.names[1]))
	for i, damage := range []struct {
		words string
		lines []string
	}{
		{"trunk to 10.9.0.2 is missing", []string{"ip link del TRUNK"}},
		{"trunk to 10.9.0.2 is down", []string{"ip link set TRUNK down"}},
		{"trunk TRUNK to 10.9.0.2 is not as it was made", []string{"ip link set TRUNK type gre local 10.9.0.1 remote 10.9.0.2 key 8 ttl 255"}},
		{"trunk TRUNK to 10.9.0.2 is not as it was made", []string{"ip link set TRUNK type gre local 10.9.0.1 remote 10.9.0.2 key 7 ttl 64"}},
		{"trunk TRUNK to 10.9.0.2 is not as it was made", []string{"ip link set TRUNK type gre local 10.9.0.1 remote 10.9.0.2 key 7 ttl 255 iseq"}},
		{"trunk to 10.9.0.2 is named tt, not TRUNK", []string{"ip link set TRUNK down", "ip link set TRUNK name tt up"}},
		{"filter of TRUNK (tc filter show dev TRUNK): ingress pref 1 is missing", []string{"tc filter del dev TRUNK ingress pref 1"}},
		{"egress pref 1 is missing or another one, ingress pref 2 is missing or another one, ingress pref 1 is missing", []string{"tc qdisc del dev TRUNK clsact"}},
		{"filter of vcan0-rx (tc filter show dev vcan0-rx): ingress pref 1 is missing", []string{"tc filter del dev vcan0-rx ingress pref 1"}},
		{"hub vcan0 is missing", []string{"ip link del vcan0"}},
		{"backplane vcan0-tx, vcan0-rx is missing", []string{"ip link del vcan0-tx"}},
		{"gateway rules are missing", []string{"cangw -F"}},
		{"trunk TRUNK to 10.9.0.2 is not as it was made", []string{"ip link set TRUNK type gre local 10.9.0.1 remote 10.9.0.2 key 7 ttl 255 dev eth0"}},
		{"trunk to 10.9.0.9 is not wanted", []string{"ip link add OTHER type gre local 10.9.0.1 remote 10.9.0.9 key 7 ttl 255", "ip link set OTHER alias ALIAS up"}},
	} {
		peer := netip.MustParseAddr("10.9.0.9")
		replace := strings.NewReplacer("TRUNK", trunk, "OTHER", config.TrunkName("vcan0", peer))
		w.do(func() error {
			for _, line := range damage.lines {
				words := strings.Fields(replace.Replace(line))
				for i, word := range words {
					if word == "ALIAS" {
						words[i] = "vxcan vcan0 trunk 10.9.0.9"
					}
				}
				if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil && words[0] != "cangw" {
					return fmt.Errorf("%s: %w: %s", line, err, out)
				}
			}
			return nil
		})
		all, err := w.status("vcan0")
		if len(all) == 0 {
			t.Fatalf("%q: %v", damage.lines, err)
		}
		if words := fmt.Sprint(all[0].Differences); err != nil || !strings.Contains(words, replace.Replace(damage.words)) {
			t.Errorf("%q: %v, %s, want %s", damage.lines, err, words, replace.Replace(damage.words))
		}
		if i%2 == 0 {
			if done := w.heal("vcan0"); len(done) == 0 {
				t.Errorf("%q: heal: %q", damage.lines, done)
			}
		} else if err := w.attachRequest(h.request("late", w.crowd)); err != nil {
			t.Errorf("%q: ADD: %v", damage.lines, err)
		}
		if again := w.heal("vcan0"); len(again) > 0 {
			t.Errorf("%q: heal again: %q", damage.lines, again)
		}
		w.expectExactlyOnce(ports...)
	}
	w.run("rm -r " + w.host.StateDir) // without the record, what is there stays, and is repaired
	w.do(func() error { return runLines("ip link set " + trunk + " down") })
	if !h.open {
		w.run("nft flush ruleset")
	}
	w.heal("vcan0")
	w.expectExactlyOnce(ports...)
	h.expectWhole()
}

// TestSpanNodes: nodes of a cluster come and go. Each host follows with the next container that starts there, and those that are
// there go on.
func TestSpanNodes(t *testing.T) {
	h := newHosts(t, 3, false)
	nodes := func(r Request, names ...string) Request {
		r.Hub.Span = config.Span{Hosts: strings.Join(names, ","), BusID: 7, Nodes: true, Unprotected: h.open}
		return r
	}
	all, two := h.names, h.names[:2]
	start := func(host int, id string, names ...string) port {
		t.Helper()
		r := nodes(h.request(id, h.worlds[host].crowd), names...)
		if err := h.worlds[host].attachRequest(r); err != nil {
			t.Fatal(err)
		}
		return port{h.worlds[host].crowd, r.Place.Interface}
	}
	trunks := func(host int, want int) {
		t.Helper()
		w := h.worlds[host]
		all, err := w.status("vcan0")
		if err != nil || len(all[0].Differences) > 0 || len(all[0].Trunks) != want {
			t.Errorf("host %d: %+v, %v, want %d trunks", host, all, err, want)
		}
		if done := w.heal("vcan0"); len(done) > 0 {
			t.Errorf("host %d: heal: %q", host, done)
		}
	}
	alone := start(0, "alone", h.names[0])
	trunks(0, 0)
	first, second := start(0, "first", two...), start(1, "second", two...)
	h.worlds[0].expectExactlyOnce(alone, first, second)
	w := h.worlds[0]
	third := start(2, "third", all...)
	later := start(0, "later", all...)
	trunks(0, 2)
	for _, names := range [][]string{h.names[:1], two, all} { // CHECK of each has the list that it was started with
		w.do(func() error {
			return w.host.Check(context.Background(), nodes(h.request("first", w.crowd), names...), []string{first.name})
		})
	}
	h.worlds[0].expectExactlyOnce(alone, later, third)
	h.worlds[0].expectExactlyOnce(alone, first, second)
	last := start(1, "last", all...)
	h.worlds[0].expectExactlyOnce(alone, first, later, second, last, third)
	static := h.request("static", w.crowd)
	static.Hub.Span.Hosts += ",10.9.0.9"
	if err := w.attachRequest(static); !errors.Is(err, config.ErrInvalid) || !strings.Contains(err.Error(), "containers that are there have nodes, now hosts 10.9.0.1,10.9.0.2,10.9.0.3") {
		t.Errorf("a list of its own: %v", err)
	}
	if err := w.attachRequest(nodes(h.request("lost", w.crowd))); !errors.Is(err, plan.ErrNotReady) || !strings.Contains(err.Error(), "vxcan-install") {
		t.Errorf("no nodes: %v", err)
	}
	if err := w.attachRequest(nodes(h.request("stray", w.crowd), h.names[1:]...)); !errors.Is(err, plan.ErrNotReady) {
		t.Errorf("without this node: %v", err)
	}
	trunks(0, 2)
	start(0, "late", two...) // the third node has gone
	trunks(0, 1)
	if !h.open {
		w.run("ip route add 192.0.2.0/24 via 10.9.0.2")
		start(0, "routed", h.names[0], h.names[1], "192.0.2.1")
		trunks(0, 1)
		if all, _ := w.status("vcan0"); !slices.Equal(all[0].Outside, []string{"192.0.2.1"}) {
			t.Errorf("behind a router: %+v", all)
		}
	}
	h.worlds[0].expectExactlyOnce(alone, first, later, second, last)
}

// TestSpanFails lets every message to the kernel fail in turn, while a container that asks for other hosts is attached to a bus
// that is new, in use, or in use with other hosts. All must be as before.
func TestSpanFails(t *testing.T) {
	if testing.Short() {
		t.Skip("many failures of our own, which depend on no kernel")
	}
	for i, before := range []string{"nothing", "a neighbour", "a neighbour with hosts", "the same with other hosts", "a neighbour with other nodes"} {
		n, step := cantest.Steps(before)
		for failed := true; failed; n += step {
			h := newHosts(t, 1, false)
			h.names = append(h.names, "10.9.0.2", "10.9.0.3")
			w := h.worlds[0]
			neighbour, box := request("vcan0", "neighbour", w.crowd), h.request("box", w.crowd)
			switch before {
			case "a neighbour with hosts":
				neighbour.Hub.Span = h.span()
			case "the same with other hosts":
				neighbour = box
				neighbour.Hub.Span.Hosts = "10.9.0.1,10.9.0.4"
			case "a neighbour with other nodes":
				box.Hub.Span.Nodes = true
				neighbour.Hub.Span = box.Hub.Span
				neighbour.Hub.Span.Hosts = "10.9.0.1,10.9.0.4"
			}
			if before != "nothing" {
				if err := w.attachRequest(neighbour); err != nil {
					t.Fatal(err)
				}
			}
			was := w.inventory()
			f := fault{n: n, done: []float64{0, 0.5, 1}[(n+i)%3]}
			w.host.tap(f.step)
			err := w.attachRequest(box)
			w.unhook()
			if f.called == "table" && h.open { // which it does without
				if err != nil {
					t.Errorf("before: %s, a table that cannot be read: %v", before, err)
				}
				continue
			}
			if failed = f.called != ""; failed != (err != nil && strings.Contains(err.Error(), errInjected.Error())) { // a table that cannot be read has words alone
				t.Errorf("before: %s, %g of message %d (%s): %v", before, f.done, n, f.called, err)
			}
			now := w.inventory()
			if strings.Contains(before, "with other") { // a trunk that was replaced has another ifindex
				was.filters, now.filters = nil, nil
			}
			if failed && !was.equal(now) {
				t.Errorf("before: %s, %g of message %d (%s): before %+v, after %+v", before, f.done, n, f.called, was, now)
			}
			if before != "nothing" {
				all, err := w.status("vcan0")
				if err != nil || len(all[0].Differences) > 0 {
					t.Errorf("before: %s, %g of message %d (%s): %+v, %v", before, f.done, n, f.called, all, err)
				}
			}
			if n > 100 {
				t.Fatal("no end of messages")
			}
		}
	}
}

// TestSpanRootless: a bus in a user namespace spans no other hosts, and says so.
func TestSpanRootless(t *testing.T) {
	if !cantest.IsRootless() {
		t.Skip("is run in a user namespace by TestRootless")
	}
	w := newWorld(t)
	r := request("vcan0", "box", w.crowd)
	r.Hub.Span = config.Span{Hosts: "10.9.0.1,10.9.0.2", BusID: 7}
	before := w.inventory()
	if err := w.attachRequest(r); !errors.Is(err, config.ErrInvalid) || !strings.Contains(err.Error(), "hub vcan0: a bus in a user namespace spans no other hosts (hosts): have root make it, and lend it") {
		t.Error(err)
	}
	if after := w.inventory(); !before.equal(after) {
		t.Errorf("before %+v, after %+v", before, after)
	}
}
