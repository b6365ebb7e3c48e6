package main

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/vxcan/vxcan/pkg/config"
)

const (
	// labelPrefix is that of the labels of a node; a hub follows.
	labelPrefix = "vxcan.dev/hub-"
	labelValue  = "true"
	labelPoll   = 5 * time.Second
	// labelAgain is how often labels are read that nothing has changed: somebody else may have.
	labelAgain = 2 * time.Minute
)

// labeller keeps the labels of a node of Kubernetes: one for each hub that a pod on it can be on now.
type labeller struct {
	node, entry  string // its name, and the file of vxcan's entry in the pod network, or ""
	ready        []string
	removeOnExit bool
	hubs         func() ([]string, error)
	api          nodeAPI
}

// keep keeps the labels until ctx ends.
func (l *labeller) keep(ctx context.Context) error {
	var done map[string]string // what the node has by our last look
	var looked time.Time
	said := ""
	for {
		want, err := l.want(ctx)
		if err == nil && (done == nil || !maps.Equal(done, want) || time.Since(looked) > labelAgain) {
			if err = l.api.set(ctx, want); err == nil {
				done, looked = want, time.Now()
			}
		}
		if err != nil && ctx.Err() == nil && err.Error() != said {
			slog.Warn(config.OneLine(err), "node", l.node)
		}
		said = ""
		if err != nil {
			said = err.Error()
		}
		select {
		case <-ctx.Done():
			if !l.removeOnExit {
				return nil
			}
			last, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			return l.api.set(last, nil)
		case <-time.After(labelPoll):
		}
	}
}

// want are the labels that the node is to have.
func (l *labeller) want(ctx context.Context) (map[string]string, error) {
	labels := map[string]string{}
	if len(l.ready) > 0 {
		ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
		defer cancel()
		if exec.CommandContext(ctx, l.ready[0], l.ready[1:]...).Run() != nil {
			return labels, nil // the installer's log says why
		}
	}
	hubs, err := l.hubs()
	if err != nil {
		return nil, err
	}
	if hub, made := l.hubOfEntry(); made {
		hubs = append(hubs, hub)
	}
	for _, hub := range hubs {
		if labelName.MatchString(hub) {
			labels[labelPrefix+hub] = labelValue
		}
	}
	return labels, nil
}

// labelName is what Kubernetes allows behind the prefix of a label, and behind ours.
var labelName = regexp.MustCompile(`^[A-Za-z0-9._-]*[A-Za-z0-9]$`)

// hubOfEntry is the hub of the entry, and whether the plugin makes it where it is missing.
func (l *labeller) hubOfEntry() (hub string, made bool) {
	if l.entry == "" {
		return "", false
	}
	content, err := os.ReadFile(filepath.Join(filepath.Dir(l.entry), filepath.Base(l.node)+".json"))
	if err != nil {
		if content, err = os.ReadFile(l.entry); err != nil {
			return "", false
		}
	}
	network := config.NewNetwork()
	var keys map[string]json.RawMessage
	if json.Unmarshal(content, &keys) != nil {
		return "", false
	}
	for name, value := range keys {
		_, _ = network.SetJSON(name, value) // the installer refuses what is wrong
	}
	return network.Hub.Name, !network.Hub.Physical && config.CanMake(network.Hub.Name)
}

// nodeAPI sets our labels of a node, all of them.
type nodeAPI interface {
	set(ctx context.Context, labels map[string]string) error
}

// patchOf is the JSON merge patch that gives a node which has labels those of ours that it is to have, and no others of
// ours; nil is none.
func patchOf(has, want map[string]string) []byte {
	change := map[string]any{}
	for name := range has {
		if _, ok := want[name]; !ok && strings.HasPrefix(name, labelPrefix) {
			change[name] = nil
		}
	}
	for name, value := range want {
		if has[name] != value {
			change[name] = value
		}
	}
	if len(change) == 0 {
		return nil
	}
	var b bytes.Buffer
	_ = json.NewEncoder(&b).Encode(map[string]any{"metadata": map[string]any{"labels": change}})
	return b.Bytes()
}
