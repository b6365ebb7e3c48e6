package integration

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// pod is the call for a pod with an annotation, chained as in a cluster.
func pod(c *container, annotation string) call {
	return on(c).with(fmt.Sprintf(`"interface":"can0","pod-hubs":["vcan1","bench*"],"capabilities":{"io.kubernetes.cri.pod-annotations":true},`+
		`"prevResult":{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","sandbox":%q}]},`+
		`"runtimeConfig":{"io.kubernetes.cri.pod-annotations":{"app":"robot"%s}}`, c.path, annotation))
}

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
			freshHost(t)
			box := newContainer(t, "pod")
			result, _ := pod(box, c.annotation).add(t)
			var got []string
			for _, i := range result.Interfaces {
				if i.Sandbox != "" {
					got = append(got, i.Name)
				}
			}
			if want := append([]string{"eth0"}, c.want...); !slices.Equal(got, want) {
				t.Errorf("interfaces %v, want %v", got, want)
			}
			if len(box.links(t)) != 1+len(c.want) { // lo
				t.Errorf("devices in the pod: %v", box.links(t))
			}
			if c.want == nil {
				expectNothing(t)
			}
			if err := pod(box, c.annotation).check(t, result); err != nil {
				t.Error(err)
			}
			pod(box, c.annotation).ok(t, "DEL")
			if got := box.links(t); len(got) != 1 {
				t.Errorf("after DEL: %v", got)
			}
			expectOnlyConfiguredHub(t)
		})
	}
}

// expectOnlyConfiguredHub fails the test if anything is left but the configured hub, which stays, if it was made.
func expectOnlyConfiguredHub(t *testing.T) {
	t.Helper()
	if got := canLinks(t); len(got) > 0 {
		if want := []string{"vcan0", "vcan0-rx", "vcan0-tx"}; !slices.Equal(got, want) {
			t.Errorf("devices %v, want %v", got, want)
		}
		expectWiring(t, true, "vcan0")
	}
	files, _ := filepath.Glob(stateDir + "/*/*")
	for _, name := range files {
		if !strings.HasPrefix(filepath.Base(name), "vcan0.") {
			t.Errorf("left behind: %s", name)
		}
	}
}

// TestPodHubsEndpoint: what the network says of an endpoint holds on each hub that a pod names. A rate is that of all that
// the pod sends to a hub.
func TestPodHubsEndpoint(t *testing.T) {
	freshHost(t)
	box := newContainer(t, "pod")
	pod(box, `,"vxcan/networks":"can0,can1"`).with(`"rate":100`).fails(t, "ADD", 7, "can0 and can1 on hub vcan0: with a rate a pod may have one interface a hub")
	expectNothing(t)
	this := pod(box, `,"vxcan/networks":"vcan0:can0,bench1:can1"`).with(`"send":"100","receive":"100","rate":100000,"mtu":16`)
	result, _ := this.add(t)
	for hub, end := range map[string]string{"vcan0": "can0", "bench1": "can1"} {
		host, inside := station{"host", nil, hub}, station{box.id, box.netns, end}
		expectPass(t, inside, host, true, false)
		expectPass(t, host, inside, true, false)
	}
	for _, l := range box.links(t) {
		if l.Kind == "vxcan" && l.MTU != 16 {
			t.Errorf("%s has MTU %d, want 16", l.Name, l.MTU)
		}
	}
	if err := this.check(t, result); err != nil {
		t.Error(err)
	}
}

// TestPodAnnotationWrong: a pod that asks for what it may not have, or for nonsense, is told so, and nothing is made.
func TestPodAnnotationWrong(t *testing.T) {
	freshHost(t)
	box := newContainer(t, "pod")
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
			this := pod(box, annotation)
			this.fails(t, "ADD", 7, c.words...)
			this.ok(t, "DEL")
			if got := box.links(t); len(got) != 1 { // lo
				t.Errorf("left in the pod: %v", got)
			}
			expectNothing(t)
		})
	}
}

// TestPodHubs: a hub that was made because a pod named it goes with its last endpoint, whoever that is, and one that the
// administrator's configuration names stays.
func TestPodHubs(t *testing.T) {
	freshHost(t)
	first, second := newContainer(t, "first"), newContainer(t, "second")
	manyHubs := pod(first, `,"vxcan/networks":"bench0:can0,bench1:can1,vcan1:can2"`)
	manyHubs.add(t)
	other := pod(second, `,"vxcan/networks":"bench1:can0"`)
	other.add(t)
	expectExactlyOnce(t, []station{{"host", nil, "bench1"}, {"first", first.netns, "can1"}, {"second", second.netns, "can0"}}, 5, true)

	// The configuration may have been narrowed since.
	manyHubs.with(`"pod-hubs":[]`).ok(t, "DEL")
	if got, want := canLinks(t), []string{"bench1", "bench1-rx", "bench1-tx", hostEnds(t)[0]}; !slices.Equal(got, want) {
		t.Errorf("with one pod left: %v, want %v", got, want)
	}
	other.ok(t, "DEL")
	expectOnlyConfiguredHub(t)

	// Once the administrator's configuration names it, the hub stays.
	other.add(t)
	theirs := on(first).with(`"hub":"bench1","interface":"can7"`)
	theirs.add(t)
	other.ok(t, "DEL")
	theirs.ok(t, "DEL")
	if got, want := canLinks(t), []string{"bench1", "bench1-rx", "bench1-tx"}; !slices.Equal(got, want) {
		t.Errorf("a configured hub without endpoints: %v, want %v", got, want)
	}
}

// TestPodHubsGC: a pod that is gone without a DEL takes its hub along at the next GC.
func TestPodHubsGC(t *testing.T) {
	freshHost(t)
	this := pod(newContainer(t, "pod"), `,"vxcan/networks":"bench0:can0"`)
	this.add(t)
	call{}.with(`"cni.dev/valid-attachments":[]`).ok(t, "GC")
	expectOnlyConfiguredHub(t)
}

// TestPodHubsHeal: a pod whose netns is gone without a DEL, as when vxcan has been taken out of the pod network, takes its
// hub along at the next vxcanctl heal, also when one before was killed at any message to the kernel.
func TestPodHubsHeal(t *testing.T) {
	heal := func(t *testing.T) {
		t.Helper()
		out, log, status := control(t, nil, "heal")
		if t.Logf("vxcanctl heal: exit status %d\n%s%s", status, out, log); status != 0 {
			t.Errorf("vxcanctl heal: exit status %d", status)
		}
		expectOnlyConfiguredHub(t)
	}
	leave := func(t *testing.T) {
		t.Helper()
		freshHost(t)
		box := newContainer(t, "pod")
		pod(box, `,"vxcan/networks":"can0,bench0:can1"`).add(t)
		box.netns.Close()
		command(t, "ip", "netns", "del", box.id)
		for deadline := time.Now().Add(10 * time.Second); len(hostEnds(t)) > 0; time.Sleep(20 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("host ends without a netns: %v", hostEnds(t))
			}
		}
	}
	leave(t)
	heal(t)
	atEach(t, "killed", func(t *testing.T, n int) bool {
		leave(t)
		args := append(injecting("signal=KILL", n), filepath.Join(binDir(t), "vxcanctl"), "heal")
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); !killed(t, out, err) {
			return false
		}
		heal(t)
		return true
	})
}
