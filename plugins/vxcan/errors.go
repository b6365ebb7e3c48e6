package main

import (
	"encoding/json"
	"errors"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/vxcan/vxcan/pkg/bus"
	"github.com/vxcan/vxcan/pkg/config"
	"github.com/vxcan/vxcan/pkg/plan"
	"github.com/vxcan/vxcan/pkg/store"
)

// Codes of our own, which the CNI specification leaves to plugins from 100 on.
const (
	codeNoKernelSupport uint = 100
	codePermission      uint = 101
	codeDamage          uint = 102
)

// cniError gives an error the code that the CNI specification has for it. That of STATUS has its own.
func cniError(err error) error {
	var (
		coded    *types.Error
		unusable *store.UnusableError
		syntax   *json.SyntaxError
		damage   bus.Damage
	)
	code := types.ErrInternal
	switch {
	case err == nil || errors.As(err, &coded):
		return err
	case errors.Is(err, bus.ErrInvalidNetns):
		code = types.ErrInvalidEnvironmentVariables
	case errors.Is(err, config.ErrInvalid):
		code = types.ErrInvalidNetworkConfig
	case errors.Is(err, store.ErrLocked), errors.Is(err, plan.ErrNotReady):
		code = types.ErrTryAgainLater
	case errors.Is(err, bus.ErrNoKernelSupport):
		code = codeNoKernelSupport
	case errors.Is(err, bus.ErrPermission):
		code = codePermission
	case errors.As(err, &damage):
		code = codeDamage
	case errors.As(err, &syntax):
		code = types.ErrDecodingFailure
	case errors.Is(err, store.ErrIO), errors.As(err, &unusable):
		code = types.ErrIOFailure
	}
	return types.NewError(code, config.OneLine(err), "")
}
