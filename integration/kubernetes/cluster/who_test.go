package cluster

import (
	"os"
	"strings"
	"testing"

	"github.com/vxcan/vxcan/integration/harness"
	"github.com/vxcan/vxcan/pkg/cantest"
)

// TestWho: with the policy of the page, pods of a namespace without the label get no annotation of vxcan, neither at first nor
// later, and all else of them can be changed. Pod Security keeps capability and network of the host from others. This needs an
// API server alone.
func TestWho(t *testing.T) {
	if os.Getenv(cantest.Promised) == "" {
		t.Skip("makes a network device: make test-cluster runs it where that does no harm")
	}
	c := harness.NewAPI(t)
	pod := func(namespace, name, annotations, spec string) string {
		return "{apiVersion: v1, kind: Pod, metadata: {namespace: " + namespace + ", name: " + name + ", annotations: {" + annotations + "}}, " +
			"spec: {" + spec + "containers: [{name: main, image: x, securityContext: {capabilities: {add: [NET_ADMIN]}}}]}}\n"
	}
	try := func(words string, object string, args ...string) {
		t.Helper()
		if object != "" {
			path := t.TempDir() + "/object.yaml"
			harness.Write(t, path, object)
			args = append(args, "-f", path)
		}
		out, err := c.TryKubectl(args...)
		if words == "" && err != nil || words != "" && (err == nil || !strings.Contains(err.Error(), words)) {
			t.Errorf("%v %s: %v %s, want %q", args, object, err, out, words)
		}
	}
	for namespace, label := range map[string]string{"cars": "vxcan.dev/allowed=true", "shop": "vxcan.dev/allowed=false", "tenant": "pod-security.kubernetes.io/enforce=baseline"} {
		c.Kubectl("create", "namespace", namespace)
		c.Kubectl("label", "namespace", namespace, label)
		c.Kubectl("create", "serviceaccount", "default", "-n", namespace) // as a controller does
	}
	for _, name := range []string{"before", "changed", "removed"} {
		c.Apply(pod("shop", name, "vxcan/networks: can0", ""))
	}
	c.Kubectl("apply", "-f", harness.Repo("conflist/kubernetes/who.yaml"))
	c.WaitFor("the policy is in force", func() bool {
		out, err := c.TryKubectl("annotate", "pod", "before", "-n", "shop", "vxcan/networks=can1", "--overwrite", "--dry-run=server")
		return out == "" && err != nil
	})
	const refused = "only pods of a namespace with the label vxcan.dev/allowed=true"
	try("", pod("cars", "engine", "vxcan/networks: can0", ""), "create")
	try("", pod("shop", "plain", "a/b: c", ""), "create")
	try(refused, pod("shop", "engine", "vxcan/networks: can0", ""), "create")
	try(refused, pod("shop", "engine", "vxcan/other: x", ""), "create")

	edit := func(words, verb, namespace, name string, args ...string) {
		t.Helper()
		try(words, "", append([]string{verb, "pod", name, "-n", namespace}, args...)...)
	}
	edit("", "annotate", "cars", "engine", "vxcan/networks=can1", "--overwrite")
	edit("", "annotate", "shop", "plain", "a/b=d", "e/f=g", "--overwrite")
	edit(refused, "annotate", "shop", "plain", "vxcan/networks=can0")
	const annotate = `{"metadata":{"annotations":{"vxcan/networks":"can0"}}}`
	edit(refused, "patch", "shop", "plain", "--subresource=status", "-p", annotate)
	edit("", "patch", "shop", "plain", "--subresource=status", "-p", `{"status":{"phase":"Running"}}`)
	edit("", "label", "shop", "before", "colour=red")
	edit("", "annotate", "shop", "before", "a/b=c")
	edit("", "patch", "shop", "before", "--subresource=status", "-p", annotate) // as it was
	edit(refused, "annotate", "shop", "changed", "vxcan/networks=can1", "--overwrite")
	edit("", "annotate", "shop", "removed", "vxcan/networks-")
	edit(refused, "annotate", "shop", "removed", "vxcan/networks=can0")
	bind := func(annotation string) string {
		return `{"apiVersion":"v1","kind":"Binding","metadata":{"name":"plain","annotations":{"` + annotation + `":"can0"}},"target":{"kind":"Node","name":"node1"}}`
	}
	const binding = "/api/v1/namespaces/shop/pods/plain/binding"
	try(refused, bind("vxcan/networks"), "create", "--raw", binding)
	try("", bind("a/b"), "create", "--raw", binding)

	c.Kubectl("label", "namespace", "shop", "vxcan.dev/allowed=true", "--overwrite")
	c.WaitFor("the namespace is allowed", func() bool {
		_, err := c.TryKubectl("annotate", "pod", "plain", "-n", "shop", "vxcan/networks=can0")
		return err == nil
	})

	c.Kubectl("label", "namespace", "cars", "pod-security.kubernetes.io/enforce=privileged")
	try("", pod("cars", "host", "", "hostNetwork: true, "), "create")
	try(`non-default capabilities (container "main" must not include "NET_ADMIN"`, pod("tenant", "admin", "", ""), "create")
	try("host namespaces (hostNetwork=true)", pod("tenant", "host", "", "hostNetwork: true, "), "create")
}
