// Command vxcan-install puts the CNI plugin vxcan on a node of Kubernetes and keeps it there: it copies the plugin into
// the node's CNI directory, and chains it into the configuration of the pod network, again whenever that is rewritten. A
// DaemonSet runs it as uid 0 without capabilities; it calls no API.
package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/vxcan/vxcan/pkg/config"
)

// buildVersion is set by make: -ldflags '-X main.buildVersion=...'.
var buildVersion = "unknown"

func main() {
	slog.SetDefault(slog.New(slog.NewTextHandler(os.Stderr, nil)))
	o := parseOptions(os.Args[1:])
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := o.run(ctx); err != nil {
		slog.Error(config.OneLine(err))
		os.Exit(exitStatus(err))
	}
}
