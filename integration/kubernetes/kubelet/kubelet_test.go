// Package kubelet runs a kubelet, which is slow to build: make test-kubelet. Its node has no API server. Pods are files in a
// directory, which the kubelet treats like those of an API server: it starts, stops and retries them the same way.
package kubelet

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/plugins/pkg/ns"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/vxcan/vxcan/integration/harness"
)

// inRecord tells whether the record of the bus of vcan0 has a pod, which status would not show once its devices are gone.
func inRecord(t testing.TB, pod harness.PodOn) bool {
	t.Helper()
	content, err := os.ReadFile(harness.RecordFile(t, "vcan0"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(string(content), pod.Sandbox)
}

// TestKubelet: pods with the annotation have an IP and their interfaces, and are on the bus; without it, an IP. They go on
// when the kubelet and containerd start again, and leave nothing behind.
func TestKubelet(t *testing.T) {
	harness.FreshHost(t)
	n := harness.NewNode(t, harness.PodHubs)
	n.Apply("engine", "can0")
	n.Apply("dashboard", "vcan0:can0,vcan1:can1")
	engine, dashboard := n.Running("engine"), n.Running("dashboard")
	t.Logf("engine:\n%s", engine.Exec("/bin/busybox", "ip", "addr"))
	stations := []harness.Station{harness.Host("vcan0"), engine.On("can0"), dashboard.On("can0")}
	harness.ExpectExactlyOnce(t, stations, 50, true)
	harness.ExpectExactlyOnce(t, []harness.Station{harness.Host("vcan1"), dashboard.On("can1")}, 20, true)
	dashboard.Exec("cansend", "can0", "123#1122")
	n.WaitFor("the log of engine shows a frame of dashboard", func() bool {
		return strings.Contains(engine.Logs(), "123   [2]  11 22")
	})
	harness.ExpectRecorded(t, 2)

	n.StopKubelet()
	n.Stop()
	harness.ExpectExactlyOnce(t, stations, 10, true)
	n.Start()
	seen := func() int { return len(n.Logged("Pod update broadcasted.*ADDED")) }
	before := seen()
	n.StartKubelet()
	n.WaitFor("the kubelet has seen its pods again", func() bool { return seen() == before+2 })
	if again := n.Running("engine"); again.Container != engine.Container {
		t.Error("engine was started again with the kubelet")
	}
	harness.ExpectExactlyOnce(t, stations, 10, true)

	n.Delete("engine")
	n.Delete("dashboard")
	n.ExpectGone()
	harness.ExpectOnlyConfiguredHub(t)
}

// TestKubeletPluginAway: a pod that is deleted while the plugin's file is away stays half deleted: it keeps its IP, its
// netns and its endpoint. A new pod does not start, and each of the kubelet's attempts uses up an IP of host-local: what
// containerd does after a failed ADD ends at the missing plugin. Other pods go on. Once the file is back, the kubelet
// finishes both pods, but those IPs stay reserved.
func TestKubeletPluginAway(t *testing.T) {
	harness.FreshHost(t)
	n := harness.NewNode(t, harness.PodHubs)
	n.Apply("engine", "can0")
	n.Apply("dashboard", "can0")
	n.Running("engine")
	dashboard := n.Running("dashboard")

	plugin, away := n.Dir+"/bin/vxcan", n.Dir+"/vxcan"
	harness.Command(t, "mv", plugin, away)
	failures := func(pod string) int {
		return len(n.Logged(`"Error syncing pod, skipping".*failed to find plugin .*vxcan.* pod="default/` + pod + `-node"`))
	}
	n.Delete("engine")
	n.WaitFor("the kubelet has failed three times to delete engine", func() bool { return failures("engine") > 2 })
	t.Logf("%s", n.Logged("pod_workers.*engine-node")[0])
	if len(harness.PodNetns(t)) != 2 || len(harness.PodIPs(t)) != 2 {
		t.Errorf("netns %v, IPs %v, want two of each", harness.PodNetns(t), harness.PodIPs(t))
	}
	harness.ExpectRecorded(t, 2)
	n.Apply("late", "can0")
	n.WaitFor("the kubelet has failed three times to start late", func() bool { return failures("late") > 2 })
	t.Logf("%s", n.Logged("pod_workers.*late-node")[0])
	harness.ExpectExactlyOnce(t, []harness.Station{harness.Host("vcan0"), dashboard.On("can0")}, 20, true)

	harness.Command(t, "mv", away, plugin)
	late := n.Running("late")
	n.WaitFor("two pods are left", func() bool { return len(harness.PodNetns(t)) == 2 && len(harness.HostEnds(t)) == 2 })
	harness.ExpectExactlyOnce(t, []harness.Station{harness.Host("vcan0"), dashboard.On("can0"), late.On("can0")}, 20, true)
	harness.ExpectRecorded(t, 2)
	n.Delete("dashboard")
	n.Delete("late")
	n.WaitFor("all pods are gone", func() bool { return len(harness.PodNetns(t))+len(harness.HostEnds(t)) == 0 })
	harness.ExpectOnlyConfiguredHub(t)
	lost := len(harness.PodIPs(t))
	t.Logf("%d failed attempts to start late, %d IPs lost", failures("late"), lost)
	if lost < 3 || lost > failures("late") {
		t.Errorf("%d IPs lost, want one of each of %d attempts: say so in conflist/README.md", lost, failures("late"))
	}
}

// TestKubeletPluginUpgrade: a new file of the plugin, renamed over the old one, as installers do it. Pods that run do not
// notice, and the new plugin deletes what the old one made.
func TestKubeletPluginUpgrade(t *testing.T) {
	harness.FreshHost(t)
	n := harness.NewNode(t, harness.PodHubs)
	n.Apply("engine", "can0")
	n.Apply("dashboard", "can0")
	engine, dashboard := n.Running("engine"), n.Running("dashboard")
	stations := []harness.Station{harness.Host("vcan0"), engine.On("can0"), dashboard.On("can0")}
	calls := n.ReplacePlugin()
	harness.ExpectExactlyOnce(t, stations, 50, true)
	harness.ExpectRecorded(t, 2)
	n.Delete("engine")
	n.WaitFor("the new plugin has deleted engine", func() bool { return calls() == "DEL " })
	n.Apply("late", "can0")
	late := n.Running("late")
	stations[1] = late.On("can0")
	harness.ExpectExactlyOnce(t, stations, 20, true)
	harness.ExpectRecorded(t, 2)
	n.Delete("dashboard")
	n.Delete("late")
	n.ExpectGone()
	harness.ExpectOnlyConfiguredHub(t)
}

// TestKubeletEntryRemoved: without the entry of vxcan in the pod network, pods that have can0 keep it. When they are
// deleted, no DEL comes: the pair goes with the netns, and the next ADD on the bus or vxcanctl heal removes the rest.
func TestKubeletEntryRemoved(t *testing.T) {
	harness.FreshHost(t)
	n := harness.NewNode(t, harness.PodHubs)
	calls := n.ReplacePlugin()
	n.Apply("engine", "can0")
	n.Apply("dashboard", "vcan0:can0,vcan1:can1")
	n.Apply("logger", "can0")
	engine, dashboard, logger := n.Running("engine"), n.Running("dashboard"), n.Running("logger")
	stations := []harness.Station{harness.Host("vcan0"), logger.On("can0")}

	deleted := func(pod harness.PodOn, left int) {
		t.Helper()
		n.ReplacePodNetwork(harness.PodNetwork(t, ""))
		before := calls()
		n.Delete(pod.Name)
		n.WaitFor(pod.Name+" is gone", func() bool {
			return len(harness.PodNetns(t)) == left && len(harness.PodIPs(t)) == left && len(harness.HostEnds(t)) == left
		})
		if now := calls(); now != before {
			t.Errorf("calls of the plugin: %s, before: %s", now, before)
		}
		if !inRecord(t, pod) {
			t.Errorf("%s is not in the record, although nobody has told the plugin", pod.Name)
		}
		harness.ExpectRecorded(t, left)
		harness.ExpectExactlyOnce(t, stations, 20, true)
	}
	deleted(dashboard, 2)
	_, log, _ := harness.Control(t, nil, "heal")
	t.Logf("vxcanctl heal\n%s", log)
	if slices.Contains(harness.CANLinks(t), "vcan1") || inRecord(t, dashboard) {
		t.Errorf("after heal: devices %v, dashboard in the record: %v", harness.CANLinks(t), inRecord(t, dashboard))
	}
	deleted(engine, 1)
	n.Apply("plain", "can0")
	n.WaitFor("plain has a sandbox", func() bool {
		all := n.Sandboxes("plain")
		return len(all) == 1 && all[0].State == cri.PodSandboxState_SANDBOX_READY
	})
	ip, netns := n.Inspect(n.Sandboxes("plain")[0].Id)
	err := netns.Do(func(ns.NetNS) error {
		if got := harness.Links(t); ip == "" || slices.ContainsFunc(got, func(l harness.Link) bool { return l.Kind == "vxcan" }) {
			t.Errorf("a pod without the entry has the IP %q and the devices %v", ip, got)
		}
		return nil
	})
	if err := errors.Join(err, netns.Close()); err != nil {
		t.Error(err)
	}
	n.Delete("plain")

	n.ReplacePodNetwork(harness.PodNetwork(t, harness.PodHubs))
	n.Apply("late", "can0")
	stations = append(stations, n.Running("late").On("can0"))
	if inRecord(t, engine) {
		t.Error("engine is in the record after an ADD")
	}
	harness.ExpectRecorded(t, 2)
	harness.ExpectExactlyOnce(t, stations, 20, true)
	n.Delete("logger")
	n.Delete("late")
	n.ExpectGone()
	harness.ExpectOnlyConfiguredHub(t)
}
