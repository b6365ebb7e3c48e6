package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vxcan/vxcan/pkg/cantest"
)

// compose is a project of Docker Compose.
type compose struct {
	d    *dockerHost
	file string
}

// newCompose is a project that is gone at the end of the test.
func (d *dockerHost) newCompose(file string) compose {
	d.t.Helper()
	c := compose{d, file}
	d.t.Cleanup(func() { _, _ = c.try("down", "--timeout", "0") })
	return c
}

func (c compose) try(args ...string) (string, error) {
	return try("docker-compose", append([]string{"-p", "test", "-f", c.file}, args...)...)
}

func (c compose) do(args ...string) {
	c.d.t.Helper()
	if _, err := c.try(args...); err != nil {
		c.d.t.Fatal(err)
	}
}

// id is the container of a service.
func (c compose) id(service string) string {
	c.d.t.Helper()
	return c.d.docker("ps", "-a", "-q", "--filter", "label=com.docker.compose.service="+service)
}

func (c compose) container(service string) *dockerContainer {
	c.d.t.Helper()
	return c.d.container(c.id(service))
}

// waitForLog waits until a service has said all these words, and returns what it has said.
func (c compose) waitForLog(service string, words ...string) (log string) {
	c.d.t.Helper()
	id, missing := c.id(service), ""
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		log, missing = c.d.docker("logs", id), ""
		for _, w := range words {
			if !strings.Contains(log, w) {
				missing = w
			}
		}
		if missing == "" {
			return log
		}
	}
	c.d.t.Fatalf("%s does not say %s:\n%s", service, missing, log)
	return ""
}

// down removes a project.
func (c compose) down() {
	c.d.t.Helper()
	c.do("down", "--timeout", "0")
	c.d.expectClean()
}

// TestCompose: the files of conflist/ do what they say, with the image that they name. Containers are there again after
// Docker was started again.
func TestCompose(t *testing.T) {
	d := startDocker(t)
	t.Logf("Docker %s, %s", d.version(), firstLine(command(t, "docker-compose", "version")))
	d.docker("load", "-i", imageArchive(d.t, "can-utils:latest", "candump", "cangen"))
	t.Run("a virtual bus", d.sub((*dockerHost).testCompose))
	t.Run("a controller", d.sub((*dockerHost).testComposeController))
	t.Run("a predecessor's file", d.sub((*dockerHost).testComposePredecessors))
}

// again stops the daemon and starts it.
func (d *dockerHost) again() {
	d.t.Helper()
	d.stopDaemon(os.Interrupt)
	d.startDaemon()
}

func (d *dockerHost) testCompose() {
	c := d.newCompose("../conflist/docker/compose.yaml")
	c.do("up", "-d")
	expectBus(d.t, "vcan0", 2)
	c.container("engine").expectInterfaces("can0")
	c.container("dashboard").expectInterfaces("can0", "eth0")
	fromEngine := cantest.Listen(d.t, nil, "vcan0")
	if err := cantest.NewSender(d.t, nil, "vcan0").Send(cantest.Frame{ID: 0x456, Data: "3"}); err != nil {
		d.t.Fatal(err)
	}
	d.t.Logf("dashboard:\n%s", c.waitForLog("dashboard", "456   [1]  33"))
	d.waitFor("a frame of engine", func() bool { return fromEngine.Total() > 0 })

	d.again()
	dashboard := c.container("dashboard")
	c.container("engine").expectInterfaces("can0")
	dashboard.expectInterfaces("can0", "eth0")
	expectBus(d.t, "vcan0", 2)
	d.docker("rm", "-f", c.id("engine")) // whose frames nobody expects
	expectExactlyOnce(d.t, []station{{"host", nil, "vcan0"}, dashboard.on("can0")}, 50, true)
	c.down()
}

// testComposeController: from a controller that was just plugged in. The container shows frames and error frames of its
// wire.
func (d *dockerHost) testComposeController() {
	controller := cantest.NewController(d.t, "can-engine")
	c := d.newCompose("../conflist/controller/compose.yaml")
	c.do("up", "-d")
	waitForState(d.t, "can-engine", `"bittiming_bitrate":500000`, `"txqlen":1000`, `"operstate":"UP"`)
	d.again()
	expectOnWire(d.t, controller, []station{{"host", nil, "can-engine"}, c.container("engine").on("can0")}, 20)
	if err := controller.Send(cantest.Frame{ID: 0x123, Data: "\x11\x22"}); err != nil {
		d.t.Fatal(err)
	}
	for _, line := range errorLines {
		if err := controller.WriteRaw(line); err != nil {
			d.t.Fatal(err)
		}
	}
	log := c.waitForLog("engine", append([]string{"123   [2]  11 22"}, errorWords...)...)
	d.t.Logf("engine:\n%s", log[strings.LastIndex(log, "123   [2]  11 22"):])
	c.down()
}

// testComposePredecessors: a file for the drivers that vxcan's users come from needs another driver, and the IPAM driver
// null. Without that, Compose says so.
func (d *dockerHost) testComposePredecessors() {
	const file = `version: "3"
services:
  app:
    image: can-utils
    command: candump can0
    networks: [canbus0]
networks:
  canbus0:
    driver: vxcan
    driver_opts:
      vxcan.dev: vcan
      vxcan.peer: can
      vxcan.id: 0
`
	path := filepath.Join(d.t.TempDir(), "docker-compose.yml")
	write(d.t, path, file)
	c := d.newCompose(path)
	if _, err := c.try("up", "-d"); err == nil || !strings.Contains(err.Error(), "add --ipam-driver null") {
		d.t.Errorf("without an ipam driver: %v", err)
	} else {
		d.t.Log(err)
	}
	write(d.t, path, file+"    ipam: {driver: \"null\"}\n")
	c.do("up", "-d")
	expectExactlyOnce(d.t, []station{{"host", nil, "vcan0"}, c.container("app").on("can0")}, 50, true)
	c.down()
}
