package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vxcan/vxcan/pkg/bus"
	"github.com/vxcan/vxcan/pkg/config"
	"github.com/vxcan/vxcan/pkg/lend"
)

const lendHelp = `Lend a bus of the host to a user: from then on, containers of his rootless Podman may be on it, in a network with the option
lent=true. How a controller is set up, and what the containers may send and hear, is said here, as keys of a network. The user can
change none of it. The consent is a file in ` + lend.ConsentsDir + `, and asked for at each start of a container. Lent again with other
keys, the bus is lent with these alone; a container that runs has them from its next start on, and those with another policy are
named.

Each interface may send what the keys say: with --rate 1000 --limit 2, the user sends up to 2000 frames a second.

With --revoke, nothing is lent any more, and the containers that are on the bus are taken off it. Without HUB, or with --list:
what is lent to whom, and how many interfaces are attached. Without root: what is lent to you.

vxcan-lend.socket must run: systemctl enable --now vxcan-lend.socket

Exit status: 0; 1 if the consent could not be written or ended, or, for a list, if a consent is not valid.`

const lendExample = `  # each of up to 4 containers of alice may send 100 to 1FF on vcan0, up to 1000 frames a second
  vxcanctl lend vcan0 --user alice --send 100-1FF --rate 1000 --limit 4

  # a controller, which is set up when it is down
  vxcanctl lend can0 --user alice --physical --bitrate 500000 --send none

  vxcanctl lend
  vxcanctl lend vcan0 --user alice --revoke`

func newLend(host *bus.Host) *cobra.Command {
	var name string
	var list, revoke bool
	var limit int
	var options []string
	consents := lend.Consents{Dir: lend.ConsentsDir}
	cmd := &cobra.Command{
		Use:               "lend [HUB --user NAME]",
		Short:             "Lend a bus of the host to a user, for containers of rootless Podman",
		Long:              lendHelp,
		Example:           lendExample,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: completeHubs(host, 1),
	}
	cmd.Flags().StringVar(&name, "user", "", "`name` or ID of the user")
	cmd.Flags().BoolVar(&list, "list", false, "show what is lent")
	cmd.Flags().BoolVar(&revoke, "revoke", false, "end it")
	cmd.Flags().StringArrayVarP(&options, "option", "o", nil, "a key and its `value`, such as rate=100; may be repeated")
	cmd.Flags().IntVar(&limit, "limit", lend.DefaultLimit, "`number` of interfaces that the user may have on the bus; each may send as --send and --rate say")
	addKeys(cmd.Flags(), lend.Keys())
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		out := cmd.OutOrStdout()
		lines := append(options, keyLines(cmd.Flags(), append(lend.Keys(), "limit"))...)
		if len(args) == 0 || list {
			if len(args) > 0 || name != "" || revoke || len(lines) > 0 {
				return fmt.Errorf("%w arguments: want HUB --user NAME for one bus and user, or neither for a list", config.ErrInvalid)
			}
			return printConsents(out, host, consents, os.Geteuid())
		}
		hub := args[0]
		if err := errors.Join(needsRoot(cmd, os.Geteuid()), config.CheckHub(hub)); err != nil {
			return err
		}
		uid, err := userID(name)
		if err != nil {
			return err
		}
		if revoke && len(lines) > 0 {
			return fmt.Errorf("%w arguments: --revoke ends all that is lent, whatever %s says; leave that out", config.ErrInvalid, lines[0])
		}
		if revoke {
			return revokeFrom(cmd.Context(), host, consents, hub, uid, out)
		}
		slices.Sort(lines)
		if err := consents.Write(hub, uid, lines...); err != nil {
			return err
		}
		if err := consents.Admit(lend.Socket); err != nil {
			return err
		}
		return sayLent(cmd.Context(), host, consents, hub, uid, out)
	}
	return cmd
}

func userID(name string) (uint32, error) {
	if name == "" {
		return 0, fmt.Errorf("%w user: none is given; want --user NAME", config.ErrInvalid)
	}
	text := name
	if u, err := user.Lookup(name); err == nil {
		text = u.Uid
	}
	uid, err := strconv.ParseUint(text, 10, 32)
	switch {
	case err != nil:
		return 0, fmt.Errorf("%w user %q: there is none of this name here; give the ID", config.ErrInvalid, name)
	case uid == 0:
		return 0, fmt.Errorf("%w user %q: root needs no lent bus", config.ErrInvalid, name)
	}
	return uint32(uid), nil
}

// userName is what a user is called, or the ID.
func userName(uid uint32) string {
	id := strconv.FormatUint(uint64(uid), 10)
	if u, err := user.LookupId(id); err == nil {
		return u.Username
	}
	return id
}

// lentTo returns a user's endpoints on a bus.
func lentTo(ctx context.Context, host looker, hub string, uid uint32) ([]bus.EndpointStatus, error) {
	return endpointsOn(ctx, host, hub, func(e bus.EndpointStatus) bool { return e.Runtime == lend.RuntimeOf(uid) })
}

// revokeFrom removes the consent before it lists endpoints, so that no new one can appear.
func revokeFrom(ctx context.Context, host *bus.Host, consents lend.Consents, hub string, uid uint32, out io.Writer) (retErr error) {
	gone := consents.Remove(hub, uid)
	if gone != nil && !errors.Is(gone, os.ErrNotExist) {
		return gone
	}
	defer func() { retErr = errors.Join(retErr, consents.Admit(lend.Socket)) }() // until here the user could detach what he has
	lent, err := lentTo(ctx, host, hub, uid)
	if gone != nil && len(lent) == 0 && err == nil {
		return fmt.Errorf("bus %s is not lent to %s", hub, userName(uid))
	}
	errs := []error{err}
	for _, e := range lent {
		if err := host.Detach(ctx, hub, e.Attachment); err != nil {
			errs = append(errs, fmt.Errorf("%s is still on bus %s: %w", containerOf(e), hub, err))
			continue
		}
		_, err := fmt.Fprintf(out, "%s: took %s of %s off the bus\n", hub, containerOf(e), userName(uid))
		errs = append(errs, err)
	}
	_, err = fmt.Fprintf(out, "%s: not lent to %s any more\n", hub, userName(uid))
	return errors.Join(append(errs, err)...)
}

func sayLent(ctx context.Context, host looker, consents lend.Consents, hub string, uid uint32, out io.Writer) error {
	c, err := consents.Read(hub, uid)
	if err != nil {
		return err
	}
	policy := c.Network.Endpoint.Policy
	if _, err := fmt.Fprintf(out, "%s: lent to %s, %s, %d interfaces\n", hub, userName(uid), policy, c.Limit); err != nil {
		return err
	}
	lent, err := lentTo(ctx, host, hub, uid)
	for _, e := range lent {
		if e.Policy != policy {
			fmt.Fprintf(out, "%s: %s runs with %s until it starts again, or until --revoke\n", hub, containerOf(e), e.Policy)
		}
	}
	if _, noSocket := os.Stat(lend.Socket); noSocket != nil {
		fmt.Fprintln(out, "nobody listens yet: sudo systemctl enable --now vxcan-lend.socket")
	}
	return err
}

// printConsents shows root all that is lent, and a user what is lent to him, and how many interfaces are attached. The
// aliases of devices tell that to anybody.
func printConsents(out io.Writer, host *bus.Host, consents lend.Consents, user int) error {
	if bus.IsRootless() {
		return errors.New("the buses of the host cannot be seen in a user namespace: run it outside")
	}
	all, err := lentFor(consents, user)
	if len(all) == 0 && err == nil {
		command := "sudo vxcanctl lend HUB --user NAME"
		if user != 0 {
			command = strings.Replace(command, "NAME", userName(uint32(user)), 1)
		}
		_, err = fmt.Fprintln(out, "nothing is lent: "+command)
	}
	errs := []error{err}
	attached, err := host.Attached()
	errs = append(errs, err)
	for _, c := range all {
		if c.Err != nil {
			errs = append(errs, c.Err)
			continue
		}
		_, err := fmt.Fprintf(out, "%s  %s  %s, %d of %d interfaces\n", plain(c.Hub), userName(c.UID), c.Network.Endpoint.Policy,
			attached[[2]string{c.Hub, lend.RuntimeOf(c.UID)}], c.Limit)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// lentFor are the consents that a user is shown.
func lentFor(consents lend.Consents, user int) ([]lend.Consent, error) {
	all, err := consents.List()
	return slices.DeleteFunc(all, func(c lend.Consent) bool { return user != 0 && int(c.UID) != user }), err
}

// orLent is how a user finds what is lent to him; "" where nothing is.
func orLent() string {
	all, err := lentFor(lend.Consents{Dir: lend.ConsentsDir}, os.Geteuid())
	if err != nil || len(all) == 0 {
		return ""
	}
	return "; what is lent to you: vxcanctl lend"
}

// newServeLend is what systemd runs for the socket, and for each request.
func newServeLend(host *bus.Host) *cobra.Command {
	var admitOnly bool
	consents := lend.Consents{Dir: lend.ConsentsDir}
	cmd := &cobra.Command{
		Use: "serve-lend", Short: "Answer one request for a lent bus, on the socket that is standard input", Hidden: true, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if admitOnly {
				return consents.Admit(lend.Socket)
			}
			conn, err := net.FileConn(os.Stdin)
			if err != nil {
				return fmt.Errorf("standard input: %w; this command is for vxcan-lend@.service", err)
			}
			defer conn.Close()
			socket, ok := conn.(*net.UnixConn)
			if !ok {
				return errors.New("standard input is no unix socket; this command is for vxcan-lend@.service")
			}
			return lend.Service{Host: host, Consents: consents}.Serve(cmd.Context(), socket, slog.Default())
		},
	}
	cmd.Flags().BoolVar(&admitOnly, "admit", false, "let the users connect to whom a bus is lent")
	return cmd
}
