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
)

// dockerSocket is where dockerd listens.
const dockerSocket = "/run/docker.sock"

// dockerEndpoint is what Docker calls the container and the network of an endpoint.
type dockerEndpoint struct{ container, network string }

// dockerRuns reports whether there is a process of the number that dockerd has noted.
func dockerRuns() bool {
	pid, err := os.ReadFile("/run/docker.pid")
	if err != nil {
		return false
	}
	_, err = os.Stat("/proc/" + strings.TrimSpace(string(pid)) + "/stat")
	return err == nil
}

// askDocker returns the names of containers that run and their networks, by the IDs of their endpoints. They are a help to
// people: if Docker does not answer at once, there are none.
func askDocker(ctx context.Context, socket string) map[string]dockerEndpoint {
	names := make(map[string]dockerEndpoint)
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
		for network, endpoint := range c.NetworkSettings.Networks {
			if len(c.Names) > 0 {
				names[endpoint.EndpointID] = dockerEndpoint{strings.TrimPrefix(c.Names[0], "/"), network}
			}
		}
	}
	return names
}
