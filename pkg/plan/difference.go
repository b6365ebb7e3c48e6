package plan

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/vxcan/vxcan/pkg/cangw"
	"github.com/vxcan/vxcan/pkg/canlink"
	"github.com/vxcan/vxcan/pkg/cantc"
	"github.com/vxcan/vxcan/pkg/config"
	"github.com/vxcan/vxcan/pkg/controller"
	"github.com/vxcan/vxcan/pkg/underlay"
)

// Cures.
const (
	ByAnyAdd  = "the next ADD of anything on this bus repairs it"
	byHeal    = "no ADD does, because it is refused, but vxcanctl heal repairs it"
	afterward = "end first what refuses every ADD; then the next one repairs it"
	byThisAdd = "remove the container and start it again"
)

// again is how an endpoint is made anew.
func (e Endpoint) again() string {
	if e.Runtime == config.HostRuntime {
		return fmt.Sprintf("attach it again with all its keys, vxcanctl attach %s --netns NETNS --interface %s", Quote(e.Hub.Name), Quote(e.IfName))
	}
	return byThisAdd
}

// Kind is a kind of difference: what is wrong, whichever device it is about.
type Kind string

// The kinds of differences that Diff and DiffEndpoint find.
const (
	HubAltName    Kind = "hub by another name"
	HubAbsent     Kind = "hub absent" // and not ours to make
	HubMissing    Kind = "hub missing"
	HubName       Kind = "hub with a controller's name"
	HubNotCAN     Kind = "hub not CAN"
	HubNotVcan    Kind = "hub not vcan"
	HubMade       Kind = "hub made by us, not a controller"
	HubMTU        Kind = "hub MTU too small"
	HubMTUChanged Kind = "hub MTU changed"
	HubDown       Kind = "hub down"
	HubTransient  Kind = "hub made for a pod"
	HubRootless   Kind = "hub that a user namespace does not reach"

	ControllerKind    Kind = "controller not set up by netlink"
	ControllerOthers  Kind = "controller wanted otherwise"
	ControllerUnable  Kind = "controller unable"
	ControllerDown    Kind = "controller down"
	ControllerDiffers Kind = "controller up and different"
	ControllerBusOff  Kind = "controller bus-off"
	ControllerQueue   Kind = "controller queue short"

	BackplaneAltName Kind = "backplane by another name"
	BackplaneMissing Kind = "backplane missing"
	BackplaneForeign Kind = "backplane name taken"
	BackplaneBroken  Kind = "backplane broken"
	BackplaneMTU     Kind = "backplane MTU"
	BackplaneDown    Kind = "backplane down"

	SpanOthers    Kind = "other hosts wanted"
	SpanHosts     Kind = "hosts without this one"
	SpanRootless  Kind = "hosts in a user namespace"
	TrunkID       Kind = "bus-id of another bus"
	TrunkForeign  Kind = "trunk name taken"
	TrunkMissing  Kind = "trunk missing"
	TrunkBroken   Kind = "trunk not as it was made"
	TrunkDown     Kind = "trunk down"
	TrunkUnwanted Kind = "trunk to no host of the bus"
	TrunkMTU      Kind = "way to another host too small"
	TrunkNoWay    Kind = "no way to another host"
	TrunkRouted   Kind = "router on the way to another host"
	TableMissing  Kind = "table missing"
	TableWrong    Kind = "table not as it must be"
	TableUnread   Kind = "table that cannot be read"
	TableUnwanted Kind = "table not wanted"

	HostEndDown   Kind = "host end down"
	HostEndName   Kind = "host end renamed"
	HostEndAlias  Kind = "alias of a host end wrong"
	ClassMissing  Kind = "class of the transmit queue missing"
	ClassUnwanted Kind = "class of the transmit queue of nobody"
	FilterWrong   Kind = "filter wrong"
	CopyUnwanted  Kind = "filter that copies to nobody"
	CopyForeign   Kind = "filter not ours on the backplane"
	QdiscHeld     Kind = "qdisc of another program in the place of clsact"
	FilterFirst   Kind = "filter of another program before ours"
	FilterHeld    Kind = "filter priority held by another program"
	RuleMissing   Kind = "rule missing"
	RuleDoubled   Kind = "rule doubled"
	RuleUnwanted  Kind = "rule not ours on the backplane"
	RuleForeign   Kind = "rule of another program on the hub"
	PolicyLost    Kind = "policy lost"
	OwnWiring     Kind = "wiring of the endpoint that is being attached"
	HostEndGone   Kind = "host end missing"
	ContEndGone   Kind = "container end elsewhere"
	ContEndName   Kind = "container end renamed"
	EndpointHub   Kind = "endpoint on another bus"
	EndpointMTU   Kind = "endpoint MTU"
	ContEndDown   Kind = "container end down"
	PolicyDiffers Kind = "policy not as configured"
)

// Difference is one way in which a bus is not as it must be.
type Difference struct {
	Kind Kind
	What string // "hub vcan0 is missing"
	Cure string // how it can be repaired
	// HostIfs are the host ends of the endpoints that it is about; none if it is about the bus.
	HostIfs []string
	Refusal error // set where only the administrator can repair it; wraps ErrNotReady or ErrInvalid
	Change  Change
}

// Change is what to do about a difference, in the order of the fields. UpLast goes up behind the wiring.
type Change struct {
	Remove      []int // ifindexes of devices
	SetTable    *underlay.Table
	DeleteTable string
	AddHub      string
	HubAlias    string        // of AddHub, or of the hub that is there
	AddPair     *canlink.Pair // without its indexes
	AddTrunk    *Trunk
	HubMTU      int // bytes, of a hub that is down; 0 leaves it
	Alias       *HostAlias
	Up          []int
	UpLast      []int
	Controller  ControllerChange
	Wiring      Wiring
}

// HostAlias is the alias that a host end must have.
type HostAlias struct {
	Index int
	Text  string
}

// Wiring is what to do about filters and rules, in the order of the fields: a policy is in force before frames have a way.
type Wiring struct {
	DeleteQdiscs  []int    // by the ifindexes of their devices, with all filters
	AddClasses    []uint32 // marks, of the hub's transmit queue
	SetFilters    []cantc.Filter
	DeleteJobs    []cangw.Job
	AddRules      []cangw.Rule
	DeleteFilters []cantc.Hook
	DeleteClasses []cantc.Class
}

// Empty reports whether there is nothing to do.
func (w Wiring) Empty() bool {
	return len(w.DeleteQdiscs)+len(w.AddClasses)+len(w.SetFilters)+len(w.DeleteJobs)+len(w.AddRules)+len(w.DeleteFilters)+len(w.DeleteClasses) == 0
}

// Add adds another Wiring.
func (w *Wiring) Add(other Wiring) {
	w.DeleteQdiscs = append(w.DeleteQdiscs, other.DeleteQdiscs...)
	w.AddClasses = append(w.AddClasses, other.AddClasses...)
	w.SetFilters = append(w.SetFilters, other.SetFilters...)
	w.DeleteJobs = append(w.DeleteJobs, other.DeleteJobs...)
	w.AddRules = append(w.AddRules, other.AddRules...)
	w.DeleteFilters = append(w.DeleteFilters, other.DeleteFilters...)
	w.DeleteClasses = append(w.DeleteClasses, other.DeleteClasses...)
}

// ControllerChange is what to do about a controller.
type ControllerChange struct {
	SetUp     *controller.Settings // nil leaves it
	ForOthers bool                 // others on the bus want it set up, too
	Queue     int                  // frames, 0 leaves it
	Restart   bool                 // which not every driver can
}

// TouchesDevices reports whether the change makes or removes devices, so that rules come or go with it, or changes MTUs.
func (c Change) TouchesDevices() bool {
	return len(c.Remove) > 0 || c.AddHub != "" || c.AddPair != nil || c.AddTrunk != nil || c.HubMTU != 0 || c.Controller.SetUp != nil
}

// Repairs reports whether the change repairs something for certain. A restart does not count: it may fail.
func (c Change) Repairs() bool {
	return c.TouchesDevices() || !c.Wiring.Empty() || len(c.Up)+len(c.UpLast) > 0 || c.Alias != nil || c.Controller.Queue != 0 || c.SetTable != nil || c.DeleteTable != ""
}

// of says which endpoints the difference is about, by their host ends.
func (d *Difference) of(hostIfs ...string) { d.HostIfs = hostIfs }

// ByHeal reports whether vxcanctl heal repairs it.
func (d Difference) ByHeal() bool { return d.Cure == ByAnyAdd || d.Cure == byHeal }

func (d Difference) String() string {
	if d.Cure == "" {
		return d.What
	}
	return d.What + ": " + d.Cure
}

// beside lists refusals that concern only the hub or other hosts: heal can repair the rest.
var beside = []Kind{HubAltName, HubAbsent, HubName, HubNotCAN, HubDown, HubMTU, FilterFirst, FilterHeld, QdiscHeld,
	ControllerKind, ControllerOthers, ControllerUnable, ControllerDiffers,
	SpanOthers, SpanHosts, SpanRootless, TrunkID, TrunkForeign, TrunkRouted, TableUnread}

// Refusal is the first difference that only the administrator can repair, or nil. With lenient, those of beside do not count.
func Refusal(all []Difference, lenient bool) error {
	for _, d := range all {
		if d.Refusal != nil && !(lenient && slices.Contains(beside, d.Kind)) {
			return d.Refusal
		}
	}
	return nil
}

// Summary says in a few words what the changes of some differences have done.
func Summary(done []Difference) (words []string) {
	var hostEnds, aliases, trunks, removed int
	var wiring Wiring
	add := func(did bool, what string) {
		if did {
			words = append(words, what)
		}
	}
	for _, d := range done {
		c := d.Change
		add(c.AddHub != "", "made the hub again")
		add(c.HubMTU != 0, "set the MTU of the hub")
		add(c.AddPair != nil, "made the backplane again")
		add(c.SetTable != nil, "set the table")
		add(c.DeleteTable != "", "deleted the table")
		add(c.Controller.SetUp != nil, "set the controller up")
		add(c.Controller.SetUp == nil && c.Controller.Queue != 0, "made the transmit queue of the controller longer")
		add(c.Controller.Restart, "restarted the controller")
		add(d.Kind == HubDown, "set the hub up")
		add(d.Kind == BackplaneDown, "set the backplane up")
		switch d.Kind {
		case HostEndDown:
			hostEnds++
		case HostEndAlias:
			aliases++
		case TrunkMissing, TrunkBroken, TrunkDown:
			trunks++
		case TrunkUnwanted:
			removed++
		}
		wiring.Add(c.Wiring)
	}
	count := func(format string, n int, what string) {
		if n > 1 {
			what += "s"
		}
		add(n > 0, fmt.Sprintf(format, n, what))
	}
	count("set %d %s up", hostEnds, "host end")
	count("labelled %d %s", aliases, "host end")
	count("made or set up %d %s", trunks, "trunk")
	count("removed %d %s", removed, "trunk")
	count("added %d transmit %s", len(wiring.AddClasses), "queue")
	count("deleted the filters of others on %d %s", len(wiring.DeleteQdiscs), "end of the backplane")
	count("set %d %s", len(wiring.SetFilters), "filter")
	count("deleted %d %s", len(wiring.DeleteJobs), "rule")
	count("added %d %s", len(wiring.AddRules), "rule")
	count("deleted %d %s", len(wiring.DeleteFilters), "filter")
	count("deleted %d transmit %s", len(wiring.DeleteClasses), "queue")
	return words
}

type differences []Difference

// add adds a difference that a change repairs.
func (all *differences) add(kind Kind, change Change, format string, args ...any) *Difference {
	d := all.name(kind, ByAnyAdd, format, args...)
	d.Change = change
	return d
}

// name adds one that the administrator repairs, by a command or in words. Containers can be attached all the same.
func (all *differences) name(kind Kind, cure, format string, args ...any) *Difference {
	*all = append(*all, Difference{Kind: kind, What: fmt.Sprintf(format, args...), Cure: cure})
	return &(*all)[len(*all)-1]
}

// refuse adds one that the administrator has to repair first.
func (all *differences) refuse(kind Kind, sentinel error, cure, format string, args ...any) *Difference {
	d := all.name(kind, cure, format, args...)
	d.Refusal = fmt.Errorf("%w: %s", sentinel, d)
	return d
}

// Quote writes a name as a word of a shell: a container chooses the names of its devices. What a terminal would carry out is
// written as $'\x1b'.
func Quote(name string) string {
	const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-@"
	if name != "" && strings.Trim(name, plain) == "" && name[0] != '-' {
		return name
	}
	if strings.ContainsFunc(name, func(r rune) bool { return !strconv.IsPrint(r) || r == utf8.RuneError }) {
		escaped := strconv.QuoteToASCII(name)
		return "$'" + strings.ReplaceAll(strings.ReplaceAll(escaped[1:len(escaped)-1], `\"`, `"`), "'", `\'`) + "'"
	}
	return "'" + strings.ReplaceAll(name, "'", `'\''`) + "'"
}
