package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// tempName is what is written before it is put in place, in the same directory: containerd looks again when a name
// disappears there, and not when one appears. No runtime takes a file of this name, and the next run removes it.
const tempName = ".vxcan-install.tmp"

var (
	errChanged = errors.New("was changed meanwhile")
	errBusy    = errors.New("another vxcan-install is at work there")
)

// lock keeps other installers out of a directory; it does not wait.
func lock(dir string) (unlock func(), err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = errBusy
		}
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return func() { f.Close() }, nil
}

// writeTemp writes the temporary file of a directory, to the disk.
func writeTemp(dir string, perm fs.FileMode, content io.Reader) (path string, err error) {
	path = filepath.Join(dir, tempName)
	if err := removeIfThere(path); err != nil {
		return "", err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
	if err != nil {
		return "", err
	}
	_, err = io.Copy(f, content)
	if err = errors.Join(err, f.Chmod(perm), f.Sync(), f.Close()); err != nil { // umask
		return "", errors.Join(err, removeIfThere(path))
	}
	return path, nil
}

// writeFile puts a file in place, whatever is there.
func writeFile(path string, perm fs.FileMode, content io.Reader) error {
	temp, err := writeTemp(filepath.Dir(path), perm, content)
	if err != nil {
		return err
	}
	if err := os.Rename(temp, path); err != nil {
		return errors.Join(err, removeIfThere(temp))
	}
	return syncDir(filepath.Dir(path))
}

// replaceFile puts content in the place of what is there, if that still is was; else it fails with errChanged, and the
// newer content stays. Reading again before a rename would leave a moment in which a newer file is lost. So the files
// are exchanged, and what comes out is looked at.
func replaceFile(path string, perm fs.FileMode, was, content []byte) error {
	dir := filepath.Dir(path)
	temp, err := writeTemp(dir, perm, bytes.NewReader(content))
	if err != nil {
		return err
	}
	in, out := content, was // what the exchange puts in, and what is to come out
	for changed := false; ; changed = true {
		if err := exchange(temp, path, out); err != nil {
			return errors.Join(err, removeIfThere(temp))
		}
		got, err := contentOrLink(temp)
		switch {
		case errors.Is(err, fs.ErrNotExist): // it could not be exchanged
		case err != nil:
			return err
		case !bytes.Equal(got, out):
			in, out = got, in // back with it
			continue
		}
		err = errors.Join(removeIfThere(temp), syncDir(dir))
		if err == nil && changed {
			err = fmt.Errorf("%s %w", path, errChanged)
		}
		return err
	}
}

// exchange swaps two files. A file system that cannot, such as NFS, says EINVAL.
func exchange(temp, path string, out []byte) error {
	err := unix.Renameat2(unix.AT_FDCWD, temp, unix.AT_FDCWD, path, unix.RENAME_EXCHANGE)
	switch {
	case errors.Is(err, unix.ENOENT):
		return fmt.Errorf("%s %w", path, errChanged)
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS):
		return renameIfStill(temp, path, out)
	case err != nil:
		return fmt.Errorf("exchange %s: %w", path, err)
	}
	return nil
}

// renameIfStill renames a file to one that still is out; one that comes just then is lost.
func renameIfStill(temp, path string, out []byte) error {
	if got, err := contentOrLink(path); err != nil || !bytes.Equal(got, out) {
		return fmt.Errorf("%s %w", path, errChanged)
	}
	return os.Rename(temp, path)
}

// contentOrLink returns the content of a file, or the target of a symbolic link. So a link that replaces a file is seen as
// a change, even if it leads to the same content.
func contentOrLink(path string) ([]byte, error) {
	target, err := os.Readlink(path)
	if errors.Is(err, unix.EINVAL) { // no link
		content, _, err := readFile(path)
		return content, err
	}
	return []byte(target), err
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

const pluginPerm = 0o755

// installPlugin copies the plugin, unless the same bytes are there.
func installPlugin(from, to string) (copied bool, err error) {
	if same, err := samePlugin(from, to); err != nil || same {
		return false, err
	}
	f, err := os.Open(from)
	if err != nil {
		return false, err
	}
	defer f.Close()
	return true, writeFile(to, pluginPerm, f)
}

// samePlugin reports whether the plugin is at to, and can be executed by everybody. A symbolic link there does not count
// and is replaced. Its target must not be written, unlike that of a network file: k3s links one program under many names.
func samePlugin(from, to string) (bool, error) {
	want, err := sum(from)
	if err != nil {
		return false, fmt.Errorf("%w plugin: give its file by --plugin: %w", errUsage, err)
	}
	info, err := os.Lstat(to)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil || !info.Mode().IsRegular() || info.Mode().Perm() != pluginPerm {
		return false, err
	}
	got, err := sum(to)
	return got == want, err
}

func sum(path string) (hash [sha256.Size]byte, err error) {
	f, err := os.Open(path)
	if err != nil {
		return hash, err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return hash, err
	}
	return [sha256.Size]byte(h.Sum(nil)), nil
}
