package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestNodesLearn: a node is in the list at once, and goes when it has been missing for long, by two answers at least.
func TestNodesLearn(t *testing.T) {
	n, now := newNodes("vxcan"), time.Now()
	for _, c := range []struct {
		after time.Duration
		list  string
		want  string
	}{
		{0, "", "[]"},
		{0, "127.0.0.1 0.0.0.0 fe80::1", "[]"},
		{0, "10.9.0.2 10.9.0.1", "[10.9.0.1 10.9.0.2]"},
		{time.Second, "10.9.0.1", "[10.9.0.1 10.9.0.2]"},
		{2 * time.Second, "::ffff:10.9.0.1 2001:db8::1 10.9.0.3 127.0.0.1", "[10.9.0.1 10.9.0.2 10.9.0.3]"},
		{nodesPatience, "10.9.0.1 10.9.0.3", "[10.9.0.1 10.9.0.2 10.9.0.3]"},
		{nodesPatience + 2*time.Second, "10.9.0.1 10.9.0.3", "[10.9.0.1 10.9.0.3]"},
		{3 * nodesPatience, "10.9.0.1", "[10.9.0.1 10.9.0.3]"}, // DNS was away
		{3*nodesPatience + time.Second, "2001:db8::2 2001:db8::1", "[10.9.0.1 10.9.0.3]"},
		{5 * nodesPatience, "2001:db8::2 2001:db8::1", "[2001:db8::1 2001:db8::2]"},
	} {
		err := n.learn(addressesOf(strings.Fields(c.list)), now.Add(c.after))
		got := fmt.Sprint(slices.SortedFunc(maps.Keys(n.known), netip.Addr.Compare))
		if got != c.want || (err != nil) != (c.want == "[]" || strings.Contains(c.list, "::2") && strings.Contains(c.want, "10.9")) {
			t.Errorf("%+v: %s, %v", c, got, err)
		}
	}
}

// TestNodesAsk: DNS is asked when somebody wants the list, for the whole name of the Service, and an error changes nothing.
func TestNodesAsk(t *testing.T) {
	n := newNodes("vxcan")
	n.resolvConf = filepath.Join(t.TempDir(), "resolv.conf")
	n.lookup = func(_ context.Context, network, host string) ([]netip.Addr, error) {
		if network+" "+host != "ip vxcan.can.svc.cluster.local." {
			t.Errorf("asked for %s %s", network, host)
		}
		return addressesOf([]string{"10.9.0.1"}), nil
	}
	n.ask(t.Context())
	if !n.asked.IsZero() {
		t.Error("asked, and nobody wants it")
	}
	n.wanted = true
	for _, c := range []struct{ resolvConf, words string }{
		{"nameserver 10.96.0.10\nsearch corp.example svc.example\n", "the pod needs dnsPolicy ClusterFirstWithHostNet"},
		{"nameserver 10.96.0.10\nsearch can.svc.cluster.local svc.cluster.local cluster.local corp.example\noptions ndots:5\n", ""},
	} {
		write(t, n.resolvConf, c.resolvConf)
		n.asked = time.Time{}
		n.ask(t.Context())
		n.ask(t.Context()) // just now
		a := <-n.answers
		if (a.err == nil) != (c.words == "") || a.err != nil && !strings.Contains(a.err.Error(), c.words) {
			t.Errorf("%+v: %v", c, a.err)
		}
		n.take(a, time.Now())
	}
	n.take(answer{err: errors.New("no such host")}, time.Now())
	if len(n.known) != 1 || !n.failed {
		t.Errorf("%v", n.known)
	}
	n.service = "other.example."
	if name, err := n.name(); name != n.service || err != nil {
		t.Error(name, err)
	}
}

// TestNodesInEntry: nodes are put behind the word nodes, beside hosts that are no nodes; those in a list were known once. With a
// list that the plugin would refuse, the one from before stays.
func TestNodesInEntry(t *testing.T) {
	tooMany := "10.9.2.0"
	for i := range 32 {
		tooMany += fmt.Sprint(" 10.9.1.", i)
	}
	const keys = `"type":"vxcan","bus-id":7,"capabilities":{"io.kubernetes.cri.pod-annotations":true},"hosts":`
	for _, c := range []struct{ hosts, before, dns, want, err string }{
		{`["10.9.0.1","10.9.0.2"]`, `"nodes"`, "10.9.0.3", `["10.9.0.1","10.9.0.2"]`, ""},
		{`"nodes"`, `"nodes"`, "", `["nodes"]`, ""},
		{`"nodes"`, `["nodes","10.9.0.1","10.9.0.2"]`, "", `["nodes","10.9.0.1","10.9.0.2"]`, ""},
		{`"nodes"`, `["nodes","10.9.0.1"]`, "10.9.0.3 10.9.0.2", `["nodes","10.9.0.2","10.9.0.3"]`, ""},
		{`["nodes"]`, `["10.9.0.1","10.9.0.2"]`, "", `["nodes"]`, ""},
		{`["nodes","10.9.0.50"]`, `["nodes","10.9.0.50"]`, "10.9.0.1 10.9.0.50", `["nodes","10.9.0.50","10.9.0.1"]`, ""},
		{`["nodes","2001:DB8::5"]`, `["nodes","2001:DB8::5","2001:db8::1"]`, "", `["nodes","2001:DB8::5","2001:db8::1"]`, ""},
		{`["nodes","2001:db8::5"]`, `["nodes","2001:db8::1"]`, "10.9.0.1", `["nodes","2001:db8::5","2001:db8::1"]`, "use IPv4 or IPv6 for all hosts"},
		{`"nodes"`, `["nodes","10.9.0.1"]`, tooMany, `["nodes","10.9.0.1"]`, "33 hosts, at most 32 are possible"},
		{`"nodes"`, `"nodes"`, tooMany, `["nodes"]`, "33 hosts"},
	} {
		entry, err := parseEntry([]byte("{" + keys + c.hosts + "}"))
		if err != nil {
			t.Fatal(err)
		}
		in := &installer{valid: entry, nodes: newNodes("vxcan")}
		_ = in.nodes.learn(addressesOf(strings.Fields(c.dns)), time.Now())
		list := fmt.Sprintf(`{"name":"n","cniVersion":"1.0.0","plugins":[{"type":"ptp","hosts":["nodes","10.0.0.1"]},{%s%s}]}`, keys, c.before)
		got, err := in.expanded([]byte(list))
		if (err != nil) != (c.err != "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%+v: %v", c, err)
		}
		if want := "{" + keys + c.want + "}"; !sameJSON(got, []byte(want)) {
			t.Errorf("%+v: %s, want %s", c, got, want)
		}
		if in.nodes.wanted != strings.Contains(c.hosts, "nodes") {
			t.Errorf("%+v: DNS is asked: %v", c, in.nodes.wanted)
		}
	}
	for refused, words := range map[string]string{
		`{"type":"vxcan","hosts":"nodes","bus-id":7}`:            "the pods of DNS would wait for DNS",
		"{" + keys + `"nodes,10.9.0.1"}`:                         `want an array of IP addresses, or "nodes"`,
		`{"type":"vxcan","hosts":["nodes"],"capabilities":null}`: "hosts needs bus-id",
	} {
		if _, err := parseEntry([]byte(refused)); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: %v, want %q", refused, err, words)
		}
	}
	once := &installer{valid: json.RawMessage("{" + keys + `"nodes"}`)}
	if err := once.installOnce(t.Context()); !errors.Is(err, errUsage) || !strings.Contains(err.Error(), "leave out --once") {
		t.Error(err)
	}
}

// TestNodesChained: the pod network gets the nodes, keeps them without DNS, and its check is content with them. An entry without
// nodes forgets them.
func TestNodesChained(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "10-net.conflist")
	const list = `{"name":"n","cniVersion":"1.0.0","plugins":[{"type":"ptp"}]}`
	write(t, path, list)
	newInstaller := func(known ...string) *installer {
		in := &installer{
			valid:    json.RawMessage(`{"type":"vxcan","hosts":["nodes","10.9.0.50"],"bus-id":7,"capabilities":{"io.kubernetes.cri.pod-annotations":true}}`),
			versions: spoken, nodes: newNodes("x"),
		}
		_ = in.nodes.learn(addressesOf(known), time.Now())
		return in
	}
	for _, c := range []struct {
		known []string
		wrote bool
		want  string
	}{
		{nil, true, `["nodes","10.9.0.50"]`},
		{[]string{"10.9.0.1"}, true, `["nodes","10.9.0.50","10.9.0.1"]`},
		{[]string{"10.9.0.1", "10.9.0.2"}, true, `["nodes","10.9.0.50","10.9.0.1","10.9.0.2"]`},
		{nil, false, `["nodes","10.9.0.50","10.9.0.1","10.9.0.2"]`}, // a new installer without DNS
	} {
		in := newInstaller(c.known...)
		wrote, err := place(t, in, dir)
		got := readDir(t, dir)["10-net.conflist"]
		if err != nil || wrote != c.wrote || !strings.Contains(got, `"hosts":`+c.want) {
			t.Errorf("%q: %v, %v: %s", c.known, wrote, err, got)
		}
		n, _, err := podNetwork(dir)
		if err != nil {
			t.Fatal(err)
		}
		entry, err := newInstaller().expanded(n.content) // as --check does
		if err != nil {
			t.Fatal(err)
		}
		if chained, err := chain(n.content, entry); string(chained) != string(n.content) || err != nil {
			t.Errorf("%q: not in place: %v", c.known, err)
		}
		in.valid = json.RawMessage(testEntry)
		if entry, err := in.expanded(n.content); err != nil || !sameJSON(entry, in.valid) || len(in.nodes.known) > 0 {
			t.Errorf("%q: without nodes: %s, %v, %v", c.known, entry, err, in.nodes.known)
		}
	}
	if err := takeOut(path); err != nil {
		t.Error(err)
	}
	expectFile(t, path, list)
}
