package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// floor counts the netlink messages that an ADD cannot do without, from this process, which is warm: what of an ADD is
// the kernel's.
func (b *bench) floor() error {
	const hostIf = "floor0"
	a, err := b.box("floor")
	if err != nil {
		return err
	}
	took, err := b.countOn(empty.host, func() error { return netlinkOfADD("vcan0", hostIf, a) })
	if err != nil {
		return err
	}
	b.note("netlink floor", took)
	return b.on(empty.host, func() error { return run("ip", "link", "del", hostIf) })
}

// netlinkOfADD looks at all links and rules of the bus and the hub's filters, makes a pair with the peer in the container,
// its clsact qdisc, two filters and two rules, and sets the peer up.
func netlinkOfADD(hub, hostIf string, a attachment) error {
	netns, err := os.Open(a.netnsPath())
	if err != nil {
		return err
	}
	defer netns.Close()
	home, err := dialNetlink()
	if err != nil {
		return err
	}
	defer home.close()
	var inside netlinkSocket
	if err := in(a.netnsPath(), func() (err error) { inside, err = dialNetlink(); return err }); err != nil {
		return err
	}
	defer inside.close()

	index := make(map[string]int)
	links := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_DUMP)
	links.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	err = home.ask(func(m syscall.NetlinkMessage) error {
		attrs, err := syscall.ParseNetlinkRouteAttr(&m)
		for _, attr := range attrs {
			if attr.Attr.Type == unix.IFLA_IFNAME {
				index[unix.ByteSliceToString(attr.Value)] = int(binary.NativeEndian.Uint32(m.Data[4:8]))
			}
		}
		return err
	}, links)
	if err != nil {
		return err
	}
	rules := nl.NewNetlinkRequest(unix.RTM_GETROUTE, unix.NLM_F_DUMP)
	rules.AddRawData([]byte{unix.AF_CAN, cgwTypeCANCAN, 0, 0})
	if err := home.ask(func(syscall.NetlinkMessage) error { return nil }, rules); err != nil {
		return err
	}
	err = home.ask(func(syscall.NetlinkMessage) error { return nil },
		filterRequest(unix.RTM_GETTFILTER, 0, index[hub], ingressParent),
		filterRequest(unix.RTM_GETTFILTER, unix.NLM_F_ACK, index[hub], egressParent))
	if err != nil {
		return err
	}
	const own, peer = 1 << 19, 1<<19 + 1 // below the indexes that an ADD draws
	tx, rx := index[hub+"-tx"], index[hub+"-rx"]
	requests := []*nl.NetlinkRequest{pairRequest(hostIf, "can0", own, peer, netns), clsactRequest(own)}
	requests = append(requests, endpointFilters(own, tx)...)
	for _, r := range []rule{{rx, own, iifTxOK}, {rx, own, iifTxOK | canFD}} {
		requests = append(requests, r.request())
	}
	if err := home.ask(nil, requests...); err != nil {
		return err
	}
	up := nl.NewNetlinkRequest(unix.RTM_NEWLINK, 0)
	up.AddData(linkMessage(peer))
	return inside.ask(nil, up)
}

// linkMessage is a struct ifinfomsg that sets a link up.
func linkMessage(index int) *nl.IfInfomsg {
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index, msg.Flags, msg.Change = int32(index), unix.IFF_UP, unix.IFF_UP
	return msg
}

// pairRequest makes a vxcan pair, the peer in another network namespace.
func pairRequest(name, peerName string, index, peerIndex int, netns *os.File) *nl.NetlinkRequest {
	r := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	r.AddData(linkMessage(index))
	r.AddData(nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(72)))
	r.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, []byte("vxcan"))
	peer := info.AddRtAttr(nl.IFLA_INFO_DATA, nil).AddRtAttr(nl.VETH_INFO_PEER, nil) // VXCAN_INFO_PEER has its value, 1
	nl.NewIfInfomsgChild(peer, unix.AF_UNSPEC).Index = int32(peerIndex)
	peer.AddRtAttr(unix.IFLA_MTU, nl.Uint32Attr(72))
	peer.AddRtAttr(unix.IFLA_NET_NS_FD, nl.Uint32Attr(uint32(netns.Fd())))
	peer.AddRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(peerName))
	r.AddData(info)
	return r
}

// rule is a rule of the CAN gateway. Numbers are those of linux/can/gw.h.
type rule struct {
	src, dst int // ifindexes
	flags    uint16
}

const (
	echo    = 0x01 // CGW_FLAGS_CAN_ECHO
	iifTxOK = 0x04 // CGW_FLAGS_CAN_IIF_TX_OK
	canFD   = 0x08 // CGW_FLAGS_CAN_FD

	cgwTypeCANCAN = 1  // CGW_TYPE_CAN_CAN
	cgwSrcIF      = 9  // CGW_SRC_IF
	cgwDstIF      = 10 // CGW_DST_IF
)

func (r rule) request() *nl.NetlinkRequest {
	request := nl.NewNetlinkRequest(unix.RTM_NEWROUTE, 0)
	request.AddRawData(slices.Concat(
		binary.NativeEndian.AppendUint16([]byte{unix.AF_CAN, cgwTypeCANCAN}, r.flags), // struct rtcanmsg
		nl.NewRtAttr(cgwSrcIF, nl.Uint32Attr(uint32(r.src))).Serialize(),
		nl.NewRtAttr(cgwDstIF, nl.Uint32Attr(uint32(r.dst))).Serialize()))
	return request
}

// addRules adds gateway rules in this network namespace, classic and FD, from and to devices by name.
func addRules(pairs [][2]string) error {
	s, err := dialNetlink()
	if err != nil {
		return err
	}
	defer s.close()
	for _, pair := range pairs {
		src, err := net.InterfaceByName(pair[0])
		if err != nil {
			return err
		}
		dst, err := net.InterfaceByName(pair[1])
		if err != nil {
			return err
		}
		err = s.ask(nil, rule{src.Index, dst.Index, echo}.request(), rule{src.Index, dst.Index, echo | canFD}.request())
		if err != nil {
			return fmt.Errorf("add rule %s -> %s: %w", pair[0], pair[1], err)
		}
	}
	return nil
}

type netlinkSocket int

func dialNetlink() (netlinkSocket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	return netlinkSocket(fd), err
}

func (s netlinkSocket) close() { unix.Close(int(s)) }

var netlinkBuffer = make([]byte, 32<<10) // larger than any answer

// ask sends some requests in one datagram and waits for the end of the last one's answer: each tells what comes before.
func (s netlinkSocket) ask(each func(syscall.NetlinkMessage) error, requests ...*nl.NetlinkRequest) error {
	last := requests[len(requests)-1]
	if each == nil {
		last.Flags |= unix.NLM_F_ACK
	}
	var datagram []byte
	for _, r := range requests {
		datagram = append(datagram, r.Serialize()...)
	}
	if err := unix.Sendto(int(s), datagram, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	var errs []error
	for {
		n, _, err := unix.Recvfrom(int(s), netlinkBuffer, 0)
		if err != nil {
			return err
		}
		messages, err := syscall.ParseNetlinkMessage(netlinkBuffer[:n])
		if err != nil {
			return err
		}
		for _, m := range messages {
			switch m.Header.Type {
			case unix.NLMSG_DONE:
				return errors.Join(errs...)
			case unix.NLMSG_ERROR:
				if errno := int32(binary.NativeEndian.Uint32(m.Data[0:4])); errno != 0 {
					errs = append(errs, syscall.Errno(-errno))
				}
				if m.Header.Seq == last.Seq {
					return errors.Join(errs...)
				}
			default:
				errs = append(errs, each(m))
			}
		}
	}
}
