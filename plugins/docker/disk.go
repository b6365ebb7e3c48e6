package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strings"

	"github.com/vxcan/vxcan/pkg/bus"
	"github.com/vxcan/vxcan/pkg/config"
	"github.com/vxcan/vxcan/pkg/store"
)

// stateDir is where networks are kept. Docker tells of each one only once, so it must outlive reboots.
const stateDir = "/var/lib/vxcan-docker"

var errUnknownNetwork = errors.New("not on record")

// records is what is on disk.
type records struct {
	BootID   string              `json:"bootID"` // of the endpoints
	Networks map[string]*network `json:"networks"`
}

// network is what CreateNetwork said.
type network struct {
	Hub       config.Hub          `json:"hub"`
	Endpoint  config.Endpoint     `json:"endpoint,omitzero"`
	Prefix    string              `json:"prefix"` // of interface names in containers
	Endpoints map[string]endpoint `json:"endpoints,omitempty"`
}

// endpoint is what CreateEndpoint said. Docker makes a new one on every start of a container.
type endpoint struct {
	IfName string `json:"ifName,omitempty"` // asked for in the container; "" is the network's prefix and 0
	// SandboxKey is the path of the container's netns, which Join says: endpoints of one container have the same.
	SandboxKey string `json:"sandboxKey,omitempty"`
}

func (r *records) find(networkID string) (*network, error) {
	n := r.Networks[networkID]
	if n == nil {
		return nil, fmt.Errorf("network %s is %w in %s: remove it and create it again", networkID, errUnknownNetwork, stateDir)
	}
	return n, nil
}

// lost reports whether an attachment is of a network on record, but not on record itself.
func (r *records) lost(a config.Attachment) bool {
	n := r.Networks[a.Network]
	if n == nil {
		return false
	}
	_, known := n.Endpoints[a.ContainerID]
	return !known
}

func (n *network) ifName(e endpoint) string { return cmp.Or(e.IfName, n.Prefix+"0") }

// otherName is how a container gets interfaces with names of their own.
const otherName = "give one of its networks another name for the interface (docker network create -o vxcan.peer=…), " +
	"or from Docker 28 on name it (--network name=…,driver-opt=com.docker.network.endpoint.ifname=…); " +
	"a container that cannot start any more: docker network disconnect"

// numbered returns the prefix that makes Docker give an interface its name. Docker adds a number itself: 0 to the first of
// a prefix, and so on in the order of its calls, which is another one after a restart. So only names that end in 0 can be
// had, each only once in a container, and not eth0, which Docker's own networks have.
func (r *records) numbered(join joinRequest, name string) (prefix string, err error) {
	prefix, ok := strings.CutSuffix(name, "0")
	if !ok || prefix == "" || prefix == "eth" {
		return "", fmt.Errorf("%w interface %s: this Docker numbers interfaces itself: a name must end in 0, and eth0 is its own; %s", config.ErrInvalid, name, otherName)
	}
	for id, n := range r.Networks {
		for endpointID, other := range n.Endpoints {
			if join.SandboxKey != "" && other.SandboxKey == join.SandboxKey && endpointID != join.EndpointID && n.ifName(other) == name {
				return "", fmt.Errorf("%w interface %s: the container has one of that name already, of network %.12s; %s", config.ErrInvalid, name, id, otherName)
			}
		}
	}
	return prefix, nil
}

// onHub returns a network on a hub, or nil.
func (r *records) onHub(hub string) *network {
	for _, n := range r.Networks {
		if n.Hub.Name == hub {
			return n
		}
	}
	return nil
}

// disk keeps the records. A call that holds its lock never waits for the lock of a bus.
type disk struct{ dir string }

// with calls use with what is on disk, locked, and writes what it has changed, so that a power cut does not lose it.
func (d disk) with(ctx context.Context, use func(*records) (changed bool, err error)) (retErr error) {
	file, err := store.Open(ctx, d.dir, "networks", bus.DefaultLockTimeout)
	if err != nil {
		return err
	}
	defer func() { retErr = errors.Join(retErr, file.Close()) }()
	var r records
	_, err = file.Load(&r)
	var unusable *store.UnusableError
	switch {
	case errors.As(err, &unusable) && unusable.Newer:
		return fmt.Errorf("%w: install the later vxcan that wrote it, or remove the file and every network of driver vxcan", err)
	case unusable != nil:
		aside, err := file.SetAside()
		if err != nil {
			return err
		}
		slog.Error("all networks are forgotten: remove and create them again", "err", unusable, "setAside", aside)
		r = records{}
	case err != nil:
		return err
	}
	if r.Networks == nil {
		r.Networks = make(map[string]*network)
	}
	maps.DeleteFunc(r.Networks, func(_ string, n *network) bool { return n == nil }) // edited by hand
	bootID, err := store.BootID()
	if err != nil {
		return err
	}
	if r.BootID != bootID {
		r.BootID = bootID
		for _, n := range r.Networks { // Docker will not tell that they are gone
			n.Endpoints = nil
		}
	}
	if changed, err := use(&r); err != nil || !changed {
		return err
	}
	if err := file.SaveSynced(&r); err != nil || len(r.Networks) > 0 {
		return err
	}
	return file.Remove() // and should a power cut undo that, there is an empty one
}

func (d disk) read(ctx context.Context) (r *records, err error) {
	err = d.with(ctx, func(found *records) (bool, error) {
		r = found
		return false, nil
	})
	return r, err
}

func (d disk) putNetwork(ctx context.Context, id string, n *network) (isNew bool, err error) {
	err = d.with(ctx, func(r *records) (bool, error) {
		old := r.Networks[id]
		if isNew = old == nil; !isNew {
			n.Endpoints = old.Endpoints
		}
		r.Networks[id] = n
		return true, nil
	})
	return isNew, err
}

// removeNetwork removes a network, and the file with the last one. It returns what was on record, or nil.
func (d disk) removeNetwork(ctx context.Context, id string) (old *network, err error) {
	err = d.with(ctx, func(r *records) (bool, error) {
		old = r.Networks[id]
		delete(r.Networks, id)
		return true, nil
	})
	return old, err
}

// putEndpoint records an endpoint in place of one that is known.
func (d disk) putEndpoint(ctx context.Context, id endpointRequest, e endpoint) (n *network, err error) {
	err = d.with(ctx, func(r *records) (bool, error) {
		if n, err = r.find(id.NetworkID); err != nil {
			return false, err
		}
		if n.Endpoints == nil {
			n.Endpoints = make(map[string]endpoint)
		}
		n.Endpoints[id.EndpointID] = e
		return true, nil
	})
	return n, err
}

func (d disk) removeEndpoint(ctx context.Context, id endpointRequest) error {
	return d.with(ctx, func(r *records) (found bool, _ error) {
		if n := r.Networks[id.NetworkID]; n != nil {
			_, found = n.Endpoints[id.EndpointID]
			delete(n.Endpoints, id.EndpointID)
		}
		return found, nil
	})
}
