package plan

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/cangw"
	"github.com/vxcan/vxcan/pkg/canlink"
	"github.com/vxcan/vxcan/pkg/cantc"
	"github.com/vxcan/vxcan/pkg/config"
	"github.com/vxcan/vxcan/pkg/controller"
	"github.com/vxcan/vxcan/pkg/underlay"
)

// host is a host with one bus, as far as a View shows it. It does what pkg/bus has the real kernel do.
type host struct {
	hub     config.Hub // as the endpoints ask for it
	v       View
	records []Record
	next    int // ifindex
	table   underlay.Table
	mtu     int // that an ADD asks for
	first   int // of attachments, the front end of the first endpoint
}

// attachments are what front ends name a container, in its own form each.
var attachments = []func(id string) config.Attachment{
	func(id string) config.Attachment {
		return config.Attachment{Runtime: "cni", Network: "net", ContainerID: id, IfName: "eth0", Entry: "can%d"}
	},
	func(id string) config.Attachment {
		return config.Attachment{Runtime: "netavark", Network: "net", ContainerID: id}
	},
	func(id string) config.Attachment {
		return config.Attachment{Runtime: "docker", Network: "0123456789abcdef", ContainerID: id}
	},
	func(id string) config.Attachment {
		return config.Attachment{Runtime: "host", Network: "vcan0", ContainerID: id, IfName: "can0"}
	},
}

func newHost(hub config.Hub) *host {
	return &host{hub: hub, next: 100, v: View{Filters: make(map[cantc.Hook]cantc.Installed)}}
}

func (h *host) addLink(l canlink.Link) *canlink.Link {
	h.next++
	l.Index, l.CAN = h.next, true
	h.v.Links = append(h.v.Links, l)
	return &h.v.Links[len(h.v.Links)-1]
}

// span gives the host two devices on the way to other hosts, and has its bus span them.
func (h *host) span(hosts ...string) *host {
	h.hub.Span = config.Span{Hosts: strings.Join(hosts, ","), BusID: 7}
	h.v.Underlay.Ways = make(map[netip.Addr]underlay.Way)
	for i, a := range h.hub.Span.Addresses() {
		if i == 0 {
			h.v.Underlay.Addresses = []netip.Addr{a}
			continue
		}
		eth := h.addLink(canlink.Link{Name: fmt.Sprint("eth", i%2), MTU: 1500, Up: true})
		eth.CAN = false
		h.v.Underlay.Ways[a] = underlay.Way{Dev: eth.Index}
	}
	return h
}

// unprotected has its trunks take the packets of everybody.
func (h *host) unprotected() *host {
	h.hub.Span.Unprotected = true
	return h
}

// addTrunk adds the trunk of a hub to another host.
func (h *host) addTrunk(hub string, t canlink.Tunnel) *canlink.Link {
	alias := trunkAlias(hub, t.Remote, h.hub.Span.Unprotected)
	l := h.addLink(canlink.Link{Name: config.TrunkName(hub, t.Remote), Kind: t.Kind(), MTU: 1472, Alias: alias, Tunnel: t})
	l.CAN = false
	return l
}

// trusts reports whether the packets of another host get the mark, if the table is as it was set.
func (h *host) trusts(peer netip.Addr) bool {
	dev := h.v.At(h.v.Underlay.Ways[peer].Dev).Name
	return dev != "" && slices.Contains(h.table.Peers, underlay.Source{Address: peer, Device: dev})
}

// trunk is the first trunk, or nil.
func (h *host) trunk() *canlink.Link {
	for _, t := range h.v.trunksOf(h.hub.Name) {
		return h.link(t.Device.Name)
	}
	return nil
}

// link is a device of a name, to be changed.
func (h *host) link(name string) *canlink.Link {
	i := slices.IndexFunc(h.v.Links, func(l canlink.Link) bool { return l.Name == name })
	if i < 0 {
		return nil
	}
	return &h.v.Links[i]
}

// remove removes a device, its other end in this netns, and what both have of filters and jobs.
func (h *host) remove(index int) {
	peer := 0
	if l := h.v.At(index); l.Kind == canlink.Vxcan && !l.PeerElsewhere {
		peer = l.PeerIndex
	}
	gone := func(i int) bool { return i != 0 && (i == index || i == peer) }
	h.v.Links = slices.DeleteFunc(h.v.Links, func(l canlink.Link) bool { return gone(l.Index) })
	h.v.Jobs = slices.DeleteFunc(h.v.Jobs, func(j cangw.Job) bool { return gone(int(j.Src)) || gone(int(j.Dst)) })
	h.v.Entries = slices.DeleteFunc(h.v.Entries, func(e cantc.Entry) bool { return gone(e.Dev) })
	for hook, f := range h.v.Filters {
		if gone(hook.Dev) {
			delete(h.v.Filters, hook)
			continue
		}
		f.Actions = slices.Clone(f.Actions)
		for i := range f.Actions {
			if gone(f.Actions[i].Dev) { // mirred_device_event of net/sched/act_mirred.c
				f.Actions[i].Dev = 0
			}
		}
		h.v.Filters[hook] = f
	}
	if gone(h.v.Controller.Index) {
		h.v.Controller, h.v.Queue = controller.Device{}, cantc.Queue{}
	}
}

// addController adds a controller, up with a bit rate, or down with none. It can do CAN FD.
func (h *host) addController(name string, s controller.Settings) {
	l := h.addLink(canlink.Link{Name: name, Kind: controller.Can, MTU: canlink.ClassicMTU})
	h.v.Controller = controller.Device{Link: *l, Queue: 10, Supported: controller.ModeFD, KnowsSupported: true}
	if s.Bitrate != 0 {
		h.setUp(s, 1000)
	}
}

func (h *host) setUp(s controller.Settings, queue int) {
	c := &h.v.Controller
	c.Up, c.Queue, c.MTU, c.Modes = true, queue, canlink.ClassicMTU, 0
	c.Timing.Bitrate, c.DataTiming.Bitrate = s.Bitrate, s.DataBitrate
	if s.FD {
		c.MTU, c.Modes = canlink.FDMTU, controller.ModeFD
	}
	*h.link(c.Name) = c.Link
}

func (h *host) endpoints() []Endpoint { return h.v.Endpoints(h.hub.Name, h.records) }

// attach is what ADD does for an attachment that is not there.
func (h *host) attach(id string, e config.Endpoint) error {
	r := Record{Attachment: attachments[(h.first+len(h.records))%len(attachments)](id), Ask: Ask{Hub: h.hub, Endpoint: e}}
	if err := h.mend(); err != nil {
		return err
	}
	w := NewWant(h.hub, h.endpoints(), r.HostIf())
	mtu := e.MTUOn(MTUOf(w.Hub, h.v.Link(h.hub.Name)))
	l := h.addLink(canlink.Link{
		Name: r.HostIf(), Kind: canlink.Vxcan, MTU: mtu, Up: true, Used: true, PeerElsewhere: true, PeerIndex: 2,
		Alias: Alias(h.hub, r.Attachment, e.Policy),
	})
	h.records = append(h.records, r)
	Follow(h.records, h.hub.Span)
	h.wire(w.Wire(h.v, Endpoint{Record: r, Host: *l}))
	return nil
}

// mend is what ADD and heal do about differences.
func (h *host) mend() error {
	for range 5 {
		all := h.differences()
		if err := Refusal(all, false); err != nil {
			return err
		}
		if !h.apply(all) {
			return nil
		}
	}
	return fmt.Errorf("no end of changes: %v", h.differences())
}

// differences is what CHECK and status say.
func (h *host) differences() []Difference {
	w := NewWant(h.hub, h.endpoints(), "")
	w.MTU = h.mtu
	return Diff(w, h.v)
}

func (h *host) apply(all []Difference) (changed bool) {
	var wiring Wiring
	for _, d := range all {
		c := d.Change
		for _, index := range c.Remove {
			h.remove(index)
		}
		switch hub := h.link(h.hub.Name); {
		case c.AddHub != "":
			h.addLink(canlink.Link{Name: c.AddHub, Kind: canlink.Vcan, MTU: canlink.FDMTU, Up: true, Alias: c.HubAlias})
		case c.HubAlias != "":
			hub.Alias = c.HubAlias
		case c.HubMTU != 0:
			hub.MTU = c.HubMTU
		}
		if p := c.AddPair; p != nil {
			end := h.addLink(canlink.Link{Name: p.Name, Kind: canlink.Vxcan, MTU: p.MTU, Up: true, Alias: p.Alias}).Index
			peer := h.addLink(canlink.Link{Name: p.PeerName, Kind: canlink.Vxcan, MTU: p.MTU, Up: true, Alias: p.Alias, PeerIndex: end}).Index
			h.link(p.Name).PeerIndex = peer
		}
		if a := c.Alias; a != nil {
			h.link(h.v.At(a.Index).Name).Alias = a.Text
			if said, _ := ParseAlias(a.Text); !said.Policy {
				for _, hook := range Hooks(a.Index, true)[2:] {
					delete(h.v.Filters, hook)
				}
			}
		}
		if t := c.AddTrunk; t != nil {
			if l := h.addTrunk(h.hub.Name, t.Tunnel); l.Name != t.Name || l.Alias != t.Alias {
				panic(fmt.Sprintf("%+v", t))
			}
		}
		if c.SetTable != nil {
			h.table, h.v.Underlay.Table = *c.SetTable, c.SetTable.Listing()
		} else if c.DeleteTable != "" {
			h.table, h.v.Underlay.Table = underlay.Table{}, ""
		}
		if c.Controller.SetUp != nil {
			h.setUp(*c.Controller.SetUp, c.Controller.Queue)
		} else if c.Controller.Queue != 0 {
			h.v.Controller.Queue = c.Controller.Queue
		}
		for _, index := range c.Up {
			h.link(h.v.At(index).Name).Up = true
		}
		changed = changed || c.TouchesDevices()
		wiring.Add(c.Wiring)
	}
	if !changed {
		h.wire(wiring)
		for _, d := range all {
			for _, index := range d.Change.UpLast {
				h.link(h.v.At(index).Name).Up = true
			}
		}
	}
	return changed
}

// holdQdisc puts a qdisc of another program in the place of that of a device, whose filters go with it.
func (h *host) holdQdisc(dev int, q cantc.Qdisc) {
	q.Dev = dev
	h.v.Qdiscs = append(h.v.Qdiscs, q)
	h.v.Entries = slices.DeleteFunc(h.v.Entries, func(e cantc.Entry) bool { return e.Dev == dev })
	for hook := range h.v.Filters {
		if hook.Dev == dev {
			delete(h.v.Filters, hook)
		}
	}
}

func (h *host) wire(w Wiring) {
	for _, dev := range w.DeleteQdiscs {
		h.holdQdisc(dev, cantc.Qdisc{})
		h.v.Qdiscs = slices.DeleteFunc(h.v.Qdiscs, func(q cantc.Qdisc) bool { return q.Dev == dev })
	}
	if len(w.AddClasses) > 0 {
		h.v.Queue.Kind, h.v.Queue.Ours = "drr", true
		for _, mark := range append(w.AddClasses, 0) {
			if h.v.Queue.Class(mark) == nil {
				class := cantc.ClassOf(mark)
				class.Filter = true
				h.v.Queue.Classes = append(h.v.Queue.Classes, class)
			}
		}
	}
	for _, c := range w.DeleteClasses {
		h.v.Queue.Classes = slices.DeleteFunc(h.v.Queue.Classes, func(there cantc.Class) bool { return there == c })
	}
	for _, f := range w.SetFilters {
		h.v.Filters[f.Hook] = cantc.Installed{Filter: f, Kind: cantc.Kind}
		if _, rx := config.BackplaneNames(h.hub.Name); f.Dev == h.v.Link(h.hub.Name).Index || f.Dev == h.v.Link(rx).Index {
			h.v.Entries = slices.DeleteFunc(h.v.Entries, func(e cantc.Entry) bool { return e.Hook == f.Hook && !e.Holds() })
			h.v.Entries = append(h.v.Entries, ours(f.Hook))
		}
	}
	for _, j := range w.DeleteJobs {
		i := slices.Index(h.v.Jobs, j)
		h.v.Jobs = slices.Delete(h.v.Jobs, i, i+1)
	}
	h.v.Jobs = append(h.v.Jobs, plain(w.AddRules...)...)
	for _, hook := range w.DeleteFilters {
		delete(h.v.Filters, hook)
		h.v.Entries = slices.DeleteFunc(h.v.Entries, func(e cantc.Entry) bool { return e.Hook == hook })
	}
}

// ours is what cantc.List returns of a filter of ours.
func ours(hook cantc.Hook) cantc.Entry {
	return cantc.Entry{Hook: hook, Kind: cantc.Kind, Protocol: unix.ETH_P_ALL}
}

// party is what sends and hears on the bus: the hub, or an endpoint.
type party struct {
	name          string
	device        *device
	send, receive func(id uint32) bool
	hub, fd, far  bool   // far is all that is on another host
	mark          uint32 // of its packets, if it is far
}

// model is the host as the kernel sends frames through it.
func (h *host) model() (*model, []party) {
	m := &model{host: make(map[uint32]*device), maxHops: 1}
	for _, l := range h.v.Links {
		if _, _, _, trunk := ParseTrunk(l); l.CAN || trunk {
			m.add(uint32(l.Index), l.FD())
		}
	}
	for _, l := range h.v.Links {
		if l.Kind == canlink.Vxcan && !l.PeerElsewhere {
			m.host[uint32(l.Index)].peer = m.host[uint32(l.PeerIndex)]
		}
	}
	for _, j := range h.v.Jobs {
		m.jobs = append(m.jobs, j.Rule)
	}
	for _, f := range h.v.Filters {
		m.filters = append(m.filters, f.Filter)
	}
	slices.SortFunc(m.filters, func(a, b cantc.Filter) int { return int(a.Prio) - int(b.Prio) })
	anyID := func(uint32) bool { return true }
	var parties []party
	if hub := h.v.Link(h.hub.Name); hub.CAN {
		parties = append(parties, party{hub.Name, m.host[uint32(hub.Index)], anyID, anyID, true, hub.FD(), false, 0})
	}
	for i, e := range h.endpoints() {
		dev := m.host[uint32(e.Host.Index)]
		dev.peer = &device{index: uint32(5000 + i), inner: true, fd: dev.fd, peer: dev}
		p := e.Endpoint.Policy
		if e.CutOff {
			p = nothing
		}
		send, receive, err := p.IDs()
		if err != nil {
			panic(err)
		}
		parties = append(parties, party{e.ContainerID, dev.peer, send.Contains, receive.Contains, false, dev.fd, false, 0})
	}
	guarded := h.table.Name != "" && (h.table.Listing() == h.v.Underlay.Table || h.v.Underlay.Unread != nil)
	for i, t := range h.v.trunksOf(h.hub.Name) { // a trunk is like a pair whose other end is on another host
		l := t.Device
		dev := m.host[uint32(l.Index)]
		dev.peer = &device{index: uint32(6000 + i), inner: true, fd: true, peer: dev}
		far := party{l.Tunnel.Remote.String(), dev.peer, anyID, anyID, false, true, true, 0}
		if guarded && h.trusts(l.Tunnel.Remote) {
			far.mark = underlay.Mark
		}
		parties = append(parties, far)
	}
	return m, parties
}

// deliveries lets some of the parties send a frame of each kind, and returns what is wrong: every other one must hear each
// frame once that both policies allow, and no other.
func (h *host) deliveries() (wrong []string) {
	m, parties := h.model()
	if len(parties) == 0 {
		return nil
	}
	senders := []int{0, len(parties) / 2, len(parties) - 1}
	for _, n := range slices.Compact(senders) {
		from := parties[n]
		if from.far && !h.hub.Span.Unprotected {
			wrong = append(wrong, h.forged(m, from, parties)...)
		}
		for _, id := range []uint32{0x100, 0x123, 0x200, 0x7ff, 0x18fef100 | unix.CAN_EFF_FLAG} {
			for _, fd := range []bool{false, true} {
				if fd && !from.fd {
					continue
				}
				for _, p := range parties {
					p.device.heard = 0
				}
				m.passed = 0
				m.canSend(from.device, frame{origin: from.device.index, fd: fd, id: id, mark: from.mark}, true)
				for i, to := range parties {
					want, why := 0, ""
					if from.far && to.far && i != n { // which have a trunk of their own
						if got := to.device.heard; got != 0 {
							wrong = append(wrong, fmt.Sprintf("%s hears %X of %s by this host %d times", to.name, id, from.name, got))
						}
						continue
					}
					allowed := i == n || from.send(id) && to.receive(id)
					if i != n && from.far && from.mark == 0 && !h.hub.Span.Unprotected { // closed
						want = 0
					} else if allowed && (!fd || to.fd) {
						want = 1
					} else if !allowed {
						why = forbidden
					}
					if got := to.device.heard; got != want {
						wrong = append(wrong, fmt.Sprintf("%s hears %X of %s (FD %v) %d times, want %d%s", to.name, id, from.name, fd, got, want, why))
					}
				}
			}
		}
	}
	return wrong
}

// forged lets others send frames in the name of another host: nobody may hear them.
func (h *host) forged(m *model, from party, parties []party) (wrong []string) {
	_, rx := config.BackplaneNames(h.hub.Name)
	for _, mark := range []uint32{0, underlay.Mark + 1, from.device.peer.index, uint32(h.v.Link(rx).Index), uint32(h.v.Link(h.hub.Name).Index)} {
		for _, p := range parties {
			p.device.heard = 0
		}
		m.canSend(from.device, frame{origin: from.device.index, id: 0x100, mark: mark}, false)
		for _, to := range parties {
			if to.device.heard > 0 {
				wrong = append(wrong, fmt.Sprintf("%s hears what is forged in the name of %s, mark %#x%s", to.name, from.name, mark, forbidden))
			}
		}
	}
	return wrong
}

const forbidden = ": a policy forbids it"

// leaks returns which frames arrive that a policy forbids, whatever else is wrong.
func (h *host) leaks() (leaks []string) {
	for _, w := range h.deliveries() {
		if strings.HasSuffix(w, forbidden) {
			leaks = append(leaks, w)
		}
	}
	return leaks
}

// runBPF runs a classic BPF program on a frame (the interpreter of net/core/filter.c).
func runBPF(code []unix.SockFilter, f frame) (result uint32) {
	packet := binary.NativeEndian.AppendUint32(nil, f.canID())
	var a, x uint32
	for pc := 0; pc < len(code); pc++ {
		ins, jump := code[pc], false
		switch ins.Code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			switch {
			case ins.K == loadMark.K:
				a = f.mark
			case ins.K == loadProtocol.K && f.fd:
				a = unix.ETH_P_CANFD
			case ins.K == loadProtocol.K:
				a = unix.ETH_P_CAN
			default:
				panic(fmt.Sprintf("unknown word %#x", ins.K))
			}
		case unix.BPF_LD | unix.BPF_B | unix.BPF_ABS:
			a = uint32(packet[ins.K])
		case unix.BPF_ALU | unix.BPF_AND | unix.BPF_K:
			a &= ins.K
		case unix.BPF_ALU | unix.BPF_LSH | unix.BPF_K:
			a <<= ins.K
		case unix.BPF_ALU | unix.BPF_OR | unix.BPF_X:
			a |= x
		case unix.BPF_MISC | unix.BPF_TAX:
			x = a
		case unix.BPF_MISC | unix.BPF_TXA:
			a = x
		case unix.BPF_JMP | unix.BPF_JA:
			pc += int(ins.K)
			continue
		case unix.BPF_RET | unix.BPF_K:
			return ins.K
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			jump = a == ins.K
		case unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K:
			jump = a > ins.K
		case unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K:
			jump = a >= ins.K
		case unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K:
			jump = a&ins.K != 0
		default:
			panic(fmt.Sprintf("unknown instruction %#x", ins.Code))
		}
		if ins.Code&7 == unix.BPF_JMP {
			if jump {
				pc += int(ins.Jt)
			} else {
				pc += int(ins.Jf)
			}
		}
	}
	panic("a program without an end")
}
