// Package rtnl is one NETLINK_ROUTE socket that sends several requests in one datagram.
//
// vishvananda/netlink has the encoder that is used here, but sends one request at a time and waits for each; a batch is about ten
// times faster (one system call in, replies drained in order) and cannot be torn apart by a kill. It knows nothing of
// links or rules: pkg/canlink and pkg/cangw encode those.
//
// Kernel headers: linux/netlink.h, linux/rtnetlink.h.
package rtnl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// receiveSize is the receive buffer in bytes. The kernel makes no dump datagram larger than 32 KiB.
const receiveSize = 32 << 10

// MaxBatch is how many requests Batch takes. An answer takes up to 2.3 KiB of the socket's receive buffer (208 KiB by
// default, net.core.rmem_default), and all of them are in it before the first is read.
const MaxBatch = 64

// ErrInterrupted is returned by Dump when the kernel says that what it dumps changed meanwhile: things that were there
// all the time may be missing. The links of a busy host do change; dump again.
var ErrInterrupted = errors.New("dump interrupted by a change")

// Conn is a socket in one network namespace. It is not safe for concurrent use.
type Conn struct {
	fd     int
	buf    []byte
	broken error // what the first receive that failed said: after it, the answer to anything can be lost
}

// Reply is what the kernel answered to one request.
type Reply struct {
	Data []byte // payload of the message that was asked for, nil if none was
	Err  error  // a syscall.Errno, with the kernel's own words where it has some
	// Warning is what the kernel says of a request that it did carry out, or "". It comes with the acknowledgement, which
	// Batch asks for after the last request only: other requests need NLM_F_ACK.
	Warning string
}

// Dial opens a socket in the calling thread's network namespace.
func Dial() (*Conn, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, errors.Join(fmt.Errorf("bind netlink socket: %w", err), unix.Close(fd))
	}
	// Without extended ACKs the kernel says EINVAL where it could say what is invalid. Older kernels have none.
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1)
	return &Conn{fd: fd, buf: make([]byte, receiveSize)}, nil
}

// DialAt opens a socket in another network namespace. (ns.Do of containernetworking/plugins would do, but it starts a
// thread for it and drops the error number.)
func DialAt(netns ns.NetNS) (conn *Conn, retErr error) {
	runtime.LockOSThread()
	home, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		runtime.UnlockOSThread()
		return nil, fmt.Errorf("open the thread's own network namespace: %w", err)
	}
	defer unix.Close(home)
	if err := unix.Setns(int(netns.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return nil, fmt.Errorf("enter network namespace %s: %w", netns.Path(), err)
	}
	defer func() {
		if err := unix.Setns(home, unix.CLONE_NEWNET); err != nil {
			// The thread stays locked and dies with its goroutine: nothing else may ever run in the wrong netns.
			retErr = errors.Join(retErr, fmt.Errorf("return from network namespace %s: %w", netns.Path(), err))
			if conn != nil {
				retErr = errors.Join(retErr, conn.Close())
			}
			conn = nil
			return
		}
		runtime.UnlockOSThread()
	}()
	return Dial()
}

// DialNew opens a socket in a new network namespace, which lives as long as the socket.
func DialNew() (*Conn, error) {
	type result struct {
		conn *Conn
		err  error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread() // for ever: the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- result{err: fmt.Errorf("make a network namespace: %w", err)}
			return
		}
		conn, err := Dial()
		done <- result{conn, err}
	}()
	r := <-done
	return r.conn, r.err
}

// Close closes the socket.
func (c *Conn) Close() error { return unix.Close(c.fd) }

// Batch sends the requests, at most MaxBatch, in one datagram and returns one reply for each. The kernel works through
// all of them, in order, whatever becomes of the ones before. The error is the socket's own; what the kernel refused is in the replies.
func (c *Conn) Batch(requests ...*nl.NetlinkRequest) ([]Reply, error) {
	if len(requests) == 0 {
		return nil, nil
	}
	if len(requests) > MaxBatch {
		return nil, fmt.Errorf("send to netlink: %d requests at once, at most %d are allowed", len(requests), MaxBatch)
	}
	// Errors always come back. What tells that the batch is through is the answer to the last request: an
	// acknowledgement, or what a look-up asked for.
	last := requests[len(requests)-1]
	if !isGet(last) {
		last.Flags |= unix.NLM_F_ACK
	}
	index := make(map[uint32]int, len(requests))
	var datagram []byte
	for i, r := range requests {
		index[r.Seq] = i
		datagram = append(datagram, r.Serialize()...)
	}
	if err := c.send(datagram); err != nil {
		return nil, err
	}
	replies := make([]Reply, len(requests))
	for {
		messages, err := c.receive()
		if err != nil {
			return nil, err
		}
		for _, m := range messages {
			i, ours := index[m.seq]
			switch {
			case !ours: // left over from a request that was given up
				continue
			case m.kind == unix.NLMSG_ERROR:
				if replies[i].Err = m.err(); replies[i].Err == nil {
					replies[i].Warning = m.extAck()
				}
			default:
				replies[i].Data = append([]byte(nil), m.data...)
			}
			if m.seq == last.Seq {
				return replies, nil
			}
		}
	}
}

// isGet tells whether a request is a look-up: the four kinds of a family are new, delete, get and set (RTM_BASE of
// linux/rtnetlink.h).
func isGet(r *nl.NetlinkRequest) bool { return r.Type&3 == unix.RTM_GETLINK&3 }

// Do sends the requests as Batch does and returns the first error.
func (c *Conn) Do(requests ...*nl.NetlinkRequest) error {
	replies, err := c.Batch(requests...)
	if err != nil {
		return err
	}
	for _, r := range replies {
		if r.Err != nil {
			return r.Err
		}
	}
	return nil
}

// Driver is the name of the driver of a device, as ethtool -i shows it (ETHTOOL_GDRVINFO, linux/ethtool.h): netlink does
// not tell. Any socket of the namespace can ask.
func (c *Conn) Driver(device string) (string, error) {
	info, err := unix.IoctlGetEthtoolDrvinfo(c.fd, device)
	if err != nil {
		return "", fmt.Errorf("driver of %s: %w", device, err)
	}
	return unix.ByteSliceToString(info.Driver[:]), nil
}

// Dump sends a dump request and calls each with the payload of every message. It returns how many datagrams they came
// in: what changes in the kernel between two of them can be missing or doubled. Parts of the kernel that watch for that
// make it fail with ErrInterrupted, after the last message; can-gw does not.
func (c *Conn) Dump(request *nl.NetlinkRequest, each func(data []byte) error) (datagrams int, err error) {
	request.Flags |= unix.NLM_F_DUMP
	if err := c.send(request.Serialize()); err != nil {
		return 0, err
	}
	interrupted := false
	for {
		messages, err := c.receive()
		if err != nil {
			return datagrams, err
		}
		seen := false
		for _, m := range messages {
			if m.seq != request.Seq {
				continue
			}
			interrupted = interrupted || m.flags&unix.NLM_F_DUMP_INTR != 0
			switch {
			case m.kind == unix.NLMSG_ERROR:
				return datagrams, m.err()
			case m.kind == unix.NLMSG_DONE && interrupted:
				return datagrams, ErrInterrupted
			case m.kind == unix.NLMSG_DONE:
				return datagrams, nil
			}
			if !seen {
				seen = true
				datagrams++
			}
			if err := each(m.data); err != nil {
				return datagrams, err
			}
		}
	}
}

func (c *Conn) send(datagram []byte) error {
	if c.broken != nil {
		return c.broken
	}
	if err := unix.Sendto(c.fd, datagram, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("send to netlink: %w", err)
	}
	return nil
}

// receive reads one datagram. Its messages are valid until the next one is read.
func (c *Conn) receive() ([]message, error) {
	buf := c.buf
	for {
		n, from, err := unix.Recvfrom(c.fd, buf, unix.MSG_TRUNC)
		switch sender, ok := from.(*unix.SockaddrNetlink); {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			c.broken = fmt.Errorf("receive from netlink: %w", err)
			return nil, c.broken
		case ok && sender.Pid != 0: // any process may send us a datagram; only port 0 is the kernel
			continue
		case n > len(buf): // MSG_TRUNC makes n the datagram's size
			return nil, fmt.Errorf("receive from netlink: datagram of %d bytes, want at most %d", n, len(buf))
		}
		return parseMessages(buf[:n])
	}
}

// message is one netlink message (struct nlmsghdr of linux/netlink.h and what follows it).
type message struct {
	kind  uint16
	flags uint16
	seq   uint32
	data  []byte
}

func parseMessages(b []byte) ([]message, error) {
	var messages []message
	for len(b) >= unix.SizeofNlMsghdr {
		size := int(binary.NativeEndian.Uint32(b[0:4]))
		if size < unix.SizeofNlMsghdr || size > len(b) {
			return nil, fmt.Errorf("netlink message: length %d of %d bytes", size, len(b))
		}
		messages = append(messages, message{
			kind:  binary.NativeEndian.Uint16(b[4:6]),
			flags: binary.NativeEndian.Uint16(b[6:8]),
			seq:   binary.NativeEndian.Uint32(b[8:12]),
			data:  b[unix.SizeofNlMsghdr:size],
		})
		b = b[min(align(size), len(b)):]
	}
	return messages, nil
}

// err is the error of an NLMSG_ERROR (struct nlmsgerr), nil for an acknowledgement.
func (m message) err() error {
	if len(m.data) < 4 {
		return fmt.Errorf("netlink error message: %d bytes, want at least 4", len(m.data))
	}
	errno := -int32(binary.NativeEndian.Uint32(m.data[0:4]))
	if errno == 0 {
		return nil
	}
	if words := m.extAck(); words != "" {
		return fmt.Errorf("%w (%s)", unix.Errno(errno), words)
	}
	return unix.Errno(errno)
}

// extAck is the kernel's own text for an error, or with an acknowledgement (NLMSGERR_ATTR_MSG), or "".
func (m message) extAck() string {
	if m.flags&unix.NLM_F_ACK_TLVS == 0 || len(m.data) < 4+unix.SizeofNlMsghdr {
		return ""
	}
	skip := 4 + unix.SizeofNlMsghdr
	if m.flags&unix.NLM_F_CAPPED == 0 { // the request is repeated whole
		skip = 4 + align(int(binary.NativeEndian.Uint32(m.data[4:8])))
	}
	if skip < 0 || skip > len(m.data) {
		return ""
	}
	words := ""
	err := Attrs(m.data[skip:], func(kind uint16, value []byte) error {
		if kind == unix.NLMSGERR_ATTR_MSG {
			words = unix.ByteSliceToString(value)
		}
		return nil
	})
	if err != nil {
		return ""
	}
	return words
}

// Attrs calls each with every attribute (struct nlattr of linux/netlink.h, struct rtattr of linux/rtnetlink.h) of b. It
// stops at the first error.
func Attrs(b []byte, each func(kind uint16, value []byte) error) error {
	for len(b) > 0 {
		if len(b) < unix.SizeofNlAttr {
			return fmt.Errorf("attribute header: %d bytes, want %d", len(b), unix.SizeofNlAttr)
		}
		size, kind := int(binary.NativeEndian.Uint16(b[0:2])), binary.NativeEndian.Uint16(b[2:4])&^unix.NLA_F_NESTED
		if size < unix.SizeofNlAttr || size > len(b) {
			return fmt.Errorf("attribute %d: length %d of %d bytes", kind, size, len(b))
		}
		if err := each(kind, b[unix.SizeofNlAttr:size]); err != nil {
			return err
		}
		b = b[min(align(size), len(b)):]
	}
	return nil
}

// align is NLMSG_ALIGN and NLA_ALIGN of linux/netlink.h.
func align(n int) int { return (n + unix.NLMSG_ALIGNTO - 1) &^ (unix.NLMSG_ALIGNTO - 1) }
