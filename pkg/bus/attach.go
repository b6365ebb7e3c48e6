package bus

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"

	"github.com/containernetworking/plugins/pkg/ns"
	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/cangw"
	"github.com/vxcan/vxcan/pkg/canlink"
)

// Attach puts the container of a network namespace on a bus, and puts right whatever of the bus is missing. The same
// attachment again in the same netns changes nothing; in another one it is built anew. Whatever fails, what this call
// made is taken away again, the hub too. It blocks for the bus's lock.
func (h *Host) Attach(ctx context.Context, spec Spec, a Attachment, t Target) (Result, error) {
	if err := errors.Join(spec.check(), CheckInterface(t.Interface)); err != nil {
		return Result{}, err
	}
	netns, err := openNetns(t.NetnsPath)
	if err != nil {
		return Result{}, err
	}
	defer netns.Close()
	return h.attachAt(ctx, spec, a, place{netns: netns, ifName: t.Interface})
}

// attachAt is Attach for a place that is valid but not connected yet.
func (h *Host) attachAt(ctx context.Context, spec Spec, a Attachment, at place) (res Result, retErr error) {
	b, err := h.open(ctx, spec.Hub)
	if err != nil {
		return Result{}, err
	}
	defer func() { retErr = errors.Join(retErr, b.close()) }()
	if at.container, err = b.k.In(at.netns); err != nil {
		return Result{}, err
	}
	defer at.container.Close()

	e := endpoint{Attachment: a, HostIf: hostIfName(a), Private: at.here()}
	others, err := b.look(e.HostIf)
	if err != nil {
		return Result{}, err
	}
	if err := b.checkHub(spec); err != nil {
		return Result{}, err
	}
	if err := b.survey(); err != nil {
		return Result{}, err
	}
	if swept, err := b.sweep(); err != nil {
		return Result{}, err
	} else if swept {
		if others, err = b.look(e.HostIf); err != nil {
			return Result{}, err
		}
	}
	return b.attach(spec, e, others[0], at)
}

// place is where a container end is, or is to be.
type place struct {
	netns  ns.NetNS // nil is the host's, see AttachHere
	ifName string   // wanted, or with %d
	container
}

func (p place) here() bool { return p.netns == nil }

// attach makes the endpoint e, whose host end is old if it is there already, and mends the bus.
func (b *bus) attach(spec Spec, e endpoint, old canlink.Link, at place) (res Result, retErr error) {
	hubMTU := b.hubMTU(spec)
	mtu := spec.ifMTU(hubMTU)
	stays, err := b.inPlace(old, at, mtu)
	if err != nil {
		return Result{}, err
	}
	e.FD, e.Index = mtu >= canlink.FDMTU, drawIndex()
	if stays {
		e.Index = old.Index
	}
	// The disk works while the kernel does, and Commit, last, puts the record in place. What fails until then leaves the
	// old one (close forgets the new one); a kill leaves devices without a record, which recall finds by their aliases.
	if b.put(e) {
		if err := b.file.Prepare(b.state); err != nil {
			return Result{}, err
		}
	}
	made, err := b.ensureDevices(hubMTU)
	defer func() {
		if retErr != nil && len(b.state.Endpoints) <= 1 { // nobody's but ours
			retErr = errors.Join(retErr, b.unmake(made))
		}
	}()
	if err != nil {
		return Result{}, err
	}
	if !stays {
		defer func() {
			if retErr != nil {
				retErr = errors.Join(retErr, b.deleteEndpoint(e.HostIf))
			}
		}()
		if e, err = b.addPair(e, old, mtu, at); err != nil {
			return Result{}, err
		}
	}
	if err := b.repair(e); err != nil {
		return Result{}, err
	}
	b.ensureBacklog()
	res = Result{Hub: b.name, HostIf: e.HostIf, ContIf: at.ifName, HubMTU: hubMTU, IfMTU: mtu, New: !stays}
	if !at.here() {
		end, err := at.SetUp(e.Index) // last, so that what goes up is whole
		if err != nil {
			return Result{}, err
		}
		res.ContIf = end.Name
	}
	return res, b.file.Commit()
}

// check validates what the network says, before anything is done.
func (s Spec) check() error {
	if err := CheckName(s.Hub); err != nil {
		return fmt.Errorf("hub: %w", err)
	}
	if s.MTU == 0 {
		return nil
	}
	return CheckMTU(s.MTU)
}

// CheckMTU tells what is wrong with an MTU that a network asks for.
func CheckMTU(mtu int) error {
	if mtu != canlink.ClassicMTU && mtu != canlink.FDMTU {
		return fmt.Errorf("%w mtu %d: want %d (classic CAN) or %d (CAN FD)", ErrInvalid, mtu, canlink.ClassicMTU, canlink.FDMTU)
	}
	return nil
}

// ParseMTU reads the MTU that an option asks for.
func ParseMTU(text string) (mtu int, err error) {
	if mtu, err = strconv.Atoi(text); err != nil {
		return 0, fmt.Errorf("%w mtu %q: want %d (classic CAN) or %d (CAN FD)", ErrInvalid, text, canlink.ClassicMTU, canlink.FDMTU)
	}
	return mtu, CheckMTU(mtu)
}

// ifMTU is the MTU of an endpoint's two ends.
func (s Spec) ifMTU(hubMTU int) int {
	switch {
	case s.MTU != 0:
		return s.MTU
	case hubMTU < canlink.FDMTU:
		return canlink.ClassicMTU
	}
	return canlink.FDMTU
}

// checkHub tells whether the hub that is there, or is not, can serve.
func (b *bus) checkHub(spec Spec) error {
	hub := b.hub
	switch {
	case hub.Index == 0 && spec.Physical:
		return fmt.Errorf("hub %s is %w: there is no such device; connect the controller or load its driver", b.name, ErrNotReady)
	case hub.Index == 0:
		return nil
	case !hub.CAN:
		return fmt.Errorf("%w hub %s: it is not a CAN device; name another one", ErrInvalid, b.name)
	case hub.Kind != canlink.Vcan && !spec.Physical:
		return fmt.Errorf(`%w hub %s: it is a %s device, not vcan; set "physical": true (option physical=true) to use it`, ErrInvalid, b.name, kindWord(hub.Kind))
	case !hub.Up && !b.ownHub():
		return fmt.Errorf("hub %s is %w: it is down; set it up (ip link set %s up)", b.name, ErrNotReady, b.name)
	case spec.MTU == canlink.FDMTU && !hub.FD():
		return fmt.Errorf("%w mtu %d: hub %s has MTU %d (classic CAN); use 16, or give the hub MTU 72", ErrInvalid, spec.MTU, b.name, hub.MTU)
	}
	return nil
}

func kindWord(kind string) string {
	if kind == "" {
		return "hardware"
	}
	return kind
}

// hubMTU is the MTU that the hub has or is to be made with. A hub that got lost must still serve who is there.
func (b *bus) hubMTU(spec Spec) int {
	if b.hub.Index != 0 {
		return b.hub.MTU
	}
	for _, e := range b.state.Endpoints {
		if e.FD {
			return canlink.FDMTU
		}
	}
	if spec.MTU != 0 {
		return spec.MTU
	}
	return canlink.FDMTU
}

// inPlace tells whether host is the host end of a healthy pair whose other end is in the container, as it is
// wanted now.
func (b *bus) inPlace(host canlink.Link, at place, mtu int) (bool, error) {
	if host.Kind != canlink.Vxcan || host.PeerElsewhere == at.here() {
		return false, nil
	}
	end, err := at.LinkAt(host.PeerIndex)
	if err != nil || !isPair(host, end) {
		return false, err
	}
	if hub, _, ok := parseAlias(host.Alias); ok && hub != b.name {
		return false, fmt.Errorf("%w interface %s: this network put %s on bus %s already; give each entry an interface name of its own",
			ErrInvalid, at.ifName, end.Name, hub)
	}
	if !host.Up || host.MTU != mtu || end.MTU != mtu || !matches(end.Name, at.ifName) {
		return false, nil
	}
	if at.here() {
		return !host.Used, nil
	}
	return host.Index == end.Index && end.Up, nil
}

// isPair tells whether two devices, each seen from its own netns, are the ends of one pair.
func isPair(host, end canlink.Link) bool {
	return end.Kind == canlink.Vxcan && host.PeerIndex == end.Index && end.PeerIndex == host.Index
}

// ensureDevices makes hub and backplane if they are missing, and sets up what is down. It returns the names of those it
// made, also when it fails.
func (b *bus) ensureDevices(hubMTU int) (made []string, err error) {
	if b.hub.Index == 0 {
		if err := b.k.AddVcan(b.name, hubMTU, hubAlias); err != nil {
			return nil, err
		}
		made = append(made, b.name)
	} else if !b.hub.Up {
		if err := b.k.SetUp(b.hub.Index); err != nil {
			return made, err
		}
		b.host.recovered(b.name, "set hub %s up", b.name)
	}
	tx, rx := backplaneNames(b.name)
	if b.tx.Index != 0 || b.rx.Index != 0 {
		if !b.isBackplane() {
			return made, fmt.Errorf("%w backplane: %s or %s is a device of someone else's; rename or delete it", ErrInvalid, tx, rx)
		}
		if b.tx.MTU != canlink.FDMTU || b.rx.MTU != canlink.FDMTU {
			if err := b.k.Delete(tx); err != nil {
				return made, err
			}
			b.tx, b.rx = canlink.Link{}, canlink.Link{}
		}
	}
	if b.tx.Index == 0 {
		if err := b.k.AddPair(canlink.Pair{Name: tx, PeerName: rx, MTU: canlink.FDMTU}); err != nil {
			return made, err
		}
		made = append(made, tx)
	}
	if len(made) > 0 {
		b.reportMade(made)
		if _, err := b.look(); err != nil {
			return made, err
		}
	}
	for _, end := range []canlink.Link{b.tx, b.rx} {
		if end.Up {
			continue
		}
		if err := b.k.SetUp(end.Index); err != nil {
			return made, err
		}
		if len(made) == 0 {
			b.host.recovered(b.name, "set backplane %s up", end.Name)
		}
	}
	return made, nil
}

// reportMade tells of devices that had been there before in the life of this bus.
func (b *bus) reportMade(made []string) {
	if b.isNew() {
		return
	}
	for _, name := range made {
		b.host.recovered(b.name, "made %s, which was missing", name)
	}
}

// unmake deletes devices that ensureDevices made.
func (b *bus) unmake(made []string) error {
	var errs []error
	for _, name := range made {
		errs = append(errs, b.k.Delete(name))
	}
	return errors.Join(errs...)
}

func (b *bus) isBackplane() bool { return isBackplane(b.tx, b.rx) }

// isBackplane tells whether two devices of the host netns are the ends of one pair.
func isBackplane(tx, rx canlink.Link) bool {
	return tx.Kind == canlink.Vxcan && !tx.PeerElsewhere && isPair(tx, rx)
}

// Indexes of pairs are drawn from a range that no kernel reaches by counting.
const minIndex, maxIndex = 1 << 20, 1 << 30

func drawIndex() int { return minIndex + rand.IntN(maxIndex-minIndex) }

// addPair makes an endpoint's pair in place of old, its peer in the container's netns, and sets both ends up. A container
// end that stays here is left down: whoever moves it sets it up. An index that is taken on either side is drawn anew;
// the endpoint returned has the final one.
func (b *bus) addPair(e endpoint, old canlink.Link, mtu int, at place) (endpoint, error) {
	if old.Index != 0 {
		if err := b.deleteEndpoint(e.HostIf); err != nil {
			return e, err
		}
		delete(b.private, e.HostIf)
		b.jobs = slices.DeleteFunc(b.jobs, func(j cangw.Job) bool { // went with it
			return j.Src == uint32(old.Index) || j.Dst == uint32(old.Index)
		})
		b.host.recovered(b.name, "deleted an earlier pair %s of %s", e.HostIf, e.Attachment)
	}
	const draws = 8
	for draw := 1; ; draw++ {
		err := b.k.AddPair(canlink.Pair{
			Name: e.HostIf, PeerName: at.ifName, MTU: mtu, Index: e.Index,
			Alias: alias(b.name, e.Attachment), PeerNetns: at.netns,
		})
		switch {
		case err == nil:
			return e, nil
		case errors.Is(err, unix.EEXIST): // a name, or the index on the host
			if err := checkNameFree(at); err != nil {
				return e, err
			}
		case !errors.Is(err, unix.EBUSY): // the index in the container
			return e, err
		}
		if draw == draws {
			return e, err
		}
		e.Index = drawIndex()
		b.put(e)
		if err := b.file.Prepare(b.state); err != nil {
			return e, err
		}
	}
}

// checkNameFree tells whether a device has the name that a container end is to get.
func checkNameFree(at place) error {
	taken, err := at.Link(at.ifName)
	switch {
	case err != nil || taken.Index == 0:
	case at.here():
		err = fmt.Errorf("%w %s: a device of someone else's has that name; rename or delete it", ErrNameTaken, at.ifName)
	default:
		err = fmt.Errorf("%w %s: the container (%s) has one of that name already; choose another name", ErrNameTaken, at.ifName, at.netns.Path())
	}
	return err
}
