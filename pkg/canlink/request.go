package canlink

import (
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// GetRequest asks for the device with an ifindex.
func GetRequest(index int) *nl.NetlinkRequest { return linkRequest(unix.RTM_GETLINK, index, 0, 0) }

func getByName(name string) *nl.NetlinkRequest {
	r := GetRequest(0)
	r.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	return r
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
	r := addRequest(index, true)
	r.AddData(nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(mtu))))
	r.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, []byte(Vcan))
	r.AddData(info)
	return r
}

func (p Pair) request() *nl.NetlinkRequest {
	r := addRequest(p.Index, true)
	r.AddData(nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(p.MTU))))
	r.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(p.Name)))
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, []byte(Vxcan))
	peer := info.AddRtAttr(nl.IFLA_INFO_DATA, nil).AddRtAttr(nl.VETH_INFO_PEER, nil) // VXCAN_INFO_PEER has its value, 1
	// The peer's own struct ifinfomsg.
	peerMsg := nl.NewIfInfomsgChild(peer, unix.AF_UNSPEC)
	peer.AddRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(p.MTU)))
	peerMsg.Index = int32(p.PeerIndex)
	if p.PeerNetns != nil {
		peer.AddRtAttr(unix.IFLA_NET_NS_FD, nl.Uint32Attr(uint32(p.PeerNetns.Fd())))
	}
	peer.AddRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(p.PeerName))
	r.AddData(info)
	return r
}

func aliasRequest(index int, alias string) *nl.NetlinkRequest {
	r := ChangeRequest(index)
	r.AddData(nl.NewRtAttr(unix.IFLA_IFALIAS, []byte(alias)))
	return r
}

func deleteRequest(index int) *nl.NetlinkRequest { return linkRequest(unix.RTM_DELLINK, index, 0, 0) }

// ChangeRequest changes a device that exists: RTM_NEWLINK without NLM_F_CREATE. RTM_SETLINK would say OK to the data of a
// controller and do nothing.
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
