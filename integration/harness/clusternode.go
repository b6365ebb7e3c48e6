package harness

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// CNIDirs are where a distribution of Kubernetes has its plugins and the files of its networks.
type CNIDirs struct{ Bin, Conf string }

// Directories of the distributions that conflist/kubernetes has overlays for.
var (
	KubeadmDirs  = CNIDirs{"/opt/cni/bin", "/etc/cni/net.d"}
	K3sDirs      = CNIDirs{"/var/lib/rancher/k3s/data/cni", "/var/lib/rancher/k3s/agent/etc/cni/net.d"}
	MicroK8sDirs = CNIDirs{"/var/snap/microk8s/current/opt/cni/bin", "/var/snap/microk8s/current/args/cni-network"}
)

// ownDirs are what a node has of its own; /run is its own as well, and empty after each of its boots.
var ownDirs = []string{
	"/etc/cni", "/opt/cni", "/var/lib/cni", "/var/lib/containerd", "/var/lib/kubelet", "/var/lib/rancher", "/var/log", "/var/snap",
}

// ClusterNode is a node of a cluster: containerd and a kubelet.
type ClusterNode struct {
	*Containerd // whose Start and End are not for a node
	Name        string
	Netns       ns.NetNS
	c           *Cluster
	number      int
	dirs        CNIDirs
	holder      *exec.Cmd // of the mount namespace
	kubelet     *exec.Cmd
}

func clusterNodeName(number int) string { return "node" + strconv.Itoa(number) }

func newClusterNode(c *Cluster, number int, dirs CNIDirs) *ClusterNode {
	c.T.Helper()
	n := &ClusterNode{Name: clusterNodeName(number), c: c, number: number, dirs: dirs}
	n.Containerd = &Containerd{T: c.T, Dir: filepath.Join(clusterDir, n.Name)}
	for _, dir := range append([]string{""}, ownDirs...) {
		if err := os.MkdirAll(n.Dir+dir, 0o755); err != nil {
			c.T.Fatal(err)
		}
	}
	return n
}

// PowerOn boots the node: what it had in its /run before is gone.
func (n *ClusterNode) PowerOn() {
	n.T.Helper()
	n.plugIn()
	script := "set -e\n"
	for _, dir := range ownDirs {
		script += fmt.Sprintf("mkdir -p %[1]s; mount --bind %[2]s%[1]s %[1]s\n", dir, n.Dir)
	}
	if n.number == 2 { // an immutable system, such as Fedora CoreOS or Flatcar
		script += "mount --bind /usr /usr; mount -o remount,bind,ro /usr\n"
	}
	script += "mount -t tmpfs tmpfs /run; mkdir -p /run/lock; touch /run/ready; exec sleep infinity"
	n.holder = startDaemon(n.T, n.Dir+"/holder.log",
		"nsenter", "--net="+n.netnsPath(), "unshare", "--mount", "--propagation", "shared", "sh", "-c", script)
	n.c.WaitFor("mounts of "+n.Name, func() bool {
		_, err := os.Stat(n.own("/run/ready"))
		return err == nil
	})
	n.fillPlugins()
	n.StartContainerd()
	n.loadImages()
	n.StartKubelet()
}

func (n *ClusterNode) netnsPath() string { return "/run/netns/" + n.Name }

// IP is the node's address.
func (n *ClusterNode) IP() string { return fmt.Sprintf("10.9.0.%d", 10+n.number) }

// own is where this process sees a path of the node's.
func (n *ClusterNode) own(path string) string {
	return fmt.Sprintf("/proc/%d/root%s", n.holder.Process.Pid, path)
}

// In is a command that runs on the node.
func (n *ClusterNode) In(args ...string) []string {
	return append([]string{"nsenter", "--target", strconv.Itoa(n.holder.Process.Pid), "--mount", "--net", "--"}, args...)
}

// Command runs a command on the node.
func (n *ClusterNode) Command(args ...string) string {
	n.T.Helper()
	all := n.In(args...)
	return Command(n.T, all[0], all[1:]...)
}

// plugIn makes the node's network namespace, and its cable to the switch.
func (n *ClusterNode) plugIn() {
	n.T.Helper()
	Command(n.T, "ip", "netns", "add", n.Name)
	var err error
	if n.Netns, err = ns.GetNS(n.netnsPath()); err != nil {
		n.T.Fatal(err)
	}
	for _, args := range []string{
		"link add " + n.Name + " type veth peer name eth0 netns " + n.Name,
		"link set " + n.Name + " master " + switchName + " up",
		"-netns " + n.Name + " addr add " + n.IP() + "/24 dev eth0",
		"-netns " + n.Name + " link set lo up",
		"-netns " + n.Name + " link set eth0 up",
		"-netns " + n.Name + " route add default via " + controlIP,
	} {
		Command(n.T, "ip", strings.Fields(args)...)
	}
}

// fillPlugins gives the node the plugins and the network of its pods, as their installation does, without vxcan.
func (n *ClusterNode) fillPlugins() {
	n.T.Helper()
	for _, plugin := range []string{"bridge", "host-local", "loopback", "portmap", "bandwidth"} {
		n.Command("install", "-D", "-t", n.dirs.Bin, "/usr/lib/cni/"+plugin)
	}
	if _, err := os.Stat(n.own(n.dirs.Conf + "/10-pods.conflist")); err != nil {
		n.WritePodNetwork()
	}
}

// WritePodNetwork writes the pod network anew, without vxcan, as many distributions do at each start.
func (n *ClusterNode) WritePodNetwork() {
	n.T.Helper()
	n.Command("mkdir", "-p", n.dirs.Conf)
	Write(n.T, n.own(n.dirs.Conf+"/10-pods.conflist"), string(PodNetwork(n.T, "")))
}

// Become makes the node one of another distribution, with its directories.
func (n *ClusterNode) Become(dirs CNIDirs) {
	n.T.Helper()
	n.Stop()
	n.dirs = dirs
	n.fillPlugins()
	n.StartContainerd()
}

// StartContainerd starts the node's containerd and waits until it answers.
func (n *ClusterNode) StartContainerd() {
	n.T.Helper()
	Write(n.T, n.Dir+"/containerd.toml", containerdConfig(n.dirs))
	n.daemon = startDaemon(n.T, n.Dir+"/log", n.In("containerd", "--config", n.Dir+"/containerd.toml")...)
	n.connect(n.own(containerdSocket))
	n.c.WaitFor("containerd of "+n.Name, func() bool {
		_, err := n.CRI.Version(n.T.Context(), &cri.VersionRequest{})
		return err == nil
	})
}

// loadImages gives the node what a registry would.
func (n *ClusterNode) loadImages() {
	n.T.Helper()
	have := n.Command("ctr", "--namespace", "k8s.io", "image", "list", "--quiet")
	for name, archive := range map[string]func() string{
		podImage:                   func() string { return ImageArchive(n.T, podImage) },
		canUtils:                   func() string { return ImageArchive(n.T, canUtils, "candump", "cansend") },
		"localhost/vxcan-install:": func() string { return Repo("bin/image.tar") },
	} {
		if !strings.Contains(have, name) {
			n.LoadImage(archive())
		}
	}
}

// LoadImage gives the node the images of an archive.
func (n *ClusterNode) LoadImage(archive string) {
	n.T.Helper()
	n.Command("ctr", "--namespace", "k8s.io", "image", "import", archive)
}

// kubeletConfig is for a kubelet with an API server. A test machine needs neither limits on pods nor evictions.
func (n *ClusterNode) kubeletConfig() string {
	return `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
containerRuntimeEndpoint: unix://` + containerdSocket + `
cgroupDriver: cgroupfs
cgroupRoot: /` + n.Name + `
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
failSwapOn: false
localStorageCapacityIsolation: false
volumePluginDir: /var/lib/kubelet/volumeplugins
evictionHard: {}
imageGCHighThresholdPercent: 100
makeIPTablesUtilChains: false
clusterDNS: [` + controlIP + `]
clusterDomain: ` + clusterDomain + `
`
}

// StartKubelet starts the node's kubelet.
func (n *ClusterNode) StartKubelet() {
	n.T.Helper()
	makeCgroup(n.T, n.Name)
	Write(n.T, n.Dir+"/kubelet.yaml", n.kubeletConfig())
	n.c.writeKubeconfig(n.Dir+"/kubeconfig", nodeToken(n.Name))
	n.kubelet = startDaemon(n.T, n.Dir+"/kubelet.log", n.In(BinDir(n.T)+"/kube", "kubelet", "--config="+n.Dir+"/kubelet.yaml",
		"--kubeconfig="+n.Dir+"/kubeconfig", "--hostname-override="+n.Name, "--node-ip="+n.IP())...)
}

// makeCgroup makes the one below which a kubelet has its pods, with all controllers.
func makeCgroup(t testing.TB, name string) {
	t.Helper()
	const root = "/sys/fs/cgroup"
	controllers, err := os.ReadFile(root + "/cgroup.controllers")
	if err != nil {
		t.Fatal(err)
	}
	for controller := range strings.FieldsSeq(string(controllers)) {
		if err := os.WriteFile(root+"/cgroup.subtree_control", []byte("+"+controller), 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(root, name), 0o755); err != nil {
		t.Fatal(err)
	}
}

// PowerOff is a loss of power: every process of the node is killed, and its network is gone.
func (n *ClusterNode) PowerOff() {
	n.T.Helper()
	if n.T.Failed() {
		out, _ := Try("sh", "-c", "grep -E '^E' "+n.Dir+"/kubelet.log | tail -n 15; tail -n 8 "+n.Dir+"/log "+n.Dir+"/holder.log")
		n.T.Logf("%s:\n%s", n.Name, out)
	}
	if n.conn != nil {
		_ = n.conn.Close()
		n.conn = nil
	}
	for _, daemon := range []**exec.Cmd{&n.kubelet, &n.daemon} {
		stop(n.T, daemon, syscall.SIGKILL)
	}
	// Shims and pods are in the cgroups of the node, or have its mounts.
	for _, pid := range n.processes() {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	stop(n.T, &n.holder, syscall.SIGKILL)
	if n.Netns != nil {
		n.Netns.Close()
		n.Netns = nil
	}
	if _, err := Try("ip", "netns", "del", n.Name); err != nil {
		n.T.Error(err)
	}
	// Its end of the cable goes with the network namespace, which its last process kept.
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		if _, err := Try("ip", "link", "show", n.Name); err != nil {
			return
		}
	}
	n.T.Errorf("%s has a process that does not end", n.Name)
}

// processes are those in the mount namespace of the node, and in those that containers in its cgroup have.
func (n *ClusterNode) processes() (pids []int) {
	if n.holder == nil {
		return nil
	}
	mine, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", n.holder.Process.Pid))
	entries, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range entries {
		pid, _ := strconv.Atoi(filepath.Base(dir))
		mounts, err := os.Readlink(dir + "/ns/mnt")
		cgroup, _ := os.ReadFile(dir + "/cgroup")
		if err == nil && pid != n.holder.Process.Pid && (mounts == mine || strings.Contains(string(cgroup), "/"+n.Name+"/")) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// Stations are where the host of this node, and pods on it, send and hear.
func (n *ClusterNode) Stations(hub, ifName string, pods ...ClusterPod) []Station {
	n.T.Helper()
	all := []Station{{n.Name, n.Netns, hub}}
	for _, pod := range pods {
		all = append(all, n.podStation(pod, ifName))
	}
	return all
}

// podStation is the CAN interface of a pod on this node; the pod must have an IP beside it.
func (n *ClusterNode) podStation(pod ClusterPod, ifName string) Station {
	n.T.Helper()
	id := n.sandbox(pod)
	if id == "" {
		n.T.Fatalf("pod %s has no sandbox", pod.Metadata.Name)
	}
	s := n.Station(id, ifName)
	s.Name = pod.Metadata.Name
	return s
}

// Links lists the devices of the node.
func (n *ClusterNode) Links() []Link {
	n.T.Helper()
	return parseLinks(n.T, n.Command("ip", "-details", "-json", "link"))
}

// Control runs vxcanctl on the node.
func (n *ClusterNode) Control(args ...string) string {
	n.T.Helper()
	return n.Command(append([]string{BinDir(n.T) + "/vxcanctl"}, args...)...)
}

// ExpectWhole fails the test unless the bus of a hub on the node has this many endpoints, and nothing of it is missing.
func (n *ClusterNode) ExpectWhole(hub string, endpoints int) {
	n.T.Helper()
	var status struct{ Buses []BusStatus }
	out := n.Control("status", "-o", "json", hub)
	err := json.Unmarshal([]byte(out), &status)
	if err == nil && (len(status.Buses) != 1 || len(status.Buses[0].Endpoints) != endpoints || len(status.Buses[0].Differences) != 0) {
		err = errors.New("not as it is to be")
	}
	if err != nil {
		n.T.Errorf("%s: bus %s, want %d endpoints and no differences: %v\n%s", n.Name, hub, endpoints, err, out)
	}
}

// Has reports whether the node has a file.
func (n *ClusterNode) Has(path string) bool {
	_, err := os.Stat(n.own(path))
	return err == nil
}

// Read is a file of the node.
func (n *ClusterNode) Read(path string) []byte {
	n.T.Helper()
	content, err := os.ReadFile(n.own(path))
	if err != nil {
		n.T.Fatal(err)
	}
	return content
}

// PodNetworkFile is the file of the node's pod network.
func (n *ClusterNode) PodNetworkFile() string {
	n.T.Helper()
	return string(n.Read(n.dirs.Conf + "/10-pods.conflist"))
}

// CANLinks names the CAN devices of the node, sorted.
func (n *ClusterNode) CANLinks() []string {
	n.T.Helper()
	return namesOfCAN(n.Links())
}

// sandbox is the ID of the sandbox of a pod that is ready, or "".
func (n *ClusterNode) sandbox(pod ClusterPod) string {
	n.T.Helper()
	list, err := n.CRI.ListPodSandbox(n.T.Context(), &cri.ListPodSandboxRequest{Filter: &cri.PodSandboxFilter{
		State:         &cri.PodSandboxStateValue{State: cri.PodSandboxState_SANDBOX_READY},
		LabelSelector: map[string]string{"io.kubernetes.pod.uid": pod.Metadata.UID},
	}})
	if err != nil || len(list.Items) > 1 {
		n.T.Fatalf("sandboxes of pod %s: %v, %v", pod.Metadata.Name, list.GetItems(), err)
	}
	if len(list.Items) == 0 {
		return ""
	}
	return list.Items[0].Id
}

// KillSandbox takes the sandbox of a pod away.
func (n *ClusterNode) KillSandbox(pod ClusterPod) {
	n.T.Helper()
	if _, err := n.CRI.StopPodSandbox(n.T.Context(), &cri.StopPodSandboxRequest{PodSandboxId: n.sandbox(pod)}); err != nil {
		n.T.Fatal(err)
	}
}

// IsRunning reports whether a container of a pod runs.
func (n *ClusterNode) IsRunning(pod ClusterPod) bool {
	n.T.Helper()
	list, err := n.CRI.ListContainers(n.T.Context(), &cri.ListContainersRequest{Filter: &cri.ContainerFilter{
		State:         &cri.ContainerStateValue{State: cri.ContainerState_CONTAINER_RUNNING},
		LabelSelector: map[string]string{"io.kubernetes.pod.uid": pod.Metadata.UID},
	}})
	if err != nil {
		n.T.Fatal(err)
	}
	return len(list.Containers) > 0 && n.sandbox(pod) != ""
}
