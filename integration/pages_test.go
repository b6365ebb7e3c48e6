package integration

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/vxcan/vxcan/pkg/cantest"
)

// pageLines are the lines of the first block in a section of a page.
func pageLines(t *testing.T, page, heading string) []string {
	t.Helper()
	content, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	section := regexp.MustCompile(`(?m)^#+ ` + regexp.QuoteMeta(heading) + "$(?s:.*?)^```\n((?s:.*?))^```$").FindStringSubmatch(string(content))
	if section == nil {
		t.Fatalf("%s: no block below %s", page, heading)
	}
	return strings.Split(strings.TrimSpace(section[1]), "\n")
}

// typist runs lines as a user types them: the shell finds our programs, sudo, which is root already, and no systemd.
type typist struct {
	t    *testing.T
	path string
}

func newTypist(t *testing.T) typist {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"sudo": `exec "$@"`, "systemctl": "true"} {
		write(t, filepath.Join(dir, name), "#!/bin/sh\n"+text+"\n")
		if err := os.Chmod(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return typist{t, dir + ":" + binDir(t) + ":/usr/sbin:/usr/bin:/sbin:/bin"}
}

// try runs a line; logs end, and do not go on for ever.
func (y typist) try(line string) (string, error) {
	y.t.Helper()
	out, err := try("env", "PATH="+y.path, "sh", "-ec", strings.Replace(line, "logs -f ", "logs ", 1))
	y.t.Logf("# %s\n%s", line, out)
	return out, err
}

func (y typist) must(line string) string {
	y.t.Helper()
	out, err := y.try(line)
	if err != nil {
		y.t.Fatal(err)
	}
	return out
}

// run runs lines. From the one that first sends a frame on, they are run again until the last says all words: a program
// in a container may not listen yet, which a person would not notice.
func (y typist) run(lines []string, words ...string) {
	y.t.Helper()
	first := len(lines) - 1
	for i := len(lines) - 1; i >= 0; i-- {
		if strings.Contains(lines[i], "cansend") {
			first = i
		}
	}
	for _, line := range lines[:first] {
		y.must(line)
	}
	missing := ""
	for deadline := time.Now().Add(10 * time.Minute); time.Now().Before(deadline); time.Sleep(time.Second) {
		out := ""
		for _, line := range lines[first:] {
			out = y.must(line)
		}
		missing = ""
		for _, w := range words {
			if !strings.Contains(out, w) {
				missing = w
			}
		}
		if missing == "" {
			return
		}
	}
	y.t.Fatalf("the last line does not say %q", missing)
}

// fromBoth are the frames of the quick starts, as candump shows them: from another container and from the host.
var fromBoth = []string{"123   [2]  11 22", "456   [1]  33"}

// TestPageDocker: the lines of README for Docker, for an adapter, and for a second bus.
func TestPageDocker(t *testing.T) {
	d := startDocker(t)
	t.Logf("Docker %s", d.version())
	d.docker("load", "-i", imageArchive(t, "can-utils:latest", "candump", "cansend"))
	y := newTypist(t)
	t.Cleanup(func() {
		_, _ = d.try("rm", "-f", "engine", "logger", "dashboard")
		_, _ = d.try("network", "rm", "canbus0", "canbus1", "wire")
	})
	y.run(pageLines(t, "../README.md", "Docker"), fromBoth...)

	const page = "../plugins/docker/README.md"
	for _, line := range pageLines(t, page, "Names, and two buses") {
		y.must(line)
	}
	d.container("engine").expectInterfaces("bus0", "can0")
	for _, mode := range []string{"none", "host"} {
		d.docker("run", "-d", "--name", "other", "--network", mode, "can-utils")
		if _, err := d.try("network", "connect", "canbus0", "other"); err == nil {
			t.Errorf("a container with --network %s can be connected: %s says that it cannot", mode, page)
		}
		d.docker("rm", "-f", "other")
	}

	controller := cantest.NewController(t, "can0")
	lines := pageLines(t, "../README.md", "A real adapter")
	if out := y.must(lines[0]); !strings.HasPrefix(out, "can0 ") {
		t.Errorf("%s: %q", lines[0], out)
	}
	for _, line := range lines[1:4] {
		y.must(line)
	}
	d.waitFor("a frame from the wire", func() bool {
		if err := controller.Send(cantest.Frame{ID: 0x123, Data: "\x11\x22"}); err != nil {
			t.Fatal(err)
		}
		return strings.Contains(y.must(lines[4]), fromBoth[0])
	})
	if out := y.must(lines[5]); !strings.Contains(out, "can0") || !strings.Contains(out, "logger") || !strings.Contains(out, "500 kbit/s") {
		t.Errorf("%s:\n%s", lines[5], out)
	}
}

// TestPagePodman: the lines for Podman, with the backend that is here.
func TestPagePodman(t *testing.T) {
	freshHost(t)
	p := newPodman(t)
	p.do("load", "--quiet", "-i", imageArchive(t, lateImage, "candump", "cansend"))
	y := newTypist(t)
	if p.backend == "netavark" {
		y.run(pageLines(t, "../README.md", "Podman"), fromBoth...)
	} else {
		t.Chdir("..") // where the lines find conflist/
		y.run(pageLines(t, "conflist/podman/README.md", "Podman 4 with CNI"), fromBoth[0])
	}
	p.do("run", "-d", "--name", "other", "--network", "none", lateImage)
	if _, err := try("podman", "network", "connect", "canbus0", "other"); err == nil {
		t.Error("a container with --network none can be connected: plugins/netavark says that it cannot")
	}
}

// TestPageInside: what plugins/vxcan and conflist/controller say of programs in containers.
func TestPageInside(t *testing.T) {
	freshHost(t)
	gateway, a, b := newContainer(t, "gateway"), newContainer(t, "a"), newContainer(t, "b")
	on(gateway).add(t)
	on(a).add(t)
	call{containerID: gateway.id, netns: gateway.path, ifName: "eth1"}.with(`"name":"canbus1","hub":"vcan1","interface":"can1"`).add(t)
	on(b).with(`"name":"canbus1","hub":"vcan1"`).add(t)
	inside := func(args ...string) (string, error) {
		return try("ip", append([]string{"netns", "exec", gateway.id}, args...)...)
	}

	if _, err := inside("ip", "link", "set", "can0", "up", "type", "can", "bitrate", "500000"); err == nil || !strings.Contains(err.Error(), "RTNETLINK answers: Operation not supported") {
		t.Errorf("a bit rate in a container: %v", err)
	}
	if out, _ := inside("cangw", "-L"); out != "" { // whose exit status means nothing
		t.Errorf("rules of the bus in a container: %q", out)
	}
	// A container between two buses: everybody hears everything once.
	for _, rule := range []string{"-s can0 -d can1", "-s can1 -d can0"} {
		for _, fd := range []string{"", " -X"} {
			if _, err := inside(append([]string{"cangw", "-A"}, strings.Fields(rule+" -e -i"+fd)...)...); err != nil {
				t.Fatal(err)
			}
		}
	}
	expectExactlyOnce(t, []station{{"host", nil, "vcan0"}, {"host", nil, "vcan1"}, {"a", a.netns, "can0"}, {"b", b.netns, "can0"}}, 20, true)
	if _, err := inside("cangw", "-F"); err != nil {
		t.Fatal(err)
	}
	expectExactlyOnce(t, []station{{"host", nil, "vcan0"}, {"a", a.netns, "can0"}}, 5, true)

	// No error frame on a vcan, but what comes behind it.
	listener, errorFrames := cantest.Listen(t, a.netns, "can0"), cantest.ListenErrors(t, a.netns, "can0")
	for _, id := range []uint32{0x20000004, 0x123} {
		if err := cantest.NewSender(t, nil, "vcan0").Send(cantest.Frame{ID: id, Data: "\x00\x01\x00\x00\x00\x00\x00\x00"}); err != nil {
			t.Fatal(err)
		}
	}
	cantest.WaitQuiet(1, listener)
	if frames, errors := listener.Total(), errorFrames.Total(); frames != 1 || errors != 0 {
		t.Errorf("heard: %d frames and %d error frames of a program on the vcan, want 1 and 0", frames, errors)
	}
}
