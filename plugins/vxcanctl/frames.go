package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/capture"
)

// buffer is stdout, written in large pieces.
type buffer struct{ *bufio.Writer }

func (b buffer) Close() error { return b.Flush() }

const hexDigits = "0123456789ABCDEF"

// appendID appends an ID as can-utils do: 3 digits, or 8 for an extended ID and for the class of an error frame.
func appendID(b []byte, id uint32) []byte {
	switch {
	case id&unix.CAN_ERR_FLAG != 0:
		return fmt.Appendf(b, "%08X", id&(unix.CAN_ERR_MASK|unix.CAN_ERR_FLAG))
	case id&unix.CAN_EFF_FLAG != 0:
		return fmt.Appendf(b, "%08X", id&unix.CAN_EFF_MASK)
	}
	return fmt.Appendf(b, "%03X", id&unix.CAN_SFF_MASK)
}

// isRemote reports whether a frame asks for data: there is neither a remote CAN FD frame nor a remote error frame.
func isRemote(f *capture.Frame) bool {
	return f.ID&unix.CAN_RTR_FLAG != 0 && f.ID&unix.CAN_ERR_FLAG == 0 && !f.FD
}

// rawDLC is the DLC of a classic frame that was higher than its 8 bytes, or 0.
func rawDLC(f *capture.Frame) uint8 {
	if !f.FD && len(f.Data) == 8 && f.DLC > 8 && f.DLC <= 15 {
		return f.DLC
	}
	return 0
}

// logWriter writes candump's log format (candump -L; sprint_canframe of can-utils' lib.c).
type logWriter struct{ buffer }

func (w logWriter) write(f *capture.Frame, sender string) error {
	line := fmt.Appendf(w.AvailableBuffer(), "(%010d.%06d) %s ", f.Time.Unix(), f.Time.Nanosecond()/1000, sender)
	line = append(appendID(line, f.ID), '#')
	if f.FD {
		line = append(line, '#', hexDigits[f.Flags&15])
	}
	if isRemote(f) {
		line = append(line, 'R')
		if len(f.Data) > 0 {
			line = append(line, hexDigits[len(f.Data)&15])
		}
	} else {
		line = fmt.Appendf(line, "%X", f.Data)
	}
	if dlc := rawDLC(f); dlc != 0 {
		line = append(line, '_', hexDigits[dlc])
	}
	_, err := w.Write(append(line, '\n'))
	return err
}

// textWriter writes lines like those of candump -t.
type textWriter struct {
	buffer
	stamp       string // see the flag
	several     bool   // buses: each line tells its own
	bus, sender int    // widths so far
	first, last time.Time
}

func (w *textWriter) write(f *capture.Frame, sender string) error {
	if f.Lost > 0 {
		fmt.Fprintf(w, " -- %d frames of %s were lost here --\n", f.Lost, f.From.Hub)
	}
	line := w.appendTime(append(w.AvailableBuffer(), " ("...), f.Time)
	line = append(line, ")  "...)
	if w.several {
		w.bus = max(w.bus, len(f.From.Hub))
		line = fmt.Appendf(line, "%-*s  ", w.bus, f.From.Hub)
	}
	w.sender = max(w.sender, len([]rune(sender)))
	line = fmt.Appendf(line, "%-*s  ", w.sender, sender)
	if f.ID&(unix.CAN_EFF_FLAG|unix.CAN_ERR_FLAG) == 0 {
		line = append(line, "     "...)
	}
	line = appendID(line, f.ID)
	if f.FD {
		line = fmt.Appendf(line, "  [%02d]", len(f.Data))
	} else {
		line = fmt.Appendf(line, "   [%d]", len(f.Data))
	}
	if isRemote(f) {
		line = append(line, "  remote request"...)
	} else if len(f.Data) > 0 {
		line = fmt.Appendf(line, "  % X", f.Data)
	}
	if f.ID&unix.CAN_ERR_FLAG != 0 {
		line = fmt.Appendf(line, "  ERRORFRAME %s", errorWords(f.ID))
	}
	_, err := w.Write(append(line, '\n'))
	return err
}

func (w *textWriter) appendTime(b []byte, t time.Time) []byte {
	seconds := func(d time.Duration) []byte {
		return fmt.Appendf(b, "%03d.%06d", d/time.Second, d%time.Second/time.Microsecond)
	}
	if w.first.IsZero() {
		w.first, w.last = t, t
	}
	last := w.last
	w.last = t
	switch w.stamp {
	case "A":
		return t.AppendFormat(b, "2006-01-02 15:04:05.000000")
	case "d":
		return seconds(max(0, t.Sub(last)))
	case "z":
		return seconds(max(0, t.Sub(w.first)))
	}
	return fmt.Appendf(b, "%010d.%06d", t.Unix(), t.Nanosecond()/1000)
}

// errorClasses are the bits of the ID of an error frame (linux/can/error.h), by the words of candump -e.
var errorClasses = [...]string{
	"tx-timeout", "lost-arbitration", "controller-problem", "protocol-violation", "transceiver-status",
	"no-acknowledgement-on-tx", "bus-off", "bus-error", "restarted-after-bus-off", "error-counter-tx-rx",
}

func errorWords(id uint32) string {
	var words []string
	for i, class := range errorClasses {
		if id&(1<<i) != 0 {
			words = append(words, class)
		}
	}
	return strings.Join(words, ",")
}

// jsonWriter writes a document a line.
type jsonWriter struct{ buffer }

type frameDocument struct {
	Time        time.Time `json:"time"`
	Hub         string    `json:"hub"`
	Sender      string    `json:"sender"`
	Runtime     string    `json:"runtime,omitempty"`
	Network     string    `json:"network,omitempty"`
	ContainerID string    `json:"containerID,omitempty"`
	IfName      string    `json:"ifName,omitempty"`
	HostIf      string    `json:"hostIf,omitempty"`
	ID          uint32    `json:"id"`
	Extended    bool      `json:"extended,omitempty"`
	Remote      bool      `json:"remote,omitempty"`
	Error       bool      `json:"error,omitempty"`
	FD          bool      `json:"fd,omitempty"`
	BRS         bool      `json:"brs,omitempty"`
	ESI         bool      `json:"esi,omitempty"`
	Length      int       `json:"length"`
	DLC         uint8     `json:"dlc,omitempty"`
	Data        string    `json:"data"`
	Lost        uint32    `json:"lost,omitempty"`
}

func (w jsonWriter) write(f *capture.Frame, sender string) error {
	d := frameDocument{
		Time: f.Time, Hub: f.From.Hub, Sender: sender,
		Runtime: f.From.Runtime, Network: f.From.Network, ContainerID: f.From.ContainerID, IfName: f.From.IfName,
		ID: f.ID & unix.CAN_SFF_MASK, Extended: f.ID&unix.CAN_EFF_FLAG != 0, Remote: isRemote(f), Error: f.ID&unix.CAN_ERR_FLAG != 0,
		FD: f.FD, BRS: f.Flags&capture.BRS != 0, ESI: f.Flags&capture.ESI != 0,
		Length: len(f.Data), DLC: rawDLC(f), Data: fmt.Sprintf("%X", f.Data), Lost: f.Lost,
	}
	if d.Extended || d.Error {
		d.ID = f.ID & unix.CAN_EFF_MASK
	}
	if d.Remote {
		d.Data = ""
	}
	if !f.From.IsHub() {
		d.HostIf = f.From.Device
	}
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	return encoder.Encode(d)
}
