// Package once tests the plugin on one kernel: its verbs, its input, what goes wrong.
package once

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/vxcan/vxcan/integration/harness"
)

// TestAddAgain: the same attachment again changes nothing; in a new netns, without a DEL, it is built anew.
func TestAddAgain(t *testing.T) {
	harness.FreshHost(t)
	c := harness.NewContainer(t, "c")
	first, _ := harness.On(c).Add(t)
	before := c.Links(t)
	second, _ := harness.On(c).Add(t)
	if a, b := string(harness.Marshal(t, first)), string(harness.Marshal(t, second)); a != b {
		t.Errorf("results differ:\n%s\n%s", a, b)
	}
	if after := c.Links(t); !slices.Equal(before, after) {
		t.Errorf("devices changed: %v, then %v", before, after)
	}
	harness.ExpectWiring(t, true, "vcan0", harness.HostIf(first))

	moved := harness.NewContainer(t, "moved")
	again := harness.Call{ContainerID: "c", Netns: moved.Path}
	result, _ := again.Add(t)
	harness.ExpectWiring(t, true, "vcan0", harness.HostIf(result))
	if slices.ContainsFunc(c.Links(t), func(l harness.Link) bool { return l.Name == "can0" }) {
		t.Error("can0 is still in the old netns")
	}
	if err := again.Check(t, result); err != nil {
		t.Error(err)
	}
	harness.ExpectExactlyOnce(t, []harness.Station{harness.Host("vcan0"), moved.On("can0")}, 5, true)
}

// TestResult: every CNI version, alone and behind another plugin, whose result stays as it was, with ours at its end.
func TestResult(t *testing.T) {
	for _, version := range []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		t.Run(version, func(t *testing.T) {
			harness.FreshHost(t)
			c := harness.NewContainer(t, "c")
			ours := harness.On(c).With(fmt.Sprintf(`"cniVersion":%q`, version))
			out, _, err := ours.Exec(t, "ADD")
			if err != nil {
				t.Fatal(err)
			}
			var result struct {
				CNIVersion string
				Interfaces []struct{ Name, Mac, Sandbox string }
			}
			if err := json.Unmarshal([]byte(out), &result); err != nil {
				t.Fatal(err)
			}
			if len(result.Interfaces) != 3 || result.CNIVersion != version {
				t.Fatalf("result: %s", out)
			}
			end := result.Interfaces[2]
			if result.Interfaces[0].Name != "vcan0" || end.Name != "can0" || end.Mac != "00:00:00:00:00:00" || end.Sandbox != c.Path {
				t.Errorf("result: %s", out)
			}
			ours.OK(t, "DEL")

			previous := fmt.Sprintf(`{"cniVersion":%q,"interfaces":[{"name":"eth0","mac":"02:00:00:00:00:01","sandbox":%q}],`+
				`"ips":[{"version":"4","interface":0,"address":"10.1.2.3/24"}],"dns":{}}`, version, c.Path)
			chained := ours.With(`"prevResult":` + previous)
			out, _, err = chained.Exec(t, "ADD")
			if err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal([]byte(out), &result); err != nil {
				t.Fatal(err)
			}
			if len(result.Interfaces) != 4 || result.Interfaces[0].Name != "eth0" || !strings.Contains(out, "10.1.2.3/24") {
				t.Errorf("chained result: %s", out)
			}
		})
	}
}

// TestInterfaceNames: who decides the name in the container.
func TestInterfaceNames(t *testing.T) {
	const chained = `"prevResult":{"cniVersion":"1.1.0","interfaces":[{"name":"eth0"}]}`
	for _, c := range []struct {
		name, ifName, conf, want string
	}{
		{"the runtime's default stays", "eth0", `"interface":""`, ""}, // refused: an empty name
		{"configured over a default", "eth7", `"interface":"can3"`, "can3"},
		{"asked for over configured", "net1", `"interface":"can3"`, "net1"},
		{"the number of the hub", "eth0", `"interface":"can%d","hub":"vcan12"`, "can12"},
		{"the number of the hub, asked for over it", "net1", `"interface":"can%d"`, "net1"},
		{"chained", "eth0", `"interface":"can3",` + chained, "can3"},
		{"chained behind a name that was asked for", "wan", `"interface":"can3",` + chained, "can3"},
	} {
		t.Run(c.name, func(t *testing.T) {
			harness.FreshHost(t)
			box := harness.NewContainer(t, "c")
			harness.Command(t, "ip", "-netns", "c", "link", "add", "can0", "type", "vcan")
			this := harness.Call{ContainerID: "c", Netns: box.Path, IfName: c.ifName}.With(c.conf)
			if c.want == "" {
				this.Fails(t, "ADD", 7, `key "interface"`)
				return
			}
			result, _ := this.Add(t)
			if got := result.Interfaces[len(result.Interfaces)-1].Name; got != c.want {
				t.Errorf("interface %s, want %s", got, c.want)
			}
			this.OK(t, "DEL")
			if got := len(box.Links(t)); got != 2 { // lo and can0
				t.Errorf("%d devices after DEL: %v", got, box.Links(t))
			}
		})
	}
}

// TestDelAlways: DEL succeeds with whatever is left to go by, as often as it is called, and leaves nothing of it.
func TestDelAlways(t *testing.T) {
	stateFile := harness.RecordFile(t, "vcan0")
	for name, damage := range map[string]func(t *testing.T, c *harness.Container, this *harness.Call){
		"nothing missing": func(*testing.T, *harness.Container, *harness.Call) {},
		"without netns":   func(_ *testing.T, _ *harness.Container, this *harness.Call) { this.Netns = "" },
		"netns gone": func(t *testing.T, c *harness.Container, _ *harness.Call) {
			harness.Command(t, "ip", "netns", "del", c.ID)
		},
		"without record": func(t *testing.T, _ *harness.Container, _ *harness.Call) { harness.Remove(t, stateFile) },
		"broken record": func(t *testing.T, _ *harness.Container, _ *harness.Call) {
			harness.Write(t, stateFile, `{"version":1,"da`)
		},
		"other hub configured since": func(t *testing.T, _ *harness.Container, this *harness.Call) {
			*this = this.With(`"hub":"vcan1"`)
		},
		"other interface configured since": func(t *testing.T, _ *harness.Container, this *harness.Call) {
			*this = this.With(`"interface":"can7"`)
		},
		"configuration invalid since": func(t *testing.T, _ *harness.Container, this *harness.Call) {
			*this = this.With(`"speed":500000`)
		},
	} {
		t.Run(name, func(t *testing.T) {
			harness.FreshHost(t)
			c := harness.NewContainer(t, "c")
			this := harness.On(c)
			this.Add(t)
			damage(t, c, &this)
			this.OK(t, "DEL")
			this.OK(t, "DEL")
			harness.ExpectWiring(t, true, "vcan0")
			if got, want := harness.CANLinks(t), []string{"vcan0", "vcan0-rx", "vcan0-tx"}; !slices.Equal(got, want) {
				t.Errorf("devices %v, want %v", got, want)
			}
			if state, err := os.ReadFile(stateFile); err == nil && name != "other hub configured since" && strings.Contains(string(state), "canbus0") {
				t.Errorf("the record is still there: %s", state)
			}
		})
	}
	t.Run("never added", func(t *testing.T) {
		harness.FreshHost(t)
		harness.Call{ContainerID: "nobody"}.OK(t, "DEL")
		harness.ExpectNothing(t)
	})
}

// TestGC: only this network's stale attachments go. Without a list nobody goes, and with an empty one everybody.
func TestGC(t *testing.T) {
	list := func(ids ...string) string {
		var items []string
		for _, id := range ids {
			items = append(items, fmt.Sprintf(`{"containerID":%q,"ifname":"eth0"}`, id))
		}
		return "[" + strings.Join(items, ",") + "]"
	}
	for _, c := range []struct {
		name, conf string
		state      bool // whether the records are there to go by
		want       []string
	}{
		{"a list", `"cni.dev/valid-attachments":` + list("a"), true, []string{"a", "other"}},
		{"the specification's key", `"cni.dev/attachments":` + list("b"), true, []string{"b", "other"}},
		{"both keys", `"cni.dev/attachments":` + list("b") + `,"cni.dev/valid-attachments":` + list("b"), true, []string{"b", "other"}},
		{"records lost", `"cni.dev/attachments":` + list("b"), false, []string{"b", "other"}},
		{"an empty list", `"cni.dev/valid-attachments":[]`, true, []string{"other"}},
		{"no list", `"hub":"vcan0"`, true, []string{"a", "b", "other"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			harness.FreshHost(t)
			hostIfs := make(map[string]string)
			for _, id := range []string{"a", "b", "other"} {
				this := harness.On(harness.NewContainer(t, id))
				if id == "other" {
					this = this.With(`"name":"another"`)
				}
				result, _ := this.Add(t)
				hostIfs[id] = harness.HostIf(result)
			}
			if !c.state {
				harness.Remove(t, harness.RecordFile(t, "vcan0"))
			}
			harness.Call{}.With(c.conf).OK(t, "GC")
			var want []string
			for _, id := range c.want {
				want = append(want, hostIfs[id])
			}
			harness.ExpectWiring(t, true, "vcan0", want...)
		})
	}
}

// TestDelEdited: the configuration of a network, or the annotation of a pod, was changed between ADD and DEL. DEL takes off all
// that ADD attached, whatever it is told by then.
func TestDelEdited(t *testing.T) {
	const both = `,"vxcan/networks":"vcan0:can0,bench1:can1"`
	for name, test := range map[string]struct {
		add, del func(*harness.Container) harness.Call
	}{
		"a pod network now":             {harness.On, func(c *harness.Container) harness.Call { return harness.Pod(c, "") }},
		"no pod network any more":       {func(c *harness.Container) harness.Call { return harness.Pod(c, both) }, harness.On},
		"an annotation of less":         {func(c *harness.Container) harness.Call { return harness.Pod(c, both) }, func(c *harness.Container) harness.Call { return harness.Pod(c, `,"vxcan/networks":"can0"`) }},
		"an annotation that is refused": {func(c *harness.Container) harness.Call { return harness.Pod(c, both) }, func(c *harness.Container) harness.Call { return harness.Pod(c, `,"vxcan/networks":"eth9:can0"`) }},
		"no annotation":                 {func(c *harness.Container) harness.Call { return harness.Pod(c, both) }, func(c *harness.Container) harness.Call { return harness.Pod(c, "") }},
		"another hub and interface":     {harness.On, func(c *harness.Container) harness.Call { return harness.On(c).With(`"hub":"vcan7","interface":"can7"`) }},
	} {
		t.Run(name, func(t *testing.T) {
			harness.FreshHost(t)
			c, other := harness.NewContainer(t, "edited"), harness.NewContainer(t, "other")
			test.add(c).Add(t)
			harness.On(other).Add(t)
			test.del(c).OK(t, "DEL")
			if left := harness.Command(t, "ip", "-n", "edited", "-br", "link", "show", "type", "vxcan"); left != "" {
				t.Errorf("left: %s", left)
			}
			harness.On(other).OK(t, "DEL")
			harness.ExpectOnlyConfiguredHub(t)
		})
	}
}
