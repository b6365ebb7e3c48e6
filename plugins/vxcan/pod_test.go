package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/google/go-cmp/cmp"

	"github.com/vxcan/vxcan/pkg/config"
)

// forPod is a configuration for a pod with an annotation. podHubs is the value of that key, "" for none.
func forPod(t *testing.T, list, podHubs string) *conf {
	t.Helper()
	keys := `"hub": "can7", "physical": true, "bitrate": 500000, "mtu": 16, "send": "100", "receive": "none",
		"capabilities": {"io.kubernetes.cri.pod-annotations": true},
		"runtimeConfig": {"io.kubernetes.cri.pod-annotations": {"vxcan/networks": "` + list + `", "example.com/vxcan": "x"}}`
	if podHubs != "" {
		keys += `, "pod-hubs": ` + podHubs
	}
	c, err := parseConf([]byte(with(keys)))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// A pod's other hub is one of its own, of which the configuration says nothing. The endpoint is the same on every hub.
func TestPodRequests(t *testing.T) {
	for _, test := range []struct {
		list, podHubs string
		want          []string // hub, set up and not made for the pod, or the other way round; interface
	}{
		{"can0", "", []string{"can7 true can0"}},
		{"can0, can1", "", []string{"can7 true can0", "can7 true can1"}},
		{"can7:can0", "", []string{"can7 true can0"}},
		{"can7:can0,vcan1:can1", `["vcan1"]`, []string{"can7 true can0", "vcan1 false can1"}},
		{"vcan12:can%d,can%d", `["bench0", "vcan*"]`, []string{"vcan12 false can12", "can7 true can7"}},
		{"a:can0,b:can1", `["*"]`, []string{"a false can0", "b false can1"}},
		{"can0", `["*"]`, []string{"can7 true can0"}},
		{"can7", `["bench*"]`, []string{"can7 true can7"}}, // what an interface on a hub can0 is called
		{"a,b,c,d,e,f,g,h", "", []string{
			"can7 true a", "can7 true b", "can7 true c", "can7 true d", "can7 true e", "can7 true f", "can7 true g", "can7 true h",
		}},
	} {
		c := forPod(t, test.list, test.podHubs)
		requests, err := c.requests(&skel.CmdArgs{ContainerID: "id", IfName: "eth0", Args: "K8S_POD_NAME=engine"})
		if err != nil {
			t.Errorf("%s: %v", test.list, err)
		}
		endpoint := config.Endpoint{MTU: 16, Policy: config.Policy{Send: "100", Receive: "none"}, Name: "engine"}
		var got []string
		devices := make(map[string]bool)
		for _, r := range requests {
			devices[r.HostIf()] = true
			own := r.Hub == c.network.Hub
			if !own && r.Hub != (config.Hub{Name: r.Hub.Name, Transient: true}) {
				t.Errorf("%s: hub %+v", test.list, r.Hub)
			}
			if r.Endpoint != endpoint {
				t.Errorf("%s: endpoint %+v on hub %s, want %+v", test.list, r.Endpoint, r.Hub.Name, endpoint)
			}
			got = append(got, fmt.Sprint(r.Hub.Name, " ", own, " ", r.Place.Interface))
		}
		if len(devices) < len(requests) {
			t.Errorf("%s: host ends %v", test.list, devices)
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s (- want, + got)\n%s", test.list, diff)
		}
	}
}

func TestPodRequestsInvalid(t *testing.T) {
	for _, test := range []struct{ list, podHubs, words string }{
		{"", "", "empty"},
		{"can0,", "", "empty"},
		{"a/b", "", `interface "a/b": a pod may use letters`},
		{"canbus0@can0", "", `interface "canbus0@can0": a pod may use letters`},
		{"$(reboot)", "", `interface "$(reboot)": a pod may use letters`},
		{"bench1", `["bench*"]`, `interface "bench1": it is the name of a hub; want HUB:INTERFACE`},
		{"a:can%d", `["*"]`, `"a" ends in none; name the interface`},
		{"can7:", "", "empty"},
		{"can0,can0", "", "can0 is there twice"},
		{"a:can0,b:can0", `["*"]`, "can0 is there twice"},
		{"vcan1:c,vcan1:c", `["vcan1"]`, "interface c is there twice"},
		{"vcan1:can0", "", `hub "vcan1": a pod may name can7`},
		{"vcan10:can0", `["vcan1"]`, `hub "vcan10": a pod may name can7, vcan1`},
		{"docker0:can0", `["vcan*", "bench0"]`, `hub "docker0": a pod may name can7, vcan*, bench0`},
		{"vcan0-tx:can0", `["vcan*"]`, `names that end in -tx and -rx are those of backplanes`},
		{"vcan0-rx:can0", `["*"]`, `names that end in -tx and -rx are those of backplanes`},
		{":can0", `["*"]`, "empty"},
		{"a,b,c,d,e,f,g,h,i", "", "9 interfaces, at most 8 are allowed"},
	} {
		_, err := forPod(t, test.list, test.podHubs).requests(&skel.CmdArgs{ContainerID: "id", IfName: "eth0"})
		if err == nil || !strings.Contains(err.Error(), test.words) || !strings.Contains(err.Error(), "annotation vxcan/networks is") {
			t.Errorf("%s: %v, want %s", test.list, err, test.words)
		}
	}
}

// With a rate, a pod has it once a hub.
func TestPodRate(t *testing.T) {
	for list, ok := range map[string]bool{"can0": true, "can0,vcan1:can1": true, "can0,can1": false, "vcan1:a,can0,vcan1:b": false} {
		c := forPod(t, list, `["vcan1"]`)
		c.network.Endpoint.Policy.Rate = 100
		if _, err := c.requests(&skel.CmdArgs{ContainerID: "id", IfName: "eth0"}); (err == nil) != ok || !ok && !strings.Contains(err.Error(), "one interface a hub") {
			t.Errorf("%s: %v", list, err)
		}
	}
}

// An annotation that looks like ours and is not would leave the pod without CAN.
func TestPodOtherAnnotation(t *testing.T) {
	for _, key := range []string{"vxcan/network", "vxcan.io/networks", "vxcan"} {
		c := forPod(t, "can0", "")
		c.RuntimeConfig.Annotations[key] = "can0"
		if _, err := c.requests(&skel.CmdArgs{ContainerID: "id", IfName: "eth0"}); err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("%s: %v", key, err)
		}
	}
}

func TestPodHubsInvalid(t *testing.T) {
	for value, words := range map[string]string{
		`["vcan*1"]`:   `"vcan*1"`,
		`["a", "**"]`:  `"**"`,
		`[""]`:         `""`,
		`["a/b"]`:      `"a/b"`,
		`"vcan1"`:      `value "vcan1": want an array of names`,
		`["vcan1", 7]`: `want an array of names`,
	} {
		_, err := parseConf([]byte(with(`"pod-hubs": ` + value)))
		if err == nil || !strings.Contains(err.Error(), words) || !strings.Contains(err.Error(), `key "pod-hubs"`) {
			t.Errorf("%s: %v, want %s", value, err, words)
		}
	}
}

// TestPodLongAnnotation: annotations may be 256 KiB, and kubelet repeats an ADD that failed for ever.
func TestPodLongAnnotation(t *testing.T) {
	items := make([]string, 40000)
	for i := range items {
		items[i] = fmt.Sprintf("x%x", i)
	}
	long := strings.Repeat("x", 200_000)
	for _, list := range []string{strings.Join(items, ","), long, long + ":can0", "vcan1:" + long, "vcan1:%d" + long} {
		c := &conf{network: config.NewNetwork()}
		c.network.PodHubs = []string{"vcan*"}
		c.Capabilities = map[string]bool{annotationsCapability: true}
		c.RuntimeConfig.Annotations = map[string]string{annotation: list}
		start := time.Now()
		_, err := c.requests(&skel.CmdArgs{ContainerID: "c", IfName: "eth0"})
		if err == nil {
			t.Fatal("no error")
		}
		if len(err.Error()) > 1000 {
			t.Errorf("a message of %d bytes", len(err.Error()))
		}
		if took := time.Since(start); took > time.Second {
			t.Errorf("took %v", took)
		}
	}
}

// TestPodHubWords: the words of CHECK and of the log are commands for the administrator to paste; a pod must not be
// able to put its own into them.
func TestPodHubWords(t *testing.T) {
	for _, hub := range []string{"$(reboot)", "`reboot`", "a;reboot", "-rf"} {
		c := &conf{network: config.NewNetwork()}
		c.network.PodHubs = []string{"*"}
		c.Capabilities = map[string]bool{annotationsCapability: true}
		c.RuntimeConfig.Annotations = map[string]string{annotation: hub + ":can0"}
		if _, err := c.requests(&skel.CmdArgs{ContainerID: "c", IfName: "eth0"}); err == nil {
			t.Errorf("a pod may name hub %s", hub)
		}
	}
}

func TestContainerName(t *testing.T) {
	for args, want := range map[string]string{
		"": "", "IgnoreUnknown=1": "", "K8S_POD_NAMESPACE=lab": "",
		"IgnoreUnknown=1;K8S_POD_NAME=engine":                                          "engine",
		"IgnoreUnknown=1;K8S_POD_NAMESPACE=lab;K8S_POD_NAME=engine;K8S_POD_UID=a-b":    "lab/engine",
		"K8S_POD_NAME=engine;K8S_POD_INFRA_CONTAINER_ID=0123;K8S_POD_NAMESPACE=kube=x": "kube=x/engine",
	} {
		if got := containerName(args); got != want {
			t.Errorf("%q: %q, want %q", args, got, want)
		}
	}
}
