// Package cangw adds, deletes and lists the rules of the kernel's CAN gateway (module can-gw), which copies frames from
// one CAN device to another. A rule is what we want; a job is the kernel's instance of it, with its counters.
//
// It encodes plain rules: source, destination, flags, a filter and a hop limit. Jobs of other programs may do more
// (modifications, checksums). It lists them, marked as not plain, and deletes them by what the kernel itself says of them.
//
// Kernel: linux/can/gw.h, net/can/gw.c. The reference program is cangw of can-utils.
package cangw

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/rtnl"
)

// Flags of a rule (struct rtcanmsg, linux/can/gw.h).
type Flags uint16

const (
	Echo    Flags = 0x01 // CGW_FLAGS_CAN_ECHO: programs on the destination device hear the frame
	SrcTS   Flags = 0x02 // CGW_FLAGS_CAN_SRC_TSTAMP: keep the timestamp
	IIFTxOK Flags = 0x04 // CGW_FLAGS_CAN_IIF_TX_OK: also send to the device that the frame came in by
	FD      Flags = 0x08 // CGW_FLAGS_CAN_FD: CAN FD frames, and only these; without it classic frames only
)

// Filter picks frames by ID (struct can_filter, linux/can.h). The zero Filter takes all but error frames.
type Filter struct{ ID, Mask uint32 }

// Rule says: copy each frame that arrives on device Src to device Dst. Both are ifindexes of the socket's netns.
type Rule struct {
	Src, Dst uint32
	Flags    Flags
	Filter   Filter
	// Hops is how many rules a frame may pass from this one on, this one included; 0 leaves it to the module parameter
	// max_hops of can-gw (cangw -l, cgw_hops of net/can/gw.c).
	Hops uint8
}

// Job is a rule at work in the kernel.
type Job struct {
	Rule
	Plain                     bool   // has nothing but what Rule holds; false for jobs with modifications
	Handled, Dropped, Deleted uint32 // frames: passed on, refused by the destination, stopped by hop or origin check
	// Raw is the message that deletes a job that is not plain: the kernel's struct rtcanmsg and attributes less the counters.
	Raw string
}

// Numbers from linux/can/gw.h.
const (
	cgwTypeCANCAN = 1 // CGW_TYPE_CAN_CAN

	cgwHandled = 7  // CGW_HANDLED
	cgwDropped = 8  // CGW_DROPPED
	cgwSrcIF   = 9  // CGW_SRC_IF
	cgwDstIF   = 10 // CGW_DST_IF
	cgwFilter  = 11 // CGW_FILTER
	cgwDeleted = 12 // CGW_DELETED
	cgwLimHops = 13 // CGW_LIM_HOPS
	cgwMax     = 18 // CGW_FDMOD_SET, the last one that is known here
)

// Sets of attributes: the counters, and all that a plain rule may have.
const (
	counterAttrs = 1<<cgwHandled | 1<<cgwDropped | 1<<cgwDeleted
	plainAttrs   = counterAttrs | 1<<cgwSrcIF | 1<<cgwDstIF | 1<<cgwFilter | 1<<cgwLimHops
)

const (
	rtcanmsgSize  = 4 // struct rtcanmsg
	canFilterSize = 8 // struct can_filter
)

// errNotCAN is returned by unmarshalJob for a route of another protocol family.
var errNotCAN = errors.New("not a CAN gateway job")

// marshal is the payload of RTM_NEWROUTE and RTM_DELROUTE: struct rtcanmsg and attributes, in the order of cangw.
func (r Rule) marshal() []byte {
	b := make([]byte, rtcanmsgSize, 44)
	b[0], b[1] = unix.AF_CAN, cgwTypeCANCAN
	binary.NativeEndian.PutUint16(b[2:4], uint16(r.Flags))
	b = appendAttr(b, cgwSrcIF, nl.Uint32Attr(r.Src))
	b = appendAttr(b, cgwDstIF, nl.Uint32Attr(r.Dst))
	if r.Filter != (Filter{}) {
		b = appendAttr(b, cgwFilter, append(nl.Uint32Attr(r.Filter.ID), nl.Uint32Attr(r.Filter.Mask)...))
	}
	if r.Hops != 0 {
		b = appendAttr(b, cgwLimHops, []byte{r.Hops})
	}
	return b
}

// marshal is the payload of RTM_DELROUTE that deletes the job. The gateway compares everything but the counters, which it
// ignores; of a job with a uid (CGW_MOD_UID) not the modifications, but no two jobs have the same (cgw_remove_job of
// net/can/gw.c).
func (j Job) marshal() []byte {
	if j.Plain {
		return j.Rule.marshal()
	}
	return []byte(j.Raw)
}

// appendAttr appends an attribute (struct nlattr), padded to a multiple of four bytes.
func appendAttr(b []byte, kind uint16, value []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(unix.SizeofNlAttr+len(value)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, value...)
	return append(b, make([]byte, -len(value)&3)...)
}

// unmarshalJob reads a message of an RTM_GETROUTE dump: errNotCAN for other families, which are listed where can-gw is not loaded.
func unmarshalJob(b []byte) (Job, error) {
	if len(b) == 0 || b[0] != unix.AF_CAN {
		return Job{}, errNotCAN
	}
	if len(b) < rtcanmsgSize {
		return Job{}, fmt.Errorf("rtcanmsg: %d bytes, want at least %d", len(b), rtcanmsgSize)
	}
	if b[1] != cgwTypeCANCAN {
		return Job{}, errNotCAN
	}
	job := Job{Plain: true, Rule: Rule{Flags: Flags(binary.NativeEndian.Uint16(b[2:4]))}}
	if err := rtnl.Attrs(b[rtcanmsgSize:], job.unmarshalAttr); err != nil {
		return Job{}, err
	}
	if job.Src == 0 || job.Dst == 0 {
		return Job{}, errors.New("gateway job without a source or a destination")
	}
	if job.Plain {
		return job, nil
	}
	raw := append([]byte(nil), b[:rtcanmsgSize]...)
	err := rtnl.Attrs(b[rtcanmsgSize:], func(kind uint16, value []byte) error {
		if kind > cgwMax || counterAttrs&(1<<kind) == 0 {
			raw = appendAttr(raw, kind, value)
		}
		return nil
	})
	job.Raw = string(raw)
	return job, err
}

func (j *Job) unmarshalAttr(kind uint16, value []byte) (err error) {
	switch kind {
	case cgwSrcIF:
		j.Src, err = rtnl.Uint32(kind, value)
	case cgwDstIF:
		j.Dst, err = rtnl.Uint32(kind, value)
	case cgwHandled:
		j.Handled, err = rtnl.Uint32(kind, value)
	case cgwDropped:
		j.Dropped, err = rtnl.Uint32(kind, value)
	case cgwDeleted:
		j.Deleted, err = rtnl.Uint32(kind, value)
	case cgwFilter:
		if err = rtnl.WantSize(kind, value, canFilterSize); err == nil {
			j.Filter = Filter{ID: binary.NativeEndian.Uint32(value[0:4]), Mask: binary.NativeEndian.Uint32(value[4:8])}
		}
	case cgwLimHops:
		if err = rtnl.WantSize(kind, value, 1); err == nil {
			j.Hops = value[0]
		}
	default:
		j.Plain = false
	}
	return err
}

// Format writes a rule as the arguments of cangw that would make it. name gives a device's name by its ifindex.
func (r Rule) Format(name func(index uint32) string) string { return r.format(name, "") }

// format is Format with more arguments of cangw, where cangw -L has them.
func (r Rule) format(name func(index uint32) string, more string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "-s %s -d %s", name(r.Src), name(r.Dst))
	for _, f := range []struct {
		flag   Flags
		option string
	}{{FD, "-X"}, {Echo, "-e"}, {SrcTS, "-t"}, {IIFTxOK, "-i"}} {
		if r.Flags&f.flag != 0 {
			b.WriteString(" " + f.option)
		}
	}
	if r.Hops != 0 {
		fmt.Fprintf(&b, " -l %d", r.Hops)
	}
	b.WriteString(more)
	switch {
	case r.Filter.ID&unix.CAN_INV_FILTER != 0:
		fmt.Fprintf(&b, " -f %03X~%X", r.Filter.ID&^unix.CAN_INV_FILTER, r.Filter.Mask)
	case r.Filter != (Filter{}):
		fmt.Fprintf(&b, " -f %03X:%X", r.Filter.ID, r.Filter.Mask)
	}
	return b.String()
}
