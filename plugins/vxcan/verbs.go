package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/vxcan/vxcan/pkg/bus"
)

// noMAC is the container end's hardware address. A CAN device has none, but Podman's CNI backend refuses a result in
// which it is not one.
const noMAC = "00:00:00:00:00:00"

func cmdAdd(args *skel.CmdArgs) error {
	c, err := parseConf(args.StdinData)
	if err != nil {
		return cniError(err)
	}
	result, err := c.prevResult()
	if err != nil {
		return cniError(err)
	}
	wishes, err := c.wishes(args)
	if err != nil {
		return cniError(err)
	}
	if result == nil {
		result = &types100.Result{CNIVersion: types100.ImplementedSpecVersion}
	}
	log := logger("ADD", c, args)
	if len(wishes) == 0 {
		log.Info("the pod does not ask for a bus", "annotation", annotation)
	}
	h := bus.NewHost(log)
	var added []wish
	for _, w := range wishes {
		made, err := h.Attach(context.Background(), w.spec, w.attachment, bus.Target{NetnsPath: args.Netns, Interface: w.ifName})
		if err != nil {
			return cniError(errors.Join(err, detachAll(h, added)))
		}
		if made.New {
			added = append(added, w)
		}
		log.Info("attached", "hub", made.Hub, "hostIf", made.HostIf, "contIf", made.ContIf)
		// At the end, because the IPs of a chain point to interfaces by their position.
		result.Interfaces = append(result.Interfaces,
			&types100.Interface{Name: made.Hub, Mtu: made.HubMTU},
			&types100.Interface{Name: made.HostIf, Mtu: made.IfMTU},
			&types100.Interface{Name: made.ContIf, Mtu: made.IfMTU, Mac: noMAC, Sandbox: args.Netns},
		)
	}
	return types.PrintResult(result, c.CNIVersion)
}

// cmdDel works with a configuration that ADD would refuse: it may have been edited since, and a runtime calls DEL after
// an ADD that failed.
func cmdDel(args *skel.CmdArgs) error {
	c, err := parseConf(args.StdinData)
	if c == nil {
		return cniError(err)
	}
	log := logger("DEL", c, args)
	if err != nil {
		log.Info("going on with what could be read", "err", err)
	}
	wishes, err := c.wishes(args)
	if err != nil { // then ADD made nothing
		log.Info("nothing to detach", "err", err)
		return nil
	}
	if err := detachAll(bus.NewHost(log), wishes); err != nil {
		return cniError(err)
	}
	log.Info("detached", "interfaces", len(wishes))
	return nil
}

func detachAll(h *bus.Host, wishes []wish) error {
	var errs []error
	for _, w := range wishes {
		errs = append(errs, h.Detach(context.Background(), w.spec.Hub, w.attachment))
	}
	return errors.Join(errs...)
}

func cmdCheck(args *skel.CmdArgs) error {
	c, err := parseConf(args.StdinData)
	if err != nil {
		return cniError(err)
	}
	result, err := c.prevResult()
	if err != nil {
		return cniError(err)
	}
	if result == nil {
		return cniError(fmt.Errorf(`%w configuration: CHECK needs the result of ADD: key "prevResult" is missing`, bus.ErrInvalid))
	}
	wishes, err := c.wishes(args)
	if err != nil {
		return cniError(err)
	}
	var contIfs []string
	for _, i := range result.Interfaces {
		if i.Sandbox != "" {
			contIfs = append(contIfs, i.Name)
		}
	}
	log := logger("CHECK", c, args)
	h := bus.NewHost(log)
	for _, w := range wishes {
		if err := h.Check(context.Background(), w.spec, w.attachment, contIfs, args.Netns); err != nil {
			return cniError(err)
		}
	}
	log.Info("checked", "interfaces", len(wishes))
	return nil
}

func cmdGC(args *skel.CmdArgs) error {
	c, err := parseConf(args.StdinData)
	if err != nil {
		return cniError(err)
	}
	log := logger("GC", c, args)
	if !c.hasList { // says nothing about who is valid, and so nobody is stale
		log.Info("no list of valid attachments: nothing to do")
		return nil
	}
	valid := make(map[types.GCAttachment]bool)
	for _, a := range append(c.ValidAttachments, c.Attachments...) {
		valid[a] = true
	}
	err = bus.NewHost(log).Collect(context.Background(), runtimeName, c.Name, func(a bus.Attachment) bool {
		return valid[types.GCAttachment{ContainerID: a.ContainerID, IfName: a.IfName}]
	})
	if err != nil {
		return cniError(err)
	}
	log.Info("collected")
	return nil
}

func cmdStatus(args *skel.CmdArgs) error {
	c, err := parseConf(args.StdinData)
	if err != nil {
		return cniError(err)
	}
	if err := bus.NewHost(logger("STATUS", c, args)).Ready(); err != nil {
		return types.NewError(types.ErrPluginNotAvailable, bus.OneLine(err), "")
	}
	return nil
}

func logger(cmd string, c *conf, args *skel.CmdArgs) *slog.Logger {
	log := slog.With("cmd", cmd, "network", c.Name)
	if args.ContainerID != "" {
		log = log.With("containerID", args.ContainerID, "ifName", args.IfName)
	}
	return log
}
