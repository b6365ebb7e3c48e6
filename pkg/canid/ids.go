// Package canid reads lists of CAN IDs and compiles them to classic BPF programs, which a tc filter of kind bpf runs.
//
// Kernel: net/sched/cls_bpf.c, linux/can.h, linux/filter.h.
package canid

import (
	"cmp"
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// IDs is a set of CAN IDs, standard and extended ones. The zero IDs is empty. A set does not change.
type IDs struct{ standard, extended idSet }

// idSet holds the IDs of one kind: those in a range and those that match a mask.
type idSet struct {
	ranges []idRange // sorted, neither overlapping nor adjacent
	masked []idMask  // sorted by mask and ID, no duplicates, none inside a range
}

// idRange is the IDs from low to high, both included.
type idRange struct{ low, high uint32 }

// idMask is the IDs x with x&mask == id. id has no bits outside mask.
type idMask struct{ mask, id uint32 }

// A mask is turned into at most 2^maxSpreadBits ranges. One search in a sorted list costs less than several, but a mask
// such as 00FFFF00 (a J1939 group from any sender, at any priority) would make the list much longer.
const maxSpreadBits = 4

const (
	wantList = "want all, none or a list such as 123,100-1FF,100:700,18FEF100"
	wantID   = "want 1 to 3 hex digits for a standard ID (up to 7FF), 8 for an extended one (up to 1FFFFFFF)"
)

// ParseIDs reads "all", "none" or a list of entries, separated by commas. An entry is an ID (123), a range with both ends
// included (100-1FF), or an ID and a mask (100:700, the IDs x with x&700 == 100&700). Numbers are hexadecimal: 1 to 3 digits
// are a standard ID, 8 an extended one. Blanks around entries are ignored; entries may overlap.
func ParseIDs(text string) (IDs, error) {
	switch strings.TrimSpace(text) {
	case "":
		return IDs{}, errors.New("no CAN IDs: " + wantList)
	case "none":
		return IDs{}, nil
	case "all":
		return IDs{
			standard: idSet{ranges: []idRange{{0, unix.CAN_SFF_MASK}}},
			extended: idSet{ranges: []idRange{{0, unix.CAN_EFF_MASK}}},
		}, nil
	}
	var ids IDs
	for i, entry := range strings.Split(text, ",") {
		if err := ids.parseEntry(strings.TrimSpace(entry)); err != nil {
			// An entry can be as long as the text, if its commas were forgotten.
			return IDs{}, fmt.Errorf("CAN ID entry %d, %.40q: %w", i+1, strings.TrimSpace(entry), err)
		}
	}
	ids.standard.normalize(unix.CAN_SFF_MASK)
	ids.extended.normalize(unix.CAN_EFF_MASK)
	return ids, nil
}

// Of returns the set of these IDs, each the can_id of struct can_frame with its flags; see Contains for those that count.
func Of(ids ...uint32) IDs {
	standard, extended := make(map[idMask]bool), make(map[idMask]bool)
	for _, id := range ids {
		switch {
		case id&unix.CAN_ERR_FLAG != 0:
		case id&unix.CAN_EFF_FLAG != 0:
			extended[idMask{unix.CAN_EFF_MASK, id & unix.CAN_EFF_MASK}] = true
		default:
			standard[idMask{unix.CAN_SFF_MASK, id & unix.CAN_SFF_MASK}] = true
		}
	}
	return IDs{fold(standard, unix.CAN_SFF_MASK), fold(extended, unix.CAN_EFF_MASK)}
}

// fold joins, bit by bit, each two masks that differ in that bit of the ID alone.
func fold(masks map[idMask]bool, limit uint32) (s idSet) {
	for bit := uint32(1); bit <= limit; bit <<= 1 {
		joined := make(map[idMask]bool, len(masks))
		for m := range masks {
			if m.mask&bit != 0 && masks[idMask{m.mask, m.id ^ bit}] {
				m.mask, m.id = m.mask&^bit, m.id&^bit
			}
			joined[m] = true
		}
		masks = joined
	}
	for m := range masks {
		s.addMasked(m.id, m.mask, limit)
	}
	s.normalize(limit)
	return s
}

func (s *IDs) parseEntry(entry string) error {
	switch entry {
	case "":
		return errors.New("empty, " + wantID)
	case "all", "none":
		return errors.New("must be the only entry")
	}
	first, second, separator := entry, "", byte(0)
	if i := strings.IndexAny(entry, "-:"); i >= 0 {
		first, second, separator = entry[:i], entry[i+1:], entry[i]
	}
	a, extended, err := parseID(first)
	if err != nil {
		return err
	}
	set, limit := &s.standard, uint32(unix.CAN_SFF_MASK)
	if extended {
		set, limit = &s.extended, unix.CAN_EFF_MASK
	}
	if separator == 0 {
		set.ranges = append(set.ranges, idRange{a, a})
		return nil
	}
	b, alsoExtended, err := parseID(second)
	switch {
	case err != nil:
		return err
	case extended != alsoExtended:
		return fmt.Errorf("want both sides of the %q standard (1 to 3 hex digits) or both extended (8)", separator)
	case separator == ':':
		set.addMasked(a, b, limit)
	case a > b:
		return errors.New("want the lower ID first")
	default:
		set.ranges = append(set.ranges, idRange{a, b})
	}
	return nil
}

func parseID(text string) (id uint32, extended bool, err error) {
	number, err := strconv.ParseUint(text, 16, 32)
	extended = len(text) == 8
	switch {
	case strings.HasPrefix(strings.ToLower(text), "0x"):
		return 0, false, errors.New("without 0x, " + wantID)
	case err != nil, !extended && len(text) > 3, !extended && number > unix.CAN_SFF_MASK, number > unix.CAN_EFF_MASK:
		return 0, false, errors.New(wantID)
	}
	return uint32(number), extended, nil
}

// addMasked adds the IDs that are id in the bits of mask, as ranges if these are few.
func (s *idSet) addMasked(id, mask, limit uint32) {
	id &= mask
	free := limit &^ mask
	low := uint32(1)<<bits.TrailingZeros32(^free) - 1 // the free bits that make one range
	high := free &^ low
	if bits.OnesCount32(high) > maxSpreadBits {
		s.masked = append(s.masked, idMask{mask, id})
		return
	}
	for part := uint32(0); ; part = (part - high) & high { // every subset of the bits of high, in ascending order
		s.ranges = append(s.ranges, idRange{id | part, id | part | low})
		if part == high {
			return
		}
	}
}

// normalize makes a set of entries what the comments at idSet say.
func (s *idSet) normalize(limit uint32) {
	slices.SortFunc(s.ranges, func(a, b idRange) int { return cmp.Compare(a.low, b.low) })
	var merged []idRange
	for _, r := range s.ranges {
		if last := len(merged) - 1; last >= 0 && r.low <= merged[last].high+1 { // no overflow: IDs have 29 bits
			merged[last].high = max(merged[last].high, r.high)
		} else {
			merged = append(merged, r)
		}
	}
	s.ranges = merged

	slices.SortFunc(s.masked, func(a, b idMask) int { return cmp.Or(cmp.Compare(a.mask, b.mask), cmp.Compare(a.id, b.id)) })
	s.masked = slices.DeleteFunc(slices.Compact(s.masked), func(m idMask) bool {
		i, found := s.find(m.id)
		return found && m.id|limit&^m.mask <= merged[i].high
	})
}

// find gives the index of the range that holds id.
func (s *idSet) find(id uint32) (index int, found bool) {
	return slices.BinarySearchFunc(s.ranges, id, func(r idRange, id uint32) int {
		switch {
		case r.high < id:
			return -1
		case r.low > id:
			return 1
		}
		return 0
	})
}

func (s *idSet) contains(id uint32) bool {
	_, found := s.find(id)
	return found || slices.ContainsFunc(s.masked, func(m idMask) bool { return id&m.mask == m.id })
}

func (s *idSet) full(limit uint32) bool { return slices.Equal(s.ranges, []idRange{{0, limit}}) }

func (s *idSet) empty() bool { return len(s.ranges) == 0 && len(s.masked) == 0 }

// All reports whether the set is that of "all". It does not notice masks that have all IDs only together, such as
// 00000000:00000001,00000001:00000001.
func (s IDs) All() bool {
	return s.standard.full(unix.CAN_SFF_MASK) && s.extended.full(unix.CAN_EFF_MASK)
}

// None reports whether the set is empty.
func (s IDs) None() bool { return s.standard.empty() && s.extended.empty() }

// Contains reports whether a frame's ID is in the set. id is the can_id of struct can_frame, with its flags. An error frame has
// no ID and is in no set. CAN_RTR_FLAG is ignored, and so are bits 11 to 28 of a standard ID: programs can set them, but a
// wire does not carry them.
func (s IDs) Contains(id uint32) bool {
	switch {
	case id&unix.CAN_ERR_FLAG != 0:
		return false
	case id&unix.CAN_EFF_FLAG != 0:
		return s.extended.contains(id & unix.CAN_EFF_MASK)
	}
	return s.standard.contains(id & unix.CAN_SFF_MASK)
}

// String writes the set as ParseIDs reads it: sorted, standard IDs first, then extended ones; of each kind, merged ranges and
// then masks. Masks can overlap ranges and each other.
func (s IDs) String() string {
	switch {
	case s.All():
		return "all"
	case s.None():
		return "none"
	}
	entries := append(s.standard.format(3), s.extended.format(8)...)
	return strings.Join(entries, ",")
}

func (s *idSet) format(digits int) []string {
	entries := make([]string, 0, len(s.ranges)+len(s.masked))
	for _, r := range s.ranges {
		if r.low == r.high {
			entries = append(entries, fmt.Sprintf("%0*X", digits, r.low))
		} else {
			entries = append(entries, fmt.Sprintf("%0*X-%0*X", digits, r.low, digits, r.high))
		}
	}
	for _, m := range s.masked {
		entries = append(entries, fmt.Sprintf("%0*X:%0*X", digits, m.id, digits, m.mask))
	}
	return entries
}
