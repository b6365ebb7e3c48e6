package plan

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/cangw"
	"github.com/vxcan/vxcan/pkg/cantc"
	"github.com/vxcan/vxcan/pkg/config"
)

// model is what the kernel does with CAN frames, as far as rules and filters depend on it: can_can_gw_rcv of net/can/gw.c,
// can_send of net/can/af_can.c, vcan_tx of drivers/net/can/vcan.c, vxcan_xmit of drivers/net/can/vxcan.c, sch_handle_ingress
// and sch_handle_egress of net/core/dev.c.
type model struct {
	host    map[uint32]*device // by ifindex: the netns that the rules are in
	jobs    []cangw.Rule
	filters []cantc.Filter
	maxHops uint8 // module parameter max_hops of can-gw, 1 by default
	passed  int   // through jobs, since the last frame was sent
}

type device struct {
	index uint32
	inner bool    // in a container's netns, where there are no rules
	fd    bool    // MTU 72, not 16
	peer  *device // of a vxcan pair
	heard int     // frames that a program that listens here has received
}

// frame is a socket buffer.
type frame struct {
	origin uint32 // can_skb_prv(skb)->ifindex: of the device that a program sent it to, in whatever netns
	mark   uint32 // skb->mark
	skip   bool   // skb->tc_skip_classify: the next ingress does without filters
	hops   uint8  // cgw_hops(skb)
	error  bool   // CAN_ERR_FLAG
	fd     bool
	id     uint32 // can_id, with its flags
}

func (f frame) canID() uint32 {
	if f.error {
		return f.id | unix.CAN_ERR_FLAG
	}
	return f.id
}

// storm is how often one frame may pass the gateway before it counts as going round for ever.
const storm = 10000

func (m *model) add(index uint32, fd bool) *device {
	if m.host[index] != nil {
		panic(fmt.Sprint("two devices with index ", index))
	}
	m.host[index] = &device{index: index, fd: fd}
	return m.host[index]
}

// addPair adds a pair with its other end in the host's netns, too.
func (m *model) addPair(b backplane) {
	m.add(b.tx, true).peer = m.add(b.rx, true)
	m.host[b.rx].peer = m.host[b.tx]
}

// addEndpoint adds a pair and returns its container end.
func (m *model) addEndpoint(index, contIndex uint32, fd bool) *device {
	host := m.add(index, fd)
	host.peer = &device{index: contIndex, inner: true, fd: fd, peer: host}
	return host.peer
}

// send is a program that sends a frame to a device: other programs there hear it, too.
func (m *model) send(d *device, fd bool) {
	m.passed = 0
	m.canSend(d, frame{origin: d.index, fd: fd}, true)
}

// canSend is can_send: loop is CGW_FLAGS_CAN_ECHO, or a program's wish.
func (m *model) canSend(d *device, f frame, loop bool) (sent bool) {
	if f.fd && !d.fd {
		return false // EMSGSIZE
	}
	if !m.xmit(d, f) {
		return false // ENOBUFS
	}
	if loop {
		m.receive(d, f)
	}
	return true
}

// xmit is dev_queue_xmit.
func (m *model) xmit(d *device, f frame) (sent bool) {
	if f.fd && !d.fd || !m.filter(d, cantc.Egress, &f) {
		return false
	}
	if d.peer != nil {
		f.hops = 0
		m.receive(d.peer, f)
	}
	return true
}

// filter runs the filters of a device, and reports whether the frame goes on its way.
func (m *model) filter(d *device, dir cantc.Direction, f *frame) bool {
	if d.inner {
		return true
	}
	for _, filter := range m.filters { // in the order of their priorities
		if filter.Dev != int(d.index) || filter.Dir != dir || runBPF(filter.Program, *f) == 0 {
			continue
		}
		for _, a := range filter.Actions {
			switch {
			case a == cantc.Drop():
				return false
			case a.Kind == cantc.Mark(0).Kind:
				f.mark = a.Mark
			case a == cantc.Copy(a.Dev), a == cantc.Mirror(a.Dev):
				if to := m.host[uint32(a.Dev)]; to != nil {
					m.xmit(to, *f)
				}
			case a == cantc.Deliver(a.Dev):
				if to := m.host[uint32(a.Dev)]; to != nil {
					m.receive(to, *f)
				}
			case a == cantc.Forward(a.Dev):
				if to := m.host[uint32(a.Dev)]; to != nil { // else it has gone
					m.xmit(to, *f)
				}
				return false
			}
		}
	}
	return true
}

// receive is netif_rx: programs that listen on the device, and the gateway's jobs that start there.
func (m *model) receive(d *device, f frame) {
	if !f.skip && !m.filter(d, cantc.Ingress, &f) {
		return
	}
	d.heard++
	if d.inner {
		return
	}
	f.skip = false
	for _, j := range m.jobs {
		dst := m.host[j.Dst]
		switch {
		case j.Src != d.index, dst == nil:
		case (j.Flags&cangw.FD != 0) != f.fd:
		case (j.Filter == ErrorFrames) != f.error:
		case f.hops >= m.maxHops: // "deleted"
		case m.passed > storm:
		case j.Flags&cangw.IIFTxOK == 0 && f.origin == dst.index: // in no counter
		default:
			m.passed++
			hops := f.hops + 1
			if j.Hops != 0 && hops == 1 { // the first job adjusts the counter to its limit
				hops = m.maxHops - j.Hops + 1
			}
			sent := f
			sent.hops = hops
			m.canSend(dst, sent, j.Flags&cangw.Echo != 0)
		}
	}
}

// station is a member and the device that its programs use.
type station struct {
	member
	device *device
}

// build makes the devices of a bus. contIndex gives the container end's ifindex of a member.
func build(members []member, contIndex func(m member) uint32) (*model, []station) {
	m := &model{host: make(map[uint32]*device), jobs: rules(common, members), maxHops: 1}
	m.addPair(common)
	var stations []station
	for _, member := range members {
		m.filters = append(m.filters, filters(common, member)...)
		s := station{member: member}
		if member.hub {
			s.device = m.add(member.dev, member.fd)
		} else {
			s.device = m.addEndpoint(member.dev, contIndex(member), member.fd)
		}
		stations = append(stations, s)
	}
	return m, stations
}

// faults sends a classic and an FD frame from every station, and tells who does not hear exactly what he should: each
// frame of another that he can take once, and of his own nothing but the local echo for his other programs.
func faults(m *model, stations []station) (faults []string) {
	for _, fd := range []bool{false, true} {
		for _, from := range stations {
			if fd && !from.fd {
				continue
			}
			for _, s := range stations {
				s.device.heard = 0
			}
			m.send(from.device, fd)
			for _, to := range stations {
				want := 1
				if fd && !to.fd {
					want = 0
				}
				if got := to.device.heard; got != want {
					faults = append(faults, fmt.Sprintf("FD %v: %d hears %d %d times, want %d", fd, to.dev, from.dev, got, want))
				}
			}
		}
	}
	return faults
}

// anyAccess is what an endpoint without a policy may do.
func anyAccess() access {
	a, err := compile(config.Policy{})
	if err != nil {
		panic(err)
	}
	return a
}

// randomMembers is a bus with up to most endpoints.
func randomMembers(random *rand.Rand, controller bool, most int) []member {
	members := []member{{dev: hub, hub: true, controller: controller, fd: random.IntN(4) > 0}}
	for i := range uint32(random.IntN(most + 1)) {
		members = append(members, member{dev: 10 + i, fd: members[0].fd && random.IntN(3) > 0, access: anyAccess()})
	}
	random.Shuffle(len(members), func(i, j int) { members[i], members[j] = members[j], members[i] })
	return members
}

// worstIndexes gives container ends the ifindexes of the host's devices.
func worstIndexes(random *rand.Rand, members []member) func(member) uint32 {
	all, _ := build(members, func(m member) uint32 { return m.dev })
	var taken []uint32
	for index := range all.host {
		taken = append(taken, index)
	}
	slices.Sort(taken)
	return func(member) uint32 { return taken[random.IntN(len(taken))] }
}

func TestEveryoneHearsEveryoneOnce(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	for range 3000 {
		members := randomMembers(random, false, 8)
		m, stations := build(members, worstIndexes(random, members))
		m.maxHops = uint8(1 + random.IntN(6)) // CGW_MAX_HOPS
		if faults := faults(m, stations); len(faults) > 0 {
			t.Fatalf("%+v:\n%v", members, faults)
		}
	}
}

// TestForgedFrames: a container chooses a frame's origin and mark. All others hear it once, and it does not. With
// tc_skip_classify, nobody does.
func TestForgedFrames(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 8))
	for range 500 {
		members := randomMembers(random, random.IntN(2) == 0, 6)
		m, stations := build(members, worstIndexes(random, members))
		for _, from := range stations {
			if from.hub {
				continue
			}
			for _, s := range stations {
				s.device.heard = 0
			}
			forged := stations[random.IntN(len(stations))].dev
			skip := random.IntN(2) == 0
			m.xmit(from.device, frame{origin: forged, mark: forged, skip: skip})
			for _, to := range stations {
				want := 1
				if skip || to.dev == from.dev {
					want = 0
				}
				if got := to.device.heard; got != want {
					t.Fatalf("%+v: %d hears a frame of %d, made to look like one of %d, %d times, want %d", members, to.dev, from.dev, forged, got, want)
				}
			}
		}
	}
}

// TestErrorFrames: a controller's error frames reach each endpoint once, and nothing else. A forged one reaches nothing.
func TestErrorFrames(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 6))
	for range 500 {
		members := randomMembers(random, true, 5)
		m, stations := build(members, worstIndexes(random, members))
		m.maxHops = uint8(1 + random.IntN(6))
		if faults := faults(m, stations); len(faults) > 0 {
			t.Fatalf("%+v:\n%v", members, faults)
		}
		for _, from := range stations {
			for _, s := range stations {
				s.device.heard = 0
			}
			if from.hub { // the driver hands it up: nothing is sent
				m.receive(from.device, frame{origin: from.dev, error: true})
			} else {
				m.canSend(from.device, frame{origin: from.device.index, error: true}, true)
			}
			for _, to := range stations {
				want := 0
				if from.hub || to.dev == from.dev {
					want = 1
				}
				if got := to.device.heard; got != want {
					t.Fatalf("%+v: %d hears an error frame of %d %d times, want %d", members, to.dev, from.dev, got, want)
				}
			}
		}
	}
}

// The model sees what goes wrong on a real kernel without one part or the other, so that it can be believed when nothing
// does.
func TestModelSeesFaults(t *testing.T) {
	members := []member{{dev: hub, hub: true, fd: true}}
	for _, dev := range []uint32{a, b, c} {
		members = append(members, member{dev: dev, fd: true, access: anyAccess()})
	}
	noFlag := func(flag cangw.Flags, dst uint32) func(m *model) {
		return func(m *model) {
			for i, r := range m.jobs {
				if r.Dst == dst {
					m.jobs[i].Flags &^= flag
				}
			}
		}
	}
	noFilter := func(dev int, dir cantc.Direction) func(m *model) {
		return func(m *model) {
			m.filters = slices.DeleteFunc(m.filters, func(f cantc.Filter) bool { return f.Dev == dev && f.Dir == dir })
		}
	}
	otherIndex := func(m member) uint32 { return 1000 + m.dev }
	for name, test := range map[string]struct {
		contIndex func(m member) uint32
		spoil     func(m *model)
	}{
		"container end with the index of another's host end, and no IIFTxOK: lost": {
			func(m member) uint32 {
				if m.dev == a {
					return b
				}
				return m.dev
			},
			noFlag(cangw.IIFTxOK, b),
		},
		"no echo: programs on the hub hear nothing":          {otherIndex, noFlag(cangw.Echo, hub)},
		"own frames not dropped: an endpoint hears itself":   {otherIndex, noFilter(a, cantc.Egress)},
		"own frames not dropped: programs on the hub do too": {otherIndex, noFilter(hub, cantc.Egress)},
		"not forwarded: not heard":                           {otherIndex, noFilter(a, cantc.Ingress)},
		"not marked: programs on the hub hear themselves":    {otherIndex, noFilter(hub, cantc.Ingress)},
		"max_hops=2 and no hop limit: a storm": {
			otherIndex, func(m *model) {
				noFilter(hub, cantc.Egress)(m)
				m.maxHops = 2
				for i := range m.jobs {
					m.jobs[i].Hops = 0
				}
			},
		},
		"a rule twice":   {otherIndex, func(m *model) { m.jobs = append(m.jobs, m.jobs[5]) }},
		"a rule missing": {otherIndex, func(m *model) { m.jobs = m.jobs[1:] }},
		"no backplane, all through the hub: hop limit": {
			otherIndex, func(m *model) {
				m.jobs, m.filters = nil, nil
				for _, dev := range []uint32{a, b, c} {
					for _, fd := range []cangw.Flags{0, cangw.FD} {
						m.jobs = append(m.jobs, cangw.Rule{Src: dev, Dst: hub, Flags: cangw.Echo | fd}, cangw.Rule{Src: hub, Dst: dev, Flags: fd})
					}
				}
			},
		},
	} {
		m, stations := build(members, test.contIndex)
		test.spoil(m)
		if len(faults(m, stations)) == 0 {
			t.Errorf("%s: not seen", name)
		}
	}
	if m, stations := build(members, otherIndex); len(faults(m, stations)) > 0 {
		t.Error(faults(m, stations))
	}
}
