package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strconv"
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
	for _, line := range lines {
		if _, err := fmt.Fprintln(w, line); err != nil {
			return err
		}
	}
	return nil
}

func (l look) blocks(s style) (all []block) {
	for _, b := range l.all {
		r := l.rates(b)
		var shown block
		shown.title = s.flow(indent, gap, append(append([]string{plain(b.Hub)}, hubItems(s, b)...), l.verdict(s, b, r)...)...)
		shown.wrong = wrongLines(s, b)
		shown.head, shown.rows = l.members(b, r).lines(s)
		all = append(all, shown)
	}
	return all
}

// rates is nil without a look before.
func (l look) rates(s bus.BusStatus) *rateSince {
	for _, old := range l.before {
		if old.Hub == s.Hub {
			return &rateSince{l.between.Seconds(), old}
		}
	}
	return nil
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

// verdict is how much is on a bus, if that is known, and whether it is whole.
func (l look) verdict(s style, b bus.BusStatus, r *rateSince) (items []string) {
	if r != nil {
		items = append(items, fmt.Sprintf("%d frames/s", r.frames(b)))
		if load, ok := r.load(b, l.assumed); ok {
			items = append(items, "load about "+strconv.Itoa(int(100*load+0.5))+" %")
		}
	}
	switch n := len(b.Differences); n {
	case 0:
		return append(items, s.paint(fine, "healthy"))
	case 1:
		return append(items, s.paint(failure, "1 problem"))
	default:
		return append(items, s.paint(failure, fmt.Sprintf("%d problems", n)))
	}
}

// wrongLines are what is wrong with a bus, each with the command that repairs it. Differences that one command repairs are
// together.
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
func (l look) members(b bus.BusStatus, r *rateSince) table {
	t := table{columns: []column{
		{head: "CONTAINER"}, {head: "RUNTIME", filled: true, yields: 1}, {head: "NETWORK", filled: true, yields: 2}, {head: "INTERFACE"},
		{head: "SENT", number: true}, {head: "SEND DENIED", number: true, filled: true, yields: 5}, {head: "OVER RATE", number: true, filled: true, yields: 4},
		{head: "HEARD", number: true}, {head: "RECEIVE DENIED", number: true, filled: true, yields: 6}, {head: "LOST", number: true, filled: true, yields: 3},
		{head: "WAITING", number: true, filled: true, yields: 7}, {head: "WIRE LOST", number: true, filled: true, yields: 8},
	}}
	if r != nil {
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
	sent, heard := r.hub(b)
	add([]string{host, "", "", plain(b.Hub)}, false, config.Policy{}, sent, 0, 0, heard, 0, b.Lost, b.Waiting, b.WireLost)
	endpoints := slices.Clone(b.Endpoints)
	if less := sortKeys[l.sort].compare; less != nil {
		slices.SortStableFunc(endpoints, func(a, b bus.EndpointStatus) int { return less(r, a, b) })
	}
	for _, e := range endpoints {
		sent, heard := r.endpoint(e)
		add([]string{containerOf(e), plain(runtimeOf(e)), networkOf(e), interfaceOf(e)}, !e.Up, e.Policy,
			sent, e.DeniedSend, e.OverRate, heard, e.DeniedReceive, e.Lost, e.Waiting, e.WireLost)
	}
	for _, trunk := range b.Trunks {
		sent, heard := r.trunk(trunk)
		add([]string{"(host " + trunk.Peer + ")", "", "", trunkWords(trunk)}, !trunk.Up, config.Policy{}, sent, trunk.Denied, 0, heard, 0, trunk.Lost, 0, 0)
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
	compare func(r *rateSince, a, b bus.EndpointStatus) int
}{
	'n': {"name", func(_ *rateSince, a, b bus.EndpointStatus) int { return cmp.Compare(containerOf(a), containerOf(b)) }},
	's': {"sent", func(r *rateSince, a, b bus.EndpointStatus) int {
		x, _ := r.endpoint(a)
		y, _ := r.endpoint(b)
		return cmp.Compare(y, x)
	}},
	'h': {"heard", func(r *rateSince, a, b bus.EndpointStatus) int {
		_, x := r.endpoint(a)
		_, y := r.endpoint(b)
		return cmp.Compare(y, x)
	}},
	'd': {"denied", func(_ *rateSince, a, b bus.EndpointStatus) int {
		return cmp.Compare(b.DeniedSend+b.OverRate+b.DeniedReceive, a.DeniedSend+a.OverRate+a.DeniedReceive)
	}},
	'l': {"lost", func(_ *rateSince, a, b bus.EndpointStatus) int { return cmp.Compare(b.Lost, a.Lost) }},
}
