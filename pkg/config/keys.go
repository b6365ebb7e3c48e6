package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/vxcan/vxcan/pkg/canid"
)

// Key is a key of a network's configuration. It has the same name and the same values in every front end: as JSON in
// CNI, and as text in the options of Podman, Docker and vxcanctl attach.
type Key struct {
	Name    string
	Default string
	In      FrontEnd // where it can be written
	Of      Noun     // what it says something of
	json    jsonKind
	Meaning string // for the documentation
	set     setter
}

// setter fails with what is wrong with the value.
type setter func(n *Network, value string) error

// Noun is what a key says something of. A key of one noun never changes another.
type Noun string

const (
	OfHub        Noun = "hub"
	OfController Noun = "controller"           // a hub that is hardware
	OfSpan       Noun = "bus of several hosts" // its hub
	OfEndpoint   Noun = "endpoint"
	OfNetwork    Noun = "network"
)

// FrontEnd is a set of front ends.
type FrontEnd uint8

const (
	CNI FrontEnd = 1 << iota
	Netavark
	Docker
	Host       // vxcanctl attach, for what has no runtime
	everywhere = CNI | Netavark | Docker | Host
)

// jsonKind is what JSON calls the values of a key.
type jsonKind string

const (
	jsonString jsonKind = "a string"
	jsonBool   jsonKind = "true or false"
	jsonWhole  jsonKind = "a whole number"
	jsonNumber jsonKind = "a number"
	jsonArray  jsonKind = "an array of names"
	jsonIDs    jsonKind = "a string or an array of strings"
	jsonHosts  jsonKind = `an array of IP addresses, or "nodes"`
)

// Keys are all keys, in the order of the documentation. Those of a controller are spelled as ip link spells them; without
// bitrate it is left as it is.
var Keys = [...]Key{
	{"hub", defaultHub, everywhere, OfHub, jsonString, "the bus: a device on the host, made as vcan if it is missing",
		func(n *Network, value string) error { n.Hub.Name = value; return CheckHub(value) }},
	{"physical", "false", everywhere, OfHub, jsonBool, "the hub is a real controller: used, never made or deleted",
		toggle(func(n *Network) *bool { return &n.Hub.Physical })},
	{"interface", "can0, or what the runtime asks for", CNI | Netavark | Host, OfEndpoint, jsonString, "name in the container; in `can%d`, `%d` is the number of the hub: `can1` on `vcan1`",
		func(n *Network, value string) error { n.Interface = value; return CheckInterface(value) }},
	{"mtu", "72, or 16 on a hub of MTU 16", everywhere, OfEndpoint, jsonWhole, "of the container's interface: 72 for CAN FD and classic CAN, 16 for classic CAN only",
		func(n *Network, value string) error {
			mtu, err := strconv.Atoi(value)
			if err != nil {
				return fmt.Errorf("%w mtu %q: want 16 (classic CAN) or 72 (CAN FD)", ErrInvalid, value)
			}
			n.Endpoint.MTU = mtu
			return CheckMTU(mtu)
		}},
	{"send", "all", everywhere, OfEndpoint, jsonIDs, "what the container may send: `all`, `none`, or a list of CAN IDs, such as `123,200-2FF,18FEF100,700:7F0`",
		func(n *Network, value string) error { return setIDs(&n.Endpoint.Policy.Send, value) }},
	{"receive", "all", everywhere, OfEndpoint, jsonIDs, "what the container hears, the same way",
		func(n *Network, value string) error { return setIDs(&n.Endpoint.Policy.Receive, value) }},
	{"rate", "none", everywhere, OfEndpoint, jsonWhole, "frames per second that the container may send; more are dropped",
		number(maxRate, func(n *Network) *uint32 { return &n.Endpoint.Policy.Rate })},
	{"burst", "10", everywhere, OfEndpoint, jsonWhole, "with `rate`: frames that it may send at once",
		number(maxRate, func(n *Network) *uint32 { return &n.Endpoint.Policy.Burst })},
	{"lent", "false", CNI | Netavark, OfNetwork, jsonBool, "rootless: the hub is one of the host, which root lends (`vxcanctl lend`)",
		toggle(func(n *Network) *bool { return &n.Lent })},
	{"pod-hubs", "none", CNI, OfNetwork, jsonArray, "other hubs that a pod may name in its annotation: names, or prefixes with `*` behind them",
		func(n *Network, value string) error {
			n.PodHubs = strings.Split(value, ",")
			if value == "" { // an empty array
				n.PodHubs = nil
			}
			return checkPodHubs(n.PodHubs)
		}},
	{"bitrate", "none", everywhere, OfController, jsonWhole, "of a controller, bits per second: it is set up when it is down",
		number(math.MaxUint32, func(n *Network) *uint32 { return &n.Hub.Controller.Bitrate })},
	{"sample-point", "the kernel's choice", everywhere, OfController, jsonNumber, "a part of a bit, such as 0.875",
		func(n *Network, value string) error { return setPoint(&n.Hub.Controller.SamplePoint, value) }},
	{"fd", "false", everywhere, OfController, jsonBool, "CAN FD, with `dbitrate`",
		toggle(func(n *Network) *bool { return &n.Hub.Controller.FD })},
	{"dbitrate", "none", everywhere, OfController, jsonWhole, "bits per second of the data of CAN FD frames",
		number(math.MaxUint32, func(n *Network) *uint32 { return &n.Hub.Controller.DataBitrate })},
	{"dsample-point", "the kernel's choice", everywhere, OfController, jsonNumber, "the same for the data of CAN FD frames",
		func(n *Network, value string) error { return setPoint(&n.Hub.Controller.DataSamplePoint, value) }},
	{"restart-ms", "never", everywhere, OfController, jsonWhole, "milliseconds from bus-off to a restart; where the driver cannot, it is left out, with a warning",
		number(math.MaxInt32, func(n *Network) *uint32 { return &n.Hub.Controller.RestartMS })},
	{"txqueuelen", "1000", everywhere, OfController, jsonWhole, "frames in the transmit queue of each container, fixed when it starts; a longer queue is kept",
		func(n *Network, value string) error {
			var frames uint32
			err := setNumber(&frames, value, 1_000_000)
			n.Hub.TxQueue = int(frames)
			return err
		}},
	{"fair-queue", "false, and true with `bitrate`", everywhere, OfHub, jsonBool, "a transmit queue of its own for each container, also on a controller that its owner sets up",
		toggle(func(n *Network) *bool { return &n.Hub.FairQueue })},
	{"hosts", "none", everywhere, OfSpan, jsonHosts, "IP addresses of all hosts that the bus spans, this one included: the same list on each host",
		func(n *Network, value string) error { return n.Hub.Span.setHosts(value) }},
	{"bus-id", "none", everywhere, OfSpan, jsonWhole, "with `hosts`: the number of the bus, the same on each host, and another one for each bus",
		number(math.MaxUint32, func(n *Network) *uint32 { return &n.Hub.Span.BusID })},
	{"unprotected", "false", everywhere, OfSpan, jsonBool, "with `hosts`: accept frames from any sender, also through routers, for networks that are protected by other means",
		toggle(func(n *Network) *bool { return &n.Hub.Span.Unprotected })},
	{"termination", "left as it is", everywhere, OfController, jsonWhole, "ohms, 0 is off",
		func(n *Network, value string) error {
			ohms, err := strconv.ParseUint(value, 10, 16)
			if err != nil {
				return fmt.Errorf("%w value %q: want ohms", ErrInvalid, value)
			}
			n.Hub.Controller.Termination, n.Hub.Controller.SetTermination = uint16(ohms), true
			return nil
		}},
	{"listen-only", "false", everywhere, OfController, jsonBool, "the controller sends nothing for anybody, not even an acknowledgement; for one container that only reads: `send=none`",
		toggle(func(n *Network) *bool { return &n.Hub.Controller.ListenOnly })},
	{"one-shot", "false", everywhere, OfController, jsonBool, "send each frame once, acknowledged or not",
		toggle(func(n *Network) *bool { return &n.Hub.Controller.OneShot })},
	{"triple-sampling", "false", everywhere, OfController, jsonBool, "three samples a bit",
		toggle(func(n *Network) *bool { return &n.Hub.Controller.TripleSampling })},
	{"berr-reporting", "false", everywhere, OfController, jsonBool, "an error frame for each bus error",
		toggle(func(n *Network) *bool { return &n.Hub.Controller.BerrReporting })},
	{"presume-ack", "false", everywhere, OfController, jsonBool, "do without acknowledgements",
		toggle(func(n *Network) *bool { return &n.Hub.Controller.PresumeAck })},
	{"fd-non-iso", "false", everywhere, OfController, jsonBool, "CAN FD as before ISO 11898-1:2015",
		toggle(func(n *Network) *bool { return &n.Hub.Controller.FDNonISO })},
}

// toggle sets a field that is true or false.
func toggle(field func(n *Network) *bool) setter {
	return func(n *Network, value string) (err error) {
		if *field(n), err = strconv.ParseBool(value); err != nil {
			return fmt.Errorf("%w value %q: want true or false", ErrInvalid, value)
		}
		return nil
	}
}

const maxRate = 1_000_000 // frames per second: no CAN bus carries more

// number sets a field that is a whole number from 1 to most.
func number(most uint32, field func(n *Network) *uint32) setter {
	return func(n *Network, value string) error { return setNumber(field(n), value, most) }
}

func setIDs(field *string, value string) error {
	ids, err := canid.ParseIDs(value)
	if err == nil {
		err = ids.Check()
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if *field = ids.String(); ids.All() {
		*field = "" // the same policy is always the same text
	}
	return nil
}

func setNumber(field *uint32, value string, most uint32) error {
	n, err := strconv.ParseUint(value, 10, 32)
	switch *field = uint32(n); {
	case err == nil && n > 0 && *field <= most:
		return nil
	case most == math.MaxUint32:
		return fmt.Errorf("%w value %q: want a whole number from 1 on", ErrInvalid, value)
	}
	return fmt.Errorf("%w value %q: want a whole number from 1 to %d", ErrInvalid, value, most)
}

func setPoint(field *uint32, value string) error {
	point, err := strconv.ParseFloat(value, 64)
	if *field = uint32(math.Round(point * 1000)); err != nil || *field < 1 || *field > 999 {
		return fmt.Errorf("%w value %q: want a part of a bit, such as 0.875", ErrInvalid, value)
	}
	return nil
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

// IsSwitch reports whether the values of the key are true and false, so that an option may leave out true.
func (k Key) IsSwitch() bool { return k.json == jsonBool }

// KeyNames names the keys of a front end, and others that only it has.
func KeyNames(in FrontEnd, others ...string) (names []string) {
	for _, k := range Keys {
		if k.In&in != 0 {
			names = append(names, k.Name)
		}
	}
	return append(names, others...)
}

func findKey(in FrontEnd, name string) *Key {
	for i := range Keys {
		if k := &Keys[i]; k.Name == name && k.In&in != 0 {
			return k
		}
	}
	return nil
}

func (n *Network) set(k *Key, value string) error {
	if k.Of == OfController {
		n.controllerKey = k.Name
	}
	if k.Name != "lent" && k.Name != "hub" && k.Name != "interface" {
		n.lendersKey = k.Name
	}
	return k.set(n, value)
}

// Set takes over a front end's option. known reports whether there is such a key. Errors wrap ErrInvalid and do not name the key.
func (n *Network) Set(in FrontEnd, name, value string) (known bool, err error) {
	k := findKey(in, name)
	if k == nil {
		return false, nil
	}
	err = n.set(k, value)
	if name == "hosts" && n.Hub.Span.Nodes && in != CNI {
		err = fmt.Errorf("%w host %q: that is for the pod network of Kubernetes", ErrInvalid, Nodes)
	}
	return true, err
}

// SetJSON is Set for CNI's JSON.
func (n *Network) SetJSON(name string, value json.RawMessage) (known bool, err error) {
	k := findKey(CNI, name)
	if k == nil {
		return false, nil
	}
	if string(value) == "null" { // encoding/json would take it for the zero value, which allows more than was meant
		return true, fmt.Errorf("%w value null: want %s; leave the key out for the default", ErrInvalid, k.json)
	}
	text, err := k.json.text(value)
	if err != nil {
		return true, fmt.Errorf("%w value %.100s: want %s", ErrInvalid, value, k.json)
	}
	return true, n.set(k, text)
}

// text is a JSON value of this kind as an option would have it.
func (k jsonKind) text(value json.RawMessage) (text string, err error) {
	switch k {
	case jsonBool:
		return string(value), json.Unmarshal(value, new(bool))
	case jsonWhole:
		return string(value), json.Unmarshal(value, new(int64))
	case jsonNumber:
		return string(value), json.Unmarshal(value, new(float64))
	case jsonArray, jsonIDs, jsonHosts:
		if k != jsonArray && json.Unmarshal(value, &text) == nil && (k == jsonIDs || text == Nodes) {
			return text, nil
		}
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
