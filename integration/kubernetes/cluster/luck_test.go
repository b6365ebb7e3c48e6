package cluster

import (
	"strings"
	"testing"
	"time"

	"github.com/vxcan/vxcan/integration/harness"
)

// away: while the API server or etcd is away, pods keep their bus, and one whose sandbox is gone gets a new one with its
// interface. When it is back, new pods start.
func away(t *testing.T, c *harness.Cluster) {
	for _, part := range []string{"kube-apiserver", "etcd"} {
		pods := c.Pods(dashboards)
		c.StopPart(part)
		if part == "etcd" {
			time.Sleep(5 * time.Second) // for the API server to notice
		}
		for _, pod := range pods {
			n := c.Node(pod.Spec.NodeName)
			talk(t, n.Stations("vcan0", "can0", pod))
			n.KillSandbox(pod)
			c.WaitFor("the kubelet has started "+pod.Metadata.Name+" again", func() bool { return n.IsRunning(pod) })
			talk(t, n.Stations("vcan0", "can0", pod))
		}
		c.Log("%s is away: pods have their bus", part)
		c.StartPart(part)
		c.WaitFor("the API server is ready again", func() bool {
			_, err := c.TryKubectl("get", "--raw", "/readyz")
			return err == nil
		})
		c.Kubectl("wait", "--for=condition=Ready", "node", "--all", "--timeout=180s")
		c.Kubectl("rollout", "restart", "deployment/dashboard")
		c.Rollout("deployment/dashboard")
		c.Kubectl("scale", "deployment/dashboard", "--replicas=0")
		c.Kubectl("scale", "deployment/dashboard", "--replicas=2")
		c.Rollout("deployment/dashboard")
		exchange(t, c, 1, 1)
	}
}

// clock: the clock of the machine, which all nodes share, jumps by a day and back.
func clock(t *testing.T, c *harness.Cluster) {
	for _, change := range []string{"+1 day", "-1 day"} {
		harness.Command(t, "date", "--set", change)
		c.WaitFor("the API server is ready", func() bool {
			_, err := c.TryKubectl("get", "--raw", "/readyz")
			return err == nil
		})
		c.Kubectl("scale", "deployment/dashboard", "--replicas=4")
		c.Rollout("deployment/dashboard")
		exchange(t, c, 2, 2)
		c.Kubectl("scale", "deployment/dashboard", "--replicas=2")
		c.WaitFor("two pods are left", func() bool { return len(c.Pods(dashboards)) == 2 })
		c.Log("clock %s: new pods have their bus", change)
	}
	c.Kubectl("scale", "deployment/dashboard", "--replicas=0")
	c.Kubectl("scale", "deployment/dashboard", "--replicas=2")
	c.Rollout("deployment/dashboard")
	exchange(t, c, 1, 1)
}

// reboot: a node loses its power. When it is back, its pods are started again, with their interface; if its distribution has
// written the pod network anew by then, the guard of the Deployment holds them back.
func reboot(t *testing.T, c *harness.Cluster) {
	second := c.Nodes[1]
	second.PowerOff()
	talk(t, c.Stations(c.Nodes[0], dashboards, "vcan0", "can0"))
	second.PowerOn()
	c.Kubectl("wait", "--for=condition=Ready", "node", "--all", "--timeout=180s")
	c.Log("%s has booted again", second.Name)
	if strings.Contains(second.PodNetworkFile(), "vxcan") {
		c.Log("its pod network still has the entry")
	}
	c.Rollout("daemonset/vxcan", "-n", "kube-system")
	c.Rollout("deployment/dashboard")
	for _, pod := range c.Pods(dashboards) {
		t.Logf("%s on %s: %d restarts", pod.Metadata.Name, pod.Spec.NodeName, pod.Status.ContainerStatuses[0].RestartCount)
	}
	exchange(t, c, 1, 1)
}
