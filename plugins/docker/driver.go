package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/containernetworking/plugins/pkg/ns"

	"github.com/vxcan/vxcan/pkg/bus"
	"github.com/vxcan/vxcan/pkg/config"
)

// runtimeName is the front end that our attachments belong to.
const runtimeName = "docker"

// driver answers Docker's calls. It remembers nothing: every call reads the disk and the kernel.
type driver struct{ disk disk }

// createNetwork is all that Docker ever says of a network. It makes the hub already, so that programs on the host can
// use it, and says at once why a bus cannot be.
func (d *driver) createNetwork(ctx context.Context, log *slog.Logger, r createNetworkRequest) (_ any, retErr error) {
	n, err := parseNetwork(r)
	if err != nil {
		return nil, err
	}
	log = log.With("network", r.NetworkID, "hub", n.Hub.Name)
	isNew, err := d.disk.putNetwork(ctx, r.NetworkID, n)
	if err != nil {
		return nil, err
	}
	defer func() {
		if retErr != nil && isNew {
			_, err := d.disk.removeNetwork(ctx, r.NetworkID)
			retErr = errors.Join(retErr, err)
		}
	}()
	if err := bus.NewHost(log).Make(ctx, n.Hub); err != nil {
		return nil, err
	}
	log.Info("created")
	return object{}, nil
}

// deleteNetwork does all it can, because Docker forgets the network whatever we say. Backplane and hub go with the last
// network that names the hub, unless they are in use or the hub is not ours.
func (d *driver) deleteNetwork(ctx context.Context, log *slog.Logger, r networkRequest) (any, error) {
	log = log.With("network", r.NetworkID)
	h := bus.NewHost(log)
	n, err := d.disk.removeNetwork(ctx, r.NetworkID)
	errs := []error{err, h.Collect(ctx, func(a config.Attachment, _ bool) bool { return a.Runtime == runtimeName && a.Network == r.NetworkID })}
	if n != nil {
		log = log.With("hub", n.Hub.Name)
		errs = append(errs, d.removeHub(ctx, h, n.Hub.Name))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	log.Info("deleted")
	return object{}, nil
}

// removeHub removes a hub that no network names. A network created meanwhile may need the hub: then it is made again.
func (d *driver) removeHub(ctx context.Context, h *bus.Host, hub string) error {
	all, err := d.disk.read(ctx)
	if err != nil || all.onHub(hub) != nil {
		return err
	}
	if err := h.Remove(ctx, hub); err != nil && !errors.Is(err, bus.ErrInUse) && !errors.Is(err, bus.ErrNoBus) {
		return err
	}
	if all, err = d.disk.read(ctx); err != nil {
		return err
	}
	if n := all.onHub(hub); n != nil {
		return h.Make(ctx, n.Hub)
	}
	return nil
}

func (d *driver) createEndpoint(ctx context.Context, log *slog.Logger, r createEndpointRequest) (any, error) {
	e, err := parseEndpoint(r)
	if err != nil {
		return nil, err
	}
	n, err := d.disk.putEndpoint(ctx, r.endpointRequest, e)
	if err != nil {
		return nil, err
	}
	r.log(log).Info("created endpoint", "hub", n.Hub.Name)
	return object{}, nil
}

// join puts the container on the bus. If its netns exists, the container end is made there, under the very name that is
// wanted. Docker up to 27 makes the netns later, on every start of a container, and moves and names the container end
// itself.
func (d *driver) join(ctx context.Context, log *slog.Logger, r joinRequest) (any, error) {
	log = r.log(log)
	all, err := d.disk.read(ctx)
	if err != nil {
		return nil, err
	}
	n, err := all.find(r.NetworkID)
	if err != nil {
		return nil, err
	}
	e, known := n.Endpoints[r.EndpointID]
	if !known {
		log.Info("took in an endpoint that was not on record")
	}
	if e.SandboxKey != r.SandboxKey || !known {
		e.SandboxKey = r.SandboxKey
		if n, err = d.disk.putEndpoint(ctx, r.endpointRequest, e); err != nil {
			return nil, err
		}
	}
	name := n.ifName(e)
	request := bus.Request{Attachment: r.attachment(), Hub: n.Hub, Endpoint: n.Endpoint, Place: bus.Place{NetnsPath: r.SandboxKey, Interface: name}}
	var prefix string
	if ns.IsNSorErr(r.SandboxKey) != nil {
		if prefix, err = all.numbered(r, name); err != nil {
			return nil, err
		}
		request.Place = bus.Place{Here: true}
	}
	attached, err := bus.NewHost(log).Attach(ctx, nil, request)
	if errors.Is(err, bus.ErrNameTaken) {
		return nil, fmt.Errorf("%w: %s", err, otherName)
	} else if err != nil {
		return nil, err
	}
	made := attached[0]
	response := joinResponse{DisableGatewayService: true}
	if request.Place.Here {
		response.InterfaceName = &interfaceName{SrcName: made.ContIf, DstPrefix: prefix}
	}
	log.Info("joined", "hub", made.Hub, "hostIf", made.HostIf, "contIf", made.ContIf)
	return response, nil
}

// leave takes the container off the bus while it goes on. The devices go now: Docker would move the container end back
// to the host first.
func (d *driver) leave(ctx context.Context, log *slog.Logger, r endpointRequest) (any, error) {
	log = r.log(log)
	if err := d.detach(ctx, log, r); err != nil {
		return nil, err
	}
	log.Info("left")
	return object{}, nil
}

func (d *driver) deleteEndpoint(ctx context.Context, log *slog.Logger, r endpointRequest) (any, error) {
	log = r.log(log)
	if err := errors.Join(d.detach(ctx, log, r), d.disk.removeEndpoint(ctx, r)); err != nil {
		return nil, err
	}
	log.Info("deleted endpoint")
	return object{}, nil
}

// detach needs no record: where it cannot be read, or the network is not known, the devices know the hub.
func (d *driver) detach(ctx context.Context, log *slog.Logger, r endpointRequest) error {
	h := bus.NewHost(log)
	all, err := d.disk.read(ctx)
	if err == nil && all.Networks[r.NetworkID] != nil {
		return h.Detach(ctx, all.Networks[r.NetworkID].Hub.Name, r.attachment())
	}
	return errors.Join(err, h.Collect(ctx, func(a config.Attachment, _ bool) bool { return a == r.attachment() }))
}

// collect makes good for calls that were lost while no driver ran: Docker does not repeat them. An endpoint of a network
// on record stays if it is on record, too, unless Docker has moved its container end back to the host.
func (d *driver) collect(ctx context.Context) {
	log := slog.With("cmd", "start")
	all, err := d.disk.read(ctx)
	if err == nil {
		err = bus.NewHost(log).Collect(ctx, func(a config.Attachment, left bool) bool {
			if a.Runtime != runtimeName || all.Networks[a.Network] == nil || !left && !all.lost(a) {
				return false
			}
			now, err := d.disk.read(ctx) // it may have been created since
			return err == nil && (left || now.lost(a))
		})
	}
	if err != nil && ctx.Err() == nil {
		log.Error("cannot collect what lost calls left behind", "err", err)
	}
}

func (r endpointRequest) attachment() config.Attachment {
	return config.Attachment{Runtime: runtimeName, Network: r.NetworkID, ContainerID: r.EndpointID}
}

func (r endpointRequest) log(log *slog.Logger) *slog.Logger {
	return log.With("network", r.NetworkID, "endpoint", r.EndpointID)
}
