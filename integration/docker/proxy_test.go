package docker

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/vxcan/vxcan/integration/harness"
)

// proxy stands between dockerd and a driver on another socket; before each call, it calls before. It returns the calls
// so far, in order.
func proxy(d *harness.DockerHost, socket string, before func(call string)) (calls func() []string, stop func()) {
	d.T.Helper()
	var mu sync.Mutex
	var seen []string
	target := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: "driver"})
	target.Transport = harness.DriverTransport(socket)
	stop = serve(d, func(w http.ResponseWriter, r *http.Request) {
		call := filepath.Ext(r.URL.Path)[1:]
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(body))
		mu.Lock()
		seen = append(seen, call)
		mu.Unlock()
		before(call)
		target.ServeHTTP(w, r)
	})
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(seen)
	}, stop
}

// refuseAll stands in the driver's place and refuses every call. They are lost then as they are without a driver, for
// which Docker would look half a minute.
func refuseAll(d *harness.DockerHost) (stop func()) {
	d.T.Helper()
	return serve(d, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"Err":"not today"}`) })
}

// serve answers the driver's calls.
func serve(d *harness.DockerHost, answer http.HandlerFunc) (stop func()) {
	d.T.Helper()
	_ = os.Remove(harness.DriverSocket) // a killed driver's
	l, err := net.Listen("unix", harness.DriverSocket)
	if err != nil {
		d.T.Fatal(err)
	}
	server := &http.Server{Handler: answer}
	go server.Serve(l)
	stop = func() { server.Close() }
	d.T.Cleanup(stop)
	return stop
}
