package host

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/integration/harness"
	"github.com/vxcan/vxcan/pkg/cantest"
)

// TestLearn: the lists of a short lesson let the same traffic pass and nothing else.
func TestLearn(t *testing.T) {
	harness.FreshHost(t)
	containers := []*harness.Container{harness.NewContainer(t, "a"), harness.NewContainer(t, "b"), harness.NewContainer(t, "c")}
	const eff = unix.CAN_EFF_FLAG
	traffic := map[string][]uint32{
		"a": {0x100, 0x101, 0x102, 0x103, 0x18fef100 | eff}, "b": {0x200, 0x102}, "hub": {0x7df},
	}
	for _, c := range containers {
		harness.On(c).Add(t)
	}
	// run sends each frame of a container twice and those of the hub once, and returns what each container has heard. The
	// containers are to hear want frames, with the echo of their own.
	run := func(traffic map[string][]uint32, want int) map[string][]string {
		t.Helper()
		listeners := map[string]*cantest.Listener{}
		for _, c := range containers {
			listeners[c.ID] = cantest.Listen(t, c.Netns, "can0")
		}
		for range 2 {
			for _, c := range containers {
				for _, id := range traffic[c.ID] {
					harness.SendAll(t, c, []cantest.Frame{{ID: id}})
				}
			}
		}
		for _, id := range traffic["hub"] {
			if err := cantest.SendOnce("vcan0", cantest.Frame{ID: id}); err != nil {
				t.Fatal(err)
			}
		}
		cantest.WaitQuiet(want, slices.Collect(maps.Values(listeners))...)
		heard := map[string][]string{}
		for id, l := range listeners {
			l.Close()
			foreign, _ := l.Heard()
			for f, n := range foreign {
				heard[id] = append(heard[id], fmt.Sprintf("%08X %d times", f.ID, n))
			}
			slices.Sort(heard[id])
		}
		return heard
	}
	lesson := startControl(t, "learn", "vcan0", "--for", "10m", "-o", "json")
	text := startControl(t, "learn", "vcan0", "--for", "10m")
	before := run(traffic, 45)
	out := lesson.end(t)
	t.Logf("%s%s", text.end(t), text.said(t))
	for _, words := range []string{
		"vcan0: 15 frames in ", "\na (cni, network canbus0): sent 10 frames, heard 5 frames\n",
		"  \"send\": \"100-103,18FEF100\", \"receive\": \"102,200,7DF\"\n  -o send=100-103,18FEF100 -o receive=102,200,7DF\n  warning: heard once only: 7DF\n",
		"\nc (cni, network canbus0): sent 0 frames, heard 15 frames\n  \"send\": \"none\", \"receive\": \"100-103,200,7DF,18FEF100\"\n",
	} {
		if !strings.Contains(text.output(t), words) {
			t.Errorf("no %q", words)
		}
	}
	var document struct {
		Endpoints []struct{ ContainerID, Send, Receive string }
	}
	if err := json.Unmarshal([]byte(out), &document); err != nil || len(document.Endpoints) != len(containers) {
		t.Fatalf("%v: %s", err, out)
	}
	for i, e := range document.Endpoints {
		c := containers[i]
		harness.On(c).OK(t, "DEL")
		harness.On(c).With(fmt.Sprintf(`"send":%q,"receive":%q`, e.Send, e.Receive)).Add(t)
		if e.ContainerID != c.ID {
			t.Fatalf("endpoint %d is %s", i, e.ContainerID)
		}
	}
	if after := run(traffic, 45); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("with the lists:\n%v\nbefore:\n%v", after, before)
	}
	others := map[string][]uint32{
		"a": {0x0ff, 0x104, 0x18fef101 | eff, 0x200}, "b": {0x100, 0x201}, "c": {0x100, 0}, "hub": {0x7de, 0x100 | eff},
	}
	if heard := run(others, 16); len(heard) != 0 {
		t.Errorf("other frames pass: %v", heard)
	}
}
