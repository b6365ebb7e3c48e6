package bus

import (
	"slices"

	"github.com/vxcan/vxcan/pkg/cangw"
)

// backplane is the ifindexes of a vxcan pair in the host netns: what is sent into tx comes out of rx, with the
// gateway's hop counter back at 0, so that one more rule may pass it on.
type backplane struct{ tx, rx uint32 }

// member is a device that sends and receives on a bus: its hub, and the host end of every endpoint.
type member struct {
	dev uint32 // ifindex
	fd  bool   // takes CAN FD frames
	hub bool
	// controller tells of a hub that it is hardware, which reports what happens on the wire in error frames.
	controller bool
	// private is the member's own backplane, for an endpoint whose two ends could not get the same ifindex.
	private backplane
}

// maxHops lets a frame pass one rule, whatever the module parameter max_hops of can-gw allows. With more, what the hub
// echoes would go round for ever.
const maxHops = 1

// errorFrames takes error frames of all classes and nothing else (CAN_ERR_FLAG and CAN_ERR_MASK of linux/can.h as mask,
// find_rcv_list of net/can/af_can.c). The gateway drops them unless a rule asks for them.
var errorFrames = cangw.Filter{Mask: 0x3fffffff}

// rules is which rules a bus must have: all of them, each exactly once. Everything else here follows from it.
//
// A member sends into the common backplane's tx and hears its rx. It does not hear itself, because a frame keeps its
// origin's ifindex, also across netns, and the gateway does not send a frame to the ifindex it came from: for that, both
// ends of an endpoint's pair carry the same one. Into tx that check must not stop anything: IIFTxOK.
//
// Error frames of a controller go to the endpoints. None goes to a controller, which would send it as a data frame, and
// none comes from an endpoint, which could forge it.
//
// A member with a private backplane would hear itself on the common one. Its own rx feeds every member but itself, and
// no check is wanted anywhere on its way.
func rules(common backplane, members []member) []cangw.Rule {
	var all []cangw.Rule
	add := func(src, dst uint32, flags cangw.Flags, fd bool) {
		all = append(all, cangw.Rule{Src: src, Dst: dst, Flags: flags, Hops: maxHops})
		if fd {
			all = append(all, cangw.Rule{Src: src, Dst: dst, Flags: flags | cangw.FD, Hops: maxHops})
		}
	}
	withErrors := slices.ContainsFunc(members, func(m member) bool { return m.controller })
	for _, m := range members {
		switch {
		case m.controller:
			all = append(all, cangw.Rule{Src: m.dev, Dst: common.tx, Flags: cangw.IIFTxOK, Filter: errorFrames, Hops: maxHops})
		case withErrors && !m.hub:
			all = append(all, cangw.Rule{Src: common.rx, Dst: m.dev, Filter: errorFrames, Hops: maxHops})
		}
		if m.private == (backplane{}) {
			add(m.dev, common.tx, cangw.IIFTxOK, m.fd)
			add(common.rx, m.dev, m.echo(), m.fd)
			continue
		}
		add(m.dev, m.private.tx, cangw.IIFTxOK, m.fd)
		add(common.rx, m.dev, m.echo()|cangw.IIFTxOK, m.fd)
		for _, other := range members {
			if other.dev != m.dev {
				add(m.private.rx, other.dev, other.echo()|cangw.IIFTxOK, m.fd && other.fd)
			}
		}
	}
	return all
}

// echo makes programs on the hub hear a frame. No program listens on a host end, and the copy would loop back into the
// rules that start there.
func (m member) echo() cangw.Flags {
	if m.hub {
		return cangw.Echo
	}
	return 0
}

// compare tells which of the wanted rules have no job, which jobs are a second one of a wanted rule, and which are not
// wanted although they start or end at one of our backplanes, which are ours alone. Other people's jobs do not count, nor
// do those that do more than a rule says (Job.Plain).
func compare(want []cangw.Rule, jobs []cangw.Job, ours ...backplane) (missing, doubled, unwanted []cangw.Rule) {
	count := make(map[cangw.Rule]int, len(jobs))
	for _, j := range jobs {
		if j.Plain {
			count[j.Rule]++
		}
	}
	for _, r := range want {
		switch n := count[r]; n {
		case 0:
			missing = append(missing, r)
		case 1:
		default:
			doubled = append(doubled, slices.Repeat([]cangw.Rule{r}, n-1)...)
		}
		delete(count, r)
	}
	for _, j := range jobs {
		if j.Plain && count[j.Rule] > 0 && slices.ContainsFunc(ours, func(b backplane) bool { return touches(j.Rule, b) }) {
			unwanted = append(unwanted, j.Rule)
		}
	}
	return missing, doubled, unwanted
}

func touches(r cangw.Rule, b backplane) bool {
	return r.Src == b.tx || r.Src == b.rx || r.Dst == b.tx || r.Dst == b.rx
}
