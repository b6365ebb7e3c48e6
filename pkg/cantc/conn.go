// Package cantc sets, reads and deletes the tc filters of CAN devices: a classic BPF program each (pkg/canid), and what happens
// to the frames that it matches. It makes the clsact qdisc that they need. It needs no bpf(2) and no loader: a program is an
// attribute of a netlink message.
//
// Kernel: net/sched/cls_bpf.c, net/sched/sch_ingress.c, net/sched/act_api.c, linux/pkt_cls.h, linux/tc_act/.
package cantc

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/rtnl"
)

// Conn works on the filters of one network namespace.
type Conn struct{ conn rtnl.Conn }

// On works on the filters of the namespace that conn was opened in. The caller closes conn.
func On(conn rtnl.Conn) *Conn { return &Conn{conn} }

// Get returns the filters of hooks. Hooks without one are left out, also for the lack of their device.
func (c *Conn) Get(hooks ...Hook) (filters []Installed, err error) {
	request := func(h Hook) *nl.NetlinkRequest { return h.request(unix.RTM_GETTFILTER, 0) }
	err = rtnl.Each(c.conn, hooks, request, func(h Hook, r rtnl.Reply) error {
		if isAbsent(r.Err) {
			return nil
		}
		f, err := unmarshalFilter(r.Data)
		if err = cmp.Or(r.Err, err); err != nil {
			return fmt.Errorf("look up %s filter of device with index %d: %w", h.Dir, h.Dev, err)
		}
		f.Hook = h
		filters = append(filters, f)
		return nil
	})
	return filters, err
}

// isAbsent reports whether an error means that there is no such filter: no device, no clsact qdisc (EINVAL), no filter of
// the priority, or a qdisc with a shared block, where filters belong to the block and not to a device (EOPNOTSUPP).
func isAbsent(err error) bool {
	return errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP)
}

// OtherFilterError is a filter of another program at a hook where Set needs its own: all filters of a priority are of one kind
// and one protocol. This ends it: tc filter del dev DEV DIR pref PRIO
type OtherFilterError struct{ Entry }

func (e *OtherFilterError) Error() string {
	return fmt.Sprintf("device with index %d has %s filters of kind %s and protocol %#04x at pref %d", e.Dev, e.Dir, e.Kind, e.Protocol, e.Prio)
}

// Set makes filters, and replaces those that are there without a moment in between. It makes the clsact qdisc of their
// devices where it is missing. It fails with a rtnl.NoModuleError where the kernel lacks a part, and with an OtherFilterError
// where another program's filter prevents it; what a qdisc prevents, Qdiscs tells. Where one filter fails the others are made
// all the same, but none is made before each device has its qdisc.
func (c *Conn) Set(filters ...Filter) error {
	if err := c.addQdiscs(filters); err != nil {
		return err
	}
	return rtnl.Each(c.conn, filters, Filter.setRequest, func(f Filter, r rtnl.Reply) error {
		if r.Err == nil {
			return nil
		}
		return fmt.Errorf("set %s filter of device with index %d: %w", f.Dir, f.Dev, c.explain(f, r.Err))
	})
}

// explain finds out why the kernel refuses a filter.
func (c *Conn) explain(f Filter, refused error) error {
	switch {
	case errors.Is(refused, unix.ENOENT):
		return &rtnl.NoModuleError{Module: c.missing(f)}
	case errors.Is(refused, unix.EINVAL):
		all, _ := c.list(f.Hook) // what could be read is an answer, too
		for _, e := range all {
			if e.Holds() {
				return &OtherFilterError{e}
			}
		}
	}
	return refused
}

// addQdiscs makes the qdiscs that filters need.
func (c *Conn) addQdiscs(filters []Filter) error {
	var devs []int
	for _, f := range filters {
		if !slices.Contains(devs, f.Dev) {
			devs = append(devs, f.Dev)
		}
	}
	request := func(dev int) *nl.NetlinkRequest {
		return rtnl.With(qdiscRequest(unix.RTM_NEWQDISC, unix.NLM_F_CREATE|unix.NLM_F_EXCL, dev), rtnl.Text(unix.TCA_KIND, clsact))
	}
	return rtnl.Each(c.conn, devs, request, func(dev int, r rtnl.Reply) error {
		switch {
		case r.Err == nil, errors.Is(r.Err, unix.EEXIST):
			return nil
		case errors.Is(r.Err, unix.ENOENT):
			return &rtnl.NoModuleError{Module: "sch_ingress"}
		}
		return fmt.Errorf("add qdisc of device with index %d: %w", dev, r.Err)
	})
}

// Qdiscs returns the qdiscs of devices that filters can be in, of those that have one.
func (c *Conn) Qdiscs(devs ...int) (all []Qdisc, err error) {
	// Older kernels answer only a request that wants an echo.
	request := func(dev int) *nl.NetlinkRequest {
		return qdiscRequest(unix.RTM_GETQDISC, unix.NLM_F_ECHO|unix.NLM_F_ACK, dev)
	}
	err = rtnl.Each(c.conn, devs, request, func(dev int, r rtnl.Reply) error {
		if isAbsent(r.Err) || r.Err == nil && len(r.Data) == 0 { // none yet, or none any more
			return nil
		}
		q, _, err := unmarshalQdisc(r.Data)
		if err = cmp.Or(r.Err, err); err != nil {
			return fmt.Errorf("look up qdisc of device with index %d: %w", dev, err)
		}
		all = append(all, q)
		return nil
	})
	return all, err
}

// DeleteQdiscs deletes the qdiscs that Qdiscs returns, with all filters in them. One that is not there is no error.
func (c *Conn) DeleteQdiscs(devs ...int) error {
	request := func(dev int) *nl.NetlinkRequest { return qdiscRequest(unix.RTM_DELQDISC, 0, dev) }
	return rtnl.Each(c.conn, devs, request, func(dev int, r rtnl.Reply) error {
		if r.Err == nil || isAbsent(r.Err) {
			return nil
		}
		return fmt.Errorf("delete qdisc of device with index %d: %w", dev, r.Err)
	})
}

// missing names the module that a filter lacks: each action is asked for by itself, without options, which none takes (EINVAL).
func (c *Conn) missing(f Filter) string {
	for _, a := range f.Actions {
		r := nl.NewNetlinkRequest(unix.RTM_NEWACTION, unix.NLM_F_CREATE)
		r.AddData(nl.NewRtAttr(0, nil)) // struct tcamsg is four bytes, of which none is used
		r.AddData(rtnl.Nested(nl.TCA_ACT_TAB, rtnl.Nested(1, rtnl.Text(nl.TCA_ACT_KIND, a.Kind))))
		if errors.Is(rtnl.Do(c.conn, r), unix.ENOENT) {
			return "act_" + a.Kind
		}
	}
	return "cls_bpf"
}

// lo is the index of the device that each network namespace has.
const lo = 1

// Probe reports whether the kernel has what Set needs of it, by making filters in a network namespace that is gone when it
// returns. It fails with a rtnl.NoModuleError, or without CAP_SYS_ADMIN.
func Probe(actions ...Action) error {
	return rtnl.InNew(rtnl.Dial, func(conn rtnl.Conn) error {
		return On(conn).Set(Filter{Hook{lo, Ingress, 1, 1}, matchAll, actions})
	})
}

// Delete deletes the filters of hooks. One that is not there is no error. The clsact qdisc stays, which others may use, and so
// do filters of other kinds than those of Set.
func (c *Conn) Delete(hooks ...Hook) error {
	request := func(h Hook) *nl.NetlinkRequest {
		return rtnl.With(h.request(unix.RTM_DELTFILTER, 0), rtnl.Text(unix.TCA_KIND, Kind))
	}
	return rtnl.Each(c.conn, hooks, request, func(h Hook, r rtnl.Reply) error {
		if r.Err == nil || isAbsent(r.Err) {
			return nil
		}
		return fmt.Errorf("delete %s filter of device with index %d: %w", h.Dir, h.Dev, r.Err)
	})
}
