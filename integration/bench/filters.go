package main

import (
	"encoding/binary"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Numbers of linux/pkt_sched.h.
const (
	clsactParent  = 0xfffffff1 // TC_H_CLSACT
	clsactHandle  = 0xffff0000
	ingressParent = 0xfffffff2 // TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS)
	egressParent  = ingressParent + 1
)

// clsactRequest makes the qdisc that has a device's filters.
func clsactRequest(dev int) *nl.NetlinkRequest {
	r := nl.NewNetlinkRequest(unix.RTM_NEWQDISC, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	r.AddData(&nl.TcMsg{Ifindex: int32(dev), Handle: clsactHandle, Parent: clsactParent})
	r.AddData(nl.NewRtAttr(nl.TCA_KIND, nl.ZeroTerminated("clsact")))
	return r
}

// filterRequest is a message about the first filter of priority 1 on a device.
func filterRequest(kind, flags, dev int, parent uint32) *nl.NetlinkRequest {
	const prio, handle = 1, 1
	protocol := uint32(binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL})) // in network byte order
	r := nl.NewNetlinkRequest(kind, flags)
	r.AddData(&nl.TcMsg{Ifindex: int32(dev), Handle: handle, Parent: parent, Info: prio<<16 | protocol})
	return r
}

// action is one of a filter, with the attributes that it has.
type action struct {
	kind  string
	attrs []*nl.RtAttr
}

// newFilterRequest makes a filter of a classic BPF program of four instructions, as those of an endpoint have them.
func newFilterRequest(dev int, parent uint32, program [4]unix.SockFilter, actions ...action) *nl.NetlinkRequest {
	r := filterRequest(unix.RTM_NEWTFILTER, unix.NLM_F_CREATE, dev, parent)
	r.AddData(nl.NewRtAttr(nl.TCA_KIND, nl.ZeroTerminated("bpf")))
	options := nl.NewRtAttr(nl.TCA_OPTIONS, nil)
	list := options.AddRtAttr(nl.TCA_BPF_ACT, nil)
	for i, a := range actions {
		one := list.AddRtAttr(i+1, nil)
		one.AddRtAttr(nl.TCA_ACT_KIND, nl.ZeroTerminated(a.kind))
		of := one.AddRtAttr(nl.TCA_ACT_OPTIONS|unix.NLA_F_NESTED, nil)
		for _, attr := range a.attrs {
			of.AddChild(attr)
		}
	}
	options.AddRtAttr(nl.TCA_BPF_OPS_LEN, nl.Uint16Attr(uint16(len(program))))
	var ops []byte
	for _, op := range program { // struct sock_filter, linux/filter.h
		ops = append(binary.NativeEndian.AppendUint16(ops, op.Code), op.Jt, op.Jf)
		ops = binary.NativeEndian.AppendUint32(ops, op.K)
	}
	options.AddRtAttr(nl.TCA_BPF_OPS, ops)
	r.AddData(options)
	return r
}

// endpointFilters mark what an endpoint sends with its ifindex and have tx send it, and drop what comes back to it with
// that mark.
func endpointFilters(dev, tx int) []*nl.NetlinkRequest {
	const match, skfADMark = 0xffffffff, 0xfffff000 + 20 // SKF_AD_OFF + SKF_AD_MARK
	noErrorFrame := [4]unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: 3},
		{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, Jt: 1, K: 0x20},
		{Code: unix.BPF_RET, K: match},
		{Code: unix.BPF_RET},
	}
	own := [4]unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: skfADMark},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: uint32(dev)},
		{Code: unix.BPF_RET, K: match},
		{Code: unix.BPF_RET},
	}
	pipe, drop := nl.TcGen{Action: int32(netlink.TC_ACT_PIPE)}, nl.TcGen{Action: int32(netlink.TC_ACT_SHOT)}
	redirect := nl.TcMirred{
		TcGen: nl.TcGen{Action: int32(netlink.TC_ACT_STOLEN)}, Eaction: int32(netlink.TCA_EGRESS_REDIR), Ifindex: uint32(tx),
	}
	return []*nl.NetlinkRequest{
		newFilterRequest(dev, ingressParent, noErrorFrame,
			action{"skbedit", []*nl.RtAttr{
				nl.NewRtAttr(nl.TCA_SKBEDIT_PARMS, pipe.Serialize()), nl.NewRtAttr(nl.TCA_SKBEDIT_MARK, nl.Uint32Attr(uint32(dev))),
			}},
			action{"mirred", []*nl.RtAttr{nl.NewRtAttr(nl.TCA_MIRRED_PARMS, redirect.Serialize())}}),
		newFilterRequest(dev, egressParent, own,
			action{"gact", []*nl.RtAttr{nl.NewRtAttr(nl.TCA_GACT_PARMS, drop.Serialize())}}),
	}
}
