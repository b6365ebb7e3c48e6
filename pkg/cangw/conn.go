package cangw

import (
	"errors"
	"fmt"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/rtnl"
)

// Module is the kernel module of the gateway. Unlike vcan and vxcan the kernel does not load it by itself.
const Module = "can-gw"

// Conn works on the gateway of one network namespace.
type Conn struct{ conn rtnl.Conn }

// On works on the gateway of the namespace that conn was opened in. The caller closes conn.
func On(conn rtnl.Conn) *Conn { return &Conn{conn} }

// Add adds the rules. The gateway makes a second job of a rule that is there already: the caller must know that it is not.
// Where one fails the others are added all the same. Without the gateway it fails with a rtnl.NoModuleError.
func (c *Conn) Add(rules ...Rule) error {
	return c.change(unix.RTM_NEWROUTE, "add", jobs(rules))
}

// DeleteJobs deletes jobs that List returned, also such with modifications, and no others. Of jobs that are the same in
// everything but the counters it deletes the first. A job that is gone is no error.
func (c *Conn) DeleteJobs(jobs ...Job) error {
	for _, j := range jobs {
		if j.Src == 0 || j.Dst == 0 { // both 0 means every job of the netns, those of other programs too
			return fmt.Errorf("delete rule %d -> %d: ifindex 0", j.Src, j.Dst)
		}
		if !j.Plain && j.Raw == "" {
			return fmt.Errorf("delete rule %d -> %d: its modifications are not known", j.Src, j.Dst)
		}
	}
	return c.change(unix.RTM_DELROUTE, "delete", jobs)
}

// jobs are the plain jobs of rules.
func jobs(rules []Rule) []Job {
	jobs := make([]Job, len(rules))
	for i, r := range rules {
		jobs[i] = Job{Rule: r, Plain: true}
	}
	return jobs
}

func (c *Conn) change(kind int, verb string, jobs []Job) error {
	request := func(j Job) *nl.NetlinkRequest {
		request := nl.NewNetlinkRequest(kind, 0)
		request.AddRawData(j.marshal())
		return request
	}
	return rtnl.Each(c.conn, jobs, request, func(j Job, reply rtnl.Reply) error {
		if reply.Err == nil || kind == unix.RTM_DELROUTE && errors.Is(reply.Err, unix.EINVAL) { // EINVAL: there is none
			return nil
		}
		return fmt.Errorf("%s rule %d -> %d: %w", verb, j.Src, j.Dst, rtnl.NoModule(reply.Err, unix.EOPNOTSUPP, Module))
	})
}

// List returns every job of the netns, the youngest first. Where the answer takes more than one datagram, a job that is
// added or deleted meanwhile shifts the rest; List asks again until three answers in a row agree. (Two can be wrong in the
// same way while another program makes and deletes a job without end.)
func (c *Conn) List() ([]Job, error) {
	const tries, enough = 20, 3
	var before []Job
	agree := 1
	for range tries {
		r := nl.NewNetlinkRequest(unix.RTM_GETROUTE, 0)
		r.AddRawData([]byte{unix.AF_CAN, cgwTypeCANCAN, 0, 0})
		var jobs []Job
		datagrams, err := c.conn.Dump(r, func(data []byte) error {
			job, err := unmarshalJob(data)
			if errors.Is(err, errNotCAN) {
				return nil
			}
			jobs = append(jobs, job)
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("list gateway jobs: %w", err)
		}
		if agree++; !slices.EqualFunc(jobs, before, func(x, y Job) bool { return x.Rule == y.Rule && x.Raw == y.Raw }) {
			agree = 1
		}
		if datagrams <= 1 || agree == enough {
			return jobs, nil
		}
		before = jobs
	}
	return nil, fmt.Errorf("list gateway jobs: %w, %d times; try again", rtnl.ErrInterrupted, tries)
}

// Probe returns nil if rules can be changed, and else a rtnl.NoModuleError or rtnl.ErrPermission. It changes none: its request
// is too short to be a rule, and the gateway checks that only after the permission.
func (c *Conn) Probe() error {
	r := nl.NewNetlinkRequest(unix.RTM_DELROUTE, 0)
	r.AddRawData([]byte{unix.AF_CAN})
	if err := rtnl.Do(c.conn, r); err != nil && !errors.Is(err, unix.EINVAL) {
		return rtnl.NoModule(err, unix.EOPNOTSUPP, Module)
	}
	return nil
}
