// Package once tests vxcanctl doctor on a kernel with two CPUs.
package once

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/vxcan/vxcan/integration/harness"
)

// TestDoctorSteering: doctor finds each device of a bus with rps_cpus, also of a hub with a long name, and its remedies
// work.
func TestDoctorSteering(t *testing.T) {
	harness.RequireTwoCPUs(t) // a kernel for one CPU has no rps_cpus
	harness.FreshHost(t)
	for _, hub := range []string{"vcan0", "can-left-wheel"} {
		harness.On(harness.NewContainer(t, hub)).With(fmt.Sprintf(`"hub":%q`, hub)).Add(t)
	}
	devices := harness.CANLinks(t)
	if len(devices) != 8 { // hub, backplane and host end of each bus
		t.Fatalf("devices %v", devices)
	}
	for _, name := range devices {
		harness.Write(t, "/sys/class/net/"+name+"/queues/rx-0/rps_cpus", "3")
	}
	remedies := func() (all []string) {
		t.Helper()
		out, _, _ := harness.Control(t, nil, "doctor", "-o", "json")
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
	harness.Command(t, "sh", "-c", script)
	if left := remedies(); len(left) > 0 {
		t.Errorf("after the remedies: %q", left)
	}
}
