package lend

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// checkOwner fails unless a descriptor is a network namespace of a user: one that belongs to a user namespace which he has
// made, or to one below such (ioctl_ns(2)). In those he is root anyway.
func checkOwner(netns *os.File, uid uint32) error {
	kind, err := unix.IoctlRetInt(int(netns.Fd()), unix.NS_GET_NSTYPE)
	if err != nil || kind != unix.CLONE_NEWNET {
		return fmt.Errorf("%w: the descriptor is no network namespace", ErrRefused)
	}
	ns, err := unix.IoctlRetInt(int(netns.Fd()), unix.NS_GET_USERNS)
	for err == nil {
		var owner uint32
		if owner, err = unix.IoctlGetUint32(ns, unix.NS_GET_OWNER_UID); err == nil && owner == uid {
			return unix.Close(ns)
		}
		parent, parentErr := unix.IoctlRetInt(ns, unix.NS_GET_PARENT)
		unix.Close(ns)
		ns, err = parent, errors.Join(err, parentErr)
	}
	if errors.Is(err, unix.EPERM) { // the initial one has no parent
		return fmt.Errorf("%w: the network namespace is not one of user %d", ErrRefused, uid)
	}
	return fmt.Errorf("%w: whose the network namespace is: %w", ErrRefused, err)
}
