package bus

import (
	"crypto/sha256"
	"encoding/base32"
	"fmt"
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
	number, ok := strings.CutPrefix(given, "eth")
	madeUp := given == "" || ok && isNumber(number)
	if madeUp && configured != "" {
		return configured
	}
	return given
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

// hostIfName names the host end of an attachment, the same one every time, from nothing but what the runtime says.
func hostIfName(a Attachment) string { return hashedName("vx", a.fields()...) }

// backplaneNames names the ends of a bus's backplane. They are meant to be recognised in `cangw -L`.
func backplaneNames(hub string) (tx, rx string) {
	if len(hub)+len("-tx") <= maxName {
		return hub + "-tx", hub + "-rx"
	}
	return hashedName("tx", hub), hashedName("rx", hub)
}

// hashedName is a prefix of two bytes and 64 bits of the parts' hash.
func hashedName(prefix string, parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return prefix + strings.ToLower(base32.HexEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:8]))
}

func (a Attachment) fields() []string {
	return []string{a.Runtime, a.Network, a.ContainerID, a.IfName, a.Entry}
}

// aliasMark is the first word of the alias of a host end, and hubAlias that of a hub that we made.
const (
	aliasMark = "vxcan"
	hubAlias  = aliasMark + " hub"
)

// alias is what a host end says of itself, in `ip link` to people and to us when the state is lost. It is "" if that
// does not fit, or could not be read back.
func alias(hub string, a Attachment) string {
	text := strings.Join(append([]string{aliasMark, hub}, a.fields()...), " ")
	if gotHub, got, ok := parseAlias(text); len(text) > canlink.MaxAlias || !ok || gotHub != hub || got != a {
		return ""
	}
	return text
}

func parseAlias(text string) (hub string, a Attachment, ok bool) {
	words := strings.Split(text, " ")
	if len(words) != 7 || words[0] != aliasMark {
		return "", Attachment{}, false
	}
	return words[1], Attachment{words[2], words[3], words[4], words[5], words[6]}, true
}
