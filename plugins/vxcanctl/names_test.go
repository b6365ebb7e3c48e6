package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vxcan/vxcan/pkg/bus"
	"github.com/vxcan/vxcan/pkg/config"
	"github.com/vxcan/vxcan/pkg/plan"
)

// TestPlain: nothing that a terminal would carry out, and one line.
func TestPlain(t *testing.T) {
	for name, want := range map[string]string{
		"engine": "engine", "": "", "Prüfstand 配電": "Prüfstand 配電", "a\x1b[31mb\n\tc": `a\x1b[31mb\n\tc`, "\u009b2J\u202e": `\u009b2J\u202e`, "it's \\ fine": `it's \ fine`,
	} {
		if got := plain(name); got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
}

// TestNames: what people call runtime, container and network of an endpoint, and by which words they mean it.
func TestNames(t *testing.T) {
	id := strings.Repeat("0123456789abcdef", 4)
	for _, test := range []struct {
		runtime, network, id, name           string
		people, container, network2, command string
		words                                []string
	}{
		{"netavark", "canbus0", id, "engine", "podman", "engine", "canbus0", "sudo podman restart engine", []string{"engine", "0123"}},
		{"cni", "canbus0", id, "engine", "podman", "engine", "canbus0", "sudo podman restart engine", []string{"engine", "0123456789ab"}},
		{"cni", "canbus0", id, "", "cni", "0123456789ab", "canbus0", "", []string{id}},
		{"cni", "pods", id, "default/engine-0", "kubernetes", "default/engine-0", "pods", "kubectl delete pod -n default engine-0", []string{"engine-0", "default/engine-0"}},
		{"cni", "canbus0", "default-" + id, "", "nerdctl", "0123456789ab", "canbus0", "", []string{"01234"}},
		{"cni", "canbus0", "a-b-" + id, "engine", "nerdctl", "engine", "canbus0", "sudo nerdctl -n a-b restart engine", []string{"engine"}},
		{"cni", "canbus0", "default-" + id, "engine", "nerdctl", "engine", "canbus0", "sudo nerdctl restart engine", []string{"engine"}},
		{"docker", id, id, "", "docker", "0123456789ab", "0123456789ab", "", []string{"0123"}},
		{"netavark", "canbus0", id, "$(reboot)", "podman", "$(reboot)", "canbus0", "", []string{"$(reboot)"}},
		{"cni", "pods", id, "a/$(reboot)", "kubernetes", "a/$(reboot)", "pods", "kubectl delete pod -n a '$(reboot)'", []string{"$(reboot)"}},
		{"host", "host", "rig", "rig", "host", "rig", "host", "", []string{"rig"}},
	} {
		e := bus.EndpointStatus{Attachment: config.Attachment{Runtime: test.runtime, Network: test.network, ContainerID: test.id}, Name: test.name}
		if got := [...]string{runtimeOf(e), containerOf(e), networkOf(e), restartCommand(e)}; got != [...]string{test.people, test.container, test.network2, test.command} {
			t.Errorf("%+v: %q", e, got)
		}
		for _, word := range append(test.words, "", "0", "other", "fedc") {
			if isNamed(e, word) != slices.Contains(test.words, word) {
				t.Errorf("%+v by %q: %v", e, word, isNamed(e, word))
			}
		}
	}
}

// TestCure: words and command for a container on which something is wrong.
func TestCure(t *testing.T) {
	s := onFiveRuntimes()
	s.Endpoints[4].Interface, s.Endpoints[1].Interface = "can 5", "\x1b[2J"
	s.Endpoints[0].HostIf = "vx10"
	for _, test := range []struct {
		d           bus.Difference
		words, cure string
	}{
		{bus.Difference{Kind: plan.ContEndDown, HostIfs: []string{"vx3"}, What: "container end can0 of " + s.Endpoints[2].Attachment.String() + " is down"},
			"container end can0 of default/dashboard-7d4b9c6f5d-x2k4j is down", "sudo nsenter -n -t $(sudo crictl inspectp -o go-template --template '{{.info.pid}}' " + s.Endpoints[2].ContainerID + ") ip link set can0 up"},
		{bus.Difference{Kind: plan.ContEndDown, HostIfs: []string{"vx4"}, What: "x"}, "gateway: x", "sudo nsenter -n -t $(sudo nerdctl -n test inspect -f '{{.State.Pid}}' gateway) ip link set can0 up"},
		{bus.Difference{Kind: plan.ContEndDown, HostIfs: []string{"vx5"}, What: "x"}, "logger: x", "sudo nsenter -n -t $(sudo podman inspect -f '{{.State.Pid}}' logger) ip link set 'can 5' up"},
		{bus.Difference{Kind: plan.ContEndDown, HostIfs: []string{"vx2"}, What: "x"}, "brake: x", `sudo nsenter -n -t $(sudo podman inspect -f '{{.State.Pid}}' brake) ip link set $'\x1b[2J' up`},
		{bus.Difference{Kind: plan.ContEndDown, HostIfs: []string{"vx7"}, Cure: "ip link set can0 up in the container"}, containerOf(s.Endpoints[6]) + ": ", "ip link set can0 up in the container"},
		{bus.Difference{Kind: plan.EndpointMTU, HostIfs: []string{"vx4"}, What: "x"}, "gateway: x", "sudo nerdctl -n test restart gateway"},
		{bus.Difference{What: "x", Cure: "attach it again with all its keys, vxcanctl attach vcan0 --netns NETNS --interface can0"}, "x", "attach it again with all its keys, sudo vxcanctl attach vcan0 --netns NETNS --interface can0"},
		{bus.Difference{Kind: plan.RuleMissing, HostIfs: []string{"vx10", "vx2", "vx3", "vx4", "vx5"}, ByHeal: true, What: "9 rules are missing (cangw -A -s hub -d tx, and 8 more)"},
			"engine, brake, default/dashboard-7d4b9c6f5d-x2k4j, and 2 more: 9 rules are missing", "sudo vxcanctl heal vcan0"},
		{bus.Difference{Kind: plan.HubDown, What: "hub can0 is down", Cure: "ip link set can0 up"}, "hub can0 is down", "sudo ip link set can0 up"},
		{bus.Difference{What: "filter of eth0", Cure: "tc filter del dev eth0 ingress pref 8; then vxcanctl heal"}, "filter of eth0", "sudo tc filter del dev eth0 ingress pref 8; then sudo vxcanctl heal"},
		{bus.Difference{What: "hub", Cure: "end the containers on it, ip link delete can0, and plug the adapter in again"}, "hub", "end the containers on it, sudo ip link delete can0, and plug the adapter in again"},
		{bus.Difference{What: "bus-off", Cure: "look for the fault on the wire, then ip link set can0 down; ip link set can0 up"}, "bus-off", "look for the fault on the wire, then sudo ip link set can0 down; sudo ip link set can0 up"},
	} {
		if words, cure := wrongWords(s, test.d), cureOf(s, test.d); words != test.words || cure != test.cure {
			t.Errorf("%+v:\n%q\n%q", test.d, words, cure)
		}
	}
}

// TestFind: hubs, containers, both, and what is neither.
func TestFind(t *testing.T) {
	for _, test := range []struct {
		words, want, err string
	}{
		{"", "can-engine[lab/engine] vcan0[engine brake default/dashboard-7d4b9c6f5d-x2k4j gateway logger 445566774455]", ""},
		{"vcan0 brake", "vcan0[engine brake default/dashboard-7d4b9c6f5d-x2k4j gateway logger 445566774455]", ""},
		{"engine", "can-engine[lab/engine] vcan0[engine]", ""},
		{"can-engine logger", "can-engine[lab/engine] vcan0[logger]", ""},
		{"logger vcan7", "vcan0[logger]", "vcan7: there is no such bus, and no container of this name on a bus"},
		{"\x1b[2J", "", `\x1b[2J: there is no such bus, and no container of this name on a bus`},
	} {
		crowd := onFiveRuntimes()
		crowd.Endpoints = crowd.Endpoints[:6]
		all, err := find(t.Context(), fakeLooker{all: append(twoBuses()[:1], crowd)}, strings.Fields(test.words))
		var got []string
		for _, s := range all {
			var names []string
			for _, e := range s.Endpoints {
				names = append(names, containerOf(e))
			}
			got = append(got, s.Hub+"["+strings.Join(names, " ")+"]")
		}
		words := ""
		if err != nil {
			words = config.OneLine(err)
		}
		if strings.Join(got, " ") != test.want || words != test.err {
			t.Errorf("%q: %q, %s", test.words, got, words)
		}
	}
}

// TestNerdctlNames: the files of nerdctl, in its own directory or a configured one.
func TestNerdctlNames(t *testing.T) {
	root := t.TempDir()
	write := func(path, content string) {
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("var/lib/nerdctl/1935db59/names/default/engine", "abc")
	write("srv/1935db59/test/brake", "def")
	if names := nerdctlNames(root); len(names) != 1 || names["default-abc"] != "engine" {
		t.Errorf("%q", names)
	}
	write(nerdctlConf, `data_root = "/srv"`)
	if names := nerdctlNames(root); len(names) != 1 || names["test-def"] != "brake" {
		t.Errorf("%q", names)
	}
}

// TestHowToMake: the commands for the runtimes that are installed.
func TestHowToMake(t *testing.T) {
	for _, test := range []struct {
		files string
		want  string
	}{
		{"", ": the first container on a network of vxcan makes it.\nWhat this host lacks for that: sudo vxcanctl doctor\n"},
		{"usr/bin/docker", "For example:\n  sudo docker network create -d vxcan --ipam-driver null -o hub=vcan0 canbus0\n"},
		{"usr/bin/podman usr/lib/podman/netavark", "\n  sudo podman network create -d vxcan -o hub=vcan0 canbus0\n  sudo podman run "},
		{"usr/bin/podman usr/share/doc/vxcan/conflist/canbus0.conflist", "\n  sudo install -D -m 644 /usr/share/doc/vxcan/conflist/canbus0.conflist /etc/cni/net.d/canbus0.conflist\n"},
		{"usr/bin/nerdctl", "\n  sudo install -D -m 644 conflist/canbus0.conflist /etc/cni/net.d/canbus0.conflist\n  sudo nerdctl run "},
	} {
		m := &machine{root: t.TempDir()}
		for _, file := range strings.Fields(test.files) {
			m.write(t, file, "")
		}
		if got := howToMake(m); !strings.Contains(got, test.want) {
			t.Errorf("%q: %s", test.files, got)
		}
	}
}
