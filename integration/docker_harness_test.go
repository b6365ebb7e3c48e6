package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"
)

const (
	driverSocket   = "/run/docker/plugins/vxcan.sock" // where dockerd looks for it
	driverStateDir = "/var/lib/vxcan-docker"
	dockerImage    = "vxcan/busybox:latest"
)

// dockerHost is a Docker daemon and our driver.
type dockerHost struct {
	t      *testing.T
	daemon *exec.Cmd
	driver *exec.Cmd
	args   []string // of dockerd, more than the usual
	logs   string   // directory
}

// startDocker starts the real daemon and the driver, with nothing on the host.
func startDocker(t *testing.T, args ...string) *dockerHost {
	t.Helper()
	freshHost(t)
	for _, dir := range []string{driverStateDir, "/var/lib/docker", "/run/docker"} {
		if err := errors.Join(removeContent(dir), os.MkdirAll(dir, 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	d := newDocker(t, args...)
	t.Cleanup(func() {
		d.stopDaemon(os.Interrupt)
		d.stopDriver(os.Interrupt)
	})
	d.startDriver()
	d.startDaemon()
	d.docker("load", "-i", imageArchive(t, dockerImage))
	return d
}

// newDocker is a Docker that is not running yet, with whatever it has on disk.
func newDocker(t *testing.T, args ...string) *dockerHost {
	t.Helper()
	if _, err := exec.LookPath("dockerd"); err != nil {
		t.Fatal("needs dockerd: apt-get install docker.io")
	}
	d := &dockerHost{t: t, args: args, logs: t.TempDir()}
	t.Cleanup(func() {
		if t.Failed() {
			for _, name := range []string{"driver", "dockerd"} {
				text, _ := os.ReadFile(filepath.Join(d.logs, name))
				lines := strings.Split(string(text), "\n")
				t.Logf("%s:\n%s", name, strings.Join(lines[max(0, len(lines)-60):], "\n"))
			}
		}
	})
	return d
}

// removeContent empties a directory, which may be a mount point.
func removeContent(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	return err
}

// start starts a program in the background, which logs to a file.
func (d *dockerHost) start(log string, cmd *exec.Cmd) *exec.Cmd {
	d.t.Helper()
	f, err := os.OpenFile(filepath.Join(d.logs, log), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		d.t.Fatal(err)
	}
	defer f.Close()
	cmd.Stdout, cmd.Stderr = f, f
	cmd.Env = append(os.Environ(), "DOCKER_RAMDISK=1") // the root of a booted machine cannot be pivoted
	if err := cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	return cmd
}

// log is what the driver has logged so far.
func (d *dockerHost) log() string {
	d.t.Helper()
	text, err := os.ReadFile(filepath.Join(d.logs, "driver"))
	if err != nil {
		d.t.Fatal(err)
	}
	return string(text)
}

func (d *dockerHost) startDriver() { d.t.Helper(); d.startDriverAt(driverSocket) }

func (d *dockerHost) startDriverAt(socket string) {
	d.t.Helper()
	d.driver = d.start("driver", exec.Command(filepath.Join(binDir(d.t), "vxcan-docker"), "--socket", socket))
	d.waitFor("the driver", func() bool {
		conn, err := net.Dial("unix", socket)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
}

func (d *dockerHost) stopDriver(sig os.Signal) { stop(d.t, &d.driver, sig) }

func (d *dockerHost) startDaemon() {
	d.t.Helper()
	d.daemon = d.start("dockerd", exec.Command("dockerd", append([]string{"--bridge=none", "--iptables=false"}, d.args...)...))
	d.waitFor("dockerd", func() bool { _, err := d.try("version"); return err == nil })
}

func (d *dockerHost) stopDaemon(sig os.Signal) { stop(d.t, &d.daemon, sig) }

func (d *dockerHost) waitFor(what string, ready func() bool) {
	d.t.Helper()
	const patience = 5 * time.Minute // Docker itself takes two for some
	for deadline := time.Now().Add(patience); !ready(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			d.t.Fatalf("%s: not there after %v", what, patience)
		}
	}
}

// docker runs the client; it fails the test if that fails.
func (d *dockerHost) docker(args ...string) string {
	d.t.Helper()
	out, err := d.try(args...)
	if err != nil {
		d.t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// try is docker for what may fail.
func (d *dockerHost) try(args ...string) (string, error) {
	client := "docker"
	if _, err := os.Stat("/usr/bin/docker"); err == nil {
		client = "/usr/bin/docker" // the daemon's own, should there be others
	}
	return try(client, args...)
}

func (d *dockerHost) version() string {
	d.t.Helper()
	return d.docker("version", "-f", "{{.Server.Version}}")
}

func (d *dockerHost) majorVersion() string {
	d.t.Helper()
	major, _, _ := strings.Cut(d.version(), ".")
	return major
}

// network makes a network on a hub named vcan and a number, with options.
func (d *dockerHost) network(name, number string, options ...string) {
	d.t.Helper()
	args := []string{"network", "create", "-d", "vxcan", "--ipam-driver", "null", "-o", "vxcan.dev=vcan", "-o", "vxcan.id=" + number}
	for _, o := range options {
		args = append(args, "-o", o)
	}
	d.docker(append(args, name)...)
}

// run starts a container that sleeps.
func (d *dockerHost) run(name string, args ...string) *dockerContainer {
	d.t.Helper()
	args = append([]string{"run", "-d", "--name", name}, args...)
	d.docker(append(args, dockerImage)...)
	return d.container(name)
}

// dockerContainer is a container that runs.
type dockerContainer struct {
	d     *dockerHost
	name  string
	netns ns.NetNS
}

// container finds a container that runs, or is about to.
func (d *dockerHost) container(name string) *dockerContainer {
	d.t.Helper()
	var pid string
	d.waitFor(name, func() bool {
		var state string
		state, pid, _ = strings.Cut(d.docker("inspect", "-f", "{{.State.Status}} {{.State.Pid}}", name), " ")
		return state == "running"
	})
	netns, err := ns.GetNS("/proc/" + pid + "/ns/net")
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { netns.Close() })
	return &dockerContainer{d, name, netns}
}

// interfaces are the container's, but lo.
func (c *dockerContainer) interfaces() []string {
	c.d.t.Helper()
	var names []string
	err := c.netns.Do(func(ns.NetNS) error {
		all, err := net.Interfaces()
		for _, i := range all {
			if i.Name != "lo" {
				names = append(names, i.Name)
			}
		}
		return err
	})
	if err != nil {
		c.d.t.Fatal(err)
	}
	slices.Sort(names)
	return names
}

func (c *dockerContainer) expectInterfaces(want ...string) {
	c.d.t.Helper()
	if got := c.interfaces(); !slices.Equal(got, want) {
		c.d.t.Errorf("%s has the interfaces %v, want %v", c.name, got, want)
	}
}

func (c *dockerContainer) on(ifName string) station { return station{c.name, c.netns, ifName} }

// callDriver asks the driver as dockerd does, and returns the HTTP status and the answer.
func callDriver(call, body string) (status int, answer map[string]any, err error) {
	client := &http.Client{Transport: driverTransport(driverSocket), Timeout: time.Minute}
	defer client.CloseIdleConnections()
	response, err := client.Post("http://plugin.moby.localhost/"+call, "application/json", strings.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, nil, err
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		return 0, nil, fmt.Errorf("%s: %w: %s", call, err, text)
	}
	return response.StatusCode, answer, nil
}

func driverTransport(socket string) *http.Transport {
	return &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return net.Dial("unix", socket) }}
}

// proxy stands between dockerd and a driver on another socket; before each call, it calls before. It returns the calls
// so far, in order.
func (d *dockerHost) proxy(socket string, before func(call string)) (calls func() []string, stop func()) {
	d.t.Helper()
	var mu sync.Mutex
	var seen []string
	target := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: "driver"})
	target.Transport = driverTransport(socket)
	stop = d.serve(func(w http.ResponseWriter, r *http.Request) {
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
func (d *dockerHost) refuseAll() (stop func()) {
	d.t.Helper()
	return d.serve(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"Err":"not today"}`) })
}

// serve answers the driver's calls.
func (d *dockerHost) serve(answer http.HandlerFunc) (stop func()) {
	d.t.Helper()
	_ = os.Remove(driverSocket) // a killed driver's
	l, err := net.Listen("unix", driverSocket)
	if err != nil {
		d.t.Fatal(err)
	}
	server := &http.Server{Handler: answer}
	go server.Serve(l)
	stop = func() { server.Close() }
	d.t.Cleanup(stop)
	return stop
}

// expectClean fails the test if anything of a bus is there, or anything that Docker makes for other networks.
func (d *dockerHost) expectClean() {
	d.t.Helper()
	expectNothing(d.t)
	if files, _ := filepath.Glob(driverStateDir + "/*.json*"); len(files) > 0 {
		d.t.Errorf("left behind: %v", files)
	}
	d.expectNoBridge()
}

func (d *dockerHost) expectNoBridge() {
	d.t.Helper()
	for _, l := range links(d.t) {
		if strings.HasPrefix(l.Name, "docker") || strings.HasPrefix(l.Name, "veth") {
			d.t.Errorf("Docker made %s: a container got an interface that nobody asked for", l.Name)
		}
	}
}
