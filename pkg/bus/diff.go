package bus

import (
	"fmt"
	"slices"
	"strings"

	"github.com/vxcan/vxcan/pkg/cangw"
	"github.com/vxcan/vxcan/pkg/canlink"
	"github.com/vxcan/vxcan/pkg/cantc"
	"github.com/vxcan/vxcan/pkg/controller"
)

// How a difference can be repaired.
const (
	byAnyAdd  = "the next ADD of anything on this bus repairs it"
	byThisAdd = "remove the container and start it again"
)

// difference is one way in which a bus is not as it must be.
type difference struct {
	what string // "hub vcan0 is missing"
	cure string // how it can be repaired
	// refusal is set where no ADD can repair it, only the administrator. It wraps ErrNotReady or ErrInvalid.
	refusal error
	// rebuild tells that the endpoint it belongs to must be made anew, by its own ADD.
	rebuild bool
	// expected tells that it is no damage: what an endpoint that is just being attached still lacks.
	expected bool
	change   change
}

// change is what apply does about a difference, in the order of the fields.
type change struct {
	remove     []int // ifindexes of devices
	addHub     string
	addPair    *canlink.Pair // its indexes are drawn by apply
	up         []int
	controller controllerChange
	wiring
}

// wiring is what apply does about filters and rules, in the order of the fields: a policy is in force before there is a
// way for frames.
type wiring struct {
	setFilters    []cantc.Filter
	deleteRules   []cangw.Rule
	addRules      []cangw.Rule
	deleteFilters []cantc.Hook
}

func (w wiring) empty() bool {
	return len(w.setFilters)+len(w.deleteRules)+len(w.addRules)+len(w.deleteFilters) == 0
}

// controllerChange is what apply does about a controller.
type controllerChange struct {
	setUp   bool
	queue   int  // frames, 0 leaves it
	restart bool // which not every driver can
}

// touchesDevices tells whether the change makes or removes devices, so that rules come or go with it, or changes MTUs.
func (c change) touchesDevices() bool {
	return len(c.remove) > 0 || c.addHub != "" || c.addPair != nil || c.controller.setUp
}

func (d difference) String() string {
	if d.cure == "" {
		return d.what
	}
	return d.what + ": " + d.cure
}

// Damage is returned by Check: each difference, and how it can be repaired.
type Damage []string

func (d Damage) Error() string { return strings.Join(d, "; ") }

// diff lists all that is wrong with a bus.
func diff(w want, v view) []difference {
	all := append(diffHub(w, v), diffBackplane(w, v)...)
	for _, e := range w.endpoints {
		if !e.host.Up {
			all = append(all, difference{
				what: fmt.Sprintf("host end %s of %s is down", e.host.Name, e.Attachment), cure: byAnyAdd,
				change: change{up: []int{e.host.Index}},
			})
		}
	}
	return append(all, diffWiring(w, v)...)
}

func refuse(kind error, what, cure string) []difference {
	d := difference{what: what, cure: cure}
	d.refusal = fmt.Errorf("%w: %s", kind, d)
	return []difference{d}
}

func diffHub(w want, v view) []difference {
	name, hub := w.spec.Hub, v.link(w.spec.Hub)
	switch other := v.altNameOf(name); {
	case hub.Index == 0 && other.Index != 0:
		return refuse(ErrInvalid, fmt.Sprintf("hub %s is another name of device %s", name, other.Name), "name "+other.Name)
	case hub.Index == 0 && w.spec.Physical:
		return refuse(ErrNotReady, fmt.Sprintf("hub %s: there is no such device", name), "connect the controller or load its driver")
	case hub.Index == 0:
		return []difference{{
			what: fmt.Sprintf("hub %s is missing", name), cure: byAnyAdd, change: change{addHub: name},
		}}
	case !hub.CAN:
		return refuse(ErrInvalid, fmt.Sprintf("hub %s is not a CAN device", name), "name another one")
	case hub.Kind != canlink.Vcan && !w.spec.Physical:
		return refuse(ErrInvalid, fmt.Sprintf("hub %s is a %s device, not vcan", name, kindWord(hub.Kind)),
			`set "physical": true (option physical=true) to use it`)
	case w.spec.MTU > w.spec.hubMTU(hub):
		cure := "use mtu 16, or give the hub MTU 72"
		if w.spec.setsUp() {
			cure = "use mtu 16, or add fd and dbitrate"
		}
		return refuse(ErrInvalid, fmt.Sprintf("hub %s has MTU %d (classic CAN), less than the mtu %d of this network", name, w.spec.hubMTU(hub), w.spec.MTU), cure)
	case w.spec.setsUp():
		return diffController(w, v.controller)
	case !hub.Up && w.spec.Physical && w.healing:
		return nil
	case !hub.Up && !isOurHub(hub):
		return refuse(ErrNotReady, fmt.Sprintf("hub %s is down", name), "ip link set "+name+" up")
	case !hub.Up:
		return []difference{{
			what: fmt.Sprintf("hub %s is down", name), cure: byAnyAdd, change: change{up: []int{hub.Index}},
		}}
	case w.spec.Physical:
		return diffState(w, v.controller)
	}
	return nil
}

// diffController compares a controller that is ours to set up. One that is up is never taken down.
func diffController(w want, c controller.Device) []difference {
	name := w.spec.Hub
	if c.Index == 0 {
		return refuse(ErrInvalid, fmt.Sprintf("hub %s cannot be set up by netlink", name), "leave out bitrate, and set it up by its own tool")
	}
	if !c.Up {
		if w.others.Bitrate != 0 && w.others != w.spec.Controller {
			return refuse(ErrInvalid, fmt.Sprintf("hub %s: containers that are there want %s, this network wants %s", name, w.others, w.spec.Controller),
				"use the same settings, or remove them first")
		}
		if _, err := c.Check(w.spec.Controller); err != nil {
			return refuse(ErrInvalid, fmt.Sprintf("hub %v", err), "change the configuration")
		}
		return []difference{{
			what: fmt.Sprintf("controller %s is down", c), cure: byAnyAdd,
			change: change{controller: controllerChange{setUp: true, queue: max(w.spec.txQueue(), c.Queue)}},
		}}
	}
	if differs := c.Differs(w.spec.Controller); len(differs) > 0 {
		return refuse(ErrInvalid, fmt.Sprintf("hub %s is up with %s", name, strings.Join(differs, "; ")),
			fmt.Sprintf("set it down (ip link set %s down) and start the container again, or change the configuration", name))
	}
	all := diffState(w, c)
	if want := w.spec.txQueue(); c.Queue < want {
		all = append(all, difference{
			what: fmt.Sprintf("transmit queue of controller %s holds %d frames, want %d", c, c.Queue, want), cure: byAnyAdd,
			change: change{controller: controllerChange{queue: want}},
		})
	}
	return all
}

// diffState tells whether a controller has left the bus. One that restarts by itself is left to that.
func diffState(w want, c controller.Device) []difference {
	if c.State != controller.StateBusOff {
		return nil
	}
	return []difference{{
		what:   fmt.Sprintf("controller %s is bus-off", c),
		cure:   fmt.Sprintf("look for the fault on the wire, then ip link set %s down and up", w.spec.Hub),
		change: change{controller: controllerChange{restart: w.spec.setsUp() && c.RestartMS == 0}},
	}}
}

func kindWord(kind string) string {
	if kind == "" {
		return "hardware"
	}
	return kind
}

func diffBackplane(w want, v view) []difference {
	tx, rx := v.link(w.tx), v.link(w.rx)
	name := fmt.Sprintf("backplane %s, %s", w.tx, w.rx)
	d := difference{cure: byAnyAdd}
	make := func(what string, remove ...int) []difference {
		d.what = what
		d.change = change{
			remove: slices.DeleteFunc(remove, func(index int) bool { return index == 0 }),
			// tx is set up last, because it is the end that must send at once.
			addPair: &canlink.Pair{Name: w.rx, PeerName: w.tx, MTU: canlink.FDMTU, Alias: backplaneAlias, PeerUp: true},
		}
		return []difference{d}
	}
	for _, name := range []string{w.tx, w.rx} {
		if other := v.altNameOf(name); other.Index != 0 {
			return refuse(ErrInvalid, fmt.Sprintf("%s is another name of device %s, and the backplane needs it", name, other.Name),
				fmt.Sprintf("ip link property del dev %s altname %s", other.Name, name))
		}
	}
	switch {
	case tx.Index == 0 && rx.Index == 0:
		return make(name + " is missing")
	case !isPair(tx, rx) || tx.PeerElsewhere:
		for _, end := range []canlink.Link{tx, rx} {
			if end.Index != 0 && (end.Kind != canlink.Vxcan || end.Alias != backplaneAlias) {
				return refuse(ErrInvalid, fmt.Sprintf("%s is another program's device, and the backplane needs this name", end.Name), "rename or delete it")
			}
		}
		return make(name+" is not one vxcan pair", tx.Index, rx.Index)
	case tx.MTU != canlink.FDMTU || rx.MTU != canlink.FDMTU:
		return make(fmt.Sprintf("%s has MTU %d and %d, want %d", name, tx.MTU, rx.MTU, canlink.FDMTU), tx.Index)
	case !tx.Up || !rx.Up:
		d.what, d.change = name+" is down", change{up: []int{rx.Index, tx.Index}}
		return []difference{d}
	}
	return nil
}

// isPair tells whether two devices, each seen from its own netns, are the ends of one pair.
func isPair(host, end canlink.Link) bool {
	return host.Kind == canlink.Vxcan && end.Kind == canlink.Vxcan && host.PeerIndex == end.Index && end.PeerIndex == host.Index
}

// diffWiring compares the filters and rules of the devices that are there. Those of a device that is missing come with it.
func diffWiring(w want, v view) (all []difference) {
	hub, tx, rx := v.link(w.spec.Hub), v.link(w.tx), v.link(w.rx)
	if !isPair(tx, rx) || hub.Index == 0 {
		return nil
	}
	common := backplane{uint32(tx.Index), uint32(rx.Index)}
	members, cutOff := w.members(hub)
	var attaching uint32 // the device that is being attached
	own := difference{what: "filters and rules of its own", expected: true}
	for i, e := range w.endpoints {
		if e.host.Name == w.attaching {
			attaching = members[i+1].dev
		}
	}
	for _, m := range members {
		wrong := diffFilters(common, m, v)
		if m.dev == attaching {
			own.change.wiring = wrong
		} else if !wrong.empty() {
			all = append(all, difference{what: describeFilters(wrong, v), cure: byAnyAdd, change: change{wiring: wrong}})
		}
	}
	missing, doubled, unwanted := compare(rules(common, members), v.jobs, common)
	own.change.addRules = slices.DeleteFunc(slices.Clone(missing), func(r cangw.Rule) bool { return r.Dst != attaching })
	missing = slices.DeleteFunc(missing, func(r cangw.Rule) bool { return r.Dst == attaching })
	for _, d := range []difference{
		{what: describe("missing", missing, v), change: change{wiring: wiring{addRules: missing}}},
		{what: describe("there more than once, so that frames arrive more than once", doubled, v), change: change{wiring: wiring{deleteRules: doubled}}},
		{what: describe("not of this bus, but on its backplane", unwanted, v), change: change{wiring: wiring{deleteRules: unwanted}}},
		own,
	} {
		if d.cure = byAnyAdd; !d.change.empty() {
			all = append(all, d)
		}
	}
	for _, a := range cutOff {
		all = append(all, difference{what: fmt.Sprintf("the record of the policy of %s is lost: it neither sends nor hears", a), cure: byThisAdd})
	}
	return all
}

// diffFilters compares the filters of one member.
func diffFilters(common backplane, m member, v view) (wrong wiring) {
	wanted := filters(common, m)
	for _, f := range wanted {
		if !f.Equal(v.filters[f.Hook].Filter) {
			wrong.setFilters = append(wrong.setFilters, f)
		}
	}
	for _, h := range hooks(int(m.dev), true) {
		if _, there := v.filters[h]; there && !slices.ContainsFunc(wanted, func(f cantc.Filter) bool { return f.Hook == h }) {
			wrong.deleteFilters = append(wrong.deleteFilters, h)
		}
	}
	return wrong
}

// describeFilters tells what is wrong with the filters of one member.
func describeFilters(wrong wiring, v view) string {
	var dev int
	var words []string
	for _, f := range wrong.setFilters {
		dev = f.Dev
		words = append(words, fmt.Sprintf("%s pref %d is missing or another one", f.Dir, f.Prio))
	}
	for _, h := range wrong.deleteFilters {
		dev = h.Dev
		words = append(words, fmt.Sprintf("%s pref %d is not wanted", h.Dir, h.Prio))
	}
	return fmt.Sprintf("filter of %s (tc filter show dev %s): %s", v.at(dev).Name, v.at(dev).Name, strings.Join(words, ", "))
}

// describe tells what is wrong with rules, as the commands that would make them.
func describe(wrong string, rules []cangw.Rule, v view) string {
	const shown = 4
	var commands []string
	for _, r := range rules[:min(len(rules), shown)] {
		commands = append(commands, "cangw -A "+r.Format(v.nameOf))
	}
	if more := len(rules) - shown; more > 0 {
		commands = append(commands, fmt.Sprintf("and %d more", more))
	}
	rule := "1 gateway rule is "
	if len(rules) != 1 {
		rule = fmt.Sprintf("%d gateway rules are ", len(rules))
	}
	return rule + wrong + " (" + strings.Join(commands, ", ") + ")"
}

// diffEndpoint lists all that is wrong with the pair of an attachment: host is its host end, and end the device that
// host names as its other end. named tells whether end may have a name.
func diffEndpoint(hostIf string, host, end canlink.Link, at place, mtu int, named func(name string) bool) (all []difference) {
	add := func(cure string, format string, args ...any) {
		all = append(all, difference{what: fmt.Sprintf(format, args...), cure: cure, rebuild: cure == byThisAdd})
	}
	if host.Kind != canlink.Vxcan {
		add(byThisAdd, "host end %s is missing", hostIf)
		return all
	}
	if !isPair(host, end) {
		add(byThisAdd, "container end of %s is not in %s", hostIf, at.path())
		return all
	}
	if !named(end.Name) {
		add(byThisAdd, "container end is named %s, which ADD did not say", end.Name)
	}
	if host.MTU != mtu || end.MTU != mtu {
		add(byThisAdd, "host end %s and container end %s have MTU %d and %d, want %d", hostIf, end.Name, host.MTU, end.MTU, mtu)
	}
	if !at.here() && !end.Up {
		add("ip link set "+end.Name+" up in the container", "container end %s is down", end.Name)
	}
	return all
}
