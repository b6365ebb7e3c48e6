package bus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"
	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/canlink"
	"github.com/vxcan/vxcan/pkg/config"
	"github.com/vxcan/vxcan/pkg/plan"
)

// Request is what Attach and Check are about: an attachment, the hub and the endpoint that it asks for, and its place.
type Request struct {
	config.Attachment
	Hub      config.Hub
	Endpoint config.Endpoint
	Place    Place
	// Limit is how many endpoints of this attachment's runtime may be on the bus; 0 is any number.
	Limit int
}

// Place is where a container end is to be.
type Place struct {
	NetnsPath string
	Interface string // its name in the container
	Here      bool   // leave it in the host's netns, down, named as the Result says: the runtime moves it itself
}

// Result is an attachment at work.
type Result struct {
	Hub           string
	HostIf        string // host end
	ContIf        string // container end
	HubMTU, IfMTU int    // bytes
	Made          bool   // the pair was not there before
}

func (r Request) check() error {
	if err := config.CheckHub(r.Hub.Name); err != nil {
		return fmt.Errorf("hub: %w", err)
	}
	if r.Hub.Span.Nodes && r.Hub.Span.Hosts == "" {
		return fmt.Errorf("%w: hosts: no nodes are behind the word nodes yet; vxcan-install puts them into the entry of the pod network, and its log says why not", plan.ErrNotReady)
	}
	if r.Endpoint.MTU != 0 {
		if err := config.CheckMTU(r.Endpoint.MTU); err != nil {
			return err
		}
	}
	if !r.Place.Here {
		if err := config.CheckName(r.Place.Interface); err != nil {
			return err
		}
	}
	return errors.Join(plan.CheckPolicy(r.Endpoint.Policy), plan.CheckAlias(r.Hub, r.Attachment, r.Endpoint.Policy))
}

// Attach puts containers on buses, and puts right whatever is missing of these. The same attachment again in the same netns
// changes nothing; in another one, and where a container end of Place.Here has been moved, it is built anew. It blocks for the
// locks of all its buses and holds them until deliver, if there is one, has handed the results over. Whatever fails, deliver
// included, everything that this call made is taken away again, hubs and backplanes too.
func (h *Host) Attach(ctx context.Context, deliver func([]Result) error, requests ...Request) (results []Result, retErr error) {
	defer func() { retErr = explain(retErr) }()
	for _, r := range requests {
		if err := r.check(); err != nil {
			return nil, err
		}
	}
	places := make([]place, len(requests))
	for i, r := range requests {
		at, err := openPlace(r)
		if err != nil {
			return nil, err
		}
		defer at.close()
		places[i] = at
	}
	buses, err := h.openAll(ctx, requests)
	defer func() {
		failed := retErr != nil // decided once: an error of close below must not undo some buses only
		for _, b := range buses {
			if failed {
				retErr = errors.Join(retErr, b.undo())
			} else {
				b.noticeRepairs(b.trail.repaired)
			}
			retErr = errors.Join(retErr, b.close())
		}
		if retErr != nil {
			results = nil
		}
	}()
	if err != nil {
		return nil, err
	}
	for i, r := range requests {
		result, err := buses[r.Hub.Name].attachAt(r, places[i])
		if err != nil {
			return nil, err
		}
		results = append(results, result)
	}
	if deliver != nil {
		return results, deliver(results)
	}
	return results, nil
}

// openAll opens the buses of requests, in the order of their names: two calls that need the same ones never wait for each
// other. It returns what it has opened also with an error.
func (h *Host) openAll(ctx context.Context, requests []Request) (map[string]*bus, error) {
	var names []string
	for _, r := range requests {
		names = append(names, r.Hub.Name)
	}
	slices.Sort(names)
	buses := make(map[string]*bus)
	for _, name := range slices.Compact(names) {
		b, err := h.open(ctx, name)
		if err != nil {
			return buses, err
		}
		buses[name] = b
		if b.broken != nil {
			return buses, b.broken
		}
	}
	return buses, nil
}

// place is a Place that is open.
type place struct {
	netns  ns.NetNS // nil is the host's
	ifName string   // wanted
	k      *kernel  // nil until it is connected
}

func openPlace(r Request) (at place, err error) {
	if r.Place.Here {
		return place{ifName: r.ContIf()}, nil
	}
	at.ifName = r.Place.Interface
	at.netns, err = openNetns(r.Place.NetnsPath)
	return at, err
}

func (p place) close() {
	if p.netns != nil {
		p.netns.Close()
	}
}

func (p place) here() bool { return p.netns == nil }

func (p place) words() string {
	if p.here() {
		return "the host's network namespace"
	}
	return p.netns.Path()
}

// attachAt makes the endpoint of an attachment and mends the bus.
func (b *bus) attachAt(r Request, at place) (_ Result, retErr error) {
	var err error
	if at.k, err = b.host.connect(at.netns); err != nil {
		return Result{}, err
	}
	defer func() { retErr = errors.Join(retErr, at.k.close()) }()
	hostIf := r.HostIf()
	b.span = r.Hub.Span
	want := func() plan.Want {
		w := plan.NewWant(r.Hub, b.endpoints, hostIf)
		w.MTU = r.Endpoint.MTU
		return w
	}
	corrections, err := b.observe()
	if err != nil {
		return Result{}, err
	}
	b.trail.alone = b.trail.alone || len(b.endpoints) == 0
	isFresh := len(b.endpoints) == 0 && !b.onDisk // this call starts the bus: what it lacks is no damage
	all := plan.Diff(want(), b.view)
	if err := b.refusal(r, all); err != nil {
		return Result{}, err
	}
	for _, c := range corrections {
		b.notice("%s", c)
	}
	mtu := r.Endpoint.MTUOn(plan.MTUOf(r.Hub, b.view.Link(b.name)))
	e, changed, err := b.enlist(r, at, mtu, len(corrections) > 0)
	if err != nil {
		return Result{}, err
	}
	if changed {
		all = plan.Diff(want(), b.view)
	}
	repaired, err := b.mend(false, all, want)
	if err != nil {
		return Result{}, err
	}
	made := e.Host.Index == 0
	if made {
		if e.Host, err = b.addPair(r, mtu, at); err != nil {
			return Result{}, err
		}
		b.put(e.Record) // again: what mend observed dropped a record without a device
		b.view.Links, b.endpoints = append(b.view.Links, e.Host), append(b.endpoints, e)
		if err := b.applyWiring(want().Wire(b.view, e)); err != nil {
			return Result{}, err
		}
	}
	b.warn(want())
	if !at.here() { // last, so that what goes up is whole
		if err := b.setUp(e.Host, at); err != nil {
			return Result{}, err
		}
	}
	if !isFresh {
		b.trail.repaired = append(b.trail.repaired, repaired...)
	}
	return Result{Hub: b.name, HostIf: hostIf, ContIf: at.ifName, HubMTU: b.view.Link(b.name).MTU, IfMTU: mtu, Made: made}, nil
}

// enlist records an endpoint. If its pair is in place, e.Host is set; else an earlier pair is deleted. changed reports whether
// the bus must be compared again.
func (b *bus) enlist(r Request, at place, mtu int, corrected bool) (e plan.Endpoint, changed bool, err error) {
	hostIf := r.HostIf()
	e.Record = plan.Record{Attachment: r.Attachment, Ask: plan.Ask{Hub: r.Hub, Endpoint: r.Endpoint}}
	if e.Host, err = b.inPlace(r, at, mtu); err != nil {
		return e, false, err
	}
	there := e.Host.Index != 0
	old := b.view.HostEnd(r.Attachment)
	// A policy is recorded before the alias mentions it, and leaves the alias before it leaves the record: a kill in between must
	// not cut the endpoint off.
	alias, lifts := plan.Alias(r.Hub, r.Attachment, r.Endpoint.Policy), r.Endpoint.Policy == (config.Policy{})
	if lifts {
		if err := b.relabel(old, alias); err != nil {
			return e, false, err
		}
	}
	if b.put(e.Record) || corrected || !b.onDisk {
		b.trail.edited = b.trail.edited || there
		if err := b.save(); err != nil {
			return e, false, err
		}
	}
	switch {
	case there:
		if !lifts {
			if err := b.relabel(e.Host, alias); err != nil {
				return e, false, err
			}
		}
		e.Host = b.view.At(e.Host.Index)
		b.endpoints = slices.DeleteFunc(b.endpoints, func(old plan.Endpoint) bool { return old.Host.Name == hostIf })
		b.endpoints = append(b.endpoints, e)
		return e, true, nil
	case old.Index == 0:
		return e, false, nil
	}
	earlier := canlink.Pair{Name: old.Name, Index: old.Index, MTU: old.MTU, Alias: old.Alias, PeerNetns: at.netns}
	if end, err := at.k.links.GetIndex(old.PeerIndex); err != nil {
		return e, false, err
	} else if plan.IsPair(old, end) {
		earlier.PeerName = end.Name
	}
	b.trail.replaced = append(b.trail.replaced, earlier)
	if err := b.deleteEndpoint(old); err != nil {
		return e, false, err
	}
	b.trail.aliased = slices.DeleteFunc(b.trail.aliased, func(l canlink.Link) bool { return l.Index == old.Index }) // another device may get its index
	b.notice("deleted an earlier pair %s of %s", old.Name, r.Attachment)
	_, err = b.observe()
	return e, true, err
}

// relabel sets the alias of this attachment's host end, if there is one, and notes the old one for undo.
func (b *bus) relabel(host canlink.Link, alias string) error {
	if host.Index == 0 || host.Alias == alias {
		return nil
	}
	b.trail.aliased = append(b.trail.aliased, host)
	return b.setAlias(host.Index, alias)
}

// setAlias sets the alias of a host end. If that mentions no policy, it deletes the policy's filters first: nothing looks for them
// later.
func (b *bus) setAlias(index int, alias string) error {
	if said, _ := plan.ParseAlias(alias); !said.Policy {
		if err := b.k.tc.Delete(plan.Hooks(index, true)[2:]...); err != nil {
			return err
		}
	}
	for i := range b.view.Links {
		if l := &b.view.Links[i]; l.Index == index {
			l.Alias = alias
		}
	}
	return b.k.links.SetAlias(index, alias)
}

// refusal is why an attachment cannot be made, before anything is changed. Its own pair does not count: that may be made anew.
func (b *bus) refusal(r Request, all []plan.Difference) error {
	isOwn := func(d plan.Difference) bool { return slices.Contains(d.HostIfs, r.HostIf()) }
	return cmp.Or(plan.Refusal(slices.DeleteFunc(slices.Clone(all), isOwn), false), b.checkLimit(r), b.checkHostIf(r))
}

func (b *bus) checkLimit(r Request) error {
	there := 0
	for _, e := range b.endpoints {
		if e.Runtime == r.Runtime && e.Attachment != r.Attachment {
			there++
		}
	}
	if r.Limit > 0 && there >= r.Limit {
		return fmt.Errorf("%w request: %d interfaces of %s are on bus %s already, and no more are allowed (vxcanctl lend --limit)", config.ErrInvalid, there, r.Runtime, b.name)
	}
	return nil
}

// checkHostIf fails if another device has the name of the attachment's host end.
func (b *bus) checkHostIf(r Request) error {
	other, cure := b.view.NameTaken(r.Attachment)
	if other.Index == 0 {
		return nil
	}
	return fmt.Errorf("%w name: device %s has the name %s, which the host end of %s needs: %s", config.ErrInvalid, plan.Quote(other.Name), r.HostIf(), r.Attachment, cure)
}

// setUp sets a container end up and waits until the kernel sends what is handed to the host end, so that a container hears
// everything from the start. On a busy host that takes a while, and longer than the wait is no failure. It stops waiting if
// somebody sets the container end down: the bus is locked meanwhile.
func (b *bus) setUp(host canlink.Link, at place) error {
	if err := at.k.links.SetUp(host.PeerIndex); err != nil {
		return err
	}
	for wait := 50 * time.Microsecond; wait < time.Second; wait *= 2 {
		link, err := b.k.link(host.Name)
		if err != nil || link.Active || link.Index == 0 {
			return err
		}
		if end, err := at.k.links.GetIndex(host.PeerIndex); err != nil || !end.Up {
			return err
		}
		time.Sleep(wait)
	}
	return nil
}

// inPlace returns the host end of an attachment if its pair is there as it is wanted now, else the zero Link.
func (b *bus) inPlace(r Request, at place, mtu int) (canlink.Link, error) {
	host := b.view.HostEnd(r.Attachment)
	if host.Name != r.HostIf() || host.PeerElsewhere == at.here() || at.here() && host.Used {
		return canlink.Link{}, nil
	}
	end, err := at.k.links.GetIndex(host.PeerIndex)
	if err != nil || !plan.IsPair(host, end) {
		return canlink.Link{}, err
	}
	said, ok := plan.ParseAlias(host.Alias)
	if ok && said.Hub != b.name {
		return canlink.Link{}, fmt.Errorf("%w interface %s: this network put %s on bus %s already; remove the container first, or give each entry an interface name of its own",
			config.ErrInvalid, at.ifName, end.Name, said.Hub)
	}
	ends := plan.Ends{Host: host, Cont: end, Here: at.here(), Place: at.words(), Hub: b.name}
	all := plan.DiffEndpoint(host.Name, ends, mtu, func(name string) bool { return name == at.ifName })
	if slices.ContainsFunc(all, func(d plan.Difference) bool { return d.Kind != plan.ContEndDown }) {
		return canlink.Link{}, nil
	}
	return host, nil
}

// put records an endpoint, and reports whether the record has changed.
func (b *bus) put(r plan.Record) (changed bool) {
	changed = plan.Follow(b.record.endpoints, r.Hub.Span)
	i := slices.IndexFunc(b.record.endpoints, func(old plan.Record) bool { return old.Attachment == r.Attachment })
	switch {
	case i < 0:
		b.record.endpoints = append(b.record.endpoints, r)
	case b.record.endpoints[i] != r:
		b.record.endpoints[i] = r
	default:
		return changed
	}
	return true
}

// addPair makes the pair of an attachment, its peer in the container's netns, and returns the host end. A container end
// that stays here is left down: the runtime that moves it sets it up. An index that is taken is drawn anew.
func (b *bus) addPair(r Request, mtu int, at place) (host canlink.Link, err error) {
	pair := canlink.Pair{
		Name: r.HostIf(), PeerName: at.ifName, MTU: mtu, PeerNetns: at.netns,
		Alias: plan.Alias(r.Hub, r.Attachment, r.Endpoint.Policy),
	}
	const draws = 8
	for range draws {
		pair.Index = b.drawIndex(&b.trail.pairs)
		host, err = b.k.links.AddPair(pair)
		b.trail.notMade(err, pair.Index)
		if !errors.Is(err, unix.EEXIST) { // a name, or the index
			return host, err
		}
		if err := checkNameFree(at); err != nil {
			return host, err
		}
	}
	return host, err
}

// deleteEndpoint deletes a pair. What is not there any more is no error.
func (b *bus) deleteEndpoint(host canlink.Link) error {
	return errors.Join(b.deleteCopies(host.Index), b.k.links.Delete(host.Index))
}

// deleteCopies deletes the filters that copy frames to members, which the kernel keeps when these go.
func (b *bus) deleteCopies(members ...int) error {
	if !b.k.rootless || len(members) == 0 {
		return nil
	}
	_, name := config.BackplaneNames(b.name)
	rx, err := b.k.link(name)
	if err != nil || rx.Index == 0 {
		return err
	}
	return b.k.tc.Delete(plan.CopyHooks(rx.Index, members...)...)
}

// checkNameFree returns ErrNameTaken if a device has the name that a container end is to get.
func checkNameFree(at place) error {
	taken, err := at.k.link(at.ifName)
	switch {
	case err != nil || taken.Index == 0:
	case at.here():
		err = fmt.Errorf("%w %s: another program's device has that name; rename or delete it", ErrNameTaken, at.ifName)
	default:
		err = fmt.Errorf("%w %s: the container (%s) has one of that name already; choose another name", ErrNameTaken, at.ifName, at.netns.Path())
	}
	return err
}
