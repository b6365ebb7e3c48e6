package bus

import (
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/vxcan/vxcan/pkg/canlink"
)

// maxName is the longest device name in bytes (IFNAMSIZ less its zero byte, linux/if.h).
const maxName = 15

// CheckName tells what is wrong with a device name, in the kernel's terms (dev_valid_name of net/core/dev.c).
func CheckName(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("%w device name: empty; want 1 to %d bytes", ErrInvalid, maxName)
	case len(name) > maxName:
		return fmt.Errorf("%w device name %q: %d bytes, at most %d are allowed", ErrInvalid, name, len(name), maxName)
	case name == "." || name == "..":
		return fmt.Errorf("%w device name %q", ErrInvalid, name)
	}
	for _, r := range name {
		// What is not UTF-8 cannot be recorded in JSON.
		if r == '/' || r == ':' || r == '%' || r == utf8.RuneError || unicode.IsSpace(r) || !unicode.IsPrint(r) {
			return fmt.Errorf("%w device name %q: %q is not allowed", ErrInvalid, name, string(r))
		}
	}
	return nil
}

// CheckHub tells what is wrong with the name of a hub: it must be a device name that no other device of a bus can have.
func CheckHub(name string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	for _, suffix := range []string{txSuffix, rxSuffix} {
		if strings.HasSuffix(name, suffix) {
			return fmt.Errorf("%w hub %q: names that end in %s and %s are those of backplanes; name another one", ErrInvalid, name, txSuffix, rxSuffix)
		}
	}
	if slices.Contains(hashPrefixes, name[:min(2, len(name))]) && len(name) == maxName && strings.Trim(name[2:], hashDigits) == "" {
		return fmt.Errorf("%w hub %q: it could be the name of an endpoint's device; name another one", ErrInvalid, name)
	}
	return nil
}

// CheckMTU tells what is wrong with an MTU that a network asks for.
func CheckMTU(mtu int) error {
	if mtu != canlink.ClassicMTU && mtu != canlink.FDMTU {
		return fmt.Errorf("%w mtu %d: want %d (classic CAN) or %d (CAN FD)", ErrInvalid, mtu, canlink.ClassicMTU, canlink.FDMTU)
	}
	return nil
}

// CheckInterface tells what is wrong with the name of an interface to be: a device name, or one with %d for the first
// free number.
func CheckInterface(name string) error {
	before, after, pattern := strings.Cut(name, "%d")
	if !pattern {
		return CheckName(name)
	}
	if len(name) > maxName {
		return CheckName(name)
	}
	return CheckName(before + "0" + after)
}

// InterfaceName is the name for an interface in a container: the one the runtime gives, because its user asked for it,
// or the configured one, if there is any, in place of one that the runtime made up: eth0, eth1 and so on.
func InterfaceName(given, configured string) string {
	if isMadeUp(given) && configured != "" {
		return configured
	}
	return given
}

// isMadeUp tells whether an interface's name is one that runtimes give where their users ask for none.
func isMadeUp(name string) bool {
	number, ok := strings.CutPrefix(name, "eth")
	return name == "" || ok && isNumber(number)
}

func isNumber(text string) bool { return text != "" && strings.Trim(text, "0123456789") == "" }

// matches tells whether an interface's name is one that CheckInterface's argument asked for.
func matches(name, wanted string) bool {
	before, after, pattern := strings.Cut(wanted, "%d")
	if !pattern {
		return name == wanted
	}
	number, ok := strings.CutPrefix(name, before)
	if !ok {
		return false
	}
	number, ok = strings.CutSuffix(number, after)
	return ok && isNumber(number)
}

// Devices with hashed names have one of these prefixes, and digits of base32hex behind it.
const (
	hostPrefix      = "vx" // host ends
	containerPrefix = "vc" // container ends that a runtime is to move
	txPrefix        = "tx" // backplanes of hubs with long names
	rxPrefix        = "rx"

	hashDigits = "0123456789abcdefghijklmnopqrstuv"
)

var hashPrefixes = []string{hostPrefix, containerPrefix, txPrefix, rxPrefix}

// Backplanes are called after their hub, to be recognised in `cangw -L`.
const txSuffix, rxSuffix = "-tx", "-rx"

// hostIfName names the host end of an attachment, the same one every time, from nothing but what the runtime says.
func hostIfName(a Attachment) string { return hashedName(hostPrefix, a.fields()...) }

// backplaneNames names the ends of a bus's backplane.
func backplaneNames(hub string) (tx, rx string) {
	if len(hub)+len(txSuffix) <= maxName {
		return hub + txSuffix, hub + rxSuffix
	}
	return hashedName(txPrefix, hub), hashedName(rxPrefix, hub)
}

// hashedName is a prefix of two bytes and 64 bits of the parts' hash.
func hashedName(prefix string, parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return prefix + strings.ToLower(base32.HexEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:8]))
}

func (a Attachment) fields() []string {
	return []string{a.Runtime, a.Network, a.ContainerID, a.IfName, a.Entry}
}

// Aliases of the devices that we make, for people in `ip link` and for us: by them we know our own.
const (
	aliasMark      = "vxcan" // the first word
	hubAlias       = aliasMark + " hub"
	transientAlias = aliasMark + " hub, made for a pod" // goes with its last endpoint
	backplaneAlias = aliasMark + " backplane"
)

// isOurHub tells whether a hub was made by us, and so is ours to set up and to delete.
func isOurHub(hub canlink.Link) bool {
	return hub.Kind == canlink.Vcan && (hub.Alias == hubAlias || hub.Alias == transientAlias)
}

// alias is what a host end says of itself. Of a policy it says only that there is one: the text may be long.
func alias(hub string, a Attachment, p Policy) string {
	words := append([]string{aliasMark, hub}, a.fields()...)
	if p != (Policy{}) {
		words = append(words, policyMark)
	}
	return strings.Join(words, " ")
}

// policyMark is the last word of the alias of a host end with a policy.
const policyMark = "policy"

// checkAlias tells whether an attachment can be read back from the alias of its host end.
func checkAlias(hub string, a Attachment, p Policy) error {
	text := alias(hub, a, p)
	if len(text) > canlink.MaxAlias {
		return fmt.Errorf("%w attachment: the names of network and container take %d bytes of %d; use a shorter network name",
			ErrInvalid, len(text), canlink.MaxAlias)
	}
	if gotHub, got, ok := parseAlias(text); !ok || gotHub != hub || got.Attachment != a {
		return fmt.Errorf("%w attachment %q: a name with a blank; use another network name", ErrInvalid, a)
	}
	return nil
}

// aliased is what the alias of a host end tells.
type aliased struct {
	Attachment
	policy bool // it has one
}

func parseAlias(text string) (hub string, a aliased, ok bool) {
	if !strings.HasPrefix(text, aliasMark+" ") {
		return "", a, false
	}
	words := strings.Split(text, " ")
	switch len(words) {
	case 8:
		a.policy = words[7] == policyMark
		ok = a.policy
	case 7:
		ok = true
	}
	if !ok {
		return "", aliased{}, false
	}
	a.Attachment = Attachment{words[2], words[3], words[4], words[5], words[6]}
	return words[1], a, true
}
