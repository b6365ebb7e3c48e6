package harness

import (
	"errors"
	"fmt"
	"os/exec"
	"syscall"
	"testing"

	"github.com/vxcan/vxcan/pkg/cantest"
)

// mostCalls is many times the number of system calls of one name that a verb makes.
const mostCalls = 100

// Injecting is strace that does something to a program at its nth sendto: at each message, or group of messages, to the
// kernel.
func Injecting(what string, n int) []string {
	return []string{"strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=sendto", "-e", fmt.Sprintf("inject=sendto:%s:when=%d", what, n)}
}

// AtEach runs a test for n = 1, 2, …, or some of these (see cantest.Steps), as long as it tells that the program has made n
// calls.
func AtEach(t *testing.T, name string, test func(t *testing.T, n int) (reached bool)) {
	t.Helper()
	first, step := cantest.Steps(name)
	for n := first; n <= mostCalls; n += step {
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
		t.Logf("%s: at calls up to %d, in steps of %d", name, n-step, step)
		if n == first {
			t.Errorf("%s: at no call: does strace still inject?", name)
		}
		return
	}
	t.Errorf("%s: at %d calls", name, mostCalls)
}

// Killed reports whether a command was ended by SIGKILL. One that was not must have succeeded.
func Killed(t *testing.T, out []byte, err error) bool {
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

// KilledAt runs an ADD that SIGKILL ends at the nth system call of this name, and reports whether it did. One that ends
// before by itself must have succeeded.
func (c Call) KilledAt(t *testing.T, name string, n int) bool {
	t.Helper()
	c.Wrap = []string{"strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=" + name,
		"-e", fmt.Sprintf("inject=%s:signal=KILL:when=%d", name, n)}
	_, _, err := c.Exec(t, "ADD")
	var exit *exec.ExitError
	if err == nil {
		return false
	} else if !errors.As(err, &exit) {
		t.Fatalf("not killed: %v", err)
	}
	// strace ends as its program did.
	if status := exit.Sys().(syscall.WaitStatus); !status.Signaled() || status.Signal() != syscall.SIGKILL {
		t.Fatalf("not killed: %v", err)
	}
	return true
}
