package cantc

import (
	"errors"
	"fmt"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/rtnl"
)

// Conn works on the filters of one network namespace.
type Conn struct{ conn *rtnl.Conn }

// On works on the filters of the namespace that conn was opened in. The caller closes conn.
func On(conn *rtnl.Conn) *Conn { return &Conn{conn} }

// Get returns the filters of hooks, in as few batches as can be. Hooks without one are left out, also for the lack of
// their device.
func (c *Conn) Get(hooks ...Hook) ([]Installed, error) {
	var filters []Installed
	for batch := range slices.Chunk(hooks, rtnl.MaxBatch) {
		requests := make([]*nl.NetlinkRequest, len(batch))
		for i, h := range batch {
			requests[i] = h.request(unix.RTM_GETTFILTER, 0)
		}
		replies, err := c.conn.Batch(requests...)
		if err != nil {
			return nil, err
		}
		for i, r := range replies {
			if isAbsent(r.Err) {
				continue
			}
			f, err := unmarshalFilter(r.Data)
			if err = errors.Join(r.Err, err); err != nil {
				return nil, fmt.Errorf("look up filter of device with index %d: %w", batch[i].Dev, err)
			}
			f.Hook = batch[i]
			filters = append(filters, f)
		}
	}
	return filters, nil
}

// isAbsent tells whether an error says that there is no such filter: no device, no clsact qdisc (EINVAL), no filter of
// the priority.
func isAbsent(err error) bool {
	return errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT)
}

// NoModuleError is the lack of a kernel module, which the kernel would have loaded.
type NoModuleError struct{ Module string }

func (e *NoModuleError) Error() string { return "the kernel module " + e.Module + " is missing" }

// Set makes filters, and replaces those that are there without a moment in between. It makes the clsact qdisc of their
// devices where it is missing. It fails with a NoModuleError where the kernel lacks a part.
func (c *Conn) Set(filters ...Filter) error {
	var requests []*nl.NetlinkRequest
	var devs []int
	for _, f := range filters {
		if !slices.Contains(devs, f.Dev) {
			devs = append(devs, f.Dev)
			requests = append(requests, qdiscRequest(f.Dev))
		}
	}
	for _, f := range filters {
		requests = append(requests, f.setRequest())
	}
	var errs []error
	for batch := range slices.Chunk(requests, rtnl.MaxBatch) {
		replies, err := c.conn.Batch(batch...)
		errs = append(errs, err)
		for i, r := range replies {
			switch isQdisc := batch[i].Type == unix.RTM_NEWQDISC; {
			case r.Err == nil, isQdisc && errors.Is(r.Err, unix.EEXIST):
			case errors.Is(r.Err, unix.ENOENT) && isQdisc:
				return &NoModuleError{"sch_ingress"}
			case errors.Is(r.Err, unix.ENOENT):
				return &NoModuleError{c.missing(filters)}
			default:
				errs = append(errs, fmt.Errorf("set filter: %w", r.Err))
			}
		}
	}
	return errors.Join(errs...)
}

// missing names the module that the kernel lacks for filters: of actions, it can be asked for each by one without options,
// which none takes (EINVAL).
func (c *Conn) missing(filters []Filter) string {
	for _, f := range filters {
		for _, a := range f.Actions {
			r := nl.NewNetlinkRequest(unix.RTM_NEWACTION, unix.NLM_F_CREATE)
			r.AddData(nl.NewRtAttr(0, nil)) // struct tcamsg is four bytes, of which none is used
			table := nl.NewRtAttr(tcaActTab, nil)
			table.AddRtAttr(1, nil).AddRtAttr(tcaActKind, nl.ZeroTerminated(a.Kind))
			r.AddData(table)
			if errors.Is(c.conn.Do(r), unix.ENOENT) {
				return "act_" + a.Kind
			}
		}
	}
	return "cls_bpf"
}

// Probe tells whether the kernel has what Set needs of it, by making filters in a network namespace that is gone when it
// returns. It fails with a NoModuleError, or without CAP_SYS_ADMIN.
func Probe(actions ...Action) error {
	conn, err := rtnl.DialNew()
	if err != nil {
		return err
	}
	const lo = 1
	all := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: match}}
	return errors.Join(On(conn).Set(Filter{Hook{lo, Ingress, 1}, all, actions}), conn.Close())
}

// Delete deletes the filters of hooks. One that is not there is no error. The clsact qdisc stays, which others may use.
func (c *Conn) Delete(hooks ...Hook) error {
	var errs []error
	for batch := range slices.Chunk(hooks, rtnl.MaxBatch) {
		requests := make([]*nl.NetlinkRequest, len(batch))
		for i, h := range batch {
			requests[i] = h.request(unix.RTM_DELTFILTER, 0)
		}
		replies, err := c.conn.Batch(requests...)
		errs = append(errs, err)
		for i, r := range replies {
			if r.Err != nil && !isAbsent(r.Err) {
				errs = append(errs, fmt.Errorf("delete filter of device with index %d: %w", batch[i].Dev, r.Err))
			}
		}
	}
	return errors.Join(errs...)
}
