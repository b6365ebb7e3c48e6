package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/skel"

	"github.com/vxcan/vxcan/pkg/bus"
)

// With the capability, containerd and CRI-O hand over the annotations of the pod, and it decides whether it is attached.
const annotationsCapability = "io.kubernetes.cri.pod-annotations"

// annotation is the pod's list of interfaces, separated by commas: "can0" is an interface on the configured hub, and
// "vcan1:can1" one on another vcan hub of the node.
const annotation = "vxcan/networks"

// podHubPrefix begins the names of other hubs that a pod may ask for. They are made if they are missing, and pods are
// not to take the names of devices to come, like can0 or eth1.
const podHubPrefix = "vcan"

// wish is one interface that a container is to have.
type wish struct {
	spec       bus.Spec
	attachment bus.Attachment
	ifName     string // in the container
}

// wishes are the interfaces that this call is about: one, or with the capability, those that the pod asks for.
func (c *conf) wishes(args *skel.CmdArgs) ([]wish, error) {
	if c.podDecides() {
		return c.podWishes(args)
	}
	return []wish{{c.spec(), c.attachment(args, c.Interface), c.interfaceName(args.IfName)}}, nil
}

// podDecides tells whether only pods are attached that ask for it.
func (c *conf) podDecides() bool { return c.Capabilities[annotationsCapability] }

func (c *conf) podWishes(args *skel.CmdArgs) ([]wish, error) {
	list, ok := c.RuntimeConfig.Annotations[annotation]
	if !ok {
		return nil, nil
	}
	var wishes []wish
	for item := range strings.SplitSeq(list, ",") {
		hub, ifName, both := strings.Cut(strings.TrimSpace(item), ":")
		if !both {
			hub, ifName = c.Hub, hub
		}
		spec := c.spec()
		if hub != c.Hub {
			if !strings.HasPrefix(hub, podHubPrefix) {
				return nil, annotationError(list, fmt.Errorf("%w hub %q: pods may name %s and hubs called %s…", bus.ErrInvalid, hub, c.Hub, podHubPrefix))
			}
			spec = bus.Spec{Hub: hub} // what the configuration says of its hub does not hold for others
		}
		if err := bus.CheckName(hub); err != nil {
			return nil, annotationError(list, err)
		}
		if err := bus.CheckInterface(ifName); err != nil {
			return nil, annotationError(list, err)
		}
		w := wish{spec, c.attachment(args, ifName), ifName}
		if slices.Contains(wishes, w) {
			return nil, annotationError(list, fmt.Errorf("%w list: %s is there twice", bus.ErrInvalid, strings.TrimSpace(item)))
		}
		wishes = append(wishes, w)
	}
	return wishes, nil
}

func annotationError(list string, err error) error {
	return fmt.Errorf(`annotation %s is %q: %w; want a list like "can0" or "vcan0:can0,vcan1:can1"`, annotation, list, err)
}
