package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"github.com/vxcan/vxcan/pkg/bus"
	"github.com/vxcan/vxcan/pkg/config"
)

// parse is parseKeys of a command line behind the hub.
func parse(t *testing.T, hub, line string) (config.Network, error) {
	t.Helper()
	flags := pflag.NewFlagSet("attach", pflag.ContinueOnError)
	addKeys(flags, config.KeyNames(config.Host))
	options := flags.StringArrayP("option", "o", nil, "")
	if err := flags.Parse(strings.Fields(line)); err != nil {
		t.Fatal(err)
	}
	return parseKeys(hub, flags, *options)
}

// TestKeys: every key of this front end is a flag and an option, which say the same.
func TestKeys(t *testing.T) {
	values := map[string]string{
		"interface": "can3", "mtu": "16", "send": "100", "receive": "200", "rate": "100", "burst": "5", "bitrate": "500000",
		"sample-point": "0.875", "dbitrate": "2000000", "dsample-point": "0.8", "restart-ms": "100", "txqueuelen": "50", "termination": "120",
		"hosts": "10.9.0.1,10.9.0.2", "bus-id": "7",
	}
	beside := map[string]string{"burst": " --rate 100", "dsample-point": " --dbitrate 2000000 --fd", "dbitrate": " --fd", "fd": " --dbitrate 2000000", "fd-non-iso": " --fd --dbitrate 2000000", "fair-queue": " --physical",
		"hosts": " --bus-id 7", "bus-id": " --hosts 10.9.0.1,10.9.0.2", "unprotected": " --hosts 10.9.0.1,10.9.0.2 --bus-id 7"}
	none, err := parse(t, "can0", "")
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range config.Keys {
		if k.In&config.Host == 0 || k.Name == hubKey {
			continue
		}
		value, line := values[k.Name], "--"+k.Name
		if k.IsSwitch() {
			value = "true"
		} else {
			line += " " + value
		}
		rest := beside[k.Name]
		if k.Of == config.OfController {
			rest += " --physical"
			if k.Name != "bitrate" {
				rest += " --bitrate 500000"
			}
		}
		flag, err := parse(t, "can0", line+rest)
		if err != nil || flag.Hub == none.Hub && flag.Endpoint == none.Endpoint && flag.Interface == none.Interface {
			t.Errorf("%s: %v, %+v", line, err, flag)
		}
		option, err := parse(t, "can0", "-o "+k.Name+"="+value+rest)
		if err != nil || option.Hub != flag.Hub || option.Endpoint != flag.Endpoint || option.Interface != flag.Interface {
			t.Errorf("-o %s=%s: %v, %+v", k.Name, value, err, option)
		}
	}
}

// TestKeysRefused: what is wrong is named by its key.
func TestKeysRefused(t *testing.T) {
	for line, want := range map[string]string{
		"-o rat=5":                     `option "rat": the options are hub, physical, interface, mtu, `,
		"-o pod-hubs=a":                `option "pod-hubs": the options are`,
		"-o rate":                      `option "rate": want KEY=VALUE`,
		"-o rate=0":                    `option "rate": invalid value "0": want a whole number from 1 to 1000000`,
		"--rate many":                  `option "rate": invalid value "many"`,
		"--rate 5 -o rate=6":           `option "rate": it is given twice`,
		"-o hub=vcan1":                 `option "hub": it is given twice`,
		"--burst 5":                    "burst needs rate",
		"--bitrate 500000":             "bitrate is for a controller: set physical to true",
		"--send 12345":                 `option "send": `,
		"--interface a/b":              `option "interface": invalid device name`,
		"--mtu 1500":                   `option "mtu": invalid mtu 1500`,
		"--physical --dbitrate 500000": "dbitrate needs bitrate",
	} {
		if _, err := parse(t, "vcan0", line); !errors.Is(err, config.ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", line, err, want)
		}
	}
	if _, err := parse(t, "vcan0-tx", ""); !errors.Is(err, config.ErrInvalid) || !strings.Contains(err.Error(), "backplanes") {
		t.Error(err)
	}
}

// TestNamespace: what is no network namespace, or the host's, or gone.
func TestNamespace(t *testing.T) {
	ended := exec.Command("true")
	if err := ended.Run(); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		n    namespace
		err  error
		want string
	}{
		{namespace{netns: "/etc/passwd"}, bus.ErrInvalidNetns, "/etc/passwd: it is none"},
		{namespace{netns: "/proc/self/status"}, bus.ErrInvalidNetns, "/proc/self/status: it is none"},
		{namespace{netns: "/proc/self/ns/mnt"}, bus.ErrInvalidNetns, "/proc/self/ns/mnt: it is none"},
		{namespace{netns: "/proc/self/ns/net"}, bus.ErrInvalidNetns, "/proc/self/ns/net: it is the host's"},
		{namespace{pid: os.Getpid()}, bus.ErrInvalidNetns, "it is the host's"},
		{namespace{netns: "no-such-name"}, errGone, "/run/netns/no-such-name"},
		{namespace{netns: "/no/such/file"}, errGone, "/no/such/file"},
		{namespace{pid: ended.Process.Pid}, errGone, fmt.Sprintf("process %d has ended", ended.Process.Pid)},
		{namespace{pid: -1}, config.ErrInvalid, "--pid -1: want the number of a process"},
	} {
		if err := test.n.open(); !errors.Is(err, test.err) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%+v: %v, want %s", test.n, err, test.want)
		}
	}
	if err := (&namespace{pid: ended.Process.Pid, id: "4026532000"}).isSame(nil); !errors.Is(err, errGone) {
		t.Errorf("a process that ended while it was attached: %v", err)
	}
}

// TestRequest: a namespace is the same however it is named, and each interface is an attachment of its own.
func TestRequest(t *testing.T) {
	c, err := parse(t, "vcan7", "--interface can%d --send 100")
	if err != nil {
		t.Fatal(err)
	}
	n := namespace{path: "/run/netns/rig", id: "4026532000", name: "rig"}
	got, err := n.request(c)
	if err != nil {
		t.Fatal(err)
	}
	want := bus.Request{
		Attachment: config.Attachment{Runtime: "host", Network: "vcan7", ContainerID: "4026532000", IfName: "can7"},
		Hub:        config.Hub{Name: "vcan7"}, Endpoint: config.Endpoint{Name: "rig", Policy: config.Policy{Send: "100"}},
		Place: bus.Place{NetnsPath: "/run/netns/rig", Interface: "can7"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(- want, + got)\n%s", diff)
	}
	n.path = "/proc/4711/ns/net"
	if again, _ := n.request(c); again.Attachment != got.Attachment {
		t.Errorf("%v, want %v", again.Attachment, got.Attachment)
	}
}

// TestHidden: the flag that udev's unit gives is one that heal knows, and not in its help.
func TestHidden(t *testing.T) {
	unit, err := os.ReadFile("vxcan-heal@.service")
	if err != nil {
		t.Fatal(err)
	}
	_, line, _ := strings.Cut(string(unit), "/vxcanctl ")
	line, _, _ = strings.Cut(line, "\n")
	cmd, args, err := newCommand(&bus.Host{}).Find(strings.Fields(line))
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.ParseFlags(args); err != nil || cmd.Name() != "heal" || !cmd.Flags().Changed("udev") || cmd.Flags().Arg(0) != "%i" {
		t.Errorf("%s: %v", line, err)
	}
	if strings.Contains(cmd.UsageString(), "udev") {
		t.Error(cmd.UsageString())
	}
}

// TestExamples: every line of the examples of a command is one that it would take.
func TestExamples(t *testing.T) {
	root := newCommand(&bus.Host{})
	for _, c := range root.Commands() {
		for line := range strings.Lines(c.Example) {
			line, ok := strings.CutPrefix(strings.TrimSpace(line), "vxcanctl ")
			if !ok {
				continue
			}
			words := strings.Fields(strings.ReplaceAll(line, `"$(lxc-info -n engine -pH)"`, "4711"))
			cmd, args, err := newCommand(&bus.Host{}).Find(words)
			if err == nil {
				err = errors.Join(cmd.ParseFlags(args), cmd.ValidateFlagGroups())
			}
			if err == nil && cmd.Args != nil {
				err = cmd.Args(cmd, cmd.Flags().Args())
			}
			if err == nil && cmd.Name() == "attach" {
				options, _ := cmd.Flags().GetStringArray("option")
				_, err = parseKeys(cmd.Flags().Arg(0), cmd.Flags(), options)
			}
			if err != nil || cmd.Name() != c.Name() {
				t.Errorf("%s: %v", line, err)
			}
		}
	}
}
