// Package once tests vxcanctl on one kernel, and the versions of all binaries.
package once

import (
	"encoding/json"
	"maps"
	"os"
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

	"github.com/vxcan/vxcan/integration/harness"
	"github.com/vxcan/vxcan/pkg/cantest"
)

// TestStatusWatch: with --watch, frames per second and the load of a controller, until Ctrl-C, which is no failure.
func TestStatusWatch(t *testing.T) {
	harness.FreshHost(t)
	controller := cantest.NewController(t, "slot0")
	harness.SetUpController(t, controller, 1000)
	c := harness.NewContainer(t, "c")
	harness.On(c).With(harness.OnController).Add(t)
	done := make(chan bool)
	go func() { // 250 frames a second of 8 bytes: 33750 bits
		defer close(done)
		sender := cantest.NewSender(t, c.Netns, "can0")
		for tick := time.NewTicker(4 * time.Millisecond); ; <-tick.C {
			select {
			case done <- true:
				return
			default:
				_ = sender.Send(cantest.Frame{ID: 0x123, Data: "12345678"})
			}
		}
	}()
	out, words, status := harness.Control(t, []string{"timeout", "--preserve-status", "--signal=INT", "4"}, "status", "--watch")
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
	harness.FreshHost(t)
	crowd := harness.NewContainer(t, "crowd")
	const count = 100
	for _, name := range harness.ContainerNames("c", count) {
		harness.Call{ContainerID: name, Netns: crowd.Path, IfName: name}.Add(t)
	}
	start := time.Now()
	if all := harness.StatusOf(t); len(all) != 1 || len(all[0].Endpoints) != count || len(all[0].Differences) > 0 {
		t.Errorf("%d buses: %+v", len(all), all)
	}
	took := time.Since(start)
	trace := filepath.Join(t.TempDir(), "trace")
	harness.Control(t, []string{"strace", "-f", "-qq", "-e", "trace=sendto", "-o", trace}, "status")
	content, err := os.ReadFile(trace)
	sent := strings.Count(string(content), "sendto(")
	t.Logf("status with %d endpoints: %v, %d messages or batches to the kernel", count, took, sent)
	if err != nil || sent == 0 || sent > 20 {
		t.Errorf("%d messages or batches to the kernel, want at most 20; %v", sent, err)
	}
}

// TestMetrics: Prometheus' own parser reads the metrics, and they have the values that status shows. Every metric of the
// alerts and of the dashboard is there.
func TestMetrics(t *testing.T) {
	harness.TwoBuses(t)
	dir := t.TempDir()
	harness.Vxcanctl(t, "metrics", "--textfile", dir)
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
	known := harness.Vxcanctl(t, "metrics", "--help") // also those that this driver does not tell
	for _, file := range []string{"alerts.yml", "dashboard.json"} {
		content, err := os.ReadFile(harness.Repo("conflist/prometheus/") + file)
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
	harness.FreshHost(t)
	harness.On(harness.NewContainer(t, "c")).Add(t)
	s := harness.StartSystemd(t)
	for _, unit := range []string{"vxcan-metrics.service", "vxcan-metrics.timer"} {
		harness.Command(t, "install", "-D", "-m", "644", "-t", "/usr/local/lib/systemd/system", harness.Repo("plugins/vxcanctl/")+unit)
	}
	const dir, file = "/var/lib/prometheus/node-exporter", "/var/lib/prometheus/node-exporter/vxcan.prom"
	written := func() time.Time {
		info, err := os.Stat(file)
		if err != nil {
			return time.Time{}
		}
		return info.ModTime()
	}
	s.Run("systemctl", "daemon-reload")
	s.Run("systemctl", "start", "vxcan-metrics.service")
	if _, err := os.Stat(dir); err == nil {
		t.Errorf("%s was made", dir)
	}
	t.Cleanup(func() { _ = os.RemoveAll("/var/lib/prometheus") })
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	s.Run("systemctl", "start", "vxcan-metrics.timer")
	s.WaitFor("the first metrics", func() bool { return !written().IsZero() })
	first := written()
	s.WaitFor("the next metrics", func() bool { return written().After(first) })
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
	harness.FreshHost(t)
	harness.On(harness.NewContainer(t, "c")).Add(t)
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		if out, words, status := harness.Control(t, nil, "completion", shell); status != 0 || len(out) < 1000 {
			t.Errorf("%s: exit status %d, %d bytes, %s", shell, status, len(out), words)
		}
	}
	for args, want := range map[string]string{
		"status ": "vcan0\n", "heal ": "vcan0\n", "graph -o ": "text\ndot\njson\n", "doctor --explain V": "VX100\troot\n", "me": "metrics\t",
	} {
		words := strings.Split(args, " ")
		if out, _, status := harness.Control(t, nil, append([]string{"__complete"}, words...)...); status != 0 || !strings.HasPrefix(out, want) {
			t.Errorf("%s: exit status %d, %q, want %q", args, status, out, want)
		}
	}
	script := filepath.Join(t.TempDir(), "vxcanctl.bash")
	out, _, _ := harness.Control(t, nil, "completion", "bash")
	harness.Write(t, script, out)
	harness.Command(t, "bash", "-n", script)
}
