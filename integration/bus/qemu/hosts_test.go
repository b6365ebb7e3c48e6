package qemu

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/integration/harness"
	"github.com/vxcan/vxcan/pkg/cantest"
)

const (
	here, there = "10.9.0.1", "10.9.0.2"
	guard       = "vxcan-vcan0"
)

// hear counts what somebody else has sent in the name of a host, and all, since a listener began.
func hear(l *cantest.Listener) (injected, all int) {
	heard, _ := l.Heard()
	for f, n := range heard {
		if f.Data == cantest.Injected {
			injected += n
		}
	}
	return injected, l.Total()
}

// attacker is a container on the IP network of a host, this one or the other.
func attacker(t *testing.T, name, host, subnet string) *harness.Container {
	t.Helper()
	c := harness.NewContainer(t, name)
	in := []string{}
	if host != "" {
		in = []string{"ip", "netns", "exec", host}
	}
	run := func(words ...string) {
		t.Helper()
		words = append(in, words...)
		harness.Command(t, words[0], words[1:]...)
	}
	run("ip", "link", "add", name, "type", "veth", "peer", "name", "box0")
	if host == "" {
		t.Cleanup(func() { _, _ = harness.Try("ip", "link", "del", name) })
		t.Cleanup(func() { _, _ = harness.Try("iptables", "-t", "nat", "-F") })
	}
	run("ip", "link", "set", "box0", "netns", c.ID)
	run("ip", "address", "add", subnet+".1/24", "dev", name)
	run("ip", "link", "set", name, "up")
	run("iptables", "-t", "nat", "-A", "POSTROUTING", "-s", subnet+".0/24", "!", "-o", name, "-j", "MASQUERADE")
	for file, value := range map[string]string{"ip_forward": "1", "conf/all/rp_filter": "0", "conf/" + name + "/rp_filter": "2"} {
		run("sh", "-c", "echo "+value+" > /proc/sys/net/ipv4/"+file)
	}
	for _, line := range []string{"address add " + subnet + ".2/24 dev box0", "link set box0 up", "route add default via " + subnet + ".1"} {
		harness.Command(t, "ip", append([]string{"-n", c.ID}, strings.Fields(line)...)...)
	}
	return c
}

// TestHostsGuarded: no container of either host that is on no bus is heard, also while the other host has neither a bus nor a
// table. Where the table goes under traffic, the trunk is closed, status names it, and the next ADD and heal open it.
func TestHostsGuarded(t *testing.T) {
	far := harness.NewOtherHost(t)
	near, beyond := attacker(t, "near", "", "172.17.1"), attacker(t, "beyond", far.ID, "172.17.2")
	a := harness.NewContainer(t, "a")
	call := harness.On(a).With(harness.SpanKeys())
	call.Add(t)
	ear := cantest.Listen(t, a.Netns, "can0")
	attack := func() {
		for _, from := range []string{"172.17.2.2", there} {
			cantest.SendGRE(t, beyond.Netns, from, here, 7, 0x600, cantest.Whole)
		}
		cantest.SendGRE(t, near.Netns, there, here, 7, 0x601, cantest.Whole)
		for _, from := range []string{"172.17.1.2", here} {
			cantest.SendGRE(t, near.Netns, from, there, 7, 0x602, cantest.Whole)
		}
	}
	attack() // nothing but this host has a bus
	far.Attach(t)
	farEar := cantest.Listen(t, far.Box.Netns, "can0")
	stations := []harness.Station{harness.Host("vcan0"), a.On("can0"), far.Box.On("can0")}
	attack()
	harness.ExpectExactlyOnce(t, stations, 5, true)
	attack()
	cantest.WaitQuiet(1, ear, farEar)
	for i, l := range []*cantest.Listener{ear, farEar} {
		if injected, all := hear(l); injected > 0 || all == 0 {
			t.Errorf("container %d hears %d frames of others, and %d in all", i, injected, all)
		}
	}
	if denied := harness.StatusOf(t, "vcan0")[0].Trunks[0].Denied; denied == 0 {
		t.Error("nothing was denied: was there an attack?")
	}

	sender := cantest.NewSender(t, far.Box.Netns, "can0")
	heard := func() (n int) { // of 20 that the other host sends
		l := cantest.Listen(t, a.Netns, "can0")
		defer l.Close()
		for n := range 20 {
			if err := sender.Send(cantest.Frame{ID: 0x300, Data: fmt.Sprint(n)}); err != nil {
				t.Error(err)
			}
			time.Sleep(time.Millisecond)
		}
		cantest.WaitQuiet(0, l)
		return l.Total()
	}
	noRight := []string{"setpriv", "--inh-caps=-net_admin", "--bounding-set=-net_admin"} // as a pod that only looks
	if text, words, _ := harness.Control(t, noRight, "metrics"); !strings.Contains(text, `vxcan_bus_whole{hub="vcan0"} 1`) {
		t.Errorf("without CAP_NET_ADMIN: %s%s", words, text)
	}
	for i, nft := range []string{"flush ruleset", "flush chain inet " + guard + " prerouting"} {
		harness.Command(t, "nft", nft)
		attack()
		if n := heard(); n > 0 {
			t.Errorf("%s: %d frames are heard", nft, n)
		}
		if wrong := harness.WrongWith(t, "vcan0"); !strings.Contains(wrong, "table inet "+guard) || !strings.Contains(wrong, "frames from other hosts") {
			t.Errorf("%s: %s", nft, wrong)
		}
		if i%2 == 0 {
			harness.Vxcanctl(t, "heal")
		} else {
			late := harness.On(harness.NewContainer(t, "late"))
			late.Add(t)
			late.OK(t, "DEL")
		}
		if wrong := harness.WrongWith(t, "vcan0"); wrong != "" || heard() != 20 {
			t.Errorf("%s: repaired, and %s", nft, wrong)
		}
	}
	call.OK(t, "DEL")
	harness.Vxcanctl(t, "remove", "vcan0")
	if left := harness.Command(t, "nft", "list", "tables"); strings.Contains(left, guard) {
		t.Errorf("left: %s", left)
	}
}

// stayOn keeps the goroutine on one CPU: what a thread sends while it moves to another one may arrive out of order.
func stayOn(t *testing.T, cpu int) {
	runtime.LockOSThread() // never unlocked: the thread ends with its goroutine
	var only unix.CPUSet
	only.Set(cpu)
	if err := unix.SchedSetaffinity(0, &only); err != nil {
		t.Error(err)
	}
}

// TestHostsOrder: what a container sends arrives in order on the other host, on two CPUs.
func TestHostsOrder(t *testing.T) {
	harness.RequireTwoCPUs(t)
	far := harness.NewOtherHost(t)
	a := harness.NewContainer(t, "a")
	harness.On(a).With(harness.SpanKeys()).Add(t)
	far.Attach(t)
	ears := []*cantest.Listener{cantest.Listen(t, far.Box.Netns, "can0"), cantest.Listen(t, far.Netns, "vcan0")}
	sender := cantest.NewSender(t, a.Netns, "can0")
	stayOn(t, 0)
	const count = 1500
	for n := range count {
		if err := sender.Send(cantest.Frame{ID: 0x100, FD: n%2 > 0, Data: fmt.Sprint(n)}); err != nil {
			t.Fatal(err)
		}
		if n%100 == 0 {
			time.Sleep(time.Millisecond) // for the backlog of 1000
		}
	}
	cantest.WaitQuiet(count*len(ears), ears...)
	for i, l := range ears {
		got := l.InOrder()
		for n, f := range got {
			if f.Data != fmt.Sprint(n) {
				t.Errorf("listener %d: frame %d is %v", i, n, f)
				break
			}
		}
		if len(got) != count {
			t.Errorf("listener %d hears %d of %d", i, len(got), count)
		}
	}
}

// TestHostsTeardown: buses of two hosts lose table, trunk, hub and backplane under flood, and end under flood. The kernel logs
// no trouble, and gives its modules back.
func TestHostsTeardown(t *testing.T) {
	harness.RequireTwoCPUs(t)
	far := harness.NewOtherHost(t)
	modules := []string{"can-gw", "vxcan", "vcan", "can-raw", "ip6_gre", "ip_gre", "gre"}
	t.Cleanup(func() { harness.Command(t, "modprobe", append([]string{"-a"}, modules...)...) })
	log := openKernelLog(t)
	far.Attach(t)
	b := &floodedBus{hub: "vcan0"}
	b.call = func(c *harness.Container) harness.Call { return harness.On(c).With(harness.SpanKeys()) }
	t.Cleanup(b.quiet)
	b.add(t)
	b.flood.join("hub", nil, b.hub, 0)
	b.flood.join("far", far.Box.Netns, "can0", mostMembers-1)
	b.flood.expectFlow(t, "at first")
	trunk := harness.StatusOf(t, b.hub)[0].Trunks[0].Device
	for _, disaster := range []string{"nft flush ruleset", "ip link del " + trunk, "ip link del " + b.hub, "ip link del " + b.hub + "-rx"} {
		words := strings.Fields(disaster)
		harness.Command(t, words[0], words[1:]...)
		if mended := b.add(t); !strings.Contains(mended, "repaired") {
			t.Errorf("%s: %s", disaster, mended)
		}
		b.flood.expectFlow(t, "after "+disaster)
	}
	teardowns[0](b, t)
	b.quiet()
	harness.Command(t, "ip", "link", "del", "eth0")
	b.endContainer(t, 0, &inhabitant{far.Container, &floodMember{}})
	_, _, _ = harness.Control(t, nil, "heal")
	for _, left := range []string{harness.Command(t, "nft", "list", "tables"), harness.Command(t, "ip", "-brief", "link")} {
		if strings.Contains(left, guard) || strings.Contains(left, trunk) {
			t.Errorf("left: %s", left)
		}
	}
	lines := log.lines(t)
	harness.WaitGone(t, "network namespaces to go", func() string { return strings.Join(netnsIDs(t), ", ") })
	expectUnloadable(t, modules)
	expectNoTrouble(t, append(lines, log.lines(t)...))
}
