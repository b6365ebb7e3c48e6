package main

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/vxcan/vxcan/pkg/config"
)

// Options of `docker network create -o` that only Docker has, and its predecessors had.
const (
	optDev  = "vxcan.dev"  // the hub's name without its number
	optID   = "vxcan.id"   // the hub's number
	optPeer = "vxcan.peer" // the interface's name in containers without its number
)

// Docker's own.
const (
	dockerPrefix   = "com.docker."
	genericOptions = "com.docker.network.generic"         // what -o says is below this
	optIfName      = "com.docker.network.endpoint.ifname" // the interface's name in one container
)

// parseNetwork reads and validates what CreateNetwork says. Its errors name the option and what is allowed.
func parseNetwork(r createNetworkRequest) (*network, error) {
	for _, d := range append(r.IPv4Data, r.IPv6Data...) {
		if d.Pool != "" && d.Pool != "0.0.0.0/0" && d.Pool != "::/0" { // the null driver's
			return nil, fmt.Errorf("%w address range %s: a CAN bus has no IP addresses; add --ipam-driver null", config.ErrInvalid, d.Pool)
		}
	}
	generic, _ := r.Options[genericOptions].(map[string]any)
	c, old := config.NewNetwork(), map[string]string{optDev: "vcan", optID: "0", optPeer: "can"}
	for _, name := range slices.Sorted(maps.Keys(generic)) {
		value := fmt.Sprint(generic[name])
		if _, known := old[name]; known {
			old[name] = value
			continue
		}
		switch known, err := c.Set(config.Docker, name, value); {
		case err != nil:
			return nil, fmt.Errorf("option %q: %w", name, err)
		case !known && !strings.HasPrefix(name, dockerPrefix):
			return nil, fmt.Errorf("%w option %q: the options of vxcan are %s", config.ErrInvalid, name,
				strings.Join(config.KeyNames(config.Docker, optDev, optID, optPeer), ", "))
		}
	}
	if number, err := strconv.Atoi(old[optID]); err != nil || number < 0 {
		return nil, fmt.Errorf("%w option %q: %q; want a number, as in %s=vcan %s=0 for hub vcan0", config.ErrInvalid, optID, old[optID], optDev, optID)
	}
	_, dev := generic[optDev]
	_, id := generic[optID]
	if hub := old[optDev] + old[optID]; dev || id {
		if _, given := generic["hub"]; given && hub != c.Hub.Name {
			return nil, fmt.Errorf("%w option \"hub\": it says %s, but %s and %s say %s; leave one out", config.ErrInvalid, c.Hub.Name, optDev, optID, hub)
		}
		if err := config.CheckHub(hub); err != nil {
			return nil, fmt.Errorf("options %s and %s: hub: %w", optDev, optID, err)
		}
		c.Hub.Name = hub
	}
	if err := config.CheckName(old[optPeer] + "0"); err != nil {
		return nil, fmt.Errorf("option %q: %w", optPeer, err)
	}
	return &network{Hub: c.Hub, Endpoint: c.Endpoint, Prefix: old[optPeer]}, c.Check()
}

// parseEndpoint reads and validates what CreateEndpoint says.
func parseEndpoint(r createEndpointRequest) (endpoint, error) {
	switch i := r.Interface; {
	case i.Address != "" || i.AddressIPv6 != "":
		return endpoint{}, fmt.Errorf("%w IP address %s%s: a CAN interface has none; create the network with --ipam-driver null",
			config.ErrInvalid, i.Address, i.AddressIPv6)
	case i.MacAddress != "":
		return endpoint{}, fmt.Errorf("%w MAC address %s: a CAN interface has none; leave --mac-address out", config.ErrInvalid, i.MacAddress)
	}
	var e endpoint
	for _, key := range slices.Sorted(maps.Keys(r.Options)) {
		switch {
		case key == optIfName:
			e.IfName = fmt.Sprint(r.Options[key])
			if err := config.CheckName(e.IfName); err != nil {
				return endpoint{}, fmt.Errorf("option %q: %w", key, err)
			}
		case !strings.HasPrefix(key, dockerPrefix):
			return endpoint{}, fmt.Errorf("%w option %q: the one for an endpoint is %s", config.ErrInvalid, key, optIfName)
		}
	}
	return e, nil
}

func (r networkRequest) check() error {
	if r.NetworkID == "" {
		return fmt.Errorf("%w request: no NetworkID", config.ErrInvalid)
	}
	return nil
}

func (r endpointRequest) check() error {
	if r.NetworkID == "" || r.EndpointID == "" {
		return fmt.Errorf("%w request: no NetworkID or no EndpointID", config.ErrInvalid)
	}
	return nil
}
