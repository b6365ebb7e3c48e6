package once

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"

	"github.com/vxcan/vxcan/integration/harness"
	"github.com/vxcan/vxcan/pkg/cantest"
)

// TestPolicyKeys: how CNI writes policies, and how it refuses wrong ones.
func TestPolicyKeys(t *testing.T) {
	harness.FreshHost(t)
	c := harness.NewContainer(t, "c")
	at := c.On("can0")
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
		result, _ := harness.On(c).With(test.members).Add(t)
		harness.ExpectSends(t, at, "vcan0", test.first, test.second)
		if err := harness.On(c).With(test.members).Check(t, result); err != nil {
			t.Errorf("%s: %v", test.members, err)
		}
	}
	mute := harness.On(c).With(`"receive":"none"`)
	mute.Add(t)
	harness.ExpectPass(t, harness.Host("vcan0"), at, false, false)
	if e := harness.StatusOf(t, "vcan0")[0].Endpoints; len(e) != 1 || e[0]["deniedReceive"] != float64(2) {
		t.Errorf("2 frames denied: %v", e)
	}
	// As long as a list may be, for a bus that goes on: status, heal and another ADD read it.
	var ids []string
	for id := range 3000 {
		ids = append(ids, fmt.Sprintf(`"%08X"`, 2*id))
	}
	harness.On(c).With(`"send":[` + strings.Join(ids, ",") + `],"receive":["200",` + strings.Join(ids, ",") + `]`).Add(t)
	harness.On(harness.NewContainer(t, "other")).Add(t)
	harness.Vxcanctl(t, "heal")
	if d := harness.StatusOf(t, "vcan0")[0].Differences; len(d) > 0 {
		t.Errorf("status: %v", d)
	}
	harness.ExpectPass(t, harness.Host("vcan0"), at, false, true)
	result, _ := harness.On(c).With(`"send":"100"`).Add(t)
	if err := harness.On(c).With(`"send":"200"`).Check(t, result); err == nil {
		t.Error("CHECK says nothing of a policy that has not taken effect")
	} else {
		t.Log(err)
	}
	harness.On(c).OK(t, "DEL")
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
		harness.On(c).With(members).Fails(t, "ADD", 7, word)
	}
}

// talker is a program in a container that sends what it may not, and what it may, all the time.
func talker(t *testing.T, c *harness.Container) (stop func()) {
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
			_ = c.Netns.Do(func(ns.NetNS) error {
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
			harness.AtEach(t, fmt.Sprintf("ADD after %q, %s", before, name), func(t *testing.T, n int) bool {
				return policyKilledAt(t, before, name, n)
			})
		}
	}
}

// policyKilledAt tells whether ADD got as far as its nth call of this name.
func policyKilledAt(t *testing.T, before, name string, n int) (reached bool) {
	harness.FreshHost(t)
	neighbour := harness.On(harness.NewContainer(t, "neighbour"))
	neighbour.Add(t)
	box := harness.NewContainer(t, "box")
	if before != "" {
		harness.On(box).With(before).Add(t)
	}
	l := cantest.Listen(t, nil, "vcan0")
	stop := talker(t, box)
	victim := harness.On(box).With(`"send":"100","receive":"none","rate":100000`)
	reached = victim.KilledAt(t, name, n)
	time.Sleep(20 * time.Millisecond)
	neighbour.Add(t)
	time.Sleep(20 * time.Millisecond)
	result, _ := victim.Add(t)
	time.Sleep(20 * time.Millisecond)
	stop()
	if err := victim.Check(t, result); err != nil {
		t.Error(err)
	}
	harness.ExpectSends(t, box.On("can0"), "vcan0", true, false)
	heard, _ := l.Heard()
	if n := heard[cantest.Frame{ID: 0x200}]; n > 0 {
		t.Errorf("the hub hears %d frames that the container may not send", n)
	}
	if heard[cantest.Frame{ID: 0x100}] == 0 {
		t.Error("the hub hears nothing of what it may send")
	}
	return reached
}
