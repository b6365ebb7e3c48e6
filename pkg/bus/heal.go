package bus

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/cangw"
	"github.com/vxcan/vxcan/pkg/canlink"
)

// survey finds out what the kernel has of this bus, and makes the state agree with it. It changes nothing in the kernel.
//
// The look at the youngest jobs costs the same on any bus, and sees every loss of devices or rules but that of single
// old rules on a host with more than some ten endpoints. Only when it shows damage, everything is listed.
func (b *bus) survey() error {
	if b.found && b.intact() {
		if ok, err := b.glance(); ok || err != nil {
			return err
		}
	}
	return b.listAll()
}

// listAll makes the state and b.jobs agree with all that the kernel has.
func (b *bus) listAll() error {
	links, err := b.k.AllLinks()
	if err != nil {
		return err
	}
	b.recall(links)
	b.jobs, err = b.k.Jobs()
	return err
}

// intact tells whether hub and backplanes are there and up.
func (b *bus) intact() bool {
	if b.hub.Index == 0 || !b.hub.Up || !b.isBackplane() || !b.tx.Up || !b.rx.Up {
		return false
	}
	return !slices.ContainsFunc(b.state.Endpoints, b.lacksPrivate)
}

// glance looks at the youngest jobs and tells whether they show nothing wrong. Then b.jobs is all jobs of this bus: as
// seen, or on a large bus, as they must be.
func (b *bus) glance() (ok bool, err error) {
	// The youngest endpoint's rules stand in front, but for other buses' younger ones.
	all := b.members()
	youngest := rules(b.backplane(), all[len(all)-1:])
	jobs, complete, err := b.k.PeekJobs(func(jobs []cangw.Job) bool {
		missing, _ := compare(youngest, jobs)
		return len(missing) == 0
	})
	if err != nil {
		return false, err
	}
	b.jobs = jobs
	want := b.rules()
	missing, surplus := compare(want, jobs, b.backplanes()...)
	if complete || len(surplus) > 0 {
		return len(missing)+len(surplus) == 0, nil
	}
	b.jobs = nil
	for _, r := range want {
		b.jobs = append(b.jobs, cangw.Job{Rule: r, Plain: true})
	}
	return true, nil
}

func (b *bus) backplane() backplane { return backplane{uint32(b.tx.Index), uint32(b.rx.Index)} }

// recall makes the recorded endpoints those whose devices are there: it drops the others, and takes in who is not
// recorded by the alias of their host ends. What is left of an endpoint that is none any more is an orphan.
func (b *bus) recall(links []canlink.Link) {
	byName := make(map[string]canlink.Link, len(links))
	for _, l := range links {
		byName[l.Name] = l
	}
	recorded := b.state.Endpoints
	b.state.Endpoints = nil
	for _, e := range recorded {
		if l := byName[e.HostIf]; l.Kind != canlink.Vxcan || l.Index != e.Index {
			b.dirty = true
			b.host.recovered(b.name, "dropped the record of %s: its devices are gone", e.Attachment)
			continue
		}
		b.state.Endpoints = append(b.state.Endpoints, e)
	}
	var backplanes []endpoint
	for _, l := range links {
		hub, a, ok := parseAlias(l.Alias)
		if !ok || hub != b.name || l.Kind != canlink.Vxcan {
			continue
		}
		hostIf := hostIfName(a)
		if tx, _ := privateNames(hostIf); l.Name == tx {
			backplanes = append(backplanes, endpoint{Attachment: a, HostIf: hostIf})
		}
		if l.Name != hostIf || b.find(hostIf) >= 0 {
			continue
		}
		b.dirty = true
		b.state.Endpoints = append(b.state.Endpoints, endpoint{Attachment: a, HostIf: l.Name, Index: l.Index, FD: l.FD()})
		b.host.recovered(b.name, "found %s again by its device %s", a, l.Name)
	}
	b.recallPrivate(byName, backplanes)
	b.down = nil
	for _, e := range b.state.Endpoints {
		if !byName[e.HostIf].Up {
			b.down = append(b.down, e)
		}
	}
}

// repair makes the endpoints and rules of the bus what they must be. If a device turns out to be gone, because its
// container has just died, or died without a DEL and the survey did not see it, it looks at everything and tries again.
func (b *bus) repair(attached endpoint) error {
	err := b.tryRepair(attached)
	if !errors.Is(err, unix.ENODEV) {
		return err
	}
	if err := b.listAll(); err != nil {
		return err
	}
	if err := b.file.Prepare(b.state); err != nil {
		return err
	}
	return b.tryRepair(attached)
}

// tryRepair sets up host ends that are down, adds the rules that have no job and deletes jobs that are too many. The
// rules of the endpoint that is being attached are just some that are missing, but no recovery to report.
func (b *bus) tryRepair(attached endpoint) error {
	for _, e := range b.down {
		if e.HostIf == attached.HostIf { // new, or in place and up
			continue
		}
		if err := b.k.SetUp(e.Index); err != nil {
			return fmt.Errorf("host end %s of %s: %w", e.HostIf, e.Attachment, err)
		}
		b.host.recovered(b.name, "set host end %s of %s up", e.HostIf, e.Attachment)
	}
	if err := b.ensurePrivate(attached); err != nil {
		return err
	}
	missing, surplus := compare(b.rules(), b.jobs, b.backplanes()...)
	if len(surplus) > 0 {
		if err := b.k.DeleteRules(surplus...); err != nil {
			return fmt.Errorf("gateway of bus %s: %w", b.name, err)
		}
		b.host.recovered(b.name, "deleted %d gateway rules that were too many", len(surplus))
	}
	if len(missing) == 0 {
		return nil
	}
	if err := b.k.AddRules(missing...); err != nil {
		return fmt.Errorf("gateway of bus %s: %w", b.name, err)
	}
	lost := len(missing)
	for _, r := range missing {
		if dev := uint32(attached.Index); r.Src == dev || r.Dst == dev || attached.Private && touches(r, b.private[attached.HostIf]) {
			lost--
		}
	}
	if lost > 0 && !b.isNew() {
		b.host.recovered(b.name, "added %d gateway rules that were missing", lost)
	}
	return nil
}

// isNew tells whether this call starts the bus: there is no memory of it, not even one from before a reboot, and nobody
// on it but the endpoint that is being attached.
func (b *bus) isNew() bool { return !b.known && len(b.state.Endpoints) <= 1 }

// put records an endpoint, as the youngest, and tells whether the state must be saved.
func (b *bus) put(e endpoint) (changed bool) {
	i := b.find(e.HostIf)
	if i >= 0 && b.state.Endpoints[i] == e {
		return b.dirty || !b.found
	}
	if i >= 0 {
		b.state.Endpoints = slices.Delete(b.state.Endpoints, i, i+1)
	}
	b.state.Endpoints = append(b.state.Endpoints, e)
	return true
}
