package underlay

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/rtnl"
)

// Modules of the kernel that a Table needs.
const (
	ModuleTables = "nf_tables"
	ModuleCT     = "nft_ct"
)

// Mark is the mark (struct sk_buff) of GRE packets that come from another host of a bus itself. What comes out of a tunnel has
// the mark of the packet that it was in, and what comes from another network namespace has none. Programs that clear bits of
// marks on the way leave these alone: kube-proxy has 0xc000, Calico and Tailscale 0xffff0000, the VPC plugin of AWS 0x80, and
// Cilium does not have 0x1 in 0xf00.
const Mark = 0x3163

// HopLimit is that of outer packets. A packet that arrives with it was forwarded by nobody.
const HopLimit = 255

// Table is the nftables table of family inet that guards the tunnels of a bus. Each of its rules is about the GRE packets with
// the bus's key between this host and another one:
//
//   - what comes with the whole hop limit, by the device on the way to the other host, gets Mark. Packets that a host forwards or
//     masquerades for a container have a lower one, and those of its own containers come by another device. It must be no
//     fragment, and is looked at before fragments are put together: the whole has the hop limit of one and the device of another;
//   - connection tracking does not see it, because with that a container that sends first could have its host hand it the packets
//     that are for the host.
type Table struct {
	Name  string
	Local netip.Addr
	Key   uint32
	Peers []Source
}

// Source is where packets of another host come from.
type Source struct {
	Address netip.Addr
	Device  string // "" if there is no way to it: its packets get no mark
}

// Tables are the nftables of a network namespace.
type Tables struct{ conn rtnl.Conn }

// On wraps a socket of NETLINK_NETFILTER. nil is that of a kernel that has none.
func On(conn rtnl.Conn) *Tables { return &Tables{conn} }

// MayHaveTables reports whether the kernel has loaded what a table is made of. To ask for one would load it. Where it is built
// in, this says no: what a call that was killed has left is then found by the next one that makes trunks.
func MayHaveTables() bool {
	_, err := os.Stat("/sys/module/" + ModuleTables)
	return err == nil
}

// Listing returns a table as the kernel lists it, in one form: names and numbers of what is in it, without handles and
// counters. It is "" if there is no such table.
func (t *Tables) Listing(name string) (listing string, err error) {
	if t.conn == nil {
		return "", nil
	}
	requests := []*nl.NetlinkRequest{message(unix.NFT_MSG_GETTABLE, rtnl.Text(unix.NFTA_TABLE_NAME, name))}
	for _, c := range chains {
		requests = append(requests, message(unix.NFT_MSG_GETCHAIN, rtnl.Text(unix.NFTA_CHAIN_TABLE, name), rtnl.Text(unix.NFTA_CHAIN_NAME, c.name)))
	}
	replies, err := t.conn.Batch(requests...)
	if err != nil {
		return "", fmt.Errorf("table %s: %w", name, err)
	}
	var lines []string
	for i, r := range replies {
		switch {
		case i == 0 && (errors.Is(r.Err, unix.ENOENT) || errors.Is(r.Err, unix.EINVAL)): // EINVAL: no nf_tables
			return "", nil
		case errors.Is(r.Err, unix.ENOENT):
			continue
		case r.Err != nil:
			return "", fmt.Errorf("table %s: %w", name, r.Err)
		}
		kind := "chain"
		if i == 0 {
			kind = "table"
		}
		line, err := describe(kind, r.Data)
		if err != nil {
			return "", fmt.Errorf("table %s: %w", name, err)
		}
		lines = append(lines, line)
	}
	rules, err := t.rules(name)
	return strings.Join(append(lines, rules...), "\n"), err
}

// rules lists the rules of a table, in their order.
func (t *Tables) rules(name string) ([]string, error) {
	request := message(unix.NFT_MSG_GETRULE, rtnl.Text(unix.NFTA_RULE_TABLE, name))
	lines, err := rtnl.List(t.conn, request, listTries, listPause, func(data []byte) (string, error) { return describe("rule", data) })
	if err != nil {
		return nil, fmt.Errorf("rules of table %s: %w", name, err)
	}
	return lines, nil
}

// Set makes or replaces a table. No packet sees something in between. Without the modules it fails with a rtnl.NoModuleError.
func (t *Tables) Set(table Table) error {
	named := rtnl.Text(unix.NFTA_TABLE_NAME, table.Name)
	// The first makes sure that there is one to be deleted.
	requests := []*nl.NetlinkRequest{create(unix.NFT_MSG_NEWTABLE, named), message(unix.NFT_MSG_DELTABLE, named)}
	if err := t.transact(append(requests, table.requests()...)); err != nil {
		return fmt.Errorf("set table %s: %w", table.Name, err)
	}
	return nil
}

// Delete deletes a table. One that is not there is no error.
func (t *Tables) Delete(name string) error {
	err := t.transact([]*nl.NetlinkRequest{message(unix.NFT_MSG_DELTABLE, rtnl.Text(unix.NFTA_TABLE_NAME, name))})
	var missing *rtnl.NoModuleError
	if err == nil || errors.Is(err, unix.ENOENT) || errors.As(err, &missing) {
		return nil
	}
	return fmt.Errorf("delete table %s: %w", name, err)
}

func (t *Tables) transact(requests []*nl.NetlinkRequest) error {
	if t.conn == nil {
		return &rtnl.NoModuleError{Module: ModuleTables}
	}
	edge := func(kind int) *nl.NetlinkRequest {
		r := nl.NewNetlinkRequest(kind, 0)
		r.AddData(&nl.Nfgenmsg{ResId: nl.Swap16(unix.NFNL_SUBSYS_NFTABLES)})
		return r
	}
	all := append(append([]*nl.NetlinkRequest{edge(unix.NFNL_MSG_BATCH_BEGIN)}, requests...), edge(unix.NFNL_MSG_BATCH_END))
	replies, err := t.conn.Batch(all...)
	if err != nil {
		return err
	}
	for i, r := range replies {
		switch {
		case errors.Is(r.Err, unix.EOPNOTSUPP): // no nf_tables, or not for family inet
			return &rtnl.NoModuleError{Module: ModuleTables}
		case errors.Is(r.Err, unix.ENOENT) && bytes.Contains(all[i].Serialize(), []byte("notrack")):
			return &rtnl.NoModuleError{Module: ModuleCT}
		case r.Err != nil:
			return r.Err
		}
	}
	return nil
}

// Probe reports whether the kernel has what a Table needs, in the network namespace of the socket.
func (t *Tables) Probe() error {
	a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	if err := t.Set(Table{Name: "vxcan-try", Local: a, Key: 1, Peers: []Source{{Address: b, Device: "lo"}}}); err != nil {
		return err
	}
	return t.Delete("vxcan-try")
}

// chain is one of a table. Priorities are those of linux/netfilter_ipv4.h: before defragmentation, and before connection tracking.
type chain struct {
	name     string
	hook     uint32
	priority int32
}

const (
	rawBeforeDefrag, raw = -450, -300
	accept               = 1 // NF_ACCEPT of linux/netfilter.h
)

var chains = [...]chain{
	{"prerouting", unix.NF_INET_PRE_ROUTING, rawBeforeDefrag}, {"output", unix.NF_INET_LOCAL_OUT, raw},
}

// requests makes the table in an empty place.
func (t Table) requests() []*nl.NetlinkRequest {
	all := []*nl.NetlinkRequest{create(unix.NFT_MSG_NEWTABLE, rtnl.Text(unix.NFTA_TABLE_NAME, t.Name))}
	for _, c := range chains {
		hook := rtnl.Nested(unix.NFTA_CHAIN_HOOK, number(unix.NFTA_HOOK_HOOKNUM, c.hook), number(unix.NFTA_HOOK_PRIORITY, uint32(c.priority)))
		all = append(all, create(unix.NFT_MSG_NEWCHAIN, rtnl.Text(unix.NFTA_CHAIN_TABLE, t.Name), rtnl.Text(unix.NFTA_CHAIN_NAME, c.name), hook,
			number(unix.NFTA_CHAIN_POLICY, accept), rtnl.Text(unix.NFTA_CHAIN_TYPE, "filter")))
	}
	rule := func(c chain, expressions ...[]*nl.RtAttr) {
		list := rtnl.Nested(unix.NFTA_RULE_EXPRESSIONS, slices.Concat(expressions...)...)
		r := create(unix.NFT_MSG_NEWRULE, rtnl.Text(unix.NFTA_RULE_TABLE, t.Name), rtnl.Text(unix.NFTA_RULE_CHAIN, c.name), list)
		r.Flags |= unix.NLM_F_APPEND
		all = append(all, r)
	}
	ip := ipv4
	if t.Local.Is6() {
		ip = ipv6
	}
	// struct gre_base_hdr of net/gre.h, with a key (GRE_KEY) and nothing else that is optional.
	keyed := append(payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 0, []byte{0x20, 0}), payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 4, bigEndian(t.Key))...)
	protocol, isGRE := meta(unix.NFT_META_NFPROTO, []byte{ip.family}), meta(unix.NFT_META_L4PROTO, []byte{unix.IPPROTO_GRE})
	field := func(offset uint32, value []byte) []*nl.RtAttr {
		return payload(unix.NFT_PAYLOAD_NETWORK_HEADER, offset, value)
	}
	for _, p := range t.Peers {
		source, destination := field(ip.source, p.Address.AsSlice()), field(ip.destination, t.Local.AsSlice())
		if p.Device != "" {
			match := [][]*nl.RtAttr{meta(unix.NFT_META_IIFNAME, deviceName(p.Device)), protocol, source}
			if t.Local.Is4() {
				match = append(match, noFragment(), field(8, []byte{HopLimit}), destination, isGRE)
			} else {
				match = append(match, field(6, []byte{unix.IPPROTO_GRE, HopLimit}), destination) // the next header: no fragment's
			}
			rule(chains[0], append(match, keyed, setMark())...)
		}
		rule(chains[0], protocol, source, isGRE, destination, keyed, notrack())
	}
	for _, p := range t.Peers {
		rule(chains[1], protocol, field(ip.source, t.Local.AsSlice()), isGRE, field(ip.destination, p.Address.AsSlice()), keyed, notrack())
	}
	return all
}

// header is where struct iphdr or struct ipv6hdr has what rules look at.
type header struct {
	family              byte
	source, destination uint32
}

var ipv4, ipv6 = header{unix.NFPROTO_IPV4, 12, 16}, header{unix.NFPROTO_IPV6, 8, 24}

// noFragment matches packets of IPv4 with no offset and nothing to follow. Whether one may become a fragment is not looked at:
// an ICMP message of anybody changes what the other host says of that.
func noFragment() []*nl.RtAttr {
	const bitwiseOp = 6 // NFTA_BITWISE_OP
	mask, none := []byte{0xbf, 0xff}, []byte{0, 0}
	match := payload(unix.NFT_PAYLOAD_NETWORK_HEADER, 6, none)
	bits := expression("bitwise", number(unix.NFTA_BITWISE_SREG, unix.NFT_REG_1), number(unix.NFTA_BITWISE_DREG, unix.NFT_REG_1),
		number(unix.NFTA_BITWISE_LEN, uint32(len(mask))), number(bitwiseOp, unix.NFT_BITWISE_BOOL),
		value(unix.NFTA_BITWISE_MASK, mask), value(unix.NFTA_BITWISE_XOR, none))
	return slices.Insert(match, 1, bits)
}

func deviceName(name string) []byte {
	all := make([]byte, unix.IFNAMSIZ)
	copy(all, name)
	return all
}

func setMark() []*nl.RtAttr {
	return []*nl.RtAttr{
		expression("immediate", number(unix.NFTA_IMMEDIATE_DREG, unix.NFT_REG_1), value(unix.NFTA_IMMEDIATE_DATA, nl.Uint32Attr(Mark))),
		expression("meta", number(unix.NFTA_META_KEY, unix.NFT_META_MARK), number(unix.NFTA_META_SREG, unix.NFT_REG_1)),
	}
}

func notrack() []*nl.RtAttr { return []*nl.RtAttr{expression("notrack")} }

// meta matches what the kernel knows of a packet.
func meta(key uint32, value []byte) []*nl.RtAttr {
	return []*nl.RtAttr{expression("meta", number(unix.NFTA_META_KEY, key), number(unix.NFTA_META_DREG, unix.NFT_REG_1)), equal(value)}
}

// payload matches bytes of a header.
func payload(base, offset uint32, value []byte) []*nl.RtAttr {
	return []*nl.RtAttr{expression("payload",
		number(unix.NFTA_PAYLOAD_DREG, unix.NFT_REG_1), number(unix.NFTA_PAYLOAD_BASE, base),
		number(unix.NFTA_PAYLOAD_OFFSET, offset), number(unix.NFTA_PAYLOAD_LEN, uint32(len(value)))), equal(value)}
}

// equal compares register 1.
func equal(to []byte) *nl.RtAttr {
	return expression("cmp", number(unix.NFTA_CMP_SREG, unix.NFT_REG_1), number(unix.NFTA_CMP_OP, unix.NFT_CMP_EQ), value(unix.NFTA_CMP_DATA, to))
}

func expression(name string, attrs ...*nl.RtAttr) *nl.RtAttr {
	e := rtnl.Nested(unix.NFTA_LIST_ELEM, rtnl.Text(unix.NFTA_EXPR_NAME, name))
	if len(attrs) > 0 {
		e.AddChild(rtnl.Nested(unix.NFTA_EXPR_DATA, attrs...))
	}
	return e
}

func value(kind int, data []byte) *nl.RtAttr {
	return rtnl.Nested(kind, nl.NewRtAttr(unix.NFTA_DATA_VALUE, data))
}

// Numbers of nf_tables are big-endian.
func number(kind int, n uint32) *nl.RtAttr { return nl.NewRtAttr(kind, bigEndian(n)) }

func bigEndian(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }

func message(kind int, attrs ...*nl.RtAttr) *nl.NetlinkRequest {
	r := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|kind, 0)
	r.AddData(&nl.Nfgenmsg{NfgenFamily: unix.NFPROTO_INET, Version: nl.NFNETLINK_V0})
	return rtnl.With(r, attrs...)
}

func create(kind int, attrs ...*nl.RtAttr) *nl.NetlinkRequest {
	r := message(kind, attrs...)
	r.Flags |= unix.NLM_F_CREATE
	return r
}

// Listing is that of the kernel once the table is set.
func (t Table) Listing() string {
	lines := []string{fmt.Sprintf("table %x %x %x", nl.ZeroTerminated(t.Name), bigEndian(0), bigEndian(uint32(len(chains))))} // name, flags, use
	for i, r := range t.requests()[1:] {
		kind := "rule"
		if i < len(chains) {
			kind = "chain"
		}
		line, err := describe(kind, r.Serialize()[unix.SizeofNlMsghdr:])
		if err != nil {
			panic(err) // of our own bytes
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n")
}

// Device returns the device by which packets of another host must come to get Mark, by the listing of such a table, or "".
func (t Table) Device(listing string, peer netip.Addr) string {
	const any = "a device of any name"
	t.Peers = []Source{{peer, any}}
	rule := strings.Split(t.Listing(), "\n")[1+len(chains)]
	before, after, _ := strings.Cut(rule, hex.EncodeToString(deviceName(any)))
	for line := range strings.SplitSeq(listing, "\n") {
		rest, begins := strings.CutPrefix(line, before)
		name, ends := strings.CutSuffix(rest, after)
		if b, err := hex.DecodeString(name); begins && ends && err == nil && len(b) == unix.IFNAMSIZ {
			return unix.ByteSliceToString(b)
		}
	}
	return ""
}

// compared are the attributes that make a table, a chain or a rule what it is. The kernel lists what is in them as it was sent.
var compared = map[string][]uint16{
	"table": {unix.NFTA_TABLE_NAME, unix.NFTA_TABLE_FLAGS, unix.NFTA_TABLE_USE},
	"chain": {unix.NFTA_CHAIN_NAME, unix.NFTA_CHAIN_HOOK, unix.NFTA_CHAIN_POLICY, unix.NFTA_CHAIN_TYPE},
	"rule":  {unix.NFTA_RULE_CHAIN, unix.NFTA_RULE_EXPRESSIONS},
}

// describe lists the attributes of a message behind struct nfgenmsg that are compared, in the order of their numbers.
func describe(kind string, data []byte) (string, error) {
	words := make([]string, len(compared[kind]))
	err := rtnl.AttrsBehind("nfgenmsg", nl.SizeofNfgenmsg, data, func(attr uint16, value []byte) error {
		if i := slices.Index(compared[kind], attr); i >= 0 {
			words[i] = fmt.Sprintf("%x", value)
		}
		return nil
	})
	return kind + " " + strings.Join(words, " "), err
}
