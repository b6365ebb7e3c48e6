package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/vxcan/vxcan/pkg/config"
)

const (
	nodesPoll = 10 * time.Second
	// nodesPatience is how long a node stays in the list that its pod of the DaemonSet is gone from: an upgrade replaces the pod.
	nodesPatience = 10 * time.Minute
)

// nodes are the nodes of the cluster, for an entry whose hosts begin with the word nodes: the addresses of a headless Service, which
// are those of the pods of the DaemonSet. To ask DNS for them takes no rights in the API.
type nodes struct {
	service    string // in the namespace of this pod, or a whole name with a dot at its end
	resolvConf string
	lookup     func(ctx context.Context, network, host string) ([]netip.Addr, error)

	wanted  bool
	asked   time.Time
	answers chan answer
	failed  bool                     // the last one
	known   map[netip.Addr]time.Time // since when each is missing; the zero time if it is not
}

type answer struct {
	list []netip.Addr
	err  error
}

func newNodes(service string) *nodes {
	return &nodes{
		service: service, resolvConf: "/etc/resolv.conf", lookup: net.DefaultResolver.LookupNetIP,
		answers: make(chan answer, 1), known: map[netip.Addr]time.Time{},
	}
}

// ask asks DNS, if the list is wanted and was not asked for just now. The answer goes to answers.
func (n *nodes) ask(ctx context.Context) {
	if !n.wanted || time.Since(n.asked) < nodesPoll {
		return
	}
	n.asked = time.Now()
	go func() {
		ctx, cancel := context.WithTimeout(ctx, nodesPoll)
		defer cancel()
		var a answer
		var name string
		if name, a.err = n.name(); a.err == nil {
			a.list, a.err = n.lookup(ctx, "ip", name)
		}
		n.answers <- a
	}()
}

// name is the whole name of the Service. Without its dot, names of other domains would be tried, and believed.
func (n *nodes) name() (string, error) {
	if strings.HasSuffix(n.service, ".") {
		return n.service, nil
	}
	content, err := os.ReadFile(n.resolvConf)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(content)) {
		words := strings.Fields(line)
		if len(words) == 0 || words[0] != "search" {
			continue
		}
		for _, domain := range words[1:] { // the kubelet writes NAMESPACE.svc.DOMAIN first
			if _, rest, ok := strings.Cut(domain, "."); ok && strings.HasPrefix(rest, "svc.") {
				return n.service + "." + strings.TrimSuffix(domain, ".") + ".", nil
			}
		}
	}
	return "", fmt.Errorf("%s does not search the Services of a namespace: the pod needs dnsPolicy ClusterFirstWithHostNet, and the kubelet a DNS of the cluster", n.resolvConf)
}

func (n *nodes) take(a answer, now time.Time) {
	if a.err == nil {
		a.err = n.learn(a.list, now)
	}
	if a.err != nil && !n.failed {
		slog.Warn("the nodes of the cluster cannot be listed, so that their list stays as it is: is there a headless Service "+n.service+"?",
			"err", config.OneLine(a.err))
	}
	if a.err == nil && n.failed {
		slog.Info("the nodes of the cluster are listed again")
	}
	n.failed = a.err != nil
}

// learn takes a list over, of IPv4 alone if it has any. What has long been missing is dropped.
func (n *nodes) learn(list []netip.Addr, now time.Time) error {
	for i := range list {
		list[i] = list[i].Unmap()
	}
	list = slices.DeleteFunc(list, func(a netip.Addr) bool { return !a.IsGlobalUnicast() })
	if slices.ContainsFunc(list, netip.Addr.Is4) {
		list = slices.DeleteFunc(list, netip.Addr.Is6)
	}
	if len(list) == 0 {
		return errors.New("no address of a node is in the answer")
	}
	others := false
	for a, missing := range n.known {
		switch {
		case !missing.IsZero() && now.Sub(missing) > nodesPatience:
			delete(n.known, a)
			continue
		case missing.IsZero():
			n.known[a] = now
		}
		others = others || a.Is4() != list[0].Is4()
	}
	if others {
		return fmt.Errorf("%s and others have addresses of another family than the nodes that were known", list[0])
	}
	for _, a := range list {
		n.known[a] = time.Time{}
	}
	return nil
}

// expanded is the entry with the nodes behind the word nodes, if hosts has it. Those in list, which has the entry from before, were
// known once. With an error the entry has these alone.
func (in *installer) expanded(list []byte) (json.RawMessage, error) {
	hosts := hostsOf(in.valid)
	if in.nodes.wanted = wantsNodes(hosts); !in.nodes.wanted {
		clear(in.nodes.known)
		return in.valid, nil
	}
	before := nodesIn(list, hosts)
	if len(in.nodes.known) == 0 {
		for _, a := range before {
			in.nodes.known[a] = time.Time{}
		}
	}
	entry, err := withNodes(in.valid, hosts, slices.SortedFunc(maps.Keys(in.nodes.known), netip.Addr.Compare))
	if err == nil {
		return entry, nil
	}
	if entry, errBefore := withNodes(in.valid, hosts, before); errBefore == nil {
		return entry, err
	}
	return in.valid, err
}

// withNodes is an entry with nodes behind its hosts.
func withNodes(entry json.RawMessage, hosts []string, nodes []netip.Addr) (json.RawMessage, error) {
	hosts, others := slices.Clone(hosts), addressesOf(hosts)
	for _, a := range nodes {
		if !slices.Contains(others, a) {
			hosts = append(hosts, a.String())
		}
	}
	var keys map[string]any
	if err := json.Unmarshal(entry, &keys); err != nil {
		return nil, err
	}
	keys["hosts"] = hosts
	content, err := json.Marshal(keys)
	if err != nil {
		return nil, err
	}
	return parseEntry(content)
}

func wantsNodes(hosts []string) bool { return len(hosts) > 0 && hosts[0] == config.Nodes }

// hostsOf is the key hosts of an entry.
func hostsOf(entry []byte) []string {
	var word struct{ Hosts string }
	if json.Unmarshal(entry, &word) == nil {
		return []string{word.Hosts}
	}
	var list struct{ Hosts []string }
	_ = json.Unmarshal(entry, &list) // parseEntry refuses what is wrong
	return list.Hosts
}

// nodesIn are the nodes in an entry of vxcan in a list, without the hosts that the entry has beside them now.
func nodesIn(list []byte, hosts []string) (all []netip.Addr) {
	others := addressesOf(hosts)
	_, plugins, _ := findPlugins(list)
	for _, p := range plugins {
		plugin := list[p.from:p.to]
		if there := hostsOf(plugin); typeOf(plugin) == pluginType && wantsNodes(there) {
			all = append(all, addressesOf(there)...)
		}
	}
	return slices.DeleteFunc(all, func(a netip.Addr) bool { return slices.Contains(others, a) })
}

func addressesOf(hosts []string) (all []netip.Addr) {
	for _, text := range hosts {
		if a, err := netip.ParseAddr(text); err == nil {
			all = append(all, a)
		}
	}
	return all
}
