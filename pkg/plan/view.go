// Package plan compares what a bus must have with what it has, and lists the differences, each with its words and its cure.
// It is the only place that knows the topology: a hub, a backplane, one vxcan pair an endpoint, and the gateway rules and
// filters between them. It is pure: it neither asks nor changes the kernel, and reads no disk. pkg/bus does both.
package plan

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/vxcan/vxcan/pkg/cangw"
	"github.com/vxcan/vxcan/pkg/canlink"
	"github.com/vxcan/vxcan/pkg/cantc"
	"github.com/vxcan/vxcan/pkg/config"
	"github.com/vxcan/vxcan/pkg/controller"
	"github.com/vxcan/vxcan/pkg/underlay"
)

// ErrNotReady is a hub that is missing or down where only its owner can change that.
var ErrNotReady = errors.New("not ready")

// View is what one look at the kernel showed: all devices and gateway jobs of the host's netns, and the filters of one bus.
type View struct {
	// Rootless reports a user namespace, where the kernel takes no gateway rules.
	Rootless   bool
	Links      []canlink.Link
	Jobs       []cangw.Job
	Filters    map[cantc.Hook]cantc.Installed
	Controller controller.Device // the hub, if it is one that netlink can set up
	Queue      cantc.Queue       // the transmit queue of a hub that is hardware
	QueueLacks string            // the kernel module that a queue of each endpoint needs, where it is known to be missing
	Underlay   underlay.Underlay // what carries the trunks
	// Entries are the filters of all programs on the backplane and on the hub, and where a host end lacks one of ours.
	Entries []cantc.Entry
	Qdiscs  []cantc.Qdisc // with filters, of the backplane and of devices that lack a filter of ours
}

// Link is the device of a name, or the zero Link.
func (v View) Link(name string) canlink.Link {
	for i := range v.Links {
		if v.Links[i].Name == name {
			return v.Links[i]
		}
	}
	return canlink.Link{}
}

// At is the device with an ifindex, or the zero Link.
func (v View) At(index int) canlink.Link {
	for i := range v.Links {
		if v.Links[i].Index == index {
			return v.Links[i]
		}
	}
	return canlink.Link{}
}

func (v View) nameOf(index uint32) string { return v.At(int(index)).Name }

func (v View) isBackplane(index uint32) bool { return IsOurBackplane(v.At(int(index))) }

// altNameOf is the device that has an alternative name, or the zero Link.
func (v View) altNameOf(name string) canlink.Link {
	for _, l := range v.Links {
		if slices.Contains(l.AltNames, name) {
			return l
		}
	}
	return canlink.Link{}
}

// Record is what is remembered of an endpoint: what its attachment asked for.
type Record struct {
	config.Attachment
	Ask
}

// Ask is what an attachment asked for.
type Ask struct {
	Hub      config.Hub      `json:"hub"`
	Endpoint config.Endpoint `json:"endpoint,omitzero"`
	// Found reports that only its device's alias tells of it: what else it asked for is not known until its own ADD.
	Found bool `json:"found,omitzero"`
	// CutOff reports that it has a policy that is not known any more. It neither sends nor receives until its own ADD.
	CutOff bool `json:"cutOff,omitzero"`
}

// Endpoint is an attachment that the kernel has the devices of.
type Endpoint struct {
	Record
	Host canlink.Link // host end
	// Renamed is the name that its host end must have, if that has another one; else "".
	Renamed string
}

func (e Endpoint) hostIf() string { return cmp.Or(e.Renamed, e.Host.Name) }

// MovedBack reports whether the runtime moved the container end back into the host's netns, and its call to detach was lost.
func (v View) MovedBack(e Endpoint) bool {
	return !e.Host.PeerElsewhere && e.Host.Used && !v.At(e.Host.PeerIndex).Up
}

// HostEnd returns the host end of an attachment, on any bus, or the zero Link: the vxcan device with its alias, which may have been
// renamed if its peer is in another netns, or else the one of its name that has no alias of its own.
func (v View) HostEnd(a config.Attachment) (host canlink.Link) {
	name := a.HostIf()
	for i := range v.Links {
		l := &v.Links[i]
		if l.Kind != canlink.Vxcan || l.Name != name && !strings.Contains(l.Alias, a.ContainerID) {
			continue
		}
		switch said, ok := ParseAlias(l.Alias); {
		case ok && said.Attachment == a && l.Name == name:
			return *l
		case ok && said.Attachment == a && l.PeerElsewhere, (!ok || v.isCopied(l, said)) && l.Name == name && host.Index == 0:
			host = *l
		}
	}
	return host
}

// isCopied reports whether a device has the alias of another one, whose name fits it.
func (v View) isCopied(l *canlink.Link, said Aliased) bool {
	own := v.Link(said.HostIf())
	its, ok := ParseAlias(own.Alias)
	return ok && own.Index != l.Index && own.Kind == canlink.Vxcan && its.Attachment == said.Attachment
}

// NameTaken returns another device that has the name of an attachment's host end, or the zero Link, and how to free the name.
func (v View) NameTaken(a config.Attachment) (other canlink.Link, cure string) {
	name := a.HostIf()
	if other = v.altNameOf(name); other.Index != 0 {
		if said, ok := ParseAlias(other.Alias); ok && said.Attachment == a { // its own old pair: the new one has no other name
			return canlink.Link{}, ""
		}
		return other, fmt.Sprintf("ip link property del dev %s altname %s", Quote(other.Name), name)
	}
	other = v.Link(name)
	switch _, ours := ParseAlias(other.Alias); {
	case other.Index == v.HostEnd(a).Index:
		return canlink.Link{}, ""
	case other.Index != 0 && ours:
		cure = "rename it"
	case other.Index != 0:
		cure = "rename or delete it"
	}
	return other, cure
}

// Endpoints finds the endpoints of a bus: first the recorded ones that have a host end, then others by the aliases of their
// devices. An alias wins over a name, so a host end that was renamed is found too, if its peer is in another netns: an end that was
// moved back has an alias that its container chose.
func (v View) Endpoints(hub string, records []Record) (endpoints []Endpoint) {
	type device struct {
		link *canlink.Link
		Aliased
		ok bool
	}
	devices := make(map[string]device, len(v.Links)) // vxcan devices, but for those of other buses, by name
	names := make(map[config.Attachment]string)      // of those that may have been renamed
	for i := range v.Links {
		l := &v.Links[i]
		if l.Kind != canlink.Vxcan {
			continue
		}
		a, ok := ParseAlias(l.Alias)
		if !ok || a.Hub == hub {
			devices[l.Name] = device{l, a, ok}
		}
		if ok && a.Hub == hub && l.PeerElsewhere {
			names[a.Attachment] = l.Name
		}
	}
	of := func(a config.Attachment, hostIf string) (d device, ok bool) {
		if d, ok = devices[hostIf]; ok && d.ok && d.Attachment == a {
			return d, true
		}
		if renamed, there := devices[names[a]]; there {
			return renamed, true
		}
		if ok && d.ok && v.isCopied(d.link, d.Aliased) {
			d = device{link: d.link}
		}
		return d, ok && !d.ok
	}
	add := func(d device, r Record, hostIf string) {
		r.CutOff = (r.CutOff || d.Policy) && r.Endpoint.Policy == (config.Policy{})
		e := Endpoint{Record: r, Host: *d.link}
		if hostIf != d.link.Name {
			e.Renamed = hostIf
		}
		endpoints = append(endpoints, e)
		delete(names, r.Attachment)
	}
	for _, r := range records {
		hostIf := r.HostIf()
		if d, ok := of(r.Attachment, hostIf); ok {
			add(d, r, hostIf)
			delete(devices, d.link.Name)
		}
	}
	for i := range v.Links {
		d, ok := devices[v.Links[i].Name]
		if !ok || !d.ok {
			continue
		}
		hostIf := d.HostIf()
		if own, ok := of(d.Attachment, hostIf); ok && own.link == d.link {
			hub := config.Hub{Name: hub, Physical: d.Physical, Transient: d.Transient}
			asks := config.Endpoint{MTU: d.link.MTU} // nobody knows more
			add(d, Record{d.Attachment, Ask{Hub: hub, Endpoint: asks, Found: true}}, hostIf)
		}
	}
	return endpoints
}

// Buses names the buses that the aliases of devices tell of, sorted.
func (v View) Buses() (names []string) {
	for _, l := range v.Links {
		if IsOurHub(l) {
			names = append(names, l.Name)
		} else if a, ok := ParseAlias(l.Alias); ok && l.Kind == canlink.Vxcan && config.CheckName(a.Hub) == nil {
			names = append(names, a.Hub)
		} else if hub, _, _, ok := ParseTrunk(l); ok && config.CheckName(hub) == nil {
			names = append(names, hub)
		} else if hub := strings.TrimPrefix(l.Alias, backplaneAlias+" "); IsOurBackplane(l) && config.CheckName(hub) == nil {
			names = append(names, hub)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// HasBackplane reports whether there is an end of the backplane that we made for a hub.
func (v View) HasBackplane(hub string) bool {
	tx, rx := config.BackplaneNames(hub)
	return IsOurBackplane(v.Link(tx)) || IsOurBackplane(v.Link(rx))
}

// IsPair reports whether two devices, each seen from its own netns, are the ends of one pair.
func IsPair(host, end canlink.Link) bool {
	return host.Kind == canlink.Vxcan && end.Kind == canlink.Vxcan && host.PeerIndex == end.Index && end.PeerIndex == host.Index
}
