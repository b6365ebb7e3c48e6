package underlay

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// iptables-legacy has tables of its own in the kernel, beside nftables. They are read as chains of nftables with the same
// meaning (linux/netfilter/x_tables.h, linux/netfilter_ipv4/ip_tables.h, linux/netfilter_ipv6/ip6_tables.h).

// layout is where struct ipt_entry and struct ip6t_entry have what is read of them.
type layout struct {
	level           int // of getsockopt
	socket          int
	family          uint8
	names           string // file with the tables that there are: to ask for another one would make it
	addresses       int    // size of the addresses and masks that an entry begins with
	devices         int    // offset of the names and masks of devices
	proto, flags    int    // flags are followed by those that negate
	offsets, entry  int    // offset of target_offset; size of an entry without matches
	jumps, harmless byte   // flags: what goes there does not come back; what means nothing here
}

var layouts = [...]layout{
	{unix.SOL_IP, unix.AF_INET, family4, "/proc/thread-self/net/ip_tables_names", 16, 16, 80, 82, 88, 112, 2, 0},        // IPT_F_GOTO
	{unix.SOL_IPV6, unix.AF_INET6, family6, "/proc/thread-self/net/ip6_tables_names", 64, 64, 128, 131, 140, 168, 4, 1}, // IP6T_F_GOTO, IP6T_F_PROTO
}

const (
	soGetInfo    = 64 // IPT_SO_GET_INFO, IP6T_SO_GET_INFO
	soGetEntries = 65 // IPT_SO_GET_ENTRIES
	infoSize     = 84 // struct ipt_getinfo
	entriesHead  = 40 // struct ipt_get_entries, before the entries
	targetHead   = 32 // struct xt_entry_target
	tableRaw     = "raw"

	notDevice = 1    // IPT_INV_VIA_IN
	notProto  = 0x40 // XT_INV_PROTO

	legacyDrop, legacyAccept, legacyReturn = -1, -2, -5 // -NF_DROP-1, -NF_ACCEPT-1, XT_RETURN
)

// readLegacy reads the tables raw of iptables-legacy.
func readLegacy() (f Firewall, err error) {
	for _, l := range layouts {
		if names, _ := os.ReadFile(l.names); !slices.Contains(strings.Fields(string(names)), tableRaw) {
			continue
		}
		chains, err := l.read()
		if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EPERM) { // a service that may have no such socket
			continue
		} else if err != nil {
			return nil, fmt.Errorf("read iptables: %w", err)
		}
		f = append(f, chains...)
	}
	return f, nil
}

func (l layout) read() (f Firewall, err error) {
	fd, err := unix.Socket(l.socket, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	const tries = 10
	for range tries {
		info := make([]byte, infoSize)
		copy(info, tableRaw)
		if err := getsockopt(fd, l.level, soGetInfo, info); err != nil {
			return nil, err
		}
		size := binary.NativeEndian.Uint32(info[80:])
		entries := make([]byte, entriesHead+size)
		copy(entries, tableRaw)
		binary.NativeEndian.PutUint32(entries[32:], size)
		err = getsockopt(fd, l.level, soGetEntries, entries)
		if errors.Is(err, unix.EAGAIN) { // the table has just changed
			continue
		} else if err != nil {
			return nil, err
		}
		return l.chains(info, entries[entriesHead:])
	}
	return nil, err
}

func getsockopt(fd, level, name int, b []byte) error {
	size := uint32(len(b))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(name),
		uintptr(unsafe.Pointer(&b[0])), uintptr(unsafe.Pointer(&size)), 0) // x/sys has no call for bytes
	if errno != 0 {
		return errno
	}
	return nil
}

// chains are those of the hooks, and those that they lead to, each called after the offset of its first entry.
func (l layout) chains(info, entries []byte) (f Firewall, err error) {
	valid := binary.NativeEndian.Uint32(info[32:])
	starts, ends := []uint32{}, []uint32{}
	for _, hook := range []uint32{hookPrerouting, hookOutput} {
		if valid&(1<<hook) != 0 {
			start := binary.NativeEndian.Uint32(info[36+4*hook:])
			f = append(f, chain{family: l.family, table: tableRaw, name: fmt.Sprint(start), hook: hook, base: true})
			starts, ends = append(starts, start), append(ends, binary.NativeEndian.Uint32(info[56+4*hook:]))
		}
	}
	for i := 0; i < len(f); i++ {
		var leads []uint32
		if f[i].rules, leads, err = l.rules(entries, starts[i], ends[i]); err != nil {
			return nil, err
		}
		for _, start := range leads {
			if !slices.Contains(starts, start) {
				f = append(f, chain{family: l.family, table: tableRaw, name: fmt.Sprint(start)})
				starts, ends = append(starts, start), append(ends, uint32(len(entries)))
			}
		}
	}
	return f, nil
}

// rules reads those of one chain, up to the one at last, which is the policy of a hook, or to the head of the next chain.
func (l layout) rules(entries []byte, start, last uint32) (rules []rule, leads []uint32, err error) {
	for at := int(start); at <= int(last) && at < len(entries); {
		b := entries[at:]
		if len(b) < l.entry {
			return nil, nil, fmt.Errorf("entry: %d bytes, want at least %d", len(b), l.entry)
		}
		target, next := int(binary.NativeEndian.Uint16(b[l.offsets:])), int(binary.NativeEndian.Uint16(b[l.offsets+2:]))
		if target < l.entry || next < target+targetHead || next > len(b) {
			return nil, nil, fmt.Errorf("entry: target at %d, next at %d of %d bytes", target, next, len(b))
		}
		e, lead := l.target(b[:next], target)
		if e.kind == "end" {
			break
		}
		rules = append(rules, append(l.matches(b, target), e))
		if lead != 0 {
			leads = append(leads, lead)
		}
		at += next
	}
	return rules, leads, nil
}

// matches are what an entry compares. All but protocol and device, and an extension, may match or not.
func (l layout) matches(b []byte, target int) (r rule) {
	not, unknown := b[l.flags+1], target > l.entry
	const device = unix.IFNAMSIZ
	for i := range l.addresses / 2 { // masks are in the second half
		unknown = unknown || b[l.addresses/2+i] != 0
	}
	in, inMask, outMask := b[l.devices:][:device], b[l.devices+2*device:][:device], b[l.devices+3*device:][:device]
	unknown = unknown || outMask[0] != 0 || b[l.flags]&^(l.jumps|l.harmless) != 0
	if proto := binary.NativeEndian.Uint16(b[l.proto:]); proto != 0 {
		r = append(r, expression{kind: "meta", reg: 1, key: metaL4Proto}, expression{kind: "cmp", reg: 1, value: []byte{byte(proto)}, not: not&notProto != 0})
	}
	if size := slices.Index(append(slices.Clone(inMask), 0), 0); size > 0 {
		r = append(r, expression{kind: "meta", reg: 1, key: metaIIFName}, expression{kind: "cmp", reg: 1, value: slices.Clone(in[:size]), not: not&notDevice != 0})
	}
	if unknown {
		r = append(r, expression{kind: "match"})
	}
	return r
}

// target reads what becomes of the packet. "end" is the head of another chain.
func (l layout) target(b []byte, target int) (e expression, lead uint32) {
	name, data := unix.ByteSliceToString(b[target+2:target+31]), b[target+targetHead:]
	switch {
	case name == "ERROR":
		return expression{kind: "end"}, 0
	case name != "" || len(data) < 4:
		return targetOf(name, data), 0
	}
	e.kind = "immediate"
	switch verdict := int32(binary.NativeEndian.Uint32(data)); verdict {
	case legacyDrop:
		e.verdict = verdictDrop
	case legacyAccept:
		e.verdict = verdictAccept
	case legacyReturn:
		e.verdict = verdictReturn
	default:
		if verdict < 0 { // to a program
			e.verdict = verdictAccept
			return e, 0
		}
		e.verdict, e.chain, lead = verdictJump, fmt.Sprint(verdict), uint32(verdict)
		if b[l.flags]&l.jumps != 0 {
			e.verdict = verdictGoto
		}
	}
	return e, lead
}
