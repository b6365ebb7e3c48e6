package plan

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vxcan/vxcan/pkg/canlink"
	"github.com/vxcan/vxcan/pkg/config"
)

// Aliases of the devices that we make, for people in `ip link` and for us: by them we know our own.
const (
	aliasMark      = "vxcan" // the first word
	hubAlias       = aliasMark + " hub"
	TransientAlias = aliasMark + " hub, made for a pod" // goes with its last endpoint
	backplaneAlias = aliasMark + " backplane"           // followed by the hub
	// The last word of the alias of a host end, if there is one.
	policyMark   = "policy"   // the endpoint has a policy
	physicalMark = "physical" // the hub is a device that is not made
	podMark      = "pod"      // the hub is one that the pod named
	// Words of the alias of a trunk.
	trunkMark = "trunk"
	openMark  = "unprotected"
)

// IsOurHub reports whether a hub was made by us, and so is ours to set up and to delete.
func IsOurHub(hub canlink.Link) bool {
	return hub.Kind == canlink.Vcan && (hub.Alias == hubAlias || hub.Alias == TransientAlias)
}

// IsTransient reports whether a hub was made for a pod.
func IsTransient(hub canlink.Link) bool {
	return hub.Kind == canlink.Vcan && hub.Alias == TransientAlias
}

// IsOurBackplane reports whether a device is an end of a backplane that was made by us.
func IsOurBackplane(end canlink.Link) bool {
	return end.Kind == canlink.Vxcan && strings.HasPrefix(end.Alias, backplaneAlias)
}

// trunkAlias is what a trunk says of itself. open is that of the key unprotected.
func trunkAlias(hub string, peer netip.Addr, open bool) string {
	words := []string{aliasMark, hub, trunkMark, peer.String()}
	if open {
		words = append(words, openMark)
	}
	return strings.Join(words, " ")
}

// ParseTrunk reads the alias of a trunk, whatever its name is now. ok is false for any other device.
func ParseTrunk(l canlink.Link) (hub string, peer netip.Addr, open, ok bool) {
	if l.Kind != canlink.GRE && l.Kind != canlink.GRE6 {
		return "", netip.Addr{}, false, false
	}
	alias, open := strings.CutSuffix(l.Alias, " "+openMark)
	words := strings.Split(alias, " ")
	if len(words) != 4 || words[0] != aliasMark || words[2] != trunkMark {
		return "", netip.Addr{}, false, false
	}
	peer, err := netip.ParseAddr(words[3])
	return words[1], peer, open, err == nil
}

// Alias returns the alias of a host end: what must be known even without the record. Of a policy, which may be long, it says only
// that there is one.
func Alias(hub config.Hub, a config.Attachment, p config.Policy) string {
	words := append([]string{aliasMark, hub.Name}, a.Fields()...)
	var marks []string
	if p != (config.Policy{}) {
		marks = append(marks, policyMark)
	}
	if hub.Physical {
		marks = append(marks, physicalMark)
	}
	if hub.Transient {
		marks = append(marks, podMark)
	}
	if marks != nil {
		words = append(words, strings.Join(marks, ","))
	}
	return strings.Join(words, " ")
}

// CheckAlias reports whether an attachment can be read back from the alias of its host end.
func CheckAlias(hub config.Hub, a config.Attachment, p config.Policy) error {
	text := Alias(hub, a, p)
	if len(text) > canlink.MaxAlias {
		return fmt.Errorf("%w attachment: the names of network and container take %d bytes of %d; use a shorter network name",
			config.ErrInvalid, len(text), canlink.MaxAlias)
	}
	if got, ok := ParseAlias(text); !ok || got.Hub != hub.Name || got.Attachment != a {
		return fmt.Errorf("%w attachment %q: a name with a blank; use another network name", config.ErrInvalid, a)
	}
	return nil
}

// Aliased is what the alias of a host end says.
type Aliased struct {
	config.Attachment
	Hub       string
	Policy    bool // it has one
	Physical  bool // the hub is a device that is not made
	Transient bool // the hub is one that the pod named
}

// ParseAlias reads the alias of a host end. ok is false for that of any other device.
func ParseAlias(text string) (a Aliased, ok bool) {
	if !strings.HasPrefix(text, aliasMark+" ") {
		return Aliased{}, false
	}
	words := strings.Split(text, " ")
	switch len(words) {
	case 8:
		marks := strings.Split(words[7], ",")
		a.Policy, a.Physical = slices.Contains(marks, policyMark), slices.Contains(marks, physicalMark)
		a.Transient = slices.Contains(marks, podMark)
		ok = a.Policy || a.Physical || a.Transient
	case 7:
		ok = true
	}
	if !ok {
		return Aliased{}, false
	}
	a.Hub, a.Attachment = words[1], config.Attachment{Runtime: words[2], Network: words[3], ContainerID: words[4], IfName: words[5], Entry: words[6]}
	return a, true
}
