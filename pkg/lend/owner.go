package lend

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// checkOwner fails unless a descriptor is a network namespace of a user: one that belongs to a user namespace which he has
// made, or to one below such (ioctl_ns(2)). In those he is root anyway.
func checkOwner(netns int, uid uint32) error {
	// First by its file system, and without a question to that: a call into another one may take as long as its owner likes.
	var own, given unix.Statx_t
	err := errors.Join(
		unix.Statx(unix.AT_FDCWD, "/proc/self/ns/net", unix.AT_STATX_DONT_SYNC, unix.STATX_INO, &own),
		unix.Statx(netns, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_INO, &given))
	if err != nil || own.Dev_major != given.Dev_major || own.Dev_minor != given.Dev_minor {
		return fmt.Errorf("%w: the descriptor is no network namespace", ErrRefused)
	}
	kind, err := unix.IoctlRetInt(netns, unix.NS_GET_NSTYPE)
	if err != nil || kind != unix.CLONE_NEWNET {
		return fmt.Errorf("%w: the descriptor is no network namespace", ErrRefused)
	}
	ns, err := unix.IoctlRetInt(netns, unix.NS_GET_USERNS)
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
