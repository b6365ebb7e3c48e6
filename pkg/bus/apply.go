package bus

import (
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/cantc"
)

// mend applies what diff finds, until there is nothing left: new devices need rules, and a container may die at any
// moment and take some away. What was damage before is noticed.
func (b *bus) mend(spec Spec, attaching string) error {
	const rounds = 5
	for range rounds {
		changed, err := b.apply(spec, diff(b.want(spec, attaching), b.view))
		if err == nil && !changed {
			b.warn(spec)
			return nil
		} else if err != nil && !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.EBUSY) {
			return err // else another program was faster
		}
		if _, err := b.observe(); err != nil {
			return err
		}
	}
	return fmt.Errorf("bus %s is %w: its devices keep changing; try again", b.name, ErrNotReady)
}

// apply carries out changes. It tells whether devices were made or removed: then it has left filters and rules for later,
// when their devices are known.
func (b *bus) apply(spec Spec, all []difference) (changed bool, err error) {
	if err := refusal(all); err != nil {
		return false, err
	}
	var now wiring
	for _, d := range all {
		if err := b.applyDevices(spec, d.change); err != nil {
			return false, err
		}
		changed = changed || d.change.touchesDevices()
		now.add(d.change.wiring)
	}
	if !changed {
		if err := b.applyWiring(now); err != nil {
			return false, err
		}
	}
	for _, d := range all {
		isWiring := !d.change.wiring.empty()
		mended := d.change.touchesDevices() || isWiring || len(d.change.up) > 0 ||
			d.change.controller.setUp || d.change.controller.queue != 0 // a restart tells itself whether it worked
		if mended && !d.expected && !b.fresh && !(changed && isWiring) {
			b.repaired = append(b.repaired, d.what)
		}
	}
	return changed, nil
}

func (w *wiring) add(other wiring) {
	w.setFilters = append(w.setFilters, other.setFilters...)
	w.deleteRules = append(w.deleteRules, other.deleteRules...)
	w.addRules = append(w.addRules, other.addRules...)
	w.deleteFilters = append(w.deleteFilters, other.deleteFilters...)
}

func (b *bus) applyWiring(w wiring) error {
	hub := b.view.link(b.name).Index
	unmarked := !slices.ContainsFunc(hooks(hub, false), func(h cantc.Hook) bool { _, there := b.view.filters[h]; return there })
	if unmarked && slices.ContainsFunc(w.setFilters, func(f cantc.Filter) bool { return f.Dev == hub }) {
		b.marked = hub
	}
	var other *cantc.OtherQdiscError
	if err := b.k.SetFilters(w.setFilters...); errors.As(err, &other) {
		dev := b.view.at(other.Dev).Name
		return fmt.Errorf("%w device: %s has an %s qdisc of another program, and a bus needs clsact, which can do the same: tc qdisc del dev %s %s",
			ErrInvalid, dev, other.Kind, dev, other.Kind)
	} else if err != nil {
		return fmt.Errorf("filters of bus %s: %w", b.name, err)
	}
	if err := b.k.DeleteRules(w.deleteRules...); err != nil {
		return fmt.Errorf("gateway of bus %s: %w", b.name, err)
	}
	if err := b.k.AddRules(w.addRules...); err != nil {
		return fmt.Errorf("gateway of bus %s: %w", b.name, err)
	}
	if err := b.k.DeleteFilters(w.deleteFilters...); err != nil {
		return fmt.Errorf("filters of bus %s: %w", b.name, err)
	}
	return nil
}

func (b *bus) applyDevices(spec Spec, c change) error {
	if err := b.k.Delete(c.remove...); err != nil {
		return err
	}
	if c.addHub != "" {
		alias := hubAlias
		if spec.Transient {
			alias = transientAlias
		}
		index := b.drawIndex()
		if err := b.k.AddVcan(c.addHub, index, alias); err != nil {
			b.notMade(err, index)
			return err
		}
	}
	if c.addPair != nil {
		pair := *c.addPair
		pair.Index, pair.PeerIndex = b.drawIndex(), b.drawIndex()
		if _, err := b.k.AddPair(pair); err != nil {
			b.notMade(err, pair.Index, pair.PeerIndex)
			return err
		}
	}
	if err := b.applyController(spec, c.controller); err != nil {
		return err
	}
	for _, index := range c.up {
		if err := b.k.SetUp(index); err != nil {
			return fmt.Errorf("device %s: %w", b.view.nameOf(uint32(index)), err)
		}
	}
	return nil
}

func (b *bus) applyController(spec Spec, c controllerChange) error {
	now := b.view.controller
	if before := b.controller; before != nil && before.Index != now.Index { // it has another name since
		b.controller = nil
		if err := b.k.RestoreController(*before); err != nil {
			return err
		}
	}
	if c.setUp {
		warnings, err := b.k.SetUpController(now, spec.Controller, c.queue)
		if err != nil {
			return err
		}
		b.controller = &now
		for _, w := range warnings {
			b.notice("%s", w)
		}
		return nil
	}
	if c.queue != 0 {
		return b.k.SetTxQueue(now.Index, c.queue)
	}
	if c.restart {
		if err := b.k.RestartController(now.Index); err != nil { // containers go on hearing each other
			b.notice("controller %s is bus-off and cannot be restarted (%v): ip link set %s down and up", now, err, b.name)
		} else {
			b.repaired = append(b.repaired, fmt.Sprintf("controller %s is bus-off", now))
		}
	}
	return nil
}

// drawIndex draws an ifindex for a device to be made, and notes it for undo. It is from a range that no kernel reaches by
// counting. Each bus has a part of that of its own, because only calls on the same bus wait for each other; in there
// indexes are near each other, which makes a list of devices cheaper.
func (b *bus) drawIndex() int {
	const first, part, parts = 1 << 20, 1 << 12, 1 << 18
	hash := fnv.New32a()
	hash.Write([]byte(b.name))
	start := first + int(hash.Sum32()%parts)*part
	for {
		index := start + rand.IntN(2*len(b.view.links)+64)
		if b.view.at(index).Index == 0 && !slices.Contains(b.made, index) {
			b.made = append(b.made, index)
			return index
		}
	}
}

// notMade takes indexes back that the kernel has refused: a device that has one of them is not ours.
func (b *bus) notMade(err error, indexes ...int) {
	if errors.Is(err, unix.EEXIST) || errors.Is(err, unix.EBUSY) {
		b.made = slices.DeleteFunc(b.made, func(i int) bool { return slices.Contains(indexes, i) })
	}
}

// undo takes away the devices that this call has made, with their rules, and the filters of a hub that had none, and gives
// a controller that it has set up its settings back. It has a socket of its own, because that of the call may be what has failed.
func (b *bus) undo() error {
	if len(b.made) == 0 && b.controller == nil && b.marked == 0 {
		return nil
	}
	k, err := b.host.connect()
	if err != nil {
		return err
	}
	err = k.Delete(b.made...)
	if b.marked != 0 {
		err = errors.Join(err, k.DeleteFilters(hooks(b.marked, false)...))
	}
	if b.controller != nil {
		err = errors.Join(err, k.RestoreController(*b.controller))
	}
	return errors.Join(err, k.Close())
}

// noticeRepairs tells what a call has repaired, once it has succeeded.
func (b *bus) noticeRepairs() {
	for _, what := range b.repaired {
		b.notice("found and repaired: %s", what)
	}
}

// refusal is the first difference that only the administrator can repair, or nil.
func refusal(all []difference) error {
	for _, d := range all {
		if d.refusal != nil {
			return d.refusal
		}
	}
	return nil
}
