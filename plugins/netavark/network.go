package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/vxcan/vxcan/pkg/config"
)

// network is what a call says of a network (Network in libnetwork/types of Podman's common library).
type network struct {
	Name             string            `json:"name"`
	NetworkInterface string            `json:"network_interface"` // podman network create --interface-name
	Subnets          []json.RawMessage `json:"subnets"`
	Routes           []json.RawMessage `json:"routes"`
	IPv6Enabled      bool              `json:"ipv6_enabled"`
	DNSServers       []string          `json:"network_dns_servers"`
	Options          map[string]string `json:"options"`
	IPAMOptions      map[string]string `json:"ipam_options"`
}

// membership is a container that joins or leaves a network (NetworkPluginExec in src/network/types.rs of netavark).
type membership struct {
	ContainerID   string  `json:"container_id"`
	ContainerName string  `json:"container_name"`
	Network       network `json:"network"`
	// NetworkOptions are podman run --network name:key=value.
	NetworkOptions struct {
		InterfaceName string            `json:"interface_name"` // eth0, eth1 … unless asked for
		StaticIPs     []string          `json:"static_ips"`
		StaticMAC     string            `json:"static_mac"`
		Options       map[string]string `json:"options"` // from Podman 5.4 on
	} `json:"network_options"`
}

// config reads and validates what the network says. Its errors name the option and what is allowed.
func (n *network) config() (config.Network, error) {
	c := config.NewNetwork()
	if err := n.refuseIP(); err != nil {
		return c, err
	}
	if n.NetworkInterface != "" {
		if err := config.CheckInterface(n.NetworkInterface); err != nil {
			return c, fmt.Errorf("--interface-name: %w", err)
		}
		c.Interface = n.NetworkInterface
	}
	for _, name := range slices.Sorted(maps.Keys(n.Options)) {
		switch known, err := c.Set(config.Netavark, name, n.Options[name]); {
		case !known:
			return c, fmt.Errorf("%w option %q: the options of vxcan are %s", config.ErrInvalid, name, strings.Join(config.KeyNames(config.Netavark), ", "))
		case err != nil:
			return c, fmt.Errorf("option %q: %w", name, err)
		}
	}
	if asked := n.NetworkInterface; asked != "" && asked != c.Interface {
		return c, fmt.Errorf("%w option \"interface\": %q, but --interface-name says %q; leave one out", config.ErrInvalid, c.Interface, asked)
	}
	if c.Interface == "" {
		c.Interface = config.DefaultInterface
	}
	return c, c.Check()
}

// refuseIP tells which of Podman's flags ask for what a CAN bus has not got.
func (n *network) refuseIP() error {
	driver := n.IPAMOptions["driver"]
	switch {
	case len(n.Subnets) > 0:
		return noIP("--subnet, --ip-range and --gateway")
	case len(n.Routes) > 0:
		return noIP("--route")
	case n.IPv6Enabled:
		return noIP("--ipv6")
	case len(n.DNSServers) > 0:
		return noIP("--dns")
	case driver != "" && driver != "none":
		return noIP("--ipam-driver " + driver)
	}
	return nil
}

func noIP(flags string) error {
	return fmt.Errorf("%w network: a CAN bus has no IP addresses; leave out %s", config.ErrInvalid, flags)
}

// parseMembership reads and validates what setup is told.
func parseMembership(input []byte) (*membership, config.Network, error) {
	m := new(membership)
	if err := json.Unmarshal(input, m); err != nil {
		return nil, config.Network{}, fmt.Errorf("stdin: %w", err)
	}
	if m.ContainerID == "" || m.Network.Name == "" {
		return nil, config.Network{}, errors.New("stdin: container_id or network.name is missing")
	}
	c, err := m.Network.config()
	if err != nil {
		return nil, config.Network{}, err
	}
	opts := m.NetworkOptions
	switch {
	case len(opts.Options) > 0:
		return nil, config.Network{}, fmt.Errorf("%w options of --network %s: %s; only interface_name is known", config.ErrInvalid,
			m.Network.Name, strings.Join(slices.Sorted(maps.Keys(opts.Options)), ", "))
	case len(opts.StaticIPs) > 0:
		return nil, config.Network{}, noIP("--ip and --ip6")
	case opts.StaticMAC != "":
		return nil, config.Network{}, fmt.Errorf("%w network: a CAN interface has no MAC address; leave out --mac-address", config.ErrInvalid)
	}
	c.Interface = config.InterfaceName(opts.InterfaceName, c.Interface)
	c.Endpoint.Name = m.ContainerName
	return m, c, nil
}

// attachment is the container to pkg/bus. Podman puts a container on a network once, so the interface's name is no part
// of the attachment, and must not be: podman network reload calls setup with the name that the interface has got, and
// teardown with the one that Podman first had for it.
func (m *membership) attachment() config.Attachment {
	return config.Attachment{Runtime: runtimeName, Network: m.Network.Name, ContainerID: m.ContainerID}
}
