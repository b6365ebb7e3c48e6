package cantest

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/containernetworking/plugins/pkg/ns"
	"golang.org/x/sys/unix"
)

// Injected is the data of the frames of SendGRE.
const Injected = "injected"

// Part is how much of a packet is sent.
type Part int

// Parts of a packet: all of it, or the fragments with its first 16 bytes and with the rest.
const (
	Whole Part = iota
	First
	Last
)

// SendGRE sends a CAN frame in a GRE packet with a key and the highest TTL from a network namespace, by the address from, which
// need not be one of its own. It does what any container can that has CAP_NET_RAW.
func SendGRE(t testing.TB, netns ns.NetNS, from, to string, key, id uint32, part Part) {
	t.Helper()
	packet := binary.BigEndian.AppendUint32([]byte{0x20, 0, 0, unix.ETH_P_CAN}, key)
	packet = binary.NativeEndian.AppendUint32(packet, id)
	packet = append(append(packet, byte(len(Injected)), 0, 0, 0), Injected...)
	const middle, unit = 16, 8 // bytes; offsets of fragments are in these units
	fragment, fragment6 := []byte{0x40, 0}, []byte{0, 0}
	switch part {
	case First:
		packet, fragment, fragment6 = packet[:middle], []byte{0x20, 0}, []byte{0, 1}
	case Last:
		packet, fragment, fragment6 = packet[middle:], []byte{0, middle / unit}, []byte{0, middle}
	}
	source, destination := netip.MustParseAddr(from), netip.MustParseAddr(to)
	family, address := unix.AF_INET, unix.Sockaddr(nil)
	head := []byte{0x45, 0, 0, byte(20 + len(packet)), byte(id >> 8), byte(id), fragment[0], fragment[1], 255, unix.IPPROTO_GRE, 0, 0}
	if source.Is6() {
		family, address = unix.AF_INET6, &unix.SockaddrInet6{Addr: destination.As16()}
		next := byte(unix.IPPROTO_GRE)
		if part != Whole {
			next, packet = unix.IPPROTO_FRAGMENT, append([]byte{unix.IPPROTO_GRE, 0, fragment6[0], fragment6[1], 0, 0, byte(id >> 8), byte(id)}, packet...)
		}
		head = []byte{0x60, 0, 0, 0, 0, byte(len(packet)), next, 255}
	} else {
		address = &unix.SockaddrInet4{Addr: destination.As4()}
	}
	head = append(append(head, source.AsSlice()...), destination.AsSlice()...)
	err := netns.Do(func(ns.NetNS) error {
		fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Sendto(fd, append(head, packet...), 0, address)
	})
	if err != nil {
		t.Fatal(err)
	}
}
