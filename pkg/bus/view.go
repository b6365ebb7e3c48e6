package bus

import (
	"errors"
	"slices"

	"github.com/vxcan/vxcan/pkg/cangw"
	"github.com/vxcan/vxcan/pkg/canlink"
	"github.com/vxcan/vxcan/pkg/cantc"
	"github.com/vxcan/vxcan/pkg/controller"
)

// view is all devices and gateway jobs of the host's netns, as the kernel listed them, and the filters of one bus.
type view struct {
	links      []canlink.Link
	jobs       []cangw.Job
	filters    map[cantc.Hook]cantc.Installed
	controller controller.Device // the hub, if it is one that netlink can set up
}

func observe(k kernel, hub string) (v view, err error) {
	if v.links, err = k.AllLinks(); err != nil {
		return v, err
	}
	if l := v.link(hub); l.Kind == controller.Can {
		v.controller, err = k.Controller(l.Index)
		if errors.Is(err, canlink.ErrNotFound) { // just unplugged
			v.links = slices.DeleteFunc(v.links, func(other canlink.Link) bool { return other.Index == l.Index })
		} else if err != nil {
			return v, err
		}
	}
	v.jobs, err = k.Jobs()
	return v, err
}

// link is the device of a name, or the zero Link.
func (v view) link(name string) canlink.Link {
	for _, l := range v.links {
		if l.Name == name {
			return l
		}
	}
	return canlink.Link{}
}

// at is the device with an ifindex, or the zero Link.
func (v view) at(index int) canlink.Link {
	for _, l := range v.links {
		if l.Index == index {
			return l
		}
	}
	return canlink.Link{}
}

// nameOf is the name of the device with an ifindex.
func (v view) nameOf(index uint32) string { return v.at(int(index)).Name }

// endpoint is an attachment that the kernel has the devices of.
type endpoint struct {
	recorded
	host canlink.Link // host end
	// cutOff tells that the endpoint has a policy that is not known any more. It neither sends nor hears until its own ADD.
	cutOff bool
}

// movedBack tells that the container end was in use and is in the host's netns again: a runtime that had moved it into the
// container has moved it back, and the call that should tell us was lost.
func (v view) movedBack(e endpoint) bool {
	return !e.host.PeerElsewhere && e.host.Used && !v.at(e.host.PeerIndex).Up
}

// endpoints finds the endpoints of a bus: those of the recorded attachments that have a host end, in the order of the
// record, and then those that only the aliases of their devices tell of.
func (v view) endpoints(hub string, records []recorded) (endpoints []endpoint) {
	type device struct {
		link *canlink.Link
		aliased
		ok bool
	}
	devices := make(map[string]device, len(v.links)) // vxcan devices, but for those of other buses, by name
	for i := range v.links {
		l := &v.links[i]
		if l.Kind != canlink.Vxcan {
			continue
		}
		on, a, ok := parseAlias(l.Alias)
		if !ok || on == hub {
			devices[l.Name] = device{l, a, ok}
		}
	}
	for _, r := range records {
		hostIf := hostIfName(r.Attachment)
		if d, ok := devices[hostIf]; ok {
			endpoints = append(endpoints, endpoint{recorded: r, host: *d.link, cutOff: d.policy && r.Policy == (Policy{})})
			delete(devices, hostIf)
		}
	}
	for i := range v.links {
		d, ok := devices[v.links[i].Name]
		if ok && d.ok && hostIfName(d.Attachment) == d.link.Name {
			endpoints = append(endpoints, endpoint{recorded: recorded{Attachment: d.Attachment}, host: *d.link, cutOff: d.policy})
		}
	}
	return endpoints
}

// altNameOf is the device that has an alternative name, or the zero Link.
func (v view) altNameOf(name string) canlink.Link {
	for _, l := range v.links {
		if slices.Contains(l.AltNames, name) {
			return l
		}
	}
	return canlink.Link{}
}
