package harness

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"
	"golang.org/x/sys/unix"
)

// Where the driver and its state are, and the image that tests run.
const (
	DriverSocket   = "/run/docker/plugins/vxcan.sock" // where dockerd looks for it
	DriverStateDir = "/var/lib/vxcan-docker"
	DockerImage    = "vxcan/busybox:latest"
)

// DockerHost is a Docker daemon and our driver.
type DockerHost struct {
	T      *testing.T
	daemon *exec.Cmd
	driver *exec.Cmd
	Args   []string // of dockerd, more than the usual
	Logs   string   // directory
}

// StartDocker starts the real daemon and the driver, with nothing on the host.
func StartDocker(t *testing.T, args ...string) *DockerHost {
	t.Helper()
	FreshHost(t)
	_ = unix.Unmount("/run/docker/netns/default", unix.MNT_DETACH) // of a container with --network host
	for _, dir := range []string{DriverStateDir, "/var/lib/docker", "/run/docker"} {
		if err := errors.Join(RemoveContent(dir), os.MkdirAll(dir, 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	d := NewDocker(t, args...)
	t.Cleanup(func() {
		d.StopDaemon(os.Interrupt)
		d.StopDriver(os.Interrupt)
	})
	d.StartDriver()
	d.StartDaemon()
	d.Docker("load", "-i", ImageArchive(t, DockerImage))
	return d
}

// NewDocker is a Docker that is not running yet, with whatever it has on disk.
func NewDocker(t *testing.T, args ...string) *DockerHost {
	t.Helper()
	if _, err := exec.LookPath("dockerd"); err != nil {
		t.Fatal("needs dockerd: apt-get install docker.io")
	}
	d := &DockerHost{T: t, Args: args, Logs: t.TempDir()}
	t.Cleanup(func() {
		if t.Failed() {
			for _, name := range []string{"driver", "dockerd"} {
				text, _ := os.ReadFile(filepath.Join(d.Logs, name))
				lines := strings.Split(string(text), "\n")
				t.Logf("%s:\n%s", name, strings.Join(lines[max(0, len(lines)-60):], "\n"))
			}
		}
	})
	return d
}

// Start starts a program in the background, which logs to a file.
func (d *DockerHost) Start(log string, cmd *exec.Cmd) *exec.Cmd {
	d.T.Helper()
	f, err := os.OpenFile(filepath.Join(d.Logs, log), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		d.T.Fatal(err)
	}
	defer f.Close()
	cmd.Stdout, cmd.Stderr = f, f
	cmd.Env = append(os.Environ(), "DOCKER_RAMDISK=1") // the root of a booted machine cannot be pivoted
	if err := cmd.Start(); err != nil {
		d.T.Fatal(err)
	}
	return cmd
}

// Log is what the driver has logged so far.
func (d *DockerHost) Log() string {
	d.T.Helper()
	text, err := os.ReadFile(filepath.Join(d.Logs, "driver"))
	if err != nil {
		d.T.Fatal(err)
	}
	return string(text)
}

// StartDriver starts the driver where dockerd looks for it.
func (d *DockerHost) StartDriver() { d.T.Helper(); d.StartDriverAt(DriverSocket) }

// StartDriverAt starts the driver on a socket, and waits until it answers.
func (d *DockerHost) StartDriverAt(socket string) {
	d.T.Helper()
	d.driver = d.Start("driver", exec.Command(filepath.Join(BinDir(d.T), "vxcan-docker"), "--socket", socket))
	d.WaitFor("the driver", func() bool {
		conn, err := net.Dial("unix", socket)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
}

// StopDriver ends the driver, if it runs.
func (d *DockerHost) StopDriver(sig os.Signal) { stop(d.T, &d.driver, sig) }

// StartDaemon starts dockerd, and waits until it answers.
func (d *DockerHost) StartDaemon() {
	d.T.Helper()
	const tries = 5 // it ends itself where its containerd does not answer within 15 s, as on a busy machine
	for range tries {
		d.daemon = d.Start("dockerd", exec.Command("dockerd", append([]string{"--bridge=none", "--iptables=false"}, d.Args...)...))
		ended := false
		d.WaitFor("dockerd", func() bool {
			var info unix.Siginfo
			err := unix.Waitid(unix.P_PID, d.daemon.Process.Pid, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
			if ended = err == nil && info.Signo != 0; ended {
				return true
			}
			_, err = d.Try("version")
			return err == nil
		})
		if !ended {
			return
		}
		_ = d.daemon.Wait()
		d.daemon = nil
	}
	d.T.Fatalf("dockerd ended %d times", tries)
}

// StopDaemon ends dockerd, if it runs.
func (d *DockerHost) StopDaemon(sig os.Signal) { stop(d.T, &d.daemon, sig) }

// WaitFor waits up to five minutes.
func (d *DockerHost) WaitFor(what string, ready func() bool) {
	d.T.Helper()
	const patience = 5 * time.Minute // Docker itself takes two for some
	for deadline := time.Now().Add(patience); !ready(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			d.T.Fatalf("%s: not there after %v", what, patience)
		}
	}
}

// Docker runs the client; it fails the test if that fails.
func (d *DockerHost) Docker(args ...string) string {
	d.T.Helper()
	out, err := d.Try(args...)
	if err != nil {
		d.T.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// Try is Docker for what may fail.
func (d *DockerHost) Try(args ...string) (string, error) {
	client := "docker"
	if _, err := os.Stat("/usr/bin/docker"); err == nil {
		client = "/usr/bin/docker" // the daemon's own, should there be others
	}
	return Try(client, args...)
}

// Version is dockerd's.
func (d *DockerHost) Version() string {
	d.T.Helper()
	return d.Docker("version", "-f", "{{.Server.Version}}")
}

// MajorVersion is dockerd's, up to the first dot.
func (d *DockerHost) MajorVersion() string {
	d.T.Helper()
	major, _, _ := strings.Cut(d.Version(), ".")
	return major
}

// Network makes a network on a hub named vcan and a number, with options.
func (d *DockerHost) Network(name, number string, options ...string) {
	d.T.Helper()
	args := []string{"network", "create", "-d", "vxcan", "--ipam-driver", "null", "-o", "vxcan.dev=vcan", "-o", "vxcan.id=" + number}
	for _, o := range options {
		args = append(args, "-o", o)
	}
	d.Docker(append(args, name)...)
}

// Run starts a container that sleeps.
func (d *DockerHost) Run(name string, args ...string) *DockerContainer {
	d.T.Helper()
	args = append([]string{"run", "-d", "--name", name}, args...)
	d.Docker(append(args, DockerImage)...)
	return d.Container(name)
}

// DockerContainer is a container that runs.
type DockerContainer struct {
	d     *DockerHost
	name  string
	Netns ns.NetNS
}

// Container finds a container that runs, or is about to.
func (d *DockerHost) Container(name string) *DockerContainer {
	d.T.Helper()
	var pid string
	d.WaitFor(name, func() bool {
		var state string
		state, pid, _ = strings.Cut(d.Docker("inspect", "-f", "{{.State.Status}} {{.State.Pid}}", name), " ")
		return state == "running"
	})
	netns, err := ns.GetNS("/proc/" + pid + "/ns/net")
	if err != nil {
		d.T.Fatal(err)
	}
	d.T.Cleanup(func() { netns.Close() })
	return &DockerContainer{d, name, netns}
}

// Interfaces are the container's, but lo.
func (c *DockerContainer) Interfaces() []string {
	c.d.T.Helper()
	var names []string
	err := c.Netns.Do(func(ns.NetNS) error {
		all, err := net.Interfaces()
		for _, i := range all {
			if i.Name != "lo" {
				names = append(names, i.Name)
			}
		}
		return err
	})
	if err != nil {
		c.d.T.Fatal(err)
	}
	slices.Sort(names)
	return names
}

// ExpectInterfaces fails the test unless the container has these, sorted, and lo.
func (c *DockerContainer) ExpectInterfaces(want ...string) {
	c.d.T.Helper()
	if got := c.Interfaces(); !slices.Equal(got, want) {
		c.d.T.Errorf("%s has the interfaces %v, want %v", c.name, got, want)
	}
}

// On is one of the container's interfaces.
func (c *DockerContainer) On(ifName string) Station { return Station{c.name, c.Netns, ifName} }

// CallDriver asks the driver as dockerd does, and returns the HTTP status and the answer.
func CallDriver(call, body string) (status int, answer map[string]any, err error) {
	client := &http.Client{Transport: DriverTransport(DriverSocket), Timeout: time.Minute}
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

// DriverTransport connects to the driver's socket, whatever the address.
func DriverTransport(socket string) *http.Transport {
	return &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return net.Dial("unix", socket) }}
}

// ExpectClean fails the test if anything of a bus is there, or anything that Docker makes for other networks.
func (d *DockerHost) ExpectClean() {
	d.T.Helper()
	ExpectNothing(d.T)
	if files, _ := filepath.Glob(DriverStateDir + "/*.json*"); len(files) > 0 {
		d.T.Errorf("left behind: %v", files)
	}
	d.expectNoBridge()
}

func (d *DockerHost) expectNoBridge() {
	d.T.Helper()
	for _, l := range Links(d.T) {
		if strings.HasPrefix(l.Name, "docker") || strings.HasPrefix(l.Name, "veth") {
			d.T.Errorf("Docker made %s: a container got an interface that nobody asked for", l.Name)
		}
	}
}

// RemoveAll removes a network and its containers, after which nothing of its bus may be there.
func (d *DockerHost) RemoveAll(network, hub string, containers ...string) {
	d.T.Helper()
	d.Docker(append([]string{"rm", "-f"}, containers...)...)
	ExpectBus(d.T, hub, 0)
	d.Docker("network", "rm", network)
	d.ExpectClean()
}

// DockerFromNothing runs the commands from a controller that was just plugged in to a container on it.
func DockerFromNothing(t *testing.T, options ...string) *DockerContainer {
	t.Helper()
	d := StartDocker(t)
	create := []string{"network", "create", "-d", "vxcan", "--ipam-driver", "null", "-o", "hub=slot0", "-o", "physical=true"}
	for _, o := range options {
		create = append(create, "-o", o)
	}
	create = append(create, "engine")
	t.Logf("$ docker %s\n%s", strings.Join(create, " "), d.Docker(create...))
	t.Cleanup(func() { d.Docker("network", "rm", "engine") })
	run := []string{"run", "-d", "--name", "engine1", "--network", "engine", DockerImage}
	t.Logf("$ docker %s\n%s", strings.Join(run, " "), d.Docker(run...))
	t.Logf("the driver: %s\n%s", d.Log(), Command(t, "ip", "-details", "link", "show", "dev", "slot0"))
	t.Cleanup(func() { d.Docker("rm", "-f", "engine1") })
	return d.Container("engine1")
}
