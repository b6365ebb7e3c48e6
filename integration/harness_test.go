package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/plugins/pkg/ns"
	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/cantest"
)

// stateDir is where the plugin keeps its state.
const stateDir = "/var/lib/cni/vxcan"

// recordDir is where the records of this boot and of the host's network namespace are.
func recordDir(t testing.TB) string {
	t.Helper()
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	var netns unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &netns); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%s/%s-%d", stateDir, boot[:8], netns.Ino)
}

// recordFile is the record of a bus.
func recordFile(t testing.TB, hub string) string {
	t.Helper()
	return recordDir(t) + "/" + hub + ".json"
}

// recordFiles lists the records of all boots and network namespaces, and what is left of writing them.
func recordFiles(t testing.TB) []string {
	t.Helper()
	files, err := filepath.Glob(stateDir + "/*/*.json*")
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// binDir holds the binaries under test; make puts them there.
func binDir(t testing.TB) string {
	t.Helper()
	dir, err := filepath.Abs("../bin")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "vxcan")); err != nil {
		t.Fatalf("%v; run make build first", err)
	}
	return dir
}

// command runs a program and returns its stdout; it fails the test with the program's words if that fails.
func command(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := try(name, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// try is command for what may fail.
func try(name string, args ...string) (string, error) {
	var out, words bytes.Buffer
	cmd, cancel := limited(name, args...)
	defer cancel()
	cmd.Stdout, cmd.Stderr = &out, &words
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s %s: %w\n%s%s", name, strings.Join(args, " "), err, out.String(), words.String())
	}
	return out.String(), nil
}

// limited is a command that is killed when it takes far longer than any does, for the tests behind it to have their turn.
func limited(name string, args ...string) (*exec.Cmd, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.WaitDelay = 10 * time.Second // its children may still hold its stdout
	return cmd, cancel
}

// stop ends a daemon with a signal, and a minute later with SIGKILL.
func stop(t testing.TB, daemon **exec.Cmd, sig os.Signal) {
	t.Helper()
	cmd := *daemon
	if cmd == nil {
		return
	}
	*daemon = nil
	if err := cmd.Process.Signal(sig); err != nil {
		t.Error(err)
	}
	defer time.AfterFunc(time.Minute, func() {
		t.Errorf("%s is still there a minute after %v", cmd.Path, sig)
		_ = cmd.Process.Kill()
	}).Stop()
	_ = cmd.Wait() // the status says how it was stopped
}

// TestMain gives a machine of our own the queue for bursts that make install gives one, see TestBurst.
func TestMain(m *testing.M) {
	if os.Getenv("VXCAN_VM") == "booted" {
		if err := applySysctl("../plugins/vxcan/40-vxcan.conf"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// applySysctl sets what a file of sysctl.d says, as sysctl -p does, which a small Debian lacks.
func applySysctl(path string) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(content)) {
		name, value, ok := strings.Cut(line, "=")
		if !ok || strings.HasPrefix(line, "#") {
			continue
		}
		file := "/proc/sys/" + strings.ReplaceAll(strings.TrimSpace(name), ".", "/")
		if err := os.WriteFile(file, []byte(strings.TrimSpace(value)), 0); err != nil {
			return err
		}
	}
	return nil
}

// recorded counts the endpoints in the record of a bus. Without one there are none.
func recorded(t testing.TB, hub string) int {
	t.Helper()
	content, err := os.ReadFile(recordFile(t, hub))
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

// freshHost takes every CAN device, rule and record away, now and at the end of the test.
func freshHost(t testing.TB) {
	t.Helper()
	if os.Getenv(cantest.Promised) == "" { // not on a machine whose CAN devices are somebody's
		t.Skip("takes this host's CAN devices away: make test runs it where that does no harm")
	}
	cantest.Require(t)
	clean := func() {
		for _, link := range links(t) {
			if link.Kind == "vcan" || link.Kind == "vxcan" {
				_, _ = try("ip", "link", "del", link.Name) // the other end of a pair goes along
			}
		}
		if err := os.RemoveAll(stateDir); err != nil {
			t.Error(err)
		}
	}
	clean()
	t.Cleanup(clean)
}

// link is a device as `ip` shows it.
type link struct {
	Name, Kind, Alias string
	Index, MTU        int
	Up                bool
}

// links lists the devices of the host, by `ip`.
func links(t testing.TB) []link {
	t.Helper()
	return parseLinks(t, command(t, "ip", "-details", "-json", "link"))
}

func parseLinks(t testing.TB, text string) []link {
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
	var all []link
	for _, p := range parsed {
		all = append(all, link{p.Name, p.LinkInfo.Kind, p.Alias, p.Index, p.MTU, slices.Contains(p.Flags, "UP")})
	}
	return all
}

// canLinks names the CAN devices of the host, sorted.
func canLinks(t testing.TB) []string {
	t.Helper()
	var names []string
	for _, l := range links(t) {
		if l.Kind == "vcan" || l.Kind == "vxcan" {
			names = append(names, l.Name)
		}
	}
	slices.Sort(names)
	return names
}

// container is a network namespace with a name, as `ip netns` makes it.
type container struct {
	id    string
	path  string
	netns ns.NetNS
}

func newContainer(t testing.TB, id string) *container {
	t.Helper()
	command(t, "ip", "netns", "add", id)
	c := &container{id: id, path: "/run/netns/" + id}
	var err error
	if c.netns, err = ns.GetNS(c.path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.netns.Close()
		_, _ = try("ip", "netns", "del", id)
	})
	return c
}

// links lists the container's devices.
func (c *container) links(t testing.TB) []link {
	t.Helper()
	return parseLinks(t, command(t, "ip", "-netns", c.id, "-details", "-json", "link"))
}

// call is one execution of the plugin.
type call struct {
	conf        string // JSON; "" is the plain one
	containerID string
	netns       string
	ifName      string // "" is eth0
	env         []string
	wrap        []string              // a program that runs the plugin, with its arguments
	run         func(*exec.Cmd) error // nil is (*exec.Cmd).Run
}

// plainConf is the configuration that most tests use.
const plainConf = `{"cniVersion":"1.1.0","name":"canbus0","type":"vxcan","interface":"can0"}`

// on is the call for a container with the plain configuration.
func on(c *container) call { return call{containerID: c.id, netns: c.path} }

// with returns the call with keys of the configuration replaced or added, given as JSON members.
func (c call) with(members string) call {
	conf := c.conf
	if conf == "" {
		conf = plainConf
	}
	var all, more map[string]json.RawMessage
	if err := errors.Join(json.Unmarshal([]byte(conf), &all), json.Unmarshal([]byte("{"+members+"}"), &more)); err != nil {
		panic(err)
	}
	for key, value := range more {
		all[key] = value
	}
	data, err := json.Marshal(all)
	if err != nil {
		panic(err)
	}
	c.conf = string(data)
	return c
}

// exec runs the plugin as a runtime does. A failure of the plugin is a *types.Error.
func (c call) exec(t testing.TB, verb string) (stdout, stderr string, err error) {
	t.Helper()
	dir := binDir(t)
	args := append(slices.Clone(c.wrap), filepath.Join(dir, "vxcan"))
	cmd, cancel := limited(args[0], args[1:]...)
	defer cancel()
	ifName, conf := c.ifName, c.conf
	if ifName == "" {
		ifName = "eth0"
	}
	if conf == "" {
		conf = plainConf
	}
	cmd.Env = append(os.Environ(), "CNI_COMMAND="+verb, "CNI_CONTAINERID="+c.containerID, "CNI_NETNS="+c.netns,
		"CNI_IFNAME="+ifName, "CNI_PATH="+dir)
	cmd.Env = append(cmd.Env, c.env...)
	cmd.Stdin = strings.NewReader(conf)
	var out, words bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &words
	run := c.run
	if run == nil {
		run = (*exec.Cmd).Run
	}
	err = run(cmd)
	if err == nil {
		return out.String(), words.String(), nil
	}
	var cniErr types.Error
	if json.Unmarshal(out.Bytes(), &cniErr) == nil && cniErr.Code != 0 {
		return out.String(), words.String(), &cniErr
	}
	return out.String(), words.String(), fmt.Errorf("%s: %w\n%s%s", verb, err, out.String(), words.String())
}

// add runs ADD, which must succeed, and returns its result and its log.
func (c call) add(t testing.TB) (*types100.Result, string) {
	t.Helper()
	out, log, err := c.exec(t, "ADD")
	if err != nil {
		t.Fatal(err)
	}
	result, err := types100.NewResult([]byte(out))
	if err != nil {
		t.Fatalf("result of ADD: %v\n%s", err, out)
	}
	return result.(*types100.Result), log
}

// ok runs a verb that must succeed, and returns its log.
func (c call) ok(t testing.TB, verb string) string {
	t.Helper()
	_, log, err := c.exec(t, verb)
	if err != nil {
		t.Fatal(err)
	}
	return log
}

// check runs CHECK with the result of ADD.
func (c call) check(t testing.TB, result *types100.Result) error {
	t.Helper()
	data, err := json.Marshal(result)
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = c.with(`"prevResult":`+string(data)).exec(t, "CHECK")
	return err
}

// fails runs a verb that must fail with a code and these words in one line.
func (c call) fails(t testing.TB, verb string, code uint, words ...string) {
	t.Helper()
	out, _, err := c.exec(t, verb)
	var cniErr *types.Error
	if !errors.As(err, &cniErr) {
		t.Fatalf("%s: got %v (%s), want CNI error %d", verb, err, out, code)
	}
	if cniErr.Code != code {
		t.Errorf("%s: code %d, want %d: %s", verb, cniErr.Code, code, cniErr.Msg)
	}
	for _, w := range words {
		if !strings.Contains(cniErr.Msg, w) {
			t.Errorf("%s: the message lacks %q: %s", verb, w, cniErr.Msg)
		}
	}
	if strings.Contains(cniErr.Msg, "\n") || len(cniErr.Msg) > 1000 {
		t.Errorf("%s: the message has several lines, or %d bytes: %.1000s", verb, len(cniErr.Msg), cniErr.Msg)
	}
}

// expectNothing fails the test if a CAN device, a gateway rule, a filter or a state file is there.
func expectNothing(t testing.TB) {
	t.Helper()
	if got := canLinks(t); len(got) > 0 {
		t.Errorf("left behind: devices %v", got)
	}
	if got := rules(t); len(got) > 0 {
		t.Errorf("left behind: rules %v", got)
	}
	if got := filters(t); len(got) > 0 {
		t.Errorf("left behind: filters %v", got)
	}
	if files := recordFiles(t); len(files) > 0 {
		t.Errorf("left behind: %v", files)
	}
}

// hostIf is the host end of an ADD's result: the last but one interface.
func hostIf(r *types100.Result) string { return r.Interfaces[len(r.Interfaces)-2].Name }

// containerNames are n names with a prefix.
func containerNames(prefix string, n int) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("%s%d", prefix, i)
	}
	return names
}

// hostEnds names the host ends of all endpoints.
func hostEnds(t testing.TB) (names []string) {
	t.Helper()
	for _, l := range links(t) {
		if l.Kind == "vxcan" && len(l.Name) == 15 && strings.HasPrefix(l.Name, "vx") {
			names = append(names, l.Name)
		}
	}
	return names
}

// bootNumber is 1 before and 2 after the reboot. Tests that need one are called TestReboot…, and integration/reboot
// runs them, twice on one disk.
func bootNumber(t testing.TB) int {
	t.Helper()
	switch os.Getenv("VXCAN_BOOT") {
	case "1":
		return 1
	case "2":
		return 2
	}
	t.Skip("the tests of integration/reboot run this")
	return 0
}

// expectNoHub fails the test if a hub survived the reboot, which would be none then. Each of these tests has its own.
func expectNoHub(t testing.TB, hub string) {
	t.Helper()
	if slices.Contains(canLinks(t), hub) {
		t.Fatalf("%s survived the reboot", hub)
	}
}

func remove(t testing.TB, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

func write(t testing.TB, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func marshal(t testing.TB, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
