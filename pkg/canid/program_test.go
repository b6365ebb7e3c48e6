package canid

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// policyList was run on kernels 6.1 and 6.12 against 10 000 frames, when the mechanisms were compared.
const policyList = "100-11F,130,140:7F0,18FE0000-18FE7FFF,18FF0000:1FFF0000,00000123,7FF,055,056"

// naive is a list of IDs as it is written: entries, asked one after the other. It is what IDs is tested against.
type naive []struct {
	extended, masked bool
	a, b             uint32
}

// parseNaive reads a list that ParseIDs took.
func parseNaive(text string) naive {
	switch strings.TrimSpace(text) {
	case "none":
		return nil
	case "all":
		text = "0:0,00000000:00000000"
	}
	list := make(naive, strings.Count(text, ",")+1)
	for i, entry := range strings.Split(text, ",") {
		entry = strings.TrimSpace(entry)
		list[i].extended = len(entry) >= 8
		list[i].masked = strings.Contains(entry, ":")
		if n, _ := fmt.Sscanf(strings.Replace(entry, ":", "-", 1), "%x-%x", &list[i].a, &list[i].b); n == 1 {
			list[i].b = list[i].a
		}
	}
	return list
}

func (list naive) contains(id uint32) bool {
	if id>>29&1 != 0 {
		return false
	}
	extended, id := id>>31 != 0, id&0x1fffffff
	if !extended {
		id %= 2048
	}
	for _, e := range list {
		if e.extended == extended && (e.masked && id&e.b == e.a&e.b || !e.masked && e.a <= id && id <= e.b) {
			return true
		}
	}
	return false
}

// edges are the IDs, with CAN_EFF_FLAG, at which the answer can change.
func (s IDs) edges() []uint32 {
	var edges []uint32
	for _, kind := range []struct {
		set         idSet
		flag, limit uint32
	}{{s.standard, 0, unix.CAN_SFF_MASK}, {s.extended, unix.CAN_EFF_FLAG, unix.CAN_EFF_MASK}} {
		add := func(id uint32) {
			for _, id := range []uint32{id - 1, id, id + 1} {
				edges = append(edges, id&kind.limit|kind.flag)
			}
		}
		add(0) // and the highest one
		for _, r := range kind.set.ranges {
			add(r.low)
			add(r.high)
		}
		for _, m := range kind.set.masked {
			add(m.id)
			add(m.id | kind.limit&^m.mask)
			edges = append(edges, (m.id|rand.Uint32()&^m.mask)&kind.limit|kind.flag)
		}
	}
	return edges
}

// run interprets a program as the kernel does (___bpf_prog_run), and counts the instructions.
func run(code []unix.SockFilter, frame []byte) (result uint32, steps int, err error) {
	var a, x uint32
	for pc := 0; pc < len(code); pc++ {
		ins := code[pc]
		steps++
		jump := false
		switch ins.Code {
		case 0x30: // ldb
			if ins.K >= uint32(len(frame)) {
				return 0, steps, nil // as the kernel
			}
			a = uint32(frame[ins.K])
		case 0x54: // and
			a &= ins.K
		case 0x64: // lsh
			a <<= ins.K
		case 0x4c: // or x
			a |= x
		case 0x07: // tax
			x = a
		case 0x87: // txa
			a = x
		case 0x05: // ja
			pc += int(ins.K)
			continue
		case 0x06: // ret
			return ins.K, steps, nil
		case 0x15: // jeq
			jump = a == ins.K
		case 0x25: // jgt
			jump = a > ins.K
		case 0x35: // jge
			jump = a >= ins.K
		case 0x45: // jset
			jump = a&ins.K != 0
		default:
			return 0, steps, fmt.Errorf("instruction %d: unknown code %#02x", pc, ins.Code)
		}
		if ins.Code&7 == 5 {
			if jump {
				pc += int(ins.Jt)
			} else {
				pc += int(ins.Jf)
			}
		}
	}
	return 0, steps, errors.New("ran past its end")
}

// checkProgram asks what the kernel asks of a program (bpf_check_classic), but for its length. That no jump goes back follows,
// as offsets are unsigned.
func checkProgram(code []unix.SockFilter) error {
	for i, ins := range code {
		switch left := len(code) - i - 1; {
		case ins.Code == 0x05 && int(ins.K) >= left,
			ins.Code != 0x05 && ins.Code&7 == 5 && max(int(ins.Jt), int(ins.Jf)) >= left:
			return fmt.Errorf("instruction %d jumps out of the program: %+v", i, ins)
		}
	}
	if len(code) == 0 || code[len(code)-1].Code != 0x06 {
		return errors.New("the last instruction is not ret")
	}
	return nil
}

// compiled is a set with its programs: Denying with both treatments of error frames, and Allowing, for both byte orders.
type compiled struct {
	ids      IDs
	want     naive
	programs [6]struct {
		code  []unix.SockFilter
		order binary.ByteOrder
		program
	}
}

func compile(t testing.TB, text string) *compiled {
	t.Helper()
	c := &compiled{ids: mustParse(t, text), want: parseNaive(text)}
	for i := range c.programs {
		p := &c.programs[i]
		p.program = program{bigEndian: i&1 != 0, errorFrames: i&2 != 0, matchAllowed: i&4 != 0}
		p.order = binary.LittleEndian
		if p.bigEndian {
			p.order = binary.BigEndian
		}
		p.code = c.ids.compile(&p.program)
		if err := checkProgram(p.code); err != nil {
			t.Fatalf("%.200s: %v", text, err)
		}
	}
	return c
}

// check runs all programs with a frame and compares what they say with Contains and the naive list.
func (c *compiled) check(t testing.TB, id uint32) {
	t.Helper()
	want := c.want.contains(id)
	if got := c.ids.Contains(id); got != want {
		t.Fatalf("%.200s: Contains(%08X) is %t, want %t", c.ids, id, got, want)
	}
	c.checkPrograms(t, id, want)
}

func (c *compiled) checkPrograms(t testing.TB, id uint32, want bool) {
	t.Helper()
	for i := range c.programs {
		p := &c.programs[i]
		var frame [16]byte
		p.order.PutUint32(frame[:], id)
		verdict := uint32(0)
		if allowed := want || p.errorFrames && id&unix.CAN_ERR_FLAG != 0; allowed == p.matchAllowed {
			verdict = 0xffffffff
		}
		if got, _, err := run(p.code, frame[:]); got != verdict || err != nil {
			t.Fatalf("%.200s: %v, error frames %t, allowing %t: %08X: %#x, %v; want %#x", c.ids, p.order, p.errorFrames, p.matchAllowed, id, got, err, verdict)
		}
	}
}

// checkStandard asks for every standard ID, with and without RTR and with bits that do not count, and as an error frame.
func (c *compiled) checkStandard(t testing.TB) {
	t.Helper()
	for id := uint32(0); id <= unix.CAN_SFF_MASK; id++ {
		for _, other := range []uint32{0, unix.CAN_RTR_FLAG, 0x1ffff800, unix.CAN_RTR_FLAG | rand.Uint32()&0x1ffff800, unix.CAN_ERR_FLAG} {
			c.check(t, id|other)
		}
	}
}

// checkExtended asks for the IDs at the edges, and for random ones, of which half are near an edge.
func (c *compiled) checkExtended(t testing.TB, random int) {
	t.Helper()
	edges := c.ids.edges()
	for _, id := range edges {
		for _, other := range []uint32{0, unix.CAN_RTR_FLAG, unix.CAN_ERR_FLAG} {
			c.check(t, id|other)
		}
	}
	for i := range random {
		id := rand.Uint32() & unix.CAN_EFF_MASK
		if i&1 != 0 {
			id = (edges[rand.IntN(len(edges))] + rand.Uint32()&0xff - 0x80) & unix.CAN_EFF_MASK
		}
		c.check(t, id|unix.CAN_EFF_FLAG|rand.Uint32()&unix.CAN_RTR_FLAG)
	}
}

func TestDenying(t *testing.T) {
	random := 1_000_000
	if testing.Short() {
		random = 10_000
	}
	for _, text := range []string{
		policyList,
		"none", "all",
		"0", "7FF", "0,7FF", "1-7FE", "0-7FF", "000:001", "001:001,0", "2,4,6,8", "1-2,4-5,7-8,A-B,D-E,10",
		"00000000", "1FFFFFFF", "00000000-1FFFFFFF", "00000001-1FFFFFFE", "00000000-0FFFFFFF,1FFFFFFF",
		"0-7FF,00000123", "7,00000000-1FFFFFFF",
		"00FECA00:00FFFF00,00FECB00:00FFFF00,00F00400:00FFFF00,00000017:000000FF,18EEFF00-18EEFFFF,18EF1700",
		"001:00F,002:00F,003:01F,005,700-70F",
	} {
		c := compile(t, text)
		c.checkStandard(t)
		c.checkExtended(t, random/20)
	}
	compile(t, policyList).checkExtended(t, random)
}

// randomList is a list of at most n entries. Its IDs come in clusters, so that ranges meet.
func randomList(random *rand.Rand, n int) string {
	entries := make([]string, 1+random.IntN(n))
	width, form := 3+random.IntN(27), random.IntN(6)
	for i := range entries {
		digits, limit := 3, uint32(unix.CAN_SFF_MASK)
		if random.IntN(2) != 0 {
			digits, limit = 8, unix.CAN_EFF_MASK
		}
		id := random.Uint32() & limit
		span := random.Uint32() & limit & (1<<random.IntN(width) - 1)
		switch f := random.IntN(form + 1); {
		case f < 2:
			entries[i] = fmt.Sprintf("%0*X", digits, id)
		case f < 5:
			entries[i] = fmt.Sprintf("%0*X-%0*X", digits, id, digits, min(id+span, limit))
		default:
			mask := limit &^ span
			if random.IntN(2) != 0 {
				mask = limit & [...]uint32{0x00ffff00, 0xff, 0x3fffc0f, 0x1f00ff00}[random.IntN(4)]
			}
			entries[i] = fmt.Sprintf("%0*X:%0*X", digits, id, digits, mask)
		}
	}
	return strings.Join(entries, ",")
}

func TestDenyingRandom(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for _, size := range []int{1, 2, 3, 5, 10, 20, 50, 100, 500} {
		for range 10 {
			c := compile(t, randomList(random, size))
			c.checkStandard(t)
			c.checkExtended(t, 1000)
		}
	}
}

// spaced is a list of n IDs or ranges that do not meet. The format's arguments are the ends of a range.
func spaced(n int, format string, first, step uint32) string {
	entries := make([]string, n)
	for i := range entries {
		id := first + uint32(i)*step
		entries[i] = fmt.Sprintf(format, id, id+step/2)
	}
	return strings.Join(entries, ",")
}

// The cost of a list: instructions of the program, and the most that a frame in the list takes.
func TestCost(t *testing.T) {
	for name, test := range map[string]struct {
		text          string
		length, steps int
	}{
		"policy":                 {policyList, 39, 20},
		"1 standard ID":          {"123", 11, 10},
		"1 extended ID":          {"00000123", 19, 18},
		"50 standard IDs":        {spaced(50, "%03[1]X", 0, 2), 75, 17},
		"1000 standard IDs":      {spaced(1000, "%03[1]X", 0, 2), 1276, 23},
		"1000 extended IDs":      {spaced(1000, "%08[1]X", 1<<20, 100), 1284, 31},
		"500 + 500 IDs":          {spaced(500, "%03[1]X", 0, 2) + "," + spaced(500, "%08[1]X", 1<<20, 100), 1289, 30},
		"1000 extended ranges":   {spaced(1000, "%08[1]X-%08[2]X", 1<<20, 100), 2035, 30},
		"300 groups, any sender": {spaced(300, "%08[1]X:00FFFF00", 0xf00400, 0x300), 430, 30},
	} {
		ids := mustParse(t, test.text)
		code, err := ids.Denying(false)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		most := 0
		for _, id := range ids.edges() {
			var frame [16]byte
			binary.NativeEndian.PutUint32(frame[:], id)
			if _, steps, _ := run(code, frame[:]); ids.Contains(id) {
				most = max(most, steps)
			}
		}
		if diff := cmp.Diff([2]int{test.length, test.steps}, [2]int{len(code), most}); diff != "" {
			t.Errorf("%s: instructions, steps (- want, + got)\n%s", name, diff)
		}
	}
}

// The longest lists that fit into a program, and the error beyond.
func TestLongest(t *testing.T) {
	for name, test := range map[string]struct {
		format  string
		longest int
	}{
		"IDs":    {"%08[1]X", 3018},
		"ranges": {"%08[1]X-%08[2]X", 2020},
		"masks":  {"%08[1]X:00FFFF00", 3015},
	} {
		list := func(n int) IDs { return mustParse(t, spaced(n, test.format, 0x100, 0x200)) }
		if code, err := list(test.longest).Denying(true); err != nil {
			t.Errorf("%d %s: %d instructions, %v", test.longest, name, len(code), err)
		}
		code, err := list(test.longest + 1).Denying(true)
		if want := fmt.Sprintf("the CAN IDs are %d separate entries and need 409", test.longest+1); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%d %s: %d instructions, %v; want %s…", test.longest+1, name, len(code), err, want)
		}
	}
}

// Programs as they are to be. A program that is compared with one in the kernel must not change without need.
func TestProgram(t *testing.T) {
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		t.Skip("written down for little-endian machines")
	}
	for name, test := range map[string]struct {
		text        string
		errorFrames bool
		want        []unix.SockFilter
	}{
		"all":               {"all", false, nil},
		"all, error frames": {"all", true, nil},
		"none":              {"none", false, []unix.SockFilter{{Code: 0x06, K: 0xffffffff}}},
		"none, error frames": {"none", true, []unix.SockFilter{
			{Code: 0x30, K: 3},
			{Code: 0x45, K: 0x20, Jt: 1},
			{Code: 0x06, K: 0xffffffff},
			{Code: 0x06, K: 0},
		}},
		"standard": {"100-1FF", false, []unix.SockFilter{
			{Code: 0x30, K: 3}, // ldb [3]
			{Code: 0x45, K: 0xa0, Jt: 9},
			{Code: 0x30, K: 1},
			{Code: 0x54, K: 7},
			{Code: 0x64, K: 8},
			{Code: 0x07},
			{Code: 0x30, K: 0},
			{Code: 0x4c},
			{Code: 0x35, K: 0x100, Jf: 2},
			{Code: 0x25, K: 0x1ff, Jt: 1},
			{Code: 0x06, K: 0},
			{Code: 0x06, K: 0xffffffff},
		}},
	} {
		ids := mustParse(t, test.text)
		code, err := ids.Denying(test.errorFrames)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(test.want, code); diff != "" {
			t.Errorf("%s (- want, + got)\n%s", name, diff)
		}
	}
}

// The kernel runs the program of a socket as that of a filter, and a datagram socket of the family unix needs no rights: it
// receives what the program matches.
func TestKernelRuns(t *testing.T) {
	for _, text := range []string{policyList, "00FECA00:00FFFF00,700-70F,1,3,5,7,9", spaced(300, "%08[1]X-%08[2]X", 0x100, 0x200)} {
		ids := mustParse(t, text)
		code, err := ids.Denying(true)
		if err != nil {
			t.Fatal(err)
		}
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fds[0]); unix.Close(fds[1]) })
		if err := unix.SetsockoptSockFprog(fds[1], unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]}); err != nil {
			t.Fatalf("%.100s: attach %d instructions: %v", text, len(code), err)
		}
		frames := ids.edges()
		for id := range uint32(unix.CAN_SFF_MASK + 1) {
			frames = append(frames, id, id|unix.CAN_RTR_FLAG, id|unix.CAN_ERR_FLAG)
		}
		for _, id := range frames {
			sent, got := [16]byte{}, [16]byte{}
			binary.NativeEndian.PutUint32(sent[:], id)
			if _, err := unix.Write(fds[0], sent[:]); err != nil {
				t.Fatal(err)
			}
			n, err := unix.Read(fds[1], got[:])
			if err != nil && err != unix.EAGAIN {
				t.Fatal(err)
			}
			if passes, want := n <= 0, id&unix.CAN_ERR_FLAG != 0 || ids.Contains(id); passes != want {
				t.Fatalf("%.100s: %08X: passes %t, want %t", text, id, passes, want)
			}
		}
	}
}

func FuzzDenying(f *testing.F) {
	f.Add(uint64(1), uint16(1))
	f.Add(uint64(2), uint16(100))
	f.Add(uint64(3), uint16(3000))
	f.Fuzz(func(t *testing.T, seed uint64, size uint16) {
		random := rand.New(rand.NewPCG(seed, 0))
		text := randomList(random, 1+int(size)%6000)
		c := compile(t, text)
		code, err := c.ids.Denying(false)
		native := c.programs[0].code
		if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
			native = c.programs[1].code
		}
		switch {
		case c.ids.All(): // Denying makes no program then
			if code != nil || err != nil {
				t.Fatalf("all: %d instructions, %v", len(code), err)
			}
		case (len(native) > unix.BPF_MAXINSNS) != (err != nil), err == nil && !cmp.Equal(code, native):
			t.Fatalf("%d instructions, %v; want %d", len(code), err, len(native))
		}
		edges := c.ids.edges()
		for range 200 {
			c.check(t, random.Uint32())
			c.check(t, edges[random.IntN(len(edges))]^random.Uint32()&unix.CAN_RTR_FLAG)
		}
	})
}
