package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// TestAddAgain: the same attachment again changes nothing; in a new netns, without a DEL, it is built anew.
func TestAddAgain(t *testing.T) {
	freshHost(t)
	c := newContainer(t, "c")
	first, _ := on(c).add(t)
	before := c.links(t)
	second, _ := on(c).add(t)
	if a, b := string(marshal(t, first)), string(marshal(t, second)); a != b {
		t.Errorf("results differ:\n%s\n%s", a, b)
	}
	if after := c.links(t); !slices.Equal(before, after) {
		t.Errorf("devices changed: %v, then %v", before, after)
	}
	expectWiring(t, true, "vcan0", hostIf(first))

	moved := newContainer(t, "moved")
	again := call{containerID: "c", netns: moved.path}
	result, _ := again.add(t)
	expectWiring(t, true, "vcan0", hostIf(result))
	if slices.ContainsFunc(c.links(t), func(l link) bool { return l.Name == "can0" }) {
		t.Error("can0 is still in the old netns")
	}
	if err := again.check(t, result); err != nil {
		t.Error(err)
	}
	expectExactlyOnce(t, []station{{"host", nil, "vcan0"}, {"moved", moved.netns, "can0"}}, 5, true)
}

// TestResult: every CNI version, alone and behind another plugin, whose result stays as it was, with ours at its end.
func TestResult(t *testing.T) {
	for _, version := range []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		t.Run(version, func(t *testing.T) {
			freshHost(t)
			c := newContainer(t, "c")
			ours := on(c).with(fmt.Sprintf(`"cniVersion":%q`, version))
			out, _, err := ours.exec(t, "ADD")
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
			if result.Interfaces[0].Name != "vcan0" || end.Name != "can0" || end.Mac != "00:00:00:00:00:00" || end.Sandbox != c.path {
				t.Errorf("result: %s", out)
			}
			ours.ok(t, "DEL")

			previous := fmt.Sprintf(`{"cniVersion":%q,"interfaces":[{"name":"eth0","mac":"02:00:00:00:00:01","sandbox":%q}],`+
				`"ips":[{"version":"4","interface":0,"address":"10.1.2.3/24"}],"dns":{}}`, version, c.path)
			chained := ours.with(`"prevResult":` + previous)
			out, _, err = chained.exec(t, "ADD")
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
			freshHost(t)
			box := newContainer(t, "c")
			command(t, "ip", "-netns", "c", "link", "add", "can0", "type", "vcan")
			this := call{containerID: "c", netns: box.path, ifName: c.ifName}.with(c.conf)
			if c.want == "" {
				this.fails(t, "ADD", 7, `key "interface"`)
				return
			}
			result, _ := this.add(t)
			if got := result.Interfaces[len(result.Interfaces)-1].Name; got != c.want {
				t.Errorf("interface %s, want %s", got, c.want)
			}
			this.ok(t, "DEL")
			if got := len(box.links(t)); got != 2 { // lo and can0
				t.Errorf("%d devices after DEL: %v", got, box.links(t))
			}
		})
	}
}

// TestDelAlways: DEL succeeds with whatever is left to go by, as often as it is called, and leaves nothing of it.
func TestDelAlways(t *testing.T) {
	stateFile := recordFile(t, "vcan0")
	for name, damage := range map[string]func(t *testing.T, c *container, this *call){
		"nothing missing": func(*testing.T, *container, *call) {},
		"without netns":   func(_ *testing.T, _ *container, this *call) { this.netns = "" },
		"netns gone": func(t *testing.T, c *container, _ *call) {
			command(t, "ip", "netns", "del", c.id)
		},
		"without record": func(t *testing.T, _ *container, _ *call) { remove(t, stateFile) },
		"broken record":  func(t *testing.T, _ *container, _ *call) { write(t, stateFile, `{"version":1,"da`) },
		"other hub configured since": func(t *testing.T, _ *container, this *call) {
			*this = this.with(`"hub":"vcan1"`)
		},
		"other interface configured since": func(t *testing.T, _ *container, this *call) {
			*this = this.with(`"interface":"can7"`)
		},
		"configuration invalid since": func(t *testing.T, _ *container, this *call) {
			*this = this.with(`"speed":500000`)
		},
	} {
		t.Run(name, func(t *testing.T) {
			freshHost(t)
			c := newContainer(t, "c")
			this := on(c)
			this.add(t)
			damage(t, c, &this)
			this.ok(t, "DEL")
			this.ok(t, "DEL")
			expectWiring(t, true, "vcan0")
			if got, want := canLinks(t), []string{"vcan0", "vcan0-rx", "vcan0-tx"}; !slices.Equal(got, want) {
				t.Errorf("devices %v, want %v", got, want)
			}
			if state, err := os.ReadFile(stateFile); err == nil && name != "other hub configured since" && strings.Contains(string(state), "canbus0") {
				t.Errorf("the record is still there: %s", state)
			}
		})
	}
	t.Run("never added", func(t *testing.T) {
		freshHost(t)
		call{containerID: "nobody"}.ok(t, "DEL")
		expectNothing(t)
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
			freshHost(t)
			hostIfs := make(map[string]string)
			for _, id := range []string{"a", "b", "other"} {
				this := on(newContainer(t, id))
				if id == "other" {
					this = this.with(`"name":"another"`)
				}
				result, _ := this.add(t)
				hostIfs[id] = hostIf(result)
			}
			if !c.state {
				remove(t, recordFile(t, "vcan0"))
			}
			call{}.with(c.conf).ok(t, "GC")
			var want []string
			for _, id := range c.want {
				want = append(want, hostIfs[id])
			}
			expectWiring(t, true, "vcan0", want...)
		})
	}
}
