package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/bus"
	"github.com/vxcan/vxcan/pkg/capture"
)

const dumpHelp = `Show every frame of some buses, or of all, with its sender: a container, or the hub, for programs on the host and the
wire. Frames are shown as candump shows them, with the time at which the kernel passed them on. Nothing is put on the bus.

A hub can have filters of candump behind it, separated by commas; "any" is all buses:
  ID:MASK   frames with ID & MASK == received ID & MASK; an ID of 8 digits is an extended one
  ID~MASK   all other frames
  #MASK     error frames of these classes
  j         a frame must match all filters, not one of them

Without filters all frames are shown, error frames included; with filters, error frames only by #MASK.

--from shows the frames of some senders alone: the name of a container, the beginning of its ID, its device on the host, or
the hub.

-L writes candump's log format with the sender in the place of the device. canplayer replays it, all or one sender's frames:
  vxcanctl dump -L vcan0 >log; canplayer -I log vcan1=engine

There a name is at most 15 bytes long, the most that canplayer takes; a longer one is cut, and ends in ~ and the last four
digits of the device on the host. On several buses, a name is CONTAINER@HUB.

-w writes a file for Wireshark (pcapng, "-" is stdout) with an interface for each sender, which frame.interface_name tells.

JSON: a line a frame: time, hub, sender, of a container runtime, network, containerID, ifName and hostIf; id, extended,
remote, error, fd, brs, esi, length, dlc (of a classic frame, if it is not its length), data (hexadecimal), lost (frames
that this program lost before this one).

When it listens, it says so on stderr; from then on no frame is missed. SIGINT and SIGTERM end it, with all that was read.

A frame that a policy denies is never on the bus, and not shown. At the end, stderr has the number of those, and of frames
that were lost because this program was slow or stopped; other members lose none by that. While a bus is repaired, dump
waits, and says so.

It needs Linux 6.0.

Exit status: 0; 1 if a bus cannot be read.`

// dumpOptions are the flags of dump, and where it writes.
type dumpOptions struct {
	format, file, stamp string
	log                 bool
	count               uint64
	from                []string
	stdout, stderr      io.Writer
}

func newDump(host looker) *cobra.Command {
	var options dumpOptions
	var format *string
	cmd := &cobra.Command{
		Use:   "dump [HUB[,FILTER ...] ...]",
		Short: "Show frames of buses with their senders",
		Long:  dumpHelp,
		Example: `  vxcanctl dump vcan0
  vxcanctl dump vcan0,123:7FF --from engine -n 10
  vxcanctl dump vcan0 -L >bus.log
  vxcanctl dump vcan0 -w bus.pcapng`,
		ValidArgsFunction: completeHubs(host, anyNumber),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := needsRoot(cmd, os.Geteuid()); err != nil {
				return err
			}
			options.format, options.stdout, options.stderr = *format, cmd.OutOrStdout(), cmd.ErrOrStderr()
			return runDump(cmd.Context(), host, args, options)
		},
	}
	format = addFormat(cmd, textFormat, jsonFormat)
	flags := cmd.Flags()
	flags.StringArrayVar(&options.from, "from", nil, "show frames of `NAME` alone; can be given again")
	flags.Uint64VarP(&options.count, "count", "n", 0, "end after `N` frames")
	flags.BoolVarP(&options.log, "log", "L", false, "write candump's log format")
	flags.StringVarP(&options.file, "write", "w", "", "write pcapng to `FILE`")
	flags.StringVarP(&options.stamp, "timestamp", "t", "a", "time in text: a (seconds), A (with date), d (since the last frame) or z (since the first)")
	cmd.MarkFlagsMutuallyExclusive("log", "write", "output")
	return cmd
}

// runDump shows frames until ctx ends or there are enough.
func runDump(ctx context.Context, host looker, args []string, options dumpOptions) (retErr error) {
	buses, rest, err := parseBuses(args)
	if err != nil {
		return err
	}
	if !strings.Contains("aAdz", options.stamp) || len(options.stamp) != 1 {
		return fmt.Errorf("invalid timestamp %q: want a, A, d or z", options.stamp)
	}
	c, before, err := listen(ctx, host, buses, rest)
	if err != nil {
		return err
	}
	defer func() { retErr = errors.Join(retErr, c.Close()) }()
	several := len(c.Hubs()) > 1 || rest != nil
	out, most, err := newFrameWriter(options, before[0].Hub, several)
	if err != nil {
		return err
	}
	d := &dumper{
		ctx: ctx, options: options, out: out, wanted: make(map[capture.Member]bool),
		senders: newSenders(host, most, several && (options.log || options.file != "")),
	}
	d.senders.learn(before)
	d.say("listening to %s", strings.Join(c.Hubs(), ", ")) // for who sends when it does
	d.warnOfNames(c)
	err = errors.Join(c.Run(ctx, d), out.Close())
	return errors.Join(err, d.report(context.WithoutCancel(ctx), c, before))
}

// listen opens a capture of the buses that a command names, or of all, and returns their status. It fails if one is not there.
func listen(ctx context.Context, host looker, buses []capture.Bus, rest *capture.Filter) (c *capture.Capture, before []bus.BusStatus, err error) {
	if err := capture.Probe(); err != nil {
		return nil, nil, err
	}
	var hubs []string
	for i := 0; rest == nil && i < len(buses); i++ {
		hubs = append(hubs, buses[i].Hub)
	}
	before, err = host.Status(ctx, hubs...)
	if err == nil && len(before) == 0 {
		err = errors.New(noBus)
	}
	if err != nil {
		return nil, nil, err
	}
	c, err = capture.Open(buses, rest)
	return c, before, err
}

// parseBuses reads hubs with filters as candump takes them. rest is the filter of all other buses, nil if only those that
// are named are meant.
func parseBuses(args []string) (buses []capture.Bus, rest *capture.Filter, err error) {
	everything := capture.Filter{Errors: unix.CAN_ERR_MASK}
	if len(args) == 0 {
		return nil, &everything, nil
	}
	for _, arg := range args {
		hub, filters, filtered := strings.Cut(arg, ",")
		filter := everything
		if filtered {
			if filter, err = parseFilter(filters); err != nil {
				return nil, nil, err
			}
		}
		switch {
		case hub == "any": // as candump calls it
			rest = &filter
		case slices.ContainsFunc(buses, func(b capture.Bus) bool { return b.Hub == hub }):
			return nil, nil, fmt.Errorf("bus %s is named twice: put all its filters behind one name", hub)
		default:
			buses = append(buses, capture.Bus{Hub: hub, Filter: filter})
		}
	}
	return buses, rest, nil
}

// maxFilters is CAN_RAW_FILTER_MAX of linux/can/raw.h.
const maxFilters = 512

func parseFilter(text string) (f capture.Filter, err error) {
	for _, word := range strings.Split(text, ",") {
		if word == "j" || word == "J" {
			f.All = true
			continue
		}
		at := strings.IndexAny(word, "#:~")
		mask, errMask := strconv.ParseUint(word[at+1:], 16, 32)
		if at == 0 && word[0] == '#' && errMask == nil {
			f.Errors = uint32(mask)
			continue
		}
		id, errID := strconv.ParseUint(word[:max(at, 0)], 16, 32)
		if errID != nil || errMask != nil || word[at] == '#' {
			return f, fmt.Errorf("invalid filter %q: want ID:MASK, ID~MASK, #MASK or j, as candump does, such as vcan0,123:7FF,#FFFFFFFF", word)
		}
		if at == 8 {
			id |= unix.CAN_EFF_FLAG
		}
		if word[at] == '~' {
			id |= unix.CAN_INV_FILTER
		}
		f.IDs = append(f.IDs, unix.CanFilter{Id: uint32(id), Mask: uint32(mask) &^ unix.CAN_ERR_FLAG})
	}
	if len(f.IDs) > maxFilters {
		return f, fmt.Errorf("%d filters of one bus: the kernel takes %d", len(f.IDs), maxFilters)
	}
	return f, nil
}

// dumper writes the frames of a capture.
type dumper struct {
	ctx     context.Context
	options dumpOptions
	senders *senders
	out     frameWriter
	shown   uint64
	wanted  map[capture.Member]bool // by --from
}

func (d *dumper) Frame(f *capture.Frame) error {
	if !d.wants(f.From) {
		return nil
	}
	if err := d.out.write(f, d.senders.label(d.ctx, f.From)); err != nil {
		return err
	}
	if d.shown++; d.shown == d.options.count {
		return capture.ErrStop
	}
	return nil
}

// wants reports whether the frames of a member are to be shown.
func (d *dumper) wants(m capture.Member) bool {
	if len(d.options.from) == 0 {
		return true
	}
	wanted, known := d.wanted[m]
	if !known {
		wanted = d.senders.is(d.ctx, m, d.options.from)
		if d.senders.settled(m) {
			d.wanted[m] = wanted
		}
	}
	return wanted
}

// warnOfNames tells which names of --from nobody has.
func (d *dumper) warnOfNames(c *capture.Capture) {
	var members []capture.Member
	for _, hub := range c.Hubs() {
		members = append(members, c.Members(hub)...)
	}
	for _, name := range d.options.from {
		if !slices.ContainsFunc(members, func(m capture.Member) bool { return d.senders.is(d.ctx, m, []string{name}) }) {
			d.say("nobody is called %s yet", plain(name))
		}
	}
}

// say tells something that is no frame.
func (d *dumper) say(format string, args ...any) {
	_ = d.out.Flush() // in order, on a terminal; the next frame meets the error again
	fmt.Fprintf(d.options.stderr, "vxcanctl: "+format+"\n", args...)
}

// Change tells of a member that has come or gone, or of the state of the bus.
func (d *dumper) Change(c capture.Change) error {
	switch {
	case c.Member == (capture.Member{}):
		d.say("bus %s: %s", c.Hub, stateWords(c))
	case d.wants(c.Member) && c.Gone:
		d.say("bus %s: %s has left", c.Hub, d.senders.name(d.ctx, c.Member))
	case d.wants(c.Member):
		d.say("bus %s: %s has joined", c.Hub, d.senders.name(d.ctx, c.Member))
	}
	return nil
}

func stateWords(c capture.Change) string {
	cure := "; " + toType("sudo vxcanctl heal "+c.Hub)
	switch c.State {
	case capture.HubDown:
		return "the hub is down: frames of containers only" + cure
	case capture.HubMissing:
		return "the hub is missing: frames of containers only" + cure
	case capture.BackplaneDown:
		return "the backplane is down: waiting until it is repaired" + cure
	case capture.BackplaneMissing:
		return "the backplane is missing: waiting until it is repaired" + cure
	case capture.Missing:
		return "it is gone: waiting until it comes back"
	}
	return "hub and backplane are there again"
}

func (d *dumper) Idle() error { return d.out.Flush() }

// report tells at the end how many frames were shown, lost and denied.
func (d *dumper) report(ctx context.Context, c *capture.Capture, before []bus.BusStatus) error {
	words := plural(d.shown, "frame")
	for _, hub := range c.Hubs() {
		lost, err := c.Lost(hub)
		if err != nil {
			return err
		}
		if lost > 0 {
			words += fmt.Sprintf("; bus %s had %s more, lost because vxcanctl did not read in time", hub, plural(lost, "frame"))
		}
	}
	d.say("%s", words)
	after, _ := d.senders.host.Status(ctx, c.Hubs()...) // of those that are still there
	for _, s := range after {
		for _, e := range s.Endpoints {
			m := capture.Member{Hub: s.Hub, Device: e.HostIf, Attachment: e.Attachment}
			if words := keptBackWords(before, s.Hub, e); words != "" && d.wants(m) {
				d.say("bus %s: not shown, because they never were on the bus: %s of %s", s.Hub, words, containerOf(e))
			}
		}
	}
	return nil
}

func plural(n uint64, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func keptBackWords(before []bus.BusStatus, hub string, e bus.EndpointStatus) string {
	denied, overRate := keptBack(before, hub, e)
	var words []string
	if denied > 0 {
		words = append(words, plural(denied, "frame")+" that its policy denied")
	}
	if overRate > 0 {
		words = append(words, plural(overRate, "frame")+" over its rate")
	}
	return strings.Join(words, " and ")
}

// keptBack counts what the policy of an endpoint has kept from its bus since an earlier look.
func keptBack(before []bus.BusStatus, hub string, e bus.EndpointStatus) (denied, overRate uint64) {
	denied, overRate = e.DeniedSend, e.OverRate
	for _, s := range before {
		for _, old := range s.Endpoints {
			// Counters that are smaller than before are those of filters that were made anew.
			if s.Hub == hub && old.HostIf == e.HostIf && old.DeniedSend <= denied && old.OverRate <= overRate {
				return denied - old.DeniedSend, overRate - old.OverRate
			}
		}
	}
	return denied, overRate
}

type frameWriter interface {
	write(f *capture.Frame, sender string) error
	Flush() error
	io.Closer // flushes, too
}

// newFrameWriter returns the writer that the flags ask for, and how long a sender's name may be.
func newFrameWriter(options dumpOptions, hub string, several bool) (w frameWriter, most int, err error) {
	const unlimited = 1 << 10
	buffered := buffer{bufio.NewWriterSize(options.stdout, 64<<10)}
	switch {
	case options.file != "":
		w, err := newPcapng(options.file, hub, options.stdout)
		return w, unlimited, err
	case options.log:
		return logWriter{buffered}, 15, nil // IFNAMSIZ, the buffer of canplayer
	case options.format == jsonFormat:
		return jsonWriter{buffered}, unlimited, nil
	}
	return &textWriter{buffer: buffered, stamp: options.stamp, several: several}, 32, nil
}
