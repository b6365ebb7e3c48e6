package main

import (
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

// column is a column of a table.
type column struct {
	head   string
	number bool // to the right
	filled bool // left out where all cells are empty or "0"
	// yields is the order in which columns leave the row in a terminal that is too narrow, the highest first. One with 0 stays.
	yields int
}

// row is a row of a table.
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
	shown := t.shown()
	widths := t.widths(shown)
	var moved []int // columns that are shown below their row
	if s.width > 0 {
		shown, widths, moved = t.fit(s.width, shown, widths)
	}
	heads := make([]string, len(t.columns))
	for i, c := range t.columns {
		heads[i] = c.head
	}
	head = t.line(s, shown, widths, row{cells: heads})
	for _, r := range t.rows {
		rows = append(rows, t.line(s, shown, widths, r))
		if words := t.words(moved, r); words != nil {
			words[0] = indent + indent + words[0]
			rows = append(rows, s.flow(indent+indent, ", ", words...)...)
		}
		for _, line := range r.below {
			rows = append(rows, s.cut(indent+indent+line))
		}
	}
	return head, rows
}

// fit makes columns fit into a terminal: first some leave the row, then texts are cut. One long name moves no column.
func (t table) fit(width int, shown, widths []int) (rest, narrowed, moved []int) {
	for i := range widths {
		if !t.columns[shown[i]].number {
			widths[i] = min(widths[i], max(longCell, width/3))
		}
	}
	for total(widths) > width {
		first := t.first(shown)
		if first < 0 {
			break
		}
		moved = append(moved, shown[first])
		shown, widths = slices.Delete(shown, first, first+1), slices.Delete(widths, first, first+1)
	}
	for total(widths) > width && t.narrow(shown, widths) {
	}
	return shown, widths, moved
}

// shown are the columns that have something to show.
func (t table) shown() (shown []int) {
	for i, c := range t.columns {
		filled := !c.filled
		for _, r := range t.rows {
			filled = filled || r.cells[i] != "" && r.cells[i] != "0"
		}
		if filled {
			shown = append(shown, i)
		}
	}
	return shown
}

// widths are those that columns need.
func (t table) widths(shown []int) []int {
	widths := make([]int, len(shown))
	for i, c := range shown {
		widths[i] = runewidth.StringWidth(t.columns[c].head)
		for _, r := range t.rows {
			widths[i] = max(widths[i], runewidth.StringWidth(r.cells[c]))
		}
	}
	return widths
}

func total(widths []int) (sum int) {
	for _, w := range widths {
		sum += len(gap) + w
	}
	return sum // with the indent, which is as wide as a gap
}

// first returns which of the columns that are shown yields first, or -1.
func (t table) first(shown []int) (first int) {
	first, most := -1, 0
	for i, c := range shown {
		if y := t.columns[c].yields; y > most {
			first, most = i, y
		}
	}
	return first
}

// narrow takes one place from the widest text and reports whether there was one.
func (t table) narrow(shown, widths []int) bool {
	widest := -1
	for i, c := range shown {
		if !t.columns[c].number && widths[i] > minCell && (widest < 0 || widths[i] > widths[widest]) {
			widest = i
		}
	}
	if widest < 0 {
		return false
	}
	widths[widest]--
	return true
}

func (t table) line(s style, shown, widths []int, r row) string {
	var b strings.Builder
	used := 0
	for i, c := range shown {
		text := runewidth.Truncate(r.cells[c], widths[i], s.more())
		pad := strings.Repeat(" ", widths[i]-runewidth.StringWidth(text))
		if used += len(gap) + widths[i]; s.width > 0 && used > s.width { // a terminal for no table at all
			break
		}
		b.WriteString(gap)
		if t.columns[c].number {
			b.WriteString(pad)
		}
		if text != "" && len(r.marks) > c && r.marks[c] != fine {
			text = s.paint(r.marks[c], text)
		}
		b.WriteString(text)
		if !t.columns[c].number && i < len(shown)-1 {
			b.WriteString(pad)
		}
	}
	return b.String()
}

// words are the cells of a row that are below it: a text as it is, a number with its heading unless it is 0.
func (t table) words(moved []int, r row) (words []string) {
	for i, c := range t.columns {
		switch {
		case !slices.Contains(moved, i) || r.cells[i] == "" || c.number && r.cells[i] == "0":
		case c.number:
			words = append(words, strings.ToLower(c.head)+" "+r.cells[i])
		default:
			words = append(words, r.cells[i])
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
func withoutColour(text string) string {
	for {
		before, rest, ok := strings.Cut(text, "\x1b[")
		if !ok {
			return text
		}
		_, after, _ := strings.Cut(rest, "m")
		text = before + after
	}
}
