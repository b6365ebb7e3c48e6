package controller

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/vxcan/vxcan/integration/harness"
	"github.com/vxcan/vxcan/pkg/cantest"
)

// TestControllerFair: containers that send more than the wire takes leave a neighbour its place: every frame of one that
// sends little is on the wire, and the others share the rest equally.
func TestControllerFair(t *testing.T) {
	for name, conf := range map[string]string{"one queue for all": harness.OnController, "fair-queue": harness.OnController + `,"fair-queue":true`, "set up by us": harness.SetUpByUs} {
		t.Run(name, func(t *testing.T) {
			harness.FreshHost(t)
			controller := cantest.NewController(t, "slot0")
			if conf != harness.SetUpByUs {
				harness.SetUpController(t, controller, 1000)
			}
			const flooders = 3
			var boxes []*harness.Container
			for i := range flooders + 1 {
				box := harness.NewContainer(t, fmt.Sprint("c", i))
				harness.On(box).With(conf).Add(t)
				boxes = append(boxes, box)
			}
			sent := harness.FloodAndSend(t, controller, boxes)
			if got := sent[0x100]; (got == harness.Few) != (conf != harness.OnController) {
				t.Errorf("%d of the %d frames of the quiet container are on the wire", got, harness.Few)
			}
			if conf != harness.OnController {
				harness.ExpectEqualShares(t, sent)
			}
		})
	}
}

// TestControllerFairDamage: what is in a container's own queue goes out, also when it leaves; what is deleted by hand loses
// nobody's frames but those that wait in it, is named by CHECK and made again by the next ADD; a queue that the administrator
// has chosen is left alone and named; a call that fails leaves nothing.
func TestControllerFairDamage(t *testing.T) {
	harness.FreshHost(t)
	controller := cantest.NewController(t, "slot0")
	queue := func() string { return harness.Command(t, "tc", "qdisc", "show", "dev", "slot0", "root") }
	classes := func() []string {
		var all []string
		for _, line := range strings.Split(harness.Command(t, "tc", "class", "show", "dev", "slot0"), "\n") {
			if fields := strings.Fields(line); len(fields) > 2 {
				all = append(all, fields[2])
			}
		}
		return all
	}
	expect := func(when string, want int) {
		t.Helper()
		if got := classes(); len(got) != want || !slices.Contains(got, "7663:ffff") {
			t.Errorf("%s: classes %q, want %d: %s", when, got, want, queue())
		}
	}
	a, b := harness.NewContainer(t, "a"), harness.NewContainer(t, "b")
	aCall, bCall := harness.On(a).With(harness.SetUpByUs), harness.On(b).With(harness.SetUpByUs)

	aCall.With(`"interface":"lo"`).Fails(t, "ADD", 7)
	if strings.Contains(queue(), "drr") {
		t.Errorf("left by an ADD that failed: %s", queue())
	}
	result, _ := aCall.Add(t)
	bCall.Add(t)
	expect("two containers", 3)
	wire := controller.Listen()

	// A program cannot choose the class of programs on the host.
	controller.Pace(cantest.Stopped)
	chooser := cantest.NewSender(t, a.Netns, "can0")
	if err := chooser.SetPriority(0x7663ffff); err != nil {
		t.Fatal(err)
	}
	chosen := harness.Numbered(20)
	for _, f := range chosen {
		if err := chooser.Send(f); err != nil {
			t.Fatal(err)
		}
	}
	_, ofHost, _ := strings.Cut(harness.Command(t, "tc", "-s", "class", "show", "dev", "slot0"), "class drr 7663:ffff")
	ofHost, _, _ = strings.Cut(ofHost, "class drr")
	if status := harness.Vxcanctl(t, "status", "slot0"); !strings.Contains(ofHost, "backlog 0b 0p") || !strings.Contains(status, "WAITING") {
		t.Errorf("frames of a container wait in the class of the host: %s\n%s", ofHost, status)
	}
	controller.Pace(cantest.Unlimited)
	cantest.WaitQuiet(len(chosen), wire)
	wire.Close()
	wire = controller.Listen()

	controller.Pace(cantest.Stopped)
	sent := harness.Numbered(500)
	harness.SendAll(t, b, sent)
	bCall.OK(t, "DEL")
	expect("one has left while its frames wait", 3)
	controller.Pace(cantest.Unlimited)
	cantest.WaitQuiet(len(sent), wire)
	if got := wire.InOrder(); !slices.Equal(got, sent) {
		t.Errorf("%d of the %d frames are on the wire of a container that has left, or in another order", len(got), len(sent))
	}
	bCall.Add(t)
	expect("it is back", 3)
	harness.Command(t, "rm", "-r", harness.StateDir)
	harness.Vxcanctl(t, "heal", "slot0")
	expect("record deleted", 3)
	other := harness.On(harness.NewContainer(t, "other")).With(harness.OnController)
	other.Add(t)
	expect("record deleted, another network", 4)
	other.OK(t, "DEL")
	expect("record deleted, another network has left", 3)
	aCall.Add(t)
	bCall.Add(t)
	expect("asked for again", 3)

	for what, args := range map[string][]string{
		"filters of marks":  {"filter", "del", "dev", "slot0", "parent", "7663:", "pref", "1"},
		"filter of others":  {"filter", "del", "dev", "slot0", "parent", "7663:", "pref", "2"},
		"the whole queue":   {"qdisc", "del", "dev", "slot0", "root"},
		"a class of nobody": {"class", "add", "dev", "slot0", "parent", "7663:", "classid", "7663:7", "drr"},
	} {
		harness.Command(t, "tc", args...)
		wire := controller.Listen()
		sent := harness.Numbered(100)
		harness.SendAll(t, b, sent)
		cantest.WaitQuiet(len(sent), wire)
		if got := wire.InOrder(); !slices.Equal(got, sent) {
			t.Errorf("%s: %d of the %d frames are on the wire, or in another order", what, len(got), len(sent))
		}
		err := aCall.Check(t, result)
		if named := err != nil && strings.Contains(err.Error(), "transmit queue of controller slot0 lacks"); named != (what != "a class of nobody") {
			t.Errorf("%s: CHECK says %v", what, err)
		}
		if said := harness.Vxcanctl(t, "heal", "slot0"); what != "a class of nobody" && !strings.Contains(said, "transmit queue") {
			t.Errorf("%s: heal says %q", what, said)
		}
		if err := aCall.Check(t, result); err != nil {
			t.Errorf("%s: after heal: %v", what, err)
		}
		expect(what, 3)
	}

	harness.Command(t, "tc", "qdisc", "replace", "dev", "slot0", "root", "pfifo", "limit", "2000")
	before := queue()
	if _, log := bCall.Add(t); !strings.Contains(log, "another program has set (pfifo)") || !strings.Contains(log, "tc qdisc del dev slot0 root") {
		t.Errorf("log of ADD beside a queue of another program: %s", log)
	}
	if err := aCall.Check(t, result); err != nil || queue() != before {
		t.Errorf("a queue of another program: %v; %s, want %s", err, queue(), before)
	}
	harness.Command(t, "tc", "qdisc", "del", "dev", "slot0", "root")
	harness.Vxcanctl(t, "heal", "slot0")
	expect("the command that it says", 3)

	controller.Unplug()
	cantest.NewController(t, "slot0")
	harness.Vxcanctl(t, "heal", "slot0")
	expect("plugged in again", 3)
	aCall.OK(t, "DEL")
	bCall.OK(t, "DEL")
	expect("all have left", 1)
}

// TestControllerFairUndo: a pod that fails leaves the queue of its owner's controller as it was, and the queues that others want.
func TestControllerFairUndo(t *testing.T) {
	harness.FreshHost(t)
	controller := cantest.NewController(t, "slot0")
	harness.SetUpController(t, controller, 1000)
	queue := func() string {
		shown := harness.Command(t, "tc", "qdisc", "show", "dev", "slot0", "root") + harness.Command(t, "tc", "class", "show", "dev", "slot0")
		lines := strings.Split(shown, "\n")
		slices.Sort(lines)
		return strings.Join(lines, "\n")
	}
	a, b, box := harness.NewContainer(t, "a"), harness.NewContainer(t, "b"), harness.NewContainer(t, "pod")
	pod := harness.Pod(box, `,"vxcan/networks":"slot0:can0,bench1:can1,lo:can2"`).With(harness.OnController + `,"fair-queue":true,"pod-hubs":["bench*","lo"]`)
	expect := func(when, before string) {
		t.Helper()
		if now := queue(); now != before {
			t.Errorf("%s: %s\nbefore: %s", when, now, before)
		}
		wire := controller.Listen()
		defer wire.Close()
		sent := harness.Numbered(20)
		harness.SendAll(t, a, sent)
		cantest.WaitQuiet(len(sent), wire)
		if got := wire.InOrder(); !slices.Equal(got, sent) {
			t.Errorf("%s: %d of the %d frames are on the wire, or in another order", when, len(got), len(sent))
		}
	}
	harness.On(a).With(harness.OnController).Add(t)
	before := queue()
	pod.Fails(t, "ADD", 7, "hub lo is not a CAN device")
	expect("a neighbour without a queue of its own", before)
	fair := harness.On(b).With(harness.OnController + `,"fair-queue":true`)
	result, _ := fair.Add(t)
	before = queue()
	pod.Fails(t, "ADD", 7, "hub lo is not a CAN device")
	expect("a neighbour with one", before)
	harness.Command(t, "tc", "qdisc", "del", "dev", "slot0", "root")
	pod.Fails(t, "ADD", 7, "hub lo is not a CAN device")
	expect("a neighbour that has lost it", before)
	if err := fair.Check(t, result); err != nil {
		t.Error(err)
	}
}

// TestControllerWithoutQueues: where the kernel has no drr, containers share one queue, which is said and no damage; as soon as
// it has one, the next heal gives each its own.
func TestControllerWithoutQueues(t *testing.T) {
	for module, option := range map[string]string{"sch_drr": "CONFIG_NET_SCH_DRR", "cls_fw": "CONFIG_NET_CLS_FW"} {
		t.Run(module, func(t *testing.T) {
			harness.FreshHost(t)
			cantest.NewController(t, "slot0")
			restore := harness.WithoutModules(t, module)
			words := fmt.Sprintf("share the transmit queue of controller slot0: the kernel lacks module %s (%s)", module, option)
			for _, name := range []string{"a", "b"} {
				call := harness.On(harness.NewContainer(t, name)).With(harness.SetUpByUs)
				result, log := call.Add(t)
				if strings.Count(log, words) != 1 || strings.Contains(log, "repaired") {
					t.Errorf("ADD says %q", log)
				}
				if err := call.Check(t, result); err != nil {
					t.Error(err)
				}
			}
			harness.Vxcanctl(t, "status", "slot0")
			restore()
			if said := harness.Vxcanctl(t, "heal", "slot0"); !strings.Contains(said, "transmit queue") {
				t.Errorf("heal says %q", said)
			}
			if classes := harness.Command(t, "tc", "class", "show", "dev", "slot0"); strings.Count(classes, "class drr") != 3 {
				t.Errorf("classes after heal: %s", classes)
			}
		})
	}
}

// TestControllerFairMany: each of many containers whose queues are full has the same share of the wire, at any moment: they take
// turns frame by frame.
func TestControllerFairMany(t *testing.T) {
	harness.FreshHost(t)
	controller := cantest.NewController(t, "slot0")
	members := 30
	if cantest.IsThorough() {
		members = 100
	}
	const frames = 40
	var boxes []*harness.Container
	for _, name := range harness.ContainerNames("c", members) {
		box := harness.NewContainer(t, name)
		harness.On(box).With(harness.SetUpByUs).Add(t)
		boxes = append(boxes, box)
	}
	wire := controller.Listen()
	controller.Pace(cantest.Stopped)
	// The driver takes some frames before it is full: not those that are counted.
	const filler = 400
	first := harness.NewContainer(t, "first")
	harness.On(first).With(harness.SetUpByUs).Add(t)
	harness.SendAll(t, first, slices.Repeat([]cantest.Frame{{ID: 0x100}}, filler))
	for i, box := range boxes {
		var sent []cantest.Frame
		for n := range frames {
			sent = append(sent, cantest.Frame{ID: uint32(0x200 + i), Data: fmt.Sprintf("%08d", n)})
		}
		harness.SendAll(t, box, sent)
	}
	controller.Pace(cantest.Unlimited)
	cantest.WaitQuiet(filler+members*frames, wire)
	all := wire.InOrder()
	if len(all) != filler+members*frames {
		t.Errorf("%d of %d frames are on the wire", len(all), filler+members*frames)
	}
	sent := make(map[uint32]int)
	for _, f := range all[:len(all)/2] {
		sent[f.ID]++
	}
	if len(sent) != members+1 {
		t.Errorf("%d of %d senders are on the wire in the first half of the time", len(sent), members+1)
	}
	harness.ExpectEqualShares(t, sent)
}
