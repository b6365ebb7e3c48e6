package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/skel"

	"github.com/vxcan/vxcan/pkg/bus"
	"github.com/vxcan/vxcan/pkg/config"
)

// With the capability, containerd and CRI-O hand over the annotations of the pod, and it decides whether it is attached.
const annotationsCapability = "io.kubernetes.cri.pod-annotations"

// annotation is the pod's list of interfaces, separated by commas: "can0" is an interface on the configured hub, and
// "vcan1:can1" one on another hub, if the key pod-hubs lists it.
const annotation = "vxcan/networks"

// maxPodInterfaces bounds what one pod can make of devices and rules.
const maxPodInterfaces = 8

// podDigits are allowed in the names of hubs and interfaces that pods choose: administrators paste these names into shells.
const podDigits = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"

// requests are the interfaces that this call is about: one, or with the capability, those that the pod asks for.
func (c *conf) requests(args *skel.CmdArgs) ([]bus.Request, error) {
	if c.podDecides() {
		return c.podRequests(args)
	}
	r, err := c.request(args, c.network.Hub, c.network.Interface, c.interfaceName(args.IfName))
	return []bus.Request{r}, err
}

// request is for an interface called ifName on a hub; entry is its name in the configuration or the annotation, perhaps
// empty. What the network says of an endpoint holds on every hub.
func (c *conf) request(args *skel.CmdArgs, hub config.Hub, entry, ifName string) (bus.Request, error) {
	ifName, err := config.InterfaceOn(hub.Name, ifName)
	endpoint := c.network.Endpoint
	endpoint.Name = containerName(args.Args)
	return bus.Request{
		Attachment: c.attachment(args, entry), Hub: hub, Endpoint: endpoint, Place: bus.Place{NetnsPath: args.Netns, Interface: ifName},
	}, err
}

func (c *conf) attachment(args *skel.CmdArgs, entry string) config.Attachment {
	return config.Attachment{Runtime: runtimeName, Network: c.Name, ContainerID: args.ContainerID, IfName: args.IfName, Entry: entry}
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

// podDecides reports whether a pod must ask by annotation.
func (c *conf) podDecides() bool { return c.Capabilities[annotationsCapability] }

// shown is how much of an annotation an error repeats.
const shown = 100

func (c *conf) podRequests(args *skel.CmdArgs) (requests []bus.Request, err error) {
	for _, key := range slices.Sorted(maps.Keys(c.RuntimeConfig.Annotations)) {
		if strings.HasPrefix(key, "vxcan") && key != annotation {
			return nil, fmt.Errorf("%w annotation %.*q: the one of vxcan is %s", config.ErrInvalid, shown, key, annotation)
		}
	}
	list, ok := c.RuntimeConfig.Annotations[annotation]
	if !ok {
		return nil, nil
	}
	defer func() {
		if err != nil {
			requests, err = nil, fmt.Errorf(`annotation %s is %.*q: %w; want a list like "can0" or "vcan0:can0,vcan1:can1"`, annotation, shown, list, err)
		}
	}()
	if n := strings.Count(list, ",") + 1; n > maxPodInterfaces {
		return nil, fmt.Errorf("%w list: %d interfaces, at most %d are allowed", config.ErrInvalid, n, maxPodInterfaces)
	}
	for item := range strings.SplitSeq(list, ",") {
		item = strings.TrimSpace(item)
		hub, ifName, err := c.podItem(item)
		if err != nil {
			return nil, err
		}
		r, err := c.request(args, hub, ifName, ifName)
		if err != nil {
			return nil, err
		}
		r.Entry = r.Place.Interface // one pattern may name several
		for _, other := range requests {
			switch {
			case other.Place.Interface == r.Place.Interface:
				return nil, fmt.Errorf("%w list: interface %s is there twice", config.ErrInvalid, r.Place.Interface)
			case other.Hub.Name == r.Hub.Name && r.Endpoint.Policy.Rate != 0:
				return nil, fmt.Errorf("%w list: %s and %s on hub %s: with a rate a pod may have one interface a hub",
					config.ErrInvalid, other.Place.Interface, r.Place.Interface, hub.Name)
			}
		}
		requests = append(requests, r)
	}
	return requests, nil
}

// podItem reads one item of the annotation.
func (c *conf) podItem(item string) (hub config.Hub, ifName string, err error) {
	name, ifName, both := strings.Cut(item, ":")
	hub = c.network.Hub
	if !both {
		name, ifName = hub.Name, item
		if slices.ContainsFunc(c.network.PodHubs, func(pattern string) bool { return pattern != "*" && matchesHub(pattern, ifName) }) {
			return hub, "", fmt.Errorf("%w interface %.*q: it is the name of a hub; want HUB:INTERFACE", config.ErrInvalid, shown, ifName)
		}
	}
	if err := cmp.Or(checkPodName("hub", name), checkPodName("interface", strings.Replace(ifName, "%d", "", 1))); err != nil {
		return hub, "", err
	}
	if name != hub.Name {
		if !slices.ContainsFunc(c.network.PodHubs, func(pattern string) bool { return matchesHub(pattern, name) }) {
			return hub, "", fmt.Errorf("%w hub %.*q: a pod may name %s", config.ErrInvalid, shown, name,
				strings.Join(append([]string{hub.Name}, c.network.PodHubs...), ", "))
		}
		hub = config.Hub{Name: name, Transient: true} // the configuration speaks of its own hub only
	}
	return hub, ifName, cmp.Or(config.CheckHub(name), config.CheckInterface(ifName))
}

// checkPodName reports what is wrong with a name that a pod chose, without repeating all of it.
func checkPodName(what, name string) error {
	switch {
	case len(name) > shown:
		return fmt.Errorf("%w %s %.*q: %d bytes", config.ErrInvalid, what, shown, name, len(name))
	case strings.Trim(name, podDigits) != "" || strings.HasPrefix(name, "-"):
		return fmt.Errorf("%w %s %q: a pod may use letters, digits, '.', '_' and '-'", config.ErrInvalid, what, name)
	}
	return nil
}

// matchesHub reports whether a pattern of the key pod-hubs, a name or a prefix with *, allows a hub.
func matchesHub(pattern, hub string) bool {
	if prefix, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(hub, prefix)
	}
	return hub == pattern
}
