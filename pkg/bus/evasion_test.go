package bus

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"
	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/cantest"
	"github.com/vxcan/vxcan/pkg/config"
)

// evader is a container that has CAP_NET_ADMIN in its netns, and tries to say and hear what it may not.
type evader struct {
	w     *world
	netns ns.NetNS
	enter []string // a command that runs commands in its user namespace
	end   Result
}

// evaderPolicy lets one ID pass both ways, one out, and one in. expectExactlyOnce sends others.
var evaderPolicy = config.Policy{Send: "300,310", Receive: "300,400"}

// newEvader puts the container on the bus. mapped tells that its netns belongs to a user namespace.
func newEvader(w *world, mapped bool) *evader {
	w.t.Helper()
	e := &evader{w: w}
	if mapped {
		sleep := exec.Command("unshare", "--user", "--map-root-user", "--net", "sleep", "1000")
		if err := sleep.Start(); err != nil {
			w.t.Fatal(err)
		}
		w.t.Cleanup(func() {
			_ = sleep.Process.Kill()
			_ = sleep.Wait()
		})
		pid := fmt.Sprint(sleep.Process.Pid)
		for exe := ""; !strings.HasSuffix(exe, "sleep"); time.Sleep(time.Millisecond) { // it is in its namespaces by then
			exe, _ = os.Readlink("/proc/" + pid + "/exe")
		}
		netns, err := ns.GetNS("/proc/" + pid + "/ns/net")
		if err != nil {
			w.t.Fatal(err)
		}
		w.t.Cleanup(func() { netns.Close() })
		e.netns, e.enter = netns, []string{"nsenter", "--target", pid, "--user", "--net", "--preserve-credentials"}
	} else {
		e.netns = cantest.NewNetns(w.t)
	}
	e.end = w.attachAs("evader", e.netns, evaderPolicy, false)
	return e
}

// run runs commands in the container. In the words of a command, _ is a blank.
func (e *evader) run(lines ...string) {
	e.w.t.Helper()
	for _, line := range lines {
		words := append(e.enter, strings.Fields(line)...)
		for i := range words {
			words[i] = strings.ReplaceAll(words[i], "_", " ")
		}
		if err := e.netns.Do(func(ns.NetNS) error {
			out, err := exec.Command(words[0], words[1:]...).CombinedOutput()
			if err != nil {
				return fmt.Errorf("%s: %w: %s", line, err, out)
			}
			return nil
		}); err != nil {
			e.w.t.Fatal(err)
		}
	}
}

// packet is what a packet socket sends or sees.
type packet struct {
	protocol uint16
	data     string
	outgoing bool
}

func (p packet) id() uint32 {
	if len(p.data) < 4 {
		return 0
	}
	return binary.NativeEndian.Uint32([]byte(p.data[:4]))
}

// isFrame reports whether the kernel takes a packet for a frame of CAN or CAN FD (can_dropped_invalid_skb of
// drivers/net/can/dev/skb.c).
func (p packet) isFrame() bool {
	return p.protocol == unix.ETH_P_CAN && len(p.data) == 16 && p.data[4] <= 8 ||
		p.protocol == unix.ETH_P_CANFD && len(p.data) == 72 && p.data[4] <= 64
}

func (p packet) String() string {
	return fmt.Sprintf("protocol %04X, %d bytes, ID %08X", p.protocol, len(p.data), p.id())
}

// openPackets opens a packet socket on an interface. Without a protocol it only sends.
func openPackets(t testing.TB, at port, protocol int) (fd, index int) {
	t.Helper()
	err := at.netns.Do(func(ns.NetNS) error {
		iface, err := net.InterfaceByName(at.name)
		if err != nil {
			return err
		}
		index = iface.Index
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
			return err
		}
		return errors.Join(
			cantest.GrowReceiveQueue(fd, 64<<20),
			unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: bigEndian(uint16(protocol)), Ifindex: index}))
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd, index
}

func bigEndian(n uint16) uint16 { return binary.NativeEndian.Uint16([]byte{byte(n >> 8), byte(n)}) }

// tap sees every packet of an interface, whether it is a frame or not.
type tap struct {
	t  testing.TB
	fd int
}

func newTap(t testing.TB, at port) tap {
	t.Helper()
	fd, _ := openPackets(t, at, unix.ETH_P_ALL)
	return tap{t, fd}
}

// seen returns what was seen since the last call, once that is all.
func (p tap) seen() (all []packet) {
	p.t.Helper()
	buffer := make([]byte, 4096)
	for quiet := 0; quiet < 10; {
		n, from, err := unix.Recvfrom(p.fd, buffer, 0)
		if errors.Is(err, unix.EAGAIN) {
			quiet++
			time.Sleep(10 * time.Millisecond)
			continue
		} else if err != nil {
			p.t.Fatal(err)
		}
		quiet = 0
		link := from.(*unix.SockaddrLinklayer)
		all = append(all, packet{bigEndian(link.Protocol), string(buffer[:n]), link.Pkttype == unix.PACKET_OUTGOING})
	}
	return all
}

// tries are all packets that an evader sends: right and wrong protocols, lengths, IDs and flags.
func tries() (all []packet) {
	ids := []uint32{
		0x300, 0x300 | unix.CAN_RTR_FLAG, 0x300 | 0x5555<<11, 0x310, // what it may send
		0x301, 0x400, 0, 0x7ff, 0x301 | 0x300<<11, 0x300 | unix.CAN_EFF_FLAG, 0x301 | unix.CAN_RTR_FLAG, 0x300<<18 | unix.CAN_EFF_FLAG,
		0x300 | unix.CAN_ERR_FLAG, 0x310 | unix.CAN_ERR_FLAG | unix.CAN_EFF_FLAG, 0xffffffff,
	}
	for _, id := range ids {
		for _, protocol := range []uint16{unix.ETH_P_CAN, unix.ETH_P_CANFD, unix.ETH_P_CANXL, unix.ETH_P_IP, unix.ETH_P_8021Q, unix.ETH_P_ALL} {
			for _, size := range []int{1, 3, 4, 8, 15, 16, 17, 71, 72, 73, 100} {
				data := make([]byte, 100)
				binary.NativeEndian.PutUint32(data, id)
				data[4] = 8
				if protocol == unix.ETH_P_CANXL { // struct canxl_frame: flags, type, length of the data
					data[4] = 0x80
					binary.NativeEndian.PutUint16(data[6:], uint16(max(1, size-12)))
				}
				all = append(all, packet{protocol: protocol, data: string(data[:size])})
			}
		}
		for _, length := range []byte{9, 64, 65, 255} { // more data than there are, or than there may be
			data := make([]byte, 72)
			binary.NativeEndian.PutUint32(data, id)
			data[4] = length
			all = append(all, packet{protocol: unix.ETH_P_CAN, data: string(data[:16])}, packet{protocol: unix.ETH_P_CANFD, data: string(data)})
		}
	}
	return all
}

// sendAll sends all tries from an interface, in several ways, and returns how many must pass.
func (e *evader) sendAll(from port, mark int) (allowed int) {
	e.w.t.Helper()
	may := mustParse(e.w.t, evaderPolicy.Send)
	for _, bypass := range []int{0, 1} {
		for _, mark := range []int{0, mark} {
			fd, index := openPackets(e.w.t, from, 0)
			if err := errors.Join(
				unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, bypass),
				unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, mark),
				unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PRIORITY, mark), // TC_H_MAKE of a class, for all we know
			); err != nil {
				e.w.t.Fatal(err)
			}
			for _, p := range tries() {
				err := unix.Sendto(fd, []byte(p.data), 0, &unix.SockaddrLinklayer{Protocol: bigEndian(p.protocol), Ifindex: index})
				if err == nil && p.isFrame() && may.Contains(p.id()) {
					allowed++
				}
			}
			unix.Close(fd)
		}
	}
	return allowed
}

// evasions are what a container does to its own netns, and these are indexes of the host's devices: HUB, TX, RX, and OTHER
// of another host end.
var evasions = []struct {
	name     string
	commands []string
	do       func(e *evader)
	from     string   // the interface it sends from, "" is can0
	to       string   // and hears on, the same
	mute     bool     // there is none then
	fewer    bool     // not all that may pass does
	words    []string // of CHECK
}{
	{name: "nothing"},
	{name: "a queue of its own", commands: []string{"tc qdisc add dev can0 root prio"}},
	{
		name:     "the hub's mark",
		commands: []string{"tc qdisc add dev can0 clsact", "tc filter add dev can0 egress protocol all matchall action skbedit mark HUB priority 1:1"},
	},
	{
		name:     "another member's mark",
		commands: []string{"tc qdisc add dev can0 clsact", "tc filter add dev can0 egress protocol all matchall action skbedit mark OTHER"},
	},
	{
		name:     "other IDs",
		commands: []string{"tc qdisc add dev can0 clsact", "tc filter add dev can0 egress protocol all matchall action pedit munge offset 0 u32 set 0x01030000"},
		fewer:    true,
	},
	{
		name:     "VLAN tags",
		commands: []string{"tc qdisc add dev can0 clsact", "tc filter add dev can0 egress protocol all matchall action vlan push id 5"},
		fewer:    true,
	},
	{
		name: "frames that no filter sees",
		commands: []string{
			"ip link add ifb0 type ifb", "ip link set ifb0 up", "tc qdisc add dev can0 clsact",
			"tc filter add dev can0 egress protocol all prio 1 handle 1 bpf bytecode 4,32_0_0_4294963220,21_1_0_0,6_0_0_0,6_0_0_4294967295," +
				" action skbedit mark 77 pipe action mirred egress redirect dev ifb0",
		},
		fewer: true,
	},
	{name: "the hub's index", commands: forge("HUB"), from: "forge", fewer: true},
	{name: "the index of tx", commands: forge("TX"), from: "forge", fewer: true},
	{name: "the index of rx", commands: forge("RX"), from: "forge", fewer: true},
	{name: "another host end's index", commands: forge("OTHER"), from: "forge", fewer: true},
	{
		name: "a way in from another pair",
		commands: []string{
			"ip link add x0 mtu 72 type vxcan peer name x1 mtu 72", "ip link set x0 up", "ip link set x1 up",
			"tc qdisc add dev x1 clsact", "tc filter add dev x1 ingress protocol all matchall action mirred egress redirect dev can0",
		},
		from: "x0",
	},
	{
		name: "what it hears is sent",
		commands: []string{
			"tc qdisc add dev can0 clsact", "tc filter add dev can0 ingress protocol all matchall action mirred egress redirect dev can0",
		},
	},
	{
		name: "what it hears is sent once more",
		commands: []string{
			"tc qdisc add dev can0 clsact", "tc filter add dev can0 ingress protocol all matchall action mirred egress mirror dev can0",
		},
	},
	{
		name: "its interface goes", commands: []string{"ip link del can0"}, mute: true,
		words: []string{"host end HOSTIF is missing: remove the container and start it again"},
	},
	{
		name:     "another name",
		commands: []string{"ip link set can0 down", "ip link set can0 name other", "ip link set other up"}, from: "other", to: "other",
		words: []string{"container end is named other, which ADD did not say: remove the container and start it again"},
	},
	{
		name: "down", commands: []string{"ip link set can0 down"}, mute: true,
		words: []string{"container end can0 is down: ip link set can0 up in the container"},
	},
	{name: "down and up", commands: []string{"ip link set can0 down", "ip link set can0 up"}},
	{
		name:     "classic MTU",
		commands: []string{"ip link set can0 down", "ip link set can0 mtu 16", "ip link set can0 up"}, fewer: true,
		words: []string{"have MTU 72 and 16, want 72"},
	},
	{
		name:     "MTU of CAN XL",
		commands: []string{"ip link set can0 down", "ip link set can0 mtu 2060", "ip link set can0 up"},
		words:    []string{"have MTU 72 and 2060, want 72"},
	},
	{
		name: "another netns of its own",
		do: func(e *evader) {
			inner := cantest.NewNetns(e.w.t)
			e.w.move(e.netns, "can0", inner)
			e.w.up(inner, "can0")
			e.netns = inner
		},
		words: []string{"container end of HOSTIF is not in "},
	},
}

// forge makes a device of a chosen index; what is sent on it goes to can0.
func forge(index string) []string {
	return []string{
		"ip link add forge index " + index + " mtu 72 type vcan", "ip link set forge up", "tc qdisc add dev forge clsact",
		"tc filter add dev forge egress protocol all matchall action mirred egress redirect dev can0",
	}
}

// TestEvasion: a container with CAP_NET_ADMIN in its netns, which belongs to the host's user namespace or to one of its
// own, tries to get more onto the bus, or off it, than its policy says. Nothing else comes through, the others hear each
// other exactly once, CHECK says what is wrong, and the container's own ADD repairs it.
func TestEvasion(t *testing.T) {
	w := newWorld(t)
	a, b := cantest.NewNetns(t), cantest.NewNetns(t)
	endA, endB := w.attachAs("a", a, config.Policy{}, false), w.attachAs("b", b, config.Policy{}, true)
	others := []port{{w.netns, "vcan0"}, {a, endA.ContIf}, {b, endB.ContIf}}
	index := w.indexes("vcan0", "vcan0-tx", "vcan0-rx", endA.HostIf)
	for _, mapped := range []bool{false, true} {
		for i, v := range evasions {
			if !cantest.IsThorough() && (mapped == (i%2 == 0) || (i/2%2 > 0) == testing.Short()) { // a quarter, and with -short another
				continue
			}
			t.Run(fmt.Sprintf("%s, user namespace %v", v.name, mapped), func(t *testing.T) {
				w.t = t
				e := newEvader(w, mapped)
				defer func() {
					w.do(func() error {
						return w.host.Detach(context.Background(), "vcan0", request("vcan0", "evader", w.crowd).Attachment)
					})
				}()
				words := strings.NewReplacer("HUB", fmt.Sprint(index[0]), "TX", fmt.Sprint(index[1]), "RX", fmt.Sprint(index[2]),
					"OTHER", fmt.Sprint(index[3]), "HOSTIF", e.end.HostIf)
				at := e.netns
				for _, line := range v.commands {
					e.run(words.Replace(line))
				}
				if v.do != nil {
					v.do(e)
				}
				if !v.mute {
					e.expectSent(port{e.netns, cmp.Or(v.from, "can0")}, others, v.fewer)
					e.expectHeard(port{e.netns, cmp.Or(v.to, "can0")}, others[0], others[1])
				}
				w.expectExactlyOnce(others...)

				err := w.checkAs("evader", at, evaderPolicy, "can0")
				if len(v.words) == 0 {
					if err != nil {
						t.Errorf("CHECK: %v", err)
					}
					return
				}
				for _, word := range v.words {
					if word = words.Replace(word); err == nil || !strings.Contains(err.Error(), word) {
						t.Errorf("CHECK: %v, want %q", err, word)
					}
				}
				end := w.attachAs("evader", at, evaderPolicy, false)
				if err := w.checkAs("evader", at, evaderPolicy, end.ContIf); err != nil {
					t.Errorf("CHECK after its ADD: %v", err)
				}
				e.expectSent(port{at, end.ContIf}, others, false)
			})
			w.t = t
		}
	}
}

// expectSent lets the evader send all that it can, and fails the test unless the others, of which the first is the hub,
// hear what it may send and nothing else.
func (e *evader) expectSent(from port, others []port, fewer bool) {
	t := e.w.t
	t.Helper()
	var taps []tap
	for _, o := range others {
		taps = append(taps, newTap(t, o))
	}
	allowed := e.sendAll(from, e.w.indexes("vcan0-rx")[0])
	may := mustParse(t, evaderPolicy.Send)
	for i, p := range taps {
		heard := 0
		for _, f := range p.seen() {
			if f.outgoing != (i == 0 && !cantest.IsRootless()) { // of the hub's, one is the echo
				continue
			}
			heard++
			if !f.isFrame() || !may.Contains(f.id()) {
				t.Errorf("%s hears %s", others[i].name, f)
			}
		}
		if heard > allowed || heard < allowed && !fewer {
			t.Errorf("%s hears %d frames, want %d", others[i].name, heard, allowed)
		}
		if i == 0 {
			t.Logf("%d of %d frames pass that it may send, and none else", heard, allowed)
		}
	}
}

// expectHeard lets another one send, and fails the test unless the evader hears nothing that it may not. What it hears it
// may send back once, as any program could.
func (e *evader) expectHeard(ear, hub, from port) {
	t := e.w.t
	t.Helper()
	count, l, s := newTap(t, hub), newTap(t, ear), cantest.NewSender(t, from.netns, from.name)
	defer s.Close()
	const sent = 10
	for i := range uint32(sent) {
		for _, id := range []uint32{0x300, 0x400, 0x401 + i, 0x310, 0x300 | unix.CAN_EFF_FLAG} {
			if err := s.Send(cantest.Frame{ID: id}); err != nil {
				t.Error(err)
			}
		}
	}
	passages := 0
	for _, p := range count.seen() {
		if p.outgoing != cantest.IsRootless() { // there the hub hears by a filter
			passages++
		}
	}
	if passages != 5*sent && passages != 6*sent {
		t.Errorf("%d frames become %d, want as many, or those that it may send once more", 5*sent, passages)
	}
	may := mustParse(t, evaderPolicy.Receive)
	for _, p := range l.seen() {
		if !p.outgoing && !may.Contains(p.id()) {
			t.Errorf("it hears %s", p)
		}
	}
}

// TestLoops: two containers send back all that they hear, in the kernel, and so give each frame to each other for ever. A
// rate ends that.
func TestLoops(t *testing.T) {
	w := newWorld(t)
	for _, id := range []string{"one", "two"} {
		e := &evader{w: w, netns: cantest.NewNetns(t)}
		w.attachAs(id, e.netns, config.Policy{Rate: 100}, false)
		e.run("tc qdisc add dev can0 clsact", "tc filter add dev can0 ingress protocol all matchall action mirred egress redirect dev can0")
	}
	hub := port{w.netns, "vcan0"}
	count, s := newTap(t, hub), cantest.NewSender(t, hub.netns, hub.name)
	start := time.Now()
	for range 5 {
		if err := s.Send(cantest.Frame{ID: 0x123}); err != nil {
			t.Error(err)
		}
		time.Sleep(50 * time.Millisecond)
	}
	heard := len(count.seen())
	if most := 2 * (config.DefaultBurst + int(100*time.Since(start).Seconds()) + 5); heard > 2*most { // each also by the hub's echo
		t.Errorf("5 frames become %d packets, want at most %d", heard, 2*most)
	} else {
		t.Logf("5 frames become %d packets, at most %d may", heard, 2*most)
	}
}

// indexes are the ifindexes of devices of the host.
func (w *world) indexes(names ...string) (all []int) {
	w.t.Helper()
	w.do(func() error {
		for _, name := range names {
			iface, err := net.InterfaceByName(name)
			if err != nil {
				return err
			}
			all = append(all, iface.Index)
		}
		return nil
	})
	return all
}
