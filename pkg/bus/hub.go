package bus

import (
	"context"
	"errors"
)

// Heal makes sure of a bus, hub and backplane, and puts right whatever of it is missing, without attaching anybody. It
// blocks for the bus's lock.
func (h *Host) Heal(ctx context.Context, spec Spec) (retErr error) {
	if err := spec.check(); err != nil {
		return err
	}
	b, err := h.open(ctx, spec.Hub)
	if err != nil {
		return err
	}
	defer func() { retErr = errors.Join(retErr, b.close()) }()
	if _, err := b.look(); err != nil {
		return err
	}
	if err := b.checkHub(spec); err != nil {
		return err
	}
	if err := b.survey(); err != nil {
		return err
	}
	if _, err := b.sweep(); err != nil {
		return err
	}
	if b.hub.Index == 0 || b.dirty {
		if err := b.file.Prepare(b.state); err != nil {
			return err
		}
	}
	made, err := b.ensureDevices(b.hubMTU(spec))
	defer func() {
		if retErr != nil && len(b.state.Endpoints) == 0 {
			retErr = errors.Join(retErr, b.unmake(made))
		}
	}()
	if err != nil {
		return err
	}
	if err := b.repair(endpoint{}); err != nil {
		return err
	}
	b.ensureBacklog()
	return b.file.Commit()
}

// Remove takes away a bus that nobody is on any more: its backplane, and its hub if we made it. While an endpoint of
// any network is left it does nothing. It blocks for the bus's lock.
func (h *Host) Remove(ctx context.Context, hub string) (retErr error) {
	if err := CheckName(hub); err != nil {
		return err
	}
	b, err := h.open(ctx, hub)
	if err != nil {
		return err
	}
	defer func() { retErr = errors.Join(retErr, b.close()) }()
	if _, err := b.look(); err != nil {
		return err
	}
	links, err := b.k.AllLinks()
	if err != nil {
		return err
	}
	b.recall(links)
	if _, err := b.sweep(); err != nil {
		return err
	}
	if len(b.state.Endpoints) > 0 {
		return b.file.Save(b.state)
	}
	if b.isBackplane() {
		tx, _ := backplaneNames(hub)
		retErr = b.k.Delete(tx)
	}
	if b.ownHub() {
		retErr = errors.Join(retErr, b.k.Delete(hub))
	}
	return errors.Join(retErr, b.file.Remove())
}
