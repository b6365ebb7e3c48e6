package lend

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/config"
	"github.com/vxcan/vxcan/pkg/store"
)

// Consents are in a directory: a directory for each hub, and in it a file for each user that the hub is lent to, called by
// the user's ID. A line of it is a key of the network and its value, such as rate=1000; # begins a comment.
type Consents struct{ Dir string }

// ConsentsDir is where they are.
const ConsentsDir = "/etc/vxcan/lend"

// maxConsent bounds a file, in bytes: two lists of the longest.
const maxConsent = 256 << 10

// Consent says that a hub is lent to a user.
type Consent struct {
	Hub     string
	UID     uint32
	Network config.Network
	Limit   int   // interfaces at once
	Err     error // why it is not valid
}

// DefaultLimit is how many interfaces a user may have on a bus, unless the consent says less or more.
const DefaultLimit = 32

// limitKey is the one key of a consent that is none of a network.
const limitKey = "limit"

func (c Consent) same(other Consent) bool {
	return c.Network.Hub == other.Network.Hub && c.Network.Endpoint == other.Network.Endpoint && c.Limit == other.Limit
}

func (c Consents) path(hub string, uid uint32) string {
	return filepath.Join(c.Dir, hub, strconv.FormatUint(uint64(uid), 10))
}

// Read returns the consent for a hub and a user, or ErrRefused if there is none or others than root could have written the file.
func (c Consents) Read(hub string, uid uint32) (Consent, error) {
	if err := config.CheckHub(hub); err != nil {
		return Consent{}, err
	}
	path := c.path(hub, uid)
	f, err := openRoots(path)
	if errors.Is(err, os.ErrNotExist) {
		return Consent{}, fmt.Errorf("%w: bus %s is not lent to user %d: sudo vxcanctl lend %[2]s --user %[3]d", ErrRefused, hub, uid)
	} else if err != nil {
		return Consent{}, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	defer f.Close()
	consent, err := parse(hub, f)
	if err != nil {
		return consent, fmt.Errorf("%w: %s: %w", ErrRefused, path, err)
	}
	consent.UID = uid
	return consent, nil
}

// openRoots opens a file that root alone can have written or put there, and its directory too.
func openRoots(path string) (*os.File, error) {
	for _, dir := range []string{filepath.Dir(filepath.Dir(path)), filepath.Dir(path)} {
		var stat unix.Stat_t
		if err := unix.Lstat(dir, &stat); err != nil {
			return nil, &os.PathError{Op: "lstat", Path: dir, Err: err}
		}
		if err := isRoots(dir, stat, unix.S_IFDIR); err != nil {
			return nil, err
		}
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ELOOP) {
		return nil, fmt.Errorf("%s is a link", path)
	} else if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	var stat unix.Stat_t
	if err = unix.Fstat(fd, &stat); err == nil {
		err = isRoots(path, stat, unix.S_IFREG)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func isRoots(path string, stat unix.Stat_t, kind uint32) error {
	switch {
	case stat.Mode&unix.S_IFMT != kind:
		return fmt.Errorf("%s is no file or directory, as it must be", path)
	case stat.Uid != 0, stat.Mode&0o022 != 0:
		return fmt.Errorf("%s can be written by others than root: sudo chown root:root %[1]s; sudo chmod go-w %[1]s", path)
	}
	return nil
}

// parse reads a consent.
func parse(hub string, r io.Reader) (c Consent, err error) {
	c = Consent{Hub: hub, Network: config.NewNetwork(), Limit: DefaultLimit}
	n := &c.Network
	n.Hub.Name = hub
	given := make(map[string]bool)
	text, err := io.ReadAll(io.LimitReader(r, maxConsent+1))
	if err == nil && len(text) > maxConsent { // what is cut off might be the policy
		err = fmt.Errorf("it is longer than %d bytes", maxConsent)
	}
	if err != nil {
		return c, err
	}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		key, value, _ := strings.Cut(line, "=")
		var err error
		switch {
		case given[key]:
			err = errors.New("it is given twice")
		case key == limitKey:
			c.Limit, err = strconv.Atoi(value)
			if err != nil || c.Limit < 1 {
				err = fmt.Errorf("value %q: want a whole number from 1 on", value)
			}
		case slices.Contains(Keys(), key):
			_, err = n.Set(config.Host, key, value)
		default:
			err = fmt.Errorf("want %s", strings.Join(append(Keys(), limitKey), ", "))
		}
		if err != nil {
			return c, fmt.Errorf("%w key %q: %w", config.ErrInvalid, key, err)
		}
		given[key] = true
	}
	return c, n.Check()
}

// Keys are those of a network that a consent may have.
func Keys() []string {
	return slices.DeleteFunc(config.KeyNames(config.Host), func(name string) bool { return name == "hub" || name == "interface" })
}

// Write makes or replaces a consent. lines are keys and values, such as rate=1000.
func (c Consents) Write(hub string, uid uint32, lines ...string) error {
	text := strings.Join(append(lines, ""), "\n")
	if _, err := parse(hub, strings.NewReader(text)); err != nil {
		return err
	}
	path := c.path(hub, uid)
	for _, dir := range []string{filepath.Dir(c.Dir), c.Dir, filepath.Dir(path)} {
		err := os.Mkdir(dir, 0o755)
		if err == nil {
			err = os.Chmod(dir, 0o755) // for users to read, whatever the umask
		}
		if err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	return store.Replace(path, 0o644, true, func(w io.Writer) error { // beside it under a name that is no user's
		_, err := io.WriteString(w, text)
		return err
	})
}

// Remove ends a consent. One that is not there fails with os.ErrNotExist, wrapped.
func (c Consents) Remove(hub string, uid uint32) error {
	path := c.path(hub, uid)
	if err := os.Remove(path); err != nil {
		return err
	}
	_ = os.Remove(filepath.Dir(path)) // where that was the last
	return nil
}

// List returns all consents, by hub and user.
func (c Consents) List() (all []Consent, err error) {
	hubs, err := os.ReadDir(c.Dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	for _, hub := range hubs {
		dir := filepath.Join(c.Dir, hub.Name())
		users, err := os.ReadDir(dir)
		if errors.Is(err, unix.ENOTDIR) {
			err = fmt.Errorf("%s is no directory of consents: remove it", dir)
		}
		if err != nil {
			all = append(all, Consent{Hub: hub.Name(), Err: err})
		}
		for _, user := range users {
			uid, err := strconv.ParseUint(user.Name(), 10, 32)
			if err != nil {
				all = append(all, Consent{Hub: hub.Name(), Err: fmt.Errorf("%s: its name is no ID of a user: remove it", filepath.Join(dir, user.Name()))})
				continue
			}
			consent, err := c.Read(hub.Name(), uint32(uid))
			consent.Hub, consent.UID, consent.Err = hub.Name(), uint32(uid), err
			all = append(all, consent)
		}
	}
	slices.SortFunc(all, func(a, b Consent) int {
		return cmp.Or(strings.Compare(a.Hub, b.Hub), cmp.Compare(a.UID, b.UID))
	})
	return all, nil
}
