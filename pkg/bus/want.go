package bus

import (
	"slices"

	"github.com/vxcan/vxcan/pkg/canlink"
	"github.com/vxcan/vxcan/pkg/controller"
)

// want is what a bus must be made of. Of host ends it holds those that are there: only its own Attach can make one.
type want struct {
	spec      Spec
	tx, rx    string // names of the backplane's ends
	endpoints []endpoint
	// attaching is the host end that is being attached, or "". What it lacks is no damage.
	attaching string
	// healing tells that a controller may be down: its owner sets it up later, and its rules wait for it.
	healing bool
	// others is how the endpoints that are there but that one have set the controller up, if they have.
	others controller.Settings
}

// want derives what the bus must be made of from the endpoints that are there. attaching is the host end that is being
// attached, or "".
func (b *bus) want(spec Spec, attaching string) want {
	w := want{spec: spec, endpoints: b.endpoints, attaching: attaching, healing: b.healing}
	w.tx, w.rx = backplaneNames(b.name)
	if slices.ContainsFunc(b.endpoints, func(e endpoint) bool { return e.host.Name != attaching }) {
		w.others = b.controllerSpec().Controller
	}
	return w
}

// members is all that sends and receives on the bus: the hub, and the endpoints that are there. cutOff names those whose
// policy is not known.
func (w want) members(hub canlink.Link) (members []member, cutOff []Attachment) {
	members = []member{{dev: uint32(hub.Index), hub: true, fd: hub.FD(), controller: w.spec.Physical}}
	compiled := make(map[Policy]access) // most have the same
	for _, e := range w.endpoints {
		policy := e.Policy
		if e.cutOff {
			policy = nothing
			cutOff = append(cutOff, e.Attachment)
		}
		a, ok := compiled[policy]
		if !ok {
			a, _ = policy.compile() // it is readable, see load
			compiled[policy] = a
		}
		members = append(members, member{dev: uint32(e.host.Index), fd: e.host.FD() && hub.FD(), access: a})
	}
	return members, cutOff
}

// hubMTU is the MTU that a hub has, or will have when it is made or set up.
func (s Spec) hubMTU(hub canlink.Link) int {
	switch {
	case s.setsUp() && s.Controller.FD:
		return canlink.FDMTU
	case s.setsUp():
		return canlink.ClassicMTU
	case hub.Index == 0:
		return canlink.FDMTU
	}
	return hub.MTU
}

// mtu is the MTU of an endpoint's two ends on a hub.
func (s Spec) mtu(hub canlink.Link) int {
	switch {
	case s.MTU != 0:
		return s.MTU
	case s.hubMTU(hub) < canlink.FDMTU:
		return canlink.ClassicMTU
	}
	return canlink.FDMTU
}
