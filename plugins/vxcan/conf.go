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

	"github.com/vxcan/vxcan/pkg/config"
)

// runtimeName is the front end that our attachments belong to.
const runtimeName = "cni"

// conf is the network configuration on stdin. It has of types.PluginConf what is used here: decoding all of it takes a
// tenth of an ADD.
type conf struct {
	Name         string
	CNIVersion   string
	Capabilities map[string]bool
	// RuntimeConfig is what the runtime adds for the capabilities.
	RuntimeConfig struct {
		Annotations map[string]string `json:"io.kubernetes.cri.pod-annotations"`
	}
	// Valid are the attachments that a runtime's GC lists.
	Valid []types.GCAttachment

	network config.Network // our own keys

	rawPrevResult json.RawMessage
	hasList       bool // a GC list was given, perhaps an empty one
	chained       bool // on ADD: behind another plugin
}

// reservedKeys are those that CNI has and that are not used here, and those that runtimes inject.
var reservedKeys = []string{
	"cniVersions", "type", "args", "ipam", "ipMasq", "dns", "disableCheck", "disableGC", "loadOnlyInlinedPlugins", "deviceID", "pciBusID",
}

// parseConf reads and validates the configuration. Its errors name the key and what is allowed. What could be read is
// returned also with an error, unless that is none at all.
func parseConf(stdin []byte) (*conf, error) {
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(stdin, &keys); err != nil {
		return nil, fmt.Errorf("configuration is not a JSON object: %w", err)
	}
	if keys == nil {
		return nil, fmt.Errorf("%w configuration: JSON null, want an object", config.ErrInvalid)
	}
	c := &conf{network: config.NewNetwork()}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(keys)) {
		known, err := c.network.SetJSON(name, keys[name])
		if err == nil && !known {
			known, err = c.set(name, keys[name])
		}
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("key %q: %w", name, err))
		case !known:
			errs = append(errs, fmt.Errorf("%w key %q: the keys of vxcan are %s", config.ErrInvalid, name, strings.Join(config.KeyNames(config.CNI), ", ")))
		}
	}
	if err := c.network.Check(); err != nil {
		errs = append(errs, err)
	}
	if c.network.Lent && c.podDecides() {
		errs = append(errs, fmt.Errorf("%w: lent is for containers of a user, not for pods: leave out the capability %s", config.ErrInvalid, annotationsCapability))
	}
	return c, errors.Join(errs...)
}

// set takes a key of CNI's over.
func (c *conf) set(name string, value json.RawMessage) (known bool, err error) {
	switch name {
	case "name":
		err = json.Unmarshal(value, &c.Name)
	case "cniVersion":
		err = json.Unmarshal(value, &c.CNIVersion)
	case "capabilities":
		err = json.Unmarshal(value, &c.Capabilities)
	case "runtimeConfig":
		err = json.Unmarshal(value, &c.RuntimeConfig)
	case "prevResult":
		if string(value) != "null" {
			c.rawPrevResult, c.chained = value, true
			err = json.Unmarshal(value, &map[string]json.RawMessage{})
		}
	case "cni.dev/valid-attachments", "cni.dev/attachments": // of libcni, and of the specification
		var valid []types.GCAttachment
		err = json.Unmarshal(value, &valid)
		c.Valid, c.hasList = append(c.Valid, valid...), true
	default:
		return slices.Contains(reservedKeys, name) || strings.HasPrefix(name, "cni.dev/"), nil
	}
	var wrong *json.UnmarshalTypeError
	if errors.As(err, &wrong) {
		err = fmt.Errorf("%w value: JSON %s, want what the CNI specification says", config.ErrInvalid, wrong.Value)
	}
	return true, err
}

// interfaceName is the name that ADD gives the interface in the container. In a chain, CNI_IFNAME is the first plugin's
// interface. Alone, it is ours.
func (c *conf) interfaceName(ifName string) string {
	switch {
	case c.chained && c.network.Interface == "":
		return config.DefaultInterface
	case c.chained:
		return c.network.Interface
	}
	return config.InterfaceName(ifName, c.network.Interface)
}

// prevResult is the result of the plugins before us, or of ADD, as the newest type; nil if there is none.
func (c *conf) prevResult() (*types100.Result, error) {
	if c.rawPrevResult == nil {
		return nil, nil
	}
	result, err := version.NewResult(c.CNIVersion, c.rawPrevResult)
	if err != nil {
		return nil, fmt.Errorf(`%w key "prevResult": %w`, config.ErrInvalid, err)
	}
	newest, err := types100.NewResultFromResult(result)
	if err != nil {
		return nil, fmt.Errorf(`%w key "prevResult": %w`, config.ErrInvalid, err)
	}
	return newest, nil
}
