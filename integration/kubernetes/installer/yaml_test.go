package main

import (
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

const manifests = "../../../conflist/kubernetes"

// strict reads an object; a field that Kubernetes does not have is an error.
func strict(t *testing.T, content []byte, v any) {
	t.Helper()
	if err := yaml.UnmarshalStrict(content, v); err != nil {
		t.Fatalf("%v:\n%s", err, content)
	}
}

// build is kubectl kustomize: the objects of an overlay by their kinds.
func build(t *testing.T, overlay string) map[string][]byte {
	t.Helper()
	objects, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), filepath.Join(manifests, overlay))
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string][]byte{}
	for _, object := range objects.Resources() {
		content, err := object.AsYAML()
		if err != nil {
			t.Fatal(err)
		}
		kinds[object.GetKind()] = content
	}
	if len(kinds) != 2 || objects.Size() != 2 {
		t.Fatalf("%d objects of %d kinds, want a ConfigMap and a DaemonSet", objects.Size(), len(kinds))
	}
	return kinds
}

// TestOverlays: each overlay has the directories of its distribution, and what is said of the installer's rights is so.
func TestOverlays(t *testing.T) {
	overlays, err := filepath.Glob(manifests + "/*/kustomization.yaml")
	if err != nil || len(overlays) != 4 {
		t.Fatal(overlays, err)
	}
	for overlay, dirs := range map[string][2]string{
		"base":     {"/opt/cni/bin", "/etc/cni/net.d"},
		"kubeadm":  {"/opt/cni/bin", "/etc/cni/net.d"},
		"k3s":      {"/var/lib/rancher/k3s/data/cni", "/var/lib/rancher/k3s/agent/etc/cni/net.d"},
		"microk8s": {"/var/snap/microk8s/current/opt/cni/bin", "/var/snap/microk8s/current/args/cni-network"},
	} {
		t.Run(overlay, func(t *testing.T) {
			kinds := build(t, overlay)
			var config core.ConfigMap
			var set apps.DaemonSet
			strict(t, kinds["ConfigMap"], &config)
			strict(t, kinds["DaemonSet"], &set)
			if config.Namespace != set.Namespace || !json.Valid([]byte(config.Data["entry.json"])) {
				t.Errorf("%+v", config)
			}
			expectRights(t, &set)

			// Every path of the arguments is where a volume is mounted, and the volumes are the directories.
			pod := set.Spec.Template.Spec
			container := pod.Containers[0]
			mounted := map[string]core.VolumeSource{}
			for _, m := range container.VolumeMounts {
				i := slices.IndexFunc(pod.Volumes, func(v core.Volume) bool { return v.Name == m.Name })
				mounted[m.MountPath] = pod.Volumes[i].VolumeSource
			}
			if len(mounted) != 3 || len(pod.Volumes) != 3 {
				t.Errorf("volumes: %v", mounted)
			}
			for i, dir := range []string{"/host/bin", "/host/conf"} {
				if h := mounted[dir].HostPath; h == nil || h.Path != dirs[i] || *h.Type != core.HostPathDirectoryOrCreate {
					t.Errorf("%s is %+v, want %s", dir, h, dirs[i])
				}
			}
			if m := mounted["/etc/vxcan"].ConfigMap; m == nil || m.Name != config.Name {
				t.Errorf("entry: %+v", m)
			}
			args := []string{"--bin-dir=/host/bin", "--conf-dir=/host/conf", "--entry=/etc/vxcan/entry.json"}
			if !slices.Equal(container.Args, args) {
				t.Errorf("args %v", container.Args)
			}
			if got, want := container.ReadinessProbe.Exec.Command, append([]string{"/vxcan-install", "--check"}, args...); !slices.Equal(got, want) {
				t.Errorf("probe %v, want %v", got, want)
			}
			if !strings.HasPrefix(container.Image, imageName+":") {
				t.Errorf("image %s", container.Image)
			}
		})
	}
}

func expectRights(t *testing.T, set *apps.DaemonSet) {
	t.Helper()
	pod := set.Spec.Template.Spec
	c := pod.Containers[0].SecurityContext
	switch {
	case len(pod.Containers) != 1 || len(pod.InitContainers) != 0:
		t.Error("more than one container")
	case *c.RunAsUser != 0 || *c.Privileged || *c.AllowPrivilegeEscalation || !*c.ReadOnlyRootFilesystem:
		t.Errorf("%+v", c)
	case len(c.Capabilities.Add) > 0 || !slices.Equal(c.Capabilities.Drop, []core.Capability{"ALL"}):
		t.Errorf("capabilities: %+v", c.Capabilities)
	case c.SeccompProfile.Type != core.SeccompProfileTypeRuntimeDefault:
		t.Errorf("seccomp: %+v", c.SeccompProfile)
	case *pod.AutomountServiceAccountToken || pod.ServiceAccountName != "":
		t.Error("it has a token of the API")
	case !pod.HostNetwork || pod.HostPID || pod.HostIPC:
		t.Error("namespaces")
	case pod.PriorityClassName != "system-node-critical" || pod.NodeSelector["kubernetes.io/os"] != "linux":
		t.Errorf("%s, %v", pod.PriorityClassName, pod.NodeSelector)
	case !slices.ContainsFunc(pod.Tolerations, func(t core.Toleration) bool {
		return t.Operator == core.TolerationOpExists && t.Key == "" && t.Effect == ""
	}):
		t.Error("not on every node")
	case set.Spec.UpdateStrategy.Type != apps.RollingUpdateDaemonSetStrategyType:
		t.Errorf("%+v", set.Spec.UpdateStrategy)
	case pod.Containers[0].Resources.Requests.Cpu().IsZero() || pod.Containers[0].Resources.Requests.Memory().IsZero():
		t.Error("no requests")
	}
	for name, value := range set.Spec.Selector.MatchLabels {
		if set.Spec.Template.Labels[name] != value {
			t.Errorf("label %s", name)
		}
	}
}

// TestEntryOfConfigMap: the installer takes it, and attaches only pods that ask for it, like the pod of the example.
func TestEntryOfConfigMap(t *testing.T) {
	var config core.ConfigMap
	strict(t, build(t, "kubeadm")["ConfigMap"], &config)
	n := newNode(t, "flannel")
	put(t, n.entry, config.Data["entry.json"])
	if out, err := n.run(t, "--once"); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	if !strings.Contains(config.Data["entry.json"], `"io.kubernetes.cri.pod-annotations": true`) {
		t.Error("every pod is attached")
	}
	var pod core.Pod
	strict(t, readFile(t, manifests+"/pod.yaml"), &pod)
	if pod.Annotations["vxcan/networks"] != "can0" {
		t.Errorf("annotations %v", pod.Annotations)
	}
}
