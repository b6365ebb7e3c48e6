package canid

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"
)

func mustParse(t testing.TB, text string) IDs {
	t.Helper()
	ids, err := ParseIDs(text)
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

func TestParseIDs(t *testing.T) {
	for text, want := range map[string]string{
		"all":                               "all",
		" none\t":                           "none",
		"123":                               "123",
		"0":                                 "000",
		"7ff,7FE":                           "7FE-7FF",
		"00000000":                          "00000000",
		"1FFFFFFF":                          "1FFFFFFF",
		" 5 , 1-3\n,\t00000005":             "001-003,005,00000005",
		"123,123":                           "123",
		"100-1FF":                           "100-1FF",
		"100-100":                           "100",
		"1-02,003":                          "001-003",
		"200-2FF,100-1FF":                   "100-2FF",
		"100-1FF,180-190,1F0-210":           "100-210",
		"0-7FF":                             "000-7FF",
		"000-7FF,00000000-1FFFFFFF":         "all",
		"0:0,00000000:00000000":             "all",
		"0-7FF,0:0,0-7FF,0:001":             "000-7FF",
		"100:700":                           "100-1FF",
		"123:700":                           "100-1FF",
		"123:7FF":                           "123",
		"001:007":                           "001:007", // 256 ranges
		"001:00F":                           "001:00F",
		"001:07F":                           "001,081,101,181,201,281,301,381,401,481,501,581,601,681,701,781", // 16 ranges
		"001:03F":                           "001:03F",                                                         // 32 ranges
		"000:7DF":                           "000,020",
		"000:7DE":                           "000-001,020-021",
		"18FF0000:1FFF0000":                 "18FF0000-18FFFFFF",
		"00FECA00:00FFFF00":                 "00FECA00:00FFFF00",
		"18FECA00:00FFFF00":                 "00FECA00:00FFFF00",
		"00FECA00:01FFFF00":                 "00FECA00-00FECAFF,02FECA00-02FECAFF,04FECA00-04FECAFF,06FECA00-06FECAFF,08FECA00-08FECAFF,0AFECA00-0AFECAFF,0CFECA00-0CFECAFF,0EFECA00-0EFECAFF,10FECA00-10FECAFF,12FECA00-12FECAFF,14FECA00-14FECAFF,16FECA00-16FECAFF,18FECA00-18FECAFF,1AFECA00-1AFECAFF,1CFECA00-1CFECAFF,1EFECA00-1EFECAFF",
		"001:00F,0-7FF":                     "000-7FF",         // a mask inside a range
		"001:00F,0-7F0":                     "000-7F0,001:00F", // 7F1 is outside
		"002:00F,001:00F,001:00F,002:007,5": "005,002:007,001:00F,002:00F",
		"00000000:00000001,00000123,456":    "456,00000123,00000000:00000001",
		policyList:                          "055-056,100-11F,130,140-14F,7FF,00000123,18FE0000-18FE7FFF,18FF0000-18FFFFFF",
		"0ab,1Cd":                           "0AB,1CD",
	} {
		if got := mustParse(t, text).String(); got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}

func TestParseIDsRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"":                         "no CAN IDs: " + wantList,
		" \t":                      "no CAN IDs: " + wantList,
		",":                        `CAN ID entry 1, "": empty, ` + wantID,
		"123,":                     `CAN ID entry 2, "": empty, ` + wantID,
		"123, ,124":                `CAN ID entry 2, "": empty, ` + wantID,
		"1234":                     `CAN ID entry 1, "1234": ` + wantID,
		"1, 12345 ":                `CAN ID entry 2, "12345": ` + wantID,
		"123456":                   `CAN ID entry 1, "123456": ` + wantID,
		"1234567":                  `CAN ID entry 1, "1234567": ` + wantID,
		"123456789":                `CAN ID entry 1, "123456789": ` + wantID,
		"800":                      `CAN ID entry 1, "800": ` + wantID,
		"20000000":                 `CAN ID entry 1, "20000000": ` + wantID,
		"FFFFFFFF":                 `CAN ID entry 1, "FFFFFFFF": ` + wantID,
		"0x1":                      `CAN ID entry 1, "0x1": without 0x, ` + wantID,
		"1,0X123":                  `CAN ID entry 2, "0X123": without 0x, ` + wantID,
		"100-0x1FF":                `CAN ID entry 1, "100-0x1FF": without 0x, ` + wantID,
		"12g":                      `CAN ID entry 1, "12g": ` + wantID,
		"+12":                      `CAN ID entry 1, "+12": ` + wantID,
		"1_2":                      `CAN ID entry 1, "1_2": ` + wantID,
		"-1":                       `CAN ID entry 1, "-1": ` + wantID,
		"1-":                       `CAN ID entry 1, "1-": ` + wantID,
		"-":                        `CAN ID entry 1, "-": ` + wantID,
		"1-2-3":                    `CAN ID entry 1, "1-2-3": ` + wantID,
		"100-1FF:7F0":              `CAN ID entry 1, "100-1FF:7F0": ` + wantID,
		"100:":                     `CAN ID entry 1, "100:": ` + wantID,
		"100:FFF":                  `CAN ID entry 1, "100:FFF": ` + wantID,
		"00000100:FFFFFFFF":        `CAN ID entry 1, "00000100:FFFFFFFF": ` + wantID,
		"1 23":                     `CAN ID entry 1, "1 23": ` + wantID,
		"100 - 1FF":                `CAN ID entry 1, "100 - 1FF": ` + wantID,
		"123 124":                  `CAN ID entry 1, "123 124": ` + wantID,
		"123;124":                  `CAN ID entry 1, "123;124": ` + wantID,
		"100~700":                  `CAN ID entry 1, "100~700": ` + wantID,
		"1FF-100":                  `CAN ID entry 1, "1FF-100": want the lower ID first`,
		"00000001-00000000":        `CAN ID entry 1, "00000001-00000000": want the lower ID first`,
		"100-00000200":             `CAN ID entry 1, "100-00000200": want both sides of the '-' standard (1 to 3 hex digits) or both extended (8)`,
		"00000100:700":             `CAN ID entry 1, "00000100:700": want both sides of the ':' standard (1 to 3 hex digits) or both extended (8)`,
		"all,123":                  `CAN ID entry 1, "all": must be the only entry`,
		"123, none":                `CAN ID entry 2, "none": must be the only entry`,
		"ALL":                      `CAN ID entry 1, "ALL": ` + wantID,
		"１23":                      `CAN ID entry 1, "１23": ` + wantID,
		"1\n2":                     `CAN ID entry 1, "1\n2": ` + wantID,
		strings.Repeat("1 ", 1000): `CAN ID entry 1, "` + strings.Repeat("1 ", 20) + `": ` + wantID,
	} {
		ids, err := ParseIDs(text)
		if got := fmt.Sprint(err); got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
		if !ids.None() {
			t.Errorf("%q: %s, want none with the error", text, ids)
		}
	}
}

// TestOf: the set has the IDs that it is made of and no others, and is read back as it is written.
func TestOf(t *testing.T) {
	const eff, rtr, errFrame = unix.CAN_EFF_FLAG, unix.CAN_RTR_FLAG, unix.CAN_ERR_FLAG
	var all, addressed []uint32
	for id := range uint32(0x800) {
		all = append(all, id)
	}
	for source := range uint32(8) { // three messages of J1939 from eight addresses, at eight priorities
		for priority := range uint32(8) {
			addressed = append(addressed, priority<<26|0xF00400|source<<3|eff)
		}
	}
	for want, ids := range map[string][]uint32{
		"none":                       {errFrame | 4},
		"100":                        {0x100, 0x100 | rtr, 0x100},
		"100-103,105":                {0x105, 0x103, 0x100, 0x102, 0x101},
		"101-102,7FF":                {0x102, 0x101, 0x7ff},
		"000-7FF":                    all,
		"123,00000123":               {0x123, 0x123 | eff},
		"00F00400:03FFFFC7":          addressed,
		"100,110,120,130":            {0x100, 0x110, 0x120, 0x130},
		"00000000-00000001,1FFFFFFF": {eff, 1 | eff, 0x1fffffff | eff},
	} {
		set := Of(ids...)
		if got := set.String(); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	random := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		ids := make(map[uint32]bool)
		bits := random.Uint32() & unix.CAN_SFF_MASK // few bits make IDs that fold
		for range random.IntN(300) {
			ids[random.Uint32()&bits] = true
		}
		set := Of(slices.Collect(maps.Keys(ids))...)
		again := mustParse(t, set.String())
		for id := range uint32(0x800) {
			if set.Contains(id) != ids[id] || again.Contains(id) != ids[id] || set.Contains(id|eff) {
				t.Fatalf("%s: %03X: %t, want %t", set, id, set.Contains(id), ids[id])
			}
		}
	}
}

func TestAllNone(t *testing.T) {
	for text, want := range map[string][2]bool{
		"all":                       {true, false},
		"none":                      {false, true},
		"0":                         {false, false},
		"0-7FF":                     {false, false},
		"00000000-1FFFFFFF":         {false, false},
		"0-7FF,00000000-1FFFFFFF":   {true, false},
		"0-7FE,00000000-1FFFFFFF":   {false, false},
		"000:001,00000000:00000001": {false, false},
	} {
		ids := mustParse(t, text)
		if got := [2]bool{ids.All(), ids.None()}; got != want {
			t.Errorf("%q: All, None: %v, want %v", text, got, want)
		}
	}
	if zero := (IDs{}); !zero.None() || zero.String() != "none" {
		t.Errorf("the zero set is %s", zero)
	}
}

func TestContains(t *testing.T) {
	const eff, rtr, errFrame = unix.CAN_EFF_FLAG, unix.CAN_RTR_FLAG, unix.CAN_ERR_FLAG
	for _, test := range []struct {
		text string
		id   uint32
		want bool
	}{
		{"123", 0x123, true},
		{"123", 0x122, false},
		{"123", 0x123 | rtr, true},
		{"123", 0x123 | 0x1ffff800, true}, // bits that a wire does not carry
		{"123", 0x123 | eff, false},
		{"123", 0x123 | errFrame, false},
		{"00000123", 0x123, false},
		{"00000123", 0x123 | eff, true},
		{"00000123", 0x123 | eff | rtr, true},
		{"00000123", 0x123 | eff | errFrame, false},
		{"00000123", 0x923 | eff, false},
		{"100:700", 0x1ff, true},
		{"100:700", 0x1ff | eff, false}, // not as in candump, where this mask takes frames of both kinds
		{"00FECA00:00FFFF00", 0x18feca17 | eff, true},
		{"00FECA00:00FFFF00", 0x18fecb17 | eff, false},
		{"all", 0x7ff, true},
		{"all", 0x1fffffff | eff | rtr, true},
		{"all", errFrame | 4, false},
		{"none", 0, false},
	} {
		if got := mustParse(t, test.text).Contains(test.id); got != test.want {
			t.Errorf("%s: %08X: %t, want %t", test.text, test.id, got, test.want)
		}
	}
}

func FuzzParseIDs(f *testing.F) {
	for _, text := range []string{"all", "none", policyList, "001:00F,0-7F0", "0:1,0:0", "00FECA00:00FFFF00, 5", "1,,2", "0x1", "100-00000200"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		ids, err := ParseIDs(text)
		if err != nil {
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("%q: more than one line: %s", text, err)
			}
			return
		}
		again := mustParse(t, ids.String())
		if diff := cmp.Diff(ids, again, cmp.AllowUnexported(IDs{}, idSet{}, idRange{}, idMask{}), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%q is %s (- parsed, + parsed again)\n%s", text, ids, diff)
		}
		want := parseNaive(text)
		for id := uint32(0); id <= unix.CAN_SFF_MASK; id++ {
			if ids.Contains(id) != want.contains(id) {
				t.Fatalf("%q: %03X: %t", text, id, ids.Contains(id))
			}
		}
		for _, id := range ids.edges() {
			if ids.Contains(id) != want.contains(id) {
				t.Fatalf("%q: %08X: %t", text, id, ids.Contains(id))
			}
		}
	})
}
