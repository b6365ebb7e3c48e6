package harness

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// NetavarkCall is one execution of the netavark plugin for a container, as netavark makes it.
type NetavarkCall struct {
	Network string // members of the network's JSON, ",…"
	Options string // members of network_options
	C       *Container
	Netns   string // "" is the container's
	Wrap    []string
}

// Exec runs a verb and returns what it says on stdout and stderr.
func (n NetavarkCall) Exec(t testing.TB, verb string) (stdout, stderr string, err error) {
	t.Helper()
	netns := n.Netns
	if netns == "" {
		netns = n.C.Path
	}
	options := n.Options
	if options == "" {
		options = `"interface_name":"eth0"`
	}
	args := append(slices.Clone(n.Wrap), filepath.Join(BinDir(t), "netavark/vxcan"), verb, netns)
	cmd, cancel := Limited(args[0], args[1:]...)
	defer cancel()
	cmd.Stdin = strings.NewReader(fmt.Sprintf(`{"container_id":%q,"container_name":"name","port_mappings":null,"network":{"name":"canbus0",`+
		`"id":"%064d","driver":"vxcan","ipam_options":{"driver":"none"}%s},"network_options":{"aliases":["alias"],%s}}`,
		n.C.ID, 1, n.Network, options))
	var out, words bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &words
	err = cmd.Run()
	return out.String(), words.String(), err
}

// Setup must succeed, say nothing on stderr, and name this interface.
func (n NetavarkCall) Setup(t testing.TB, ifName string) {
	t.Helper()
	out, words, err := n.Exec(t, "setup")
	want := `{"interfaces":{"` + ifName + `":{"mac_address":"","subnets":[]}},"dns_search_domains":[],"dns_server_ips":[]}` + "\n"
	if err != nil || out != want || words != "" {
		t.Fatalf("setup %s: %v, stdout %s, stderr %s", n.C.ID, err, out, words)
	}
}

// Teardown must succeed, and say nothing.
func (n NetavarkCall) Teardown(t testing.TB) {
	t.Helper()
	if out, words, err := n.Exec(t, "teardown"); err != nil || out != "" || words != "" {
		t.Fatalf("teardown %s: %v, stdout %s, stderr %s", n.C.ID, err, out, words)
	}
}

// Fails runs setup, which must fail with words and leave nothing.
func (n NetavarkCall) Fails(t testing.TB, words ...string) {
	t.Helper()
	out, _, err := n.Exec(t, "setup")
	var answer map[string]string
	if err == nil || json.Unmarshal([]byte(out), &answer) != nil || len(answer) != 1 {
		t.Fatalf("setup: %v, stdout %s; want an error", err, out)
	}
	for _, w := range words {
		if !strings.Contains(answer["error"], w) {
			t.Errorf("the error lacks %q: %s", w, answer["error"])
		}
	}
}
