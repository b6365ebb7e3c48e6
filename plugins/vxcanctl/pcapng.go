package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"github.com/vxcan/vxcan/pkg/capture"
)

// linkTypeSocketCAN is LINKTYPE_CAN_SOCKETCAN of https://www.tcpdump.org/linktypes/LINKTYPE_CAN_SOCKETCAN.html.
const linkTypeSocketCAN layers.LinkType = 227

// pcapngWriter writes a file for Wireshark, with an interface for each sender.
type pcapngWriter struct {
	file       io.WriteCloser
	ng         *pcapgo.NgWriter
	interfaces map[string]int // by sender
	packet     []byte
}

// newPcapng begins a file; "-" is stdout. Its first interface is that of a hub: a file must have one.
func newPcapng(path, hub string, stdout io.Writer) (*pcapngWriter, error) {
	w := &pcapngWriter{interfaces: map[string]int{hub: 0}}
	w.file = struct { // not ours to close
		io.Writer
		io.Closer
	}{stdout, io.NopCloser(nil)}
	if path != "-" {
		file, err := os.Create(path)
		if err != nil {
			return nil, err
		}
		w.file = file
	}
	section := pcapgo.NgSectionInfo{OS: "linux", Application: "vxcanctl " + buildVersion}
	var err error
	w.ng, err = pcapgo.NewNgWriterInterface(w.file, nic(capture.Member{Hub: hub, Device: hub}, hub), pcapgo.NgWriterOptions{SectionInfo: section})
	return w, err
}

func nic(m capture.Member, sender string) pcapgo.NgInterface {
	about := "hub: programs on the host and the wire"
	if m.Peer != "" {
		about = fmt.Sprintf("bus %s, device %s: members on host %s", m.Hub, m.Device, m.Peer)
	} else if !m.IsHub() {
		about = plain(fmt.Sprintf("bus %s, device %s: %s", m.Hub, m.Device, m.Attachment))
	}
	return pcapgo.NgInterface{Name: sender, Description: about, LinkType: linkTypeSocketCAN}
}

func (w *pcapngWriter) write(f *capture.Frame, sender string) error {
	index, known := w.interfaces[sender]
	if !known {
		var err error
		if index, err = w.ng.AddInterface(nic(f.From, sender)); err != nil {
			return err
		}
		w.interfaces[sender] = index
	}
	var options pcapgo.NgPacketOptions
	if f.Lost > 0 {
		options.Comments = []string{fmt.Sprintf("vxcanctl lost %d frames of the bus before this one", f.Lost)}
	}
	w.packet = appendSocketCAN(w.packet[:0], f)
	return w.ng.WritePacketWithOptions(gopacket.CaptureInfo{
		Timestamp: f.Time, CaptureLength: len(w.packet), Length: len(w.packet), InterfaceIndex: index,
	}, w.packet, options)
}

// appendSocketCAN appends a frame in the layout of the link type: the ID in network byte order, the length, the flags of
// CAN FD, a reserved byte, the DLC of a classic frame, and the data.
func appendSocketCAN(b []byte, f *capture.Frame) []byte {
	b = binary.BigEndian.AppendUint32(b, f.ID)
	flags := f.Flags
	if f.FD {
		flags |= capture.FDF
	}
	return append(append(b, byte(len(f.Data)), flags, 0, f.DLC), f.Data...)
}

func (w *pcapngWriter) Flush() error { return w.ng.Flush() }

func (w *pcapngWriter) Close() error { return errors.Join(w.ng.Flush(), w.file.Close()) }
