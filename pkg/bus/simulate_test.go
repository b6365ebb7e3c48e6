package bus

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/vxcan/vxcan/pkg/cangw"
)

// model is what the kernel does with CAN frames, as far as rules depend on it: can_can_gw_rcv of net/can/gw.c, can_send
// of net/can/af_can.c, vcan_tx of drivers/net/can/vcan.c, vxcan_xmit of drivers/net/can/vxcan.c.
type model struct {
	host    map[uint32]*device // by ifindex: the netns that the rules are in
	jobs    []cangw.Rule
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
	hops   uint8  // cgw_hops(skb)
	error  bool   // CAN_ERR_FLAG
	fd     bool
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
	if d.peer != nil {
		m.receive(d.peer, frame{origin: f.origin, error: f.error, fd: f.fd}) // with the hop counter reset
	}
	if loop {
		m.receive(d, f)
	}
	return true
}

// receive is netif_rx: programs that listen on the device, and the gateway's jobs that start there.
func (m *model) receive(d *device, f frame) {
	d.heard++
	if d.inner {
		return
	}
	for _, j := range m.jobs {
		dst := m.host[j.Dst]
		switch {
		case j.Src != d.index:
		case (j.Flags&cangw.FD != 0) != f.fd:
		case (j.Filter == errorFrames) != f.error:
		case f.hops >= m.maxHops: // "deleted"
		case m.passed > storm:
		case j.Flags&cangw.IIFTxOK == 0 && f.origin == dst.index: // in no counter
		default:
			m.passed++
			hops := f.hops + 1
			if j.Hops != 0 && hops == 1 { // the first job adjusts the counter to its limit
				hops = m.maxHops - j.Hops + 1
			}
			m.canSend(dst, frame{origin: f.origin, hops: hops, error: f.error, fd: f.fd}, j.Flags&cangw.Echo != 0)
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
		if member.private != (backplane{}) {
			m.addPair(member.private)
		}
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

// sameIndex is how endpoints are made: both ends share an ifindex.
func sameIndex(m member) uint32 { return m.dev }

func TestEveryoneHearsEveryoneOnce(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	for range 3000 {
		members := []member{{dev: hub, hub: true, fd: random.IntN(4) > 0}}
		for i := range uint32(random.IntN(9)) {
			m := member{dev: 10 + i, fd: members[0].fd && random.IntN(3) > 0}
			if random.IntN(3) == 0 {
				m.private = backplane{tx: 200 + 2*i, rx: 201 + 2*i}
			}
			members = append(members, m)
		}
		random.Shuffle(len(members), func(i, j int) { members[i], members[j] = members[j], members[i] })
		// The worst indexes that a private member's container end can get are those of the host's devices.
		var taken []uint32
		all, _ := build(members, sameIndex)
		for index := range all.host {
			taken = append(taken, index)
		}
		slices.Sort(taken)
		m, stations := build(members, func(m member) uint32 {
			if m.private == (backplane{}) {
				return sameIndex(m)
			}
			return taken[random.IntN(len(taken))]
		})
		m.maxHops = uint8(1 + random.IntN(6)) // CGW_MAX_HOPS
		if faults := faults(m, stations); len(faults) > 0 {
			t.Fatalf("%+v:\n%v", members, faults)
		}
	}
}

// TestErrorFrames: a controller's error frames reach each endpoint once, and nothing else. A forged one reaches nothing.
func TestErrorFrames(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 6))
	for range 500 {
		members := []member{{dev: hub, hub: true, controller: true, fd: random.IntN(2) == 0}}
		for i := range uint32(random.IntN(6)) {
			m := member{dev: 10 + i, fd: members[0].fd && random.IntN(3) > 0}
			if random.IntN(3) == 0 {
				m.private = backplane{tx: 200 + 2*i, rx: 201 + 2*i}
			}
			members = append(members, m)
		}
		m, stations := build(members, func(m member) uint32 {
			if m.private == (backplane{}) {
				return sameIndex(m)
			}
			return 1000 + m.dev
		})
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

// The model sees what goes wrong on a real kernel without one flag or the other, so that it can be believed when nothing
// does.
func TestModelSeesFaults(t *testing.T) {
	members := []member{{dev: hub, hub: true, fd: true}, {dev: a, fd: true}, {dev: b, fd: true}, {dev: c, fd: true}}
	drop := func(flag cangw.Flags, match func(r cangw.Rule) bool) func(m *model) {
		return func(m *model) {
			for i, r := range m.jobs {
				if match(r) {
					m.jobs[i].Flags &^= flag
				}
			}
		}
	}
	for name, test := range map[string]struct {
		contIndex func(m member) uint32
		spoil     func(m *model)
	}{
		"ends with different indexes: hears itself": {func(m member) uint32 { return 1000 + m.dev }, func(*model) {}},
		"container end with the index of tx, and no IIFTxOK: lost": {
			func(m member) uint32 {
				if m.dev == a {
					return tx
				}
				return m.dev
			},
			drop(cangw.IIFTxOK, func(r cangw.Rule) bool { return r.Dst == tx }),
		},
		"container end with the index of another's host end: lost": {
			func(m member) uint32 {
				if m.dev == a {
					return b
				}
				return m.dev
			},
			func(*model) {},
		},
		"no echo: programs on the hub hear nothing": {
			sameIndex, drop(cangw.Echo, func(r cangw.Rule) bool { return r.Dst == hub }),
		},
		"IIFTxOK on the way back: hears itself": {
			sameIndex, func(m *model) {
				for i, r := range m.jobs {
					if r.Src == rx && r.Dst == a {
						m.jobs[i].Flags |= cangw.IIFTxOK
					}
				}
			},
		},
		"max_hops=2 and no hop limit: a storm": {
			sameIndex, func(m *model) {
				m.maxHops = 2
				for i := range m.jobs {
					m.jobs[i].Hops = 0
				}
			},
		},
		"a rule twice":   {sameIndex, func(m *model) { m.jobs = append(m.jobs, m.jobs[5]) }},
		"a rule missing": {sameIndex, func(m *model) { m.jobs = m.jobs[1:] }},
		"no backplane, all through the hub: hop limit": {
			sameIndex, func(m *model) {
				m.jobs = nil
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
	if m, stations := build(members, sameIndex); len(faults(m, stations)) > 0 {
		t.Error(faults(m, stations))
	}
}
