package bus

import (
	"errors"
	"os"
	"strconv"
	"strings"
)

// backlogFile says how many frames may wait on each CPU for their way from device to device. What comes on top, the
// kernel drops (netdev_max_backlog, Documentation/admin-guide/sysctl/net.rst).
const backlogFile = "/proc/sys/net/core/netdev_max_backlog"

// burst is how many frames a bus carries in one go, as a controller's driver or a sender that outruns ksoftirqd
// delivers them. It is the kernel's own default, which knows one receiver: on a bus, a frame waits once for each.
const burst = 1000

// ensureBacklog makes room for a burst, and never less than there is. Without it the bus works all the same, so that
// whoever may not raise it only tells.
func (b *bus) ensureBacklog() {
	content, err := os.ReadFile(backlogFile)
	if errors.Is(err, os.ErrNotExist) { // the host is itself a network namespace, where it cannot be seen
		return
	}
	now, _ := strconv.Atoi(strings.TrimSpace(string(content)))
	want := burst * len(b.members())
	if err == nil && now >= want {
		return
	}
	if err == nil {
		err = os.WriteFile(backlogFile, []byte(strconv.Itoa(want)), 0)
	}
	if err != nil {
		b.host.recovered(b.name, "bursts may lose frames: set net.core.netdev_max_backlog to %d or more (sysctl): %v", want, err)
		return
	}
	b.host.recovered(b.name, "raised net.core.netdev_max_backlog from %d to %d, so that bursts lose no frames", now, want)
}
