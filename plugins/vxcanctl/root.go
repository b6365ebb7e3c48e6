package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/vxcan/vxcan/pkg/bus"
)

// said is the error of a command that has printed what is wrong. It is not printed.
func said(cmd *cobra.Command) error {
	cmd.SilenceErrors = true
	return errors.New("said")
}

// newCommand is vxcanctl with all its commands.
func newCommand(host *bus.Host) *cobra.Command {
	root := &cobra.Command{
		Use:          "vxcanctl",
		Short:        "Administer the CAN buses of containers",
		Long:         "Administer the CAN buses of containers. Without a command: status.",
		Example:      statusExample,
		Version:      buildVersion,
		SilenceUsage: true, // it would bury the error
	}
	root.SetVersionTemplate("vxcanctl {{.Version}}\n") // as the other binaries print it
	root.SetErrPrefix("vxcanctl:")
	look := named{host}
	addStatus(root, look)
	root.AddCommand(newStatus(look), newGraph(look), newDump(look), newLearn(look), newDoctor(newMachine(look)), newMetrics(look),
		newHeal(host), newAttach(host), newDetach(host), newRemove(host), newLend(host), newServeLend(host), newGenerate())
	return root
}

// needsRoot is why a command cannot run, or nil.
func needsRoot(cmd *cobra.Command, uid int) error {
	if uid == 0 {
		return nil
	}
	if entry, ok := findRootless(); ok {
		return fmt.Errorf("%s needs root: run it with sudo, or for the buses of this user: %s %s", cmd.Name(), entry.typed, cmd.CommandPath())
	}
	return errors.New(cmd.Name() + " needs root: run it with sudo" + orLent())
}
