package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// MaxHosts is how many hosts a bus can span: a filter has at most TCA_ACT_MAX_PRIO of linux/pkt_cls.h actions, one a host.
const MaxHosts = 32

// Span is the hosts that a bus spans. The zero Span is that of a bus of one host.
type Span struct {
	// Hosts are their addresses, sorted and separated by commas: the same list is always the same text.
	Hosts string `json:"hosts,omitempty"`
	BusID uint32 `json:"busID,omitempty"` // the GRE key
	// Nodes reports that they are the nodes of a cluster, which come and go: the list that came last is that of the bus.
	Nodes bool `json:"nodes,omitempty"`
	// Unprotected reports that trunks take the packets of everybody, see underlay.Table.
	Unprotected bool `json:"unprotected,omitempty"`
}

// Addresses are the hosts' addresses, sorted. What cannot be read is left out.
func (s Span) Addresses() (all []netip.Addr) {
	for text := range strings.SplitSeq(s.Hosts, ",") {
		if a, err := netip.ParseAddr(text); err == nil {
			all = append(all, a)
		}
	}
	return all
}

// SpanOf is the Span of a list of addresses, in any order.
func SpanOf(hosts []netip.Addr, busID uint32, unprotected bool) Span {
	slices.SortFunc(hosts, netip.Addr.Compare)
	var texts []string
	for _, a := range slices.Compact(hosts) {
		texts = append(texts, a.String())
	}
	return Span{Hosts: strings.Join(texts, ","), BusID: busID, Unprotected: unprotected}
}

// Nodes is the word in the key hosts for the nodes of a cluster, which vxcan-install puts behind it.
const Nodes = "nodes"

// Replaces reports whether s, a newer list of nodes for the same bus, takes the place of old.
func (s Span) Replaces(old Span) bool {
	s.Hosts = old.Hosts
	return s.Nodes && s == old
}

func (s Span) String() string {
	words := fmt.Sprintf("hosts %s, bus-id %d", s.Hosts, s.BusID)
	if s.Nodes {
		words = "nodes, now " + words
	}
	if s.Unprotected {
		words += ", unprotected"
	}
	return words
}

func (s *Span) setHosts(value string) error {
	const want = "want the IP addresses of all hosts of the bus"
	words := strings.Split(value, ",")
	if s.Nodes = words[0] == Nodes; s.Nodes {
		words = words[1:]
	}
	if len(words) > MaxHosts {
		return fmt.Errorf("%w list: %d hosts, at most %d are possible", ErrInvalid, len(words), MaxHosts)
	}
	var all []netip.Addr
	for _, word := range words {
		a, err := netip.ParseAddr(strings.TrimSpace(word))
		switch {
		case err != nil:
			return fmt.Errorf("%w host %.100q: %s, not names", ErrInvalid, word, want)
		case !isHost(a):
			return fmt.Errorf("%w host %s: %s, one by which the others reach it", ErrInvalid, a, want)
		case slices.Contains(all, a):
			return fmt.Errorf("%w list: host %s is in it twice", ErrInvalid, a)
		case len(all) > 0 && a.Is4() != all[0].Is4():
			return fmt.Errorf("%w list: %s and %s: use IPv4 or IPv6 for all hosts", ErrInvalid, all[0], a)
		}
		all = append(all, a)
	}
	if len(all) < 2 && !s.Nodes {
		return fmt.Errorf("%w list %s: a bus of several hosts has two at least", ErrInvalid, value)
	}
	s.Hosts = SpanOf(all, 0, false).Hosts
	return nil
}

// isHost reports whether an address can be that of one host. A link-local IPv6 address has a meaning on one interface only.
func isHost(a netip.Addr) bool {
	broadcast := netip.AddrFrom4([4]byte{255, 255, 255, 255})
	return !a.IsUnspecified() && !a.IsLoopback() && !a.IsMulticast() && !a.Is4In6() && a.Zone() == "" && a != broadcast &&
		!(a.Is6() && a.IsLinkLocalUnicast())
}

func (s Span) check() error {
	switch {
	case (s.Hosts != "" || s.Nodes) && s.BusID == 0:
		return fmt.Errorf("%w: hosts needs bus-id, a number from 1 on that no other bus of these hosts has", ErrInvalid)
	case s.Hosts == "" && !s.Nodes && s.BusID != 0:
		return fmt.Errorf("%w: bus-id needs hosts", ErrInvalid)
	case s.Hosts == "" && !s.Nodes && s.Unprotected:
		return fmt.Errorf("%w: unprotected needs hosts", ErrInvalid)
	}
	return nil
}
