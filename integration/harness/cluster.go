package harness

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"debug/buildinfo"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	// clusterDir is on the disk of the machine, where a node's containerd may keep its layers.
	clusterDir = "/var/lib/containers/cluster"
	controlIP  = "10.9.0.1"  // of the control plane, in the network of the nodes
	serviceIP  = "10.96.0.1" // of the API server, for pods; nobody else has a service of this kind
	switchName = "kube0"
)

// controlPlane are the parts of the control plane in the order of their start.
var controlPlane = []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"}

// Cluster is a control plane and nodes in one machine. Each node has a network namespace, with a cable to a switch, and
// file systems of its own.
type Cluster struct {
	T     testing.TB
	Nodes []*ClusterNode
	dir   string // keys, configurations and logs
	began time.Time
	parts map[string]*exec.Cmd
}

// NewCluster starts a cluster with this many nodes, whose distribution has its directories for CNI there.
func NewCluster(t testing.TB, dirs CNIDirs, nodes int) *Cluster {
	t.Helper()
	if os.Getenv("VXCAN_VM") != "booted" {
		t.Fatal("a cluster changes settings of the whole machine: run this by bin/vm -boot -mem 4096")
	}
	Command(t, "modprobe", "-a", "vcan", "vxcan", "can-gw", "veth", "bridge")
	showClockSpeed(t, t.TempDir()+"/cpuinfo")
	c := newControl(t, nodes, controlPlane)
	for i := range nodes {
		c.Nodes = append(c.Nodes, newClusterNode(c, i+1, dirs)) // in the list before it boots, for its logs
		c.Nodes[i].PowerOn()
	}
	c.WaitFor("the nodes are known", func() bool { return strings.Count(c.Kubectl("get", "nodes", "-o", "name"), "\n") == nodes })
	c.Kubectl("wait", "--for=condition=Ready", "node", "--all", "--timeout=180s")
	c.Log("all nodes are ready")
	return c
}

// NewAPI starts an API server without controllers and nodes. A network namespace is enough for it: unshare --net.
func NewAPI(t testing.TB) *Cluster {
	t.Helper()
	return newControl(t, 0, controlPlane[:2])
}

// newControl starts parts of a control plane, whose tokens are for this many nodes.
func newControl(t testing.TB, nodes int, parts []string) *Cluster {
	t.Helper()
	expectKube(t)
	c := &Cluster{T: t, dir: clusterDir + "/control", began: time.Now(), parts: map[string]*exec.Cmd{}}
	t.Cleanup(c.end)
	c.writeKeys(nodes)
	c.connect()
	for _, name := range parts {
		c.StartPart(name)
	}
	return c
}

// expectKube says which Kubernetes is tested.
func expectKube(t testing.TB) {
	t.Helper()
	built, err := buildinfo.ReadFile(BinDir(t) + "/kube")
	if err != nil {
		t.Fatalf("%v; run make bin/kube", err)
	}
	for _, dep := range built.Deps {
		if dep.Path == "k8s.io/kubernetes" || dep.Path == "go.etcd.io/etcd/server/v3" {
			t.Log(dep.Path, dep.Version)
		}
	}
}

// Run runs a part of a test, on the cluster as the part before left it.
func (c *Cluster) Run(name string, test func(t *testing.T)) {
	outer := c.T.(*testing.T)
	if !outer.Run(name, func(t *testing.T) {
		c.use(t)
		defer c.use(outer)
		test(t)
	}) {
		outer.FailNow() // the next part starts from what this one leaves
	}
}

// use has the cluster report its failures to a test.
func (c *Cluster) use(t testing.TB) {
	c.T = t
	for _, n := range c.Nodes {
		n.T = t
	}
}

// Log notes what has been reached, and when.
func (c *Cluster) Log(format string, args ...any) {
	c.T.Helper()
	c.T.Logf("%5.0f s: %s", time.Since(c.began).Seconds(), fmt.Sprintf(format, args...))
}

// Tokens of the API server's file. A node has its own name's.
const adminToken = "admin-token"

func nodeToken(name string) string { return "token-of-" + name }

func (c *Cluster) writeKeys(nodes int) {
	c.T.Helper()
	if err := os.MkdirAll(c.dir, 0o755); err != nil {
		c.T.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		c.T.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		c.T.Fatal(err)
	}
	Write(c.T, c.file("sa.key"), string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})))
	tokens := adminToken + `,admin,admin,"system:masters"` + "\n"
	for i := range nodes {
		name := clusterNodeName(i + 1)
		tokens += fmt.Sprintf("%s,system:node:%s,%s,\"system:nodes\"\n", nodeToken(name), name, name)
	}
	Write(c.T, c.file("tokens.csv"), tokens)
	c.writeKubeconfig(c.file("kubeconfig"), adminToken)
}

func (c *Cluster) writeKubeconfig(path, token string) {
	c.T.Helper()
	Write(c.T, path, `apiVersion: v1
kind: Config
current-context: test
clusters: [{name: test, cluster: {server: "https://`+controlIP+`", insecure-skip-tls-verify: true}}]
users: [{name: test, user: {token: "`+token+`"}}]
contexts: [{name: test, context: {cluster: test, user: test}}]
`)
}

func (c *Cluster) file(name string) string { return filepath.Join(c.dir, name) }

// connect makes the switch, and gives the control plane its addresses.
func (c *Cluster) connect() {
	c.T.Helper()
	Command(c.T, "ip", "link", "add", switchName, "type", "bridge")
	Command(c.T, "ip", "addr", "add", controlIP+"/24", "dev", switchName)
	Command(c.T, "ip", "addr", "add", serviceIP+"/32", "dev", switchName)
	Command(c.T, "ip", "link", "set", switchName, "up")
}

func (c *Cluster) arguments(name string) []string {
	kubeconfig := "--kubeconfig=" + c.file("kubeconfig")
	switch name {
	case "etcd":
		const client, peer = "http://127.0.0.1:2379", "http://127.0.0.1:2380" // its defaults have a name, which wants a file or DNS
		return []string{
			"--data-dir=" + c.file("etcd"), "--unsafe-no-fsync", "--log-level=warn", "--listen-client-urls=" + client,
			"--advertise-client-urls=" + client, "--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer,
			"--initial-cluster=default=" + peer,
		}
	case "kube-apiserver":
		return []string{
			"--etcd-servers=http://127.0.0.1:2379", "--cert-dir=" + c.dir, "--secure-port=443", "--advertise-address=" + controlIP,
			"--service-cluster-ip-range=10.96.0.0/24", "--endpoint-reconciler-type=none", "--allow-privileged",
			"--token-auth-file=" + c.file("tokens.csv"), "--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
			"--service-account-issuer=https://kubernetes.default.svc", "--service-account-signing-key-file=" + c.file("sa.key"),
			"--service-account-key-file=" + c.file("sa.key"),
			"--kubelet-preferred-address-types=InternalIP", // by another one, exec and logs would ask DNS
		}
	case "kube-controller-manager":
		return []string{
			kubeconfig, "--leader-elect=false", "--use-service-account-credentials",
			"--service-account-private-key-file=" + c.file("sa.key"), "--root-ca-file=" + c.file("apiserver.crt"),
		}
	case "kube-scheduler":
		return []string{kubeconfig, "--leader-elect=false"}
	}
	panic(name)
}

// StartPart starts a part of the control plane. The first one waits until the API server answers.
func (c *Cluster) StartPart(name string) {
	c.T.Helper()
	c.parts[name] = startDaemon(c.T, c.file(name+".log"), append([]string{BinDir(c.T) + "/kube", name}, c.arguments(name)...)...)
	if name != "kube-apiserver" {
		return
	}
	c.WaitFor("the API server is ready", func() bool {
		_, err := c.TryKubectl("get", "--raw", "/readyz")
		return err == nil
	})
	c.Log("the API server is ready")
}

// StopPart kills a part of the control plane.
func (c *Cluster) StopPart(name string) {
	c.T.Helper()
	cmd := c.parts[name]
	stop(c.T, &cmd, syscall.SIGKILL)
	delete(c.parts, name)
}

// end shows the logs of a test that failed, and takes everything away.
func (c *Cluster) end() {
	if c.T.Failed() {
		for _, log := range []string{"kube-apiserver", "kube-controller-manager"} {
			out, _ := Try("tail", "-n", "12", c.file(log+".log"))
			c.T.Logf("%s:\n%s", log, out)
		}
		if c.parts["kube-apiserver"] != nil {
			out, _ := c.TryKubectl("get", "pods,events", "-A", "-o", "wide")
			c.T.Log(out)
		}
	}
	for _, n := range c.Nodes {
		n.PowerOff()
	}
	for name := range c.parts {
		c.StopPart(name)
	}
	_, err := Try("ip", "link", "del", switchName)
	if err = errors.Join(err, RemoveContent(clusterDir)); err != nil {
		c.T.Error(err)
	}
}

// Kubectl runs kubectl as the administrator.
func (c *Cluster) Kubectl(args ...string) string {
	c.T.Helper()
	out, err := c.TryKubectl(args...)
	if err != nil {
		c.T.Fatal(err)
	}
	return out
}

// TryKubectl is Kubectl for what may fail.
func (c *Cluster) TryKubectl(args ...string) (string, error) {
	return Try(BinDir(c.T)+"/kube", append([]string{"kubectl", "--kubeconfig=" + c.file("kubeconfig"), "--cache-dir=" + c.file("cache")}, args...)...)
}

// Apply applies objects that are written here.
func (c *Cluster) Apply(objects string) {
	c.T.Helper()
	path := filepath.Join(c.T.TempDir(), "objects.yaml")
	Write(c.T, path, objects)
	c.Kubectl("apply", "-f", path)
}

// WaitFor waits for what a cluster takes its time for.
func (c *Cluster) WaitFor(what string, condition func() bool) {
	c.T.Helper()
	for deadline := time.Now().Add(4 * time.Minute); !condition(); time.Sleep(time.Second) {
		if time.Now().After(deadline) {
			c.T.Fatalf("in vain for four minutes: %s", what)
		}
	}
}

// ClusterPod is what the API server has of a pod.
type ClusterPod struct {
	Metadata struct {
		Name, Namespace, UID string
		DeletionTimestamp    string
	}
	Spec   struct{ NodeName string }
	Status struct {
		Phase             string
		ContainerStatuses []struct {
			Ready        bool
			RestartCount int
			ContainerID  string
		}
	}
}

// Pods are those that a selector finds, in the default namespace.
func (c *Cluster) Pods(selector string) []ClusterPod {
	c.T.Helper()
	return c.PodsIn("default", selector)
}

// PodsIn are the pods of a namespace that a selector finds.
func (c *Cluster) PodsIn(namespace, selector string) []ClusterPod {
	c.T.Helper()
	var list struct{ Items []ClusterPod }
	out := c.Kubectl("--namespace", namespace, "get", "pods", "--selector", selector, "-o", "json")
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		c.T.Fatal(err)
	}
	return list.Items
}

// Node is a node by its name.
func (c *Cluster) Node(name string) *ClusterNode {
	c.T.Helper()
	for _, n := range c.Nodes {
		if n.Name == name {
			return n
		}
	}
	c.T.Fatalf("no node %q", name)
	return nil
}

// Stations are where the pods of a selector that run on a node send and hear, with the host of that node.
func (c *Cluster) Stations(n *ClusterNode, selector, hub, ifName string) []Station {
	c.T.Helper()
	var pods []ClusterPod
	for _, pod := range c.Pods(selector) {
		if pod.Spec.NodeName == n.Name && pod.Metadata.DeletionTimestamp == "" {
			pods = append(pods, pod)
		}
	}
	return n.Stations(hub, ifName, pods...)
}

// Events are the messages of a pod's events.
func (c *Cluster) Events(pod string) string {
	c.T.Helper()
	return c.Kubectl("get", "events", "--field-selector", "involvedObject.name="+pod, "-o", `jsonpath={range .items[*]}{.reason}: {.message}{"\n"}{end}`)
}

// Rollout waits until a workload is as it was asked for.
func (c *Cluster) Rollout(what string, args ...string) {
	c.T.Helper()
	c.Kubectl(append([]string{"rollout", "status", what, "--timeout=240s"}, args...)...)
	c.Log("%s is there", strings.Join(append([]string{what}, args...), " "))
}

// Manifests copies what make image has written to bin/kubernetes, and turns components of an overlay on. It returns the
// directory of the copy.
func Manifests(t testing.TB, overlay string, components ...string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(Repo("bin/kubernetes"))); err != nil {
		t.Fatalf("%v; run make image", err)
	}
	if len(components) == 0 {
		return dir
	}
	file := filepath.Join(dir, overlay, "kustomization.yaml")
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	text := replaceOnce(t, string(content), "\n# components:", "\ncomponents:")
	for _, name := range components {
		text = replaceOnce(t, text, "\n#   - ../components/"+name, "\n  - ../components/"+name)
	}
	Write(t, file, text)
	return dir
}

// Helm runs Helm as the administrator.
func (c *Cluster) Helm(args ...string) string {
	c.T.Helper()
	return Command(c.T, "env", append([]string{"HOME=" + c.dir, "KUBECONFIG=" + c.file("kubeconfig"), BinDir(c.T) + "/kube", "helm"}, args...)...)
}
