package cantc

import (
	"encoding/binary"
	"encoding/hex"
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

// notErrors is what the golden bytes hold: '4,48 0 0 3,69 0 1 32,6 0 0 0,6 0 0 4294967295' to tc.
var notErrors = []unix.SockFilter{
	{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: 3},
	{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, Jf: 1, K: 0x20},
	{Code: unix.BPF_RET},
	{Code: unix.BPF_RET, K: 0xffffffff},
}

// golden is the TCA_OPTIONS that tc of iproute2 6.1 sends, by strace -xx -e trace=sendmsg tc filter add dev v0 <hook> prio 8
// protocol all handle 1 bpf bytecode <program> <actions>. Device 1 is lo.
var golden = []struct {
	actions string
	filter  Filter
	sent    string
}{{
	"action police pkts_rate 100 pkts_burst 10 conform-exceed drop/pipe action skbedit mark 1048577 priority none pipe action mirred egress redirect dev lo",
	Filter{Hook{2, Ingress, 8, 1}, notErrors, []Action{Limit(100, 10), Mark(1048577), Forward(1)}},
	`
e4000100700001000b000100706f6c6963650000600002803c00010000000000020000000000000000000000000000000000000000000000
0000000000000000000000000000000000000000000000000000000008000500030000000c000a0064000000000000000c000b0084d71700
000000003c0002000c000100736b6265646974002c0002801800020000000000000000000300000000000000000000000800030000000000
0800050001001000340003000b0001006d697272656400002400028020000200000000000000000004000000000000000000000001000000
0100000006000400040000002400050030000000030000004500000120000000060000000000000006000000ffffffff`,
}, {
	"action drop",
	Filter{Hook{2, Egress, 8, 1}, notErrors, []Action{Drop()}},
	`
300001002c0001000900010067616374000000001c0002801800020000000000000000000200000000000000000000000600040004000000
2400050030000000030000004500000120000000060000000000000006000000ffffffff`,
}}

func TestSetRequest(t *testing.T) {
	for _, g := range golden {
		b := g.filter.setRequest().Serialize()[unix.SizeofNlMsghdr:]
		// struct tcmsg as the same strace decodes it: tcm_handle=1, tcm_parent=4294967282 or 4294967283, tcm_info=525056.
		want := make([]byte, nl.SizeofTcMsg)
		binary.NativeEndian.PutUint32(want[4:], 2)
		binary.NativeEndian.PutUint32(want[8:], 1)
		binary.NativeEndian.PutUint32(want[12:], 4294967282+uint32(g.filter.Dir))
		binary.NativeEndian.PutUint32(want[16:], 525056)
		want = append(want, unhex(t, "08 00 01 00 62 70 66 00")...) // TCA_KIND, "bpf"
		options := unhex(t, g.sent)
		want = binary.NativeEndian.AppendUint16(want, uint16(4+len(options)))
		want = append(binary.NativeEndian.AppendUint16(want, 2), options...) // TCA_OPTIONS
		if diff := cmp.Diff(want, b); diff != "" {
			t.Errorf("%s (- tc, + ours)\n%s", g.actions, diff)
		}
	}
}

// answered is the TCA_OPTIONS with which Linux 6.1 answers tc filter get of the first filter of golden.
const answered = `
06000400040000002400050030000000030000004500000120000000060000000000000006000000ffffffff74020100f80001000b000100
706f6c6963650000040005005000040004000600140001000000000000000000000000000000000004000600140007000000000000000000
00000000000000000400060018000300000000000000000000000000000000000000000008000a00000000008c000200040007000c000a00
6400000000000000040007000c000b0084d71700000000003c00010001000000020000000000000000000000ffffffff0000000000000000
000000000000000000000000000000000100000001000000000000000800050003000000240006001b000000000000001b00000000000000
00000000000000000000000000000000c00002000c000100736b626564697400040005005000040004000600140001000000000000000000
0000000000000000040006001400070000000000000000000000000000000000040006001800030000000000000000000000000000000000
0000000008000a00000000005400020018000200010000000000000003000000010000000100000008000300000000000800050001001000
04000600240001001b000000000000001b0000000000000000000000000000000000000000000000b80003000b0001006d69727265640000
0400050050000400040006001400010000000000000000000000000000000000040006001400070000000000000000000000000000000000
0400060018000300000000000000000000000000000000000000000008000a00000000004c00020020000200010000000000000004000000
0100000001000000010000000100000004000300240001001b000000000000001b0000000000000000000000000000000000000000000000
0800090008000000`

func answer(options []byte) []byte {
	b := make([]byte, nl.SizeofTcMsg)
	b = append(b, 8, 0, 1, 0, 'b', 'p', 'f', 0) // TCA_KIND
	b = binary.NativeEndian.AppendUint16(b, uint16(4+len(options)))
	return append(binary.NativeEndian.AppendUint16(b, 2), options...) // TCA_OPTIONS
}

func TestUnmarshalFilter(t *testing.T) {
	b := answer(unhex(t, answered))
	got, err := unmarshalFilter(b)
	got.Hook = golden[0].filter.Hook
	if err != nil || !got.Equal(golden[0].filter) || fmt.Sprint(got.Packets) != "[0 0 0]" {
		t.Errorf("%+v, %v", got, err)
	}
	for n := range b {
		if got, err := unmarshalFilter(b[:n]); err == nil && got.Equal(golden[0].filter) {
			t.Errorf("the first %d of %d bytes are taken for the whole", n, len(b))
		}
	}
	// Counters as the kernel has them, and what differs in one field.
	for offset, what := range map[int]string{
		strings.Index(answered0, "0400000024000500")/2 + 8:     "the program",
		strings.Index(answered0, "0c000a0064")/2 + 4:           "the rate",
		strings.Index(answered0, "0c000b0084d7")/2 + 4:         "the burst",
		strings.Index(answered0, "0800050003000000")/2 + 4:     "what police does with the rest",
		strings.Index(answered0, "0800050001001000")/2 + 4:     "the mark",
		strings.Index(answered0, "0100000001000000040003") / 2: "the direction of mirred",
		strings.Index(answered0, "01000000040003") / 2:         "the device of mirred",
	} {
		options := unhex(t, answered)
		options[offset] ^= 2
		got, err := unmarshalFilter(answer(options))
		got.Hook = golden[0].filter.Hook
		if err != nil || got.Equal(golden[0].filter) {
			t.Errorf("no difference in %s: %+v, %v", what, got, err)
		}
	}
	options := unhex(t, answered)
	copy(options[strings.Index(answered0, "1400010000000000")/2+12:], []byte{7, 0, 0, 0}) // of the first action
	if got, err := unmarshalFilter(answer(options)); err != nil || fmt.Sprint(got.Packets) != "[7 0 0]" {
		t.Errorf("counters %v, %v", got.Packets, err)
	}
}

var answered0 = strings.Join(strings.Fields(answered), "")

func FuzzUnmarshalFilter(f *testing.F) {
	f.Add(answer(unhex(f, answered)))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := unmarshalFilter(b)
		if err != nil {
			return
		}
		if len(got.Actions) != len(got.Packets) {
			t.Errorf("%d actions, %d counters", len(got.Actions), len(got.Packets))
		}
	})
}
