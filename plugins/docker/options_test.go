package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/vxcan/vxcan/pkg/config"
)

// createNetwork is what dockerd 28.5.2 sends for `docker network create -d vxcan --ipam-driver null -o …`.
const createNetwork = `{"NetworkID":"2ba71b7b","Options":{"com.docker.network.enable_ipv4":true,` +
	`"com.docker.network.enable_ipv6":false,"com.docker.network.generic":%s},` +
	`"IPv4Data":[{"AddressSpace":"null","Pool":"0.0.0.0/0"}],"IPv6Data":[]}`

func TestParseNetwork(t *testing.T) {
	tests := map[string]struct {
		options string
		want    network
		words   []string // of an error
	}{
		"none":             {options: `{}`, want: network{Hub: config.Hub{Name: "vcan0"}, Prefix: "can"}},
		"null":             {options: `null`, want: network{Hub: config.Hub{Name: "vcan0"}, Prefix: "can"}},
		"predecessors'":    {options: `{"vxcan.dev":"can_host","vxcan.id":"1","vxcan.peer":"can_docker"}`, want: network{Hub: config.Hub{Name: "can_host1"}, Prefix: "can_docker"}},
		"id alone":         {options: `{"vxcan.id":"3"}`, want: network{Hub: config.Hub{Name: "vcan3"}, Prefix: "can"}},
		"a number":         {options: `{"vxcan.id":3}`, want: network{Hub: config.Hub{Name: "vcan3"}, Prefix: "can"}},
		"ours":             {options: `{"hub":"can0","physical":"true","mtu":"16"}`, want: network{Hub: config.Hub{Name: "can0", Physical: true}, Endpoint: config.Endpoint{MTU: 16}, Prefix: "can"}},
		"both the same":    {options: `{"hub":"vcan2","vxcan.id":"2"}`, want: network{Hub: config.Hub{Name: "vcan2"}, Prefix: "can"}},
		"both":             {options: `{"hub":"vcan2","vxcan.dev":"can"}`, words: []string{"vcan2", "can0", "leave one out"}},
		"Docker's":         {options: `{"com.docker.network.driver.mtu":"1500"}`, want: network{Hub: config.Hub{Name: "vcan0"}, Prefix: "can"}},
		"a wrong key":      {options: `{"vxcan.mtu":"16"}`, words: []string{`"vxcan.mtu"`, "hub, physical, mtu, send, receive, ", "vxcan.dev, vxcan.id, vxcan.peer"}},
		"an empty hub":     {options: `{"hub":""}`, words: []string{`option "hub"`, "empty"}},
		"a bad hub":        {options: `{"hub":"can 0"}`, words: []string{"hub", `"can 0"`}},
		"a long hub":       {options: `{"vxcan.dev":"abcdefghijklmno"}`, words: []string{"16 bytes"}},
		"a bad id":         {options: `{"vxcan.id":"-1"}`, words: []string{"vxcan.id", `"-1"`, "number"}},
		"a bad peer":       {options: `{"vxcan.peer":"can%"}`, words: []string{"vxcan.peer", "%"}},
		"a long peer":      {options: `{"vxcan.peer":"abcdefghijklmno"}`, words: []string{"vxcan.peer", "16 bytes"}},
		"a bad mtu":        {options: `{"mtu":"2060"}`, words: []string{"mtu", "2060", "16", "72"}},
		"a bad physical":   {options: `{"physical":"yes"}`, words: []string{"physical", "yes", "true or false"}},
		"options no table": {options: `"x"`, want: network{Hub: config.Hub{Name: "vcan0"}, Prefix: "can"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var r createNetworkRequest
			if err := json.Unmarshal(fmt.Appendf(nil, createNetwork, test.options), &r); err != nil {
				t.Fatal(err)
			}
			got, err := parseNetwork(r)
			expectWords(t, err, test.words)
			if len(test.words) == 0 && !reflect.DeepEqual(*got, test.want) {
				t.Errorf("got %+v, want %+v", *got, test.want)
			}
		})
	}
}

func expectWords(t *testing.T, err error, words []string) {
	t.Helper()
	if len(words) == 0 {
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	if !errors.Is(err, config.ErrInvalid) {
		t.Fatalf("got %v, want ErrInvalid", err)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("the message lacks %q: %v", w, err)
		}
	}
}

// TestParseNetworkAddresses: the ranges of the null IPAM driver, as several Dockers send them, and those of others.
func TestParseNetworkAddresses(t *testing.T) {
	tests := map[string]string{ // to words of the error
		`"IPv4Data":[{"AddressSpace":"null","Pool":"0.0.0.0/0"}],"IPv6Data":[]`:                                      "",
		`"IPv4Data":[{"AddressSpace":"null","Pool":"0.0.0.0/0"}],"IPv6Data":[{"AddressSpace":"null","Pool":"::/0"}]`: "",
		`"IPv4Data":[],"IPv6Data":null`: "",
		`"IPv4Data":[{"AddressSpace":"LocalDefault","Pool":"172.17.0.0/16","Gateway":"172.17.0.1/16"}],"IPv6Data":[]`: "--ipam-driver null",
		`"IPv4Data":[],"IPv6Data":[{"AddressSpace":"LocalDefault","Pool":"fd00::/64"}]`:                               "fd00::/64",
	}
	for data, word := range tests {
		var r createNetworkRequest
		if err := json.Unmarshal([]byte(`{"NetworkID":"n","Options":{},`+data+`}`), &r); err != nil {
			t.Fatal(err)
		}
		_, err := parseNetwork(r)
		var words []string
		if word != "" {
			words = []string{word}
		}
		expectWords(t, err, words)
	}
}

func TestParseEndpoint(t *testing.T) {
	tests := map[string]struct {
		body  string
		want  endpoint
		words []string
	}{
		// What dockerd 20.10.24 sends.
		"plain":      {body: `"Interface":{"Address":"","AddressIPv6":"","MacAddress":""},"Options":{"com.docker.network.endpoint.exposedports":[],"com.docker.network.portmap":[]}`},
		"no object":  {body: `"Interface":null,"Options":null`},
		"ifname":     {body: `"Options":{"com.docker.network.endpoint.ifname":"can3"}`, want: endpoint{IfName: "can3"}},
		"bad ifname": {body: `"Options":{"com.docker.network.endpoint.ifname":"can%d"}`, words: []string{"ifname", "%"}},
		"address":    {body: `"Interface":{"Address":"10.0.0.2/24"}`, words: []string{"10.0.0.2/24", "--ipam-driver null"}},
		"address 6":  {body: `"Interface":{"AddressIPv6":"fd00::2/64"}`, words: []string{"fd00::2/64", "--ipam-driver null"}},
		"MAC":        {body: `"Interface":{"MacAddress":"02:00:00:00:00:01"}`, words: []string{"02:00:00:00:00:01", "--mac-address"}},
		"option":     {body: `"Options":{"ifname":"can3"}`, words: []string{`"ifname"`, "com.docker.network.endpoint.ifname"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var r createEndpointRequest
			if err := json.Unmarshal([]byte(`{"NetworkID":"n","EndpointID":"e",`+test.body+`}`), &r); err != nil {
				t.Fatal(err)
			}
			got, err := parseEndpoint(r)
			expectWords(t, err, test.words)
			if got != test.want {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
		})
	}
}
