package integration

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/vxcan/vxcan/pkg/cantest"
)

// mostCalls is many times the number of system calls of one name that a verb makes.
const mostCalls = 100

// injecting is strace that does something to a program at its nth sendto: at each message, or group of messages, to the
// kernel.
func injecting(what string, n int) []string {
	return []string{"strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=sendto", "-e", fmt.Sprintf("inject=sendto:%s:when=%d", what, n)}
}

// atEach runs a test for n = 1, 2, … as long as it tells that the program has made n calls.
func atEach(t *testing.T, name string, test func(t *testing.T, n int) (reached bool)) {
	t.Helper()
	for n := 1; n <= mostCalls; n++ {
		var reached, skipped bool
		if !t.Run(fmt.Sprintf("%s %d", name, n), func(t *testing.T) {
			defer func() { skipped = t.Skipped() }()
			reached = test(t, n)
		}) && !reached {
			return
		}
		if skipped {
			t.SkipNow()
		}
		if reached {
			continue
		}
		t.Logf("%s: at %d calls", name, n-1)
		if n == 1 {
			t.Errorf("%s: at no call: does strace still inject?", name)
		}
		return
	}
	t.Errorf("%s: at %d calls", name, mostCalls)
}

// killed tells whether a command was ended by SIGKILL. One that was not must have succeeded.
func killed(t *testing.T, out []byte, err error) bool {
	t.Helper()
	var exit *exec.ExitError
	if err == nil {
		return false
	}
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("not killed: %v: %s", err, out)
	}
	return true
}

// TestControllerKilled: an ADD, or vxcanctl heal, that sets a controller up is killed at any message to the kernel. The
// next ADD, or vxcanctl heal, makes it right: CHECK is silent, and each frame arrives exactly once.
func TestControllerKilled(t *testing.T) {
	expectRight := func(t *testing.T, controller *cantest.Controller, c call, box *container) {
		t.Helper()
		result, log := c.add(t)
		if strings.Contains(log, "repaired") {
			t.Errorf("ADD still had to repair: %s", log)
		}
		if err := c.check(t, result); err != nil {
			t.Error(err)
		}
		waitForState(t, "slot0", `"bittiming_bitrate":500000`, `"txqlen":1000`, `"operstate":"UP"`)
		expectOnWire(t, controller, []station{{"host", nil, "slot0"}, {box.id, box.netns, "can0"}}, 5)
	}
	for _, next := range []string{"ADD", "heal"} {
		atEach(t, "ADD on a fresh controller then "+next, func(t *testing.T, n int) bool {
			freshHost(t)
			controller, box := cantest.NewController(t, "slot0"), newContainer(t, "victim")
			victim := on(box).with(setUpByUs)
			if !victim.killedAt(t, "sendto", n) {
				return false
			}
			if next == "heal" {
				vxcanctl(t, "heal", "slot0")
				// What was set up for a container that never came stays as it is, and is not remembered.
				there := len(hostEnds(t)) > 0
				if up := strings.Contains(controllerState(t, "slot0"), `"UP"`); isRecorded(t, "slot0") != there || there && !up {
					t.Errorf("heal: up: %v, recorded: %v, there: %v", up, isRecorded(t, "slot0"), there)
				}
			}
			box2 := newContainer(t, "other")
			other := on(box2).with(setUpByUs)
			other.add(t)
			if got := len(hostEnds(t)); got > 2 {
				t.Errorf("%d host ends", got)
			}
			expectRight(t, controller, victim, box)
			expectRight(t, controller, other, box2)
			victim.ok(t, "DEL")
			other.ok(t, "DEL")
			if got := hostEnds(t); len(got) > 0 {
				t.Errorf("left: %v", got)
			}
			return true
		})
		// With an endpoint from before, whose container does not start again.
		for _, first := range []string{"ADD", "heal"} {
			atEach(t, first+" after a replug then "+next, func(t *testing.T, n int) bool {
				freshHost(t)
				controller := cantest.NewController(t, "slot0")
				oldBox, box := newContainer(t, "old"), newContainer(t, "victim")
				old, victim := on(oldBox).with(setUpByUs), on(box).with(setUpByUs)
				result, _ := old.add(t)
				controller.Unplug()
				controller = cantest.NewController(t, "slot0")
				if first == "ADD" {
					if !victim.killedAt(t, "sendto", n) {
						return false
					}
				} else {
					args := append(injecting("signal=KILL", n), filepath.Join(binDir(t), "vxcanctl"), "heal", "slot0")
					if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); !killed(t, out, err) {
						return false
					}
				}
				if next == "ADD" {
					victim.add(t)
				} else {
					vxcanctl(t, "heal")
				}
				if err := old.check(t, result); err != nil {
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
	_, err := os.Stat(recordFile(t, hub))
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
	var children []int  // looked for once: to go through /proc again and again takes longer than the delay on a busy machine
	for stops := 0; ; { // in a row: strace itself stops a thread for moments
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
		if stops++; !held {
			stops = 0
		}
		if stops == 5 && !reached {
			reached = true
			do()
		}
	}
}

const delay = "delay_exit=500000" // microseconds

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
		atEach(t, verb, func(t *testing.T, n int) bool {
			freshHost(t)
			controller := cantest.NewController(t, "slot0")
			this := on(newContainer(t, "c")).with(setUpByUs)
			if verb != "ADD" {
				result, _ := this.add(t)
				this = this.with(`"prevResult":` + string(marshal(t, result)))
			}
			if verb == "heal" {
				command(t, "ip", "link", "set", "slot0", "down") // all is there to be done
			}
			reached, out, log, err := this.unplugAt(t, verb, n, controller.Unplug)
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
				expectNothing(t)
			}
			if got := rules(t); slices.ContainsFunc(got, func(r string) bool { return strings.Contains(r, "slot0 ") }) {
				t.Errorf("rules of a controller that is gone: %q", got)
			}
			vxcanctl(t, "heal", "slot0")
			this.ok(t, "DEL")
			if got := hostEnds(t); len(got) > 0 {
				t.Errorf("left: %v", got)
			}
			if got := wiring(t); len(got) > 0 {
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
func (c call) unplugAt(t *testing.T, verb string, n int, unplug func()) (reached bool, out, log string, err error) {
	t.Helper()
	c.wrap = injecting(delay, n)
	if verb == "heal" {
		cmd, cancel := limited(c.wrap[0], append(c.wrap[1:], filepath.Join(binDir(t), "vxcanctl"), "heal", "slot0")...)
		defer cancel()
		var words strings.Builder
		cmd.Stdout, cmd.Stderr = &words, &words
		reached, err = delayed(t, cmd, unplug)
		return reached, "", words.String(), err
	}
	c.run = func(cmd *exec.Cmd) (err error) {
		reached, err = delayed(t, cmd, unplug)
		return err
	}
	out, log, err = c.exec(t, verb)
	return reached, out, log, err
}
