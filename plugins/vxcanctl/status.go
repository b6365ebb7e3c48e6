package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/vxcan/vxcan/pkg/bus"
	"github.com/vxcan/vxcan/pkg/config"
)

// looker is what commands that change nothing need of bus.Host.
type looker interface {
	Buses() ([]string, error)
	Status(ctx context.Context, hubs ...string) ([]bus.BusStatus, error)
}

const statusHelp = `Show the buses of this host, or those of some hubs: the hub, of a controller its state, bit rates and error counters
("-" where the driver tells none), each container with its policy and its counters, and what is not as it must be.

Counters are frames since the container was attached or its bus repaired. SENT got to the bus. SEND DENIED and RECEIVE
DENIED were kept back by the policy, OVER RATE by its rate. HEARD was handed to the container. LOST was not taken by an
interface: a controller's queue was full, or it was down. The line (host) is for programs on the host and the wire, error
frames of the controller included.

With --watch, SENT and HEARD are frames per second. The load of a controller is estimated as canbusload does it for the
worst case: 55 bits a frame and 10 a byte, those of CAN FD at the bit rate of the data. Extended IDs take 25 bits more.

JSON: {"version": 1, "buses": [...]}, each bus with hub, kind (vcan, can, hardware, or "" if the hub is not there), up,
mtu, controller (device, state, bitrate, dbitrate, txqueuelen, restartMS, errors, traffic, events), sent, heard, lost,
endpoints (runtime, network, containerID, ifName, entry, name, hostIf, interface, up, policy, sent, heard, deniedSend,
deniedReceive, overRate, lost) and differences (what, cure, byHeal), which is empty if the bus is whole. With --watch it
is one document a line, with totals.

Exit status: 0, also if a bus is not whole (see doctor); 1 if one cannot be looked at.`

const statusExample = `  vxcanctl status
  vxcanctl status vcan0
  vxcanctl status --watch
  vxcanctl status -o json`

func newStatus(host looker) *cobra.Command {
	cmd := &cobra.Command{
		Use:               "status [HUB ...]",
		Short:             "Show buses, containers on them and their frames",
		Long:              statusHelp,
		Example:           statusExample,
		ValidArgsFunction: completeHubs(host),
	}
	addStatus(cmd, host)
	return cmd
}

// addStatus makes a command show the status, as vxcanctl without a command does, too.
func addStatus(cmd *cobra.Command, host looker) {
	var watch bool
	var format *string
	cmd.RunE = func(cmd *cobra.Command, hubs []string) error {
		if err := needsRoot(cmd, os.Geteuid()); err != nil {
			return err
		}
		if watch {
			return watchStatus(cmd.Context(), host, hubs, cmd.OutOrStdout(), *format)
		}
		all, err := host.Status(cmd.Context(), hubs...)
		if *format == jsonFormat {
			return errors.Join(err, writeJSON(cmd.OutOrStdout(), newStatusDocument(all)))
		}
		if len(all) == 0 && err != nil {
			return err
		}
		return errors.Join(err, writeStatus(cmd.OutOrStdout(), styleOf(cmd.OutOrStdout()), all, nil, 0))
	}
	format = addFormat(cmd, textFormat, jsonFormat)
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "show it again each second, with frames per second")
}

// completeHubs offers the hubs of buses to the shell, without root those that can be seen.
func completeHubs(host looker) cobra.CompletionFunc {
	return func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
		hubs, _ := host.Buses()
		return hubs, cobra.ShellCompDirectiveNoFileComp
	}
}

type statusDocument struct {
	Version int             `json:"version"`
	Buses   []bus.BusStatus `json:"buses"`
}

func newStatusDocument(all []bus.BusStatus) statusDocument {
	return statusDocument{documentVersion, append([]bus.BusStatus{}, all...)}
}

// watchStatus shows the status each second, until ctx ends.
func watchStatus(ctx context.Context, host looker, hubs []string, w io.Writer, format string) error {
	style, home := styleOf(w), ""
	if style.colour || style.unicode {
		home = "\x1b[H\x1b[J"
	}
	var before []bus.BusStatus
	var then time.Time
	for {
		all, err := host.Status(ctx, hubs...)
		now := time.Now()
		if ctx.Err() != nil {
			return nil
		} else if err != nil {
			return err
		}
		if format == jsonFormat {
			err = json.NewEncoder(w).Encode(newStatusDocument(all))
		} else {
			var screen bytes.Buffer // written at once, so that it does not flicker
			screen.WriteString(home)
			err = errors.Join(writeStatus(&screen, style, all, before, now.Sub(then)), err)
			_, e := w.Write(screen.Bytes())
			err = errors.Join(err, e)
		}
		if err != nil {
			return err
		}
		before, then = all, now
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Second):
		}
	}
}

// writeStatus writes a block for each bus. With the status of a while ago, counters are per second.
func writeStatus(w io.Writer, style style, all, before []bus.BusStatus, while time.Duration) error {
	if len(all) == 0 {
		_, err := fmt.Fprintln(w, "no bus on this host")
		return err
	}
	for i, s := range all {
		if i > 0 {
			fmt.Fprintln(w)
		}
		var rates *rateSince
		for _, old := range before {
			if old.Hub == s.Hub {
				rates = &rateSince{while.Seconds(), old}
			}
		}
		fmt.Fprintln(w, strings.Join(append([]string{s.Hub + ": " + hubWords(s)}, rates.words(s)...), ", "))
		if err := writeMembers(w, s, rates); err != nil {
			return err
		}
		if err := writeDifferences(w, style, s); err != nil {
			return err
		}
	}
	return nil
}

// hubWords tells what a hub is.
func hubWords(s bus.BusStatus) string {
	if s.Kind == "" {
		return "missing"
	}
	words := []string{s.Kind}
	c := s.Controller
	if c != nil && c.Device != "" {
		words[0] = c.Device
	}
	if !s.Up {
		words = append(words, "down")
	}
	if c == nil {
		return strings.Join(append(words, fmt.Sprint("MTU ", s.MTU)), ", ")
	}
	words = append(words, c.State)
	if c.Bitrate != 0 {
		words = append(words, bitrate(c.Bitrate))
	}
	if c.DataBitrate != 0 {
		words = append(words, "data "+bitrate(c.DataBitrate))
	}
	errorWords := "-"
	if c.Errors != nil {
		errorWords = fmt.Sprintf("tx %d, rx %d", c.Errors.Tx, c.Errors.Rx)
	}
	return strings.Join(append(words, "errors "+errorWords, fmt.Sprint("queue ", c.Queue)), ", ")
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

func writeMembers(w io.Writer, s bus.BusStatus, rates *rateSince) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	head := "  CONTAINER\tRUNTIME\tINTERFACE\tPOLICY\tSENT\tSEND DENIED\tOVER RATE\tHEARD\tRECEIVE DENIED\tLOST"
	if rates != nil {
		head = strings.NewReplacer("SENT\t", "SENT/s\t", "HEARD\t", "HEARD/s\t").Replace(head)
	}
	fmt.Fprintln(table, head)
	sent, heard := rates.hub(s)
	fmt.Fprintf(table, "  (host)\t-\t%s\t-\t%d\t-\t-\t%d\t-\t%d\n", s.Hub, sent, heard, s.Lost)
	for _, e := range s.Endpoints {
		sent, heard := rates.endpoint(e)
		fmt.Fprintf(table, "  %s\t%s\t%s\t%s\t%d\t%d\t%d\t%d\t%d\t%d\n", containerWords(e), plain(e.Runtime), interfaceWords(e), policyWords(e.Policy),
			sent, e.DeniedSend, e.OverRate, heard, e.DeniedReceive, e.Lost)
	}
	return table.Flush()
}

// containerWords is the name of a container, or the beginning of its ID.
func containerWords(e bus.EndpointStatus) string {
	if e.Name != "" {
		return plain(e.Name)
	}
	return plain(shortID(e.ContainerID))
}

// shortID is the beginning of an ID, as runtimes show it.
func shortID(id string) string { return id[:min(len(id), 12)] }

func interfaceWords(e bus.EndpointStatus) string {
	switch {
	case e.Interface == "":
		return "?"
	case !e.Up:
		return plain(e.Interface) + " down"
	}
	return plain(e.Interface)
}

func policyWords(p config.Policy) string {
	const most = 40
	switch words := p.String(); {
	case p == config.Policy{}:
		return "-"
	case len(words) > most:
		return words[:most] + "..."
	default:
		return words
	}
}

func writeDifferences(w io.Writer, style style, s bus.BusStatus) error {
	if len(s.Differences) == 0 {
		_, err := fmt.Fprintln(w, " ", style.mark(fine), "whole")
		return err
	}
	for _, d := range s.Differences {
		if _, err := fmt.Fprintf(w, "  %s %s\n       %s\n", style.mark(failure), plain(d.What), plain(cureOf(s.Hub, d))); err != nil {
			return err
		}
	}
	return nil
}

// cureOf is the command that repairs a difference, or words.
func cureOf(hub string, d bus.Difference) string {
	if d.ByHeal {
		return "sudo vxcanctl heal " + hub
	}
	return d.Cure
}

// rateSince tells counters per second since an earlier look. nil tells counters as they are.
type rateSince struct {
	seconds float64
	before  bus.BusStatus
}

// per is how much a counter has grown in a second. One that is smaller than before was made anew.
func (r *rateSince) per(before, now uint64) float64 {
	if now < before {
		before = 0
	}
	return float64(now-before) / r.seconds
}

func (r *rateSince) hub(s bus.BusStatus) (sent, heard uint64) {
	if r == nil {
		return s.Sent, s.Heard
	}
	return uint64(r.per(r.before.Sent, s.Sent) + 0.5), uint64(r.per(r.before.Heard, s.Heard) + 0.5)
}

func (r *rateSince) endpoint(e bus.EndpointStatus) (sent, heard uint64) {
	if r == nil {
		return e.Sent, e.Heard
	}
	old := e // one that has just come
	for _, b := range r.before.Endpoints {
		if b.HostIf == e.HostIf {
			old = b
		}
	}
	return uint64(r.per(old.Sent, e.Sent) + 0.5), uint64(r.per(old.Heard, e.Heard) + 0.5)
}

// words tell the frames per second of a bus, and of a controller with a bit rate, the load of the wire.
func (r *rateSince) words(s bus.BusStatus) []string {
	if r == nil {
		return nil
	}
	frames, _ := r.hub(s)
	for _, e := range s.Endpoints {
		sent, _ := r.endpoint(e)
		frames += sent
	}
	words := []string{fmt.Sprintf("%d frames/s", frames)}
	if load, ok := r.load(s.Controller); ok {
		words = append(words, "load about "+strconv.Itoa(int(100*load+0.5))+" %")
	}
	return words
}

// load estimates which part of the time the wire is in use, see statusHelp.
func (r *rateSince) load(c *bus.ControllerStatus) (load float64, ok bool) {
	old := r.before.Controller
	if c == nil || old == nil || c.Bitrate == 0 {
		return 0, false
	}
	dataBitrate := c.DataBitrate
	if dataBitrate == 0 {
		dataBitrate = c.Bitrate
	}
	frames := r.per(old.Traffic.RxFrames+old.Traffic.TxFrames, c.Traffic.RxFrames+c.Traffic.TxFrames)
	size := r.per(old.Traffic.RxBytes+old.Traffic.TxBytes, c.Traffic.RxBytes+c.Traffic.TxBytes)
	return 55*frames/float64(c.Bitrate) + 10*size/float64(dataBitrate), true
}
