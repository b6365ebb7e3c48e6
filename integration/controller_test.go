package integration

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/cantest"
)

// onController is plainConf's network with a controller as hub.
const onController = `"hub":"slot0","physical":true`

// upCommands are what the driver tells the adapter when its owner sets it up (setUpController), once.
var upCommands = []string{"C", "S6", "O"}

// setUpController does what the README tells the owner of a controller to do, and makes its queue longer unless
// queue is 0.
func setUpController(t testing.TB, c *cantest.Controller, queue int) {
	t.Helper()
	args := []string{"link", "set", c.Name, "up"}
	if queue != 0 {
		args = append(args, "txqueuelen", strconv.Itoa(queue))
	}
	command(t, "ip", append(args, "type", "can", "bitrate", "500000")...)
	waitForState(t, c.Name, `"operstate":"UP"`) // which the kernel sets up to a second later, though frames pass at once
}

// controllerState is all that `ip` shows of a device, without counters.
func controllerState(t testing.TB, name string) string {
	t.Helper()
	return command(t, "ip", "-details", "-json", "link", "show", "dev", name)
}

// onWire is the controller's other side as a party.
func onWire(c *cantest.Controller) party { return party{"wire", c.Listen(), c.Send, false} }

// expectOnWire is expectExactlyOnce for these stations and the wire of a controller, and fails the test also unless the
// frames of each reach the wire in order. Its queue must have room for all of them.
func expectOnWire(t *testing.T, c *cantest.Controller, stations []station, count int) {
	t.Helper()
	wire := onWire(c)
	parties := []party{wire}
	for _, s := range stations {
		parties = append(parties, s.party(t))
	}
	exchange(t, parties, count, false)
	sent := wire.listener.InOrder()
	for i, p := range parties[1:] {
		want := frames(i+1, count, false)
		got := slices.DeleteFunc(slices.Clone(sent), func(f cantest.Frame) bool { return !slices.Contains(want, f) })
		if !slices.Equal(got, want) {
			t.Errorf("the frames of %s are on the wire in another order", p.name)
		}
	}
}

// TestController: a controller with a real driver is used as it is. Everybody hears everybody else exactly once, the
// other nodes on the wire included. Nothing that the plugin does creates, changes or deletes the controller.
func TestController(t *testing.T) {
	freshHost(t)
	a, b := newContainer(t, "a"), newContainer(t, "b")
	on(a).with(onController).fails(t, "ADD", 11, "slot0", "no such device")
	controller := cantest.NewController(t, "slot0")
	fresh := controllerState(t, "slot0")
	on(a).with(onController).fails(t, "ADD", 11, "slot0", "down")
	on(a).with(`"hub":"slot0"`).fails(t, "ADD", 7, "slot0", `"physical": true`)
	if now := controllerState(t, "slot0"); now != fresh {
		t.Errorf("failed ADDs changed the controller:\n%s\n%s", fresh, now)
	}
	setUpController(t, controller, 1000)
	on(a).with(onController+`,"mtu":72`).fails(t, "ADD", 7, "mtu 72", "MTU 16")
	expectNothing(t)

	up := controllerState(t, "slot0")
	result, _ := on(a).with(onController).add(t)
	other, _ := on(b).with(onController).add(t)
	want := wantRules(false, "slot0", hostIf(result), hostIf(other))
	want = append(want, "cangw -A -s slot0 -d slot0-tx -i -l 1 -f 000:3FFFFFFF") // error frames
	for _, end := range []string{hostIf(result), hostIf(other)} {
		want = append(want, fmt.Sprintf("cangw -A -s slot0-rx -d %s -i -l 1 -f 000:3FFFFFFF", end))
	}
	slices.Sort(want)
	expectLines(t, "gateway rules", rules(t), want)
	expectLines(t, "filters", filters(t), wantFilters(t, "slot0", hostIf(result), hostIf(other)))
	all := []station{{"host", nil, "slot0"}, {"a", a.netns, "can0"}, {"b", b.netns, "can0"}}
	expectOnWire(t, controller, all, 100)
	if err := on(a).with(onController).check(t, result); err != nil {
		t.Error(err)
	}
	on(b).with(onController).ok(t, "DEL")
	expectOnWire(t, controller, all[:2], 10)
	expectKinds(t, controller, a)
	on(a).with(onController).ok(t, "DEL")

	if now := controllerState(t, "slot0"); now != up {
		t.Errorf("the controller was changed:\n%s\n%s", up, now)
	}
	if got := controller.Commands(); !slices.Equal(got, upCommands) {
		t.Errorf("the controller was told %q, want %q", got, upCommands)
	}
}

// expectKinds fails the test unless frames of all kinds and lengths pass from a container to the wire and back.
func expectKinds(t *testing.T, controller *cantest.Controller, c *container) {
	t.Helper()
	var sent []cantest.Frame
	for _, id := range []uint32{0, 0x7FF, unix.CAN_EFF_FLAG, unix.CAN_EFF_FLAG | 0x1FFFFFFF} {
		for size := range 9 {
			sent = append(sent,
				cantest.Frame{ID: id, Data: "\xFF\x00\r\x01abcd"[:size]},
				cantest.Frame{ID: id | unix.CAN_RTR_FLAG, Data: strings.Repeat("\x00", size)})
		}
	}
	wire, inC := controller.Listen(), cantest.Listen(t, c.netns, "can0")
	sendAll(t, c, sent)
	for _, f := range sent {
		if err := controller.Send(f); err != nil {
			t.Fatal(err)
		}
	}
	cantest.WaitQuiet(3*len(sent), wire, inC) // the container's own frames too
	for where, l := range map[string]*cantest.Listener{"wire": wire, "container": inC} {
		if got := l.InOrder(); !slices.Equal(got, sent) {
			t.Errorf("on the %s arrives\n%v\nwant\n%v", where, got, sent)
		}
	}
}

// TestControllerQueue: frames that a container sends faster than the wire takes them wait in the controller's queue. A
// frame that finds the queue full reaches neither the wire nor programs on the host, although its write succeeds. Other
// containers hear it.
func TestControllerQueue(t *testing.T) {
	const burst = 500
	for _, c := range []struct {
		name        string
		queue       int // 0 is the driver's, which is 10
		least, most int // that reach the wire
	}{
		// One more is with the driver, and one more with the queueing discipline, which the driver has refused it.
		{"default", 0, 10, 12},
		{"1000", 1000, burst, burst},
	} {
		t.Run(c.name, func(t *testing.T) {
			freshHost(t)
			controller := cantest.NewController(t, "slot0")
			setUpController(t, controller, c.queue)
			a, b := newContainer(t, "a"), newContainer(t, "b")
			on(a).with(onController).add(t)
			on(b).with(onController).add(t)
			wire, inB, onHost := controller.Listen(), cantest.Listen(t, b.netns, "can0"), cantest.Listen(t, nil, "slot0")

			controller.Pace(cantest.Stopped)
			sent := numbered(burst)
			sendAll(t, a, sent)
			cantest.WaitQuiet(burst+c.most, inB, onHost)
			if got := inB.InOrder(); !slices.Equal(got, sent) {
				t.Errorf("the other container hears %d frames of %d, or in another order", len(got), burst)
			}
			if got := len(wire.InOrder()); got != 0 {
				t.Fatalf("%d frames are on a wire that takes none", got)
			}
			controller.Pace(cantest.Unlimited)
			cantest.WaitQuiet(c.most, wire)

			got := wire.InOrder()
			if len(got) < c.least || len(got) > c.most || !slices.Equal(got, sent[:len(got)]) {
				t.Errorf("%d frames are on the wire, or in another order; want the first %d to %d", len(got), c.least, c.most)
			}
			if onHost := onHost.InOrder(); !slices.Equal(onHost, got) {
				t.Errorf("the host hears %d frames, want those %d that went out", len(onHost), len(got))
			}
			handled, dropped := toHub(t, "slot0")
			if handled != len(got) || dropped != burst-len(got) {
				t.Errorf("the rule to the hub: %d handled, %d dropped; want %d, %d", handled, dropped, len(got), burst-len(got))
			}
			t.Logf("of %d frames %d are lost to the wire and %d to the other container; dropped by the rule: %d",
				burst, burst-len(got), burst-len(inB.InOrder()), dropped)
		})
	}
}

// TestControllerPace: with room in the queue, a wire that is slower than the sender delays frames and loses none.
func TestControllerPace(t *testing.T) {
	freshHost(t)
	controller := cantest.NewController(t, "slot0")
	setUpController(t, controller, 1000)
	a := newContainer(t, "a")
	on(a).with(onController).add(t)
	const count, rate = 200, 400
	controller.Pace(rate)
	wire, start, sent := controller.Listen(), time.Now(), numbered(count)
	sendAll(t, a, sent)
	cantest.WaitQuiet(count, wire)
	if got := wire.InOrder(); !slices.Equal(got, sent) {
		t.Errorf("%d frames of %d are on the wire, or in another order", len(got), count)
	}
	if took := time.Since(start); took < count*time.Second/rate {
		t.Errorf("%d frames at %d/s took %v", count, rate, took)
	}
}

// TestControllerTrouble: while the controller cannot send, containers hear each other, and their writes succeed although
// nothing reaches the wire. When its owner has set it up again, the sockets from before hear the wire and reach it.
func TestControllerTrouble(t *testing.T) {
	const count = 20
	for _, c := range []struct {
		name             string
		trouble          func(*testing.T, *cantest.Controller)
		handled, dropped int // by the rule to the hub
		gone             bool
	}{
		{"down", func(t *testing.T, _ *cantest.Controller) { command(t, "ip", "link", "set", "slot0", "down") }, 0, count, false},
		{"bus-off", busOff, count, 0, false},
		{"unplugged", func(t *testing.T, c *cantest.Controller) { c.Unplug() }, 0, 0, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			freshHost(t)
			controller := cantest.NewController(t, "slot0")
			setUpController(t, controller, 1000)
			a, b := newContainer(t, "a"), newContainer(t, "b")
			on(a).with(onController).add(t)
			on(b).with(onController).add(t)
			fromA, sent := cantest.NewSender(t, a.netns, "can0"), numbered(count)

			c.trouble(t, controller)
			inB, wire := cantest.Listen(t, b.netns, "can0"), controller.Listen()
			for _, f := range sent {
				if err := fromA.Send(f); err != nil {
					t.Fatal(err)
				}
			}
			cantest.WaitQuiet(count, inB)
			if got := inB.InOrder(); !slices.Equal(got, sent) {
				t.Errorf("the other container hears %d frames of %d", len(got), count)
			}
			if got := wire.InOrder(); len(got) != 0 {
				t.Errorf("%d frames are on the wire", len(got))
			}
			if !c.gone {
				if handled, dropped := toHub(t, "slot0"); handled != c.handled || dropped != c.dropped {
					t.Errorf("the rule to the hub: %d handled, %d dropped; want %d, %d", handled, dropped, c.handled, c.dropped)
				}
				command(t, "ip", "link", "set", "slot0", "down")
				command(t, "ip", "link", "set", "slot0", "up")
			} else {
				if slices.ContainsFunc(links(t), func(l link) bool { return l.Name == "slot0" }) {
					t.Error("the unplugged controller is there")
				}
				on(a).with(onController).fails(t, "ADD", 11, "slot0", "no such device")
				controller = cantest.NewController(t, "slot0")
				setUpController(t, controller, 1000)
				on(newContainer(t, "c")).with(onController).add(t) // gives the hub its rules again
			}
			wire = controller.Listen()
			fromWire := cantest.Frame{ID: 0x7E8, Data: "back"}
			for _, f := range sent { // by the socket from before
				if err := fromA.Send(f); err != nil {
					t.Fatal(err)
				}
			}
			if err := controller.Send(fromWire); err != nil {
				t.Fatal(err)
			}
			cantest.WaitQuiet(3*count+1, inB, wire)
			if got := wire.InOrder(); !slices.Equal(got, sent) {
				t.Errorf("%d frames of %d are on the wire again, or in another order", len(got), count)
			}
			if heard, _ := inB.Heard(); heard[fromWire] != 1 {
				t.Errorf("the socket from before hears the wire %d times, want 1", heard[fromWire])
			}
		})
	}
}

// TestControllerErrors: what a controller reports in error frames, a container's candump shows as a host's does. A container
// cannot forge an error frame, and none is sent to the wire.
func TestControllerErrors(t *testing.T) {
	freshHost(t)
	controller := cantest.NewController(t, "slot0")
	setUpController(t, controller, 1000)
	a, b := newContainer(t, "a"), newContainer(t, "b")
	on(a).with(onController).add(t)
	on(b).with(onController).add(t)
	listeners := map[string]*cantest.Listener{
		"host": cantest.ListenErrors(t, nil, "slot0"), "a": cantest.ListenErrors(t, a.netns, "can0"), "b": cantest.ListenErrors(t, b.netns, "can0"),
	}
	deaf, wire := cantest.Listen(t, b.netns, "can0"), controller.Listen()

	forged := cantest.Frame{ID: unix.CAN_ERR_FLAG | 0x40, Data: "\x00\x00\x00\x00\x00\x00\x00\x00"}
	if err := cantest.NewSender(t, a.netns, "can0").Send(forged); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"e1a\r", "sw096000\r", "sp128000\r"} { // an ACK error, error-warning, error-passive
		if err := controller.WriteRaw(line); err != nil {
			t.Fatal(err)
		}
	}
	cantest.WaitQuiet(9, listeners["host"], listeners["a"], listeners["b"])
	onHost := listeners["host"].InOrder()
	if len(onHost) < 3 {
		t.Errorf("the host hears %d error frames, want 3: %v", len(onHost), onHost)
	}
	for _, name := range []string{"a", "b"} {
		if got, _ := listeners[name].Heard(); len(got) != len(onHost) {
			t.Errorf("container %s hears the error frames %v, the host %v", name, got, onHost)
		} else {
			for _, f := range onHost {
				if got[f] != 1 {
					t.Errorf("container %s hears the error frame %v %d times, want 1", name, f, got[f])
				}
			}
		}
	}
	if got := len(deaf.InOrder()) + len(wire.InOrder()); got != 0 {
		t.Errorf("%d frames reach the wire or a program that did not ask for error frames", got)
	}
}

// busOff makes the controller bus-off and waits until the kernel sends it no more frames, which takes up to a second.
func busOff(t *testing.T, c *cantest.Controller) {
	t.Helper()
	if err := c.WriteRaw("sb256000\r"); err != nil {
		t.Fatal(err)
	}
	waitForState(t, c.Name, `"state":"BUS-OFF"`, `"operstate":"DOWN"`)
}

// waitForState waits until `ip` shows all of these words of a device.
func waitForState(t testing.TB, name string, words ...string) {
	t.Helper()
	var state string
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		state = controllerState(t, name)
		if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(state, w) }) {
			return
		}
	}
	t.Fatalf("no %v after a minute: %s", words, state)
}

// numbered are count different frames.
func numbered(count int) []cantest.Frame {
	var all []cantest.Frame
	for i := range count {
		all = append(all, cantest.Frame{ID: 0x123, Data: fmt.Sprintf("%08d", i)})
	}
	return all
}

// sendAll sends frames from a container as fast as it can. Every write must succeed.
func sendAll(t testing.TB, c *container, all []cantest.Frame) {
	t.Helper()
	sender := cantest.NewSender(t, c.netns, "can0")
	for _, f := range all {
		if err := sender.Send(f); err != nil {
			t.Fatal(err)
		}
	}
}

// toHub are the counters of the rule for classic frames from the backplane to the hub, by `cangw -L`.
func toHub(t testing.TB, hub string) (handled, dropped int) {
	t.Helper()
	out, _ := try("cangw", "-L") // its exit status means nothing
	rule := regexp.MustCompile(fmt.Sprintf(`(?m)^cangw -A -s %s-rx -d %s .*# (\d+) handled (\d+) dropped`, hub, hub))
	for _, found := range rule.FindAllStringSubmatch(out, -1) {
		if !strings.Contains(found[0], " -X ") {
			handled, _ = strconv.Atoi(found[1])
			dropped, _ = strconv.Atoi(found[2])
			return handled, dropped
		}
	}
	t.Fatalf("no rule to %s:\n%s", hub, out)
	return 0, 0
}
