package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"time"

	"github.com/mattn/go-runewidth"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/vxcan/vxcan/pkg/bus"
)

// watcher shows the status again and again.
type watcher struct {
	look   func(ctx context.Context) ([]bus.BusStatus, error)
	format string
	now    look
	offset int // lines of the screen that were scrolled past
}

// run shows the status each second, until ctx ends or a person quits. in is where keys come from; where it or w is no
// terminal, there are none, and looks follow each other.
func (v *watcher) run(ctx context.Context, in *os.File, w io.Writer) (retErr error) {
	out, ok := w.(*os.File)
	if v.format != textFormat || !ok || !term.IsTerminal(int(out.Fd())) {
		return v.follow(ctx, w)
	}
	screen := &screen{in: in, out: out}
	if err := screen.open(); err != nil {
		return err
	}
	defer screen.close()
	keys := make(chan string)
	go screen.read(ctx, keys)
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, unix.SIGWINCH)
	defer signal.Stop(resized)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	if err := v.next(ctx); err != nil {
		return err
	}
	for {
		if ctx.Err() != nil {
			return nil
		}
		if err := v.draw(screen); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-resized:
		case <-tick.C:
			if err := v.next(ctx); err != nil {
				return err
			}
		case key := <-keys:
			switch key {
			case "q", "\x03": // Ctrl-C, which is a signal no more
				return nil
			case "\x1a":
				if err := screen.suspend(); err != nil {
					return err
				}
			default:
				v.press(key, styleOf(out).height)
			}
		}
	}
}

// follow writes one look after the other.
func (v *watcher) follow(ctx context.Context, w io.Writer) error {
	for {
		err := v.next(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		case v.format == jsonFormat:
			err = json.NewEncoder(w).Encode(newStatusDocument(v.now.all))
		case len(v.now.all) == 0:
			_, err = fmt.Fprintln(w, noBus)
		default:
			err = v.now.write(w, styleOf(w))
		}
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Second):
		}
	}
}

func (v *watcher) next(ctx context.Context) error {
	all, err := v.look(ctx)
	if ctx.Err() != nil {
		return nil
	} else if err != nil && (v.now.taken.IsZero() || !errors.Is(err, bus.ErrNoBus)) { // what is named may come back
		return err
	}
	taken := time.Now()
	v.now.before, v.now.between = v.now.all, taken.Sub(v.now.taken)
	v.now.all, v.now.taken = all, taken
	return nil
}

func (v *watcher) press(key string, height int) {
	page := max(height/2, 1)
	switch key {
	case "\x1b[A", "k":
		v.offset--
	case "\x1b[B", "j":
		v.offset++
	case "\x1b[5~":
		v.offset -= page
	case "\x1b[6~", " ":
		v.offset += page
	default:
		if len(key) == 1 && sortKeys[key[0]].compare != nil {
			v.now.sort, v.offset = key[0], 0
		}
	}
}

// draw shows the look that was taken last, at once, so that it does not flicker.
func (v *watcher) draw(screen *screen) error {
	s := styleOf(screen.out)
	lines := append([]string{v.headline(s)}, v.window(s, max(s.height-1, 0))...)
	// To the first line; \x1b[K clears the rest of one, \x1b[J what is below.
	_, err := io.WriteString(screen.out, "\x1b[H"+strings.Join(lines, "\x1b[K\r\n")+"\x1b[K\x1b[J")
	return err
}

// headline is the time, and the keys as far as there is room.
func (v *watcher) headline(s style) string {
	words := []string{v.now.taken.Format(time.TimeOnly), "q quit", "sort:"}
	for _, key := range []byte("nshdl") {
		name := sortKeys[key].name
		if key == v.now.sort {
			name += "*"
		}
		words = append(words, name)
	}
	return s.cut(strings.Join(append(words, "arrows scroll"), " "))
}

// window is the part of all lines that fits on the screen. The head of the bus that is at its top stays there.
func (v *watcher) window(s style, height int) []string {
	if len(v.now.all) == 0 {
		return []string{noBus}
	}
	type part struct{ start, end, pinned int }
	var lines []string
	var parts []part
	for _, b := range v.now.blocks(s) {
		if len(lines) > 0 {
			lines = append(lines, "")
		}
		p := part{start: len(lines)}
		for _, line := range b.pinned() {
			lines = append(lines, s.split(line)...)
		}
		p.pinned = len(lines) - p.start
		lines = append(lines, b.rows...)
		p.end = len(lines)
		parts = append(parts, p)
	}
	if s.height == 0 { // a terminal that does not know its size
		return lines
	}
	v.offset = max(0, min(v.offset, len(lines)-height))
	shown := slices.Clone(lines[v.offset:min(v.offset+height, len(lines))])
	for _, p := range parts {
		if v.offset <= p.start || v.offset >= p.end {
			continue
		}
		head := lines[p.start : p.start+p.pinned]
		if len(head) > height/2 { // many problems: the bus and the headings alone
			head = []string{head[0], head[len(head)-1]}
		}
		copy(shown, head[:min(len(head), p.end-v.offset)])
	}
	return shown
}

// split breaks a line, such as a long command, where the terminal ends. One with colours is short, see flow.
func (s style) split(line string) []string {
	if s.width <= 0 || strings.Contains(line, "\x1b") {
		return []string{line}
	}
	return strings.Split(runewidth.Wrap(line, s.width), "\n")
}

// screen is a terminal of which every line is written to, and from which keys come one by one.
type screen struct {
	in, out *os.File
	before  *term.State // of in; nil where it is no terminal
}

// open takes over the terminal. The lines that are there come back with close.
func (s *screen) open() (err error) {
	if term.IsTerminal(int(s.in.Fd())) {
		if s.before, err = term.MakeRaw(int(s.in.Fd())); err != nil {
			return fmt.Errorf("set up the terminal: %w", err)
		}
	}
	_, err = io.WriteString(s.out, "\x1b[?1049h\x1b[?25l") // the other screen, no cursor
	return err
}

func (s *screen) close() {
	_, _ = io.WriteString(s.out, "\x1b[?25h\x1b[?1049l")
	if s.before != nil {
		_ = term.Restore(int(s.in.Fd()), s.before)
	}
}

// suspend does what the kernel would do at Ctrl-Z, and takes over the terminal again when the shell says so.
func (s *screen) suspend() error {
	s.close()
	if err := unix.Kill(0, unix.SIGTSTP); err != nil { // all of a pipe, and sudo
		return err
	}
	return s.open()
}

// read hands over keys until the terminal ends. One that is read when run has ended is lost: it was for nobody.
func (s *screen) read(ctx context.Context, keys chan<- string) {
	if s.before == nil {
		return
	}
	in := bufio.NewReader(s.in)
	for {
		key, err := readKey(in)
		if err != nil {
			return
		}
		select {
		case keys <- key:
		case <-ctx.Done():
			return
		}
	}
}

// readKey reads a key: a byte, or ESC [ … and a letter or ~, which come at once.
func readKey(in *bufio.Reader) (string, error) {
	first, err := in.ReadByte()
	key := []byte{first}
	for err == nil && first == '\x1b' && in.Buffered() > 0 {
		var next byte
		next, err = in.ReadByte()
		if key = append(key, next); len(key) > 2 && next >= '@' || len(key) == 2 && next != '[' {
			break
		}
	}
	return string(key), err
}
