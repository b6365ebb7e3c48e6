package bus

import (
	"errors"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/controller"
	"github.com/vxcan/vxcan/pkg/plan"
)

// trail is what a call has changed on a bus. Everything is noted before the kernel or the disk is asked: the answer may be
// lost. What the call only repaired is no part of it.
type trail struct {
	made       []int              // ifindexes of devices
	filtered   int                // ifindex of a hub that was there and had no filters of ours
	controller *controller.Device // the hub before it was set up
	saved      bool               // the record, which was this:
	record     record
	onDisk     bool
}

// notMade takes indexes back that the kernel has refused: a device that has one of them is not ours.
func (t *trail) notMade(err error, indexes ...int) {
	if errors.Is(err, unix.EEXIST) || errors.Is(err, unix.EBUSY) {
		t.made = slices.DeleteFunc(t.made, func(i int) bool { return slices.Contains(indexes, i) })
	}
}

// undo takes away what a call that failed has changed: the devices that it made, with their rules, the filters of a hub
// that had none, the settings of a controller, and the record. It has a socket of its own, because that of the call may be
// what has failed.
func (b *bus) undo() error {
	t := b.trail
	var errs []error
	if len(t.made) > 0 || t.filtered != 0 || t.controller != nil {
		k, err := b.host.connect(nil)
		if err != nil {
			return err
		}
		errs = append(errs, k.links.Delete(t.made...))
		if t.filtered != 0 {
			errs = append(errs, k.tc.Delete(plan.Hooks(t.filtered, false)...))
		}
		if t.controller != nil {
			errs = append(errs, k.controllers.Restore(*t.controller))
		}
		errs = append(errs, k.close())
	}
	b.record, b.onDisk = t.record, t.onDisk
	switch {
	case !t.saved:
	case t.onDisk:
		errs = append(errs, b.file.Save(b.record))
	default:
		errs = append(errs, b.file.Remove())
	}
	return errors.Join(errs...)
}
