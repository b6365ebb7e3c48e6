package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"

	"github.com/vxcan/vxcan/pkg/config"
	"github.com/vxcan/vxcan/pkg/plan"
	"github.com/vxcan/vxcan/pkg/store"
)

// The messages of Docker's remote network driver protocol (moby daemon/libnetwork/drivers/remote/api), as far as they
// matter here. What else Docker says is ignored.

type createNetworkRequest struct {
	networkRequest
	Options            map[string]any
	IPv4Data, IPv6Data []struct{ AddressSpace, Pool string }
}

type networkRequest struct{ NetworkID string }

type createEndpointRequest struct {
	endpointRequest
	Interface struct{ Address, AddressIPv6, MacAddress string }
	Options   map[string]any
}

type endpointRequest struct{ NetworkID, EndpointID string }

type joinRequest struct {
	endpointRequest
	SandboxKey string // path of the container's netns
}

type joinResponse struct {
	// InterfaceName makes Docker move SrcName into the container, and name it DstPrefix and a number; nil moves nothing.
	InterfaceName *interfaceName
	// DisableGatewayService keeps Docker from giving the container an Ethernet interface on docker_gwbridge.
	DisableGatewayService bool
}

type interfaceName struct{ SrcName, DstPrefix string }

// mediaType is what Docker accepts; it looks at nothing but the body.
const mediaType = "application/vnd.docker.plugins.v1.2+json"

type object = map[string]any

// handler answers every call of the protocol.
func (d *driver) handler() http.Handler {
	mux := http.NewServeMux()
	answer(mux, "/Plugin.Activate", object{"Implements": []string{"NetworkDriver"}})
	answer(mux, "/NetworkDriver.GetCapabilities", object{"Scope": "local", "ConnectivityScope": "local", "GwAllocChecker": false})
	handle(mux, "CreateNetwork", d.createNetwork)
	handle(mux, "DeleteNetwork", d.deleteNetwork)
	handle(mux, "CreateEndpoint", d.createEndpoint)
	handle(mux, "DeleteEndpoint", d.deleteEndpoint)
	handle(mux, "Join", d.join)
	handle(mux, "Leave", d.leave)
	answer(mux, "/NetworkDriver.EndpointOperInfo", object{"Value": object{}})
	// A CAN bus has no gateway, no ports and no swarm: nothing to do.
	answer(mux, "/NetworkDriver.GwAllocCheck", object{"SkipIPv4": true, "SkipIPv6": true})
	answer(mux, "/NetworkDriver.AllocateNetwork", object{"Options": object{}})
	for _, call := range []string{"FreeNetwork", "ProgramExternalConnectivity", "RevokeExternalConnectivity", "DiscoverNew", "DiscoverDelete"} {
		answer(mux, "/NetworkDriver."+call, object{})
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		refuse(w, http.StatusNotFound, fmt.Errorf("no such call: %s", r.URL.Path))
	})
	return mux
}

// answer answers a call with the same words every time.
func answer(mux *http.ServeMux, path string, response any) {
	mux.HandleFunc("POST "+path, func(w http.ResponseWriter, _ *http.Request) { reply(w, http.StatusOK, response) })
}

// handle answers a call by a verb.
func handle[Request interface{ check() error }](mux *http.ServeMux, call string, verb func(context.Context, *slog.Logger, Request) (any, error)) {
	mux.HandleFunc("POST /NetworkDriver."+call, func(w http.ResponseWriter, r *http.Request) {
		log := slog.With("cmd", call)
		var request Request
		if err := json.NewDecoder(r.Body).Decode(&request); err != nil {
			if errors.Is(err, io.EOF) {
				err = errors.New("the request is empty: Docker repeats one that way when the driver died over it; try again")
			}
			log.Error("bad request", "err", err)
			refuse(w, http.StatusBadRequest, err)
			return
		}
		var response any
		err := request.check()
		if err == nil {
			response, err = verb(r.Context(), log, request)
		}
		if err != nil {
			log.Error("failed", "err", err, "request", request)
			refuse(w, status(err), err)
			return
		}
		reply(w, http.StatusOK, response)
	})
}

func status(err error) int {
	switch {
	case errors.Is(err, config.ErrInvalid):
		return http.StatusBadRequest
	case errors.Is(err, errUnknownNetwork):
		return http.StatusConflict // not 404, by which Docker understands that there is no such call
	case errors.Is(err, store.ErrLocked), errors.Is(err, plan.ErrNotReady):
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

// refuse is how an error gets to the user: dockerd looks for Err.
func refuse(w http.ResponseWriter, status int, err error) {
	reply(w, status, object{"Err": config.OneLine(err)})
}

func reply(w http.ResponseWriter, status int, response any) {
	w.Header().Set("Content-Type", mediaType)
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(response); err != nil {
		slog.Info("the answer did not get through", "err", err)
	}
}
