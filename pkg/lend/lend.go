// Package lend puts containers of a user without rights on a bus of the host, where root has consented. The user's front end
// asks a service of root over a socket, and hands over the container's network namespace; the service looks up the consent
// and does what a front end of root would do, with the settings and the policy of the consent.
//
// Every caller is treated as hostile. The service accepts no path, no setting of the bus and no policy from him: only names, and
// a network namespace that must be his.
package lend

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/vxcan/vxcan/pkg/bus"
	"github.com/vxcan/vxcan/pkg/config"
	"github.com/vxcan/vxcan/pkg/plan"
	"github.com/vxcan/vxcan/pkg/store"
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

// kind is an error that a front end tells apart.
type kind struct {
	name string
	is   error
	err  error // what it is for the front end
}

// kinds are what front ends tell apart, the special before the general.
var kinds = []kind{
	{"name taken", bus.ErrNameTaken, bus.ErrNameTaken},
	{"invalid", config.ErrInvalid, config.ErrInvalid},
	{"netns", bus.ErrInvalidNetns, bus.ErrInvalidNetns},
	{"not ready", plan.ErrNotReady, plan.ErrNotReady},
	{"not ready", store.ErrLocked, plan.ErrNotReady},
	{"kernel", bus.ErrNoKernelSupport, bus.ErrNoKernelSupport},
}

// failure is the answer for an error, or for none.
func failure(err error) (a answer) {
	const most = 20 // differences
	var damage bus.Damage
	switch {
	case err == nil:
	case errors.As(err, &damage):
		for _, d := range damage[:min(len(damage), most)] {
			a.Damage = append(a.Damage, hidePath(d))
		}
		if more := len(damage) - most; more > 0 {
			a.Damage = append(a.Damage, fmt.Sprintf("and %d more", more))
		}
	default:
		a.Error = hidePath(config.OneLine(err))
		if i := slices.IndexFunc(kinds, func(k kind) bool { return errors.Is(err, k.is) }); i >= 0 {
			a.Kind = kinds[i].name
		}
	}
	return a
}

// hidePath takes out what only this process calls the network namespace of the container.
func hidePath(text string) string { return ownPath.ReplaceAllString(text, "its network namespace") }

var ownPath = regexp.MustCompile(`/proc/self/fd/\d+`)

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
	if i := slices.IndexFunc(kinds, func(k kind) bool { return k.name == a.Kind }); i >= 0 {
		e.kind = kinds[i].err
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
	if err := config.CheckHub(r.Hub); err != nil && (r.Verb != detach || r.Hub != "") {
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
