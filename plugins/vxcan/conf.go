package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/vxcan/vxcan/pkg/bus"
)

// runtimeName is the front end that our attachments belong to.
const runtimeName = "cni"

// conf is the network configuration on stdin.
type conf struct {
	types.PluginConf
	bus bus.Config // our own keys

	RuntimeConfig struct {
		Annotations map[string]string `json:"io.kubernetes.cri.pod-annotations"`
	} `json:"runtimeConfig"`
	// Attachments is the name that the CNI specification has for ValidAttachments.
	Attachments []types.GCAttachment `json:"cni.dev/attachments"`

	hasList bool // a GC list was given, perhaps an empty one
	chained bool // on ADD: behind another plugin
}

// reservedKeys are those that CNI has, or that runtimes inject.
var reservedKeys = []string{
	"cniVersion", "cniVersions", "name", "type", "args", "capabilities", "runtimeConfig", "prevResult",
	"ipam", "ipMasq", "dns", "disableCheck", "disableGC", "loadOnlyInlinedPlugins", "deviceID", "pciBusID",
}

const reservedPrefix = "cni.dev/"

// parseConf reads and validates the configuration. Its errors name the key and what is allowed. What could be read is
// returned also with an error, unless that is none at all.
func parseConf(stdin []byte) (*conf, error) {
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(stdin, &keys); err != nil {
		return nil, fmt.Errorf("configuration is not a JSON object: %w", err)
	}
	if keys == nil {
		return nil, fmt.Errorf("%w configuration: JSON null, want an object", bus.ErrInvalid)
	}
	c := &conf{bus: bus.NewConfig()}
	err := json.Unmarshal(stdin, c)
	var wrong *json.UnmarshalTypeError
	if errors.As(err, &wrong) {
		err = fmt.Errorf("%w key %q: JSON %s", bus.ErrInvalid, strings.TrimPrefix(wrong.Field, "PluginConf."), wrong.Value)
	} else if err != nil {
		return nil, err
	}
	_, valid := keys["cni.dev/valid-attachments"]
	_, attachments := keys["cni.dev/attachments"]
	c.hasList = valid || attachments
	c.chained = c.RawPrevResult != nil
	errs := []error{err}
	for _, name := range slices.Sorted(maps.Keys(keys)) {
		known, err := c.bus.SetJSON(name, keys[name])
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("key %q: %w", name, err))
		case !known && !slices.Contains(reservedKeys, name) && !strings.HasPrefix(name, reservedPrefix):
			errs = append(errs, fmt.Errorf("%w key %q: the keys of vxcan are %s", bus.ErrInvalid, name, strings.Join(bus.KeyNames(bus.CNI), ", ")))
		}
	}
	if err := c.bus.Check(); err != nil {
		errs = append(errs, err)
	}
	return c, errors.Join(errs...)
}

// interfaceName is the name that ADD gives the interface in the container. In a chain, CNI_IFNAME is the first plugin's
// interface. Alone, it is ours.
func (c *conf) interfaceName(ifName string) string {
	switch {
	case c.chained && c.bus.Interface == "":
		return bus.DefaultInterface
	case c.chained:
		return c.bus.Interface
	}
	return bus.InterfaceName(ifName, c.bus.Interface)
}

// prevResult is the result of the plugins before us, or of ADD, as the newest type; nil if there is none.
func (c *conf) prevResult() (*types100.Result, error) {
	if c.RawPrevResult == nil {
		return nil, nil
	}
	// Takes the raw one away.
	if err := version.ParsePrevResult(&c.PluginConf); err != nil {
		return nil, fmt.Errorf(`%w key "prevResult": %w`, bus.ErrInvalid, err)
	}
	result, err := types100.NewResultFromResult(c.PrevResult)
	if err != nil {
		return nil, fmt.Errorf(`%w key "prevResult": %w`, bus.ErrInvalid, err)
	}
	return result, nil
}
