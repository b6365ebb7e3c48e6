// Package store keeps small pieces of state that several processes share: one JSON file each, with a lock file beside
// it. A file is replaced whole or not at all, and one that cannot be read is set aside, never overwritten.
//
// It does not know what it stores.
package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/gofrs/flock"
	"golang.org/x/sys/unix"
)

// Version is the version of the format on disk.
const Version = 1

const (
	fileSuffix  = ".json"
	lockSuffix  = ".lock"
	tempSuffix  = ".json.new"
	asideSuffix = ".broken"
)

// lockRetry is how often a lock that another process holds is tried.
const lockRetry = 5 * time.Millisecond

// ErrIO is returned, wrapped, when the disk fails: no space, no permission, no such directory.
var ErrIO = errors.New("state on disk")

// LockedError is returned by Open when the lock was not free in time.
type LockedError struct {
	Path   string // of the lock file
	Waited time.Duration
	Cause  error // the context's
}

func (e *LockedError) Error() string {
	return fmt.Sprintf("lock %s is held by another call, for %v already", e.Path, e.Waited.Round(time.Millisecond))
}

func (e *LockedError) Unwrap() error { return e.Cause }

// BrokenError is returned by Load for a file that cannot be read. The file has been renamed; the state is lost.
type BrokenError struct {
	Path, Aside string
	Cause       error
}

func (e *BrokenError) Error() string {
	return fmt.Sprintf("state file %s is unusable (%v) and was set aside as %s", e.Path, e.Cause, e.Aside)
}

func (e *BrokenError) Unwrap() error { return e.Cause }

// File is a state file, locked.
type File struct {
	base   string // path without a suffix
	lock   *flock.Flock
	synced chan error // what Prepare has under way; nil if nothing
}

// envelope is what is on disk.
type envelope struct {
	Version int `json:"version"`
	Data    any `json:"data"`
}

// Open waits for the lock of the file called name in dir, and makes dir (mode 0700) if need be. name must be usable
// as a file name. It fails with a LockedError when ctx ends first, or after timeout. The lock is the process's: when it
// dies, it is free.
func Open(ctx context.Context, dir, name string, timeout time.Duration) (*File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrIO, err)
	}
	base := filepath.Join(dir, name)
	lock := flock.New(base+lockSuffix, flock.SetPermissions(0o600))
	start := time.Now()
	locked, err := lock.TryLock()
	if err == nil && !locked { // only then a timer is needed
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
		_, err = lock.TryLockContext(ctx, lockRetry)
	}
	if err != nil {
		if ctx.Err() != nil {
			return nil, &LockedError{lock.Path(), time.Since(start), ctx.Err()}
		}
		return nil, fmt.Errorf("%w: lock %s: %w", ErrIO, lock.Path(), err)
	}
	return &File{base: base, lock: lock}, nil
}

// Close frees the lock. What was prepared and not committed is forgotten. The lock file stays: removing it would let two
// processes hold two locks of one name.
func (f *File) Close() error {
	f.abort()
	return f.lock.Unlock()
}

// Load reads the file into data, a pointer. found is false when there is no file. A BrokenError says that the file
// could not be read and is out of the way now; data is of no use then.
func (f *File) Load(data any) (found bool, err error) {
	path := f.base + fileSuffix
	content, err := readFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	} else if err != nil {
		return false, fmt.Errorf("%w: %w", ErrIO, err)
	}
	e := envelope{Data: data}
	err = json.Unmarshal(content, &e)
	if err == nil || e.Version > Version {
		if e.Version == Version {
			return true, nil
		}
		err = fmt.Errorf("format version %d, want %d", e.Version, Version)
	}
	broken := &BrokenError{Path: path, Aside: fmt.Sprintf("%s%s-%d", f.base, asideSuffix, time.Now().UnixNano()), Cause: err}
	if err := os.Rename(path, broken.Aside); err != nil {
		return false, fmt.Errorf("%w: %w", ErrIO, errors.Join(broken.Cause, err))
	}
	return false, broken
}

// Save replaces the file. After a crash at any point the old or the new content is there, whole. That takes the fsync
// of the content before the rename, but none of the directory: most of what is recorded here lives no longer than the
// kernel. For the rest, see Sync.
func (f *File) Save(data any) error {
	if err := f.Prepare(data); err != nil {
		return err
	}
	return f.Commit()
}

// Prepare is the first half of Save: the content is written, and synced to disk in the background. The file stays as it is
// until Commit, so that the time the disk takes can be used for something else. What was prepared before is forgotten.
func (f *File) Prepare(data any) error {
	f.abort()
	content, err := json.Marshal(envelope{Version: Version, Data: data})
	if err != nil {
		return err
	}
	fd, err := writeFile(f.temp(), append(content, '\n'))
	if err != nil {
		_ = os.Remove(f.temp())
		return fmt.Errorf("%w: %w", ErrIO, err)
	}
	synced := make(chan error, 1)
	f.synced = synced
	go func() {
		err := unix.Fsync(fd)
		if err = errors.Join(err, unix.Close(fd)); err != nil {
			err = &os.PathError{Op: "write", Path: f.temp(), Err: err}
		}
		synced <- err
	}()
	return nil
}

// Commit waits until what was prepared is on disk and makes it the file. With nothing prepared it does nothing.
func (f *File) Commit() error {
	if f.synced == nil {
		return nil
	}
	err := <-f.synced
	f.synced = nil
	if err == nil {
		err = os.Rename(f.temp(), f.base+fileSuffix)
	}
	if err != nil {
		_ = os.Remove(f.temp())
		return fmt.Errorf("%w: %w", ErrIO, err)
	}
	return nil
}

// abort forgets what was prepared.
func (f *File) abort() {
	if f.synced != nil {
		<-f.synced
		f.synced = nil
		_ = os.Remove(f.temp())
	}
}

// temp is where new content is written: one name is enough, because of the lock, and a crash leaves no litter but this.
func (f *File) temp() string { return f.base + tempSuffix }

// BootID is the kernel's random ID of this boot, for state that lives no longer (random(4)).
func BootID() (string, error) {
	id, err := readFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("boot ID: %w", err)
	}
	return strings.TrimSpace(string(id)), nil
}

// readFile and writeFile are what package os has, without its try to wait for files by epoll: half as many system calls.

func readFile(path string) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	content := make([]byte, 0, 4<<10)
	for {
		n, err := unix.Read(fd, content[len(content):cap(content)])
		if err != nil {
			return nil, &os.PathError{Op: "read", Path: path, Err: err}
		}
		if n == 0 {
			return content, nil
		}
		content = slices.Grow(content[:len(content)+n], 4<<10)
	}
}

// writeFile makes or empties a file and writes it. The file is returned open, for the caller to sync and close.
func writeFile(path string, content []byte) (fd int, err error) {
	fd, err = unix.Open(path, unix.O_CREAT|unix.O_TRUNC|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: path, Err: err}
	}
	for len(content) > 0 {
		n, err := unix.Write(fd, content)
		if err != nil {
			return -1, &os.PathError{Op: "write", Path: path, Err: errors.Join(err, unix.Close(fd))}
		}
		content = content[n:]
	}
	return fd, nil
}

// Remove removes the file, if there is one, and what a call that was killed may have left of a new one. The lock is
// still held.
func (f *File) Remove() error {
	_ = os.Remove(f.temp())
	if err := os.Remove(f.base + fileSuffix); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%w: %w", ErrIO, err)
	}
	return nil
}

// Sync makes sure that what was saved or removed last is still so after a power cut.
func (f *File) Sync() error {
	dir := filepath.Dir(f.base)
	var errs []error
	for _, path := range []string{dir, filepath.Dir(dir)} { // Open may have made dir itself
		d, err := os.Open(path)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		errs = append(errs, d.Sync(), d.Close())
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("%w: %w", ErrIO, err)
	}
	return nil
}

// Names returns the names of all state files in dir. A directory that is not there has none.
func Names(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", ErrIO, err)
	}
	var names []string
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), fileSuffix); ok {
			names = append(names, name)
		}
	}
	return names, nil
}
