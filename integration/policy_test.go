package integration

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"

	"github.com/vxcan/vxcan/pkg/cantest"
)

// expectSends sends two frames from a container, and fails the test unless the hub hears those that it may send.
func expectSends(t *testing.T, from station, hub string, first, second bool) {
	t.Helper()
	expectPass(t, from, station{"host", nil, hub}, first, second)
}

// expectPass is expectSends for any receiver.
func expectPass(t *testing.T, from, to station, first, second bool) {
	t.Helper()
	l, s := cantest.Listen(t, to.netns, to.ifName), cantest.NewSender(t, from.netns, from.ifName)
	defer l.Close()
	defer s.Close()
	frames := map[cantest.Frame]bool{{ID: 0x100}: first, {ID: 0x200}: second}
	want := 0
	for f, may := range frames {
		if may {
			want++
		}
		if err := s.Send(f); err != nil {
			t.Error(err)
		}
	}
	cantest.WaitQuiet(want, l)
	for f, may := range frames {
		if got := l.Has(f); got != may {
			t.Errorf("from %s to %s: %03X arrives: %v, want %v", from.name, to.name, f.ID, got, may)
		}
	}
}

// TestPolicyKeys: how CNI writes policies, and how it refuses wrong ones.
func TestPolicyKeys(t *testing.T) {
	freshHost(t)
	c := newContainer(t, "c")
	at := station{c.id, c.netns, "can0"}
	for _, test := range []struct {
		members       string
		first, second bool
	}{
		{`"send":"none"`, false, false},
		{`"send":"100"`, true, false},
		{`"send":["200","300-3FF"],"receive":"none"`, false, true},
		{`"send":"all","rate":1000000,"burst":5`, true, true},
		{`"cniVersion":"1.1.0"`, true, true},
	} {
		result, _ := on(c).with(test.members).add(t)
		expectSends(t, at, "vcan0", test.first, test.second)
		if err := on(c).with(test.members).check(t, result); err != nil {
			t.Errorf("%s: %v", test.members, err)
		}
	}
	mute := on(c).with(`"receive":"none"`)
	mute.add(t)
	expectPass(t, station{"host", nil, "vcan0"}, at, false, false)
	if e := statusOf(t, "vcan0")[0].Endpoints; len(e) != 1 || e[0]["deniedReceive"] != float64(2) {
		t.Errorf("2 frames denied: %v", e)
	}
	// As long as a list may be, for a bus that goes on: status, heal and another ADD read it.
	var ids []string
	for id := range 3000 {
		ids = append(ids, fmt.Sprintf(`"%08X"`, 2*id))
	}
	on(c).with(`"send":[` + strings.Join(ids, ",") + `],"receive":["200",` + strings.Join(ids, ",") + `]`).add(t)
	on(newContainer(t, "other")).add(t)
	vxcanctl(t, "heal")
	if d := statusOf(t, "vcan0")[0].Differences; len(d) > 0 {
		t.Errorf("status: %v", d)
	}
	expectPass(t, station{"host", nil, "vcan0"}, at, false, true)
	result, _ := on(c).with(`"send":"100"`).add(t)
	if err := on(c).with(`"send":"200"`).check(t, result); err == nil {
		t.Error("CHECK says nothing of a policy that has not taken effect")
	} else {
		t.Log(err)
	}
	on(c).ok(t, "DEL")
	for members, word := range map[string]string{
		`"send":"1x0"`:          `"1x0"`,
		`"send":""`:             "send",
		`"send":["100","all"]`:  "only entry",
		`"send":100`:            "a string or an array of strings",
		`"receive":["2FF-200"]`: "lower ID first",
		`"rate":0`:              "rate",
		`"rate":"100"`:          "a whole number",
		`"burst":-1`:            "burst",
	} {
		on(c).with(members).fails(t, "ADD", 7, word)
	}
}

// talker is a program in a container that sends what it may not, and what it may, all the time.
func talker(t *testing.T, c *container) (stop func()) {
	t.Helper()
	ending, ended := make(chan bool), make(chan bool)
	go func() {
		defer close(ended)
		for {
			select {
			case <-ending:
				return
			default:
			}
			_ = c.netns.Do(func(ns.NetNS) error {
				link, err := netlink.LinkByName("can0")
				if err != nil {
					return err
				}
				_ = netlink.LinkSetUp(link) // it does not wait for us
				for _, id := range []uint32{0x200, 0x100} {
					_ = cantest.SendOnce("can0", cantest.Frame{ID: id})
				}
				return nil
			})
			time.Sleep(time.Millisecond)
		}
	}()
	return func() {
		close(ending)
		<-ended
	}
}

// TestPolicyKilled: an ADD with a policy, on a bus in use, is killed at any message to the kernel, or when it writes the
// record: one of a new endpoint, and one that narrows the policy of a running container. At no moment does the bus hear
// what the policy does not allow, neither then nor while the next ADD of another container repairs the bus.
func TestPolicyKilled(t *testing.T) {
	for _, before := range []string{"", `"send":"100,300"`} {
		for _, name := range []string{"sendto", "renameat"} {
			atEach(t, fmt.Sprintf("ADD after %q, %s", before, name), func(t *testing.T, n int) bool {
				return policyKilledAt(t, before, name, n)
			})
		}
	}
}

// policyKilledAt tells whether ADD got as far as its nth call of this name.
func policyKilledAt(t *testing.T, before, name string, n int) (reached bool) {
	freshHost(t)
	neighbour := on(newContainer(t, "neighbour"))
	neighbour.add(t)
	box := newContainer(t, "box")
	if before != "" {
		on(box).with(before).add(t)
	}
	l := cantest.Listen(t, nil, "vcan0")
	stop := talker(t, box)
	victim := on(box).with(`"send":"100","receive":"none","rate":100000`)
	reached = victim.killedAt(t, name, n)
	time.Sleep(20 * time.Millisecond)
	neighbour.add(t)
	time.Sleep(20 * time.Millisecond)
	result, _ := victim.add(t)
	time.Sleep(20 * time.Millisecond)
	stop()
	if err := victim.check(t, result); err != nil {
		t.Error(err)
	}
	expectSends(t, station{box.id, box.netns, "can0"}, "vcan0", true, false)
	heard, _ := l.Heard()
	if n := heard[cantest.Frame{ID: 0x200}]; n > 0 {
		t.Errorf("the hub hears %d frames that the container may not send", n)
	}
	if heard[cantest.Frame{ID: 0x100}] == 0 {
		t.Error("the hub hears nothing of what it may send")
	}
	return reached
}

// TestPolicyDocker: Docker's containers have the policies of their networks, also when the driver has been killed.
func TestPolicyDocker(t *testing.T) {
	d := startDocker(t)
	d.network("mute", "0", "vxcan.peer=can", "send=none")
	d.network("some", "0", "vxcan.peer=can", "send=100,300-3FF", "receive=200", "rate=100000")
	expectSends(t, d.run("mute", "--network", "mute").on("can0"), "vcan0", false, false)
	d.stopDriver(os.Kill)
	d.startDriver()
	expectSends(t, d.run("some", "--network", "some").on("can0"), "vcan0", true, false)
	d.docker("restart", "-t", "0", "mute")
	expectSends(t, d.container("mute").on("can0"), "vcan0", false, false)
	for option, word := range map[string]string{"send=1x0": "1x0", "receive=100,all": "only entry", "rate=0": "rate", "burst=many": "burst"} {
		_, err := d.try("network", "create", "-d", "vxcan", "--ipam-driver", "null", "-o", option, "wrong")
		expectOneLine(t, err, "Error response from daemon: ", word)
	}
	d.docker("rm", "-f", "mute", "some")
	d.docker("network", "rm", "mute", "some")
	d.expectClean()
}

// TestPolicyPodman: so have Podman's.
func TestPolicyPodman(t *testing.T) {
	freshHost(t)
	p, ok := newNetavarkPodman(t)
	if !ok {
		return
	}
	p.do("network", "create", "-d", "vxcan", "-o", "send=none", "mute")
	p.do("network", "create", "-d", "vxcan", "-o", "hub=vcan3", "-o", "send=100,300-3FF", "-o", "rate=100000", "some")
	p.run("box", "--network", "mute", "--network", "some:interface_name=can1")
	expectSends(t, p.station("box", "can0"), "vcan0", false, false)
	expectSends(t, p.station("box", "can1"), "vcan3", true, false)
	for option, word := range map[string]string{"send=1x0": "1x0", "receive=100,all": "only entry", "rate=0": "rate", "burst=many": "burst"} {
		_, err := try("podman", "network", "create", "-d", "vxcan", "-o", option, "wrong")
		expectOneLine(t, err, "Error: ", word)
	}
}

// expectOneLine fails the test unless a command failed with one line behind it that begins so and has this word.
func expectOneLine(t *testing.T, err error, begin, word string) {
	t.Helper()
	if err == nil {
		t.Error("accepted, want words of " + word)
		return
	}
	_, said, _ := strings.Cut(err.Error(), "\n") // behind the command
	if said = strings.TrimSpace(said); !strings.HasPrefix(said, begin) || !strings.Contains(said, word) || strings.Contains(said, "\n") {
		t.Errorf("not one line with %q: %s", word, said)
	}
}
