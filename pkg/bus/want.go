package bus

import "github.com/vxcan/vxcan/pkg/canlink"

// want is what a bus must be made of. Of host ends it holds those that are there: only its own Attach can make one.
type want struct {
	spec       Spec
	backplanes []backplaneWant // of the bus, and of each private endpoint
	endpoints  []endpoint
	leftovers  []leftover // which must go
	// attaching is the host end that is being attached, or "". What it lacks is no damage.
	attaching string
	// healing tells that a controller may be down: its owner sets it up later, and its rules wait for it.
	healing bool
}

// backplaneWant is a vxcan pair in the host's netns.
type backplaneWant struct {
	tx, rx string
	alias  string
	of     string // the host end of a private endpoint, "" for the bus's own
}

// want derives what the bus must be made of from the endpoints that are there. attaching is the host end that is being
// attached, or "".
func (b *bus) want(spec Spec, attaching string) want {
	w := want{spec: spec, endpoints: b.endpoints, leftovers: b.leftovers, attaching: attaching, healing: b.healing}
	tx, rx := backplaneNames(b.name)
	w.backplanes = []backplaneWant{{tx: tx, rx: rx, alias: backplaneAlias}}
	for _, e := range w.endpoints {
		if e.private() {
			tx, rx := privateNames(e.host.Name)
			w.backplanes = append(w.backplanes, backplaneWant{tx, rx, alias(b.name, e.Attachment), e.host.Name})
		}
	}
	return w
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
