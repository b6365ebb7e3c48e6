package harness

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/plugins/pkg/ns"
	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/cantest"
)

// StateDir is where the plugin keeps its state.
const StateDir = "/var/lib/cni/vxcan"

// RecordDir is where the records of this boot and of the host's network namespace are.
func RecordDir(t testing.TB) string {
	t.Helper()
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	var netns unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &netns); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%s/%s-%d", StateDir, boot[:8], netns.Ino)
}

// RecordFile is the record of a bus.
func RecordFile(t testing.TB, hub string) string {
	t.Helper()
	return RecordDir(t) + "/" + hub + ".json"
}

// HoldLock takes the lock of a hub's record, as another call would that never ends, until release is called. Who removes
// a record removes its lock file as well, so that what was locked may be no file any more.
func HoldLock(t testing.TB, hub string) (release func()) {
	t.Helper()
	if err := os.MkdirAll(RecordDir(t), 0o700); err != nil {
		t.Fatal(err)
	}
	path := RecordDir(t) + "/" + hub + ".lock"
	for {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
			t.Fatal(err)
		}
		locked, err := f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		if named, err := os.Stat(path); err == nil && os.SameFile(locked, named) {
			return func() { f.Close() }
		}
		f.Close()
	}
}

// RecordFiles lists the records of all boots and network namespaces, and what is left of writing them.
func RecordFiles(t testing.TB) []string {
	t.Helper()
	files, err := filepath.Glob(StateDir + "/*/*.json*")
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// Recorded counts the endpoints in the record of a bus. Without one there are none.
func Recorded(t testing.TB, hub string) int {
	t.Helper()
	content, err := os.ReadFile(RecordFile(t, hub))
	if errors.Is(err, os.ErrNotExist) {
		return 0
	}
	var record struct {
		Data struct{ Endpoints []string }
	}
	if err := errors.Join(err, json.Unmarshal(content, &record)); err != nil {
		t.Fatalf("record of %s: %v\n%s", hub, err, content)
	}
	return len(record.Data.Endpoints)
}

// FreshHost takes every CAN device, rule and record away, now and at the end of the test.
func FreshHost(t testing.TB) {
	t.Helper()
	if os.Getenv(cantest.Promised) == "" { // not on a machine whose CAN devices are somebody's
		t.Skip("takes this host's CAN devices away: make test runs it where that does no harm")
	}
	cantest.Require(t)
	clean := func() {
		for _, link := range Links(t) {
			if link.Kind == "vcan" || link.Kind == "vxcan" || strings.HasPrefix(link.Alias, "vxcan ") {
				_, _ = Try("ip", "link", "del", link.Name) // the other end of a pair goes along
			}
		}
		if err := os.RemoveAll(StateDir); err != nil {
			t.Error(err)
		}
	}
	clean()
	t.Cleanup(clean)
}

// Link is a device as `ip` shows it.
type Link struct {
	Name, Kind, Alias string
	Index, MTU        int
	Up                bool
}

// Links lists the devices of the host, by `ip`.
func Links(t testing.TB) []Link {
	t.Helper()
	return parseLinks(t, Command(t, "ip", "-details", "-json", "link"))
}

func parseLinks(t testing.TB, text string) []Link {
	t.Helper()
	var parsed []struct {
		Name     string   `json:"ifname"`
		Index    int      `json:"ifindex"`
		MTU      int      `json:"mtu"`
		Alias    string   `json:"ifalias"`
		Flags    []string `json:"flags"`
		LinkInfo struct {
			Kind string `json:"info_kind"`
		} `json:"linkinfo"`
	}
	if strings.TrimSpace(text) == "" {
		text = "[]"
	}
	if err := json.Unmarshal([]byte(text), &parsed); err != nil {
		t.Fatal(err)
	}
	var all []Link
	for _, p := range parsed {
		all = append(all, Link{p.Name, p.LinkInfo.Kind, p.Alias, p.Index, p.MTU, slices.Contains(p.Flags, "UP")})
	}
	return all
}

// CANLinks names the CAN devices of the host, sorted.
func CANLinks(t testing.TB) []string {
	t.Helper()
	return namesOfCAN(Links(t))
}

func namesOfCAN(links []Link) (names []string) {
	for _, l := range links {
		if l.Kind == "vcan" || l.Kind == "vxcan" {
			names = append(names, l.Name)
		}
	}
	slices.Sort(names)
	return names
}

// Container is a network namespace with a name, as `ip netns` makes it.
type Container struct {
	ID    string
	Path  string
	Netns ns.NetNS
}

// NewContainer makes one, and deletes it at the end of the test.
func NewContainer(t testing.TB, id string) *Container {
	t.Helper()
	Command(t, "ip", "netns", "add", id)
	c := &Container{ID: id, Path: "/run/netns/" + id}
	var err error
	if c.Netns, err = ns.GetNS(c.Path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Netns.Close()
		_, _ = Try("ip", "netns", "del", id)
	})
	return c
}

// On is one of the container's interfaces.
func (c *Container) On(ifName string) Station { return Station{c.ID, c.Netns, ifName} }

// Links lists the container's devices.
func (c *Container) Links(t testing.TB) []Link {
	t.Helper()
	return parseLinks(t, Command(t, "ip", "-netns", c.ID, "-details", "-json", "link"))
}

// ExpectNothing fails the test if a CAN device, a gateway rule, a filter or a state file is there.
func ExpectNothing(t testing.TB) {
	t.Helper()
	if got := CANLinks(t); len(got) > 0 {
		t.Errorf("left behind: devices %v", got)
	}
	if got := Rules(t); len(got) > 0 {
		t.Errorf("left behind: rules %v", got)
	}
	if got := Filters(t); len(got) > 0 {
		t.Errorf("left behind: filters %v", got)
	}
	if files := RecordFiles(t); len(files) > 0 {
		t.Errorf("left behind: %v", files)
	}
}

// ContainerNames are n names with a prefix.
func ContainerNames(prefix string, n int) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("%s%d", prefix, i)
	}
	return names
}

// HostEnds names the host ends of all endpoints.
func HostEnds(t testing.TB) (names []string) {
	t.Helper()
	for _, l := range Links(t) {
		if l.Kind == "vxcan" && len(l.Name) == 15 && strings.HasPrefix(l.Name, "vx") {
			names = append(names, l.Name)
		}
	}
	return names
}
