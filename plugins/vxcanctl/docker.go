package main

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

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
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://docker/containers/json", nil)
	if err != nil {
		return names
	}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}
	client := http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
	answer, err := client.Do(request)
	if err != nil {
		return names
	}
	defer answer.Body.Close()
	var containers []struct {
		Names           []string
		NetworkSettings struct {
			Networks map[string]struct{ EndpointID string }
		}
	}
	_ = json.NewDecoder(answer.Body).Decode(&containers) // of a failure the document is no list
	for _, c := range containers {
		for network, endpoint := range c.NetworkSettings.Networks {
			if len(c.Names) > 0 {
				names[endpoint.EndpointID] = dockerEndpoint{strings.TrimPrefix(c.Names[0], "/"), network}
			}
		}
	}
	return names
}
