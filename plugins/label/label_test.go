package main

import (
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestPatchOf(t *testing.T) {
	const hub, other = labelPrefix + "can-engine", labelPrefix + "vcan0"
	for _, c := range []struct {
		has, want map[string]string
		patch     string
	}{
		{nil, nil, ""},
		{map[string]string{"zone": "a"}, nil, ""},
		{map[string]string{"zone": "a", hub: "true"}, map[string]string{hub: "true"}, ""},
		{map[string]string{"zone": "a", hub: "true"}, map[string]string{other: "true"}, `{"metadata":{"labels":{"` + hub + `":null,"` + other + `":"true"}}}`},
		{map[string]string{hub: "false"}, map[string]string{hub: "true"}, `{"metadata":{"labels":{"` + hub + `":"true"}}}`},
	} {
		if got := strings.TrimSpace(string(patchOf(c.has, c.want))); got != c.patch {
			t.Errorf("%v to %v: %s, want %s", c.has, c.want, got, c.patch)
		}
	}
}

// TestLabelsWanted: there is a label for each hub, and for that of the entry if vxcan makes it. There is none while the
// installer's check fails.
func TestLabelsWanted(t *testing.T) {
	entry := filepath.Join(t.TempDir(), "entry.json")
	write := func(name, content string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(filepath.Dir(entry), name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("entry.json", `{"type":"vxcan","hub":"vcan7","capabilities":{}}`)
	write("node2.json", `{"type":"vxcan","hub":"can-engine","physical":true}`)
	for _, c := range []struct {
		node  string
		hubs  []string
		ready string
		want  []string
	}{
		{"node1", []string{"can0", "größe", "_"}, "true", []string{"can0", "vcan7"}},
		{"node1", []string{"vcan7"}, "true", []string{"vcan7"}},
		{"node2", []string{"can0"}, "true", []string{"can0"}},
		{"node1", []string{"can0"}, "false", nil},
	} {
		l := labeller{node: c.node, entry: entry, ready: []string{c.ready}, hubs: func() ([]string, error) { return c.hubs, nil }}
		want := map[string]string{}
		for _, hub := range c.want {
			want[labelPrefix+hub] = "true"
		}
		if got, err := l.want(t.Context()); err != nil || !maps.Equal(got, want) {
			t.Errorf("%+v: %v, %v", c, got, err)
		}
	}
	failing := labeller{hubs: func() ([]string, error) { return nil, errors.New("no kernel") }}
	if got, err := failing.want(t.Context()); err == nil {
		t.Errorf("%v without an error", got)
	}
}

// nodeServer is an API server with one node.
type nodeServer struct {
	labels string // of the node, as JSON
	status int    // of the answer to a patch
	seen   []string
}

func (s *nodeServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	s.seen = append(s.seen, strings.TrimSpace(strings.Join([]string{r.Method, r.URL.Path, r.Header.Get("Authorization"), r.Header.Get("Content-Type"), string(body)}, " ")))
	if r.Method == http.MethodPatch && s.status != 0 {
		w.WriteHeader(s.status)
		_, _ = io.WriteString(w, `{"kind":"Status","message":"not yours"}`)
		return
	}
	_, _ = io.WriteString(w, `{"metadata":{"labels":`+s.labels+`}}`)
}

// TestNodeOfCluster: only a difference is sent, with the token as it is then, and the server's own words are the error.
func TestNodeOfCluster(t *testing.T) {
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := &nodeServer{labels: `{"zone":"a"}`}
	server := httptest.NewServer(s)
	defer server.Close()
	n := &nodeOfCluster{server.URL + "/api/v1/nodes/node1", token, server.Client()}
	if err := n.set(t.Context(), nil); err != nil {
		t.Error(err)
	}
	want := map[string]string{labelPrefix + "vcan0": "true"}
	if err := n.set(t.Context(), want); err != nil {
		t.Error(err)
	}
	const get = "GET /api/v1/nodes/node1 Bearer secret"
	patch := `PATCH /api/v1/nodes/node1 Bearer secret application/merge-patch+json {"metadata":{"labels":{"` + labelPrefix + `vcan0":"true"}}}`
	if got, want := strings.Join(s.seen, "\n"), strings.Join([]string{get, get, patch}, "\n"); got != want {
		t.Errorf("requests\n%s\nwant\n%s", got, want)
	}
	s.status = http.StatusForbidden
	if err := n.set(t.Context(), want); err == nil || !strings.Contains(err.Error(), "403 Forbidden: not yours") {
		t.Error(err)
	}
	server.Close()
	if err := n.set(t.Context(), want); err == nil {
		t.Error("no error without a server")
	}
}

// TestLabelLeaves: at the end the labels go if asked to, as the installer's entry does.
func TestLabelLeaves(t *testing.T) {
	for _, remove := range []bool{false, true} {
		ctx, cancel := context.WithCancel(t.Context())
		api := &setLabels{stop: cancel}
		l := labeller{removeOnExit: remove, api: api, hubs: func() ([]string, error) { return []string{"vcan0"}, nil }}
		if err := l.keep(ctx); err != nil {
			t.Error(err)
		}
		want := []int{1}
		if remove {
			want = append(want, 0)
		}
		if len(api.sizes) != len(want) || api.sizes[len(want)-1] != want[len(want)-1] {
			t.Errorf("remove %v: numbers of labels %v, want %v", remove, api.sizes, want)
		}
	}
}

type setLabels struct {
	sizes []int
	stop  func()
}

func (s *setLabels) set(_ context.Context, labels map[string]string) error {
	s.sizes = append(s.sizes, len(labels))
	s.stop()
	return nil
}

func TestNodeAPIOfPod(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	if _, err := nodeAPIOfPod(""); err == nil || !strings.Contains(err.Error(), "VXCAN_NODE") {
		t.Error(err)
	}
	if _, err := nodeAPIOfPod("node1"); !errors.Is(err, errNoAPI) {
		t.Error(err)
	}
}
