package main

import (
	"context"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"github.com/vxcan/vxcan/pkg/bus"
)

// healer is what heal needs of bus.Host.
type healer interface {
	Recorded() ([]string, error)
	HealRecorded(ctx context.Context, hub string) error
}

func newHeal(host healer, log *slog.Logger) *cobra.Command {
	return &cobra.Command{
		Use:   "heal [HUB ...]",
		Short: "Repair buses: hub, backplane, host ends and gateway rules",
		Long: `Repair some buses, or all of them, as the start of a container on the bus would: hub, backplane, host ends and gateway
rules. A controller is set up first if its network configures that. Each repair is a line on stderr. A hub that
is unknown, and a controller that is not there, are no error.

When a controller is plugged in, udev has systemd run this as vxcan-heal@HUB.service.`,
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
			hubs, _ := host.Recorded()
			return hubs, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, hubs []string) error {
			if err := needsRoot(cmd, os.Geteuid()); err != nil {
				return err
			}
			err := heal(cmd.Context(), host, log.With("cmd", cmd.Name()), hubs)
			cmd.SilenceErrors = err == errLogged
			return err
		},
	}
}

// heal repairs these buses, or if there are none, all that are recorded. It tries each one and logs its error.
func heal(ctx context.Context, host healer, log *slog.Logger, hubs []string) (err error) {
	if len(hubs) == 0 {
		if hubs, err = host.Recorded(); err != nil {
			return err
		}
	}
	for _, hub := range hubs {
		if e := host.HealRecorded(ctx, hub); e != nil {
			log.Error("not repaired", "hub", hub, "err", bus.OneLine(e))
			err = errLogged
		}
	}
	return err
}
