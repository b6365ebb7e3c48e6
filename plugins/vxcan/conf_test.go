package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/vxcan/vxcan/pkg/config"
	"github.com/vxcan/vxcan/pkg/controller"
)

// with is a configuration with more keys than those that CNI demands.
func with(keys string) string {
	if keys != "" {
		keys = ", " + keys
	}
	return `{"cniVersion": "1.1.0", "name": "canbus0", "type": "vxcan"` + keys + `}`
}

func TestParseConf(t *testing.T) {
	for keys, want := range map[string]config.Network{
		``:                  {Hub: config.Hub{Name: "vcan0"}},
		`"hub": "can7"`:     {Hub: config.Hub{Name: "can7"}},
		`"physical": true`:  {Hub: config.Hub{Name: "vcan0", Physical: true}},
		`"physical": false`: {Hub: config.Hub{Name: "vcan0"}},
		`"mtu": 16`:         {Hub: config.Hub{Name: "vcan0"}, Endpoint: config.Endpoint{MTU: 16}},
		`"mtu": 72`:         {Hub: config.Hub{Name: "vcan0"}, Endpoint: config.Endpoint{MTU: 72}},
		`"interface": "can0", "hub": "abcdefghijklmno", "mtu": 72, "physical": true`: {Interface: "can0", Hub: config.Hub{Name: "abcdefghijklmno", Physical: true}, Endpoint: config.Endpoint{MTU: 72}},
		`"interface": "can%d"`: {Hub: config.Hub{Name: "vcan0"}, Interface: "can%d"},
		`"hub": "can0", "physical": true, "bitrate": 500000, "sample-point": 0.875, "fd": true, "dbitrate": 2000000, "dsample-point": 0.8,
		  "restart-ms": 100, "txqueuelen": 500, "termination": 120, "listen-only": true, "one-shot": true, "triple-sampling": true,
		  "berr-reporting": true, "presume-ack": true, "fd-non-iso": true`: {
			Hub: config.Hub{Name: "can0", Physical: true, TxQueue: 500, Controller: controller.Settings{
				Bitrate: 500000, SamplePoint: 875, FD: true, DataBitrate: 2000000, DataSamplePoint: 800, RestartMS: 100,
				Termination: 120, SetTermination: true, ListenOnly: true, OneShot: true, TripleSampling: true,
				BerrReporting: true, PresumeAck: true, FDNonISO: true,
			}},
		},
		// What CNI reserves and what runtimes inject.
		`"args": {"cni": {"labels": []}}, "capabilities": {"portMappings": true}, "runtimeConfig": {"x": 1}`:             {Hub: config.Hub{Name: "vcan0"}},
		`"cniVersions": ["1.0.0"], "disableCheck": true, "disableGC": true, "loadOnlyInlinedPlugins": false`:             {Hub: config.Hub{Name: "vcan0"}},
		`"ipam": {}, "dns": {"nameservers": ["10.0.0.1"]}, "ipMasq": true`:                                               {Hub: config.Hub{Name: "vcan0"}},
		`"deviceID": "0000:00:1f.6", "pciBusID": "0000:00:1f.6"`:                                                         {Hub: config.Hub{Name: "vcan0"}},
		`"cni.dev/attachments": [], "cni.dev/valid-attachments": [], "cni.dev/anything": {"new": 1}, "prevResult": null`: {Hub: config.Hub{Name: "vcan0"}},
	} {
		c, err := parseConf([]byte(with(keys)))
		if err != nil {
			t.Errorf("%s: %v", keys, err)
			continue
		}
		if diff := cmp.Diff(want, c.network, cmpopts.IgnoreUnexported(config.Network{})); diff != "" || c.Name != "canbus0" || c.CNIVersion != "1.1.0" {
			t.Errorf("%s (- want, + got)\n%s", keys, diff)
		}
	}
}

// An error names the key and what is allowed, and what could be read comes along for DEL.
func TestParseConfInvalid(t *testing.T) {
	const keys = "the keys of vxcan are hub, physical, interface, mtu, send, "
	const mtus = "want 16 (classic CAN) or 72 (CAN FD)"
	for keys, words := range map[string][]string{
		`"huub": "vcan1"`:               {`key "huub"`, keys},
		`"Hub": "vcan1"`:                {`key "Hub"`, keys}, // encoding/json would take it for hub
		`"MTU": 72`:                     {`key "MTU"`, keys},
		`"bit-rate": 500000, "mtu": 72`: {`key "bit-rate"`, keys},
		// A controller's.
		`"bitrate": 500000`:                                                 {"bitrate is for a controller: set physical to true"},
		`"txqueuelen": 1000`:                                                {"txqueuelen is for a controller: set physical to true"},
		`"physical": true, "fd": true`:                                      {"fd needs bitrate"},
		`"physical": true, "bitrate": 500000, "fd": true`:                   {"fd needs dbitrate"},
		`"physical": true, "bitrate": 500000, "dbitrate": 2000000`:          {"dbitrate needs fd"},
		`"physical": true, "bitrate": 500000, "fd": true, "dbitrate": 9600`: {"dbitrate 9600: want at least the bitrate, 500000"},
		`"physical": true, "bitrate": 0`:                                    {`key "bitrate"`, "whole number from 1 on"},
		`"physical": true, "bitrate": "500k"`:                               {`key "bitrate"`, `value "500k": want a whole number`},
		`"physical": true, "bitrate": 5000000000`:                           {`key "bitrate"`, "5000000000"},
		`"physical": true, "bitrate": 500000, "sample-point": 87.5`:         {`key "sample-point"`, `"87.5"`, "0.875"},
		`"physical": true, "bitrate": 500000, "sample-point": "0.875"`:      {`key "sample-point"`, "want a number"},
		`"physical": true, "bitrate": 500000, "listen-only": 1`:             {`key "listen-only"`, "true or false"},
		`"physical": true, "bitrate": 500000, "termination": 70000`:         {`key "termination"`, "ohms"},
		`"": 1`:                                {`key ""`, keys},
		`"cni.dev": 1`:                         {`key "cni.dev"`, keys},
		`"hub": ""`:                            {`key "hub"`, "1 to 15 bytes"},
		`"hub": "abcdefghijklmnop"`:            {`key "hub"`, "16 bytes, at most 15 are allowed"},
		`"hub": "../vcan0"`:                    {`key "hub"`, `"/" is not allowed`},
		`"hub": "vcan%d"`:                      {`key "hub"`, `"%" is not allowed`},
		`"hub": "a b"`:                         {`key "hub"`, `" " is not allowed`},
		`"hub": "a\u0000b"`:                    {`key "hub"`, `"\x00" is not allowed`},
		`"hub": 0`:                             {`key "hub"`, "value 0: want a string"},
		`"hub": null`:                          {`key "hub"`, "value null: want a string; leave the key out for the default"},
		`"send": null`:                         {`key "send"`, "value null"},
		`"pod-hubs": null`:                     {`key "pod-hubs"`, "value null"},
		`"interface": "can%d", "hub": "bench"`: {"interface can%d", `"bench" ends in none; name the interface`},
		`"hub": ["vcan0"]`:                     {`key "hub"`, `value ["vcan0"]: want a string`},
		`"interface": ""`:                      {`key "interface"`, "1 to 15 bytes"},
		`"interface": "can%d%d"`:               {`key "interface"`, `"%" is not allowed`},
		`"interface": "can/0"`:                 {`key "interface"`, `"/" is not allowed`},
		`"interface": {}`:                      {`key "interface"`, "value {}: want a string"},
		`"mtu": 0`:                             {`key "mtu": invalid mtu 0`, mtus},
		`"mtu": -16`:                           {`key "mtu": invalid mtu -16`, mtus},
		`"mtu": 17`:                            {`key "mtu": invalid mtu 17`, mtus},
		`"mtu": 1500`:                          {`key "mtu": invalid mtu 1500`, mtus},
		`"mtu": 2060`:                          {`key "mtu": invalid mtu 2060`, mtus}, // CAN XL
		`"mtu": 72.5`:                          {`key "mtu"`, "value 72.5: want a whole number"},
		`"mtu": 1e99`:                          {`key "mtu"`, "value 1e99: want a whole number"},
		`"mtu": "72"`:                          {`key "mtu"`, `value "72": want a whole number`},
		`"physical": "true"`:                   {`key "physical"`, `value "true": want true or false`},
		`"physical": 1`:                        {`key "physical"`, "value 1: want true or false"},
		`"cni.dev/attachments": {}`:            {`key "cni.dev/attachments"`, "JSON object"},
	} {
		c, err := parseConf([]byte(with(keys)))
		if !errors.Is(err, config.ErrInvalid) {
			t.Errorf("%s: %v, want ErrInvalid", keys, err)
			continue
		}
		for _, w := range words {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %q does not say %q", keys, err, w)
			}
		}
		if c == nil || c.Name != "canbus0" {
			t.Errorf("%s: what could be read is lost", keys)
		}
		if code := errorCode(t, err); code != types.ErrInvalidNetworkConfig {
			t.Errorf("%s: code %d, want %d", keys, code, types.ErrInvalidNetworkConfig)
		}
	}
}

func errorCode(t *testing.T, err error) uint {
	t.Helper()
	var e *types.Error
	if !errors.As(cniError(err), &e) {
		t.Fatalf("%v is no CNI error", err)
	}
	return e.Code
}

func TestParseConfNoObject(t *testing.T) {
	for _, config := range []string{``, `{`, `null`, `[]`, `"vxcan"`, `7`, with(`"hub": `), with("") + "}"} {
		if c, err := parseConf([]byte(config)); err == nil || c != nil {
			t.Errorf("%q: %+v, %v", config, c, err)
		}
	}
	_, err := parseConf([]byte(`{`))
	if code := errorCode(t, err); code != types.ErrDecodingFailure {
		t.Errorf("code %d, want %d", code, types.ErrDecodingFailure)
	}
}

// DEL works with what is right in a configuration that is wrong elsewhere.
func TestParseConfPartly(t *testing.T) {
	for _, wrong := range []string{`"mtu": "72"`, `"mtu": 17`, `"huub": 1`, `"physical": 0`} {
		for _, config := range []string{with(`"hub": "vcan7", "interface": "can3", ` + wrong), with(wrong + `, "interface": "can3", "hub": "vcan7"`)} {
			if c, err := parseConf([]byte(config)); err == nil || c == nil || c.network.Hub.Name != "vcan7" || c.network.Interface != "can3" {
				t.Errorf("%s: %+v, %v", config, c, err)
			}
		}
	}
}

// No list is not an empty list: libcni leaves the keys out where the runtime gave it none, and writes null for a
// runtime's list that is nil, and so empty.
func TestAttachmentLists(t *testing.T) {
	one := `[{"containerID": "id", "ifname": "eth0"}]`
	for keys, want := range map[string]struct {
		hasList bool
		valid   int
	}{
		``:                                  {false, 0},
		`"cni.dev/other": []`:               {false, 0},
		`"cni.dev/valid-attachments": []`:   {true, 0},
		`"cni.dev/attachments": []`:         {true, 0},
		`"cni.dev/valid-attachments": null`: {true, 0},
		`"cni.dev/attachments": ` + one:     {true, 1},
		`"cni.dev/valid-attachments": ` + one + `, "cni.dev/attachments": ` + one: {true, 2},
	} {
		c, err := parseConf([]byte(with(keys)))
		if err != nil {
			t.Errorf("%s: %v", keys, err)
			continue
		}
		if c.hasList != want.hasList || len(c.Valid) != want.valid {
			t.Errorf("%s: list %v, %+v", keys, c.hasList, c.Valid)
		}
		for _, a := range c.Valid {
			if a != (types.GCAttachment{ContainerID: "id", IfName: "eth0"}) {
				t.Errorf("%s: %+v", keys, a)
			}
		}
	}
}

func TestInterfaceName(t *testing.T) {
	const chained = `"prevResult": {"cniVersion": "1.0.0", "interfaces": [{"name": "eth0"}]}`
	for _, test := range []struct{ keys, ifName, want string }{
		// Alone, without a wish in the configuration: the runtime's name.
		{``, "eth0", "eth0"},
		{``, "can5", "can5"},
		{`"prevResult": null`, "eth0", "eth0"},
		// With one: it takes the place of a name that the runtime made up.
		{`"interface": "can0"`, "eth0", "can0"},
		{`"interface": "can0"`, "eth17", "can0"},
		{`"interface": "can%d"`, "eth1", "can%d"},
		// Any other name was asked for.
		{`"interface": "can0"`, "can5", "can5"},
		{`"interface": "can0"`, "eth", "eth"},
		{`"interface": "can0"`, "eth0x", "eth0x"},
		{`"interface": "can0"`, "eth0.5", "eth0.5"},
		{`"interface": "can0"`, "net1", "net1"},
		// In a chain CNI_IFNAME is another plugin's.
		{chained, "eth0", "can0"},
		{chained, "can5", "can0"},
		{`"interface": "can3", ` + chained, "eth0", "can3"},
		{`"interface": "can3", ` + chained, "net1", "can3"},
		{`"interface": "can%d", ` + chained, "eth0", "can%d"},
	} {
		c, err := parseConf([]byte(with(test.keys)))
		if err != nil {
			t.Errorf("%s: %v", test.keys, err)
			continue
		}
		if got := c.interfaceName(test.ifName); got != test.want {
			t.Errorf("%s, CNI_IFNAME %s: %q, want %q", test.keys, test.ifName, got, test.want)
		}
	}
}

func TestAttachment(t *testing.T) {
	args := &skel.CmdArgs{ContainerID: "id", IfName: "eth0"}
	for keys, entry := range map[string]string{``: "", `"interface": "can0"`: "can0", `"hub": "vcan7", "mtu": 16`: ""} {
		c, err := parseConf([]byte(with(keys)))
		want := config.Attachment{Runtime: "cni", Network: "canbus0", ContainerID: "id", IfName: "eth0", Entry: entry}
		if err != nil {
			t.Errorf("%s: %v", keys, err)
			continue
		}
		if got, err := c.requests(args); err != nil || len(got) != 1 || got[0].Attachment != want {
			t.Errorf("%s: %+v, %v; want %+v", keys, got, err, want)
		}
	}
}

func TestPrevResult(t *testing.T) {
	c, err := parseConf([]byte(with(`"prevResult": {
		"cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "sandbox": "/run/netns/a"}],
		"ips": [{"address": "10.0.0.5/24", "interface": 0}]}`)))
	if err != nil {
		t.Fatal(err)
	}
	result, err := c.prevResult()
	if err != nil || len(result.Interfaces) != 1 || result.Interfaces[0].Name != "eth0" || len(result.IPs) != 1 {
		t.Errorf("%+v, %v", result, err)
	}
	if c, err = parseConf([]byte(with(``))); err != nil {
		t.Fatal(err)
	}
	if result, err := c.prevResult(); result != nil || err != nil {
		t.Errorf("none: %+v, %v", result, err)
	}
	for _, wrong := range []string{`{"cniVersion": "9.9.9"}`, `{"cniVersion": "1.0.0", "ips": 7}`, `{"cniVersion": 7}`} {
		c, err := parseConf([]byte(with(`"prevResult": ` + wrong)))
		if err != nil {
			t.Errorf("%s: %v", wrong, err)
			continue
		}
		if _, err := c.prevResult(); !errors.Is(err, config.ErrInvalid) || !strings.Contains(fmt.Sprint(err), `key "prevResult"`) {
			t.Errorf("%s: %v, want ErrInvalid", wrong, err)
		}
	}
	if _, err := parseConf([]byte(with(`"prevResult": 7`))); !errors.Is(err, config.ErrInvalid) {
		t.Errorf("a number: %v, want ErrInvalid", err)
	}
}

// Each reserved key passes, with a value of whatever type CNI has for it.
func TestReservedKeysPass(t *testing.T) {
	for _, key := range reservedKeys {
		var c struct {
			types.PluginConf
			RuntimeConfig map[string]any `json:"runtimeConfig"`
		}
		value := "null"
		for _, try := range []string{"true", `"1.1.0"`, "{}", "[]"} {
			if json.Unmarshal([]byte(`{"`+key+`": `+try+`}`), &c) == nil {
				value = try
				break
			}
		}
		config := `{"` + key + `": ` + value + `}`
		if _, err := parseConf([]byte(config)); err != nil {
			t.Errorf("%s: %v", config, err)
		}
	}
}
