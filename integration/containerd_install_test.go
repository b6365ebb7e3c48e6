package integration

import (
	"os"
	"strings"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// installImage is what make image makes.
const installImage = "localhost/vxcan-install:latest"

// cniConfig is the pod network that containerd has loaded.
func (c *containerd) cniConfig() string {
	c.t.Helper()
	status, err := c.cri.Status(c.t.Context(), &cri.StatusRequest{Verbose: true})
	if err != nil {
		c.t.Fatal(err)
	}
	return status.Info["cniconfig"]
}

// runInstaller runs the image as the DaemonSet of conflist/kubernetes does, and returns what stops it and gives its log.
func (c *containerd) runInstaller(entry string) (end func() (log string)) {
	c.t.Helper()
	must := func(err error) {
		c.t.Helper()
		if err != nil {
			c.t.Fatalf("run the installer: %v\n%s", err, c.lastWords())
		}
	}
	if _, err := os.Stat("../bin/image.tar"); err != nil {
		c.t.Fatalf("%v; run make image first", err)
	}
	command(c.t, "ctr", "--namespace", "k8s.io", "image", "import", "../bin/image.tar")
	sandbox := &cri.PodSandboxConfig{
		Metadata:     &cri.PodSandboxMetadata{Name: "vxcan", Uid: "uid-vxcan", Namespace: "kube-system"},
		LogDirectory: c.dir,
		Linux: &cri.LinuxPodSandboxConfig{SecurityContext: &cri.LinuxSandboxSecurityContext{
			NamespaceOptions: &cri.NamespaceOption{Network: cri.NamespaceMode_NODE},
		}},
	}
	pod, err := c.cri.RunPodSandbox(c.t.Context(), &cri.RunPodSandboxRequest{Config: sandbox})
	must(err)
	container, err := c.cri.CreateContainer(c.t.Context(), &cri.CreateContainerRequest{
		PodSandboxId: pod.PodSandboxId, SandboxConfig: sandbox,
		Config: &cri.ContainerConfig{
			Metadata: &cri.ContainerMetadata{Name: "install"},
			Image:    &cri.ImageSpec{Image: installImage},
			Args:     []string{"--bin-dir=/host/bin", "--conf-dir=/host/conf", "--entry=" + entry, "--remove-on-exit"},
			Mounts: []*cri.Mount{
				{ContainerPath: "/host/bin", HostPath: c.dir + "/bin"},
				{ContainerPath: "/host/conf", HostPath: c.dir + "/net.d"},
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
	_, err = c.cri.StartContainer(c.t.Context(), &cri.StartContainerRequest{ContainerId: container.ContainerId})
	must(err)
	return func() string {
		c.t.Helper()
		began := time.Now()
		_, err := c.cri.StopContainer(c.t.Context(), &cri.StopContainerRequest{ContainerId: container.ContainerId, Timeout: 10})
		must(err)
		if took := time.Since(began); took > 8*time.Second {
			c.t.Errorf("it took %v to stop", took)
		}
		log, err := os.ReadFile(c.dir + "/install.log")
		must(err)
		c.removePod(pod.PodSandboxId)
		return string(log)
	}
}

// TestContainerdInstall: the image of vxcan-install, in a container without capabilities, makes a node that knows nothing
// of vxcan give pods can0, and does so again when the pod network is written anew. containerd sees each change by itself.
func TestContainerdInstall(t *testing.T) {
	freshHost(t)
	var list podConflist
	readJSON(t, "../conflist/containerd/cni.conflist", &list)
	entry := list.Plugins[len(list.Plugins)-1]
	list.Plugins = list.Plugins[:len(list.Plugins)-1]
	c := newContainerdWith(t, marshal(t, list))
	t.Logf("containerd %s", c.version())
	remove(t, c.dir+"/bin/vxcan")
	conflist := c.dir + "/net.d/10-pods.conflist"
	if config := c.cniConfig(); strings.Contains(config, "vxcan") || !strings.Contains(config, "bridge") {
		t.Fatalf("before: %s", config)
	}

	end := c.runInstaller(string(entry))
	loaded := func(want bool) {
		t.Helper()
		for range 100 {
			if strings.Contains(c.cniConfig(), "vxcan") == want {
				return
			}
			time.Sleep(50 * time.Millisecond)
		}
		log, _ := os.ReadFile(c.dir + "/install.log")
		t.Fatalf("after 5 s, vxcan loaded is not %v: %s\n%s", want, c.cniConfig(), log)
	}
	loaded(true)
	stations := []station{{"host", nil, "vcan0"}, c.station(c.runPod("engine", "can0"), "can0")}
	expectExactlyOnce(t, stations, 20, true)
	for _, name := range []string{"a", "b", "c"} { // flannel starts again
		write(t, conflist+".theirs", string(marshal(t, list)))
		command(t, "mv", conflist+".theirs", conflist)
		time.Sleep(time.Second)
		loaded(true)
		stations = append(stations, c.station(c.runPod(name, "can0"), "can0"))
	}
	expectExactlyOnce(t, stations, 20, true)

	log := end()
	t.Log(log)
	if !strings.Contains(log, "uid=0 capabilities=0000000000000000") {
		t.Error("it has capabilities")
	}
	loaded(false)
	var after podConflist
	readJSON(t, conflist, &after)
	if got, want := string(marshal(t, after)), string(marshal(t, list)); got != want {
		t.Errorf("left: %s, want %s", got, want)
	}
	if ip, _ := c.inspect(c.runPod("plain", "can0")); ip == "" {
		t.Error("a pod without vxcan has no IP")
	}
}
