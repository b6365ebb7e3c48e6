// Command vxcan-docker is the Docker remote network driver that puts containers on CAN buses of their host. systemd
// starts it by its socket, and it ends when there has been no request for a while; its state is on disk.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// buildVersion is set by make: -ldflags '-X main.buildVersion=...'.
var buildVersion = "unknown"

func main() {
	slog.SetDefault(slog.New(slog.NewTextHandler(os.Stderr, nil)))
	socket := flag.String("socket", "", "stay in the foreground and listen on this `path`, e.g. "+defaultSocket)
	idle := flag.Duration("idle", 30*time.Second, "without --socket: leave after this long without a request")
	version := flag.Bool("version", false, "print the version and exit")
	flag.Parse()
	if *version {
		fmt.Println("vxcan-docker", buildVersion)
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *socket, *idle); err != nil {
		slog.Error("cannot serve", "err", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, socket string, idle time.Duration) error {
	listener, err := listen(socket)
	if err != nil {
		return err
	}
	if socket != "" {
		idle = 0
	}
	d := &driver{disk: disk{dir: stateDir}}
	collected := make(chan struct{})
	go func() { // Docker gets its answers meanwhile
		defer close(collected)
		d.collect(ctx)
	}()
	err = serve(ctx, listener, d.handler(), idle)
	<-collected
	return err
}
