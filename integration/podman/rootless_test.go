package podman

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vxcan/vxcan/integration/harness"
	"github.com/vxcan/vxcan/pkg/cantest"
)

// TestRootless: a user without any rights has a bus of his own, which comes back whatever ends it.
func TestRootless(t *testing.T) {
	p := harness.NewRootlessPodman(t, "canbus0")
	whole := func(count int, more ...string) {
		t.Helper()
		stations := []harness.Station{p.RootlessHost("vcan0")}
		for _, name := range append([]string{"a", "b"}, more...) {
			stations = append(stations, p.Station(name, "can0"))
		}
		harness.ExpectExactlyOnce(t, stations, count, true)
	}
	p.Run("a", "--network", "canbus0")
	p.Run("b", "--network", "canbus0")
	whole(500)
	if links := harness.CANLinks(t); len(links) > 0 {
		t.Errorf("on the host: %q", links)
	}

	p.Do("restart", "--time", "0", "a")
	whole(5)

	// With the last container goes the namespace that plays the host.
	p.Do("stop", "--time", "0", "a", "b")
	p.Do("start", "a", "b")
	whole(5)

	// A container with CAP_NET_ADMIN is in a user namespace that owns the bus, and may take it away.
	p.Do("unshare", "--rootless-netns", "ip", "link", "del", "vcan0")
	p.Do("unshare", "--rootless-netns", "tc", "qdisc", "del", "dev", "vcan0-rx", "clsact")
	p.Do("restart", "--time", "0", "b")
	whole(5)

	// Root does not wire it a second time.
	if _, err := harness.Try("nsenter", fmt.Sprintf("--net=/proc/%d/fd/%d", os.Getpid(), p.RootlessHost("vcan0").Netns.Fd()), harness.BinDir(t)+"/vxcanctl", "heal"); err == nil || !strings.Contains(err.Error(), "does not own") {
		t.Errorf("heal by root in the user's network namespace: %v", err)
	}

	// Who sends.
	dump := harness.UserCommand("podman", "unshare", "--rootless-netns", harness.BinDir(t)+"/vxcanctl", "dump", "vcan0", "-n", "3")
	out := t.TempDir() + "/dump"
	f, err := os.Create(out)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	dump.Stdout, dump.Stderr = f, f
	if err := dump.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- dump.Wait() }()
	sender := p.Station("a", "can0")
	for deadline := time.Now().Add(30 * time.Second); len(ended) == 0 && time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		harness.SendAll(t, &harness.Container{ID: "a", Netns: sender.Netns}, harness.Numbered(1))
	}
	shown, err := os.ReadFile(out)
	if len(ended) == 0 {
		_ = dump.Process.Kill()
	}
	if err != nil || len(ended) == 0 || strings.Count(string(shown), "  a  ") != 3 {
		t.Errorf("vxcanctl dump: %v\n%s", err, shown)
	}

	harness.LogOut(t)
	p.Do("start", "a", "b")
	whole(5)

	// vxcanctl finds its way there.
	p.Do("unshare", "--rootless-netns", "tc", "filter", "del", "dev", "vcan0-rx", "ingress", "pref", "1")
	for _, step := range []struct{ command, want string }{{"status", "copies frames to it"}, {"heal", "set 3 filters"}, {"status", "healthy"}} {
		if out := harness.AsUser(t, harness.BinDir(t)+"/vxcanctl", step.command); !strings.Contains(out, step.want) || strings.Contains(out, "sudo") {
			t.Errorf("vxcanctl %s: want %q in:\n%s", step.command, step.want, out)
		}
	}
	whole(5)

	// What Kubernetes calls a pod.
	harness.RootlessFile(t, "pod.yaml", `{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "kube"},
		"spec": {"containers": [{"name": "c", "image": "localhost/busybox", "command": ["/bin/sleep", "100000"]}]}}`)
	p.Do("kube", "play", "--network", "canbus0", "pod.yaml")
	whole(5, "kube-c")
	p.Do("kube", "down", "pod.yaml")
	whole(5)

	if !cantest.IsThorough() || p.Backend == "cni" { // which is that of a Podman without quadlets
		return
	}
	p.Do("rm", "--all", "--force", "--time", "0")
	p.Do("network", "rm", "canbus0")
	for _, name := range []string{"canbus0.network", "engine.container"} {
		content, err := os.ReadFile(harness.Repo("conflist/podman/" + name))
		if err != nil {
			t.Fatal(err)
		}
		harness.RootlessFile(t, ".config/containers/systemd/"+name, string(content))
	}
	archive, err := os.ReadFile(harness.ImageArchive(t, harness.LateImage, "candump"))
	if err != nil {
		t.Fatal(err)
	}
	harness.RootlessFile(t, "can-utils.tar", string(archive))
	p.Do("load", "--quiet", "-i", "can-utils.tar")
	commands := quadletCommands(harness.AsUser(t, "/usr/libexec/podman/quadlet", "-dryrun", "-user"), harness.RootlessRun)
	if len(commands) != 2 {
		t.Errorf("quadlets: %q", commands)
	}
	for _, command := range commands {
		t.Log(command)
		harness.AsUser(t, "sh", "-c", command)
	}
	p.Run("a", "--network", "canbus0")
	p.Run("b", "--network", "canbus0")
	whole(5, p.Do("ps", "--filter", "ancestor=localhost/can-utils", "--format", "{{.Names}}"))
}
