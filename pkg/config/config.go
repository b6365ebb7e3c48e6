// Package config is what a network asks for: a hub, an endpoint on it, and the names of both, whatever front end it is
// written for. It has the one definition of every key. It knows neither the kernel nor the disk.
package config

import (
	"cmp"
	"errors"
	"fmt"
	"strings"

	"github.com/vxcan/vxcan/pkg/canid"
	"github.com/vxcan/vxcan/pkg/canlink"
	"github.com/vxcan/vxcan/pkg/controller"
)

// ErrInvalid is a request that fails however often it is repeated, for a wrong name or MTU.
var ErrInvalid = errors.New("invalid")

const (
	defaultHub       = "vcan0"
	DefaultInterface = "can0" // in a container
	DefaultBurst     = 10     // frames, of a container with a rate
	// DefaultTxQueue is how many frames the transmit queue of a controller holds that we set up. The kernel's 10 lose most
	// of a burst: a container's write succeeds whether its frame finds a place there or not.
	DefaultTxQueue = 1000
)

// OneLine is the text of an error, of which errors.Join makes several lines.
func OneLine(err error) string {
	return strings.ReplaceAll(strings.TrimSpace(err.Error()), "\n", "; ")
}

// Hub is the device that a bus is named after, and how it is to be. It says nothing of endpoints.
type Hub struct {
	Name       string              `json:"name"`
	Physical   bool                `json:"physical,omitempty"`  // a device that is there already, such as a controller: used, never made
	Controller controller.Settings `json:"controller,omitzero"` // without a bit rate it is used as it is
	TxQueue    int                 `json:"txQueue,omitempty"`   // frames; 0 is DefaultTxQueue
	// FairQueue gives each endpoint a place of its own in the transmit queue also where the owner sets the controller up.
	FairQueue bool `json:"fairQueue,omitempty"`
	// Transient reports that a pod named the hub, not the administrator: if it has to be made, it goes with its last endpoint.
	Transient bool `json:"transient,omitempty"`
	Span      Span `json:"span,omitzero"`
}

// SetsUp reports whether the hub is a controller that is ours to set up.
func (h Hub) SetsUp() bool { return h.Physical && h.Controller.Bitrate != 0 }

// IsFair reports whether each endpoint has a place of its own in the transmit queue.
func (h Hub) IsFair() bool { return h.SetsUp() || h.Physical && h.FairQueue }

// Queue is how many frames the transmit queue must hold.
func (h Hub) Queue() int { return cmp.Or(h.TxQueue, DefaultTxQueue) }

// Endpoint is a container's place on a bus. It says nothing of the hub: a pod that names another hub keeps it whole.
type Endpoint struct {
	MTU    int    `json:"mtu,omitempty"` // of both ends: 16 or 72 bytes; 0 is 16 on a hub of MTU 16, and 72 elsewhere
	Policy Policy `json:"policy,omitzero"`
	Name   string `json:"name,omitempty"` // of the container, for people; "" where the runtime does not tell it
}

// MTUOn is the MTU of both ends on a hub of some MTU.
func (e Endpoint) MTUOn(hubMTU int) int {
	switch {
	case e.MTU != 0:
		return e.MTU
	case hubMTU < canlink.FDMTU:
		return canlink.ClassicMTU
	}
	return canlink.FDMTU
}

// Policy is what an endpoint may send and receive. The zero Policy allows all.
type Policy struct {
	Send    string `json:"send,omitempty"`    // as canid.ParseIDs reads it; "" is all
	Receive string `json:"receive,omitempty"` // the same
	Rate    uint32 `json:"rate,omitempty"`    // frames per second that it may send; 0 is any number
	Burst   uint32 `json:"burst,omitempty"`   // of them at once; 0 is DefaultBurst
}

// String is the policy as it is configured.
func (p Policy) String() string {
	var words []string
	add := func(key string, value any, set bool) {
		if set {
			words = append(words, fmt.Sprintf("%s %v", key, value))
		}
	}
	add("send", p.Send, p.Send != "")
	add("receive", p.Receive, p.Receive != "")
	add("rate", p.Rate, p.Rate != 0)
	add("burst", p.Burst, p.Burst != 0)
	if words == nil {
		return "no policy"
	}
	return strings.Join(words, ", ")
}

// IDs reads both lists. It fails with ErrInvalid for one that cannot be read.
func (p Policy) IDs() (send, receive canid.IDs, err error) {
	parse := func(key, text string) canid.IDs {
		if text == "" {
			text = "all"
		}
		ids, e := canid.ParseIDs(text)
		if e != nil {
			err = errors.Join(err, fmt.Errorf("%w %s: %w", ErrInvalid, key, e))
		}
		return ids
	}
	return parse("send", p.Send), parse("receive", p.Receive), err
}

// HostRuntime is the front end of what vxcanctl attaches.
const HostRuntime = "host"

// Attachment is what a runtime names when it puts a container on a network.
type Attachment struct {
	Runtime     string `json:"runtime"` // which front end: "cni", "netavark", "docker", "host"
	Network     string `json:"network"`
	ContainerID string `json:"containerID"`
	IfName      string `json:"ifName"` // the runtime's name for it, CNI_IFNAME
	// Entry distinguishes attachments with the same runtime name, such as two plugins of one chain: the interface's name in the
	// network's configuration, perhaps none.
	Entry string `json:"entry,omitempty"`
}

func (a Attachment) String() string {
	return a.Runtime + " " + strings.TrimSuffix(strings.Join([]string{a.Network, a.ContainerID, a.IfName}, "/"), "/")
}

// Fields are the parts of the attachment, in the order of its devices' names and aliases.
func (a Attachment) Fields() []string {
	return []string{a.Runtime, a.Network, a.ContainerID, a.IfName, a.Entry}
}

// SameAs reports whether two attachments are one that is called differently: its network's configuration has been edited, or
// `podman network reload` calls ADD by the container end's name, one of Entry's, and later DEL by the one that it first made up.
func (a Attachment) SameAs(b Attachment) bool {
	renamed := a.Entry == b.Entry && (isMadeUp(a.IfName) && matches(b.IfName, a.Entry) || isMadeUp(b.IfName) && matches(a.IfName, a.Entry))
	return a.Runtime == b.Runtime && a.Network == b.Network && a.ContainerID == b.ContainerID && (a.IfName == b.IfName || renamed)
}

// Network is what the configuration of a network says.
type Network struct {
	Hub       Hub
	Endpoint  Endpoint
	Interface string // name in the container, see InterfaceOn; "" is the front end's default
	// PodHubs are the other hubs that a pod's annotation may name: names, or prefixes with * behind them.
	PodHubs []string
	// Lent reports that the hub is one of the host, which root lends to a user. Its settings and the policy are root's.
	Lent bool

	// Keys that were given, for Check's words.
	controllerKey string
	lendersKey    string // not for the borrower of a lent bus
}

// NewNetwork is a network that says nothing.
func NewNetwork() Network { return Network{Hub: Hub{Name: defaultHub}} }

// Check reports what is wrong with keys that are right one by one.
func (n *Network) Check() error {
	if n.Lent && n.lendersKey != "" {
		return fmt.Errorf("%w: %s is for who lends the bus (sudo vxcanctl lend): with lent, only hub and interface are the user's", ErrInvalid, n.lendersKey)
	}
	if err := n.checkController(); err != nil {
		return err
	}
	if n.Hub.FairQueue && !n.Hub.Physical {
		return fmt.Errorf("%w: fair-queue is for a controller: set physical to true", ErrInvalid)
	}
	if n.Endpoint.Policy.Burst != 0 && n.Endpoint.Policy.Rate == 0 {
		return fmt.Errorf("%w: burst needs rate", ErrInvalid)
	}
	if err := n.Hub.Span.check(); err != nil {
		return err
	}
	_, err := InterfaceOn(n.Hub.Name, n.Interface)
	return err
}

func (n *Network) checkController() error {
	switch {
	case n.controllerKey == "":
		return nil
	case !n.Hub.Physical:
		return fmt.Errorf("%w: %s is for a controller: set physical to true", ErrInvalid, n.controllerKey)
	case n.Hub.Controller.Bitrate == 0:
		return fmt.Errorf("%w: %s needs bitrate, without which a controller is left as it is", ErrInvalid, n.controllerKey)
	}
	if err := n.Hub.Controller.Validate(); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return nil
}
