package main

import (
	"bytes"
	"io"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/bus"
	"github.com/vxcan/vxcan/pkg/capture"
	"github.com/vxcan/vxcan/pkg/config"
)

// TestLearnLists: what each endpoint sent, and heard while it was there and as far as its policy let it, is folded into
// lists.
func TestLearnLists(t *testing.T) {
	a, b, late := member("vx1", "a"), member("vx2", "b"), member("vx3", "late")
	hub := capture.Member{Hub: "vcan0", Device: "vcan0"}
	l := newLearner("vcan0", []capture.Member{hub, a, b}, io.Discard)
	send := func(from capture.Member, ids ...uint32) {
		for _, id := range ids {
			if err := l.Frame(&capture.Frame{From: from, Time: time.Now(), ID: id}); err != nil {
				t.Fatal(err)
			}
		}
	}
	change := func(c capture.Change) {
		if err := l.Change(c); err != nil {
			t.Fatal(err)
		}
	}
	send(a, 0x100, 0x101, 0x100, 0x101|unix.CAN_RTR_FLAG)
	send(hub, 0x7df)
	change(capture.Change{Hub: "vcan0", Member: late})
	send(b, 0x18fef100|unix.CAN_EFF_FLAG, 0x200)
	send(late, 0x300)
	change(capture.Change{Hub: "vcan0", Member: late, Gone: true})
	send(a, 0x1ff, 0x1ff)
	status := func(denied uint64) []bus.BusStatus {
		return []bus.BusStatus{{Hub: "vcan0", Endpoints: []bus.EndpointStatus{
			{HostIf: "vx1", Name: "lab/a"}, {HostIf: "vx2", Policy: config.Policy{Receive: "100-1FF"}, DeniedSend: denied},
		}}}
	}
	got := &lesson{Hub: "vcan0", Seconds: 60, Frames: l.frames, Lost: 1, Endpoints: l.lists(status(1), status(4))}
	var out bytes.Buffer
	if err := got.write(&out); err != nil {
		t.Fatal(err)
	}
	const want = `vcan0: 10 frames in 1m0s
  warning: vxcanctl did not read in time and lost 1 frame: IDs may be missing

b (cni, network n): sent 2 frames, heard 6 frames
  "send": "200,18FEF100", "receive": "100-101,1FF"
  -o send=200,18FEF100 -o receive=100-101,1FF
  warning: sent once only: 200,18FEF100
  warning: its policy kept back 3 frames, which are not in the lists

lab/a (cni, network n): sent 6 frames, heard 4 frames
  "send": "100-101,1FF", "receive": "200,300,7DF,18FEF100"
  -o send=100-101,1FF -o receive=200,300,7DF,18FEF100
  warning: heard once only: 200,300,7DF,18FEF100

late (cni, network n): sent 1 frame, heard 2 frames
  "send": "300", "receive": "200,18FEF100"
  -o send=300 -o receive=200,18FEF100
  warning: sent once only: 300
  warning: heard once only: 200,18FEF100
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("(- want, + got)\n%s", diff)
	}
}
