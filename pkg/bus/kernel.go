package bus

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/containernetworking/plugins/pkg/ns"

	"github.com/vxcan/vxcan/pkg/cangw"
	"github.com/vxcan/vxcan/pkg/canlink"
	"github.com/vxcan/vxcan/pkg/cantc"
	"github.com/vxcan/vxcan/pkg/rtnl"
)

// kernel is what a bus needs of it, in the host netns.
type kernel interface {
	Links(names ...string) ([]canlink.Link, error) // the zero Link for what is not there
	AllLinks() ([]canlink.Link, error)
	Peers(links ...canlink.Link) ([]canlink.Link, error) // their other ends in other netns, the zero Link for none
	AddVcan(name string, index int, alias string) error
	AddPair(p canlink.Pair) (canlink.Link, error)
	SetAlias(index int, alias string) error
	SetUp(index int) error
	Delete(indexes ...int) error

	Controller(index int) (canlink.Controller, error)
	SetUpController(before canlink.Controller, s canlink.Settings, queue int) (warnings []string, err error)
	RestoreController(before canlink.Controller) error
	RestartController(index int) error
	SetTxQueue(index, frames int) error

	Filters(hooks ...cantc.Hook) ([]cantc.Installed, error)
	SetFilters(filters ...cantc.Filter) error
	DeleteFilters(hooks ...cantc.Hook) error

	Jobs() ([]cangw.Job, error)
	AddRules(rules ...cangw.Rule) error
	DeleteRules(rules ...cangw.Rule) error

	Probe() error
	// In connects to a container's netns, or nil, to the host's.
	In(netns ns.NetNS) (container, error)
	Close() error
}

// container is what a bus needs of the kernel in a container's netns.
type container interface {
	Link(name string) (canlink.Link, error) // the zero Link if it is not there
	LinkAt(index int) (canlink.Link, error) // the same
	SetUp(index int) (canlink.Link, error)
	Close() error
}

// realKernel is the kernel.
type realKernel struct {
	conn  rtnl.Conn
	links *canlink.Conn
	tc    *cantc.Conn
	gw    *cangw.Conn
}

func dialKernel() (kernel, error) {
	if err := CheckRootful(); err != nil {
		return nil, err
	}
	conn, err := rtnl.Dial()
	if err != nil {
		return nil, err
	}
	return &realKernel{conn, canlink.On(conn), cantc.On(conn), cangw.On(conn)}, nil
}

func (k *realKernel) Close() error { return k.conn.Close() }

func (k *realKernel) Links(names ...string) ([]canlink.Link, error)    { return k.links.Get(names...) }
func (k *realKernel) Peers(of ...canlink.Link) ([]canlink.Link, error) { return k.links.Peers(of...) }
func (k *realKernel) SetUp(index int) error                            { return onlyErr(k.links.SetUp(index)) }
func (k *realKernel) Delete(indexes ...int) error                      { return explain(k.links.Delete(indexes...)) }

func (k *realKernel) SetAlias(index int, alias string) error {
	return explain(k.links.SetAlias(index, alias))
}

func (k *realKernel) AddVcan(name string, index int, alias string) error {
	return explain(k.links.AddVcan(name, index, canlink.FDMTU, alias))
}

func (k *realKernel) Controller(index int) (canlink.Controller, error) {
	return k.links.Controller(index)
}

func (k *realKernel) SetUpController(before canlink.Controller, s canlink.Settings, queue int) ([]string, error) {
	_, warnings, err := k.links.SetUpController(before, s, queue)
	return warnings, explain(err)
}

func (k *realKernel) RestoreController(before canlink.Controller) error {
	return k.links.Restore(before)
}
func (k *realKernel) RestartController(index int) error { return k.links.Restart(index) }
func (k *realKernel) SetTxQueue(index, frames int) error {
	return explain(k.links.SetTxQueue(index, frames))
}

func (k *realKernel) AddPair(p canlink.Pair) (canlink.Link, error) {
	end, err := k.links.AddPair(p)
	return end, explain(err)
}

func (k *realKernel) AllLinks() ([]canlink.Link, error) {
	links, err := k.links.List()
	return links, explain(err)
}

func (k *realKernel) Filters(hooks ...cantc.Hook) ([]cantc.Installed, error) {
	filters, err := k.tc.Get(hooks...)
	return filters, explain(err)
}

func (k *realKernel) SetFilters(filters ...cantc.Filter) error {
	return explain(k.tc.Set(filters...))
}
func (k *realKernel) DeleteFilters(hooks ...cantc.Hook) error { return explain(k.tc.Delete(hooks...)) }

func (k *realKernel) Jobs() ([]cangw.Job, error) {
	jobs, err := k.gw.List()
	return jobs, explain(err)
}

func (k *realKernel) DeleteRules(rules ...cangw.Rule) error { return explain(k.gw.Delete(rules...)) }

// AddRules loads can-gw when the kernel answers that it is missing: it does not do that by itself.
func (k *realKernel) AddRules(rules ...cangw.Rule) error {
	err := k.gw.Add(rules...)
	if isMissing(cangw.Module, err) {
		if err := loadGateway(); err != nil {
			return err
		}
		err = k.gw.Add(rules...)
	}
	return explain(err)
}

func onlyErr(_ canlink.Link, err error) error { return err }

// Probe tells whether the kernel can make what a bus is made of, without making it.
func (k *realKernel) Probe() error {
	err := k.gw.Probe()
	if errors.Is(err, rtnl.ErrPermission) { // all else would be refused for the same reason
		return explain(err)
	}
	var errs []error
	for _, kind := range []string{canlink.Vcan, canlink.Vxcan} {
		errs = append(errs, explain(k.links.Probe(kind)))
	}
	if isMissing(cangw.Module, err) {
		if err = loadGateway(); err == nil {
			err = k.gw.Probe()
		}
	}
	errs = append(errs, explain(err), explain(cantc.Probe(cantc.Drop(), cantc.Mark(1), cantc.Forward(1))))
	return errors.Join(errs...)
}

func (k *realKernel) In(netns ns.NetNS) (container, error) {
	dial := rtnl.Dial
	if netns != nil {
		dial = func() (rtnl.Conn, error) { return rtnl.DialAt(netns) }
	}
	conn, err := dial()
	if err != nil {
		return nil, explain(err)
	}
	return &realContainer{conn, canlink.On(conn)}, nil
}

type realContainer struct {
	conn  rtnl.Conn
	links *canlink.Conn
}

func (c *realContainer) Close() error { return c.conn.Close() }

func (c *realContainer) SetUp(index int) (canlink.Link, error) { return c.links.SetUp(index) }

func (c *realContainer) Link(name string) (canlink.Link, error) {
	links, err := c.links.Get(name)
	if err != nil {
		return canlink.Link{}, err
	}
	return links[0], nil
}

func (c *realContainer) LinkAt(index int) (canlink.Link, error) {
	if index == 0 { // a peer that is just going
		return canlink.Link{}, nil
	}
	link, err := c.links.GetIndex(index)
	if errors.Is(err, canlink.ErrNotFound) {
		return canlink.Link{}, nil
	}
	return link, err
}

// loadGateway is the one place where a process is started.
func loadGateway() error {
	modprobe, err := exec.LookPath("modprobe")
	if err != nil {
		modprobe = "/sbin/modprobe" // runtimes may start us with a PATH without it
	}
	out, err := exec.Command(modprobe, cangw.Module).CombinedOutput()
	if err != nil {
		words := strings.TrimSpace(string(out))
		if words == "" {
			words = err.Error()
		}
		return fmt.Errorf("%w: module %s (CONFIG_CAN_GW) cannot be loaded: %s", ErrNoKernelSupport, cangw.Module, words)
	}
	return nil
}

// isMissing reports whether an error is the lack of a kernel module.
func isMissing(module string, err error) bool {
	var missing *rtnl.NoModuleError
	return errors.As(err, &missing) && missing.Module == module
}

// explain names the reason of a refusal that is the caller's circumstances, not the request.
func explain(err error) error {
	var missing *rtnl.NoModuleError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &missing):
		return fmt.Errorf("%w: module %s (%s) is missing", ErrNoKernelSupport, missing.Module, kernelConfig(missing.Module))
	case errors.Is(err, rtnl.ErrPermission):
		return fmt.Errorf("%w: CAP_NET_ADMIN in the initial user namespace is needed; run it as root, or with CAP_NET_ADMIN", ErrPermission)
	case errors.Is(err, rtnl.ErrInterrupted):
		return fmt.Errorf("the kernel is %w: %w", ErrNotReady, err)
	}
	return err
}

// CheckRootful returns ErrPermission in any but the initial user namespace, which maps all IDs: there the kernel takes
// no gateway rules, and so nothing was ever made.
func CheckRootful() error {
	idMap, err := os.ReadFile("/proc/self/uid_map")
	if err != nil || strings.Join(strings.Fields(string(idMap)), " ") == "0 0 4294967295" {
		return nil
	}
	return fmt.Errorf("%w: CAP_NET_ADMIN in the initial user namespace is needed; this is a user namespace (a rootless runtime?), "+
		"where the kernel takes no gateway rules: use a rootful one", ErrPermission)
}
