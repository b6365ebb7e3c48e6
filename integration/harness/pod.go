package harness

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Pod is the call for a pod with an annotation, chained as in a cluster.
func Pod(c *Container, annotation string) Call {
	return On(c).With(fmt.Sprintf(`"interface":"can0","pod-hubs":["vcan1","bench*"],"capabilities":{"io.kubernetes.cri.pod-annotations":true},`+
		`"prevResult":{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","sandbox":%q}]},`+
		`"runtimeConfig":{"io.kubernetes.cri.pod-annotations":{"app":"robot"%s}}`, c.Path, annotation))
}

// ExpectOnlyConfiguredHub fails the test if anything is left but the configured hub, which stays, if it was made.
func ExpectOnlyConfiguredHub(t *testing.T) {
	t.Helper()
	if got := CANLinks(t); len(got) > 0 {
		if want := []string{"vcan0", "vcan0-rx", "vcan0-tx"}; !slices.Equal(got, want) {
			t.Errorf("devices %v, want %v", got, want)
		}
		ExpectWiring(t, true, "vcan0")
	}
	files, _ := filepath.Glob(StateDir + "/*/*")
	for _, name := range files {
		if !strings.HasPrefix(filepath.Base(name), "vcan0.") {
			t.Errorf("left behind: %s", name)
		}
	}
}
