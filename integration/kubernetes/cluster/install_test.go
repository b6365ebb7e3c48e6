package cluster

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/vxcan/vxcan/integration/harness"
)

// tooEarly: before vxcan is on a node, a pod with the init container of the page does not run.
func tooEarly(t *testing.T, c *harness.Cluster) {
	c.Apply(harness.Example(t, "deployment.yaml"))
	c.WaitFor("the init containers have failed", func() bool {
		out := c.Kubectl("get", "pods", "--selector", dashboards, "-o", "jsonpath={.items[*].status.initContainerStatuses[*].restartCount}")
		return len(out) > 0 && !strings.Contains(out, "0")
	})
	t.Log(c.Kubectl("get", "pods"))
}

// overlay installs vxcan by an overlay with components, and starts pods on both nodes.
func overlay(t *testing.T, c *harness.Cluster, name string, components ...string) {
	dir := harness.Manifests(t, name, components...) + "/" + name
	t.Log(c.Kubectl("apply", "--dry-run=server", "-k", dir))
	t.Log(c.Kubectl("apply", "-k", dir))
	c.Rollout("daemonset/vxcan", "-n", "kube-system")
	for _, n := range c.Nodes {
		c.WaitFor("containerd of "+n.Name+" has loaded the entry", func() bool { return strings.Contains(n.CNIConfig(), "vxcan") })
	}
	c.Kubectl("delete", "deployment", "dashboard", "--ignore-not-found")
	deploy(t, c)
}

// uninstall: what the page says. Pods keep their bus, new ones get none, and the file of the pod network is as it was.
func uninstall(t *testing.T, c *harness.Cluster, name string) {
	c.Kubectl("-n", "kube-system", "set", "env", "ds/vxcan", "VXCAN_REMOVE_ON_EXIT=true")
	c.Rollout("daemonset/vxcan", "-n", "kube-system")
	c.Kubectl("delete", "-k", harness.Manifests(t, name)+"/"+name)
	for _, n := range c.Nodes {
		c.WaitFor("the entry is gone on "+n.Name, func() bool { return !strings.Contains(n.PodNetworkFile(), "vxcan") })
		if got, want := strings.TrimSpace(n.PodNetworkFile()), strings.TrimSpace(string(harness.PodNetwork(t, ""))); got != want {
			t.Errorf("%s: left %s, want %s", n.Name, got, want)
		}
	}
	exchange(t, c, 1, 1)
	c.Kubectl("delete", "deployment", "dashboard")
	for _, n := range c.Nodes {
		c.WaitFor("no endpoint is left on "+n.Name, func() bool { return len(n.CANLinks()) == 3 })
		n.Control("heal")
		n.Control("remove", "vcan0")
	}
	c.Log("%s is uninstalled", name)
}

// upgrade: the DaemonSet gets another image under pods that run, and goes back.
func upgrade(t *testing.T, c *harness.Cluster) {
	const next = "localhost/vxcan-install:next"
	archive, plugin := harness.NextInstallImage(t, next)
	for _, n := range c.Nodes {
		n.LoadImage(archive)
	}
	before := c.Pods(dashboards)
	c.Kubectl("-n", "kube-system", "set", "image", "ds/vxcan", "install="+next)
	c.Rollout("daemonset/vxcan", "-n", "kube-system")
	for _, n := range c.Nodes {
		if !bytes.Equal(n.Read("/opt/cni/bin/vxcan"), plugin) {
			t.Errorf("%s has not the plugin of the new image", n.Name)
		}
	}
	exchange(t, c, 1, 1)
	for i, pod := range c.Pods(dashboards) {
		if pod.Metadata.UID != before[i].Metadata.UID || pod.Status.ContainerStatuses[0].RestartCount != before[i].Status.ContainerStatuses[0].RestartCount {
			t.Errorf("pod %s was started again", pod.Metadata.Name)
		}
	}
	c.Kubectl("rollout", "restart", "deployment/dashboard") // the new plugin deletes what the old one has added
	c.Rollout("deployment/dashboard")
	c.Kubectl("-n", "kube-system", "rollout", "undo", "ds/vxcan")
	c.Rollout("daemonset/vxcan", "-n", "kube-system")
	for _, n := range c.Nodes {
		if bytes.Equal(n.Read("/opt/cni/bin/vxcan"), plugin) {
			t.Errorf("%s still has the plugin of the new image", n.Name)
		}
	}
	c.Kubectl("scale", "deployment/dashboard", "--replicas=0")
	c.Kubectl("scale", "deployment/dashboard", "--replicas=2")
	c.Rollout("deployment/dashboard")
	exchange(t, c, 1, 1)
}

// chart: the chart with all that it can have more. vxcanctl by kubectl, metrics, labels of nodes, and an entry of one node.
func chart(t *testing.T, c *harness.Cluster) {
	const values = `
vxcanctl: {enabled: true}
labels: {enabled: true}
entryOfNode:
  node2: {type: vxcan, hub: vcan7, capabilities: {io.kubernetes.cri.pod-annotations: true}}
`
	dir := harness.Manifests(t, "kubeadm")
	file := dir + "/values.yaml"
	harness.Write(t, file, values)
	t.Log(c.Helm("version"))
	t.Log(c.Helm("lint", "--strict", dir+"/chart", "--values", file))
	rendered := c.Helm("template", "vxcan", dir+"/chart", "--namespace", "kube-system", "--values", file)
	harness.Write(t, dir+"/rendered.yaml", rendered)
	t.Log(c.Kubectl("apply", "--dry-run=server", "-f", dir+"/rendered.yaml"))
	t.Log(c.Helm("install", "vxcan", dir+"/chart", "--namespace", "kube-system", "--values", file))
	c.Rollout("daemonset/vxcan", "-n", "kube-system")
	for _, n := range c.Nodes {
		c.WaitFor("containerd of "+n.Name+" has loaded the entry", func() bool { return strings.Contains(n.CNIConfig(), "vxcan") })
	}
	c.Apply(harness.Example(t, "deployment.yaml"))
	c.Rollout("deployment/dashboard")
	awaitSpread(c, 1, 1)
	for i, hub := range []string{"vcan0", "vcan7"} {
		n := c.Nodes[i]
		stations := c.Stations(n, dashboards, hub, "can0")
		if len(stations) != 2 {
			t.Fatalf("%s: stations %v", n.Name, stations)
		}
		talk(t, stations)
		look(t, c, n, hub, stations[1].Name)
	}
	labels(t, c)
	rights(t, c)

	c.Helm("upgrade", "vxcan", dir+"/chart", "--namespace", "kube-system", "--values", file, "--set", "removeOnExit=true")
	c.Rollout("daemonset/vxcan", "-n", "kube-system")
	for _, n := range c.Nodes {
		c.WaitFor("the labels are gone on "+n.Name, func() bool { return !strings.Contains(labelsOf(c, n.Name), "vxcan.dev/") })
	}
	c.Helm("uninstall", "vxcan", "--namespace", "kube-system", "--wait")
	for _, n := range c.Nodes {
		c.WaitFor("the entry is gone on "+n.Name, func() bool { return !strings.Contains(n.PodNetworkFile(), "vxcan") })
	}
	c.Kubectl("delete", "deployment", "dashboard")
	for _, n := range c.Nodes {
		c.WaitFor("no endpoint is left on "+n.Name, func() bool { return len(n.CANLinks()) <= 3 })
	}
}

// look: vxcanctl by kubectl shows the node's bus and the name of its pod, and so do the metrics. doctor finds nothing wrong
// with it.
func look(t *testing.T, c *harness.Cluster, n *harness.ClusterNode, hub, pod string) {
	t.Helper()
	daemon := ofNode(t, c, n)
	out := c.Kubectl("-n", "kube-system", "exec", daemon, "--", "vxcanctl")
	t.Logf("kubectl -n kube-system exec %s -- vxcanctl\n%s", daemon, out)
	for _, word := range []string{hub, "healthy", "default/" + pod} {
		if !strings.Contains(out, word) {
			t.Errorf("%s: vxcanctl does not show %s", n.Name, word)
		}
	}
	doctor, err := c.TryKubectl("-n", "kube-system", "exec", daemon, "--", "vxcanctl", "doctor")
	t.Logf("vxcanctl doctor: %v\n%s", err, doctor)
	if !strings.Contains(doctor, "bus "+hub+" with 1 container") {
		t.Errorf("%s: doctor does not look at the bus", n.Name)
	}
	answer, err := http.Get("http://" + n.IP() + ":9732/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK || !strings.Contains(string(text), `vxcan_bus_whole{hub="`+hub+`"} 1`) ||
		!strings.Contains(string(text), `name="default/`+pod+`"`) {
		t.Errorf("metrics: %s, %v\n%s", answer.Status, err, text)
	}
}

// labelsOf are the labels of ours that a node has.
func labelsOf(c *harness.Cluster, node string) string {
	c.T.Helper()
	return c.Kubectl("get", "node", node, "-o", "jsonpath={.metadata.labels}")
}

// labels: a pod that must have an adapter waits until a node has it, and starts there.
func labels(t *testing.T, c *harness.Cluster) {
	t.Helper()
	for i, hub := range []string{"vcan0", "vcan7"} {
		c.WaitFor(c.Nodes[i].Name+" has the label of "+hub, func() bool {
			return strings.Contains(labelsOf(c, c.Nodes[i].Name), `"vxcan.dev/hub-`+hub+`":"true"`)
		})
	}
	pod := strings.Replace(harness.Example(t, "pod.yaml"), "spec:\n", "spec:\n  nodeSelector: {vxcan.dev/hub-can-engine: \"true\"}\n", 1)
	c.Apply(pod)
	c.WaitFor("the pod waits for a node with the adapter", func() bool { return strings.Contains(c.Events("engine"), "FailedScheduling") })
	t.Log(c.Events("engine"))
	second := c.Nodes[1]
	second.Command("ip", "link", "add", "can-engine", "type", "vcan")
	c.Kubectl("wait", "--for=condition=Ready", "pod/engine", "--timeout=180s")
	if got := c.Kubectl("get", "pod", "engine", "-o", "jsonpath={.spec.nodeName}"); got != second.Name {
		t.Errorf("it is on %s, want %s", got, second.Name)
	}
	c.Log("the pod is on the node with the adapter; labels %s", labelsOf(c, second.Name))
	second.Command("ip", "link", "del", "can-engine")
	c.WaitFor("the label goes with the adapter", func() bool { return !strings.Contains(labelsOf(c, second.Name), "hub-can-engine") })
	c.Kubectl("delete", "pod", "engine", "--grace-period=1")
}

// rights: the account of the labels may do nothing else with a node, nor anything with another one.
func rights(t *testing.T, c *harness.Cluster) {
	t.Helper()
	owner := func(uid string) string {
		return `{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"Node","name":"node2","uid":"` + uid + `"}]}}`
	}
	c.Kubectl("patch", "node", "node1", "--type=merge", "-p", owner(c.Kubectl("get", "node", "node2", "-o", "jsonpath={.metadata.uid}")))
	as := []string{"--as=system:serviceaccount:kube-system:vxcan", "--as-user-extra=authentication.kubernetes.io/node-name=node1"}
	for _, test := range []struct {
		words string // of the refusal; "" is allowed
		args  []string
	}{
		{"", []string{"label", "node", "node1", "vxcan.dev/hub-x=true"}},
		{"", []string{"label", "node", "node1", "vxcan.dev/hub-x-"}},
		{"vxcan labels only the node that it runs on", []string{"label", "node", "node2", "vxcan.dev/hub-x=true"}},
		{"", []string{"label", "node", "node1", "vxcan.dev/hub=true", "--overwrite"}},
		{"vxcan changes only labels", []string{"label", "node", "node1", "zone=a"}},
		{"vxcan changes only labels", []string{"label", "node", "node1", "vxcan.dev/hubs=true"}},
		{"vxcan changes only labels", []string{"label", "node", "node1", "kubernetes.io/hostname-"}},
		{"vxcan changes only labels of a node", []string{"annotate", "node", "node1", "a=b"}},
		{"vxcan changes only labels of a node", []string{"patch", "node", "node1", "-p", `{"spec":{"unschedulable":true}}`}},
		{"vxcan changes only labels of a node", []string{"patch", "node", "node1", "--type=merge", "-p", owner("0c0ffee0-0000-4000-8000-000000000000")}},
		{"forbidden", []string{"delete", "node", "node1"}},
		{"forbidden", []string{"get", "secrets", "-n", "kube-system"}},
		{"forbidden", []string{"get", "nodes"}},
	} {
		out, err := c.TryKubectl(append(test.args, as...)...)
		switch {
		case test.words == "" && err != nil:
			t.Errorf("%v: %v", test.args, err)
		case test.words != "" && (err == nil || !strings.Contains(err.Error(), test.words)):
			t.Errorf("%v: %v %s, want %s", test.args, err, out, test.words)
		}
	}
}
