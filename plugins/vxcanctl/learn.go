package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/bus"
	"github.com/vxcan/vxcan/pkg/canid"
	"github.com/vxcan/vxcan/pkg/capture"
	"github.com/vxcan/vxcan/pkg/config"
	"github.com/vxcan/vxcan/pkg/plan"
)

const learnHelp = `Listen to a bus for some time, and print for each container the CAN IDs that it sent and heard, as the lists send and
receive of its network: a policy that allows this traffic and nothing else. Let everything happen meanwhile that may happen.
Ctrl-C ends it earlier.

The lists are those of a network in JSON (CNI, Kubernetes), and the same as options of "podman network create" and "docker
network create". A policy is that of a network: containers with different lists need networks of their own.

HEARD is all that was handed to the container, whether its programs use it or not. IDs that were seen once are named: they
may be missing another time, or not belong there. What a policy denied is not learned.

JSON: {"version": 1, "hub", "seconds", "frames", "lost", "endpoints": [...]}, each with runtime, network, containerID, ifName,
entry, name, hostIf, send, receive, sent, heard (frames), sentOnce and heardOnce (lists), denied (frames that its
policy kept back).

It needs Linux 6.0.

Exit status: 0; 1 if the bus cannot be read, or was silent.`

func newLearn(host looker) *cobra.Command {
	var duration time.Duration
	var format *string
	cmd := &cobra.Command{
		Use:   "learn HUB",
		Short: "Listen to a bus, and print what its containers must be allowed",
		Long:  learnHelp,
		Example: `  vxcanctl learn vcan0
  vxcanctl learn vcan0 --for 10m -o json`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeHubs(host, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := needsRoot(cmd, os.Geteuid()); err != nil {
				return err
			}
			if duration <= 0 {
				return fmt.Errorf("invalid time %v: want more than 0, such as 60s", duration)
			}
			lesson, err := learn(cmd.Context(), host, args[0], duration, cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			if *format == jsonFormat {
				return writeJSON(cmd.OutOrStdout(), lesson)
			}
			return lesson.write(cmd.OutOrStdout())
		},
	}
	format = addFormat(cmd, textFormat, jsonFormat)
	cmd.Flags().DurationVar(&duration, "for", time.Minute, "how long to listen")
	return cmd
}

// lesson is what a bus has taught.
type lesson struct {
	Version   int            `json:"version"`
	Hub       string         `json:"hub"`
	Seconds   float64        `json:"seconds"`
	Frames    uint64         `json:"frames"`
	Lost      uint64         `json:"lost"`
	Endpoints []learnedLists `json:"endpoints"`
}

// learnedLists are those of an endpoint.
type learnedLists struct {
	config.Attachment
	Name      string `json:"name,omitempty"`
	HostIf    string `json:"hostIf"`
	Send      string `json:"send"`
	Receive   string `json:"receive"`
	Sent      uint64 `json:"sent"`
	Heard     uint64 `json:"heard"`
	SentOnce  string `json:"sentOnce,omitempty"`
	HeardOnce string `json:"heardOnce,omitempty"`
	Denied    uint64 `json:"denied"`
}

// learn listens to a bus for some time, or until ctx ends.
func learn(ctx context.Context, host looker, hub string, duration time.Duration, stderr io.Writer) (_ *lesson, retErr error) {
	c, before, err := listen(ctx, host, []capture.Bus{{Hub: hub}}, nil) // without error frames, which have no ID
	if err != nil {
		return nil, err
	}
	defer func() { retErr = errors.Join(retErr, c.Close()) }()
	fmt.Fprintf(stderr, "vxcanctl: listening to bus %s for %v; Ctrl-C ends it earlier\n", hub, duration)
	l := newLearner(hub, c.Members(hub), stderr)
	start := time.Now()
	listening, cancel := context.WithTimeout(ctx, duration)
	defer cancel()
	if err := c.Run(listening, l); err != nil {
		return nil, err
	}
	result := &lesson{Version: documentVersion, Hub: hub, Seconds: time.Since(start).Round(time.Millisecond).Seconds(), Frames: l.frames}
	if result.Lost, err = c.Lost(hub); err != nil {
		return nil, err
	}
	if l.frames == 0 {
		return nil, fmt.Errorf("bus %s was silent for %v: nothing was learned", hub, time.Since(start).Round(time.Second))
	}
	after, _ := host.Status(context.WithoutCancel(ctx), hub) // a bus that is gone since has no counters and policies
	result.Endpoints = l.lists(before, after)
	return result, nil
}

// learner counts the frames of each member and ID.
type learner struct {
	hub     string
	frames  uint64
	members map[string]*presence // by device
	seen    map[sending]*sightings
	stderr  io.Writer
}

// presence is when an endpoint was on the bus.
type presence struct {
	capture.Member
	from, until time.Time // zero: from the beginning, to the end
}

// sending is an ID of one sender: can_id of struct can_frame without CAN_RTR_FLAG.
type sending struct {
	device string
	id     uint32
}

type sightings struct {
	count       uint64
	first, last time.Time
}

func newLearner(hub string, members []capture.Member, stderr io.Writer) *learner {
	l := &learner{hub: hub, members: make(map[string]*presence), seen: make(map[sending]*sightings), stderr: stderr}
	for _, m := range members {
		if m.IsEndpoint() {
			l.members[m.Device] = &presence{Member: m}
		}
	}
	return l
}

func (l *learner) Frame(f *capture.Frame) error {
	l.frames++
	id := f.ID & unix.CAN_SFF_MASK
	if f.ID&unix.CAN_EFF_FLAG != 0 {
		id = f.ID & (unix.CAN_EFF_FLAG | unix.CAN_EFF_MASK)
	}
	key := sending{f.From.Device, id}
	s := l.seen[key]
	if s == nil {
		s = &sightings{first: f.Time}
		l.seen[key] = s
	}
	s.count++
	s.last = f.Time
	return nil
}

// Change notes who is on the bus.
func (l *learner) Change(c capture.Change) error {
	switch m := c.Member; {
	case m == (capture.Member{}):
		fmt.Fprintf(l.stderr, "vxcanctl: bus %s: %s\n", c.Hub, stateWords(c))
	case !m.IsEndpoint():
	case c.Gone && l.members[m.Device] != nil:
		l.members[m.Device].until = time.Now()
	case l.members[m.Device] == nil:
		l.members[m.Device] = &presence{Member: m, from: time.Now()}
	default: // it is back
		l.members[m.Device].until = time.Time{}
	}
	return nil
}

func (l *learner) Idle() error { return nil }

// lists are those of each endpoint, with what status tells of it.
func (l *learner) lists(before, after []bus.BusStatus) (all []learnedLists) {
	known := make(map[string]bus.EndpointStatus)
	for _, look := range [][]bus.BusStatus{before, after} {
		for _, s := range look {
			for _, e := range s.Endpoints {
				known[e.HostIf] = e
			}
		}
	}
	for device, p := range l.members {
		e := known[device]
		denied, overRate := keptBack(before, l.hub, e)
		lists := learnedLists{Attachment: p.Attachment, Name: e.Name, HostIf: device, Denied: denied + overRate}
		l.fill(&lists, p, e.Policy)
		all = append(all, lists)
	}
	slices.SortFunc(all, func(a, b learnedLists) int {
		return cmp.Or(cmp.Compare(a.words(), b.words()), cmp.Compare(a.HostIf, b.HostIf))
	})
	return all
}

// fill folds what an endpoint sent and heard into lists.
func (l *learner) fill(lists *learnedLists, p *presence, policy config.Policy) {
	_, receive, err := policy.IDs()
	limited := err == nil && policy.Receive != ""
	sent, heard := make(map[uint32]uint64), make(map[uint32]uint64)
	for key, s := range l.seen {
		switch {
		case key.device == p.Device:
			sent[key.id] += s.count
			lists.Sent += s.count
		case limited && !receive.Contains(key.id), s.last.Before(p.from), !p.until.IsZero() && s.first.After(p.until):
		default:
			heard[key.id] += s.count
			lists.Heard += s.count
		}
	}
	lists.Send, lists.SentOnce = foldIDs(sent)
	lists.Receive, lists.HeardOnce = foldIDs(heard)
}

// foldIDs folds IDs into a list, and into another one those that were counted once.
func foldIDs(counts map[uint32]uint64) (list, once string) {
	var all, rare []uint32
	for id, count := range counts {
		all = append(all, id)
		if count == 1 {
			rare = append(rare, id)
		}
	}
	if rare != nil {
		once = canid.Of(rare...).String()
	}
	return canid.Of(all...).String(), once
}

// words name the container.
func (l learnedLists) words() string {
	return containerOf(bus.EndpointStatus{Attachment: l.Attachment, Name: l.Name})
}

func (r *lesson) write(w io.Writer) error {
	p := printer{w: w}
	p.line("%s: %s in %v", r.Hub, plural(r.Frames, "frame"), time.Duration(r.Seconds*float64(time.Second)).Round(time.Second))
	if r.Lost > 0 {
		p.line("  warning: vxcanctl did not read in time and lost %s: IDs may be missing", plural(r.Lost, "frame"))
	}
	if len(r.Endpoints) == 0 {
		p.line("  no container is on this bus: there is nobody to allow anything")
	}
	for _, e := range r.Endpoints {
		p.line("\n%s (%s, network %s): sent %s, heard %s", e.words(), plain(e.Runtime), plain(e.Network), plural(e.Sent, "frame"), plural(e.Heard, "frame"))
		p.line("  \"send\": %q, \"receive\": %q", e.Send, e.Receive)
		p.line("  -o send=%s -o receive=%s", e.Send, e.Receive)
		for _, warning := range e.warnings() {
			p.line("  warning: %s", warning)
		}
	}
	return p.err
}

// warnings tell where the lists may be wrong.
func (l learnedLists) warnings() (all []string) {
	if l.SentOnce != "" {
		all = append(all, "sent once only: "+l.SentOnce)
	}
	if l.HeardOnce != "" {
		all = append(all, "heard once only: "+l.HeardOnce)
	}
	if l.Denied > 0 {
		all = append(all, fmt.Sprintf("its policy kept back %s, which are not in the lists", plural(l.Denied, "frame")))
	}
	if err := plan.CheckPolicy(config.Policy{Send: l.Send, Receive: l.Receive}); err != nil {
		all = append(all, config.OneLine(err))
	}
	return all
}
