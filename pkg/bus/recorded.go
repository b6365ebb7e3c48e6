package bus

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/vxcan/vxcan/pkg/canlink"
)

// Recorded names the buses of this host that have a record.
func (h *Host) Recorded() ([]string, error) {
	files, err := filepath.Glob(filepath.Join(h.stateDir(), "*.json"))
	for i, file := range files {
		files[i] = strings.TrimSuffix(filepath.Base(file), ".json")
	}
	return files, err
}

// HealRecorded is Heal for a bus as its record says. A hub without a record, and a controller that is not there, are no
// error.
func (h *Host) HealRecorded(ctx context.Context, hub string) error {
	if CheckHub(hub) != nil {
		return nil
	}
	if _, err := os.Stat(filepath.Join(h.stateDir(), hub+".json")); errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	k, err := h.connect()
	if err != nil {
		return err
	}
	links, err := k.Links(hub)
	if err := errors.Join(err, k.Close()); err != nil {
		return err
	}
	if links[0].Index == 0 {
		return nil
	}
	return h.Heal(ctx, Spec{Hub: hub, Physical: links[0].Kind != canlink.Vcan})
}
