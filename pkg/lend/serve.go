package lend

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/bus"
	"github.com/vxcan/vxcan/pkg/config"
)

const (
	patience = time.Second      // for the request, which who means well has sent at once
	longest  = 60 * time.Second // for all of it
)

// Service answers for root.
type Service struct {
	Host     *bus.Host
	Consents Consents
}

// Serve reads one request from a connection and answers it. It returns an error when it could not even answer. The process must
// exit after it: a descriptor of a refused request is neither received nor closed, because closing a file of the user's can block.
func (s Service) Serve(ctx context.Context, conn *net.UnixConn, log *slog.Logger) error {
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	uid, err := userOf(conn)
	if err != nil {
		return err
	}
	r, err := peek(conn)
	switch {
	case errors.Is(err, io.EOF): // somebody has looked whether we are here
		return nil
	case errors.Is(err, os.ErrDeadlineExceeded): // who was only slow asks again
		log.Info("asked nothing", "user", uid)
		return nil
	}
	if err := conn.SetDeadline(time.Now().Add(longest + patience)); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, longest)
	defer cancel()
	answered := false
	reply := func(a answer) error {
		answered = true
		packet, err := json.Marshal(a)
		if err == nil {
			_, err = conn.Write(packet)
		}
		return err
	}
	// Closing with an unread request resets the connection and loses the answer.
	defer awaitClose(conn)
	if err == nil {
		err = s.do(ctx, uid, r, conn, reply)
	}
	log.Info("asked", "user", uid, "verb", string(r.Verb), "hub", r.Hub, "network", r.Network, "containerID", r.ContainerID, "name", r.Name, "err", err)
	if err == nil && answered {
		return nil
	}
	return reply(failure(err))
}

// userOf is the user who has connected, which the kernel tells (SO_PEERCRED of unix(7)).
func userOf(conn *net.UnixConn) (uid uint32, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	controlErr := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err = errors.Join(controlErr, err); err != nil {
		return 0, fmt.Errorf("who asks: %w", err)
	}
	return cred.Uid, nil
}

// peek reads a request and leaves it where it is, so that no descriptor is taken from anybody before his request is checked. Of
// a request that fails, nothing is returned that could end in a log. It fails with io.EOF where the other end has gone.
func peek(conn *net.UnixConn) (r request, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return r, err
	}
	packet := make([]byte, maxPacket+1)
	var n int
	readErr := raw.Read(func(fd uintptr) (done bool) {
		n, _, _, _, err = unix.Recvmsg(int(fd), packet, nil, unix.MSG_PEEK|unix.MSG_DONTWAIT)
		return !errors.Is(err, unix.EAGAIN)
	})
	switch err = errors.Join(readErr, err); {
	case err != nil:
		return r, fmt.Errorf("%w: no request: %w", ErrRefused, err)
	case n == 0:
		return r, io.EOF
	case n > maxPacket:
		return r, fmt.Errorf("%w: more than a request", ErrRefused)
	}
	if err := json.Unmarshal(packet[:n], &r); err != nil {
		return request{}, fmt.Errorf("%w: no request: %w", ErrRefused, err)
	}
	if err := r.validate(); err != nil {
		return request{}, err
	}
	return r, nil
}

// awaitClose waits until the other end has closed, but no longer than who means well takes.
func awaitClose(conn *net.UnixConn) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		for end := time.Now().Add(patience); time.Now().Before(end); {
			_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}, int(patience.Milliseconds()))
			if !errors.Is(err, unix.EINTR) { // by a signal of Go's scheduler
				return
			}
		}
	})
}

// receive takes a request that was looked at, and the one descriptor that must come with it.
func receive(conn *net.UnixConn) (netns int, err error) {
	rights := make([]byte, unix.CmsgSpace(4))
	_, control, flags, _, err := conn.ReadMsgUnix(make([]byte, maxPacket), rights)
	if err != nil {
		return -1, fmt.Errorf("%w: no request: %w", ErrRefused, err)
	}
	messages, err := unix.ParseSocketControlMessage(rights[:control])
	if err != nil {
		return -1, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	var all []int
	for i := range messages {
		if fds, err := unix.ParseUnixRights(&messages[i]); err == nil {
			all = append(all, fds...)
		}
	}
	switch {
	case flags&unix.MSG_CTRUNC != 0, len(all) > 1:
		return -1, fmt.Errorf("%w: more than one descriptor came with the request", ErrRefused)
	case len(all) == 0:
		return -1, fmt.Errorf("%w: no network namespace came with the request", ErrRefused)
	}
	return all[0], nil
}

// do carries a request out. Where it has answered, it returns no error.
func (s Service) do(ctx context.Context, uid uint32, r request, conn *net.UnixConn, reply func(answer) error) error {
	// The user is a part of what is attached, so that nobody reaches what is another's.
	attachment := config.Attachment{Runtime: RuntimeOf(uid), Network: r.Network, ContainerID: r.ContainerID, IfName: r.IfName, Entry: r.Entry}
	if r.Verb == detach {
		// Without consent he has devices there or nothing, so that nobody locks the bus of others.
		if _, err := s.Consents.Read(r.Hub, uid); err != nil {
			r.Hub = ""
		}
		return s.Host.Detach(ctx, r.Hub, attachment)
	}
	if uid == 0 {
		return fmt.Errorf("%w: root needs no lent bus: leave out the key lent", ErrRefused)
	}
	consent, err := s.Consents.Read(r.Hub, uid)
	if err != nil {
		return err
	}
	netns, err := receive(conn)
	if err != nil {
		return err
	}
	if err := checkOwner(netns, uid); err != nil {
		return err
	}
	defer unix.Close(netns)
	full := bus.Request{
		Attachment: attachment, Hub: consent.Network.Hub, Endpoint: consent.Network.Endpoint, Limit: consent.Limit,
		Place: bus.Place{NetnsPath: fmt.Sprintf("/proc/self/fd/%d", netns), Interface: r.Interface},
	}
	full.Endpoint.Name = r.Name
	if r.Verb == check {
		return s.Host.Check(ctx, full, r.ContIfs)
	}
	// Answered before Attach returns: where the answer does not arrive, nothing of it stays.
	_, err = s.Host.Attach(ctx, func(results []bus.Result) error {
		// The bus is locked, so that a later revoke finds this endpoint.
		if now, err := s.Consents.Read(r.Hub, uid); err != nil || !now.same(consent) {
			return errors.Join(fmt.Errorf("%w: the consent has changed meanwhile; try again", ErrRefused), err)
		}
		return reply(answer{Results: results})
	}, full)
	return err
}
