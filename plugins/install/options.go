package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Exit status: 0 done, or stopped by a signal; 1 failed, or with --check not in place; 2 the options or the entry are
// wrong, so that it is no use to start again.
const (
	statusFailed = 1
	statusUsage  = 2
)

// errUsage is in every error of options and entry.
var errUsage = errors.New("invalid")

func exitStatus(err error) int {
	if errors.Is(err, errUsage) {
		return statusUsage
	}
	return statusFailed
}

// options are the flags. An environment variable, VXCAN_CONF_DIR for --conf-dir, does the same; the flag wins.
type options struct {
	plugin       string // the file to copy
	binDir       string
	confDir      string
	entry        string // JSON, or the path of a file with it
	node         string // its name, or ""
	service      string // the headless Service of the DaemonSet
	removeOnExit bool
	once         bool
	check        bool
}

func parseOptions(args []string) options {
	beside := "vxcan"
	if self, err := os.Executable(); err == nil {
		beside = filepath.Join(filepath.Dir(self), "vxcan")
	}
	var o options
	flags := flag.NewFlagSet("vxcan-install", flag.ExitOnError) // with status 2
	flags.StringVar(&o.plugin, "plugin", beside, "the plugin, a `file` to copy into bin-dir")
	flags.StringVar(&o.binDir, "bin-dir", "/opt/cni/bin", "the node's `directory` of CNI plugins")
	flags.StringVar(&o.confDir, "conf-dir", "/etc/cni/net.d", "the node's `directory` of CNI configurations")
	flags.StringVar(&o.entry, "entry", defaultEntry, "the entry of vxcan in the pod network, `JSON` or a file with it")
	flags.StringVar(&o.node, "node", "", "`name` of this node: if NAME.json is beside the file of --entry, it is the entry here")
	flags.StringVar(&o.service, "nodes", "vxcan", "the headless `Service` with the nodes of the cluster, for the word nodes in hosts")
	flags.BoolVar(&o.removeOnExit, "remove-on-exit", false, "take the entry out again when stopped by a signal")
	flags.BoolVar(&o.once, "once", false, "install and end, do not watch")
	flags.BoolVar(&o.check, "check", false, "tell whether plugin and entry are in place, print that entry, and change nothing")
	flags.VisitAll(func(f *flag.Flag) {
		name := "VXCAN_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		if value, ok := os.LookupEnv(name); ok {
			if err := f.Value.Set(value); err != nil {
				fmt.Fprintf(os.Stderr, "invalid value %q of %s: %v\n", value, name, err)
				os.Exit(statusUsage)
			}
		}
	})
	version := flags.Bool("version", false, "print the version and exit")
	_ = flags.Parse(args) // ends the program where it fails
	if flags.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "unexpected argument %q: see vxcan-install --help\n", flags.Arg(0))
		os.Exit(statusUsage)
	}
	if *version {
		fmt.Println("vxcan-install", buildVersion)
		os.Exit(0)
	}
	return o
}

func (o options) run(ctx context.Context) error {
	entry, err := readEntry(o.entryOfNode())
	if err != nil {
		return err
	}
	in := &installer{options: o, valid: entry, nodes: newNodes(o.service)}
	switch {
	case o.check:
		if err := in.inPlace(); err != nil {
			return err
		}
		fmt.Println(string(entry))
		return nil
	case o.once:
		return in.installOnce(ctx)
	}
	slog.Info("started", "version", buildVersion, "uid", os.Getuid(), "capabilities", capabilities())
	return in.keepInstalled(ctx)
}

// capabilities are those that are in force, as /proc/self/status shows them.
func capabilities() string {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%08x%08x", data[1].Effective, data[0].Effective)
}
