package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/vxcan/vxcan/pkg/bus"
	"github.com/vxcan/vxcan/pkg/config"
)

const netnsHelp = `The network namespace is named by its file, or by a name as ip netns has it, or it is that of a process. That of the host is
refused.`

const attachHelp = `Put a network namespace on a bus, as a container runtime does with a container: the namespace gets an interface of its own,
and a hub that is missing is made. ` + netnsHelp + `

The same call again changes nothing, or repairs what is missing of the bus. One with another policy replaces the policy. The
interface goes with the namespace, when nobody is in it and no file names it any more; then the next start of a container on the
bus, or vxcanctl heal, removes it from the record.

The keys of a network can be given as flags, or as -o KEY=VALUE as for Docker and Podman.

Exit status: 0 if the interface is there; 1 if it is not, and then nothing of the call stays.`

func newAttach(host *bus.Host) *cobra.Command {
	var where namespace
	var options []string
	cmd := &cobra.Command{
		Use:   "attach HUB (--netns PATH | --pid PID)",
		Short: "Put a network namespace on a bus, for services, machines and test rigs without a container runtime",
		Long:  attachHelp,
		Example: `  # a namespace of ip netns gets can0 on vcan0
  ip netns add rig
  vxcanctl attach vcan0 --netns rig

  # a process that runs in a namespace of its own may send two IDs, up to 100 frames a second
  vxcanctl attach vcan0 --pid 4711 --send 123,18FEF100 --rate 100

  # the same for a container of LXC, whose interface is to be can1
  vxcanctl attach vcan1 --pid "$(lxc-info -n engine -pH)" --interface can1

  # on a controller, which is set up if it is down
  vxcanctl attach can0 --netns rig --physical --bitrate 500000`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeHubs(host, 1),
	}
	where.addFlags(cmd)
	cmd.Flags().StringVar(&where.name, "name", "", "what status calls it (default the name of the namespace, or of the process)")
	cmd.Flags().StringArrayVarP(&options, "option", "o", nil, "a key and its `value`, such as rate=100; may be repeated")
	addKeys(cmd.Flags(), config.KeyNames(config.Host))
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := needsRoot(cmd, os.Geteuid()); err != nil {
			return err
		}
		c, err := parseKeys(args[0], cmd.Flags(), options)
		if err != nil {
			return err
		}
		if err := where.open(); err != nil {
			return err
		}
		r, err := where.request(c)
		if err != nil {
			return err
		}
		if _, err := host.Attach(cmd.Context(), where.isSame, r); err != nil {
			if errors.Is(err, bus.ErrNameTaken) {
				err = fmt.Errorf("%w (--interface NAME)", err)
			}
			return err
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %s has %s\n", r.Hub.Name, plain(where.name), r.Place.Interface)
		return err
	}
	return cmd
}

func newDetach(host *bus.Host) *cobra.Command {
	var where namespace
	cmd := &cobra.Command{
		Use:   "detach HUB (--netns PATH | --pid PID)",
		Short: "Take a network namespace off a bus",
		Long: `Take a network namespace off a bus that vxcanctl attach has put on it. The bus stays. ` + netnsHelp + `

A namespace that is gone has taken its interface along: then there is nothing to detach, which is no error.

Exit status: 0, also if there was nothing to detach; 1 if the interface could not be taken away.`,
		Example: `  vxcanctl detach vcan0 --netns rig
  vxcanctl detach vcan1 --pid "$(lxc-info -n engine -pH)" --interface can1`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeHubs(host, 1),
	}
	where.addFlags(cmd)
	ifName := cmd.Flags().String("interface", config.DefaultInterface, "the interface, as attach was told")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := needsRoot(cmd, os.Geteuid()); err != nil {
			return err
		}
		c := config.NewNetwork()
		for key, value := range map[string]string{"hub": args[0], "interface": *ifName} {
			if _, err := c.Set(config.Host, key, value); err != nil {
				return err
			}
		}
		err := where.open()
		if errors.Is(err, errGone) {
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: nothing to detach: %s\n", c.Hub.Name, config.OneLine(err))
			return err
		} else if err != nil {
			return err
		}
		r, err := where.request(c)
		if err != nil {
			return err
		}
		there, errSeen := endpointsOn(cmd.Context(), host, r.Hub.Name, func(e bus.EndpointStatus) bool { return e.Attachment == r.Attachment })
		if err := host.Detach(cmd.Context(), r.Hub.Name, r.Attachment); err != nil {
			return err
		}
		words := "%s: detached %s of %s\n"
		if len(there) == 0 && errSeen == nil {
			words = "%s: nothing to detach: there is no %s of %s on it\n"
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), words, r.Hub.Name, r.Place.Interface, plain(where.name))
		return err
	}
	return cmd
}

// endpointsOn are some endpoints on a bus; none where there is no bus.
func endpointsOn(ctx context.Context, host looker, hub string, wanted func(bus.EndpointStatus) bool) (all []bus.EndpointStatus, err error) {
	buses, err := host.Status(ctx, hub)
	if errors.Is(err, bus.ErrNoBus) {
		return nil, nil
	}
	for _, s := range buses {
		for _, e := range s.Endpoints {
			if wanted(e) {
				all = append(all, e)
			}
		}
	}
	return all, err
}

// hubKey is the key that the command's argument is.
const hubKey = "hub"

// addKeys adds a flag for each of these keys of a network.
func addKeys(flags *pflag.FlagSet, names []string) {
	for _, k := range config.Keys {
		usage := strings.ReplaceAll(fmt.Sprintf("%s (default %s)", k.Meaning, k.Default), "`", "")
		switch {
		case !slices.Contains(names, k.Name) || k.Name == hubKey:
		case k.IsSwitch():
			flags.Bool(k.Name, false, usage)
		default:
			flags.String(k.Name, "", usage)
		}
	}
}

// keyLines are the flags of addKeys that are given, as options.
func keyLines(flags *pflag.FlagSet, names []string) (lines []string) {
	flags.Visit(func(f *pflag.Flag) {
		if slices.Contains(names, f.Name) {
			lines = append(lines, f.Name+"="+f.Value.String())
		}
	})
	return lines
}

// parseKeys reads and validates what the command line says of the network. Its errors name the key and what is allowed.
func parseKeys(hub string, flags *pflag.FlagSet, options []string) (config.Network, error) {
	c := config.NewNetwork()
	given := make(map[string]bool)
	for _, option := range slices.Concat([]string{hubKey + "=" + hub}, options, keyLines(flags, config.KeyNames(config.Host))) {
		name, value, ok := strings.Cut(option, "=")
		known, err := c.Set(config.Host, name, value)
		switch {
		case !ok:
			err = fmt.Errorf("%w option %q: want KEY=VALUE", config.ErrInvalid, option)
		case !known:
			err = fmt.Errorf("%w option %q: the options are %s", config.ErrInvalid, name, strings.Join(config.KeyNames(config.Host), ", "))
		case given[name]:
			err = fmt.Errorf("%w option %q: it is given twice", config.ErrInvalid, name)
		case err != nil:
			err = fmt.Errorf("option %q: %w", name, err)
		}
		if err != nil {
			return c, err
		}
		given[name] = true
	}
	c.Interface = cmp.Or(c.Interface, config.DefaultInterface)
	return c, c.Check()
}

// namespace is the network namespace that a command names.
type namespace struct {
	netns string // a path, or a name in /run/netns
	pid   int
	name  string // for people

	path string
	id   string // see bus.NetnsID
}

// errGone is a namespace that is not there, or not any more.
var errGone = errors.New("there is no such network namespace")

func (n *namespace) addFlags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&n.netns, "netns", "", "`path` of the network namespace, or its name in /run/netns")
	cmd.Flags().IntVar(&n.pid, "pid", 0, "`number` of a process in the network namespace")
	cmd.MarkFlagsOneRequired("netns", "pid")
	cmd.MarkFlagsMutuallyExclusive("netns", "pid")
}

func (n *namespace) open() error {
	process := n.pid
	switch {
	case n.netns == "" && n.pid <= 0:
		return fmt.Errorf("%w --pid %d: want the number of a process", config.ErrInvalid, n.pid)
	case n.netns == "":
		n.path = fmt.Sprintf("/proc/%d/ns/net", n.pid)
	case strings.Contains(n.netns, "/"):
		n.path = n.netns
		_, _ = fmt.Sscanf(n.path, "/proc/%d/ns/net", &process)
	default:
		n.path = filepath.Join("/run/netns", n.netns)
	}
	id, err := bus.NetnsID(n.path)
	if _, gone := os.Stat(n.path); err != nil && gone != nil {
		err = fmt.Errorf("%w: %s", errGone, n.path)
		if n.netns == "" {
			err = fmt.Errorf("%w: process %d has ended", errGone, n.pid)
		}
	}
	if err != nil {
		return err
	}
	n.id = id
	if n.name == "" {
		n.name = filepath.Base(n.path)
		if comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", process)); process != 0 && err == nil {
			n.name = strings.TrimSpace(string(comm))
		}
	}
	return nil
}

// isSame fails if the namespace is gone, or its path names another one: a process has ended, and another one has its number.
func (n *namespace) isSame([]bus.Result) error {
	now := *n
	err := now.open()
	if err == nil && now.id != n.id {
		err = fmt.Errorf("%w: %s is another one now; try again", errGone, n.path)
	}
	return err
}

// request is what a network asks for in the namespace. The namespace's number identifies it, however it is named.
func (n *namespace) request(c config.Network) (bus.Request, error) {
	ifName, err := config.InterfaceOn(c.Hub.Name, c.Interface)
	c.Endpoint.Name = n.name
	return bus.Request{
		Attachment: config.Attachment{Runtime: config.HostRuntime, Network: c.Hub.Name, ContainerID: n.id, IfName: ifName},
		Hub:        c.Hub, Endpoint: c.Endpoint, Place: bus.Place{NetnsPath: n.path, Interface: ifName},
	}, err
}
