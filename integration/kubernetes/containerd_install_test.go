package kubernetes

import (
	"os"
	"strings"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/vxcan/vxcan/integration/harness"
)

// installImage is what make image makes.
const installImage = "localhost/vxcan-install:latest"

// runInstaller runs the image as the DaemonSet of conflist/kubernetes does, and returns what stops it and gives its log.
func runInstaller(c *harness.Containerd, entry string) (end func() (log string)) {
	c.T.Helper()
	must := func(err error) {
		c.T.Helper()
		if err != nil {
			c.T.Fatalf("run the installer: %v\n%s", err, c.LastWords())
		}
	}
	if _, err := os.Stat(harness.Repo("bin/image.tar")); err != nil {
		c.T.Fatalf("%v; run make image first", err)
	}
	harness.Command(c.T, "ctr", "--namespace", "k8s.io", "image", "import", harness.Repo("bin/image.tar"))
	sandbox := &cri.PodSandboxConfig{
		Metadata:     &cri.PodSandboxMetadata{Name: "vxcan", Uid: "uid-vxcan", Namespace: "kube-system"},
		LogDirectory: c.Dir,
		Linux: &cri.LinuxPodSandboxConfig{SecurityContext: &cri.LinuxSandboxSecurityContext{
			NamespaceOptions: &cri.NamespaceOption{Network: cri.NamespaceMode_NODE},
		}},
	}
	pod, err := c.CRI.RunPodSandbox(c.T.Context(), &cri.RunPodSandboxRequest{Config: sandbox})
	must(err)
	container, err := c.CRI.CreateContainer(c.T.Context(), &cri.CreateContainerRequest{
		PodSandboxId: pod.PodSandboxId, SandboxConfig: sandbox,
		Config: &cri.ContainerConfig{
			Metadata: &cri.ContainerMetadata{Name: "install"},
			Image:    &cri.ImageSpec{Image: installImage},
			Args:     []string{"--bin-dir=/host/bin", "--conf-dir=/host/conf", "--entry=" + entry, "--remove-on-exit"},
			Mounts: []*cri.Mount{
				{ContainerPath: "/host/bin", HostPath: c.Dir + "/bin"},
				{ContainerPath: "/host/conf", HostPath: c.Dir + "/net.d"},
			},
			LogPath: "install.log",
			Linux: &cri.LinuxContainerConfig{SecurityContext: &cri.LinuxContainerSecurityContext{
				Capabilities:     &cri.Capability{DropCapabilities: []string{"ALL"}},
				RunAsUser:        &cri.Int64Value{Value: 0},
				NoNewPrivs:       true,
				ReadonlyRootfs:   true,
				NamespaceOptions: &cri.NamespaceOption{Network: cri.NamespaceMode_NODE},
				Seccomp:          &cri.SecurityProfile{ProfileType: cri.SecurityProfile_RuntimeDefault},
			}},
		},
	})
	must(err)
	_, err = c.CRI.StartContainer(c.T.Context(), &cri.StartContainerRequest{ContainerId: container.ContainerId})
	must(err)
	return func() string {
		c.T.Helper()
		began := time.Now()
		_, err := c.CRI.StopContainer(c.T.Context(), &cri.StopContainerRequest{ContainerId: container.ContainerId, Timeout: 10})
		must(err)
		if took := time.Since(began); took > 8*time.Second {
			c.T.Errorf("it took %v to stop", took)
		}
		log, err := os.ReadFile(c.Dir + "/install.log")
		must(err)
		c.RemovePod(pod.PodSandboxId)
		return string(log)
	}
}

// TestContainerdInstall: the image of vxcan-install, in a container without capabilities, makes a node that knows nothing
// of vxcan give pods can0, and does so again when the pod network is written anew. containerd sees each change by itself.
func TestContainerdInstall(t *testing.T) {
	harness.FreshHost(t)
	var list harness.PodConflist
	harness.ReadJSON(t, harness.Repo("conflist/containerd/cni.conflist"), &list)
	entry := list.Plugins[len(list.Plugins)-1]
	list.Plugins = list.Plugins[:len(list.Plugins)-1]
	c := harness.NewContainerdWith(t, harness.Marshal(t, list))
	t.Logf("containerd %s", c.Version())
	harness.Remove(t, c.Dir+"/bin/vxcan")
	conflist := c.Dir + "/net.d/10-pods.conflist"
	if config := c.CNIConfig(); strings.Contains(config, "vxcan") || !strings.Contains(config, "bridge") {
		t.Fatalf("before: %s", config)
	}

	end := runInstaller(c, string(entry))
	loaded := func(want bool) {
		t.Helper()
		for range 100 {
			if strings.Contains(c.CNIConfig(), "vxcan") == want {
				return
			}
			time.Sleep(50 * time.Millisecond)
		}
		log, _ := os.ReadFile(c.Dir + "/install.log")
		t.Fatalf("after 5 s, vxcan loaded is not %v: %s\n%s", want, c.CNIConfig(), log)
	}
	loaded(true)
	stations := []harness.Station{harness.Host("vcan0"), c.Station(c.RunPod("engine", "can0"), "can0")}
	harness.ExpectExactlyOnce(t, stations, 20, true)
	for _, name := range []string{"a", "b", "c"} { // flannel starts again
		harness.Write(t, conflist+".theirs", string(harness.Marshal(t, list)))
		harness.Command(t, "mv", conflist+".theirs", conflist)
		time.Sleep(time.Second)
		loaded(true)
		stations = append(stations, c.Station(c.RunPod(name, "can0"), "can0"))
	}
	harness.ExpectExactlyOnce(t, stations, 20, true)

	log := end()
	t.Log(log)
	if !strings.Contains(log, "uid=0 capabilities=0000000000000000") {
		t.Error("it has capabilities")
	}
	loaded(false)
	var after harness.PodConflist
	harness.ReadJSON(t, conflist, &after)
	if got, want := string(harness.Marshal(t, after)), string(harness.Marshal(t, list)); got != want {
		t.Errorf("left: %s, want %s", got, want)
	}
	if ip, _ := c.Inspect(c.RunPod("plain", "can0")); ip == "" {
		t.Error("a pod without vxcan has no IP")
	}
}
