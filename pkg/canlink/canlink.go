// Package canlink makes, finds and deletes CAN network devices by rtnetlink: vcan devices, vxcan pairs, and the tunnels that carry
// CAN frames to other hosts. It knows no bus, starts no process and keeps nothing. Real controllers are in pkg/controller.
//
// Kernel: drivers/net/can/vcan.c, drivers/net/can/vxcan.c, linux/can/vxcan.h, linux/if_link.h, net/ipv4/ip_gre.c,
// net/ipv6/ip6_gre.c.
package canlink

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/rtnl"
)

// MTUs of CAN devices in bytes: the size of one frame of linux/can.h.
const (
	ClassicMTU = 16 // CAN_MTU, struct can_frame
	FDMTU      = 72 // CANFD_MTU, struct canfd_frame
)

// Kinds of devices (IFLA_INFO_KIND).
const (
	Vcan  = "vcan"
	Vxcan = "vxcan"
)

// MaxAlias is the longest alias of a device in bytes (IFALIASZ less its zero byte).
const MaxAlias = 255

// ErrNotFound is returned, wrapped, for a device that is not there.
var ErrNotFound = errors.New("no such device")

// Link is a network device as the kernel shows it.
type Link struct {
	Name  string
	Index int
	Kind  string // "vcan", "vxcan", "can" for most real controllers, "" for devices without a kind
	CAN   bool   // carries CAN frames (ARPHRD_CAN)
	MTU   int
	Up    bool
	Alias string
	Qdisc string // kind of the root qdisc of a vxcan end, "" for none

	AltNames  []string // alternative names (ip link property)
	PeerIndex int      // ifindex of a pair's other end, in the netns that end lives in; 0 if there is none
	// PeerElsewhere reports that the other end is in another netns than this one, which has the number PeerNetns here.
	PeerElsewhere bool
	PeerNetns     int
	// Active reports that the device sends what is handed to it (IF_OPER_UP of linux/if.h). The kernel drops that for a
	// moment after the carrier of a device that is up comes on, until its link watch has run (net/core/link_watch.c).
	Active bool
	// Used reports that the carrier has been up: both ends of a pair were, at the same time.
	Used   bool
	Tunnel Tunnel // of a device of the kinds GRE and GRE6
}

// FD reports whether the device takes CAN FD frames.
func (l Link) FD() bool { return l.MTU >= FDMTU }

// Conn works on the devices of one network namespace.
type Conn struct{ conn rtnl.Conn }

// On works on the devices of the namespace that conn was opened in. The caller closes conn.
func On(conn rtnl.Conn) *Conn { return &Conn{conn} }

// Get finds devices by name, in the order of names. One that is not there, or only by an alternative name, is the zero Link.
func (c *Conn) Get(names ...string) (links []Link, err error) {
	err = rtnl.Each(c.conn, names, getByName, func(name string, r rtnl.Reply) error {
		link, err := parseReply(r)
		if err != nil && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("look up device %s: %w", name, err)
		}
		if link.Name != name { // an alternative name
			link = Link{}
		}
		links = append(links, link)
		return nil
	})
	return links, err
}

// GetIndex finds a device by its ifindex. It is the zero Link if there is none, and for index 0.
func (c *Conn) GetIndex(index int) (Link, error) {
	if index == 0 { // the peer of a pair that is just going
		return Link{}, nil
	}
	replies, err := c.conn.Batch(GetRequest(index))
	if err != nil || errors.Is(replies[0].Err, unix.ENODEV) {
		return Link{}, err
	}
	return parseReply(replies[0])
}

// Peers finds the other ends of pairs, each in its own netns: the zero Link for what has none in another netns, or not any more.
func (c *Conn) Peers(links ...Link) ([]Link, error) {
	peers := make([]Link, 0, len(links))
	request := func(l Link) *nl.NetlinkRequest {
		return rtnl.With(GetRequest(l.PeerIndex), rtnl.Number(unix.IFLA_TARGET_NETNSID, uint32(l.PeerNetns)))
	}
	err := rtnl.Each(c.conn, links, request, func(l Link, r rtnl.Reply) error {
		peer, err := parseReply(r)
		if err != nil || !l.PeerElsewhere { // a container that ends just now
			peer = Link{}
		}
		peers = append(peers, peer)
		return nil
	})
	return peers, err
}

// List returns every device of the namespace. Of those that stay while others come and go none is ever missing.
func (c *Conn) List() ([]Link, error) {
	const skipStats = 1 << 3 // the counters of each device, half of the answer (RTEXT_FILTER_SKIP_STATS, linux/rtnetlink.h)
	links, err := rtnl.List(c.conn, rtnl.With(GetRequest(0), rtnl.Number(unix.IFLA_EXT_MASK, skipStats)), 100, 0, ParseLink)
	if err != nil {
		return nil, fmt.Errorf("list devices: %w", err)
	}
	return links, nil
}

// AddVcan makes a vcan device, up. mtu is ClassicMTU or FDMTU; alias may be "". The kernel answers EEXIST if the name or
// the index is taken. Without the module vcan it fails with a rtnl.NoModuleError.
func (c *Conn) AddVcan(name string, index, mtu int, alias string) error {
	requests := []*nl.NetlinkRequest{vcanRequest(name, index, mtu)}
	if alias != "" {
		requests = append(requests, aliasRequest(index, alias)) // in the same datagram: a kill cannot come between
	}
	if err := rtnl.Do(c.conn, requests...); err != nil {
		return fmt.Errorf("add vcan %s: %w", name, rtnl.NoModule(err, unknownKind, Vcan))
	}
	return nil
}

// Pair is a vxcan pair to be made. Its first end is up from the start; the peer cannot be (ENOTCONN until the pair is
// linked), see PeerUp and SetUp. The end that is set up last sends from then on; the other one a moment later, see
// Link.Active.
type Pair struct {
	Name, PeerName   string   // each in its own netns
	Index, PeerIndex int      // ifindexes; 0 is the kernel's choice
	MTU              int      // of both ends, ClassicMTU or FDMTU: newer kernels' own choice (CAN XL) is none can-gw carries
	Alias            string   // of the first end, at most MaxAlias bytes; "" for none
	PeerNetns        ns.NetNS // nil is the same netns
	PeerUp           bool     // set the other end up and give it the same alias, where both are in the same netns
}

// AddPair makes a vxcan pair and returns its first end. The kernel answers EEXIST if one of the names is taken, or the index on
// this side, and EBUSY if the peer's index is. Without the module vxcan it fails with a rtnl.NoModuleError.
func (c *Conn) AddPair(p Pair) (Link, error) {
	// All in one datagram, so that a kill cannot come between, and by index, so that nothing but what was made is touched.
	requests := []*nl.NetlinkRequest{p.request()}
	if p.Alias != "" {
		requests = append(requests, aliasRequest(p.Index, p.Alias))
	}
	if p.PeerUp {
		requests = append(requests, aliasRequest(p.PeerIndex, p.Alias), UpRequest(p.PeerIndex))
	}
	requests = append(requests, GetRequest(p.Index))
	replies, err := rtnl.DoAll(c.conn, requests...)
	if err != nil {
		return Link{}, fmt.Errorf("add vxcan pair %s and %s: %w", p.Name, p.PeerName, rtnl.NoModule(err, unknownKind, Vxcan))
	}
	return ParseLink(replies[len(replies)-1].Data)
}

// SetUp brings a device up.
func (c *Conn) SetUp(index int) error {
	if err := rtnl.Do(c.conn, UpRequest(index)); err != nil {
		return fmt.Errorf("set device with index %d up: %w", index, err)
	}
	return nil
}

// Delete deletes devices, each with the other end of a pair and all gateway rules of both. One that is not there is no error.
func (c *Conn) Delete(indexes ...int) error {
	return rtnl.Each(c.conn, indexes, deleteRequest, func(index int, r rtnl.Reply) error {
		if r.Err == nil || errors.Is(r.Err, unix.ENODEV) {
			return nil
		}
		return fmt.Errorf("delete device with index %d: %w", index, r.Err)
	})
}

// SetAlias sets a device's alias, at most MaxAlias bytes.
func (c *Conn) SetAlias(index int, alias string) error {
	if err := rtnl.Do(c.conn, aliasRequest(index, alias)); err != nil {
		return fmt.Errorf("set alias of device with index %d: %w", index, err)
	}
	return nil
}

// SetMTU sets the MTU of a device, which must be down.
func (c *Conn) SetMTU(index, mtu int) error {
	if err := rtnl.Do(c.conn, rtnl.With(ChangeRequest(index), rtnl.Number(unix.IFLA_MTU, uint32(mtu)))); err != nil {
		return fmt.Errorf("set MTU of device with index %d to %d: %w", index, mtu, err)
	}
	return nil
}

// Probe asks the kernel whether it can make devices of a kind, and has it load the module if need be. It makes none:
// the request is for more queues than any device may have. For an unknown kind it fails with a rtnl.NoModuleError.
func (c *Conn) Probe(kind string) error {
	const tooManyQueues = 4097
	r := rtnl.With(addRequest(0, false), Info(kind), rtnl.Number(unix.IFLA_NUM_TX_QUEUES, tooManyQueues))
	if err := rtnl.Do(c.conn, r); err != nil && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("devices of kind %s: %w", kind, rtnl.NoModule(err, unknownKind, kind))
	}
	return nil
}

// unknownKind is the answer to a kind that the kernel does not know, also after it has tried to load its module.
const unknownKind = unix.EOPNOTSUPP

func parseReply(r rtnl.Reply) (Link, error) {
	if r.Err != nil {
		return Link{}, r.Err
	}
	return ParseLink(r.Data)
}

// ParseLink reads struct ifinfomsg and its attributes (linux/rtnetlink.h, linux/if_link.h).
func ParseLink(data []byte) (Link, error) {
	var link Link
	if err := rtnl.AttrsBehind("ifinfomsg", unix.SizeofIfInfomsg, data, link.parseAttr); err != nil {
		return Link{}, err
	}
	link.CAN = binary.NativeEndian.Uint16(data[2:4]) == unix.ARPHRD_CAN
	link.Index = int(int32(binary.NativeEndian.Uint32(data[4:8])))
	link.Up = binary.NativeEndian.Uint32(data[8:12])&unix.IFF_UP != 0
	if link.Kind != Vxcan {
		link.Qdisc = ""
	}
	return link, nil
}

func (l *Link) parseAttr(kind uint16, value []byte) error {
	switch kind {
	case unix.IFLA_IFNAME:
		l.Name = unix.ByteSliceToString(value)
	case unix.IFLA_IFALIAS:
		l.Alias = unix.ByteSliceToString(value)
	case unix.IFLA_QDISC:
		if kind := string(value); kind != "noqueue\x00" && kind != "noop\x00" {
			l.Qdisc = unix.ByteSliceToString(value)
		}
	case unix.IFLA_PROP_LIST:
		return rtnl.Attrs(value, func(kind uint16, value []byte) error {
			if kind == unix.IFLA_ALT_IFNAME {
				l.AltNames = append(l.AltNames, unix.ByteSliceToString(value))
			}
			return nil
		})
	case unix.IFLA_LINKINFO:
		return rtnl.Attrs(value, func(kind uint16, value []byte) error {
			switch {
			case kind == nl.IFLA_INFO_KIND:
				l.Kind = unix.ByteSliceToString(value)
			case kind == nl.IFLA_INFO_DATA && (l.Kind == GRE || l.Kind == GRE6): // comes behind the kind
				return rtnl.Attrs(value, l.Tunnel.parseAttr)
			}
			return nil
		})
	case unix.IFLA_OPERSTATE:
		const ifOperUp = 6 // IF_OPER_UP, linux/if.h
		if err := rtnl.WantSize(kind, value, 1); err != nil {
			return err
		}
		l.Active = value[0] == ifOperUp
	case unix.IFLA_MTU, unix.IFLA_LINK, unix.IFLA_LINK_NETNSID, unix.IFLA_CARRIER_UP_COUNT:
		n, err := rtnl.Uint32(kind, value)
		if err != nil {
			return err
		}
		switch number := int(int32(n)); kind {
		case unix.IFLA_MTU:
			l.MTU = number
		case unix.IFLA_LINK:
			l.PeerIndex = number
		case unix.IFLA_LINK_NETNSID:
			l.PeerElsewhere, l.PeerNetns = true, number
		case unix.IFLA_CARRIER_UP_COUNT: // absent from kernels before 4.16
			l.Used = number > 0
		}
	}
	return nil
}
