package cantc

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/rtnl"
)

// Queue is the transmit queue of a device, its root qdisc. Ours is drr (net/sched/sch_drr.c), which takes frames from its
// classes in turn. A class has a queue of its own (pfifo, of txqueuelen frames), and a filter of kind fw gives it the frames of
// one mark. A filter behind those gives the frames of all other marks to the class of mark 0.
//
// drr drops a frame that has no class. That is possible only for a moment, before the class and the filter of mark 0 are added:
// while its filter is there, the kernel deletes no class, and the frames of a filter that is deleted go to the class of mark 0.
type Queue struct {
	Kind string // of the qdisc: "pfifo_fast", "drr"; "" is what a device has that was never up
	// Chosen reports that somebody has chosen the qdisc, so that it is neither the kernel's default nor ours.
	Chosen bool
	// Ours reports that the qdisc is ours, and these are its classes.
	Ours    bool
	Classes []Class
}

// Class is a queue for the frames of one mark, or for all that have no other class.
type Class struct {
	Mark    uint32 // 0 for all others
	ID      uint32 // what tc calls classid
	Filter  bool   // there is a filter that gives it these frames
	Waiting uint32 // frames
	Dropped uint32 // frames, because the class was full
}

// ClassOf is the class that is made for a mark. Marks are the ifindexes of one bus, which are close together.
func ClassOf(mark uint32) Class {
	c := Class{Mark: mark, ID: queueHandle | othersMinor}
	if mark != 0 {
		c.ID = queueHandle | 1 + mark%(othersMinor-1)
	}
	return c
}

// Class is the class of a mark at work, or nil.
func (q Queue) Class(mark uint32) *Class {
	i := slices.IndexFunc(q.Classes, func(c Class) bool { return c.Filter && c.ID == ClassOf(mark).ID && c.Mark == mark })
	if i < 0 {
		return nil
	}
	return &q.Classes[i]
}

// Numbers from linux/pkt_sched.h, linux/pkt_cls.h and linux/gen_stats.h.
const (
	drr           = "drr"
	fw            = "fw"
	rootParent    = 0xffffffff   // TC_H_ROOT
	queueHandle   = 0x7663 << 16 // of our qdisc: what tc shows as 7663:
	othersMinor   = 0xffff       // of the class of mark 0
	markPrio      = 1
	othersPrio    = 2
	tcaFwClass    = 1 // TCA_FW_CLASSID
	tcaDRRQuantum = 1 // TCA_DRR_QUANTUM
	tcaStabBase   = 1 // TCA_STAB_BASE, struct tc_sizespec
	// drr gives a class at least 256 bytes a round (Linux 6.12): sixteen classic frames, and with the overhead one.
	quantum  = 256
	overhead = quantum - unix.CAN_MTU
)

// Queue returns the transmit queue of a device. It fails with ENODEV, wrapped, if that is gone.
func (c *Conn) Queue(dev int) (q Queue, err error) {
	// Older kernels answer only a request that wants an echo.
	replies, err := rtnl.DoAll(c.conn, tcRequest(unix.RTM_GETQDISC, unix.NLM_F_ECHO|unix.NLM_F_ACK, dev, 0, rootParent, 0))
	if errors.Is(err, unix.ENOENT) || err == nil && replies[0].Data == nil { // a device that was never up has none to be seen
		return Queue{}, nil
	}
	var root Qdisc
	var handle uint32
	if err == nil {
		root, handle, err = unmarshalQdisc(replies[0].Data)
	}
	if err != nil {
		return q, fmt.Errorf("look up queue of device with index %d: %w", dev, err)
	}
	q.Kind, q.Ours = root.Kind, handle == queueHandle && root.Kind == drr
	if !q.Ours {
		q.Chosen = handle != 0
		return q, nil
	}
	if q.Classes, err = c.classes(dev); err != nil {
		return q, fmt.Errorf("list classes of device with index %d: %w", dev, err)
	}
	return q, nil
}

func (c *Conn) classes(dev int) (all []Class, err error) {
	marks := make(map[uint32]uint32) // by class, as the filters say
	_, err = c.conn.Dump(tcRequest(unix.RTM_GETTFILTER, 0, dev, 0, queueHandle, 0), func(data []byte) error {
		mark, id, err := unmarshalClassFilter(data)
		marks[id] = mark
		return err
	})
	if err != nil {
		return nil, err
	}
	_, err = c.conn.Dump(tcRequest(unix.RTM_GETTCLASS, 0, dev, 0, 0, 0), func(data []byte) error {
		class, err := unmarshalClass(data)
		if class.ID&0xffff0000 == queueHandle {
			class.Mark, class.Filter = marks[class.ID]
			all = append(all, class)
		}
		return err
	})
	return all, err
}

// SetClasses makes a device's transmit queue ours, and in it the classes of marks and that of all other frames. What is
// there already stays as it is. It fails with a rtnl.NoModuleError where the kernel lacks a part, and with EEXIST, wrapped, where
// somebody has chosen another qdisc.
func (c *Conn) SetClasses(dev int, marks ...uint32) error {
	type step struct {
		request *nl.NetlinkRequest
		module  string
	}
	root := rootRequest(dev)
	steps := []step{{root, "sch_drr"}, {classRequest(dev, 0), "sch_drr"}, {othersRequest(dev), "cls_bpf"}}
	for _, mark := range marks {
		if mark != 0 {
			steps = append(steps, step{classRequest(dev, mark), "sch_drr"}, step{markRequest(unix.RTM_NEWTFILTER, dev, mark), "cls_fw"})
		}
	}
	var taken error // by a qdisc that may be ours: then it has classes
	return rtnl.Each(c.conn, steps, func(s step) *nl.NetlinkRequest { return s.request }, func(s step, r rtnl.Reply) error {
		switch {
		case s.request == root && errors.Is(r.Err, unix.EEXIST):
			taken = r.Err
			return nil
		case r.Err == nil:
			return nil
		case errors.Is(r.Err, unix.ENOENT) && taken != nil && s.module == "sch_drr":
			r.Err = taken
		case errors.Is(r.Err, unix.ENOENT):
			return &rtnl.NoModuleError{Module: s.module}
		}
		return fmt.Errorf("set classes of device with index %d: %w", dev, r.Err)
	})
}

// ProbeQueue reports whether the kernel has what SetClasses needs of it, as Probe does for filters.
func ProbeQueue() error {
	return rtnl.InNew(rtnl.Dial, func(conn rtnl.Conn) error { return On(conn).SetClasses(lo, 1) })
}

// DeleteClasses deletes classes whose frames are all gone. The others get no more frames from then on, and can be deleted later.
// What is not there is no error.
func (c *Conn) DeleteClasses(dev int, classes ...Class) error {
	handle := func(_ Class, r rtnl.Reply) error {
		if r.Err == nil || isAbsent(r.Err) || errors.Is(r.Err, unix.EBUSY) {
			return nil
		}
		return fmt.Errorf("delete classes of device with index %d: %w", dev, r.Err)
	}
	filter := func(class Class) *nl.NetlinkRequest { return markRequest(unix.RTM_DELTFILTER, dev, class.Mark) }
	marked := slices.DeleteFunc(slices.Clone(classes), func(class Class) bool { return class.Mark == 0 }) // handle 0 is all filters
	if err := rtnl.Each(c.conn, marked, filter, handle); err != nil {
		return err
	}
	q, err := c.Queue(dev) // only now, when nothing is added to them
	if err != nil && !isAbsent(err) {
		return err
	}
	var empty []Class
	for _, now := range q.Classes {
		if now.Waiting == 0 && slices.ContainsFunc(classes, func(class Class) bool { return class.ID == now.ID }) {
			empty = append(empty, now)
		}
	}
	return rtnl.Each(c.conn, empty, func(class Class) *nl.NetlinkRequest {
		return tcRequest(unix.RTM_DELTCLASS, 0, dev, class.ID, queueHandle, 0)
	}, handle)
}

// DeleteQueue puts the kernel's default queue in the place of ours, if the device has that. Frames that wait are lost.
func (c *Conn) DeleteQueue(dev int) error {
	err := rtnl.Do(c.conn, tcRequest(unix.RTM_DELQDISC, 0, dev, queueHandle, rootParent, 0))
	if err != nil && !isAbsent(err) {
		return fmt.Errorf("delete queue of device with index %d: %w", dev, err)
	}
	return nil
}

func rootRequest(dev int) *nl.NetlinkRequest {
	spec := make([]byte, 24) // cell_log, size_log, cell_align; overhead; linklayer, mpu, mtu, tsize
	binary.NativeEndian.PutUint32(spec[4:], overhead)
	return rtnl.With(tcRequest(unix.RTM_NEWQDISC, unix.NLM_F_CREATE|unix.NLM_F_EXCL, dev, queueHandle, rootParent, 0),
		rtnl.Text(unix.TCA_KIND, drr), rtnl.Nested(unix.TCA_STAB, nl.NewRtAttr(tcaStabBase, spec)))
}

func classRequest(dev int, mark uint32) *nl.NetlinkRequest {
	return rtnl.With(tcRequest(unix.RTM_NEWTCLASS, unix.NLM_F_CREATE, dev, ClassOf(mark).ID, queueHandle, 0),
		rtnl.Text(unix.TCA_KIND, drr), rtnl.Nested(unix.TCA_OPTIONS, rtnl.Number(tcaDRRQuantum, quantum)))
}

// markRequest is about the filter that gives a class the frames of its mark, which is the filter's handle.
func markRequest(kind, dev int, mark uint32) *nl.NetlinkRequest {
	flags := 0
	if kind == unix.RTM_NEWTFILTER {
		flags = unix.NLM_F_CREATE
	}
	return rtnl.With(tcRequest(kind, flags, dev, mark, queueHandle, markPrio<<16|protocolAll()),
		rtnl.Text(unix.TCA_KIND, fw), rtnl.Nested(unix.TCA_OPTIONS, rtnl.Number(tcaFwClass, ClassOf(mark).ID)))
}

// othersRequest makes the filter that gives all other frames to the class of mark 0.
func othersRequest(dev int) *nl.NetlinkRequest {
	options := rtnl.Nested(unix.TCA_OPTIONS, rtnl.Number(nl.TCA_BPF_CLASSID, ClassOf(0).ID))
	addProgram(options, matchAll)
	return rtnl.With(tcRequest(unix.RTM_NEWTFILTER, unix.NLM_F_CREATE, dev, 1, queueHandle, othersPrio<<16|protocolAll()),
		rtnl.Text(unix.TCA_KIND, Kind), options)
}

// unmarshalClassFilter reads a filter of our qdisc: the mark, and the class that gets its frames, 0 if it is none of ours.
func unmarshalClassFilter(b []byte) (mark, id uint32, err error) {
	var kind string
	head, err := tcAttrs(b, func(attr uint16, value []byte) error {
		switch {
		case attr == unix.TCA_KIND:
			kind = unix.ByteSliceToString(value)
		case attr == unix.TCA_OPTIONS:
			return rtnl.Attrs(value, func(attr uint16, value []byte) error {
				if kind == fw && attr == tcaFwClass || kind == Kind && attr == nl.TCA_BPF_CLASSID {
					if len(value) != 4 {
						return fmt.Errorf("attribute %d of %s: %d bytes, want 4", attr, kind, len(value))
					}
					id = binary.NativeEndian.Uint32(value)
				}
				return nil
			})
		}
		return nil
	})
	if kind == fw {
		mark = head.Handle
	}
	return mark, id, err
}

func unmarshalClass(b []byte) (class Class, err error) {
	head, err := tcAttrs(b, func(attr uint16, value []byte) error {
		if attr != unix.TCA_STATS2 {
			return nil
		}
		return rtnl.Attrs(value, func(attr uint16, value []byte) error {
			switch {
			case attr != nl.TCA_STATS_QUEUE:
			case len(value) < gnetStatsQueueSize:
				return fmt.Errorf("attribute %d of counters: %d bytes, want %d", attr, len(value), gnetStatsQueueSize)
			default:
				class.Waiting, class.Dropped = binary.NativeEndian.Uint32(value[0:4]), binary.NativeEndian.Uint32(value[8:12])
			}
			return nil
		})
	})
	class.ID = head.Handle
	return class, err
}
