package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

const (
	// changes are those of files in a directory, and of the directory itself.
	changes = unix.IN_CLOSE_WRITE | unix.IN_CREATE | unix.IN_DELETE | unix.IN_MOVED_FROM | unix.IN_MOVED_TO | unix.IN_ATTRIB
	gone    = unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_IGNORED | unix.IN_UNMOUNT
)

// watch sends a value, at most one ahead, when a file in one of the directories changes. The channel is closed when a
// directory is gone, which a container only sees again when it is started again.
func watch(ctx context.Context, dirs ...string) (<-chan struct{}, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("inotify: %w", err)
	}
	f := os.NewFile(uintptr(fd), "inotify") // non-blocking: Close ends Read
	for _, dir := range dirs {
		if _, err := unix.InotifyAddWatch(fd, dir, changes|gone|unix.IN_ONLYDIR); err != nil {
			f.Close()
			return nil, fmt.Errorf("inotify: watch %s: %w", dir, err)
		}
	}
	context.AfterFunc(ctx, func() { f.Close() })
	changed := make(chan struct{}, 1)
	go func() {
		defer close(changed)
		buffer := make([]byte, 16<<10)
		for {
			n, err := f.Read(buffer)
			if err != nil {
				return
			}
			select {
			case changed <- struct{}{}:
			default:
			}
			if anyGone(buffer[:n]) {
				return
			}
		}
	}()
	return changed, nil
}

// anyGone looks through struct inotify_event of inotify(7): wd, mask, cookie and len, each of 32 bits, and len bytes.
func anyGone(events []byte) bool {
	for len(events) >= unix.SizeofInotifyEvent {
		mask := binary.NativeEndian.Uint32(events[4:])
		if mask&gone != 0 {
			return true
		}
		next := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(events[12:]))
		if next > len(events) {
			return false
		}
		events = events[next:]
	}
	return false
}
