// Command vxcan-label keeps the labels of a node of Kubernetes: vxcan.dev/hub-NAME=true for each controller and vcan, and for
// the hub of vxcan's entry in the pod network if the plugin makes it, and vxcan.dev/hub=true for that one. It runs beside
// vxcan-install in a DaemonSet, without capabilities, and is the only program of vxcan that calls the API.
package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/vxcan/vxcan/pkg/bus"
	"github.com/vxcan/vxcan/pkg/config"
)

// buildVersion is set by make: -ldflags '-X main.buildVersion=...'.
var buildVersion = "unknown"

func main() {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	slog.SetDefault(log)
	l := parseOptions(os.Args[1:])
	l.hubs = bus.NewHost(log).Hubs
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	api, err := nodeAPIOfPod(l.node)
	if err == nil {
		l.set = api.set
		err = l.keep(ctx)
	}
	if err != nil {
		slog.Error(config.OneLine(err))
		os.Exit(1)
	}
}
