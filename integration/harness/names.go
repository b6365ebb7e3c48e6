package harness

import (
	"maps"
	"os"
	"slices"
	"strconv"
	"testing"

	"github.com/vxcan/vxcan/pkg/cantest"
)

// ExpectNamesStay restarts a container three times, or as often as VXCAN_TEST_RESTARTS says, and fails the test unless its
// interfaces are on the same buses each time, which frames show. Names that depend on the order of a runtime's calls change
// places in half of all restarts.
func ExpectNamesStay(t *testing.T, hubs map[string]string, restart func(), station func(ifName string) Station) {
	t.Helper()
	restarts := 3
	if more, err := strconv.Atoi(os.Getenv("VXCAN_TEST_RESTARTS")); err == nil {
		restarts = more
	}
	right := 0
	for i := range restarts + 1 {
		if i > 0 {
			restart()
		}
		if !ExpectNames(t, hubs, station) {
			t.Errorf("wrong after %d restarts", i)
		} else if i > 0 {
			right++
		}
	}
	t.Logf("interfaces %v: right after %d of %d restarts", hubs, right, restarts)
}

// ExpectNames fails the test unless each interface of a container hears a frame of its hub and no other, and returns
// whether it does.
func ExpectNames(t *testing.T, hubs map[string]string, station func(ifName string) Station) bool {
	t.Helper()
	listeners := make(map[string]*cantest.Listener)
	for ifName := range hubs {
		s := station(ifName)
		listeners[ifName] = cantest.Listen(t, s.Netns, ifName)
		defer s.Netns.Close() // or it would outlive the container
		defer listeners[ifName].Close()
	}
	frame := func(hub string) cantest.Frame { return cantest.Frame{ID: 0x123, Data: hub} }
	for _, hub := range slices.Compact(slices.Sorted(maps.Values(hubs))) {
		if err := cantest.SendOnce(hub, frame(hub)); err != nil {
			t.Fatal(err)
		}
	}
	cantest.WaitQuiet(len(hubs), slices.Collect(maps.Values(listeners))...)
	right := true
	for ifName, hub := range hubs {
		heard, _ := listeners[ifName].Heard()
		if len(heard) != 1 || heard[frame(hub)] != 1 {
			t.Errorf("%s hears %v, want one frame of %s", ifName, heard, hub)
			right = false
		}
	}
	return right
}
