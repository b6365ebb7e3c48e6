// Package cluster runs a whole cluster of upstream Kubernetes, whose binary is slow to build: make test-cluster. In place of
// distributions, the nodes have their directories. DNS is of the test, for what needs one.
package cluster

import (
	"slices"
	"strings"
	"testing"

	"github.com/vxcan/vxcan/integration/harness"
)

// dashboards selects the pods of conflist/kubernetes/deployment.yaml.
const dashboards = "app=dashboard"

// TestCluster: on two nodes vxcan is installed, used, replaced and taken away, as the page of conflist/kubernetes says. Each
// part goes on with the cluster as the part before has left it.
func TestCluster(t *testing.T) {
	harness.FreshHost(t)
	c := harness.NewCluster(t, harness.K3sDirs, 2)
	c.Run("K3s", func(t *testing.T) {
		tooEarly(t, c)
		overlay(t, c, "k3s")
		uninstall(t, c, "k3s")
	})
	become(c, harness.MicroK8sDirs)
	c.Run("MicroK8s", func(t *testing.T) {
		overlay(t, c, "microk8s")
		uninstall(t, c, "microk8s")
	})
	become(c, harness.KubeadmDirs)
	c.Run("Kubeadm", func(t *testing.T) { overlay(t, c, "kubeadm") })
	c.Run("Pods", func(t *testing.T) { pods(t, c) })
	c.Run("Upgrade", func(t *testing.T) { upgrade(t, c) })
	c.Run("Events", func(t *testing.T) { events(t, c) })
	c.Run("Away", func(t *testing.T) { away(t, c) })
	c.Run("Hosts", func(t *testing.T) { hosts(t, c) })
	c.Run("Reboot", func(t *testing.T) { reboot(t, c) })
	c.Run("Uninstall", func(t *testing.T) { uninstall(t, c, "kubeadm") })
	c.Run("Chart", func(t *testing.T) { chart(t, c) })
	// The last one: a controller manager that has seen tomorrow judges no node until then.
	c.Run("Clock", func(t *testing.T) {
		overlay(t, c, "kubeadm", "vxcanctl", "labels")
		clock(t, c)
	})
}

func become(c *harness.Cluster, dirs harness.CNIDirs) {
	for _, n := range c.Nodes {
		n.Become(dirs)
	}
}

// exchange fails the test unless each node has this many pods of the Deployment, and each of them and the host of their node
// hear every frame of their bus once.
func exchange(t *testing.T, c *harness.Cluster, pods ...int) {
	t.Helper()
	awaitSpread(c, pods...)
	for i, n := range c.Nodes {
		if pods[i] > 0 {
			talk(t, c.Stations(n, dashboards, "vcan0", "can0"))
			n.ExpectWhole("vcan0", pods[i])
		}
	}
}

// awaitSpread waits until this many pods of the Deployment run on each node, and no others are there.
func awaitSpread(c *harness.Cluster, pods ...int) {
	c.T.Helper()
	c.WaitFor("the pods are on their nodes", func() bool {
		count := map[string]int{}
		for _, pod := range c.Pods(dashboards) {
			// The API server tells of a node that has lost its power what was before.
			if pod.Status.Phase != "Running" || pod.Metadata.DeletionTimestamp != "" || !c.Node(pod.Spec.NodeName).IsRunning(pod) {
				return false
			}
			count[pod.Spec.NodeName]++
		}
		for i, n := range c.Nodes {
			if count[n.Name] != pods[i] {
				return false
			}
		}
		return true
	})
}

// talk fails the test unless nodes and their pods hear every frame of each other once. It lets go of the pods' network
// namespaces, which would outlive the pods otherwise: the sockets at the end of a test of their own.
func talk(t *testing.T, stations []harness.Station) {
	t.Helper()
	t.Run("talk", func(t *testing.T) { harness.ExpectExactlyOnce(t, stations, 20, true) })
	for _, s := range stations {
		if s.IfName == "can0" { // in a pod
			s.Netns.Close()
		}
	}
}

// deploy starts a pod on each node.
func deploy(t *testing.T, c *harness.Cluster) {
	t.Helper()
	c.Apply(harness.Example(t, "deployment.yaml"))
	c.Rollout("deployment/dashboard")
	exchange(t, c, 1, 1)
}

// expectOnlyHub waits until a node has no CAN device but the configured hub and its backplane.
func expectOnlyHub(t *testing.T, c *harness.Cluster, n *harness.ClusterNode) {
	t.Helper()
	c.WaitFor("only the hub is left on "+n.Name, func() bool {
		names := n.CANLinks()
		return len(names) == 0 || slices.Equal(names, []string{"vcan0", "vcan0-rx", "vcan0-tx"})
	})
}

// ofNode is the pod of the DaemonSet on a node.
func ofNode(t *testing.T, c *harness.Cluster, n *harness.ClusterNode) string {
	t.Helper()
	for _, pod := range c.PodsIn("kube-system", "app.kubernetes.io/name=vxcan") {
		if pod.Spec.NodeName == n.Name && pod.Metadata.DeletionTimestamp == "" {
			return pod.Metadata.Name
		}
	}
	t.Fatalf("no pod of the DaemonSet on %s", n.Name)
	return ""
}

// pods: exec, logs, scale, delete, drain and uncordon.
func pods(t *testing.T, c *harness.Cluster) {
	for _, pod := range c.Pods(dashboards) {
		n := c.Node(pod.Spec.NodeName)
		t.Log(c.Kubectl("exec", pod.Metadata.Name, "--", "/bin/busybox", "ip", "addr"))
		c.Kubectl("exec", pod.Metadata.Name, "--", "cansend", "can0", "123#1122")
		n.Command("cansend", "vcan0", "321#3344")
		c.WaitFor("the log shows a frame of the host", func() bool {
			return strings.Contains(c.Kubectl("logs", pod.Metadata.Name), "321   [2]  33 44")
		})
	}
	c.Kubectl("scale", "deployment/dashboard", "--replicas=4")
	c.Rollout("deployment/dashboard")
	exchange(t, c, 2, 2)
	c.Kubectl("delete", "pod", c.Pods(dashboards)[0].Metadata.Name)
	c.Rollout("deployment/dashboard")
	exchange(t, c, 2, 2)

	first := c.Nodes[0]
	c.Kubectl("drain", first.Name, "--ignore-daemonsets", "--timeout=180s")
	c.Log("%s is drained", first.Name)
	expectOnlyHub(t, c, first)
	c.Rollout("deployment/dashboard")
	exchange(t, c, 0, 4)
	c.Kubectl("uncordon", first.Name)
	c.Kubectl("rollout", "restart", "deployment/dashboard")
	c.Rollout("deployment/dashboard")
	c.Kubectl("scale", "deployment/dashboard", "--replicas=0")
	for _, n := range c.Nodes {
		expectOnlyHub(t, c, n)
	}
	c.Kubectl("scale", "deployment/dashboard", "--replicas=2")
	c.Rollout("deployment/dashboard")
	exchange(t, c, 1, 1)
}

// events: a user sees by kubectl describe why a pod has no bus.
func events(t *testing.T, c *harness.Cluster) {
	expect := func(name, annotation, words string) {
		t.Helper()
		pod := strings.Replace(harness.Example(t, "pod.yaml"), "name: engine\n", "name: "+name+"\n", 1)
		c.Apply(strings.Replace(pod, "vxcan/networks: can0", "vxcan/networks: "+annotation, 1))
		c.WaitFor("an event of pod "+name+" says "+words, func() bool { return strings.Contains(c.Events(name), words) })
		t.Log(c.Events(name))
		c.Kubectl("delete", "pod", name, "--grace-period=1")
	}
	expect("stranger", "vcan1:can0", `hub "vcan1"`)
	expect("misspelt", "can0/", "can0/")
	for _, n := range c.Nodes {
		n.Command("mv", "/opt/cni/bin/vxcan", "/opt/cni/vxcan")
	}
	c.WaitFor("the DaemonSet puts the plugin back", func() bool {
		for _, n := range c.Nodes {
			if !n.Has("/opt/cni/bin/vxcan") {
				return false
			}
		}
		return true
	})
	exchange(t, c, 1, 1)
}
