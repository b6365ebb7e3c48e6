// Package bus puts containers on CAN buses. It is the only place that knows the topology: a hub, a backplane, one vxcan
// pair an endpoint, and the gateway rules between them. The plugins under plugins/ speak for the runtimes and call
// nothing below this package; this package knows none of their protocols.
//
// The kernel is the truth and the state file a memory of it. Every call looks at the kernel, and what a reboot, a crash
// or a clumsy hand took away is put back by the next Attach of anything on that bus.
package bus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"
	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/cangw"
	"github.com/vxcan/vxcan/pkg/canlink"
	"github.com/vxcan/vxcan/pkg/store"
)

// Defaults of Host.
const (
	DefaultStateDir    = "/var/lib/cni/vxcan"
	DefaultLockTimeout = 10 * time.Second
)

// Defaults of what a network's configuration says, the same for every runtime.
const (
	DefaultHub       = "vcan0"
	DefaultInterface = "can0" // in a container
)

// LockTimeoutEnv sets Host.LockTimeout, for hosts where many containers start at once on few CPUs.
const LockTimeoutEnv = "VXCAN_LOCK_TIMEOUT"

// Errors that callers tell apart.
var (
	// ErrInvalid is a wish that cannot be granted however often it is repeated: a wrong name or MTU.
	ErrInvalid = errors.New("invalid")
	// ErrInvalidNetns is a path that is no network namespace of a container.
	ErrInvalidNetns = errors.New("invalid network namespace")
	// ErrNotReady is a hub that is missing or down where only its owner can mend that.
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

// Spec is what a network says of its bus.
type Spec struct {
	Hub      string // device name
	Physical bool   // the hub is a real controller: used, never made
	MTU      int    // 16 or 72 bytes; 0 is 16 on a hub of MTU 16, and 72 elsewhere
}

// Attachment is what a runtime names when it puts a container on a network.
type Attachment struct {
	Runtime     string `json:"runtime"` // which front end: "cni", "netavark", "docker"
	Network     string `json:"network"`
	ContainerID string `json:"containerID"`
	IfName      string `json:"ifName"` // the runtime's name for it, CNI_IFNAME
	// Entry tells several attachments apart that the runtime names alike, as it does the plugins of one chain: what
	// the network's configuration says of the interface's name, perhaps nothing.
	Entry string `json:"entry,omitempty"`
}

func (a Attachment) String() string {
	return a.Runtime + " " + strings.TrimSuffix(strings.Join([]string{a.Network, a.ContainerID, a.IfName}, "/"), "/")
}

// Target is where the container end is to be.
type Target struct {
	NetnsPath string
	Interface string // its name in the container; "can%d" is the first free one
}

// Result is an attachment at work.
type Result struct {
	Hub           string
	HostIf        string // host end
	ContIf        string // container end
	HubMTU, IfMTU int
	New           bool // not there before
}

// Host is the buses of this host. Its zero value is ready for use on the real kernel.
type Host struct {
	StateDir    string        // "" is DefaultStateDir
	LockTimeout time.Duration // 0 is DefaultLockTimeout
	// Recovered is called for everything that was put right on the way, in a few words. nil is allowed.
	Recovered func(hub, what string)

	dial func() (kernel, error) // nil is the real one
}

// bus is one bus with its lock held.
type bus struct {
	host  *Host
	name  string // of the hub
	k     kernel
	file  *store.File
	state state
	found bool // the state is what an earlier call on this boot saved
	known bool // there is a state, perhaps of an earlier boot
	dirty bool // the state has been corrected since

	hub, tx, rx canlink.Link         // zero if missing
	private     map[string]backplane // of private endpoints by their host ends, if whole and up
	jobs        []cangw.Job          // of this bus at least, see survey
	down        []endpoint           // whose host ends are down
	orphans     []endpoint           // whose remaining devices serve nobody, see recall
}

// state is what is remembered of a bus.
type state struct {
	BootID    string     `json:"bootID"`
	Endpoints []endpoint `json:"endpoints"`
}

// endpoint is an attachment and its devices.
type endpoint struct {
	Attachment
	HostIf string `json:"-"`     // follows from the attachment
	Index  int    `json:"index"` // ifindex of both ends, or if private, of the host end
	FD     bool   `json:"fd"`
	// Private tells that the two ends do not share an ifindex, so that the endpoint needs a backplane of its own.
	Private bool `json:"private,omitempty"`
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

// NewHost is the buses of this host as plugins use them: what is put right on the way is logged, and LockTimeoutEnv
// holds.
func NewHost(log *slog.Logger) *Host {
	timeout, err := lockTimeoutFromEnv()
	if err != nil {
		log.Info("going on with the default", "err", err)
	}
	return &Host{
		LockTimeout: timeout,
		Recovered:   func(hub, what string) { log.Info(what, "hub", hub) },
	}
}

func (h *Host) recovered(hub, format string, args ...any) {
	if h.Recovered != nil {
		h.Recovered(hub, fmt.Sprintf(format, args...))
	}
}

func (h *Host) stateDir() string {
	if h.StateDir == "" {
		return DefaultStateDir
	}
	return h.StateDir
}

// open connects to the kernel, takes the bus's lock and reads its state. Who may not change the kernel learns that, and
// not that the state is out of reach.
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

func (h *Host) connect() (kernel, error) {
	if h.dial == nil {
		return dialKernel()
	}
	return h.dial()
}

func (b *bus) close() error { return errors.Join(b.k.Close(), b.file.Close()) }

// load reads the state. One that is lost, broken or of an earlier boot is an empty one.
func (b *bus) load() error {
	current, err := store.BootID()
	if err != nil {
		return err
	}
	found, err := b.file.Load(&b.state)
	var broken *store.BrokenError
	if errors.As(err, &broken) {
		b.host.recovered(b.name, "%v", err)
	} else if err != nil {
		return err
	}
	b.known = found
	if b.found = found && b.state.BootID == current; !b.found {
		b.state = state{BootID: current}
	}
	for i, e := range b.state.Endpoints {
		b.state.Endpoints[i].HostIf = hostIfName(e.Attachment)
	}
	return nil
}

// look finds the devices of the bus and others, which are returned. Of the endpoints it finds private backplanes only.
func (b *bus) look(others ...string) ([]canlink.Link, error) {
	tx, rx := backplaneNames(b.name)
	names := append([]string{b.name, tx, rx}, others...)
	all := len(names)
	for _, e := range b.state.Endpoints {
		if e.Private {
			tx, rx := privateNames(e.HostIf)
			names = append(names, tx, rx)
		}
	}
	links, err := b.k.Links(names...)
	if err != nil {
		return nil, err
	}
	b.hub, b.tx, b.rx = links[0], links[1], links[2]
	b.setPrivate(links[all:])
	return links[3:all], nil
}

// fd tells whether the bus carries CAN FD frames.
func (b *bus) fd() bool { return b.hub.FD() }

// ownHub tells whether the hub that is there was made by us, and so is ours to set up and to delete.
func (b *bus) ownHub() bool { return b.hub.Kind == canlink.Vcan && b.hub.Alias == hubAlias }

// find returns the index in state.Endpoints of the endpoint with a host end, or -1.
func (b *bus) find(hostIf string) int {
	for i, e := range b.state.Endpoints {
		if e.HostIf == hostIf {
			return i
		}
	}
	return -1
}

// rules are the gateway rules that the bus must have.
func (b *bus) rules() []cangw.Rule { return rules(b.backplane(), b.members()) }

func (b *bus) hubMember() member { return member{dev: uint32(b.hub.Index), hub: true, fd: b.fd()} }

func (b *bus) members() []member {
	members := []member{b.hubMember()}
	for _, e := range b.state.Endpoints {
		members = append(members, member{dev: uint32(e.Index), fd: e.FD && b.fd(), private: b.private[e.HostIf]})
	}
	return members
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
