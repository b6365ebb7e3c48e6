package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
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

	Hub       string `json:"hub"`
	Physical  bool   `json:"physical"`
	Interface string `json:"interface"`
	MTU       int    `json:"mtu"`
	// PodHubs are the other hubs that a pod's annotation may name: names, or prefixes with * behind them.
	PodHubs []string `json:"pod-hubs"`

	RuntimeConfig struct {
		Annotations map[string]string `json:"io.kubernetes.cri.pod-annotations"`
	} `json:"runtimeConfig"`
	// Attachments is the name that the CNI specification has for ValidAttachments.
	Attachments []types.GCAttachment `json:"cni.dev/attachments"`

	hasList bool // a GC list was given, perhaps an empty one
	chained bool // on ADD: behind another plugin
}

// ownKeys are ours. Others are refused, unless CNI reserves them or a runtime injects them.
var (
	ownKeys      = []string{"hub", "interface", "mtu", "physical", "pod-hubs"}
	reservedKeys = []string{
		"cniVersion", "cniVersions", "name", "type", "args", "capabilities", "runtimeConfig", "prevResult",
		"ipam", "ipMasq", "dns", "disableCheck", "disableGC", "loadOnlyInlinedPlugins", "deviceID", "pciBusID",
	}
)

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
	c := &conf{Hub: bus.DefaultHub}
	err := json.Unmarshal(stdin, c)
	var wrong *json.UnmarshalTypeError
	if errors.As(err, &wrong) {
		key := strings.TrimPrefix(wrong.Field, "PluginConf.")
		return c, fmt.Errorf("%w key %q: JSON %s, want %s", bus.ErrInvalid, key, wrong.Value, jsonWord(wrong.Type.Kind()))
	} else if err != nil {
		return nil, err
	}
	_, valid := keys["cni.dev/valid-attachments"]
	_, attachments := keys["cni.dev/attachments"]
	c.hasList = valid || attachments
	c.chained = c.RawPrevResult != nil
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		if !slices.Contains(ownKeys, key) && !slices.Contains(reservedKeys, key) && !strings.HasPrefix(key, reservedPrefix) {
			return c, fmt.Errorf("%w key %q: the keys of vxcan are %s", bus.ErrInvalid, key, strings.Join(ownKeys, ", "))
		}
	}
	return c, c.validate(keys)
}

// jsonWord is what JSON calls a type of Go.
func jsonWord(kind reflect.Kind) string {
	switch kind {
	case reflect.Bool:
		return "true or false"
	case reflect.String:
		return "a string"
	case reflect.Int:
		return "a whole number"
	case reflect.Slice:
		return "an array"
	}
	return "an object"
}

// validate checks the values that are there; the kernel's part of it, pkg/bus does.
func (c *conf) validate(keys map[string]json.RawMessage) error {
	if err := bus.CheckHub(c.Hub); err != nil {
		return fmt.Errorf(`key "hub": %w`, err)
	}
	for _, pattern := range c.PodHubs {
		name := strings.TrimSuffix(pattern, "*")
		if pattern != "*" && bus.CheckName(name) != nil || strings.Contains(name, "*") {
			return fmt.Errorf(`%w key "pod-hubs": %q; want names of hubs, or prefixes of names with * behind them`, bus.ErrInvalid, pattern)
		}
	}
	if _, set := keys["interface"]; set {
		if err := bus.CheckInterface(c.Interface); err != nil {
			return fmt.Errorf(`key "interface": %w`, err)
		}
	}
	if _, set := keys["mtu"]; set {
		if err := bus.CheckMTU(c.MTU); err != nil {
			return fmt.Errorf(`key "mtu": %w`, err)
		}
	}
	return nil
}

func (c *conf) spec() bus.Spec {
	return bus.Spec{Hub: c.Hub, Physical: c.Physical, MTU: c.MTU}
}

// interfaceName is the name that ADD gives the interface in the container. In a chain, CNI_IFNAME is the first plugin's
// interface. Alone, it is ours.
func (c *conf) interfaceName(ifName string) string {
	switch {
	case c.chained && c.Interface == "":
		return bus.DefaultInterface
	case c.chained:
		return c.Interface
	}
	return bus.InterfaceName(ifName, c.Interface)
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
