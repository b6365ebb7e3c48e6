package main

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/vxcan/vxcan/pkg/config"
)

const (
	requestTimeout = 5 * time.Second  // for a request to be read
	answerTimeout  = 30 * time.Second // for the look, which may wait for the lock of a bus, and for the answer to be written
	lookAge        = time.Second      // an answer may be this old: looks hold the locks of buses
)

func serveMetrics(ctx context.Context, address string, host looker) error {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", bracketed(address))
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", &metricsHandler{host: host, turn: make(chan struct{}, 1)})
	server := http.Server{
		Handler: mux, ReadTimeout: requestTimeout, WriteTimeout: requestTimeout + 2*answerTimeout, IdleTimeout: requestTimeout, MaxHeaderBytes: 8 << 10,
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	stopped := context.AfterFunc(ctx, func() { server.Close() })
	defer stopped()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// bracketed puts the brackets around an IPv6 address that a manifest cannot know to need them: $(IP):9732.
func bracketed(address string) string {
	last := strings.LastIndexByte(address, ':')
	if last < 0 || strings.HasPrefix(address, "[") || !strings.Contains(address[:last], ":") {
		return address
	}
	return net.JoinHostPort(address[:last], address[last+1:])
}

// metricsHandler answers with the metrics of a host. One request at a time looks.
type metricsHandler struct {
	host   looker
	turn   chan struct{}
	text   []byte
	err    error
	looked time.Time
}

func (h *metricsHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	text, err := h.look(r.Context())
	if err != nil { // a part would look as if buses were gone
		http.Error(w, config.OneLine(err), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	_, _ = w.Write(text) // who asked may have gone
}

func (h *metricsHandler) look(ctx context.Context) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	select {
	case h.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-h.turn }()
	if time.Since(h.looked) < lookAge {
		return h.text, h.err
	}
	// Who asks and goes has asked all the same: the next one gets the answer.
	ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), answerTimeout)
	defer cancel()
	all, err := h.host.Status(ctx)
	var text bytes.Buffer
	err = errors.Join(err, writeMetrics(&text, all))
	h.text, h.err, h.looked = text.Bytes(), err, time.Now()
	return h.text, h.err
}
