package integration

import (
	"debug/buildinfo"
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

// node is a node of Kubernetes: containerd, and a kubelet that has it run static pods.
type node struct {
	*containerd
	kubelet *exec.Cmd
	log     string // the kubelet's
}

// newNode starts a node with a pod network that has vxcan, with these keys more, behind bridge. Its pods are those that
// the files in manifestDir describe.
func newNode(t testing.TB, keys string) *node {
	t.Helper()
	if os.Getenv("VXCAN_VM") != "booted" {
		t.Fatal("a kubelet changes settings of the whole machine: run this by bin/vm -boot")
	}
	built, err := buildinfo.ReadFile(binDir(t) + "/kubelet")
	if err != nil {
		t.Fatalf("%v; run make test-kubelet", err)
	}
	n := &node{containerd: newContainerdWith(t, podNetwork(t, keys))}
	t.Logf("kubelet %s, containerd %s", built.Main.Version, n.version())
	n.log = n.dir + "/kubelet.log"
	command(t, "ctr", "--namespace", "k8s.io", "image", "import", imageArchive(t, canUtils, "candump", "cansend"))
	if err := os.MkdirAll(manifestDir, 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, n.dir+"/kubelet.yaml", kubeletConfig)
	showClockSpeed(t, n.dir+"/cpuinfo")
	t.Cleanup(func() { // before containerd's own
		if t.Failed() {
			t.Logf("kubelet:\n%s", strings.Join(n.logged("^E.*[pP]od.*"), ""))
			t.Logf("containerd:\n%s", n.lastWords())
		}
		n.stopKubelet()
		if os.Getenv("VXCAN_BOOT") == "1" {
			return
		}
		for _, dir := range []string{manifestDir, kubeletDir, podLogDir, reservedIPs} {
			if err := removeContent(dir); err != nil {
				t.Error(err)
			}
		}
	})
	n.startKubelet()
	return n
}

// podNetwork is the file of conflist/containerd with more keys of vxcan, as JSON members, and without vxcan for "".
func podNetwork(t testing.TB, keys string) []byte {
	t.Helper()
	var list podConflist
	readJSON(t, "../conflist/containerd/cni.conflist", &list)
	last := len(list.Plugins) - 1
	if keys == "" {
		list.Plugins = list.Plugins[:last]
		return marshal(t, list)
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
	list.Plugins[last] = marshal(t, entry)
	return marshal(t, list)
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
	write(t, file, "cpu MHz\t\t: 1000.000\n"+string(content))
	command(t, "mount", "--bind", file, cpuinfo)
	t.Cleanup(func() { command(t, "umount", cpuinfo) })
}

func (n *node) startKubelet() {
	n.t.Helper()
	log, err := os.OpenFile(n.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		n.t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(binDir(n.t)+"/kubelet", "--config="+n.dir+"/kubelet.yaml", "--hostname-override="+nodeName)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	n.kubelet = cmd
}

func (n *node) stopKubelet() { stop(n.t, &n.kubelet, syscall.SIGTERM) }

// logged are the lines of the kubelet's log that a regular expression matches.
func (n *node) logged(pattern string) (lines []string) {
	n.t.Helper()
	content, err := os.ReadFile(n.log)
	if err != nil {
		n.t.Fatal(err)
	}
	match := regexp.MustCompile(pattern)
	for line := range strings.Lines(string(content)) {
		if match.MatchString(line) {
			lines = append(lines, line)
		}
	}
	return lines
}

// waitFor waits for what a kubelet takes its time for: after a failure it may try again only 15 s later.
func (n *node) waitFor(what string, condition func() bool) {
	n.t.Helper()
	began := time.Now()
	for time.Since(began) < 2*time.Minute {
		if condition() {
			n.t.Logf("%s: after %.1f s", what, time.Since(began).Seconds())
			return
		}
		time.Sleep(200 * time.Millisecond)
	}
	n.t.Fatalf("in vain for two minutes: %s; there are netns %v, IPs %v, host ends %v", what, podNetns(n.t), podIPs(n.t), hostEnds(n.t))
}

// apply gives the kubelet the pod of conflist/kubernetes under a name, with an annotation, and an image that has what the
// command there installs.
func (n *node) apply(name, annotation string) {
	n.t.Helper()
	content, err := os.ReadFile("../conflist/kubernetes/pod.yaml")
	if err != nil {
		n.t.Fatal(err)
	}
	text := string(content)
	for theirs, ours := range map[string]string{
		"\n  name: engine\n":                                 "\n  name: " + name + "\n",
		"vxcan/networks: can0":                               "vxcan/networks: " + annotation,
		"image: debian:stable-slim":                          "image: " + canUtils + "\n      imagePullPolicy: Never",
		"apt-get update && apt-get -y install can-utils && ": "",
	} {
		if !strings.Contains(text, theirs) {
			n.t.Fatalf("no %q in pod.yaml:\n%s", theirs, content)
		}
		text = strings.Replace(text, theirs, ours, 1)
	}
	write(n.t, filepath.Join(n.dir, name), text)
	command(n.t, "mv", filepath.Join(n.dir, name), n.manifest(name))
}

func (n *node) manifest(name string) string { return filepath.Join(manifestDir, name+".yaml") }

// delete takes a pod away from the kubelet.
func (n *node) delete(name string) {
	n.t.Helper()
	remove(n.t, n.manifest(name))
}

// sandboxes are those of a pod, dead ones too.
func (n *node) sandboxes(name string) []*cri.PodSandbox {
	n.t.Helper()
	filter := &cri.PodSandboxFilter{LabelSelector: map[string]string{podNameLabel: name + "-" + nodeName}}
	list, err := n.cri.ListPodSandbox(n.t.Context(), &cri.ListPodSandboxRequest{Filter: filter})
	if err != nil {
		n.t.Fatal(err)
	}
	return list.Items
}

// podOn is a pod that runs.
type podOn struct {
	n                  *node
	name               string
	sandbox, container string // IDs
}

// running waits until a pod's container runs.
func (n *node) running(name string) podOn {
	n.t.Helper()
	pod := podOn{n: n, name: name}
	n.waitFor("pod "+name+" runs", func() bool {
		list, err := n.cri.ListContainers(n.t.Context(), &cri.ListContainersRequest{Filter: &cri.ContainerFilter{
			State:         &cri.ContainerStateValue{State: cri.ContainerState_CONTAINER_RUNNING},
			LabelSelector: map[string]string{podNameLabel: name + "-" + nodeName},
		}})
		if err != nil {
			n.t.Fatal(err)
		}
		for _, c := range list.Containers {
			pod.sandbox, pod.container = c.PodSandboxId, c.Id
		}
		return pod.container != ""
	})
	return pod
}

// exec runs a command in the pod's container.
func (p podOn) exec(command ...string) string {
	p.n.t.Helper()
	answer, err := p.n.cri.ExecSync(p.n.t.Context(), &cri.ExecSyncRequest{ContainerId: p.container, Cmd: command, Timeout: 60})
	if err != nil || answer.ExitCode != 0 {
		p.n.t.Fatalf("%v in pod %s: %v, %s%s", command, p.name, err, answer.GetStdout(), answer.GetStderr())
	}
	return string(answer.Stdout)
}

// on is the pod's CAN interface; the pod must have an IP beside it.
func (p podOn) on(ifName string) station { return p.n.station(p.sandbox, ifName) }

// logs is what kubectl logs shows.
func (p podOn) logs() string {
	p.n.t.Helper()
	files, err := filepath.Glob(podLogDir + "/*_" + p.name + "-" + nodeName + "_*/*/*.log")
	if err != nil || len(files) == 0 {
		p.n.t.Fatalf("no log of pod %s: %v", p.name, err)
	}
	content, err := os.ReadFile(files[len(files)-1])
	if err != nil {
		p.n.t.Fatal(err)
	}
	return string(content)
}

// expectGone waits until nothing of any pod is left on the host: network namespaces, IPs, endpoints.
func (n *node) expectGone() {
	n.t.Helper()
	n.waitFor("all pods are gone", func() bool { return len(podNetns(n.t))+len(podIPs(n.t))+len(hostEnds(n.t)) == 0 })
}

func podNetns(t testing.TB) []string {
	t.Helper()
	files, err := filepath.Glob("/run/netns/cni-*")
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// podIPs are those that host-local keeps for pods.
func podIPs(t testing.TB) []string {
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

// expectRecorded fails the test unless the bus of vcan0 has this many endpoints, and vxcanctl doctor finds it whole.
func expectRecorded(t testing.TB, count int) {
	t.Helper()
	out, _, _ := control(t, nil)
	t.Logf("vxcanctl\n%s", out)
	buses := statusOf(t, "vcan0")
	if len(buses) != 1 || len(buses[0].Endpoints) != count || len(buses[0].Differences) != 0 {
		t.Errorf("status: %+v, want %d endpoints and no differences", buses, count)
	}
}

// inRecord tells whether the record of the bus of vcan0 has a pod, which status would not show once its devices are gone.
func inRecord(t testing.TB, pod podOn) bool {
	t.Helper()
	content, err := os.ReadFile(recordFile(t, "vcan0"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(string(content), pod.sandbox)
}

// replacePlugin renames a new plugin over the old one. It returns what lists the verbs that the new one is called with.
func (n *node) replacePlugin() (calls func() string) {
	n.t.Helper()
	next, list := n.dir+"/vxcan.next", n.dir+"/calls"
	command(n.t, "cp", filepath.Join(binDir(n.t), "vxcan"), next)
	script := fmt.Sprintf("#!/bin/sh\nprintf '%%s ' $CNI_COMMAND >>%s\nexec %s\n", list, next)
	if err := os.WriteFile(n.dir+"/script", []byte(script), 0o700); err != nil {
		n.t.Fatal(err)
	}
	command(n.t, "mv", n.dir+"/script", n.dir+"/bin/vxcan")
	return func() string {
		content, err := os.ReadFile(list)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			n.t.Fatal(err)
		}
		return string(content)
	}
}

// replacePodNetwork writes the pod network anew, and waits until containerd has seen it.
func (n *node) replacePodNetwork(content []byte) {
	n.t.Helper()
	file := n.dir + "/net.d/10-pods.conflist"
	write(n.t, file+".new", string(content))
	command(n.t, "mv", file+".new", file)
	want := strings.Contains(string(content), "vxcan")
	n.waitFor(fmt.Sprintf("containerd has loaded the pod network, with vxcan: %v", want), func() bool {
		return strings.Contains(n.cniConfig(), "vxcan") == want
	})
}
