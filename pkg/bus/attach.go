package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"
	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/canlink"
)

// Target is where the container end is to be.
type Target struct {
	NetnsPath string
	Interface string // its name in the container; "can%d" is the first free one
}

// Result is an attachment at work.
type Result struct {
	Hub           string
	HostIf        string // host end
	ContIf        string // container end
	HubMTU, IfMTU int

	made   []int // ifindexes of the devices that were made for it, the hub and the backplane too
	marked int   // see bus
}

// Request is what Attach is to do.
type Request struct {
	Spec
	Attachment
	Target
}

// Attach puts containers on buses, and puts right whatever is missing of these. The same attachment again in the same
// netns changes nothing; in another one it is built anew. Whatever fails, everything that this call made is taken away
// again, hubs and backplanes too. It blocks for the lock of one bus after the other.
func (h *Host) Attach(ctx context.Context, requests ...Request) (results []Result, retErr error) {
	for _, r := range requests {
		if err := errors.Join(r.Spec.check(), CheckInterface(r.Interface), checkAlias(r.Hub, r.Attachment, r.Policy)); err != nil {
			return nil, err
		}
	}
	defer func() {
		if retErr == nil {
			return
		}
		for i := len(results) - 1; i >= 0; i-- {
			retErr = errors.Join(retErr, h.takeBack(ctx, requests[i].Attachment, results[i]))
		}
		results = nil
	}()
	for _, r := range requests {
		netns, err := openNetns(r.NetnsPath)
		if err != nil {
			return results, err
		}
		result, err := h.attachAt(ctx, r.Spec, r.Attachment, place{netns: netns, ifName: r.Interface})
		if err := errors.Join(err, netns.Close()); err != nil {
			return results, err
		}
		results = append(results, result)
	}
	return results, nil
}

// AttachHere is Attach for a runtime that moves the container end into the container itself: it is left in the host's
// netns, down, under the name that the result has as ContIf. Called again before it has been moved, it changes nothing;
// after that, the attachment is built anew.
func (h *Host) AttachHere(ctx context.Context, spec Spec, a Attachment) (Result, error) {
	if err := errors.Join(spec.check(), checkAlias(spec.Hub, a, spec.Policy)); err != nil {
		return Result{}, err
	}
	return h.attachAt(ctx, spec, a, place{ifName: containerPrefix + hostIfName(a)[2:]})
}

// place is where a container end is, or is to be.
type place struct {
	netns  ns.NetNS // nil is the host's, see AttachHere
	ifName string   // wanted, or with %d
	container
}

func (p place) here() bool { return p.netns == nil }

func (p place) path() string {
	if p.here() {
		return "the host's network namespace"
	}
	return p.netns.Path()
}

// attachAt is Attach for a place that is valid but not connected yet.
func (h *Host) attachAt(ctx context.Context, spec Spec, a Attachment, at place) (_ Result, retErr error) {
	b, err := h.open(ctx, spec.Hub)
	if err != nil {
		return Result{}, err
	}
	defer func() { retErr = errors.Join(retErr, b.close()) }()
	before, onDisk := b.record, b.onDisk
	defer func() {
		if retErr != nil {
			retErr = errors.Join(retErr, b.undo(), b.restore(before, onDisk))
		}
	}()
	if at.container, err = b.k.In(at.netns); err != nil {
		return Result{}, err
	}
	defer at.container.Close()
	return b.attach(spec, a, at)
}

// attach makes the endpoint of an attachment and mends the bus.
func (b *bus) attach(spec Spec, a Attachment, at place) (Result, error) {
	hostIf := hostIfName(a)
	corrected, err := b.observeToMend(spec, hostIf)
	if err != nil {
		return Result{}, err
	}
	mtu := spec.mtu(b.view.link(b.name))
	host, err := b.inPlace(spec, a, at, mtu)
	if err != nil {
		return Result{}, err
	}
	if old := b.view.link(hostIf); host.Index == 0 && old.Index != 0 {
		if err := b.deleteEndpoint(hostIf); err != nil {
			return Result{}, err
		}
		b.notice("deleted an earlier pair %s of %s", hostIf, a)
		if _, err := b.observe(); err != nil {
			return Result{}, err
		}
	}
	remembered := b.remember(spec)
	r := recorded{a, spec.Policy, spec.Name}
	if b.put(r) || remembered || corrected || !b.known {
		if err := b.save(); err != nil {
			return Result{}, err
		}
	}
	if host.Index == 0 {
		if host, err = b.addPair(spec, a, mtu, at); err != nil {
			return Result{}, err
		}
		b.view.links = append(b.view.links, host)
	}
	b.endpoints = slices.DeleteFunc(b.endpoints, func(e endpoint) bool { return e.host.Name == hostIf })
	b.endpoints = append(b.endpoints, endpoint{recorded: r, host: host})
	if err := b.mend(spec, hostIf); err != nil {
		return Result{}, err
	}
	res := Result{Hub: b.name, HostIf: hostIf, ContIf: at.ifName, HubMTU: b.view.link(b.name).MTU, IfMTU: mtu, made: b.made, marked: b.marked}
	if !at.here() {
		end, err := at.SetUp(host.PeerIndex) // last, so that what goes up is whole
		if err != nil {
			return Result{}, err
		}
		res.ContIf = end.Name
		if err := b.awaitActive(hostIf); err != nil {
			return Result{}, err
		}
	}
	if hub := b.view.link(b.name); hub.Alias == transientAlias && !spec.Transient {
		if err := b.k.SetAlias(hub.Index, hubAlias); err != nil { // it stays now
			return Result{}, err
		}
	}
	b.noticeRepairs()
	return res, nil
}

// awaitActive waits until the kernel sends what is handed to a host end, so that a container hears everything from the
// start. On a busy host that takes a while; nothing depends on it that would be worth a failure.
func (b *bus) awaitActive(hostIf string) error {
	for wait := 50 * time.Microsecond; wait < time.Second; wait *= 2 {
		links, err := b.k.Links(hostIf)
		if err != nil || links[0].Active || links[0].Index == 0 {
			return err
		}
		time.Sleep(wait)
	}
	return nil
}

// observeToMend observes the bus, and fails if that shows what no ADD can put right. It tells whether the record has
// been corrected.
func (b *bus) observeToMend(spec Spec, attaching string) (corrected bool, err error) {
	corrections, err := b.observe()
	if err != nil {
		return false, err
	}
	if err := refusal(diff(b.want(spec, attaching), b.view)); err != nil {
		return false, err
	}
	for _, c := range corrections {
		b.notice("%s", c)
	}
	b.fresh = !b.known && len(b.record.Endpoints) == 0
	return len(corrections) > 0, nil
}

// inPlace returns the host end of an attachment if its pair is there as it is wanted now, else the zero Link.
func (b *bus) inPlace(spec Spec, a Attachment, at place, mtu int) (canlink.Link, error) {
	hostIf := hostIfName(a)
	host := b.view.link(hostIf)
	if host.Kind != canlink.Vxcan || host.PeerElsewhere == at.here() || at.here() && host.Used {
		return canlink.Link{}, nil
	}
	end, err := at.LinkAt(host.PeerIndex)
	if err != nil || !isPair(host, end) {
		return canlink.Link{}, err
	}
	hub, said, ok := parseAlias(host.Alias)
	if ok && hub != b.name {
		return canlink.Link{}, fmt.Errorf("%w interface %s: this network put %s on bus %s already; remove the container first, or give each entry an interface name of its own",
			ErrInvalid, at.ifName, end.Name, hub)
	}
	if said.policy != (spec.Policy != Policy{}) { // the alias is made with the device only
		return canlink.Link{}, nil
	}
	for _, d := range diffEndpoint(hostIf, host, end, at, mtu, func(name string) bool { return matches(name, at.ifName) }) {
		if d.rebuild {
			return canlink.Link{}, nil
		}
	}
	return host, nil
}

// put records an endpoint, and tells whether it was not recorded like that.
func (b *bus) put(r recorded) (changed bool) {
	i := slices.IndexFunc(b.record.Endpoints, func(old recorded) bool { return old.Attachment == r.Attachment })
	switch {
	case i < 0:
		b.record.Endpoints = append(b.record.Endpoints, r)
	case b.record.Endpoints[i] != r:
		b.record.Endpoints[i] = r
	default:
		return false
	}
	return true
}

// remember records what a controller needs to be healed, and tells whether that is new. A network that leaves it as it is
// does not make us forget how another one sets it up.
func (b *bus) remember(spec Spec) (changed bool) {
	if !spec.Physical {
		return false
	}
	old := b.controllerSpec()
	hub := Spec{Hub: b.name, Physical: true, Controller: spec.Controller, TxQueue: spec.TxQueue}
	if hub == old || old.setsUp() && !spec.setsUp() {
		return false
	}
	data, err := json.Marshal(hub)
	b.record.Controller = data
	return err == nil
}

// controllerSpec is what the record says of a controller. One that cannot be read is the zero Spec.
func (b *bus) controllerSpec() (spec Spec) {
	if b.record.Controller != nil && json.Unmarshal(b.record.Controller, &spec) != nil {
		return Spec{}
	}
	return spec
}

// restore puts the record back as it was before a call that failed.
func (b *bus) restore(before record, onDisk bool) error {
	switch {
	case !onDisk:
		return b.removeFile()
	case !b.saved:
		return nil
	}
	b.record = before
	return b.save()
}

// addPair makes the pair of an attachment, its peer in the container's netns, and returns the host end. A container end
// that stays here is left down: the runtime that moves it sets it up. An index that is taken is drawn anew.
func (b *bus) addPair(spec Spec, a Attachment, mtu int, at place) (host canlink.Link, err error) {
	pair := canlink.Pair{Name: hostIfName(a), PeerName: at.ifName, MTU: mtu, Alias: alias(b.name, a, spec.Policy), PeerNetns: at.netns}
	const draws = 8
	for range draws {
		pair.Index = b.drawIndex()
		host, err = b.k.AddPair(pair)
		b.notMade(err, pair.Index)
		if !errors.Is(err, unix.EEXIST) { // a name, or the index
			return host, err
		}
		if err := checkNameFree(at); err != nil {
			return host, err
		}
	}
	return host, err
}

// takeBack undoes an attachment that was made. The hub and the backplane that were made for it stay if others use them
// now.
func (h *Host) takeBack(ctx context.Context, a Attachment, r Result) (retErr error) {
	if len(r.made) == 0 {
		return nil
	}
	b, err := h.open(ctx, r.Hub)
	if err != nil {
		return err
	}
	defer func() { retErr = errors.Join(retErr, b.close()) }()
	if _, err := b.observe(); err != nil {
		return err
	}
	if slices.Contains(r.made, b.view.link(r.HostIf).Index) {
		retErr = b.detach([]string{r.HostIf})
	}
	if len(b.record.Endpoints) == 0 {
		retErr = errors.Join(retErr, b.k.Delete(r.made...))
		if r.marked != 0 {
			retErr = errors.Join(retErr, b.k.DeleteFilters(hooks(r.marked, false)...))
		}
		retErr = errors.Join(retErr, b.saveOrRemove())
	}
	return retErr
}

// deleteEndpoint deletes an endpoint's pair by the name of its host end. What is not there is no error.
func (b *bus) deleteEndpoint(hostIf string) error {
	links, err := b.k.Links(hostIf)
	if err != nil || links[0].Kind != canlink.Vxcan {
		return err
	}
	return b.k.Delete(links[0].Index)
}

// checkNameFree tells whether a device has the name that a container end is to get.
func checkNameFree(at place) error {
	taken, err := at.Link(at.ifName)
	switch {
	case err != nil || taken.Index == 0:
	case at.here():
		err = fmt.Errorf("%w %s: another program's device has that name; rename or delete it", ErrNameTaken, at.ifName)
	default:
		err = fmt.Errorf("%w %s: the container (%s) has one of that name already; choose another name", ErrNameTaken, at.ifName, at.netns.Path())
	}
	return err
}
