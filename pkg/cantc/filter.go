package cantc

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/rtnl"
)

// Direction is the way that a frame takes through a device of the netns: ingress is what the device receives, on a host
// end what the container sends; egress is what it sends, on a host end what the container hears.
type Direction uint8

const (
	Ingress Direction = iota
	Egress
)

func (d Direction) String() string {
	if d == Egress {
		return "egress"
	}
	return "ingress"
}

// Hook is a place for one filter on a device. Of one direction the lowest priority runs first, and of one priority the newest.
type Hook struct {
	Dev    int // ifindex
	Dir    Direction
	Prio   uint16
	Handle uint32 // 1 for the only filter of a priority
}

// Filter is a program, and what happens to frames that it matches.
type Filter struct {
	Hook
	Program []unix.SockFilter // returns 0 for a frame that does not match, and all ones for one that does
	Actions []Action          // carried out in order
}

// matchAll is a program that matches each frame.
var matchAll = []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: 0xffffffff}}

// Equal reports whether two filters do the same at the same place.
func (f Filter) Equal(g Filter) bool {
	return f.Hook == g.Hook && slices.Equal(f.Program, g.Program) && slices.Equal(f.Actions, g.Actions)
}

// Kind is the kind of our filters (TCA_KIND).
const Kind = "bpf"

// Installed is a filter at work in the kernel. One of another kind has neither program nor actions.
type Installed struct {
	Filter
	Kind    string
	Packets []uint64 // frames that each action has seen
	Failed  uint64   // frames that the device of Copy or Deliver did not take
}

// Action is one of Drop, Mark, MarkOnly, Forward, Copy, Mirror, Deliver and Limit, or what the kernel has of another program.
type Action struct {
	Kind    string // the kernel module is act_Kind
	Verdict int32  // what becomes of the frame after it, TC_ACT_* of linux/pkt_cls.h
	Mark    uint32 // of skbedit
	Dev     int    // ifindex, of mirred
	Way     uint32 // of mirred, TCA_EGRESS_REDIR and so on of linux/tc_act/tc_mirred.h
	Rate    uint64 // of police, frames per second
	Burst   uint64 // of police, as a time at that rate in ticks of the kernel, see Limit
	reset   bool   // of skbedit: the priority becomes 0
	other   bool   // does something that no action of this package does
}

// Verdicts (TC_ACT_* of linux/pkt_cls.h).
const (
	verdictNext   = -1 // TC_ACT_UNSPEC: go on with the next filter
	verdictDrop   = 2  // TC_ACT_SHOT
	verdictPipe   = 3  // TC_ACT_PIPE: go on with the next action
	verdictStolen = 4  // TC_ACT_STOLEN
)

const (
	kindGact, kindSkbedit, kindMirred, kindPolice = "gact", "skbedit", "mirred", "police"
)

// Drop drops a frame.
func Drop() Action { return Action{Kind: kindGact, Verdict: verdictDrop} }

// Mark sets a frame's mark and goes on with the next action. It takes away the priority that the sender has set (SO_PRIORITY),
// by which a transmit queue would choose the frame's class before it looks at the mark.
func Mark(mark uint32) Action {
	return Action{Kind: kindSkbedit, Verdict: verdictPipe, Mark: mark, reset: true}
}

// MarkOnly sets a frame's mark and goes on with the next filter, of any program, as if this one did not match.
func MarkOnly(mark uint32) Action {
	return Action{Kind: kindSkbedit, Verdict: verdictNext, Mark: mark}
}

// Forward has a device send the frame, which ends its way here.
func Forward(dev int) Action {
	return Action{Kind: kindMirred, Verdict: verdictStolen, Dev: dev, Way: egressRedir}
}

// Copy has a device send a copy of the frame, and goes on with the next filter, as if this one did not match.
func Copy(dev int) Action {
	return Action{Kind: kindMirred, Verdict: verdictNext, Dev: dev, Way: egressMirror}
}

// Mirror has a device send a copy of the frame, and goes on with the next action.
func Mirror(dev int) Action {
	return Action{Kind: kindMirred, Verdict: verdictPipe, Dev: dev, Way: egressMirror}
}

// Deliver has a device receive a copy of the frame, and goes on with the next filter, as if this one did not match.
func Deliver(dev int) Action {
	return Action{Kind: kindMirred, Verdict: verdictNext, Dev: dev, Way: ingressMirror}
}

// Limit drops what exceeds rate frames a second; burst frames may come at once. The others go on with the next action. The
// kernel begins with none of the burst: right after the filter is made, the first frame passes 1/rate seconds later.
func Limit(rate, burst uint32) Action {
	const tick = 64                                                              // nanoseconds, PSCHED_TICKS2NS of net/pkt_sched.h
	ticks := (uint64(burst)*1e9 + uint64(rate)*tick - 1) / (uint64(rate) * tick) // rounded down, not even one may pass
	return Action{Kind: kindPolice, Verdict: verdictDrop, Rate: uint64(rate), Burst: ticks}
}

// Numbers from linux/pkt_sched.h, linux/pkt_cls.h, linux/rtnetlink.h, linux/gen_stats.h and linux/tc_act/.
const (
	clsact       = "clsact"
	clsactParent = 0xfffffff1 // TC_H_CLSACT
	clsactHandle = 0xffff0000
	hookParent   = 0xfffffff2 // TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS), and one more is TC_H_MIN_EGRESS

	egressRedir       = 1  // TCA_EGRESS_REDIR
	egressMirror      = 2  // TCA_EGRESS_MIRROR
	ingressMirror     = 4  // TCA_INGRESS_MIRROR
	tcaPolicePktRate  = 10 // TCA_POLICE_PKTRATE64
	tcaPolicePktBurst = 11 // TCA_POLICE_PKTBURST64

	tcGenSize          = 20 // tc_gen: the fields that all structs of actions begin with
	tcMirredSize       = 28 // struct tc_mirred
	tcPoliceSize       = 56 // struct tc_police
	gnetStatsBasicSize = 12 // struct gnet_stats_basic, without its padding
	gnetStatsQueueSize = 20 // struct gnet_stats_queue, of which overlimits is last
	sockFilterSize     = 8  // struct sock_filter
)

// request is a message about a hook (struct tcmsg and TCA_KIND).
func (h Hook) request(kind, flags int) *nl.NetlinkRequest {
	return tcRequest(kind, flags, h.Dev, h.Handle, hookParent+uint32(h.Dir), uint32(h.Prio)<<16|protocolAll())
}

// protocolAll is ETH_P_ALL in network byte order, as tcm_info has it.
func protocolAll() uint32 { return uint32(binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL})) }

func tcRequest(kind, flags, dev int, handle, parent, info uint32) *nl.NetlinkRequest {
	r := nl.NewNetlinkRequest(kind, flags)
	r.AddData(&nl.TcMsg{Ifindex: int32(dev), Handle: handle, Parent: parent, Info: info})
	return r
}

func qdiscRequest(kind, flags, dev int) *nl.NetlinkRequest {
	return tcRequest(kind, flags, dev, clsactHandle, clsactParent, 0)
}

// Qdisc is the qdisc of a device that filters are in, of any program: clsact, or one without egress, ingress.
type Qdisc struct {
	Dev    int // ifindex
	Kind   string
	Blocks [2]uint32 // indexes of the shared blocks that its filters of each Direction are, or 0
}

// Prevents reports whether Set can make no filters of a direction: there is no egress, or a block whose filters are of no device.
func (q Qdisc) Prevents(dir Direction) bool { return q.Kind != clsact || q.Blocks[dir] != 0 }

// PreventsAny reports whether it prevents filters of one direction or both.
func (q Qdisc) PreventsAny() bool { return q.Prevents(Ingress) || q.Prevents(Egress) }

// tcAttrs reads struct tcmsg, and calls each with every attribute behind it.
func tcAttrs(b []byte, each func(attr uint16, value []byte) error) (head nl.TcMsg, err error) {
	if err := rtnl.AttrsBehind("tcmsg", nl.SizeofTcMsg, b, each); err != nil {
		return head, err
	}
	return *nl.DeserializeTcMsg(b), nil
}

func unmarshalQdisc(b []byte) (q Qdisc, handle uint32, err error) {
	head, err := tcAttrs(b, func(attr uint16, value []byte) (err error) {
		switch attr {
		case unix.TCA_KIND:
			q.Kind = unix.ByteSliceToString(value)
		case unix.TCA_INGRESS_BLOCK, unix.TCA_EGRESS_BLOCK:
			q.Blocks[attr-unix.TCA_INGRESS_BLOCK], err = rtnl.Uint32(attr, value)
		}
		return err
	})
	q.Dev = int(head.Ifindex)
	return q, head.Handle, err
}

// setRequest makes the filter of a hook, or replaces it without a moment in between.
func (f Filter) setRequest() *nl.NetlinkRequest {
	options := nl.NewRtAttr(unix.TCA_OPTIONS, nil)
	actions := options.AddRtAttr(nl.TCA_BPF_ACT, nil)
	for i, a := range f.Actions {
		action := actions.AddRtAttr(i+1, nil)
		action.AddRtAttr(nl.TCA_ACT_KIND, nl.ZeroTerminated(a.Kind))
		a.addOptions(action.AddRtAttr(nl.TCA_ACT_OPTIONS|unix.NLA_F_NESTED, nil))
	}
	addProgram(options, f.Program)
	return rtnl.With(f.request(unix.RTM_NEWTFILTER, unix.NLM_F_CREATE), rtnl.Text(unix.TCA_KIND, Kind), options)
}

func addProgram(options *nl.RtAttr, program []unix.SockFilter) {
	options.AddRtAttr(nl.TCA_BPF_OPS_LEN, nl.Uint16Attr(uint16(len(program))))
	ops := make([]byte, 0, sockFilterSize*len(program))
	for _, op := range program {
		ops = binary.NativeEndian.AppendUint16(ops, op.Code)
		ops = append(ops, op.Jt, op.Jf)
		ops = binary.NativeEndian.AppendUint32(ops, op.K)
	}
	options.AddRtAttr(nl.TCA_BPF_OPS, ops)
}

func (a Action) addOptions(options *nl.RtAttr) {
	gen := make([]byte, tcGenSize, tcPoliceSize)
	binary.NativeEndian.PutUint32(gen[8:12], uint32(a.Verdict))
	switch a.Kind {
	case kindGact:
		options.AddRtAttr(nl.TCA_GACT_PARMS, gen)
	case kindSkbedit:
		options.AddRtAttr(nl.TCA_SKBEDIT_PARMS, gen)
		if a.reset {
			options.AddRtAttr(nl.TCA_SKBEDIT_PRIORITY, nl.Uint32Attr(0))
		}
		options.AddRtAttr(nl.TCA_SKBEDIT_MARK, nl.Uint32Attr(a.Mark))
	case kindMirred:
		gen = binary.NativeEndian.AppendUint32(gen, a.Way)
		options.AddRtAttr(nl.TCA_MIRRED_PARMS, binary.NativeEndian.AppendUint32(gen, uint32(a.Dev)))
	case kindPolice:
		police := make([]byte, tcPoliceSize) // struct tc_police has the verdict second, and no tc_gen
		binary.NativeEndian.PutUint32(police[4:8], uint32(a.Verdict))
		options.AddRtAttr(nl.TCA_POLICE_TBF, police)
		options.AddRtAttr(nl.TCA_POLICE_RESULT, nl.Uint32Attr(verdictPipe))
		options.AddRtAttr(tcaPolicePktRate, nl.Uint64Attr(a.Rate))
		options.AddRtAttr(tcaPolicePktBurst, nl.Uint64Attr(a.Burst))
	}
}

// unmarshalFilter reads the answer to RTM_GETTFILTER. One of another kind than bpf has no program.
func unmarshalFilter(b []byte) (f Installed, err error) {
	head, err := tcAttrs(b, func(attr uint16, value []byte) error {
		switch {
		case attr == unix.TCA_KIND:
			f.Kind = unix.ByteSliceToString(value)
		case attr == unix.TCA_OPTIONS && f.Kind == Kind:
			return rtnl.Attrs(value, f.unmarshalOption)
		}
		return nil
	})
	f.Hook = Hook{int(head.Ifindex), Direction(head.Parent - hookParent), uint16(head.Info >> 16), head.Handle}
	return f, err
}

func (f *Installed) unmarshalOption(attr uint16, value []byte) error {
	switch attr {
	case nl.TCA_BPF_OPS:
		if len(value)%sockFilterSize != 0 {
			return fmt.Errorf("attribute %d: %d bytes, want a multiple of %d", attr, len(value), sockFilterSize)
		}
		for op := range slices.Chunk(value, sockFilterSize) {
			f.Program = append(f.Program, unix.SockFilter{
				Code: binary.NativeEndian.Uint16(op[0:2]), Jt: op[2], Jf: op[3], K: binary.NativeEndian.Uint32(op[4:8]),
			})
		}
	case nl.TCA_BPF_ACT:
		return rtnl.Attrs(value, func(_ uint16, value []byte) error {
			action, packets, failed, err := unmarshalAction(value)
			f.Actions, f.Packets, f.Failed = append(f.Actions, action), append(f.Packets, packets), f.Failed+failed
			return err
		})
	}
	return nil
}

func unmarshalAction(b []byte) (a Action, packets, failed uint64, err error) {
	err = rtnl.Attrs(b, func(attr uint16, value []byte) error {
		switch attr {
		case nl.TCA_ACT_KIND:
			a.Kind = unix.ByteSliceToString(value)
		case nl.TCA_ACT_OPTIONS:
			return rtnl.Attrs(value, a.unmarshalOption)
		case nl.TCA_ACT_STATS:
			return rtnl.Attrs(value, func(attr uint16, value []byte) error {
				switch {
				case attr == nl.TCA_STATS_BASIC && len(value) < gnetStatsBasicSize, attr == nl.TCA_STATS_PKT64 && len(value) != 8,
					attr == nl.TCA_STATS_QUEUE && len(value) < gnetStatsQueueSize:
					return fmt.Errorf("attribute %d of counters: %d bytes", attr, len(value))
				case attr == nl.TCA_STATS_BASIC:
					packets = uint64(binary.NativeEndian.Uint32(value[8:12]))
				case attr == nl.TCA_STATS_QUEUE && a.Kind == kindMirred:
					failed = uint64(binary.NativeEndian.Uint32(value[16:20]))
				case attr == nl.TCA_STATS_PKT64: // only there when 32 bits are not enough
					packets = binary.NativeEndian.Uint64(value)
				}
				return nil
			})
		}
		return nil
	})
	return a, packets, failed, err
}

// optionSizes has the attributes of actions that are read, by action, with their size.
var optionSizes = map[string]map[uint16]int{
	kindGact:    {nl.TCA_GACT_PARMS: tcGenSize},
	kindSkbedit: {nl.TCA_SKBEDIT_PARMS: tcGenSize, nl.TCA_SKBEDIT_PRIORITY: 4, nl.TCA_SKBEDIT_MARK: 4},
	kindMirred:  {nl.TCA_MIRRED_PARMS: tcMirredSize},
	kindPolice:  {nl.TCA_POLICE_TBF: tcPoliceSize, nl.TCA_POLICE_RESULT: 4, tcaPolicePktRate: 8, tcaPolicePktBurst: 8},
}

func (a *Action) unmarshalOption(attr uint16, value []byte) error {
	size, known := optionSizes[a.Kind][attr]
	switch {
	case !known:
		return nil
	case len(value) != size:
		return fmt.Errorf("attribute %d of %s: %d bytes, want %d", attr, a.Kind, len(value), size)
	}
	number := binary.NativeEndian.Uint32(value)
	switch {
	case a.Kind == kindPolice && attr == nl.TCA_POLICE_TBF:
		a.Verdict = int32(binary.NativeEndian.Uint32(value[4:8]))
	case a.Kind == kindPolice && attr == nl.TCA_POLICE_RESULT:
		a.other = number != verdictPipe
	case a.Kind == kindPolice && attr == tcaPolicePktRate:
		a.Rate = binary.NativeEndian.Uint64(value)
	case a.Kind == kindPolice && attr == tcaPolicePktBurst:
		a.Burst = binary.NativeEndian.Uint64(value)
	case attr == nl.TCA_SKBEDIT_PRIORITY && a.Kind == kindSkbedit:
		a.reset, a.other = number == 0, number != 0
	case attr == nl.TCA_SKBEDIT_MARK && a.Kind == kindSkbedit:
		a.Mark = number
	default: // tc_gen, and struct tc_mirred, which begins with it
		a.Verdict = int32(binary.NativeEndian.Uint32(value[8:12]))
		if a.Kind == kindMirred {
			a.Way = binary.NativeEndian.Uint32(value[20:24])
			a.Dev = int(binary.NativeEndian.Uint32(value[24:28]))
		}
	}
	return nil
}
