package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"strings"
	"sync"
	"time"

	"github.com/vxcan/vxcan/pkg/config"
)

const (
	requestTimeout = 10 * time.Second // for a request to be read, and an answer to be written
	requestSize    = 64 << 10
	requestsAtOnce = 16
)

// serveMetrics serves the metrics by HTTP until ctx ends: one answer a connection. net/http would make vxcanctl half as
// large again.
func serveMetrics(ctx context.Context, address string, host looker) error {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", bracketed(address))
	if err != nil {
		return err
	}
	stopped := context.AfterFunc(ctx, func() { listener.Close() })
	defer stopped()
	var one sync.Mutex // each look holds the lock of a bus
	places := make(chan struct{}, requestsAtOnce)
	for {
		conn, err := listener.Accept()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		case err != nil: // too many open files
			time.Sleep(100 * time.Millisecond)
			continue
		}
		places <- struct{}{}
		go func() {
			defer func() { <-places }()
			defer conn.Close()
			answerHTTP(ctx, conn, host, &one)
		}()
	}
}

// bracketed puts the brackets around an IPv6 address that a manifest cannot know to need them: $(IP):9732.
func bracketed(address string) string {
	last := strings.LastIndexByte(address, ':')
	if last < 0 || strings.HasPrefix(address, "[") || !strings.Contains(address[:last], ":") {
		return address
	}
	return net.JoinHostPort(address[:last], address[last+1:])
}

// answerHTTP reads a request (RFC 9112) and answers it.
func answerHTTP(ctx context.Context, conn net.Conn, host looker, one *sync.Mutex) {
	_ = conn.SetDeadline(time.Now().Add(requestTimeout))
	request := textproto.NewReader(bufio.NewReader(io.LimitReader(conn, requestSize)))
	line, err := request.ReadLine()
	if err == nil {
		_, err = request.ReadMIMEHeader()
	}
	words := strings.Fields(line)
	status, kind, body := "400 Bad Request", "text/plain; charset=utf-8", []byte("vxcanctl: no request\n")
	if err == nil && len(words) == 3 && strings.HasPrefix(words[2], "HTTP/1.") {
		status, kind, body = metricsAnswer(ctx, words[0], words[1], host, one)
	}
	head := fmt.Sprintf("HTTP/1.1 %s\r\nContent-Type: %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n", status, kind, len(body))
	if len(words) > 0 && words[0] == "HEAD" {
		body = nil
	}
	_ = conn.SetDeadline(time.Now().Add(requestTimeout)) // the look may have waited for a lock
	_, _ = conn.Write(append([]byte(head), body...))
}

// metricsAnswer is what GET /metrics is answered with. One look is taken at a time.
func metricsAnswer(ctx context.Context, method, target string, host looker, one *sync.Mutex) (status, kind string, body []byte) {
	kind = "text/plain; charset=utf-8"
	path, _, _ := strings.Cut(target, "?")
	switch {
	case method != "GET" && method != "HEAD":
		return "405 Method Not Allowed", kind, []byte("vxcanctl: GET alone\n")
	case path != "/metrics":
		return "404 Not Found", kind, []byte("vxcanctl: see /metrics\n")
	}
	one.Lock()
	defer one.Unlock()
	all, err := host.Status(ctx)
	var text bytes.Buffer
	if err = errors.Join(err, writeMetrics(&text, all)); err != nil { // a part would look as if buses were gone
		return "500 Internal Server Error", kind, []byte(config.OneLine(err) + "\n")
	}
	return "200 OK", "text/plain; version=0.0.4; charset=utf-8", text.Bytes()
}
