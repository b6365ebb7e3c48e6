// Package bus puts containers on CAN buses: it has the verbs. The plugins under plugins/ speak for the runtimes
// and change buses only through this package, which knows none of their protocols. vxcanctl reads frames with pkg/capture.
//
// Every verb takes the lock of a bus and its record, observes what the kernel has, has pkg/plan list the differences from what
// the bus must have, and applies them or, as Check does, reports them. What a call changes is noted in a trail, and when the
// call fails, all of that is taken away again. The kernel is the truth; the record remembers what was asked for.
package bus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"
	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/canlink"
	"github.com/vxcan/vxcan/pkg/cantc"
	"github.com/vxcan/vxcan/pkg/config"
	"github.com/vxcan/vxcan/pkg/controller"
	"github.com/vxcan/vxcan/pkg/plan"
	"github.com/vxcan/vxcan/pkg/rtnl"
	"github.com/vxcan/vxcan/pkg/store"
	"github.com/vxcan/vxcan/pkg/underlay"
)

// Defaults of Host, and the environment variable that sets its LockTimeout.
const (
	defaultStateDir    = "/var/lib/cni/vxcan"
	DefaultLockTimeout = time.Minute // at boot, all containers of a slow board start at once
	lockTimeoutEnv     = "VXCAN_LOCK_TIMEOUT"
)

// Errors that callers tell apart, beside config.ErrInvalid and plan.ErrNotReady.
var (
	// ErrInvalidNetns is a path that is not the network namespace of a container.
	ErrInvalidNetns = errors.New("invalid network namespace")
	// ErrNoKernelSupport is a kernel without vcan, vxcan or another module that a bus needs.
	ErrNoKernelSupport = errors.New("no kernel support")
	// ErrPermission is the lack of CAP_NET_ADMIN in the user namespace that owns the network namespace.
	ErrPermission = errors.New("not permitted")
	// ErrNameTaken is an interface name that the container has already. It is an ErrInvalid too.
	ErrNameTaken = fmt.Errorf("%w interface", config.ErrInvalid)
	// ErrNoBus: no bus has this hub.
	ErrNoBus = errors.New("there is no such bus")
	// ErrInUse is a bus that still has endpoints.
	ErrInUse = errors.New("it is in use")
)

// Host is the buses of this host. Its zero value is ready for use on the real kernel.
type Host struct {
	StateDir    string        // "" is defaultStateDir, or in a user namespace a directory of the user's below /run
	LockTimeout time.Duration // 0 is DefaultLockTimeout
	// Notice is called, in a few words, for what was put right and for what the administrator should know. nil is allowed.
	Notice func(hub, what string)

	dial dialer // nil is the real kernel
}

// NewHost returns the buses of this host as plugins use them: it logs notices, and lockTimeoutEnv sets LockTimeout.
func NewHost(log *slog.Logger) *Host {
	h := &Host{Notice: func(hub, what string) { log.Info(what, "hub", hub) }}
	if text := os.Getenv(lockTimeoutEnv); text != "" {
		timeout, err := time.ParseDuration(text)
		if h.LockTimeout = max(timeout, 0); err != nil || timeout <= 0 {
			log.Info("going on with the default: want a duration like 30s", lockTimeoutEnv, text)
		}
	}
	return h
}

// bus is one bus with its lock held.
type bus struct {
	host *Host
	name string // of the hub
	dir  string // of the records of this netns
	k    *kernel

	file   *store.File // nil where the lock cannot be had, on a read-only disk
	record record
	onDisk bool  // there is a file with the record
	broken error // why the record cannot be written
	unread error // why the record could not be read; also set if a later version wrote it

	span      config.Span // that the request asks for
	leaving   bool        // look for a table even where nothing asks for other hosts
	view      plan.View
	endpoints []plan.Endpoint // of the view
	trail     trail
}

// open connects to the kernel, takes the bus's lock and reads its record. Permissions come first, so that the error names them
// and not the state directory. A disk that fails is no error yet, see bus.broken.
func (h *Host) open(ctx context.Context, hub string) (_ *bus, retErr error) {
	k, err := h.connect(nil)
	if err != nil {
		return nil, err
	}
	defer func() {
		if retErr != nil {
			retErr = errors.Join(retErr, k.close())
		}
	}()
	dir, err := h.netnsDir()
	if err != nil {
		return nil, err
	}
	b := &bus{host: h, name: hub, dir: dir, k: k}
	b.file, err = store.Open(ctx, dir, hub, cmp.Or(h.LockTimeout, DefaultLockTimeout))
	switch {
	case errors.Is(err, store.ErrLocked):
		return nil, fmt.Errorf("%w; try again, or wait longer (%s)", err, lockTimeoutEnv)
	case errors.Is(err, store.ErrIO):
		b.broken = err
	case err != nil:
		return nil, err
	}
	b.load()
	b.trail.record, b.trail.onDisk = b.record, b.onDisk
	return b, nil
}

// close gives the lock back. A bus without a record needs no lock file either.
func (b *bus) close() error {
	err := b.k.close()
	if b.file == nil {
		return err
	}
	if !b.onDisk {
		if err := b.file.Remove(); err != nil {
			b.notice("left a lock file behind, which does no harm: %s", config.OneLine(err))
		}
	}
	return errors.Join(err, b.file.Close())
}

func (b *bus) notice(format string, args ...any) {
	if b.host.Notice != nil {
		b.host.Notice(b.name, fmt.Sprintf(format, args...))
	}
}

// observe reads all that the kernel has, and makes the record agree with it: endpoints without a device go, and those that only
// aliases of devices tell of come. It returns these corrections in words. It changes nothing in the kernel or on disk.
func (b *bus) observe() (corrections []string, err error) {
	v := plan.View{Rootless: b.k.rootless}
	if v.Links, err = b.k.links.List(); err != nil {
		return nil, err
	}
	hub := v.Link(b.name)
	if hub.Kind == controller.Can {
		v.Controller, err = b.k.controllers.Get(hub.Index)
		if errors.Is(err, canlink.ErrNotFound) { // just unplugged
			v.Links = slices.DeleteFunc(v.Links, func(other canlink.Link) bool { return other.Index == hub.Index })
			hub = canlink.Link{}
		} else if err != nil {
			return nil, err
		}
	}
	if !v.Rootless {
		if v.Jobs, err = b.k.gw.List(); err != nil {
			return nil, err
		}
	}
	before := b.record.endpoints
	b.endpoints = v.Endpoints(b.name, before)
	if hub.CAN && hub.Kind != canlink.Vcan {
		if v.Queue, v.QueueLacks, err = b.observeQueue(hub.Index); err != nil {
			return nil, err
		}
	}
	b.record.endpoints = make([]plan.Record, len(b.endpoints))
	for i, e := range b.endpoints {
		b.record.endpoints[i] = e.Record
	}
	if v.Underlay, err = b.observeUnderlay(v); err != nil {
		return nil, err
	}
	if err := b.observeFilters(&v, hub.Index); err != nil {
		return nil, err
	}
	b.view = v
	for _, r := range without(before, b.record.endpoints) {
		corrections = append(corrections, fmt.Sprintf("dropped the record of %s: its devices are gone", r.Attachment))
	}
	for _, r := range without(b.record.endpoints, before) {
		corrections = append(corrections, fmt.Sprintf("found %s again by its device %s", r.Attachment, r.HostIf()))
	}
	return corrections, nil
}

// observeFilters fills in Filters, Qdiscs and Entries of the view.
func (b *bus) observeFilters(v *plan.View, hub int) error {
	var where, listed []cantc.Hook // listed are hooks where to look for filters of other programs
	if hub != 0 {
		where = plan.Hooks(hub, false)
		listed = slices.Clone(where)
	}
	members := []int{hub}
	for _, e := range b.endpoints {
		where = append(where, plan.Hooks(e.Host.Index, e.Endpoint.Policy != (config.Policy{}) || e.CutOff)...)
		members = append(members, e.Host.Index)
	}
	tx, rx := config.BackplaneNames(b.name)
	ends := slices.DeleteFunc([]int{v.Link(tx).Index, v.Link(rx).Index}, func(index int) bool { return index == 0 })
	isEnd := func(h cantc.Hook) bool { return slices.Contains(ends, h.Dev) } // of the backplane
	if v.Rootless && v.Link(rx).Index != 0 {
		where = append(where, plan.CopyHooks(v.Link(rx).Index, members...)...)
	}
	if trunks := v.TrunkHooks(b.name); !v.Rootless {
		where = append(where, trunks...)
		listed = append(listed, slices.DeleteFunc(slices.Clone(trunks), isEnd)...)
	}
	v.Filters = make(map[cantc.Hook]cantc.Installed, len(where))
	get := func(hooks ...cantc.Hook) error {
		filters, err := b.k.tc.Get(hooks...)
		for _, f := range filters {
			v.Filters[f.Hook] = f
		}
		return err
	}
	if err := get(where...); err != nil {
		return err
	}
	for _, e := range b.endpoints {
		listed = append(listed, v.Missing(e)...)
	}
	devs := slices.Clone(ends)
	for _, h := range listed {
		if _, there := v.Filters[h]; !there {
			devs = append(devs, h.Dev)
		}
	}
	slices.Sort(devs)
	var err error
	if v.Qdiscs, err = b.k.tc.Qdiscs(slices.Compact(devs)...); err != nil {
		return err
	}
	for _, q := range v.Qdiscs {
		if slices.Contains(ends, q.Dev) {
			listed = append(listed, cantc.Hook{Dev: q.Dev, Dir: cantc.Ingress}, cantc.Hook{Dev: q.Dev, Dir: cantc.Egress})
		}
	}
	if v.Entries, err = b.k.tc.List(listed...); err != nil {
		return err
	}
	// A filter that copies to no member was left by one that has gone, or is another program's.
	return get(v.OtherCopies(b.name)...)
}

// observeUnderlay reads the routes to the other hosts, wanted or with a trunk, and the table that guards the trunks.
func (b *bus) observeUnderlay(v plan.View) (u underlay.Underlay, err error) {
	hosts := b.span.Addresses()
	for i := range b.endpoints {
		hosts = append(hosts, b.endpoints[i].Hub.Span.Addresses()...)
	}
	hosts = append(hosts, v.Hosts(b.name)...)
	switch {
	case len(hosts) > 0 && !b.k.rootless:
		slices.SortFunc(hosts, netip.Addr.Compare)
		if u, err = underlay.Read(b.k.conn, slices.Compact(hosts)...); err != nil {
			return u, err
		}
	case !b.leaving || b.k.rootless || !underlay.MayHaveTables():
		return u, nil
	}
	tables, err := b.k.tables()
	if err == nil {
		u.Table, err = tables.Listing(config.TableName(b.name))
	}
	u.Unread = err // DEL must not fail because of it
	return u, nil
}

// observeQueue reads the transmit queue of a hub that is hardware. lacks is as in plan.View.QueueLacks.
func (b *bus) observeQueue(hub int) (q cantc.Queue, lacks string, err error) {
	q, err = b.k.tc.Queue(hub)
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return q, "", err
	}
	isFair := slices.ContainsFunc(b.endpoints, func(e plan.Endpoint) bool { return e.Hub.IsFair() })
	var missing *rtnl.NoModuleError
	if isFair && !q.Ours && !q.Chosen && errors.As(cantc.ProbeQueue(), &missing) {
		lacks = missing.Module
	}
	return q, lacks, nil
}

// without returns the records whose attachments are not among others.
func without(all, others []plan.Record) (rest []plan.Record) {
	if slices.Equal(all, others) {
		return nil
	}
	known := make(map[config.Attachment]bool, len(others))
	for _, r := range others {
		known[r.Attachment] = true
	}
	return slices.DeleteFunc(slices.Clone(all), func(r plan.Record) bool { return known[r.Attachment] })
}

// openNetns opens a network namespace by its path and makes sure that it is one, and not the host's.
func openNetns(path string) (ns.NetNS, error) {
	netns, err := ns.GetNS(path)
	var absent ns.NSPathNotExistErr
	switch {
	case errors.As(err, &absent):
		return nil, fmt.Errorf("%w: %w", ErrInvalidNetns, err)
	case err != nil:
		return nil, fmt.Errorf("%w %s: it is none (%w)", ErrInvalidNetns, path, err)
	}
	var host, container unix.Stat_t
	kind, err := unix.IoctlRetInt(int(netns.Fd()), unix.NS_GET_NSTYPE)
	if err != nil || kind != unix.CLONE_NEWNET {
		err = fmt.Errorf("%w %s: it is none", ErrInvalidNetns, path)
	} else if err = errors.Join(unix.Stat(hostNetns, &host), unix.Fstat(int(netns.Fd()), &container)); err == nil && sameFile(host, container) {
		err = fmt.Errorf("%w %s: it is the host's; the container needs one of its own", ErrInvalidNetns, path)
	}
	if err != nil {
		return nil, errors.Join(err, netns.Close())
	}
	return netns, nil
}

func sameFile(a, b unix.Stat_t) bool { return a.Dev == b.Dev && a.Ino == b.Ino }

// NetnsID returns the number of a network namespace, as lsns and /proc/PID/ns/net show it. When the namespace has gone, a new
// one may get it. It fails with ErrInvalidNetns for the host's, and for what is no network namespace.
func NetnsID(path string) (string, error) {
	netns, err := openNetns(path)
	if err != nil {
		return "", err
	}
	defer netns.Close()
	var stat unix.Stat_t
	if err := unix.Fstat(int(netns.Fd()), &stat); err != nil {
		return "", fmt.Errorf("network namespace %s: %w", path, err)
	}
	return strconv.FormatUint(stat.Ino, 10), nil
}
