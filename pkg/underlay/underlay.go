// Package underlay reads what a host has of the IP network that carries its tunnels: addresses, the way to other hosts, and
// what its firewall does with GRE packets. It changes nothing.
//
// Kernel: linux/rtnetlink.h, linux/if_addr.h, linux/netfilter/nf_tables.h, net/netfilter/nf_tables_api.c.
package underlay

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/rtnl"
)

// Underlay is what one look shows.
type Underlay struct {
	Addresses []netip.Addr // of this host
	Ways      map[netip.Addr]Way
	Firewall  Firewall
}

// Way is how packets get to another host.
type Way struct {
	Dev int // ifindex; 0 is no way
	MTU int // of the route, in bytes; 0 is that of the device
}

// Read looks at the way to other hosts.
func Read(conn rtnl.Conn, hosts ...netip.Addr) (u Underlay, err error) {
	if u.Addresses, err = addresses(conn); err != nil {
		return u, fmt.Errorf("list addresses: %w", err)
	}
	u.Ways = make(map[netip.Addr]Way, len(hosts))
	others := slices.DeleteFunc(slices.Clone(hosts), func(a netip.Addr) bool { return slices.Contains(u.Addresses, a) })
	err = rtnl.Each(conn, others, wayRequest, func(a netip.Addr, r rtnl.Reply) error {
		if errors.Is(r.Err, unix.ENETUNREACH) || errors.Is(r.Err, unix.EHOSTUNREACH) || errors.Is(r.Err, unix.EINVAL) || errors.Is(r.Err, unix.EACCES) {
			return nil // there is no route, or one that says so
		} else if r.Err != nil {
			return fmt.Errorf("look up route to %s: %w", a, r.Err)
		}
		way, err := unmarshalWay(r.Data)
		u.Ways[a] = way
		return err
	})
	if err != nil {
		return u, err
	}
	u.Firewall, err = readFirewall()
	return u, err
}

const ifaddrmsgSize = 8 // struct ifaddrmsg

func addresses(conn rtnl.Conn) (all []netip.Addr, err error) {
	const tries = 10
	for range tries {
		all = nil
		r := nl.NewNetlinkRequest(unix.RTM_GETADDR, 0)
		r.AddData(nl.NewIfAddrmsg(unix.AF_UNSPEC))
		_, err = conn.Dump(r, func(data []byte) error {
			a, err := unmarshalAddress(data)
			if a.IsValid() {
				all = append(all, a)
			}
			return err
		})
		if !errors.Is(err, rtnl.ErrInterrupted) {
			break
		}
	}
	return all, err
}

// unmarshalAddress reads struct ifaddrmsg. IFA_LOCAL is the host's own address where there is one, IFA_ADDRESS that of the other
// end of a link then.
func unmarshalAddress(b []byte) (a netip.Addr, err error) {
	if len(b) < ifaddrmsgSize {
		return a, fmt.Errorf("ifaddrmsg: %d bytes, want at least %d", len(b), ifaddrmsgSize)
	}
	local := false
	err = rtnl.Attrs(b[ifaddrmsgSize:], func(kind uint16, value []byte) error {
		if kind == unix.IFA_LOCAL || kind == unix.IFA_ADDRESS && !local {
			own, ok := netip.AddrFromSlice(value)
			if !ok {
				return fmt.Errorf("attribute %d: %d bytes, want 4 or 16", kind, len(value))
			}
			a, local = own, kind == unix.IFA_LOCAL
		}
		return nil
	})
	return a, err
}

// wayRequest asks which way the kernel takes to an address.
func wayRequest(to netip.Addr) *nl.NetlinkRequest {
	r := nl.NewNetlinkRequest(unix.RTM_GETROUTE, 0)
	family := unix.AF_INET6
	if to.Is4() {
		family = unix.AF_INET
	}
	r.AddData(&nl.RtMsg{RtMsg: unix.RtMsg{Family: uint8(family), Dst_len: uint8(to.BitLen())}})
	r.AddData(nl.NewRtAttr(unix.RTA_DST, to.AsSlice()))
	return r
}

func unmarshalWay(b []byte) (w Way, err error) {
	if len(b) < unix.SizeofRtMsg {
		return w, fmt.Errorf("rtmsg: %d bytes, want at least %d", len(b), unix.SizeofRtMsg)
	}
	number := func(kind uint16, value []byte, to *int) error {
		if len(value) != 4 {
			return fmt.Errorf("attribute %d: %d bytes, want 4", kind, len(value))
		}
		*to = int(binary.NativeEndian.Uint32(value))
		return nil
	}
	err = rtnl.Attrs(b[unix.SizeofRtMsg:], func(kind uint16, value []byte) error {
		switch kind {
		case unix.RTA_OIF:
			return number(kind, value, &w.Dev)
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
