package integration

import (
	"errors"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/plugins/pkg/ns"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/vxcan/vxcan/pkg/cantest"
)

// These tests run a kubelet, which is slow to build: make test-kubelet. Their node has no API server. Pods are files in a
// directory, which the kubelet treats like those of an API server: it starts, stops and retries them the same way.

const podHubs = `"pod-hubs":["vcan*"]`

// TestKubelet: pods with the annotation have an IP and their interfaces, and are on the bus; without it, an IP. They go on
// when the kubelet and containerd start again, and leave nothing behind.
func TestKubelet(t *testing.T) {
	freshHost(t)
	n := newNode(t, podHubs)
	n.apply("engine", "can0")
	n.apply("dashboard", "vcan0:can0,vcan1:can1")
	engine, dashboard := n.running("engine"), n.running("dashboard")
	t.Logf("engine:\n%s", engine.exec("/bin/busybox", "ip", "addr"))
	stations := []station{{"host", nil, "vcan0"}, engine.on("can0"), dashboard.on("can0")}
	expectExactlyOnce(t, stations, 50, true)
	expectExactlyOnce(t, []station{{"host", nil, "vcan1"}, dashboard.on("can1")}, 20, true)
	dashboard.exec("cansend", "can0", "123#1122")
	n.waitFor("the log of engine shows a frame of dashboard", func() bool {
		return strings.Contains(engine.logs(), "123   [2]  11 22")
	})
	expectRecorded(t, 2)

	n.stopKubelet()
	n.stop()
	expectExactlyOnce(t, stations, 10, true)
	n.start()
	seen := func() int { return len(n.logged("Pod update broadcasted.*ADDED")) }
	before := seen()
	n.startKubelet()
	n.waitFor("the kubelet has seen its pods again", func() bool { return seen() == before+2 })
	if again := n.running("engine"); again.container != engine.container {
		t.Error("engine was started again with the kubelet")
	}
	expectExactlyOnce(t, stations, 10, true)

	n.delete("engine")
	n.delete("dashboard")
	n.expectGone()
	expectOnlyConfiguredHub(t)
}

// TestKubeletPluginAway: a pod that is deleted while the plugin's file is away stays half deleted: it keeps its IP, its
// netns and its endpoint. A new pod does not start, and each of the kubelet's attempts uses up an IP of host-local: what
// containerd does after a failed ADD ends at the missing plugin. Other pods go on. Once the file is back, the kubelet
// finishes both pods, but those IPs stay reserved.
func TestKubeletPluginAway(t *testing.T) {
	freshHost(t)
	n := newNode(t, podHubs)
	n.apply("engine", "can0")
	n.apply("dashboard", "can0")
	n.running("engine")
	dashboard := n.running("dashboard")

	plugin, away := n.dir+"/bin/vxcan", n.dir+"/vxcan"
	command(t, "mv", plugin, away)
	failures := func(pod string) int {
		return len(n.logged(`"Error syncing pod, skipping".*failed to find plugin .*vxcan.* pod="default/` + pod + `-node"`))
	}
	n.delete("engine")
	n.waitFor("the kubelet has failed three times to delete engine", func() bool { return failures("engine") > 2 })
	t.Logf("%s", n.logged("pod_workers.*engine-node")[0])
	if len(podNetns(t)) != 2 || len(podIPs(t)) != 2 {
		t.Errorf("netns %v, IPs %v, want two of each", podNetns(t), podIPs(t))
	}
	expectRecorded(t, 2)
	n.apply("late", "can0")
	n.waitFor("the kubelet has failed three times to start late", func() bool { return failures("late") > 2 })
	t.Logf("%s", n.logged("pod_workers.*late-node")[0])
	expectExactlyOnce(t, []station{{"host", nil, "vcan0"}, dashboard.on("can0")}, 20, true)

	command(t, "mv", away, plugin)
	late := n.running("late")
	n.waitFor("two pods are left", func() bool { return len(podNetns(t)) == 2 && len(hostEnds(t)) == 2 })
	expectExactlyOnce(t, []station{{"host", nil, "vcan0"}, dashboard.on("can0"), late.on("can0")}, 20, true)
	expectRecorded(t, 2)
	n.delete("dashboard")
	n.delete("late")
	n.waitFor("all pods are gone", func() bool { return len(podNetns(t))+len(hostEnds(t)) == 0 })
	expectOnlyConfiguredHub(t)
	lost := len(podIPs(t))
	t.Logf("%d failed attempts to start late, %d IPs lost", failures("late"), lost)
	if lost < 3 || lost > failures("late") {
		t.Errorf("%d IPs lost, want one of each of %d attempts: say so in conflist/README.md", lost, failures("late"))
	}
}

// TestKubeletPluginUpgrade: a new file of the plugin, renamed over the old one, as installers do it. Pods that run do not
// notice, and the new plugin deletes what the old one made.
func TestKubeletPluginUpgrade(t *testing.T) {
	freshHost(t)
	n := newNode(t, podHubs)
	n.apply("engine", "can0")
	n.apply("dashboard", "can0")
	engine, dashboard := n.running("engine"), n.running("dashboard")
	stations := []station{{"host", nil, "vcan0"}, engine.on("can0"), dashboard.on("can0")}
	calls := n.replacePlugin()
	expectExactlyOnce(t, stations, 50, true)
	expectRecorded(t, 2)
	n.delete("engine")
	n.waitFor("the new plugin has deleted engine", func() bool { return calls() == "DEL " })
	n.apply("late", "can0")
	late := n.running("late")
	stations[1] = late.on("can0")
	expectExactlyOnce(t, stations, 20, true)
	expectRecorded(t, 2)
	n.delete("dashboard")
	n.delete("late")
	n.expectGone()
	expectOnlyConfiguredHub(t)
}

// TestKubeletEntryRemoved: without the entry of vxcan in the pod network, pods that have can0 keep it. When they are
// deleted, no DEL comes: the pair goes with the netns, and the next ADD on the bus or vxcanctl heal removes the rest.
func TestKubeletEntryRemoved(t *testing.T) {
	freshHost(t)
	n := newNode(t, podHubs)
	calls := n.replacePlugin()
	n.apply("engine", "can0")
	n.apply("dashboard", "vcan0:can0,vcan1:can1")
	n.apply("logger", "can0")
	engine, dashboard, logger := n.running("engine"), n.running("dashboard"), n.running("logger")
	stations := []station{{"host", nil, "vcan0"}, logger.on("can0")}

	deleted := func(pod podOn, left int) {
		t.Helper()
		n.replacePodNetwork(podNetwork(t, ""))
		before := calls()
		n.delete(pod.name)
		n.waitFor(pod.name+" is gone", func() bool { return len(podNetns(t)) == left && len(podIPs(t)) == left && len(hostEnds(t)) == left })
		if now := calls(); now != before {
			t.Errorf("calls of the plugin: %s, before: %s", now, before)
		}
		if !inRecord(t, pod) {
			t.Errorf("%s is not in the record, although nobody has told the plugin", pod.name)
		}
		expectRecorded(t, left)
		expectExactlyOnce(t, stations, 20, true)
	}
	deleted(dashboard, 2)
	_, log, _ := control(t, nil, "heal")
	t.Logf("vxcanctl heal\n%s", log)
	if slices.Contains(canLinks(t), "vcan1") || inRecord(t, dashboard) {
		t.Errorf("after heal: devices %v, dashboard in the record: %v", canLinks(t), inRecord(t, dashboard))
	}
	deleted(engine, 1)
	n.apply("plain", "can0")
	n.waitFor("plain has a sandbox", func() bool {
		all := n.sandboxes("plain")
		return len(all) == 1 && all[0].State == cri.PodSandboxState_SANDBOX_READY
	})
	ip, netns := n.inspect(n.sandboxes("plain")[0].Id)
	err := netns.Do(func(ns.NetNS) error {
		if got := links(t); ip == "" || slices.ContainsFunc(got, func(l link) bool { return l.Kind == "vxcan" }) {
			t.Errorf("a pod without the entry has the IP %q and the devices %v", ip, got)
		}
		return nil
	})
	if err := errors.Join(err, netns.Close()); err != nil {
		t.Error(err)
	}
	n.delete("plain")

	n.replacePodNetwork(podNetwork(t, podHubs))
	n.apply("late", "can0")
	stations = append(stations, n.running("late").on("can0"))
	if inRecord(t, engine) {
		t.Error("engine is in the record after an ADD")
	}
	expectRecorded(t, 2)
	expectExactlyOnce(t, stations, 20, true)
	n.delete("logger")
	n.delete("late")
	n.expectGone()
	expectOnlyConfiguredHub(t)
}

// TestRebootKubelet: after a reboot the kubelet runs the pods again, each in a new sandbox, and nothing of the old ones is
// left.
func TestRebootKubelet(t *testing.T) {
	boot := bootNumber(t)
	if boot == 2 {
		expectNoHub(t, "vcan0")
		t.Logf("before the kubelet: IPs %v", podIPs(t))
	}
	n := newNode(t, podHubs)
	if boot == 1 {
		n.apply("engine", "can0")
		n.apply("dashboard", "vcan0:can0,vcan1:can1")
	}
	engine, dashboard := n.running("engine"), n.running("dashboard")
	t.Logf("engine:\n%s", engine.exec("/bin/busybox", "ip", "addr"))
	expectExactlyOnce(t, []station{{"host", nil, "vcan0"}, engine.on("can0"), dashboard.on("can0")}, 50, true)
	expectExactlyOnce(t, []station{{"host", nil, "vcan1"}, dashboard.on("can1")}, 20, true)
	n.waitFor("two pods have two IPs", func() bool { return len(podIPs(t)) == 2 })
	expectRecorded(t, 2)
	if boot == 2 {
		n.delete("engine")
		n.delete("dashboard")
		n.expectGone()
		expectOnlyConfiguredHub(t)
	}
}

// TestRebootKubeletLate: after a reboot the controller of the bus comes late. The kubelet tries again and again, with a new
// sandbox each time, of which nothing is left, until it is there.
func TestRebootKubeletLate(t *testing.T) {
	boot := bootNumber(t)
	command(t, "modprobe", "slcan") // for the test to fail without it, and not to be skipped
	var controller *cantest.Controller
	plug := func() { controller = cantest.NewController(t, lateController) }
	if boot == 1 {
		plug()
	}
	n := newNode(t, `"hub":"`+lateController+`","physical":true,"bitrate":500000`)
	if boot == 1 {
		n.apply("engine", "can0")
	} else {
		failures := func() []string {
			return n.logged(`"Error syncing pod, skipping".*CreatePodSandbox.*` + lateController + `.*no such device`)
		}
		n.waitFor("the kubelet has failed three times to start engine", func() bool { return len(failures()) > 2 })
		t.Logf("%s", failures()[0])
		sandboxes := make(map[string]bool)
		for _, line := range failures() {
			sandboxes[regexp.MustCompile("[0-9a-f]{64}").FindString(line)] = true
		}
		if len(sandboxes) < 3 {
			t.Errorf("sandboxes of the failures: %v, want three", sandboxes)
		}
		n.waitFor("nothing is left of them", func() bool { return len(podNetns(t))+len(podIPs(t))+len(canLinks(t)) == 0 })
		plug()
	}
	engine := n.running("engine")
	expectOnWire(t, controller, []station{{"host", nil, lateController}, engine.on("can0")}, 20)
	n.waitFor("one pod has one IP", func() bool { return len(podIPs(t)) == 1 })
}
