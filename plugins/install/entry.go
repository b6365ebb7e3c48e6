package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/vxcan/vxcan/pkg/config"
)

// pluginType is the name of the plugin, and of its file.
const pluginType = "vxcan"

// annotations is the capability by which the plugin gets the annotations of a pod.
const annotations = "io.kubernetes.cri.pod-annotations"

// defaultEntry attaches the pods whose annotation asks for it.
const defaultEntry = `{"type":"vxcan","capabilities":{"` + annotations + `":true}}`

// noEntry is the entry for the plugin alone, such as beside Multus: none is put into the pod network, and ours is taken out.
const noEntry = `{}`

func isNone(entry json.RawMessage) bool { return string(entry) == noEntry }

// entryOfNode is what readEntry takes: where beside the file of the entry is one of this node's name, that one. So a ConfigMap
// has the entries of nodes that differ, whose adapters have different names for instance.
func (o options) entryOfNode() string {
	if o.node == "" || isJSON(o.entry) {
		return o.entry
	}
	own := filepath.Join(filepath.Dir(o.entry), filepath.Base(o.node)+".json")
	if _, err := os.Stat(own); errors.Is(err, fs.ErrNotExist) { // one that cannot be read is not replaced by another
		return o.entry
	}
	return own
}

func isJSON(entry string) bool { return strings.HasPrefix(strings.TrimSpace(entry), "{") }

// readEntry reads the entry from a file, or takes the JSON itself, and validates it.
func readEntry(from string) (json.RawMessage, error) {
	if isJSON(from) {
		return parseEntry([]byte(from))
	}
	content, err := os.ReadFile(from)
	if err != nil {
		return nil, fmt.Errorf("%w entry: read it: %w", errUsage, err)
	}
	entry, err := parseEntry(content)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", from, err)
	}
	return entry, nil
}

// parseEntry returns the entry on one line. It refuses what the plugin would refuse: at every pod of the node, that is.
func parseEntry(content []byte) (json.RawMessage, error) {
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(content, &keys); err != nil {
		return nil, fmt.Errorf("%w entry: want a JSON object like %s: %w", errUsage, defaultEntry, err)
	}
	if len(keys) == 0 { // or null, which Helm makes of a value that is taken away
		return json.RawMessage(noEntry), nil
	}
	var errs []error
	network := config.NewNetwork()
	capabilities := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(keys)) {
		known, err := true, error(nil)
		switch name {
		case "type":
		case "capabilities":
			err = json.Unmarshal(keys[name], &capabilities)
		default:
			known, err = network.SetJSON(name, keys[name])
		}
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("key %q: %w", name, err))
		case !known:
			errs = append(errs, fmt.Errorf("key %q: not one of type, capabilities, %s", name, strings.Join(config.KeyNames(config.CNI), ", ")))
		}
	}
	if typeOf(content) != pluginType {
		errs = append(errs, fmt.Errorf(`key "type": want %q`, pluginType))
	}
	if network.Hub.Span.Nodes && !capabilities[annotations] {
		errs = append(errs, fmt.Errorf(`key "hosts": nodes needs "capabilities": {%q: true}: else the pods of DNS would wait for DNS`, annotations))
	}
	if err := errors.Join(append(errs, network.Check())...); err != nil {
		return nil, fmt.Errorf("%w entry: %s", errUsage, config.OneLine(err))
	}
	var line bytes.Buffer
	err := json.Compact(&line, content)
	return line.Bytes(), err
}

// typeOf is the type of a plugin's configuration, as libcni reads it.
func typeOf(plugin []byte) string {
	var p struct {
		Type string `json:"type"`
	}
	_ = json.Unmarshal(plugin, &p) // then it has none
	return p.Type
}

// sameJSON reports whether two texts are the same but for spaces, the order of keys and the format of numbers: others that
// chain themselves into the network write all of it anew.
func sameJSON(a, b []byte) bool {
	var x, y any
	return json.Unmarshal(a, &x) == nil && json.Unmarshal(b, &y) == nil && reflect.DeepEqual(x, y)
}
