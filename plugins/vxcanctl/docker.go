package main

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/textproto"
	"os"
	"strings"
	"time"

	"github.com/vxcan/vxcan/pkg/bus"
)

// dockerSocket is where dockerd listens.
const dockerSocket = "/run/docker.sock"

// named is a looker that asks Docker for the names of its containers: a network driver is told none.
type named struct{ looker }

func (n named) Status(ctx context.Context, hubs ...string) ([]bus.BusStatus, error) {
	all, err := n.looker.Status(ctx, hubs...)
	var names map[string]string
	for _, s := range all {
		for i, e := range s.Endpoints {
			if e.Runtime != "docker" || e.Name != "" {
				continue
			}
			if names == nil {
				if names = map[string]string{}; dockerRuns() { // else systemd would start it for the question
					names = dockerNames(ctx, dockerSocket)
				}
			}
			s.Endpoints[i].Name = names[e.ContainerID]
		}
	}
	return all, err
}

// dockerRuns reports whether there is a process of the number that dockerd has noted.
func dockerRuns() bool {
	pid, err := os.ReadFile("/run/docker.pid")
	if err != nil {
		return false
	}
	_, err = os.Stat("/proc/" + strings.TrimSpace(string(pid)) + "/stat")
	return err == nil
}

// dockerNames are the names of Docker's containers that run, by the IDs of their endpoints. They are a help to people: if
// Docker does not answer at once, there are none.
func dockerNames(ctx context.Context, socket string) map[string]string {
	names := make(map[string]string)
	deadline := time.Now().Add(time.Second)
	dialer := net.Dialer{Deadline: deadline}
	conn, err := dialer.DialContext(ctx, "unix", socket)
	if err != nil {
		return names
	}
	defer conn.Close()
	_ = conn.SetDeadline(deadline)
	// One request in the form that is answered in one piece. net/http would make vxcanctl twice as large.
	_, _ = io.WriteString(conn, "GET /containers/json HTTP/1.0\r\n\r\n")
	answer := textproto.NewReader(bufio.NewReader(conn))
	_, _ = answer.ReadLine() // of a failure the document is no list
	_, _ = answer.ReadMIMEHeader()
	var containers []struct {
		Names           []string
		NetworkSettings struct {
			Networks map[string]struct{ EndpointID string }
		}
	}
	_ = json.NewDecoder(answer.R).Decode(&containers)
	for _, c := range containers {
		for _, endpoint := range c.NetworkSettings.Networks {
			if len(c.Names) > 0 {
				names[endpoint.EndpointID] = strings.TrimPrefix(c.Names[0], "/")
			}
		}
	}
	return names
}
