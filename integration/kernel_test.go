package integration

import (
	"os"
	"strings"
	"sync"
	"testing"
)

// TestKernelWithoutModules: ADD and STATUS name the module that the kernel lacks, and nothing is made.
func TestKernelWithoutModules(t *testing.T) {
	if os.Getenv("VXCAN_VM") != "booted" {
		t.Skip("unloads the kernel's CAN modules, with the devices of all namespaces: needs a kernel of its own (bin/vm -boot)")
	}
	freshHost(t)
	this := on(newContainer(t, "c"))
	restore := withoutModules(t, "can-gw", "vxcan", "vcan")
	this.fails(t, "STATUS", 50, "vcan", "vxcan", "can-gw", "CONFIG_CAN_GW")
	this.fails(t, "ADD", 100, "module vcan (CONFIG_CAN_VCAN) is missing")
	expectNothing(t)
	restore()

	filters := []string{"act_mirred", "act_skbedit", "act_gact", "cls_bpf", "sch_ingress"}
	all := append([]string{"--all", "vcan", "vxcan", "can-gw"}, filters...)
	command(t, "modprobe", all...)
	restore = withoutModules(t, "can-gw")
	this.fails(t, "STATUS", 50, "can-gw", "not found")
	this.fails(t, "ADD", 100, "can-gw", "not found")
	expectNothing(t)
	restore()

	this.ok(t, "STATUS")
	for _, module := range filters {
		command(t, "modprobe", all...)
		restore = withoutModules(t, module)
		words := "module " + module + " (CONFIG_NET_" + strings.ToUpper(module) + ") is missing"
		this.fails(t, "STATUS", 50, words)
		this.fails(t, "ADD", 100, words)
		expectNothing(t)
		restore()
	}
	this.add(t)
	command(t, "modprobe", "act_police")
	restore = withoutModules(t, "act_police")
	limited := on(newContainer(t, "limited")).with(`"rate":100`)
	limited.fails(t, "ADD", 100, "module act_police (CONFIG_NET_ACT_POLICE) is missing")
	if got := hostEnds(t); len(got) != 1 {
		t.Errorf("left: %v", got)
	}
	restore()
	limited.add(t)
}

// withoutModules unloads modules of the kernel, and hides all from modprobe, which otherwise loads them again.
func withoutModules(t testing.TB, modules ...string) (restore func()) {
	t.Helper()
	for _, module := range modules {
		command(t, "modprobe", "--remove", module)
	}
	command(t, "mount", "--bind", t.TempDir(), "/lib/modules")
	restore = sync.OnceFunc(func() { command(t, "umount", "/lib/modules") })
	t.Cleanup(restore)
	return restore
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
