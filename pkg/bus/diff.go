package bus

import (
	"fmt"
	"slices"
	"strings"

	"github.com/vxcan/vxcan/pkg/cangw"
	"github.com/vxcan/vxcan/pkg/canlink"
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
	remove      []int // ifindexes of devices
	addHub      string
	addPair     *canlink.Pair // its indexes are drawn by apply
	up          []int
	controller  controllerChange
	deleteRules []cangw.Rule
	addRules    []cangw.Rule
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
	all := diffHub(w, v)
	for _, p := range w.backplanes {
		all = append(all, diffBackplane(w, p, v)...)
	}
	for _, e := range w.endpoints {
		if !e.host.Up {
			all = append(all, difference{
				what: fmt.Sprintf("host end %s of %s is down", e.host.Name, e.Attachment), cure: byAnyAdd,
				change: change{up: []int{e.host.Index}},
			})
		}
	}
	for _, l := range w.leftovers {
		all = append(all, difference{
			what: fmt.Sprintf("backplane %s of %s is left over", l.device.Name, l.Attachment), cure: byAnyAdd,
			change: change{remove: []int{l.device.Index}},
		})
	}
	return append(all, diffRules(w, v)...)
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
		return refuse(ErrInvalid, fmt.Sprintf("hub %s has MTU %d (classic CAN), less than the mtu %d of this network", name, w.spec.hubMTU(hub), w.spec.MTU),
			"use mtu 16, or give the hub MTU 72")
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
func diffController(w want, c canlink.Controller) []difference {
	name := w.spec.Hub
	if c.Index == 0 {
		return refuse(ErrInvalid, fmt.Sprintf("hub %s cannot be set up by netlink", name), "leave out bitrate, and set it up by its own tool")
	}
	if !c.Up {
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
func diffState(w want, c canlink.Controller) []difference {
	if c.State != canlink.StateBusOff {
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

func diffBackplane(w want, p backplaneWant, v view) []difference {
	tx, rx := v.link(p.tx), v.link(p.rx)
	name := fmt.Sprintf("backplane %s, %s", p.tx, p.rx)
	d := difference{cure: byAnyAdd, expected: p.of != "" && p.of == w.attaching}
	make := func(what string, remove ...int) []difference {
		d.what = what
		d.change = change{
			remove: slices.DeleteFunc(remove, func(index int) bool { return index == 0 }),
			// tx is set up last, because it is the end that must send at once.
			addPair: &canlink.Pair{Name: p.rx, PeerName: p.tx, MTU: canlink.FDMTU, Alias: p.alias, PeerUp: true},
		}
		return []difference{d}
	}
	for _, name := range []string{p.tx, p.rx} {
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
			if end.Index != 0 && (end.Kind != canlink.Vxcan || end.Alias != p.alias) {
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

// diffRules compares the rules of the devices that are there. Those of a device that is missing come with it.
func diffRules(w want, v view) []difference {
	hub := v.link(w.spec.Hub)
	var planes []backplane
	private := make(map[string]backplane) // by host end
	for _, p := range w.backplanes {
		tx, rx := v.link(p.tx), v.link(p.rx)
		plane := backplane{uint32(tx.Index), uint32(rx.Index)}
		if isPair(tx, rx) {
			planes = append(planes, plane)
			private[p.of] = plane
		}
	}
	common, ok := private[""]
	if !ok || hub.Index == 0 {
		return nil
	}
	members := []member{{dev: uint32(hub.Index), hub: true, fd: hub.FD(), controller: w.spec.Physical}}
	var attaching []uint32 // devices of the endpoint that is being attached
	for _, e := range w.endpoints {
		m := member{dev: uint32(e.host.Index), fd: e.host.FD() && hub.FD(), private: private[e.host.Name]}
		if e.private() && m.private == (backplane{}) {
			continue
		}
		members = append(members, m)
		if e.host.Name == w.attaching {
			attaching = []uint32{m.dev, m.private.tx, m.private.rx}
		}
	}
	missing, doubled, unwanted := compare(rules(common, members), v.jobs, planes...)
	all := []difference{
		{what: describe("missing", missing, v), change: change{addRules: missing}},
		{what: describe("there more than once, so that frames arrive more than once", doubled, v), change: change{deleteRules: doubled}},
		{what: describe("not of this bus, but on its backplane", unwanted, v), change: change{deleteRules: unwanted}},
	}
	if len(attaching) > 0 {
		own := func(r cangw.Rule) bool { return slices.Contains(attaching, r.Src) || slices.Contains(attaching, r.Dst) }
		others := slices.DeleteFunc(slices.Clone(missing), own)
		all[0] = difference{what: describe("missing", others, v), change: change{addRules: others}}
		all = append(all, difference{what: "own rules", expected: true, change: change{
			addRules: slices.DeleteFunc(missing, func(r cangw.Rule) bool { return !own(r) }),
		}})
	}
	all = slices.DeleteFunc(all, func(d difference) bool { return len(d.change.addRules)+len(d.change.deleteRules) == 0 })
	for i := range all {
		all[i].cure = byAnyAdd
	}
	return all
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
	if !at.here() && host.Index != end.Index {
		add(byThisAdd, "host end %s and container end %s have different ifindexes, so that the container hears itself", hostIf, end.Name)
	}
	if !at.here() && !end.Up {
		add("ip link set "+end.Name+" up in the container", "container end %s is down", end.Name)
	}
	return all
}
