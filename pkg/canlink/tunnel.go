package canlink

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/rtnl"
)

// Kinds of tunnels, and the modules that make them. A tunnel carries CAN frames, and is no CAN device (ARPHRD_IPGRE).
const (
	GRE       = "gre"
	GRE6      = "ip6gre"
	ModuleGRE = "ip_gre"
	Module6   = "ip6_gre"
)

// Tunnel is a GRE tunnel to another host. Frames that are sent to its device come out of that of the other host, without an IP
// packet in between but the outer one. Two hosts have at most one with a key.
type Tunnel struct {
	Local, Remote netip.Addr
	Key           uint32
	TTL           uint8 // of the outer packets
	other         bool  // has something that AddTunnel does not set
}

// Equal reports whether two tunnels are the same, also in what AddTunnel does not set.
func (t Tunnel) Equal(other Tunnel) bool { return t == other }

// Kind is the kind of the tunnel's device.
func (t Tunnel) Kind() string {
	if t.Remote.Is4() {
		return GRE
	}
	return GRE6
}

// Numbers from linux/if_tunnel.h, linux/ip6_tunnel.h and linux/if_link.h.
const (
	greIgnoreDF      = 19     // IFLA_GRE_IGNORE_DF
	greFWMark        = 20     // IFLA_GRE_FWMARK
	greKey           = 0x2000 // GRE_KEY
	ignoreEncapLimit = 1      // IP6_TNL_F_IGN_ENCAP_LIMIT
	inet6AddrGenNone = 1      // IN6_ADDR_GEN_MODE_NONE
)

// AddTunnel makes the device of a tunnel, down and without an address. The kernel answers EEXIST if the name, the index, or the key
// between these hosts is taken. Without the module it fails with a rtnl.NoModuleError.
func (c *Conn) AddTunnel(name string, index int, alias string, t Tunnel) error {
	replies, err := c.conn.Batch(t.request(name, index), aliasRequest(index, alias), noAddressRequest(index))
	for i := 0; err == nil && i < len(replies); i++ {
		if i == 2 && (errors.Is(replies[i].Err, unix.EAFNOSUPPORT) || errors.Is(replies[i].Err, unix.EOPNOTSUPP)) { // no IPv6 on this host
			continue
		}
		err = replies[i].Err
	}
	if err != nil {
		module := ModuleGRE
		if t.Kind() == GRE6 {
			module = Module6
		}
		return fmt.Errorf("add tunnel %s to %s: %w", name, t.Remote, rtnl.NoModule(err, unknownKind, module))
	}
	return nil
}

func (t Tunnel) request(name string, index int) *nl.NetlinkRequest {
	flags, key := binary.BigEndian.AppendUint16(nil, greKey), binary.BigEndian.AppendUint32(nil, t.Key)
	data := []*nl.RtAttr{
		nl.NewRtAttr(nl.IFLA_GRE_IFLAGS, flags), nl.NewRtAttr(nl.IFLA_GRE_OFLAGS, flags),
		nl.NewRtAttr(nl.IFLA_GRE_IKEY, key), nl.NewRtAttr(nl.IFLA_GRE_OKEY, key),
		nl.NewRtAttr(nl.IFLA_GRE_LOCAL, t.Local.AsSlice()), nl.NewRtAttr(nl.IFLA_GRE_REMOTE, t.Remote.AsSlice()),
		nl.NewRtAttr(nl.IFLA_GRE_TTL, []byte{t.TTL}),
	}
	if t.Kind() == GRE6 { // without the flag each packet gets an extension header, which some routers drop
		data = append(data, rtnl.Number(nl.IFLA_GRE_FLAGS, ignoreEncapLimit))
	}
	return rtnl.With(addRequest(index, false), rtnl.Text(unix.IFLA_IFNAME, name), Info(t.Kind(), data...))
}

// noAddressRequest keeps IPv6 from giving a device an address.
func noAddressRequest(index int) *nl.NetlinkRequest {
	mode := nl.NewRtAttr(unix.IFLA_INET6_ADDR_GEN_MODE, []byte{inet6AddrGenNone})
	return rtnl.With(ChangeRequest(index), rtnl.Nested(unix.IFLA_AF_SPEC, rtnl.Nested(unix.AF_INET6, mode)))
}

// greSizes are the sizes of attributes, in bytes.
var greSizes = map[uint16]int{
	nl.IFLA_GRE_IFLAGS: 2, nl.IFLA_GRE_OFLAGS: 2, nl.IFLA_GRE_IKEY: 4, nl.IFLA_GRE_OKEY: 4, nl.IFLA_GRE_TTL: 1, nl.IFLA_GRE_TOS: 1,
	nl.IFLA_GRE_PMTUDISC: 1, nl.IFLA_GRE_FLAGS: 4, nl.IFLA_GRE_LINK: 4, nl.IFLA_GRE_ENCAP_TYPE: 2, greIgnoreDF: 1, greFWMark: 4,
}

// parseAttr reads the attributes of a tunnel's device.
func (t *Tunnel) parseAttr(kind uint16, value []byte) error {
	if size, known := greSizes[kind]; known && len(value) != size {
		return fmt.Errorf("attribute %d of a tunnel: %d bytes, want %d", kind, len(value), size)
	}
	switch kind {
	case nl.IFLA_GRE_IFLAGS, nl.IFLA_GRE_OFLAGS:
		t.other = t.other || binary.BigEndian.Uint16(value) != greKey
	case nl.IFLA_GRE_IKEY:
		t.Key = binary.BigEndian.Uint32(value)
	case nl.IFLA_GRE_OKEY: // comes behind IFLA_GRE_IKEY (ipgre_fill_info of net/ipv4/ip_gre.c)
		t.other = t.other || binary.BigEndian.Uint32(value) != t.Key
	case nl.IFLA_GRE_LOCAL, nl.IFLA_GRE_REMOTE:
		a, ok := netip.AddrFromSlice(value)
		if !ok {
			return fmt.Errorf("attribute %d of a tunnel: %d bytes, want 4 or 16", kind, len(value))
		}
		if kind == nl.IFLA_GRE_LOCAL {
			t.Local = a
		} else {
			t.Remote = a
		}
	case nl.IFLA_GRE_TTL:
		t.TTL = value[0]
	case nl.IFLA_GRE_PMTUDISC:
		t.other = t.other || value[0] != 1
	case nl.IFLA_GRE_FLAGS: // the upper half is what the kernel has found out
		t.other = t.other || binary.NativeEndian.Uint32(value)&0xffff != ignoreEncapLimit
	case nl.IFLA_GRE_LINK, nl.IFLA_GRE_TOS, nl.IFLA_GRE_ENCAP_TYPE, greIgnoreDF, greFWMark:
		t.other = t.other || bytes.ContainsFunc(value, func(r rune) bool { return r != 0 })
	case nl.IFLA_GRE_COLLECT_METADATA:
		t.other = true
	}
	return nil
}
