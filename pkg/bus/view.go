package bus

import (
	"slices"
	"strings"

	"github.com/vxcan/vxcan/pkg/cangw"
	"github.com/vxcan/vxcan/pkg/canlink"
)

// view is all devices and gateway jobs of the host's netns, as the kernel listed them.
type view struct {
	links []canlink.Link
	jobs  []cangw.Job
}

func observe(k kernel) (view, error) {
	links, err := k.AllLinks()
	if err != nil {
		return view{}, err
	}
	jobs, err := k.Jobs()
	return view{links, jobs}, err
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

// nameOf is the name of the device with an ifindex.
func (v view) nameOf(index uint32) string {
	for _, l := range v.links {
		if l.Index == int(index) {
			return l.Name
		}
	}
	return ""
}

// endpoint is an attachment that the kernel has the devices of.
type endpoint struct {
	Attachment
	host canlink.Link // host end
}

// private tells that the two ends do not share an ifindex, see rules.
func (e endpoint) private() bool { return e.host.PeerIndex != e.host.Index }

// leftover is devices that an attachment has left behind.
type leftover struct {
	Attachment
	devices []string
}

// endpoints finds the endpoints of a bus: those of the recorded attachments that have a host end, in the order of the
// record, and then those that only the aliases of their devices tell of.
//
// Left over is a pair with a container end that was in use and is in the host's netns again: a runtime that had moved it
// into the container has moved it back, and the call that should tell us was lost. So is the private backplane of a host
// end that is missing.
func (v view) endpoints(hub string, recorded []Attachment) (endpoints []endpoint, leftovers []leftover) {
	hostEnds := make(map[string]canlink.Link) // what may be one, by name
	aliased := make(map[string]Attachment)    // by device name
	for _, l := range v.links {
		if l.Kind != canlink.Vxcan {
			continue
		}
		on, a, ok := parseAlias(l.Alias)
		if ok && on != hub {
			continue
		}
		hostEnds[l.Name] = l
		if ok {
			aliased[l.Name] = a
		}
	}
	seen := make(map[string]bool) // attachments by the names of their host ends
	add := func(a Attachment, hostIf string) {
		host, ok := hostEnds[hostIf]
		switch {
		case seen[hostIf]:
		case !ok:
			if _, rx := privateNames(hostIf); aliased[rx] == a {
				leftovers = append(leftovers, leftover{a, []string{rx}})
				seen[hostIf] = true
			}
		case !host.PeerElsewhere && host.Used:
			_, rx := privateNames(hostIf)
			leftovers = append(leftovers, leftover{a, []string{hostIf, rx}})
			seen[hostIf] = true
		default:
			endpoints = append(endpoints, endpoint{a, host})
			seen[hostIf] = true
		}
	}
	for _, a := range recorded {
		add(a, hostIfName(a))
	}
	for _, l := range v.links {
		a, ok := aliased[l.Name]
		if !ok || seen[l.Name] {
			continue
		}
		if hostIf := hostIfName(a); hostIf == l.Name || strings.HasPrefix(l.Name, rxPrefix) {
			add(a, hostIf)
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
