package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"

	"github.com/vxcan/vxcan/pkg/bus"
	"github.com/vxcan/vxcan/pkg/config"
	"github.com/vxcan/vxcan/pkg/lend"
)

// runtimeName is the front end that our attachments belong to.
const runtimeName = "netavark"

// create validates a network that Podman is about to write down, and refuses one that no container could ever join. It
// returns all of it: what is missing from the answer, Podman forgets. Hub and interface are filled in, so that podman network
// inspect shows them.
func create(input []byte) (any, error) {
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
	options := map[string]string{"hub": c.Hub.Name, "interface": c.Interface}
	maps.Copy(options, n.Options)
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
func setup(input []byte, netnsPath string, stdout io.Writer) error {
	m, c, err := parseMembership(input)
	if err != nil {
		return err
	}
	ifName, err := config.InterfaceOn(c.Hub.Name, c.Interface)
	if err != nil {
		return err
	}
	// Answered before Attach returns: a setup without an answer has failed, and nothing of it may stay.
	_, err = lend.Of(c, host("setup", m)).Attach(context.Background(), func(made []bus.Result) error {
		return json.NewEncoder(stdout).Encode(status{
			Interfaces:       map[string]netInterface{made[0].ContIf: {Subnets: []string{}}},
			DNSSearchDomains: []string{},
			DNSServerIPs:     []string{},
		})
	}, bus.Request{
		Attachment: m.attachment(), Hub: c.Hub, Endpoint: c.Endpoint, Place: bus.Place{NetnsPath: netnsPath, Interface: ifName},
	})
	if errors.Is(err, bus.ErrNameTaken) {
		return fmt.Errorf("%w: podman run --network %[2]s:interface_name=…, or a network with -o interface=…; a container that cannot start any more: podman network disconnect %[2]s %[3]s",
			err, m.Network.Name, m.ContainerName)
	}
	return err
}

// teardown needs neither the netns nor a record, and works on a network that setup would refuse, for it may have been
// edited since.
func teardown(input []byte) error {
	var m membership
	if err := json.Unmarshal(input, &m); err != nil {
		return fmt.Errorf("stdin: %w", err)
	}
	c := config.NewNetwork()
	for _, name := range []string{"hub", "lent"} {
		if value, ok := m.Network.Options[name]; ok {
			_, _ = c.Set(config.Netavark, name, value)
		}
	}
	return lend.Detach(context.Background(), c, host("teardown", &m), c.Hub.Name, m.attachment())
}

func host(cmd string, m *membership) *bus.Host {
	return bus.NewHost(slog.With("cmd", cmd, "network", m.Network.Name, "containerID", m.ContainerID))
}
