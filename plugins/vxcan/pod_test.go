package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/google/go-cmp/cmp"

	"github.com/vxcan/vxcan/pkg/bus"
)

// forPod is a configuration for a pod with an annotation. podHubs is the value of that key, "" for none.
func forPod(t *testing.T, list, podHubs string) *conf {
	t.Helper()
	keys := `"hub": "can7", "physical": true, "mtu": 16,
		"capabilities": {"io.kubernetes.cri.pod-annotations": true},
		"runtimeConfig": {"io.kubernetes.cri.pod-annotations": {"vxcan/networks": "` + list + `"}}`
	if podHubs != "" {
		keys += `, "pod-hubs": ` + podHubs
	}
	c, err := parseConf([]byte(with(keys)))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestPodRequests(t *testing.T) {
	for _, test := range []struct {
		list, podHubs string
		want          []string
	}{
		{"can0", "", []string{"can7 true 16 false can0"}},
		{"can0, can1", "", []string{"can7 true 16 false can0", "can7 true 16 false can1"}},
		{"can7:can0", "", []string{"can7 true 16 false can0"}},
		{"can7:can0,vcan1:can1", `["vcan1"]`, []string{"can7 true 16 false can0", "vcan1 false 0 true can1"}},
		{"vcan-x:can%d,can%d", `["bench0", "vcan*"]`, []string{"vcan-x false 0 true can%d", "can7 true 16 false can%d"}},
		{"a:can0,b:can0", `["*"]`, []string{"a false 0 true can0", "b false 0 true can0"}},
		{"a,b,c,d,e,f,g,h", "", []string{
			"can7 true 16 false a", "can7 true 16 false b", "can7 true 16 false c", "can7 true 16 false d",
			"can7 true 16 false e", "can7 true 16 false f", "can7 true 16 false g", "can7 true 16 false h",
		}},
	} {
		requests, err := forPod(t, test.list, test.podHubs).requests(&skel.CmdArgs{ContainerID: "id", IfName: "eth0"})
		if err != nil {
			t.Errorf("%s: %v", test.list, err)
		}
		var got []string
		for _, r := range requests {
			got = append(got, fmt.Sprint(r.Hub, " ", r.Physical, " ", r.MTU, " ", r.Transient, " ", r.Interface))
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
		{"a/b", "", `"/" is not allowed`},
		{"can7:", "", "empty"},
		{"can0,can0", "", "can0 is there twice"},
		{"vcan1:c,vcan1:c", `["vcan1"]`, "vcan1:c is there twice"},
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
	c := &conf{bus: bus.NewConfig()}
	c.Capabilities = map[string]bool{annotationsCapability: true}
	c.RuntimeConfig.Annotations = map[string]string{annotation: strings.Join(items, ",")}
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

// TestPodHubWords: the words of CHECK and of the log are commands for the administrator to paste; a pod must not be
// able to put its own into them.
func TestPodHubWords(t *testing.T) {
	for _, hub := range []string{"$(reboot)", "`reboot`", "a;reboot", "-rf"} {
		c := &conf{bus: bus.NewConfig()}
		c.bus.PodHubs = []string{"*"}
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
