package bus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/vxcan/vxcan/pkg/canlink"
	"github.com/vxcan/vxcan/pkg/config"
	"github.com/vxcan/vxcan/pkg/plan"
	"github.com/vxcan/vxcan/pkg/store"
)

// Detach takes an attachment off its bus, and off every other one: its network's configuration may have been edited since. What is
// not there is no error: no device, no record, no hub. Hub and backplane stay, but for those that were made for a pod. hub is the
// bus that the configuration names, or "". Detach blocks for the locks of its buses. Where the record of that bus has the attachment,
// the records of the others tell where else it is; else the aliases of all devices do, which costs more the more there are.
func (h *Host) Detach(ctx context.Context, hub string, a config.Attachment) (retErr error) {
	defer func() { retErr = explain(retErr) }()
	isIt := func(other config.Attachment, _ bool) bool { return other.SameAs(a) }
	look := func() ([]string, error) {
		v, err := h.devices()
		return busesWith(v, isIt), err
	}
	if config.CheckName(hub) == nil {
		look = func() ([]string, error) { return h.collect(ctx, hub, true, isIt, a) }
	}
	others, err := look()
	if errors.Is(err, errForeignNetns) { // where nothing was ever made
		return nil
	}
	errs := []error{err}
	for _, other := range others {
		if other != hub {
			_, err := h.collect(ctx, other, true, isIt)
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// busesWith names the buses that have a stale endpoint, as the aliases of devices tell.
func busesWith(v plan.View, stale func(a config.Attachment, left bool) bool) []string {
	return slices.DeleteFunc(v.Buses(), func(hub string) bool { return !hasStale(v, hub, stale) })
}

func hasStale(v plan.View, hub string, stale func(a config.Attachment, left bool) bool) bool {
	return slices.ContainsFunc(v.Endpoints(hub, nil), func(e plan.Endpoint) bool { return stale(e.Attachment, v.MovedBack(e)) })
}

// detach deletes host ends and records.
func (b *bus) detach(hosts []canlink.Link, gone func(r plan.Record) bool) error {
	var errs []error
	var deleted []int
	for _, host := range hosts {
		errs = append(errs, b.deleteEndpoint(host))
		deleted = append(deleted, host.Index)
	}
	asked := slices.Concat(b.trail.record.endpoints, b.record.endpoints) // also those without a device, of an ADD that was killed
	if slices.ContainsFunc(asked, func(r plan.Record) bool { return r.Hub.IsFair() || r.Found }) && len(deleted) > 0 {
		hub, err := b.k.link(b.name)
		errs = append(errs, err, b.deleteClasses(hub.Index, classesOf(deleted)...))
	}
	spans := func(r plan.Record) bool { return r.Hub.Span.Hosts != "" || r.Found }
	spanned := slices.ContainsFunc(asked, spans) || b.view.HasSpan(b.name)
	b.record.endpoints = slices.DeleteFunc(slices.Clone(b.record.endpoints), gone)
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if len(b.record.endpoints) == 0 {
		if err := b.removeTransient(); err != nil {
			return err
		}
	}
	if spanned && !slices.ContainsFunc(b.record.endpoints, spans) {
		if err := b.leaveHosts(); err != nil { // the record stays, so that the next call tries again
			return err
		}
	}
	if b.onDisk && (len(b.record.endpoints) == 0 || !slices.Equal(b.record.endpoints, b.trail.record.endpoints)) || b.broken != nil {
		b.saveOrGoOn()
	}
	return nil
}

// leaveHosts takes away what connects a bus with other hosts when nothing on it asks for them, unless the hub is ours and stays.
func (b *bus) leaveHosts() error {
	b.leaving, b.span = true, config.Span{}
	mayAsk := func(e plan.Endpoint) bool { return e.Found }
	if _, err := b.observe(); err != nil || plan.IsOurHub(b.view.Link(b.name)) || slices.ContainsFunc(b.endpoints, mayAsk) {
		return err
	}
	for range 2 { // first the trunks, then the filters and rules that used them
		all := plan.DiffSpan(b.name, b.view)
		if len(b.endpoints) > 0 {
			all = slices.DeleteFunc(plan.Diff(b.agreed(), b.view), func(d plan.Difference) bool {
				c := d.Change // what is missing of the rest of the bus is for the next ADD
				return c.AddHub != "" || c.AddPair != nil || c.HubMTU != 0 || c.Controller != (plan.ControllerChange{})
			})
		}
		if _, _, err := b.apply(all); err != nil {
			return err
		}
		if _, err := b.observe(); err != nil {
			return err
		}
	}
	return nil
}

// removeTransient takes away a bus that was made for a pod, when no endpoint is left on it, and a backplane without a hub, which
// is of no use.
func (b *bus) removeTransient() error {
	tx, rx := config.BackplaneNames(b.name)
	there, err := b.k.links.Get(b.name, tx, rx)
	if err != nil {
		return err
	}
	hub := there[0]
	left := hub.Index == 0 && slices.ContainsFunc(there, plan.IsOurBackplane)
	if !left && !plan.IsTransient(hub) {
		return nil
	}
	if _, err := b.observe(); err != nil || len(b.endpoints) > 0 {
		return err
	}
	_, err = b.removeDevices()
	return err
}

// removeDevices takes away what plan.Removal says. removed reports whether there was anything.
func (b *bus) removeDevices() (removed bool, err error) {
	c := plan.Removal(b.name, b.view)
	// The table first: a later call finds it only by its trunks, and trunks take nothing without it.
	err = errors.Join(b.applyTable(plan.Change{DeleteTable: c.DeleteTable}), b.k.links.Delete(c.Remove...),
		b.k.gw.DeleteJobs(c.Wiring.DeleteJobs...), b.k.tc.Delete(c.Wiring.DeleteFilters...))
	if hub := b.view.Link(b.name); b.view.Queue.Ours && hub.Index != 0 {
		return true, errors.Join(err, b.k.tc.DeleteQueue(hub.Index))
	}
	return len(c.Remove) > 0 || c.DeleteTable != "" || !c.Wiring.Empty(), err
}

// Collect detaches every attachment that is stale, on whatever bus it is. left reports that the devices of an attachment
// are left over, see plan.View.MovedBack. Collect looks at the devices of the host once, opens each bus to read its
// record, and lists devices again only for those with something stale. It goes on after errors and returns them all.
func (h *Host) Collect(ctx context.Context, stale func(a config.Attachment, left bool) bool) (retErr error) {
	defer func() { retErr = explain(retErr) }()
	names, v, err := h.look()
	if errors.Is(err, errForeignNetns) { // where nothing was ever made
		return nil
	}
	errs := []error{err} // what could be seen is collected all the same
	for _, hub := range names {
		if err := ctx.Err(); err != nil {
			return errors.Join(append(errs, err)...)
		}
		_, err := h.collect(ctx, hub, hasStale(v, hub, stale), stale)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// collect is Collect on one bus, and names the buses on which it has seen something stale. found says that a stale device is known;
// else only the record is looked at. A host end of one that is sought is found by its name, even without alias and record. Where the
// record has what is sought, no devices are listed.
func (h *Host) collect(ctx context.Context, hub string, found bool, stale func(a config.Attachment, left bool) bool, sought ...config.Attachment) (others []string, retErr error) {
	b, err := h.open(ctx, hub)
	if err != nil {
		return nil, err
	}
	defer func() { retErr = errors.Join(retErr, b.close()) }()
	recorded := func(r plan.Record) bool { return stale(r.Attachment, false) }
	if !found && !slices.ContainsFunc(b.record.endpoints, recorded) {
		return nil, nil
	}
	if len(sought) > 0 {
		hosts, err := b.hostsOf(recorded)
		if err != nil || len(hosts) > 0 {
			return b.recordedOn(recorded), errors.Join(err, b.detach(hosts, recorded))
		}
	}
	v := plan.View{Rootless: b.k.rootless}
	if v.Links, err = b.k.links.List(); err != nil {
		return nil, err
	}
	b.seek(sought...)
	var hosts []canlink.Link
	gone := make(map[config.Attachment]bool)
	endpoints := v.Endpoints(hub, b.record.endpoints)
	b.record.endpoints = make([]plan.Record, len(endpoints))
	for i, e := range endpoints {
		b.record.endpoints[i] = e.Record
		if stale(e.Attachment, v.MovedBack(e)) {
			hosts, gone[e.Attachment] = append(hosts, e.Host), true
		}
	}
	b.view = v
	return busesWith(v, stale), b.detach(hosts, func(r plan.Record) bool { return gone[r.Attachment] })
}

// hostsOf returns the host ends of the endpoints that a call is about, if the record has such, and each device of their names has
// their alias; else none.
func (b *bus) hostsOf(isOne func(r plan.Record) bool) ([]canlink.Link, error) {
	records := slices.DeleteFunc(slices.Clone(b.record.endpoints), func(r plan.Record) bool { return !isOne(r) })
	names := make([]string, len(records))
	for i, r := range records {
		names[i] = r.HostIf()
	}
	hosts, err := b.k.links.Get(names...)
	for i, l := range hosts {
		if said, ok := plan.ParseAlias(l.Alias); !ok || l.Kind != canlink.Vxcan || said.Hub != b.name || said.Attachment != records[i].Attachment {
			return nil, err
		}
	}
	return hosts, err
}

// recordedOn names the other buses whose records have such an endpoint. A record that cannot be read is for the next ADD on its bus.
func (b *bus) recordedOn(isOne func(r plan.Record) bool) []string {
	names, _ := store.Names(b.dir)
	return slices.DeleteFunc(names, func(hub string) bool {
		var r record
		if hub != b.name {
			_, _ = store.Read(b.dir, hub, &r)
		}
		return !slices.ContainsFunc(r.endpoints, isOne)
	})
}

// Remove takes away a bus that no endpoint uses: its backplane, its hub if we made it, else our filters on it, and its
// record. It never takes away the device of another program. It fails with ErrInUse while there is an endpoint of any network,
// and with ErrNoBus where nothing of a bus is there. It blocks for the bus's lock.
func (h *Host) Remove(ctx context.Context, hub string) error {
	if err := config.CheckName(hub); err != nil {
		return err
	}
	return h.repair(ctx, hub, config.Span{}, func(b *bus, corrections []string) error {
		if len(b.endpoints) > 0 {
			return fmt.Errorf("%w by %s", ErrInUse, b.users())
		}
		removed, err := b.removeDevices()
		b.saveOrGoOn()
		if err == nil && !removed && len(corrections) == 0 {
			return ErrNoBus
		}
		return err
	})
}

func (b *bus) users() string {
	const shown = 4
	var words []string
	for _, e := range b.endpoints[:min(len(b.endpoints), shown)] {
		user := e.Attachment.String()
		if e.Endpoint.Name != "" {
			user = fmt.Sprintf("%s (%s)", plan.Quote(e.Endpoint.Name), user)
		}
		words = append(words, user)
	}
	if more := len(b.endpoints) - shown; more > 0 {
		words = append(words, fmt.Sprintf("%d more", more))
	}
	return strings.Join(words, ", ")
}
