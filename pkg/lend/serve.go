package lend

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/bus"
	"github.com/vxcan/vxcan/pkg/config"
)

// Limits of one user.
const (
	mostEndpoints = 32               // on a bus
	patience      = 5 * time.Second  // for the request
	longest       = 60 * time.Second // for all of it
)

// Service answers for root.
type Service struct {
	Host     *bus.Host
	Consents Consents
}

// Serve reads one request from a connection and answers it. It returns an error when it could not even answer.
func (s Service) Serve(ctx context.Context, conn *net.UnixConn, log *slog.Logger) error {
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	uid, err := userOf(conn)
	if err != nil {
		return err
	}
	r, netns, err := receive(conn)
	if netns != nil {
		defer netns.Close()
	}
	ctx, cancel := context.WithTimeout(ctx, longest)
	defer cancel()
	if err := conn.SetDeadline(time.Now().Add(longest)); err != nil {
		return err
	}
	var answered bool
	reply := func(a answer) error {
		answered = true
		packet, err := json.Marshal(a)
		if err == nil {
			_, err = conn.Write(packet)
		}
		return err
	}
	if err == nil {
		err = s.do(ctx, uid, r, netns, reply)
	}
	log.Info("asked", "user", uid, "verb", string(r.Verb), "hub", r.Hub, "network", r.Network, "containerID", r.ContainerID, "name", r.Name, "err", err)
	var damage bus.Damage
	switch {
	case answered && err == nil:
		return nil
	case errors.As(err, &damage):
		return reply(answer{Damage: damage})
	case err != nil:
		return reply(answer{Error: config.OneLine(err), Invalid: errors.Is(err, config.ErrInvalid)})
	}
	return reply(answer{})
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

// receive reads a request, and the one descriptor that may come with it.
func receive(conn *net.UnixConn) (r request, netns *os.File, err error) {
	packet := make([]byte, maxPacket)
	rights := make([]byte, unix.CmsgSpace(4)+unix.CmsgSpace(unix.SizeofUcred)) // one descriptor: the kernel closes more, and says so
	n, control, flags, _, err := conn.ReadMsgUnix(packet, rights)
	if err != nil {
		return r, nil, fmt.Errorf("%w: no request: %w", ErrRefused, err)
	}
	netns, err = descriptor(rights[:control])
	switch {
	case err != nil:
		return r, netns, err
	case flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0:
		return r, netns, fmt.Errorf("%w: more than a request", ErrRefused)
	}
	if err := json.Unmarshal(packet[:n], &r); err != nil {
		return request{}, netns, fmt.Errorf("%w: no request: %w", ErrRefused, err)
	}
	if err := r.checkNames(); err != nil {
		return request{}, netns, err
	}
	return r, netns, nil
}

// descriptor is the one that control data brings, or nil.
func descriptor(control []byte) (*os.File, error) {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	var all []int
	for i := range messages {
		if fds, err := unix.ParseUnixRights(&messages[i]); err == nil {
			all = append(all, fds...)
		}
	}
	for i, fd := range all {
		if i > 0 {
			unix.Close(fd)
		}
	}
	switch len(all) {
	case 0:
		return nil, nil
	case 1:
		return os.NewFile(uintptr(all[0]), "network namespace of the container"), nil
	}
	return os.NewFile(uintptr(all[0]), ""), fmt.Errorf("%w: %d descriptors", ErrRefused, len(all))
}

// do carries a request out. It has answered when it returns without an error, or not at all.
func (s Service) do(ctx context.Context, uid uint32, r request, netns *os.File, reply func(answer) error) error {
	if uid == 0 {
		return fmt.Errorf("%w: root needs no lent bus: leave out the key lent", ErrRefused)
	}
	if err := config.CheckHub(r.Hub); err != nil {
		return err
	}
	// The user is a part of what is attached, so that nobody reaches what is another's.
	attachment := config.Attachment{Runtime: RuntimeOf(uid), Network: r.Network, ContainerID: r.ContainerID, IfName: r.IfName, Entry: r.Entry}
	if r.Verb == detach {
		return s.Host.Detach(ctx, r.Hub, attachment)
	}
	if r.Verb != attach && r.Verb != check {
		return fmt.Errorf("%w: verb %.20q: want attach, detach or check", ErrRefused, string(r.Verb))
	}
	if netns == nil {
		return fmt.Errorf("%w: no network namespace came with the request", ErrRefused)
	}
	if err := checkOwner(netns, uid); err != nil {
		return err
	}
	n, err := s.Consents.Read(r.Hub, uid)
	if err != nil {
		return err
	}
	n.Endpoint.Name = r.Name
	full := bus.Request{
		Attachment: attachment, Hub: n.Hub, Endpoint: n.Endpoint, Limit: mostEndpoints,
		Place: bus.Place{NetnsPath: fmt.Sprintf("/proc/self/fd/%d", netns.Fd()), Interface: r.Interface},
	}
	if r.Verb == check {
		return s.Host.Check(ctx, full, r.ContIfs)
	}
	// Answered before Attach returns: where the answer does not arrive, nothing of it stays.
	_, err = s.Host.Attach(ctx, func(results []bus.Result) error {
		// The bus is locked: who ends a consent now finds this endpoint afterwards.
		if now, err := s.Consents.Read(r.Hub, uid); err != nil || now.Hub != n.Hub || now.Endpoint.Policy != n.Endpoint.Policy {
			return errors.Join(fmt.Errorf("%w: the consent has changed meanwhile; try again", ErrRefused), err)
		}
		return reply(answer{Results: results})
	}, full)
	return err
}
