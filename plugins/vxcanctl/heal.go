package main

import (
	"context"
	"errors"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"github.com/vxcan/vxcan/pkg/config"
)

// healer is what heal needs of bus.Host.
type healer interface {
	Buses() ([]string, error)
	Heal(ctx context.Context, hub string) error
}

// healed is how it went with a bus.
type healed struct {
	Hub   string `json:"hub"`
	Error string `json:"error,omitempty"`
}

func newHeal(host healer, log *slog.Logger) *cobra.Command {
	var format *string
	cmd := &cobra.Command{
		Use:   "heal [HUB ...]",
		Short: "Repair buses: hub, backplane, host ends and gateway rules",
		Long: `Repair some buses, or all of them, as the start of a container on the bus would: hub, backplane, host ends and gateway
rules. A controller is set up first if a container that is there asks for that. Each repair is a line on stderr. A hub that
is unknown, and a controller that is not there, are no error.

When a controller is plugged in, udev has systemd run this as vxcan-heal@HUB.service.

JSON: {"version": 1, "buses": [...]}, each bus with hub, and with error if it could not be repaired.

Exit status: 0, also if there was nothing to repair; 1 if a bus could not be repaired.`,
		Example: `  vxcanctl heal
  vxcanctl heal vcan0`,
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
			hubs, _ := host.Buses()
			return hubs, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, hubs []string) error {
			if err := needsRoot(cmd, os.Geteuid()); err != nil {
				return err
			}
			all, err := heal(cmd.Context(), host, log.With("cmd", cmd.Name()), hubs)
			if *format == jsonFormat && all != nil {
				if e := writeJSON(cmd.OutOrStdout(), healDocument{documentVersion, all}); e != nil {
					err = errors.Join(err, e)
				}
			}
			cmd.SilenceErrors = err == errLogged
			return err
		},
	}
	format = addFormat(cmd, textFormat, jsonFormat)
	return cmd
}

type healDocument struct {
	Version int      `json:"version"`
	Buses   []healed `json:"buses"`
}

// heal repairs these buses, or if there are none, all that there are. It tries each one and logs its error.
func heal(ctx context.Context, host healer, log *slog.Logger, hubs []string) (all []healed, err error) {
	if len(hubs) == 0 {
		if hubs, err = host.Buses(); err != nil {
			return nil, err
		}
	}
	all = []healed{}
	for _, hub := range hubs {
		one := healed{Hub: hub}
		if e := host.Heal(ctx, hub); e != nil {
			one.Error = config.OneLine(e)
			log.Error("not repaired", "hub", hub, "err", one.Error)
			err = errLogged
		}
		all = append(all, one)
	}
	return all, err
}
