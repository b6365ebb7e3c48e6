package harness

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Repo is a path in this repository, which is found from the directory of the test.
func Repo(path string) string { return root() + "/" + path }

var root = sync.OnceValue(func() string {
	start, err := os.Getwd()
	for dir := start; err == nil && dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "integration/harness")); err == nil {
			return dir
		}
	}
	panic(fmt.Sprintf("no repository around %s (%v)", start, err))
})

// BinDir holds the binaries under test; make puts them there.
func BinDir(t testing.TB) string {
	t.Helper()
	dir := Repo("bin")
	if _, err := os.Stat(filepath.Join(dir, "vxcan")); err != nil {
		t.Fatalf("%v; run make build first", err)
	}
	return dir
}

// Command runs a program and returns its stdout; it fails the test with the program's words if that fails.
func Command(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := Try(name, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Try is Command for what may fail. What the program leaves running may keep its stdout.
func Try(name string, args ...string) (string, error) {
	cmd, cancel := Limited(name, args...)
	defer cancel()
	out, errOut := memFile()
	words, errWords := memFile()
	if err := errors.Join(errOut, errWords); err != nil {
		return "", err
	}
	defer out.Close()
	defer words.Close()
	cmd.Stdout, cmd.Stderr = out, words // no pipes, whose end would be awaited
	err := cmd.Run()
	said := func(f *os.File) string {
		text, errRead := io.ReadAll(io.NewSectionReader(f, 0, 1<<30))
		err = errors.Join(err, errRead)
		return string(text)
	}
	all, complaint := said(out), said(words)
	if err != nil {
		return all, fmt.Errorf("%s %s: %w\n%s%s", name, strings.Join(args, " "), err, all, complaint)
	}
	return all, nil
}

func memFile() (*os.File, error) {
	fd, err := unix.MemfdCreate("output", unix.MFD_CLOEXEC)
	return os.NewFile(uintptr(fd), "output"), err
}

// Limited is a command that is killed when it takes far longer than any does, for the tests behind it to have their turn.
func Limited(name string, args ...string) (*exec.Cmd, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.WaitDelay = 10 * time.Second // its children may still hold its stdout
	return cmd, cancel
}

// stop ends a daemon with a signal, and a minute later with SIGKILL.
func stop(t testing.TB, daemon **exec.Cmd, sig os.Signal) {
	t.Helper()
	cmd := *daemon
	if cmd == nil {
		return
	}
	*daemon = nil
	if err := cmd.Process.Signal(sig); err != nil {
		t.Error(err)
	}
	defer time.AfterFunc(time.Minute, func() {
		t.Errorf("%s is still there a minute after %v", cmd.Path, sig)
		_ = cmd.Process.Kill()
	}).Stop()
	_ = cmd.Wait() // the status says how it was stopped
}

// Remove removes a file that is there.
func Remove(t testing.TB, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

// Write writes a file.
func Write(t testing.TB, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Marshal is v as JSON.
func Marshal(t testing.TB, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// ExpectOneLine fails the test unless a command failed with one line behind it that begins so and has this word.
func ExpectOneLine(t *testing.T, err error, begin, word string) {
	t.Helper()
	if err == nil {
		t.Error("accepted, want words of " + word)
		return
	}
	_, said, _ := strings.Cut(err.Error(), "\n") // behind the command
	if said = strings.TrimSpace(said); !strings.HasPrefix(said, begin) || !strings.Contains(said, word) || strings.Contains(said, "\n") {
		t.Errorf("not one line with %q: %s", word, said)
	}
}

// RemoveContent empties a directory, which may be a mount point.
func RemoveContent(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	return err
}

// ReadJSON decodes a file.
func ReadJSON(t testing.TB, path string, v any) {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(content, v); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

// FirstLine is the first line of a text, without what is blank around it.
func FirstLine(text string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	return line
}

// WaitGone waits until nothing is left, and fails the test if that takes far longer than it ever does.
func WaitGone(t *testing.T, what string, left func() string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		switch still := left(); {
		case still == "":
			return
		case time.Now().After(deadline):
			t.Errorf("waited for %s: left are %s", what, still)
			return
		}
	}
}
