package bus

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/cangw"
	"github.com/vxcan/vxcan/pkg/canlink"
	"github.com/vxcan/vxcan/pkg/cantc"
	"github.com/vxcan/vxcan/pkg/rtnl"
	"github.com/vxcan/vxcan/pkg/underlay"
)

// Module is a part of the kernel that a bus needs.
type Module struct {
	Name   string // of the kernel module
	Config string // of the kernel's configuration
	// For is the feature that needs it, such as "the key rate"; "" if every bus does.
	For string
	// Rootless reports that a bus in a user namespace needs it, too.
	Rootless bool
	// Leaves reports that the module makes devices of its own in each network namespace when it is loaded.
	Leaves bool
	try    func() error
}

const (
	byTable     = "the key hosts (but for unprotected)"       // what needs nftables
	fairQueue   = "a queue of each container on a controller" // what needs sch_drr
	qdiscModule = "sch_ingress"
)

// Modules are all parts of the kernel that a bus needs, in the order in which they need each other.
var Modules = [...]Module{
	{canlink.Vcan, "CONFIG_CAN_VCAN", "", true, false, func() error {
		return tryLinks(func(c *canlink.Conn) error { return c.AddVcan("try", tryIndex, canlink.FDMTU, "") })
	}},
	{canlink.Vxcan, "CONFIG_CAN_VXCAN", "", true, false, func() error {
		return tryLinks(func(c *canlink.Conn) error {
			_, err := c.AddPair(canlink.Pair{Name: "try0", PeerName: "try1", Index: tryIndex, PeerIndex: tryIndex + 1, MTU: canlink.FDMTU})
			return err
		})
	}},
	{cangw.Module, "CONFIG_CAN_GW", "", false, false, tryGateway},
	{qdiscModule, "CONFIG_NET_SCH_INGRESS", "", true, false, tryFilter()},
	{"cls_bpf", "CONFIG_NET_CLS_BPF", "", true, false, tryFilter()},
	{"act_gact", "CONFIG_NET_ACT_GACT", "", true, false, tryFilter(cantc.Drop())},
	{"act_skbedit", "CONFIG_NET_ACT_SKBEDIT", "", true, false, tryFilter(cantc.Mark(1))},
	{"act_mirred", "CONFIG_NET_ACT_MIRRED", "", true, false, tryFilter(cantc.Forward(1))},
	{"act_police", "CONFIG_NET_ACT_POLICE", "the key rate", true, false, tryFilter(cantc.Limit(1, 1))},
	{"sch_drr", "CONFIG_NET_SCH_DRR", fairQueue, false, false, cantc.ProbeQueue},
	{"cls_fw", "CONFIG_NET_CLS_FW", fairQueue, false, false, cantc.ProbeQueue},
	{canlink.ModuleGRE, "CONFIG_NET_IPGRE", "the key hosts", false, true, tryTunnel("192.0.2.1", "192.0.2.2")},
	{canlink.Module6, "CONFIG_IPV6_GRE", "the key hosts with IPv6", false, true, tryTunnel("2001:db8::1", "2001:db8::2")},
	{underlay.ModuleTables, "CONFIG_NF_TABLES_INET", byTable, false, false, tryTable},
	{underlay.ModuleCT, "CONFIG_NFT_CT", byTable, false, false, tryTable},
}

// moduleOf finds a module by its name. One that is not listed has no For.
func moduleOf(name string) Module {
	if i := slices.IndexFunc(Modules[:], func(m Module) bool { return m.Name == name }); i >= 0 {
		return Modules[i]
	}
	return Module{Name: name, Config: "CONFIG_NET_" + strings.ToUpper(name)}
}

// Try uses the module, which the kernel loads if need be, and leaves nothing but that. It fails with an ErrNoKernelSupport
// if the kernel lacks it, or with ErrPermission.
func (m Module) Try() error {
	err := m.try()
	var other *rtnl.NoModuleError
	if errors.As(err, &other) && other.Module != m.Name {
		if other.Module == qdiscModule || other.Module == "sch_drr" || other.Module == underlay.ModuleTables { // nothing else can be tried without it
			return fmt.Errorf("it needs module %s first", other.Module)
		}
		return nil // an action, which the kernel is asked for by itself
	}
	return explain(err)
}

// tryIndex is the ifindex of a device to be tried: the lowest ones are those of devices that some modules make by themselves.
const tryIndex = 1 << 20

func tryLinks(add func(*canlink.Conn) error) error {
	return rtnl.InNew(rtnl.Dial, func(conn rtnl.Conn) error { return add(canlink.On(conn)) })
}

func tryTunnel(local, remote string) func() error {
	return func() error {
		t := canlink.Tunnel{Local: netip.MustParseAddr(local), Remote: netip.MustParseAddr(remote), Key: 1}
		return tryLinks(func(c *canlink.Conn) error { return c.AddTunnel("try", tryIndex, "try", t) })
	}
}

func tryTable() error {
	err := rtnl.InNew(rtnl.DialNetfilter, func(conn rtnl.Conn) error { return underlay.On(conn).Probe() })
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		return underlay.On(nil).Probe()
	}
	return err
}

func tryFilter(actions ...cantc.Action) func() error {
	return func() error { return cantc.Probe(actions...) }
}

func tryGateway() error {
	conn, err := rtnl.Dial()
	if err != nil {
		return err
	}
	return errors.Join(readyGateway(cangw.On(conn)), conn.Close())
}
