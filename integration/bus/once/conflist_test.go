package once

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/integration/harness"
	"github.com/vxcan/vxcan/pkg/cantest"
)

// TestConflists runs every file of conflist/ as its users would, by cnitool: STATUS, ADD, CHECK, DEL and GC. Those for
// clusters get what a pod asks for.
func TestConflists(t *testing.T) {
	files, err := filepath.Glob(harness.Repo("conflist/*.conflist"))
	if err != nil || len(files) < 3 {
		t.Fatalf("conflist files: %v, %v", files, err)
	}
	for _, file := range append(files, harness.Repo("conflist/containerd/cni.conflist"), harness.Repo("conflist/k3s/cni.conflist")) {
		t.Run(strings.TrimPrefix(file, harness.Repo("conflist/")), func(t *testing.T) {
			harness.FreshHost(t)
			content, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(file, "k3s") {
				list := harness.K3sConflist(t)
				// The bandwidth plugin of bookworm panics at a CHECK of a pod that asks for no limit.
				list.Plugins = slices.DeleteFunc(list.Plugins, func(plugin json.RawMessage) bool {
					return strings.Contains(string(plugin), `"bandwidth"`)
				})
				content = harness.Marshal(t, list)
			}
			list, err := libcni.ConfListFromBytes(content)
			if err != nil {
				t.Fatal(err)
			}
			bridged := strings.Contains(string(content), `"bridge"`)
			dir := t.TempDir() // alone, because networks of several files may have one name
			harness.Write(t, filepath.Join(dir, filepath.Base(file)), string(content))
			t.Cleanup(func() { _, _ = harness.Try("ip", "link", "del", "cni0") })
			tool := func(verb string, c *harness.Container) error {
				cmd, cancel := harness.Limited(filepath.Join(harness.BinDir(t), "cnitool"), verb, list.Name, c.Path)
				defer cancel()
				cmd.Env = append(os.Environ(), "NETCONFPATH="+dir, "CNI_PATH="+harness.BinDir(t)+":/usr/lib/cni",
					`CAP_ARGS={"io.kubernetes.cri.pod-annotations":{"vxcan/networks":"can0"}}`)
				out, err := cmd.CombinedOutput()
				t.Logf("cnitool %s: %s", verb, harness.FirstLine(string(out)))
				return err
			}
			a, b := harness.NewContainer(t, "a"), harness.NewContainer(t, "b")
			must := func(verb string, c *harness.Container) {
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
			harness.ExpectExactlyOnce(t, []harness.Station{harness.Host(hub), a.On(contIf), b.On(contIf)}, 5, true)
			if bridged && !slices.ContainsFunc(a.Links(t), func(l harness.Link) bool { return l.Name == "eth0" && l.Up }) {
				t.Errorf("no eth0 beside can0: %v", a.Links(t))
			}
			harness.Command(t, "cangw", "-F")
			if err := tool("check", a); err == nil {
				t.Error("CHECK found nothing wrong with all rules flushed")
			}
			must("del", b)
			must("add", b)
			must("check", a)
			must("del", a)
			must("gc", a) // libcni calls DEL for everybody it remembers
			harness.ExpectWiring(t, true, hub)
			must("add", b)
			if list.CNIVersion == "1.1.0" { // from which on plugins know GC
				// What libcni has forgotten, only the plugin's own GC finds. cnitool passes no list, and then nobody goes.
				if err := harness.RemoveContent("/var/lib/cni/results"); err != nil {
					t.Fatal(err)
				}
				runtime := libcni.NewCNIConfig([]string{harness.BinDir(t)}, nil)
				if err := runtime.GCNetworkList(t.Context(), list, &libcni.GCArgs{ValidAttachments: []types.GCAttachment{}}); err != nil {
					t.Fatal(err)
				}
				harness.ExpectWiring(t, true, hub)
				if slices.ContainsFunc(b.Links(t), func(l harness.Link) bool { return l.Name == contIf }) {
					t.Errorf("%s is still there after GC", contIf)
				}
			}
			must("del", b)
			harness.ExpectWiring(t, true, hub)
		})
	}
}

// TestPolicyConflists: each of the networks in conflist/policy lets its container send and hear what it says.
func TestPolicyConflists(t *testing.T) {
	harness.FreshHost(t)
	frame := func(id uint32) cantest.Frame { return cantest.Frame{ID: id, Data: "policy"} }
	const pgn = 0x18fef100 | unix.CAN_EFF_FLAG
	host := cantest.Frame{ID: 0x200, Data: "host"}
	containers := map[string]struct{ sends, denied, deaf []cantest.Frame }{
		"logger":    {nil, []cantest.Frame{frame(0x300)}, nil},
		"gateway":   {[]cantest.Frame{frame(0x123), frame(pgn)}, []cantest.Frame{frame(0x124), frame(pgn + 1)}, []cantest.Frame{host}},
		"untrusted": {[]cantest.Frame{frame(0x400)}, []cantest.Frame{frame(0x123 + 0x400)}, nil},
	}
	netns := make(map[string]*harness.Container)
	for name := range containers {
		content, err := os.ReadFile(harness.Repo("conflist/policy/") + name + ".conflist")
		if err != nil {
			t.Fatal(err)
		}
		list, err := libcni.ConfListFromBytes(content)
		if err != nil {
			t.Fatal(err)
		}
		c := harness.NewContainer(t, name)
		netns[name] = c
		runtime := libcni.NewCNIConfigWithCacheDir([]string{harness.BinDir(t)}, t.TempDir(), nil)
		args := &libcni.RuntimeConf{ContainerID: c.ID, NetNS: c.Path, IfName: "eth0"}
		if _, err := runtime.AddNetworkList(t.Context(), list, args); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := runtime.CheckNetworkList(t.Context(), list, args); err != nil {
			t.Errorf("%s: CHECK: %v", name, err)
		}
	}
	listener := cantest.Listen(t, nil, "vcan0")
	ears := make(map[string]*cantest.Listener)
	for name, c := range netns {
		ears[name] = cantest.Listen(t, c.Netns, "can0")
	}
	var passing []cantest.Frame
	for name, c := range containers {
		sender := cantest.NewSender(t, netns[name].Netns, "can0")
		for _, f := range append(c.denied, c.sends...) {
			if err := sender.Send(f); err != nil {
				t.Error(err)
			}
		}
		passing = append(passing, c.sends...)
	}
	if err := cantest.NewSender(t, nil, "vcan0").Send(host); err != nil {
		t.Error(err)
	}
	cantest.WaitQuiet(len(passing), listener, ears["logger"])
	foreign, _ := listener.Heard()
	if len(foreign) != len(passing) {
		t.Errorf("the host hears %v, want %v", foreign, passing)
	}
	for name, c := range containers {
		heard, _ := ears[name].Heard()
		for _, f := range c.deaf {
			if heard[f] > 0 {
				t.Errorf("%s hears %v", name, f)
			}
		}
		for _, f := range c.sends {
			if foreign[f] != 1 {
				t.Errorf("the host hears %v of %s %d times", f, name, foreign[f])
			}
		}
	}
	if heard, _ := ears["logger"].Heard(); len(heard) != len(passing)+1 {
		t.Errorf("the logger hears %v", heard)
	}
}
