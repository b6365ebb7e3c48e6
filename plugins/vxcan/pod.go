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
// "vcan1:can1" one on another hub, if the key pod-hubs lists it.
const annotation = "vxcan/networks"

// maxPodInterfaces bounds what one pod can make of devices and rules.
const maxPodInterfaces = 8

// podHubDigits are allowed in the names of hubs that pods choose: administrators paste these names into shells.
const podHubDigits = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"

// requests are the interfaces that this call is about: one, or with the capability, those that the pod asks for.
func (c *conf) requests(args *skel.CmdArgs) ([]bus.Request, error) {
	if c.podDecides() {
		return c.podRequests(args)
	}
	return []bus.Request{c.request(args, c.bus.Spec, c.bus.Interface, c.interfaceName(args.IfName))}, nil
}

// request is for an interface called ifName; entry is its name in the configuration or the annotation, perhaps empty.
func (c *conf) request(args *skel.CmdArgs, spec bus.Spec, entry, ifName string) bus.Request {
	spec.Name = containerName(args.Args)
	return bus.Request{
		Spec: spec,
		Attachment: bus.Attachment{
			Runtime: runtimeName, Network: c.Name, ContainerID: args.ContainerID, IfName: args.IfName, Entry: entry,
		},
		Target: bus.Target{NetnsPath: args.Netns, Interface: ifName},
	}
}

// containerName is what people call a container, as CNI_ARGS tells it: containerd and CRI-O give the namespace and the
// name of a pod, Podman 4 a container's name.
func containerName(cniArgs string) string {
	var namespace, name string
	for arg := range strings.SplitSeq(cniArgs, ";") {
		switch key, value, _ := strings.Cut(arg, "="); key {
		case "K8S_POD_NAMESPACE":
			namespace = value + "/"
		case "K8S_POD_NAME":
			name = value
		}
	}
	if name == "" {
		return ""
	}
	return namespace + name
}

// podDecides tells whether only pods are attached that ask for it.
func (c *conf) podDecides() bool { return c.Capabilities[annotationsCapability] }

func (c *conf) podRequests(args *skel.CmdArgs) (requests []bus.Request, err error) {
	list, ok := c.RuntimeConfig.Annotations[annotation]
	if !ok {
		return nil, nil
	}
	defer func() {
		if err != nil {
			list = list[:min(len(list), 200)]
			requests, err = nil, fmt.Errorf(`annotation %s is %q: %w; want a list like "can0" or "vcan0:can0,vcan1:can1"`, annotation, list, err)
		}
	}()
	if n := strings.Count(list, ",") + 1; n > maxPodInterfaces {
		return nil, fmt.Errorf("%w list: %d interfaces, at most %d are allowed", bus.ErrInvalid, n, maxPodInterfaces)
	}
	for item := range strings.SplitSeq(list, ",") {
		hub, ifName, both := strings.Cut(strings.TrimSpace(item), ":")
		if !both {
			hub, ifName = c.bus.Hub, hub
		}
		spec := c.bus.Spec
		if hub != c.bus.Hub {
			if !slices.ContainsFunc(c.bus.PodHubs, func(pattern string) bool { return matchesHub(pattern, hub) }) {
				return nil, fmt.Errorf("%w hub %q: a pod may name %s", bus.ErrInvalid, hub, strings.Join(append([]string{c.bus.Hub}, c.bus.PodHubs...), ", "))
			}
			if strings.Trim(hub, podHubDigits) != "" || strings.HasPrefix(hub, "-") {
				return nil, fmt.Errorf("%w hub %q: a pod may use letters, digits, '.', '_' and '-'", bus.ErrInvalid, hub)
			}
			spec = bus.Spec{Hub: hub, Transient: true} // the configuration speaks of its own hub only
		}
		if err := bus.CheckHub(hub); err != nil {
			return nil, err
		}
		if err := bus.CheckInterface(ifName); err != nil {
			return nil, err
		}
		r := c.request(args, spec, ifName, ifName)
		if slices.Contains(requests, r) {
			return nil, fmt.Errorf("%w list: %s is there twice", bus.ErrInvalid, strings.TrimSpace(item))
		}
		requests = append(requests, r)
	}
	return requests, nil
}

// matchesHub tells whether a pattern of the key pod-hubs, a name or a prefix with *, allows a hub.
func matchesHub(pattern, hub string) bool {
	if prefix, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(hub, prefix)
	}
	return hub == pattern
}
