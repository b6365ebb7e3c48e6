package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/bus"
	"github.com/vxcan/vxcan/pkg/config"
)

// TestFollow: without a terminal a document a line, or a text, until the context ends, which is no error.
func TestFollow(t *testing.T) {
	for format, want := range map[string]string{jsonFormat: "{\"version\":1,\"buses\":[{\"hub\":\"can-engine\"", textFormat: "vcan0  vcan  CAN FD  "} {
		ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
		defer cancel()
		v := watcher{look: fakeLooker{all: twoBuses()}.find, format: format}
		var out bytes.Buffer
		if err := v.run(ctx, os.Stdin, &out); err != nil {
			t.Error(err)
		}
		if n := strings.Count(out.String(), want); n != 2 || format == jsonFormat && strings.Count(out.String(), "\n") != 2 {
			t.Errorf("%s: %d looks, want 2\n%s", format, n, &out)
		}
	}
	failing := errors.New("no kernel")
	v := watcher{look: fakeLooker{err: failing}.find, format: textFormat}
	if err := v.run(t.Context(), os.Stdin, new(bytes.Buffer)); !errors.Is(err, failing) {
		t.Error(err)
	}
}

func (f fakeLooker) find(ctx context.Context) ([]bus.BusStatus, error) { return f.Status(ctx) }

// crowd is a bus with many containers, of which one has sent nothing.
func crowd(count int) bus.BusStatus {
	s := bus.BusStatus{Hub: "vcan0", Kind: "vcan", Up: true, MTU: 72}
	for i := range count {
		s.Endpoints = append(s.Endpoints, bus.EndpointStatus{
			Attachment: config.Attachment{Runtime: "netavark", Network: "canbus0", ContainerID: fmt.Sprint(i)},
			Name:       fmt.Sprintf("member-%02d", count-1-i), HostIf: fmt.Sprintf("vx%d", i), Interface: "can0", Up: true, Heard: uint64(i),
		})
	}
	s.Differences = []bus.Difference{{What: "host end vx30 is down", HostIfs: []string{"vx30"}, ByHeal: true}}
	return s
}

// openPTY opens a terminal of some size: the side of a person, and that of a program.
func openPTY(t *testing.T, columns, lines uint16) (person, program *os.File) {
	t.Helper()
	person, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { person.Close() })
	fd := int(person.Fd())
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err := errors.Join(err, unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0), unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: lines, Col: columns})); err != nil {
		t.Fatal(err)
	}
	program, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { program.Close() })
	return person, program
}

// TestWatchTerminal: 60 members in a terminal of 24 rows, which shows at every place the bus, what is wrong and the headings,
// sorts by keys, and is as it was when the person has quit.
func TestWatchTerminal(t *testing.T) {
	t.Setenv("LC_ALL", "C")
	person, program := openPTY(t, 80, 24)
	before, err := unix.IoctlGetTermios(int(program.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	v := watcher{look: fakeLooker{all: []bus.BusStatus{crowd(60)}}.find, format: textFormat}
	ended := make(chan error)
	go func() { ended <- v.run(t.Context(), program, program) }()
	screens := make(chan string)
	go func() { // a screen begins with a cursor at home
		var all []byte
		buffer := make([]byte, 1<<16)
		for {
			n, err := person.Read(buffer)
			if err != nil {
				return
			}
			all = append(all, buffer[:n]...)
			for {
				end := bytes.Index(all, []byte("\x1b[J"))
				if end < 0 {
					break
				}
				screens <- string(all[:end])
				all = all[end+len("\x1b[J"):]
			}
		}
	}()
	// shows waits for a screen that matches.
	shows := func(pattern string) {
		t.Helper()
		var last string
		for timeout := time.After(10 * time.Second); ; {
			select {
			case last = <-screens:
			case <-timeout:
				t.Fatalf("no screen matches %s, the last is\n%s", pattern, last)
			}
			_, text, _ := strings.Cut(last, "\x1b[H")
			text = regexp.MustCompile("\x1b\\[[0-9;]*[mK]").ReplaceAllString(strings.ReplaceAll(text, "\r", ""), "")
			last = text
			lines := strings.Split(text, "\n")
			for _, line := range lines {
				if len(line) > 80 {
					t.Errorf("line of %d columns: %q", len(line), line)
				}
			}
			if len(lines) > 24 {
				t.Errorf("%d lines in 24 rows", len(lines))
			}
			if regexp.MustCompile(pattern).MatchString(text) {
				return
			}
		}
	}
	press := func(key string) {
		t.Helper()
		if _, err := person.WriteString(key); err != nil {
			t.Fatal(err)
		}
	}
	const head = `^\d\d:\d\d:\d\d q quit .*\nvcan0  vcan  CAN FD  .*1 problem\n.*member-29: host end vx30 is down\n +sudo vxcanctl heal vcan0\n  CONTAINER .*HEARD`
	shows(head + `.*\n  \(host\) .*\n  member-59 `)
	press("n")
	shows(`name\*.*\n(.*\n){4}  \(host\) .*\n  member-00 `)
	press("\x1b[6~")
	shows(head + `.*\n  member-\d\d (.*\n)+`)
	for range 6 {
		press("\x1b[6~")
	}
	shows(head + `(.*\n)+  member-59 `)
	if err := unix.IoctlSetWinsize(int(person.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 40}); err != nil {
		t.Fatal(err)
	}
	shows(`(?s)vcan0.*CONTAINER +INTERFACE .*podman, canbus0`)
	press("q")
	go func() { // what is written until the end
		for range screens {
		}
	}()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("q does not quit")
	}
	if after, err := unix.IoctlGetTermios(int(program.Fd()), unix.TCGETS); err != nil || *after != *before {
		t.Errorf("%v, terminal before %+v, after %+v", err, before, after)
	}
}

// TestLongTable: in a terminal that is lower than a bus, the last lines are what is wrong and how it is repaired.
func TestLongTable(t *testing.T) {
	var out bytes.Buffer
	if err := (look{all: []bus.BusStatus{crowd(60)}}).write(&out, style{width: 80, height: 24}); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if n := len(lines); n != 4+61+4 || !strings.HasSuffix(lines[n-1], "sudo vxcanctl heal vcan0") || lines[n-4] != lines[3] || lines[n-3] != lines[0] {
		t.Errorf("%d lines\n%s", n, &out)
	}
}
