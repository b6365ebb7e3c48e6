package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	containerdSocket = "/run/containerd/containerd.sock"
	podImage         = "docker.io/library/pod:test"
)

// containerd is the daemon and its CRI, as a kubelet sees it.
type containerd struct {
	t      testing.TB
	dir    string
	daemon *exec.Cmd
	conn   *grpc.ClientConn
	cri    cri.RuntimeServiceClient
}

// newContainerd starts containerd with a pod network that has vxcan behind bridge, on demand of the pod, which may name
// other hubs, too.
func newContainerd(t testing.TB) *containerd {
	t.Helper()
	content, err := os.ReadFile("../conflist/containerd/cni.conflist")
	if err != nil {
		t.Fatal(err)
	}
	const hub = `"hub": "vcan0",`
	if !bytes.Contains(content, []byte(hub)) {
		t.Fatalf("no %s in cni.conflist:\n%s", hub, content)
	}
	return newContainerdWith(t, bytes.Replace(content, []byte(hub), []byte(hub+` "pod-hubs": ["vcan*"],`), 1))
}

// newContainerdWith is newContainerd with a pod network of one's own.
func newContainerdWith(t testing.TB, conflist []byte) *containerd {
	t.Helper()
	c := &containerd{t: t, dir: t.TempDir()}
	bin, conf := c.dir+"/bin", c.dir+"/net.d"
	command(t, "install", "-D", "-t", bin, filepath.Join(binDir(t), "vxcan"))
	for _, plugin := range []string{"bridge", "host-local", "loopback", "portmap", "bandwidth"} {
		command(t, "install", "-D", "-t", bin, "/usr/lib/cni/"+plugin)
	}
	if err := os.MkdirAll(conf, 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, conf+"/10-pods.conflist", string(conflist))
	config := fmt.Sprintf(`version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = %q
  disable_apparmor = true
  restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = %q
  conf_dir = %q
`, podImage, bin, conf)
	if err := os.WriteFile(c.dir+"/config.toml", []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.end) // also of one that starts too slowly
	c.start()
	if out := command(t, "ctr", "--namespace", "k8s.io", "image", "list", "--quiet"); !strings.Contains(out, podImage) {
		command(t, "ctr", "--namespace", "k8s.io", "image", "import", imageArchive(t, podImage))
	}
	return c
}

// start starts the daemon and waits until it answers.
func (c *containerd) start() {
	c.t.Helper()
	log, err := os.OpenFile(c.dir+"/log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		c.t.Fatal(err)
	}
	defer log.Close()
	daemon := exec.Command("containerd", "--config", c.dir+"/config.toml")
	daemon.Stdout, daemon.Stderr = log, log
	if err := daemon.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.daemon = daemon
	conn, err := grpc.NewClient("unix://"+containerdSocket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithUnaryInterceptor(inTime))
	if err != nil {
		c.t.Fatal(err)
	}
	c.conn = conn
	c.cri = cri.NewRuntimeServiceClient(conn)
	for range 200 {
		if _, err = c.cri.Version(c.t.Context(), &cri.VersionRequest{}); err == nil {
			return
		}
		time.Sleep(200 * time.Millisecond)
	}
	c.t.Fatalf("containerd does not answer: %v\n%s", err, c.lastWords())
}

// inTime limits every call.
func inTime(ctx context.Context, method string, request, answer any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, options ...grpc.CallOption) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	return invoke(ctx, method, request, answer, conn, options...)
}

// lastWords is the end of the daemon's log.
func (c *containerd) lastWords() string {
	out, _ := try("tail", "-n", "15", c.dir+"/log")
	return out
}

// end removes the pods, unless they are to live through a reboot, and their bridge, and stops the daemon.
func (c *containerd) end() {
	c.t.Helper()
	if c.conn != nil && os.Getenv("VXCAN_BOOT") != "1" {
		pods, err := c.cri.ListPodSandbox(context.Background(), &cri.ListPodSandboxRequest{})
		if err != nil {
			c.t.Error(err)
		}
		for _, pod := range pods.GetItems() {
			_, _ = c.cri.StopPodSandbox(context.Background(), &cri.StopPodSandboxRequest{PodSandboxId: pod.Id})
			_, _ = c.cri.RemovePodSandbox(context.Background(), &cri.RemovePodSandboxRequest{PodSandboxId: pod.Id})
		}
		_, _ = try("ip", "link", "del", "cni0")
	}
	c.stop()
}

// stop stops the daemon; its pods run on.
func (c *containerd) stop() {
	c.t.Helper()
	if c.conn != nil {
		_ = c.conn.Close()
		c.conn = nil
	}
	stop(c.t, &c.daemon, syscall.SIGTERM)
}

// runPod starts a pod, as a kubelet does, and returns its ID.
func (c *containerd) runPod(name, annotation string) string {
	c.t.Helper()
	id, err := c.tryPod(name, annotation)
	if err != nil {
		c.t.Fatalf("run pod %s: %v\n%s", name, err, c.lastWords())
	}
	return id
}

func (c *containerd) tryPod(name, annotation string) (string, error) {
	config := &cri.PodSandboxConfig{
		Metadata:     &cri.PodSandboxMetadata{Name: name, Uid: "uid-" + name, Namespace: "default"},
		LogDirectory: c.dir,
		Linux:        &cri.LinuxPodSandboxConfig{},
		Annotations:  map[string]string{"example.com/app": "robot"},
	}
	if annotation != "" {
		config.Annotations["vxcan/networks"] = annotation
	}
	pod, err := c.cri.RunPodSandbox(c.t.Context(), &cri.RunPodSandboxRequest{Config: config})
	return pod.GetPodSandboxId(), err
}

func (c *containerd) removePod(id string) {
	c.t.Helper()
	if _, err := c.cri.StopPodSandbox(c.t.Context(), &cri.StopPodSandboxRequest{PodSandboxId: id}); err != nil {
		c.t.Fatalf("stop pod: %v", err)
	}
	if _, err := c.cri.RemovePodSandbox(c.t.Context(), &cri.RemovePodSandboxRequest{PodSandboxId: id}); err != nil {
		c.t.Fatalf("remove pod: %v", err)
	}
}

// inspect returns a pod's IP and its netns.
func (c *containerd) inspect(id string) (ip string, netns ns.NetNS) {
	c.t.Helper()
	status, err := c.cri.PodSandboxStatus(c.t.Context(), &cri.PodSandboxStatusRequest{PodSandboxId: id, Verbose: true})
	if err != nil {
		c.t.Fatal(err)
	}
	var info struct{ Pid int }
	if err := json.Unmarshal([]byte(status.Info["info"]), &info); err != nil {
		c.t.Fatal(err)
	}
	if netns, err = ns.GetNS(fmt.Sprintf("/proc/%d/ns/net", info.Pid)); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { netns.Close() })
	return status.Status.Network.GetIp(), netns
}

// station is a pod's CAN interface; the pod must have an IP beside it.
func (c *containerd) station(id, ifName string) station {
	c.t.Helper()
	ip, netns := c.inspect(id)
	if ip == "" {
		c.t.Errorf("pod %s has no IP", id)
	}
	return station{"pod " + id[:6], netns, ifName}
}

// networkReady is what a kubelet reads of the node's network, and the reason why it is not ready.
func (c *containerd) networkReady() (ready bool, reason string) {
	c.t.Helper()
	status, err := c.cri.Status(c.t.Context(), &cri.StatusRequest{})
	if err != nil {
		c.t.Fatal(err)
	}
	for _, condition := range status.Status.Conditions {
		if condition.Type == "NetworkReady" {
			return condition.Status, condition.Message
		}
	}
	return false, "no condition of that name"
}

// version is the daemon's.
func (c *containerd) version() string {
	c.t.Helper()
	version, err := c.cri.Version(c.t.Context(), &cri.VersionRequest{})
	if err != nil {
		c.t.Fatal(err)
	}
	return version.RuntimeVersion
}

// TestContainerd: pods by the container runtime interface: IP and can0 for those that ask, on one bus; a restart of
// containerd; and the same pod again in another sandbox.
func TestContainerd(t *testing.T) {
	freshHost(t)
	c := newContainerd(t)
	t.Logf("containerd %s", c.version())
	if ready, reason := c.networkReady(); !ready {
		t.Errorf("the node's network is not ready: %s", reason)
	}
	host := station{"host", nil, "vcan0"}
	engine, dashboard := c.runPod("engine", "can0"), c.runPod("dashboard", "vcan0:can3,vcan1:can1")
	plain := c.runPod("plain", "")
	stations := []station{host, c.station(engine, "can0"), c.station(dashboard, "can3")}
	expectExactlyOnce(t, stations, 50, true)
	expectExactlyOnce(t, []station{{"host", nil, "vcan1"}, c.station(dashboard, "can1")}, 5, true)
	ip, netns := c.inspect(plain)
	if ip == "" {
		t.Error("the pod without annotation has no IP")
	}
	if err := netns.Do(func(ns.NetNS) error {
		for _, l := range links(t) {
			if l.Kind == "vxcan" {
				t.Errorf("the pod without annotation has %s", l.Name)
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}

	c.stop()
	expectExactlyOnce(t, stations, 5, true) // pods do not need it
	c.start()
	expectExactlyOnce(t, stations, 5, true)

	c.removePod(engine)
	engine = c.runPod("engine", "can0")
	expectExactlyOnce(t, []station{host, c.station(engine, "can0"), c.station(dashboard, "can3")}, 5, true)

	if _, err := c.tryPod("wrong", "vcan0:a/b"); err == nil || !strings.Contains(err.Error(), `annotation vxcan/networks is "vcan0:a/b"`) {
		t.Errorf("a pod that asks for nonsense: %v", err)
	} else {
		t.Logf("a pod that asks for nonsense: %v", err)
	}
	for _, id := range []string{engine, dashboard, plain} {
		c.removePod(id)
	}
	if got, want := canLinks(t), []string{"vcan0", "vcan0-rx", "vcan0-tx"}; !slices.Equal(got, want) {
		t.Errorf("devices with all pods gone: %v, want those of the configured hub: %v", got, want)
	}
}

// podConflist is a pod network of conflist/.
type podConflist struct {
	CNIVersion string            `json:"cniVersion"`
	Name       string            `json:"name"`
	Plugins    []json.RawMessage `json:"plugins"`
}

// k3sConflist is the file for k3s. Its flannel plugin is in no Debian package: bridge stands in its place, with all that
// follows it as it is.
func k3sConflist(t testing.TB) podConflist {
	t.Helper()
	var ours, theirs podConflist
	readJSON(t, "../conflist/k3s/cni.conflist", &ours)
	readJSON(t, "../conflist/containerd/cni.conflist", &theirs)
	if !strings.Contains(string(ours.Plugins[0]), `"flannel"`) || !strings.Contains(string(theirs.Plugins[0]), `"bridge"`) {
		t.Fatalf("first plugins: %s, %s", ours.Plugins[0], theirs.Plugins[0])
	}
	ours.Plugins[0] = theirs.Plugins[0]
	return ours
}

// TestContainerdEveryPod: without the capability every pod is attached, whether it asks for it or not.
func TestContainerdEveryPod(t *testing.T) {
	freshHost(t)
	var list podConflist
	readJSON(t, "../conflist/containerd/cni.conflist", &list)
	list.Plugins[len(list.Plugins)-1] = json.RawMessage(`{"type":"vxcan"}`)
	c := newContainerdWith(t, marshal(t, list))
	stations := []station{{"host", nil, "vcan0"}}
	for name, annotation := range map[string]string{"engine": "", "dashboard": "vcan1:can1"} {
		stations = append(stations, c.station(c.runPod(name, annotation), "can0"))
	}
	expectExactlyOnce(t, stations, 50, true)
	if slices.Contains(canLinks(t), "vcan1") {
		t.Error("an annotation was heard that nobody passes on")
	}
}

// TestContainerdK3s runs the files for k3s.
func TestContainerdK3s(t *testing.T) {
	freshHost(t)
	c := newContainerdWith(t, marshal(t, k3sConflist(t)))
	manifest, err := os.ReadFile("../conflist/k3s/pod.yaml")
	if err != nil {
		t.Fatal(err)
	}
	_, annotation, ok := strings.Cut(string(manifest), "vxcan/networks: ")
	if !ok {
		t.Fatalf("no annotation in pod.yaml:\n%s", manifest)
	}
	pod := c.station(c.runPod("engine", firstLine(annotation)), "can0")
	expectExactlyOnce(t, []station{{"host", nil, "vcan0"}, pod}, 20, true)

	// Multus takes the configuration out of its resource, and gives it the resource's name and the asked-for interface.
	definition, err := os.ReadFile("../conflist/k3s/multus.yaml")
	if err != nil {
		t.Fatal(err)
	}
	_, conf, ok := strings.Cut(string(definition), "config: |")
	if !ok {
		t.Fatalf("no configuration in multus.yaml:\n%s", definition)
	}
	box := newContainer(t, "multus")
	delegate := call{conf: conf, containerID: "multus", netns: box.path, ifName: "net1"}.with(`"name":"canbus0"`)
	delegate.add(t)
	expectExactlyOnce(t, []station{{"host", nil, "vcan0"}, pod, {"multus", box.netns, "net1"}}, 20, true)
	delegate.ok(t, "DEL")
}

// TestContainerdStatus: from containerd 2 on, a network of CNI 1.1.0 makes the node ready or not by STATUS, which fails
// only where an ADD would.
func TestContainerdStatus(t *testing.T) {
	freshHost(t)
	list := `{"cniVersion":"1.1.0","name":"pods","plugins":[{"type":"vxcan"}]}`
	c := newContainerdWith(t, []byte(list))
	if ready, reason := c.networkReady(); !ready {
		t.Errorf("containerd %s: not ready: %s", c.version(), reason)
	}
	if c.version() < "2" {
		t.Logf("containerd %s asks no plugin for its STATUS", c.version())
		return
	}
	restore := withoutModules(t)
	if ready, reason := c.networkReady(); ready || !strings.Contains(reason, "can-gw") {
		t.Errorf("containerd %s: ready %v without modules: %s", c.version(), ready, reason)
	} else {
		t.Logf("containerd %s: %s", c.version(), reason)
	}
	restore()
	if ready, reason := c.networkReady(); !ready {
		t.Errorf("containerd %s: not ready again: %s", c.version(), reason)
	}
}

func readJSON(t testing.TB, path string, v any) {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(content, v); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

// TestRebootContainerd: after a reboot a kubelet removes the dead pods, whose netns are gone, and runs new ones.
func TestRebootContainerd(t *testing.T) {
	boot := bootNumber(t)
	c := newContainerd(t)
	if boot == 2 {
		expectNoHub(t, "vcan2")
		dead, err := c.cri.ListPodSandbox(t.Context(), &cri.ListPodSandboxRequest{})
		if err != nil || len(dead.Items) != 2 {
			t.Fatalf("pods of the first boot: %v, %v", dead, err)
		}
		for _, pod := range dead.Items {
			c.removePod(pod.Id)
		}
	}
	stations := []station{{"host", nil, "vcan2"}}
	for _, name := range []string{"engine", "dashboard"} {
		stations = append(stations, c.station(c.runPod(name, "vcan2:can0"), "can0"))
	}
	expectExactlyOnce(t, stations, 50, true)
}
