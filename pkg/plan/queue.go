package plan

import (
	"slices"

	"github.com/vxcan/vxcan/pkg/canlink"
	"github.com/vxcan/vxcan/pkg/cantc"
)

// On a controller, the frames of all members wait for the wire. In one queue, a member that sends more than the wire takes
// leaves the others no place. So each endpoint has a class of its own there (see cantc.Queue), which gets its frames by the mark
// that its filter sets; programs of the host share one more.

// queues reports whether each endpoint must have a class, or may have asked for the one that it has. A chosen qdisc stays.
func (w Want) queues(v View) bool {
	hub := v.Link(w.Hub.Name)
	return (w.fair || v.Queue.Ours && w.hasFound()) && hub.CAN && hub.Kind != canlink.Vcan && !v.Queue.Chosen && v.QueueLacks == ""
}

// SharesQueue reports that the administrator has chosen one transmit queue for all where each endpoint should have its own.
func (w Want) SharesQueue(v View) bool { return w.fair && v.Queue.Chosen }

// diffQueue compares the classes of the hub's transmit queue. The class of the endpoint that is being attached is added to own.
// A class that is no member's is no damage: it is deleted after its last frame is sent.
func (w Want) diffQueue(v View, attaching uint32, own *Wiring, all *differences) {
	wanted := []uint32{0}
	var missing []uint32 // by their marks
	if w.queues(v) {
		for i := range w.Endpoints {
			wanted = append(wanted, uint32(w.Endpoints[i].Host.Index))
		}
		wanted = append(wanted, w.trunksThere(v)...)
		for _, mark := range wanted {
			switch {
			case v.Queue.Class(mark) != nil:
			case mark != 0 && mark == attaching:
				own.AddClasses = []uint32{mark}
			default:
				missing = append(missing, mark)
			}
		}
	}
	var unwanted []cantc.Class
	for _, c := range v.Queue.Classes {
		is := func(mark uint32) bool { return cantc.ClassOf(mark).ID == c.ID }
		if !slices.ContainsFunc(wanted, is) && (c.Filter || c.Waiting == 0) {
			unwanted = append(unwanted, c)
		}
	}
	if len(missing) > 0 {
		all.add(ClassMissing, Change{Wiring: Wiring{AddClasses: missing}},
			"the transmit queue of controller %s lacks %d of its %d classes (tc class show dev %[1]s): containers share one queue",
			Quote(w.Hub.Name), len(missing), len(wanted))
	}
	if len(unwanted) > 0 {
		*all = append(*all, Difference{Kind: ClassUnwanted, Change: Change{Wiring: Wiring{DeleteClasses: unwanted}}})
	}
}
