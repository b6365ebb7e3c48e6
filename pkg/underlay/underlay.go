// Package underlay is what a host has of the IP network that carries its tunnels: addresses and the way to other hosts, which
// it reads, and a table of nftables that keeps the packets of all others out of the tunnels, which it makes.
//
// github.com/google/nftables v0.3.0 would save the 90 lines of table.go that encode. It brings four modules, has sockets of its
// own, which tests cannot fail one message of, and returns no more of an error than its text.
//
// Kernel: linux/rtnetlink.h, linux/if_addr.h, linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h,
// net/netfilter/nf_tables_api.c.
package underlay

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/rtnl"
)

// Underlay is what one look shows.
type Underlay struct {
	Addresses []netip.Addr // of this host
	Ways      map[netip.Addr]Way
	Table     string // Listing of the table of the bus; "" if there is none
	Unread    error  // why Table could not be listed
}

// Way is how packets get to another host.
type Way struct {
	Dev    int  // ifindex; 0 is no way
	MTU    int  // of the route, in bytes; 0 is that of the device
	Routed bool // by a gateway
	Aside  bool // by another device than that of this host's address
}

// Read looks at the way to other hosts, which is that of packets from this one's address, one of hosts.
func Read(conn rtnl.Conn, hosts ...netip.Addr) (u Underlay, err error) {
	own, err := addresses(conn)
	if err != nil {
		return u, fmt.Errorf("list addresses: %w", err)
	}
	var local address
	for _, a := range own {
		u.Addresses = append(u.Addresses, a.Addr)
		if !local.IsValid() && slices.Contains(hosts, a.Addr) {
			local = a
		}
	}
	u.Ways = make(map[netip.Addr]Way, len(hosts))
	others := slices.DeleteFunc(slices.Clone(hosts), func(a netip.Addr) bool { return slices.Contains(u.Addresses, a) })
	request := func(a netip.Addr) *nl.NetlinkRequest { return wayRequest(local.Addr, a) }
	err = rtnl.Each(conn, others, request, func(a netip.Addr, r rtnl.Reply) error {
		if errors.Is(r.Err, unix.ENETUNREACH) || errors.Is(r.Err, unix.EHOSTUNREACH) || errors.Is(r.Err, unix.EINVAL) || errors.Is(r.Err, unix.EACCES) {
			return nil // there is no route, or one that says so
		} else if r.Err != nil {
			return fmt.Errorf("look up route to %s: %w", a, r.Err)
		}
		way, err := unmarshalWay(r.Data)
		way.Aside = !slices.Contains(own, address{local.Addr, way.Dev})
		u.Ways[a] = way
		return err
	})
	return u, err
}

// A busy host does change.
const (
	listTries = 10
	listPause = 5 * time.Millisecond
)

// address is one of this host.
type address struct {
	netip.Addr
	dev int // ifindex
}

func addresses(conn rtnl.Conn) ([]address, error) {
	r := nl.NewNetlinkRequest(unix.RTM_GETADDR, 0)
	r.AddData(nl.NewIfAddrmsg(unix.AF_UNSPEC))
	all, err := rtnl.List(conn, r, listTries, listPause, unmarshalAddress)
	return slices.DeleteFunc(all, func(a address) bool { return !a.IsValid() }), err
}

// unmarshalAddress reads struct ifaddrmsg. Where there is an IFA_LOCAL, IFA_ADDRESS is that of the other end of a link.
func unmarshalAddress(b []byte) (a address, err error) {
	local := false
	err = rtnl.AttrsBehind("ifaddrmsg", unix.SizeofIfAddrmsg, b, func(kind uint16, value []byte) error {
		if kind == unix.IFA_LOCAL || kind == unix.IFA_ADDRESS && !local {
			own, ok := netip.AddrFromSlice(value)
			if !ok {
				return fmt.Errorf("attribute %d: %d bytes, want 4 or 16", kind, len(value))
			}
			a.Addr, local = own, kind == unix.IFA_LOCAL
		}
		return nil
	})
	if err == nil {
		a.dev = int(binary.NativeEndian.Uint32(b[4:]))
	}
	return a, err
}

// wayRequest asks which way the kernel takes from one address to another. Policy routing may look at both.
func wayRequest(from, to netip.Addr) *nl.NetlinkRequest {
	r := nl.NewNetlinkRequest(unix.RTM_GETROUTE, 0)
	family := unix.AF_INET6
	if to.Is4() {
		family = unix.AF_INET
	}
	head := unix.RtMsg{Family: uint8(family), Dst_len: uint8(to.BitLen())}
	if from.IsValid() {
		head.Src_len = uint8(from.BitLen())
	}
	r.AddData(&nl.RtMsg{RtMsg: head})
	r.AddData(nl.NewRtAttr(unix.RTA_DST, to.AsSlice()))
	if from.IsValid() {
		r.AddData(nl.NewRtAttr(unix.RTA_SRC, from.AsSlice()))
	}
	return r
}

func unmarshalWay(b []byte) (w Way, err error) {
	number := func(kind uint16, value []byte, to *int) error {
		n, err := rtnl.Uint32(kind, value)
		*to = int(n)
		return err
	}
	err = rtnl.AttrsBehind("rtmsg", unix.SizeofRtMsg, b, func(kind uint16, value []byte) error {
		switch kind {
		case unix.RTA_OIF:
			return number(kind, value, &w.Dev)
		case unix.RTA_GATEWAY, unix.RTA_VIA:
			w.Routed = true
		case unix.RTA_METRICS:
			return rtnl.Attrs(value, func(kind uint16, value []byte) error {
				if kind == unix.RTAX_MTU {
					return number(kind, value, &w.MTU)
				}
				return nil
			})
		}
		return nil
	})
	return w, err
}
