package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vxcan/vxcan/pkg/bus"
)

// looker is what commands that change nothing need of bus.Host.
type looker interface {
	Buses() ([]string, error)
	Status(ctx context.Context, hubs ...string) ([]bus.BusStatus, error)
}

const statusHelp = `Show the buses of this host, or some of them: by hub, or by the name or ID of a container. Each bus is one line: the hub,
what it is, of a controller its bit rates, state and error counters, and whether all is healthy. What is wrong is below it,
with the command that repairs it. A line for each container follows, and its policy below that.

Counters are frames since the container was attached or its bus repaired. SENT got to the bus. SEND DENIED and RECEIVE
DENIED were kept back by the policy, OVER RATE by its rate. HEARD was handed to the container. LOST was not taken by an
interface: a controller's queue was full, or it was down. Where each container has a queue to the wire, WAITING is in it, and
WIRE LOST found it full. A column with nothing in it is left out. The line (host) is for
programs on the host, and for the wire, error frames of the controller included. A line (host ADDRESS) is for another host
that the bus spans: SENT are frames that came from it, SEND DENIED packets that only said so, HEARD those that were sent to
it, LOST those of them that were dropped on this host. RUNTIME is cni where it is not known which runtime called.

A terminal that is too narrow for all columns has some of them in a line below each container. In a pipe nothing is cut.

With --watch, SENT and HEARD are frames per second. The keys are q to quit; n, s, h, d and l to sort by name, frames sent,
heard, denied and lost; and the arrows to scroll. The load of a wire is estimated as canbusload does it for the worst case:
55 bits a frame and 10 a byte, those of CAN FD at the bit rate of the data. Extended IDs take 25 bits more. With --bitrate
and --dbitrate, buses that have no bit rate are loaded as if they had these.

JSON: {"version": 1, "buses": [...]}, each bus with hub, kind (vcan, can, hardware, or "" if the hub is not there), up,
mtu, controller (device, state, bitrate, dbitrate, txqueuelen, qdisc, restartMS, errors, traffic, events), traffic (of a hub
that is no controller), sent, heard, lost, waiting, wireLost, endpoints (runtime, network, networkName, containerID, ifName,
entry, name, hostIf, interface, up, policy, sent, heard, deniedSend, deniedReceive, overRate, lost, waiting, wireLost), trunks
(local, peer, busID, device, up, sent, heard, lost, denied), outside (nodes that are not on the bus), unprotected, and
differences (kind, hostIfs, what, cure, byHeal), which is empty if the bus is healthy. There, runtime is the front end that
was called: cni, netavark or docker. With --watch it is one document a line, with totals.

Exit status: 0, also if a bus is not healthy (see doctor); 1 if one cannot be looked at.`

const statusExample = `  vxcanctl status
  vxcanctl status vcan0 engine
  vxcanctl status --watch
  vxcanctl status -o json`

func newStatus(host looker) *cobra.Command {
	cmd := &cobra.Command{
		Use:               "status [HUB|CONTAINER ...]",
		Aliases:           []string{"list", "ls", "ps", "show"},
		Short:             "Show buses, containers on them and their frames",
		Long:              statusHelp,
		Example:           statusExample,
		ValidArgsFunction: completeMembers(host),
	}
	addStatus(cmd, host)
	return cmd
}

// noBus is what a look says where there is none.
const noBus = "no bus on this host"

// addStatus makes a command show the status, as vxcanctl without a command does, too.
func addStatus(cmd *cobra.Command, host looker) {
	var watch bool
	var rates bitRates
	var format *string
	cmd.RunE = func(cmd *cobra.Command, words []string) error {
		if err := asRoot(cmd, watch); err != nil {
			return err
		}
		w := cmd.OutOrStdout()
		find := func(ctx context.Context) ([]bus.BusStatus, error) { return find(ctx, host, words) }
		if watch {
			v := watcher{look: find, format: *format, now: look{assumed: rates}}
			return v.run(cmd.Context(), os.Stdin, w)
		}
		all, err := find(cmd.Context())
		switch {
		case *format == jsonFormat:
			return errors.Join(err, writeJSON(w, newStatusDocument(all)))
		case err != nil && len(all) == 0:
			return err
		case len(all) == 0:
			_, err := fmt.Fprint(w, noBus+howToMake(newMachine(host)))
			return err
		}
		return errors.Join(err, look{all: all}.write(w, styleOf(w)))
	}
	format = addFormat(cmd, textFormat, jsonFormat)
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "show it again each second, with frames per second")
	cmd.Flags().Uint32Var(&rates.nominal, "bitrate", 0, "with --watch: bits per second of a bus that has no bit rate, for its load")
	cmd.Flags().Uint32Var(&rates.data, "dbitrate", 0, "the same for the data of CAN FD frames")
}

// find looks at the buses that words name: each is a hub, or a container on a bus, of which nothing else is shown then.
// Without words it looks at all buses. It returns what could be seen also with an error.
func find(ctx context.Context, host looker, words []string) ([]bus.BusStatus, error) {
	hubs, err := host.Buses()
	if err != nil {
		return nil, err
	}
	isHub := func(word string) bool { return slices.Contains(hubs, word) }
	if len(words) == 0 || !slices.ContainsFunc(words, func(word string) bool { return !isHub(word) }) {
		return host.Status(ctx, words...)
	}
	all, err := host.Status(ctx)
	unknown := slices.Clone(words)
	var found []bus.BusStatus
	for _, s := range all {
		if !slices.Contains(words, s.Hub) {
			s.Endpoints = slices.DeleteFunc(s.Endpoints, func(e bus.EndpointStatus) bool {
				return !slices.ContainsFunc(words, func(word string) bool { return isNamed(e, word) })
			})
			if len(s.Endpoints) == 0 {
				continue
			}
		}
		unknown = slices.DeleteFunc(unknown, func(word string) bool {
			return word == s.Hub || slices.ContainsFunc(s.Endpoints, func(e bus.EndpointStatus) bool { return isNamed(e, word) })
		})
		found = append(found, s)
	}
	errs := []error{err}
	for _, word := range unknown {
		errs = append(errs, fmt.Errorf("%s: %w, and no container of this name on a bus", plain(word), bus.ErrNoBus))
	}
	return found, errors.Join(errs...)
}

// howToMake says how the first bus comes to be, with the runtimes that are installed.
func howToMake(m *machine) string {
	var lines []string
	file := "conflist/canbus0.conflist"
	if packaged := "/usr/share/doc/vxcan/" + file; m.has(packaged) {
		file = packaged
	}
	install := "sudo install -D -m 644 " + file + " /etc/cni/net.d/canbus0.conflist"
	if m.installed("docker") {
		lines = append(lines, "sudo docker network create -d vxcan --ipam-driver null -o hub=vcan0 canbus0",
			"sudo docker run --network canbus0 IMAGE")
	}
	if m.installed("podman") {
		if m.podmanBackend(m.containersConf()) == "cni" {
			lines = append(lines, install)
		} else {
			lines = append(lines, "sudo podman network create -d vxcan -o hub=vcan0 canbus0")
		}
		lines = append(lines, "sudo podman run --network canbus0 IMAGE")
	}
	if m.installed("nerdctl") {
		lines = append(lines, install, "sudo nerdctl run --network canbus0 IMAGE")
	}
	text := ": the first container on a network of vxcan makes it.\n"
	if lines != nil {
		text += "For example:\n  " + strings.Join(lines, "\n  ") + "\n"
	}
	return text + "What this host lacks for that: sudo vxcanctl doctor\n"
}

const anyNumber = math.MaxInt

// completeHubs offers the hubs of buses to the shell for the first arguments, without root those that can be seen.
func completeHubs(host looker, most int) cobra.CompletionFunc {
	return func(_ *cobra.Command, args []string, _ string) (hubs []cobra.Completion, _ cobra.ShellCompDirective) {
		if len(args) < most {
			hubs, _ = host.Buses()
		}
		return hubs, cobra.ShellCompDirectiveNoFileComp
	}
}

// completeMembers offers hubs and the names of containers.
func completeMembers(host looker) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		words, _ := host.Buses()
		if os.Geteuid() == 0 {
			all, _ := host.Status(cmd.Context())
			for _, s := range all {
				for _, e := range s.Endpoints {
					if e.Name != "" {
						words = append(words, plain(e.Name))
					}
				}
			}
		}
		return words, cobra.ShellCompDirectiveNoFileComp
	}
}

func newStatusDocument(all []bus.BusStatus) document[bus.BusStatus] {
	return document[bus.BusStatus]{documentVersion, append([]bus.BusStatus{}, all...)}
}
