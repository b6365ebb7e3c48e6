package cantest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// transfers are reads or writes of one file of which several are under way at once, in the order of their submission
// (io_submit(2), linux/aio_abi.h). A bulk endpoint is fast only so: one transfer at a time would be one in each USB frame.
//
// The kernel reads and writes memory that it is given by address, in the background. It is mapped, not Go's.
type transfers struct {
	fd      int
	opcode  uint16 // IOCB_CMD_PREAD or IOCB_CMD_PWRITE
	context uintptr
	memory  []byte // of each slot: struct iocb, its address, its buffer; then one struct io_event
	slots   int
	free    []int // slots without a transfer: the caller's account
}

const (
	aioRead  = 0 // IOCB_CMD_PREAD
	aioWrite = 1 // IOCB_CMD_PWRITE

	iocbSize  = 64
	eventSize = 32
	slotSize  = 1024
	bufOffset = 128
	bufSize   = 512 // a packet of a fast bulk endpoint
)

func newTransfers(fd int, opcode uint16, slots int) (*transfers, error) {
	memory, err := unix.Mmap(-1, 0, slots*slotSize+eventSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return nil, fmt.Errorf("map memory: %w", err)
	}
	x := &transfers{fd: fd, opcode: opcode, memory: memory, slots: slots}
	for slot := range slots {
		x.free = append(x.free, slot)
	}
	if _, _, errno := unix.Syscall(unix.SYS_IO_SETUP, uintptr(slots), uintptr(unsafe.Pointer(&x.context)), 0); errno != 0 {
		return nil, errors.Join(fmt.Errorf("io_setup: %w", errno), unix.Munmap(memory))
	}
	return x, nil
}

// close waits for the transfers under way.
func (x *transfers) close() error {
	if _, _, errno := unix.Syscall(unix.SYS_IO_DESTROY, x.context, 0, 0); errno != 0 {
		return fmt.Errorf("io_destroy: %w", errno)
	}
	return unix.Munmap(x.memory)
}

func (x *transfers) slot(slot int) []byte { return x.memory[slot*slotSize : (slot+1)*slotSize] }

// buffer is what a slot reads into or writes from.
func (x *transfers) buffer(slot int) []byte { return x.slot(slot)[bufOffset : bufOffset+bufSize] }

func (x *transfers) address(b []byte) uint64 { return uint64(uintptr(unsafe.Pointer(&b[0]))) }

// submit starts the transfer of a slot that has none under way. It does not block. What the file refuses is an error of
// wait.
func (x *transfers) submit(slot, size int) error {
	s := x.slot(slot)
	clear(s[:iocbSize])
	binary.NativeEndian.PutUint64(s[0:8], uint64(slot)) // aio_data
	binary.NativeEndian.PutUint16(s[16:18], x.opcode)   // aio_lio_opcode
	binary.NativeEndian.PutUint32(s[20:24], uint32(x.fd))
	binary.NativeEndian.PutUint64(s[24:32], x.address(x.buffer(slot)))
	binary.NativeEndian.PutUint64(s[32:40], uint64(size))
	list := s[iocbSize : iocbSize+8]
	binary.NativeEndian.PutUint64(list, x.address(s))
	_, _, errno := unix.Syscall(unix.SYS_IO_SUBMIT, x.context, 1, uintptr(x.address(list)))
	if errno != 0 {
		return fmt.Errorf("io_submit: %w", errno)
	}
	return nil
}

// wait blocks until a transfer ends. One goroutine at a time.
func (x *transfers) wait() (slot, size int, err error) {
	event := x.memory[x.slots*slotSize:]
	for {
		n, _, errno := unix.Syscall6(unix.SYS_IO_GETEVENTS, x.context, 1, 1, uintptr(x.address(event)), 0, 0)
		if errno != 0 && errno != unix.EINTR {
			return 0, 0, fmt.Errorf("io_getevents: %w", errno)
		} else if n == 1 {
			break
		}
	}
	slot, result := int(binary.NativeEndian.Uint64(event[0:8])), int64(binary.NativeEndian.Uint64(event[16:24]))
	if result < 0 {
		return slot, 0, unix.Errno(-result)
	}
	return slot, int(result), nil
}

// cancelAll ends the transfers under way; wait tells of each. No data moves in one that it has ended.
func (x *transfers) cancelAll() {
	var event [eventSize]byte // which the kernel leaves to wait
	for slot := range x.slots {
		// It fails where no transfer is under way.
		_, _, _ = unix.Syscall(unix.SYS_IO_CANCEL, x.context, uintptr(x.address(x.slot(slot))), uintptr(unsafe.Pointer(&event)))
	}
}
