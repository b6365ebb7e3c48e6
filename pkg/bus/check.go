package bus

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/vxcan/vxcan/pkg/store"
)

// Check proves that a bus is whole, and that an attachment is as Attach made it: a pair of the right names and MTU, its
// other end up and in this netns. It changes nothing. contIfs holds the name that the container end may have, as Attach
// returned it. It blocks for the bus's lock, and fails with Damage if something is wrong.
func (h *Host) Check(ctx context.Context, spec Spec, a Attachment, contIfs []string, netnsPath string) (retErr error) {
	if err := spec.check(); err != nil {
		return err
	}
	netns, err := openNetns(netnsPath)
	if err != nil {
		return err
	}
	defer netns.Close()
	b, err := h.open(ctx, spec.Hub)
	if err != nil {
		return err
	}
	defer func() { retErr = errors.Join(retErr, b.close()) }()
	c, err := b.k.In(netns)
	if err != nil {
		return err
	}
	defer c.Close()
	damage, err := lasting(func() ([]string, error) { return b.damage(spec, a, contIfs, place{netns: netns, container: c}) })
	if err != nil {
		return err
	}
	b.warn(spec)
	if len(damage) > 0 {
		return Damage(damage)
	}
	return nil
}

// damage is what one look at the kernel shows.
func (b *bus) damage(spec Spec, a Attachment, contIfs []string, at place) (damage []string, err error) {
	if _, err := b.observe(); err != nil {
		return nil, err
	}
	hostIf := hostIfName(a)
	host := b.view.link(hostIf)
	end, err := at.LinkAt(host.PeerIndex)
	if err != nil {
		return nil, err
	}
	named := func(name string) bool { return slices.Contains(contIfs, name) }
	for _, e := range b.endpoints {
		if e.Attachment == a && e.Policy != spec.Policy {
			d := difference{what: fmt.Sprintf("policy is %s, and the configuration says %s", e.Policy, spec.Policy), cure: "start the container again"}
			damage = append(damage, d.String())
		}
	}
	for _, d := range append(diff(b.want(spec, ""), b.view), diffEndpoint(hostIf, host, end, at, spec.mtu(b.view.link(b.name)), named)...) {
		damage = append(damage, d.String())
	}
	return damage, nil
}

// Heal makes sure of a bus, hub and backplane, and puts right whatever of it is missing, without attaching anybody. It
// blocks for the bus's lock.
func (h *Host) Heal(ctx context.Context, spec Spec) error { return h.heal(ctx, spec, false) }

func (h *Host) heal(ctx context.Context, spec Spec, recorded bool) (retErr error) {
	if err := spec.check(); err != nil {
		return err
	}
	b, err := h.open(ctx, spec.Hub)
	if err != nil {
		return err
	}
	defer func() { retErr = errors.Join(retErr, b.close()) }()
	b.healing = recorded
	before, onDisk := b.record, b.onDisk
	defer func() {
		if retErr != nil {
			retErr = errors.Join(retErr, b.undo(), b.restore(before, onDisk))
		}
	}()
	corrected, err := b.observeToMend(spec, "")
	if err != nil {
		return err
	}
	// Its last endpoints went without a DEL. A hub that is missing is not made for nobody; one that is there may have been
	// made for pods.
	if hub := b.view.link(b.name); recorded && !spec.Physical && len(b.record.Endpoints) == 0 && (hub.Index == 0 || hub.Alias == transientAlias) {
		if err := b.detach(nil); err != nil {
			return err
		}
		if hub.Index != 0 {
			b.notice("removed the hub, which was made for pods that are gone")
		}
		return nil
	}
	if b.remember(spec) || corrected || !b.known {
		if err := b.save(); err != nil {
			return err
		}
	}
	if err := b.mend(spec, ""); err != nil {
		return err
	}
	b.noticeRepairs()
	return nil
}

// Recorded names the buses of this host that have a record.
func (h *Host) Recorded() ([]string, error) { return store.Names(h.stateDir()) }

// HealRecorded is Heal for a bus as its record says, which holds how a controller is to be set up. A bus without a record
// is no error, nor is one without endpoints, or a controller that is not there. One that was made for pods is removed when
// they are gone.
func (h *Host) HealRecorded(ctx context.Context, hub string) error {
	if CheckHub(hub) != nil { // udev asks for any device
		return nil
	}
	spec, found, err := h.recordedSpec(ctx, hub)
	if err != nil || !found {
		return err
	}
	err = h.heal(ctx, spec, true)
	if err != nil && spec.Physical && h.isGone(hub) {
		return nil // unplugged
	}
	return err
}

// recordedSpec is what a bus's record says of its hub. found tells whether there is something to heal.
func (h *Host) recordedSpec(ctx context.Context, hub string) (spec Spec, found bool, retErr error) {
	b, err := h.open(ctx, hub)
	if err != nil {
		return Spec{}, false, err
	}
	defer func() { retErr = errors.Join(retErr, b.close()) }()
	spec = b.controllerSpec()
	spec.Hub = hub
	return spec, b.onDisk && (spec.Physical || len(b.record.Endpoints) > 0), nil
}

func (h *Host) isGone(hub string) bool {
	k, err := h.connect()
	if err != nil {
		return false
	}
	defer k.Close()
	links, err := k.Links(hub)
	return err == nil && links[0].Index == 0
}
