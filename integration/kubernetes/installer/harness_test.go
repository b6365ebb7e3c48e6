package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// binDir holds the binaries under test; make puts them there.
func binDir(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../../../bin")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "vxcan-install")); err != nil {
		t.Fatalf("%v; run make build first", err)
	}
	return dir
}

// limited is a command that is killed when it takes far longer than any does.
func limited(name string, args ...string) (*exec.Cmd, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.WaitDelay = 10 * time.Second
	return cmd, cancel
}

// stop ends a program with SIGTERM, which it takes for a success.
func stop(t *testing.T, program **exec.Cmd) {
	t.Helper()
	cmd := *program
	if cmd == nil {
		return
	}
	*program = nil
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	defer time.AfterFunc(time.Minute, func() {
		t.Errorf("%s is still there a minute after SIGTERM", cmd.Path)
		_ = cmd.Process.Kill()
	}).Stop()
	if err := cmd.Wait(); err != nil {
		t.Errorf("%s: %v", cmd.Path, err)
	}
}

// expectKilled expects that a command was ended by SIGKILL.
func expectKilled(t *testing.T, out []byte, err error) {
	t.Helper()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("not killed: %v: %s", err, out)
	}
}

func put(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}
