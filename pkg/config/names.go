package config

import (
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/vxcan/vxcan/pkg/canlink"
)

// maxName is the longest device name in bytes (IFNAMSIZ less its zero byte, linux/if.h).
const maxName = 15

// CheckName reports what is wrong with a device name, in the kernel's terms (dev_valid_name of net/core/dev.c, and
// sysctl_dev_name_is_allowed of net/ipv4/devinet.c).
func CheckName(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("%w device name: empty; want 1 to %d bytes", ErrInvalid, maxName)
	case len(name) > maxName:
		return fmt.Errorf("%w device name %q: %d bytes, at most %d are allowed", ErrInvalid, name, len(name), maxName)
	case name == "." || name == ".." || name == "all" || name == "default":
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

// CheckHub reports what is wrong with the name of a hub: it must be a device name that no other device of a bus can have.
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

// CanMake reports whether a missing hub of this name can be made as a vcan. It cannot if the kernel or udev give the name to
// devices of another kind: an adapter that is plugged in later would never get its name.
func CanMake(hub string) bool {
	kind := strings.TrimRight(hub, "0123456789")
	if slices.Contains([]string{"can", "slcan", "eth", "wlan", "wwan", "usb", "bond", "br", "tun", "tap", "dummy", "ppp", "veth"}, kind) && kind != hub {
		return false
	}
	// Predictable names, such as enp0s31f6 and wlx00c0ca (systemd.net-naming-scheme(7)).
	predictable := len(hub) > 3 && slices.Contains([]string{"en", "wl", "ww", "sl", "ib"}, hub[:2]) && strings.Contains("ospxvba", hub[2:3]) && strings.Contains("0123456789abcdef", hub[3:4])
	return hub != "lo" && !predictable
}

// CheckMTU reports what is wrong with an MTU that a network asks for.
func CheckMTU(mtu int) error {
	if mtu != canlink.ClassicMTU && mtu != canlink.FDMTU {
		return fmt.Errorf("%w mtu %d: want %d (classic CAN) or %d (CAN FD)", ErrInvalid, mtu, canlink.ClassicMTU, canlink.FDMTU)
	}
	return nil
}

// CheckInterface reports what is wrong with the name of an interface to be, see InterfaceOn.
func CheckInterface(name string) error {
	before, after, pattern := strings.Cut(name, "%d")
	if !pattern || len(name) > maxName {
		return CheckName(name)
	}
	return CheckName(before + "0" + after)
}

// InterfaceOn is the name of an interface on a hub: %d in it is the number at the end of the hub's name. So it depends on
// the configuration alone, and never on the order in which a runtime attaches a container to several buses.
func InterfaceOn(hub, name string) (string, error) {
	before, after, pattern := strings.Cut(name, "%d")
	if !pattern {
		return name, nil
	}
	number := hub[len(strings.TrimRight(hub, "0123456789")):]
	if number == "" {
		return "", fmt.Errorf("%w interface %s: %%d is the number at the end of the hub's name, and %q ends in none; name the interface",
			ErrInvalid, name, hub)
	}
	name = before + number + after
	return name, CheckName(name)
}

// InterfaceName is the name for an interface in a container: the one the runtime gives, because its user asked for it,
// or the configured one, if there is any, in place of one that the runtime made up: eth0, eth1 and so on.
func InterfaceName(given, configured string) string {
	if isMadeUp(given) && configured != "" {
		return configured
	}
	return given
}

func isMadeUp(name string) bool {
	number, ok := strings.CutPrefix(name, "eth")
	return name == "" || ok && isNumber(number)
}

func isNumber(text string) bool { return text != "" && strings.Trim(text, "0123456789") == "" }

// matches reports whether an interface's name fits the one that was asked for, where %d stands for a number.
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

// Hashed names are one of these prefixes and digits of base32hex.
const (
	hostPrefix      = "vx" // host ends
	containerPrefix = "vc" // container ends that a runtime is to move
	txPrefix        = "tx" // backplanes of hubs with long names
	rxPrefix        = "rx"
	trunkPrefix     = "vg" // trunks to other hosts

	hashDigits = "0123456789abcdefghijklmnopqrstuv"
)

var hashPrefixes = []string{hostPrefix, containerPrefix, txPrefix, rxPrefix, trunkPrefix}

// Backplanes are called after their hub, to be recognised in `cangw -L`.
const txSuffix, rxSuffix = "-tx", "-rx"

// HostIf names the host end of an attachment, the same one every time, from nothing but what the runtime says.
func (a Attachment) HostIf() string { return hashedName(hostPrefix, a.Fields()...) }

// ContIf names a container end that a runtime is to move into the container itself.
func (a Attachment) ContIf() string { return hashedName(containerPrefix, a.Fields()...) }

// BackplaneNames names the ends of a bus's backplane.
func BackplaneNames(hub string) (tx, rx string) {
	if len(hub)+len(txSuffix) <= maxName {
		return hub + txSuffix, hub + rxSuffix
	}
	return hashedName(txPrefix, hub), hashedName(rxPrefix, hub)
}

// TrunkName names the trunk of a bus to another host.
func TrunkName(hub string, peer netip.Addr) string {
	return hashedName(trunkPrefix, hub, peer.String())
}

// TableName names the nftables table of a bus that spans several hosts.
func TableName(hub string) string { return "vxcan-" + hub }

// hashedName is a prefix of two bytes and 64 bits of the parts' hash.
func hashedName(prefix string, parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return prefix + strings.ToLower(base32.HexEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:8]))
}
