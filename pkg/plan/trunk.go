package plan

import (
	"cmp"
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
// A trunk takes only frames that have the mark of the bus's nftables table, see underlay.Table: without the table, or with
// another one, it is closed. With the key unprotected there is none, and a trunk takes all.
//
// `mirred ingress` must never hand a frame that has come out of a tunnel to a CAN device: can_can_gw_rcv of net/can/gw.c stops
// the kernel where ip_summed is not what CAN drivers set. On egress, vxcan sets it.

const trunkOverhead = 20 + 8 // bytes of an IPv4 header, and of a GRE header with a key; IPv6 carries any frame, see RFC 8200

// Trunk is a trunk to be made.
type Trunk struct {
	Name, Alias string
	canlink.Tunnel
}

// spanOf is the hosts that endpoints ask for, but for the one that is being attached.
func spanOf(endpoints []Endpoint, attaching string) config.Span {
	for i := range endpoints {
		if e := &endpoints[i]; e.Hub.Span.Hosts != "" && e.hostIf() != attaching {
			return e.Hub.Span
		}
	}
	return config.Span{}
}

// Span is the hosts that the bus must span. Where nobody asks for any, a hub that we made keeps those of its trunks. On another
// hub they go, unless an endpoint may have asked for them.
func (w Want) Span(v View) config.Span {
	switch {
	case w.Hub.Span.Hosts != "":
		return w.Hub.Span
	case w.othersSpan.Hosts != "":
		return w.othersSpan
	}
	if trunks := v.trunksOf(w.Hub.Name); len(trunks) > 0 && (IsOurHub(v.Link(w.Hub.Name)) || w.hasFound()) {
		_, _, open, _ := ParseTrunk(trunks[0].Device)
		hosts := []netip.Addr{trunks[0].Device.Tunnel.Local}
		for _, t := range trunks {
			hosts = append(hosts, t.Address)
		}
		return config.SpanOf(hosts, trunks[0].Device.Tunnel.Key, open)
	}
	return config.Span{}
}

// Follow gives records of a bus the nodes that came last, and reports whether that changed one.
func Follow(records []Record, last config.Span) (changed bool) {
	for i := range records {
		if span := &records[i].Hub.Span; *span != last && last.Replaces(*span) {
			*span, changed = last, true
		}
	}
	return changed
}

// Peer is another host that a bus spans, and the trunk to it.
type Peer struct {
	Address netip.Addr
	Device  canlink.Link // the zero Link if the trunk is missing
}

// trunksOf returns the trunks of a bus that are there, in the order of the addresses that they send to.
func (v View) trunksOf(hub string) (all []Peer) {
	for _, l := range v.Links {
		if of, peer, _, ok := ParseTrunk(l); ok && of == hub {
			all = append(all, Peer{peer, l})
		}
	}
	slices.SortFunc(all, func(a, b Peer) int {
		return cmp.Or(a.Device.Tunnel.Remote.Compare(b.Device.Tunnel.Remote), a.Device.Index-b.Device.Index)
	})
	return all
}

// Hosts are the addresses of the hosts that the trunks of a bus connect.
func (v View) Hosts(hub string) (all []netip.Addr) {
	for _, t := range v.trunksOf(hub) {
		all = append(all, t.Device.Tunnel.Local, t.Address)
	}
	return all
}

// hasTable reports whether a bus has a table. One that cannot be read may be there.
func (v View) hasTable(hub string) bool {
	return v.Underlay.Table != "" || v.Underlay.Unread != nil && v.HasTrunks(hub)
}

// HasSpan reports whether a bus has anything that connects it with other hosts.
func (v View) HasSpan(hub string) bool { return v.HasTrunks(hub) || v.hasTable(hub) }

// HasTrunks reports whether a bus has a trunk.
func (v View) HasTrunks(hub string) bool { return len(v.trunksOf(hub)) > 0 }

// Peers are the other hosts of a bus: those that are asked for, and those that there are trunks to.
func (w Want) Peers(v View) (all []Peer) {
	own, trunks := slices.Clone(v.Underlay.Addresses), v.trunksOf(w.Hub.Name)
	for _, t := range trunks { // an address may go
		own = append(own, t.Device.Tunnel.Local)
	}
	own = append(own, w.Outside(v)...)
	for _, a := range w.Span(v).Addresses() {
		if len(own) > 0 && !slices.Contains(own, a) {
			all = append(all, Peer{Address: a})
		}
	}
	for _, t := range trunks {
		if i := slices.IndexFunc(all, func(p Peer) bool { return p.Address == t.Address }); i >= 0 {
			all[i] = t
		} else {
			all = append(all, t)
		}
	}
	return all
}

func (w Want) trunksThere(v View) (all []uint32) {
	for _, t := range v.trunksOf(w.Hub.Name) {
		all = append(all, uint32(t.Device.Index))
	}
	return all
}

// TrunkHooks is where the filters of trunks are: at the backplane's end rx, and at each trunk.
func (v View) TrunkHooks(hub string) (all []cantc.Hook) {
	_, rx := config.BackplaneNames(hub)
	if index := v.Link(rx).Index; index != 0 {
		all = append(all, spreadHook(uint32(index)))
	}
	for _, t := range v.trunksOf(hub) {
		all = append(all, Hooks(t.Device.Index, true)...)
	}
	return all
}

// spreadHook is where the filter is that copies frames to trunks.
func spreadHook(rx uint32) cantc.Hook { return hooks(int(rx), FirstPrio)[0] }

// trunkFilters connect trunks. The filter at rx is the first: it must know a trunk as such before a frame comes by it.
func trunkFilters(common backplane) (all []cantc.Filter) {
	if len(common.trunks) == 0 {
		return nil
	}
	spread := cantc.Filter{Hook: spreadHook(common.rx), Program: notMarked(common.trunks)}
	last := len(common.trunks) - 1
	for _, dev := range common.trunks[:last] {
		spread.Actions = append(spread.Actions, cantc.Mirror(int(dev)))
	}
	spread.Actions = append(spread.Actions, cantc.Copy(int(common.trunks[last])))
	all = append(all, spread)
	for _, dev := range common.trunks {
		first, second := hooks(int(dev), FirstPrio), hooks(int(dev), SecondPrio)
		all = append(all,
			// Outside, marks mean something else: those of firewalls and of policy routing.
			cantc.Filter{Hook: first[1], Program: anyFrame, Actions: []cantc.Action{cantc.MarkOnly(0)}},
			// What is no CAN frame must not get to the IP stack of this host.
			cantc.Filter{Hook: second[0], Program: anyFrame, Actions: []cantc.Action{cantc.Drop()}},
			cantc.Filter{Hook: first[0], Program: common.fromTrunk(), Actions: []cantc.Action{cantc.Mark(dev), cantc.Forward(int(common.tx))}})
	}
	return all
}

// fromTrunk matches the CAN frames that a trunk takes.
func (b backplane) fromTrunk() []unix.SockFilter {
	if b.open {
		return ofProtocol(true)
	}
	return append([]unix.SockFilter{loadMark, skipIf(underlay.Mark, 1, 0), noMatch}, ofProtocol(true)...)
}

// notMarked matches frames with none of some marks.
func notMarked(marks []uint32) []unix.SockFilter {
	program := []unix.SockFilter{loadMark}
	for i, mark := range marks {
		program = append(program, skipIf(mark, uint8(len(marks)-i), 0))
	}
	return append(program, match, noMatch)
}

// diffTrunkFilters compares the filters of the trunks that are there, and finds what is left of others.
func diffTrunkFilters(common backplane, v View, all *differences) {
	if common.copies { // at rx are the filters of copyTo
		return
	}
	ofAll := trunkFilters(common)
	for _, dev := range append([]uint32{common.rx}, common.trunks...) {
		where := Hooks(int(dev), true)
		if dev == common.rx {
			where = []cantc.Hook{spreadHook(dev)}
		}
		wanted := slices.DeleteFunc(slices.Clone(ofAll), func(f cantc.Filter) bool { return f.Dev != int(dev) })
		if wrong := diffFilters(wanted, where, v); !wrong.Empty() {
			all.add(FilterWrong, Change{Wiring: wrong}, "%s", describeFilters(wrong, int(dev), v))
		}
	}
}

// diffSpan compares the trunks of a bus that spans several hosts, and the table that guards them, which must be there first.
func (w Want) diffSpan(v View, all *differences) {
	name, span := w.Hub.Name, w.Span(v)
	table := config.TableName(name)
	unwanted := func(p Peer, why string) {
		all.add(TrunkUnwanted, Change{Remove: []int{p.Device.Index}}, "trunk to %s is not wanted: %s", p.Address, why)
	}
	if span.Hosts == "" {
		if v.hasTable(name) {
			all.add(TableUnwanted, Change{DeleteTable: table}, "table inet %s is not wanted: nothing on bus %s asks for other hosts", table, name)
		}
		for _, p := range v.trunksOf(name) { // by which a table is found
			unwanted(p, "nothing on this bus asks for other hosts")
		}
		return
	}
	local, ok := w.local(v, all)
	if !ok {
		return
	}
	want := underlay.Table{Name: table, Local: local, Key: span.BusID}
	var trunks differences
	outside := w.Outside(v)
	for _, peer := range span.Addresses() {
		if peer != local && !slices.Contains(outside, peer) {
			want.Peers = append(want.Peers, underlay.Source{Address: peer, Device: w.way(want, peer, v, all)})
			w.diffTrunk(canlink.Tunnel{Local: local, Remote: peer, Key: span.BusID, TTL: underlay.HopLimit}, v, &trunks)
		}
	}
	isGuarded := !span.Unprotected && len(want.Peers) > 0
	switch there := v.Underlay.Table; {
	case !isGuarded && there != "":
		all.add(TableUnwanted, Change{DeleteTable: table}, "table inet %s is not wanted: bus %s is unprotected, or alone", table, name)
	case !isGuarded || there == want.Listing():
	case v.Underlay.Unread != nil:
		w.spanTrouble(all, TableUnread, ErrNotReady, "vxcanctl heal "+Quote(name), "table inet %s cannot be read (%v)", table, v.Underlay.Unread)
	case there == "":
		all.add(TableMissing, Change{SetTable: &want}, "table inet %s is missing: frames from other hosts are dropped", table)
	default:
		all.add(TableWrong, Change{SetTable: &want}, "table inet %s is not as it must be (nft list table inet %[1]s): frames from other hosts may be dropped", table)
	}
	*all = append(*all, trunks...)
	for _, p := range v.trunksOf(name) {
		if !slices.ContainsFunc(want.Peers, func(s underlay.Source) bool { return s.Address == p.Address }) {
			unwanted(p, "it is none of the other hosts "+span.Hosts)
		}
	}
}

// way is the device on the way to another host, or "" if its packets cannot be told from those of others. While a
// network is away for a moment, the last device is kept.
func (w Want) way(t underlay.Table, peer netip.Addr, v View, all *differences) string {
	way := v.Underlay.Ways[peer]
	dev := v.At(way.Dev)
	if !w.Span(v).Unprotected && (dev.Name == "" || way.Routed || w.Span(v).Nodes && way.Aside) {
		const cure = "use WireGuard and the addresses of its interfaces, or the key unprotected"
		before := t.Device(v.Underlay.Table, peer)
		switch {
		case dev.Name == "":
			all.add(TrunkNoWay, Change{}, "there is no route to host %s: frames from it are dropped", peer)
		case before != "":
			behind := "a router"
			if !way.Routed {
				behind = "device " + Quote(dev.Name)
			}
			all.name(TrunkRouted, "unless that lasts for a moment only, "+cure, "host %s is behind %s now: frames from it are dropped while it is", peer, behind)
		default:
			w.spanTrouble(all, TrunkRouted, config.ErrInvalid, cure,
				"hub %s: host %s is behind a router, so that its packets cannot be told from those that a host forwards for its containers", w.Hub.Name, peer)
		}
		return before
	}
	mtu := way.MTU
	if mtu == 0 || dev.MTU != 0 && dev.MTU < mtu {
		mtu = dev.MTU
	}
	if need := canlink.FDMTU + trunkOverhead; peer.Is4() && mtu != 0 && mtu < need {
		all.name(TrunkMTU, fmt.Sprintf("ip link set %s mtu %d, or more", Quote(dev.Name), need),
			"the way to %s by %s has MTU %d: CAN FD frames need %d, and are lost", peer, Quote(dev.Name), mtu, need)
	}
	return dev.Name
}

// Outside lists the nodes that are behind a router, or behind another device than that of this one's address. They are sent
// nothing, and what comes from them is dropped: nobody typed that list, so the others go on without them. One whose packets
// the table still accepts stays: its network may be away for a moment.
func (w Want) Outside(v View) (all []netip.Addr) {
	span := w.Span(v)
	if !span.Nodes || span.Unprotected {
		return nil
	}
	var trouble differences // which diffSpan tells
	local, ok := w.local(v, &trouble)
	t := underlay.Table{Name: config.TableName(w.Hub.Name), Local: local, Key: span.BusID}
	for _, peer := range span.Addresses() {
		way := v.Underlay.Ways[peer]
		if ok && peer != local && v.At(way.Dev).Name != "" && (way.Routed || way.Aside) && t.Device(v.Underlay.Table, peer) == "" {
			all = append(all, peer)
		}
	}
	return all
}

// Unreached lists the other hosts that there is no way to.
func (w Want) Unreached(v View) []Difference {
	var all differences
	w.diffSpan(v, &all)
	return slices.DeleteFunc(all, func(d Difference) bool { return d.Kind != TrunkNoWay })
}

// DiffSpan lists what trunks have left on a bus without endpoints that nothing asks to span hosts.
func DiffSpan(hub string, v View) []Difference {
	var all differences
	w := NewWant(config.Hub{Name: hub}, nil, "")
	w.diffSpan(v, &all)
	if common := w.backplane(v); common.rx != 0 && len(common.trunks) == 0 {
		diffTrunkFilters(common, v, &all)
	}
	return all
}

// spanTrouble adds a difference that only the administrator can repair. It refuses an endpoint only if that asks for other hosts.
func (w Want) spanTrouble(all *differences, kind Kind, sentinel error, cure, format string, args ...any) {
	if w.Hub.Span.Hosts != "" {
		all.refuse(kind, sentinel, cure, format, args...)
	} else {
		all.name(kind, cure, format, args...)
	}
}

// local is which of the hosts is this one. ok is false where no trunk can be looked at.
func (w Want) local(v View, all *differences) (local netip.Addr, ok bool) {
	name, span := w.Hub.Name, w.Span(v)
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
	case w.othersSpan.Hosts != "" && w.othersSpan != span && !span.Replaces(w.othersSpan):
		w.spanTrouble(all, SpanOthers, config.ErrInvalid, "use the same, or remove those containers first",
			"hub %s: containers that are there have %s, this network has %s", name, w.othersSpan, span)
	case len(own) == 0:
		w.spanTrouble(all, SpanHosts, ErrNotReady, "add it", "hub %s: none of hosts %s is an address of this host", name, list)
	case len(own) > 1:
		w.spanTrouble(all, SpanHosts, config.ErrInvalid, "leave one of them out", "hub %s: of hosts %s, both %s and %s are addresses of this host", name, list, own[0], own[1])
	default:
		return own[0], true
	}
	return local, false
}

func (w Want) diffTrunk(want canlink.Tunnel, v View, all *differences) {
	hub, peer := w.Hub.Name, want.Remote
	name, alias := config.TrunkName(hub, peer), trunkAlias(hub, peer, w.Span(v).Unprotected)
	l := v.Link(name)
	if of, _, _, ours := ParseTrunk(l); l.Index != 0 && !(ours && of == hub) || v.altNameOf(name).Index != 0 {
		w.spanTrouble(all, TrunkForeign, config.ErrInvalid, "rename or delete it", "%s is the name of another program's device, and the trunk to %s needs it", name, peer)
		return
	}
	for _, other := range v.Links {
		of, to, _, ours := ParseTrunk(other)
		switch {
		case ours && of == hub && to == peer && other.Name != name:
			all.add(TrunkUnwanted, Change{Remove: []int{other.Index}}, "trunk to %s is named %s, not %s", peer, Quote(other.Name), name)
		case ours && of != hub && other.Tunnel.Key == want.Key:
			w.spanTrouble(all, TrunkID, config.ErrInvalid, "give each bus a number of its own", "hub %s: bus-id %d is that of hub %s", hub, want.Key, of)
			return
		case other.Name != name && other.Kind == want.Kind() && other.Tunnel.Local == want.Local && other.Tunnel.Remote == peer && other.Tunnel.Key == want.Key:
			w.spanTrouble(all, TrunkID, config.ErrInvalid, "use another number, or ip link del "+Quote(other.Name),
				"hub %s: device %s of another program has a GRE tunnel to %s with key %d, the bus-id", hub, Quote(other.Name), peer, want.Key)
			return
		}
	}
	add := Trunk{Name: name, Alias: alias, Tunnel: want}
	switch {
	case l.Index == 0:
		all.add(TrunkMissing, Change{AddTrunk: &add}, "trunk to %s is missing", peer)
	case l.Kind != want.Kind() || !l.Tunnel.Equal(want) || l.Alias != alias:
		all.add(TrunkBroken, Change{Remove: []int{l.Index}, AddTrunk: &add}, "trunk %s to %s is not as it was made (ip -details link show %[1]s)", name, peer)
	case !l.Up:
		all.add(TrunkDown, Change{UpLast: []int{l.Index}}, "trunk to %s is down", peer)
	}
}
