package cangw

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

func unhex(t testing.TB, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(text), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Names of the devices in the commands below: index 2, 3, 4.
func deviceName(index uint32) string {
	return map[uint32]string{2: "vcan0", 3: "bpR", 4: "bpT"}[index]
}

// golden is what cangw of can-utils sends for a rule: the arguments, and the payload of its RTM_NEWROUTE, by
// strace -e trace=network -e write=3 cangw -A <arguments>.
var golden = []struct {
	args string
	rule Rule
	sent string
}{{
	"-s vcan0 -d bpT -i", Rule{Src: 2, Dst: 4, Flags: IIFTxOK},
	"1d 01 04 00 08 00 09 00 02 00 00 00 08 00 0a 00 04 00 00 00",
}, {
	"-s vcan0 -d bpT -X -i", Rule{Src: 2, Dst: 4, Flags: IIFTxOK | FD},
	"1d 01 0c 00 08 00 09 00 02 00 00 00 08 00 0a 00 04 00 00 00",
}, {
	"-s bpR -d vcan0 -e -t -f 123:7FF", Rule{Src: 3, Dst: 2, Flags: Echo | SrcTS, Filter: Filter{ID: 0x123, Mask: 0x7ff}},
	"1d 01 03 00 08 00 09 00 03 00 00 00 08 00 0a 00 02 00 00 00 0c 00 0b 00 23 01 00 00 ff 07 00 00",
}, {
	"-s bpR -d vcan0 -e -f 12345678:DFFFFFFF", Rule{Src: 3, Dst: 2, Flags: Echo, Filter: Filter{ID: 0x12345678, Mask: 0xdfffffff}},
	"1d 01 01 00 08 00 09 00 03 00 00 00 08 00 0a 00 02 00 00 00 0c 00 0b 00 78 56 34 12 ff ff ff df",
}, {
	"-s bpR -d vcan0 -X -e", Rule{Src: 3, Dst: 2, Flags: Echo | FD},
	"1d 01 09 00 08 00 09 00 03 00 00 00 08 00 0a 00 02 00 00 00",
}, {
	"-s bpR -d vcan0 -l 1", Rule{Src: 3, Dst: 2, Hops: 1},
	"1d 01 00 00 08 00 09 00 03 00 00 00 08 00 0a 00 02 00 00 00 05 00 0d 00 01 00 00 00",
}, {
	"-s vcan0 -d bpT -i -l 2 -f 123:7FF", Rule{Src: 2, Dst: 4, Flags: IIFTxOK, Filter: Filter{ID: 0x123, Mask: 0x7ff}, Hops: 2},
	"1d 01 04 00 08 00 09 00 02 00 00 00 08 00 0a 00 04 00 00 00 0c 00 0b 00 23 01 00 00 ff 07 00 00 05 00 0d 00 02 00 00 00",
}}

func TestMarshal(t *testing.T) {
	for _, g := range golden {
		if diff := cmp.Diff(unhex(t, g.sent), g.rule.marshal()); diff != "" {
			t.Errorf("cangw -A %s (- cangw, + we)\n%s", g.args, diff)
		}
	}
}

// cangw -L prints rules as arguments in an order of its own, which the arguments above are in.
func TestFormat(t *testing.T) {
	for _, g := range golden {
		if got := g.rule.Format(deviceName); got != g.args {
			t.Errorf("%q, want %q", got, g.args)
		}
	}
}

// dumped is what a 6.1 kernel answers to cangw -L, message by message, by strace -e trace=network -e read=3, for rules
// that were added with these arguments.
var dumped = []struct {
	args string
	job  Job
	sent string
}{{
	"-s bpR -d vcan0 -X -e", Job{Rule: Rule{Src: 3, Dst: 2, Flags: Echo | FD}, Plain: true},
	"1d 01 09 00 08 00 09 00 03 00 00 00 08 00 0a 00 02 00 00 00",
}, {
	"-s vcan0 -d bpT -X -i", Job{Rule: Rule{Src: 2, Dst: 4, Flags: IIFTxOK | FD}, Plain: true, Handled: 3},
	"1d 01 0c 00 08 00 07 00 03 00 00 00 08 00 09 00 02 00 00 00 08 00 0a 00 04 00 00 00",
}, {
	"-s vcan0 -d bpT -i", Job{Rule: Rule{Src: 2, Dst: 4, Flags: IIFTxOK}, Plain: true, Handled: 3, Deleted: 1},
	"1d 01 04 00 08 00 07 00 03 00 00 00 08 00 0c 00 01 00 00 00 08 00 09 00 02 00 00 00 08 00 0a 00 04 00 00 00",
}, {
	"-s bpR -d vcan0 -e -t -f 123:7FF", Job{
		Rule:  Rule{Src: 3, Dst: 2, Flags: Echo | SrcTS, Filter: Filter{ID: 0x123, Mask: 0x7ff}},
		Plain: true, Handled: 1, Dropped: 1,
	},
	`1d 01 03 00 08 00 07 00 01 00 00 00 08 00 08 00 01 00 00 00 0c 00 0b 00 23 01 00 00 ff 07 00 00
	 08 00 09 00 03 00 00 00 08 00 0a 00 02 00 00 00`,
}, {
	"-s bpR -d vcan0 -f 123~7FF", Job{ // CAN_INV_FILTER, linux/can.h
		Rule: Rule{Src: 3, Dst: 2, Filter: Filter{ID: 0x20000123, Mask: 0x7ff}}, Plain: true,
	},
	"1d 01 00 00 0c 00 0b 00 23 01 00 20 ff 07 00 00 08 00 09 00 03 00 00 00 08 00 0a 00 02 00 00 00",
}, {
	"-s bpR -d vcan0 -l 1", Job{Rule: Rule{Src: 3, Dst: 2, Hops: 1}, Plain: true, Handled: 1, Dropped: 81983},
	`1d 01 00 00 08 00 07 00 01 00 00 00 08 00 08 00 3f 40 01 00 05 00 0d 00 01 00 00 00
	 08 00 09 00 03 00 00 00 08 00 0a 00 02 00 00 00`,
}, {
	"-s bpR -d bpT -m SET:I:222.8.1122334455667788", Job{Rule: Rule{Src: 3, Dst: 4}, Handled: 540402},
	`1d 01 00 00 08 00 07 00 f2 3e 08 00 15 00 04 00 22 02 00 00 08 00 00 00 11 22 33 44 55 66 77 88
	 01 00 00 00 08 00 09 00 03 00 00 00 08 00 0a 00 04 00 00 00`,
}, {
	"-s bpR -d vcan0 -m XOR:L:000.3.0000000000000000 -u 42", Job{Rule: Rule{Src: 3, Dst: 2}},
	`1d 01 00 00 15 00 03 00 00 00 00 00 03 00 00 00 00 00 00 00 00 00 00 00 02 00 00 00 08 00 0e 00
	 42 00 00 00 08 00 09 00 03 00 00 00 08 00 0a 00 02 00 00 00`,
}, {
	"-s bpR -d vcan0 -m SET:IL:333.4.1122334455667788 -x 0:6:7:77", Job{Rule: Rule{Src: 3, Dst: 2}},
	`1d 01 00 00 15 00 04 00 33 03 00 00 04 00 00 00 11 22 33 44 55 66 77 88 03 00 00 00 08 00 05 00
	 00 06 07 77 08 00 09 00 03 00 00 00 08 00 0a 00 02 00 00 00`,
}}

func TestUnmarshalJob(t *testing.T) {
	for _, d := range dumped {
		got, err := unmarshalJob(unhex(t, d.sent))
		if err != nil {
			t.Errorf("cangw -A %s: %v", d.args, err)
		}
		if text := got.Format(deviceName); text != d.args {
			t.Errorf("%q, want %q", text, d.args)
		}
		if !got.Plain { // what deletes it is the same without the counters
			want := got
			want.Handled, want.Dropped, want.Deleted = 0, 0, 0
			if again, err := unmarshalJob(got.marshal()); err != nil || again != want {
				t.Errorf("cangw -A %s: %+v again, %v", d.args, again, err)
			}
			got.Raw = ""
		}
		if diff := cmp.Diff(d.job, got); diff != "" {
			t.Errorf("cangw -A %s (- want, + got)\n%s", d.args, diff)
		}
	}
}

// A message that ends anywhere is an error. Only attributes that follow source and destination can be missing.
func TestUnmarshalJobTruncated(t *testing.T) {
	for _, d := range dumped {
		whole := unhex(t, d.sent)
		for n := range whole {
			if job, err := unmarshalJob(whole[:n]); err == nil {
				t.Errorf("cangw -A %s, cut to %d bytes: %+v", d.args, n, job)
			}
		}
	}
}

func TestUnmarshalJobWrongLength(t *testing.T) {
	sizes := map[uint16]int{cgwHandled: 4, cgwDropped: 4, cgwDeleted: 4, cgwSrcIF: 4, cgwDstIF: 4, cgwFilter: 8, cgwLimHops: 1}
	for kind, want := range sizes {
		for size := range 13 {
			b := Rule{Src: 2, Dst: 4}.marshal()
			b = append(b, nl.NewRtAttr(int(kind), make([]byte, size)).Serialize()...)
			_, err := unmarshalJob(b)
			if size == want {
				if err != nil && kind != cgwSrcIF && kind != cgwDstIF { // which are 0 now
					t.Errorf("attribute %d of %d bytes: %v", kind, size, err)
				}
				continue
			}
			if words := fmt.Sprintf("attribute %d: %d bytes, want %d", kind, size, want); err == nil || err.Error() != words {
				t.Errorf("attribute %d of %d bytes: %v, want %q", kind, size, err, words)
			}
		}
	}
	for _, size := range []uint16{0, 3, 9, 1 << 15, 1<<16 - 1} { // of the last attribute, of 8 bytes
		b := Rule{Src: 2, Dst: 4}.marshal()
		binary.NativeEndian.PutUint16(b[len(b)-8:], size)
		if job, err := unmarshalJob(b); err == nil {
			t.Errorf("attribute's length %d: %+v", size, job)
		}
	}
}

// What is not known is not an error, but not plain.
func TestUnmarshalJobUnknown(t *testing.T) {
	for _, kind := range []int{0, 1, 5, 14, cgwMax, cgwMax + 1, 31, 32, 38, 63, 64, 70, 4711, 1<<14 - 1} {
		for _, size := range []int{0, 1, 4, 282} {
			b := append(Rule{Src: 2, Dst: 4}.marshal(), nl.NewRtAttr(kind, make([]byte, size)).Serialize()...)
			want := Job{Rule: Rule{Src: 2, Dst: 4}, Raw: string(b)}
			if got, err := unmarshalJob(b); err != nil || got != want {
				t.Errorf("attribute %d of %d bytes: %+v, %v; want %+v", kind, size, got, err, want)
			}
		}
	}
}

func TestUnmarshalJobOfOthers(t *testing.T) {
	for _, text := range []string{
		"",
		"02 20 00 00 fe 02 00 01 00 00 00 00 08 00 0f 00 fe 00 00 00", // struct rtmsg of an IPv4 route
		"1d 02 00 00", // another type of CAN gateway
		"1d 00 00 00",
	} {
		if _, err := unmarshalJob(unhex(t, text)); !errors.Is(err, errNotCAN) {
			t.Errorf("%q: %v, want errNotCAN", text, err)
		}
	}
}

func FuzzUnmarshalJob(f *testing.F) {
	for _, d := range dumped {
		f.Add(unhex(f, d.sent))
	}
	for _, g := range golden {
		f.Add(unhex(f, g.sent))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		job, err := unmarshalJob(b)
		if err != nil {
			if job != (Job{}) {
				t.Errorf("%+v with an error", job)
			}
			return
		}
		if b[0] != unix.AF_CAN || job.Src == 0 || job.Dst == 0 {
			t.Errorf("accepted %+v", job)
		}
		again, err := unmarshalJob(job.marshal())
		if want := (Job{Rule: job.Rule, Plain: job.Plain, Raw: job.Raw}); err != nil || again != want {
			t.Errorf("%+v, %v; want %+v", again, err, want)
		}
	})
}
