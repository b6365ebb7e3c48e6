package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/vxcan/vxcan/pkg/bus"
)

// fakeHost records the buses that it is to heal.
type fakeHost struct {
	recorded []string
	err      error            // of Buses
	failing  map[string]error // by hub
	healed   []string
}

func (f *fakeHost) Buses() ([]string, error) { return f.recorded, f.err }

func (f *fakeHost) Heal(_ context.Context, hub string) error {
	f.healed = append(f.healed, hub)
	return f.failing[hub]
}

// TestHeal: named buses or all, each one tried, each error one line.
func TestHeal(t *testing.T) {
	failing := map[string]error{"can1": errors.Join(errors.New("down"), errors.New("and out"))}
	unreadable := errors.New("no such disk")
	tests := map[string]struct {
		host   fakeHost
		hubs   []string
		healed []string
		logged []string // words of each line
		err    error
	}{
		"all":             {host: fakeHost{recorded: []string{"can0", "vcan0"}}, healed: []string{"can0", "vcan0"}},
		"none":            {},
		"one":             {host: fakeHost{recorded: []string{"can0", "can1"}}, hubs: []string{"can1"}, healed: []string{"can1"}},
		"unknown":         {hubs: []string{"can7"}, healed: []string{"can7"}},
		"one fails":       {host: fakeHost{failing: failing}, hubs: []string{"can0", "can1", "can2"}, healed: []string{"can0", "can1", "can2"}, logged: []string{`hub=can1 err="down; and out"`}, err: errLogged},
		"two fail":        {host: fakeHost{failing: failing}, hubs: []string{"can1", "can1"}, healed: []string{"can1", "can1"}, logged: []string{"hub=can1", "hub=can1"}, err: errLogged},
		"unreadable":      {host: fakeHost{err: unreadable}, err: unreadable},
		"one, unreadable": {host: fakeHost{err: unreadable}, hubs: []string{"can0"}, healed: []string{"can0"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			all, err := heal(t.Context(), &test.host, slog.New(slog.NewTextHandler(&out, nil)), test.hubs)
			if !errors.Is(err, test.err) {
				t.Errorf("%v, want %v", err, test.err)
			}
			if !slices.Equal(test.host.healed, test.healed) {
				t.Errorf("healed %q, want %q", test.host.healed, test.healed)
			}
			for i, one := range all {
				if failed := test.host.failing[one.Hub] != nil; one.Hub != test.healed[i] || (one.Error != "") != failed {
					t.Errorf("document: %+v, want %s, failed: %v", one, test.healed[i], failed)
				}
			}
			if len(all) != len(test.healed) {
				t.Errorf("document of %d buses, want %d", len(all), len(test.healed))
			}
			lines := slices.Collect(strings.Lines(out.String()))
			if len(lines) != len(test.logged) {
				t.Fatalf("logged %q, want %d lines", lines, len(test.logged))
			}
			for i, words := range test.logged {
				if !strings.Contains(lines[i], words) {
					t.Errorf("line %q lacks %s", lines[i], words)
				}
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
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var out, words bytes.Buffer
			cmd := newCommand(&bus.Host{}, slog.New(slog.NewTextHandler(io.Discard, nil)))
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
	cmd, _, err := newCommand(&bus.Host{}, slog.Default()).Find([]string{"heal"})
	if err != nil {
		t.Fatal(err)
	}
	if err := needsRoot(cmd, 1000); err == nil || err.Error() != "heal needs root: run it with sudo" {
		t.Error(err)
	}
}
