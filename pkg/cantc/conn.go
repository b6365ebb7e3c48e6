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

// Set makes filters, and replaces those that are there without a moment in between. It makes the clsact qdisc of their
// devices where it is missing. The kernel answers ENOENT for the lack of a module, see Missing.
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
			if r.Err != nil && !(batch[i].Type == unix.RTM_NEWQDISC && errors.Is(r.Err, unix.EEXIST)) {
				errs = append(errs, fmt.Errorf("set filter: %w", r.Err))
			}
		}
	}
	return errors.Join(errs...)
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
