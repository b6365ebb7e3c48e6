package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mattn/go-runewidth"

	"github.com/vxcan/vxcan/pkg/bus"
	"github.com/vxcan/vxcan/pkg/canlink"
	"github.com/vxcan/vxcan/pkg/config"
	"github.com/vxcan/vxcan/pkg/controller"
	"github.com/vxcan/vxcan/pkg/plan"
)

// twoBuses is a bus that is whole, and one on a controller that is bus-off.
func twoBuses() []bus.BusStatus {
	return []bus.BusStatus{
		{
			Hub: "can-engine", Kind: "can", Up: true, MTU: 72, Sent: 100, Heard: 20, Lost: 3,
			Controller: &bus.ControllerStatus{
				Device: "gs_usb", State: "bus-off", Bitrate: 500_000, DataBitrate: 2_000_000, Queue: 10, Errors: &bus.ErrorCounters{Tx: 248, Rx: 1},
				Traffic: canlink.Traffic{RxFrames: 100, TxFrames: 20, RxBytes: 800, TxBytes: 160},
				Events:  controller.Events{BusErrors: 7, BusOff: 2, Restarts: 1},
			},
			Endpoints: []bus.EndpointStatus{{
				Attachment: config.Attachment{Runtime: "cni", Network: "wire", ContainerID: "0123456789abcdef", IfName: "eth0"},
				Name:       "lab/engine", HostIf: "vx0", Interface: "can0", Up: true,
				Policy: config.Policy{Send: "100-1FF,200,18FEF100,700:7F0,1,2,3,4,5,6", Rate: 100},
				Sent:   20, Heard: 101, DeniedSend: 5, OverRate: 2,
			}},
			Differences: []bus.Difference{{What: "controller can-engine (gs_usb) is bus-off", Cure: "look for the fault on the wire"}},
		},
		{
			Hub: "vcan0", Kind: "vcan", Up: true, MTU: 72, Sent: 4,
			Endpoints: []bus.EndpointStatus{
				{Attachment: config.Attachment{Runtime: "docker", Network: "n", ContainerID: "fedcba9876543210"}, HostIf: "vx1", Interface: "can0", Heard: 4, DeniedReceive: 1, Lost: 1},
				{Attachment: config.Attachment{Runtime: "netavark", Network: "canbus0", ContainerID: "abc"}, Name: "a\x1b[31mb", HostIf: "vx2"},
			},
		},
	}
}

// onFiveRuntimes is a bus with a container of each runtime and a few names and policies that are hard to show, of which
// some are not as they must be.
func onFiveRuntimes() bus.BusStatus {
	endpoint := func(runtime, network, id, name, hostIf string, sent, heard uint64) bus.EndpointStatus {
		return bus.EndpointStatus{
			Attachment: config.Attachment{Runtime: runtime, Network: network, ContainerID: id, IfName: "eth0"},
			Name:       name, HostIf: hostIf, Interface: "can0", Up: true, Sent: sent, Heard: heard,
		}
	}
	id := func(digits string) string { return strings.Repeat(digits, 8) }
	s := bus.BusStatus{
		Hub: "vcan0", Kind: "vcan", Up: true, MTU: 72, Sent: 12, Heard: 1234,
		Endpoints: []bus.EndpointStatus{
			endpoint("docker", id("a1b2c3d4"), id("01234567"), "engine", "vx1", 1000, 300),
			endpoint("netavark", "canbus0", id("89abcdef"), "brake", "vx2", 200, 1100),
			endpoint("cni", "k8s-pod-network", id("76543210"), "default/dashboard-7d4b9c6f5d-x2k4j", "vx3", 34, 1266),
			endpoint("cni", "canbus0", "test-"+id("fedcba98"), "gateway", "vx4", 0, 1300),
			endpoint("cni", "canbus0", id("00112233"), "logger", "vx5", 0, 1300),
			endpoint("cni", "canbus0", id("44556677"), "", "vx6", 0, 1300),
			endpoint("netavark", "canbus0", id("8899aabb"), "red\x1b[31m\nname"+strings.Repeat("-long", 38), "vx7", 0, 1300),
			endpoint("docker", id("a1b2c3d4"), id("ccddeeff"), "配電", "vx8", 0, 1300),
		},
		Differences: []bus.Difference{
			{Kind: plan.ContEndDown, HostIfs: []string{"vx2"}, What: "container end can0 of netavark canbus0/" + id("89abcdef") + "/eth0 is down", Cure: "ip link set can0 up in the container"},
			{Kind: plan.HostEndDown, HostIfs: []string{"vx1"}, What: "host end vx1 of docker " + id("a1b2c3d4") + "/" + id("01234567") + "/eth0 is down", ByHeal: true},
			{Kind: plan.RuleMissing, HostIfs: []string{"vx3"}, What: "2 gateway rules are missing (cangw -A -s vcan0-rx -d vx3 -e, cangw -A -s vcan0-rx -d vx3 -X -e)", ByHeal: true},
			{Kind: plan.PolicyLost, HostIfs: []string{"vx4"}, What: "the record of the policy of cni canbus0/test-" + id("fedcba98") + "/eth0 is lost: without it an ADD lets it neither send nor receive", Cure: "remove the container and start it again"},
			{Kind: plan.PolicyLost, HostIfs: []string{"vx3"}, What: "the record of the policy of cni k8s-pod-network/" + id("76543210") + "/eth0 is lost: without it an ADD lets it neither send nor receive", Cure: "remove the container and start it again"},
			{Kind: plan.ContEndDown, HostIfs: []string{"vx6"}, What: "container end can0 of cni canbus0/" + id("44556677") + "/eth0 is down", Cure: "ip link set can0 up in the container"},
		},
	}
	for _, i := range []int{0, 7} {
		s.Endpoints[i].NetworkName = "bench"
	}
	s.Endpoints[0].Up, s.Endpoints[1].Up, s.Endpoints[5].Up = false, false, false
	s.Endpoints[1].Policy, s.Endpoints[1].DeniedSend, s.Endpoints[1].OverRate = config.Policy{Send: "100-1FF,200", Rate: 100}, 17, 3
	s.Endpoints[2].Policy = config.Policy{Receive: "1" + strings.Repeat(",18FEF100", 20)}
	return s
}

var update = flag.Bool("update", false, "write the golden files anew, to be read by a person")

// TestGolden compares what people see in terminals of several widths, and in a pipe, with files. In no terminal a line is
// too long, but for commands, which are to be pasted.
func TestGolden(t *testing.T) {
	all := append(twoBuses(), onFiveRuntimes(), bus.BusStatus{Hub: "vcan1", Differences: []bus.Difference{{Kind: plan.HubMissing, What: "hub vcan1 is missing", ByHeal: true}}})
	before := append(twoBuses(), onFiveRuntimes())
	before[2].Sent, before[2].Endpoints[0].Sent = 0, 0
	for _, width := range []int{0, 40, 80, 120, 200} {
		for kind, l := range map[string]look{"status": {all: all}, "rates": {all: all, before: before, between: time.Second, sort: 's'}} {
			name := fmt.Sprintf("testdata/%s-%d.txt", kind, width)
			var out bytes.Buffer
			if err := l.write(&out, style{unicode: width > 0, width: width}); err != nil {
				t.Fatal(err)
			}
			for line := range strings.Lines(out.String()) {
				line = strings.TrimSuffix(line, "\n")
				command := strings.Contains(line, "sudo ") || strings.Contains(line, "kubectl ")
				if width > 0 && !command && runewidth.StringWidth(line) > width || strings.Contains(line, "\x1b") || strings.HasSuffix(line, " ") {
					t.Errorf("%s: line %q", name, line)
				}
			}
			if *update {
				if err := os.WriteFile(name, out.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(name)
			if diff := cmp.Diff(string(want), out.String()); diff != "" || err != nil {
				t.Errorf("%s: %v (- want, + got)\n%s", name, err, diff)
			}
		}
	}
}

// TestRates: counters per second, also of an endpoint that has just come or was made anew, and the load of the wire.
func TestRates(t *testing.T) {
	before, now := twoBuses(), twoBuses()
	now[0].Sent += 1000
	now[0].Endpoints[0].Heard = 50 // made anew
	now[0].Controller.Traffic.RxFrames += 1000
	now[0].Controller.Traffic.RxBytes += 8000
	before[1].Endpoints = before[1].Endpoints[:1]
	now[1].Endpoints[0].Sent += 3
	before[1].Traffic = canlink.Traffic{TxFrames: 10, TxBytes: 80}
	now[1].Traffic = canlink.Traffic{RxFrames: 1000, TxFrames: 1010, RxBytes: 8000, TxBytes: 8080}
	var out bytes.Buffer
	if err := (look{all: now, before: before, between: 2 * time.Second, assumed: bitRates{nominal: 1_000_000}}).write(&out, style{}); err != nil {
		t.Fatal(err)
	}
	for _, words := range []string{
		"  queue 10  500 frames/s  load about 8 %  1 problem\n", // 500*55/500k + 4000*10/2M
		"SENT/s", "  (host, wire)                       can-engine     500  ", "  lab/engine    kubernetes  wire     can0             0            5          2       25  ",
		"vcan0  vcan  CAN FD  2 frames/s  load about 7 %  healthy\n", // 500*55/1M + 4000*10/1M
	} {
		if !strings.Contains(out.String(), words) {
			t.Errorf("no %q in\n%s", words, &out)
		}
	}
}

// fakeLooker is a host with buses.
type fakeLooker struct {
	all []bus.BusStatus
	err error
}

func (f fakeLooker) Buses() (hubs []string, err error) {
	for _, s := range f.all {
		hubs = append(hubs, s.Hub)
	}
	return hubs, nil
}

func (f fakeLooker) Status(context.Context, ...string) ([]bus.BusStatus, error) { return f.all, f.err }

func TestWriteTree(t *testing.T) {
	const want = `can-engine  gs_usb, CAN FD, 500 kbit/s, data 2 Mbit/s, bus-off, errors tx 248 rx 1, queue 10  (controller can-engine (gs_usb) is bus-off)
|- programs on the host
|- the wire
` + "`- lab/engine  can0 (kubernetes wire)  send 100-1FF,200,18FEF100,700:7F0,1,2,3,..." + `
vcan0  vcan, CAN FD
|- programs on the host
|- fedcba987654  can0 down (docker n)
` + "`- a\\x1b[31mb  ? (podman canbus0)\n"
	var out bytes.Buffer
	if err := writeTree(&out, style{}, twoBuses()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("(- want, + got)\n%s", diff)
	}
	out.Reset()
	if err := writeTree(&out, style{unicode: true}, twoBuses()[1:]); err != nil || !strings.Contains(out.String(), "├─ programs on the host\n") || !strings.Contains(out.String(), "└─ a\\x1b[31mb") {
		t.Errorf("%v\n%s", err, &out)
	}
}

func TestWriteDot(t *testing.T) {
	const want = `graph vxcan {
  node [shape=box];
  "bus can-engine" [shape=ellipse, label="can-engine\ngs_usb, CAN FD, 500 kbit/s, data 2 Mbit/s, bus-off, errors tx 248 rx 1, queue 10", color=red];
  "cni 0123456789abcdef" [label="lab/engine\nkubernetes"];
  "bus can-engine" -- "cni 0123456789abcdef" [label="can0\nwire"];
  "bus vcan0" [shape=ellipse, label="vcan0\nvcan, CAN FD"];
  "docker fedcba9876543210" [label="fedcba987654\ndocker"];
  "bus vcan0" -- "docker fedcba9876543210" [label="can0 down\nn"];
  "netavark abc" [label="a\\x1b[31mb\npodman"];
  "bus vcan0" -- "netavark abc" [label="?\ncanbus0"];
}
`
	var out bytes.Buffer
	if err := writeDot(&out, twoBuses()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("(- want, + got)\n%s", diff)
	}
}
