package plan

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/cangw"
	"github.com/vxcan/vxcan/pkg/canlink"
	"github.com/vxcan/vxcan/pkg/cantc"
	"github.com/vxcan/vxcan/pkg/config"
	"github.com/vxcan/vxcan/pkg/controller"
	"github.com/vxcan/vxcan/pkg/underlay"
)

// What is right for each feature alone can be wrong where two meet. So these tests go through products: every kind of hub ×
// policy and list × number of endpoints × front end of the first endpoint × damage. The verbs' products, with requests that
// fail, are in pkg/bus.

// hubs are the kinds of hubs that there are.
var hubs = map[string]func() *host{
	"own": func() *host { return newHost(config.Hub{Name: "vcan0"}) },
	"of a pod": func() *host {
		return newHost(config.Hub{Name: "bench1", Transient: true})
	},
	"own, rootless": func() *host {
		h := newHost(config.Hub{Name: "vcan0"})
		h.v.Rootless = true
		return h
	},
	"vcan of others, physical, rootless": func() *host {
		h := newHost(config.Hub{Name: "vcan8", Physical: true})
		h.addLink(canlink.Link{Name: "vcan8", Kind: canlink.Vcan, MTU: canlink.ClassicMTU, Up: true})
		h.v.Rootless = true
		return h
	},
	"vcan of others": func() *host {
		h := newHost(config.Hub{Name: "vcan7"})
		h.addLink(canlink.Link{Name: "vcan7", Kind: canlink.Vcan, MTU: canlink.FDMTU, Up: true})
		return h
	},
	"own, three hosts": func() *host {
		return newHost(config.Hub{Name: "vcan0"}).span("10.9.0.1", "10.9.0.2", "10.9.0.3")
	},
	"own, 32 hosts of IPv6": func() *host {
		var all []string
		for i := range config.MaxHosts {
			all = append(all, fmt.Sprintf("2001:db8::1%02x", i))
		}
		return newHost(config.Hub{Name: "vcan0"}).span(all...)
	},
	"FD controller set up, two hosts": func() *host {
		h := newHost(config.Hub{Name: "can0", Physical: true, Controller: controller.Settings{Bitrate: 500_000, FD: true, DataBitrate: 2_000_000}})
		h.addController("can0", controller.Settings{})
		return h.span("10.9.0.1", "10.9.0.2")
	},
	"own, two hosts, unprotected": func() *host {
		return newHost(config.Hub{Name: "vcan0"}).span("10.9.0.1", "10.9.0.2").unprotected()
	},
	"own, two hosts, nodes": func() *host {
		h := newHost(config.Hub{Name: "vcan0"}).span("10.9.0.1", "10.9.0.2")
		h.hub.Span.Nodes = true
		return h
	},
	"classic vcan of others, physical": func() *host {
		h := newHost(config.Hub{Name: "vcan8", Physical: true})
		h.addLink(canlink.Link{Name: "vcan8", Kind: canlink.Vcan, MTU: canlink.ClassicMTU, Up: true})
		return h
	},
	"controller of its owner": func() *host {
		h := newHost(config.Hub{Name: "can0", Physical: true})
		h.addController("can0", controller.Settings{Bitrate: 250_000})
		return h
	},
	"controller of its owner, fair": func() *host {
		h := newHost(config.Hub{Name: "can0", Physical: true, FairQueue: true})
		h.addController("can0", controller.Settings{Bitrate: 250_000})
		return h
	},
	"controller set up": func() *host {
		h := newHost(config.Hub{Name: "can0", Physical: true, Controller: controller.Settings{Bitrate: 500_000}})
		h.addController("can0", controller.Settings{})
		return h
	},
	"FD controller set up": func() *host {
		h := newHost(config.Hub{Name: "can0", Physical: true, TxQueue: 50, Controller: controller.Settings{Bitrate: 500_000, FD: true, DataBitrate: 2_000_000}})
		h.addController("can0", controller.Settings{})
		return h
	},
}

// most is a list as long as one can be: each other ID, standard ones and extended ones.
func most(first int) string {
	var ids []string
	for i := range 580 {
		ids = append(ids, fmt.Sprintf("%03X", first+2*i), fmt.Sprintf("%08X", 0x18fef100+3*i))
	}
	return strings.Join(ids, ",")
}

// asks are what endpoints can ask for. The first endpoint of a bus asks for this, the others for something else in turn.
var asks = map[string]config.Endpoint{
	"nothing":          {},
	"classic":          {MTU: canlink.ClassicMTU},
	"small lists":      {Policy: config.Policy{Send: "100-11F", Receive: "200,18FEF100"}},
	"longest lists":    {Policy: config.Policy{Send: most(0), Receive: most(1)}},
	"to send nothing":  {Policy: config.Policy{Send: "none"}},
	"to hear nothing":  {Policy: config.Policy{Receive: "none"}},
	"a rate and lists": {MTU: canlink.ClassicMTU, Policy: config.Policy{Send: "123", Receive: "100:700", Rate: 100, Burst: 5}},
}

// damage is one thing that happens to a bus.
type damage struct {
	kind Kind // "" is damage of which nothing is left that could be wrong
	// do does it, and reports whether it can happen to this bus.
	do func(h *host) bool
	// after is what the next ADD makes of it: repaired, named (it goes on beside it), or refused.
	after string
	// opens is set where root takes a policy away by hand: until it is repaired, frames may pass that it forbids.
	opens bool
}

const (
	repaired = "repaired"
	named    = "named"
	refused  = "refused"
)

func onHub(do func(h *host, hub *canlink.Link) bool) func(h *host) bool {
	return func(h *host) bool { return do(h, h.link(h.hub.Name)) }
}

// onBackplane does something to one end of it.
func onBackplane(do func(h *host, end *canlink.Link)) func(h *host) bool {
	return func(h *host) bool {
		tx, _ := config.BackplaneNames(h.hub.Name)
		do(h, h.link(tx))
		return true
	}
}

// onRX does something to the end of the backplane that filters copy from, where they do.
func onRX(do func(h *host, end *canlink.Link)) func(h *host) bool {
	return func(h *host) bool {
		_, rx := config.BackplaneNames(h.hub.Name)
		do(h, h.link(rx))
		return h.v.Rootless
	}
}

// onRootRX does something to the end of the backplane that members get their frames from, where there are rules.
func onRootRX(do func(h *host, end *canlink.Link)) func(h *host) bool {
	return func(h *host) bool {
		_, rx := config.BackplaneNames(h.hub.Name)
		do(h, h.link(rx))
		return !h.v.Rootless && h.hub.Span.Hosts == ""
	}
}

// withRules is a damage to gateway rules, which not every bus has.
func withRules(do func(h *host) bool) func(h *host) bool {
	return func(h *host) bool { return len(h.v.Jobs) > 0 && do(h) }
}

// onHost does something to the host end of the first endpoint.
func onHost(do func(h *host, end *canlink.Link) bool) func(h *host) bool {
	return func(h *host) bool { return do(h, h.link(h.records[0].HostIf())) }
}

// lacks reports whether there is no need to populate a bus for a damage: it is one to trunks, and there are none, or another
// one, and there are so many that it takes its time.
func (h *host) lacks(kind Kind) bool {
	ofTrunks := []Kind{SpanOthers, SpanHosts, TrunkID, TrunkForeign, TrunkMissing, TrunkBroken, TrunkDown, TrunkUnwanted, TrunkMTU,
		TrunkNoWay, TrunkRouted, TableMissing, TableWrong, TableUnread, TableUnwanted}
	hosts := strings.Count(h.hub.Span.Hosts, ",") + 1
	return slices.Contains(ofTrunks, kind) && hosts == 1 || !slices.Contains(ofTrunks, kind) && hosts == config.MaxHosts
}

// onSpan does something to a bus of several hosts, with its first trunk.
func onSpan(do func(h *host, trunk *canlink.Link)) func(h *host) bool {
	return func(h *host) bool {
		if h.hub.Span.Hosts == "" {
			return false
		}
		do(h, h.trunk())
		return true
	}
}

// newNode sorts behind the others.
var newNode = netip.MustParseAddr("10.9.0.7")

// onNodes is onSpan where hosts are the nodes of a cluster.
func onNodes(do func(h *host, trunk *canlink.Link)) func(h *host) bool {
	spanned := onSpan(do)
	return func(h *host) bool { return h.hub.Span.Nodes && spanned(h) }
}

// onTable is onSpan where a table guards the trunks.
func onTable(do func(h *host, trunk *canlink.Link)) func(h *host) bool {
	spanned := onSpan(do)
	return func(h *host) bool { return !h.hub.Span.Unprotected && spanned(h) }
}

func onController(do func(h *host, c *controller.Device)) func(h *host) bool {
	return func(h *host) bool {
		if h.v.Controller.Index == 0 || !h.hub.SetsUp() {
			return false
		}
		do(h, &h.v.Controller)
		*h.link(h.hub.Name) = h.v.Controller.Link
		return true
	}
}

var damages = []damage{
	{HubAltName, onHub(func(h *host, hub *canlink.Link) bool {
		hub.AltNames, hub.Name = []string{hub.Name}, "renamed"
		return true
	}), refused, false},
	{HubAbsent, onHub(func(h *host, hub *canlink.Link) bool { h.remove(hub.Index); return h.hub.Physical }), refused, false},
	{HubMissing, onHub(func(h *host, hub *canlink.Link) bool { h.remove(hub.Index); return !h.hub.Physical }), repaired, false},
	{HubMissing, onHub(func(h *host, hub *canlink.Link) bool { hub.Name = "elsewhere"; return !h.hub.Physical }), repaired, false},
	{HubRootless, onHub(func(h *host, hub *canlink.Link) bool {
		hub.Kind = canlink.Vxcan
		return h.v.Rootless && h.hub.Physical
	}), refused, false},
	{CopyUnwanted, onRX(func(h *host, rx *canlink.Link) {
		gone := backplane{rx: uint32(rx.Index)}.copyTo(member{dev: 99, fd: true})
		gone.Actions[0].Dev = 0
		h.v.Entries = append(h.v.Entries, ours(gone.Hook))
		h.v.Filters[gone.Hook] = cantc.Installed{Filter: gone, Kind: cantc.Kind}
	}), repaired, false},
	{CopyForeign, onRX(func(h *host, rx *canlink.Link) { // one more to the first container
		double := backplane{rx: uint32(rx.Index)}.copyTo(member{dev: uint32(h.link(h.records[0].HostIf()).Index), fd: true})
		double.Handle = 99
		h.v.Entries = append(h.v.Entries, ours(double.Hook))
		h.v.Filters[double.Hook] = cantc.Installed{Filter: double, Kind: cantc.Kind}
	}), repaired, true},
	{FilterWrong, onRX(func(h *host, rx *canlink.Link) { // all copies
		for _, m := range h.v.Links {
			delete(h.v.Filters, CopyHooks(rx.Index, m.Index)[0])
		}
	}), repaired, false},
	{FilterHeld, onRX(func(h *host, rx *canlink.Link) {
		hook := CopyHooks(rx.Index, 1)[0]
		h.v.Entries = append(h.v.Entries, cantc.Entry{Hook: hook, Kind: "matchall", Protocol: unix.ETH_P_ALL})
		for _, m := range h.v.Links {
			delete(h.v.Filters, CopyHooks(rx.Index, m.Index)[0])
		}
	}), refused, false},
	{HubName, func(h *host) bool { h.hub, h.records = config.Hub{Name: "can9"}, nil; return true }, refused, false},
	{HubNotCAN, onHub(func(h *host, hub *canlink.Link) bool { hub.CAN = false; return true }), refused, false},
	{HubNotVcan, onHub(func(h *host, hub *canlink.Link) bool { hub.Kind = canlink.Vxcan; return !h.hub.Physical }), refused, false},
	{HubMade, onHub(func(h *host, hub *canlink.Link) bool {
		h.hub.Physical, h.hub.Controller.Bitrate = true, 500_000
		return IsOurHub(*hub)
	}), refused, false},
	{HubMTU, onHub(func(h *host, hub *canlink.Link) bool {
		h.mtu = canlink.FDMTU
		return MTUOf(h.hub, *hub) == canlink.ClassicMTU
	}), refused, false},
	{HubMTUChanged, onHub(func(h *host, hub *canlink.Link) bool { hub.MTU = canlink.ClassicMTU; return IsOurHub(*hub) }), named, false},
	{HubMTUChanged, onHub(func(h *host, hub *canlink.Link) bool {
		hub.MTU, hub.Up = canlink.ClassicMTU, false
		return IsOurHub(*hub)
	}), repaired, false},
	{HubDown, onHub(func(h *host, hub *canlink.Link) bool { hub.Up = false; return IsOurHub(*hub) }), repaired, false},
	{HubDown, onHub(func(h *host, hub *canlink.Link) bool { hub.Up = false; return !IsOurHub(*hub) && !h.hub.SetsUp() }), refused, false},
	{HubTransient, onHub(func(h *host, hub *canlink.Link) bool {
		hub.Alias = TransientAlias
		return hub.Kind == canlink.Vcan && !h.hub.Transient && !h.hub.Physical
	}), repaired, false},
	{FilterFirst, onHub(func(h *host, hub *canlink.Link) bool {
		e := ours(Hooks(hub.Index, false)[1])
		e.Handle = 2
		h.v.Entries = append(h.v.Entries, e)
		return hub.Kind == canlink.Vcan
	}), named, false},
	{FilterFirst, onHub(func(h *host, hub *canlink.Link) bool {
		e := ours(Hooks(hub.Index, false)[0])
		e.Handle = 2
		h.v.Entries = append(h.v.Entries, e)
		return hub.Kind != canlink.Vcan
	}), refused, false},
	{FilterHeld, onHub(func(h *host, hub *canlink.Link) bool {
		hook := Hooks(hub.Index, false)[0]
		h.v.Entries = []cantc.Entry{{Hook: hook, Kind: "matchall", Protocol: unix.ETH_P_ALL}}
		h.v.Filters[hook] = cantc.Installed{Filter: cantc.Filter{Hook: hook, Program: anyFrame}, Kind: "matchall"}
		return true
	}), refused, false},
	{FilterHeld, onHost(func(h *host, end *canlink.Link) bool {
		hook := Hooks(end.Index, false)[1]
		h.v.Filters[hook] = cantc.Installed{Filter: cantc.Filter{Hook: hook, Program: anyFrame}, Kind: "matchall"}
		h.v.Entries = append(h.v.Entries, cantc.Entry{Hook: hook, Kind: "matchall", Protocol: unix.ETH_P_ALL})
		return true
	}), named, false},

	{QdiscHeld, onHost(func(h *host, end *canlink.Link) bool {
		h.holdQdisc(end.Index, cantc.Qdisc{Kind: "ingress"})
		return true
	}), named, true}, // which took the filters with it
	{QdiscHeld, onHub(func(h *host, hub *canlink.Link) bool {
		h.holdQdisc(hub.Index, cantc.Qdisc{Kind: "clsact", Blocks: [2]uint32{22, 0}})
		return true
	}), refused, true},
	{CopyForeign, onBackplane(func(h *host, tx *canlink.Link) {
		h.v.Qdiscs = append(h.v.Qdiscs, cantc.Qdisc{Dev: tx.Index, Kind: "clsact"})
		h.v.Entries = append(h.v.Entries, cantc.Entry{Hook: cantc.Hook{Dev: tx.Index, Dir: cantc.Egress, Prio: 1, Handle: 1}, Kind: "matchall", Protocol: unix.ETH_P_ALL})
	}), repaired, false},
	{CopyForeign, onRootRX(func(h *host, rx *canlink.Link) {
		h.v.Qdiscs = append(h.v.Qdiscs, cantc.Qdisc{Dev: rx.Index, Kind: "clsact", Blocks: [2]uint32{22, 0}})
	}), repaired, false},
	{FilterFirst, onRX(func(h *host, rx *canlink.Link) { // behind those that copy
		h.v.Qdiscs = append(h.v.Qdiscs, cantc.Qdisc{Dev: rx.Index, Kind: "clsact"})
		h.v.Entries = append(h.v.Entries, cantc.Entry{Hook: cantc.Hook{Dev: rx.Index, Dir: cantc.Ingress, Prio: 2, Handle: 1}, Kind: "matchall", Protocol: unix.ETH_P_ALL})
	}), named, false},

	{ControllerKind, onHub(func(h *host, hub *canlink.Link) bool {
		hub.Kind, h.v.Controller = "", controller.Device{}
		return h.hub.SetsUp()
	}), refused, false},
	{ControllerOthers, onController(func(h *host, c *controller.Device) { c.Up = false; h.hub.Controller.Bitrate = 125_000 }), refused, false},
	{ControllerUnable, onController(func(h *host, c *controller.Device) { c.Up, c.MaxBitrate = false, 1000 }), refused, false},
	{ControllerDown, onController(func(h *host, c *controller.Device) { c.Up = false }), repaired, false},
	{ControllerDiffers, onController(func(h *host, c *controller.Device) { c.Timing.Bitrate = 125_000 }), refused, false},
	{ControllerBusOff, onController(func(h *host, c *controller.Device) { c.State = controller.StateBusOff }), named, false},
	{ControllerQueue, onController(func(h *host, c *controller.Device) { c.Queue = 5 }), repaired, false},

	{BackplaneAltName, func(h *host) bool {
		_, rx := config.BackplaneNames(h.hub.Name)
		h.addLink(canlink.Link{Name: "other", AltNames: []string{rx}})
		return true
	}, refused, false},
	{BackplaneMissing, onBackplane(func(h *host, end *canlink.Link) { h.remove(end.Index) }), repaired, false},
	{BackplaneForeign, onBackplane(func(h *host, end *canlink.Link) {
		name := end.Name
		h.remove(end.Index)
		h.addLink(canlink.Link{Name: name, Kind: canlink.Vcan})
	}), refused, false},
	{BackplaneBroken, onBackplane(func(h *host, end *canlink.Link) { end.Name = "elsewhere" }), repaired, false},
	{BackplaneBroken, func(h *host) bool {
		tx, _ := config.BackplaneNames(h.hub.Name)
		h.link(tx).Qdisc = "netem"
		return true
	}, repaired, false},
	{BackplaneMTU, onBackplane(func(h *host, end *canlink.Link) { end.MTU = canlink.ClassicMTU }), repaired, false},
	{BackplaneDown, onBackplane(func(h *host, end *canlink.Link) { end.Up = false }), repaired, false},
	{HostEndName, onHost(func(h *host, end *canlink.Link) bool { end.Name = "foo"; return true }), named, false},
	{HostEndName, func(h *host) bool { // two have each other's name
		if len(h.records) < 2 {
			return false
		}
		a, b := h.link(h.records[0].HostIf()), h.link(h.records[1].HostIf())
		a.Name, b.Name = b.Name, a.Name
		return true
	}, named, false},
	{HostEndAlias, onHost(func(h *host, end *canlink.Link) bool { end.Alias = ""; return true }), repaired, false},
	{HostEndAlias, onHost(func(h *host, end *canlink.Link) bool { // an ADD with another policy was killed behind its record
		r := h.records[0]
		end.Alias = Alias(r.Hub, r.Attachment, config.Policy{})
		return r.Endpoint.Policy != config.Policy{}
	}), repaired, false},
	{HostEndDown, onHost(func(h *host, end *canlink.Link) bool { end.Up = false; return true }), repaired, false},

	{SpanOthers, onSpan(func(h *host, _ *canlink.Link) { h.hub.Span.BusID = 9 }), refused, false},
	{SpanOthers, func(h *host) bool {
		spans := h.hub.Span.Hosts != "" && !h.hub.Span.Nodes
		h.hub.Span.Hosts = "10.9.0.1,10.9.0.9"
		return spans
	}, refused, false},
	{SpanHosts, onSpan(func(h *host, _ *canlink.Link) { h.v.Underlay.Addresses = nil }), refused, false},
	{SpanHosts, onSpan(func(h *host, trunk *canlink.Link) {
		h.v.Underlay.Addresses = append(h.v.Underlay.Addresses, trunk.Tunnel.Remote)
	}), refused, false},
	{SpanRootless, func(h *host) bool {
		h.hub.Span = config.Span{Hosts: "10.9.0.1,10.9.0.2", BusID: 7}
		return h.v.Rootless
	}, refused, false},
	{SpanOthers, onSpan(func(h *host, _ *canlink.Link) { h.hub.Span.Unprotected = !h.hub.Span.Unprotected }), refused, true},
	{SpanOthers, onNodes(func(h *host, _ *canlink.Link) { h.hub.Span.Nodes = false }), refused, false},
	{TrunkMissing, onNodes(func(h *host, trunk *canlink.Link) { // a node has come
		h.v.Underlay.Ways[newNode] = h.v.Underlay.Ways[trunk.Tunnel.Remote]
		h.hub.Span.Hosts += "," + newNode.String()
	}), repaired, false},
	{TrunkUnwanted, onNodes(func(h *host, trunk *canlink.Link) { // a node has gone
		h.hub.Span.Hosts = trunk.Tunnel.Local.String()
	}), repaired, false},
	{TableMissing, onTable(func(h *host, _ *canlink.Link) { h.v.Underlay.Table = "" }), repaired, false},
	{TableWrong, onTable(func(h *host, _ *canlink.Link) { h.v.Underlay.Table += "\nrule of somebody" }), repaired, false},
	{TableWrong, onTable(func(h *host, trunk *canlink.Link) { // another device is on the way now
		wlan := h.addLink(canlink.Link{Name: "wlan0", MTU: 1500, Up: true})
		wlan.CAN = false
		h.v.Underlay.Ways[trunk.Tunnel.Remote] = underlay.Way{Dev: wlan.Index}
	}), repaired, false},
	{TableUnread, onTable(func(h *host, _ *canlink.Link) { h.v.Underlay.Table, h.v.Underlay.Unread = "", errors.New("no answer") }), refused, false},
	{TableUnwanted, func(h *host) bool {
		h.v.Underlay.Table = "anything"
		return h.hub.Span.Unprotected
	}, repaired, false},
	{TableUnwanted, func(h *host) bool { // nobody asks any more, on a hub that is not ours
		for i := range h.records {
			h.records[i].Hub.Span = config.Span{}
		}
		there := h.v.Underlay.Table != "" && !IsOurHub(*h.link(h.hub.Name))
		h.hub.Span = config.Span{}
		return there
	}, repaired, false},
	{TableUnwanted, func(h *host) bool { // nor can it be read
		for i := range h.records {
			h.records[i].Hub.Span = config.Span{}
		}
		there := h.v.Underlay.Table != "" && !IsOurHub(*h.link(h.hub.Name))
		h.hub.Span, h.v.Underlay.Table, h.v.Underlay.Unread = config.Span{}, "", errors.New("no answer")
		return there
	}, repaired, false},
	{TrunkNoWay, onTable(func(h *host, trunk *canlink.Link) {
		delete(h.v.Underlay.Ways, trunk.Tunnel.Remote)
	}), named, false},
	{TrunkRouted, onTable(func(h *host, trunk *canlink.Link) {
		way := h.v.Underlay.Ways[trunk.Tunnel.Remote]
		way.Routed = true
		h.v.Underlay.Ways[trunk.Tunnel.Remote] = way
		h.v.Underlay.Table = "" // else it is so for a moment
		h.hub.Span.Nodes = false
		for i := range h.records {
			h.records[i].Hub.Span.Nodes = false
		}
	}), refused, false},
	{"", onNodes(func(h *host, _ *canlink.Link) { // a node that is none of this network has come
		h.v.Underlay.Ways[newNode] = underlay.Way{Dev: h.addLink(canlink.Link{Name: "cni0", MTU: 1500, Up: true}).Index, Aside: true}
		h.link("cni0").CAN = false
		h.hub.Span.Hosts += "," + newNode.String()
	}), repaired, false},
	{TrunkRouted, onTable(func(h *host, trunk *canlink.Link) {
		way := h.v.Underlay.Ways[trunk.Tunnel.Remote]
		way.Routed = true
		h.v.Underlay.Ways[trunk.Tunnel.Remote] = way
	}), named, false},
	{TrunkID, onSpan(func(h *host, trunk *canlink.Link) { h.addTrunk("vcan5", trunk.Tunnel) }), refused, false},
	{TrunkID, onSpan(func(h *host, trunk *canlink.Link) {
		h.addLink(canlink.Link{Name: "gre5", Kind: trunk.Kind, Tunnel: trunk.Tunnel}).CAN = false
	}), refused, false},
	{TrunkForeign, onSpan(func(h *host, trunk *canlink.Link) { trunk.Alias = "" }), refused, false},
	{TrunkMissing, onSpan(func(h *host, trunk *canlink.Link) { h.remove(trunk.Index) }), repaired, false},
	{TrunkMissing, onSpan(func(h *host, _ *canlink.Link) {
		for trunk := h.trunk(); trunk != nil; trunk = h.trunk() {
			h.remove(trunk.Index)
		}
	}), repaired, false},
	{TrunkBroken, onSpan(func(h *host, trunk *canlink.Link) { trunk.Tunnel.Key = 8 }), repaired, false},
	{TrunkBroken, onSpan(func(h *host, trunk *canlink.Link) { trunk.Tunnel.TTL = 64 }), repaired, false},
	{TrunkBroken, onSpan(func(h *host, trunk *canlink.Link) {
		_, peer, open, _ := ParseTrunk(*trunk)
		trunk.Alias = trunkAlias(h.hub.Name, peer, !open)
	}), repaired, false},
	{TrunkUnwanted, onSpan(func(h *host, trunk *canlink.Link) { trunk.Name = "tt" }), repaired, false},
	{TrunkDown, onSpan(func(h *host, trunk *canlink.Link) { trunk.Up = false }), repaired, false},
	{TrunkUnwanted, onSpan(func(h *host, trunk *canlink.Link) {
		other := trunk.Tunnel
		other.Remote = other.Remote.Next()
		for slices.Contains(h.hub.Span.Addresses(), other.Remote) {
			other.Remote = other.Remote.Next()
		}
		h.addTrunk(h.hub.Name, other)
	}), repaired, false},
	{TrunkMTU, func(h *host) bool {
		if h.trunk() != nil {
			h.v.Underlay.Ways[h.trunk().Tunnel.Remote] = underlay.Way{Dev: h.link("eth1").Index, MTU: 90}
		}
		return h.trunk() != nil && h.trunk().Kind == canlink.GRE
	}, named, false},
	{FilterWrong, onSpan(func(h *host, trunk *canlink.Link) {
		for _, hook := range h.v.TrunkHooks(h.hub.Name) {
			delete(h.v.Filters, hook)
		}
	}), repaired, false},
	{FilterWrong, onSpan(func(h *host, trunk *canlink.Link) {
		hook := Hooks(trunk.Index, true)[2]
		delete(h.v.Filters, hook)
	}), repaired, false},
	{FilterWrong, onRootRX(func(h *host, rx *canlink.Link) { // of trunks that are gone
		hook := spreadHook(uint32(rx.Index))
		h.v.Filters[hook] = cantc.Installed{Filter: cantc.Filter{Hook: hook, Program: notMarked([]uint32{99}), Actions: []cantc.Action{cantc.Copy(0)}}, Kind: cantc.Kind}
	}), repaired, false},

	{ClassMissing, func(h *host) bool { h.v.Queue = cantc.Queue{}; return h.hub.IsFair() }, repaired, false},
	{ClassMissing, onHost(func(h *host, end *canlink.Link) bool {
		if class := h.v.Queue.Class(uint32(end.Index)); class != nil {
			class.Filter, class.Mark = false, 0
		}
		return h.hub.IsFair()
	}), repaired, false},
	{ClassUnwanted, func(h *host) bool {
		gone := cantc.ClassOf(99)
		gone.Filter, gone.Waiting = true, 5
		h.v.Queue.Classes = append(h.v.Queue.Classes, gone)
		return h.hub.IsFair()
	}, repaired, false},

	{"", onHost(func(h *host, end *canlink.Link) bool { h.remove(end.Index); return true }), repaired, false}, // its netns is gone
	{"", onHost(func(h *host, end *canlink.Link) bool { // and the record, too, as that of an earlier boot is
		h.remove(end.Index)
		h.records = h.records[1:]
		return true
	}), repaired, false},
	{FilterWrong, onHost(func(h *host, end *canlink.Link) bool {
		for _, hook := range Hooks(end.Index, true) {
			delete(h.v.Filters, hook)
		}
		return true
	}), repaired, true},
	{FilterWrong, onHost(func(h *host, end *canlink.Link) bool {
		hook := Hooks(end.Index, true)[0]
		f := h.v.Filters[hook]
		f.Program = anyFrame
		h.v.Filters[hook] = f
		return true
	}), repaired, true},
	{FilterWrong, onHost(func(h *host, end *canlink.Link) bool {
		hook := Hooks(end.Index, true)[3] // of a policy that it has not
		_, there := h.v.Filters[hook]
		h.v.Filters[hook] = cantc.Installed{Filter: cantc.Filter{Hook: hook, Program: anyFrame, Actions: []cantc.Action{cantc.Drop()}}, Kind: cantc.Kind}
		return !there && h.records[0].Endpoint.Policy != config.Policy{}
	}), repaired, false},
	{FilterWrong, onHub(func(h *host, hub *canlink.Link) bool { delete(h.v.Filters, Hooks(hub.Index, false)[1]); return true }), repaired, true},
	{RuleMissing, withRules(func(h *host) bool { h.v.Jobs = nil; return true }), repaired, false},
	{RuleMissing, withRules(func(h *host) bool { h.v.Jobs = h.v.Jobs[1:]; return true }), repaired, false},
	{RuleDoubled, withRules(func(h *host) bool { h.v.Jobs = append(h.v.Jobs, h.v.Jobs[len(h.v.Jobs)-1], h.v.Jobs[0]); return true }), repaired, true},
	{RuleUnwanted, withRules(onBackplane(func(h *host, tx *canlink.Link) {
		loop := cangw.Rule{Src: uint32(tx.PeerIndex), Dst: uint32(tx.Index), Flags: cangw.IIFTxOK, Hops: 1}
		changed := cangw.Job{Rule: h.v.Jobs[len(h.v.Jobs)-1].Rule, Raw: "changed"}
		h.v.Jobs = append(h.v.Jobs, append(plain(loop), changed)...)
	})), repaired, true},
	{RuleUnwanted, withRules(onHub(func(h *host, hub *canlink.Link) bool { // the hub was that of another bus, by another name
		other := h.addLink(canlink.Link{Name: "vcan98-tx", Kind: canlink.Vxcan, Alias: backplaneAlias + " vcan98", MTU: canlink.FDMTU, Up: true})
		h.v.Jobs = append(h.v.Jobs, plain(cangw.Rule{Src: uint32(h.link(h.hub.Name).Index), Dst: uint32(other.Index)})...)
		return true
	})), repaired, false},
	{RuleForeign, withRules(onHub(func(h *host, hub *canlink.Link) bool {
		other := h.addLink(canlink.Link{Name: "vcan99", Kind: canlink.Vcan, MTU: canlink.FDMTU, Up: true})
		h.v.Jobs = append(h.v.Jobs, plain(cangw.Rule{Src: uint32(h.link(h.hub.Name).Index), Dst: uint32(other.Index)})...)
		return true
	})), named, false},
	{PolicyLost, func(h *host) bool {
		first := h.records[0]
		h.records = h.records[1:]
		return first.Endpoint.Policy != config.Policy{}
	}, named, true}, // not more than the policy, but more than an endpoint may that is cut off
}

// TestProduct damages every kind of bus in every way. What is wrong is named, the next ADD does what the damage says, no
// policy is opened by it, and afterwards each frame arrives where it should, once.
func TestProduct(t *testing.T) {
	if testing.Short() {
		t.Skip("many combinations, which depend on no kernel")
	}
	n := 0
	for hubName, newHost := range hubs {
		for askName, ask := range asks {
			for _, endpoints := range []int{1, 30} {
				if endpoints > 1 && !slices.Contains([]string{"nothing", "small lists", "longest lists"}, askName) {
					continue
				}
				if askName == "longest lists" && (endpoints > 1) != (hubName == "own") { // which take their time
					continue
				}
				// A trunk has no policy: what it does with one does not depend on which.
				if strings.Contains(hubName, "hosts") && (askName != "small lists" || endpoints > 1 && hubName != "own, three hosts") {
					continue
				}
				for i, d := range damages {
					h := newHost()
					if h.lacks(d.kind) {
						continue
					}
					h.first = n
					if !populate(t, h, ask, endpoints) || !d.do(h) {
						continue
					}
					n++
					if problems := h.damaged(d); len(problems) > 0 {
						t.Fatalf("hub %s, %d endpoints, the first asks for %s, damage %d (%s):\n%s", hubName, endpoints, askName, i, d.kind, strings.Join(problems, "\n"))
					}
				}
			}
		}
	}
	t.Logf("%d combinations", n)
}

// populate attaches endpoints to a bus, and reports whether that can be asked for.
func populate(t *testing.T, h *host, first config.Endpoint, count int) bool {
	t.Helper()
	others := []config.Endpoint{{}, first, {Policy: config.Policy{Send: "200", Receive: "none"}}, asks["a rate and lists"]}
	for i := range count {
		e := first
		if i > 0 {
			e = others[i%len(others)]
		}
		if err := h.attach(fmt.Sprint("c", i), e); err != nil {
			t.Fatal(err)
		}
	}
	if all := h.differences(); len(all) > 0 {
		t.Fatalf("a bus that is whole: %v", all)
	}
	if wrong := h.deliveries(); len(wrong) > 0 {
		t.Fatalf("a bus that is whole: %q", wrong)
	}
	return true
}

// isNoDamage reports whether a difference is what an endpoint leaves that goes without a DEL. It is no damage.
func isNoDamage(kind Kind) bool { return kind == ClassUnwanted || kind == CopyUnwanted }

// damaged returns what is wrong with how a damage is dealt with.
func (h *host) damaged(d damage) (problems []string) {
	problem := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	kinds := func() (kinds []Kind) {
		for _, there := range h.differences() {
			if !isNoDamage(there.Kind) || d.kind == there.Kind {
				kinds = append(kinds, there.Kind)
			}
		}
		return kinds
	}
	if found := kinds(); d.kind == "" && len(found) > 0 || d.kind != "" && !slices.Contains(found, d.kind) || d.kind == HubAbsent && len(found) > 1 {
		problem("not found, or more: %v", h.differences())
	}
	for _, d := range h.differences() {
		if d.Kind != HubTransient && !isNoDamage(d.Kind) && (d.What == "" || d.Cure == "") {
			problem("without words: %+v", d)
		}
	}
	if leaks := h.leaks(); len(leaks) > 0 && !d.opens {
		problem("before the ADD: %q", leaks)
	}
	err := h.mend()
	if (err != nil) != (d.after == refused) || err != nil && !errors.Is(err, config.ErrInvalid) && !errors.Is(err, ErrNotReady) {
		problem("%s: %v", d.after, err)
	}
	if err != nil { // nothing was changed, and the next look says the same
		if !slices.Contains(kinds(), d.kind) {
			problem("after the ADD: %v", kinds())
		}
		return problems
	}
	want := []Kind(nil)
	if d.after == named {
		want = []Kind{d.kind}
	}
	if got := slices.Compact(kinds()); !slices.Equal(got, want) {
		problem("after the ADD: %v, want %v", h.differences(), want)
	}
	if d.kind == FilterHeld || d.kind == QdiscHeld { // whose program the model does not have
		return problems
	}
	if wrong := h.deliveries(); len(wrong) > 0 {
		problem("after the ADD: %q", wrong)
	}
	return problems
}

// TestRecordLost: what only the record told of stays on every kind of hub, also when a network that asks for none of it comes
// by, until the last endpoint that may have asked for it goes.
func TestRecordLost(t *testing.T) {
	for name, newHost := range hubs {
		h := newHost()
		populate(t, h, asks["nothing"], 2)
		trunks, table := len(h.v.trunksOf(h.hub.Name)), h.v.Underlay.Table
		h.hub, h.records = config.Hub{Name: h.hub.Name, Physical: h.hub.Physical, Transient: h.hub.Transient}, nil
		for range 2 {
			for _, d := range h.differences() {
				t.Errorf("hub %s: %s %v", name, d.Kind, d)
			}
			if err := h.mend(); err != nil {
				t.Errorf("hub %s: %v", name, err)
			}
			if now := len(h.v.trunksOf(h.hub.Name)); now != trunks || h.v.Underlay.Table != table {
				t.Errorf("hub %s: %d trunks, want %d, and table %q", name, now, trunks, h.v.Underlay.Table)
			}
			for _, e := range h.endpoints() { // as heal writes it
				h.records = append(h.records, e.Record)
			}
		}
		for _, e := range h.endpoints() {
			h.remove(e.Host.Index)
		}
		if err := h.mend(); err != nil || h.v.HasSpan(h.hub.Name) != (trunks > 0 && IsOurHub(h.v.Link(h.hub.Name))) {
			t.Errorf("hub %s, without endpoints: %v, trunks %v", name, err, h.v.trunksOf(h.hub.Name))
		}
	}
}

// ends are what can be wrong with the pair of an endpoint.
var ends = map[Kind]func(e *Ends, mtu *int, policy *config.Policy){
	HostEndGone:   func(e *Ends, _ *int, _ *config.Policy) { e.Host = canlink.Link{} },
	ContEndGone:   func(e *Ends, _ *int, _ *config.Policy) { e.Cont = canlink.Link{} },
	ContEndName:   func(e *Ends, _ *int, _ *config.Policy) { e.Cont.Name = "$(reboot)" },
	EndpointHub:   func(e *Ends, _ *int, _ *config.Policy) { e.Host.Alias = "vxcan vcan1 cni net id eth0 " },
	EndpointMTU:   func(e *Ends, mtu *int, _ *config.Policy) { *mtu = canlink.ClassicMTU },
	ContEndDown:   func(e *Ends, _ *int, _ *config.Policy) { e.Cont.Up = false },
	PolicyDiffers: func(_ *Ends, _ *int, p *config.Policy) { p.Send = "none" },
}

func TestEnds(t *testing.T) {
	for kind, spoil := range ends {
		e := Ends{
			Host: canlink.Link{Name: "vxa", Index: 5, PeerIndex: 2, PeerElsewhere: true, Kind: canlink.Vxcan, MTU: 72, Up: true, Used: true, Alias: "vxcan vcan0 cni net id eth0 "},
			Cont: canlink.Link{Name: "can0", Index: 2, PeerIndex: 5, Kind: canlink.Vxcan, MTU: 72, Up: true}, Place: "/run/netns/x", Hub: "vcan0",
		}
		mtu, policy := 72, config.Policy{}
		look := func() []Difference {
			named := func(name string) bool { return name == "can0" }
			return append(DiffEndpoint("vxa", e, mtu, named), DiffPolicy(policy, config.Policy{})...)
		}
		if all := look(); len(all) > 0 {
			t.Fatal(all)
		}
		spoil(&e, &mtu, &policy)
		all := look()
		if len(all) != 1 || all[0].Kind != kind || all[0].Cure == "" {
			t.Errorf("%s: %v", kind, all)
		}
		seen := DiffEnd(Endpoint{Host: e.Host}, e.Cont, mtu) // by status, which has no configuration
		if want := kind == EndpointMTU || kind == ContEndDown; len(seen) > 1 || want != (len(seen) == 1 && seen[0].Kind == kind) {
			t.Errorf("%s: status sees %v", kind, seen)
		}
		if strings.Contains(all[0].String(), "$(reboot)") && !strings.Contains(all[0].String(), "'$(reboot)'") {
			t.Errorf("%s: a name that a shell would run: %s", kind, all[0])
		}
	}
}

// What an endpoint lacks that is just being attached is no damage.
func TestOwnWiring(t *testing.T) {
	h := hubs["own"]()
	populate(t, h, asks["small lists"], 3)
	hostIf := h.records[0].HostIf()
	for _, hook := range Hooks(h.link(hostIf).Index, true) {
		delete(h.v.Filters, hook)
	}
	h.v.Jobs = slices.DeleteFunc(h.v.Jobs, func(j cangw.Job) bool { return int(j.Dst) == h.link(hostIf).Index })
	all := Diff(NewWant(h.hub, h.endpoints(), hostIf), h.v)
	if len(all) != 1 || all[0].Kind != OwnWiring {
		t.Errorf("%v", all)
	}
	h.apply(all)
	if wrong := append(h.deliveries(), fmt.Sprint(h.differences())); len(wrong) > 1 || wrong[0] != "[]" {
		t.Error(wrong)
	}
}

// TestRemoval: what takes a bus away leaves nothing of it, and no device of another program is touched, nor its rules and
// filters, however the bus was damaged before.
func TestRemoval(t *testing.T) {
	n := 0
	for hubName, newHost := range hubs {
		for i, d := range damages {
			h := newHost()
			if h.lacks(d.kind) {
				continue
			}
			foreign := h.addLink(canlink.Link{Name: "vcan90", Kind: canlink.Vcan, MTU: canlink.FDMTU, Up: true}).Index
			rule := plain(cangw.Rule{Src: uint32(foreign), Dst: uint32(h.addLink(canlink.Link{Name: "vcan91", Kind: canlink.Vcan}).Index)})
			if !populate(t, h, asks["small lists"], 2) {
				continue
			}
			hub := h.v.Link(h.hub.Name)
			if d.kind == HubName || !d.do(h) { // which is of another hub
				continue
			}
			n++
			h.v.Jobs = append(h.v.Jobs, rule...)
			for _, e := range h.endpoints() {
				h.remove(e.Host.Index)
			}
			there := h.v.At(hub.Index)
			c := Removal(hub.Name, h.v)
			h.apply([]Difference{{Change: Change{Remove: c.Remove, DeleteTable: c.DeleteTable}}})
			h.wire(c.Wiring)
			var left []string
			for _, l := range h.v.Links {
				if of, _, _, trunk := ParseTrunk(l); l.Index != hub.Index && l.Alias != "" && l.Name != "vcan98-tx" && (!trunk || of == hub.Name) {
					left = append(left, l.Name)
				}
			}
			if now := h.v.At(hub.Index); (now.Index == 0) != (there.Index == 0 || there.Name == hub.Name && IsOurHub(there)) {
				t.Errorf("hub %s, damage %d (%s): the hub was %+v, is %+v", hubName, i, d.kind, there, now)
			}
			if len(left) > 0 || h.v.Underlay.Table != "" || !slices.ContainsFunc(h.v.Jobs, func(j cangw.Job) bool { return j == rule[0] }) || h.v.At(foreign).Index == 0 {
				t.Errorf("hub %s, damage %d (%s): left %q, rules %v", hubName, i, d.kind, left, h.v.Jobs)
			}
			for hook, f := range h.v.Filters {
				if there.Name == hub.Name && f.Kind == cantc.Kind && f.Equal(filters(backplane{}, member{dev: uint32(hub.Index), hub: true})[hook.Dir]) {
					t.Errorf("hub %s, damage %d (%s): left %+v", hubName, i, d.kind, f)
				}
			}
		}
	}
	t.Logf("%d combinations", n)
}

// TestEveryKind: a kind of difference that is in no table above would be one that nobody tried with all the others.
func TestEveryKind(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "difference.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	tried := map[string]bool{string(OwnWiring): true}
	for _, d := range damages {
		tried[string(d.kind)] = true
	}
	for kind := range ends {
		tried[string(kind)] = true
	}
	kinds := 0
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || fmt.Sprint(spec.Type) != "Kind" {
			return true
		}
		kinds++
		value := spec.Values[0].(*ast.BasicLit).Value
		if !tried[strings.Trim(value, `"`)] {
			t.Errorf("%s (%s) is in no table of this file", spec.Names[0].Name, value)
		}
		return true
	})
	if kinds < len(ends)+20 {
		t.Errorf("only %d kinds found", kinds)
	}
}

// TestEveryKey: each key says something of one noun only, and is in a table above or in that of pkg/bus.
func TestEveryKey(t *testing.T) {
	values := map[string]string{
		"hub": "vcan7", "physical": "true", "interface": "can3", "mtu": "16", "send": "100", "receive": "200", "rate": "100", "burst": "5",
		"pod-hubs": "bench*", "bitrate": "500000", "sample-point": "0.875", "fd": "true", "dbitrate": "2000000", "dsample-point": "0.8",
		"restart-ms": "100", "txqueuelen": "50", "termination": "120", "listen-only": "true", "one-shot": "true", "triple-sampling": "true",
		"fair-queue": "true", "lent": "true", "hosts": "10.9.0.1,10.9.0.2", "bus-id": "7", "unprotected": "true", "berr-reporting": "true", "presume-ack": "true", "fd-non-iso": "true",
	}
	for _, k := range config.Keys {
		n, fresh := config.NewNetwork(), config.NewNetwork()
		if known, err := n.Set(config.CNI, k.Name, values[k.Name]); !known || err != nil {
			t.Errorf("key %s is in no table of products: %v, %v", k.Name, known, err)
			continue
		}
		for _, in := range []config.FrontEnd{config.Netavark, config.Docker, config.Host} {
			other := config.NewNetwork()
			known, err := other.Set(in, k.Name, values[k.Name])
			if same := other.Hub == n.Hub && other.Endpoint == n.Endpoint && other.Interface == n.Interface; known != (k.In&in != 0) || known && (err != nil || !same) {
				t.Errorf("key %s in front end %d: %v, %v, %+v", k.Name, in, known, err, other)
			}
		}
		var changed []config.Noun
		if n.Hub != fresh.Hub {
			changed = append(changed, config.OfHub)
		}
		if n.Endpoint != fresh.Endpoint || n.Interface != fresh.Interface {
			changed = append(changed, config.OfEndpoint)
		}
		if len(n.PodHubs) > 0 || n.Lent {
			changed = append(changed, config.OfNetwork)
		}
		of := k.Of
		if of == config.OfController || of == config.OfSpan {
			of = config.OfHub
		}
		if !slices.Equal(changed, []config.Noun{of}) {
			t.Errorf("key %s changes %v, want %s", k.Name, changed, of)
		}
	}
}

// TestOutside: a node in another network is sent nothing, and is not in the table. One that was let in stays when its way changes.
func TestOutside(t *testing.T) {
	for _, way := range []underlay.Way{{Routed: true}, {Aside: true}} {
		h := hubs["own, two hosts, nodes"]()
		if !populate(t, h, asks["nothing"], 2) {
			t.Fatal("a bus of nodes")
		}
		peer := h.trunk().Tunnel.Remote
		h.addLink(canlink.Link{Name: "cni0", MTU: 1500, Up: true}).CAN = false
		way.Dev = h.link("cni0").Index
		h.v.Underlay.Ways[newNode] = way
		h.hub.Span.Hosts += "," + newNode.String()
		if err := h.mend(); err != nil {
			t.Fatal(err)
		}
		w := NewWant(h.hub, h.endpoints(), "")
		if got := w.Outside(h.v); !slices.Equal(got, []netip.Addr{newNode}) || len(w.Peers(h.v)) != 1 || len(h.v.trunksOf(h.hub.Name)) != 1 || len(h.table.Peers) != 1 {
			t.Errorf("%+v: outside %v, peers %v, table %v", way, got, w.Peers(h.v), h.table.Peers)
		}
		h.v.Underlay.Ways[peer] = way
		table := h.table
		if err := h.mend(); err != nil {
			t.Fatal(err)
		}
		if h.trunk() == nil || h.table.Listing() != table.Listing() {
			t.Errorf("%+v: a node that was let in is put out", way)
		}
	}
}
