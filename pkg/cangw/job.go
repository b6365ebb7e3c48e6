package cangw

import (
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/vxcan/vxcan/pkg/rtnl"
)

// Attributes of jobs that are not plain, from linux/can/gw.h.
const (
	cgwModAnd   = 1  // CGW_MOD_AND, followed by OR, XOR and SET
	cgwModSet   = 4  // CGW_MOD_SET
	cgwCSXor    = 5  // CGW_CS_XOR
	cgwCSCRC8   = 6  // CGW_CS_CRC8
	cgwModUID   = 14 // CGW_MOD_UID
	cgwFDModAnd = 15 // CGW_FDMOD_AND, followed by OR, XOR and SET
	cgwFDModSet = 18 // CGW_FDMOD_SET

	frameModSize   = 17  // struct cgw_frame_mod: struct can_frame and the elements that change
	fdFrameModSize = 73  // struct cgw_fdframe_mod: the same with struct canfd_frame
	csumXorSize    = 4   // struct cgw_csum_xor
	csumCRC8Size   = 282 // struct cgw_csum_crc8
)

// Format writes a job as arguments of cangw. name gives a device's name by its ifindex. What only a newer cangw knows is in <>.
func (j Job) Format(name func(index uint32) string) string {
	if j.Plain {
		return j.Rule.Format(name)
	}
	var more strings.Builder
	if len(j.Raw) >= rtcanmsgSize {
		_ = rtnl.Attrs([]byte(j.Raw[rtcanmsgSize:]), func(kind uint16, value []byte) error {
			if kind > cgwMax || plainAttrs&(1<<kind) == 0 {
				more.WriteString(" " + formatAttr(kind, value))
			}
			return nil
		})
	}
	return j.format(name, more.String())
}

// formatAttr writes an attribute as cangw -L does.
func formatAttr(kind uint16, value []byte) string {
	operators := [...]string{"AND", "OR", "XOR", "SET"}
	switch {
	case kind >= cgwModAnd && kind <= cgwModSet && len(value) == frameModSize:
		elements := formatElements(value[16])
		return fmt.Sprintf("-m %s:%s:%03X.%X.%X", operators[kind-cgwModAnd], elements, binary.NativeEndian.Uint32(value[0:4]), value[4], value[8:16])
	case kind >= cgwFDModAnd && kind <= cgwFDModSet && len(value) == fdFrameModSize:
		elements := formatElements(value[72])
		return fmt.Sprintf("-M %s:%s:%03X.%X.%X.%X", operators[kind-cgwFDModAnd], elements, binary.NativeEndian.Uint32(value[0:4]), value[5], value[4], value[8:72])
	case kind == cgwModUID && len(value) == 4:
		return fmt.Sprintf("-u %X", binary.NativeEndian.Uint32(value))
	case kind == cgwCSXor && len(value) == csumXorSize:
		return fmt.Sprintf("-x %d:%d:%d:%02X", int8(value[0]), int8(value[1]), int8(value[2]), value[3])
	case kind == cgwCSCRC8 && len(value) == csumCRC8Size:
		text := fmt.Sprintf("-c %d:%d:%d:%02X:%02X:%X", int8(value[0]), int8(value[1]), int8(value[2]), value[3], value[4], value[5:261])
		switch profile, data := value[261], value[262:]; profile {
		case 0: // CGW_CRC8PRF_UNSPEC
		case 1: // CGW_CRC8PRF_1U8
			text += fmt.Sprintf(" -p 1:%X", data[:1])
		case 2: // CGW_CRC8PRF_16U8
			text += fmt.Sprintf(" -p 2:%X", data[:16])
		default:
			text += fmt.Sprintf(" -p %d:", profile)
		}
		return text
	}
	return fmt.Sprintf("<attribute %d of %d bytes>", kind, len(value))
}

// formatElements names the elements of a frame that a modification changes (CGW_MOD_*), in the order of cangw.
func formatElements(set byte) string {
	text := ""
	for _, element := range []struct {
		bit  byte
		name string
	}{{0x01, "I"}, {0x08, "F"}, {0x02, "L"}, {0x04, "D"}} {
		if set&element.bit != 0 {
			text += element.name
		}
	}
	return text
}
