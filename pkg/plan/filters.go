package plan

import (
	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/cantc"
)

// Priorities of our filters. Filters run by priority, lowest first, and the verdict of one ends the row, so that a filter of
// another program before ours would switch ours off. No filter can run before priority 1, and one priority holds
// filters of one kind and protocol only (tcf_chain_tp_find of net/sched/cls_api.c). Those of others come behind ours.
const (
	FirstPrio  = 1
	SecondPrio = 2
)

// anyFrame matches every frame.
var anyFrame = []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: 0xffffffff}}

// marked matches frames with a mark (SKF_AD_MARK, linux/filter.h).
func marked(mark uint32) []unix.SockFilter {
	const skfADOff, skfADMark = 0xfffff000, 20
	return []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: skfADOff + skfADMark},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: mark},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0xffffffff},
		{Code: unix.BPF_RET | unix.BPF_K},
	}
}

// filters is which filters a member must have on its device. Together with rules it is all of how a bus works.
//
// What a member sends gets the ifindex of its device as a mark, which the way over the backplane keeps, and what comes
// back with that mark is dropped: nobody hears itself. The mark is set in the host's netns, so a container cannot choose
// it; it could choose the origin that the gateway looks at (see rules).
//
// An endpoint's frames get to the backplane by this filter and by no rule. A container can send frames that no filter of
// its host end sees (those that an ifb device has handed back, tc_skip_classify of struct sk_buff): they go nowhere. The
// same holds while there is no filter yet, or not any more.
func filters(common backplane, m member) []cantc.Filter {
	dev := int(m.dev)
	ingress, egress := cantc.Hook{Dev: dev, Dir: cantc.Ingress, Prio: FirstPrio}, cantc.Hook{Dev: dev, Dir: cantc.Egress, Prio: FirstPrio}
	own := cantc.Filter{Hook: egress, Program: marked(m.dev), Actions: []cantc.Action{cantc.Drop()}}
	if m.hub {
		return []cantc.Filter{{Hook: ingress, Program: anyFrame, Actions: []cantc.Action{cantc.MarkOnly(m.dev)}}, own}
	}
	forward := append(append([]cantc.Action(nil), m.limit...), cantc.Mark(m.dev), cantc.Forward(int(common.tx)))
	all := []cantc.Filter{{Hook: ingress, Program: m.allowed, Actions: forward}, own}
	ingress.Prio, egress.Prio = SecondPrio, SecondPrio // these also count what is denied
	if m.limited {
		all = append(all, cantc.Filter{Hook: ingress, Program: anyFrame, Actions: []cantc.Action{cantc.Drop()}})
	}
	if m.denied != nil {
		all = append(all, cantc.Filter{Hook: egress, Program: m.denied, Actions: []cantc.Action{cantc.Drop()}})
	}
	return all
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
	all := []cantc.Hook{{Dev: dev, Dir: cantc.Ingress, Prio: FirstPrio}, {Dev: dev, Dir: cantc.Egress, Prio: FirstPrio}}
	if policy {
		all = append(all, cantc.Hook{Dev: dev, Dir: cantc.Ingress, Prio: SecondPrio}, cantc.Hook{Dev: dev, Dir: cantc.Egress, Prio: SecondPrio})
	}
	return all
}
