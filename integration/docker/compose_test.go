package docker

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vxcan/vxcan/integration/harness"
	"github.com/vxcan/vxcan/pkg/cantest"
)

// compose is a project of Docker Compose.
type compose struct {
	d    *harness.DockerHost
	file string
}

// newCompose is a project that is gone at the end of the test.
func newCompose(d *harness.DockerHost, file string) compose {
	d.T.Helper()
	c := compose{d, file}
	d.T.Cleanup(func() { _, _ = c.try("down", "--timeout", "0") })
	return c
}

func (c compose) try(args ...string) (string, error) {
	return harness.Try("docker-compose", append([]string{"-p", "test", "-f", c.file}, args...)...)
}

func (c compose) do(args ...string) {
	c.d.T.Helper()
	if _, err := c.try(args...); err != nil {
		c.d.T.Fatal(err)
	}
}

// id is the container of a service.
func (c compose) id(service string) string {
	c.d.T.Helper()
	return c.d.Docker("ps", "-a", "-q", "--filter", "label=com.docker.compose.service="+service)
}

func (c compose) container(service string) *harness.DockerContainer {
	c.d.T.Helper()
	return c.d.Container(c.id(service))
}

// waitForLog waits until a service has said all these words, and returns what it has said.
func (c compose) waitForLog(service string, words ...string) (log string) {
	c.d.T.Helper()
	id, missing := c.id(service), ""
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		log, missing = c.d.Docker("logs", id), ""
		for _, w := range words {
			if !strings.Contains(log, w) {
				missing = w
			}
		}
		if missing == "" {
			return log
		}
	}
	c.d.T.Fatalf("%s does not say %s:\n%s", service, missing, log)
	return ""
}

// down removes a project.
func (c compose) down() {
	c.d.T.Helper()
	c.do("down", "--timeout", "0")
	c.d.ExpectClean()
}

// TestCompose: the files of conflist/ do what they say, with the image that they name. Containers are there again after
// Docker was started again.
func TestCompose(t *testing.T) {
	d := harness.StartDocker(t)
	t.Logf("Docker %s, %s", d.Version(), harness.FirstLine(harness.Command(t, "docker-compose", "version")))
	d.Docker("load", "-i", harness.ImageArchive(d.T, "can-utils:latest", "candump", "cangen"))
	t.Run("a virtual bus", sub(d, testCompose))
	t.Run("a controller", sub(d, testComposeController))
	t.Run("a predecessor's file", sub(d, testComposePredecessors))
	if major, err := strconv.Atoi(d.MajorVersion()); err != nil || major >= 28 {
		t.Run("names", sub(d, testComposeNames))
	}
}

// again stops the daemon and starts it.
func again(d *harness.DockerHost) {
	d.T.Helper()
	d.StopDaemon(os.Interrupt)
	d.StartDaemon()
}

func testCompose(d *harness.DockerHost) {
	c := newCompose(d, harness.Repo("conflist/docker/compose.yaml"))
	c.do("up", "-d")
	harness.ExpectBus(d.T, "vcan0", 2)
	c.container("engine").ExpectInterfaces("can0")
	c.container("dashboard").ExpectInterfaces("can0", "eth0")
	fromEngine := cantest.Listen(d.T, nil, "vcan0")
	if err := cantest.NewSender(d.T, nil, "vcan0").Send(cantest.Frame{ID: 0x456, Data: "3"}); err != nil {
		d.T.Fatal(err)
	}
	d.T.Logf("dashboard:\n%s", c.waitForLog("dashboard", "456   [1]  33"))
	d.WaitFor("a frame of engine", func() bool { return fromEngine.Total() > 0 })

	again(d)
	dashboard := c.container("dashboard")
	c.container("engine").ExpectInterfaces("can0")
	dashboard.ExpectInterfaces("can0", "eth0")
	harness.ExpectBus(d.T, "vcan0", 2)
	d.Docker("rm", "-f", c.id("engine")) // whose frames nobody expects
	harness.ExpectExactlyOnce(d.T, []harness.Station{harness.Host("vcan0"), dashboard.On("can0")}, 50, true)
	c.down()
}

// testComposeController: from a controller that was just plugged in. The container shows frames and error frames of its
// wire.
func testComposeController(d *harness.DockerHost) {
	controller := cantest.NewController(d.T, "can-engine")
	c := newCompose(d, harness.Repo("conflist/controller/compose.yaml"))
	c.do("up", "-d")
	harness.WaitForState(d.T, "can-engine", `"bittiming_bitrate":500000`, `"txqlen":1000`, `"operstate":"UP"`)
	again(d)
	harness.ExpectOnWire(d.T, controller, []harness.Station{harness.Host("can-engine"), c.container("engine").On("can0")}, 20)
	if err := controller.Send(cantest.Frame{ID: 0x123, Data: "\x11\x22"}); err != nil {
		d.T.Fatal(err)
	}
	for _, line := range harness.ErrorLines {
		if err := controller.WriteRaw(line); err != nil {
			d.T.Fatal(err)
		}
	}
	log := c.waitForLog("engine", append([]string{"123   [2]  11 22"}, harness.ErrorWords...)...)
	d.T.Logf("engine:\n%s", log[strings.LastIndex(log, "123   [2]  11 22"):])
	c.down()
}

// testComposeNames: a gateway on two buses has the names that plugins/docker says.
func testComposeNames(d *harness.DockerHost) {
	const networks = "networks: {canbus0: {interface_name: can0}, canbus1: {interface_name: can1}}"
	page, err := os.ReadFile(harness.Repo("plugins/docker/README.md"))
	if err != nil || !strings.Contains(string(page), networks) {
		d.T.Errorf("the page lacks %s (%v)", networks, err)
	}
	network := func(number string) string {
		return "  canbus" + number + `: {driver: vxcan, driver_opts: {hub: vcan` + number + `}, ipam: {driver: "null"}}` + "\n"
	}
	path := filepath.Join(d.T.TempDir(), "compose.yaml")
	harness.Write(d.T, path, "services:\n  gateway:\n    image: can-utils\n    command: candump any\n    "+networks+"\nnetworks:\n"+network("0")+network("1"))
	c := newCompose(d, path)
	c.do("up", "-d")
	gateway := c.container("gateway")
	gateway.ExpectInterfaces("can0", "can1")
	for _, number := range []string{"0", "1"} {
		harness.ExpectExactlyOnce(d.T, []harness.Station{harness.Host("vcan" + number), gateway.On("can" + number)}, 20, true)
	}
	c.down()
}

// testComposePredecessors: a file for the drivers that vxcan's users come from needs another driver, and the IPAM driver
// null. Without that, Compose says so.
func testComposePredecessors(d *harness.DockerHost) {
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
	path := filepath.Join(d.T.TempDir(), "docker-compose.yml")
	harness.Write(d.T, path, file)
	c := newCompose(d, path)
	if _, err := c.try("up", "-d"); err == nil || !strings.Contains(err.Error(), "add --ipam-driver null") {
		d.T.Errorf("without an ipam driver: %v", err)
	} else {
		d.T.Log(err)
	}
	harness.Write(d.T, path, file+"    ipam: {driver: \"null\"}\n")
	c.do("up", "-d")
	harness.ExpectExactlyOnce(d.T, []harness.Station{harness.Host("vcan0"), c.container("app").On("can0")}, 50, true)
	c.down()
}
