package canlink

import (
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/cantest"
	"github.com/vxcan/vxcan/pkg/rtnl"
)

func dialAt(t *testing.T, netns ns.NetNS) *Conn {
	t.Helper()
	conn, err := rtnl.DialAt(netns)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return On(conn)
}

func get(t *testing.T, c *Conn, name string) Link {
	t.Helper()
	links, err := c.Get(name)
	if err != nil {
		t.Fatal(err)
	}
	return links[0]
}

func TestAddVcan(t *testing.T) {
	cantest.Require(t)
	c := dialAt(t, cantest.NewNetns(t))
	for name, mtu := range map[string]int{"vcan0": FDMTU, "vcan1": ClassicMTU} {
		index := 5000 + mtu
		if err := c.AddVcan(name, index, mtu, "ours"); err != nil {
			t.Fatal(err)
		}
		got := get(t, c, name)
		want := Link{Name: name, Index: index, Kind: Vcan, CAN: true, MTU: mtu, Up: true, Alias: "ours"}
		if diff := cmp.Diff(want, got); diff != "" || got.FD() != (mtu == FDMTU) {
			t.Errorf("(- want, + got)\n%s", diff)
		}
	}
	if err := c.AddVcan("vcan0", 6000, ClassicMTU, "theirs"); !errors.Is(err, unix.EEXIST) {
		t.Errorf("a second time: %v, want EEXIST", err)
	}
	if got := get(t, c, "vcan0"); got.MTU != FDMTU || got.Alias != "ours" {
		t.Errorf("after the second time: %+v", got)
	}
}

// TestGetMany asks for more than one datagram can hold. Every machine has a device lo.
func TestGetMany(t *testing.T) {
	conn, err := rtnl.Dial()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	names := slices.Repeat([]string{"lo", "none"}, 1500)
	links, err := On(conn).Get(names...)
	if err != nil || len(links) != len(names) {
		t.Fatalf("%d of %d links: %v", len(links), len(names), err)
	}
	for i, l := range links {
		if (names[i] == "lo") != (l.Name == "lo") {
			t.Errorf("link %d, which is %s: %+v", i, names[i], l)
		}
	}
}

// A device with so many alternative names that an answer with it takes 32 KiB.
func TestManyAltNames(t *testing.T) {
	cantest.Require(t)
	netns := cantest.NewNetns(t)
	c := dialAt(t, netns)
	var want []string
	for i := range 240 {
		want = append(want, fmt.Sprintf("%0127d", i))
	}
	const devices = 3
	for i := range devices {
		name := fmt.Sprint("v", i)
		if err := c.AddVcan(name, 5000+i, FDMTU, ""); err != nil {
			t.Fatal(err)
		}
		for j := range want { // no two devices have the same
			want[j] = fmt.Sprint(i) + want[j][1:]
		}
		err := netns.Do(func(ns.NetNS) error {
			var lines strings.Builder
			for _, altName := range want {
				fmt.Fprintf(&lines, "link property add dev %s altname %s\n", name, altName)
			}
			cmd := exec.Command("ip", "-batch", "-")
			cmd.Stdin = strings.NewReader(lines.String())
			out, err := cmd.CombinedOutput()
			if err != nil {
				err = fmt.Errorf("%w: %s", err, out)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	names := slices.Repeat([]string{"v0", "v1", "v2"}, 100)
	links, err := c.Get(names...)
	if err != nil {
		t.Fatal(err)
	}
	for i, l := range links {
		if l.Name != names[i] || len(l.AltNames) != len(want) {
			t.Fatalf("%s: %s with %d alternative names", names[i], l.Name, len(l.AltNames))
		}
	}
	all, err := c.List()
	if err != nil || len(all) != 1+devices {
		t.Fatalf("%d devices, %v", len(all), err)
	}
	if diff := cmp.Diff(want, all[devices].AltNames); diff != "" {
		t.Errorf("(- want, + got)\n%s", diff)
	}
}

func TestAddPair(t *testing.T) {
	cantest.Require(t)
	for _, mtu := range []int{ClassicMTU, FDMTU} {
		netns := cantest.NewNetns(t)
		host, container := dialAt(t, cantest.NewNetns(t)), dialAt(t, netns)
		alias := strings.Repeat("x", MaxAlias)
		const index = 1<<30 - 1
		p := Pair{Name: "vx0123456789abc", PeerName: "can%d", MTU: mtu, Index: index, PeerIndex: index, Alias: alias, PeerNetns: netns}
		made, err := host.AddPair(p)
		if err != nil {
			t.Fatal(err)
		}
		want := Link{
			Name: p.Name, Index: index, Kind: Vxcan, CAN: true, MTU: mtu, Up: true, Alias: alias, PeerIndex: index, PeerElsewhere: true,
		}
		for what, got := range map[string]Link{"made": made, "host end": get(t, host, p.Name)} {
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s (- want, + got)\n%s", what, diff)
			}
		}
		want.Name, want.Up, want.Alias = "can0", false, ""
		if diff := cmp.Diff(want, get(t, container, "can0")); diff != "" {
			t.Errorf("container end (- want, + got)\n%s", diff)
		}
		if err := container.SetUp(index); err != nil {
			t.Error(err)
		}
		end, err := container.GetIndex(index)
		if err != nil || !end.Up {
			t.Errorf("container end after SetUp: %+v, %v", end, err)
		}
		if err := host.Delete(p.Index); err != nil {
			t.Error(err)
		}
		if end, err := container.GetIndex(index); err != nil || end.Index != 0 {
			t.Errorf("container end after the host end was deleted: %+v, %v", end, err)
		}
	}
}

// The backplane: both ends in one netns.
func TestAddPairHere(t *testing.T) {
	cantest.Require(t)
	c := dialAt(t, cantest.NewNetns(t))
	if _, err := c.AddPair(Pair{Name: "tx", PeerName: "rx", Index: 5001, PeerIndex: 5002, MTU: FDMTU, Alias: "ours"}); err != nil {
		t.Fatal(err)
	}
	up, err := c.AddPair(Pair{Name: "a", PeerName: "b", Index: 5003, PeerIndex: 5004, MTU: FDMTU, Alias: "ours", PeerUp: true})
	if err != nil {
		t.Fatal(err)
	}
	if b := get(t, c, "b"); !b.Up || b.Alias != "ours" || b.Index != 5004 || up.Index != 5003 || up.Alias != "ours" {
		t.Errorf("with the peer up: %+v, %+v", up, b)
	}
	links, err := c.Get("rx", "nosuchdevice", "tx")
	if err != nil {
		t.Fatal(err)
	}
	rx, tx := links[0], links[2]
	if !cmp.Equal(links[1], Link{}) {
		t.Errorf("no such device: %+v", links[1])
	}
	if rx.Name != "rx" || tx.Name != "tx" || rx.PeerIndex != tx.Index || tx.PeerIndex != rx.Index || tx.Index != 5001 || rx.Index != 5002 || rx.Alias != "" ||
		rx.PeerElsewhere || tx.PeerElsewhere || rx.Up || !tx.Up {
		t.Errorf("tx %+v, rx %+v", tx, rx)
	}
}

// Whatever is refused leaves nothing in either netns.
func TestAddPairRefused(t *testing.T) {
	cantest.Require(t)
	netns := cantest.NewNetns(t)
	host, container := dialAt(t, cantest.NewNetns(t)), dialAt(t, netns)
	taken := Pair{Name: "vx", PeerName: "can0", MTU: FDMTU, Index: 5000, PeerIndex: 5000, Alias: "taken", PeerNetns: netns}
	if _, err := host.AddPair(taken); err != nil {
		t.Fatal(err)
	}
	if _, err := container.AddPair(Pair{Name: "here", PeerName: "there", MTU: FDMTU, Index: 7000, PeerIndex: 7001}); err != nil {
		t.Fatal(err)
	}
	here := get(t, container, "here").Index
	list := func() string { return fmt.Sprint(host.List()) + fmt.Sprint(container.List()) }
	before := list()
	for name, test := range map[string]struct {
		change func(*Pair)
		want   error
	}{
		"name taken":                   {func(p *Pair) { p.Name = "vx" }, unix.EEXIST},
		"peer's name taken":            {func(p *Pair) { p.PeerName = "can0" }, unix.EEXIST},
		"index taken on this side":     {func(p *Pair) { p.Index = 5000 }, unix.EEXIST},
		"index taken in the container": {func(p *Pair) { p.Index, p.PeerIndex = here, here }, unix.EBUSY},
		"name of 16 bytes":             {func(p *Pair) { p.Name = "0123456789abcdef" }, unix.ERANGE},
		"peer's name with two %d":      {func(p *Pair) { p.PeerName = "can%d%d" }, unix.EINVAL},
	} {
		p := Pair{Name: "vy", PeerName: "can1", MTU: FDMTU, Index: 6000, PeerIndex: 6000, PeerNetns: netns}
		test.change(&p)
		if _, err := host.AddPair(p); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
		if diff := cmp.Diff(before, list()); diff != "" {
			t.Fatalf("%s left something\n%s", name, diff)
		}
	}
}

func TestDelete(t *testing.T) {
	cantest.Require(t)
	c := dialAt(t, cantest.NewNetns(t))
	for i, name := range []string{"vcan0", "a", "b"} {
		if err := c.AddVcan(name, 5000+i, FDMTU, ""); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // the second time it is not there
		if err := c.Delete(5000); err != nil {
			t.Error(err)
		}
	}
	if got := get(t, c, "vcan0"); !cmp.Equal(got, Link{}) {
		t.Errorf("still there: %+v", got)
	}
	// Of several, those that can be deleted are.
	lo := get(t, c, "lo").Index
	if err := c.Delete(5001, 4711, lo, 5002); err == nil || !strings.Contains(err.Error(), fmt.Sprint("index ", lo)) {
		t.Errorf("deleted lo: %v", err)
	}
	if all, err := c.List(); err != nil || len(all) != 1 {
		t.Errorf("left: %+v, %v; want lo", all, err)
	}
	if err := c.Delete(); err != nil {
		t.Errorf("nothing: %v", err)
	}
}

func TestProbe(t *testing.T) {
	cantest.Require(t)
	c := dialAt(t, cantest.NewNetns(t))
	for _, kind := range []string{Vcan, Vxcan} {
		if err := c.Probe(kind); err != nil {
			t.Error(err)
		}
	}
	var missing *rtnl.NoModuleError
	if err := c.Probe("nosuchkind"); !errors.As(err, &missing) || missing.Module != "nosuchkind" {
		t.Errorf("unknown kind: %v, want a NoModuleError", err)
	}
	if links, err := c.List(); err != nil || len(links) != 1 {
		t.Errorf("devices afterwards: %+v, %v; want lo alone", links, err)
	}
}

func TestSetUpMissing(t *testing.T) {
	cantest.Require(t)
	if err := dialAt(t, cantest.NewNetns(t)).SetUp(4711); !errors.Is(err, unix.ENODEV) {
		t.Error(err)
	}
}

func numbered(n int, netns ns.NetNS) Pair {
	return Pair{Name: fmt.Sprintf("a%d", n), PeerName: fmt.Sprintf("b%d", n), Index: 5000 + 2*n, PeerIndex: 5001 + 2*n, MTU: FDMTU, PeerNetns: netns}
}

// Our devices are never missing in a list that is made while others come and go, as on a host that starts containers.
func TestListWhileOthersChange(t *testing.T) {
	cantest.Require(t)
	netns := cantest.NewNetns(t)
	c, other := dialAt(t, netns), dialAt(t, netns)
	const stable, passing, looks = 150, 30, 40
	for i := range stable + passing {
		if _, err := c.AddPair(numbered(i, netns)); err != nil {
			t.Fatal(err)
		}
	}
	stop, done := make(chan bool), make(chan error)
	go func() {
		var err error
		for i := 0; err == nil; i++ {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			n := stable + i%passing
			if err = other.Delete(numbered(n, netns).Index); err == nil {
				_, err = other.AddPair(numbered(n, netns))
			}
		}
		done <- err
	}()
	for range looks {
		links, err := c.List()
		if err != nil {
			t.Error(err)
			continue
		}
		seen := make(map[string]int)
		for _, l := range links {
			seen[l.Name]++
		}
		for i := range stable {
			for _, end := range []string{"a", "b"} {
				if name := fmt.Sprintf("%s%d", end, i); seen[name] != 1 {
					t.Errorf("%s is %d times in the list", name, seen[name])
				}
			}
		}
	}
	close(stop)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// What ip says of our devices is what we say of them.
func TestAgreesWithIP(t *testing.T) {
	cantest.Require(t)
	netns := cantest.NewNetns(t)
	c := dialAt(t, netns)
	if _, err := c.AddPair(Pair{Name: "vx", PeerName: "can0", Index: 5001, PeerIndex: 5002, MTU: FDMTU, Alias: "vxcan vcan0 cni", PeerNetns: netns}); err != nil {
		t.Fatal(err)
	}
	var out []byte
	err := netns.Do(func(ns.NetNS) (err error) {
		out, err = exec.Command("ip", "-d", "-o", "link", "show", "dev", "vx").CombinedOutput()
		return err
	})
	if err != nil {
		t.Fatal(err, string(out))
	}
	for _, words := range []string{": vx@can0: ", "mtu 72 ", "link/can", "vxcan numtxqueues", "alias vxcan vcan0 cni"} {
		if !strings.Contains(string(out), words) {
			t.Errorf("no %q in %s", words, out)
		}
	}
}

// A device tells its alternative names, and is not found by them.
func TestAltNames(t *testing.T) {
	cantest.Require(t)
	netns := cantest.NewNetns(t)
	c := dialAt(t, netns)
	if err := c.AddVcan("vcan0", 5000, FDMTU, ""); err != nil {
		t.Fatal(err)
	}
	err := netns.Do(func(ns.NetNS) error {
		out, err := exec.Command("ip", "link", "property", "add", "dev", "vcan0", "altname", "frontcan", "altname", "a-very-long-name-of-a-hub").CombinedOutput()
		if err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"frontcan", "a-very-long-name-of-a-hub"}
	all, err := c.List()
	if err != nil {
		t.Fatal(err)
	}
	if got := get(t, c, "frontcan"); got.Index != 0 {
		t.Errorf("by another name: %+v", got)
	}
	for what, got := range map[string]Link{"by name": get(t, c, "vcan0"), "listed": all[1]} {
		if got.Name != "vcan0" || !cmp.Equal(got.AltNames, want) {
			t.Errorf("%s: %+v, want the alternative names %v", what, got, want)
		}
	}
}
