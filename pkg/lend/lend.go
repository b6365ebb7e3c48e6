// Package lend puts containers of a user without rights on a bus of the host, where root has consented. The user's front end
// asks a service of root over a socket, and hands over the container's network namespace; the service looks up the consent
// and does what a front end of root would do, with the settings and the policy of the consent.
//
// Who asks is hostile. The service takes from him no path, no setting of the bus and no policy: a name of a hub, that of the
// interface, names for the record, and a namespace that must be his.
package lend

import (
	"errors"
	"fmt"
	"strings"

	"github.com/vxcan/vxcan/pkg/bus"
	"github.com/vxcan/vxcan/pkg/config"
)

// Socket is where the service listens, a sequenced-packet socket (unix(7)): a packet is a request, or its answer. It is below
// /var/lib because Podman hides /run from its network plugins.
const Socket = "/var/lib/vxcan/lend"

// maxPacket bounds a request, in bytes.
const maxPacket = 16 << 10

// runtimePrefix and the user's ID are the front end of what is lent to that user.
const runtimePrefix = "lent-"

// RuntimeOf is the front end that the attachments of a user belong to.
func RuntimeOf(uid uint32) string { return fmt.Sprint(runtimePrefix, uid) }

// UserOf is the ID of the user that a front end's attachments are lent to. ok is false for any other front end.
func UserOf(runtime string) (uid string, ok bool) { return strings.CutPrefix(runtime, runtimePrefix) }

// ErrRefused is a request that the lender does not grant.
var ErrRefused = errors.New("refused")

// verb is what a request asks for.
type verb string

const (
	attach verb = "attach"
	detach verb = "detach"
	check  verb = "check"
)

// request is what a borrower sends. With attach and check, the container's network namespace comes along (SCM_RIGHTS).
type request struct {
	Verb        verb     `json:"verb"`
	Hub         string   `json:"hub"`
	Network     string   `json:"network"`
	ContainerID string   `json:"containerID"`
	IfName      string   `json:"ifName"`
	Entry       string   `json:"entry"`
	Name        string   `json:"name"`      // of the container, for people
	Interface   string   `json:"interface"` // in the container
	ContIfs     []string `json:"contIfs,omitempty"`
}

// answer is what comes back. Damage is that of bus.Check.
type answer struct {
	Results []bus.Result `json:"results,omitempty"`
	Error   string       `json:"error,omitempty"`
	Invalid bool         `json:"invalid,omitempty"` // the error is a config.ErrInvalid
	Damage  []string     `json:"damage,omitempty"`
}

// names are those of a request that end in the record, in devices' aliases and before people's eyes.
func (r *request) names() map[string]string {
	return map[string]string{"network": r.Network, "containerID": r.ContainerID, "ifName": r.IfName, "entry": r.Entry, "name": r.Name}
}

// checkNames takes what runtimes make of names, and nothing that a terminal or a shell would take for more.
func (r *request) checkNames() error {
	const longest = 128
	const allowed = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"
	for what, name := range r.names() {
		if rest := strings.Trim(strings.Replace(name, "%d", "", 1), allowed); len(name) > longest || rest != "" {
			return fmt.Errorf("%w %s %.*q: a lent bus takes letters, digits, '.', '_' and '-', at most %d", config.ErrInvalid, what, longest, name, longest)
		}
	}
	return nil
}
