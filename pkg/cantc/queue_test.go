package cantc

import (
	"errors"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// goldenQueue is what tc of iproute2 6.1 sends behind struct nlmsghdr, by strace -xx -e trace=sendmsg.
var goldenQueue = []struct {
	command string
	ours    []byte
	sent    string
}{{
	"tc qdisc add dev lo root handle 7663: stab overhead 240 drr",
	rootRequest(1).Serialize()[unix.SizeofNlMsghdr:],
	"00000000 01000000 00006376 ffffffff 00000000 08000100 64727200 20000800 1c000100 00000000 f0000000 00000000 00000000 00000000 00000000",
}, {
	"tc class add dev lo parent 7663: classid 7663:13 drr quantum 256",
	classRequest(1, 0x12).Serialize()[unix.SizeofNlMsghdr:],
	"00000000 01000000 13006376 00006376 00000000 08000100 64727200 0c000200 08000100 00010000",
}, {
	"tc filter add dev lo parent 7663: protocol all prio 1 handle 0x12 fw classid 7663:13",
	markRequest(unix.RTM_NEWTFILTER, 1, 0x12).Serialize()[unix.SizeofNlMsghdr:],
	"00000000 01000000 12000000 00006376 00030100 07000100 66770000 0c000200 08000100 13006376",
}, {
	"tc filter add dev lo parent 7663: protocol all prio 2 handle 1 bpf bytecode '1,6 0 0 4294967295' classid 7663:ffff",
	othersRequest(1).Serialize()[unix.SizeofNlMsghdr:],
	"00000000 01000000 01000000 00006376 00030200 08000100 62706600 20000200 08000300 ffff6376 06000400 01000000 0c000500 06000000 ffffffff",
}}

func TestQueueRequests(t *testing.T) {
	for _, g := range goldenQueue {
		if diff := cmp.Diff(unhex(t, g.sent), g.ours); diff != "" {
			t.Errorf("%s (- tc, + ours)\n%s", g.command, diff)
		}
	}
}

func TestClassOf(t *testing.T) {
	ids := map[uint32]bool{ClassOf(0).ID: true}
	for mark := uint32(0x1ffff0); mark < 0x1ffff0+2*4096; mark++ {
		id := ClassOf(mark).ID
		if ids[id] || id&0xffff == 0 || id>>16 != 0x7663 {
			t.Fatalf("mark %#x: class %#x, which is taken or none", mark, id)
		}
		ids[id] = true
	}
}

// What is deleted by hand, as far as the kernel lets it, is made again; classes that are not wanted go, and so does the queue.
func TestQueue(t *testing.T) {
	h := newHost(t)
	const a, b = 1<<20 + 5, 1<<20 + 6
	check := func(when string, count int, marks ...uint32) {
		t.Helper()
		q, err := h.Queue(dev)
		if err != nil {
			t.Fatal(when, err)
		}
		for _, mark := range marks {
			if q.Class(mark) == nil {
				t.Errorf("%s: no class of mark %d: %+v", when, mark, q)
			}
		}
		if len(q.Classes) != count || q.Ours != (count > 0) || q.Chosen {
			t.Errorf("%s: %+v, want %d classes", when, q, count)
		}
	}
	set := func(marks ...uint32) {
		t.Helper()
		if err := h.SetClasses(dev, marks...); err != nil {
			t.Fatal(err)
		}
	}
	check("before", 0)
	set(a)
	check("made", 2, 0, a)
	set(a, b)
	check("one more", 3, 0, a, b)
	h.tc(t, "filter del dev v0 parent 7663: pref 1")
	check("filters of marks deleted", 3, 0)
	set(a, b)
	check("made again", 3, 0, a, b)
	h.tc(t, "filter del dev v0 parent 7663: pref 2")
	check("filter of the others deleted", 3, a, b)
	set()
	check("made again", 3, 0, a, b)
	for range 2 {
		if err := h.DeleteClasses(dev, ClassOf(a), ClassOf(77)); err != nil {
			t.Fatal(err)
		}
		check("one deleted", 2, 0, b)
	}
	h.tc(t, "class add dev v0 parent 7663: classid 7663:7 drr")
	check("of nobody", 3, 0, b)
	q, err := h.Queue(dev)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.DeleteClasses(dev, slices.DeleteFunc(q.Classes, func(c Class) bool { return c.Filter })...); err != nil {
		t.Error(err)
	}
	check("that of nobody deleted", 2, 0, b)
	h.tc(t, "qdisc del dev v0 root")
	check("queue deleted", 0)
	if err := errors.Join(h.DeleteClasses(dev, ClassOf(b)), h.DeleteQueue(dev)); err != nil {
		t.Error("what is not there:", err)
	}
	set(b)
	if err := h.DeleteQueue(dev); err != nil {
		t.Error(err)
	}
	check("deleted", 0)

	h.tc(t, "qdisc add dev v0 root pfifo limit 7")
	if q, err := h.Queue(dev); err != nil || q.Kind != "pfifo" || !q.Chosen || q.Ours {
		t.Errorf("of another program: %+v, %v", q, err)
	}
	if err := h.SetClasses(dev, a); !errors.Is(err, unix.EEXIST) {
		t.Error("set beside a queue of another program")
	}
	if err := errors.Join(h.DeleteClasses(dev, ClassOf(a)), h.DeleteQueue(dev)); err != nil {
		t.Error("beside a queue of another program:", err)
	}
	if q, err := h.Queue(dev); err != nil || q.Kind != "pfifo" {
		t.Errorf("another program's is gone: %+v, %v", q, err)
	}
	if _, err := h.Queue(dev + 1); !errors.Is(err, unix.ENODEV) {
		t.Errorf("no device: %v, want ENODEV", err)
	}
}
