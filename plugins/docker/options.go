package main

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/vxcan/vxcan/pkg/bus"
)

// Options of `docker network create -o`. The first three are the predecessors'.
const (
	optDev      = "vxcan.dev"  // the hub's name without its number
	optID       = "vxcan.id"   // the hub's number
	optPeer     = "vxcan.peer" // the interface's name in containers without its number
	optHub      = "hub"        // the hub's name
	optMTU      = "mtu"
	optPhysical = "physical"
)

var ownOptions = []string{optHub, optMTU, optPhysical, optDev, optID, optPeer}

// Docker's own.
const (
	dockerPrefix   = "com.docker."
	genericOptions = "com.docker.network.generic"         // what -o says is below this
	optIfName      = "com.docker.network.endpoint.ifname" // the interface's name in one container
)

// parseNetwork reads and validates what CreateNetwork says. Its errors name the option and what is allowed.
func parseNetwork(r createNetworkRequest) (*network, error) {
	if err := (networkRequest{r.NetworkID}).check(); err != nil {
		return nil, err
	}
	for _, d := range append(r.IPv4Data, r.IPv6Data...) {
		if d.Pool != "" && d.Pool != "0.0.0.0/0" && d.Pool != "::/0" { // the null driver's
			return nil, fmt.Errorf("%w address range %s: a CAN bus has no IP addresses; add --ipam-driver null", bus.ErrInvalid, d.Pool)
		}
	}
	generic, _ := r.Options[genericOptions].(map[string]any)
	options := map[string]string{optDev: "vcan", optID: "0", optPeer: "can", optMTU: "", optPhysical: "false", optHub: ""}
	for _, key := range slices.Sorted(maps.Keys(generic)) {
		switch {
		case slices.Contains(ownOptions, key):
			options[key] = fmt.Sprint(generic[key])
		case !strings.HasPrefix(key, dockerPrefix):
			return nil, fmt.Errorf("%w option %q: the options of vxcan are %s", bus.ErrInvalid, key, strings.Join(ownOptions, ", "))
		}
	}
	_, dev := generic[optDev]
	_, id := generic[optID]
	n := &network{Hub: options[optDev] + options[optID], Prefix: options[optPeer]}
	if hub := options[optHub]; hub != "" {
		if (dev || id) && hub != n.Hub {
			return nil, fmt.Errorf("%w option %q: it says %s, but %s and %s say %s; leave one out", bus.ErrInvalid, optHub, hub, optDev, optID, n.Hub)
		}
		n.Hub = hub
	}
	return n, n.parse(options)
}

// parse validates the values.
func (n *network) parse(options map[string]string) error {
	if err := bus.CheckHub(n.Hub); err != nil {
		return fmt.Errorf("hub: %w", err)
	}
	if number, err := strconv.Atoi(options[optID]); err != nil || number < 0 {
		return fmt.Errorf("%w option %q: %q; want a number, as in %s=vcan %s=0 for hub vcan0", bus.ErrInvalid, optID, options[optID], optDev, optID)
	}
	if err := bus.CheckName(n.Prefix + "0"); err != nil {
		return fmt.Errorf("option %q: %w", optPeer, err)
	}
	var err error
	if n.Physical, err = strconv.ParseBool(options[optPhysical]); err != nil {
		return fmt.Errorf("%w option %q: %q; want true or false", bus.ErrInvalid, optPhysical, options[optPhysical])
	}
	if text := options[optMTU]; text != "" {
		if n.MTU, err = bus.ParseMTU(text); err != nil {
			return fmt.Errorf("option %q: %w", optMTU, err)
		}
	}
	return nil
}

// parseEndpoint reads and validates what CreateEndpoint says.
func parseEndpoint(r createEndpointRequest) (endpoint, error) {
	if err := r.check(); err != nil {
		return endpoint{}, err
	}
	switch i := r.Interface; {
	case i.Address != "" || i.AddressIPv6 != "":
		return endpoint{}, fmt.Errorf("%w IP address %s%s: a CAN interface has none; create the network with --ipam-driver null",
			bus.ErrInvalid, i.Address, i.AddressIPv6)
	case i.MacAddress != "":
		return endpoint{}, fmt.Errorf("%w MAC address %s: a CAN interface has none; leave --mac-address out", bus.ErrInvalid, i.MacAddress)
	}
	var e endpoint
	for _, key := range slices.Sorted(maps.Keys(r.Options)) {
		switch {
		case key == optIfName:
			e.IfName = fmt.Sprint(r.Options[key])
			if err := bus.CheckName(e.IfName); err != nil {
				return endpoint{}, fmt.Errorf("option %q: %w", key, err)
			}
		case !strings.HasPrefix(key, dockerPrefix):
			return endpoint{}, fmt.Errorf("%w option %q: the one for an endpoint is %s", bus.ErrInvalid, key, optIfName)
		}
	}
	return e, nil
}

func (r networkRequest) check() error {
	if r.NetworkID == "" {
		return fmt.Errorf("%w request: no NetworkID", bus.ErrInvalid)
	}
	return nil
}

func (r endpointRequest) check() error {
	if r.NetworkID == "" || r.EndpointID == "" {
		return fmt.Errorf("%w request: no NetworkID or no EndpointID", bus.ErrInvalid)
	}
	return nil
}
