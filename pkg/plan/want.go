package plan

import (
	"slices"

	"github.com/vxcan/vxcan/pkg/canlink"
	"github.com/vxcan/vxcan/pkg/cantc"
	"github.com/vxcan/vxcan/pkg/config"
)

// Want is what a bus must be made of. Of host ends it holds those that are there: only its own ADD can make one.
type Want struct {
	Hub       config.Hub
	TX, RX    string // names of the backplane's ends
	Endpoints []Endpoint
	Attaching string // host end that is being attached, or "": what it lacks is no damage
	MTU       int    // that the endpoint being attached or checked asks for, or 0

	others     config.Hub  // that the other endpoints ask for, if they want a controller set up; else the zero Hub
	othersSpan config.Span // the hosts that they ask for
	fair       bool        // somebody wants a transmit queue of its own for each endpoint
}

// NewWant derives what a bus must be made of from the hub that a request asks for and the endpoints that are there.
func NewWant(hub config.Hub, endpoints []Endpoint, attaching string) Want {
	w := Want{Hub: hub, Endpoints: endpoints, Attaching: attaching, fair: hub.IsFair()}
	w.TX, w.RX = config.BackplaneNames(hub.Name)
	w.othersSpan = spanOf(endpoints, attaching)
	for i := range endpoints {
		e := &endpoints[i]
		if e.hostIf() == attaching {
			continue
		}
		w.fair = w.fair || e.Hub.IsFair()
		if e.Hub.SetsUp() {
			w.others = e.Hub
			break
		}
	}
	return w
}

// AgreedHub is the hub that the endpoints of a bus ask for, where no request says more. now is the device, or the zero Link:
// one that is not a vcan is used as it is, whatever became of the record.
func AgreedHub(name string, now canlink.Link, endpoints []Endpoint) config.Hub {
	hub := config.Hub{Name: name, Physical: now.CAN && now.Kind != canlink.Vcan, Transient: len(endpoints) > 0}
	if now.Index == 0 { // a missing hub is virtual if an endpoint wants it so, or if there is none and the name is a vcan's
		isVirtual := func(e Endpoint) bool { return !e.Hub.Physical }
		hub.Physical = !slices.ContainsFunc(endpoints, isVirtual) && !(len(endpoints) == 0 && config.CanMake(name))
	}
	for i := range endpoints {
		e := &endpoints[i]
		hub.Transient = hub.Transient && e.Hub.Transient
		hub.FairQueue = hub.FairQueue || e.Hub.FairQueue
		if e.Hub.SetsUp() && !hub.SetsUp() {
			hub.Controller, hub.TxQueue = e.Hub.Controller, e.Hub.TxQueue
		}
	}
	if now.Index != 0 {
		hub.Transient = IsTransient(now)
	}
	hub.Span = spanOf(endpoints, "")
	return hub
}

// MTUOf is the MTU that a hub has, or will have when it is made or set up. now is the device, or the zero Link.
func MTUOf(hub config.Hub, now canlink.Link) int {
	switch {
	case hub.SetsUp() && hub.Controller.FD:
		return canlink.FDMTU
	case hub.SetsUp():
		return canlink.ClassicMTU
	case now.Index == 0, IsOurHub(now):
		return canlink.FDMTU
	}
	return now.MTU
}

// MTUFor is the MTU of both ends of an endpoint, or 0 where only a hub that is missing knows it. now is as in MTUOf.
func (w Want) MTUFor(e config.Endpoint, now canlink.Link) int {
	if now.Index == 0 && w.Hub.Physical && !w.SetsUp() && e.MTU == 0 {
		return 0
	}
	return e.MTUOn(MTUOf(w.Hub, now))
}

// hasFound reports whether an endpoint without a record may have asked for what no other endpoint wants.
func (w Want) hasFound() bool {
	return slices.ContainsFunc(w.Endpoints, func(e Endpoint) bool { return e.Found && e.hostIf() != w.Attaching })
}

// SetsUp reports whether the hub is a controller that somebody on the bus has set up.
func (w Want) SetsUp() bool { return w.Hub.SetsUp() || w.others.SetsUp() }

// members is all that sends and receives on the bus: the hub, if it is there, and the endpoints.
func (w Want) members(hub canlink.Link, v View) (members []member) {
	if hub.CAN {
		m := member{dev: uint32(hub.Index), hub: true, fd: hub.FD(), controller: hub.Kind != canlink.Vcan}
		m.deaf = m.controller && slices.ContainsFunc(Hooks(hub.Index, false), v.prevented) // frames from the wire would go back to it
		members = append(members, m)
	}
	compiled := make(map[config.Policy]access) // most have the same
	for i := range w.Endpoints {
		e := &w.Endpoints[i]
		policy := e.Endpoint.Policy
		if e.CutOff {
			policy = nothing
		}
		a, ok := compiled[policy]
		if !ok {
			a, _ = compile(policy) // it is readable, see CheckPolicy
			compiled[policy] = a
		}
		m := member{dev: uint32(e.Host.Index), fd: e.Host.FD(), access: a}
		m.deaf = a.denied != nil && (v.prevented(hooks(e.Host.Index, FirstPrio)[1]) || v.prevented(hooks(e.Host.Index, SecondPrio)[1]))
		members = append(members, m)
	}
	return members
}

func (w Want) backplane(v View) backplane {
	return backplane{uint32(v.Link(w.TX).Index), uint32(v.Link(w.RX).Index), v.Rootless, w.trunksThere(v), w.Span(v).Unprotected}
}

// Wire is the filters and rules of an endpoint whose pair has just been made.
func (w Want) Wire(v View, e Endpoint) Wiring {
	common := w.backplane(v)
	members := Want{Endpoints: []Endpoint{e}}.members(v.Link(w.Hub.Name), v)
	own := members[len(members)-1]
	wiring := Wiring{SetFilters: filters(common, own)}
	if w.queues(v) {
		wiring.AddClasses = []uint32{own.dev}
	}
	for _, r := range rules(common, members) {
		if r.Dst == own.dev {
			wiring.AddRules = append(wiring.AddRules, r)
		}
	}
	return wiring
}

// Removal is the change that takes away a bus without endpoints: backplane and hub if we made them, else our filters on the hub,
// and the rules of the backplane.
func Removal(hubName string, v View) (c Change) {
	w := NewWant(config.Hub{Name: hubName}, nil, "")
	for _, t := range v.trunksOf(hubName) {
		c.Remove = append(c.Remove, t.Device.Index)
	}
	if v.hasTable(hubName) {
		c.DeleteTable = config.TableName(hubName)
	}
	for _, end := range []canlink.Link{v.Link(w.TX), v.Link(w.RX)} {
		switch index := uint32(end.Index); {
		case IsOurBackplane(end):
			c.Remove = append(c.Remove, end.Index)
		case end.Kind == canlink.Vxcan:
			for _, j := range v.Jobs {
				if j.Src == index || j.Dst == index {
					c.Wiring.DeleteJobs = append(c.Wiring.DeleteJobs, j)
				}
			}
			if spread := spreadHook(index); v.HasTrunks(hubName) && v.Filters[spread].Kind == cantc.Kind {
				c.Wiring.DeleteFilters = append(c.Wiring.DeleteFilters, spread)
			}
			for _, e := range v.Entries {
				if e.Dev == end.Index && w.backplane(v).isCopy(e) {
					c.Wiring.DeleteFilters = append(c.Wiring.DeleteFilters, e.Hook)
				}
			}
		}
	}
	hub := v.Link(hubName)
	if IsOurHub(hub) {
		c.Remove = append(c.Remove, hub.Index)
	} else if hub.Index != 0 {
		for _, f := range filters(w.backplane(v), member{dev: uint32(hub.Index), hub: true}) {
			// Where it sends to may be a backplane that is there no more.
			if there := v.Filters[f.Hook].Filter; f.Dev == hub.Index && withoutDevices(f).Equal(withoutDevices(there)) {
				c.Wiring.DeleteFilters = append(c.Wiring.DeleteFilters, f.Hook)
			}
		}
	}
	return c
}

func withoutDevices(f cantc.Filter) cantc.Filter {
	f.Actions = slices.Clone(f.Actions)
	for i := range f.Actions {
		f.Actions[i].Dev = 0
	}
	return f
}
