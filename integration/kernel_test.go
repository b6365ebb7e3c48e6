package integration

import (
	"os"
	"path/filepath"
	"testing"
)

// TestKernelWithoutModules: ADD and STATUS name the module that the kernel lacks, and nothing is made.
func TestKernelWithoutModules(t *testing.T) {
	freshHost(t)
	c := newContainer(t, "c")
	if _, err := os.Stat("/sys/module/vxcan/initstate"); err != nil {
		t.Log("vxcan is not a loaded module; it may be built in")
	}
	command(t, "modprobe", "--remove", "can-gw", "vxcan", "vcan")
	// Neither the kernel nor we may find them again.
	modprobe, err := os.ReadFile("/proc/sys/kernel/modprobe")
	if err != nil {
		t.Fatal(err)
	}
	setModprobe := func(path string) {
		if err := os.WriteFile("/proc/sys/kernel/modprobe", []byte(path), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	setModprobe("/bin/false")
	t.Cleanup(func() { setModprobe(string(modprobe)) })
	hidden := t.TempDir()
	stub := filepath.Join(hidden, "modprobe")
	if err := os.WriteFile(stub, []byte("#!/bin/sh\necho modprobe: FATAL: Module $1 not found. >&2\nexit 1\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	this := on(c)
	this.env = []string{"PATH=" + hidden + ":" + os.Getenv("PATH")}
	this.fails(t, "STATUS", 50, "vcan", "vxcan", "can-gw", "CONFIG_CAN_GW")
	this.fails(t, "ADD", 100, "vcan", "CONFIG_CAN_VCAN")
	expectNothing(t)

	setModprobe(string(modprobe))
	this.fails(t, "STATUS", 50, "can-gw", "not found")
	this.fails(t, "ADD", 100, "can-gw", "not found")
	expectNothing(t)

	this.env = nil
	this.ok(t, "STATUS")
	this.add(t)
}

// TestNotPermitted: without CAP_NET_ADMIN, or with it in a user namespace only, the error says so.
func TestNotPermitted(t *testing.T) {
	for name, wrap := range map[string][]string{
		"no CAP_NET_ADMIN":    {"setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"},
		"in a user namespace": {"unshare", "--user", "--map-root-user", "--net"},
	} {
		t.Run(name, func(t *testing.T) {
			freshHost(t)
			c := newContainer(t, "c")
			command(t, "modprobe", "can-gw")
			this := on(c)
			this.wrap = wrap
			words := "CAP_NET_ADMIN"
			if name == "in a user namespace" {
				words = "user namespace"
			}
			this.fails(t, "STATUS", 50, words)
			this.fails(t, "ADD", 101, words)
			expectNothing(t)
		})
	}
}
