package harness

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
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

// Containerd is the daemon and its CRI, as a kubelet sees it.
type Containerd struct {
	T      testing.TB
	Dir    string
	daemon *exec.Cmd
	conn   *grpc.ClientConn
	CRI    cri.RuntimeServiceClient
}

// NewContainerd starts containerd with a pod network that has vxcan behind bridge, on demand of the pod, which may name
// other hubs, too.
func NewContainerd(t testing.TB) *Containerd {
	t.Helper()
	content, err := os.ReadFile(Repo("conflist/containerd/cni.conflist"))
	if err != nil {
		t.Fatal(err)
	}
	const hub = `"hub": "vcan0",`
	if !bytes.Contains(content, []byte(hub)) {
		t.Fatalf("no %s in cni.conflist:\n%s", hub, content)
	}
	return NewContainerdWith(t, bytes.Replace(content, []byte(hub), []byte(hub+` "pod-hubs": ["vcan*"],`), 1))
}

// NewContainerdWith is NewContainerd with a pod network of one's own.
func NewContainerdWith(t testing.TB, conflist []byte) *Containerd {
	t.Helper()
	c := &Containerd{T: t, Dir: t.TempDir()}
	bin, conf := c.Dir+"/bin", c.Dir+"/net.d"
	Command(t, "install", "-D", "-t", bin, filepath.Join(BinDir(t), "vxcan"))
	for _, plugin := range []string{"bridge", "host-local", "loopback", "portmap", "bandwidth"} {
		Command(t, "install", "-D", "-t", bin, "/usr/lib/cni/"+plugin)
	}
	if err := os.MkdirAll(conf, 0o755); err != nil {
		t.Fatal(err)
	}
	Write(t, conf+"/10-pods.conflist", string(conflist))
	if err := os.WriteFile(c.Dir+"/config.toml", []byte(containerdConfig(CNIDirs{bin, conf})), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.End) // also of one that starts too slowly
	c.Start()
	if out := Command(t, "ctr", "--namespace", "k8s.io", "image", "list", "--quiet"); !strings.Contains(out, podImage) {
		Command(t, "ctr", "--namespace", "k8s.io", "image", "import", ImageArchive(t, podImage))
	}
	return c
}

func containerdConfig(dirs CNIDirs) string {
	return fmt.Sprintf(`version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = %q
  disable_apparmor = true
  restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = %q
  conf_dir = %q
`, podImage, dirs.Bin, dirs.Conf)
}

// Start starts the daemon and waits until it answers.
func (c *Containerd) Start() {
	c.T.Helper()
	c.daemon = startDaemon(c.T, c.Dir+"/log", "containerd", "--config", c.Dir+"/config.toml")
	c.connect(containerdSocket)
	var err error
	for range 200 {
		if _, err = c.CRI.Version(c.T.Context(), &cri.VersionRequest{}); err == nil {
			return
		}
		time.Sleep(200 * time.Millisecond)
	}
	c.T.Fatalf("containerd does not answer: %v\n%s", err, c.LastWords())
}

// connect has calls go to a socket.
func (c *Containerd) connect(socket string) {
	c.T.Helper()
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithUnaryInterceptor(inTime))
	if err != nil {
		c.T.Fatal(err)
	}
	c.conn, c.CRI = conn, cri.NewRuntimeServiceClient(conn)
}

// inTime limits every call.
func inTime(ctx context.Context, method string, request, answer any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, options ...grpc.CallOption) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	return invoke(ctx, method, request, answer, conn, options...)
}

// LastWords is the end of the daemon's log.
func (c *Containerd) LastWords() string {
	out, _ := Try("tail", "-n", "15", c.Dir+"/log")
	return out
}

// End removes the pods, unless they are to live through a reboot, and their bridge, and stops the daemon.
func (c *Containerd) End() {
	c.T.Helper()
	if c.conn != nil && os.Getenv("VXCAN_BOOT") != "1" {
		pods, err := c.CRI.ListPodSandbox(context.Background(), &cri.ListPodSandboxRequest{})
		if err != nil {
			c.T.Error(err)
		}
		for _, pod := range pods.GetItems() {
			_, errStop := c.CRI.StopPodSandbox(context.Background(), &cri.StopPodSandboxRequest{PodSandboxId: pod.Id})
			_, errRemove := c.CRI.RemovePodSandbox(context.Background(), &cri.RemovePodSandboxRequest{PodSandboxId: pod.Id})
			if err := errors.Join(errStop, errRemove); err != nil {
				c.T.Errorf("end pod %s: %v", pod.Id, err)
			}
		}
		_, _ = Try("ip", "link", "del", "cni0")
	}
	c.Stop()
}

// Stop stops the daemon; its pods run on.
func (c *Containerd) Stop() {
	c.T.Helper()
	if c.conn != nil {
		_ = c.conn.Close()
		c.conn = nil
	}
	stop(c.T, &c.daemon, syscall.SIGTERM)
}

// RunPod starts a pod, as a kubelet does, and returns its ID.
func (c *Containerd) RunPod(name, annotation string) string {
	c.T.Helper()
	id, err := c.TryPod(name, annotation)
	if err != nil {
		c.T.Fatalf("run pod %s: %v\n%s", name, err, c.LastWords())
	}
	return id
}

// TryPod is RunPod for what may fail.
func (c *Containerd) TryPod(name, annotation string) (string, error) {
	config := &cri.PodSandboxConfig{
		Metadata:     &cri.PodSandboxMetadata{Name: name, Uid: "uid-" + name, Namespace: "default"},
		LogDirectory: c.Dir,
		Linux:        &cri.LinuxPodSandboxConfig{},
		Annotations:  map[string]string{"example.com/app": "robot"},
	}
	if annotation != "" {
		config.Annotations["vxcan/networks"] = annotation
	}
	pod, err := c.CRI.RunPodSandbox(c.T.Context(), &cri.RunPodSandboxRequest{Config: config})
	return pod.GetPodSandboxId(), err
}

// RemovePod stops and removes a pod, as a kubelet does.
func (c *Containerd) RemovePod(id string) {
	c.T.Helper()
	if _, err := c.CRI.StopPodSandbox(c.T.Context(), &cri.StopPodSandboxRequest{PodSandboxId: id}); err != nil {
		c.T.Fatalf("stop pod: %v", err)
	}
	if _, err := c.CRI.RemovePodSandbox(c.T.Context(), &cri.RemovePodSandboxRequest{PodSandboxId: id}); err != nil {
		c.T.Fatalf("remove pod: %v", err)
	}
}

// Inspect returns a pod's IP and its netns.
func (c *Containerd) Inspect(id string) (ip string, netns ns.NetNS) {
	c.T.Helper()
	status, err := c.CRI.PodSandboxStatus(c.T.Context(), &cri.PodSandboxStatusRequest{PodSandboxId: id, Verbose: true})
	if err != nil {
		c.T.Fatal(err)
	}
	var info struct{ Pid int }
	if err := json.Unmarshal([]byte(status.Info["info"]), &info); err != nil {
		c.T.Fatal(err)
	}
	if netns, err = ns.GetNS(fmt.Sprintf("/proc/%d/ns/net", info.Pid)); err != nil {
		c.T.Fatal(err)
	}
	c.T.Cleanup(func() { netns.Close() })
	return status.Status.Network.GetIp(), netns
}

// Station is a pod's CAN interface; the pod must have an IP beside it.
func (c *Containerd) Station(id, ifName string) Station {
	c.T.Helper()
	ip, netns := c.Inspect(id)
	if ip == "" {
		c.T.Errorf("pod %s has no IP", id)
	}
	return Station{"pod " + id[:6], netns, ifName}
}

// Version is the daemon's.
func (c *Containerd) Version() string {
	c.T.Helper()
	version, err := c.CRI.Version(c.T.Context(), &cri.VersionRequest{})
	if err != nil {
		c.T.Fatal(err)
	}
	return version.RuntimeVersion
}

// CNIConfig is the pod network that containerd has loaded.
func (c *Containerd) CNIConfig() string {
	c.T.Helper()
	status, err := c.CRI.Status(c.T.Context(), &cri.StatusRequest{Verbose: true})
	if err != nil {
		c.T.Fatal(err)
	}
	return status.Info["cniconfig"]
}

// PodConflist is a pod network of conflist/.
type PodConflist struct {
	CNIVersion string            `json:"cniVersion"`
	Name       string            `json:"name"`
	Plugins    []json.RawMessage `json:"plugins"`
}

// K3sConflist is the file for k3s. Its flannel plugin is in no Debian package: bridge stands in its place, with all that
// follows it as it is.
func K3sConflist(t testing.TB) PodConflist {
	t.Helper()
	var ours, theirs PodConflist
	ReadJSON(t, Repo("conflist/k3s/cni.conflist"), &ours)
	ReadJSON(t, Repo("conflist/containerd/cni.conflist"), &theirs)
	if !strings.Contains(string(ours.Plugins[0]), `"flannel"`) || !strings.Contains(string(theirs.Plugins[0]), `"bridge"`) {
		t.Fatalf("first plugins: %s, %s", ours.Plugins[0], theirs.Plugins[0])
	}
	ours.Plugins[0] = theirs.Plugins[0]
	return ours
}
