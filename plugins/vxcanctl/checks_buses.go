package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/vxcan/vxcan/pkg/bus"
	"github.com/vxcan/vxcan/pkg/config"
)

func (m *machine) buses(ctx context.Context) []bus.BusStatus {
	if m.uid != 0 { // VX100 says so
		return nil
	}
	all, err := m.host.Status(ctx)
	if err != nil {
		m.add("VX300", failure, config.OneLine(err), toType("sudo vxcanctl status"))
	}
	for _, s := range all {
		m.bus(s)
		if s.Controller != nil {
			m.controller(s.Hub, *s.Controller)
		}
	}
	return all
}

// bus says what is wrong with a bus, or that it is fine.
func (m *machine) bus(s bus.BusStatus) {
	what := fmt.Sprintf("bus %s with %d container%s", s.Hub, len(s.Endpoints), map[bool]string{false: "s"}[len(s.Endpoints) == 1])
	if n := len(s.Differences); n > 0 {
		what += ": " + wrongWords(s, s.Differences[0])
		if n > 1 {
			what += fmt.Sprintf(", and %d more (vxcanctl status %s)", n-1, s.Hub)
		}
		m.add("VX301", failure, what, cureOf(s, s.Differences[0]))
	} else {
		m.add("VX301", fine, what, "")
	}
	for _, t := range s.Trunks {
		if t.Lost > 0 {
			m.add("VX305", warning, fmt.Sprintf("bus %s: %d frames to host %s were dropped on this host since the trunk was made", s.Hub, t.Lost, t.Peer),
				"look at the way to it: ip -s link show "+t.Device+"; ip route get "+t.Peer)
		}
		if t.Denied > t.Sent && !s.Unprotected {
			m.add("VX305", warning, fmt.Sprintf("bus %s: %d packets of host %s were refused, and %d taken", s.Hub, t.Denied, t.Peer, t.Sent),
				"they must come whole, with a TTL of 255, and keep the mark that the table gives them: nft list table inet "+config.TableName(s.Hub))
		}
	}
	if len(s.Outside) > 0 {
		m.add("VX307", warning, fmt.Sprintf("bus %s: nodes in another network than this one, and not on the bus: %s", s.Hub, strings.Join(s.Outside, ", ")),
			"leave them out by a nodeSelector of the DaemonSet vxcan, or name the hosts of the bus in its entry, with addresses in one network (WireGuard)")
	}
	if s.Unprotected {
		m.add("VX306", warning, fmt.Sprintf("bus %s spans other hosts unprotected: any container of these hosts may be able to send to it, and to receive it", s.Hub),
			"leave unprotected out of its network, on all hosts, unless the network between them is safe by other means")
	}
	if devices, oneCPU := m.steered(s); len(devices) > 0 && !oneCPU {
		named := strings.Join(devices[:min(len(devices), 3)], ", ")
		if more := len(devices) - 3; more > 0 {
			named += fmt.Sprintf(" and %d more", more)
		}
		m.add("VX304", warning, fmt.Sprintf("rps_cpus is set on %s of bus %s, not on all of its devices to the same CPU, so that frames of one sender may arrive out of order", named, s.Hub),
			"for dev in "+strings.Join(devices, " ")+"; do echo 0 | sudo tee /sys/class/net/$dev/queues/rx-*/rps_cpus; done")
	}
}

// controller says what its owner should know of a controller that works.
func (m *machine) controller(name string, c bus.ControllerStatus) {
	if c.Queue < config.DefaultTxQueue {
		m.add("VX302", warning, fmt.Sprintf("transmit queue of controller %s holds %d frames, so that bursts lose frames", name, c.Queue),
			fmt.Sprintf("sudo ip link set %s txqueuelen %d", name, config.DefaultTxQueue))
	}
	if c.State == "error-passive" || c.State == "error-warning" {
		m.add("VX303", warning, fmt.Sprintf("controller %s is %s", name, c.State), "ip -details -statistics link show "+name)
	}
}

// steered returns the devices of a bus that have a receive queue with a non-zero rps_cpus, and reports whether all queues of
// all devices have one and the same CPU, which keeps one order.
func (m *machine) steered(s bus.BusStatus) (devices []string, oneCPU bool) {
	tx, rx := config.BackplaneNames(s.Hub)
	all := []string{s.Hub, rx, tx}
	for _, e := range s.Endpoints {
		all = append(all, e.HostIf)
	}
	masks := make(map[string]bool)
	for _, device := range all {
		files, _ := filepath.Glob(filepath.Join(m.root, "/sys/class/net", device, "queues/rx-*/rps_cpus"))
		steers := false
		for _, file := range files {
			content, _ := os.ReadFile(file)
			mask := strings.TrimLeft(strings.ReplaceAll(strings.TrimSpace(string(content)), ",", ""), "0") // of many CPUs it is "00000000,00000003"
			masks[mask] = true
			steers = steers || mask != ""
		}
		if steers {
			devices = append(devices, device)
		}
	}
	for mask := range masks {
		oneCPU = len(masks) == 1 && regexp.MustCompile("^[1248]0*$").MatchString(mask)
	}
	return devices, oneCPU
}
