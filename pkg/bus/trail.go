package bus

import (
	"errors"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/canlink"
	"github.com/vxcan/vxcan/pkg/cantc"
	"github.com/vxcan/vxcan/pkg/config"
	"github.com/vxcan/vxcan/pkg/controller"
	"github.com/vxcan/vxcan/pkg/plan"
)

// trail is what a call has changed on a bus. Everything is noted before the kernel is asked: the answer may be lost.
// Repairs for endpoints that were there are not part of it: they stay.
type trail struct {
	alone      bool               // no endpoint was there when the call began
	pairs      []int              // ifindexes of endpoints
	made       []int              // ifindexes of the hub and the backplane, and of trunks that other endpoints want
	trunks     []int              // ifindexes of trunks that no other endpoint wants
	gone       []canlink.Link     // trunks that were removed
	table      bool               // the table that guards the trunks was set or deleted
	filtered   int                // ifindex of a hub that was there and had no filters of ours
	queued     int                // ifindex of a hub whose transmit queue was not ours
	controller *controller.Device // the hub before it was set up
	promoted   int                // ifindex of a hub that was made for a pod, and is to stay now
	edited     bool               // an endpoint that was there has another policy now
	aliased    []canlink.Link     // host ends that have another alias now
	replaced   []canlink.Pair     // earlier pairs that were deleted; one whose other end was out of reach has no PeerName
	repaired   []plan.Difference  // to be told when the call has succeeded
	saved      bool               // the record, which was this:
	record     record
	onDisk     bool
}

// notMade takes indexes back that the kernel has refused: a device that has one of them is not ours. It returns err.
func (t *trail) notMade(err error, indexes ...int) error {
	if errors.Is(err, unix.EEXIST) || errors.Is(err, unix.EBUSY) {
		refused := func(i int) bool { return slices.Contains(indexes, i) }
		for _, drawn := range []*[]int{&t.made, &t.pairs, &t.trunks} {
			*drawn = slices.DeleteFunc(*drawn, refused)
		}
	}
	return err
}

// has reports whether the call has drawn an ifindex.
func (t *trail) has(index int) bool {
	return slices.Contains(t.made, index) || slices.Contains(t.pairs, index) || slices.Contains(t.trunks, index)
}

// undo takes away what a call that failed has changed: its endpoints, and where no other one was there also the hub, the
// backplane, and the filters of a hub that had none. It restores the record, aliases, trunks, pairs,
// and a controller that nobody else wants set up so. Without trunks it deletes their table. It opens a new socket, because that of
// the call may have failed.
func (b *bus) undo() (retErr error) {
	t := b.trail
	restoreRecord := func() error {
		b.record, b.onDisk = t.record, t.onDisk
		if t.saved && t.onDisk { // else close removes the file
			return b.file.Save(b.record)
		}
		return nil
	}
	respan := len(t.trunks)+len(t.gone) > 0 || t.table
	rewire := respan || t.edited || len(t.aliased)+len(t.replaced) > 0 || t.queued != 0
	if len(t.pairs) == 0 && !rewire && !t.alone && t.controller == nil && t.promoted == 0 {
		return restoreRecord()
	}
	failed := b.k
	k, err := b.host.connect(nil)
	if err != nil {
		return errors.Join(restoreRecord(), err)
	}
	defer func() { retErr = errors.Join(retErr, k.close()); b.k = failed }()
	b.k, b.trail = k, trail{}
	errs := []error{
		b.restoreAliases(t.aliased, false), restoreRecord(), b.restoreAliases(t.aliased, true), // see enlist
		b.deleteCopies(t.pairs...), k.links.Delete(append(t.pairs, t.trunks...)...),
	}
	switch {
	case t.queued != 0: // others that want it get it back below
		errs = append(errs, k.tc.DeleteQueue(t.queued))
	case b.view.Queue.Ours:
		errs = append(errs, b.deleteClasses(b.view.Link(b.name).Index, classesOf(t.pairs)...))
	}
	if t.alone {
		errs = append(errs, b.deleteCopies(slices.DeleteFunc(append(t.made, t.filtered), func(i int) bool { return i == 0 })...), k.links.Delete(t.made...))
		if t.filtered != 0 {
			errs = append(errs, k.tc.Delete(plan.Hooks(t.filtered, false)...))
		}
	}
	if t.controller != nil {
		errs = append(errs, k.controllers.Restore(*t.controller))
	}
	if t.promoted != 0 {
		errs = append(errs, k.links.SetAlias(t.promoted, plan.TransientAlias))
	}
	if respan {
		errs = append(errs, b.respan(t))
	}
	errs = append(errs, b.restorePairs(t))
	if rewire {
		errs = append(errs, b.rewire(t), b.setUpPeers(t.replaced))
	}
	return errors.Join(errs...)
}

// restoreAliases restores old aliases: with policy those that mention one, else the others.
func (b *bus) restoreAliases(aliased []canlink.Link, policy bool) error {
	var errs []error
	for _, l := range aliased {
		if said, _ := plan.ParseAlias(l.Alias); said.Policy != policy {
			continue
		}
		if err := b.setAlias(l.Index, l.Alias); !errors.Is(err, unix.ENODEV) { // it has gone meanwhile
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// restorePairs makes pairs again that were deleted.
func (b *bus) restorePairs(t trail) error {
	var errs []error
	for _, p := range t.replaced {
		if p.PeerName == "" { // its other end was out of reach
			continue
		}
		if _, err := b.k.links.AddPair(p); !errors.Is(err, unix.EEXIST) { // it could not be deleted
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// rewire repairs the bus for the endpoints that were there: with trunks, for example, they have rules for error frames.
func (b *bus) rewire(t trail) error {
	corrections, err := b.observe()
	if len(corrections) > 0 && len(t.replaced) > 0 && b.onDisk {
		b.saveOrGoOn()
	}
	if err == nil && t.table && !b.view.HasTrunks(b.name) {
		err = b.applyTable(plan.Change{DeleteTable: config.TableName(b.name)})
	}
	if err == nil && (len(b.endpoints) > 0 || b.view.HasTrunks(b.name)) {
		_, err = b.mend(true, plan.Diff(b.agreed(), b.view), b.agreed)
	}
	return err
}

// setUpPeers sets up the container ends of pairs that are in a container. What is not there is no error.
func (b *bus) setUpPeers(pairs []canlink.Pair) error {
	var errs []error
	for _, p := range pairs {
		if host := b.view.Link(p.Name); host.Index != 0 && p.PeerName != "" && p.PeerNetns != nil {
			k, err := b.host.connect(p.PeerNetns)
			if err == nil {
				err = k.links.SetUp(host.PeerIndex)
				err = errors.Join(err, k.close())
			}
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// respan brings back trunks that were removed.
func (b *bus) respan(t trail) error {
	b.span = config.Span{}
	var errs []error
	for _, l := range t.gone {
		_, peer, _, _ := plan.ParseTrunk(l)
		l.Name = config.TrunkName(b.name, peer) // whatever it was named
		if there, err := b.k.link(l.Name); err != nil || there.Index != 0 {
			errs = append(errs, err)
		} else {
			errs = append(errs, b.k.links.AddTunnel(l.Name, l.Index, l.Alias, l.Tunnel))
		}
	}
	return errors.Join(errs...)
}

// classesOf are the classes of endpoints, by the ifindexes of their host ends.
func classesOf(indexes []int) (classes []cantc.Class) {
	for _, index := range indexes {
		classes = append(classes, cantc.ClassOf(uint32(index)))
	}
	return classes
}
