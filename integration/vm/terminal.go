package main

import (
	"bytes"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// terminal describes the caller's terminal. The command gets one like it, with job control.
type terminal struct {
	Termios unix.Termios
	Window  unix.Winsize
	Stderr  bool // stderr is a terminal, too
}

// callersTerminal returns nil unless stdin and stdout are a terminal and this process is in its foreground: to set up a
// terminal from the background would stop it.
func callersTerminal() *terminal {
	termios, err := unix.IoctlGetTermios(0, unix.TCGETS)
	if err != nil || !term.IsTerminal(1) || !inForeground() {
		return nil
	}
	t := &terminal{Termios: *termios, Stderr: term.IsTerminal(2)}
	if window, err := unix.IoctlGetWinsize(0, unix.TIOCGWINSZ); err == nil {
		t.Window = *window
	}
	return t
}

func inForeground() bool {
	group, err := unix.IoctlGetInt(0, unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}

// set gives a console the settings of the caller's terminal.
func (t *terminal) set(console *os.File) error {
	fd := int(console.Fd())
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, &t.Termios); err != nil {
		return err
	}
	return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &t.Window)
}

// input returns what the machine reads as its stdin, and a function that undoes what it did to the terminal.
//   - For a command with a terminal: every key, ^C too. Only escapeKey, three times within a second, is ours: end is called.
//   - For one whose output goes elsewhere: lines. The terminal's ^C is ours, and its ^D becomes the machine's.
//   - In the background: nothing. To read would stop this process.
func input(t *terminal, end func()) (stdin *os.File, restore func(), err error) {
	restore = func() {}
	switch {
	case !term.IsTerminal(0):
		return os.Stdin, restore, nil
	case !inForeground():
		stdin, err = os.Open(os.DevNull)
		return stdin, restore, err
	}
	stdin, w, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	if t == nil {
		go copyLines(w, os.Stdin) // until this process ends
		return stdin, restore, nil
	}
	state, err := term.MakeRaw(0)
	if err != nil {
		return nil, nil, err
	}
	go copyKeys(w, os.Stdin, end)
	return stdin, func() { _ = term.Restore(0, state) }, nil
}

// copyLines copies until a write fails, and an end of file as the key that means it.
func copyLines(to io.Writer, from io.Reader) {
	for {
		if _, err := io.Copy(to, from); err != nil {
			return
		}
		if _, err := to.Write([]byte{4}); err != nil { // ^D
			return
		}
	}
}

// escapeKey is ^], as of systemd-nspawn and telnet.
const escapeKey = 0x1d

// copyKeys copies until one end fails. It calls end when escapeKey comes three times within a second and nothing between.
func copyKeys(to io.Writer, from io.Reader, end func()) {
	var first time.Time
	count := 0
	keys := make([]byte, 256)
	for {
		n, err := from.Read(keys)
		if err != nil {
			return
		}
		switch pressed := bytes.Count(keys[:n], []byte{escapeKey}); {
		case pressed < n:
			count = 0
		case count == 0 || time.Since(first) > time.Second:
			count, first = pressed, time.Now()
		default:
			count += pressed
		}
		if count >= 3 {
			end()
			return
		}
		if _, err := to.Write(keys[:n]); err != nil {
			return
		}
	}
}
