package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/vxcan/vxcan/pkg/bus"
)

func newRemove(host *bus.Host) *cobra.Command {
	return &cobra.Command{
		Use:   "remove HUB",
		Short: "Remove a bus that nothing is attached to",
		Long: `Remove a bus that nothing is attached to: its backplane, gateway rules and record, and its hub if vxcan made it. A
controller, or a vcan that vxcan has not made, stays as it is, without the filters of the bus.

While a container or a namespace is on the bus, nothing is removed, and the error names it. Programs of the host that use the
hub do not prevent its removal. The next start of a container on the bus makes it again.

Exit status: 0; 1 if the bus is in use, if there is none, or if it could not be removed.`,
		Example: `  vxcanctl remove vcan0`,
		Args:    cobra.ExactArgs(1), ValidArgsFunction: completeHubs(host, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := asRoot(cmd, false); err != nil {
				return err
			}
			hub := args[0]
			if err := host.Remove(cmd.Context(), hub); err != nil {
				return fmt.Errorf("bus %s: %w", hub, err)
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s: removed\n", hub)
			return err
		},
	}
}
