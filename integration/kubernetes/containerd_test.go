// Package kubernetes tests pods of containerd, as a kubelet asks for them.
package kubernetes

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/plugins/pkg/ns"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/vxcan/vxcan/integration/harness"
)

// networkReady is what a kubelet reads of the node's network, and the reason why it is not ready.
func networkReady(c *harness.Containerd) (ready bool, reason string) {
	c.T.Helper()
	status, err := c.CRI.Status(c.T.Context(), &cri.StatusRequest{})
	if err != nil {
		c.T.Fatal(err)
	}
	for _, condition := range status.Status.Conditions {
		if condition.Type == "NetworkReady" {
			return condition.Status, condition.Message
		}
	}
	return false, "no condition of that name"
}

// TestContainerd: pods by the container runtime interface: IP and can0 for those that ask, on one bus; a restart of
// containerd; and the same pod again in another sandbox.
func TestContainerd(t *testing.T) {
	harness.FreshHost(t)
	c := harness.NewContainerd(t)
	t.Logf("containerd %s", c.Version())
	if ready, reason := networkReady(c); !ready {
		t.Errorf("the node's network is not ready: %s", reason)
	}
	host := harness.Host("vcan0")
	engine, dashboard := c.RunPod("engine", "can0"), c.RunPod("dashboard", "vcan0:can3,vcan1:can1")
	plain := c.RunPod("plain", "")
	stations := []harness.Station{host, c.Station(engine, "can0"), c.Station(dashboard, "can3")}
	harness.ExpectExactlyOnce(t, stations, 50, true)
	harness.ExpectExactlyOnce(t, []harness.Station{harness.Host("vcan1"), c.Station(dashboard, "can1")}, 5, true)
	ip, netns := c.Inspect(plain)
	if ip == "" {
		t.Error("the pod without annotation has no IP")
	}
	if err := netns.Do(func(ns.NetNS) error {
		for _, l := range harness.Links(t) {
			if l.Kind == "vxcan" {
				t.Errorf("the pod without annotation has %s", l.Name)
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}

	c.Stop()
	harness.ExpectExactlyOnce(t, stations, 5, true) // pods do not need it
	c.Start()
	harness.ExpectExactlyOnce(t, stations, 5, true)

	c.RemovePod(engine)
	engine = c.RunPod("engine", "can0")
	harness.ExpectExactlyOnce(t, []harness.Station{host, c.Station(engine, "can0"), c.Station(dashboard, "can3")}, 5, true)

	if _, err := c.TryPod("wrong", "vcan0:a/b"); err == nil || !strings.Contains(err.Error(), `annotation vxcan/networks is "vcan0:a/b"`) {
		t.Errorf("a pod that asks for nonsense: %v", err)
	} else {
		t.Logf("a pod that asks for nonsense: %v", err)
	}
	for _, id := range []string{engine, dashboard, plain} {
		c.RemovePod(id)
	}
	if got, want := harness.CANLinks(t), []string{"vcan0", "vcan0-rx", "vcan0-tx"}; !slices.Equal(got, want) {
		t.Errorf("devices with all pods gone: %v, want those of the configured hub: %v", got, want)
	}
}

// TestContainerdEveryPod: without the capability every pod is attached, whether it asks for it or not.
func TestContainerdEveryPod(t *testing.T) {
	harness.FreshHost(t)
	var list harness.PodConflist
	harness.ReadJSON(t, harness.Repo("conflist/containerd/cni.conflist"), &list)
	list.Plugins[len(list.Plugins)-1] = json.RawMessage(`{"type":"vxcan"}`)
	c := harness.NewContainerdWith(t, harness.Marshal(t, list))
	stations := []harness.Station{harness.Host("vcan0")}
	for name, annotation := range map[string]string{"engine": "", "dashboard": "vcan1:can1"} {
		stations = append(stations, c.Station(c.RunPod(name, annotation), "can0"))
	}
	harness.ExpectExactlyOnce(t, stations, 50, true)
	if slices.Contains(harness.CANLinks(t), "vcan1") {
		t.Error("an annotation was heard that nobody passes on")
	}
}

// TestContainerdK3s runs the files for k3s.
func TestContainerdK3s(t *testing.T) {
	harness.FreshHost(t)
	c := harness.NewContainerdWith(t, harness.Marshal(t, harness.K3sConflist(t)))
	manifest, err := os.ReadFile(harness.Repo("conflist/k3s/pod.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	_, annotation, ok := strings.Cut(string(manifest), "vxcan/networks: ")
	if !ok {
		t.Fatalf("no annotation in pod.yaml:\n%s", manifest)
	}
	box := harness.NewContainer(t, "multus") // before the pod: ip netns mounts /run/netns anew, and then containerd cannot end a pod
	pod := c.Station(c.RunPod("engine", harness.FirstLine(annotation)), "can0")
	harness.ExpectExactlyOnce(t, []harness.Station{harness.Host("vcan0"), pod}, 20, true)

	// Multus takes the configuration out of its resource, and gives it the resource's name and the asked-for interface.
	definition, err := os.ReadFile(harness.Repo("conflist/k3s/multus.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	_, conf, ok := strings.Cut(string(definition), "config: |")
	if !ok {
		t.Fatalf("no configuration in multus.yaml:\n%s", definition)
	}
	delegate := harness.Call{Conf: conf, ContainerID: "multus", Netns: box.Path, IfName: "net1"}.With(`"name":"canbus0"`)
	delegate.Add(t)
	harness.ExpectExactlyOnce(t, []harness.Station{harness.Host("vcan0"), pod, box.On("net1")}, 20, true)
	delegate.OK(t, "DEL")
}

// TestContainerdStatus: from containerd 2 on, a network of CNI 1.1.0 makes the node ready or not by STATUS, which fails
// only where an ADD would.
func TestContainerdStatus(t *testing.T) {
	harness.FreshHost(t)
	list := `{"cniVersion":"1.1.0","name":"pods","plugins":[{"type":"vxcan"}]}`
	c := harness.NewContainerdWith(t, []byte(list))
	if ready, reason := networkReady(c); !ready {
		t.Errorf("containerd %s: not ready: %s", c.Version(), reason)
	}
	if c.Version() < "2" {
		t.Logf("containerd %s asks no plugin for its STATUS", c.Version())
		return
	}
	restore := harness.WithoutModules(t)
	if ready, reason := networkReady(c); ready || !strings.Contains(reason, "can-gw") {
		t.Errorf("containerd %s: ready %v without modules: %s", c.Version(), ready, reason)
	} else {
		t.Logf("containerd %s: %s", c.Version(), reason)
	}
	restore()
	if ready, reason := networkReady(c); !ready {
		t.Errorf("containerd %s: not ready again: %s", c.Version(), reason)
	}
}
