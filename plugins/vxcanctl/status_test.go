package main

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vxcan/vxcan/pkg/bus"
	"github.com/vxcan/vxcan/pkg/config"
	"github.com/vxcan/vxcan/pkg/controller"
)

// twoBuses is a bus that is whole, and one on a controller that is bus-off.
func twoBuses() []bus.BusStatus {
	return []bus.BusStatus{
		{
			Hub: "can-engine", Kind: "can", Up: true, MTU: 72, Sent: 100, Heard: 20, Lost: 3,
			Controller: &bus.ControllerStatus{
				Device: "gs_usb", State: "bus-off", Bitrate: 500_000, DataBitrate: 2_000_000, Queue: 10, Errors: &bus.ErrorCounters{Tx: 248, Rx: 1},
				Traffic: controller.Traffic{RxFrames: 100, TxFrames: 20, RxBytes: 800, TxBytes: 160},
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

const twoBusesText = `can-engine: gs_usb, bus-off, 500 kbit/s, data 2 Mbit/s, errors tx 248, rx 1, queue 10
  CONTAINER   RUNTIME  INTERFACE   POLICY                                       SENT  SEND DENIED  OVER RATE  HEARD  RECEIVE DENIED  LOST
  (host)      -        can-engine  -                                            100   -            -          20     -               3
  lab/engine  cni      can0        send 100-1FF,200,18FEF100,700:7F0,1,2,3,...  20    5            2          101    0               0
  FAIL controller can-engine (gs_usb) is bus-off
       look for the fault on the wire

vcan0: vcan, MTU 72
  CONTAINER     RUNTIME   INTERFACE  POLICY  SENT  SEND DENIED  OVER RATE  HEARD  RECEIVE DENIED  LOST
  (host)        -         vcan0      -       4     -            -          0      -               0
  fedcba987654  docker    can0 down  -       0     0            0          4      1               1
  a?[31mb       netavark  ?          -       0     0            0          0      0               0
  ok   whole
`

func TestWriteStatus(t *testing.T) {
	for want, all := range map[string][]bus.BusStatus{
		"no bus on this host\n": nil,
		twoBusesText:            twoBuses(),
		"vcan1: missing\n  CONTAINER  RUNTIME  INTERFACE  POLICY  SENT  SEND DENIED  OVER RATE  HEARD  RECEIVE DENIED  LOST\n" +
			"  (host)     -        vcan1      -       0     -            -          0      -               0\n" +
			"  FAIL hub vcan1 is missing\n       sudo vxcanctl heal vcan1\n": {
			{Hub: "vcan1", Differences: []bus.Difference{{What: "hub vcan1 is missing", Cure: "the next ADD", ByHeal: true}}},
		},
	} {
		var out bytes.Buffer
		if err := writeStatus(&out, style{}, all, nil, 0); err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff(want, out.String()); diff != "" {
			t.Errorf("(- want, + got)\n%s", diff)
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
	var out bytes.Buffer
	if err := writeStatus(&out, style{}, now, before, 2*time.Second); err != nil {
		t.Fatal(err)
	}
	for _, words := range []string{
		"queue 10, 500 frames/s, load about 8 %\n", // 500*55/500k + 4000*10/2M
		"SENT/s", "(host)      -        can-engine  -                                            500     -            -          0 ",
		"  0       5            2          25 ", "vcan0: vcan, MTU 72, 2 frames/s\n",
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

// TestWatch: a document a line until the context ends, which is no error.
func TestWatch(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
	defer cancel()
	var out bytes.Buffer
	if err := watchStatus(ctx, fakeLooker{all: twoBuses()}, nil, &out, jsonFormat); err != nil {
		t.Error(err)
	}
	if n := strings.Count(out.String(), "{\"version\":1,\"buses\":[{\"hub\":\"can-engine\""); n != 2 || strings.Count(out.String(), "\n") != 2 {
		t.Errorf("%d documents, want 2", n)
	}
	failing := errors.New("no kernel")
	if err := watchStatus(t.Context(), fakeLooker{err: failing}, nil, &out, textFormat); !errors.Is(err, failing) {
		t.Error(err)
	}
}

func TestWriteTree(t *testing.T) {
	const want = `can-engine  gs_usb, bus-off, 500 kbit/s, data 2 Mbit/s, errors tx 248, rx 1, queue 10  (controller can-engine (gs_usb) is bus-off)
|- programs on the host
|- the wire
` + "`- lab/engine  can0 (cni wire)  send 100-1FF,200,18FEF100,700:7F0,1,2,3,..." + `
vcan0  vcan, MTU 72
|- programs on the host
|- fedcba987654  can0 down (docker n)
` + "`- a?[31mb  ? (netavark canbus0)\n"
	var out bytes.Buffer
	if err := writeTree(&out, style{}, twoBuses()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("(- want, + got)\n%s", diff)
	}
	out.Reset()
	if err := writeTree(&out, style{unicode: true}, twoBuses()[1:]); err != nil || !strings.Contains(out.String(), "├─ programs on the host\n") || !strings.Contains(out.String(), "└─ a?[31mb") {
		t.Errorf("%v\n%s", err, &out)
	}
}

func TestWriteDot(t *testing.T) {
	const want = `graph vxcan {
  node [shape=box];
  "bus can-engine" [shape=ellipse, label="can-engine\ngs_usb, bus-off, 500 kbit/s, data 2 Mbit/s, errors tx 248, rx 1, queue 10", color=red];
  "cni 0123456789abcdef" [label="lab/engine\ncni"];
  "bus can-engine" -- "cni 0123456789abcdef" [label="can0"];
  "bus vcan0" [shape=ellipse, label="vcan0\nvcan, MTU 72"];
  "docker fedcba9876543210" [label="fedcba987654\ndocker"];
  "bus vcan0" -- "docker fedcba9876543210" [label="can0 down"];
  "netavark abc" [label="a?[31mb\nnetavark"];
  "bus vcan0" -- "netavark abc" [label="?"];
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
