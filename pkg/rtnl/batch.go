package rtnl

import (
	"errors"
	"fmt"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Do sends the requests as Conn.Batch does and returns the first error.
func Do(c Conn, requests ...*nl.NetlinkRequest) error {
	_, err := DoAll(c, requests...)
	return err
}

// DoAll is Do with all replies.
func DoAll(c Conn, requests ...*nl.NetlinkRequest) ([]Reply, error) {
	replies, err := c.Batch(requests...)
	for i := 0; err == nil && i < len(replies); i++ {
		err = replies[i].Err
	}
	return replies, err
}

// Each sends one request for each of items, as Conn.Batch does, and calls handle with each item and the reply to it. It returns
// the errors of handle, joined. The socket may be used in handle.
func Each[T any](c Conn, items []T, request func(T) *nl.NetlinkRequest, handle func(T, Reply) error) error {
	requests := make([]*nl.NetlinkRequest, len(items))
	for i, item := range items {
		requests[i] = request(item)
	}
	replies, err := c.Batch(requests...)
	if err != nil {
		return err
	}
	var errs []error
	for i, r := range replies {
		errs = append(errs, handle(items[i], r))
	}
	return errors.Join(errs...)
}

// List dumps, and parses each message; again, after a pause that grows, where what it lists has changed meanwhile.
func List[T any](c Conn, request *nl.NetlinkRequest, tries int, pause time.Duration, parse func([]byte) (T, error)) (all []T, err error) {
	for i := range tries {
		time.Sleep(time.Duration(i) * pause)
		all = nil
		_, err = c.Dump(request, func(data []byte) error {
			one, err := parse(data)
			all = append(all, one)
			return err
		})
		if !errors.Is(err, ErrInterrupted) {
			return all, err
		}
	}
	return nil, fmt.Errorf("%w, %d times; try again", err, tries)
}

// room is what one datagram may hold, in bytes.
type room struct {
	send    int // of requests
	receive int // of the answers to them, with what the kernel adds to each: all are in the socket before the first is read
}

const (
	// sendSize is less than the usual net.core.wmem_default of 208 KiB, and more than any single request.
	sendSize = 128 << 10
	// receiveQueue is what the socket may hold. It is a limit and takes no memory by itself.
	receiveQueue = 32 << 20

	// ackRoom is more than an error or an acknowledgement without its request ever takes, with the kernel's own words.
	ackRoom = 4 << 10
	// answerRoom is more than the answer to a look-up ever takes: the kernel allocates the next power of two of its size, and
	// the longest attribute, that of a device's alternative names or that of a filter's options, is 64 KiB.
	answerRoom = 160 << 10
)

// makeRoom makes the buffers of a socket larger. Where that is not allowed, batches are smaller: a user namespace gets no
// more than net.core.rmem_max and net.core.wmem_max.
func makeRoom(fd int) (room, error) {
	const reserve = 32 // bytes of the send buffer that netlink_sendmsg does not use (net/netlink/af_netlink.c)
	receive, err := grow(fd, unix.SO_RCVBUF, unix.SO_RCVBUFFORCE, receiveQueue)
	if err != nil {
		return room{}, fmt.Errorf("size of the receive buffer of a netlink socket: %w", err)
	}
	send, err := grow(fd, unix.SO_SNDBUF, unix.SO_SNDBUFFORCE, sendSize+reserve)
	if err != nil {
		return room{}, fmt.Errorf("size of the send buffer of a netlink socket: %w", err)
	}
	return room{send: min(send-reserve, sendSize), receive: receive}, nil
}

// grow makes a buffer of a socket at least want bytes long if that is allowed, by force or not, and returns its length.
func grow(fd, option, force, want int) (int, error) {
	size, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, option)
	if err != nil || size >= want {
		return size, err
	}
	// The kernel doubles what it is told.
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, force, want/2); err != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, option, want/2)
	}
	return unix.GetsockoptInt(fd, unix.SOL_SOCKET, option)
}

// GrowReceiveQueue asks for a receive queue of size bytes, which the kernel doubles; a user namespace gets net.core.rmem_max.
func GrowReceiveQueue(fd, size int) error {
	_, err := grow(fd, unix.SO_RCVBUF, unix.SO_RCVBUFFORCE, 2*size)
	return err
}

// fit returns how many of the messages, at least one, go in one datagram. One alone always does: the kernel queues a message
// of any size in a socket that is empty.
func (r room) fit(messages []message) int {
	send, receive := 0, 0
	for i, m := range messages {
		send += align(len(m))
		receive += ackRoom
		if m.isGet() || m.is(unix.NLM_F_ECHO) {
			receive += answerRoom
		}
		if i > 0 && (send > r.send || receive > r.receive) {
			return i
		}
	}
	return len(messages)
}
