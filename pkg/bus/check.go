package bus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/vxcan/vxcan/pkg/cangw"
	"github.com/vxcan/vxcan/pkg/canlink"
)

// What heals a damage that Check has found.
const (
	byAnyAdd  = "the next ADD of anything on this bus puts it back"
	byThisAdd = "remove the container and start it again"
)

// Damage is returned by Check: what is wrong, and for each what heals it.
type Damage []string

func (d Damage) Error() string { return strings.Join(d, "; ") }

func (d *Damage) add(format string, args ...any) { *d = append(*d, fmt.Sprintf(format, args...)) }

// Check proves that an attachment is as Attach made it: hub and backplane up, a pair of the right names and MTU, its
// other end in this netns, and each of its and the hub's rules there exactly once. It mends nothing. contIfs holds the
// name that the container end may have, as Attach returned it. It blocks for the bus's lock, and fails with Damage if
// something is wrong.
func (h *Host) Check(ctx context.Context, spec Spec, a Attachment, contIfs []string, netnsPath string) (retErr error) {
	if err := spec.check(); err != nil {
		return err
	}
	netns, err := openNetns(netnsPath)
	if err != nil {
		return err
	}
	defer netns.Close()
	b, err := h.open(ctx, spec.Hub)
	if err != nil {
		return err
	}
	defer func() { retErr = errors.Join(retErr, b.close()) }()
	c, err := b.k.In(netns)
	if err != nil {
		return err
	}
	defer c.Close()
	others, err := b.look(hostIfName(a))
	if err != nil {
		return err
	}
	if b.jobs, err = b.k.Jobs(); err != nil {
		return err
	}
	var d Damage
	b.checkDevices(&d, spec)
	host := others[0]
	if err := b.checkPair(&d, spec, hostIfName(a), host, contIfs, place{netns: netns, container: c}); err != nil {
		return err
	}
	if err := b.checkRules(&d, host); err != nil {
		return err
	}
	if len(d) > 0 {
		return d
	}
	return nil
}

func (b *bus) checkDevices(d *Damage, spec Spec) {
	switch err := b.checkHub(spec); {
	case err != nil:
		d.add("%v", err)
	case b.hub.Index == 0:
		d.add("hub %s is missing: %s", b.name, byAnyAdd)
	case !b.hub.Up:
		d.add("hub %s is down: %s", b.name, byAnyAdd)
	}
	tx, rx := backplaneNames(b.name)
	switch {
	case b.tx.Index == 0 && b.rx.Index == 0:
		d.add("backplane %s, %s is missing: %s", tx, rx, byAnyAdd)
	case !b.isBackplane():
		d.add("backplane %s, %s is not one vxcan pair: delete what has these names, then %s", tx, rx, byAnyAdd)
	case !b.tx.Up || !b.rx.Up:
		d.add("backplane %s, %s is down: %s", tx, rx, byAnyAdd)
	case b.tx.MTU != canlink.FDMTU || b.rx.MTU != canlink.FDMTU:
		d.add("backplane %s, %s has MTU %d and %d, want %d: %s", tx, rx, b.tx.MTU, b.rx.MTU, canlink.FDMTU, byAnyAdd)
	}
}

func (b *bus) checkPair(d *Damage, spec Spec, name string, host canlink.Link, contIfs []string, at place) error {
	if host.Kind != canlink.Vxcan {
		d.add("host end %s is missing: %s", name, byThisAdd)
		return nil
	}
	end, err := at.LinkAt(host.PeerIndex)
	if err != nil {
		return err
	}
	if !host.PeerElsewhere || !isPair(host, end) {
		d.add("container end of %s is not in %s: %s", name, at.netns.Path(), byThisAdd)
		return nil
	}
	if _, private := b.private[name]; host.Index != end.Index && !private {
		d.add("backplane of host end %s is missing: %s", name, byAnyAdd)
	}
	if !host.Up {
		d.add("host end %s is down: ip link set %s up", name, name)
	}
	if !end.Up {
		d.add("container end %s is down: ip link set %s up in the container", end.Name, end.Name)
	}
	if !slices.Contains(contIfs, end.Name) {
		d.add("container end is named %s, which ADD did not say (it said %s): rename it back, or %s", end.Name, strings.Join(contIfs, ", "), byThisAdd)
	}
	if mtu := spec.ifMTU(b.hub.MTU); b.hub.Index != 0 && (host.MTU != mtu || end.MTU != mtu) {
		d.add("host end %s and container end %s have MTU %d and %d, want %d: %s", name, end.Name, host.MTU, end.MTU, mtu, byThisAdd)
	}
	return nil
}

// checkRules looks for the rules of the hub and of this endpoint. Without hub or backplane none can be there.
func (b *bus) checkRules(d *Damage, host canlink.Link) error {
	if b.hub.Index == 0 || !b.isBackplane() {
		return nil
	}
	names := map[uint32]string{
		uint32(b.hub.Index): b.hub.Name, uint32(b.tx.Index): b.tx.Name, uint32(b.rx.Index): b.rx.Name,
	}
	members := []member{b.hubMember()}
	if host.Kind == canlink.Vxcan {
		own := member{dev: uint32(host.Index), fd: host.FD() && b.fd(), private: b.private[host.Name]}
		members = append(members, own)
		names[own.dev] = host.Name
		names[own.private.tx], names[own.private.rx] = privateNames(host.Name)
	}
	// Private endpoints send to each member by a rule of its own.
	others, err := b.livePrivate()
	if err != nil {
		return err
	}
	for name, m := range others {
		if name != host.Name {
			members = append(members, m)
			_, names[m.private.rx] = privateNames(name)
		}
	}
	count := make(map[cangw.Rule]int)
	for _, j := range b.jobs {
		if j.Plain {
			count[j.Rule]++
		}
	}
	for _, r := range rules(b.backplane(), members) {
		if names[r.Src] == "" || names[r.Dst] == "" { // another endpoint's
			continue
		}
		words := r.Format(func(index uint32) string { return names[index] })
		switch n := count[r]; {
		case n == 0:
			d.add("gateway rule (cangw -A %s) is missing: %s", words, byAnyAdd)
		case n > 1:
			d.add("gateway rule (cangw -A %s) is there %d times, so frames arrive %d times: %s", words, n, n, byAnyAdd)
		}
	}
	return nil
}
