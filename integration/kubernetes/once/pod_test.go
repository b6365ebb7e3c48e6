// Package once tests what the plugin does for a pod, without a runtime.
package once

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vxcan/vxcan/integration/harness"
)

// TestPodAnnotation: with the capability only pods are attached that ask for it, to the buses that they name.
func TestPodAnnotation(t *testing.T) {
	for _, c := range []struct {
		annotation string // the rest of the pod's annotations
		want       []string
	}{
		{``, nil},
		{`,"vxcan/networks":"can0"`, []string{"can0"}},
		{`,"vxcan/networks":"vcan0:can5, vcan1:can1"`, []string{"can5", "can1"}},
	} {
		t.Run(c.annotation, func(t *testing.T) {
			harness.FreshHost(t)
			box := harness.NewContainer(t, "pod")
			result, _ := harness.Pod(box, c.annotation).Add(t)
			var got []string
			for _, i := range result.Interfaces {
				if i.Sandbox != "" {
					got = append(got, i.Name)
				}
			}
			if want := append([]string{"eth0"}, c.want...); !slices.Equal(got, want) {
				t.Errorf("interfaces %v, want %v", got, want)
			}
			if len(box.Links(t)) != 1+len(c.want) { // lo
				t.Errorf("devices in the pod: %v", box.Links(t))
			}
			if c.want == nil {
				harness.ExpectNothing(t)
			}
			if err := harness.Pod(box, c.annotation).Check(t, result); err != nil {
				t.Error(err)
			}
			harness.Pod(box, c.annotation).OK(t, "DEL")
			if got := box.Links(t); len(got) != 1 {
				t.Errorf("after DEL: %v", got)
			}
			harness.ExpectOnlyConfiguredHub(t)
		})
	}
}

// TestPodHubsEndpoint: what the network says of an endpoint holds on each hub that a pod names. A rate is that of all that
// the pod sends to a hub.
func TestPodHubsEndpoint(t *testing.T) {
	harness.FreshHost(t)
	box := harness.NewContainer(t, "pod")
	harness.Pod(box, `,"vxcan/networks":"can0,can1"`).With(`"rate":100`).Fails(t, "ADD", 7, "can0 and can1 on hub vcan0: with a rate a pod may have one interface a hub")
	harness.ExpectNothing(t)
	this := harness.Pod(box, `,"vxcan/networks":"vcan0:can0,bench1:can1"`).With(`"send":"100","receive":"100","rate":100000,"mtu":16`)
	result, _ := this.Add(t)
	for hub, end := range map[string]string{"vcan0": "can0", "bench1": "can1"} {
		host, inside := harness.Host(hub), box.On(end)
		harness.ExpectPass(t, inside, host, true, false)
		harness.ExpectPass(t, host, inside, true, false)
	}
	for _, l := range box.Links(t) {
		if l.Kind == "vxcan" && l.MTU != 16 {
			t.Errorf("%s has MTU %d, want 16", l.Name, l.MTU)
		}
	}
	if err := this.Check(t, result); err != nil {
		t.Error(err)
	}
}

// TestPodAnnotationWrong: a pod that asks for what it may not have, or for nonsense, is told so, and nothing is made.
func TestPodAnnotationWrong(t *testing.T) {
	harness.FreshHost(t)
	box := harness.NewContainer(t, "pod")
	const known = ": the one of vxcan is vxcan/networks"
	for _, c := range []struct {
		annotation string // its value, or more annotations than that
		words      []string
	}{
		{`,"vxcan/network":"can0"`, []string{`"vxcan/network"` + known}},
		{`,"vxcan.io/networks":"can0"`, []string{`"vxcan.io/networks"` + known}},
		{`,"vxcan/networks":"can0","vxcan/netwerk":"x"`, []string{`"vxcan/netwerk"` + known}},
		{`,"` + strings.Repeat("vxcan", 40000) + `":"can0"`, []string{known}},
		{`"bench1"`, []string{`"bench1"`, "it is the name of a hub; want HUB:INTERFACE"}},
		{`"canbus0@can0"`, []string{`"canbus0@can0"`, "letters, digits"}},
		{`"` + strings.Repeat("can0", 50000) + `"`, []string{"can0can0"}},
		{`"` + strings.Repeat("bench1", 40000) + `:can0"`, []string{"bench1bench1"}},
		{`""`, []string{"vxcan/networks", "empty", "vcan0:can0,vcan1:can1"}},
		{`"can0,"`, []string{"vxcan/networks"}},
		{`"vcan0:can0:x"`, []string{"vxcan/networks", `"can0:x"`, "letters, digits"}},
		{`"can0,lo:can1"`, []string{`hub "lo"`, "a pod may name vcan0, vcan1, bench*"}},
		{`"vcan2:can0"`, []string{`hub "vcan2"`, "a pod may name vcan0, vcan1, bench*"}},
		{`"vcan0-tx:can0"`, []string{`hub "vcan0-tx"`, "a pod may name vcan0, vcan1, bench*"}},
		{`"bench-tx:can0"`, []string{`hub "bench-tx"`, "those of backplanes"}},
		{`"can0,can1,can2,can3,can4,can5,can6,can7,can8"`, []string{"9 interfaces, at most 8 are allowed"}},
		{`"can0,vcan1:can0"`, []string{"interface can0 is there twice"}},
		{`"bench1:can0,vcan1:can1,can0"`, []string{"interface can0 is there twice"}},
	} {
		t.Run(fmt.Sprintf("%.30s", c.annotation), func(t *testing.T) {
			annotation := c.annotation
			if annotation[0] != ',' {
				annotation = `,"vxcan/networks":` + annotation
			}
			this := harness.Pod(box, annotation)
			this.Fails(t, "ADD", 7, c.words...)
			this.OK(t, "DEL")
			if got := box.Links(t); len(got) != 1 { // lo
				t.Errorf("left in the pod: %v", got)
			}
			harness.ExpectNothing(t)
		})
	}
}

// TestPodHubs: a hub that was made because a pod named it goes with its last endpoint, whoever that is, and one that the
// administrator's configuration names stays.
func TestPodHubs(t *testing.T) {
	harness.FreshHost(t)
	first, second := harness.NewContainer(t, "first"), harness.NewContainer(t, "second")
	manyHubs := harness.Pod(first, `,"vxcan/networks":"bench0:can0,bench1:can1,vcan1:can2"`)
	manyHubs.Add(t)
	other := harness.Pod(second, `,"vxcan/networks":"bench1:can0"`)
	other.Add(t)
	harness.ExpectExactlyOnce(t, []harness.Station{harness.Host("bench1"), first.On("can1"), second.On("can0")}, 5, true)

	// The configuration may have been narrowed since.
	manyHubs.With(`"pod-hubs":[]`).OK(t, "DEL")
	if got, want := harness.CANLinks(t), []string{"bench1", "bench1-rx", "bench1-tx", harness.HostEnds(t)[0]}; !slices.Equal(got, want) {
		t.Errorf("with one pod left: %v, want %v", got, want)
	}
	other.OK(t, "DEL")
	harness.ExpectOnlyConfiguredHub(t)

	// Once the administrator's configuration names it, the hub stays.
	other.Add(t)
	theirs := harness.On(first).With(`"hub":"bench1","interface":"can7"`)
	theirs.Add(t)
	other.OK(t, "DEL")
	theirs.OK(t, "DEL")
	if got, want := harness.CANLinks(t), []string{"bench1", "bench1-rx", "bench1-tx"}; !slices.Equal(got, want) {
		t.Errorf("a configured hub without endpoints: %v, want %v", got, want)
	}
}

// TestPodHubsGC: a pod that is gone without a DEL takes its hub along at the next GC.
func TestPodHubsGC(t *testing.T) {
	harness.FreshHost(t)
	this := harness.Pod(harness.NewContainer(t, "pod"), `,"vxcan/networks":"bench0:can0"`)
	this.Add(t)
	harness.Call{}.With(`"cni.dev/valid-attachments":[]`).OK(t, "GC")
	harness.ExpectOnlyConfiguredHub(t)
}

// TestPodHubsHeal: a pod whose netns is gone without a DEL, as when vxcan has been taken out of the pod network, takes its
// hub along at the next vxcanctl heal, also when one before was killed at any message to the kernel.
func TestPodHubsHeal(t *testing.T) {
	heal := func(t *testing.T) {
		t.Helper()
		out, log, status := harness.Control(t, nil, "heal")
		if t.Logf("vxcanctl heal: exit status %d\n%s%s", status, out, log); status != 0 {
			t.Errorf("vxcanctl heal: exit status %d", status)
		}
		harness.ExpectOnlyConfiguredHub(t)
	}
	leave := func(t *testing.T) {
		t.Helper()
		harness.FreshHost(t)
		box := harness.NewContainer(t, "pod")
		harness.Pod(box, `,"vxcan/networks":"can0,bench0:can1"`).Add(t)
		box.Netns.Close()
		harness.Command(t, "ip", "netns", "del", box.ID)
		for deadline := time.Now().Add(10 * time.Second); len(harness.HostEnds(t)) > 0; time.Sleep(20 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("host ends without a netns: %v", harness.HostEnds(t))
			}
		}
	}
	leave(t)
	heal(t)
	harness.AtEach(t, "killed", func(t *testing.T, n int) bool {
		leave(t)
		args := append(harness.Injecting("signal=KILL", n), filepath.Join(harness.BinDir(t), "vxcanctl"), "heal")
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); !harness.Killed(t, out, err) {
			return false
		}
		heal(t)
		return true
	})
}
