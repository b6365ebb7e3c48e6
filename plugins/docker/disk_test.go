package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vxcan/vxcan/pkg/config"
)

// TestDiskReboot: networks outlive a reboot, and endpoints do not.
func TestDiskReboot(t *testing.T) {
	ctx, d := context.Background(), disk{dir: filepath.Join(t.TempDir(), "made")}
	id := endpointRequest{"n", "e"}
	if _, err := d.putEndpoint(ctx, id, endpoint{}); !errors.Is(err, errUnknownNetwork) {
		t.Errorf("endpoint of no network: %v", err)
	}
	for _, want := range []bool{true, false} {
		isNew, err := d.putNetwork(ctx, "n", &network{Hub: config.Hub{Name: "vcan0"}, Prefix: "can"})
		if err != nil || isNew != want {
			t.Fatalf("new: %v, %v", isNew, err)
		}
		if _, err := d.putEndpoint(ctx, id, endpoint{IfName: "can3"}); err != nil {
			t.Fatal(err)
		}
	}
	read := func() *network {
		t.Helper()
		r, err := d.read(ctx)
		if err != nil {
			t.Fatal(err)
		}
		n, err := r.find("n")
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := read(); n.Hub.Name != "vcan0" || n.Endpoints["e"].IfName != "can3" {
		t.Errorf("on disk: %+v", n)
	}

	bootID, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	path := d.dir + "/networks.json"
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	earlier := strings.Replace(string(content), strings.TrimSpace(string(bootID)), "an-earlier-boot", 1)
	if err := os.WriteFile(path, []byte(earlier), 0o600); err != nil {
		t.Fatal(err)
	}
	if n := read(); n.Hub.Name != "vcan0" || len(n.Endpoints) != 0 {
		t.Errorf("on disk after a reboot: %+v", n)
	}

	for range 2 {
		_, err := d.removeNetwork(ctx, "n")
		if err := errors.Join(d.removeEndpoint(ctx, id), err); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file of no networks: %v", err)
	}
}

// TestDiskUnusable: a broken file is set aside, and one of a later release is refused and stays as it is.
func TestDiskUnusable(t *testing.T) {
	ctx, d := context.Background(), disk{dir: t.TempDir()}
	path := d.dir + "/networks.json"
	newer := `{"version":3,"data":{"networks":[]}}`
	for content, words := range map[string]string{newer: "format version 3", "no JSON": ""} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := d.putNetwork(ctx, "n", &network{Hub: config.Hub{Name: "vcan0"}})
		if content != newer {
			if err != nil {
				t.Error(err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), words) || !strings.Contains(err.Error(), path) {
			t.Errorf("%v, want %q and the path", err, words)
		}
		if kept, err := os.ReadFile(path); err != nil || string(kept) != content {
			t.Errorf("the later file is now %q, %v", kept, err)
		}
	}
	if aside, err := filepath.Glob(d.dir + "/networks.broken-*"); err != nil || len(aside) != 1 {
		t.Errorf("set aside: %q, %v; want the broken file", aside, err)
	}
}

// TestNumbered: Docker up to 27 names interfaces by a prefix and a number. Only names that end in 0 can be had, each once
// in a container, and not eth0. An endpoint of another container, or one that was lost, refuses nothing.
func TestNumbered(t *testing.T) {
	r := &records{Networks: map[string]*network{
		"a": {Prefix: "can", Endpoints: map[string]endpoint{
			"one": {SandboxKey: "/netns/1"}, "two": {SandboxKey: "/netns/2", IfName: "engine0"}, "lost": {SandboxKey: "/netns/0"}, "created": {},
		}},
		"b": {Prefix: "bus"},
	}}
	for _, test := range []struct{ key, endpoint, name, want string }{
		{"/netns/1", "new", "bus0", "bus"},
		{"/netns/1", "new", "engine0", "engine"},
		{"/netns/1", "new", "can10", "can1"},
		{"/netns/1", "one", "can0", "can"}, // the same call again
		{"/netns/2", "new", "can0", "can"},
		{"/netns/3", "new", "can0", "can"},
		{"", "new", "can0", "can"},
		{"/netns/1", "new", "can0", ""},
		{"/netns/2", "new", "engine0", ""},
		{"/netns/3", "new", "can5", ""},
		{"/netns/3", "new", "engine", ""},
		{"/netns/3", "new", "0", ""},
		{"/netns/3", "new", "eth0", ""},
	} {
		prefix, err := r.numbered(joinRequest{endpointRequest{"b", test.endpoint}, test.key}, test.name)
		if prefix != test.want || (err == nil) == (test.want == "") {
			t.Errorf("%s in %s: %q, %v; want %q", test.name, test.key, prefix, err, test.want)
		}
		if err != nil && (!errors.Is(err, config.ErrInvalid) || !strings.Contains(err.Error(), "vxcan.peer=") || !strings.Contains(err.Error(), test.name)) {
			t.Error(err)
		}
	}
}
