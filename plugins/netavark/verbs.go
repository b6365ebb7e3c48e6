package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"

	"github.com/vxcan/vxcan/pkg/bus"
)

// runtimeName is the front end that our attachments belong to.
const runtimeName = "netavark"

// create validates a network that Podman is about to write down. Where no container could ever join it, it is refused.
func create(input []byte) (any, error) {
	all, err := complete(input)
	if err != nil {
		return nil, err
	}
	return all, bus.CheckRootful()
}

// complete returns all of a network: what is missing from the answer, Podman forgets. Hub and interface are filled in, so
// that podman network inspect shows them.
func complete(input []byte) (map[string]any, error) {
	var n network
	if err := json.Unmarshal(input, &n); err != nil {
		return nil, fmt.Errorf("stdin: %w", err)
	}
	var all map[string]any // with what we do not know
	if err := json.Unmarshal(input, &all); err != nil || n.Name == "" {
		return nil, errors.Join(errors.New("stdin: name is missing"), err)
	}
	c, err := n.config()
	if err != nil {
		return nil, err
	}
	options := map[string]string{"hub": c.Hub, "interface": c.Interface}
	for name, value := range n.Options {
		options[name] = value
	}
	all["options"] = options
	all["dns_enabled"] = false // true unless --disable-dns was said
	all["ipam_options"] = map[string]string{"driver": "none"}
	return all, nil
}

// status is what setup answers (StatusBlock in src/network/types.rs of netavark).
type status struct {
	Interfaces       map[string]netInterface `json:"interfaces"`
	DNSSearchDomains []string                `json:"dns_search_domains"`
	DNSServerIPs     []string                `json:"dns_server_ips"`
}

type netInterface struct {
	// MACAddress must be there. A CAN device has none; Podman would hand any other word back as --mac-address.
	MACAddress string   `json:"mac_address"`
	Subnets    []string `json:"subnets"`
}

// setup puts a container on the bus. netavark calls no teardown after a setup that failed: Attach takes away itself
// what it made.
func setup(input []byte, netnsPath string) (any, error) {
	m, c, err := parseMembership(input)
	if err != nil {
		return nil, err
	}
	made, err := host("setup", m).Attach(context.Background(), bus.Request{
		Spec: c.Spec, Attachment: m.attachment(), Target: bus.Target{NetnsPath: netnsPath, Interface: c.Interface},
	})
	if errors.Is(err, bus.ErrNameTaken) {
		return nil, fmt.Errorf("%w (podman run --network %s:interface_name=…, or podman network create -o interface=…)", err, m.Network.Name)
	} else if err != nil {
		return nil, err
	}
	return status{
		Interfaces:       map[string]netInterface{made[0].ContIf: {Subnets: []string{}}},
		DNSSearchDomains: []string{},
		DNSServerIPs:     []string{},
	}, nil
}

// teardown needs neither the netns nor a record, and works on a network that setup would refuse, for it may have been
// edited since.
func teardown(input []byte) error {
	var m membership
	if err := json.Unmarshal(input, &m); err != nil {
		return fmt.Errorf("stdin: %w", err)
	}
	hub, ok := m.Network.Options["hub"]
	if !ok {
		hub = bus.DefaultHub
	}
	return host("teardown", &m).Detach(context.Background(), hub, m.attachment())
}

func host(cmd string, m *membership) *bus.Host {
	return bus.NewHost(slog.With("cmd", cmd, "network", m.Network.Name, "containerID", m.ContainerID))
}
