package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRatio(t *testing.T) {
	r := results{Samples: map[string][]int64{
		"of": {30, 60, 90, 120}, "a": {10, 10, 10, 10}, "b": {20, 20, 20, 20}, "short": {1},
	}}
	if got, want := ratio("of", "a", "b")(&r), (value{of: 3, from: 2, to: 4}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	for _, to := range []string{"short", "never"} {
		if got := ratio("of", to)(&r); !got.missing {
			t.Errorf("of ÷ %s: got %+v, want it missing", to, got)
		}
	}
	if got := ratio("never", "a")(&r); !got.missing {
		t.Errorf("never ÷ a: got %+v, want it missing", got)
	}
}

// TestCounts: what was counted without a wait and without page faults has a line, too.
func TestCounts(t *testing.T) {
	r := results{Samples: map[string][]int64{"a": {10, 20, 40}}, Waits: map[string][]int64{"a": {0, 0, 0}}}
	if got, want := r.counts(), "| a | 20 | -50.0 to +100.0 % |  |  |\n"; !strings.HasSuffix(got, want) {
		t.Errorf("got %q, want its last line %q", got, want)
	}
}

// TestWriteTable: what is outside of the table's place stays, and a second run replaces the first one's table.
func TestWriteTable(t *testing.T) {
	path := filepath.Join(t.TempDir(), "README.md")
	if err := new(results).writeTable(path); err != nil {
		t.Errorf("no file: %v", err)
	}
	for text, ok := range map[string]bool{
		"before\n" + tableBegin + "previous\n" + tableEnd + "after\n": true,
		"before\n" + tableBegin + "no end\n":                          false,
		"no place\n":                                                  false,
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := new(results).writeTable(path); (err == nil) != ok {
				t.Errorf("%q: %v", text, err)
			}
		}
		got, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			if string(got) != text {
				t.Errorf("%q became %q", text, got)
			}
			continue
		}
		if s := string(got); !strings.HasPrefix(s, "before\n"+tableBegin) || !strings.HasSuffix(s, tableEnd+"after\n") ||
			strings.Contains(s, "previous") || strings.Count(s, rows[0].name) != 1 {
			t.Errorf("%q became %q", text, got)
		}
	}
}

func TestFrames(t *testing.T) {
	var got traffic
	got.count([]uint32{0, 2, 1, 1, 4}, 6)
	if want := (traffic{Heard: 5, Lost: 2, Doubled: 1, OutOfOrder: 2}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got := disagreements([]uint64{1, 2, 3, 4}, []uint64{2, 1, 3, 4}); got != 1 {
		t.Errorf("got %d, want 1", got)
	}
}
