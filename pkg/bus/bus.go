// Package bus puts containers on CAN buses. It is the only place that knows the topology: a hub, a backplane, one vxcan
// pair an endpoint, and the gateway rules between them. The plugins under plugins/ speak for the runtimes and call
// nothing below this package; this package knows none of their protocols.
//
// Every verb works the same way. It observes what the kernel has (view.go), derives what the bus must have (want.go),
// lists the differences (diff.go), and applies them (apply.go) or, as Check does, only reports them. The kernel is the
// truth; the record on disk remembers what was asked for.
package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"
	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/cantc"
	"github.com/vxcan/vxcan/pkg/controller"
	"github.com/vxcan/vxcan/pkg/store"
)

// Defaults of Host.
const (
	DefaultStateDir    = "/var/lib/cni/vxcan"
	DefaultLockTimeout = time.Minute // at boot, all containers of a slow board start at once
)

// Defaults of a network's configuration, the same for every runtime.
const (
	DefaultHub       = "vcan0"
	DefaultInterface = "can0" // in a container
)

// LockTimeoutEnv sets Host.LockTimeout.
const LockTimeoutEnv = "VXCAN_LOCK_TIMEOUT"

// Errors that callers tell apart.
var (
	// ErrInvalid is a request that fails however often it is repeated, for a wrong name or MTU.
	ErrInvalid = errors.New("invalid")
	// ErrInvalidNetns is a path that is not the network namespace of a container.
	ErrInvalidNetns = errors.New("invalid network namespace")
	// ErrNotReady is a hub that is missing or down where only its owner can change that.
	ErrNotReady = errors.New("not ready")
	// ErrNoKernelSupport is a kernel without vcan, vxcan or can-gw.
	ErrNoKernelSupport = errors.New("no kernel support")
	// ErrPermission is the lack of CAP_NET_ADMIN in the initial user namespace.
	ErrPermission = errors.New("not permitted")
	// ErrNameTaken is an interface name that the container has already. It is an ErrInvalid too.
	ErrNameTaken = fmt.Errorf("%w interface", ErrInvalid)
)

// OneLine is the text of an error, of which errors.Join makes several lines.
func OneLine(err error) string {
	return strings.ReplaceAll(strings.TrimSpace(err.Error()), "\n", "; ")
}

// Spec is the bus that a network's configuration asks for.
type Spec struct {
	Hub      string `json:"hub"`                // device name
	Physical bool   `json:"physical,omitempty"` // the hub is a real controller: used, never made
	MTU      int    `json:"mtu,omitempty"`      // of an endpoint: 16 or 72 bytes; 0 is 16 on a hub of MTU 16, and 72 elsewhere
	// Controller is how a controller is to be set up. Without a bit rate it is used as it is.
	Controller controller.Settings `json:"controller,omitzero"`
	TxQueue    int                 `json:"txQueue,omitempty"` // 0 is DefaultTxQueue
	Policy     Policy              `json:"policy,omitzero"`   // of the endpoint
	Name       string              `json:"-"`                 // of the container, for people; "" where the runtime does not tell it
	// Transient tells that the hub was named by a pod, not by the administrator: if it has to be made, it goes with its
	// last endpoint.
	Transient bool `json:"-"`
}

func (s Spec) check() error {
	if err := CheckHub(s.Hub); err != nil {
		return fmt.Errorf("hub: %w", err)
	}
	if _, err := s.Policy.compile(); err != nil {
		return err
	}
	if s.MTU == 0 {
		return nil
	}
	return CheckMTU(s.MTU)
}

// setsUp tells whether the hub is a controller that is ours to set up.
func (s Spec) setsUp() bool { return s.Physical && s.Controller.Bitrate != 0 }

func (s Spec) txQueue() int {
	if s.TxQueue == 0 {
		return DefaultTxQueue
	}
	return s.TxQueue
}

// Attachment is what a runtime names when it puts a container on a network.
type Attachment struct {
	Runtime     string `json:"runtime"` // which front end: "cni", "netavark", "docker"
	Network     string `json:"network"`
	ContainerID string `json:"containerID"`
	IfName      string `json:"ifName"` // the runtime's name for it, CNI_IFNAME
	// Entry tells several attachments apart that the runtime names alike, as it does the plugins of one chain: the
	// interface's name in the network's configuration, perhaps none.
	Entry string `json:"entry,omitempty"`
}

func (a Attachment) String() string {
	return a.Runtime + " " + strings.TrimSuffix(strings.Join([]string{a.Network, a.ContainerID, a.IfName}, "/"), "/")
}

// Host is the buses of this host. Its zero value is ready for use on the real kernel.
type Host struct {
	StateDir    string        // "" is DefaultStateDir
	LockTimeout time.Duration // 0 is DefaultLockTimeout
	// Notice is called, in a few words, for everything that was put right on the way and for everything that the
	// administrator should know. nil is allowed.
	Notice func(hub, what string)

	dial func() (kernel, error) // nil is the real one
}

// NewHost is the buses of this host as plugins use them: notices are logged, and LockTimeoutEnv holds.
func NewHost(log *slog.Logger) *Host {
	timeout, err := lockTimeoutFromEnv()
	if err != nil {
		log.Info("going on with the default", "err", err)
	}
	return &Host{
		LockTimeout: timeout,
		Notice:      func(hub, what string) { log.Info(what, "hub", hub) },
	}
}

// lockTimeoutFromEnv reads LockTimeoutEnv; 0 if it is not set.
func lockTimeoutFromEnv() (time.Duration, error) {
	text := os.Getenv(LockTimeoutEnv)
	if text == "" {
		return 0, nil
	}
	timeout, err := time.ParseDuration(text)
	if err != nil || timeout <= 0 {
		return 0, fmt.Errorf("%w %s %q: want a duration like 30s", ErrInvalid, LockTimeoutEnv, text)
	}
	return timeout, nil
}

func (h *Host) stateDir() string {
	if h.StateDir == "" {
		return DefaultStateDir
	}
	return h.StateDir
}

func (h *Host) connect() (kernel, error) {
	if h.dial == nil {
		return dialKernel()
	}
	return h.dial()
}

// bus is one bus with its lock held.
type bus struct {
	host      *Host
	name      string // of the hub
	k         kernel
	file      *store.File
	record    record
	onDisk    bool // there is a file, perhaps of an earlier boot
	known     bool // the record is of this boot
	saved     bool // this call has written the record
	fresh     bool // this call starts the bus, so that what it lacks is no damage
	view      view
	healing   bool       // see want
	endpoints []endpoint // of the view
	// controller is how the hub was before this call set it up, if it did.
	controller *controller.Device
	// made holds the ifindexes of the devices that this call makes, noted before the kernel is asked: the answer may be lost.
	made []int
	// marked is a hub that was there and had no filters of ours until this call made them.
	marked int
	// repaired is what to notice when the call has succeeded.
	repaired []string
}

// record is what is remembered of a bus.
type record struct {
	BootID string `json:"bootID"`
	// Controller is the Spec of a hub that is a controller: what it needs to be healed without any container's
	// configuration. It outlives a reboot. Raw, because most buses have none to decode.
	Controller json.RawMessage `json:"controller,omitempty"`
	Endpoints  []recorded      `json:"endpoints"`
}

// recorded is what is remembered of an endpoint.
type recorded struct {
	Attachment
	Policy Policy `json:"policy,omitzero"`
	Name   string `json:"name,omitempty"` // see Spec
}

// open connects to the kernel, takes the bus's lock and reads its record. It checks permissions first, so that the error
// names them and not the state directory.
func (h *Host) open(ctx context.Context, hub string) (_ *bus, retErr error) {
	timeout := h.LockTimeout
	if timeout == 0 {
		timeout = DefaultLockTimeout
	}
	k, err := h.connect()
	if err != nil {
		return nil, err
	}
	defer func() {
		if retErr != nil {
			retErr = errors.Join(retErr, k.Close())
		}
	}()
	file, err := store.Open(ctx, h.stateDir(), hub, timeout)
	var locked *store.LockedError
	if errors.As(err, &locked) {
		return nil, fmt.Errorf("%w; try again, or wait longer (%s)", err, LockTimeoutEnv)
	} else if err != nil {
		return nil, err
	}
	b := &bus{host: h, name: hub, k: k, file: file}
	if err := b.load(); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return b, nil
}

// close gives the lock back. A bus without a record needs no lock file either.
func (b *bus) close() error {
	err := b.k.Close()
	if !b.onDisk {
		if err := b.file.Remove(); err != nil {
			b.notice("left a lock file behind, which does no harm: %s", OneLine(err))
		}
	}
	return errors.Join(err, b.file.Close())
}

func (b *bus) notice(format string, args ...any) {
	if b.host.Notice != nil {
		b.host.Notice(b.name, fmt.Sprintf(format, args...))
	}
}

// load reads the record. One that is lost, unusable or of an earlier boot is an empty one: the devices' aliases tell the
// rest.
func (b *bus) load() error {
	current, err := store.BootID()
	if err != nil {
		return err
	}
	b.onDisk, err = b.file.Load(&b.record)
	var unusable *store.UnusableError
	if errors.As(err, &unusable) {
		b.notice("going on without the record: %v", unusable)
		b.onDisk, b.record = true, record{}
	} else if err != nil {
		return err
	}
	if b.known = b.onDisk && b.record.BootID == current; !b.known {
		b.record = record{BootID: current, Controller: b.record.Controller}
	}
	b.record.forgetUnreadable()
	return nil
}

// forgetUnreadable forgets policies that are no policies. Their endpoints are cut off, as those whose record is lost.
func (r *record) forgetUnreadable() {
	for i, e := range r.Endpoints {
		if e.Policy != (Policy{}) {
			if _, err := e.Policy.compile(); err != nil {
				r.Endpoints[i].Policy = Policy{}
			}
		}
	}
}

// save writes the record.
func (b *bus) save() error {
	if err := b.file.Save(b.record); err != nil {
		return err
	}
	b.onDisk, b.known, b.saved = true, true, true
	return nil
}

// removeFile removes the record's file.
func (b *bus) removeFile() error {
	b.onDisk, b.known = false, false
	return b.file.Remove()
}

// saveOrRemove writes the record, or removes its file when neither the hub nor an endpoint is left to remember.
func (b *bus) saveOrRemove() error {
	if len(b.record.Endpoints) == 0 {
		links, err := b.k.Links(b.name)
		if err != nil {
			return err
		}
		if links[0].Index == 0 {
			return b.removeFile()
		}
	}
	return b.save()
}

// observe reads all that the kernel has, and makes the record agree with it: endpoints that are gone are dropped, and
// those that are not recorded are found by the aliases of their devices. It returns these corrections in words. It
// changes nothing in the kernel or on disk.
func (b *bus) observe() (corrections []string, err error) {
	if b.view, err = observe(b.k, b.name); err != nil {
		return nil, err
	}
	before := b.record.Endpoints
	b.endpoints = b.view.endpoints(b.name, before)
	where := hooks(b.view.link(b.name).Index, false)
	b.record.Endpoints = make([]recorded, len(b.endpoints))
	for i, e := range b.endpoints {
		b.record.Endpoints[i] = e.recorded
		where = append(where, hooks(e.host.Index, e.Policy != (Policy{}) || e.cutOff)...)
	}
	filters, err := b.k.Filters(where...)
	if err != nil {
		return nil, err
	}
	b.view.filters = make(map[cantc.Hook]cantc.Installed, len(filters))
	for _, f := range filters {
		b.view.filters[f.Hook] = f
	}
	for _, r := range without(before, b.record.Endpoints) {
		corrections = append(corrections, fmt.Sprintf("dropped the record of %s: its devices are gone", r.Attachment))
	}
	for _, r := range without(b.record.Endpoints, before) {
		corrections = append(corrections, fmt.Sprintf("found %s again by its device %s", r.Attachment, hostIfName(r.Attachment)))
	}
	return corrections, nil
}

// without is all endpoints that others lack.
func without(all, others []recorded) (rest []recorded) {
	if slices.Equal(all, others) {
		return nil
	}
	known := make(map[Attachment]bool, len(others))
	for _, r := range others {
		known[r.Attachment] = true
	}
	return slices.DeleteFunc(slices.Clone(all), func(r recorded) bool { return known[r.Attachment] })
}

// openNetns opens a network namespace by its path and makes sure that it is one, and not the host's.
func openNetns(path string) (ns.NetNS, error) {
	netns, err := ns.GetNS(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalidNetns, err)
	}
	var host, container unix.Stat_t
	err = errors.Join(unix.Stat("/proc/thread-self/ns/net", &host), unix.Fstat(int(netns.Fd()), &container))
	if err == nil && host.Dev == container.Dev && host.Ino == container.Ino {
		err = fmt.Errorf("%w %s: it is the host's; the container needs one of its own", ErrInvalidNetns, path)
	}
	if err != nil {
		return nil, errors.Join(err, netns.Close())
	}
	return netns, nil
}
