package bus

import (
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/canlink"
	"github.com/vxcan/vxcan/pkg/cantc"
	"github.com/vxcan/vxcan/pkg/config"
	"github.com/vxcan/vxcan/pkg/plan"
	"github.com/vxcan/vxcan/pkg/rtnl"
)

// mend repairs a bus in rounds until no difference is left: new devices need rules, and a container may die at any moment and
// take some away. It returns what it has repaired. It fails on a refusal, see plan.Refusal.
func (b *bus) mend(lenient bool, all []plan.Difference, want func() plan.Want) (repaired []plan.Difference, err error) {
	const rounds = 5
	var last error
	for range rounds {
		if err := plan.Refusal(all, lenient); err != nil {
			return repaired, err
		}
		done, changed, err := b.apply(all)
		repaired = append(repaired, done...)
		if err == nil && !changed {
			return repaired, nil
		} else if err != nil && !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.EBUSY) {
			return repaired, err // else another program was faster
		}
		last = err
		if _, err := b.observe(); err != nil {
			return repaired, err
		}
		all = plan.Diff(want(), b.view)
	}
	err = fmt.Errorf("bus %s is %w: its devices keep changing; try again", b.name, plan.ErrNotReady)
	if last != nil {
		err = fmt.Errorf("%w (%w)", err, last)
	}
	return repaired, err
}

// apply carries out changes and returns what they repaired. After a change of devices, it leaves filters and rules for later.
func (b *bus) apply(all []plan.Difference) (repaired []plan.Difference, changed bool, err error) {
	var wiring plan.Wiring
	for _, d := range all {
		restarted, err := b.applyDevices(d.Change)
		if err != nil {
			return repaired, false, err
		}
		changed = changed || d.Change.TouchesDevices()
		wiring.Add(d.Change.Wiring)
		if restarted || d.Change.Repairs() && d.Change.Wiring.Empty() && len(d.Change.UpLast) == 0 {
			repaired = append(repaired, d)
		}
	}
	if changed {
		return repaired, true, nil
	}
	if err := b.applyWiring(wiring); err != nil {
		return repaired, false, err
	}
	for _, d := range all {
		for _, index := range d.Change.UpLast {
			if err := b.k.links.SetUp(index); err != nil {
				return repaired, false, fmt.Errorf("device %s: %w", b.view.At(index).Name, err)
			}
		}
		isNew := slices.ContainsFunc(d.Change.UpLast, b.trail.has) // was repaired in the round before
		wentUp := len(d.Change.UpLast) > 0 && !isNew
		rewired := !d.Change.Wiring.Empty() && d.Kind != plan.OwnWiring && !(d.Kind == plan.ClassMissing && b.view.QueueLacks != "")
		if d.What != "" && (wentUp || rewired) {
			repaired = append(repaired, d)
		}
	}
	return repaired, false, nil
}

func (b *bus) applyWiring(w plan.Wiring) error {
	hub := b.view.Link(b.name).Index
	unfiltered := !slices.ContainsFunc(plan.Hooks(hub, false), func(h cantc.Hook) bool { _, there := b.view.Filters[h]; return there })
	if unfiltered && slices.ContainsFunc(w.SetFilters, func(f cantc.Filter) bool { return f.Dev == hub }) {
		b.trail.filtered = hub
	}
	if err := errors.Join(b.k.tc.DeleteQdiscs(w.DeleteQdiscs...), b.addClasses(hub, w.AddClasses)); err != nil {
		return err
	}
	if err := b.k.tc.Set(w.SetFilters...); err != nil {
		return fmt.Errorf("filters of bus %s: %w", b.name, b.explainTC(err))
	}
	if err := b.k.gw.DeleteJobs(w.DeleteJobs...); err != nil {
		return fmt.Errorf("gateway of bus %s: %w", b.name, err)
	}
	if len(w.AddRules) > 0 && len(b.view.Jobs) == 0 { // the first rule of all: the kernel may not have loaded can-gw
		if err := readyGateway(b.k.gw); err != nil {
			return fmt.Errorf("gateway of bus %s: %w", b.name, err)
		}
	}
	if err := b.k.gw.Add(w.AddRules...); err != nil {
		return fmt.Errorf("gateway of bus %s: %w", b.name, err)
	}
	if err := b.k.tc.Delete(w.DeleteFilters...); err != nil {
		return fmt.Errorf("filters of bus %s: %w", b.name, err)
	}
	if err := b.deleteClasses(hub, w.DeleteClasses...); err != nil {
		return fmt.Errorf("transmit queue of bus %s: %w", b.name, err)
	}
	return nil
}

// addClasses makes a class in the hub's transmit queue for each mark. If the kernel lacks a module, all share one queue.
func (b *bus) addClasses(hub int, marks []uint32) error {
	if len(marks) == 0 {
		return nil
	}
	if !b.view.Queue.Ours {
		b.trail.queued = hub
	}
	err := b.k.tc.SetClasses(hub, marks...)
	var missing *rtnl.NoModuleError
	switch {
	case errors.As(err, &missing):
		b.view.QueueLacks = missing.Module
		if !b.view.Queue.Ours { // without all its filters it is of no use
			return b.k.tc.DeleteQueue(hub)
		}
	case err != nil:
		return fmt.Errorf("transmit queue of bus %s: %w", b.name, err)
	}
	return nil
}

func (b *bus) deleteClasses(hub int, classes ...cantc.Class) error {
	if len(classes) == 0 || hub == 0 {
		return nil
	}
	return b.k.tc.DeleteClasses(hub, classes...)
}

// explainTC names the device and the command that removes another program's filter.
func (b *bus) explainTC(err error) error {
	var filter *cantc.OtherFilterError
	if errors.As(err, &filter) {
		dev := plan.Quote(b.view.At(filter.Dev).Name)
		return fmt.Errorf("%w device: %s has a filter of another program (%s) at %s pref %d, which the bus needs: tc filter del dev %s %s pref %d",
			config.ErrInvalid, dev, filter.Kind, filter.Dir, filter.Prio, dev, filter.Dir, filter.Prio)
	}
	return err
}

// applyDevices makes, removes and sets up devices. restarted reports whether a controller was restarted.
func (b *bus) applyDevices(c plan.Change) (restarted bool, err error) {
	for _, index := range c.Remove {
		if l := b.view.At(index); l.Kind == canlink.GRE || l.Kind == canlink.GRE6 {
			b.trail.gone = append(b.trail.gone, l)
		}
	}
	if err := b.k.links.Delete(c.Remove...); err != nil {
		return false, err
	}
	if err := b.applyTable(c); err != nil {
		return false, err
	}
	now := b.view.Link(b.name)
	switch {
	case c.AddHub != "":
		index := b.drawIndex(&b.trail.made)
		if err := b.trail.notMade(b.k.links.AddVcan(c.AddHub, index, canlink.FDMTU, c.HubAlias), index); err != nil {
			return false, err
		}
	case c.HubAlias != "":
		b.trail.promoted = now.Index
		if err := b.k.links.SetAlias(now.Index, c.HubAlias); err != nil {
			return false, err
		}
	case c.HubMTU != 0:
		if err := b.k.links.SetMTU(now.Index, c.HubMTU); err != nil {
			return false, err
		}
	}
	if c.AddPair != nil {
		pair := *c.AddPair
		pair.Index, pair.PeerIndex = b.drawIndex(&b.trail.made), b.drawIndex(&b.trail.made)
		if _, err := b.k.links.AddPair(pair); b.trail.notMade(err, pair.Index, pair.PeerIndex) != nil {
			return false, err
		}
	}
	if err := b.addTrunk(c.AddTrunk); err != nil {
		return false, err
	}
	if c.Alias != nil {
		if err := b.setAlias(c.Alias.Index, c.Alias.Text); err != nil {
			return false, err
		}
	}
	if restarted, err = b.applyController(c.Controller); err != nil {
		return false, err
	}
	for _, index := range c.Up {
		if err := b.k.links.SetUp(index); err != nil {
			return restarted, fmt.Errorf("device %s: %w", b.view.At(index).Name, err)
		}
	}
	return restarted, nil
}

func (b *bus) applyTable(c plan.Change) error {
	if c.SetTable == nil && c.DeleteTable == "" {
		return nil
	}
	b.trail.table = true
	tables, err := b.k.tables()
	switch {
	case err != nil:
		return err
	case c.SetTable != nil:
		return tables.Set(*c.SetTable)
	}
	return tables.Delete(c.DeleteTable)
}

func (b *bus) addTrunk(t *plan.Trunk) error {
	if t == nil {
		return nil
	}
	noted := &b.trail.trunks
	isWanted := func(r plan.Record) bool { return slices.Contains(r.Hub.Span.Addresses(), t.Remote) }
	if slices.ContainsFunc(b.trail.record.endpoints, isWanted) { // an endpoint from before the call
		noted = &b.trail.made
	}
	index := b.drawIndex(noted)
	return b.trail.notMade(b.k.links.AddTunnel(t.Name, index, t.Alias, t.Tunnel), index)
}

func (b *bus) applyController(c plan.ControllerChange) (restarted bool, err error) {
	now := b.view.Controller
	if before := b.trail.controller; before != nil && before.Index != now.Index { // the hub's name is another device's now
		b.trail.controller = nil
		if err := b.k.controllers.Restore(*before); err != nil {
			return false, err
		}
	}
	switch {
	case c.SetUp != nil:
		if b.trail.controller == nil && !c.ForOthers {
			b.trail.controller = &now
		}
		_, warnings, err := b.k.controllers.SetUp(now, *c.SetUp, c.Queue)
		if err != nil {
			if errors.Is(err, unix.EBUSY) { // another program has just brought it up
				b.trail.controller = nil
			}
			return false, err
		}
		for _, w := range warnings {
			b.notice("%s", w)
		}
	case c.Queue != 0:
		return false, b.k.controllers.SetTxQueue(now.Index, c.Queue)
	case c.Restart:
		err := b.k.controllers.Restart(now.Index)
		if err != nil && !errors.Is(err, unix.EBUSY) { // containers go on hearing each other; EBUSY: it is back already
			b.notice("controller %s is bus-off and cannot be restarted (%v): ip link set %[3]s down; ip link set %[3]s up", now, err, plan.Quote(b.name))
			return false, nil
		}
		return true, nil
	}
	return false, nil
}

// drawIndex draws an ifindex for a device to be made, and notes it in a part of the trail. It is from a range that no kernel
// reaches by counting. Each bus draws from its own part of the range, because only calls on one bus are serialized.
// Neighbouring indexes make a dump of devices cheaper.
func (b *bus) drawIndex(noted *[]int) int {
	const first, part, parts = 1 << 20, 1 << 12, 1 << 18
	hash := fnv.New32a()
	hash.Write([]byte(b.name))
	start := first + int(hash.Sum32()%parts)*part
	for {
		index := start + rand.IntN(2*len(b.view.Links)+64)
		if b.view.At(index).Index == 0 && !b.trail.has(index) {
			*noted = append(*noted, index)
			return index
		}
	}
}

// noticeRepairs reports what a call has repaired, once it has succeeded.
func (b *bus) noticeRepairs(repaired []plan.Difference) {
	for _, d := range repaired {
		b.notice("found and repaired: %s", d.What)
	}
}
