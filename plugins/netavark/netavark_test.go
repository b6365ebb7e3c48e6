package main

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// execute runs a call as Podman and netavark do, and returns what they would decode. No stdin may be left unread.
func execute(t *testing.T, stdin string, args ...string) (status int, answer map[string]any) {
	t.Helper()
	in, out := strings.NewReader(stdin), new(bytes.Buffer)
	status = run(args, in, out)
	if in.Len() > 0 {
		t.Errorf("%d bytes of stdin left unread", in.Len())
	}
	if out.Len() == 0 {
		return status, nil
	}
	decoder := json.NewDecoder(out)
	if err := decoder.Decode(&answer); err != nil {
		t.Fatal(err)
	}
	if rest, _ := io.ReadAll(io.MultiReader(decoder.Buffered(), out)); strings.TrimSpace(string(rest)) != "" {
		t.Errorf("more than one answer: %s", rest)
	}
	return status, answer
}

// podmanNetwork is what Podman 5.4 sends for `podman network create -d vxcan canbus0`, with more members.
func podmanNetwork(members string) string {
	return `{"name":"canbus0","id":"2f259bab93aaaaa2542ba43ef33eb990d0999ee1b9924b557b7be53c0b7a1bb9","driver":"vxcan",` +
		`"created":"0001-01-01T00:00:00Z","ipv6_enabled":false,"internal":false,"dns_enabled":true` + members + `}`
}

func TestCreate(t *testing.T) {
	for _, c := range []struct{ name, members, want string }{
		{"plain", ``, `"options":{"hub":"vcan0","interface":"can0"}`},
		{"every option", `,"options":{"hub":"can3","physical":"true","mtu":"16","interface":"can%d"}`,
			`"options":{"hub":"can3","physical":"true","mtu":"16","interface":"can%d"}`},
		{"interface name", `,"network_interface":"can7"`,
			`"network_interface":"can7","options":{"hub":"vcan0","interface":"can7"}`},
		{"interface name twice", `,"network_interface":"can7","options":{"interface":"can7"}`,
			`"network_interface":"can7","options":{"hub":"vcan0","interface":"can7"}`},
		{"echo", `,"labels":{"a":"b"},"ipam_options":{"driver":"none"},"subnets":null,"from the future":[1,{"x":null}]`,
			`"labels":{"a":"b"},"subnets":null,"from the future":[1,{"x":null}],"options":{"hub":"vcan0","interface":"can0"}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := create([]byte(podmanNetwork(c.members)))
			if err != nil {
				t.Fatal(err)
			}
			text, err := json.Marshal(got)
			if err != nil {
				t.Fatal(err)
			}
			var gotAll, wantAll map[string]any
			want := strings.Replace(podmanNetwork(","+c.want), `"dns_enabled":true`, `"dns_enabled":false,"ipam_options":{"driver":"none"}`, 1)
			if err := json.Unmarshal([]byte(want), &wantAll); err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal(text, &gotAll); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(wantAll, gotAll); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// badNetworks are members of a network that nobody may create, and what the error must say.
var badNetworks = []struct {
	members string
	words   []string
}{
	{`"options":{"hubb":"vcan1"}`, []string{`option "hubb"`, "hub, physical, interface, mtu, send, "}},
	{`"options":{"hub":""}`, []string{`option "hub"`, "empty"}},
	{`"options":{"hub":"vcan567890123456"}`, []string{`option "hub"`, "16 bytes", "15"}},
	{`"options":{"hub":"../vcan0"}`, []string{`option "hub"`, `"/"`}},
	{`"options":{"hub":"vcan%d"}`, []string{`option "hub"`, `"%"`}},
	{`"options":{"interface":""}`, []string{`option "interface"`, "empty"}},
	{`"options":{"interface":"can 0"}`, []string{`option "interface"`, `" "`}},
	{`"options":{"interface":"can%d%d"}`, []string{`option "interface"`, `"%"`}},
	{`"options":{"mtu":"1500"}`, []string{`option "mtu"`, "1500", "16", "72"}},
	{`"options":{"mtu":"0"}`, []string{`option "mtu"`, "16", "72"}},
	{`"options":{"mtu":"fd"}`, []string{`option "mtu"`, `"fd"`, "16", "72"}},
	{`"options":{"physical":"yes"}`, []string{`option "physical"`, `"yes"`, "true or false"}},
	{`"options":{"physical":""}`, []string{`option "physical"`, "true or false"}},
	{`"options":{"mtu":72}`, []string{"options", "number"}},
	{`"options":{"interface":"can1"},"network_interface":"can2"`, []string{`option "interface"`, `"can1"`, `"can2"`}},
	{`"network_interface":"a/b"`, []string{"--interface-name", `"/"`}},
	{`"subnets":[{"subnet":"10.0.0.0/24","gateway":"10.0.0.1"}]`, []string{"no IP addresses", "--subnet"}},
	{`"routes":[{"destination":"10.1.0.0/24","gateway":"10.0.0.1"}]`, []string{"--route"}},
	{`"ipv6_enabled":true`, []string{"--ipv6"}},
	{`"network_dns_servers":["1.1.1.1"]`, []string{"--dns"}},
	{`"ipam_options":{"driver":"dhcp"}`, []string{"--ipam-driver dhcp"}},
}

func TestBadNetworks(t *testing.T) {
	for _, c := range badNetworks {
		t.Run(c.members, func(t *testing.T) {
			network := podmanNetwork("," + c.members)
			expectError(t, c.words, network, "create")
			// Somebody may have edited the file that create's answer was written to.
			expectError(t, c.words, `{"container_id":"c0ffee","network":`+network+`,"network_options":{"interface_name":"eth0"}}`,
				"setup", "/run/netns/nobody")
		})
	}
}

func TestBadSetup(t *testing.T) {
	for _, c := range []struct {
		name, options string
		words         []string
	}{
		{"unknown option", `"interface_name":"eth0","options":{"mode":"x","foo":"bar"}`, []string{"foo, mode", "canbus0", "interface_name"}},
		{"static IP", `"interface_name":"eth0","static_ips":["10.0.0.2"]`, []string{"no IP", "--ip"}},
		{"static MAC", `"interface_name":"eth0","static_mac":"02:00:00:00:00:01"`, []string{"no MAC", "--mac-address"}},
		{"interface name", `"interface_name":"a/b"`, []string{`"a/b"`, `"/"`}},
		{"netns missing", `"interface_name":"eth0"`, []string{"/run/netns/nobody"}},
		{"not an object", `[]`, []string{"stdin"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			options := "{" + c.options + "}"
			if c.options == "[]" {
				options = c.options
			}
			expectError(t, c.words, `{"container_id":"c0ffee","port_mappings":null,"network":`+podmanNetwork("")+
				`,"network_options":`+options+`}`, "setup", "/run/netns/nobody")
		})
	}
}

func TestBadCalls(t *testing.T) {
	for _, c := range []struct {
		name, stdin string
		args, words []string
	}{
		{"unknown verb", "", []string{"update"}, []string{`"update"`, "create, setup, teardown or info"}},
		{"create nothing", "", []string{"create"}, []string{"stdin"}},
		{"create null", "null", []string{"create"}, []string{"stdin", "name"}},
		{"create half", podmanNetwork("")[:40], []string{"create"}, []string{"stdin"}},
		{"setup without path", "{}", []string{"setup"}, []string{"setup", "path"}},
		{"setup two paths", "{}", []string{"setup", "/a", "/b"}, []string{"setup", "path"}},
		{"setup nobody", "{}", []string{"setup", "/a"}, []string{"stdin", "container_id"}},
		{"setup half", `{"container_id":`, []string{"setup", "/a"}, []string{"stdin"}},
		{"teardown without path", "{}", []string{"teardown"}, []string{"teardown", "path"}},
		{"teardown half", `{"container_id":`, []string{"teardown", "/a"}, []string{"stdin"}},
	} {
		t.Run(c.name, func(t *testing.T) { expectError(t, c.words, c.stdin, c.args...) })
	}
}

// expectError fails the test unless the call fails with one line that has these words, and nothing else.
func expectError(t *testing.T, words []string, stdin string, args ...string) {
	t.Helper()
	status, answer := execute(t, stdin, args...)
	text, _ := answer["error"].(string)
	if status != 1 || len(answer) != 1 || text == "" {
		t.Fatalf("%v: exit status %d, answer %v; want 1 and an error", args, status, answer)
	}
	for _, w := range words {
		if !strings.Contains(text, w) {
			t.Errorf("%v: the error lacks %q: %s", args, w, text)
		}
	}
	if strings.Contains(text, "\n") {
		t.Errorf("%v: several lines: %s", args, text)
	}
}

// TestInterface: which name an interface gets, by what the network and the container ask for.
func TestInterface(t *testing.T) {
	for _, c := range []struct{ network, given, want string }{
		{``, "eth0", "can0"},
		{``, "eth12", "can0"},
		{``, "", "can0"},
		{``, "can5", "can5"},
		{``, "ethernet", "ethernet"},
		{`,"options":{"interface":"can1"}`, "eth0", "can1"},
		{`,"options":{"interface":"can1"}`, "can5", "can5"},
		{`,"options":{"interface":"can%d"}`, "eth0", "can%d"},
		{`,"network_interface":"slot1"`, "eth0", "slot1"},
		{`,"network_interface":"slot1"`, "can5", "can5"},
	} {
		_, s, err := parseMembership([]byte(`{"container_id":"c0ffee","network":` + podmanNetwork(c.network) +
			`,"network_options":{"interface_name":"` + c.given + `","aliases":["x"]}}`))
		if err != nil || s.Interface != c.want {
			t.Errorf("network %q, container %q: %q, %v; want %q", c.network, c.given, s.Interface, err, c.want)
		}
	}
}

// TestTeardownOfNothing: there was no setup that such a teardown could follow.
func TestTeardownOfNothing(t *testing.T) {
	status, answer := execute(t, `{"container_id":"c0ffee","network":`+podmanNetwork(`,"options":{"hub":"a/b"}`)+`}`,
		"teardown", "/run/netns/nobody")
	if status != 0 || answer != nil {
		t.Errorf("exit status %d, answer %v", status, answer)
	}
}

func TestInfo(t *testing.T) {
	for _, args := range [][]string{{}, {"info"}} {
		status, answer := execute(t, "", args...)
		if status != 0 || answer["api_version"] != "1.0.0" || answer["version"] != buildVersion {
			t.Errorf("%v: exit status %d, answer %v", args, status, answer)
		}
	}
}

// TestAnswerLost: who cannot answer has failed.
func TestAnswerLost(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip(err)
	}
	defer full.Close()
	if status := run([]string{"info"}, strings.NewReader(""), full); status != 1 {
		t.Errorf("exit status %d, want 1", status)
	}
}
