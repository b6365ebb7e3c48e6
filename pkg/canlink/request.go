package canlink

import (
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/rtnl"
)

// GetRequest asks for the device with an ifindex.
func GetRequest(index int) *nl.NetlinkRequest { return linkRequest(unix.RTM_GETLINK, index, 0, 0) }

func getByName(name string) *nl.NetlinkRequest {
	return rtnl.With(GetRequest(0), rtnl.Text(unix.IFLA_IFNAME, name))
}

func addRequest(index int, up bool) *nl.NetlinkRequest {
	r := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(index)
	if up {
		msg.Flags, msg.Change = unix.IFF_UP, unix.IFF_UP
	}
	r.AddData(msg)
	return r
}

func vcanRequest(name string, index, mtu int) *nl.NetlinkRequest {
	return rtnl.With(addRequest(index, true), rtnl.Number(unix.IFLA_MTU, uint32(mtu)), rtnl.Text(unix.IFLA_IFNAME, name), Info(Vcan))
}

// Info is the IFLA_LINKINFO of a kind of device. Some kinds take attributes, in an IFLA_INFO_DATA.
func Info(kind string, data ...*nl.RtAttr) *nl.RtAttr {
	info := rtnl.Nested(unix.IFLA_LINKINFO, nl.NewRtAttr(nl.IFLA_INFO_KIND, []byte(kind)))
	if len(data) > 0 {
		info.AddChild(rtnl.Nested(nl.IFLA_INFO_DATA, data...))
	}
	return info
}

func (p Pair) request() *nl.NetlinkRequest {
	peer := nl.NewRtAttr(nl.VETH_INFO_PEER, nil) // VXCAN_INFO_PEER has its value, 1
	nl.NewIfInfomsgChild(peer, unix.AF_UNSPEC).Index = int32(p.PeerIndex)
	peer.AddRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(p.MTU)))
	if p.PeerNetns != nil {
		peer.AddRtAttr(unix.IFLA_NET_NS_FD, nl.Uint32Attr(uint32(p.PeerNetns.Fd())))
	}
	peer.AddRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(p.PeerName))
	return rtnl.With(addRequest(p.Index, true), rtnl.Number(unix.IFLA_MTU, uint32(p.MTU)), rtnl.Text(unix.IFLA_IFNAME, p.Name), Info(Vxcan, peer))
}

func aliasRequest(index int, alias string) *nl.NetlinkRequest {
	return rtnl.With(ChangeRequest(index), nl.NewRtAttr(unix.IFLA_IFALIAS, []byte(alias)))
}

func deleteRequest(index int) *nl.NetlinkRequest { return linkRequest(unix.RTM_DELLINK, index, 0, 0) }

// ChangeRequest changes a device that exists (no NLM_F_CREATE). RTM_SETLINK would say OK to a controller's data and do nothing.
func ChangeRequest(index int) *nl.NetlinkRequest { return linkRequest(unix.RTM_NEWLINK, index, 0, 0) }

// UpRequest sets a device up.
func UpRequest(index int) *nl.NetlinkRequest {
	return linkRequest(unix.RTM_NEWLINK, index, unix.IFF_UP, unix.IFF_UP)
}

// DownRequest sets a device down.
func DownRequest(index int) *nl.NetlinkRequest {
	return linkRequest(unix.RTM_NEWLINK, index, 0, unix.IFF_UP)
}

// linkRequest is about a device that exists; change is the mask of flags to be set.
func linkRequest(kind, index int, flags, change uint32) *nl.NetlinkRequest {
	r := nl.NewNetlinkRequest(kind, 0)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index, msg.Flags, msg.Change = int32(index), flags, change
	r.AddData(msg)
	return r
}
