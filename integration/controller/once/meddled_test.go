package once

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vxcan/vxcan/integration/harness"
	"github.com/vxcan/vxcan/pkg/cantest"
)

// TestControllerMeddled: another program changes the controller at any message of ADD.
func TestControllerMeddled(t *testing.T) {
	swap := filepath.Join(t.TempDir(), "swap")
	harness.Write(t, swap, "link set slot0 down\nlink set slot0 name slot9\nlink set slot1 name slot0\n")
	ip := func(lines ...string) func(t *testing.T) {
		return func(t *testing.T) {
			for _, l := range lines {
				if out, err := exec.Command("ip", strings.Fields(l)...).CombinedOutput(); err != nil {
					t.Logf("ip %s: %v %s", l, err, out)
				}
			}
		}
	}
	for _, c := range []struct {
		name string
		do   func(*testing.T)
		// judge looks at what ADD did.
		judge func(t *testing.T, err error)
	}{
		{"owner sets up the same", ip("link set slot0 up type can bitrate 500000"), func(t *testing.T, err error) {
			if err != nil {
				t.Error(err)
			}
		}},
		{"renamed", ip("link set slot0 down", "link set slot0 name slot9"), func(t *testing.T, err error) {
			if err == nil { // it was late
				return
			}
			if !strings.Contains(err.Error(), "slot0") {
				t.Error(err)
			}
			if strings.Contains(harness.ControllerState(t, "slot9"), `"UP"`) {
				t.Error("a controller of another name is left up")
			}
			harness.ExpectNothing(t)
		}},
		{"names swapped", ip("-force -batch " + swap), func(t *testing.T, err error) {
			if _, err := harness.Try("ip", "link", "show", "slot9"); err != nil {
				return
			}
			if strings.Contains(harness.ControllerState(t, "slot9"), `"UP"`) {
				t.Errorf("a controller of another name is left up; ADD: %v", err)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			harness.AtEach(t, "ADD", func(t *testing.T, n int) bool {
				harness.FreshHost(t)
				controller := cantest.NewController(t, "slot0")
				if c.name == "names swapped" {
					cantest.NewController(t, "slot1")
				}
				this := harness.On(harness.NewContainer(t, "c")).With(harness.SetUpByUs)
				reached, _, _, err := unplugAt(t, this, "ADD", n, func() { c.do(t) })
				if !reached {
					return false
				}
				c.judge(t, err)
				this.OK(t, "DEL")
				controller.Unplug()
				return true
			})
		})
	}
}

// TestControllerSecondNetwork: after a replug, before anything is healed, an ADD with other settings than those of the
// containers that are there is refused.
func TestControllerSecondNetwork(t *testing.T) {
	harness.FreshHost(t)
	controller := cantest.NewController(t, "slot0")
	a := harness.On(harness.NewContainer(t, "a")).With(harness.SetUpByUs)
	result, _ := a.Add(t)
	controller.Unplug()
	cantest.NewController(t, "slot0")
	_, _, err := harness.On(harness.NewContainer(t, "b")).With(harness.OnController+`,"bitrate":250000,"name":"other"`).Exec(t, "ADD")
	if err == nil {
		t.Errorf("ADD of another network with bitrate 250000 succeeds; CHECK of the first: %v", a.Check(t, result))
	}
}
