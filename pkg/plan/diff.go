package plan

import (
	"fmt"
	"slices"
	"strings"

	"github.com/vxcan/vxcan/pkg/cangw"
	"github.com/vxcan/vxcan/pkg/canlink"
	"github.com/vxcan/vxcan/pkg/cantc"
	"github.com/vxcan/vxcan/pkg/config"
	"github.com/vxcan/vxcan/pkg/controller"
)

// Diff lists all that is wrong with a bus.
func Diff(w Want, v View) []Difference {
	var all differences
	w.diffHub(v, &all)
	w.diffBackplane(v, &all)
	for i := range w.Endpoints {
		e := &w.Endpoints[i]
		if e.Renamed != "" {
			cure := fmt.Sprintf("ip link set %[1]s down; ip link set %[1]s name %[2]s up", Quote(e.Host.Name), e.Renamed)
			if _, how := v.NameTaken(e.Attachment); how != "" {
				cure = fmt.Sprintf("another device has the name %s; %s; then %s", e.Renamed, how, cure)
			}
			all.name(HostEndName, cure, "host end %s of %s is named %s", e.Renamed, e.Attachment, Quote(e.Host.Name)).of(e.Host.Name)
		}
		policy := e.Endpoint.Policy
		if e.CutOff {
			policy = nothing
		}
		if alias := Alias(e.Hub, e.Attachment, policy); alias != e.Host.Alias {
			all.add(HostEndAlias, Change{Alias: &HostAlias{e.Host.Index, alias}}, "host end %s does not have the alias of %s", Quote(e.Host.Name), e.Attachment).of(e.Host.Name)
		}
		if !e.Host.Up {
			all.add(HostEndDown, Change{UpLast: []int{e.Host.Index}}, "host end %s of %s is down", e.Host.Name, e.Attachment).of(e.Host.Name)
		}
	}
	w.diffSpan(v, &all)
	w.diffWiring(v, &all)
	if Refusal(all, false) == nil {
		return all
	}
	cure := byHeal
	if Refusal(all, true) != nil {
		cure = afterward
	}
	for i := range all {
		if all[i].Cure == ByAnyAdd { // every ADD is refused
			all[i].Cure = cure
		}
	}
	return all
}

// lendIt is the cure where a rootless container asks for a controller.
const lendIt = "a rootless container reaches no controller but one that root lends: sudo vxcanctl lend HUB --user USER --physical, and in the network lent=true in the place of physical"

func (w Want) diffHub(v View, all *differences) {
	name, hub := w.Hub.Name, v.Link(w.Hub.Name)
	switch other := v.altNameOf(name); {
	case hub.Index != 0:
		w.diffHubThere(hub, v, all)
	case other.Index != 0:
		all.refuse(HubAltName, config.ErrInvalid, "name "+Quote(other.Name), "hub %s is another name of device %s", name, other.Name)
	case w.Hub.Physical:
		cure := "connect the controller or load its driver"
		if v.Rootless {
			cure = lendIt
		}
		all.refuse(HubAbsent, ErrNotReady, cure, "hub %s: there is no such device", name)
	case !config.CanMake(name):
		all.refuse(HubName, config.ErrInvalid, `for a controller set "physical": true (option physical=true), for a virtual bus name it vcanN`, "hub %s is not there", name)
	default:
		change := Change{AddHub: name, HubAlias: TransientAlias}
		if !w.Hub.Transient || slices.ContainsFunc(w.Endpoints, func(e Endpoint) bool { return !e.Hub.Transient }) {
			change.HubAlias = hubAlias // somebody asked for one that stays
		}
		all.add(HubMissing, change, "hub %s is missing", name)
	}
}

func (w Want) diffHubThere(hub canlink.Link, v View, all *differences) {
	name := w.Hub.Name
	switch {
	case !hub.CAN:
		all.refuse(HubNotCAN, config.ErrInvalid, "name another one", "hub %s is not a CAN device", name)
	case hub.Kind != canlink.Vcan && w.Hub.Physical && v.Rootless:
		all.refuse(HubRootless, config.ErrInvalid, lendIt, "hub %s is a controller", name)
	case hub.Kind != canlink.Vcan && !w.Hub.Physical:
		all.refuse(HubNotVcan, config.ErrInvalid, `set "physical": true (option physical=true) to use it`, "hub %s is a %s device, not vcan", name, KindWord(hub.Kind))
	case w.Hub.Physical && IsOurHub(hub) && (w.Hub.SetsUp() || !config.CanMake(name)):
		all.refuse(HubMade, config.ErrInvalid, "end the containers on it, ip link delete "+Quote(name)+", and plug the adapter in again",
			"hub %s is a vcan that vxcan made, not a controller", name)
	case w.MTU > MTUOf(w.Hub, hub):
		cure := "use mtu 16, or give the hub MTU 72"
		if w.Hub.SetsUp() {
			cure = "use mtu 16, or add fd and dbitrate"
		}
		all.refuse(HubMTU, config.ErrInvalid, cure, "hub %s has MTU %d (classic CAN), less than the mtu %d of this network", name, MTUOf(w.Hub, hub), w.MTU)
	case w.Hub.SetsUp():
		w.diffController(v.Controller, w.Hub, all)
	case w.Hub.Physical && !hub.Up && w.others.SetsUp(): // this network leaves it as it is, and others on the bus do not
		w.diffController(v.Controller, w.others, all)
	default:
		w.diffHubState(hub, v, all)
	}
}

// diffHubState compares a hub that is not ours to set up, or a vcan.
func (w Want) diffHubState(hub canlink.Link, v View, all *differences) {
	name, ours := w.Hub.Name, IsOurHub(hub)
	if ours && !hub.FD() {
		if hub.Up { // to change it, the hub must go down, at which programs on it get an error
			all.name(HubMTUChanged, fmt.Sprintf("ip link set %[1]s down; ip link set %[1]s mtu %[2]d up", Quote(name), canlink.FDMTU),
				"hub %s has MTU %d, want %d: it takes no CAN FD frames", name, hub.MTU, canlink.FDMTU)
		} else {
			all.add(HubMTUChanged, Change{HubMTU: canlink.FDMTU}, "hub %s has MTU %d, want %d", name, hub.MTU, canlink.FDMTU)
		}
	}
	if IsTransient(hub) && !w.Hub.Transient { // it stays now
		*all = append(*all, Difference{Kind: HubTransient, Change: Change{HubAlias: hubAlias}})
	}
	switch {
	case !hub.Up && ours:
		all.add(HubDown, Change{Up: []int{hub.Index}}, "hub %s is down", name)
	case !hub.Up && v.Controller.Index != 0 && v.Controller.Timing.Bitrate == 0:
		all.refuse(HubDown, ErrNotReady, "ip link set "+Quote(name)+" up type can bitrate BITS_PER_SECOND, or configure bitrate",
			"hub %s is down and has no bit rate", name)
	case !hub.Up:
		all.refuse(HubDown, ErrNotReady, "ip link set "+Quote(name)+" up", "hub %s is down", name)
	case w.Hub.Physical:
		w.diffState(v.Controller, all)
	}
}

// diffController compares a controller that is ours to set up. One that is up is never taken down.
func (w Want) diffController(c controller.Device, hub config.Hub, all *differences) {
	name, want := hub.Name, hub.Controller
	if c.Index == 0 {
		all.refuse(ControllerKind, config.ErrInvalid, "leave out bitrate, and set it up by its own tool", "hub %s cannot be set up by netlink", name)
		return
	}
	if !c.Up {
		if w.others.SetsUp() && w.others.Controller != want {
			all.refuse(ControllerOthers, config.ErrInvalid, "use the same settings, or remove them first",
				"hub %s: containers that are there want %s, this network wants %s", name, w.others.Controller, want)
		} else if _, err := c.Check(want); err != nil {
			all.refuse(ControllerUnable, config.ErrInvalid, "change the configuration", "hub %v", err)
		} else {
			change := ControllerChange{SetUp: &want, ForOthers: w.others.SetsUp(), Queue: max(hub.Queue(), c.Queue)}
			all.add(ControllerDown, Change{Controller: change}, "controller %s is down", c)
		}
		return
	}
	if differs := c.Differs(want); len(differs) > 0 {
		all.refuse(ControllerDiffers, config.ErrInvalid,
			fmt.Sprintf("set it down (ip link set %s down) and start the container again, or change the configuration", Quote(name)),
			"hub %s is up with %s", name, strings.Join(differs, "; "))
		return
	}
	w.diffState(c, all)
	if want := hub.Queue(); c.Queue < want {
		all.add(ControllerQueue, Change{Controller: ControllerChange{Queue: want}}, "transmit queue of controller %s holds %d frames, want %d", c, c.Queue, want)
	}
}

// diffState names a controller in bus-off. With restart-ms it restarts by itself.
func (w Want) diffState(c controller.Device, all *differences) {
	if c.State != controller.StateBusOff {
		return
	}
	d := all.name(ControllerBusOff, fmt.Sprintf("look for the fault on the wire, then ip link set %[1]s down; ip link set %[1]s up", Quote(w.Hub.Name)), "controller %s is bus-off", c)
	d.Change.Controller.Restart = w.Hub.SetsUp() && c.RestartMS == 0
}

// KindWord is what people call a kind of device.
func KindWord(kind string) string {
	if kind == "" {
		return "hardware"
	}
	return kind
}

func (w Want) diffBackplane(v View, all *differences) {
	tx, rx := v.Link(w.TX), v.Link(w.RX)
	for _, name := range []string{w.TX, w.RX} {
		if other := v.altNameOf(name); other.Index != 0 {
			all.refuse(BackplaneAltName, config.ErrInvalid, fmt.Sprintf("ip link property del dev %s altname %s", Quote(other.Name), Quote(name)),
				"%s is another name of device %s, and the backplane needs it", name, other.Name)
			return
		}
	}
	name := fmt.Sprintf("backplane %s, %s", w.TX, w.RX)
	// tx is set up last, because it is the end that must send at once.
	pair := canlink.Pair{Name: w.RX, PeerName: w.TX, MTU: canlink.FDMTU, Alias: backplaneAlias + " " + w.Hub.Name, PeerUp: true}
	there := slices.DeleteFunc([]int{tx.Index, rx.Index}, func(index int) bool { return index == 0 })
	switch {
	case len(there) == 0:
		all.add(BackplaneMissing, Change{AddPair: &pair}, "%s is missing", name)
	case IsOurBackplane(tx) && w.hadOtherHub(v):
		all.add(BackplaneBroken, Change{Remove: there, AddPair: &pair}, "%s may be that of another device now", name)
	case !IsPair(tx, rx) || tx.PeerElsewhere:
		for _, end := range []canlink.Link{tx, rx} {
			if end.Index != 0 && !IsOurBackplane(end) {
				all.refuse(BackplaneForeign, config.ErrInvalid, "rename or delete it", "%s is another program's device, and the backplane needs this name", end.Name)
				return
			}
		}
		all.add(BackplaneBroken, Change{Remove: there, AddPair: &pair}, "%s is not one vxcan pair", name)
	case tx.Qdisc != "":
		all.add(BackplaneBroken, Change{Remove: there, AddPair: &pair}, "%s has a %s qdisc of another program: frames may wait, or be lost", w.TX, tx.Qdisc)
	case tx.MTU != canlink.FDMTU || rx.MTU != canlink.FDMTU:
		all.add(BackplaneMTU, Change{Remove: there[:1], AddPair: &pair}, "%s has MTU %d and %d, want %d", name, tx.MTU, rx.MTU, canlink.FDMTU)
	case !tx.Up || !rx.Up:
		all.add(BackplaneDown, Change{Up: []int{rx.Index, tx.Index}}, "%s is down", name)
	}
}

// hadOtherHub reports whether another device was the hub of a rootless bus, whose own filters still send into the backplane: the hub
// was renamed, and perhaps another device has its name now.
func (w Want) hadOtherHub(v View) bool {
	hub, common := v.Link(w.Hub.Name), w.backplane(v)
	isOf := func(e cantc.Entry) bool {
		l := v.At(int(e.Handle))
		return common.isCopy(e) && l.Kind == canlink.Vcan && l.Index != hub.Index
	}
	return v.Rootless && (hub.Index == 0 && !w.Hub.Physical || slices.ContainsFunc(v.Entries, isOf))
}

// diffWiring compares the filters and rules of the devices that are there. Those of a device that is missing come with it.
func (w Want) diffWiring(v View, all *differences) {
	hub, tx, rx := v.Link(w.Hub.Name), v.Link(w.TX), v.Link(w.RX)
	if !IsPair(tx, rx) {
		return
	}
	common := w.backplane(v)
	members := w.members(hub, v)
	attaching := uint32(v.Link(w.Attaching).Index) // 0 if there is none
	own := Difference{Kind: OwnWiring, What: "filters and rules of its own", Cure: ByAnyAdd}
	for _, m := range members {
		where := Hooks(int(m.dev), true)
		if common.copies && m.deaf {
			where = append(where, CopyHooks(int(common.rx), int(m.dev))...)
		}
		wrong := diffFilters(filters(common, m), where, v)
		if m.dev == attaching {
			own.Change.Wiring.Add(wrong)
		} else if !wrong.Empty() {
			all.add(FilterWrong, Change{Wiring: wrong}, "%s", describeFilters(wrong, int(m.dev), v)).of(w.hostEnd(int(m.dev))...)
		}
	}
	diffTrunkFilters(common, v, all)
	w.diffForeign(hub, v, all)
	diffCopies(common, members, v, all)
	w.diffQueue(v, attaching, &own.Change.Wiring, all)
	diffRules(common, members, uint32(hub.Index), attaching, v, &own.Change.Wiring, all)
	if !own.Change.Wiring.Empty() {
		*all = append(*all, own)
	}
	for i := range w.Endpoints {
		if e := &w.Endpoints[i]; e.CutOff {
			all.name(PolicyLost, e.again(), "the record of the policy of %s is lost: without it an ADD lets it neither send nor receive", e.Attachment).of(e.Host.Name)
		}
	}
}

// diffRules compares the gateway rules of a bus. What the member lacks that is attaching goes to its own wiring.
func diffRules(common backplane, members []member, hub, attaching uint32, v View, own *Wiring, all *differences) {
	jobs := v.Jobs
	if hub == 0 && len(common.trunks) == 0 { // rules for error frames of a controller wait for it
		jobs = slices.DeleteFunc(slices.Clone(jobs), func(j cangw.Job) bool { return j.Src == common.rx && j.Filter == ErrorFrames })
	}
	missing, doubled, unwanted, foreign := compare(rules(common, members), jobs, common, hub, v.isBackplane)
	var others []cangw.Rule
	var absent []cangw.Job // those of others
	for _, r := range missing {
		if r.Dst == attaching {
			own.AddRules = append(own.AddRules, r)
		} else {
			others, absent = append(others, r), append(absent, cangw.Job{Rule: r, Plain: true})
		}
	}
	add := func(kind Kind, wrong string, jobs []cangw.Job, change Wiring) {
		if len(jobs) > 0 {
			all.add(kind, Change{Wiring: change}, "%s", describe(wrong, jobs, v)).of(hostIfs(members, jobs, v)...)
		}
	}
	add(RuleMissing, "missing", absent, Wiring{AddRules: others})
	add(RuleDoubled, "there more than once, so that frames arrive more than once", doubled, Wiring{DeleteJobs: doubled})
	add(RuleUnwanted, "not of this bus, but on a backplane", unwanted, Wiring{DeleteJobs: unwanted})
	for _, j := range foreign {
		index := j.Src
		if index == hub {
			index = j.Dst
		}
		if slices.ContainsFunc(members, func(m member) bool { return m.dev == index }) {
			all.name(RuleForeign, strings.Replace(command(j, v), "-A", "-D", 1),
				"gateway rule %s of another program connects the hub and a container that the bus connects: frames arrive twice", command(j, v)).
				of(hostIfs(members, []cangw.Job{j}, v)...)
			continue
		}
		other := v.nameOf(index)
		all.name(RuleForeign, fmt.Sprintf("make %s the hub of a network (physical), or put containers on both buses; then %s", Quote(other), strings.Replace(command(j, v), "-A", "-D", 1)),
			"gateway rule %s of another program carries no container's frame: a frame may pass one rule, and has passed one on this bus", command(j, v))
	}
}

// hostIfs are the host ends that jobs go from or to.
func hostIfs(members []member, jobs []cangw.Job, v View) (names []string) {
	for _, m := range members {
		if !m.hub && slices.ContainsFunc(jobs, func(j cangw.Job) bool { return j.Src == m.dev || j.Dst == m.dev }) {
			names = append(names, v.nameOf(m.dev))
		}
	}
	return names
}

// diffForeign names what other programs have in the place of our filters, or beside them. On a hub no bus can work beside one
// in our place, nor safely beside one before ours on a controller; on a host end it is the matter of one container. On an end of
// the backplane without filters of ours, theirs are removed.
func (w Want) diffForeign(hub canlink.Link, v View, all *differences) {
	common := w.backplane(v)
	spread := spreadHook(common.rx)
	bare := []int{int(common.tx)}
	if !common.copies && len(common.trunks) == 0 {
		bare = append(bare, int(common.rx))
	}
	for _, dev := range bare {
		hasOther := func(e cantc.Entry) bool { return e.Dev == dev && !(e.Ours() && e.Hook == spread) }
		if slices.ContainsFunc(v.Qdiscs, func(q cantc.Qdisc) bool { return q.Dev == dev && q.PreventsAny() }) || slices.ContainsFunc(v.Entries, hasOther) {
			all.add(CopyForeign, Change{Wiring: Wiring{DeleteQdiscs: []int{dev}}}, "%s has filters of another program: frames may arrive twice, or not at all", Quote(v.At(dev).Name))
		}
	}
	for _, q := range v.Qdiscs {
		if slices.Contains(bare, q.Dev) || !q.PreventsAny() {
			continue
		}
		dev := Quote(v.At(q.Dev).Name)
		what := fmt.Sprintf("device %s has an %s qdisc of another program, and the bus needs clsact, which can do the same", dev, q.Kind)
		if q.Blocks != [2]uint32{} {
			what = fmt.Sprintf("the filters of device %s are in a block that it shares with other devices, and the bus needs its own", dev)
		}
		w.held(QdiscHeld, q.Dev, v, all, what, fmt.Sprintf("tc qdisc del dev %s %s", dev, q.Kind), "")
	}
	for _, f := range v.Entries {
		onRX := f.Dev == int(common.rx)
		if slices.Contains(bare, f.Dev) || common.isCopy(f) || f.Ours() && (!onRX || f.Hook == spread) {
			continue
		}
		dev := Quote(v.At(f.Dev).Name)
		cure := fmt.Sprintf("tc filter del dev %s %s pref %d", dev, f.Dir, f.Prio)
		if f.Holds() && (!onRX || f.Dir == spread.Dir && f.Prio == spread.Prio) {
			what := fmt.Sprintf("device %s has a filter of another program (%s) at %s pref %d, which the bus needs", dev, f.Kind, f.Dir, f.Prio)
			w.held(FilterHeld, f.Dev, v, all, what, cure, "; give it pref 3 or higher, where it comes behind that of the bus")
			continue
		}
		cure += fmt.Sprintf(" handle %#x %s", f.Handle, f.Kind)
		what := fmt.Sprintf("device %s has a filter of another program beside that of the bus (%s pref %d handle %#x)", dev, f.Dir, f.Prio, f.Handle)
		if f.Dev == hub.Index && hub.Kind != canlink.Vcan {
			all.refuse(FilterFirst, config.ErrInvalid, cure, "%s: frames from the wire may go back to it", what)
			continue
		}
		all.name(FilterFirst, cure, "%s: frames may arrive twice, or not at all", what).of(w.hostEnd(f.Dev)...)
	}
}

// held adds that another program is in the place of a filter of ours. On a trunk, or on the host end of another container than
// the one that is being attached, that refuses nothing. advice is how to keep what is there.
func (w Want) held(kind Kind, dev int, v View, all *differences, what, cure, advice string) {
	end := w.hostEnd(dev)
	if end != nil && end[0] != w.Attaching || slices.Contains(w.trunksThere(v), uint32(dev)) {
		all.name(kind, cure+"; then vxcanctl heal", "%s", what).of(end...)
	} else {
		all.refuse(kind, config.ErrInvalid, cure+advice, "%s", what).of(end...)
	}
}

// hostEnd is the name of a device that is a host end; of another one it is nothing.
func (w Want) hostEnd(dev int) []string {
	if i := slices.IndexFunc(w.Endpoints, func(e Endpoint) bool { return e.Host.Index == dev }); i >= 0 {
		return []string{w.Endpoints[i].Host.Name}
	}
	return nil
}

// diffFilters compares the filters that must be there with those at some hooks. What cannot be set is for diffForeign.
func diffFilters(wanted []cantc.Filter, where []cantc.Hook, v View) (wrong Wiring) {
	for _, f := range wanted {
		if !f.Equal(v.Filters[f.Hook].Filter) && !v.prevented(f.Hook) {
			wrong.SetFilters = append(wrong.SetFilters, f)
		}
	}
	for _, h := range where {
		if there, ok := v.Filters[h]; ok && there.Kind == cantc.Kind && !slices.ContainsFunc(wanted, func(f cantc.Filter) bool { return f.Hook == h }) {
			wrong.DeleteFilters = append(wrong.DeleteFilters, h)
		}
	}
	return wrong
}

// diffCopies finds filters that copy frames from the backplane, which is ours alone, to no member. Of one that its member has
// left there are no words: it is no damage.
func diffCopies(common backplane, members []member, v View, all *differences) {
	for _, e := range v.Entries {
		isMember := func(m member) bool { return e.Handle == m.dev }
		if !common.isCopy(e) || slices.ContainsFunc(members, isMember) {
			continue
		}
		change := Change{Wiring: Wiring{DeleteFilters: []cantc.Hook{e.Hook}}}
		if f, ok := v.Filters[e.Hook]; !ok || isLeft(f.Filter) {
			*all = append(*all, Difference{Kind: CopyUnwanted, Change: change})
			continue
		}
		all.add(CopyForeign, change, "%s has a filter that is not of this bus (%s pref %d handle %#x): frames may arrive twice, or not at all", v.At(e.Dev).Name, e.Dir, e.Prio, e.Handle)
	}
}

func describeFilters(wrong Wiring, dev int, v View) string {
	var words []string
	add := func(h cantc.Hook, wrong string) {
		which := fmt.Sprintf("%s pref %d", h.Dir, h.Prio)
		if h.Dev != dev {
			which = fmt.Sprintf("that of %[1]s which copies frames to it (tc filter show dev %[1]s ingress)", v.At(h.Dev).Name)
		}
		words = append(words, which+" is "+wrong)
	}
	for _, f := range wrong.SetFilters {
		add(f.Hook, "missing or another one")
	}
	for _, h := range wrong.DeleteFilters {
		add(h, "not wanted")
	}
	return fmt.Sprintf("filter of %s (tc filter show dev %s): %s", v.At(dev).Name, Quote(v.At(dev).Name), strings.Join(words, ", "))
}

func command(j cangw.Job, v View) string {
	return "cangw -A " + j.Format(func(index uint32) string { return Quote(v.nameOf(index)) })
}

// describe says what is wrong with rules, as the commands that would make them.
func describe(wrong string, jobs []cangw.Job, v View) string {
	const shown = 4
	var commands []string
	for _, j := range jobs[:min(len(jobs), shown)] {
		commands = append(commands, command(j, v))
	}
	if more := len(jobs) - shown; more > 0 {
		commands = append(commands, fmt.Sprintf("and %d more", more))
	}
	rule := "1 gateway rule is "
	if len(jobs) != 1 {
		rule = fmt.Sprintf("%d gateway rules are ", len(jobs))
	}
	return rule + wrong + " (" + strings.Join(commands, ", ") + ")"
}

// Ends is the pair of an attachment as it was seen.
type Ends struct {
	Host, Cont canlink.Link // Cont is the device that Host names as its other end
	Here       bool         // the container end is to be in the host's netns, from where the runtime moves it
	Place      string       // the netns that it is to be in, for messages
	Hub        string       // of the bus that they are to be on
}

// DiffEndpoint lists all that is wrong with the pair of an attachment. mtu is what both ends must have, or 0 for any; named
// reports whether the container end may have a name. All but a container end that is down needs another pair.
func DiffEndpoint(hostIf string, ends Ends, mtu int, named func(name string) bool) []Difference {
	var all differences
	host, end := ends.Host, ends.Cont
	if host.Kind != canlink.Vxcan {
		all.name(HostEndGone, byThisAdd, "host end %s is missing", hostIf)
		return all
	}
	if !IsPair(host, end) {
		all.name(ContEndGone, byThisAdd, "container end of %s is not in %s", hostIf, ends.Place)
		return all
	}
	if said, ok := ParseAlias(host.Alias); ok && said.Hub != ends.Hub {
		all.name(EndpointHub, byThisAdd, "host end %s is on bus %s, and the configuration says %s", hostIf, said.Hub, ends.Hub)
	}
	if !named(end.Name) {
		all.name(ContEndName, byThisAdd, "container end is named %s, which ADD did not say", Quote(end.Name))
	}
	if mtu != 0 && (host.MTU != mtu || end.MTU != mtu) {
		all.name(EndpointMTU, byThisAdd, wrongMTU, hostIf, Quote(end.Name), host.MTU, end.MTU, mtu)
	}
	if !ends.Here && !end.Up {
		all.name(ContEndDown, "ip link set "+Quote(end.Name)+" up in the container", "container end %s is down", Quote(end.Name))
	}
	return all
}

const wrongMTU = "host end %s and container end %s have MTU %d and %d, want %d"

// DiffEnd compares the ends of an endpoint. mtu is as in DiffEndpoint. Its container can set its end down. One that has never
// been up is left to its runtime: Docker up to 27 moves it into the container and sets it up later.
func DiffEnd(e Endpoint, end canlink.Link, mtu int) []Difference {
	var all differences
	host := e.Host
	if !IsPair(host, end) {
		return nil
	}
	if mtu != 0 && (host.MTU != mtu || end.MTU != mtu) {
		all.name(EndpointMTU, e.again(), wrongMTU, host.Name, Quote(end.Name), host.MTU, end.MTU, mtu).of(host.Name)
	}
	switch {
	case !host.PeerElsewhere && host.Used:
		all.name(ContEndGone, e.again(), "container end %s of %s is in the host's network namespace", Quote(end.Name), e.Attachment).of(host.Name)
	case host.Up && !end.Up && host.Used:
		all.name(ContEndDown, "ip link set "+Quote(end.Name)+" up in the container", "container end %s of %s is down", Quote(end.Name), e.Attachment).of(host.Name)
	}
	return all
}

// DiffPolicy compares the policy that an endpoint was attached with and that of the configuration.
func DiffPolicy(there, configured config.Policy) []Difference {
	var all differences
	if there != configured {
		const most = 100 // a list can be long
		all.name(PolicyDiffers, "start the container again", "policy is %.*s, and the configuration says %.*s", most, there, most, configured)
	}
	return all
}
