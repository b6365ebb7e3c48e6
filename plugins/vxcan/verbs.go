package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/vxcan/vxcan/pkg/bus"
	"github.com/vxcan/vxcan/pkg/config"
	"github.com/vxcan/vxcan/pkg/lend"
)

// noMAC is the container end's hardware address. A CAN device has none, but Podman's CNI backend refuses a result in
// which it is not one.
const noMAC = "00:00:00:00:00:00"

// verb is a verb of CNI: it reads the configuration, runs, and gives an error its code.
func verb(cmd string, run func(c *conf, args *skel.CmdArgs, log *slog.Logger) error) func(*skel.CmdArgs) error {
	return func(args *skel.CmdArgs) error {
		c, err := parseConf(args.StdinData)
		if c == nil || err != nil && cmd != del {
			return cniError(err)
		}
		log := slog.With("cmd", cmd, "network", c.Name)
		if args.ContainerID != "" {
			log = log.With("containerID", args.ContainerID, "ifName", args.IfName)
		}
		if err != nil {
			log.Info("going on with what could be read", "err", err)
		}
		return cniError(run(c, args, log))
	}
}

// del is the verb that works with a configuration that ADD would refuse: it may have been edited since, and a runtime calls
// DEL after an ADD that failed.
const del = "DEL"

func cmdAdd(c *conf, args *skel.CmdArgs, log *slog.Logger) error {
	result, err := c.prevResult()
	if err != nil {
		return err
	}
	requests, err := c.requests(args)
	if err != nil {
		return err
	}
	if result == nil {
		result = &types100.Result{CNIVersion: types100.ImplementedSpecVersion}
	}
	if len(requests) == 0 {
		log.Info("the pod does not ask for a bus", "annotation", annotation)
	}
	// Printed before Attach returns: an ADD without a result has failed, and nothing of it may stay.
	_, err = lend.Of(c.network, bus.NewHost(log)).Attach(context.Background(), func(attached []bus.Result) error {
		for _, a := range attached {
			// At the end, because the IPs of a chain point to interfaces by their position.
			result.Interfaces = append(result.Interfaces,
				&types100.Interface{Name: a.Hub, Mtu: a.HubMTU},
				&types100.Interface{Name: a.HostIf, Mtu: a.IfMTU},
				&types100.Interface{Name: a.ContIf, Mtu: a.IfMTU, Mac: noMAC, Sandbox: args.Netns},
			)
		}
		if err := types.PrintResult(result, c.CNIVersion); err != nil {
			return fmt.Errorf("print the result: %w", err)
		}
		for _, a := range attached {
			log.Info("attached", "hub", a.Hub, "hostIf", a.HostIf, "contIf", a.ContIf)
		}
		return nil
	}, requests...)
	return err
}

func cmdDel(c *conf, args *skel.CmdArgs, log *slog.Logger) error {
	ctx, h := context.Background(), bus.NewHost(log)
	requests, err := c.requests(args)
	if err != nil {
		log.Info("detaching whatever there is", "err", err)
		err = h.Collect(ctx, func(a config.Attachment, _ bool) bool { return a.SameAs(c.attachment(args, "")) })
	}
	if len(requests) == 0 { // but the pod may have asked at its ADD
		requests = []bus.Request{{Attachment: c.attachment(args, "")}}
	}
	errs := []error{err}
	var hubs []string
	for _, r := range requests {
		if !slices.Contains(hubs, r.Hub.Name) { // one call takes all interfaces off
			hubs = append(hubs, r.Hub.Name)
			errs = append(errs, lend.Detach(ctx, c.network, h, r.Hub.Name, r.Attachment))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	log.Info("detached")
	return nil
}

func cmdCheck(c *conf, args *skel.CmdArgs, log *slog.Logger) error {
	result, err := c.prevResult()
	if err != nil {
		return err
	}
	if result == nil {
		return fmt.Errorf(`%w configuration: CHECK needs the result of ADD: key "prevResult" is missing`, config.ErrInvalid)
	}
	requests, err := c.requests(args)
	if err != nil {
		return err
	}
	var contIfs []string
	for _, i := range result.Interfaces {
		if i.Sandbox != "" {
			contIfs = append(contIfs, i.Name)
		}
	}
	h := lend.Of(c.network, bus.NewHost(log))
	for _, r := range requests {
		if err := h.Check(context.Background(), r, contIfs); err != nil {
			return err
		}
	}
	log.Info("checked", "interfaces", len(requests))
	return nil
}

func cmdGC(c *conf, _ *skel.CmdArgs, log *slog.Logger) error {
	if !c.hasList { // without a list, no attachment is known to be stale
		log.Info("no list of valid attachments: nothing to do")
		return nil
	}
	err := bus.NewHost(log).Collect(context.Background(), func(a config.Attachment, left bool) bool {
		ours := a.Runtime == runtimeName && a.Network == c.Name
		return ours && (left || !slices.Contains(c.Valid, types.GCAttachment{ContainerID: a.ContainerID, IfName: a.IfName}))
	})
	if err == nil {
		log.Info("collected")
	}
	return err
}

func cmdStatus(c *conf, _ *skel.CmdArgs, log *slog.Logger) error {
	if err := lend.Of(c.network, bus.NewHost(log)).Ready(); err != nil {
		return types.NewError(types.ErrPluginNotAvailable, config.OneLine(err), "")
	}
	return nil
}
