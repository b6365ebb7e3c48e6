package bus

import (
	"context"
	"errors"
	"slices"

	"github.com/vxcan/vxcan/pkg/store"
)

// Detach takes an attachment off its bus. What is not there is no error: no device, no record, no hub. Hub and
// backplane stay. It blocks for the bus's lock.
func (h *Host) Detach(ctx context.Context, hub string, a Attachment) (retErr error) {
	if CheckName(hub) != nil || CheckRootful() != nil { // nothing was ever made
		return nil
	}
	b, err := h.open(ctx, hub)
	if err != nil {
		return err
	}
	defer func() { retErr = errors.Join(retErr, b.close()) }()
	// The name comes from the attachment alone. A record may still have it under another one.
	names := []string{hostIfName(a)}
	for _, e := range b.state.Endpoints {
		if e.sameAs(a) && !slices.Contains(names, e.HostIf) {
			names = append(names, e.HostIf)
		}
	}
	return b.detach(names)
}

// sameAs tells whether two attachments are one that is called differently: because its network's configuration has been
// edited, or because `podman network reload` calls ADD by the container end's name, which is one of Entry's, and later
// DEL by the first one.
func (a Attachment) sameAs(b Attachment) bool {
	return a.Runtime == b.Runtime && a.Network == b.Network && a.ContainerID == b.ContainerID &&
		(a.IfName == b.IfName || a.Entry == b.Entry && (matches(a.IfName, a.Entry) || matches(b.IfName, b.Entry)))
}

// detach deletes endpoints by the names of their host ends. The devices are what matters: a record that cannot be
// removed, on a full disk say, is dropped by a later call, because its devices are gone.
func (b *bus) detach(hostIfs []string) error {
	rest := b.state
	rest.Endpoints = slices.DeleteFunc(slices.Clone(rest.Endpoints), func(e endpoint) bool { return slices.Contains(hostIfs, e.HostIf) })
	var unsaved error
	// A bus that had no file gets none for nobody. One that had keeps it, empty: its next endpoint, after a reboot say, is
	// a recovery.
	changed := b.dirty || len(rest.Endpoints) < len(b.state.Endpoints)
	if changed && (b.known || len(rest.Endpoints) > 0) {
		unsaved = b.file.Prepare(rest)
	}
	var errs []error
	for _, name := range hostIfs {
		errs = append(errs, b.deleteEndpoint(name))
	}
	if err := errors.Join(errs...); err != nil {
		return err // the records stay, also of what did go, which a later look drops
	}
	if err := errors.Join(unsaved, b.file.Commit()); err != nil {
		b.host.recovered(b.name, "left a record behind, which does no harm: %v", err)
	}
	return nil
}

// Collect detaches every attachment of a runtime's network that valid does not know, on whatever hub it is, and deletes
// what is left of others of it (see AttachHere). Other networks' and runtimes' are left alone. It goes on after errors
// and returns them all.
func (h *Host) Collect(ctx context.Context, runtime, network string, valid func(Attachment) bool) error {
	if CheckRootful() != nil { // nothing was ever made
		return nil
	}
	names, err := store.Names(h.stateDir())
	if err != nil {
		return err
	}
	hubs, err := h.hubsInKernel(runtime, network)
	if err != nil {
		return err
	}
	hubs = append(hubs, names...)
	slices.Sort(hubs)
	var errs []error
	for _, hub := range slices.Compact(hubs) {
		errs = append(errs, h.collect(ctx, hub, runtime, network, valid))
	}
	return errors.Join(errs...)
}

// hubsInKernel names the hubs of a network's endpoints by what their host ends say.
func (h *Host) hubsInKernel(runtime, network string) (hubs []string, err error) {
	k, err := h.connect()
	if err != nil {
		return nil, err
	}
	defer k.Close()
	links, err := k.AllLinks()
	for _, l := range links {
		if hub, a, ok := parseAlias(l.Alias); ok && CheckName(hub) == nil && a.Runtime == runtime && a.Network == network {
			hubs = append(hubs, hub)
		}
	}
	return hubs, err
}

// collect is Collect on one bus.
func (h *Host) collect(ctx context.Context, hub, runtime, network string, valid func(Attachment) bool) (retErr error) {
	b, err := h.open(ctx, hub)
	if err != nil {
		return err
	}
	defer func() { retErr = errors.Join(retErr, b.close()) }()
	links, err := b.k.AllLinks()
	if err != nil {
		return err
	}
	b.recall(links)
	var hostIfs []string
	ours := func(e endpoint) bool { return e.Runtime == runtime && e.Network == network }
	for _, e := range b.state.Endpoints {
		if ours(e) && !valid(e.Attachment) {
			hostIfs = append(hostIfs, e.HostIf)
		}
	}
	for _, e := range b.orphans {
		if ours(e) {
			hostIfs = append(hostIfs, e.HostIf)
			b.host.recovered(b.name, "deleted what %s left behind", e.Attachment)
		}
	}
	return b.detach(hostIfs)
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
