package underlay

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/rtnl"
)

// Firewall is the chains of nftables and iptables that see a packet before connection tracking does, with those that they lead
// to. Where iptables is that of nftables (iptables -V), as it is by default since Debian 10, its chains are among those.
type Firewall []chain

// chain is a list of rules.
type chain struct {
	family      uint8 // NFPROTO_* of linux/netfilter.h
	table, name string
	hook        uint32 // of a chain that packets enter by, NF_INET_* of linux/netfilter.h
	base        bool   // it is one
	drops       bool   // its policy
	rules       []rule
}

// rule is a list of expressions: those that match packets, and then what is done with them.
type rule []expression

// expression is one of nf_tables. Fields that it does not have are zero.
type expression struct {
	kind         string // "meta", "cmp", "immediate"; "" does nothing with a packet
	reg          uint32 // register that it reads or writes
	key          uint32 // of meta
	base, offset uint32 // of payload
	size         uint32 // of payload
	not          bool   // of cmp and lookup
	value        []byte // of cmp
	set          string // of lookup
	keys         [][]byte
	verdict      int32
	chain        string // that the verdict leads to
}

// Numbers from linux/netfilter.h, linux/netfilter_ipv4.h and linux/netfilter/nf_tables.h.
const (
	hookPrerouting = 0    // NF_INET_PRE_ROUTING
	hookOutput     = 3    // NF_INET_LOCAL_OUT
	prioConntrack  = -200 // NF_IP_PRI_CONNTRACK

	familyInet = 1  // NFPROTO_INET
	family4    = 2  // NFPROTO_IPV4
	family6    = 10 // NFPROTO_IPV6

	metaIIF, metaIIFName, metaNFProto, metaL4Proto = 4, 6, 15, 16 // NFT_META_*
	payloadNetwork                                 = 1            // NFT_PAYLOAD_NETWORK_HEADER

	verdictDrop, verdictAccept = 0, 1 // NF_DROP, NF_ACCEPT
	verdictContinue            = -1   // NFT_CONTINUE
	verdictBreak               = -2   // NFT_BREAK
	verdictJump, verdictGoto   = -3, -4
	verdictReturn              = -5 // NFT_RETURN
)

// Packet is a GRE packet of this host or to it, of which nothing else is known: others choose the rest.
type Packet struct {
	IPv6 bool
	// Dev and Name are the device that it comes by. Without them it is one that the host sends.
	Dev  int
	Name string
}

// Drops reports whether the firewall drops a packet, whatever else is in it.
func (f Firewall) Drops(p Packet) bool { dropped, _ := f.verdict(p); return dropped }

// Untracked reports whether connection tracking does not see a packet, whatever else is in it.
func (f Firewall) Untracked(p Packet) bool { _, untracked := f.verdict(p); return untracked }

func (f Firewall) verdict(p Packet) (dropped, untracked bool) {
	for i := range f {
		c := &f[i]
		at := uint32(hookPrerouting)
		if p.Name == "" {
			at = hookOutput
		}
		if !c.base || c.hook != at || !p.isOf(c.family) {
			continue
		}
		w := walk{f: f, p: p}
		end := w.chain(c, 0)
		if end == passed && c.drops {
			end = drops
		}
		dropped, untracked = dropped || end == drops, untracked || w.untracked
	}
	return dropped, untracked
}

func (p Packet) isOf(family uint8) bool {
	return family == familyInet || family == family6 && p.IPv6 || family == family4 && !p.IPv6
}

// walk is the way of a packet through the chains. Where it is not sure what becomes of the packet, the sender chooses: the
// walk ends, and only what was sure before counts.
type walk struct {
	f         Firewall
	p         Packet
	untracked bool
}

// end is how a chain or a rule ends.
type end int

const (
	passed  end = iota // the packet goes on with what comes next
	drops              // the packet is dropped
	unsure             // it is accepted, or may be
	returns            // of a rule: the chain ends
)

func (w *walk) chain(c *chain, depth int) end {
	const deepest = 16 // NFT_JUMP_STACK_SIZE
	if depth > deepest {
		return unsure
	}
	for _, r := range c.rules {
		switch e := w.rule(c, r, depth); e {
		case passed:
		case returns:
			return passed
		default:
			return e
		}
	}
	return passed
}

// rule carries out a rule. One that may match or not counts where it does not drop.
func (w *walk) rule(c *chain, r rule, depth int) end {
	registers := make(map[uint32][]byte) // empty is unknown
	sure := true
	for _, e := range r {
		switch e.kind {
		case "":
		case "meta":
			registers[e.reg] = w.p.meta(e.key)
		case "payload":
			registers[e.reg] = w.p.payload(e)
		case "cmp":
			switch have := registers[e.reg]; {
			case len(have) < len(e.value):
				sure = false
			case bytes.HasPrefix(have, e.value) == e.not: // of a name with * behind it less is compared
				return passed
			}
		case "lookup":
			is := func(key []byte) bool { return bytes.Equal(key, registers[e.reg]) }
			switch {
			case e.keys == nil || len(registers[e.reg]) == 0:
				sure = false
			case slices.ContainsFunc(e.keys, is) == e.not:
				return passed
			}
		case "notrack":
			w.untracked = w.untracked || sure
		case "immediate":
			return w.verdict(c, e, sure, depth)
		default: // sets, limits, and what else may match or change a register
			sure = false
			delete(registers, e.reg)
		}
	}
	return passed
}

func (w *walk) verdict(c *chain, e expression, sure bool, depth int) end {
	switch e.verdict {
	case verdictContinue, verdictBreak:
		return passed
	case verdictDrop:
		if sure {
			return drops
		}
		return passed
	case verdictReturn:
		if sure {
			return returns
		}
	case verdictJump, verdictGoto:
		i := slices.IndexFunc(w.f, func(o chain) bool { return o.family == c.family && o.table == c.table && o.name == e.chain })
		if i < 0 {
			return unsure
		}
		before := w.untracked
		end := w.chain(&w.f[i], depth+1)
		switch {
		case !sure:
			w.untracked = before
			if end == drops || end == passed && e.verdict == verdictJump {
				return passed
			}
			return unsure
		case end == passed && e.verdict == verdictGoto:
			return returns
		}
		return end
	}
	return unsure
}

// meta is what is known of a packet, as a register holds it.
func (p Packet) meta(key uint32) []byte {
	const gre = unix.IPPROTO_GRE
	switch {
	case key == metaL4Proto:
		return []byte{gre}
	case key == metaNFProto && p.IPv6:
		return []byte{family6}
	case key == metaNFProto:
		return []byte{family4}
	case key == metaIIF && p.Name != "":
		return binary.NativeEndian.AppendUint32(nil, uint32(p.Dev))
	case key == metaIIFName && p.Name != "":
		return append([]byte(p.Name), make([]byte, unix.IFNAMSIZ-min(unix.IFNAMSIZ, len(p.Name)))...)
	}
	return nil
}

// payload is the protocol of the packet, or nil for all else. In IPv6 others may put headers before it.
func (p Packet) payload(e expression) []byte {
	const protocolOffset = 9 // of struct iphdr
	if !p.IPv6 && e.base == payloadNetwork && e.offset == protocolOffset && e.size == 1 {
		return []byte{unix.IPPROTO_GRE}
	}
	return nil
}

// readFirewall reads all chains.
func readFirewall() (Firewall, error) {
	f, err := readNFTables()
	legacy, errLegacy := readLegacy()
	return append(f, legacy...), errors.Join(err, errLegacy)
}

// readNFTables reads the chains of nftables. A kernel without it has none.
func readNFTables() (Firewall, error) {
	const tries = 10
	for range tries {
		f, err := readOnce(dump)
		switch {
		case errors.Is(err, nl.ErrDumpInterrupted), errors.Is(err, unix.EINTR), errors.Is(err, unix.ENOENT): // it is just changed
			continue
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EPROTONOSUPPORT), errors.Is(err, unix.EOPNOTSUPP):
			return nil, nil
		case err != nil:
			return nil, fmt.Errorf("read nftables: %w", err)
		}
		return f, nil
	}
	return nil, fmt.Errorf("read nftables: %w, %d times; try again", rtnl.ErrInterrupted, tries)
}

// lister lists objects of nftables.
type lister func(message int, filter *dumpFilter, each func(family uint8, attrs []byte) error) error

func readOnce(dump lister) (f Firewall, err error) {
	dormant := make(map[string]bool)
	err = dump(msgGetTable, nil, func(family uint8, attrs []byte) error {
		t, err := unmarshalTable(attrs)
		dormant[tableKey(family, t.name)] = t.dormant
		return err
	})
	if err != nil {
		return nil, err
	}
	chains := make(map[string]chain)
	err = dump(msgGetChain, nil, func(family uint8, attrs []byte) error {
		c, prio, err := unmarshalChain(attrs)
		c.family = family
		early := c.base && prio < prioConntrack && (c.hook == hookPrerouting || c.hook == hookOutput)
		switch {
		case err != nil || family != familyInet && family != family4 && family != family6 || dormant[tableKey(family, c.table)]:
		case early:
			f = append(f, c)
		case !c.base:
			chains[tableKey(family, c.table)+" "+c.name] = c
		}
		return err
	})
	for i := 0; err == nil && i < len(f); i++ { // f grows with the chains that are led to
		c := &f[i]
		if c.rules, err = readRules(dump, *c); err != nil {
			return nil, err
		}
		if err = c.readSets(dump); err != nil {
			return nil, err
		}
		var next []chain
		for _, r := range c.rules {
			for _, e := range r {
				key := tableKey(c.family, c.table) + " " + e.chain
				if to, ok := chains[key]; ok {
					next = append(next, to)
					delete(chains, key)
				}
			}
		}
		f = append(f, next...)
	}
	return f, err
}

func tableKey(family uint8, table string) string { return fmt.Sprint(family, " ", table) }

func readRules(dump lister, c chain) (rules []rule, err error) {
	filter := []*nl.RtAttr{nl.NewRtAttr(ruleTable, nl.ZeroTerminated(c.table)), nl.NewRtAttr(ruleChain, nl.ZeroTerminated(c.name))}
	err = dump(msgGetRule, &dumpFilter{c.family, filter}, func(family uint8, attrs []byte) error {
		r, table, name, err := unmarshalRule(attrs)
		if family == c.family && table == c.table && name == c.name { // older kernels filter less
			rules = append(rules, r)
		}
		return err
	})
	return rules, err
}

// readSets gives lookups the keys that they compare. Those of a set that is not plain are unknown.
func (c *chain) readSets(dump lister) error {
	for _, r := range c.rules {
		for i := range r {
			if r[i].kind != "lookup" {
				continue
			}
			plain := true
			filter := []*nl.RtAttr{nl.NewRtAttr(setTable, nl.ZeroTerminated(c.table)), nl.NewRtAttr(setName, nl.ZeroTerminated(r[i].set))}
			err := dump(msgGetSet, &dumpFilter{c.family, filter}, func(_ uint8, attrs []byte) error {
				keys, all, err := unmarshalElements(attrs)
				r[i].keys, plain = append(r[i].keys, keys...), plain && all
				return err
			})
			if err != nil {
				return err
			}
			if !plain {
				r[i].keys = nil
			}
		}
	}
	return nil
}

type dumpFilter struct {
	family uint8
	attrs  []*nl.RtAttr
}

// dump is the lister of the calling thread's network namespace.
func dump(message int, filter *dumpFilter, each func(family uint8, attrs []byte) error) error {
	r := nl.NewNetlinkRequest(subsystem<<8|message, unix.NLM_F_DUMP)
	head := &nl.Nfgenmsg{Version: nl.NFNETLINK_V0}
	if filter != nil {
		head.NfgenFamily = filter.family
	}
	r.AddData(head)
	if filter != nil {
		for _, a := range filter.attrs {
			r.AddData(a)
		}
	}
	messages, err := r.Execute(unix.NETLINK_NETFILTER, 0)
	if err != nil {
		return err
	}
	for _, m := range messages {
		if len(m) < nl.SizeofNfgenmsg {
			return fmt.Errorf("nfgenmsg: %d bytes, want at least %d", len(m), nl.SizeofNfgenmsg)
		}
		if err := each(m[0], m[nl.SizeofNfgenmsg:]); err != nil {
			return err
		}
	}
	return nil
}
