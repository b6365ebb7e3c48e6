package bus

import (
	"errors"
	"fmt"
	"os/exec"
	"strings"

	"github.com/containernetworking/plugins/pkg/ns"
	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/cangw"
	"github.com/vxcan/vxcan/pkg/canlink"
	"github.com/vxcan/vxcan/pkg/cantc"
	"github.com/vxcan/vxcan/pkg/controller"
	"github.com/vxcan/vxcan/pkg/plan"
	"github.com/vxcan/vxcan/pkg/rtnl"
	"github.com/vxcan/vxcan/pkg/underlay"
)

// kernel is one socket in a network namespace, and everything that a bus has there.
type kernel struct {
	conn        rtnl.Conn
	links       *canlink.Conn
	controllers *controller.Conn
	tc          *cantc.Conn
	gw          *cangw.Conn
	rootless    bool // see plan.View

	dial      dialer
	netfilter rtnl.Conn // nil until it is needed
}

// dialer opens a socket of a netlink protocol in a network namespace; nil is the host's.
type dialer func(netns ns.NetNS, protocol int) (rtnl.Conn, error)

// connect opens a socket in a network namespace; nil is the host's.
func (h *Host) connect(netns ns.NetNS) (*kernel, error) {
	dial := h.dial
	if dial == nil {
		dial = dialKernel
	}
	rootless := false // does not matter in a container's
	if netns == nil {
		var err error
		if rootless, err = isRootless(); err != nil {
			return nil, err
		}
	}
	conn, err := dial(netns, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	return &kernel{conn, canlink.On(conn), controller.On(conn), cantc.On(conn), cangw.On(conn), rootless, dial, nil}, nil
}

func dialKernel(netns ns.NetNS, protocol int) (rtnl.Conn, error) {
	switch {
	case netns != nil:
		return rtnl.DialAt(netns)
	case protocol == unix.NETLINK_NETFILTER:
		return rtnl.DialNetfilter()
	}
	return rtnl.Dial()
}

func (k *kernel) close() error {
	if k.netfilter != nil {
		return errors.Join(k.conn.Close(), k.netfilter.Close())
	}
	return k.conn.Close()
}

// tables is where the nftables of the host's network namespace are. There are none in a kernel without nf_tables.
func (k *kernel) tables() (*underlay.Tables, error) {
	if k.netfilter == nil {
		conn, err := k.dial(nil, unix.NETLINK_NETFILTER)
		if errors.Is(err, unix.EPROTONOSUPPORT) {
			return underlay.On(nil), nil
		} else if err != nil {
			return nil, err
		}
		k.netfilter = conn
	}
	return underlay.On(k.netfilter), nil
}

// link is a device by its name, or the zero Link.
func (k *kernel) link(name string) (canlink.Link, error) {
	links, err := k.links.Get(name)
	if err != nil {
		return canlink.Link{}, err
	}
	return links[0], nil
}

// readyGateway makes sure of can-gw, which the kernel does not load by itself.
func readyGateway(gw *cangw.Conn) error {
	err := gw.Probe()
	var missing *rtnl.NoModuleError
	if errors.As(err, &missing) && missing.Module == cangw.Module {
		if err := loadGateway(); err != nil {
			return err
		}
		err = gw.Probe()
	}
	return err
}

// Ready reports whether an Attach could work on this kernel, without making anything: nil, ErrNoKernelSupport or
// ErrPermission. It loads modules that the kernel has but has not loaded.
func (h *Host) Ready() (retErr error) {
	defer func() { retErr = explain(retErr) }()
	k, err := h.connect(nil)
	if err != nil {
		return err
	}
	defer func() { retErr = errors.Join(retErr, k.close()) }()
	var errGateway error
	if !k.rootless {
		errGateway = readyGateway(k.gw)
	}
	if errors.Is(errGateway, rtnl.ErrPermission) { // all else would be refused for the same reason
		return errGateway
	}
	var errs []error
	for _, kind := range []string{canlink.Vcan, canlink.Vxcan} {
		errs = append(errs, explain(k.links.Probe(kind)))
	}
	return errors.Join(append(errs, explain(errGateway), explain(cantc.Probe(cantc.Drop(), cantc.Mark(1), cantc.Forward(1))))...)
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

// explain adds the cause where the host is at fault and not the request. Every verb's error passes it once. Joined errors, as
// that of an undo and its cause, are explained one by one.
func explain(err error) error {
	var missing *rtnl.NoModuleError
	switch joined, several := err.(interface{ Unwrap() []error }); {
	case several && err.Error() == errors.Join(joined.Unwrap()...).Error():
		var all []error
		for _, e := range joined.Unwrap() {
			all = append(all, explain(e))
		}
		return errors.Join(all...)
	case err == nil, errors.Is(err, ErrNoKernelSupport), errors.Is(err, ErrPermission):
		return err
	case errors.As(err, &missing):
		m, needed := moduleOf(missing.Module), ""
		if m.For != "" {
			needed = ", which " + m.For + " needs"
		}
		return fmt.Errorf("%w: module %s (%s) is missing%s", ErrNoKernelSupport, m.Name, m.Config, needed)
	case errors.Is(err, rtnl.ErrPermission):
		return fmt.Errorf("%w: CAP_NET_ADMIN is needed, and CAP_SYS_ADMIN to enter the network namespace of a container; run it as root: %w", ErrPermission, err)
	case errors.Is(err, rtnl.ErrInterrupted):
		return fmt.Errorf("the kernel is %w: %w", plan.ErrNotReady, err)
	}
	return err
}

var errForeignNetns = fmt.Errorf("%w: this user namespace does not own the network namespace; enter both of a rootless runtime, as podman unshare --rootless-netns does, or neither", ErrPermission)

// IsRootless reports whether this process, and the netns of this thread, are in a user namespace other than the initial one.
func IsRootless() bool {
	rootless, err := isRootless()
	return rootless && err == nil
}

// isRootless fails with errForeignNetns: if two user namespaces managed one bus, each in its way, it would be wired twice.
func isRootless() (bool, error) {
	const initial = 0xEFFFFFFD // inode of the initial user namespace, PROC_USER_INIT_INO of linux/proc_ns.h
	netns, err := unix.Open(hostNetns, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false, fmt.Errorf("network namespace of this process: %w", err)
	}
	defer unix.Close(netns)
	var of, own unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/user", &own); errors.Is(err, unix.ENOENT) { // CONFIG_USER_NS=n
		return false, nil
	} else if err != nil {
		return false, fmt.Errorf("user namespace of this process: %w", err)
	}
	owner, err := unix.IoctlRetInt(netns, unix.NS_GET_USERNS)
	if errors.Is(err, unix.EPERM) {
		return false, errForeignNetns
	} else if err != nil {
		return false, fmt.Errorf("owner of the network namespace: %w", err)
	}
	defer unix.Close(owner)
	if err := unix.Fstat(owner, &of); err != nil {
		return false, fmt.Errorf("owner of the network namespace: %w", err)
	}
	if !sameFile(of, own) {
		return false, errForeignNetns
	}
	return of.Ino != initial, nil
}
