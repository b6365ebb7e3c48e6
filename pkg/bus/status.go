package bus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/vxcan/vxcan/pkg/cangw"
	"github.com/vxcan/vxcan/pkg/canlink"
	"github.com/vxcan/vxcan/pkg/cantc"
	"github.com/vxcan/vxcan/pkg/config"
	"github.com/vxcan/vxcan/pkg/controller"
	"github.com/vxcan/vxcan/pkg/plan"
	"github.com/vxcan/vxcan/pkg/rtnl"
	"github.com/vxcan/vxcan/pkg/store"
)

// BusStatus is a bus as one look shows it. Counters are frames since the device, or its rules and filters, were made. They are
// read one after the other while frames pass, so that sums of them may be a few frames apart.
type BusStatus struct {
	Hub        string            `json:"hub"`
	Kind       string            `json:"kind"` // "vcan", "can", "hardware" for other controllers, "" if it is not there
	Up         bool              `json:"up"`
	MTU        int               `json:"mtu,omitempty"`
	Controller *ControllerStatus `json:"controller,omitempty"` // of one that netlink can set up
	// Sent are frames of programs on the hub, and of the wire. Heard are those that it took from containers.
	Sent  uint64 `json:"sent"`
	Heard uint64 `json:"heard"`
	Lost  uint64 `json:"lost"` // for the hub: its queue was full, or it was down
	// Waiting and WireLost are those of programs on the hub, see EndpointStatus.
	Waiting  uint64 `json:"waiting"`
	WireLost uint64 `json:"wireLost"`
	// Traffic counts the frames of a hub whose Controller is nil. A vcan sends every frame of the bus; in a user namespace, where
	// it does not, it is what the backplane carries.
	Traffic   canlink.Traffic  `json:"traffic,omitzero"`
	Endpoints []EndpointStatus `json:"endpoints"`
	Trunks    []TrunkStatus    `json:"trunks,omitempty"`  // of a bus that spans several hosts
	Outside   []string         `json:"outside,omitempty"` // addresses of nodes that are in another network, and so not on the bus
	// Unprotected reports trunks that take the packets of everybody, as the key unprotected allows.
	Unprotected bool         `json:"unprotected,omitempty"`
	Differences []Difference `json:"differences"` // what CHECK would say of the bus
}

// ControllerStatus is what the kernel tells of a controller.
type ControllerStatus struct {
	Device      string            `json:"device,omitempty"` // driver, or type of the hardware
	State       string            `json:"state"`
	Bitrate     uint32            `json:"bitrate,omitempty"` // bits per second
	DataBitrate uint32            `json:"dbitrate,omitempty"`
	Queue       int               `json:"txqueuelen"` // frames
	Qdisc       string            `json:"qdisc"`      // drr where each endpoint has a queue of its own
	RestartMS   uint32            `json:"restartMS,omitempty"`
	Errors      *ErrorCounters    `json:"errors,omitempty"` // nil where the driver does not tell them
	Traffic     canlink.Traffic   `json:"traffic"`
	Events      controller.Events `json:"events"`
}

// ErrorCounters are a controller's.
type ErrorCounters struct {
	Tx uint16 `json:"tx"`
	Rx uint16 `json:"rx"`
}

// EndpointStatus is an endpoint.
type EndpointStatus struct {
	config.Attachment
	NetworkName string        `json:"networkName,omitempty"` // where Network is an ID and the runtime tells the name
	Name        string        `json:"name,omitempty"`        // of the container, where its runtime has told it
	HostIf      string        `json:"hostIf"`                // host end
	Interface   string        `json:"interface,omitempty"`   // container end; "" if it cannot be seen
	Up          bool          `json:"up"`                    // both ends
	Policy      config.Policy `json:"policy,omitzero"`
	// Sent are frames that got to the bus. DeniedSend and DeniedReceive are frames that its policy kept back, and OverRate
	// those that were sent faster than it allows. Heard are frames handed to the container, Lost those that its interface
	// did not take.
	Sent          uint64 `json:"sent"`
	Heard         uint64 `json:"heard"`
	DeniedSend    uint64 `json:"deniedSend"`
	DeniedReceive uint64 `json:"deniedReceive"`
	OverRate      uint64 `json:"overRate"`
	Lost          uint64 `json:"lost"`
	// Waiting are frames in its own queue to the wire, and WireLost those that found it full.
	Waiting  uint64 `json:"waiting"`
	WireLost uint64 `json:"wireLost"`
}

// TrunkStatus is the trunk to another host. Its counters are those of its device, since it was made.
type TrunkStatus struct {
	Local  string `json:"local,omitempty"` // address of this host; "" if the trunk is missing
	Peer   string `json:"peer"`            // address of the other host
	BusID  uint32 `json:"busID,omitempty"` // the same on all hosts of the bus
	Device string `json:"device,omitempty"`
	Up     bool   `json:"up"`
	// Sent are frames that have come from the other host, and Heard those that were sent to it. Lost are those that were dropped
	// here on their way to it. What was lost between two hosts is what one says was Heard, less what the other says was Sent.
	Sent  uint64 `json:"sent"`
	Heard uint64 `json:"heard"`
	Lost  uint64 `json:"lost"`
	// Denied are packets for the tunnel that are not from the other host itself, and what is no CAN frame.
	Denied uint64 `json:"denied"`
}

// Difference is one way in which a bus is not as it must be, and how that can be repaired.
type Difference struct {
	Kind plan.Kind `json:"kind"`
	// HostIfs are the host ends of the endpoints that it is about; none if it is about the bus.
	HostIfs []string `json:"hostIfs,omitempty"`
	What    string   `json:"what"`
	Cure    string   `json:"cure"`
	ByHeal  bool     `json:"byHeal"` // vxcanctl heal repairs it
}

// Buses names the buses of this host, sorted: those that aliases of devices tell of and, for root, those with a record.
func (h *Host) Buses() ([]string, error) {
	names, _, err := h.look()
	return names, explain(err)
}

// Attached counts endpoints by hub and runtime, as the aliases of devices tell. It needs no root.
func (h *Host) Attached() (counts map[[2]string]int, retErr error) {
	defer func() { retErr = explain(retErr) }()
	v, err := h.devices()
	if err != nil {
		return nil, err
	}
	counts = make(map[[2]string]int)
	for _, hub := range v.Buses() {
		for _, e := range v.Endpoints(hub, nil) {
			counts[[2]string{hub, e.Runtime}]++
		}
	}
	return counts, nil
}

// Hubs names the CAN devices of this host that a bus has as its hub, or could have: controllers and vcans.
func (h *Host) Hubs() (names []string, err error) {
	_, v, err := h.look()
	for _, link := range v.Links {
		if link.CAN && link.Kind != canlink.Vxcan && config.CheckHub(link.Name) == nil {
			names = append(names, link.Name)
		}
	}
	return names, explain(err)
}

// look names the buses and shows the devices of the host. What could be seen is returned also with an error.
func (h *Host) look() (names []string, v plan.View, err error) {
	dir, err := h.netnsDir()
	if err != nil {
		return nil, v, err
	}
	names, errRecords := store.Names(dir)
	v, err = h.devices()
	if errors.Is(err, errForeignNetns) {
		return nil, v, err
	}
	names = append(names, v.Buses()...)
	slices.Sort(names)
	return slices.Compact(names), v, errors.Join(errRecords, err)
}

func (h *Host) devices() (v plan.View, retErr error) {
	k, err := h.connect(nil)
	if err != nil {
		return v, err
	}
	defer func() { retErr = errors.Join(retErr, k.close()) }()
	v.Links, err = k.links.List()
	return v, err
}

// Status looks at buses, or if none are named, at all of this host. It changes nothing, and holds the lock of one bus after
// the other for the time of a look. It returns what could be seen also with an error.
func (h *Host) Status(ctx context.Context, hubs ...string) (all []BusStatus, err error) {
	named := len(hubs) > 0
	if !named {
		hubs, err = h.Buses()
	}
	errs := []error{err}
	for _, hub := range hubs {
		s, there, err := h.status(ctx, hub)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("bus %s: %w", hub, explain(err)))
		case there:
			all = append(all, s)
		case named:
			errs = append(errs, fmt.Errorf("bus %s: %w", hub, ErrNoBus))
		}
	}
	return all, errors.Join(errs...)
}

// status looks at one bus. there reports whether there is one.
func (h *Host) status(ctx context.Context, hub string) (s BusStatus, there bool, retErr error) {
	if err := config.CheckHub(hub); err != nil {
		return s, false, err
	}
	b, err := h.open(ctx, hub)
	if err != nil {
		return s, false, err
	}
	defer func() { retErr = errors.Join(retErr, b.close()) }()
	if b.unread != nil {
		return s, false, b.unread
	}
	differences, err := lasting(func() ([]Difference, error) {
		if _, err := b.observe(); err != nil {
			return nil, err
		}
		s, err = b.status()
		return s.Differences, err
	})
	s.Differences = differences
	return s, len(s.Endpoints) > 0 || plan.IsOurHub(b.view.Link(hub)) || len(s.Trunks) > 0, err
}

func (b *bus) status() (s BusStatus, err error) {
	hub := b.view.Link(b.name)
	s = BusStatus{
		Hub: b.name, Up: hub.Up, MTU: hub.MTU, Controller: controllerStatus(b.view.Controller, b.view.Queue.Kind),
		Endpoints: []EndpointStatus{}, Differences: []Difference{},
	}
	if hub.Index != 0 {
		s.Kind = plan.KindWord(hub.Kind)
	}
	w := b.agreed()
	if hub.Index != 0 && s.Controller == nil {
		if s.Traffic, err = b.traffic(hub, b.view.Link(w.TX)); err != nil {
			return s, err
		}
	}
	count := b.counters()
	tx, rx := uint32(b.view.Link(w.TX).Index), uint32(b.view.Link(w.RX).Index)
	s.Sent = count.rules[[2]uint32{uint32(hub.Index), tx}].handled
	heard := count.rules[[2]uint32{rx, uint32(hub.Index)}]
	own := cantc.Egress // where its own frames are dropped
	if b.view.Rootless {
		own = cantc.Ingress
	}
	s.Heard, s.Lost = heard.handled, less(heard.dropped, count.last(hub.Index, own, plan.FirstPrio))
	s.Waiting, s.WireLost = count.wire(0)

	all := plan.Diff(w, b.view)
	ends, err := b.contEnds()
	if err != nil {
		return s, err
	}
	for i, e := range b.endpoints {
		s.Endpoints = append(s.Endpoints, count.endpoint(e, ends[i], rx))
		all = append(all, plan.DiffEnd(e, ends[i], w.MTUFor(e.Endpoint, hub))...)
	}
	if s.Trunks, err = b.trunks(w, count); err != nil {
		return s, err
	}
	s.Unprotected = w.Span(b.view).Unprotected
	for _, a := range w.Outside(b.view) {
		s.Outside = append(s.Outside, a.String())
	}
	for _, d := range all {
		noRight := d.Kind == plan.TableUnread && errors.Is(b.view.Underlay.Unread, rtnl.ErrPermission) // a look without privileges cannot read tables
		if d.What != "" && !noRight {
			byHeal := d.ByHeal() && plan.Refusal(all, true) == nil
			s.Differences = append(s.Differences, Difference{d.Kind, d.HostIfs, d.What, d.Cure, byHeal})
		}
	}
	return s, nil
}

// traffic is that of a hub that is no controller. In a user namespace it is the backplane's, with each frame counted as sent and as
// received, as a vcan counts.
func (b *bus) traffic(hub, tx canlink.Link) (t canlink.Traffic, err error) {
	if b.view.Rootless {
		hub = tx
	}
	if hub.Index == 0 {
		return t, nil
	}
	all, err := b.k.links.Traffic(hub.Index)
	if err != nil {
		return t, err
	}
	if t = all[0]; b.view.Rootless {
		t.RxFrames, t.RxBytes = t.TxFrames, t.TxBytes
	}
	return t, nil
}

func (b *bus) contEnds() ([]canlink.Link, error) {
	hosts := make([]canlink.Link, len(b.endpoints))
	for i, e := range b.endpoints {
		hosts[i] = e.Host
	}
	ends, err := b.k.links.Peers(hosts...)
	if err != nil {
		return nil, err
	}
	for i, host := range hosts {
		if !host.PeerElsewhere {
			ends[i] = b.view.At(host.PeerIndex)
		}
	}
	return ends, nil
}

func (b *bus) trunks(w plan.Want, count counters) (all []TrunkStatus, err error) {
	peers := w.Peers(b.view)
	var indexes []int
	for _, p := range peers {
		if p.Device.Index != 0 {
			indexes = append(indexes, p.Device.Index)
		}
	}
	traffic, err := b.k.links.Traffic(indexes...)
	if err != nil {
		return nil, err
	}
	for _, p := range peers {
		t := TrunkStatus{Peer: p.Address.String()}
		if d := p.Device; d.Index != 0 {
			t.Local, t.BusID, t.Device, t.Up = d.Tunnel.Local.String(), d.Tunnel.Key, d.Name, d.Up
			t.Heard, t.Lost, t.Denied = traffic[0].TxFrames, traffic[0].Dropped, count.last(d.Index, cantc.Ingress, plan.SecondPrio)
			t.Sent = less(traffic[0].RxFrames, t.Denied)
			traffic = traffic[1:]
		}
		all = append(all, t)
	}
	return all, nil
}

func controllerStatus(c controller.Device, qdisc string) *ControllerStatus {
	if c.Index == 0 {
		return nil
	}
	s := &ControllerStatus{
		Device: cmp.Or(c.Driver, c.Hardware), State: c.State.String(), Bitrate: c.Timing.Bitrate, DataBitrate: c.DataTiming.Bitrate,
		Queue: c.Queue, Qdisc: qdisc, RestartMS: c.RestartMS, Traffic: c.Traffic, Events: c.Events,
	}
	if c.KnowsErrors {
		s.Errors = &ErrorCounters{c.TxErrors, c.RxErrors}
	}
	return s
}

// counters are those of a bus's rules, by source and destination, and of its filters.
type counters struct {
	rules   map[[2]uint32]passed
	filters map[cantc.Hook][]uint64
	queue   cantc.Queue
}

// passed counts what rules have passed on, and what the other device did not take.
type passed struct{ handled, dropped uint64 }

func (b *bus) counters() counters {
	c := counters{map[[2]uint32]passed{}, map[cantc.Hook][]uint64{}, b.view.Queue}
	for _, j := range b.view.Jobs {
		if j.Plain && (j.Filter == cangw.Filter{} || j.Filter == plan.ErrorFrames) {
			n := c.rules[[2]uint32{j.Src, j.Dst}]
			c.rules[[2]uint32{j.Src, j.Dst}] = passed{n.handled + uint64(j.Handled), n.dropped + uint64(j.Dropped)}
		}
	}
	for _, f := range b.view.Filters {
		c.filters[f.Hook] = f.Packets
	}
	if b.view.Rootless {
		b.countCopies(&c)
	}
	return c
}

// countCopies counts what filters copy, in place of rules.
func (b *bus) countCopies(c *counters) {
	tx, rx := config.BackplaneNames(b.name)
	hub, from := b.view.Link(b.name).Index, b.view.Link(rx).Index
	c.rules[[2]uint32{uint32(hub), uint32(b.view.Link(tx).Index)}] = passed{handled: c.last(hub, cantc.Egress, plan.FirstPrio)}
	count := func(dev int, dropped uint64) {
		f := b.view.Filters[plan.CopyHooks(from, dev)[0]]
		if dropped = max(dropped, f.Failed); len(f.Packets) > 0 {
			c.rules[[2]uint32{uint32(from), uint32(dev)}] = passed{less(f.Packets[0], dropped), dropped}
		}
	}
	count(hub, c.last(hub, cantc.Ingress, plan.FirstPrio))
	for _, e := range b.endpoints {
		count(e.Host.Index, 0)
	}
}

// wire counts the frames of a mark that wait for the wire, and those that its queue had no place for.
func (c counters) wire(mark uint32) (waiting, lost uint64) {
	if class := c.queue.Class(mark); class != nil {
		return uint64(class.Waiting), uint64(class.Dropped)
	}
	return 0, 0
}

// last counts frames that came as far as the last action of a filter.
func (c counters) last(dev int, dir cantc.Direction, prio uint16) uint64 {
	packets := c.filters[cantc.Hook{Dev: dev, Dir: dir, Prio: prio, Handle: 1}]
	if len(packets) == 0 {
		return 0
	}
	return packets[len(packets)-1]
}

func (c counters) endpoint(e plan.Endpoint, end canlink.Link, rx uint32) EndpointStatus {
	dev := e.Host.Index
	s := EndpointStatus{
		Attachment: e.Attachment, Name: e.Endpoint.Name, HostIf: e.Host.Name, Policy: e.Endpoint.Policy,
		Sent:          c.last(dev, cantc.Ingress, plan.FirstPrio),
		DeniedSend:    c.last(dev, cantc.Ingress, plan.SecondPrio),
		DeniedReceive: c.last(dev, cantc.Egress, plan.SecondPrio),
	}
	if plan.IsPair(e.Host, end) {
		s.Interface, s.Up = end.Name, e.Host.Up && end.Up
	}
	if all := c.filters[cantc.Hook{Dev: dev, Dir: cantc.Ingress, Prio: plan.FirstPrio, Handle: 1}]; len(all) > 0 && e.Endpoint.Policy.Rate != 0 {
		s.OverRate = less(all[0], s.Sent) // the first action is police
	}
	s.Waiting, s.WireLost = c.wire(uint32(dev))
	heard := c.rules[[2]uint32{rx, uint32(dev)}]
	s.Heard, s.Lost = heard.handled, less(heard.dropped, c.last(dev, cantc.Egress, plan.FirstPrio)+s.DeniedReceive)
	return s
}

// less is a - b, or 0 where b is more: counters are not read at one moment.
func less(a, b uint64) uint64 { return a - min(a, b) }
