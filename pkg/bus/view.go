package bus

import (
	"errors"
	"slices"
	"strings"

	"github.com/vxcan/vxcan/pkg/cangw"
	"github.com/vxcan/vxcan/pkg/canlink"
)

// view is all devices and gateway jobs of the host's netns, as the kernel listed them.
type view struct {
	links      []canlink.Link
	jobs       []cangw.Job
	controller canlink.Controller // the hub, if it is one that netlink can set up
}

func observe(k kernel, hub string) (v view, err error) {
	if v.links, err = k.AllLinks(); err != nil {
		return v, err
	}
	if l := v.link(hub); l.Kind == canlink.Can {
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
	Attachment
	host canlink.Link // host end
}

// private tells that the two ends do not share an ifindex, see rules.
func (e endpoint) private() bool { return e.host.PeerIndex != e.host.Index }

// movedBack tells that the container end was in use and is in the host's netns again: a runtime that had moved it into the
// container has moved it back, and the call that should tell us was lost.
func (v view) movedBack(e endpoint) bool {
	return !e.host.PeerElsewhere && e.host.Used && !v.at(e.host.PeerIndex).Up
}

// leftover is the private backplane of an endpoint that is gone.
type leftover struct {
	Attachment
	device canlink.Link // one end
}

// endpoints finds the endpoints of a bus: those of the recorded attachments that have a host end, in the order of the
// record, and then those that only the aliases of their devices tell of.
func (v view) endpoints(hub string, recorded []Attachment) (endpoints []endpoint, leftovers []leftover) {
	type device struct {
		link *canlink.Link
		Attachment
		aliased bool
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
	for _, a := range recorded {
		hostIf := hostIfName(a)
		if d, ok := devices[hostIf]; ok {
			endpoints = append(endpoints, endpoint{a, *d.link})
			delete(devices, hostIf)
		}
	}
	for i := range v.links {
		d, ok := devices[v.links[i].Name]
		if !ok || !d.aliased {
			continue
		}
		switch hostIf := hostIfName(d.Attachment); {
		case hostIf == d.link.Name:
			endpoints = append(endpoints, endpoint{d.Attachment, *d.link})
		case strings.HasPrefix(d.link.Name, rxPrefix) && v.link(hostIf).Index == 0:
			leftovers = append(leftovers, leftover{d.Attachment, *d.link})
		}
	}
	return endpoints, leftovers
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
