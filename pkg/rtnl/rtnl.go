// Package rtnl is one netlink socket, of NETLINK_ROUTE or of NETLINK_NETFILTER, that sends many requests in one datagram.
//
// The encoder is that of vishvananda/netlink, which sends one request at a time and waits for the answer. A batch is about ten
// times faster (one system call sends it, and its replies come in order), and a kill cannot split it. This package knows
// nothing of links, filters or rules: pkg/canlink, pkg/cantc, pkg/cangw and pkg/underlay encode those.
//
// mdlayher/netlink 1.9.0, the newest that Go 1.24 builds, was tried in its place. A dump of 101 links and 64 look-ups in one
// datagram take 413 thousand instructions in user space and 80 system calls here, 2.7 million and 245 there. It drops the mark
// of an interrupted dump, does not check who sent a datagram, and loses the error number of an error with the kernel's words.
//
// Kernel headers: linux/netlink.h, linux/rtnetlink.h, linux/netfilter/nfnetlink.h.
package rtnl

import (
	"errors"
	"fmt"
	"runtime"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Conn is a socket in one network namespace, not safe for concurrent use. It is an interface so that a test can fail any message.
type Conn interface {
	// Batch sends the requests, however many, and returns one reply for each, in the order of the requests. The kernel
	// carries out all of them in order, whether or not earlier ones failed. Up to 32 requests of at most 64 KiB in total,
	// at most one of them a look-up, go in one datagram: a kill cannot come between them. The error is the socket's own; what
	// the kernel refused is in the replies. From NFNL_MSG_BATCH_BEGIN to NFNL_MSG_BATCH_END, which must be all requests, the
	// kernel carries out everything or nothing.
	Batch(requests ...*nl.NetlinkRequest) ([]Reply, error)
	// Dump sends a dump request and calls each with the payload of every message until each fails. It returns the number
	// of datagrams in the answer: what changes in the kernel between two of them can be missing or doubled. Parts of the
	// kernel that detect such a change make Dump fail with ErrInterrupted, after the last message; can-gw does not.
	Dump(request *nl.NetlinkRequest, each func(data []byte) error) (datagrams int, err error)
	// Driver returns the name of the driver of a device, as ethtool -i shows it (ETHTOOL_GDRVINFO, linux/ethtool.h),
	// which netlink does not have. Any socket of the namespace can ask.
	Driver(device string) (string, error)
	// Close closes the socket.
	Close() error
}

// Reply is the answer of the kernel to one request.
type Reply struct {
	Data []byte // payload of the message that was asked for, nil if none was
	Err  error  // wraps a syscall.Errno, with the kernel's own words if there are any; see ErrPermission
	// Warning is the kernel's remark on a request that it carried out, or "". It comes with the acknowledgement. Batch
	// asks for one only after the last request of a datagram: set NLM_F_ACK in others.
	Warning string
}

// socket implements Conn.
type socket struct {
	fd        int
	netfilter bool
	buf       []byte
	room      room
	broken    error // of the first receive that failed: after it, the answer to any request can be lost
}

// receiveSize is the receive buffer in bytes. The kernel cannot answer more: a dump makes datagrams of 32 KiB, or of one message
// if that is longer, and none that is asked for here has two attributes of up to 64 KiB, the longest. So one system call reads a
// datagram; to look at its size first (MSG_PEEK) would take two. Pages that are not used are never touched.
const receiveSize = 128 << 10

// Dial opens a socket in the calling thread's network namespace.
func Dial() (Conn, error) { return open(unix.NETLINK_ROUTE) }

// DialNetfilter is Dial for NETLINK_NETFILTER. It fails with EPROTONOSUPPORT where the kernel has no nfnetlink.
func DialNetfilter() (Conn, error) { return open(unix.NETLINK_NETFILTER) }

func open(protocol int) (Conn, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol) // the first send binds it
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", meaning(err))
	}
	// Without extended acknowledgements an error is only EINVAL where the kernel could say what is invalid. Without the cap
	// each error repeats its request. Old kernels have neither.
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1)
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1)
	room, err := makeRoom(fd)
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return &socket{fd: fd, netfilter: protocol == unix.NETLINK_NETFILTER, buf: make([]byte, receiveSize), room: room}, nil
}

// DialAt opens a socket in another network namespace. ns.Do would start a thread for it and drop the error number.
func DialAt(netns ns.NetNS) (conn Conn, retErr error) {
	runtime.LockOSThread()
	home, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		runtime.UnlockOSThread()
		return nil, fmt.Errorf("open the thread's own network namespace: %w", err)
	}
	defer unix.Close(home)
	if err := unix.Setns(int(netns.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return nil, fmt.Errorf("enter network namespace %s: %w", netns.Path(), meaning(err))
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

// InNew calls try with a socket of dial in a new network namespace, which is gone when it returns.
func InNew(dial func() (Conn, error), try func(Conn) error) error {
	var conn Conn
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // for ever: the thread ends with the goroutine
		if err = unix.Unshare(unix.CLONE_NEWNET); err != nil {
			err = fmt.Errorf("make a network namespace: %w", meaning(err))
			return
		}
		conn, err = dial()
	}()
	<-done
	if err != nil {
		return err
	}
	return errors.Join(try(conn), conn.Close())
}

func (c *socket) Close() error { return unix.Close(c.fd) }

func (c *socket) Driver(device string) (string, error) {
	info, err := unix.IoctlGetEthtoolDrvinfo(c.fd, device)
	if err != nil {
		return "", fmt.Errorf("driver of %s: %w", device, err)
	}
	return unix.ByteSliceToString(info.Driver[:]), nil
}

func (c *socket) Batch(requests ...*nl.NetlinkRequest) ([]Reply, error) {
	messages := make([]message, len(requests))
	for i, r := range requests {
		messages[i] = r.Serialize()
	}
	replies := make([]Reply, len(requests))
	for done := 0; done < len(messages); {
		n := c.room.fit(messages[done:])
		isTransaction := c.netfilter && messages[0].kind() == unix.NFNL_MSG_BATCH_BEGIN
		if isTransaction {
			n = len(messages)
		}
		if err := c.exchange(messages[done:done+n], replies[done:done+n], isTransaction); err != nil {
			return nil, err
		}
		done += n
	}
	return replies, nil
}

// exchange sends messages in one datagram and reads the replies. The kernel tells the error of all of them with the first.
func (c *socket) exchange(messages []message, replies []Reply, isTransaction bool) error {
	// Errors are always answered. The end of the batch is the answer to the last request: its acknowledgement, or for a
	// look-up the message that it asked for.
	first, last := messages[0], messages[len(messages)-1]
	if isTransaction { // whose end is not acknowledged before Linux 6.10
		last = messages[len(messages)-2]
	}
	if isTransaction || !last.isGet() {
		last.setAck()
	}
	index := make(map[uint32]int, len(messages))
	var datagram []byte
	for i, m := range messages {
		index[m.seq()] = i
		datagram = append(append(datagram, m...), make([]byte, -len(m)&(unix.NLMSG_ALIGNTO-1))...)
	}
	if err := c.send(datagram); err != nil {
		return err
	}
	for {
		received, err := c.receive()
		if err != nil {
			return err
		}
		for _, m := range received {
			i, ours := index[m.seq()]
			switch {
			case !ours: // of a request that was given up
				continue
			case m.kind() == unix.NLMSG_ERROR:
				if replies[i].Err = m.err(); replies[i].Err == nil {
					replies[i].Warning = m.extAck()
				}
			default:
				replies[i].Data = append([]byte(nil), m.data()...)
			}
			isRefused := isTransaction || c.netfilter && errors.Is(replies[i].Err, ErrPermission) // nfnetlink_rcv: all of the datagram
			if isRefused && m.seq() == first.seq() && replies[i].Err != nil {
				for j := range replies { // none of it is done
					replies[j] = replies[i]
				}
				return nil
			}
			if m.seq() == last.seq() && (m.kind() == unix.NLMSG_ERROR || !last.is(unix.NLM_F_ACK)) {
				return nil
			}
		}
	}
}

func (c *socket) Dump(request *nl.NetlinkRequest, each func(data []byte) error) (datagrams int, err error) {
	request.Flags |= unix.NLM_F_DUMP
	if err := c.send(request.Serialize()); err != nil {
		return 0, err
	}
	interrupted := false
	for {
		messages, receiveErr := c.receive()
		if receiveErr != nil {
			return datagrams, errors.Join(err, receiveErr)
		}
		seen := false
		for _, m := range messages {
			if m.seq() != request.Seq {
				continue
			}
			interrupted = interrupted || m.is(unix.NLM_F_DUMP_INTR)
			if m.kind() == unix.NLMSG_ERROR || m.kind() == unix.NLMSG_DONE {
				switch {
				case err != nil:
				case m.err() != nil:
					err = m.err()
				case interrupted:
					err = ErrInterrupted
				}
				return datagrams, err
			}
			if !seen {
				seen = true
				datagrams++
			}
			// After an error the rest is read all the same: the kernel makes no second dump before that.
			if err == nil {
				err = each(m.data())
			}
		}
	}
}

func (c *socket) send(datagram []byte) error {
	if c.broken != nil {
		return c.broken
	}
	if err := unix.Sendto(c.fd, datagram, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("send to netlink: %w", err)
	}
	return nil
}

// receive reads one datagram. Its messages are valid until the next one is read.
func (c *socket) receive() ([]message, error) {
	for {
		n, from, err := unix.Recvfrom(c.fd, c.buf, unix.MSG_TRUNC)
		switch sender, ok := from.(*unix.SockaddrNetlink); {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			c.broken = fmt.Errorf("receive from netlink: %w", err)
			return nil, c.broken
		case ok && sender.Pid != 0: // a privileged process may send us a datagram; only port 0 is the kernel
			continue
		case n > len(c.buf): // MSG_TRUNC makes n the datagram's size
			c.broken = fmt.Errorf("receive from netlink: datagram of %d bytes, want at most %d", n, len(c.buf))
			return nil, c.broken
		}
		return parseMessages(c.buf[:n])
	}
}
