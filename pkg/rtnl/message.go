package rtnl

import (
	"encoding/binary"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// message is one netlink message: struct nlmsghdr of linux/netlink.h and what follows it.
type message []byte

func (m message) kind() uint16  { return binary.NativeEndian.Uint16(m[4:6]) }
func (m message) flags() uint16 { return binary.NativeEndian.Uint16(m[6:8]) }
func (m message) seq() uint32   { return binary.NativeEndian.Uint32(m[8:12]) }
func (m message) data() []byte  { return m[unix.SizeofNlMsghdr:] }

func (m message) is(flag uint16) bool { return m.flags()&flag != 0 }
func (m message) setAck()             { binary.NativeEndian.PutUint16(m[6:8], m.flags()|unix.NLM_F_ACK) }

// isGet reports whether a request is a look-up: a family's kinds are new, delete, get and set (RTM_BASE, linux/rtnetlink.h).
func (m message) isGet() bool { return m.kind()&3 == unix.RTM_GETLINK&3 }

// errnoSize is the error number that NLMSG_ERROR and NLMSG_DONE begin with, an int.
const errnoSize = 4

func parseMessages(b []byte) ([]message, error) {
	var messages []message
	for len(b) >= unix.SizeofNlMsghdr {
		size := int(binary.NativeEndian.Uint32(b[0:4]))
		if size < unix.SizeofNlMsghdr || size > len(b) {
			return nil, fmt.Errorf("netlink message: length %d of %d bytes", size, len(b))
		}
		messages = append(messages, b[:size])
		b = b[min(align(size), len(b)):]
	}
	return messages, nil
}

// err is the error of an NLMSG_ERROR (struct nlmsgerr), nil for an acknowledgement, or of an NLMSG_DONE, nil for a whole dump.
func (m message) err() error {
	if len(m.data()) < errnoSize {
		return fmt.Errorf("netlink error message: %d bytes, want at least %d", len(m.data()), errnoSize)
	}
	errno := -int32(binary.NativeEndian.Uint32(m.data()))
	if errno == 0 {
		return nil
	}
	if words := m.extAck(); words != "" {
		return meaning(fmt.Errorf("%w (%s)", unix.Errno(errno), words))
	}
	return meaning(unix.Errno(errno))
}

// extAck is the kernel's own text for an error, or with an acknowledgement (NLMSGERR_ATTR_MSG), or "".
func (m message) extAck() string {
	if !m.is(unix.NLM_F_ACK_TLVS) {
		return ""
	}
	data, skip := m.data(), errnoSize
	switch {
	case m.kind() == unix.NLMSG_DONE:
	case len(data) < errnoSize+unix.SizeofNlMsghdr:
		return ""
	case m.is(unix.NLM_F_CAPPED): // only the header of the request is repeated
		skip += unix.SizeofNlMsghdr
	default:
		skip += align(int(binary.NativeEndian.Uint32(data[errnoSize:])))
	}
	if skip < 0 || skip > len(data) {
		return ""
	}
	words := ""
	err := Attrs(data[skip:], func(kind uint16, value []byte) error {
		if kind == unix.NLMSGERR_ATTR_MSG {
			words = unix.ByteSliceToString(value)
		}
		return nil
	})
	if err != nil {
		return ""
	}
	return words
}

// With adds attributes to a request, and returns it.
func With(r *nl.NetlinkRequest, attrs ...*nl.RtAttr) *nl.NetlinkRequest {
	for _, a := range attrs {
		r.AddData(a)
	}
	return r
}

// Nested is an attribute of attributes.
func Nested(kind int, attrs ...*nl.RtAttr) *nl.RtAttr {
	nested := nl.NewRtAttr(kind, nil)
	for _, a := range attrs {
		nested.AddChild(a)
	}
	return nested
}

// Text is an attribute of a text with a zero byte behind it.
func Text(kind int, text string) *nl.RtAttr { return nl.NewRtAttr(kind, nl.ZeroTerminated(text)) }

// Number is an attribute of a number of 32 bits.
func Number(kind int, n uint32) *nl.RtAttr { return nl.NewRtAttr(kind, nl.Uint32Attr(n)) }

// Attrs calls each with every attribute of b (struct nlattr, linux/netlink.h; struct rtattr, linux/rtnetlink.h) until it fails.
func Attrs(b []byte, each func(kind uint16, value []byte) error) error {
	for len(b) > 0 {
		if len(b) < unix.SizeofNlAttr {
			return fmt.Errorf("attribute header: %d bytes, want %d", len(b), unix.SizeofNlAttr)
		}
		size, kind := int(binary.NativeEndian.Uint16(b[0:2])), binary.NativeEndian.Uint16(b[2:4])&^unix.NLA_F_NESTED
		if size < unix.SizeofNlAttr || size > len(b) {
			return fmt.Errorf("attribute %d: length %d of %d bytes", kind, size, len(b))
		}
		if err := each(kind, b[unix.SizeofNlAttr:size]); err != nil {
			return err
		}
		b = b[min(align(size), len(b)):]
	}
	return nil
}

// AttrsBehind is Attrs for what is behind a struct of size bytes, which an error names.
func AttrsBehind(name string, size int, b []byte, each func(kind uint16, value []byte) error) error {
	if len(b) < size {
		return fmt.Errorf("%s: %d bytes, want at least %d", name, len(b), size)
	}
	return Attrs(b[size:], each)
}

// WantSize fails unless the value of an attribute is size bytes long.
func WantSize(kind uint16, value []byte, size int) error {
	if len(value) != size {
		return fmt.Errorf("attribute %d: %d bytes, want %d", kind, len(value), size)
	}
	return nil
}

// Uint32 reads the value of an attribute that is a number of 32 bits.
func Uint32(kind uint16, value []byte) (uint32, error) {
	if len(value) != 4 {
		return 0, WantSize(kind, value, 4)
	}
	return binary.NativeEndian.Uint32(value), nil
}

// align is NLMSG_ALIGN and NLA_ALIGN of linux/netlink.h.
func align(n int) int { return (n + unix.NLMSG_ALIGNTO - 1) &^ (unix.NLMSG_ALIGNTO - 1) }
