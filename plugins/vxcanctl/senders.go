package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/vxcan/vxcan/pkg/bus"
	"github.com/vxcan/vxcan/pkg/capture"
)

// senders names members of buses for people.
type senders struct {
	host   looker
	most   int  // bytes of a label
	withAt bool // a label says of which bus, as in engine@vcan0

	known  map[string]bus.EndpointStatus // by host end
	asked  map[string]time.Time          // when status was last asked for one
	labels map[capture.Member]string
	taken  map[string]string // label to device
}

func newSenders(host looker, most int, withAt bool) *senders {
	return &senders{host: host, most: most, withAt: withAt, known: make(map[string]bus.EndpointStatus), asked: make(map[string]time.Time),
		labels: make(map[capture.Member]string), taken: make(map[string]string)}
}

func (s *senders) learn(all []bus.BusStatus) {
	for _, b := range all {
		for _, e := range b.Endpoints {
			s.known[e.HostIf] = e
		}
	}
}

// endpoint is what status tells of a member. It looks for one that has come since.
func (s *senders) endpoint(ctx context.Context, m capture.Member) bus.EndpointStatus {
	if !s.settled(m) && time.Since(s.asked[m.Device]) > time.Second {
		s.asked[m.Device] = time.Now()
		if all, err := s.host.Status(ctx, m.Hub); err == nil { // a name is no reason to end
			s.learn(all)
		}
	}
	if e, ok := s.known[m.Device]; ok {
		return e
	}
	return bus.EndpointStatus{Attachment: m.Attachment, HostIf: m.Device} // it is gone again
}

// settled reports whether a member's name is final. Docker tells it only when the container runs, after it has joined.
func (s *senders) settled(m capture.Member) bool {
	e, ok := s.known[m.Device]
	return !m.IsEndpoint() || ok && (e.Name != "" || e.Runtime != "docker")
}

// name is the whole name of a member.
func (s *senders) name(ctx context.Context, m capture.Member) string {
	switch {
	case m.IsHub():
		return m.Hub
	case m.Peer != "":
		return m.Peer
	case m.Device == "":
		return fmt.Sprint("device-", m.Index)
	}
	if words := containerOf(s.endpoint(ctx, m)); words != "" {
		return words
	}
	return m.Device
}

// label is a name of a member without blanks, not longer than most, that no other member has. It stays the same once the
// name does.
func (s *senders) label(ctx context.Context, m capture.Member) string {
	if label, ok := s.labels[m]; ok {
		return label
	}
	label := strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) {
			return '_'
		}
		return r
	}, s.name(ctx, m))
	if s.withAt && !m.IsHub() {
		label += "@" + m.Hub
	}
	if owner, ok := s.taken[m.Hub+" "+label]; len(label) > s.most || ok && owner != m.Device {
		const end = 4 // of the host end's name, which is a hash
		label = strings.ToValidUTF8(label[:min(len(label), s.most-end-1)], "") + "~" + m.Device[max(0, len(m.Device)-end):]
	}
	s.taken[m.Hub+" "+label] = m.Device
	if s.settled(m) {
		s.labels[m] = label
	}
	return label
}

// is reports whether a member is called by one of these names: the hub by its own, a container by its name, the beginning
// of its ID, or its host end.
func (s *senders) is(ctx context.Context, m capture.Member, names []string) bool {
	return slices.ContainsFunc(names, func(name string) bool {
		return name == m.Device || m.Peer != "" && name == m.Peer || m.IsEndpoint() && (name == s.name(ctx, m) || isNamed(s.endpoint(ctx, m), name))
	})
}
