package main

import (
	"os"
	"path/filepath"
	"testing"
)

// TestListenAt: only root reaches the socket, by its own mode and by that of its directory.
func TestListenAt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "docker", "plugins", "vxcan.sock")
	listener, err := listenAt(path)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	plugins := filepath.Dir(path)
	for name, want := range map[string]os.FileMode{filepath.Dir(plugins): 0o700, plugins: 0o700, path: 0o600} {
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != want {
			t.Errorf("%s: mode %o, want %o", filepath.Base(name), got, want)
		}
	}
}
