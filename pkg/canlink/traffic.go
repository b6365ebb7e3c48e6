package canlink

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/rtnl"
)

// Traffic counts a device's frames and bytes of data since it was made: the start of struct rtnl_link_stats64, linux/if_link.h.
type Traffic struct {
	RxFrames uint64 `json:"rxFrames"`
	TxFrames uint64 `json:"txFrames"`
	RxBytes  uint64 `json:"rxBytes"`
	TxBytes  uint64 `json:"txBytes"`
	Dropped  uint64 `json:"-"` // on this host, in place of being sent
}

// Traffic returns the counters of devices, in the order of their ifindexes. They are zero for what is not there.
func (c *Conn) Traffic(indexes ...int) (all []Traffic, err error) {
	err = rtnl.Each(c.conn, indexes, GetRequest, func(_ int, r rtnl.Reply) error {
		var t Traffic
		var err error
		if r.Err == nil && len(r.Data) >= unix.SizeofIfInfomsg {
			err = rtnl.Attrs(r.Data[unix.SizeofIfInfomsg:], t.ParseAttr)
		} else if !errors.Is(r.Err, unix.ENODEV) {
			err = r.Err
		}
		all = append(all, t)
		return err
	})
	return all, err
}

// ParseAttr reads IFLA_STATS64 and no other attribute.
func (t *Traffic) ParseAttr(kind uint16, value []byte) error {
	const size = 64
	if kind != unix.IFLA_STATS64 {
		return nil
	}
	if len(value) < size {
		return fmt.Errorf("IFLA_STATS64: %d bytes, want at least %d", len(value), size)
	}
	number := func(i int) uint64 { return binary.NativeEndian.Uint64(value[8*i:]) }
	*t = Traffic{number(0), number(1), number(2), number(3), number(5) + number(7)} // tx_errors, tx_dropped
	return nil
}
