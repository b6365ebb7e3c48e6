package docs

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v2"
)

// TestAlerts: each alert says what is wrong, by metrics that there are, and an adapter that is unplugged is one.
func TestAlerts(t *testing.T) {
	content, err := os.ReadFile(root + "conflist/prometheus/alerts.yml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert, Expr, For    string
				Labels, Annotations map[string]string
			}
		}
	}
	if err := yaml.UnmarshalStrict(content, &file); err != nil || len(file.Groups) != 1 {
		t.Fatal(len(file.Groups), err)
	}
	known, err := exec.Command(filepath.Join(build(t, "vxcanctl"), "vxcanctl"), "metrics", "--help").Output()
	if err != nil {
		t.Fatal(err)
	}
	alerts := map[string]string{}
	for _, rule := range file.Groups[0].Rules {
		alerts[rule.Alert] = strings.TrimSpace(rule.Expr)
		if rule.Labels["severity"] == "" || rule.Annotations["summary"] == "" || rule.Annotations["description"] == "" {
			t.Errorf("%s: %+v", rule.Alert, rule)
		}
		for _, name := range regexp.MustCompile(`vxcan_\w+`).FindAllString(rule.Expr, -1) {
			if !strings.Contains(string(known), "  "+name+" (") {
				t.Errorf("%s: there is no metric %s", rule.Alert, name)
			}
		}
	}
	if got := alerts["VxcanHubDown"]; got != "vxcan_hub_up == 0" {
		t.Errorf("VxcanHubDown: %q", got)
	}
}
