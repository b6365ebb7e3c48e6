package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/vxcan/vxcan/pkg/bus"
)

// fakeHost records the buses that it is to heal.
type fakeHost struct {
	recorded []string
	err      error // of Buses
	healed   []string
}

func (f *fakeHost) Buses() ([]string, error) { return f.recorded, f.err }

func (f *fakeHost) Heal(_ context.Context, hub string) (done []string, err error) {
	f.healed = append(f.healed, hub)
	switch hub {
	case "down":
		return nil, errors.Join(errors.New("down"), errors.New("and out"))
	case "none":
		return nil, fmt.Errorf("look: %w", bus.ErrNoBus)
	case "broken":
		return []string{"made the hub again", "added 4 rules"}, nil
	}
	return nil, nil
}

func (f *fakeHost) Status(_ context.Context, hubs ...string) (all []bus.BusStatus, err error) {
	var left []bus.Difference
	if hubs[0] == "can0" {
		left = []bus.Difference{{What: "there is no\x1b such device", Cure: "connect the controller"}, {What: "just ending", ByHeal: true}}
	}
	return []bus.BusStatus{{Hub: hubs[0], Differences: left}}, nil
}

// TestHeal: named buses or all, each one tried, what was done to each in a line, and each error. udev names devices that have
// no bus.
func TestHeal(t *testing.T) {
	unreadable := errors.New("no such disk")
	for name, test := range map[string]struct {
		host   fakeHost
		hubs   []string
		udev   bool
		healed string
		out    string
		failed string // the buses that could not be repaired
		err    error
	}{
		"all":               {host: fakeHost{recorded: []string{"vcan0", "broken"}}, healed: "vcan0 broken", out: "vcan0: nothing to repair\nbroken: made the hub again, added 4 rules\n"},
		"none":              {out: "no bus on this host\n"},
		"one":               {host: fakeHost{recorded: []string{"vcan0", "can0"}}, hubs: []string{"can0"}, healed: "can0", out: "can0: left: there is no\\x1b such device: connect the controller\n"},
		"unknown":           {hubs: []string{"none"}, healed: "none", failed: "none"},
		"unknown, by udev":  {hubs: []string{"none"}, udev: true, healed: "none"},
		"one goes":          {host: fakeHost{recorded: []string{"none", "vcan0"}}, healed: "none vcan0", out: "vcan0: nothing to repair\n"},
		"one fails":         {hubs: []string{"down", "vcan0"}, healed: "down vcan0", out: "vcan0: nothing to repair\n", failed: "down"},
		"one fails by udev": {hubs: []string{"down"}, udev: true, healed: "down", failed: "down"},
		"unreadable":        {host: fakeHost{err: unreadable}, err: unreadable},
		"one, unreadable":   {host: fakeHost{err: unreadable}, hubs: []string{"vcan0"}, healed: "vcan0", out: "vcan0: nothing to repair\n"},
	} {
		t.Run(name, func(t *testing.T) {
			all, err := heal(t.Context(), &test.host, test.hubs, test.udev)
			if !errors.Is(err, test.err) {
				t.Errorf("%v, want %v", err, test.err)
			}
			if got := strings.Join(test.host.healed, " "); got != test.healed {
				t.Errorf("healed %s, want %s", got, test.healed)
			}
			var failed []string
			for _, one := range all {
				if one.Error != "" {
					failed = append(failed, one.Hub)
				}
				if strings.Contains(one.Error, "\n") {
					t.Errorf("several lines: %s", one.Error)
				}
			}
			if got := strings.Join(failed, " "); got != test.failed {
				t.Errorf("failed: %s, want %s", got, test.failed)
			}
			var out bytes.Buffer
			if err := writeHealed(&out, all, test.udev); err != nil {
				t.Error(err)
			}
			if test.err == nil && test.failed != "none" && out.String() != test.out {
				t.Errorf("%s\nwant\n%s", &out, test.out)
			}
		})
	}
}

// TestCommandLine: what a person gets wrong is one line on stderr.
func TestCommandLine(t *testing.T) {
	tests := map[string]struct {
		args []string
		out  string
		err  string
	}{
		"version":       {args: []string{"--version"}, out: "vxcanctl unknown\n"},
		"wrong command": {args: []string{"cure"}, err: `vxcanctl: unknown command "cure" for "vxcanctl"`},
		"wrong flag":    {args: []string{"heal", "--all"}, err: "vxcanctl: unknown flag: --all"},
		"no namespace":  {args: []string{"attach", "vcan0"}, err: "vxcanctl: at least one of the flags in the group [netns pid] is required"},
		"two":           {args: []string{"attach", "vcan0", "--netns", "a", "--pid", "1"}, err: "vxcanctl: if any flags in the group [netns pid] are set none of the others can be; [netns pid] were all set"},
		"no hub":        {args: []string{"remove"}, err: "vxcanctl: accepts 1 arg(s), received 0"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var out, words bytes.Buffer
			cmd := newCommand(&bus.Host{})
			cmd.SetOut(&out)
			cmd.SetErr(&words)
			cmd.SetArgs(test.args)
			if err := cmd.Execute(); (err != nil) != (test.err != "") {
				t.Errorf("%v, want %q", err, test.err)
			}
			first, _, _ := strings.Cut(words.String(), "\n")
			if out.String() != test.out || first != test.err {
				t.Errorf("stdout %q, stderr %q; want %q, %q", out.String(), words.String(), test.out, test.err)
			}
		})
	}
}

// TestNeedsRoot: the error names the command.
func TestNeedsRoot(t *testing.T) {
	cmd, _, err := newCommand(&bus.Host{}).Find([]string{"heal"})
	if err != nil {
		t.Fatal(err)
	}
	if err := needsRoot(cmd, 1000); err == nil || err.Error() != "heal needs root: run it with sudo" {
		t.Error(err)
	}
}
