package bus

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/vxcan/vxcan/pkg/config"
	"github.com/vxcan/vxcan/pkg/plan"
)

// backlogFile says how many frames may wait on each CPU on their way from device to device. The kernel drops what comes
// on top (netdev_max_backlog, Documentation/admin-guide/sysctl/net.rst).
const backlogFile = "/proc/sys/net/core/netdev_max_backlog"

const (
	backlogPerEndpoint = 1000  // room for a burst of that many frames: each waits once for every endpoint
	backlog            = 65536 // what 40-vxcan.conf sets, enough for 65 endpoints
)

// ShortBacklog returns what is wrong with net.core.netdev_max_backlog on a bus with a number of containers, and the command
// that sets a value that is enough; "" if it is. The value is now.
func ShortBacklog(now, containers int) (what, command string) {
	need := backlogPerEndpoint * containers
	if now >= need {
		return "", ""
	}
	return fmt.Sprintf("net.core.netdev_max_backlog is %d: a burst may lose frames on a bus with %d containers", now, containers),
		fmt.Sprintf("sudo sysctl -w net.core.netdev_max_backlog=%d", max(need, backlog))
}

// warn reports queues that are too short for a burst and not ours to change, and hosts that are not reached yet.
func (b *bus) warn(w plan.Want) {
	if c := b.view.Controller; !w.SetsUp() && c.Index != 0 && c.Queue < config.DefaultTxQueue {
		b.notice("the transmit queue of controller %s holds %d frames, so that bursts lose frames: ip link set %s txqueuelen %d",
			c, c.Queue, plan.Quote(b.name), config.DefaultTxQueue)
	}
	if w.SharesQueue(b.view) {
		b.notice("all containers share the transmit queue of controller %s, which another program has set (%s); to give each its own: tc qdisc del dev %[1]s root; vxcanctl heal %[1]s",
			plan.Quote(b.name), b.view.Queue.Kind)
	}
	if module := b.view.QueueLacks; module != "" {
		b.notice("all containers share the transmit queue of controller %s: the kernel lacks module %s (%s)", b.name, module, moduleOf(module).Config)
	}
	for _, d := range w.Unreached(b.view) {
		b.notice("%s", d)
	}
	if outside := w.Outside(b.view); len(outside) > 0 {
		b.notice("in another network than this node, and not on the bus: %v", outside)
	}
	b.warnOfBacklog()
}

// warnOfBacklog says once a boot that the backlog is too short, and again when a longer one is needed.
func (b *bus) warnOfBacklog() {
	content, err := os.ReadFile(backlogFile)
	if err != nil { // the host is itself a network namespace, where it cannot be seen
		return
	}
	now, err := strconv.Atoi(strings.TrimSpace(string(content)))
	if err != nil {
		return
	}
	what, command := ShortBacklog(now, len(b.record.endpoints))
	boot, _, _ := strings.Cut(filepath.Base(b.dir), "-")
	file := filepath.Join(filepath.Dir(b.dir), boot+"-backlog") // goes with the records at the next boot
	if said, _ := os.ReadFile(file); what == "" || string(said) == command {
		return
	}
	b.notice("%s: %s", what, command)
	_ = os.WriteFile(file, []byte(command), 0o600) // if that fails, the notice comes again
}
