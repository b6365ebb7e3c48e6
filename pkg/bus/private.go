package bus

import (
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/vxcan/vxcan/pkg/canlink"
)

// A private endpoint is one whose two ends do not share an ifindex: both were in the host's netns at the same time, for
// the runtime to move one of them. It would hear itself on the common backplane, so it sends into one of its own (see
// rules). That one stays behind when the pair goes, and a pair that the runtime has moved back stays whole: what an
// attachment leaves behind that way when its runtime could not say goodbye is an orphan.

// AttachHere is Attach for a runtime that moves the container end into the container itself: it is left in the host's
// netns, down, under the name that the result has as ContIf. Called again before it has been moved, it changes nothing;
// after that, the attachment is built anew.
func (h *Host) AttachHere(ctx context.Context, spec Spec, a Attachment) (Result, error) {
	if err := spec.check(); err != nil {
		return Result{}, err
	}
	return h.attachAt(ctx, spec, a, place{ifName: "vc" + hostIfName(a)[2:]})
}

// privateNames names the ends of a private endpoint's backplane after its host end, whose first two bytes are a prefix.
func privateNames(hostIf string) (tx, rx string) { return "tx" + hostIf[2:], "rx" + hostIf[2:] }

// setPrivate notes the private backplanes of the private endpoints, of whose ends links are all there are, in order.
func (b *bus) setPrivate(links []canlink.Link) {
	b.private = make(map[string]backplane)
	for _, e := range b.state.Endpoints {
		if e.Private {
			b.notePrivate(e.HostIf, links[0], links[1])
			links = links[2:]
		}
	}
}

// notePrivate notes a backplane if it is whole.
func (b *bus) notePrivate(hostIf string, tx, rx canlink.Link) {
	if isBackplane(tx, rx) && tx.Up && rx.Up && tx.MTU == canlink.FDMTU && rx.MTU == canlink.FDMTU {
		b.private[hostIf] = backplane{uint32(tx.Index), uint32(rx.Index)}
	}
}

func (b *bus) lacksPrivate(e endpoint) bool { return e.Private && b.private[e.HostIf] == (backplane{}) }

// livePrivate are the recorded private endpoints whose devices are whole, by their host ends.
func (b *bus) livePrivate() (map[string]member, error) {
	var names []string
	for _, e := range b.state.Endpoints {
		if e.Private && !b.lacksPrivate(e) {
			names = append(names, e.HostIf)
		}
	}
	links, err := b.k.Links(names...)
	if err != nil {
		return nil, err
	}
	members := make(map[string]member)
	for _, l := range links {
		if l.Kind == canlink.Vxcan {
			members[l.Name] = member{dev: uint32(l.Index), fd: l.FD() && b.fd(), private: b.private[l.Name]}
		}
	}
	return members, nil
}

// backplanes are all that are ours.
func (b *bus) backplanes() []backplane {
	return append(slices.Collect(maps.Values(b.private)), b.backplane())
}

// recallPrivate is the part of recall that knows of private endpoints. backplanes are those found by their alias.
func (b *bus) recallPrivate(byName map[string]canlink.Link, backplanes []endpoint) {
	b.private, b.orphans = make(map[string]backplane), nil
	recalled := b.state.Endpoints
	b.state.Endpoints = nil
	for _, e := range recalled {
		host := byName[e.HostIf]
		if !host.PeerElsewhere && host.Used { // moved there and back
			b.dirty = true
			b.orphans = append(b.orphans, e)
			continue
		}
		if private := host.PeerIndex != host.Index; private != e.Private {
			b.dirty, e.Private = true, private
		}
		b.state.Endpoints = append(b.state.Endpoints, e)
		if e.Private {
			tx, rx := privateNames(e.HostIf)
			b.notePrivate(e.HostIf, byName[tx], byName[rx])
		}
	}
	for _, e := range backplanes {
		if b.find(e.HostIf) < 0 && !slices.ContainsFunc(b.orphans, func(o endpoint) bool { return o.HostIf == e.HostIf }) {
			b.orphans = append(b.orphans, e)
		}
	}
}

// sweep deletes the orphans, with all their jobs, and tells whether there were any.
func (b *bus) sweep() (swept bool, err error) {
	for _, e := range b.orphans {
		if err := b.deleteEndpoint(e.HostIf); err != nil {
			return true, err
		}
		b.host.recovered(b.name, "deleted what %s left behind", e.Attachment)
	}
	if len(b.orphans) == 0 {
		return false, nil
	}
	b.orphans = nil
	b.jobs, err = b.k.Jobs()
	return true, err
}

// ensurePrivate makes the private backplanes that are missing or damaged.
func (b *bus) ensurePrivate(attached endpoint) error {
	for _, e := range b.state.Endpoints {
		if !b.lacksPrivate(e) {
			continue
		}
		tx, rx := privateNames(e.HostIf)
		err := errors.Join(b.k.Delete(tx), b.k.Delete(rx))
		if err == nil {
			err = b.k.AddPair(canlink.Pair{Name: tx, PeerName: rx, MTU: canlink.FDMTU, Alias: alias(b.name, e.Attachment)})
		}
		if err != nil {
			return err
		}
		links, err := b.k.Links(tx, rx)
		if err != nil {
			return err
		}
		if err := b.k.SetUp(links[1].Index); err != nil { // the first end is up from the start
			return err
		}
		links[1].Up = true
		b.notePrivate(e.HostIf, links[0], links[1])
		if e.HostIf != attached.HostIf {
			b.host.recovered(b.name, "made the backplane %s of %s, which was missing", tx, e.Attachment)
		}
	}
	return nil
}

// deleteEndpoint deletes an endpoint's devices. What is not there is no error.
func (b *bus) deleteEndpoint(hostIf string) error {
	err := b.k.Delete(hostIf)
	if i := b.find(hostIf); i < 0 || b.state.Endpoints[i].Private {
		tx, _ := privateNames(hostIf)
		err = errors.Join(err, b.k.Delete(tx))
	}
	return err
}
