package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/vxcan/vxcan/pkg/bus"
)

// ownOptions are the options of a network (podman network create -o) that we know.
var ownOptions = []string{"hub", "interface", "mtu", "physical"}

// network is what a call says of a network (Network in libnetwork/types of Podman's common library), as far as it
// concerns us.
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

// membership is a container that is to join or to leave a network (NetworkPluginExec in src/network/types.rs of
// netavark).
type membership struct {
	ContainerID string  `json:"container_id"`
	Network     network `json:"network"`
	// NetworkOptions are podman run --network name:key=value.
	NetworkOptions struct {
		InterfaceName string            `json:"interface_name"` // eth0, eth1 … unless asked for
		StaticIPs     []string          `json:"static_ips"`
		StaticMAC     string            `json:"static_mac"`
		Options       map[string]string `json:"options"` // from Podman 5.4 on
	} `json:"network_options"`
}

// settings are a network's options with the defaults filled in.
type settings struct {
	bus.Spec
	Interface string // in the container
}

// settings reads and validates what the network says. Its errors name the option and what is allowed.
func (n *network) settings() (settings, error) {
	if err := n.refuseIP(); err != nil {
		return settings{}, err
	}
	s := settings{Spec: bus.Spec{Hub: bus.DefaultHub}, Interface: bus.DefaultInterface}
	if n.NetworkInterface != "" {
		if err := bus.CheckInterface(n.NetworkInterface); err != nil {
			return settings{}, fmt.Errorf("--interface-name: %w", err)
		}
		s.Interface = n.NetworkInterface
	}
	for _, name := range slices.Sorted(maps.Keys(n.Options)) {
		if err := s.set(name, n.Options[name]); err != nil {
			return settings{}, err
		}
	}
	if asked := n.NetworkInterface; asked != "" && asked != s.Interface {
		return settings{}, fmt.Errorf("%w option \"interface\": %q, but --interface-name says %q; leave one out", bus.ErrInvalid, s.Interface, asked)
	}
	return s, nil
}

// set takes one option over.
func (s *settings) set(name, value string) (err error) {
	switch name {
	case "hub":
		s.Hub, err = value, bus.CheckHub(value)
	case "interface":
		s.Interface, err = value, bus.CheckInterface(value)
	case "mtu":
		s.MTU, err = bus.ParseMTU(value)
	case "physical":
		if s.Physical, err = strconv.ParseBool(value); err != nil {
			return fmt.Errorf(`%w option "physical": %q; want true or false`, bus.ErrInvalid, value)
		}
	default:
		return fmt.Errorf("%w option %q: the options of vxcan are %s", bus.ErrInvalid, name, strings.Join(ownOptions, ", "))
	}
	if err != nil {
		return fmt.Errorf("option %q: %w", name, err)
	}
	return nil
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
	return fmt.Errorf("%w network: a CAN bus has no IP addresses; leave out %s", bus.ErrInvalid, flags)
}

// parseMembership reads and validates what setup is told.
func parseMembership(input []byte) (*membership, settings, error) {
	m := new(membership)
	if err := json.Unmarshal(input, m); err != nil {
		return nil, settings{}, fmt.Errorf("stdin: %w", err)
	}
	if m.ContainerID == "" || m.Network.Name == "" {
		return nil, settings{}, errors.New("stdin: container_id or network.name is missing")
	}
	s, err := m.Network.settings()
	if err != nil {
		return nil, settings{}, err
	}
	opts := m.NetworkOptions
	switch {
	case len(opts.Options) > 0:
		return nil, settings{}, fmt.Errorf("%w options of --network %s: %s; only interface_name is known", bus.ErrInvalid,
			m.Network.Name, strings.Join(slices.Sorted(maps.Keys(opts.Options)), ", "))
	case len(opts.StaticIPs) > 0:
		return nil, settings{}, noIP("--ip and --ip6")
	case opts.StaticMAC != "":
		return nil, settings{}, fmt.Errorf("%w network: a CAN interface has no MAC address; leave out --mac-address", bus.ErrInvalid)
	}
	s.Interface = bus.InterfaceName(opts.InterfaceName, s.Interface)
	return m, s, nil
}

// attachment is the container to pkg/bus. Podman puts a container on a network once, so the interface's name is no part
// of who it is, and must not be: podman network reload calls setup with the name that the interface has got, and
// teardown with the one that Podman first had for it.
func (m *membership) attachment() bus.Attachment {
	return bus.Attachment{Runtime: runtimeName, Network: m.Network.Name, ContainerID: m.ContainerID}
}
