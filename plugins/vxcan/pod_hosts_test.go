package main

import (
	"testing"

	"github.com/containernetworking/cni/pkg/skel"

	"github.com/vxcan/vxcan/pkg/config"
)

// TestPodHubsHere: what the network says of hosts holds for its own hub; others that a pod names stay on their node.
func TestPodHubsHere(t *testing.T) {
	c := forPod(t, "can0,bench1:can1", `["bench*"]`)
	c.network.Hub.Span = config.Span{Hosts: "10.9.0.1,10.9.0.2", BusID: 7}
	requests, err := c.requests(&skel.CmdArgs{ContainerID: "id", IfName: "eth0"})
	if err != nil || len(requests) != 2 {
		t.Fatal(requests, err)
	}
	if own := requests[0].Hub; own.Span != c.network.Hub.Span {
		t.Errorf("own hub: %+v", own)
	}
	if other := requests[1].Hub; other != (config.Hub{Name: "bench1", Transient: true}) {
		t.Errorf("hub of pod-hubs: %+v", other)
	}
}
