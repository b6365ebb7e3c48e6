package nerdctl

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"

	"github.com/vxcan/vxcan/integration/harness"
)

// stateDir is where nerdctl's containerd-rootless.sh has rootlesskit note its namespaces.
var stateDir = harness.RootlessRun + "/containerd-rootless"

// rootless is a user's own containerd in these namespaces.
type rootless struct {
	nerdctl
	detached bool // containerd stays in the host's network namespace, and the containers' host is another one
}

// start starts it, as a login does.
func (r rootless) start() {
	r.t.Helper()
	cmd := harness.UserCommand("env", fmt.Sprint("CONTAINERD_ROOTLESS_ROOTLESSKIT_DETACH_NETNS=", r.detached), harness.BinDir(r.t)+"/containerd-rootless.sh")
	log, err := os.Create(r.t.TempDir() + "/log")
	if err != nil {
		r.t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	go func() { _ = cmd.Wait() }()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(200 * time.Millisecond) {
		_, err := r.try("ps")
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			words, _ := os.ReadFile(log.Name())
			r.t.Fatalf("%v\n%s", err, words)
		}
	}
}

// host is where a program of the user's host sends and hears.
func (r rootless) host() harness.Station {
	r.t.Helper()
	pid, err := os.ReadFile(stateDir + "/child_pid")
	if err != nil {
		r.t.Fatal(err)
	}
	path := "/proc/" + strings.TrimSpace(string(pid))
	if r.detached {
		path += "/root" + stateDir + "/netns"
	} else {
		path += "/ns/net"
	}
	netns, err := ns.GetNS(path)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { netns.Close() })
	return harness.Station{Name: "the user's host", Netns: netns, IfName: "vcan0"}
}

// TestNerdctlRootless: a user's own nerdctl, in both modes of rootlesskit: frames among containers and their host, restart, a
// deleted hub that vxcanctl names and heals, everything of the user killed and started again, remove.
func TestNerdctlRootless(t *testing.T) {
	help, _ := harness.Try("rootlesskit", "--help")
	for _, detached := range []bool{false, true} {
		if detached && !strings.Contains(help, "--detach-netns") { // before 2.0
			continue
		}
		t.Run(fmt.Sprintf("detached %v", detached), func(t *testing.T) {
			harness.NewRootlessUser(t)
			r := rootless{nerdctl{t: t, as: harness.AsUserArgs("CONTAINERD_SNAPSHOTTER=native")}, detached}
			for _, plugin := range []string{"bridge", "host-local", "portmap", "firewall", "tuning"} {
				harness.Command(t, "install", "-D", "-t", harness.RootlessHome+"/.local/libexec/cni", "/usr/lib/cni/"+plugin)
			}
			harness.Command(t, "install", "-t", harness.RootlessHome+"/.local/libexec/cni", harness.BinDir(t)+"/vxcan")
			harness.Command(t, "install", "-D", "-m", "644", "-t", harness.RootlessHome+"/.config/cni/net.d", harness.Repo("conflist/canbus0.conflist"))
			archive := harness.RootlessHome + "/image.tar"
			harness.Command(t, "cp", harness.ImageArchive(t, nerdctlImage), archive)
			harness.Command(t, "chown", "-R", harness.RootlessUser, harness.RootlessHome)
			harness.RootlessFile(t, ".config/containerd/config.toml", "version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n")
			r.start()
			r.do("load", "--quiet", "--input", archive)
			r.run("engine", "--network", "canbus0")
			r.run("dashboard", "--network", "canbus0")
			expect := func() {
				t.Helper()
				harness.ExpectExactlyOnce(t, []harness.Station{r.host(), r.station("engine", "can0"), r.station("dashboard", "can0")}, 100, true)
			}
			expect()
			r.do("restart", "engine")
			expect()
			r.expectHealed()
			expect()
			harness.LogOut(t)
			r.start()
			r.do("start", "engine", "dashboard")
			expect()
			r.removeAll()
			if links := harness.Links(t); len(links) > 1 {
				t.Errorf("on the machine's own host: %v", links)
			}
		})
	}
}

// expectHealed deletes the hub as a program of the user, and has vxcanctl name and repair it.
func (r rootless) expectHealed() {
	r.t.Helper()
	control := harness.BinDir(r.t) + "/vxcanctl"
	err := r.host().Netns.Do(func(ns.NetNS) error {
		_, err := harness.Try("ip", "link", "del", "vcan0")
		return err
	})
	if err != nil {
		r.t.Fatal(err)
	}
	out, _ := harness.TryAsUser(control, "status")
	r.t.Log(out)
	for _, part := range []string{"hub vcan0 is missing", "\n       vxcanctl heal vcan0", "engine     nerdctl  ", "dashboard  nerdctl  "} {
		if !strings.Contains(out, part) {
			r.t.Errorf("vxcanctl status lacks %q", part)
		}
	}
	r.t.Log(harness.AsUser(r.t, control, "heal"))
	// The way that vxcanctl says for others is one.
	words, err := harness.TryAsUser(control, "dump", "vcan0", "-n", "1")
	_, said, _ := strings.Cut(words+fmt.Sprint(err), "for the buses of this user: ")
	way, _, ok := strings.Cut(said, " vxcanctl dump")
	if err == nil || !ok {
		r.t.Fatalf("vxcanctl dump: %s, %v", words, err)
	}
	r.t.Log(way)
	path := "PATH=" + harness.BinDir(r.t) + ":" + os.Getenv("PATH")
	if out := harness.AsUser(r.t, "env", path, "sh", "-c", way+" ip link show vcan0"); !strings.Contains(out, ": vcan0:") {
		r.t.Errorf("%s: %s", way, out)
	}
}
