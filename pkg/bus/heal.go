package bus

import (
	"context"
	"errors"
	"fmt"

	"github.com/vxcan/vxcan/pkg/config"
	"github.com/vxcan/vxcan/pkg/plan"
)

// Heal repairs all that is wrong with a bus, for the endpoints that are there. Without endpoints it sets up no controller. It does
// not touch a controller that is missing, or that is down and was set up by its owner. A hub of pods that are gone is removed, and
// so is a backplane without a hub. It returns what it has done, in a few words each, such as "made the hub again". It fails with
// ErrNoBus where there is neither a device nor an endpoint. It blocks for the bus's lock.
func (h *Host) Heal(ctx context.Context, hub string) (done []string, err error) {
	if err := config.CheckHub(hub); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoBus, err)
	}
	err = h.repair(ctx, hub, config.Span{}, func(b *bus, corrections []string) error {
		if len(corrections) > 0 {
			done = append(done, "corrected the record")
		}
		now := b.view.Link(hub)
		if len(b.endpoints) == 0 && (now.Index == 0 || !plan.IsOurHub(now) || plan.IsTransient(now)) {
			spans := b.view.HasSpan(hub)
			left := now.Index == 0 && b.view.HasBackplane(hub)
			if !now.CAN && len(corrections) == 0 && !spans && !left {
				return ErrNoBus
			}
			if err := b.detach(nil, func(plan.Record) bool { return false }); err != nil {
				return err
			}
			if spans {
				done = append(done, "removed what led to other hosts")
			}
			if left {
				done = append(done, "removed the backplane, which had no hub")
			}
			if plan.IsTransient(now) {
				b.notice("removed the hub, which was made for pods that are gone")
				done = append(done, "removed the hub")
			}
			return nil
		}
		repaired, err := b.mendFor(true, b.agreed)
		done = append(done, plan.Summary(repaired)...)
		return err
	})
	return done, err
}

// agreed is what the endpoints ask for.
func (b *bus) agreed() plan.Want {
	return plan.NewWant(plan.AgreedHub(b.name, b.view.Link(b.name), b.endpoints), b.endpoints, "")
}

// Make makes a hub and its backplane for programs of the host, or reports why that cannot be. A device that is used, not made,
// is left alone: one that is missing or down is no error yet. It blocks for the bus's lock.
func (h *Host) Make(ctx context.Context, hub config.Hub) error {
	if err := config.CheckHub(hub.Name); err != nil {
		return fmt.Errorf("hub: %w", err)
	}
	return h.repair(ctx, hub.Name, hub.Span, func(b *bus, _ []string) error {
		want := func() plan.Want { return plan.NewWant(hub, b.endpoints, "") }
		if !hub.Physical {
			_, err := b.mendFor(false, want)
			return err
		}
		err := plan.Refusal(plan.Diff(want(), b.view), false)
		if errors.Is(err, plan.ErrNotReady) {
			b.notice("%s", config.OneLine(err))
			return nil
		}
		return err
	})
}

// repair opens and observes a bus, and undoes what do has changed when that fails. corrections are those of the record.
func (h *Host) repair(ctx context.Context, hub string, span config.Span, do func(b *bus, corrections []string) error) (retErr error) {
	defer func() { retErr = explain(retErr) }()
	b, err := h.open(ctx, hub)
	if err != nil {
		return err
	}
	defer func() { retErr = errors.Join(retErr, b.close()) }()
	if b.unread != nil { // what it says must not be undone
		return b.unread
	}
	b.span, b.leaving = span, true // a killed call may have left a table without trunks
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
	if err := do(b, corrections); err != nil {
		return errors.Join(err, b.undo()) // which leaves what was repaired for endpoints
	}
	return nil
}

// mendFor is mend with notices. With lenient, its error is the first refusal that is left, unless that is an ErrNotReady.
func (b *bus) mendFor(lenient bool, want func() plan.Want) (repaired []plan.Difference, err error) {
	repaired, err = b.mend(lenient, plan.Diff(want(), b.view), want)
	if err != nil {
		return repaired, err
	}
	b.warn(want())
	if lenient || len(b.endpoints) > 0 { // else this call starts the bus: what it lacks is no damage
		b.noticeRepairs(repaired)
	}
	if err := plan.Refusal(plan.Diff(want(), b.view), false); !errors.Is(err, plan.ErrNotReady) {
		return repaired, err
	}
	return repaired, nil
}
