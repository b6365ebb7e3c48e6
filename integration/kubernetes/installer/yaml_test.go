package main

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"regexp"
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

// components are what the overlays can have more.
var components = []string{"vxcanctl", "labels"}

// build is kubectl kustomize of an overlay, with these components, as a user turns them on there: the objects by their kinds.
func build(t *testing.T, overlay string, with ...string) map[string][]byte {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(manifests)); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, overlay, "kustomization.yaml")
	text := string(readFile(t, file))
	for _, name := range with {
		text = turnOn(t, text, "#   - ../components/"+name)
	}
	if len(with) > 0 {
		text = turnOn(t, text, "# components:")
	}
	put(t, file, text)
	return kustomize(t, filepath.Dir(file))
}

// kustomize is kubectl kustomize of a directory: the objects by their kinds.
func kustomize(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	objects, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), dir)
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
	if objects.Size() != len(kinds) {
		t.Fatalf("%d objects of %d kinds", objects.Size(), len(kinds))
	}
	return kinds
}

// turnOn takes the comment sign from the line that begins so.
func turnOn(t *testing.T, text, line string) string {
	t.Helper()
	if !strings.Contains(text, "\n"+line) {
		t.Fatalf("no line %q in:\n%s", line, text)
	}
	return strings.Replace(text, "\n"+line, "\n"+line[2:], 1)
}

// release is the version that the manifests name: the newest of CHANGELOG.md.
func release(t *testing.T) string {
	t.Helper()
	found := regexp.MustCompile(`(?m)^## \[(.*)\]`).FindSubmatch(readFile(t, "../../../CHANGELOG.md"))
	if found == nil {
		t.Fatal("no version in CHANGELOG.md")
	}
	return string(found[1])
}

// TestOverlays: each overlay has the directories of its distribution, and what is said of the installer's rights is so, also
// of the containers that its components add.
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
			if len(kinds) != 3 {
				t.Errorf("%d objects, want a ConfigMap, a DaemonSet and a Service", len(kinds))
			}
			var config core.ConfigMap
			var set apps.DaemonSet
			strict(t, kinds["ConfigMap"], &config)
			strict(t, kinds["DaemonSet"], &set)
			if config.Namespace != set.Namespace || !json.Valid([]byte(config.Data["entry.json"])) {
				t.Errorf("%+v", config)
			}
			expectRights(t, &set)
			expectService(t, kinds["Service"], &set)
			mounted := volumesOf(t, &set, "install")
			if len(mounted) != 3 || len(set.Spec.Template.Spec.Volumes) != 3 {
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
			expectArguments(t, &set)
		})
	}
}

// expectService fails the test unless the headless Service is that of the DaemonSet's pods, by the name that these ask for.
func expectService(t *testing.T, object []byte, set *apps.DaemonSet) {
	t.Helper()
	var s core.Service
	strict(t, object, &s)
	pod := set.Spec.Template
	if s.Namespace != set.Namespace || s.Spec.ClusterIP != core.ClusterIPNone || !s.Spec.PublishNotReadyAddresses || len(s.Spec.Selector) == 0 {
		t.Errorf("%+v", s)
	}
	for name, value := range s.Spec.Selector {
		if pod.Labels[name] != value {
			t.Errorf("pods have label %s: %q, want %q", name, pod.Labels[name], value)
		}
	}
	if s.Name != "vxcan" || pod.Spec.DNSPolicy != core.DNSClusterFirstWithHostNet { // vxcan is the default of --nodes
		t.Errorf("%s, %s", s.Name, pod.Spec.DNSPolicy)
	}
}

// arguments are where each container has what the installer needs.
var arguments = []string{"--bin-dir=/host/bin", "--conf-dir=/host/conf", "--entry=/etc/vxcan/entry.json"}

func expectArguments(t *testing.T, set *apps.DaemonSet) {
	t.Helper()
	container := set.Spec.Template.Spec.Containers[0]
	if !slices.Equal(container.Args, arguments) {
		t.Errorf("args %v", container.Args)
	}
	if got, want := container.ReadinessProbe.Exec.Command, append([]string{"/vxcan-install", "--check"}, arguments...); !slices.Equal(got, want) {
		t.Errorf("probe %v, want %v", got, want)
	}
	for _, c := range set.Spec.Template.Spec.Containers {
		if want := imageName + ":" + release(t); c.Image != want {
			t.Errorf("%s: image %s, want %s", c.Name, c.Image, want)
		}
	}
}

// volumesOf are the volumes of a container by where they are mounted.
func volumesOf(t *testing.T, set *apps.DaemonSet, container string) map[string]core.VolumeSource {
	t.Helper()
	pod := set.Spec.Template.Spec
	mounted := map[string]core.VolumeSource{}
	i := slices.IndexFunc(pod.Containers, func(c core.Container) bool { return c.Name == container })
	for _, m := range pod.Containers[i].VolumeMounts {
		if container != "install" && !m.ReadOnly {
			t.Errorf("%s may write %s", container, m.MountPath)
		}
		v := slices.IndexFunc(pod.Volumes, func(v core.Volume) bool { return v.Name == m.Name })
		mounted[m.MountPath] = pod.Volumes[v].VolumeSource
	}
	return mounted
}

// TestComponents: what the components add has the installer's rights and writes nothing on the node. Only the container for
// labels has a token.
func TestComponents(t *testing.T) {
	for _, overlay := range []string{"kubeadm", "k3s", "microk8s"} {
		kinds := build(t, overlay, components...)
		var set apps.DaemonSet
		strict(t, kinds["DaemonSet"], &set)
		expectRights(t, &set, "vxcanctl", "label")
		expectArguments(t, &set)
		pod := set.Spec.Template.Spec
		if !slices.Equal(pod.Containers[2].Command, slices.Concat([]string{"/vxcan-label", "/vxcan-install", "--check"}, arguments)) {
			t.Errorf("label: %v", pod.Containers[2].Command)
		}
		for name, mounts := range map[string]int{"install": 3, "vxcanctl": 2, "label": 4} {
			mounted := volumesOf(t, &set, name)
			_, token := mounted["/var/run/secrets/kubernetes.io/serviceaccount"]
			if len(mounted) != mounts || token != (name == "label") {
				t.Errorf("%s: volumes %v", name, mounted)
			}
		}
	}
}

// TestOwnOverlay: the overlay that the page shows is built from what make image writes, with its image, entry and components.
func TestOwnOverlay(t *testing.T) {
	found := regexp.MustCompile("(?s)```yaml\n(# can/kustomization.yaml.*?)```").FindSubmatch(readFile(t, manifests+"/README.md"))
	if found == nil {
		t.Fatal("no overlay in the page")
	}
	dir := t.TempDir()
	written := tagged(t, "registry.example.com/vxcan-install", "1.2.3")
	if err := errors.Join(os.MkdirAll(dir+"/can", 0o755), os.MkdirAll(dir+"/bin", 0o755), writeManifests(dir+"/bin/kubernetes", manifests, written)); err != nil {
		t.Fatal(err)
	}
	put(t, dir+"/can/kustomization.yaml", string(found[1]))
	kinds := kustomize(t, dir+"/can")
	var config core.ConfigMap
	var set apps.DaemonSet
	strict(t, kinds["ConfigMap"], &config)
	strict(t, kinds["DaemonSet"], &set)
	expectRights(t, &set, "vxcanctl")
	for _, c := range set.Spec.Template.Spec.Containers {
		if c.Image != written.Name() {
			t.Errorf("%s: image %s, want %s", c.Name, c.Image, written)
		}
	}
	if dir := volumesOf(t, &set, "install")["/host/conf"].HostPath.Path; !strings.Contains(dir, "/k3s/") {
		t.Errorf("directory %s", dir)
	}
	n := newNode(t, "k3s")
	put(t, n.entry, config.Data["entry.json"])
	if out, err := n.run(t, "--once"); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	if network := contents(t, n.conf)["10-flannel.conflist"]; len(config.Data) != 1 || !strings.Contains(network, `"can-engine"`) {
		t.Errorf("entries %v, pod network %s", config.Data, network)
	}
}

// expectRights is what is said of the rights of the DaemonSet, which has these containers beside the installer.
func expectRights(t *testing.T, set *apps.DaemonSet, beside ...string) {
	t.Helper()
	pod := set.Spec.Template.Spec
	account := ""
	if slices.Contains(beside, "label") {
		account = "vxcan"
	}
	for i, name := range append([]string{"install"}, beside...) {
		if len(pod.Containers) != len(beside)+1 || len(pod.InitContainers) != 0 || pod.Containers[i].Name != name {
			t.Fatalf("containers %+v, want install and %v", pod.Containers, beside)
		}
		c := pod.Containers[i]
		expectContext(t, c.SecurityContext)
		if c.Resources.Requests.Cpu().IsZero() || c.Resources.Requests.Memory().IsZero() {
			t.Errorf("%s: no requests", name)
		}
	}
	switch {
	case *pod.AutomountServiceAccountToken || pod.ServiceAccountName != account:
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
	}
	for name, value := range set.Spec.Selector.MatchLabels {
		if set.Spec.Template.Labels[name] != value {
			t.Errorf("label %s", name)
		}
	}
}

func expectContext(t *testing.T, c *core.SecurityContext) {
	t.Helper()
	switch {
	case *c.RunAsUser != 0 || *c.Privileged || *c.AllowPrivilegeEscalation || !*c.ReadOnlyRootFilesystem:
		t.Errorf("%+v", c)
	case len(c.Capabilities.Add) > 0 || !slices.Equal(c.Capabilities.Drop, []core.Capability{"ALL"}):
		t.Errorf("capabilities: %+v", c.Capabilities)
	case c.SeccompProfile.Type != core.SeccompProfileTypeRuntimeDefault:
		t.Errorf("seccomp: %+v", c.SeccompProfile)
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
	var deployment apps.Deployment
	strict(t, readFile(t, manifests+"/pod.yaml"), &pod)
	strict(t, readFile(t, manifests+"/deployment.yaml"), &deployment)
	for _, annotations := range []map[string]string{pod.Annotations, deployment.Spec.Template.Annotations} {
		if annotations["vxcan/networks"] != "can0" {
			t.Errorf("annotations %v", annotations)
		}
	}
}
