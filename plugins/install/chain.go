package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
)

// span is a part of a text.
type span struct{ from, to int }

// chain returns a configuration list with the entry in it exactly once, or with noEntry, without any. An entry of vxcan that
// is there is replaced where it is, so that nobody quarrels about being the last; else it is put behind the last plugin.
// Every other byte stays as it is.
func chain(list []byte, entry json.RawMessage) ([]byte, error) {
	open, plugins, err := findPlugins(list)
	if err != nil {
		return nil, err
	}
	var ours []int
	for i, plugin := range plugins {
		if typeOf(list[plugin.from:plugin.to]) == pluginType {
			ours = append(ours, i)
		}
	}
	switch {
	case len(ours) > 0 && ours[0] == 0:
		return nil, errors.New("its first plugin is vxcan, so pods would get no IP: give the file a name that sorts behind that of the pod network")
	case isNone(entry):
		return cut(list, plugins, ours), nil
	case len(ours) == 0:
		last := plugins[len(plugins)-1]
		before := span{open, last.from} // what is before the last plugin is put before ours, too
		if len(plugins) > 1 {
			before.from = plugins[len(plugins)-2].to
		}
		space := bytes.Replace(list[before.from:before.to], []byte(","), nil, 1)
		return slices.Concat(list[:last.to], []byte(","), space, entry, list[last.to:]), nil
	}
	list = cut(list, plugins, ours[1:])
	first := plugins[ours[0]]
	if sameJSON(list[first.from:first.to], entry) {
		return list, nil
	}
	return slices.Concat(list[:first.from], entry, list[first.to:]), nil
}

// cut takes plugins out, with the comma before each.
func cut(list []byte, plugins []span, indexes []int) []byte {
	for _, i := range slices.Backward(indexes) {
		list = slices.Concat(list[:plugins[i-1].to], list[plugins[i].to:])
	}
	return list
}

// findPlugins finds the plugins of a configuration list: where their array begins, behind the bracket, and each of them,
// at least one. Where there are two arrays, libcni takes the last.
func findPlugins(list []byte) (open int, plugins []span, err error) {
	d := json.NewDecoder(bytes.NewReader(list))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return 0, nil, fmt.Errorf("not a JSON object: %w", err)
	}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return 0, nil, err
		}
		if key != "plugins" {
			if err := d.Decode(&json.RawMessage{}); err != nil {
				return 0, nil, err
			}
			continue
		}
		if t, err := d.Token(); err != nil || t != json.Delim('[') {
			return 0, nil, fmt.Errorf("key plugins: not an array: %w", err)
		}
		open, plugins = int(d.InputOffset()), nil
		for d.More() {
			var plugin json.RawMessage
			if err := d.Decode(&plugin); err != nil {
				return 0, nil, err
			}
			end := int(d.InputOffset())
			plugins = append(plugins, span{end - len(plugin), end})
		}
		if _, err := d.Token(); err != nil {
			return 0, nil, err
		}
	}
	if len(plugins) == 0 {
		return 0, nil, errors.New("key plugins: no plugin")
	}
	return open, plugins, nil
}

// convert makes a configuration list of the configuration of one plugin, with that as it is.
func convert(plugin []byte, name, cniVersion string) []byte {
	return fmt.Appendf(nil, "{\n  \"name\": %s,\n  \"cniVersion\": %s,\n  \"plugins\": [\n    %s\n  ]\n}\n",
		quote(name), quote(cniVersion), bytes.TrimSpace(plugin))
}

func quote(text string) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(text) // a string can be
	return bytes.TrimSpace(b.Bytes())
}
