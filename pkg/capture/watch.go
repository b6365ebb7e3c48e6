package capture

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/canlink"
	"github.com/vxcan/vxcan/pkg/plan"
	"github.com/vxcan/vxcan/pkg/rtnl"
)

// watch knows the devices of this netns, as the kernel tells their changes.
type watch struct {
	events *nl.NetlinkSocket
	buf    []byte
	links  map[int]canlink.Link // by ifindex
	// senders are endpoints and trunks by ifindex, those that are gone too: their last frames may still wait to be read.
	senders map[uint32]Member
}

func newWatch() (*watch, error) {
	events, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK)
	if err != nil {
		return nil, fmt.Errorf("watch devices: %w", err)
	}
	// A message may be longer than 32 KiB, that of a device with many alternative names.
	w := &watch{events: events, buf: make([]byte, 64<<10), senders: make(map[uint32]Member)}
	if err := errors.Join(rtnl.GrowReceiveQueue(events.GetFd(), 4<<20), w.list()); err != nil {
		events.Close()
		return nil, err
	}
	return w, nil
}

// list reads all devices anew.
func (w *watch) list() error {
	conn, err := rtnl.Dial()
	if err != nil {
		return err
	}
	links, err := canlink.On(conn).List()
	if err = errors.Join(err, conn.Close()); err != nil {
		return err
	}
	w.links = make(map[int]canlink.Link, len(links))
	for _, l := range links {
		w.set(l)
	}
	return nil
}

func (w *watch) set(l canlink.Link) {
	w.links[l.Index] = l
	delete(w.senders, uint32(l.Index))
	if m, ok := endpoint(l); ok {
		w.senders[uint32(l.Index)] = m
	}
}

// endpoint reads from an alias of which endpoint a device is the host end, or to which host it is a trunk.
func endpoint(l canlink.Link) (Member, bool) {
	if hub, peer, _, ok := plan.ParseTrunk(l); ok {
		return Member{Hub: hub, Index: l.Index, Device: l.Name, Peer: peer.String()}, true
	}
	a, ok := plan.ParseAlias(l.Alias)
	if !ok || l.Kind != canlink.Vxcan || a.HostIf() != l.Name && !l.PeerElsewhere { // a container end may have the same alias
		return Member{}, false
	}
	return Member{Hub: a.Hub, Index: l.Index, Device: l.Name, Attachment: a.Attachment}, true
}

// read reads all changes that wait. changed reports whether there was one.
func (w *watch) read() (changed bool, err error) {
	for {
		n, from, err := unix.Recvfrom(w.events.GetFd(), w.buf, unix.MSG_TRUNC)
		switch kernel, ok := from.(*unix.SockaddrNetlink); {
		case errors.Is(err, unix.EAGAIN):
			return changed, nil
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ENOBUFS), err == nil && n > len(w.buf): // changes were lost
			if err := w.list(); err != nil {
				return changed, err
			}
		case err != nil:
			return changed, fmt.Errorf("watch devices: %w", err)
		case ok && kernel.Pid != 0: // only port 0 is the kernel
			continue
		default:
			if err := w.apply(w.buf[:n]); err != nil {
				return changed, fmt.Errorf("watch devices: %w", err)
			}
		}
		changed = true
	}
}

// apply reads one datagram of changes.
func (w *watch) apply(datagram []byte) error {
	messages, err := syscall.ParseNetlinkMessage(datagram)
	if err != nil {
		return err
	}
	for _, m := range messages {
		if m.Header.Type != unix.RTM_NEWLINK && m.Header.Type != unix.RTM_DELLINK {
			continue
		}
		l, err := canlink.ParseLink(m.Data)
		if err != nil {
			return err
		}
		if m.Header.Type == unix.RTM_NEWLINK {
			w.set(l)
		} else {
			delete(w.links, l.Index)
		}
	}
	return nil
}

// named returns the device of a name, or the zero Link.
func (w *watch) named(name string) canlink.Link {
	for _, l := range w.links {
		if l.Name == name {
			return l
		}
	}
	return canlink.Link{}
}

// members returns the hub, the endpoints and the trunks of a bus, as far as they are there.
func (w *watch) members(hub string) (members []Member) {
	for _, l := range w.links {
		if l.Name == hub {
			members = append(members, hubMember(l))
		} else if m, ok := endpoint(l); ok && m.Hub == hub {
			members = append(members, m)
		}
	}
	return members
}

func hubMember(l canlink.Link) Member { return Member{Hub: l.Name, Index: l.Index, Device: l.Name} }

// sender returns the member of a bus whose device has the ifindex that is a frame's mark.
func (w *watch) sender(hub string, mark uint32) (Member, bool) {
	if m, ok := w.senders[mark]; ok {
		return m, true
	}
	if l, ok := w.links[int(mark)]; ok && l.Name == hub {
		return hubMember(l), true
	}
	return Member{}, false
}

// senderOrDevice is sender, or as much as is known of a device that is no member: its name, if it was ever seen. A hub that
// is gone is no member either.
func (w *watch) senderOrDevice(hub string, mark uint32) Member {
	if m, ok := w.sender(hub, mark); ok {
		return m
	}
	return Member{Hub: hub, Index: int(mark), Device: w.links[int(mark)].Name}
}
