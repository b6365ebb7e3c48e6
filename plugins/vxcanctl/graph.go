package main

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/mattn/go-runewidth"
	"github.com/spf13/cobra"

	"github.com/vxcan/vxcan/pkg/bus"
	"github.com/vxcan/vxcan/pkg/config"
)

func newGraph(host looker) *cobra.Command {
	var format *string
	cmd := &cobra.Command{
		Use:   "graph [HUB ...]",
		Short: "Show buses as trees, or as a graph for Graphviz",
		Long: `Show the buses of this host, or those of some hubs, as trees: a hub, and below it the containers on the bus, with
their policies, and the other hosts that it spans. With -o dot it is a graph for Graphviz: vxcanctl graph -o dot | dot -Tsvg.

JSON is that of status.`,
		Example: `  vxcanctl graph
  vxcanctl graph vcan0 -o dot >vcan0.dot`,
		ValidArgsFunction: completeHubs(host, anyNumber),
		RunE: func(cmd *cobra.Command, hubs []string) error {
			if err := asRoot(cmd, false); err != nil {
				return err
			}
			all, err := host.Status(cmd.Context(), hubs...)
			w := cmd.OutOrStdout()
			switch *format {
			case jsonFormat:
				return errors.Join(err, writeJSON(w, newStatusDocument(all)))
			case dotFormat:
				return errors.Join(err, writeDot(w, all))
			}
			return errors.Join(err, writeTree(w, styleOf(w), all))
		},
	}
	format = addFormat(cmd, textFormat, dotFormat, jsonFormat)
	return cmd
}

// writeTree writes a tree a bus.
func writeTree(w io.Writer, style style, all []bus.BusStatus) error {
	p := printer{w: w}
	for _, s := range all {
		branch, last := "|- ", "`- "
		if style.unicode {
			branch, last = "├─ ", "└─ "
		}
		p.line("%s  %s%s", plain(s.Hub), hubWords(s), wholeWords(s))
		leaves := []string{"programs on the host"}
		if s.Kind != "" && s.Kind != "vcan" {
			leaves = append(leaves, "the wire")
		}
		for _, e := range s.Endpoints {
			leaves = append(leaves, fmt.Sprintf("%s  %s %s", containerOf(e), interfaceOf(e), edgeWords(e)))
		}
		for _, t := range s.Trunks {
			leaves = append(leaves, fmt.Sprintf("host %s  %s", t.Peer, trunkEdge(t)))
		}
		for i, leaf := range leaves {
			if i == len(leaves)-1 {
				branch = last
			}
			p.line("%s%s", branch, leaf)
		}
	}
	return p.err
}

func hubWords(s bus.BusStatus) string { return strings.Join(hubItems(style{}, s), ", ") }

func wholeWords(s bus.BusStatus) string {
	switch n := len(s.Differences); n {
	case 0:
		return ""
	case 1:
		return "  (" + wrongWords(s, s.Differences[0]) + ")"
	default:
		return fmt.Sprintf("  (%s, and %d more)", wrongWords(s, s.Differences[0]), n-1)
	}
}

// edgeWords tell what is special about an endpoint.
func edgeWords(e bus.EndpointStatus) string {
	words := "(" + plain(runtimeOf(e)) + " " + networkOf(e) + ")"
	if e.Policy != (config.Policy{}) {
		words += "  " + runewidth.Truncate(plain(e.Policy.String()), 43, "...")
	}
	return words
}

// trunkEdge tells what a trunk has carried, and what it could not.
func trunkEdge(t bus.TrunkStatus) string {
	words := fmt.Sprintf("%s, sent %d, heard %d", trunkWords(t), t.Sent, t.Heard)
	if t.Lost > 0 {
		words += fmt.Sprintf(", dropped here %d", t.Lost)
	}
	return words
}

// writeDot writes all buses as one graph for Graphviz. A container on several buses is one node.
func writeDot(w io.Writer, all []bus.BusStatus) error {
	p := printer{w: w}
	quote := strconv.Quote
	p.line("graph vxcan {")
	p.line("  node [shape=box];")
	for _, s := range all {
		colour := ""
		if len(s.Differences) > 0 {
			colour = ", color=red"
		}
		p.line("  %s [shape=ellipse, label=%s%s];", quote("bus "+s.Hub), quote(s.Hub+"\n"+hubWords(s)), colour)
		for _, e := range s.Endpoints {
			id := e.ContainerID
			if e.Runtime == "docker" && e.Name != "" { // its ID is that of one endpoint
				id = e.Name
			}
			node := quote(plain(e.Runtime + " " + id))
			p.line("  %s [label=%s];", node, quote(containerOf(e)+"\n"+plain(runtimeOf(e))))
			p.line("  %s -- %s [label=%s];", quote("bus "+s.Hub), node, quote(interfaceOf(e)+"\n"+networkOf(e)))
		}
		for _, t := range s.Trunks {
			node := quote("host " + t.Peer)
			p.line("  %s [shape=box3d, label=%s];", node, quote("host "+t.Peer))
			p.line("  %s -- %s [label=%s];", quote("bus "+s.Hub), node, quote(trunkEdge(t)))
		}
	}
	p.line("}")
	return p.err
}
