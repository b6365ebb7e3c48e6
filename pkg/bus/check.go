package bus

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"strings"

	"github.com/vxcan/vxcan/pkg/plan"
)

// Damage is returned by Check: each difference, and how it can be repaired.
type Damage []string

func (d Damage) Error() string { return strings.Join(d, "; ") }

// Check proves that a bus is whole, and that an attachment is as Attach made it; else it fails with Damage. It changes nothing.
// contIfs holds the names that the container end may have, as Attach returned them. It blocks for the bus's lock.
func (h *Host) Check(ctx context.Context, r Request, contIfs []string) (retErr error) {
	defer func() { retErr = explain(retErr) }()
	if err := r.check(); err != nil {
		return err
	}
	at, err := openPlace(r)
	if err != nil {
		return err
	}
	defer at.close()
	b, err := h.open(ctx, r.Hub.Name)
	if err != nil {
		return err
	}
	defer func() { retErr = errors.Join(retErr, b.close()) }()
	if b.broken != nil {
		return b.broken
	}
	if at.k, err = h.connect(at.netns); err != nil {
		return err
	}
	defer func() { retErr = errors.Join(retErr, at.k.close()) }()
	b.span = r.Hub.Span
	damage, err := lasting(func() ([]string, error) { return b.damage(r, contIfs, at) })
	if err != nil {
		return err
	}
	b.warn(plan.NewWant(r.Hub, b.endpoints, ""))
	if len(damage) > 0 {
		return Damage(damage)
	}
	return nil
}

// lasting returns what two looks both found: a container that dies between the lists of devices and of rules is no damage.
func lasting[T any](look func() ([]T, error)) ([]T, error) {
	all, err := look()
	if err != nil || len(all) == 0 {
		return all, err
	}
	again, err := look()
	return slices.DeleteFunc(all, func(d T) bool {
		return !slices.ContainsFunc(again, func(other T) bool { return reflect.DeepEqual(d, other) })
	}), err
}

func (b *bus) damage(r Request, contIfs []string, at place) (damage []string, err error) {
	b.seek(r.Attachment)
	if _, err := b.observe(); err != nil {
		return nil, err
	}
	host := b.view.HostEnd(r.Attachment)
	end, err := at.k.links.GetIndex(host.PeerIndex)
	if err != nil {
		return nil, err
	}
	var all []plan.Difference
	for _, e := range b.endpoints {
		if e.Attachment == r.Attachment && !e.CutOff {
			all = append(all, plan.DiffPolicy(e.Endpoint.Policy, r.Endpoint.Policy)...)
		}
	}
	if now := b.agreed().Hub.Span; now.Replaces(r.Hub.Span) { // which a later ADD brought
		r.Hub.Span = now
	}
	w := plan.NewWant(r.Hub, b.endpoints, "")
	w.MTU = r.Endpoint.MTU
	all = append(all, plan.Diff(w, b.view)...)
	ends := plan.Ends{Host: host, Cont: end, Here: at.here(), Place: at.words(), Hub: b.name}
	mtu := w.MTUFor(r.Endpoint, b.view.Link(b.name))
	all = append(all, plan.DiffEndpoint(r.HostIf(), ends, mtu, func(name string) bool { return slices.Contains(contIfs, name) })...)
	for _, d := range all {
		if d.What != "" && d.Kind != plan.TrunkNoWay { // which ADD does not wait for; some runtimes CHECK behind each ADD
			damage = append(damage, d.String())
		}
	}
	return damage, nil
}
