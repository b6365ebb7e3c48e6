package main

import (
	"cmp"
	"regexp"
	"slices"
	"strings"

	"github.com/mattn/go-runewidth"
)

// table is rows of cells below a line of headings. It takes the width of the terminal: columns that do not fit go to a line
// of their own below each row, and what is still too long is cut off at its end.
type table struct {
	columns []column
	rows    []row
}

type column struct {
	head   string
	number bool // to the right
	filled bool // left out where all cells are empty or "0"
	// yields is the order in which columns leave the row in a terminal that is too narrow, the highest first. One with 0 stays.
	yields int

	index, width int // of the cells
}

type row struct {
	cells []string // one for each column; of other programs' names plain
	marks []level  // colours of the cells; a cell without one, or with fine, has none
	below []string // lines below the row, each cut off at the end of the line
}

const (
	indent   = "  "
	gap      = "  " // between columns
	minCell  = 6    // places that a cut text keeps
	longCell = 40   // places that a text has before others leave the row
)

// lines returns the line of headings and the lines of each row.
func (t table) lines(s style) (head string, rows []string) {
	shown, moved := t.shown(), []column(nil)
	if s.width > 0 {
		shown, moved = fit(s.width, shown)
	}
	heads := make([]string, len(t.columns))
	for i, c := range t.columns {
		heads[i] = c.head
	}
	for _, r := range t.rows {
		rows = append(rows, s.line(shown, r))
		if words := wordsBelow(moved, r); words != nil {
			words[0] = indent + indent + words[0]
			rows = append(rows, s.flow(indent+indent, ", ", words...)...)
		}
		for _, line := range r.below {
			rows = append(rows, s.cut(indent+indent+line))
		}
	}
	return s.line(shown, row{cells: heads}), rows
}

// shown are the columns that have something to show, each as wide as it needs.
func (t table) shown() (shown []column) {
	for i, c := range t.columns {
		c.index, c.width = i, runewidth.StringWidth(c.head)
		filled := !c.filled
		for _, r := range t.rows {
			filled = filled || r.cells[i] != "" && r.cells[i] != "0"
			c.width = max(c.width, runewidth.StringWidth(r.cells[i]))
		}
		if filled {
			shown = append(shown, c)
		}
	}
	return shown
}

// fit makes columns fit into a terminal: first some leave the row, then texts are cut. One long name moves no column.
func fit(width int, shown []column) (rest, moved []column) {
	for i, c := range shown {
		if !c.number {
			shown[i].width = min(c.width, max(longCell, width/3))
		}
	}
	for total(shown) > width {
		next := slices.MaxFunc(shown, func(a, b column) int { return cmp.Compare(a.yields, b.yields) })
		if next.yields == 0 {
			break
		}
		moved = append(moved, next)
		shown = slices.DeleteFunc(shown, func(c column) bool { return c.index == next.index })
	}
	for total(shown) > width {
		widest := -1 // of the texts
		for i, c := range shown {
			if !c.number && c.width > minCell && (widest < 0 || c.width > shown[widest].width) {
				widest = i
			}
		}
		if widest < 0 {
			break
		}
		shown[widest].width--
	}
	slices.SortFunc(moved, func(a, b column) int { return cmp.Compare(a.index, b.index) })
	return shown, moved
}

func total(columns []column) (sum int) {
	for _, c := range columns {
		sum += len(gap) + c.width
	}
	return sum // with the indent, which is as wide as a gap
}

func (s style) line(shown []column, r row) string {
	var b strings.Builder
	used := 0
	for i, c := range shown {
		text := runewidth.Truncate(r.cells[c.index], c.width, s.more())
		pad := strings.Repeat(" ", c.width-runewidth.StringWidth(text))
		if used += len(gap) + c.width; s.width > 0 && used > s.width { // a terminal for no table at all
			break
		}
		b.WriteString(gap)
		if c.number {
			b.WriteString(pad)
		}
		if text != "" && len(r.marks) > c.index && r.marks[c.index] != fine {
			text = s.paint(r.marks[c.index], text)
		}
		b.WriteString(text)
		if !c.number && i < len(shown)-1 {
			b.WriteString(pad)
		}
	}
	return b.String()
}

// wordsBelow are the cells of a row that are below it: a text as it is, a number with its heading unless it is 0.
func wordsBelow(moved []column, r row) (words []string) {
	for _, c := range moved {
		switch cell := r.cells[c.index]; {
		case cell == "" || c.number && cell == "0":
		case c.number:
			words = append(words, strings.ToLower(c.head)+" "+cell)
		default:
			words = append(words, cell)
		}
	}
	return words
}

// more is what stands for text that was cut off.
func (s style) more() string {
	if s.unicode {
		return "…"
	}
	return "..."
}

// cut cuts a line off at the end of the terminal. It has no colours.
func (s style) cut(line string) string {
	if s.width > 0 {
		return runewidth.Truncate(line, s.width, s.more())
	}
	return line
}

// flow writes items one behind the other, with a separator, and goes on in an indented line where the terminal ends. It
// breaks no item. An item may have colours.
func (s style) flow(indent, separator string, items ...string) (lines []string) {
	line, width := "", 0
	for _, item := range items {
		itemWidth := runewidth.StringWidth(withoutColour(item))
		switch {
		case line == "":
			line, width = item, itemWidth
		case s.width > 0 && width+len(separator)+itemWidth > s.width:
			lines = append(lines, strings.TrimRight(line, " "))
			line, width = indent+item, len(indent)+itemWidth
		default:
			line, width = line+separator+item, width+len(separator)+itemWidth
		}
	}
	return append(lines, line)
}

// item writes what was found behind the mark of its level, and below it what repairs it, if there is something to do. A
// command is broken nowhere, because it is to be pasted; one behind "words, then" has a line of its own.
func (s style) item(l level, what, cure string) []string {
	mark := s.mark(l)
	deeper := indent + strings.Repeat(" ", runewidth.StringWidth(withoutColour(mark))+1)
	lines := s.flow(deeper, " ", append([]string{indent + mark}, strings.Fields(what)...)...)
	if words, command, both := strings.Cut(cure, ", then "); both {
		return append(lines, deeper+words+", then", deeper+command)
	} else if cure != "" {
		lines = append(lines, deeper+cure)
	}
	return lines
}

// withoutColour is a text without what paint adds.
func withoutColour(text string) string { return colour.ReplaceAllString(text, "") }

var colour = regexp.MustCompile(`\x1b\[[0-9]*m`)
