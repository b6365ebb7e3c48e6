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
	"github.com/vxcan/vxcan/pkg/plan"
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
	Kind    string       `json:"kind,omitempty"` // of the error, see kinds
	Damage  []string     `json:"damage,omitempty"`
}

// kinds are what front ends tell apart, the special before the general.
var kinds = []struct {
	name string
	err  error
}{
	{"name taken", bus.ErrNameTaken}, {"invalid", config.ErrInvalid}, {"netns", bus.ErrInvalidNetns}, {"not ready", plan.ErrNotReady},
	{"kernel", bus.ErrNoKernelSupport},
}

// refusal is the answer for an error.
func refusal(err error) answer {
	a := answer{Error: config.OneLine(err)}
	for _, k := range kinds {
		if a.Kind == "" && errors.Is(err, k.err) {
			a.Kind = k.name
		}
	}
	return a
}

// remoteError is the error of an answer.
type remoteError struct {
	text string
	kind error // or nil
}

func (e *remoteError) Error() string { return e.text }
func (e *remoteError) Unwrap() error { return e.kind }

func (a answer) err() error {
	if a.Error == "" {
		return nil
	}
	e := &remoteError{text: a.Error}
	for _, k := range kinds {
		if k.name == a.Kind {
			e.kind = k.err
		}
	}
	return e
}

// validate takes what runtimes make of names, and nothing that a terminal or a shell would take for more: these names end in
// the record, in devices' aliases and before people's eyes.
func (r *request) validate() error {
	const longest = 128
	const allowed = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"
	if r.Verb != attach && r.Verb != detach && r.Verb != check {
		return fmt.Errorf("%w: verb %.20q: want attach, detach or check", ErrRefused, string(r.Verb))
	}
	if err := config.CheckHub(r.Hub); err != nil {
		return err
	}
	for _, name := range []struct{ what, text string }{
		{"network", r.Network}, {"containerID", r.ContainerID}, {"ifName", r.IfName}, {"entry", r.Entry}, {"name", r.Name},
	} {
		if rest := strings.Trim(strings.Replace(name.text, "%d", "", 1), allowed); len(name.text) > longest || rest != "" {
			return fmt.Errorf("%w %s %.*q: a lent bus takes letters, digits, '.', '_' and '-', at most %d", config.ErrInvalid, name.what, longest, name.text, longest)
		}
	}
	return nil
}
