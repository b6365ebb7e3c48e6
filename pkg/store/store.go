// Package store keeps small pieces of state that several processes share: one JSON file each, with a lock file beside it. A file is
// replaced whole or not at all, and one that cannot be read is never overwritten. It does not know what it stores. Most of that
// lives no longer than the kernel, so that only SaveSynced waits for the disk.
package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/gofrs/flock"
	"golang.org/x/sys/unix"
)

// version is that of the format on disk.
const version = 2

const (
	fileSuffix  = ".json"
	lockSuffix  = ".lock"
	tempSuffix  = ".json.new"
	asideSuffix = ".broken"
)

// ErrIO is returned, wrapped, when the disk fails: no space, no permission, no such directory.
var ErrIO = errors.New("state on disk")

// ErrLocked is returned, wrapped, by Open when the lock was not free in time.
var ErrLocked = errors.New("held by another call")

// UnusableError is returned by Load for a file that it cannot read. The file is unchanged.
type UnusableError struct {
	Path  string
	Newer bool // written by a later release, in a format that this one does not know
	Cause error
}

func (e *UnusableError) Error() string {
	return fmt.Sprintf("state file %s is unusable (%v)", e.Path, e.Cause)
}

func (e *UnusableError) Unwrap() error { return e.Cause }

// File is a state file, locked.
type File struct {
	base string // path without a suffix
	lock *flock.Flock
}

// envelope is what is on disk.
type envelope struct {
	Version int `json:"version"`
	Data    any `json:"data"`
}

// Open waits for the lock of the file called name in dir, and makes dir (mode 0700) if need be. It fails with ErrLocked when ctx
// ends first, or after timeout. The lock is the process's: when it dies, it is free.
func Open(ctx context.Context, dir, name string, timeout time.Duration) (*File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrIO, err)
	}
	base := filepath.Join(dir, name)
	start := time.Now()
	deadline := start.Add(timeout)
	for {
		lock, err := acquire(ctx, base+lockSuffix, deadline)
		if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
			return nil, fmt.Errorf("lock %s is %w, for %v already", base+lockSuffix, ErrLocked, time.Since(start).Round(time.Millisecond))
		} else if err != nil {
			return nil, fmt.Errorf("%w: lock %s: %w", ErrIO, base+lockSuffix, err)
		}
		if isCurrent(lock) {
			return &File{base: base, lock: lock}, nil
		}
		if err := lock.Unlock(); err != nil { // Remove has removed the file meanwhile
			return nil, fmt.Errorf("%w: %w", ErrIO, err)
		}
	}
}

// acquire waits in the kernel's queue: processes that poll starve each other when many start at once on few CPUs.
func acquire(ctx context.Context, path string, deadline time.Time) (*flock.Flock, error) {
	lock := flock.New(path, flock.SetPermissions(0o600))
	if locked, err := lock.TryLock(); locked || err != nil { // needs neither goroutine nor timer
		return lock, err
	}
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	acquired := make(chan error, 1)
	go func() { acquired <- lock.Lock() }()
	select {
	case err := <-acquired:
		return lock, err
	case <-ctx.Done():
		go func() { // flock(2) cannot be called off: give the lock back when it comes
			if <-acquired == nil {
				_ = lock.Unlock()
			}
		}()
		return nil, ctx.Err()
	}
}

// isCurrent reports whether a lock is still that of the file that has its name.
func isCurrent(lock *flock.Flock) bool {
	locked, err := lock.Stat()
	if err != nil {
		return false
	}
	named, err := os.Stat(lock.Path())
	return err == nil && os.SameFile(locked, named)
}

// Close frees the lock.
func (f *File) Close() error { return f.lock.Unlock() }

// Load reads the file into data, a pointer. found is false when there is no file. After an UnusableError data is of no use.
func (f *File) Load(data any) (found bool, err error) { return load(f.base, data) }

// Read is Load without a lock, for a disk that can be read only.
func Read(dir, name string, data any) (found bool, err error) {
	return load(filepath.Join(dir, name), data)
}

func load(base string, data any) (found bool, err error) {
	path := base + fileSuffix
	content, err := readFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	} else if err != nil {
		return false, fmt.Errorf("%w: %w", ErrIO, err)
	}
	e := envelope{Data: data}
	err = json.Unmarshal(content, &e)
	newer := e.Version > version
	if err == nil || newer {
		if e.Version == version {
			return true, nil
		}
		err = fmt.Errorf("format version %d, want %d", e.Version, version)
	}
	return false, &UnusableError{Path: path, Newer: newer, Cause: err}
}

// SetAside renames the file, so that Save does not overwrite it, and returns its new path.
func (f *File) SetAside() (path string, err error) {
	path = fmt.Sprintf("%s%s-%d", f.base, asideSuffix, time.Now().UnixNano())
	if err := os.Rename(f.base+fileSuffix, path); err != nil {
		return "", fmt.Errorf("%w: %w", ErrIO, err)
	}
	return path, nil
}

// Save replaces the file. After a kill the old or the new content is there, whole; after a power cut it may be unusable.
func (f *File) Save(data any) error { return f.save(data, false) }

// SaveSynced is Save for what must survive a power cut: it is on disk when SaveSynced returns.
func (f *File) SaveSynced(data any) error { return errors.Join(f.save(data, true), f.syncDir()) }

func (f *File) save(data any, sync bool) error {
	content, err := json.Marshal(envelope{Version: version, Data: data})
	if err != nil {
		return err
	}
	err = writeFile(f.temp(), append(content, '\n'), sync)
	if err == nil {
		err = os.Rename(f.temp(), f.base+fileSuffix)
	}
	if err != nil {
		_ = os.Remove(f.temp())
		return fmt.Errorf("%w: %w", ErrIO, err)
	}
	return nil
}

// temp is where new content is written: one name is enough, because of the lock, and a crash leaves no litter but this.
func (f *File) temp() string { return f.base + tempSuffix }

// syncDir makes sure that the file is found after a power cut.
func (f *File) syncDir() error {
	dir := filepath.Dir(f.base)
	var errs []error
	for _, path := range []string{dir, filepath.Dir(dir)} { // Open may have made dir itself
		d, err := os.Open(path)
		if err == nil {
			err = errors.Join(d.Sync(), d.Close())
		}
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("%w: %w", ErrIO, err)
	}
	return nil
}

// Remove removes the file, what a killed call may have left of a new one, and the lock file. The lock is still held.
func (f *File) Remove() error {
	if !isCurrent(f.lock) { // the directory was removed, and its files are those of another process now
		return nil
	}
	var errs []error
	for _, path := range []string{f.temp(), f.base + fileSuffix, f.lock.Path()} {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("%w: %w", ErrIO, err)
	}
	return nil
}

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

// writeFile makes or empties a file and writes it.
func writeFile(path string, content []byte, sync bool) (retErr error) {
	defer func() {
		if retErr != nil {
			retErr = &os.PathError{Op: "write", Path: path, Err: retErr}
		}
	}()
	fd, err := unix.Open(path, unix.O_CREAT|unix.O_TRUNC|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	defer func() { retErr = errors.Join(retErr, unix.Close(fd)) }()
	for len(content) > 0 {
		n, err := unix.Write(fd, content)
		if err != nil {
			return err
		}
		content = content[n:]
	}
	if sync {
		return unix.Fsync(fd)
	}
	return nil
}

// Replace makes or replaces a file without a lock: readers see old or new content, whole. With sync it survives a power cut.
func Replace(path string, mode os.FileMode, sync bool, write func(io.Writer) error) (retErr error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer func() {
		if retErr != nil {
			retErr = errors.Join(retErr, os.Remove(f.Name()))
		}
	}()
	err = errors.Join(write(f), f.Chmod(mode)) // whatever the umask
	if sync {
		err = errors.Join(err, f.Sync())
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// Names returns the names of all state files in dir, also of those of which a killed Remove left
// the lock file: opening one of these finds nothing. A directory that is not there has none.
func Names(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", ErrIO, err)
	}
	var names []string
	for _, e := range entries {
		for _, suffix := range []string{fileSuffix, lockSuffix} {
			if name, ok := strings.CutSuffix(e.Name(), suffix); ok {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}
