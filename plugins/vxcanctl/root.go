package main

import (
	"errors"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/vxcan/vxcan/pkg/bus"
)

// errLogged is the error of a command that has logged its errors. It is not printed.
var errLogged = errors.New("logged")

// newCommand is vxcanctl with all its commands.
func newCommand(host *bus.Host, log *slog.Logger) *cobra.Command {
	root := &cobra.Command{
		Use:          "vxcanctl",
		Short:        "Administer the CAN buses of containers",
		Long:         "Administer the CAN buses of containers. Without a command: status.",
		Version:      buildVersion,
		SilenceUsage: true, // it would bury the error
	}
	root.SetVersionTemplate("vxcanctl {{.Version}}\n") // as the other binaries print it
	root.SetErrPrefix("vxcanctl:")
	look := named{host}
	addStatus(root, look)
	root.AddCommand(newStatus(look), newGraph(look), newDump(look), newLearn(look), newDoctor(newMachine(host)), newMetrics(host), newHeal(host, log), newGenerate())
	return root
}

// needsRoot is why a command cannot run, or nil.
func needsRoot(cmd *cobra.Command, uid int) error {
	if uid != 0 {
		return errors.New(cmd.Name() + " needs root: run it with sudo")
	}
	return bus.CheckRootful()
}
