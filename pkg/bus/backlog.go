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

// minBacklog is room for bursts, as a controller's driver or a sender that outruns ksoftirqd delivers them: a frame
// waits once for each receiver, so that the kernel's default of 1000 is a burst of 32 on a bus with 30 containers. It is
// the same for every bus: none can take from another one what that has just got.
const minBacklog = 1 << 16

// ensureBacklog raises the backlog to minBacklog, and never lowers it. Without it the bus works all the same, so that
// who may not raise it only tells.
func (b *bus) ensureBacklog() {
	content, err := os.ReadFile(backlogFile)
	if errors.Is(err, os.ErrNotExist) { // the host is itself a network namespace, where it cannot be seen
		return
	}
	now, _ := strconv.Atoi(strings.TrimSpace(string(content)))
	if now >= minBacklog {
		return
	}
	if err == nil {
		err = os.WriteFile(backlogFile, []byte(strconv.Itoa(minBacklog)), 0)
	}
	if err != nil {
		b.host.recovered(b.name, "bursts may lose frames: set net.core.netdev_max_backlog to %d or more (sysctl): %v", minBacklog, err)
		return
	}
	b.host.recovered(b.name, "raised net.core.netdev_max_backlog from %d to %d, so that bursts lose no frames", now, minBacklog)
}
