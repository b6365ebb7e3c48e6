package plan

import (
	"slices"

	"github.com/vxcan/vxcan/pkg/cangw"
)

// backplane is the ifindexes of a vxcan pair in the host netns: what is sent into tx comes out of rx, with the
// gateway's hop counter back at 0, so that one more rule may pass it on.
type backplane struct {
	tx, rx uint32
	copies bool     // filters give each member its frames, in place of rules
	trunks []uint32 // members that are on other hosts, see Trunk
	open   bool     // trunks take all, as the key unprotected allows
}

// member is a device that sends and receives on a bus: its hub, and the host end of every endpoint.
type member struct {
	dev        uint32 // ifindex
	fd         bool   // takes CAN FD frames
	hub        bool
	controller bool // of a hub: it is hardware, which reports what happens on the wire in error frames
	access          // of an endpoint
	deaf       bool // another program holds the place of a filter that it needs: an endpoint receives nothing, a controller is off the bus
}

// maxHops lets a frame pass one rule, whatever max_hops of can-gw allows. With more, what the hub echoes would go round for ever.
const maxHops = 1

// ErrorFrames takes error frames of all classes and nothing else (CAN_ERR_FLAG and CAN_ERR_MASK of linux/can.h as mask,
// find_rcv_list of net/can/af_can.c). The gateway drops them unless a rule asks for them.
var ErrorFrames = cangw.Filter{Mask: 0x3fffffff}

// rules is which rules a bus must have: all of them, each exactly once.
//
// The backplane's rx feeds every member. Filters keep a member from hearing itself: the gateway's own check, by source ifindex,
// is off (IIFTxOK), because a container can choose what it finds there.
//
// The hub's frames get to tx by a rule, with its hop limit, because what is sent to the hub with Echo comes back from it;
// an endpoint's by its filter. Error frames of a controller, of this host or another one, go to the endpoints and to programs
// on a vcan. None goes to a controller, which would send it as a data frame.
func rules(common backplane, members []member) (all []cangw.Rule) {
	if common.copies {
		return nil
	}
	add := func(src, dst uint32, flags cangw.Flags, fd bool) {
		all = append(all, cangw.Rule{Src: src, Dst: dst, Flags: flags | cangw.IIFTxOK, Hops: maxHops})
		if fd {
			all = append(all, cangw.Rule{Src: src, Dst: dst, Flags: flags | cangw.IIFTxOK | cangw.FD, Hops: maxHops})
		}
	}
	addErrors := func(src, dst uint32, flags cangw.Flags) {
		all = append(all, cangw.Rule{Src: src, Dst: dst, Flags: flags | cangw.IIFTxOK, Filter: ErrorFrames, Hops: maxHops})
	}
	withErrors := slices.ContainsFunc(members, func(m member) bool { return m.controller }) || len(common.trunks) > 0
	for _, m := range members {
		if m.deaf {
			continue
		}
		if !m.hub {
			if withErrors {
				addErrors(common.rx, m.dev, 0)
			}
			add(common.rx, m.dev, 0, m.fd)
			continue
		}
		if m.controller {
			addErrors(m.dev, common.tx, 0)
		} else if withErrors { // of a controller on another host
			addErrors(common.rx, m.dev, cangw.Echo)
		}
		add(m.dev, common.tx, 0, m.fd)
		add(common.rx, m.dev, cangw.Echo, m.fd) // for programs on the hub
	}
	return all
}

// compare reports which of the wanted rules have no job, and which jobs are not wanted: a second one of a wanted rule, and
// any that starts or ends at our backplane, which is ours alone, or connects the hub with another backplane, as it did under
// another name. foreign are other people's jobs from or to the hub.
func compare(want []cangw.Rule, jobs []cangw.Job, ours backplane, hub uint32, isBackplane func(dev uint32) bool) (missing []cangw.Rule, doubled, unwanted, foreign []cangw.Job) {
	count := make(map[cangw.Rule]int, len(want)) // how often each wanted rule has been seen
	for _, r := range want {
		count[r] = 0
	}
	for _, j := range jobs {
		n, wanted := count[j.Rule]
		switch {
		case wanted && j.Plain:
			if count[j.Rule]++; n > 0 {
				doubled = append(doubled, j)
			}
		case touches(j.Rule, ours), hub != 0 && (j.Src == hub && isBackplane(j.Dst) || j.Dst == hub && isBackplane(j.Src)):
			unwanted = append(unwanted, j)
		case hub != 0 && (j.Src == hub || j.Dst == hub):
			foreign = append(foreign, j)
		}
	}
	for _, r := range want {
		if count[r] == 0 {
			missing = append(missing, r)
		}
	}
	return missing, doubled, unwanted, foreign
}

func touches(r cangw.Rule, b backplane) bool {
	return r.Src == b.tx || r.Src == b.rx || r.Dst == b.tx || r.Dst == b.rx
}
