package plan

import (
	"slices"

	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/cantc"
	"github.com/vxcan/vxcan/pkg/config"
)

// Priorities of our filters. Filters run by priority, lowest first, and the verdict of one ends the row, so that a filter of
// another program before ours would switch ours off. No filter can run before priority 1, and one priority holds
// filters of one kind and protocol only (tcf_chain_tp_find of net/sched/cls_api.c). Those of others come behind ours.
const (
	FirstPrio  = 1
	SecondPrio = 2
)

// Instructions of programs. What these load is no byte of the frame (SKF_AD_PROTOCOL and SKF_AD_MARK of linux/filter.h).
var (
	loadProtocol = unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0xfffff000}
	loadMark     = unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0xfffff000 + 20}
	match        = unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0xffffffff}
	noMatch      = unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K}
)

// skipIf skips equal instructions if the loaded value is value, and others instructions if not.
func skipIf(value uint32, equal, others uint8) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: equal, Jf: others, K: value}
}

var anyFrame = []unix.SockFilter{match}

// marked matches frames with a mark.
func marked(mark uint32) []unix.SockFilter {
	return []unix.SockFilter{loadMark, skipIf(mark, 0, 1), match, noMatch}
}

// filters is which filters a member must have on its device. Together with rules it is all of how a bus works.
//
// What a member sends gets the ifindex of its device as a mark, which the way over the backplane keeps, and what comes
// back with that mark is dropped: nobody hears itself. The mark is set in the host's netns, so a container cannot choose
// it; it could choose the origin that the gateway looks at (see rules).
//
// An endpoint's frames get to the backplane by this filter and by no rule. Frames that no filter of its host end sees (those
// that an ifb device has handed back, tc_skip_classify of struct sk_buff) go nowhere. While the filter is missing, no frame gets out.
func filters(common backplane, m member) []cantc.Filter {
	first, second := hooks(int(m.dev), FirstPrio), hooks(int(m.dev), SecondPrio)
	ingress, egress := first[0], first[1]
	own := cantc.Filter{Hook: egress, Program: marked(m.dev), Actions: []cantc.Action{cantc.Drop()}}
	if m.hub && common.copies {
		own.Hook = ingress
		send := cantc.Filter{Hook: egress, Program: everything.allowed, Actions: []cantc.Action{
			cantc.Mark(m.dev), cantc.Mirror(int(common.tx)), cantc.MarkOnly(0), // unmarked: a vcan with echo=1 hands it to programs on it now
		}}
		return []cantc.Filter{send, own, common.copyTo(m)}
	}
	if m.hub {
		return []cantc.Filter{{Hook: ingress, Program: anyFrame, Actions: []cantc.Action{cantc.MarkOnly(m.dev)}}, own}
	}
	forward := append(append([]cantc.Action(nil), m.limit...), cantc.Mark(m.dev), cantc.Forward(int(common.tx)))
	all := []cantc.Filter{{Hook: ingress, Program: m.allowed, Actions: forward}, own}
	if m.limited { // these also count what is denied
		all = append(all, cantc.Filter{Hook: second[0], Program: anyFrame, Actions: []cantc.Action{cantc.Drop()}})
	}
	if m.denied != nil {
		all = append(all, cantc.Filter{Hook: second[1], Program: m.denied, Actions: []cantc.Action{cantc.Drop()}})
	}
	if common.copies && !m.deaf {
		all = append(all, common.copyTo(m)) // last: the policy is in force by then
	}
	return all
}

// A user namespace gets no gateway rules (net/can/gw.c wants CAP_NET_ADMIN in the initial one). There, a filter for each member
// copies what comes out of the backplane to it. That needs a hub which hears what is delivered to it, a vcan: what programs
// send on it is marked and copied on its way out, and what comes back to it is dropped on its way in. A frame needs no hop
// counter: what is copied to a member never comes back, because it leaves a host end by egress, and the hub gets it by ingress.

// copyTo is the filter that gives a member its frames. The gateway would look at the MTU, which filters do not.
func (b backplane) copyTo(m member) cantc.Filter {
	f := cantc.Filter{Hook: CopyHooks(int(b.rx), int(m.dev))[0], Program: ofProtocol(m.fd), Actions: []cantc.Action{cantc.Copy(int(m.dev))}}
	if m.hub { // a vcan does not hear what a filter makes it send
		f.Actions[0] = cantc.Deliver(int(m.dev))
	}
	return f
}

// isLeft reports whether a filter is one of copyTo whose member has gone, of which the kernel shows no device then.
func isLeft(f cantc.Filter) bool {
	isOne := func(a cantc.Action) bool {
		return slices.Equal(f.Actions, []cantc.Action{a})
	}
	return (isOne(cantc.Copy(0)) || isOne(cantc.Deliver(0))) && (slices.Equal(f.Program, ofProtocol(true)) || slices.Equal(f.Program, ofProtocol(false)))
}

// OtherCopies returns the hooks of filters that copy frames from a hub's backplane, of those that the view has only an entry of.
func (v View) OtherCopies(hub string) (hooks []cantc.Hook) {
	common := NewWant(config.Hub{Name: hub}, nil, "").backplane(v)
	for _, e := range v.Entries {
		if _, there := v.Filters[e.Hook]; common.isCopy(e) && !there {
			hooks = append(hooks, e.Hook)
		}
	}
	return hooks
}

// CopyHooks is where filters copy frames from the backplane's end rx to members, by their ifindexes. They stay when these go.
func CopyHooks(rx int, members ...int) []cantc.Hook {
	all := make([]cantc.Hook, len(members))
	for i, dev := range members {
		all[i] = cantc.Hook{Dev: rx, Dir: cantc.Ingress, Prio: FirstPrio, Handle: uint32(dev)}
	}
	return all
}

// isCopy reports whether a filter is one that copies from the backplane.
func (b backplane) isCopy(e cantc.Entry) bool {
	return b.copies && e.Dev == int(b.rx) && e.Dir == cantc.Ingress && e.Prio == FirstPrio && !e.Holds()
}

// prevented reports whether another program's filter or qdisc is in the place of a filter.
func (v View) prevented(h cantc.Hook) bool {
	return slices.ContainsFunc(v.Entries, func(e cantc.Entry) bool { return e.Dev == h.Dev && e.Dir == h.Dir && e.Prio == h.Prio && e.Holds() }) ||
		slices.ContainsFunc(v.Qdiscs, func(q cantc.Qdisc) bool { return q.Dev == h.Dev && q.Prevents(h.Dir) })
}

// ofProtocol matches classic frames, and CAN FD frames if the member takes them.
func ofProtocol(fd bool) []unix.SockFilter {
	other := skipIf(unix.ETH_P_CANFD, 0, 1)
	if !fd {
		other = unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JA, K: 1}
	}
	return []unix.SockFilter{loadProtocol, skipIf(unix.ETH_P_CAN, 1, 0), other, match, noMatch}
}

// Missing is the hooks of an endpoint where a view lacks the filter that must be there.
func (v View) Missing(e Endpoint) (missing []cantc.Hook) {
	for _, h := range Hooks(e.Host.Index, true) {
		policy := e.Endpoint.Policy
		wanted := h.Prio == FirstPrio || e.CutOff || h.Dir == cantc.Ingress && policy.Send != "" || h.Dir == cantc.Egress && policy.Receive != ""
		if wanted && v.Filters[h].Program == nil {
			missing = append(missing, h)
		}
	}
	return missing
}

// Hooks is where the filters of a member can be.
func Hooks(dev int, policy bool) []cantc.Hook {
	all := hooks(dev, FirstPrio)
	if policy {
		all = append(all, hooks(dev, SecondPrio)...)
	}
	return all
}

// hooks is where filters of a priority can be, ingress first.
func hooks(dev int, prio uint16) []cantc.Hook {
	return []cantc.Hook{{Dev: dev, Dir: cantc.Ingress, Prio: prio, Handle: 1}, {Dev: dev, Dir: cantc.Egress, Prio: prio, Handle: 1}}
}
