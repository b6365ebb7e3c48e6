package main

import (
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
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
	service string
	lookup  func(ctx context.Context, network, host string) ([]netip.Addr, error)
	wanted  chan struct{} // somebody asks for the list

	mutex sync.Mutex
	seen  map[netip.Addr]time.Time // when each was in the list last
}

func newNodes(service string) *nodes {
	return &nodes{service: service, lookup: net.DefaultResolver.LookupNetIP, wanted: make(chan struct{}, 1), seen: map[netip.Addr]time.Time{}}
}

// learn takes a list over, of IPv4 alone if it has any, and drops what has been in none for long.
func (n *nodes) learn(list []netip.Addr, now time.Time) {
	n.mutex.Lock()
	defer n.mutex.Unlock()
	for i := range list {
		list[i] = list[i].Unmap()
	}
	if slices.ContainsFunc(list, netip.Addr.Is4) {
		list = slices.DeleteFunc(list, netip.Addr.Is6)
	}
	for _, a := range list {
		n.seen[a] = now
	}
	for a, last := range n.seen {
		if now.Sub(last) > nodesPatience {
			delete(n.seen, a)
		}
	}
}

// known are the nodes, sorted.
func (n *nodes) known() (all []netip.Addr) {
	n.mutex.Lock()
	defer n.mutex.Unlock()
	for a := range n.seen {
		all = append(all, a)
	}
	slices.SortFunc(all, netip.Addr.Compare)
	return all
}

// look asks DNS once.
func (n *nodes) look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, nodesPoll)
	defer cancel()
	list, err := n.lookup(ctx, "ip", n.service)
	if err == nil {
		n.learn(list, time.Now())
	}
	return err
}

// watch asks DNS again and again, while somebody wants the list, and sends when it has changed.
func (n *nodes) watch(ctx context.Context) <-chan struct{} {
	changed := make(chan struct{}, 1)
	go func() {
		said := ""
		for {
			select {
			case <-ctx.Done():
				return
			case <-n.wanted:
			}
			before, words := n.known(), ""
			if err := n.look(ctx); err != nil {
				words = config.OneLine(err)
			}
			if words != said && words != "" && ctx.Err() == nil {
				slog.Warn("the nodes of the cluster cannot be listed: the list from before is used", "err", words)
			}
			if said = words; !slices.Equal(before, n.known()) {
				changed <- struct{}{}
			}
			if !sleep(ctx, nodesPoll) {
				return
			}
		}
	}()
	return changed
}

// expanded is the entry with the nodes behind the word nodes, if hosts has it. Those in a list that has such an entry were known
// once.
func (in *installer) expanded(list []byte) (json.RawMessage, error) {
	hosts, keys, err := hostsOf(in.valid)
	if err != nil || !wantsNodes(hosts) {
		return in.valid, err
	}
	select {
	case in.nodes.wanted <- struct{}{}:
	default:
	}
	if len(in.nodes.known()) == 0 {
		in.nodes.learn(nodesIn(list), time.Now())
	}
	for _, a := range in.nodes.known() {
		if text := a.String(); !slices.Contains(hosts, text) {
			hosts = append(hosts, text)
		}
	}
	if keys["hosts"], err = json.Marshal(hosts); err != nil {
		return nil, err
	}
	entry, err := json.Marshal(keys)
	if err != nil {
		return nil, err
	}
	return parseEntry(entry)
}

func wantsNodes(hosts []string) bool { return len(hosts) > 0 && hosts[0] == config.Nodes }

// hostsOf are the key hosts of an entry, and all keys.
func hostsOf(entry []byte) (hosts []string, keys map[string]json.RawMessage, err error) {
	if err := json.Unmarshal(entry, &keys); err != nil {
		return nil, nil, err
	}
	var one string
	if json.Unmarshal(keys["hosts"], &one) == nil {
		hosts = []string{one}
	} else {
		_ = json.Unmarshal(keys["hosts"], &hosts) // parseEntry refuses what is wrong
	}
	return hosts, keys, nil
}

// nodesIn are the nodes in an entry of vxcan in a list.
func nodesIn(list []byte) (all []netip.Addr) {
	_, plugins, _ := findPlugins(list)
	for _, p := range plugins {
		plugin := list[p.from:p.to]
		hosts, _, err := hostsOf(plugin)
		if err != nil || typeOf(plugin) != pluginType || !wantsNodes(hosts) {
			continue
		}
		for _, text := range hosts[1:] {
			if a, err := netip.ParseAddr(text); err == nil {
				all = append(all, a)
			}
		}
	}
	return all
}
