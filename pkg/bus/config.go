package bus

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Config is what a network's configuration asks for, in whatever front end it is written.
type Config struct {
	Spec
	Interface string // in the container, perhaps with %d; "" is the front end's default
	// PodHubs are the other hubs that a pod's annotation may name: names, or prefixes with * behind them.
	PodHubs []string

	controllerKey string // one that was given, for Check's words
}

// NewConfig is the configuration of a network that says nothing.
func NewConfig() Config { return Config{Spec: Spec{Hub: DefaultHub}} }

// Key is a key of a network's configuration. It has the same name and the same values in every front end: as JSON in
// CNI, and as text in the options of Podman and Docker.
type Key struct {
	Name    string
	Default string
	Meaning string   // for the documentation
	In      FrontEnd // where it can be written
	json    jsonKind
	set     func(c *Config, value string) error // fails with what is wrong with the value
}

// FrontEnd is a set of front ends.
type FrontEnd uint8

// The front ends.
const (
	CNI FrontEnd = 1 << iota
	Netavark
	Docker
	everywhere = CNI | Netavark | Docker
)

// jsonKind is what JSON calls the values of a key.
type jsonKind string

const (
	jsonString jsonKind = "a string"
	jsonBool   jsonKind = "true or false"
	jsonWhole  jsonKind = "a whole number"
	jsonNumber jsonKind = "a number"
	jsonArray  jsonKind = "an array of names"
)

// Keys are all keys, in the order of the documentation.
var Keys = append(networkKeys, controllerKeys...)

var networkKeys = []Key{
	{
		Name: "hub", Default: DefaultHub, json: jsonString, In: everywhere,
		Meaning: "the bus: a device on the host, made as vcan if it is missing",
		set:     func(c *Config, value string) error { c.Hub = value; return CheckHub(value) },
	},
	{
		Name: "physical", Default: "false", json: jsonBool, In: everywhere,
		Meaning: "the hub is a real controller: used, never made or deleted",
		set: func(c *Config, value string) (err error) {
			c.Physical, err = parseBool(value)
			return err
		},
	},
	{
		Name: "interface", Default: "can0, or what the runtime asks for", json: jsonString, In: CNI | Netavark,
		Meaning: "name in the container; `can%d` is the first free one",
		set:     func(c *Config, value string) error { c.Interface = value; return CheckInterface(value) },
	},
	{
		Name: "mtu", Default: "72, or 16 on a hub of MTU 16", json: jsonWhole, In: everywhere,
		Meaning: "of the container's interface: 72 for CAN FD and classic CAN, 16 for classic CAN only",
		set: func(c *Config, value string) error {
			mtu, err := strconv.Atoi(value)
			if err != nil {
				return fmt.Errorf("%w mtu %q: want 16 (classic CAN) or 72 (CAN FD)", ErrInvalid, value)
			}
			c.MTU = mtu
			return CheckMTU(mtu)
		},
	},
	{
		Name: "pod-hubs", Default: "none", json: jsonArray, In: CNI,
		Meaning: "other hubs that a pod may name in its annotation: names, or prefixes with `*` behind them",
		set: func(c *Config, value string) error {
			c.PodHubs = strings.Split(value, ",")
			if value == "" { // an empty array
				c.PodHubs = nil
			}
			return checkPodHubs(c.PodHubs)
		},
	},
}

func parseBool(value string) (bool, error) {
	on, err := strconv.ParseBool(value)
	if err != nil {
		return false, fmt.Errorf("%w value %q: want true or false", ErrInvalid, value)
	}
	return on, nil
}

func checkPodHubs(patterns []string) error {
	for _, pattern := range patterns {
		name := strings.TrimSuffix(pattern, "*")
		if pattern != "*" && CheckName(name) != nil || strings.Contains(name, "*") {
			return fmt.Errorf("%w pattern %q: want names of hubs, or prefixes of names with * behind them", ErrInvalid, pattern)
		}
	}
	return nil
}

// KeyNames names the keys of a front end, and others that only it has.
func KeyNames(in FrontEnd, others ...string) (names []string) {
	for _, k := range Keys {
		if k.In&in != 0 {
			names = append(names, k.Name)
		}
	}
	return append(names, others...)
}

func findKey(in FrontEnd, name string) (Key, bool) {
	i := slices.IndexFunc(Keys, func(k Key) bool { return k.In&in != 0 && k.Name == name })
	if i < 0 {
		return Key{}, false
	}
	return Keys[i], true
}

// Set takes the value of a key over, as a front end's option has it. known tells whether there is such a key. Errors wrap
// ErrInvalid and do not name the key.
func (c *Config) Set(in FrontEnd, name, value string) (known bool, err error) {
	k, known := findKey(in, name)
	if !known {
		return false, nil
	}
	return true, k.set(c, value)
}

// SetJSON is Set for CNI's JSON. null is no value.
func (c *Config) SetJSON(name string, value json.RawMessage) (known bool, err error) {
	k, known := findKey(CNI, name)
	if !known || string(value) == "null" {
		return known, nil
	}
	text, err := k.json.text(value)
	if err != nil {
		return true, fmt.Errorf("%w value %s: want %s", ErrInvalid, value, k.json)
	}
	return true, k.set(c, text)
}

// text is a JSON value of this kind as an option would have it.
func (k jsonKind) text(value json.RawMessage) (text string, err error) {
	switch k {
	case jsonBool:
		var b bool
		err = json.Unmarshal(value, &b)
		text = strconv.FormatBool(b)
	case jsonWhole:
		var n int
		err = json.Unmarshal(value, &n)
		text = strconv.Itoa(n)
	case jsonNumber:
		var n json.Number
		err = json.Unmarshal(value, &n)
		text = n.String()
		if len(value) > 0 && value[0] == '"' {
			err = errors.New("a string")
		}
	case jsonArray:
		var all []string
		if err = json.Unmarshal(value, &all); slices.ContainsFunc(all, func(s string) bool { return s == "" || strings.Contains(s, ",") }) {
			err = errors.New("not names")
		}
		text = strings.Join(all, ",")
	default:
		err = json.Unmarshal(value, &text)
	}
	return text, err
}
