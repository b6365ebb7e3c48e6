package lend

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// Of acl(5) as the kernel stores it (linux/posix_acl_xattr.h): a version, and entries of a tag, permissions and an ID, each in
// little endian.
const (
	aclName    = "system.posix_acl_access"
	aclVersion = 2
	aclOwner   = 0x01 // ACL_USER_OBJ
	aclUser    = 0x02
	aclGroup   = 0x04 // ACL_GROUP_OBJ
	aclMask    = 0x10
	aclOther   = 0x20
	aclRW      = 6
	aclNoID    = 0xffffffff
)

// Admit lets the users to whom a bus is lent connect to the socket, and root, and nobody else: who keeps the service busy must
// be known to root. Every user may connect where the file system of the socket has no access lists, or none so long: on ext4,
// some 500 users. A socket that is not there is no error: it will be made so.
func (c Consents) Admit(socket string) error {
	users, err := c.users()
	for err == nil {
		err = unix.Setxattr(socket, aclName, accessList(users), 0)
		switch {
		case errors.Is(err, unix.ENOENT):
			return nil
		case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.E2BIG), errors.Is(err, unix.ENOSPC):
			err = os.Chmod(socket, 0o666)
		case err != nil:
			err = &os.PathError{Op: "setxattr " + aclName, Path: socket, Err: err}
		}
		if err != nil {
			break
		}
		before := users
		if users, err = c.users(); err == nil && slices.Equal(users, before) {
			return nil // nobody has lent or revoked meanwhile
		}
	}
	return fmt.Errorf("who may ask for a lent bus: %w", err)
}

// users are those who have a consent, by the names of the files.
func (c Consents) users() (all []uint32, err error) {
	paths, err := filepath.Glob(filepath.Join(c.Dir, "*", "*"))
	for _, path := range paths {
		if uid, err := strconv.ParseUint(filepath.Base(path), 10, 32); err == nil && uid != 0 && uid != aclNoID {
			all = append(all, uint32(uid))
		}
	}
	slices.Sort(all)
	return slices.Compact(all), err
}

// accessList lets users read and write.
func accessList(users []uint32) []byte {
	acl := binary.LittleEndian.AppendUint32(nil, aclVersion)
	add := func(tag, permissions uint16, id uint32) {
		acl = binary.LittleEndian.AppendUint16(acl, tag)
		acl = binary.LittleEndian.AppendUint16(acl, permissions)
		acl = binary.LittleEndian.AppendUint32(acl, id)
	}
	add(aclOwner, aclRW, aclNoID)
	for _, uid := range users {
		add(aclUser, aclRW, uid)
	}
	add(aclGroup, 0, aclNoID)
	add(aclMask, aclRW, aclNoID)
	add(aclOther, 0, aclNoID)
	return acl
}
