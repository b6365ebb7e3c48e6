package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/google/go-cmp/cmp"
)

// forPod is a configuration for a pod with an annotation.
func forPod(t *testing.T, list string) *conf {
	t.Helper()
	c, err := parseConf([]byte(with(`"hub": "can7", "physical": true, "mtu": 16,
		"capabilities": {"io.kubernetes.cri.pod-annotations": true},
		"runtimeConfig": {"io.kubernetes.cri.pod-annotations": {"vxcan/networks": "` + list + `"}}`)))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestPodWishes(t *testing.T) {
	for list, want := range map[string][]string{
		"can0":                  {"can7 true 16 can0"},
		"can0, can1":            {"can7 true 16 can0", "can7 true 16 can1"},
		"can7:can0,vcan1:can1":  {"can7 true 16 can0", "vcan1 false 0 can1"},
		"vcan-x:can%d,can%d":    {"vcan-x false 0 can%d", "can7 true 16 can%d"},
		"vcan0:can0,vcan1:can0": {"vcan0 false 0 can0", "vcan1 false 0 can0"},
	} {
		wishes, err := forPod(t, list).wishes(&skel.CmdArgs{ContainerID: "id", IfName: "eth0"})
		if err != nil {
			t.Errorf("%s: %v", list, err)
		}
		var got []string
		for _, w := range wishes {
			got = append(got, fmt.Sprint(w.spec.Hub, " ", w.spec.Physical, " ", w.spec.MTU, " ", w.ifName))
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (- want, + got)\n%s", list, diff)
		}
	}
}

func TestPodWishesInvalid(t *testing.T) {
	for list, words := range map[string]string{
		"":                "empty",
		"can0,":           "empty",
		"a/b":             `"/" is not allowed`,
		"vcan0:":          "empty",
		"can0,can0":       "can0 is there twice",
		"vcan1:c,vcan1:c": "vcan1:c is there twice",
		"can1:can0":       `hub "can1": pods may name can7 and hubs called vcan…`,
		"docker0:can0":    `hub "docker0"`,
	} {
		_, err := forPod(t, list).wishes(&skel.CmdArgs{ContainerID: "id", IfName: "eth0"})
		if err == nil || !strings.Contains(err.Error(), words) || !strings.Contains(err.Error(), "annotation vxcan/networks is") {
			t.Errorf("%s: %v, want %s", list, err, words)
		}
	}
}
