package plan

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/canlink"
	"github.com/vxcan/vxcan/pkg/cantc"
	"github.com/vxcan/vxcan/pkg/config"
	"github.com/vxcan/vxcan/pkg/underlay"
)

// A bus that spans several hosts has a trunk to each other host, a GRE tunnel. A trunk is one more member: what comes by it is
// marked with its ifindex and goes to the backplane. Filters give it its frames, because the gateway sends to CAN devices only:
// one at the end rx of the backplane copies to all trunks what has not come by one. So a frame crosses one trunk at most, and
// each host reaches all others directly. Gateway rules bring every frame to the members of this host, wherever it comes from.
//
// `mirred ingress` must never hand a frame that has come out of a tunnel to a CAN device: can_can_gw_rcv of net/can/gw.c stops the
// kernel where ip_summed is not what CAN drivers set. On egress, vxcan sets it.

// trunkTTL is the hop limit of outer packets.
const trunkTTL = 255

// Bytes that a tunnel with a key adds to a frame: an IPv4 header and a GRE header. IPv6 carries any frame, see RFC 8200.
const trunkOverhead = 20 + 8

// Trunk is a trunk to be made.
type Trunk struct {
	Name, Alias string
	canlink.Tunnel
	// ForOthers reports that endpoints that are there want it, and not only the one that is being attached.
	ForOthers bool
}

// spanOf is the hosts that endpoints ask for, but for the one that is being attached.
func spanOf(endpoints []Endpoint, attaching string) config.Span {
	for i := range endpoints {
		if e := &endpoints[i]; e.Hub.Span.Hosts != "" && e.Host.Name != attaching {
			return e.Hub.Span
		}
	}
	return config.Span{}
}

// span is the hosts that the bus must span. Where nobody asks for any, the trunks that are there stay as they are.
func (w Want) span() config.Span {
	if w.Hub.Span.Hosts != "" {
		return w.Hub.Span
	}
	return w.othersSpan
}

// Spans reports whether somebody on the bus wants it to span several hosts.
func (w Want) Spans() bool { return w.span().Hosts != "" }

// trunksOf returns the trunks of a bus that are there, in the order of their peers.
func (v View) trunksOf(hub string) (all []canlink.Link) {
	for _, l := range v.Links {
		if of, _, ok := ParseTrunk(l); ok && of == hub {
			all = append(all, l)
		}
	}
	slices.SortFunc(all, func(a, b canlink.Link) int { return a.Tunnel.Remote.Compare(b.Tunnel.Remote) })
	return all
}

// HasTrunks reports whether a bus has a trunk.
func (v View) HasTrunks(hub string) bool { return len(v.trunksOf(hub)) > 0 }

// Peer is another host that a bus spans, and the trunk to it.
type Peer struct {
	Address netip.Addr
	Device  canlink.Link // the zero Link if the trunk is missing
}

// Peers are the other hosts of a bus: those that are asked for, and those that there are trunks to.
func (w Want) Peers(v View) (all []Peer) {
	own := slices.Clone(v.Underlay.Addresses)
	for _, l := range v.trunksOf(w.Hub.Name) { // an address may go
		own = append(own, l.Tunnel.Local)
	}
	for _, a := range w.span().Addresses() {
		if !slices.Contains(own, a) {
			all = append(all, Peer{Address: a})
		}
	}
	for _, l := range v.trunksOf(w.Hub.Name) {
		_, peer, _ := ParseTrunk(l)
		if i := slices.IndexFunc(all, func(p Peer) bool { return p.Address == peer }); i >= 0 {
			all[i].Device = l
		} else {
			all = append(all, Peer{peer, l})
		}
	}
	return all
}

// trunksThere are the ifindexes of the trunks of the bus.
func (w Want) trunksThere(v View) (all []uint32) {
	for _, l := range v.trunksOf(w.Hub.Name) {
		all = append(all, uint32(l.Index))
	}
	return all
}

// TrunkHooks is where the filters of trunks are: at the backplane's end rx, and at each trunk.
func (v View) TrunkHooks(hub string) (all []cantc.Hook) {
	_, rx := config.BackplaneNames(hub)
	if index := v.Link(rx).Index; index != 0 {
		all = append(all, spreadHook(uint32(index)))
	}
	for _, l := range v.trunksOf(hub) {
		all = append(all, Hooks(l.Index, true)...)
	}
	return all
}

// spreadHook is where the filter is that copies frames to trunks.
func spreadHook(rx uint32) cantc.Hook { return hooks(int(rx), FirstPrio)[0] }

// trunkFilters are the filters that connect trunks. The one at rx is the first: it must know a trunk as such before a frame comes
// by it.
func trunkFilters(common backplane) (all []cantc.Filter) {
	if len(common.trunks) == 0 || common.copies {
		return nil
	}
	spread := cantc.Filter{Hook: spreadHook(common.rx), Program: notMarked(common.trunks)}
	for i, dev := range common.trunks {
		if i < len(common.trunks)-1 {
			spread.Actions = append(spread.Actions, cantc.Mirror(int(dev)))
		} else {
			spread.Actions = append(spread.Actions, cantc.Copy(int(dev)))
		}
	}
	all = append(all, spread)
	for _, dev := range common.trunks {
		first, second := hooks(int(dev), FirstPrio), hooks(int(dev), SecondPrio)
		all = append(all,
			// Outside, marks mean something else: those of firewalls and of policy routing.
			cantc.Filter{Hook: first[1], Program: anyFrame, Actions: []cantc.Action{cantc.MarkOnly(0)}},
			// What is no CAN frame must not get to the IP stack of this host.
			cantc.Filter{Hook: second[0], Program: anyFrame, Actions: []cantc.Action{cantc.Drop()}},
			cantc.Filter{Hook: first[0], Program: ofProtocol(true), Actions: []cantc.Action{cantc.Mark(dev), cantc.Forward(int(common.tx))}})
	}
	return all
}

// notMarked matches frames with none of some marks.
func notMarked(marks []uint32) []unix.SockFilter {
	program := []unix.SockFilter{{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: skfADOff + skfADMark}}
	for i, mark := range marks {
		program = append(program, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: uint8(len(marks) - i), K: mark})
	}
	return append(program, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0xffffffff}, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K})
}

// diffTrunkFilters compares the filters of the trunks that are there, and finds what is left of others.
func diffTrunkFilters(common backplane, v View, all *differences) {
	wanted := trunkFilters(common)
	for _, dev := range append([]uint32{common.rx}, common.trunks...) {
		var wrong Wiring
		where := Hooks(int(dev), true)
		if dev == common.rx {
			where = []cantc.Hook{spreadHook(dev)}
		}
		for _, f := range wanted {
			held := func(e cantc.Entry) bool {
				return e.Dev == f.Dev && e.Dir == f.Dir && e.Prio == f.Prio && e.Holds()
			}
			if f.Dev == int(dev) && !f.Equal(v.Filters[f.Hook].Filter) && !slices.ContainsFunc(v.Entries, held) {
				wrong.SetFilters = append(wrong.SetFilters, f)
			}
		}
		for _, h := range where {
			there, ok := v.Filters[h]
			isWanted := func(f cantc.Filter) bool { return f.Hook == h }
			if ok && there.Kind == cantc.Kind && !common.copies && !slices.ContainsFunc(wanted, isWanted) {
				wrong.DeleteFilters = append(wrong.DeleteFilters, h)
			}
		}
		if !wrong.Empty() {
			all.add(FilterWrong, Change{Wiring: wrong}, "%s", describeFilters(wrong, int(dev), v))
		}
	}
}

// diffSpan compares the trunks of a bus that spans several hosts.
func (w Want) diffSpan(v View, all *differences) {
	name, span := w.Hub.Name, w.span()
	if span.Hosts == "" {
		for _, l := range v.trunksOf(name) { // left alone, see span
			if !l.Up {
				all.add(TrunkDown, Change{Up: []int{l.Index}}, "trunk to %s is down", l.Tunnel.Remote)
			}
		}
		return
	}
	local, ok := w.local(v, all)
	if !ok {
		return
	}
	safe := w.diffFirewall(local, v, all)
	for _, peer := range span.Addresses() {
		if peer != local {
			w.diffTrunk(canlink.Tunnel{Local: local, Remote: peer, Key: span.BusID, TTL: trunkTTL}, safe, v, all)
		}
	}
	for _, l := range v.trunksOf(name) {
		if _, peer, _ := ParseTrunk(l); peer == local || !slices.Contains(span.Addresses(), peer) {
			all.add(TrunkUnwanted, Change{Remove: []int{l.Index}}, "trunk to %s is not wanted: it is none of the other hosts %s", peer, span.Hosts)
		}
	}
}

// spanTrouble adds a difference of trunks that only the administrator can repair. An endpoint that does not ask for other hosts
// is attached all the same.
func (w Want) spanTrouble(all *differences, kind Kind, sentinel error, cure, format string, args ...any) {
	if w.Hub.Span.Hosts != "" {
		all.refuse(kind, sentinel, cure, format, args...)
	} else {
		all.name(kind, cure, format, args...)
	}
}

// local is which of the hosts is this one. ok is false where no trunk can be looked at.
func (w Want) local(v View, all *differences) (local netip.Addr, ok bool) {
	name, span := w.Hub.Name, w.span()
	var own []netip.Addr
	for _, a := range span.Addresses() {
		if slices.Contains(v.Underlay.Addresses, a) {
			own = append(own, a)
		}
	}
	list := strings.ReplaceAll(span.Hosts, ",", ", ")
	switch {
	case v.Rootless:
		w.spanTrouble(all, SpanRootless, config.ErrInvalid, "have root make it, and lend it: sudo vxcanctl lend HUB --user USER --hosts HOSTS --bus-id ID",
			"hub %s: a bus in a user namespace spans no other hosts (hosts)", name)
		return local, false
	case w.othersSpan.Hosts != "" && !w.othersSpan.SameAs(span):
		w.spanTrouble(all, SpanOthers, config.ErrInvalid, "use the same list and number, or remove those containers first",
			"hub %s: containers that are there have %s, this network has %s", name, w.othersSpan, span)
		return local, false
	case len(own) == 0:
		w.spanTrouble(all, SpanHosts, ErrNotReady, "add it", "hub %s: none of hosts %s is an address of this host", name, list)
		return local, false
	case len(own) > 1:
		w.spanTrouble(all, SpanHosts, config.ErrInvalid, "leave one of them out", "hub %s: of hosts %s, both %s and %s are addresses of this host", name, list, own[0], own[1])
		return local, false
	}
	return own[0], true
}

// diffTrunk compares the trunk to one host. Without a firewall it is not made.
func (w Want) diffTrunk(want canlink.Tunnel, safe bool, v View, all *differences) {
	hub, peer := w.Hub.Name, want.Remote
	name, alias := config.TrunkName(hub, peer), trunkAlias(hub, peer)
	l := v.Link(name)
	for _, other := range v.Links {
		of, _, ours := ParseTrunk(other)
		switch {
		case ours && of != hub && other.Tunnel.Key == want.Key:
			w.spanTrouble(all, TrunkID, config.ErrInvalid, "give each bus a number of its own", "hub %s: bus-id %d is that of hub %s", hub, want.Key, of)
			return
		case other.Name != name && other.Kind == want.Kind() && other.Tunnel.Local == want.Local && other.Tunnel.Remote == peer && other.Tunnel.Key == want.Key:
			w.spanTrouble(all, TrunkID, config.ErrInvalid, "use another number, or ip link del "+Quote(other.Name),
				"hub %s: device %s of another program has a GRE tunnel to %s with key %d, the bus-id", hub, Quote(other.Name), peer, want.Key)
			return
		}
	}
	add := Trunk{Name: name, Alias: alias, Tunnel: want, ForOthers: w.othersSpan.Hosts != ""}
	switch {
	case l.Index != 0 && l.Alias != alias || v.altNameOf(name).Index != 0:
		w.spanTrouble(all, TrunkForeign, config.ErrInvalid, "rename or delete it", "%s is the name of another program's device, and the trunk to %s needs it", name, peer)
	case l.Index == 0 && !safe:
		// What is missing is named by diffFirewall.
	case l.Index == 0:
		all.add(TrunkMissing, Change{AddTrunk: &add}, "trunk to %s is missing", peer)
	case l.Kind != want.Kind() || !l.Tunnel.Equal(want):
		change := Change{Remove: []int{l.Index}}
		if safe {
			change.AddTrunk = &add
		}
		all.add(TrunkBroken, change, "trunk %s to %s is not as it was made (ip -details link show %[1]s)", name, peer)
	case !l.Up:
		all.add(TrunkDown, Change{Up: []int{l.Index}}, "trunk to %s is down", peer)
	default:
		w.diffWay(peer, v, all)
	}
}

// diffWay names a way to another host that does not carry every frame.
func (w Want) diffWay(peer netip.Addr, v View, all *differences) {
	way := v.Underlay.Ways[peer]
	mtu, dev := way.MTU, v.At(way.Dev)
	if mtu == 0 || dev.MTU != 0 && dev.MTU < mtu {
		mtu = dev.MTU
	}
	if need := canlink.FDMTU + trunkOverhead; peer.Is4() && mtu != 0 && mtu < need {
		all.name(TrunkMTU, fmt.Sprintf("ip link set %s mtu %d, or more", Quote(dev.Name), need),
			"the way to %s by %s has MTU %d: CAN FD frames need %d, and are lost", peer, Quote(dev.Name), mtu, need)
	}
}

// Unprotected reports that the firewall lacks rules, and that the administrator has trunks without them.
func (w Want) Unprotected(v View) bool {
	var none differences
	local, ok := w.local(v, &none)
	return ok && w.span().Unprotected && len(firewallLacks(local, v)) > 0
}

// diffFirewall reports whether trunks may be made.
func (w Want) diffFirewall(local netip.Addr, v View, all *differences) (safe bool) {
	missing := firewallLacks(local, v)
	if len(missing) == 0 || w.span().Unprotected {
		return true
	}
	w.spanTrouble(all, SpanOpen, ErrNotReady, strings.Join(missing, "; "),
		"hub %s: no trunk without a firewall: a container of this host could send to the bus, and receive it in place of this host (conflist/hosts)", w.Hub.Name)
	return false
}

// firewallLacks returns the rules that are missing, as commands. They keep packets of containers, and of machines that are not on
// the way to other hosts, away from trunks. Without them, a container that can send IP packets can send frames to the bus, and
// with the help of connection tracking receive those that are for this host.
func firewallLacks(local netip.Addr, v View) (missing []string) {
	line := func(format string, args ...any) {
		program := "iptables"
		if local.Is6() {
			program = "ip6tables"
		}
		missing = append(missing, program+" -t raw -A "+fmt.Sprintf(format, args...))
	}
	uplinks, dropped := uplinks(v)
	if slices.ContainsFunc(dropped, func(o origin) bool { return !v.Underlay.Firewall.Drops(o.of(local)) }) {
		switch len(uplinks) {
		case 0:
			line("PREROUTING -p gre ! -i DEVICE -j DROP (DEVICE is the one on the way to the other hosts)")
		case 1:
			line("PREROUTING -p gre ! -i %s -j DROP", Quote(uplinks[0]))
		default:
			line("PREROUTING -p gre -i DEVICE -j DROP (for each DEVICE but %s)", strings.Join(uplinks, ", "))
		}
	}
	untracked := func(name string) bool {
		return v.Underlay.Firewall.Untracked(origin{v.Link(name).Index, name}.of(local))
	}
	if slices.ContainsFunc(uplinks, func(name string) bool { return !untracked(name) }) {
		line("PREROUTING -p gre -j CT --notrack")
	}
	if !v.Underlay.Firewall.Untracked(origin{}.of(local)) {
		line("OUTPUT -p gre -j CT --notrack")
	}
	return missing
}

// origin is where a packet comes from.
type origin struct {
	index int
	name  string
}

func (d origin) of(local netip.Addr) underlay.Packet {
	return underlay.Packet{IPv6: local.Is6(), Dev: d.index, Name: d.name}
}

// uplinks are the devices on the way to the other hosts, and others all other devices, with one that is still to come. Without a
// way, any of those that are there may be on it.
func uplinks(v View) (uplinks []string, others []origin) {
	for _, way := range v.Underlay.Ways {
		if name := v.At(way.Dev).Name; name != "" && !slices.Contains(uplinks, name) {
			uplinks = append(uplinks, name)
		}
	}
	slices.Sort(uplinks)
	const lo = 1
	for _, l := range v.Links {
		if len(uplinks) > 0 && !slices.Contains(uplinks, l.Name) && !l.CAN && l.Index != lo {
			others = append(others, origin{l.Index, l.Name})
		}
	}
	return uplinks, append(others, origin{-1, "?"}) // which is the name of no device that anybody names
}
