package bus

import (
	"context"
	"errors"
	"fmt"

	"github.com/vxcan/vxcan/pkg/config"
	"github.com/vxcan/vxcan/pkg/plan"
)

// Heal puts right whatever is missing of a bus, for the endpoints that are there and for nobody else. A controller that is
// absent, or down and not ours to set up, is left to its owner. A hub that was made for pods is removed when they are gone. A hub without a bus is no error: udev asks for any device. It blocks for the bus's lock.
func (h *Host) Heal(ctx context.Context, hub string) (retErr error) {
	if config.CheckHub(hub) != nil {
		return nil
	}
	return h.repair(ctx, hub, func(b *bus) error {
		now := b.view.Link(hub)
		if len(b.endpoints) == 0 && (now.Index == 0 || !plan.IsOurHub(now) || plan.IsTransient(now)) {
			if err := b.detach(nil); err != nil {
				return err
			}
			if plan.IsTransient(now) {
				b.notice("removed the hub, which was made for pods that are gone")
			}
			return nil
		}
		return b.mendFor(true, b.agreedHub)
	})
}

// agreedHub is the hub that the endpoints ask for.
func (b *bus) agreedHub() config.Hub { return plan.AgreedHub(b.name, b.view.Link(b.name), b.endpoints) }

// Make makes a hub and its backplane before any container asks for them, for programs of the host, or reports why that
// cannot be. A device that is used, not made, is left alone: one that is missing or down is no error yet. It blocks for the
// bus's lock.
func (h *Host) Make(ctx context.Context, hub config.Hub) error {
	if err := config.CheckHub(hub.Name); err != nil {
		return fmt.Errorf("hub: %w", err)
	}
	return h.repair(ctx, hub.Name, func(b *bus) error {
		if !hub.Physical {
			return b.mendFor(false, func() config.Hub { return hub })
		}
		err := plan.Refusal(plan.Diff(plan.NewWant(hub, b.endpoints, ""), b.view), false)
		if errors.Is(err, plan.ErrNotReady) {
			b.notice("%s", config.OneLine(err))
			return nil
		}
		return err
	})
}

// repair opens and observes a bus, and undoes what do has changed when that fails.
func (h *Host) repair(ctx context.Context, hub string, do func(b *bus) error) (retErr error) {
	defer func() { retErr = explain(retErr) }()
	b, err := h.open(ctx, hub)
	if err != nil {
		return err
	}
	defer func() { retErr = errors.Join(retErr, b.close()) }()
	if b.unread != nil { // what it says must not be undone
		return b.unread
	}
	corrections, err := b.observe()
	if err != nil {
		return err
	}
	for _, c := range corrections {
		b.notice("%s", c)
	}
	b.trail.alone = len(b.endpoints) == 0
	if len(corrections) > 0 {
		b.saveOrGoOn()
	}
	if err := do(b); err != nil {
		return errors.Join(err, b.undo()) // which leaves what was repaired for endpoints
	}
	return nil
}

// mendFor is mend for a hub, with notices. What a lenient one leaves to the administrator it returns in the end, unless that
// is only not ready.
func (b *bus) mendFor(lenient bool, hub func() config.Hub) error {
	want := func() plan.Want { return plan.NewWant(hub(), b.endpoints, "") }
	repaired, err := b.mend(lenient, plan.Diff(want(), b.view), want)
	if err != nil {
		return err
	}
	b.warn(want())
	if lenient || len(b.endpoints) > 0 { // else this call starts the bus: what it lacks is no damage
		b.noticeRepairs(repaired)
	}
	if err := plan.Refusal(plan.Diff(want(), b.view), false); !errors.Is(err, plan.ErrNotReady) {
		return err
	}
	return nil
}
