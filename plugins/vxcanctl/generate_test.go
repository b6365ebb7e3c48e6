package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vxcan/vxcan/pkg/bus"
)

// TestGenerate: a man page for each command, which man reads without complaint where it is installed, and completions.
func TestGenerate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	cmd := newCommand(&bus.Host{})
	cmd.SetArgs([]string{"generate", dir})
	if err := cmd.Execute(); err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir(dir)
	var names []string
	for _, f := range files {
		names = append(names, f.Name())
	}
	const want = "_vxcanctl vxcanctl vxcanctl-attach.8 vxcanctl-detach.8 vxcanctl-doctor.8 vxcanctl-dump.8 vxcanctl-graph.8 vxcanctl-heal.8 " +
		"vxcanctl-learn.8 vxcanctl-lend.8 vxcanctl-metrics.8 vxcanctl-remove.8 vxcanctl-status.8 vxcanctl.8 vxcanctl.fish"
	if got := strings.Join(names, " "); err != nil || got != want {
		t.Errorf("%v, %v; want %s", got, err, want)
	}
	words := map[string]string{
		"vxcanctl-doctor.8": "\\-\\-explain CODE    tell what a CODE means\n", "vxcanctl.8": ".TP\n.B heal\nRepair buses", "vxcanctl-status.8": ".SH SEE ALSO\n.BR vxcanctl (8),\n",
		"vxcanctl-metrics.8": ".SH EXAMPLES\n.nf\n  vxcanctl metrics\n",
	}
	for _, file := range names {
		if filepath.Ext(file) != ".8" {
			continue
		}
		page, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil || !strings.Contains(string(page), words[file]) {
			t.Errorf("%s: %v: no %q in\n%s", file, err, words[file], page)
		}
		for _, section := range []string{"EXAMPLES", "FILES", "SEE ALSO"} {
			if strings.Count(string(page), ".SH "+section+"\n") != 1 {
				t.Errorf("%s: no section %s", file, section)
			}
		}
		if groff, err := exec.LookPath("groff"); err == nil {
			if out, err := exec.Command(groff, "-man", "-Tutf8", "-ww", "-z", filepath.Join(dir, file)).CombinedOutput(); err != nil || len(out) > 0 {
				t.Errorf("groff %s: %v: %s", file, err, out)
			}
		}
	}
}
