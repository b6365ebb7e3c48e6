package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/vxcan/vxcan/pkg/config"
)

const (
	// labelPrefix is that of the labels of a node; a hub follows.
	labelPrefix = "vxcan.dev/hub-"
	// labelEntry is the label of a node where the hub of vxcan's entry in the pod network is there or is made: what a pod needs
	// that names no hub, on nodes whose entries differ.
	labelEntry = "vxcan.dev/hub"
	labelValue = "true"
	labelPoll  = 5 * time.Second
	// labelAgain is how often labels are read that nothing has changed: somebody else may have. It is also the longest wait after
	// an error.
	labelAgain = 2 * time.Minute
	// labelPatience is at how many looks in a row vxcan must be missing before the labels go. An upgrade takes one or two.
	labelPatience = 4
)

// labeller keeps the labels of a node of Kubernetes: one for each hub that there is, or that vxcan makes for its entry.
type labeller struct {
	node         string
	check        []string // the installer, which prints its entry in the pod network if plugin and entry are in place
	removeOnExit bool
	poll         time.Duration
	hubs         func() ([]string, error)
	set          func(ctx context.Context, labels map[string]string) error // of the node: all of ours

	read bool   // an entry could be read; the last one counts
	hub  string // of that entry; "" if the plugin is there without one
	made bool   // the plugin makes it
}

// keep keeps the labels until ctx ends.
func (l *labeller) keep(ctx context.Context) error {
	var done map[string]string // what the node has by our last look
	var looked time.Time
	said, unready, wait := "", 0, l.poll
	for {
		want, err := l.want(ctx)
		if errors.Is(err, errNotReady) {
			err = nil // the installer's log says why
			if unready++; unready >= labelPatience {
				want = map[string]string{}
			}
		} else if err == nil {
			unready = 0
		}
		before := wait
		wait = l.poll
		if want != nil && (looked.IsZero() || !maps.Equal(done, want) || time.Since(looked) > labelAgain) {
			if errSet := l.set(ctx, want); errSet == nil {
				done, looked = want, time.Now()
			} else {
				err, wait = errors.Join(err, errSet), min(2*before, labelAgain)
			}
		}
		if err == nil {
			said = ""
		} else if ctx.Err() == nil && err.Error() != said {
			slog.Warn(config.OneLine(err), "node", l.node)
			said = err.Error()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

// errNotReady is a node where plugin or entry are not in place.
var errNotReady = errors.New("vxcan is not installed")

// want are the labels that the node is to have, or nil if nobody can tell. While there is something wrong with the entry, the one
// before it counts: the installer leaves that in place.
func (l *labeller) want(ctx context.Context) (map[string]string, error) {
	labels := map[string]string{}
	if l.removeOnExit { // at the end, the account may be gone already
		return labels, nil
	}
	errEntry := l.readEntry(ctx)
	if errors.Is(errEntry, errNotReady) || !l.read {
		return nil, errEntry
	}
	hubs, err := l.hubs()
	if err != nil {
		return nil, errors.Join(errEntry, err)
	}
	if l.made {
		hubs = append(hubs, l.hub)
	}
	if l.hub != "" && slices.Contains(hubs, l.hub) {
		labels[labelEntry] = labelValue
	}
	for _, hub := range hubs {
		if labelName.MatchString(hub) {
			labels[labelPrefix+hub] = labelValue
		}
	}
	return labels, errEntry
}

// readEntry asks the installer for its entry.
func (l *labeller) readEntry(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	const notInPlace = 1 // another status is trouble of its own, such as an entry that is being edited
	content, err := exec.CommandContext(ctx, l.check[0], l.check[1:]...).Output()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit) && exit.ExitCode() == notInPlace:
		return errNotReady
	case exit != nil:
		return fmt.Errorf("%s: %w: %s", l.check[0], err, exit.Stderr)
	case err != nil:
		return fmt.Errorf("%s: %w", l.check[0], err)
	}
	network := config.NewNetwork()
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(content, &keys); err != nil {
		return fmt.Errorf("%s: its entry: %w", l.check[0], err)
	}
	l.read = true
	if len(keys) == 0 {
		l.hub, l.made = "", false
		return nil
	}
	for name, value := range keys {
		_, _ = network.SetJSON(name, value) // the installer refuses what is wrong
	}
	l.hub, l.made = network.Hub.Name, !network.Hub.Physical && config.CanMake(network.Hub.Name)
	return nil
}

// labelName is what Kubernetes allows behind the prefix of a label, and behind ours.
var labelName = regexp.MustCompile(`^[A-Za-z0-9._-]*[A-Za-z0-9]$`)

// patchOf is the JSON merge patch that gives a node which has labels those of ours that it is to have, and no others of
// ours; nil is none.
func patchOf(has, want map[string]string) []byte {
	change := map[string]any{}
	for name := range has {
		if _, ok := want[name]; !ok && (name == labelEntry || strings.HasPrefix(name, labelPrefix)) {
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
