package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
)

// TestReadmeKeys: the tables of keys, of controllers, of buses of several hosts and of all else, are those that the front ends
// parse by.
func TestReadmeKeys(t *testing.T) {
	where := map[FrontEnd]string{everywhere: "everywhere", everywhere &^ Docker: "all but Docker", CNI: "CNI", CNI | Netavark: "CNI, Podman"}
	for file, of := range map[string]Noun{"../../README.md": "", "../../conflist/controller/README.md": OfController, "../../conflist/hosts/README.md": OfSpan} {
		page, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		table := "| --- | --- | --- | --- |\n"
		for _, k := range Keys {
			if k.Of == of || of == "" && k.Of != OfController && k.Of != OfSpan {
				table += fmt.Sprintf("| `%s` | %s | %s | %s |\n", k.Name, k.Default, where[k.In], k.Meaning)
			}
		}
		if !strings.Contains(string(page), table+"\n") {
			t.Errorf("%s lacks this table:\n%s", file, table)
		}
	}
}

// TestOddValues: a value that would be taken for another one is refused.
func TestOddValues(t *testing.T) {
	for key, values := range map[string][]string{
		"sample-point": {"NaN", "0.0004", "1e-9", "0.9996"}, // 0 would leave it to the kernel
		"restart-ms":   {"4294967295", "2147483648"},
		"txqueuelen":   {"4294967295"},
		"rate":         {"0", "-1", "1000001", "1e3"},
		"hosts": {"", "10.9.0.1", "10.9.0.1,10.9.0.1", "10.9.0.1,2001:db8::1", "10.9.0.1,engine", "10.9.0.1,127.0.0.1", "10.9.0.1,224.0.0.1", "10.9.0.1,0.0.0.0",
			"fe80::1%eth0,fe80::2%eth0", "fe80::1,fe80::2", "2001:db8::1,::ffff:10.9.0.1", "10.9.0.1,10.9.0.2/24", "10.9.0.1,,10.9.0.2", strings.Repeat("10.9.0.1,", 39) + "10.9.0.2"},
		"bus-id":      {"0", "-1", "4294967296", "7.5", ""},
		"unprotected": {"", "maybe"},
		"send":        {"", "12345", "0x123", "100-", "1FF-100", "123,,124"},
	} {
		for _, v := range values {
			var n Network
			if _, err := n.Set(Docker, key, v); !errors.Is(err, ErrInvalid) {
				t.Errorf("%s=%s: %v, %+v, queue %d", key, v, err, n.Hub, n.Hub.TxQueue)
			}
		}
	}
}

// TestHosts: the same list is the same text, and each part of it needs the others.
func TestHosts(t *testing.T) {
	network := func(keys ...string) (n Network, err error) {
		for _, key := range keys {
			name, value, _ := strings.Cut(key, "=")
			if _, err := n.Set(CNI, name, value); err != nil {
				return n, err
			}
		}
		return n, n.Check()
	}
	n, err := network("hosts=10.9.0.10, 10.9.0.9,10.9.0.2", "bus-id=7")
	if want := (Span{Hosts: "10.9.0.2,10.9.0.9,10.9.0.10", BusID: 7}); err != nil || n.Hub.Span != want {
		t.Errorf("%v, %+v, want %+v", err, n.Hub.Span, want)
	}
	if n, err = network("hosts=2001:db8:0::2,2001:DB8::1", "bus-id=4294967295"); err != nil || n.Hub.Span.Hosts != "2001:db8::1,2001:db8::2" {
		t.Errorf("%v, %+v", err, n.Hub.Span)
	}
	for value, want := range map[string]Span{
		"nodes": {BusID: 7, Nodes: true}, "nodes,10.9.0.1": {Hosts: "10.9.0.1", BusID: 7, Nodes: true},
		"nodes,10.9.0.2,10.9.0.1": {Hosts: "10.9.0.1,10.9.0.2", BusID: 7, Nodes: true},
	} {
		if n, err = network("hosts="+value, "bus-id=7"); err != nil || n.Hub.Span != want {
			t.Errorf("%s: %v, %+v", value, err, n.Hub.Span)
		}
		for _, in := range []FrontEnd{Netavark, Docker, Host} {
			if known, err := n.Set(in, "hosts", value); !known || !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "Kubernetes") {
				t.Errorf("%s in another front end: %v, %v", value, known, err)
			}
		}
	}
	for _, value := range []string{`"nodes"`, `["nodes"]`} {
		if known, err := n.SetJSON("hosts", json.RawMessage(value)); !known || err != nil || n.Hub.Span != (Span{BusID: 7, Nodes: true}) {
			t.Errorf("%s: %v, %+v", value, err, n.Hub.Span)
		}
	}
	for want, keys := range map[string][]string{
		"hosts needs bus-id":                       {"hosts=10.9.0.1,10.9.0.2"},
		"hosts needs bus-id, a number":             {"hosts=nodes"},
		`host "nodes": want the IP addresses of a`: {"hosts=10.9.0.1,nodes", "bus-id=7"},
		"bus-id needs hosts":                       {"bus-id=7"},
		"unprotected needs hosts":                  {"unprotected=true"},
		"host 10.9.0.1 is in it twice":             {"hosts=10.9.0.1,10.9.0.2,10.9.0.1"},
		"use IPv4 or IPv6":                         {"hosts=10.9.0.1,2001:db8::1"},
		`host "engine": want the IP addresses`:     {"hosts=10.9.0.1,engine"},
		"40 hosts, at most 32 are possible":        {"hosts=" + strings.Repeat("10.9.0.1,", 39) + "10.9.0.2"},
		"bus-id is for who lends the bus":          {"lent=true", "hosts=10.9.0.1,10.9.0.2", "bus-id=7"},
		"a bus of several hosts has two at least":  {"hosts=10.9.0.1", "bus-id=7"},
		"want a whole number from 1 on":            {"hosts=10.9.0.1,10.9.0.2", "bus-id=0"},
		"host fe80::1: want the IP addresses of a": {"hosts=fe80::1,fe80::2", "bus-id=7"},
	} {
		if _, err := network(keys...); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", keys, err, want)
		}
	}
}
