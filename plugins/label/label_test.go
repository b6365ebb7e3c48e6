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
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
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
		{map[string]string{labelEntry: "true", "vxcan.dev/other": "x"}, nil, `{"metadata":{"labels":{"` + labelEntry + `":null}}}`},
		{map[string]string{hub: "false"}, map[string]string{hub: "true"}, `{"metadata":{"labels":{"` + hub + `":"true"}}}`},
	} {
		if got := strings.TrimSpace(string(patchOf(c.has, c.want))); got != c.patch {
			t.Errorf("%v to %v: %s, want %s", c.has, c.want, got, c.patch)
		}
	}
}

// says is an installer that prints an entry, and ends with a status.
func says(entry string, status int) []string {
	return []string{"sh", "-c", `printf %s "$1"; exit "$2"`, "sh", entry, strconv.Itoa(status)}
}

// TestLabelsWanted: there is a label for each hub, and for that of the entry if vxcan makes it.
func TestLabelsWanted(t *testing.T) {
	const made = `{"type":"vxcan","hub":"vcan7","capabilities":{}}`
	const adapter = `{"type":"vxcan","hub":"can-engine","physical":true}`
	const none = `{}` // the plugin alone, such as for Multus
	for _, c := range []struct {
		check []string
		hubs  []string
		want  []string
	}{
		{says(made, 0), []string{"can0", "größe", "_"}, []string{labelPrefix + "can0", labelPrefix + "vcan7", labelEntry}},
		{says(made, 0), []string{"vcan7"}, []string{labelPrefix + "vcan7", labelEntry}},
		{says(adapter, 0), []string{"can0"}, []string{labelPrefix + "can0"}},
		{says(none, 0), []string{"can0", "vcan0"}, []string{labelPrefix + "can0", labelPrefix + "vcan0"}},
		{says(none, 0), nil, nil},
		{says(adapter, 0), []string{"can0", "can-engine"}, []string{labelPrefix + "can0", labelPrefix + "can-engine", labelEntry}},
	} {
		l := labeller{check: c.check, hubs: func() ([]string, error) { return c.hubs, nil }}
		want := map[string]string{}
		for _, label := range c.want {
			want[label] = "true"
		}
		if got, err := l.want(t.Context()); err != nil || !maps.Equal(got, want) {
			t.Errorf("%+v: %v, %v", c, got, err)
		}
	}
	for _, l := range []labeller{
		{check: says(made, 0), hubs: func() ([]string, error) { return nil, errors.New("no kernel") }},
		{check: says(made, 2)},
		{check: says("{", 0)},
		{check: []string{"/no/such/program"}},
	} {
		if got, err := l.want(t.Context()); err == nil || errors.Is(err, errNotReady) {
			t.Errorf("%v: %v, %v", l.check, got, err)
		}
	}
	l := labeller{check: says(made, 0), hubs: func() ([]string, error) { return nil, nil }}
	if _, err := l.want(t.Context()); err != nil {
		t.Error(err)
	}
	l.check = []string{"sh", "-c", "echo no JSON >&2; exit 2"} // the entry of before counts
	if got, err := l.want(t.Context()); !maps.Equal(got, map[string]string{labelPrefix + "vcan7": "true", labelEntry: "true"}) ||
		err == nil || !strings.Contains(err.Error(), "no JSON") {
		t.Errorf("an entry that is wrong: %v, %v", got, err)
	}
	if _, err := (&labeller{check: says("", 1)}).want(t.Context()); !errors.Is(err, errNotReady) {
		t.Errorf("not in place: %v", err)
	}
	leaving := labeller{check: says(made, 0), removeOnExit: true, hubs: func() ([]string, error) { return []string{"can0"}, nil }}
	if got, err := leaving.want(t.Context()); err != nil || len(got) > 0 {
		t.Errorf("with --remove-on-exit: %v, %v", got, err)
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

// TestLabelPatience: the labels go when vxcan has been missing for some looks, not for one; and not while nobody can tell.
func TestLabelPatience(t *testing.T) {
	in, out := func() ([]string, error) { return []string{"vcan0"}, nil }, func() ([]string, error) { return nil, errNotReady }
	broken := func() ([]string, error) { return nil, errors.New("no kernel") }
	looks := []func() ([]string, error){in, out, broken, in}
	for range labelPatience {
		looks = append(looks, out)
	}
	looks = append(looks, in)
	ctx, cancel := context.WithCancel(t.Context())
	api := &setLabels{}
	l := labeller{check: says(`{"type":"vxcan"}`, 0), poll: time.Millisecond, set: api.set, hubs: func() ([]string, error) {
		look := looks[0]
		if looks = looks[1:]; len(looks) == 0 {
			cancel()
		}
		return look()
	}}
	if err := l.keep(ctx); err != nil {
		t.Error(err)
	}
	if want := []int{2, 0, 2}; !slices.Equal(api.sizes, want) {
		t.Errorf("numbers of labels %v, want %v", api.sizes, want)
	}
}

type setLabels struct{ sizes []int }

func (s *setLabels) set(_ context.Context, labels map[string]string) error {
	s.sizes = append(s.sizes, len(labels))
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
