package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"golang.org/x/sys/unix"
)

// defaultSocket is where Docker looks for a driver named vxcan.
const defaultSocket = "/run/docker/plugins/vxcan.sock"

// listen opens a socket of our own, or if path is "", takes the one that systemd listens on for us.
func listen(path string) (net.Listener, error) {
	if path != "" {
		return listenAt(path)
	}
	listeners, err := activation.Listeners()
	if err != nil {
		return nil, fmt.Errorf("take over systemd's socket: %w", err)
	}
	if len(listeners) != 1 || listeners[0] == nil {
		return nil, fmt.Errorf("no socket: enable vxcan-docker.socket, or run with --socket %s", defaultSocket)
	}
	return listeners[0], nil
}

// listenAt makes a unix socket, only root's. One that no process serves any more is replaced.
func listenAt(path string) (net.Listener, error) {
	if conn, err := net.Dial("unix", path); err == nil {
		return nil, errors.Join(fmt.Errorf("socket %s: another process serves it (vxcan-docker.socket?)", path), conn.Close())
	} else if errors.Is(err, unix.ECONNREFUSED) {
		if info, err := os.Lstat(path); err == nil && info.Mode().Type() != os.ModeSocket {
			return nil, fmt.Errorf("socket %s: there is a file that is no socket; name another path", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	return listener, nil
}

// serve answers requests until ctx ends, or if idle is not 0, nothing has been asked for that long. What has been
// asked by then is answered: Docker repeats a lost request, but with an empty body (moby pkg/plugins/client.go). That
// rules out http.Server.Shutdown, which drops what it has just read, and connections that are kept for later requests.
// Requests that come too late stay in systemd's socket for the next process.
func serve(ctx context.Context, l net.Listener, handler http.Handler, idle time.Duration) error {
	ctx, leave := context.WithCancel(ctx)
	defer leave()
	context.AfterFunc(ctx, func() { l.Close() })
	a := activity{idle: idle}
	if idle > 0 {
		a.quiet = time.AfterFunc(idle, leave)
	}
	server := &http.Server{
		Handler: handler, ReadTimeout: 10 * time.Second,
		ConnState: func(_ net.Conn, s http.ConnState) {
			switch s {
			case http.StateNew: // told by the goroutine that accepts: none comes after Serve has returned
				a.begin()
			case http.StateClosed:
				a.end()
			}
		},
	}
	server.SetKeepAlivesEnabled(false)
	err := server.Serve(l)
	a.open.Wait()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// activity counts connections.
type activity struct {
	open  sync.WaitGroup
	idle  time.Duration
	quiet *time.Timer // runs while there is none; nil for ever

	mu    sync.Mutex
	count int
}

func (a *activity) begin() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.open.Add(1)
	if a.count++; a.quiet != nil {
		a.quiet.Stop()
	}
}

func (a *activity) end() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.count--; a.count == 0 && a.quiet != nil {
		a.quiet.Reset(a.idle)
	}
	a.open.Done()
}
