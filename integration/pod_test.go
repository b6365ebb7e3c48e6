package integration

import (
	"fmt"
	"slices"
	"testing"
)

// pod is the call for a pod with an annotation, chained as in a cluster.
func pod(c *container, annotation string) call {
	return on(c).with(fmt.Sprintf(`"interface":"can0","capabilities":{"io.kubernetes.cri.pod-annotations":true},`+
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
		})
	}
}

// TestPodAnnotationWrong: a pod that asks for nonsense is told so, and gets nothing half.
func TestPodAnnotationWrong(t *testing.T) {
	for _, c := range []struct {
		annotation string
		words      []string
	}{
		{`""`, []string{"vxcan/networks", "empty", "vcan0:can0,vcan1:can1"}},
		{`"can0,"`, []string{"vxcan/networks"}},
		{`"vcan0:can0:x"`, []string{"vxcan/networks", `":"`}},
		{`"can0,lo:can1"`, []string{`hub "lo"`, "pods may name vcan0"}},
		{`"can0,vcan1:can0"`, []string{"can0", "vcan0"}},
	} {
		t.Run(c.annotation, func(t *testing.T) {
			freshHost(t)
			box := newContainer(t, "pod")
			this := pod(box, `,"vxcan/networks":`+c.annotation)
			this.fails(t, "ADD", 7, c.words...)
			if got := box.links(t); len(got) != 1 {
				t.Errorf("left in the pod: %v", got)
			}
			this.ok(t, "DEL")
			if got := len(rules(t)); got > 4 { // the hub's, once there was one
				t.Errorf("%d rules left", got)
			}
		})
	}
}
