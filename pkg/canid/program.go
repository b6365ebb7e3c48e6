package canid

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// The flags in the highest byte of can_id (linux/can.h).
const (
	effFlag = unix.CAN_EFF_FLAG >> 24
	errFlag = unix.CAN_ERR_FLAG >> 24
)

// Operations of classic BPF on its registers A and X (linux/filter.h).
const (
	ldbAbs = unix.BPF_LD | unix.BPF_B | unix.BPF_ABS   // A = byte k of the frame
	andK   = unix.BPF_ALU | unix.BPF_AND | unix.BPF_K  // A &= k
	lshK   = unix.BPF_ALU | unix.BPF_LSH | unix.BPF_K  // A <<= k
	orX    = unix.BPF_ALU | unix.BPF_OR | unix.BPF_X   // A |= X
	tax    = unix.BPF_MISC | unix.BPF_TAX              // X = A
	txa    = unix.BPF_MISC | unix.BPF_TXA              // A = X
	ja     = unix.BPF_JMP | unix.BPF_JA                // go on k instructions further
	jeqK   = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K  // if A == k
	jgtK   = unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K  // if A > k
	jgeK   = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K  // if A >= k
	jsetK  = unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K // if A&k != 0
	retK   = unix.BPF_RET | unix.BPF_K                 // return k
)

// What a program returns to cls_bpf (cls_bpf_classify).
const (
	noMatch = 0          // the frame goes on to the next filter
	match   = 0xffffffff // the filter's action runs
)

// Denying compiles the set to a classic BPF program for a filter of kind bpf: it matches the frames that are not in the set.
// Error frames match unless errorFrames is true. The program of "all" is nil: there is no filter to make, and error frames
// pass whatever errorFrames is. It fails if the program would be longer than the kernel takes. The same set gives the same
// program, so that one that is read from the kernel can be compared with it.
func (s IDs) Denying(errorFrames bool) ([]unix.SockFilter, error) {
	if s.All() {
		return nil, nil
	}
	return s.checked(&program{errorFrames: errorFrames})
}

// Allowing is the opposite of Denying: it matches the frames that are in the set, and no error frames.
func (s IDs) Allowing() ([]unix.SockFilter, error) {
	return s.checked(&program{matchAllowed: true})
}

// Check fails if a program of the set would be longer than the kernel takes.
func (s IDs) Check() error {
	const alwaysFits = 500 // entries
	if s.entries() <= alwaysFits {
		return nil
	}
	_, errAllowing := s.Allowing()
	_, errDenying := s.Denying(true)
	return cmp.Or(errAllowing, errDenying)
}

// checked is compile for this machine's byte order.
func (s IDs) checked(p *program) ([]unix.SockFilter, error) {
	p.bigEndian = binary.NativeEndian.Uint16([]byte{1, 0}) != 1
	code := s.compile(p)
	if len(code) > unix.BPF_MAXINSNS {
		return nil, fmt.Errorf("the CAN IDs are %d separate entries and need %d BPF instructions, the kernel takes %d: use fewer and wider ranges",
			s.entries(), len(code), unix.BPF_MAXINSNS)
	}
	return code, nil
}

func (s IDs) entries() int {
	return len(s.standard.ranges) + len(s.standard.masked) + len(s.extended.ranges) + len(s.extended.masked)
}

// compile makes the program, however long. It is parted by kind of ID, because a standard ID needs less work.
func (s IDs) compile(p *program) []unix.SockFilter {
	p.near = make(map[label]label)
	onError := deny
	if p.errorFrames {
		onError = allow
	}
	extended := p.extended(&s.extended)
	standard := p.standard(&s.standard)
	start := p.branch(jsetK, errFlag, onError, extended)
	if standard != extended { // one test is enough for a standard frame
		start = p.branch(jsetK, effFlag|errFlag, start, standard)
	}
	p.continueAt(start)
	if start >= 0 { // otherwise all frames are treated alike
		p.loadByte(3)
	}
	slices.Reverse(p.reversed)
	return p.reversed
}

// program is a program in the making. It is written from its end to its start: jumps only go forward, to what is written already.
type program struct {
	reversed []unix.SockFilter
	near     map[label]label // the copy of a label that was written last

	errorFrames  bool // error frames are allowed
	matchAllowed bool // it matches what is allowed, not what is denied
	bigEndian    bool
}

// label is an instruction that can be jumped to: its index in reversed, or a verdict.
type label int

const (
	allow label = -1 - iota
	deny
)

// A conditional jump has 8 bits for the distance. One instruction is kept in reserve, because a copy for the other side of
// the jump may come between.
const maxJump = 255 - 1

// maxChain is how many single IDs are tested one after the other. Up to here that is not slower than to search them, as a step
// of the search finds nothing, and it is shorter.
const maxChain = 4

func (p *program) emit(code uint16, k uint32) label {
	p.reversed = append(p.reversed, unix.SockFilter{Code: code, K: k})
	return label(len(p.reversed) - 1)
}

// distance is how many instructions a jump skips, if it is written next.
func (p *program) distance(to label) int { return len(p.reversed) - int(to) - 1 }

// reach gives a label that is as good as the one given, and that the next conditional jump can reach.
func (p *program) reach(to label) label {
	nearest, ok := p.near[to]
	if !ok {
		nearest = to
	}
	if nearest >= 0 && p.distance(nearest) <= maxJump {
		return nearest
	}
	switch to {
	case allow, deny:
		verdict := uint32(noMatch)
		if (to == allow) == p.matchAllowed {
			verdict = match
		}
		nearest = p.emit(retK, verdict)
	default:
		nearest = p.emit(ja, uint32(p.distance(to)))
	}
	p.near[to] = nearest
	return nearest
}

// branch writes a conditional jump, unless both sides are the same.
func (p *program) branch(code uint16, k uint32, yes, no label) label {
	if yes == no {
		return yes
	}
	yes, no = p.reach(yes), p.reach(no)
	jt, jf := p.distance(yes), p.distance(no)
	p.reversed = append(p.reversed, unix.SockFilter{Code: code, K: k, Jt: uint8(jt), Jf: uint8(jf)})
	return label(len(p.reversed) - 1)
}

// continueAt makes sure that the instruction written next is followed by the one at a label.
func (p *program) continueAt(to label) {
	if to = p.reach(to); p.distance(to) != 0 {
		p.emit(ja, uint32(p.distance(to)))
	}
}

// loadByte loads a byte of can_id, 0 is the lowest. can_id is in the kernel's byte order, longer loads of BPF are big-endian.
func (p *program) loadByte(significance uint32) label {
	if p.bigEndian {
		significance = 3 - significance
	}
	return p.emit(ldbAbs, significance)
}

// standard writes the part for standard IDs. Bits 11 to 28 are ignored, see IDs.Contains.
func (p *program) standard(set *idSet) label {
	entry := p.lookUp(set, unix.CAN_SFF_MASK)
	if entry < 0 {
		return entry
	}
	p.addByte(0)
	p.emit(andK, unix.CAN_SFF_MASK>>8)
	return p.loadByte(1)
}

// extended writes the part for extended IDs. The highest byte of can_id is in A.
func (p *program) extended(set *idSet) label {
	entry := p.lookUp(set, unix.CAN_EFF_MASK)
	if entry < 0 {
		return entry
	}
	p.addByte(0)
	p.addByte(1)
	p.addByte(2)
	return p.emit(andK, unix.CAN_EFF_MASK>>24)
}

// addByte writes A = A<<8 | byte.
func (p *program) addByte(significance uint32) {
	p.emit(orX, 0)
	p.loadByte(significance)
	p.emit(tax, 0)
	p.emit(lshK, 8)
}

// lookUp writes the search for the ID in A: in the ranges, then mask by mask. It returns a verdict if all IDs have the same.
func (p *program) lookUp(set *idSet, limit uint32) label {
	miss := deny
	for end := len(set.masked); end > 0; { // the last mask first, as everything is written
		mask := set.masked[end-1].mask
		start := end
		var singles []idRange
		for ; start > 0 && set.masked[start-1].mask == mask; start-- {
			id := set.masked[start-1].id
			singles = append(singles, idRange{id, id})
		}
		slices.Reverse(singles)
		p.continueAt(p.search(singles, 0, mask, miss))
		p.emit(andK, mask)
		miss = p.emit(txa, 0)
		end = start
	}
	entry := p.search(set.ranges, 0, limit, miss)
	if miss >= 0 {
		p.continueAt(entry)
		return p.emit(tax, 0)
	}
	return entry
}

// search writes the search for A, which is known to be from low to high, in ranges that are in there.
func (p *program) search(ranges []idRange, low, high uint32, miss label) label {
	if len(ranges) == 0 {
		return miss
	}
	if len(ranges) <= maxChain && !slices.ContainsFunc(ranges, func(r idRange) bool { return r.low != r.high }) {
		next := miss
		for _, r := range slices.Backward(ranges) {
			next = p.branch(jeqK, r.low, allow, next)
		}
		return next
	}
	if len(ranges) == 1 {
		entry := allow
		if ranges[0].high < high {
			entry = p.branch(jgtK, ranges[0].high, miss, entry)
		}
		if ranges[0].low > low {
			entry = p.branch(jgeK, ranges[0].low, entry, miss)
		}
		return entry
	}
	middle := len(ranges) / 2
	border := ranges[middle].low
	above := p.search(ranges[middle:], border, high, miss)
	below := p.search(ranges[:middle], low, border-1, miss)
	return p.branch(jgeK, border, above, below)
}
