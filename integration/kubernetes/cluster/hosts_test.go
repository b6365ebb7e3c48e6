package cluster

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/vxcan/vxcan/integration/harness"
	"github.com/vxcan/vxcan/pkg/cantest"
)

// hosts: one bus over both nodes. Then its hub on the first node is a controller, whose wire pods on the second node reach.
func hosts(t *testing.T, c *harness.Cluster) {
	harness.Command(t, "modprobe", "-a", "ip_gre", "slcan")
	first, second, open := c.Nodes[0], c.Nodes[1], ""
	if cantest.LacksTables() {
		open = `,"unprotected":true`
	}
	entry := func(keys string) string {
		return fmt.Sprintf(`{"type":"vxcan",%s,"hosts":[%q,%q],"bus-id":7%s,"capabilities":{"io.kubernetes.cri.pod-annotations":true}}`, keys, first.IP(), second.IP(), open)
	}
	nodes(t, c, `{"type":"vxcan","hub":"vcan0","hosts":"nodes","bus-id":7`+open+`,"capabilities":{"io.kubernetes.cri.pod-annotations":true}}`)

	c.Kubectl("scale", "deployment/dashboard", "--replicas=0")
	expectOnlyHub(t, c, first)
	first.Control("remove", "vcan0")
	adapter := cantest.NewController(t, "can-engine")
	harness.Command(t, "ip", "link", "set", "can-engine", "netns", first.Name)
	first.Command("ip", "link", "set", "can-engine", "txqueuelen", "1000", "up") // all send at once
	configure(t, c, map[string]string{
		"entry.json": entry(`"hub":"vcan0"`), first.Name + ".json": entry(`"hub":"can-engine","physical":true`),
	})
	c.Kubectl("scale", "deployment/dashboard", "--replicas=2")
	c.Rollout("deployment/dashboard")
	awaitSpread(c, 1, 1)
	wire := adapter.Listen()
	far, near := c.Stations(second, dashboards, "vcan0", "can0"), c.Stations(first, dashboards, "can-engine", "can0")[1]
	t.Run("wire", func(t *testing.T) {
		parties := []harness.Party{{Name: "wire", Listener: wire, Send: adapter.Send}}
		for _, s := range append(far, near) {
			parties = append(parties, s.Party(t))
		}
		harness.Exchange(t, parties, 20, false)
	})
	for _, s := range append(far, near) {
		if s.IfName == "can0" {
			s.Netns.Close()
		}
	}
	t.Log(first.Control("status"))
	t.Log(second.Control("status"))

	c.Kubectl("scale", "deployment/dashboard", "--replicas=0")
	configure(t, c, map[string]string{"entry.json": `{"type":"vxcan","hub":"vcan0","capabilities":{"io.kubernetes.cri.pod-annotations":true}}`})
	for _, n := range c.Nodes {
		c.WaitFor("no pod is on a bus of "+n.Name, func() bool { return !strings.Contains(n.Control("status"), "default/") })
		n.Control("heal")
	}
	first.Control("remove", "can-engine")
	second.Control("remove", "vcan0")
	c.Kubectl("scale", "deployment/dashboard", "--replicas=2")
	c.Rollout("deployment/dashboard")
	exchange(t, c, 1, 1)
}

// nodes: the hosts of a bus are the nodes that the headless Service knows. A new one starts no pod on the bus before it is known,
// and an old one follows with its next pod. Without DNS, pods start with the list from before.
func nodes(t *testing.T, c *harness.Cluster, entry string) {
	first, second := c.Nodes[0], c.Nodes[1]
	both := func() []harness.Station {
		return append(c.Stations(first, dashboards, "vcan0", "can0"), c.Stations(second, dashboards, "vcan0", "can0")...)
	}
	dns := c.StartDNS(t)
	dns.Hide(second.IP())
	c.Kubectl("scale", "deployment/dashboard", "--replicas=0")
	c.WaitFor("no pod is left", func() bool { return len(c.Pods(dashboards)) == 0 })
	configure(t, c, map[string]string{"entry.json": entry})
	c.WaitFor("the first node is known", func() bool { return strings.Contains(first.PodNetworkFile(), first.IP()) })
	c.Kubectl("scale", "deployment/dashboard", "--replicas=2")
	var late string
	c.WaitFor("the second node refuses a pod that knows no way to it", func() bool {
		for _, pod := range c.Pods(dashboards) {
			if strings.Contains(c.Events(pod.Metadata.Name), "none of hosts "+first.IP()+" is an address of this host") {
				late = pod.Metadata.Name
			}
		}
		return late != ""
	})
	t.Log(c.Events(late))
	dns.Hide("")
	c.Rollout("deployment/dashboard")
	awaitSpread(c, 1, 1)
	for _, n := range c.Nodes {
		c.WaitFor(n.Name+" knows both", func() bool {
			return strings.Contains(n.PodNetworkFile(), first.IP()) && strings.Contains(n.PodNetworkFile(), second.IP())
		})
	}
	if s := first.Control("status"); strings.Contains(s, second.IP()) {
		t.Errorf("the first node has a trunk, and no pod has started since: %s", s)
	}
	c.Kubectl("scale", "deployment/dashboard", "--replicas=4")
	c.Rollout("deployment/dashboard")
	awaitSpread(c, 2, 2)
	talk(t, both())
	dns.Stop()
	again(t, c)
	talk(t, both())
	t.Log(second.Control("status"))
}

// configure changes the ConfigMap, and waits until each node has its entry.
func configure(t *testing.T, c *harness.Cluster, entries map[string]string) {
	t.Helper()
	object := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: vxcan, namespace: kube-system}\ndata:\n"
	for name, entry := range entries {
		object += fmt.Sprintf("  %s: %q\n", name, entry)
	}
	c.Apply(object)
	for _, n := range c.Nodes {
		own, ok := entries[n.Name+".json"]
		if !ok {
			own = entries["entry.json"]
		}
		var entry struct{ Hub string }
		if err := json.Unmarshal([]byte(own), &entry); err != nil {
			t.Fatal(err)
		}
		has := func(text string) bool {
			return strings.Contains(text, `"`+entry.Hub+`"`) && strings.Contains(text, "bus-id") == strings.Contains(own, "bus-id")
		}
		c.WaitFor(n.Name+" has its entry", func() bool { return has(n.PodNetworkFile()) })
		c.WaitFor("containerd of "+n.Name+" has loaded it", func() bool { return has(strings.ReplaceAll(n.CNIConfig(), `\"`, `"`)) })
	}
}

// again starts the pods of the Deployment again.
func again(t *testing.T, c *harness.Cluster) {
	t.Helper()
	c.Kubectl("scale", "deployment/dashboard", "--replicas=0")
	c.WaitFor("no pod is left", func() bool { return len(c.Pods(dashboards)) == 0 })
	c.Kubectl("scale", "deployment/dashboard", "--replicas=2")
	c.Rollout("deployment/dashboard")
	awaitSpread(c, 1, 1)
}
