package main

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"testing"
	"time"
)

// TestAskDocker: the names in an answer, and none, in time, when there is no answer or no Docker.
func TestAskDocker(t *testing.T) {
	const list = `[{"Names":["/engine"],"NetworkSettings":{"Networks":{"canbus0":{"EndpointID":"e1"},"wire":{"EndpointID":"e2"}}}},{"Names":[]}]`
	for name, test := range map[string]struct {
		answer string
		want   int
	}{
		"answer":  {"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n" + list, 2},
		"refusal": {"HTTP/1.0 500 Internal Server Error\r\n\r\n{\"message\":\"no\"}", 0},
		"silence": {},
	} {
		t.Run(name, func(t *testing.T) {
			socket := filepath.Join(t.TempDir(), "docker.sock")
			l, err := net.Listen("unix", socket)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			go func() {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = http.ReadRequest(bufio.NewReader(conn)) // who is answered before he has asked may not hear it
				_, _ = io.WriteString(conn, test.answer)
				if test.answer != "" {
					conn.Close()
				}
			}()
			start := time.Now()
			names := askDocker(t.Context(), socket)
			if took := time.Since(start); took > 10*time.Second {
				t.Errorf("it took %v", took)
			}
			if len(names) != test.want || test.want > 0 && (names["e1"] != dockerEndpoint{"engine", "canbus0"} || names["e2"] != dockerEndpoint{"engine", "wire"}) {
				t.Errorf("%v", names)
			}
		})
	}
	if names := askDocker(t.Context(), filepath.Join(t.TempDir(), "none")); len(names) > 0 {
		t.Errorf("without Docker: %v", names)
	}
}
