package integration

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
)

// TestConflists runs every file of conflist/ as its users would, by cnitool: STATUS, ADD, CHECK, DEL and GC.
func TestConflists(t *testing.T) {
	files, err := filepath.Glob("../conflist/*.conflist")
	if err != nil || len(files) < 4 {
		t.Fatalf("conflist files: %v, %v", files, err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			freshHost(t)
			list, err := libcni.ConfListFromFile(file)
			if err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir() // alone, because networks of several files may have one name
			content, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(dir, filepath.Base(file)), string(content))
			tool := func(verb string, c *container) error {
				cmd, cancel := limited(filepath.Join(binDir(t), "cnitool"), verb, list.Name, c.path)
				defer cancel()
				cmd.Env = append(os.Environ(), "NETCONFPATH="+dir, "CNI_PATH="+binDir(t)+":/usr/lib/cni")
				out, err := cmd.CombinedOutput()
				t.Logf("cnitool %s: %s", verb, firstLine(string(out)))
				return err
			}
			a, b := newContainer(t, "a"), newContainer(t, "b")
			must := func(verb string, c *container) {
				t.Helper()
				if err := tool(verb, c); err != nil {
					t.Fatalf("cnitool %s: %v", verb, err)
				}
			}
			must("status", a)
			must("add", a)
			must("add", b)
			must("check", a)
			hub, contIf := "vcan0", "can0"
			if list.Name == "canbus1" {
				hub, contIf = "vcan1", "can1"
			}
			expectExactlyOnce(t, []station{{"host", nil, hub}, {"a", a.netns, contIf}, {"b", b.netns, contIf}}, 5, true)
			if list.Name == "robot" && !slices.ContainsFunc(a.links(t), func(l link) bool { return l.Name == "eth0" && l.Up }) {
				t.Errorf("no eth0 beside can0: %v", a.links(t))
			}
			command(t, "cangw", "-F")
			if err := tool("check", a); err == nil {
				t.Error("CHECK found nothing wrong with all rules flushed")
			}
			must("del", b)
			must("add", b)
			must("check", a)
			must("del", a)
			must("gc", a) // cnitool gives no list of who is valid: everybody goes
			if got := rules(t); len(got) > len(wantRules(true, hub)) && list.CNIVersion == "1.1.0" {
				t.Errorf("after GC: %v", got)
			}
			must("del", b)
			expectRules(t, true, hub)
		})
	}
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	return line
}
