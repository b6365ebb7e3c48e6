package integration

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/vxcan/vxcan/pkg/cantest"
)

// control runs vxcanctl, perhaps wrapped by a program, and returns what it says and its exit status.
func control(t testing.TB, wrap []string, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	line := append(append(slices.Clone(wrap), filepath.Join(binDir(t), "vxcanctl")), args...)
	cmd, cancel := limited(line[0], line[1:]...)
	defer cancel()
	var out, words bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &words
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%v: %v", line, err)
	}
	return out.String(), words.String(), cmd.ProcessState.ExitCode()
}

// busStatus is a part of what vxcanctl status -o json says of a bus.
type busStatus struct {
	Hub                    string
	Endpoints, Differences []map[string]any
}

func statusOf(t testing.TB, hubs ...string) []busStatus {
	t.Helper()
	out, words, status := control(t, nil, append([]string{"status", "-o", "json"}, hubs...)...)
	var document struct {
		Version int
		Buses   []busStatus
	}
	if err := json.Unmarshal([]byte(out), &document); err != nil || status != 0 || document.Version != 1 {
		t.Fatalf("exit status %d, %v: %s%s", status, err, out, words)
	}
	return document.Buses
}

// wrongWith is what status says is wrong with a bus, as one text.
func wrongWith(t testing.TB, hub string) string {
	t.Helper()
	var all []string
	for _, b := range statusOf(t, hub) {
		for _, d := range b.Differences {
			all = append(all, fmt.Sprintf("%v: %v", d["what"], d["cure"]))
		}
	}
	return strings.Join(all, "\n")
}

// twoBuses is a bus with a container of each of two runtimes and one on a controller that has gone bus-off.
func twoBuses(t *testing.T) {
	t.Helper()
	freshHost(t)
	controller := cantest.NewController(t, "slot0")
	setUpController(t, controller, 1000)
	engine := on(newContainer(t, "engine")).with(onController)
	engine.env = []string{"CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=lab;K8S_POD_NAME=engine-0"}
	engine.add(t)
	a, b := newContainer(t, "a"), newContainer(t, "b")
	on(a).with(`"send":"100-1FF"`).add(t)
	netavarkCall{c: b}.setup(t, "can0")
	sendAll(t, a, []cantest.Frame{{ID: 0x100}, {ID: 0x101}, {ID: 0x200}})
	busOff(t, controller)
	time.Sleep(100 * time.Millisecond)
}

// TestStatusAndGraph: with two buses and two runtimes, status and graph show the containers by name, what they sent, and
// a controller that is bus-off.
func TestStatusAndGraph(t *testing.T) {
	twoBuses(t)
	for _, c := range []struct {
		args  string
		words []string
	}{
		{"", []string{
			`slot0  can  classic CAN  (down  )?500 kbit/s  bus-off  1 problem\n  FAIL controller slot0 is bus-off\n       look for the fault on the wire, then\n       sudo ip link set slot0 down; sudo ip link set slot0 up\n`,
			`  lab/engine-0 +kubernetes +canbus0 +can0 +0 `,
			`vcan0  vcan  CAN FD  healthy\n  CONTAINER +RUNTIME +NETWORK +INTERFACE +SENT +SEND DENIED +HEARD\n`,
			`  a +cni +canbus0 +can0 +2 +1 +0\n    policy: send 100-1FF\n`, `  name +podman +canbus0 +can0 +0 +0 +2\n`,
		}},
		{"status vcan0", []string{`^vcan0  vcan`}},
		{"ls name", []string{`^vcan0  vcan .*\n.*\n  \(host\) .*\n  name +podman .*\n$`}},
		{"graph", []string{`(?m)^slot0  can, .*\(controller slot0 is bus-off\)$`, "\\|- the wire\n`- lab/engine-0  can0 \\(kubernetes canbus0\\)\n", "`- name  can0 \\(podman canbus0\\)\n$"}},
		{"graph -o dot", []string{`"bus vcan0" -- "netavark b" \[label="can0\\ncanbus0"\];`, `(?s)^graph vxcan \{.*\}\n$`}},
		{"graph -o json", []string{`(?s)^\{\n  "version": 1,\n  "buses": \[`}},
	} {
		expectShown(t, c.args, c.words...)
	}
	for args, want := range map[string]string{"status can9": "vxcanctl: can9: there is no such bus, and no container of this name on a bus\n", "status -o xml": "vxcanctl: invalid output \"xml\": want text or json\n"} {
		if out, words, status := control(t, nil, strings.Fields(args)...); status != 1 || out != "" || words != want {
			t.Errorf("vxcanctl %s: exit status %d, %s%s", args, status, out, words)
		}
	}
	noRoot := []string{"setpriv", "--reuid=65534", "--clear-groups"}
	for _, args := range []string{"", "status", "graph", "metrics"} {
		if out, words, status := control(t, noRoot, strings.Fields(args)...); status != 1 || out != "" || !strings.Contains(words, "needs root: run it with sudo") {
			t.Errorf("vxcanctl %s without root: exit status %d, %s%s", args, status, out, words)
		}
	}
}

// TestStatusWatch: with --watch, frames per second and the load of a controller, until Ctrl-C, which is no failure.
func TestStatusWatch(t *testing.T) {
	freshHost(t)
	controller := cantest.NewController(t, "slot0")
	setUpController(t, controller, 1000)
	c := newContainer(t, "c")
	on(c).with(onController).add(t)
	done := make(chan bool)
	go func() { // 250 frames a second of 8 bytes: 33750 bits
		defer close(done)
		sender := cantest.NewSender(t, c.netns, "can0")
		for tick := time.NewTicker(4 * time.Millisecond); ; <-tick.C {
			select {
			case done <- true:
				return
			default:
				_ = sender.Send(cantest.Frame{ID: 0x123, Data: "12345678"})
			}
		}
	}()
	out, words, status := control(t, []string{"timeout", "--preserve-status", "--signal=INT", "4"}, "status", "--watch")
	<-done
	t.Logf("exit status %d\n%s%s", status, out, words)
	found := regexp.MustCompile(`(\d+) frames/s  load about (\d+) %`).FindAllStringSubmatch(out, -1)
	if status != 0 || len(found) < 2 {
		t.Fatalf("exit status %d, %q", status, found)
	}
	last := found[len(found)-1]
	frames, _ := strconv.Atoi(last[1])
	load, _ := strconv.Atoi(last[2])
	if want := frames * (55 + 8*10) * 100 / 500000; frames == 0 || load < want-2 || load > want+2 {
		t.Errorf("%d frames/s are %d %% of 500 kbit/s, want about %d", frames, load, want)
	}
}

// TestStatusLargeBus tells what a look at 100 endpoints costs. With a call for each it would be hundreds.
func TestStatusLargeBus(t *testing.T) {
	freshHost(t)
	crowd := newContainer(t, "crowd")
	const count = 100
	for _, name := range containerNames("c", count) {
		call{containerID: name, netns: crowd.path, ifName: name}.add(t)
	}
	start := time.Now()
	if all := statusOf(t); len(all) != 1 || len(all[0].Endpoints) != count || len(all[0].Differences) > 0 {
		t.Errorf("%d buses: %+v", len(all), all)
	}
	took := time.Since(start)
	trace := filepath.Join(t.TempDir(), "trace")
	control(t, []string{"strace", "-f", "-qq", "-e", "trace=sendto", "-o", trace}, "status")
	content, err := os.ReadFile(trace)
	sent := strings.Count(string(content), "sendto(")
	t.Logf("status with %d endpoints: %v, %d messages or batches to the kernel", count, took, sent)
	if err != nil || sent == 0 || sent > 20 {
		t.Errorf("%d messages or batches to the kernel, want at most 20; %v", sent, err)
	}
}

// doctorHost makes a host on which doctor finds nothing wrong: every plugin is where its runtime looks.
func doctorHost(t *testing.T) {
	t.Helper()
	freshHost(t)
	for _, dir := range []string{"/opt", "/usr/local", "/usr/libexec"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		command(t, "mount", "-t", "tmpfs", "tmpfs", dir)
		t.Cleanup(func() { command(t, "umount", dir) })
	}
	for _, file := range []string{"/opt/cni/bin/vxcan", "/usr/local/libexec/netavark/vxcan", "/run/docker/plugins/vxcan.sock"} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, nil, 0o755)); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.Remove(file) })
	}
	command(t, "modprobe", "-a", "vcan", "vxcan", "can-gw")
}

// TestDoctorHosts: what doctor says of broken hosts, and its exit status, with and without --strict.
func TestDoctorHosts(t *testing.T) {
	if os.Getenv("VXCAN_VM") != "booted" {
		t.Skip("unloads the kernel's CAN modules: needs a kernel of its own (bin/vm -boot)")
	}
	for _, c := range []struct {
		name           string
		do             func(t *testing.T)
		wrap           []string
		status, strict int
		codes          []string // of what doctor must not call ok, among others that depend on the machine
	}{
		{"no modules", func(t *testing.T) { t.Cleanup(withoutModules(t, "can-gw", "vxcan", "vcan")) }, nil, 1, 1, []string{"VX101", "VX102", "VX103"}},
		{"no root", nil, []string{"setpriv", "--reuid=65534", "--clear-groups"}, 0, 1, []string{"VX100"}},
		{"rootless", nil, []string{"unshare", "--user", "--map-root-user"}, 1, 1, []string{"VX110"}},
		{"wrong directory", func(t *testing.T) {
			remove(t, "/opt/cni/bin/vxcan")
			remove(t, "/usr/local/libexec/netavark/vxcan")
		}, nil, 1, 1, []string{"VX20"}},
		{"short queue", func(t *testing.T) {
			setUpController(t, cantest.NewController(t, "slot0"), 0)
			on(newContainer(t, "c")).with(onController).add(t)
		}, nil, 0, 1, []string{"VX302"}},
		{"dead bus", func(t *testing.T) {
			on(newContainer(t, "c")).add(t)
			command(t, "ip", "link", "del", "vcan0")
		}, nil, 1, 1, []string{"VX301"}},
		{"sound", func(t *testing.T) { on(newContainer(t, "c")).add(t) }, nil, 0, -1, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			doctorHost(t)
			if c.do != nil {
				c.do(t)
			}
			out, _, status := control(t, c.wrap, "doctor", "-o", "short")
			t.Logf("exit status %d\n%s", status, out)
			for _, code := range c.codes {
				if !strings.Contains(out, "["+code) {
					t.Errorf("no %s", code)
				}
			}
			if _, _, strict := control(t, c.wrap, "doctor", "--strict"); status != c.status || c.strict >= 0 && strict != c.strict {
				t.Errorf("exit status %d, with --strict %d; want %d, %d", status, strict, c.status, c.strict)
			}
		})
	}
}

// TestDoctorSteering: doctor finds each device of a bus with rps_cpus, also of a hub with a long name, and its remedies
// work.
func TestDoctorSteering(t *testing.T) {
	requireTwoCPUs(t) // a kernel for one CPU has no rps_cpus
	freshHost(t)
	for _, hub := range []string{"vcan0", "can-left-wheel"} {
		on(newContainer(t, hub)).with(fmt.Sprintf(`"hub":%q`, hub)).add(t)
	}
	devices := canLinks(t)
	if len(devices) != 8 { // hub, backplane and host end of each bus
		t.Fatalf("devices %v", devices)
	}
	for _, name := range devices {
		write(t, "/sys/class/net/"+name+"/queues/rx-0/rps_cpus", "3")
	}
	remedies := func() (all []string) {
		t.Helper()
		out, _, _ := control(t, nil, "doctor", "-o", "json")
		var report struct {
			Findings []struct{ Code, What, Remedy string }
		}
		if err := json.Unmarshal([]byte(out), &report); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		for _, f := range report.Findings {
			if f.Code == "VX304" {
				t.Logf("%s: %s", f.What, f.Remedy)
				all = append(all, strings.ReplaceAll(f.Remedy, "sudo ", ""))
			}
		}
		return all
	}
	script := strings.Join(remedies(), "\n")
	for _, name := range devices {
		if named := regexp.MustCompile(` `+name+`[ ;]`).FindAllString(script, -1); len(named) != 1 {
			t.Errorf("the remedies name %s %d times", name, len(named))
		}
	}
	command(t, "sh", "-c", script)
	if left := remedies(); len(left) > 0 {
		t.Errorf("after the remedies: %q", left)
	}
}

// TestMetrics: Prometheus' own parser reads the metrics, and they have the values that status shows. Every metric of the
// alerts and of the dashboard is there.
func TestMetrics(t *testing.T) {
	twoBuses(t)
	dir := t.TempDir()
	vxcanctl(t, "metrics", "--textfile", dir)
	if names, _ := filepath.Glob(dir + "/*"); !slices.Equal(names, []string{dir + "/vxcan.prom"}) {
		t.Errorf("written: %v", names)
	}
	f, err := os.Open(dir + "/vxcan.prom")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(f)
	if err != nil {
		t.Fatal(err)
	}
	values := make(map[string]float64)
	for name, family := range families {
		if counter := family.GetType() == dto.MetricType_COUNTER; counter != strings.HasSuffix(name, "_total") || family.GetHelp() == "" {
			t.Errorf("%s: %v, %q", name, family.GetType(), family.GetHelp())
		}
		for _, m := range family.Metric {
			var labels []string
			for _, l := range m.Label {
				if l.GetName() != "device" {
					labels = append(labels, l.GetName()+"="+l.GetValue())
				}
			}
			values[name+" "+strings.Join(labels, " ")] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	for key, want := range map[string]float64{
		"vxcan_bus_whole hub=vcan0":                           1,
		"vxcan_bus_whole hub=slot0":                           0,
		"vxcan_controller_state hub=slot0 state=bus-off":      1,
		"vxcan_controller_state hub=slot0 state=error-active": 0,
		"vxcan_controller_bus_off_total hub=slot0":            1,
		"vxcan_controller_bitrate hub=slot0":                  500000,
		"vxcan_endpoint_sent_frames_total hub=vcan0 runtime=cni network=canbus0 container=a name= interface=can0":           2,
		"vxcan_endpoint_send_denied_frames_total hub=vcan0 runtime=cni network=canbus0 container=a name= interface=can0":    1,
		"vxcan_endpoint_heard_frames_total hub=vcan0 runtime=netavark network=canbus0 container=b name=name interface=can0": 2,
		"vxcan_endpoint_up hub=slot0 runtime=cni network=canbus0 container=engine name=lab/engine-0 interface=can0":         1,
	} {
		if got, ok := values[key]; !ok || got != want {
			t.Errorf("%s is %v (%v), want %v", key, got, ok, want)
		}
	}
	known := vxcanctl(t, "metrics", "--help") // also those that this driver does not tell
	for _, file := range []string{"alerts.yml", "dashboard.json"} {
		content, err := os.ReadFile("../conflist/prometheus/" + file)
		if err != nil {
			t.Fatal(err)
		}
		names := make(map[string]bool)
		for _, name := range regexp.MustCompile(`vxcan_\w+`).FindAllString(string(content), -1) {
			names[name] = true
			if families[name] == nil && !strings.Contains(known, "  "+name+" (") {
				t.Errorf("%s: there is no %s", file, name)
			}
		}
		t.Logf("%s asks for %v", file, slices.Sorted(maps.Keys(names)))
		if strings.HasSuffix(file, ".json") && !json.Valid(content) {
			t.Errorf("%s is not JSON", file)
		}
	}
}

// TestMetricsTimer: systemd writes the metrics again and again, where node_exporter has a directory for them.
func TestMetricsTimer(t *testing.T) {
	freshHost(t)
	on(newContainer(t, "c")).add(t)
	s := startSystemd(t)
	for _, unit := range []string{"vxcan-metrics.service", "vxcan-metrics.timer"} {
		command(t, "install", "-D", "-m", "644", "-t", "/usr/local/lib/systemd/system", "../plugins/vxcanctl/"+unit)
	}
	const dir, file = "/var/lib/prometheus/node-exporter", "/var/lib/prometheus/node-exporter/vxcan.prom"
	written := func() time.Time {
		info, err := os.Stat(file)
		if err != nil {
			return time.Time{}
		}
		return info.ModTime()
	}
	s.run("systemctl", "daemon-reload")
	s.run("systemctl", "start", "vxcan-metrics.service")
	if _, err := os.Stat(dir); err == nil {
		t.Errorf("%s was made", dir)
	}
	t.Cleanup(func() { _ = os.RemoveAll("/var/lib/prometheus") })
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	s.run("systemctl", "start", "vxcan-metrics.timer")
	s.waitFor("the first metrics", func() bool { return !written().IsZero() })
	first := written()
	s.waitFor("the next metrics", func() bool { return written().After(first) })
	t.Logf("written again after %v", written().Sub(first))
	content, err := os.ReadFile(file)
	if err != nil || !strings.Contains(string(content), "\nvxcan_bus_whole{hub=\"vcan0\"} 1\n") {
		t.Errorf("%v: %s", err, content)
	}
	if info, err := os.Stat(file); err != nil || info.Mode() != 0o644 {
		t.Errorf("%v, %v", info, err)
	}
}

// TestCompletion: the scripts for four shells are there, and hubs, formats and codes are offered.
func TestCompletion(t *testing.T) {
	freshHost(t)
	on(newContainer(t, "c")).add(t)
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		if out, words, status := control(t, nil, "completion", shell); status != 0 || len(out) < 1000 {
			t.Errorf("%s: exit status %d, %d bytes, %s", shell, status, len(out), words)
		}
	}
	for args, want := range map[string]string{
		"status ": "vcan0\n", "heal ": "vcan0\n", "graph -o ": "text\ndot\njson\n", "doctor --explain V": "VX100\troot\n", "me": "metrics\t",
	} {
		words := strings.Split(args, " ")
		if out, _, status := control(t, nil, append([]string{"__complete"}, words...)...); status != 0 || !strings.HasPrefix(out, want) {
			t.Errorf("%s: exit status %d, %q, want %q", args, status, out, want)
		}
	}
	script := filepath.Join(t.TempDir(), "vxcanctl.bash")
	out, _, _ := control(t, nil, "completion", "bash")
	write(t, script, out)
	command(t, "bash", "-n", script)
}
