package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vxcan/vxcan/pkg/bus"
	"github.com/vxcan/vxcan/pkg/config"
)

// healer is what heal needs of bus.Host.
type healer interface {
	looker
	Heal(ctx context.Context, hub string) (done []string, err error)
}

// healed is how it went with a bus.
type healed struct {
	Hub  string   `json:"hub"`
	Done []string `json:"done"`
	// Left is what heal cannot repair.
	Left  []bus.Difference `json:"left"`
	Error string           `json:"error,omitempty"`
}

func newHeal(host healer) *cobra.Command {
	var format *string
	var udev bool
	cmd := &cobra.Command{
		Use:   "heal [HUB ...]",
		Short: "Repair buses: hub, backplane, host ends and gateway rules",
		Long: `Repair some buses, or all of them, as the start of a container on the bus would: hub, backplane, host ends and gateway
rules. A controller is set up first if a container that is there asks for that. What is gone with its network namespace is
removed from the record, and a hub that was made for pods goes with the last of them.

For each bus a line on stdout says what was done, and one for each thing that only its owner can repair says how. What was
found is on stderr, a line each.

When a controller is plugged in, udev has systemd run this as vxcan-heal@HUB.service.

JSON: {"version": 1, "buses": [...]}, each bus with hub, done and left, and with error if it could not be repaired.

Exit status: 0, also if there was nothing to repair, or something is left; 1 if a bus could not be repaired, or there is no
such bus.`,
		Example: `  vxcanctl heal
  vxcanctl heal vcan0`,
		ValidArgsFunction: completeHubs(host, anyNumber),
		RunE: func(cmd *cobra.Command, hubs []string) error {
			if err := asRoot(cmd, false); err != nil {
				return err
			}
			all, err := heal(cmd.Context(), host, hubs, udev)
			if err != nil {
				return err
			}
			if *format == jsonFormat {
				err = writeJSON(cmd.OutOrStdout(), document[healed]{documentVersion, all})
			} else {
				err = writeHealed(cmd.OutOrStdout(), all, udev)
			}
			for _, one := range all {
				if one.Error != "" {
					fmt.Fprintf(cmd.ErrOrStderr(), "vxcanctl: bus %s: %s\n", one.Hub, one.Error)
				}
			}
			if err == nil && slices.ContainsFunc(all, func(one healed) bool { return one.Error != "" }) {
				err = said(cmd)
			}
			return err
		},
	}
	format = addFormat(cmd, textFormat, jsonFormat)
	const udevFlag = "udev"
	cmd.Flags().BoolVar(&udev, udevFlag, false, "a device of that name has appeared, which may have no bus")
	_ = cmd.Flags().MarkHidden(udevFlag)
	return cmd
}

// heal repairs these buses, or if there are none, all that there are. It tries each one. A hub without a bus is an error only
// if a person has named it: udev names each CAN device that appears, and a bus may go while all are healed.
func heal(ctx context.Context, host healer, hubs []string, udev bool) (all []healed, err error) {
	named := len(hubs) > 0 && !udev
	if len(hubs) == 0 {
		if hubs, err = host.Buses(); err != nil {
			return nil, err
		}
	}
	all = []healed{}
	for _, hub := range hubs {
		done, err := host.Heal(ctx, hub)
		one := healed{Hub: hub, Done: append([]string{}, done...), Left: []bus.Difference{}}
		if err != nil && !named && errors.Is(err, bus.ErrNoBus) {
			continue
		} else if err != nil {
			one.Error = config.OneLine(err)
		}
		all = append(all, one)
	}
	for i, one := range all { // when all are healed: a bus can be in the way of another one
		looks, _ := host.Status(ctx, one.Hub) // a device without a bus has none
		for _, s := range looks {
			for _, d := range s.Differences {
				if !d.ByHeal && one.Error == "" {
					all[i].Left = append(all[i].Left, d)
				}
			}
		}
	}
	return all, nil
}

// writeHealed says what was done to each bus, and what is left to do. udev is told nothing of a hub without a bus.
func writeHealed(w io.Writer, all []healed, udev bool) error {
	p := printer{w: w}
	if len(all) == 0 && !udev {
		p.line(noBus)
	}
	for _, one := range all {
		switch {
		case one.Error != "":
		case len(one.Done) > 0:
			p.line("%s: %s", one.Hub, strings.Join(one.Done, ", "))
		case len(one.Left) == 0:
			p.line("%s: nothing to repair", one.Hub)
		}
		for _, d := range one.Left {
			cure := d.Cure // as root types it
			if isRootlessRuntime() {
				cure = toType(withSudo(cure))
			}
			p.line("%s: left: %s: %s", one.Hub, plain(d.What), plain(cure))
		}
	}
	return p.err
}
