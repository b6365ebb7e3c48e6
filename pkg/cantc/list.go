package cantc

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/rtnl"
)

// Entry is what a list says of a filter, of any program.
type Entry struct {
	Hook
	Kind     string // "bpf", "matchall"
	Protocol uint16 // ETH_P_* of linux/if_ether.h
}

// Holds reports whether the filter is of another kind or protocol than those of Set, which cannot be beside it.
func (e Entry) Holds() bool { return e.Kind != Kind || e.Protocol != unix.ETH_P_ALL }

// Ours reports whether the entry is what Set makes as the only filter of a priority, or replaces there.
func (e Entry) Ours() bool { return !e.Holds() && e.Handle == 1 }

// List returns all filters of the priorities of hooks, also those that Set does not make; of a hook of priority 0, those of all
// priorities. A hook without one, or without its device, has none.
func (c *Conn) List(hooks ...Hook) (all []Entry, err error) {
	for _, h := range hooks {
		entries, err := c.list(h)
		// One that is too long for a dump (EMSGSIZE) ends the list.
		if err != nil && !isAbsent(err) && !errors.Is(err, rtnl.ErrInterrupted) && !errors.Is(err, unix.EMSGSIZE) {
			return nil, fmt.Errorf("list %s filters of device with index %d: %w", h.Dir, h.Dev, err)
		}
		for _, e := range entries {
			if e.Handle != 0 { // else it is the head of a kind, which the kernel lists before its filters
				all = append(all, e)
			}
		}
	}
	return all, nil
}

// list lists the filters of all kinds and protocols at a hook, and their heads, in chain 0: frames get to others only from
// there. It returns what it has read also with an error.
func (c *Conn) list(h Hook) (all []Entry, err error) {
	r := tcRequest(unix.RTM_GETTFILTER, 0, h.Dev, 0, hookParent+uint32(h.Dir), uint32(h.Prio)<<16)
	_, err = c.conn.Dump(r, func(data []byte) error {
		e, chain, err := unmarshalEntry(data)
		e.Dev, e.Dir = h.Dev, h.Dir
		if err == nil && chain == 0 {
			all = append(all, e)
		}
		return err
	})
	return all, err
}

// unmarshalEntry reads a message of a list, all but the hook, and the chain that the filter is in.
func unmarshalEntry(b []byte) (e Entry, chain uint32, err error) {
	head, err := tcAttrs(b, func(attr uint16, value []byte) (err error) {
		switch attr {
		case unix.TCA_KIND:
			e.Kind = unix.ByteSliceToString(value)
		case unix.TCA_CHAIN:
			chain, err = rtnl.Uint32(attr, value)
		}
		return err
	})
	e.Handle, e.Prio = head.Handle, uint16(head.Info>>16)
	e.Protocol = binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, uint16(head.Info)))
	return e, chain, err
}
