package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// code is a kind of finding, with a number that stays.
type code struct{ code, title, why string }

// codes are all kinds of findings, in the order of their numbers.
var codes = [...]code{
	{"VX100", "root", "Without root, kernel modules are not tried, and buses are not looked at. In a pod of the DaemonSet, which has no capabilities, buses are."},
	{"VX101", "kernel module vcan", "A hub that no hardware is behind is a vcan device."},
	{"VX102", "kernel module vxcan", "Each container is connected by a vxcan pair, and so are the two ends of a backplane."},
	{"VX103", "kernel module can-gw", "Rules of the CAN gateway carry frames from the backplane to hub and containers."},
	{"VX104", "kernel module sch_ingress", "The clsact qdisc is where filters are on a device."},
	{"VX105", "kernel module cls_bpf", "A filter of this kind decides which frames of a container get to the bus."},
	{"VX106", "kernel module act_gact", "A filter drops by it what a container may not send or hear, and its own frames that come back."},
	{"VX107", "kernel module act_skbedit", "Frames are marked by it with their sender."},
	{"VX108", "kernel module act_mirred", "Frames of a container get to the backplane by it."},
	{"VX109", "kernel module act_police", "The key rate needs it, and nothing else does."},
	{"VX110", "user namespace", "A rootless runtime has buses of its own, in the user's network namespace. A bus of the host, or a controller, is in its reach where root lends it (vxcanctl lend)."},
	{"VX111", "version of the kernel", "Before Linux 6.1, programs inside one container do not hear each other."},
	{"VX112", "queue for bursts", "A frame waits in the kernel's queue once for each receiver. Where net.core.netdev_max_backlog is below 1000 for each container on a bus, bursts lose frames."},
	{"VX113", "kernel module sch_drr", "A controller that vxcan sets up has a queue of each container in it. Without it all share one, which one container can fill."},
	{"VX114", "kernel module cls_fw", "It puts each frame into the queue of its container."},
	{"VX115", "kernel module ip_gre", "A bus that spans several hosts (key hosts) has a GRE tunnel to each other host."},
	{"VX116", "kernel module ip6_gre", "The same between hosts with IPv6 addresses."},
	{"VX117", "kernel module nf_tables", "It keeps the packets of others out of these tunnels, unless the key unprotected lets them in."},
	{"VX118", "kernel module nft_ct", "It keeps connection tracking from giving the tunnels to a container."},
	{"VX200", "no runtime", "Neither Podman nor Docker, containerd, nerdctl or k3s was found."},
	{"VX201", "netavark plugin of Podman", "Podman with netavark looks for vxcan in its plugin directories."},
	{"VX202", "CNI plugin of Podman", "Podman with the CNI backend looks for vxcan in its plugin directories."},
	{"VX203", "podman-restart", "podman-restart.service starts containers with --restart always after a reboot. Until then they are on no bus."},
	{"VX204", "driver of Docker", "Docker calls vxcan-docker, which vxcan-docker.socket starts."},
	{"VX205", "CNI plugin of containerd", "containerd looks for vxcan in bin_dir of its configuration."},
	{"VX206", "CNI plugin of k3s", "k3s looks for vxcan in its own directory."},
	{"VX207", "CNI plugins of nerdctl", "nerdctl takes all CNI plugins from one directory: cni_path of its configuration, or else the first that there is, of /opt/cni/bin, /usr/local/libexec/cni, /usr/local/lib/cni, /usr/libexec/cni and /usr/lib/cni."},
	{"VX208", "lending", "A container of rootless Podman is on a bus of the host where root lends it (vxcanctl lend), and vxcan-lend.socket listens."},
	{"VX209", "rootless runtime", "Podman or nerdctl of a user needs user namespaces, more IDs than the user's own (newuidmap), and for Podman's networks slirp4netns or pasta, of which pasta starts nothing on a host without a route."},
	{"VX300", "unreadable bus", "A bus could not be looked at."},
	{"VX301", "bus", "What CHECK says of a bus. The next start of a container on it repairs most of it, and so does vxcanctl heal."},
	{"VX302", "queue of a controller", "The kernel's default transmit queue of 10 frames loses most of a burst."},
	{"VX303", "state of a controller", "In error-passive the controller hears and sends, but the wire has many errors: look for a wrong bit rate, a missing termination, or no other node that acknowledges."},
	{"VX304", "order of frames", "Receive packet steering (rps_cpus) on a device of a bus spreads the frames of one sender over several CPUs, so that they arrive in another order than they were sent in. net.core.rps_default_mask, or a rule of udev, sets it on each new device. One and the same CPU on all devices of a bus is fine: it keeps one order for all."},
	{"VX305", "trunk to another host", "Frames that this host could not send to another one: the network takes less than the bus sends, or its MTU is below 100. Frames that were lost on the way are what this host says the other one HEARD, less what that host says this one SENT."},
	{"VX306", "unprotected bus", "A bus spans several hosts and takes the packets of everybody (key unprotected). Where nothing else keeps them away, a container of these hosts, also one that is not on the bus, can send to it, and receive it in place of a host."},
	{"VX307", "node outside", "Of the nodes of the cluster (hosts: nodes), one is behind a router, or another device than that with the address of this node. Its packets could not be told from those that a host forwards for its containers, so that it is not on the bus."},
}

type finding struct {
	Code     string `json:"code"`
	Category string `json:"category"` // kernel, runtimes, buses
	Level    level  `json:"level"`
	What     string `json:"what"`
	Remedy   string `json:"remedy,omitempty"` // mostly one command
}

func newDoctor(m *machine) *cobra.Command {
	var strict bool
	var explain string
	var format *string
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Find out what this host lacks for CAN buses of containers",
		Long:  doctorHelp(),
		Example: `  vxcanctl doctor
  vxcanctl doctor --explain VX112`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			w := cmd.OutOrStdout()
			if explain != "" {
				return writeCode(w, explain)
			}
			all := examine(cmd.Context(), m)
			var err error
			if *format == jsonFormat {
				err = writeJSON(w, struct {
					Version  int       `json:"version"`
					Findings []finding `json:"findings"`
				}{documentVersion, all})
			} else {
				err = writeFindings(w, styleOf(w), all, *format == shortFormat)
			}
			if err == nil && (worst(all) == failure || strict && worst(all) == warning) {
				err = said(cmd)
			}
			return err
		},
	}
	format = addFormat(cmd, textFormat, shortFormat, jsonFormat)
	cmd.Flags().BoolVar(&strict, "strict", false, "warnings are failures too")
	cmd.Flags().StringVar(&explain, "explain", "", "tell what a `CODE` means")
	var names []string
	for _, c := range codes {
		names = append(names, c.code+"\t"+c.title)
	}
	_ = cmd.RegisterFlagCompletionFunc("explain", cobra.FixedCompletions(names, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// shortFormat has no line for what is ok.
const shortFormat = "short"

func doctorHelp() string {
	var b strings.Builder
	b.WriteString(`Look at the kernel, at each container runtime that is installed, and at each bus. Each check is one line, and below one
that is not ok is what mends it. Kernel modules are really tried, which loads them, but for those of tunnels, which would
make devices; nothing else is changed. Without root it does what it can. -o short leaves out what is ok.

JSON: {"version": 1, "findings": [...]}, each with code, category (kernel, runtimes, buses), level (ok, warning,
failure), what and remedy.

Exit status: 0; 1 for a failure, with --strict also for a warning.

Codes:
`)
	for _, c := range codes {
		fmt.Fprintf(&b, "  %s  %s: %s\n", c.code, c.title, c.why)
	}
	return strings.TrimSuffix(b.String(), "\n")
}

func examine(ctx context.Context, m *machine) []finding {
	m.found = nil
	m.kernel()
	buses := m.buses(ctx)
	m.backlog(buses)
	m.runtimes(buses)
	slices.SortStableFunc(m.found, func(a, b finding) int { return cmp.Compare(a.Code[2], b.Code[2]) }) // by category
	return m.found
}

func worst(all []finding) (l level) {
	for _, f := range all {
		l = max(l, f.Level)
	}
	return l
}

// writeFindings writes a block for each category.
func writeFindings(w io.Writer, style style, all []finding, short bool) error {
	p := printer{w: w}
	category := ""
	for _, f := range all {
		if short && f.Level == fine {
			continue
		}
		if f.Category != category {
			category = f.Category
			p.line("%s", category)
		}
		what, remedy := plain(f.What), ""
		if f.Level != fine {
			what, remedy = what+" ["+f.Code+"]", plain(f.Remedy)
		}
		for _, line := range style.item(f.Level, what, remedy) {
			p.line("%s", line)
		}
	}
	return p.err
}

func writeCode(w io.Writer, name string) error {
	i := slices.IndexFunc(codes[:], func(c code) bool { return strings.EqualFold(c.code, name) })
	if i < 0 {
		return fmt.Errorf("unknown code %q: want one from %s to %s", name, codes[0].code, codes[len(codes)-1].code)
	}
	_, err := fmt.Fprintf(w, "%s, %s\n%s\n", codes[i].code, codes[i].title, codes[i].why)
	return err
}
