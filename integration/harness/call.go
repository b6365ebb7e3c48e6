package harness

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
)

// Call is one execution of the plugin.
type Call struct {
	Conf        string // JSON; "" is the plain one
	ContainerID string
	Netns       string
	IfName      string // "" is eth0
	Env         []string
	Wrap        []string              // a program that runs the plugin, with its arguments
	Run         func(*exec.Cmd) error // nil is (*exec.Cmd).Run
}

// plainConf is the configuration that most tests use.
const plainConf = `{"cniVersion":"1.1.0","name":"canbus0","type":"vxcan","interface":"can0"}`

// On is the call for a container with the plain configuration.
func On(c *Container) Call { return Call{ContainerID: c.ID, Netns: c.Path} }

// With returns the call with keys of the configuration replaced or added, given as JSON members.
func (c Call) With(members string) Call {
	conf := c.Conf
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
	c.Conf = string(data)
	return c
}

// Untaken returns the call with a result that cannot be written.
func (c Call) Untaken() Call {
	c.Run = func(cmd *exec.Cmd) error {
		full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		defer full.Close()
		cmd.Stdout = full
		return cmd.Run()
	}
	return c
}

// Exec runs the plugin as a runtime does. A failure of the plugin is a *types.Error.
func (c Call) Exec(t testing.TB, verb string) (stdout, stderr string, err error) {
	t.Helper()
	dir := BinDir(t)
	args := append(slices.Clone(c.Wrap), filepath.Join(dir, "vxcan"))
	cmd, cancel := Limited(args[0], args[1:]...)
	defer cancel()
	ifName, conf := c.IfName, c.Conf
	if ifName == "" {
		ifName = "eth0"
	}
	if conf == "" {
		conf = plainConf
	}
	cmd.Env = append(os.Environ(), "CNI_COMMAND="+verb, "CNI_CONTAINERID="+c.ContainerID, "CNI_NETNS="+c.Netns,
		"CNI_IFNAME="+ifName, "CNI_PATH="+dir)
	cmd.Env = append(cmd.Env, c.Env...)
	cmd.Stdin = strings.NewReader(conf)
	var out, words bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &words
	run := c.Run
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

// Add runs ADD, which must succeed, and returns its result and its log.
func (c Call) Add(t testing.TB) (*types100.Result, string) {
	t.Helper()
	out, log, err := c.Exec(t, "ADD")
	if err != nil {
		t.Fatal(err)
	}
	result, err := types100.NewResult([]byte(out))
	if err != nil {
		t.Fatalf("result of ADD: %v\n%s", err, out)
	}
	return result.(*types100.Result), log
}

// OK runs a verb that must succeed, and returns its log.
func (c Call) OK(t testing.TB, verb string) string {
	t.Helper()
	_, log, err := c.Exec(t, verb)
	if err != nil {
		t.Fatal(err)
	}
	return log
}

// Check runs CHECK with the result of ADD.
func (c Call) Check(t testing.TB, result *types100.Result) error {
	t.Helper()
	data, err := json.Marshal(result)
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = c.With(`"prevResult":`+string(data)).Exec(t, "CHECK")
	return err
}

// Fails runs a verb that must fail with a code and these words in one line.
func (c Call) Fails(t testing.TB, verb string, code uint, words ...string) {
	t.Helper()
	out, _, err := c.Exec(t, verb)
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

// HostIf is the host end of an ADD's result: the last but one interface.
func HostIf(r *types100.Result) string { return r.Interfaces[len(r.Interfaces)-2].Name }

// startDaemon starts a program whose output goes to the end of a file.
func startDaemon(t testing.TB, log string, args ...string) *exec.Cmd {
	t.Helper()
	f, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = f, f
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd
}
