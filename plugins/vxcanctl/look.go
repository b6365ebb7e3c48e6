package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vxcan/vxcan/pkg/bus"
	"github.com/vxcan/vxcan/pkg/canlink"
	"github.com/vxcan/vxcan/pkg/config"
)

// look is what status shows of one look at all buses.
type look struct {
	all []bus.BusStatus
	// With a look before, counters are frames per second.
	before  []bus.BusStatus
	between time.Duration
	taken   time.Time
	assumed bitRates
	sort    byte // a key of sortKeys, or 0
}

// block is a bus on a screen.
type block struct {
	title, wrong []string
	head         string // of the table
	rows         []string
}

// pinned are the lines that stay in view while rows are scrolled.
func (b block) pinned() []string { return append(slices.Concat(b.title, b.wrong), b.head) }

// write writes a block for each bus. What stands above a table that is longer than the terminal stands below it, too.
func (l look) write(w io.Writer, s style) error {
	var lines []string
	for i, b := range l.blocks(s) {
		if i > 0 {
			lines = append(lines, "")
		}
		lines = append(append(lines, b.pinned()...), b.rows...)
		if s.height > 0 && len(b.pinned())+len(b.rows) >= s.height {
			lines = append(append(append(lines, b.head), b.title...), b.wrong...)
		}
	}
	_, err := fmt.Fprintln(w, strings.Join(lines, "\n"))
	return err
}

func (l look) blocks(s style) (all []block) {
	for _, b := range l.all {
		items := append([]string{plain(b.Hub)}, hubItems(s, b)...)
		i := slices.IndexFunc(l.before, func(old bus.BusStatus) bool { return old.Hub == b.Hub })
		if i >= 0 {
			r := rateSince{l.between.Seconds(), l.before[i]}
			load, ok := r.load(b, l.assumed)
			var frames uint64
			b, frames = r.perSecond(b)
			items = append(items, fmt.Sprintf("%d frames/s", frames))
			if ok {
				items = append(items, fmt.Sprintf("load about %d %%", int(100*load+0.5)))
			}
		}
		shown := block{title: s.flow(indent, gap, append(items, verdict(s, b))...), wrong: wrongLines(s, b)}
		shown.head, shown.rows = l.members(b, i >= 0).lines(s)
		all = append(all, shown)
	}
	return all
}

// hubItems say what a hub is, one thing each.
func hubItems(s style, b bus.BusStatus) (items []string) {
	if b.Kind == "" {
		return []string{s.paint(failure, "missing")}
	}
	add := func(format string, args ...any) { items = append(items, fmt.Sprintf(format, args...)) }
	c := b.Controller
	if c != nil && c.Device != "" {
		add("%s", plain(c.Device))
	} else {
		add("%s", plain(b.Kind))
	}
	add("%s", frameFormat(b.MTU))
	if !b.Up {
		add("%s", s.paint(failure, "down"))
	}
	if c == nil {
		return items
	}
	if c.Bitrate != 0 {
		add("%s", bitrate(c.Bitrate))
	}
	if c.DataBitrate != 0 {
		add("data %s", bitrate(c.DataBitrate))
	}
	add("%s", s.paint(controllerLevel(c.State), c.State))
	if e := c.Errors; e != nil && (e.Tx != 0 || e.Rx != 0) {
		add("errors tx %d rx %d", e.Tx, e.Rx)
	}
	if c.Queue < config.DefaultTxQueue {
		add("%s", s.paint(warning, fmt.Sprint("queue ", c.Queue)))
	}
	return items
}

// frameFormat is the largest format of frames that a device of some MTU takes.
func frameFormat(mtu int) string {
	if mtu < canlink.FDMTU {
		return "classic CAN"
	}
	return "CAN FD"
}

func controllerLevel(state string) level {
	switch state {
	case "bus-off":
		return failure
	case "error-warning", "error-passive":
		return warning
	}
	return fine
}

func bitrate(bits uint32) string {
	switch {
	case bits%1_000_000 == 0:
		return fmt.Sprintf("%d Mbit/s", bits/1_000_000)
	case bits%1000 == 0:
		return fmt.Sprintf("%d kbit/s", bits/1000)
	}
	return fmt.Sprintf("%d bit/s", bits)
}

// verdict says whether a bus is whole.
func verdict(s style, b bus.BusStatus) string {
	if n := len(b.Differences); n > 0 {
		return s.paint(failure, plural(uint64(n), "problem"))
	}
	return s.paint(fine, "healthy")
}

// wrongLines are what is wrong with a bus, and below it, or below all that one command repairs, that command.
func wrongLines(s style, b bus.BusStatus) (lines []string) {
	for i, d := range b.Differences {
		cure := cureOf(b, d)
		if i+1 < len(b.Differences) && cureOf(b, b.Differences[i+1]) == cure {
			cure = ""
		}
		lines = append(lines, s.item(failure, wrongWords(b, d), cure)...)
	}
	return lines
}

// members is the table of a bus.
func (l look) members(b bus.BusStatus, perSecond bool) table {
	t := table{columns: []column{
		{head: "CONTAINER"}, {head: "RUNTIME", filled: true, yields: 1}, {head: "NETWORK", filled: true, yields: 2}, {head: "INTERFACE"},
		{head: "SENT", number: true}, {head: "SEND DENIED", number: true, filled: true, yields: 5}, {head: "OVER RATE", number: true, filled: true, yields: 4},
		{head: "HEARD", number: true}, {head: "RECEIVE DENIED", number: true, filled: true, yields: 6}, {head: "LOST", number: true, filled: true, yields: 3},
		{head: "WAITING", number: true, filled: true, yields: 7}, {head: "WIRE LOST", number: true, filled: true, yields: 8},
	}}
	if perSecond {
		t.columns[4].head, t.columns[7].head = "SENT/s", "HEARD/s"
	}
	host := "(host)"
	if b.Kind != "" && b.Kind != "vcan" {
		host = "(host, wire)"
	}
	add := func(cells []string, down bool, policy config.Policy, numbers ...uint64) {
		for _, n := range numbers {
			cells = append(cells, strconv.FormatUint(n, 10))
		}
		line := row{cells: cells}
		if down {
			line.marks = []level{3: failure}
		}
		if policy != (config.Policy{}) {
			line.below = []string{"policy: " + plain(policy.String())}
		}
		t.rows = append(t.rows, line)
	}
	add([]string{host, "", "", plain(b.Hub)}, false, config.Policy{}, b.Sent, 0, 0, b.Heard, 0, b.Lost, b.Waiting, b.WireLost)
	endpoints := slices.Clone(b.Endpoints)
	if less := sortKeys[l.sort].compare; less != nil {
		slices.SortStableFunc(endpoints, less)
	}
	for _, e := range endpoints {
		add([]string{containerOf(e), plain(runtimeOf(e)), networkOf(e), interfaceOf(e)}, !e.Up, e.Policy,
			e.Sent, e.DeniedSend, e.OverRate, e.Heard, e.DeniedReceive, e.Lost, e.Waiting, e.WireLost)
	}
	for _, t := range b.Trunks {
		add([]string{"(host " + t.Peer + ")", "", "", trunkWords(t)}, !t.Up, config.Policy{}, t.Sent, t.Denied, 0, t.Heard, 0, t.Lost, 0, 0)
	}
	for _, node := range b.Outside {
		add([]string{"(host " + node + ")", "", "", "outside"}, false, config.Policy{}, 0, 0, 0, 0, 0, 0, 0, 0)
	}
	return t
}

// trunkWords are the device of a trunk, and whether it is down.
func trunkWords(t bus.TrunkStatus) string {
	switch {
	case t.Device == "":
		return "missing"
	case !t.Up:
		return t.Device + " down"
	}
	return t.Device
}

// sortKeys are the orders of containers, by the key that chooses one. Numbers are in descending order.
var sortKeys = map[byte]struct {
	name    string
	compare func(a, b bus.EndpointStatus) int
}{
	'n': {"name", func(a, b bus.EndpointStatus) int { return cmp.Compare(containerOf(a), containerOf(b)) }},
	's': {"sent", func(a, b bus.EndpointStatus) int { return cmp.Compare(b.Sent, a.Sent) }},
	'h': {"heard", func(a, b bus.EndpointStatus) int { return cmp.Compare(b.Heard, a.Heard) }},
	'd': {"denied", func(a, b bus.EndpointStatus) int {
		return cmp.Compare(b.DeniedSend+b.OverRate+b.DeniedReceive, a.DeniedSend+a.OverRate+a.DeniedReceive)
	}},
	'l': {"lost", func(a, b bus.EndpointStatus) int { return cmp.Compare(b.Lost, a.Lost) }},
}
