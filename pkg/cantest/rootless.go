package cantest

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// rootless is the environment variable that tells a test that UserNamespace has started it.
const rootless = "VXCAN_TEST_ROOTLESS"

// IsRootless reports whether this test is one that UserNamespace has started.
func IsRootless() bool { return os.Getenv(rootless) == "1" }

// UserNamespace runs tests of this package again, as root of a user namespace of their own: the kernel gives them no more than
// it gives a rootless runtime. Their files are those of the real root.
func UserNamespace(t *testing.T, names ...string) {
	t.Helper()
	Require(t)
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"-test.v", "-test.count=1", "-test.run=^(" + strings.Join(names, "|") + ")$"}
	if testing.Short() {
		args = append(args, "-test.short")
	}
	cmd := exec.Command(program, args...)
	cmd.Env = append(os.Environ(), rootless+"=1")
	root := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNET | unix.CLONE_NEWNS,
		UidMappings: root, GidMappings: root,
	}
	out, err := cmd.CombinedOutput()
	ran := strings.Count(string(out), "\n--- PASS: Test")
	if t.Logf("%s", out); err != nil || ran != len(names) || strings.Contains(string(out), "--- SKIP") {
		t.Errorf("in a user namespace: %d of %d tests passed, %v", ran, len(names), err)
	}
}
