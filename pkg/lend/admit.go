package lend

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"

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
// be known to root. Where the file system of the socket has no access lists, every user may connect.
func (c Consents) Admit(socket string) error {
	all, err := c.List()
	if err != nil {
		return err
	}
	acl := binary.LittleEndian.AppendUint32(nil, aclVersion)
	add := func(tag, permissions uint16, id uint32) {
		acl = binary.LittleEndian.AppendUint16(acl, tag)
		acl = binary.LittleEndian.AppendUint16(acl, permissions)
		acl = binary.LittleEndian.AppendUint32(acl, id)
	}
	var users []uint32
	for _, consent := range all {
		if consent.UID != 0 {
			users = append(users, consent.UID)
		}
	}
	slices.Sort(users)
	add(aclOwner, aclRW, aclNoID)
	for _, uid := range slices.Compact(users) {
		add(aclUser, aclRW, uid)
	}
	add(aclGroup, 0, aclNoID)
	add(aclMask, aclRW, aclNoID)
	add(aclOther, 0, aclNoID)
	err = unix.Setxattr(socket, aclName, acl, 0)
	switch {
	case errors.Is(err, unix.EOPNOTSUPP):
		err = os.Chmod(socket, 0o666)
	case err != nil:
		err = &os.PathError{Op: "setxattr " + aclName, Path: socket, Err: err}
	}
	if err != nil {
		return fmt.Errorf("who may ask for a lent bus: %w", err)
	}
	return nil
}
