package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func addresses(texts ...string) (all []netip.Addr) {
	for _, text := range texts {
		all = append(all, netip.MustParseAddr(text))
	}
	return all
}

// TestNodesLearn: a node is in the list at once, and goes when it has been missing for long.
func TestNodesLearn(t *testing.T) {
	n, now := newNodes("vxcan.kube-system.svc"), time.Now()
	for _, c := range []struct {
		after time.Duration
		list  []netip.Addr
		want  string
	}{
		{0, nil, "[]"},
		{0, addresses("10.9.0.2", "10.9.0.1"), "[10.9.0.1 10.9.0.2]"},
		{time.Second, addresses("10.9.0.1"), "[10.9.0.1 10.9.0.2]"},
		{2 * time.Second, addresses("::ffff:10.9.0.1", "2001:db8::1", "10.9.0.3"), "[10.9.0.1 10.9.0.2 10.9.0.3]"},
		{nodesPatience + time.Second/2, addresses("10.9.0.1", "10.9.0.3"), "[10.9.0.1 10.9.0.3]"},
		{3 * nodesPatience, addresses("2001:db8::2", "2001:db8::1"), "[2001:db8::1 2001:db8::2]"},
	} {
		n.learn(c.list, now.Add(c.after))
		if got := fmt.Sprint(n.known()); got != c.want {
			t.Errorf("after %v: %s, want %s", c.after, got, c.want)
		}
	}
}

// TestNodesWatch: DNS is asked when somebody wants the list, and what it says is told when it has changed.
func TestNodesWatch(t *testing.T) {
	n := newNodes("vxcan.kube-system.svc")
	asked := make(chan string)
	n.lookup = func(_ context.Context, network, host string) ([]netip.Addr, error) {
		asked <- network + " " + host
		return addresses("10.9.0.1"), nil
	}
	changed := n.watch(t.Context())
	select {
	case <-asked:
		t.Error("asked, and nobody wants it")
	case <-time.After(20 * time.Millisecond):
	}
	n.wanted <- struct{}{}
	if got := <-asked; got != "ip vxcan.kube-system.svc" {
		t.Error(got)
	}
	<-changed
	if got := n.known(); len(got) != 1 {
		t.Error(got)
	}
	n.lookup = func(context.Context, string, string) ([]netip.Addr, error) { return nil, errors.New("no such host") }
	if err := n.look(t.Context()); err == nil || len(n.known()) != 1 {
		t.Errorf("%v, %v", err, n.known())
	}
}

// TestNodesInEntry: nodes are put behind the word nodes, beside hosts that are no nodes; those in a list were known once. A list
// that the plugin would refuse gets nowhere.
func TestNodesInEntry(t *testing.T) {
	tooMany := "10.9.0.0"
	for i := range 32 {
		tooMany += fmt.Sprint(",10.9.1.", i)
	}
	const keys = `"type":"vxcan","bus-id":7,"hosts":`
	for _, c := range []struct{ hosts, before, dns, want string }{
		{`["10.9.0.1","10.9.0.2"]`, `"nodes"`, "10.9.0.3", `["10.9.0.1","10.9.0.2"]`},
		{`"nodes"`, `"nodes"`, "", `["nodes"]`},
		{`"nodes"`, `["nodes","10.9.0.1","10.9.0.2"]`, "", `["nodes","10.9.0.1","10.9.0.2"]`},
		{`"nodes"`, `["nodes","10.9.0.1"]`, "10.9.0.3,10.9.0.2", `["nodes","10.9.0.2","10.9.0.3"]`},
		{`["nodes"]`, `["10.9.0.1","10.9.0.2"]`, "", `["nodes"]`},
		{`["nodes","10.9.0.50"]`, `"nodes"`, "10.9.0.1,10.9.0.50", `["nodes","10.9.0.50","10.9.0.1"]`},
		{`["nodes","2001:db8::5"]`, `"nodes"`, "10.9.0.1", "error: use IPv4 or IPv6 for all hosts"},
		{`"nodes"`, `"nodes"`, tooMany, "error: 33 hosts, at most 32 are possible"},
	} {
		entry, err := parseEntry([]byte("{" + keys + c.hosts + "}"))
		if err != nil {
			t.Fatal(err)
		}
		in := &installer{valid: entry, nodes: newNodes("x")}
		if c.dns != "" {
			in.nodes.learn(addresses(strings.Split(c.dns, ",")...), time.Now())
		}
		list := fmt.Sprintf(`{"name":"n","cniVersion":"1.0.0","plugins":[{"type":"ptp","hosts":["nodes","10.0.0.1"]},{%s%s}]}`, keys, c.before)
		got, err := in.expanded([]byte(list))
		if words, ok := strings.CutPrefix(c.want, "error: "); ok {
			if err == nil || !strings.Contains(err.Error(), words) {
				t.Errorf("%+v: %s, %v", c, got, err)
			}
		} else if want := "{" + keys + c.want + "}"; err != nil || !sameJSON(got, []byte(want)) {
			t.Errorf("%+v: %s, %v, want %s", c, got, err, want)
		}
		if isAsked := len(in.nodes.wanted) > 0; isAsked != strings.Contains(c.hosts, "nodes") {
			t.Errorf("%+v: DNS is asked: %v", c, isAsked)
		}
	}
}

// TestNodesChained: the pod network gets the nodes, keeps them without DNS, and its check is content with them.
func TestNodesChained(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "10-net.conflist")
	const list = `{"name":"n","cniVersion":"1.0.0","plugins":[{"type":"ptp"}]}`
	write(t, path, list)
	newInstaller := func(known ...string) *installer {
		in := &installer{valid: json.RawMessage(`{"type":"vxcan","hosts":"nodes","bus-id":7}`), versions: spoken, nodes: newNodes("x")}
		in.nodes.learn(addresses(known...), time.Now())
		return in
	}
	for _, c := range []struct {
		known []string
		wrote bool
		want  string
	}{
		{nil, true, `["nodes"]`},
		{[]string{"10.9.0.1"}, true, `["nodes","10.9.0.1"]`},
		{[]string{"10.9.0.1", "10.9.0.2"}, true, `["nodes","10.9.0.1","10.9.0.2"]`},
		{nil, false, `["nodes","10.9.0.1","10.9.0.2"]`}, // a new installer without DNS
	} {
		wrote, err := place(t, newInstaller(c.known...), dir)
		got := readDir(t, dir)["10-net.conflist"]
		if err != nil || wrote != c.wrote || !strings.Contains(got, `"hosts":`+c.want) {
			t.Errorf("%q: %v, %v: %s", c.known, wrote, err, got)
		}
		n, _, err := podNetwork(dir)
		if err != nil {
			t.Fatal(err)
		}
		fresh := newInstaller() // as --check is
		entry, err := fresh.expanded(n.content)
		if err != nil {
			t.Fatal(err)
		}
		if ok, err := isChained(n.content, entry); !ok || err != nil {
			t.Errorf("%q: not in place: %v", c.known, err)
		}
	}
	if err := takeOut(path); err != nil {
		t.Error(err)
	}
	expectFile(t, path, list)
}
