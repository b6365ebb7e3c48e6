package harness

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	kubeletDir   = "/var/lib/kubelet"
	manifestDir  = "/etc/kubernetes/manifests" // a path that is the same after a reboot: the UID of a static pod depends on it
	podLogDir    = "/var/log/pods"
	reservedIPs  = "/var/lib/cni/networks/pods" // of host-local
	canUtils     = "docker.io/library/can-utils:test"
	nodeName     = "node"
	podNameLabel = "io.kubernetes.pod.name"
)

// PodHubs are the keys of a pod network whose pods may name a hub.
const PodHubs = `"pod-hubs":["vcan*"]`

// kubeletConfig is for a kubelet without an API server: its pods are files. A test machine needs neither limits on pods
// nor evictions.
const kubeletConfig = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
staticPodPath: ` + manifestDir + `
containerRuntimeEndpoint: unix://` + containerdSocket + `
cgroupDriver: cgroupfs
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
enableServer: false
failSwapOn: false
localStorageCapacityIsolation: false
evictionHard: {}
imageGCHighThresholdPercent: 100
makeIPTablesUtilChains: false
`

// Node is a node of Kubernetes: containerd, and a kubelet that has it run static pods.
type Node struct {
	*Containerd
	kubelet *exec.Cmd
	log     string // the kubelet's
}

// NewNode starts a node with a pod network that has vxcan, with these keys more, behind bridge. Its pods are those that
// the files in manifestDir describe.
func NewNode(t testing.TB, keys string) *Node {
	t.Helper()
	if os.Getenv("VXCAN_VM") != "booted" {
		t.Fatal("a kubelet changes settings of the whole machine: run this by bin/vm -boot")
	}
	expectKube(t)
	n := &Node{Containerd: NewContainerdWith(t, PodNetwork(t, keys))}
	t.Log("containerd", n.Version())
	n.log = n.Dir + "/kubelet.log"
	Command(t, "ctr", "--namespace", "k8s.io", "image", "import", ImageArchive(t, canUtils, "candump", "cansend"))
	if err := os.MkdirAll(manifestDir, 0o755); err != nil {
		t.Fatal(err)
	}
	Write(t, n.Dir+"/kubelet.yaml", kubeletConfig)
	showClockSpeed(t, n.Dir+"/cpuinfo")
	t.Cleanup(func() { // before containerd's own
		if t.Failed() {
			t.Logf("kubelet:\n%s", strings.Join(n.Logged("^E.*[pP]od.*"), ""))
			t.Logf("containerd:\n%s", n.LastWords())
		}
		n.StopKubelet()
		if os.Getenv("VXCAN_BOOT") == "1" {
			return
		}
		for _, dir := range []string{manifestDir, kubeletDir, podLogDir, reservedIPs} {
			if err := RemoveContent(dir); err != nil {
				t.Error(err)
			}
		}
	})
	n.StartKubelet()
	return n
}

// PodNetwork is the file of conflist/containerd with more keys of vxcan, as JSON members, and without vxcan for "".
func PodNetwork(t testing.TB, keys string) []byte {
	t.Helper()
	var list PodConflist
	ReadJSON(t, Repo("conflist/containerd/cni.conflist"), &list)
	last := len(list.Plugins) - 1
	if keys == "" {
		list.Plugins = list.Plugins[:last]
		return Marshal(t, list)
	}
	var entry, more map[string]any
	for text, all := range map[string]*map[string]any{string(list.Plugins[last]): &entry, "{" + keys + "}": &more} {
		if err := json.Unmarshal([]byte(text), all); err != nil {
			t.Fatal(err)
		}
	}
	for key, value := range more {
		entry[key] = value
	}
	list.Plugins[last] = Marshal(t, entry)
	return Marshal(t, list)
}

// showClockSpeed gives /proc/cpuinfo a line that User Mode Linux lacks and a kubelet does not start without.
func showClockSpeed(t testing.TB, file string) {
	t.Helper()
	const cpuinfo = "/proc/cpuinfo"
	content, err := os.ReadFile(cpuinfo)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(content), "cpu MHz") {
		return
	}
	Write(t, file, "cpu MHz\t\t: 1000.000\n"+string(content))
	Command(t, "mount", "--bind", file, cpuinfo)
	t.Cleanup(func() { Command(t, "umount", cpuinfo) })
}

// StartKubelet starts the kubelet.
func (n *Node) StartKubelet() {
	n.T.Helper()
	n.kubelet = startDaemon(n.T, n.log, BinDir(n.T)+"/kube", "kubelet", "--config="+n.Dir+"/kubelet.yaml", "--hostname-override="+nodeName)
}

// StopKubelet ends the kubelet; its pods run on.
func (n *Node) StopKubelet() { stop(n.T, &n.kubelet, syscall.SIGTERM) }

// Logged are the lines of the kubelet's log that a regular expression matches.
func (n *Node) Logged(pattern string) (lines []string) {
	n.T.Helper()
	content, err := os.ReadFile(n.log)
	if err != nil {
		n.T.Fatal(err)
	}
	match := regexp.MustCompile(pattern)
	for line := range strings.Lines(string(content)) {
		if match.MatchString(line) {
			lines = append(lines, line)
		}
	}
	return lines
}

// WaitFor waits for what a kubelet takes its time for: after a failure it may try again only 15 s later.
func (n *Node) WaitFor(what string, condition func() bool) {
	n.T.Helper()
	began := time.Now()
	for time.Since(began) < 2*time.Minute {
		if condition() {
			n.T.Logf("%s: after %.1f s", what, time.Since(began).Seconds())
			return
		}
		time.Sleep(200 * time.Millisecond)
	}
	n.T.Fatalf("in vain for two minutes: %s; there are netns %v, IPs %v, host ends %v", what, PodNetns(n.T), PodIPs(n.T), HostEnds(n.T))
}

// Example is a file of conflist/kubernetes, with an image that has what the commands there install.
func Example(t testing.TB, name string) string {
	t.Helper()
	content, err := os.ReadFile(Repo("conflist/kubernetes/" + name))
	if err != nil {
		t.Fatal(err)
	}
	text := string(content)
	for _, change := range [][2]string{
		{"image: debian:stable-slim", "image: " + canUtils},
		{"image: busybox:stable", "image: " + canUtils},
		{"apt-get update && apt-get -y install can-utils && ", ""},
	} {
		text = strings.ReplaceAll(text, change[0], change[1])
	}
	return text
}

// replaceOnce replaces words that must be in a text.
func replaceOnce(t testing.TB, text, old, new string) string {
	t.Helper()
	if !strings.Contains(text, old) {
		t.Fatalf("no %q in:\n%s", old, text)
	}
	return strings.Replace(text, old, new, 1)
}

// Apply gives the kubelet the pod of conflist/kubernetes under a name, with an annotation.
func (n *Node) Apply(name, annotation string) {
	n.T.Helper()
	text := Example(n.T, "pod.yaml")
	text = replaceOnce(n.T, text, "\n  name: engine\n", "\n  name: "+name+"\n")
	text = replaceOnce(n.T, text, "vxcan/networks: can0", "vxcan/networks: "+annotation)
	Write(n.T, filepath.Join(n.Dir, name), text)
	Command(n.T, "mv", filepath.Join(n.Dir, name), n.manifest(name))
}

func (n *Node) manifest(name string) string { return filepath.Join(manifestDir, name+".yaml") }

// Delete takes a pod away from the kubelet.
func (n *Node) Delete(name string) {
	n.T.Helper()
	Remove(n.T, n.manifest(name))
}

// Sandboxes are those of a pod, dead ones too.
func (n *Node) Sandboxes(name string) []*cri.PodSandbox {
	n.T.Helper()
	filter := &cri.PodSandboxFilter{LabelSelector: map[string]string{podNameLabel: name + "-" + nodeName}}
	list, err := n.CRI.ListPodSandbox(n.T.Context(), &cri.ListPodSandboxRequest{Filter: filter})
	if err != nil {
		n.T.Fatal(err)
	}
	return list.Items
}

// PodOn is a pod that runs.
type PodOn struct {
	n                  *Node
	Name               string
	Sandbox, Container string // IDs
}

// Running waits until a pod's container runs.
func (n *Node) Running(name string) PodOn {
	n.T.Helper()
	pod := PodOn{n: n, Name: name}
	n.WaitFor("pod "+name+" runs", func() bool {
		list, err := n.CRI.ListContainers(n.T.Context(), &cri.ListContainersRequest{Filter: &cri.ContainerFilter{
			State:         &cri.ContainerStateValue{State: cri.ContainerState_CONTAINER_RUNNING},
			LabelSelector: map[string]string{podNameLabel: name + "-" + nodeName},
		}})
		if err != nil {
			n.T.Fatal(err)
		}
		for _, c := range list.Containers {
			pod.Sandbox, pod.Container = c.PodSandboxId, c.Id
		}
		return pod.Container != ""
	})
	return pod
}

// Exec runs a command in the pod's container.
func (p PodOn) Exec(command ...string) string {
	p.n.T.Helper()
	answer, err := p.n.CRI.ExecSync(p.n.T.Context(), &cri.ExecSyncRequest{ContainerId: p.Container, Cmd: command, Timeout: 60})
	if err != nil || answer.ExitCode != 0 {
		p.n.T.Fatalf("%v in pod %s: %v, %s%s", command, p.Name, err, answer.GetStdout(), answer.GetStderr())
	}
	return string(answer.Stdout)
}

// On is the pod's CAN interface; the pod must have an IP beside it.
func (p PodOn) On(ifName string) Station { return p.n.Station(p.Sandbox, ifName) }

// Logs is what kubectl logs shows.
func (p PodOn) Logs() string {
	p.n.T.Helper()
	files, err := filepath.Glob(podLogDir + "/*_" + p.Name + "-" + nodeName + "_*/*/*.log")
	if err != nil || len(files) == 0 {
		p.n.T.Fatalf("no log of pod %s: %v", p.Name, err)
	}
	content, err := os.ReadFile(files[len(files)-1])
	if err != nil {
		p.n.T.Fatal(err)
	}
	return string(content)
}

// ExpectGone waits until nothing of any pod is left on the host: network namespaces, IPs, endpoints.
func (n *Node) ExpectGone() {
	n.T.Helper()
	n.WaitFor("all pods are gone", func() bool { return len(PodNetns(n.T))+len(PodIPs(n.T))+len(HostEnds(n.T)) == 0 })
}

// PodNetns are the network namespaces of pods.
func PodNetns(t testing.TB) []string {
	t.Helper()
	files, err := filepath.Glob("/run/netns/cni-*")
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// PodIPs are those that host-local keeps for pods.
func PodIPs(t testing.TB) []string {
	t.Helper()
	files, err := filepath.Glob(reservedIPs + "/10.*")
	if err != nil {
		t.Fatal(err)
	}
	for i := range files {
		files[i] = filepath.Base(files[i])
	}
	return files
}

// ExpectRecorded fails the test unless the bus of vcan0 has this many endpoints, and vxcanctl doctor finds it whole.
func ExpectRecorded(t testing.TB, count int) {
	t.Helper()
	out, _, _ := Control(t, nil)
	t.Logf("vxcanctl\n%s", out)
	buses := StatusOf(t, "vcan0")
	if len(buses) != 1 || len(buses[0].Endpoints) != count || len(buses[0].Differences) != 0 {
		t.Errorf("status: %+v, want %d endpoints and no differences", buses, count)
	}
}

// ReplacePlugin renames a new plugin over the old one. It returns what lists the verbs that the new one is called with.
func (n *Node) ReplacePlugin() (calls func() string) {
	n.T.Helper()
	next, list := n.Dir+"/vxcan.next", n.Dir+"/calls"
	Command(n.T, "cp", filepath.Join(BinDir(n.T), "vxcan"), next)
	script := fmt.Sprintf("#!/bin/sh\nprintf '%%s ' $CNI_COMMAND >>%s\nexec %s\n", list, next)
	if err := os.WriteFile(n.Dir+"/script", []byte(script), 0o700); err != nil {
		n.T.Fatal(err)
	}
	Command(n.T, "mv", n.Dir+"/script", n.Dir+"/bin/vxcan")
	return func() string {
		content, err := os.ReadFile(list)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			n.T.Fatal(err)
		}
		return string(content)
	}
}

// ReplacePodNetwork writes the pod network anew, and waits until containerd has seen it.
func (n *Node) ReplacePodNetwork(content []byte) {
	n.T.Helper()
	file := n.Dir + "/net.d/10-pods.conflist"
	Write(n.T, file+".new", string(content))
	Command(n.T, "mv", file+".new", file)
	want := strings.Contains(string(content), "vxcan")
	n.WaitFor(fmt.Sprintf("containerd has loaded the pod network, with vxcan: %v", want), func() bool {
		return strings.Contains(n.CNIConfig(), "vxcan") == want
	})
}
