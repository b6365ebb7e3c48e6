package bus

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/cangw"
	"github.com/vxcan/vxcan/pkg/canlink"
)

// mend applies what diff finds, until there is nothing left: new devices need rules, and a container may die at any
// moment and take some away. What was damage before is noticed.
func (b *bus) mend(spec Spec, attaching string) error {
	const rounds = 5
	for range rounds {
		changed, err := b.apply(spec, diff(b.want(spec, attaching), b.view))
		if err == nil && !changed {
			b.warnOfBacklog()
			return nil
		} else if err != nil && !errors.Is(err, unix.ENODEV) {
			return err
		}
		if _, err := b.observe(); err != nil {
			return err
		}
	}
	return fmt.Errorf("bus %s is %w: its devices keep changing; try again", b.name, ErrNotReady)
}

// apply carries out changes. It tells whether devices were made or removed: then it has left the rules for later, when
// their devices are known.
func (b *bus) apply(spec Spec, all []difference) (changed bool, err error) {
	var add, remove []cangw.Rule
	for _, d := range all {
		if d.refusal != nil {
			return false, d.refusal
		}
		if err := b.applyDevices(spec, d.change); err != nil {
			return false, err
		}
		changed = changed || d.change.touchesDevices()
		add, remove = append(add, d.change.addRules...), append(remove, d.change.deleteRules...)
	}
	if !changed && len(remove) > 0 {
		if err := b.k.DeleteRules(remove...); err != nil {
			return false, fmt.Errorf("gateway of bus %s: %w", b.name, err)
		}
	}
	if !changed && len(add) > 0 {
		if err := b.k.AddRules(add...); err != nil {
			return false, fmt.Errorf("gateway of bus %s: %w", b.name, err)
		}
	}
	for _, d := range all {
		isRules := len(d.change.addRules)+len(d.change.deleteRules) > 0
		if !d.expected && !b.fresh && !(changed && isRules) {
			b.notice("found and repaired: %s", d.what)
		}
	}
	return changed, nil
}

func (b *bus) applyDevices(spec Spec, c change) error {
	if len(c.remove) > 0 {
		if err := b.k.Delete(c.remove...); err != nil {
			return err
		}
	}
	if c.addHub != "" {
		alias := hubAlias
		if spec.Transient {
			alias = transientAlias
		}
		if err := b.k.AddVcan(c.addHub, canlink.FDMTU, alias); err != nil {
			return err
		}
		b.made = append(b.made, c.addHub)
	}
	if c.keepHub != "" {
		if err := b.k.SetAlias(c.keepHub, hubAlias); err != nil {
			return err
		}
	}
	if c.addPair != nil {
		end, err := b.k.AddPair(*c.addPair)
		if err != nil {
			return err
		}
		b.made = append(b.made, end.Name)
	}
	if len(c.up) == 0 {
		return nil
	}
	links, err := b.k.Links(c.up...) // they may have been made just now
	if err != nil {
		return err
	}
	for _, l := range links {
		if l.Index == 0 {
			return unix.ENODEV // gone since
		}
		if err := b.k.SetUp(l.Index); err != nil {
			return fmt.Errorf("device %s: %w", l.Name, err)
		}
	}
	return nil
}

// undo takes away the devices that this call has made, with their rules.
func (b *bus) undo() error {
	if len(b.made) == 0 {
		return nil
	}
	return b.k.Delete(b.made...)
}

// refusal is the first difference that only the administrator can put right, or nil.
func refusal(all []difference) error {
	for _, d := range all {
		if d.refusal != nil {
			return d.refusal
		}
	}
	return nil
}
