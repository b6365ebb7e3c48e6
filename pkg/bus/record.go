package bus

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/config"
	"github.com/vxcan/vxcan/pkg/plan"
	"github.com/vxcan/vxcan/pkg/store"
)

// hostNetns is the network namespace that plays the host: that of the calling thread.
const hostNetns = "/proc/thread-self/ns/net"

// record is what each endpoint of a bus asked for. Nothing else is remembered, so that nothing outlives its endpoint.
type record struct{ endpoints []plan.Record }

// document is a record on disk. Most endpoints ask for the same but for their names, and lists of CAN IDs can be long: each ask
// is there once, without a name. An endpoint is a line: the index of its ask, the fields of its attachment, which have no blanks
// (see plan.CheckAlias), and its name. That is read in a fraction of the time that an object takes.
type document struct {
	Asks      []plan.Ask `json:"asks"`
	Endpoints []string   `json:"endpoints"`
}

// MarshalJSON writes each ask once.
func (r record) MarshalJSON() ([]byte, error) {
	d := document{Endpoints: make([]string, len(r.endpoints))}
	known := make(map[plan.Ask]int)
	for i, e := range r.endpoints {
		a := e.Ask
		a.Endpoint.Name = ""
		index, ok := known[a]
		if !ok {
			index = len(d.Asks)
			known[a] = index
			d.Asks = append(d.Asks, a)
		}
		d.Endpoints[i] = strings.Join(append(append([]string{strconv.Itoa(index)}, e.Fields()...), e.Endpoint.Name), " ")
	}
	return json.Marshal(d)
}

// UnmarshalJSON reads what MarshalJSON writes. A policy that cannot be read is dropped, which cuts its endpoint off.
func (r *record) UnmarshalJSON(data []byte) error {
	var d document
	if err := json.Unmarshal(data, &d); err != nil {
		return err
	}
	for i := range d.Asks {
		if plan.CheckPolicy(d.Asks[i].Endpoint.Policy) != nil {
			d.Asks[i].Endpoint.Policy = config.Policy{}
		}
	}
	r.endpoints = make([]plan.Record, len(d.Endpoints))
	for i, line := range d.Endpoints {
		words := strings.SplitN(line, " ", 7)
		if len(words) < 7 {
			return fmt.Errorf("endpoint %d: %d words, want 7", i, len(words))
		}
		index, err := strconv.Atoi(words[0])
		if err != nil || index < 0 || index >= len(d.Asks) {
			return fmt.Errorf("endpoint %d: ask %q of %d", i, words[0], len(d.Asks))
		}
		a := d.Asks[index]
		a.Endpoint.Name = words[6]
		r.endpoints[i] = plan.Record{Attachment: config.Attachment{
			Runtime: words[1], Network: words[2], ContainerID: words[3], IfName: words[4], Entry: words[5],
		}, Ask: a}
	}
	return nil
}

// seek has observe find attachments that are not recorded by the names of their host ends, also without an alias.
func (b *bus) seek(attachments ...config.Attachment) {
	for _, a := range attachments {
		if !slices.ContainsFunc(b.record.endpoints, func(r plan.Record) bool { return r.Attachment == a }) {
			b.record.endpoints = append(slices.Clone(b.record.endpoints), plan.Record{Attachment: a, Ask: plan.Ask{Hub: config.Hub{Name: b.name}, Found: true}})
		}
	}
}

// netnsDir is the directory of the records of this boot and this network namespace: no others can match a device here.
// The first call of a boot removes what earlier boots left.
func (h *Host) netnsDir() (string, error) {
	boot, err := store.BootID()
	if err != nil {
		return "", err
	}
	boot, _, _ = strings.Cut(boot, "-")
	var netns unix.Stat_t
	if err := unix.Stat(hostNetns, &netns); err != nil {
		return "", fmt.Errorf("network namespace of this process: %w", err)
	}
	top := h.stateDir()
	dir := filepath.Join(top, fmt.Sprintf("%s-%d", boot, netns.Ino))
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		entries, _ := os.ReadDir(top)
		for _, e := range entries {
			if !strings.HasPrefix(e.Name(), boot+"-") {
				_ = os.RemoveAll(filepath.Join(top, e.Name())) // what stays does no harm
			}
		}
	}
	return dir, nil
}

// stateDir is where records are. In a user namespace it is a directory of the user's, which goes when he logs out, as his devices
// do. The runtimes give such a namespace a /run of its own.
func (h *Host) stateDir() string {
	switch user := os.Getenv("XDG_RUNTIME_DIR"); {
	case h.StateDir != "":
		return h.StateDir
	case !IsRootless():
		return defaultStateDir
	case unix.Access("/run", unix.W_OK) == nil || user == "":
		return "/run/vxcan"
	default:
		return filepath.Join(user, "vxcan")
	}
}

// load reads the record. One that is unusable is empty: aliases of devices tell the rest. One of a later version is left alone.
func (b *bus) load() {
	var err error
	if b.file != nil {
		b.onDisk, err = b.file.Load(&b.record)
	} else {
		b.onDisk, err = store.Read(b.dir, b.name, &b.record)
	}
	var unusable *store.UnusableError
	switch {
	case err == nil:
		return
	case errors.As(err, &unusable) && unusable.Newer:
		b.unread = fmt.Errorf("%w: install the later vxcan that wrote it, or remove the file and start the containers of the bus again", err)
		b.broken = b.unread
	case errors.As(err, &unusable):
		b.notice("going on without the record: %v", unusable)
	default:
		b.broken, b.unread = err, err
	}
	b.onDisk, b.record = true, record{}
}

func (b *bus) save() error {
	if b.broken != nil {
		return b.broken
	}
	if err := b.file.Save(b.record); err != nil { // the file is as it was
		return err
	}
	b.trail.saved, b.onDisk = true, true
	return nil
}

// saveOrGoOn is save for a call that takes away or repairs: the devices are what matters, and a record that cannot be
// written is corrected by a later call. Without endpoints there is no file.
func (b *bus) saveOrGoOn() {
	err := b.broken
	switch {
	case err != nil:
	case len(b.record.endpoints) > 0:
		err = b.save()
	default:
		b.onDisk = false // close removes the file, while the lock is held
	}
	if err != nil {
		b.notice("going on without writing the record: %s", config.OneLine(err))
	}
}
