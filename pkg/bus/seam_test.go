package bus

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/rtnl"
)

// tapped is a socket of the real kernel. before is called before each message or batch, with a name of it; its error is
// that of the call, after the first `done` parts of it have been carried out.
type tapped struct {
	rtnl.Conn
	netfilter bool
	before    func(call string) (done float64, err error)
}

func (t *tapped) Batch(requests ...*nl.NetlinkRequest) ([]rtnl.Reply, error) {
	if len(requests) == 0 {
		return t.Conn.Batch()
	}
	isTransaction := t.netfilter && requests[0].Type == unix.NFNL_MSG_BATCH_BEGIN
	name := nameOf(requests[0])
	if isTransaction {
		name = "set table"
	}
	done, err := t.before(name)
	if err == nil {
		return t.Conn.Batch(requests...)
	}
	if isTransaction && done < 1 { // all of it or nothing
		done = 0
	}
	if n := int(done * float64(len(requests))); n > 0 {
		_, _ = t.Conn.Batch(requests[:n]...)
	}
	return nil, err
}

func (t *tapped) Dump(request *nl.NetlinkRequest, each func([]byte) error) (int, error) {
	if _, err := t.before("dump " + nameOf(request)); err != nil {
		return 0, err
	}
	return t.Conn.Dump(request, each)
}

func nameOf(r *nl.NetlinkRequest) string {
	create := r.Flags&unix.NLM_F_CREATE != 0
	switch r.Type {
	case unix.RTM_NEWLINK:
		if create && bytes.Contains(r.Serialize(), []byte("vxcan")) {
			return "add pair"
		} else if create {
			return "add link"
		}
		return "set link"
	case unix.RTM_DELLINK:
		return "delete link"
	case unix.RTM_GETLINK:
		return "links"
	case unix.RTM_NEWROUTE:
		return "add rules"
	case unix.RTM_DELROUTE:
		return "delete rules"
	case unix.RTM_GETROUTE:
		return "jobs"
	case unix.RTM_NEWTFILTER:
		return "set filters"
	case unix.RTM_DELTFILTER:
		return "delete filters"
	case unix.RTM_GETTFILTER:
		return "filters"
	case unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETTABLE:
		return "table"
	}
	return fmt.Sprint("message ", r.Type)
}

// tap has a host's verbs call before before each message.
func (h *Host) tap(before func(call string) (done float64, err error)) {
	h.dial = func(netns ns.NetNS, protocol int) (rtnl.Conn, error) {
		conn, err := dialKernel(netns, protocol)
		if err != nil {
			return nil, err
		}
		return &tapped{conn, protocol == unix.NETLINK_NETFILTER, before}, nil
	}
}

var errInjected = errors.New("injected failure")

// fault fails the nth message from now on, once. called says which one that was; "" until then.
type fault struct {
	n      int
	done   float64 // how much of it is carried out all the same
	called string
}

func (f *fault) step(call string) (float64, error) {
	if f.n--; f.n == 0 {
		f.called = call
		return f.done, errInjected
	}
	return 0, nil
}

// hook calls before before each message of a host's verbs.
func (w *world) hook(before func(call string)) {
	w.host.tap(func(call string) (float64, error) { before(call); return 0, nil })
}

func (w *world) unhook() { w.host.dial = nil }
