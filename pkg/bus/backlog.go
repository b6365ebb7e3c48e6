package bus

import (
	"os"
	"strconv"
	"strings"

	"github.com/vxcan/vxcan/pkg/config"
	"github.com/vxcan/vxcan/pkg/plan"
)

// backlogFile says how many frames may wait on each CPU on their way from device to device. The kernel drops what comes
// on top (netdev_max_backlog, Documentation/admin-guide/sysctl/net.rst).
const backlogFile = "/proc/sys/net/core/netdev_max_backlog"

// BacklogPerEndpoint is room for a burst of that many frames: each waits once for every endpoint.
const BacklogPerEndpoint = 1000

// warn reports queues that are too short for a burst and not ours to change.
func (b *bus) warn(w plan.Want) {
	if c := b.view.Controller; !w.SetsUp() && c.Index != 0 && c.Queue < config.DefaultTxQueue {
		b.notice("the transmit queue of controller %s holds %d frames, so that bursts lose frames: ip link set %s txqueuelen %d",
			c, c.Queue, plan.Quote(b.name), config.DefaultTxQueue)
	}
	if w.SharesQueue(b.view) {
		b.notice("all containers share the transmit queue of controller %s, which another program has set (%s); to give each its own: tc qdisc del dev %[1]s root; vxcanctl heal %[1]s",
			b.name, b.view.Queue.Kind)
	}
	b.warnOfBacklog()
}

func (b *bus) warnOfBacklog() {
	content, err := os.ReadFile(backlogFile)
	if err != nil { // the host is itself a network namespace, where it cannot be seen
		return
	}
	now, err := strconv.Atoi(strings.TrimSpace(string(content)))
	if need := BacklogPerEndpoint * len(b.record.endpoints); err == nil && now < need {
		b.notice("net.core.netdev_max_backlog is %d, so that bursts may lose frames on a bus with %d endpoints: set it to %d or more (sysctl)",
			now, len(b.record.endpoints), need)
	}
}
