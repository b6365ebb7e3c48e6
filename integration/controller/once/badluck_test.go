// Package once tests a serial adapter on one kernel.
package once

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/vxcan/vxcan/integration/harness"
	"github.com/vxcan/vxcan/pkg/cantest"
)

// TestControllerKilled: an ADD, or vxcanctl heal, that sets a controller up is killed at any message to the kernel. The
// next ADD, or vxcanctl heal, makes it right: CHECK is silent, and each frame arrives exactly once.
func TestControllerKilled(t *testing.T) {
	expectRight := func(t *testing.T, controller *cantest.Controller, c harness.Call, box *harness.Container) {
		t.Helper()
		result, log := c.Add(t)
		if strings.Contains(log, "repaired") {
			t.Errorf("ADD still had to repair: %s", log)
		}
		if err := c.Check(t, result); err != nil {
			t.Error(err)
		}
		harness.WaitForState(t, "slot0", `"bittiming_bitrate":500000`, `"txqlen":1000`, `"operstate":"UP"`)
		harness.ExpectOnWire(t, controller, []harness.Station{harness.Host("slot0"), box.On("can0")}, 5)
	}
	for _, next := range []string{"ADD", "heal"} {
		harness.AtEach(t, "ADD on a fresh controller then "+next, func(t *testing.T, n int) bool {
			harness.FreshHost(t)
			controller, box := cantest.NewController(t, "slot0"), harness.NewContainer(t, "victim")
			victim := harness.On(box).With(harness.SetUpByUs)
			if !victim.KilledAt(t, "sendto", n) {
				return false
			}
			if next == "heal" {
				harness.Vxcanctl(t, "heal", "slot0")
				// What was set up for a container that never came stays as it is, and is not remembered.
				there := len(harness.HostEnds(t)) > 0
				if up := strings.Contains(harness.ControllerState(t, "slot0"), `"UP"`); isRecorded(t, "slot0") != there || there && !up {
					t.Errorf("heal: up: %v, recorded: %v, there: %v", up, isRecorded(t, "slot0"), there)
				}
			}
			box2 := harness.NewContainer(t, "other")
			other := harness.On(box2).With(harness.SetUpByUs)
			other.Add(t)
			if got := len(harness.HostEnds(t)); got > 2 {
				t.Errorf("%d host ends", got)
			}
			expectRight(t, controller, victim, box)
			expectRight(t, controller, other, box2)
			victim.OK(t, "DEL")
			other.OK(t, "DEL")
			if got := harness.HostEnds(t); len(got) > 0 {
				t.Errorf("left: %v", got)
			}
			return true
		})
		// With an endpoint from before, whose container does not start again.
		for _, first := range []string{"ADD", "heal"} {
			harness.AtEach(t, first+" after a replug then "+next, func(t *testing.T, n int) bool {
				harness.FreshHost(t)
				controller := cantest.NewController(t, "slot0")
				oldBox, box := harness.NewContainer(t, "old"), harness.NewContainer(t, "victim")
				old, victim := harness.On(oldBox).With(harness.SetUpByUs), harness.On(box).With(harness.SetUpByUs)
				result, _ := old.Add(t)
				controller.Unplug()
				controller = cantest.NewController(t, "slot0")
				if first == "ADD" {
					if !victim.KilledAt(t, "sendto", n) {
						return false
					}
				} else {
					args := append(harness.Injecting("signal=KILL", n), filepath.Join(harness.BinDir(t), "vxcanctl"), "heal", "slot0")
					if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); !harness.Killed(t, out, err) {
						return false
					}
				}
				if next == "ADD" {
					victim.Add(t)
				} else {
					harness.Vxcanctl(t, "heal")
				}
				if err := old.Check(t, result); err != nil {
					t.Error(err)
				}
				expectRight(t, controller, old, oldBox)
				return true
			})
		}
	}
}

func isRecorded(t *testing.T, hub string) bool {
	t.Helper()
	_, err := os.Stat(harness.RecordFile(t, hub))
	return err == nil
}

// delayed runs a command that injecting(delay, …) holds up, and calls do meanwhile. It tells whether it did.
func delayed(t *testing.T, cmd *exec.Cmd, do func()) (reached bool, err error) {
	t.Helper()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	var children []int              // looked for once: to go through /proc again and again takes longer than the delay on a busy machine
	for since := (time.Time{}); ; { // held since then: strace itself stops a thread for moments
		select {
		case err := <-ended:
			return reached, err
		case <-time.After(10 * time.Millisecond):
		}
		held := false
		children = slices.DeleteFunc(children, func(pid int) bool { _, err := os.Stat(fmt.Sprint("/proc/", pid)); return err != nil })
		if len(children) == 0 { // none yet, or only one that strace has tried itself with
			children = childrenOf(cmd.Process.Pid)
		}
		for _, pid := range children {
			files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
			for _, file := range files {
				status, _ := os.ReadFile(file)
				held = held || strings.Contains(string(status), "State:\tt")
			}
		}
		switch {
		case !held:
			since = time.Time{}
		case since.IsZero():
			since = time.Now()
		}
		if held && !reached && time.Since(since) > 400*time.Millisecond {
			reached = true
			do()
		}
	}
}

const delay = "delay_exit=1000000" // microseconds

func childrenOf(parent int) (pids []int) {
	files, _ := filepath.Glob("/proc/[0-9]*/status")
	for _, file := range files {
		text, _ := os.ReadFile(file)
		if strings.Contains(string(text), fmt.Sprintf("\nPPid:\t%d\n", parent)) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			pids = append(pids, pid)
		}
	}
	return pids
}

// TestControllerUnplugged: the controller goes at any moment of a verb: a clear word or success, nothing left, and no
// error of heal and DEL.
func TestControllerUnplugged(t *testing.T) {
	for _, verb := range []string{"ADD", "heal", "CHECK", "DEL"} {
		harness.AtEach(t, verb, func(t *testing.T, n int) bool {
			harness.FreshHost(t)
			controller := cantest.NewController(t, "slot0")
			this := harness.On(harness.NewContainer(t, "c")).With(harness.SetUpByUs)
			if verb != "ADD" {
				result, _ := this.Add(t)
				this = this.With(`"prevResult":` + string(harness.Marshal(t, result)))
			}
			if verb == "heal" {
				harness.Command(t, "ip", "link", "set", "slot0", "down") // all is there to be done
			}
			reached, out, log, err := unplugAt(t, this, verb, n, controller.Unplug)
			if !reached {
				return false
			}
			if err == nil {
				if verb == "ADD" && !strings.Contains(string(out), `"sandbox"`) {
					t.Errorf("ADD succeeds with %s", out)
				}
			} else {
				t.Logf("%v", err)
				var cniErr *types.Error
				if verb == "heal" || verb == "DEL" || !errors.As(err, &cniErr) {
					t.Errorf("%s: %v: %s%s", verb, err, out, log)
				} else if !strings.Contains(cniErr.Msg, "slot0") {
					t.Errorf("%s: no word of slot0: %s", verb, cniErr.Msg)
				}
			}
			if verb == "ADD" && err != nil {
				harness.ExpectNothing(t)
			}
			if got := harness.Rules(t); slices.ContainsFunc(got, func(r string) bool { return strings.Contains(r, "slot0 ") }) {
				t.Errorf("rules of a controller that is gone: %q", got)
			}
			harness.Vxcanctl(t, "heal", "--udev", "slot0")
			this.OK(t, "DEL")
			if got := harness.HostEnds(t); len(got) > 0 {
				t.Errorf("left: %v", got)
			}
			if got := harness.Wiring(t); len(got) > 0 {
				t.Errorf("left: %v", got)
			}
			if isRecorded(t, "slot0") {
				t.Error("left: the record")
			}
			return true
		})
	}
}

// unplugAt runs a verb, or vxcanctl heal, and unplugs the controller when it has sent its nth message.
func unplugAt(t *testing.T, c harness.Call, verb string, n int, unplug func()) (reached bool, out, log string, err error) {
	t.Helper()
	c.Wrap = harness.Injecting(delay, n)
	if verb == "heal" {
		cmd, cancel := harness.Limited(c.Wrap[0], append(c.Wrap[1:], filepath.Join(harness.BinDir(t), "vxcanctl"), "heal", "slot0")...)
		defer cancel()
		var words strings.Builder
		cmd.Stdout, cmd.Stderr = &words, &words
		reached, err = delayed(t, cmd, unplug)
		return reached, "", words.String(), err
	}
	c.Run = func(cmd *exec.Cmd) (err error) {
		reached, err = delayed(t, cmd, unplug)
		return err
	}
	out, log, err = c.Exec(t, verb)
	return reached, out, log, err
}
