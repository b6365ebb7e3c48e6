package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vxcan/vxcan/pkg/bus"
	"github.com/vxcan/vxcan/pkg/store"
)

// metricsFile is the name of the file for node_exporter.
const metricsFile = "vxcan.prom"

func newMetrics(host looker) *cobra.Command {
	var dir, address string
	var format *string
	cmd := &cobra.Command{
		Use:   "metrics",
		Short: "Print metrics of all buses for Prometheus",
		Long: `Print metrics of all buses as Prometheus reads them. With --textfile, write them to DIR/` + metricsFile + ` for the textfile
collector of node_exporter: beside it, then renamed. vxcan-metrics.timer does that. With --listen, serve them until a
signal comes: at /metrics, each time as they are then.

JSON is that of status, which has the same numbers.

` + metricsTable(),
		Example: `  vxcanctl metrics
  vxcanctl metrics --textfile /var/lib/prometheus/node-exporter
  vxcanctl metrics --listen 127.0.0.1:9732`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := asRoot(cmd, address != ""); err != nil {
				return err
			}
			if address != "" {
				return serveMetrics(cmd.Context(), address, host)
			}
			all, err := host.Status(cmd.Context())
			switch {
			case dir != "":
				err = errors.Join(err, writeTextfile(dir, all))
			case *format == jsonFormat:
				err = errors.Join(err, writeJSON(cmd.OutOrStdout(), newStatusDocument(all)))
			default:
				err = errors.Join(err, writeMetrics(cmd.OutOrStdout(), all))
			}
			return err
		},
	}
	format = addFormat(cmd, "prometheus", jsonFormat)
	cmd.Flags().StringVar(&dir, "textfile", "", "write to `DIR`/"+metricsFile)
	_ = cmd.MarkFlagDirname("textfile")
	cmd.Flags().StringVar(&address, "listen", "", "serve them by HTTP at an `ADDRESS`, such as 127.0.0.1:9732")
	_ = cmd.RegisterFlagCompletionFunc("listen", cobra.NoFileCompletions)
	cmd.MarkFlagsMutuallyExclusive("textfile", "output", "listen")
	return cmd
}

// metric is a family of metrics. samples calls sample for each, with labels behind those of the bus.
type metric struct {
	name, kind, help string
	samples          func(s bus.BusStatus, sample func(value uint64, labels ...string))
}

func perBus(value func(s bus.BusStatus) uint64) func(bus.BusStatus, func(uint64, ...string)) {
	return func(s bus.BusStatus, sample func(uint64, ...string)) { sample(value(s)) }
}

func perEndpoint(value func(e bus.EndpointStatus) uint64) func(bus.BusStatus, func(uint64, ...string)) {
	return func(s bus.BusStatus, sample func(uint64, ...string)) {
		for _, e := range s.Endpoints {
			sample(value(e), "runtime", e.Runtime, "network", e.Network, "container", e.ContainerID, "name", e.Name, "interface", e.Interface, "device", e.HostIf)
		}
	}
}

func perController(value func(c *bus.ControllerStatus) uint64) func(bus.BusStatus, func(uint64, ...string)) {
	return func(s bus.BusStatus, sample func(uint64, ...string)) {
		if s.Controller != nil {
			sample(value(s.Controller))
		}
	}
}

func perTrunk(value func(t bus.TrunkStatus) uint64) func(bus.BusStatus, func(uint64, ...string)) {
	return func(s bus.BusStatus, sample func(uint64, ...string)) {
		for _, t := range s.Trunks {
			sample(value(t), "bus_id", strconv.FormatUint(uint64(t.BusID), 10), "local", t.Local, "peer", t.Peer)
		}
	}
}

var controllerStates = [...]string{"error-active", "error-warning", "error-passive", "bus-off", "stopped", "sleeping"}

var metrics = [...]metric{
	{"vxcan_bus_whole", "gauge", "1 if nothing of the bus is missing, else 0.", perBus(func(s bus.BusStatus) uint64 { return number(len(s.Differences) == 0) })},
	{"vxcan_hub_up", "gauge", "1 if the hub is there and up, else 0.", perBus(func(s bus.BusStatus) uint64 { return number(s.Up) })},
	{"vxcan_hub_sent_frames_total", "counter", "Frames of programs on the host and of the wire.", perBus(func(s bus.BusStatus) uint64 { return s.Sent })},
	{"vxcan_hub_heard_frames_total", "counter", "Frames of containers that the hub took.", perBus(func(s bus.BusStatus) uint64 { return s.Heard })},
	{"vxcan_hub_lost_frames_total", "counter", "Frames of containers that the hub did not take: its queue was full, or it was down.", perBus(func(s bus.BusStatus) uint64 { return s.Lost })},
	{"vxcan_endpoint_up", "gauge", "1 if both ends of the container's interface are up, else 0.", perEndpoint(func(e bus.EndpointStatus) uint64 { return number(e.Up) })},
	{"vxcan_endpoint_sent_frames_total", "counter", "Frames of the container that got to the bus.", perEndpoint(func(e bus.EndpointStatus) uint64 { return e.Sent })},
	{"vxcan_endpoint_heard_frames_total", "counter", "Frames handed to the container.", perEndpoint(func(e bus.EndpointStatus) uint64 { return e.Heard })},
	{"vxcan_endpoint_lost_frames_total", "counter", "Frames that the container's interface did not take.", perEndpoint(func(e bus.EndpointStatus) uint64 { return e.Lost })},
	{"vxcan_endpoint_send_denied_frames_total", "counter", "Frames of the container that its policy kept back.", perEndpoint(func(e bus.EndpointStatus) uint64 { return e.DeniedSend })},
	{"vxcan_endpoint_receive_denied_frames_total", "counter", "Frames that the container's policy kept from it.", perEndpoint(func(e bus.EndpointStatus) uint64 { return e.DeniedReceive })},
	{"vxcan_endpoint_over_rate_frames_total", "counter", "Frames of the container beyond its rate.", perEndpoint(func(e bus.EndpointStatus) uint64 { return e.OverRate })},
	{"vxcan_endpoint_waiting_frames", "gauge", "Frames of the container in its own queue to the wire.", perEndpoint(func(e bus.EndpointStatus) uint64 { return e.Waiting })},
	{"vxcan_endpoint_wire_lost_frames_total", "counter", "Frames of the container that found its own queue to the wire full.", perEndpoint(func(e bus.EndpointStatus) uint64 { return e.WireLost })},
	{"vxcan_trunk_up", "gauge", "1 if the trunk to the other host is there and up, else 0. It says nothing of the other host.", perTrunk(func(t bus.TrunkStatus) uint64 { return number(t.Up) })},
	{"vxcan_trunk_received_frames_total", "counter", "Frames that have come from the other host.", perTrunk(func(t bus.TrunkStatus) uint64 { return t.Sent })},
	{"vxcan_trunk_transmitted_frames_total", "counter", "Frames that were sent to the other host. Those that it has not received were lost on the way.", perTrunk(func(t bus.TrunkStatus) uint64 { return t.Heard })},
	{"vxcan_trunk_denied_packets_total", "counter", "Packets for the tunnel that were not from the other host itself, and what was no CAN frame.", perTrunk(func(t bus.TrunkStatus) uint64 { return t.Denied })},
	{"vxcan_trunk_dropped_frames_total", "counter", "Frames to the other host that were dropped on this one.", perTrunk(func(t bus.TrunkStatus) uint64 { return t.Lost })},
	{"vxcan_controller_state", "gauge", "1 for the state that the controller is in, 0 for the others.", func(s bus.BusStatus, sample func(uint64, ...string)) {
		for _, state := range controllerStates {
			if s.Controller != nil {
				sample(number(s.Controller.State == state), "state", state)
			}
		}
	}},
	{"vxcan_controller_errors", "gauge", "Error counter of the controller, where its driver tells it.", func(s bus.BusStatus, sample func(uint64, ...string)) {
		if s.Controller != nil && s.Controller.Errors != nil {
			sample(uint64(s.Controller.Errors.Tx), "direction", "tx")
			sample(uint64(s.Controller.Errors.Rx), "direction", "rx")
		}
	}},
	{"vxcan_controller_bitrate", "gauge", "Bits per second, 0 if it is not set.", perController(func(c *bus.ControllerStatus) uint64 { return uint64(c.Bitrate) })},
	{"vxcan_controller_queue_frames", "gauge", "Length of the transmit queue.", perController(func(c *bus.ControllerStatus) uint64 { return uint64(c.Queue) })},
	{"vxcan_controller_bus_errors_total", "counter", "Errors on the wire.", perController(func(c *bus.ControllerStatus) uint64 { return uint64(c.Events.BusErrors) })},
	{"vxcan_controller_bus_off_total", "counter", "Times that the controller went bus-off.", perController(func(c *bus.ControllerStatus) uint64 { return uint64(c.Events.BusOff) })},
	{"vxcan_controller_restarts_total", "counter", "Restarts after bus-off.", perController(func(c *bus.ControllerStatus) uint64 { return uint64(c.Events.Restarts) })},
	{"vxcan_controller_arbitration_lost_total", "counter", "Times that a frame of another node came first.", perController(func(c *bus.ControllerStatus) uint64 { return uint64(c.Events.ArbitrationLost) })},
}

func number(yes bool) uint64 {
	if yes {
		return 1
	}
	return 0
}

func metricsTable() string {
	var b strings.Builder
	b.WriteString("Metrics, each with the label hub; those of endpoints also with runtime, network, container, name, interface, device, and those\n" +
		"of trunks with bus_id, local and peer, the addresses of both hosts:\n")
	for _, m := range metrics {
		fmt.Fprintf(&b, "  %s (%s): %s\n", m.name, m.kind, m.help)
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// writeMetrics writes the text format of Prometheus, version 0.0.4. Families without a sample are left out.
func writeMetrics(w io.Writer, all []bus.BusStatus) error {
	escape := strings.NewReplacer("\\", `\\`, "\"", `\"`, "\n", `\n`)
	var text bytes.Buffer
	for _, m := range metrics {
		head := fmt.Sprintf("# HELP %s %s\n# TYPE %s %s\n", m.name, m.help, m.name, m.kind)
		for _, s := range all {
			m.samples(s, func(value uint64, labels ...string) {
				text.WriteString(head)
				head = ""
				fmt.Fprintf(&text, "%s{hub=\"%s\"", m.name, escape.Replace(s.Hub))
				for i := 0; i < len(labels); i += 2 {
					fmt.Fprintf(&text, ",%s=\"%s\"", labels[i], escape.Replace(strings.ToValidUTF8(labels[i+1], "?")))
				}
				fmt.Fprintf(&text, "} %d\n", value)
			})
		}
	}
	_, err := w.Write(text.Bytes())
	return err
}

// writeTextfile replaces the file for node_exporter, which never sees a part of it.
func writeTextfile(dir string, all []bus.BusStatus) error {
	const mode = 0o644 // node_exporter is another user
	return store.Replace(filepath.Join(dir, metricsFile), mode, false, func(w io.Writer) error { return writeMetrics(w, all) })
}
