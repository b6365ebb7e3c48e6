// Command vxcanctl is for administrators of the buses of a host, and for udev and systemd, which call it when a
// controller appears. It works on what is recorded of a bus and needs no configuration of a container.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/vxcan/vxcan/pkg/bus"
)

// buildVersion is set by make: -ldflags '-X main.buildVersion=...'.
var buildVersion = "unknown"

func main() {
	host := bus.NewHost(slog.New(slog.NewTextHandler(os.Stderr, nil)))
	// For people, in the words of the rest of what vxcanctl says.
	host.Notice = func(hub, what string) { fmt.Fprintf(os.Stderr, "%s: %s\n", hub, what) }
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if newCommand(host).ExecuteContext(ctx) != nil {
		os.Exit(1)
	}
}
