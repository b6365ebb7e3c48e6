package rtnl

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// ErrInterrupted is returned by Dump where that changed meanwhile: things that were there all the time may be missing. Dump again.
var ErrInterrupted = errors.New("dump interrupted by a change")

// ErrPermission is returned, wrapped together with EPERM or EACCES, for what the kernel does not allow the process to do.
var ErrPermission = errors.New("the kernel does not permit it")

// NoModuleError is returned, wrapped, for a request that needs a kernel module which is missing; see NoModule.
type NoModuleError struct{ Module string } // "vxcan", "can-gw", "act_police"

func (e *NoModuleError) Error() string { return "the kernel module " + e.Module + " is missing" }

// NoModule returns err, or a NoModuleError in its place if it is missing, the kernel's answer where it lacks the module.
func NoModule(err, missing error, module string) error {
	if errors.Is(err, missing) {
		return &NoModuleError{Module: module}
	}
	return err
}

// meaning adds to an error number of the kernel what it means whatever the request.
func meaning(err error) error {
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		return fmt.Errorf("%w: %w", ErrPermission, err)
	}
	return err
}
