package bus

import (
	"context"
	"errors"
	"slices"

	"github.com/vxcan/vxcan/pkg/store"
)

// Detach takes an attachment off its bus. What is not there is no error: no device, no record, no hub. Hub and
// backplane stay, but for those that were made for a pod. It blocks for the bus's lock.
func (h *Host) Detach(ctx context.Context, hub string, a Attachment) (retErr error) {
	if CheckName(hub) != nil || CheckRootful() != nil { // nothing was ever made
		return nil
	}
	b, err := h.open(ctx, hub)
	if errors.Is(err, store.ErrIO) { // a read-only disk, say
		return h.detachUnrecorded(hub, a, err)
	} else if err != nil {
		return err
	}
	defer func() { retErr = errors.Join(retErr, b.close()) }()
	// The name comes from the attachment alone. A record may still have it under another one.
	names := []string{hostIfName(a)}
	for _, e := range b.record.Endpoints {
		if e.sameAs(a) && e.Attachment != a {
			names = append(names, hostIfName(e.Attachment))
		}
	}
	return b.detach(names)
}

// detachUnrecorded is Detach where the bus cannot be locked: the devices are what matters.
func (h *Host) detachUnrecorded(hub string, a Attachment, cause error) error {
	k, err := h.connect()
	if err != nil {
		return err
	}
	b := &bus{host: h, name: hub, k: k}
	b.notice("going on without the record: %s", OneLine(cause))
	return errors.Join(b.deleteEndpoint(hostIfName(a)), k.Close())
}

// sameAs tells whether two attachments are one that is called differently: because its network's configuration has been
// edited, or because `podman network reload` calls ADD by the container end's name, which is one of Entry's, and later
// DEL by the one that Podman first made up.
func (a Attachment) sameAs(b Attachment) bool {
	renamed := a.Entry == b.Entry && (isMadeUp(a.IfName) && matches(b.IfName, a.Entry) || isMadeUp(b.IfName) && matches(a.IfName, a.Entry))
	return a.Runtime == b.Runtime && a.Network == b.Network && a.ContainerID == b.ContainerID && (a.IfName == b.IfName || renamed)
}

// detach deletes endpoints by the names of their host ends. The devices are what matters: a record that cannot be
// written, on a full disk say, is corrected by a later call.
func (b *bus) detach(hostIfs []string) error {
	var errs []error
	for _, name := range hostIfs {
		errs = append(errs, b.deleteEndpoint(name))
	}
	before := len(b.record.Endpoints)
	b.record.Endpoints = slices.DeleteFunc(b.record.Endpoints, func(r recorded) bool {
		return slices.Contains(hostIfs, hostIfName(r.Attachment))
	})
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if len(b.record.Endpoints) == 0 {
		if err := b.removeTransient(); err != nil {
			return err
		}
	}
	if !b.onDisk || len(b.record.Endpoints) == before && before > 0 && b.known {
		return nil
	}
	if err := b.saveOrRemove(); err != nil {
		b.notice("left a record behind, which does no harm: %s", OneLine(err))
	}
	return nil
}

// removeTransient takes away a bus that was made for a pod, when no endpoint is left on it.
func (b *bus) removeTransient() error {
	links, err := b.k.Links(b.name)
	if err != nil || links[0].Alias != transientAlias {
		return err
	}
	if _, err := b.observe(); err != nil || len(b.record.Endpoints) > 0 {
		return err
	}
	return b.removeDevices()
}

// removeDevices deletes the backplane, and the hub if we made it, else its filters.
func (b *bus) removeDevices() error {
	w := b.want(Spec{Hub: b.name}, "")
	var indexes []int
	if tx := b.view.link(w.tx); isPair(tx, b.view.link(w.rx)) {
		indexes = append(indexes, tx.Index)
	}
	hub := b.view.link(b.name)
	if isOurHub(hub) {
		indexes = append(indexes, hub.Index)
	}
	err := b.k.Delete(indexes...)
	if hub.Index != 0 && !isOurHub(hub) {
		err = errors.Join(err, b.k.DeleteFilters(hooks(hub.Index, false)...))
	}
	return err
}

// Collect detaches every attachment that is stale, on whatever bus it is. left tells stale that the devices of an
// attachment are left over, see movedBack. Collect looks at the devices of the host once, and then only at buses where
// something is stale, where it asks again while it holds the lock. It goes on after errors and returns them all.
func (h *Host) Collect(ctx context.Context, stale func(a Attachment, left bool) bool) error {
	if CheckRootful() != nil { // nothing was ever made
		return nil
	}
	names, err := store.Names(h.stateDir())
	if err != nil {
		return err
	}
	hubs, err := h.staleHubs(stale)
	if err != nil {
		return err
	}
	var errs []error
	for _, hub := range slices.Compact(slices.Sorted(slices.Values(append(names, hubs...)))) {
		if err := ctx.Err(); err != nil {
			return errors.Join(append(errs, err)...)
		}
		errs = append(errs, h.collect(ctx, hub, slices.Contains(hubs, hub), stale))
	}
	return errors.Join(errs...)
}

// staleHubs names the hubs of what is stale, by the aliases of the devices.
func (h *Host) staleHubs(stale func(a Attachment, left bool) bool) (hubs []string, err error) {
	k, err := h.connect()
	if err != nil {
		return nil, err
	}
	defer k.Close()
	var v view
	if v.links, err = k.AllLinks(); err != nil {
		return nil, err
	}
	seen := make(map[string]bool)
	for _, l := range v.links {
		hub, _, ok := parseAlias(l.Alias)
		if !ok || seen[hub] || CheckName(hub) != nil {
			continue
		}
		seen[hub] = true
		if slices.ContainsFunc(v.endpoints(hub, nil), func(e endpoint) bool { return stale(e.Attachment, v.movedBack(e)) }) {
			hubs = append(hubs, hub)
		}
	}
	return hubs, nil
}

// collect is Collect on one bus. found tells that staleHubs has found it.
func (h *Host) collect(ctx context.Context, hub string, found bool, stale func(a Attachment, left bool) bool) (retErr error) {
	b, err := h.open(ctx, hub)
	if err != nil {
		return err
	}
	defer func() { retErr = errors.Join(retErr, b.close()) }()
	if !found && !slices.ContainsFunc(b.record.Endpoints, func(r recorded) bool { return stale(r.Attachment, false) }) {
		return nil
	}
	if _, err := b.observe(); err != nil {
		return err
	}
	var hostIfs []string
	for _, e := range b.endpoints {
		if stale(e.Attachment, b.view.movedBack(e)) {
			hostIfs = append(hostIfs, e.host.Name)
		}
	}
	return b.detach(hostIfs)
}

// Remove takes away a bus without endpoints: its backplane, and its hub if we made it. While an endpoint of any network
// is left it does nothing. It blocks for the bus's lock.
func (h *Host) Remove(ctx context.Context, hub string) (retErr error) {
	if err := CheckName(hub); err != nil {
		return err
	}
	b, err := h.open(ctx, hub)
	if err != nil {
		return err
	}
	defer func() { retErr = errors.Join(retErr, b.close()) }()
	if _, err := b.observe(); err != nil {
		return err
	}
	if len(b.record.Endpoints) > 0 {
		return b.save()
	}
	return errors.Join(b.removeDevices(), b.removeFile())
}

// Ready tells whether an Attach could work on this kernel, without making anything: nil, ErrNoKernelSupport or
// ErrPermission. It loads modules that the kernel has but has not loaded.
func (h *Host) Ready() error {
	k, err := h.connect()
	if err != nil {
		return err
	}
	return errors.Join(k.Probe(), k.Close())
}
