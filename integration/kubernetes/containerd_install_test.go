package kubernetes

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/vxcan/vxcan/integration/harness"
)

// daemonPod is a pod as the DaemonSet of conflist/kubernetes with the component vxcanctl has it, with the rights of both
// containers.
type daemonPod struct {
	c                   *harness.Containerd
	sandbox             string
	installer, vxcanctl string // IDs
}

const metricsAddress = "127.0.0.1:9732"

func runDaemon(c *harness.Containerd, entry string) *daemonPod {
	c.T.Helper()
	image := harness.InstallImage(c.T)
	harness.Command(c.T, "ctr", "--namespace", "k8s.io", "image", "import", harness.Repo("bin/image.tar"))
	sandbox := &cri.PodSandboxConfig{
		Metadata:     &cri.PodSandboxMetadata{Name: "vxcan", Uid: "uid-vxcan", Namespace: "kube-system"},
		LogDirectory: c.Dir,
		Linux: &cri.LinuxPodSandboxConfig{SecurityContext: &cri.LinuxSandboxSecurityContext{
			NamespaceOptions: &cri.NamespaceOption{Network: cri.NamespaceMode_NODE},
		}},
	}
	d := &daemonPod{c: c}
	pod, err := c.CRI.RunPodSandbox(c.T.Context(), &cri.RunPodSandboxRequest{Config: sandbox})
	d.must(err)
	d.sandbox = pod.PodSandboxId
	start := func(name string, command, args []string, mounts ...*cri.Mount) string {
		container, err := c.CRI.CreateContainer(c.T.Context(), &cri.CreateContainerRequest{
			PodSandboxId: d.sandbox, SandboxConfig: sandbox,
			Config: &cri.ContainerConfig{
				Metadata: &cri.ContainerMetadata{Name: name},
				Image:    &cri.ImageSpec{Image: image},
				Command:  command,
				Args:     args,
				Mounts:   mounts,
				LogPath:  name + ".log",
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
		d.must(err)
		_, err = c.CRI.StartContainer(c.T.Context(), &cri.StartContainerRequest{ContainerId: container.ContainerId})
		d.must(err)
		return container.ContainerId
	}
	d.installer = start("install", nil, []string{"--bin-dir=/host/bin", "--conf-dir=/host/conf", "--entry=" + entry, "--remove-on-exit"},
		&cri.Mount{ContainerPath: "/host/bin", HostPath: c.Dir + "/bin"},
		&cri.Mount{ContainerPath: "/host/conf", HostPath: c.Dir + "/net.d"})
	d.vxcanctl = start("vxcanctl", []string{"/vxcanctl", "metrics", "--listen=" + metricsAddress}, nil,
		&cri.Mount{ContainerPath: "/var/lib/cni", HostPath: "/var/lib/cni", Readonly: true},
		&cri.Mount{ContainerPath: "/lib/modules", HostPath: "/lib/modules", Readonly: true})
	return d
}

func (d *daemonPod) must(err error) {
	d.c.T.Helper()
	if err != nil {
		d.c.T.Fatalf("run the image: %v\n%s", err, d.c.LastWords())
	}
}

// control is kubectl exec ds/vxcan -- vxcanctl.
func (d *daemonPod) control(args ...string) (out string, status int32) {
	d.c.T.Helper()
	answer, err := d.c.CRI.ExecSync(d.c.T.Context(), &cri.ExecSyncRequest{ContainerId: d.vxcanctl, Cmd: append([]string{"vxcanctl"}, args...), Timeout: 60})
	d.must(err)
	return string(answer.Stdout) + string(answer.Stderr), answer.ExitCode
}

// end stops the pod, and returns the installer's log.
func (d *daemonPod) end() string {
	d.c.T.Helper()
	began := time.Now()
	for _, id := range []string{d.installer, d.vxcanctl} {
		_, err := d.c.CRI.StopContainer(d.c.T.Context(), &cri.StopContainerRequest{ContainerId: id, Timeout: 10})
		d.must(err)
	}
	if took := time.Since(began); took > 12*time.Second {
		d.c.T.Errorf("it took %v to stop", took)
	}
	log, err := os.ReadFile(d.c.Dir + "/install.log")
	d.must(err)
	d.c.RemovePod(d.sandbox)
	return string(log)
}

// expectShown: vxcanctl in its container, which has no capabilities, shows the bus of vcan0 whole, with these pods, and so do
// its metrics. doctor looks at it.
func (d *daemonPod) expectShown(pods ...string) {
	t := d.c.T
	t.Helper()
	out, status := d.control()
	t.Logf("vxcanctl: exit status %d\n%s", status, out)
	answer, err := http.Get("http://" + metricsAddress + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	metrics, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK || !strings.Contains(string(metrics), `vxcan_bus_whole{hub="vcan0"} 1`) {
		t.Errorf("metrics: %s, %v\n%s", answer.Status, err, metrics)
	}
	if status != 0 || !strings.Contains(out, "healthy") {
		t.Error("vxcanctl does not show a healthy bus")
	}
	for _, pod := range pods {
		if !strings.Contains(out, pod) || !strings.Contains(string(metrics), `name="`+pod+`"`) {
			t.Errorf("%s is not shown", pod)
		}
	}
	out, status = d.control("doctor")
	t.Logf("vxcanctl doctor: exit status %d\n%s", status, out)
	if !strings.Contains(out, fmt.Sprintf("bus vcan0 with %d container", len(pods))) {
		t.Error("doctor does not look at the bus")
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

	daemon := runDaemon(c, string(entry))
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
	daemon.expectShown("default/engine", "default/a", "default/b", "default/c")

	log := daemon.end()
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
