package main

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// serve serves the metrics of a host until the test ends, and returns where.
func serve(t *testing.T, host looker) (address string) {
	t.Helper()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address = free.Addr().String()
	free.Close()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- serveMetrics(ctx, address, host) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("stopped: %v", err)
		}
	})
	for range 200 {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
			return address
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("nobody listens")
	return ""
}

// TestServeMetrics: what is served is what metrics prints, and no part of it when a bus could not be looked at. Go's client
// is the judge of the form.
func TestServeMetrics(t *testing.T) {
	for _, c := range []struct {
		host         fakeLooker
		method, path string
		status       int
		words        string
	}{
		{fakeLooker{all: twoBuses()}, "GET", "/metrics", http.StatusOK, `vxcan_bus_whole{hub="vcan0"} 1`},
		{fakeLooker{all: twoBuses()}, "GET", "/metrics?x=y", http.StatusOK, `vxcan_bus_whole{hub="vcan0"} 1`},
		{fakeLooker{all: twoBuses()}, "HEAD", "/metrics", http.StatusOK, ""},
		{fakeLooker{all: twoBuses(), err: errors.New("bus can1: no answer")}, "GET", "/metrics", http.StatusInternalServerError, "bus can1: no answer"},
		{fakeLooker{}, "GET", "/other", http.StatusNotFound, "not found"},
		{fakeLooker{}, "POST", "/metrics", http.StatusMethodNotAllowed, "Method Not Allowed"},
	} {
		request, err := http.NewRequestWithContext(t.Context(), c.method, "http://"+serve(t, c.host)+c.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(answer.Body)
		answer.Body.Close()
		if err != nil || answer.StatusCode != c.status || !strings.Contains(string(text), c.words) {
			t.Errorf("%s %s: %s, %v: %s", c.method, c.path, answer.Status, err, text)
		}
	}
}

// TestServeSilent: a crowd that says nothing holds nobody up, and neither does one that asks and goes; one look serves all.
func TestServeSilent(t *testing.T) {
	host := &countingLooker{fakeLooker: fakeLooker{all: twoBuses()}}
	address := serve(t, host)
	for i := range 100 {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		if i%2 == 1 {
			defer conn.Close()
			continue
		}
		if _, err := io.WriteString(conn, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		conn.Close()
	}
	start := time.Now()
	answer, err := http.Get("http://" + address + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusOK || time.Since(start) > requestTimeout {
		t.Errorf("%s after %v", answer.Status, time.Since(start))
	}
	if most := int32(time.Since(start)/lookAge) + 2; host.asked.Load() > most {
		t.Errorf("%d looks, want at most %d", host.asked.Load(), most)
	}
	if err := serveMetrics(t.Context(), "no address", fakeLooker{}); err == nil {
		t.Error("no error")
	}
}

func TestBracketed(t *testing.T) {
	for address, want := range map[string]string{
		":9732": ":9732", "10.9.0.11:9732": "10.9.0.11:9732", "[fd00::1]:9732": "[fd00::1]:9732", "fd00::1:9732": "[fd00::1]:9732", "localhost": "localhost",
	} {
		if got := bracketed(address); got != want {
			t.Errorf("%s: %s, want %s", address, got, want)
		}
	}
}
