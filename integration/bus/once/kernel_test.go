package once

import (
	"os"
	"strings"
	"testing"

	"github.com/vxcan/vxcan/integration/harness"
)

// TestKernelWithoutModules: ADD and STATUS name the module that the kernel lacks, and nothing is made.
func TestKernelWithoutModules(t *testing.T) {
	if os.Getenv("VXCAN_VM") != "booted" {
		t.Skip("unloads the kernel's CAN modules, with the devices of all namespaces: needs a kernel of its own (bin/vm -boot)")
	}
	harness.FreshHost(t)
	this := harness.On(harness.NewContainer(t, "c"))
	restore := harness.WithoutModules(t, "can-gw", "vxcan", "vcan")
	this.Fails(t, "STATUS", 50, "vcan", "vxcan", "can-gw", "CONFIG_CAN_GW")
	this.Fails(t, "ADD", 100, "module vcan (CONFIG_CAN_VCAN) is missing")
	harness.ExpectNothing(t)
	restore()

	filters := []string{"act_mirred", "act_skbedit", "act_gact", "cls_bpf", "sch_ingress"}
	all := append([]string{"--all", "vcan", "vxcan", "can-gw"}, filters...)
	harness.Command(t, "modprobe", all...)
	restore = harness.WithoutModules(t, "can-gw")
	this.Fails(t, "STATUS", 50, "can-gw", "not found")
	this.Fails(t, "ADD", 100, "can-gw", "not found")
	harness.ExpectNothing(t)
	restore()

	this.OK(t, "STATUS")
	for _, module := range filters {
		harness.Command(t, "modprobe", all...)
		restore = harness.WithoutModules(t, module)
		words := "module " + module + " (CONFIG_NET_" + strings.ToUpper(module) + ") is missing"
		this.Fails(t, "STATUS", 50, words)
		this.Fails(t, "ADD", 100, words)
		harness.ExpectNothing(t)
		restore()
	}
	this.Add(t)
	harness.Command(t, "modprobe", "act_police")
	restore = harness.WithoutModules(t, "act_police")
	limited := harness.On(harness.NewContainer(t, "limited")).With(`"rate":100`)
	limited.Fails(t, "ADD", 100, "module act_police (CONFIG_NET_ACT_POLICE) is missing")
	if got := harness.HostEnds(t); len(got) != 1 {
		t.Errorf("left: %v", got)
	}
	restore()
	limited.Add(t)
}

// TestNotPermitted: without CAP_NET_ADMIN, or in a user namespace that does not own the network namespace, the error says so.
func TestNotPermitted(t *testing.T) {
	for name, wrap := range map[string][]string{
		"no CAP_NET_ADMIN":    {"setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"},
		"in a user namespace": {"unshare", "--user", "--map-root-user"},
	} {
		t.Run(name, func(t *testing.T) {
			harness.FreshHost(t)
			c := harness.NewContainer(t, "c")
			harness.Command(t, "modprobe", "can-gw")
			this := harness.On(c)
			this.Wrap = wrap
			words := "CAP_NET_ADMIN"
			if name == "in a user namespace" {
				words = "user namespace"
			}
			this.Fails(t, "STATUS", 50, words)
			this.Fails(t, "ADD", 101, words)
			harness.ExpectNothing(t)
		})
	}
}
