package plan

import (
	"cmp"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/cantc"
	"github.com/vxcan/vxcan/pkg/config"
)

// access is a policy as the kernel carries it out.
type access struct {
	allowed []unix.SockFilter // matches what it may send
	denied  []unix.SockFilter // matches what it may not receive, nil if there is nothing
	limited bool              // there may be frames that it may not send
	limit   []cantc.Action    // of the rate, perhaps none
}

// everything is what a member without a policy may do.
var everything, _ = compile(config.Policy{})

// nothing is the policy of an endpoint that is cut off.
var nothing = config.Policy{Send: "none", Receive: "none"}

// CheckPolicy fails with ErrInvalid for a policy that cannot be read, or that is too long for the kernel.
func CheckPolicy(p config.Policy) error {
	if p == (config.Policy{}) {
		return nil
	}
	_, err := compile(p)
	return err
}

// compile fails as CheckPolicy says. Error frames are never sent, and are received unless receive is "none".
func compile(p config.Policy) (a access, err error) {
	send, receive, err := p.IDs()
	if err != nil {
		return access{}, err
	}
	a = access{limited: !send.All()}
	if a.allowed, err = send.Allowing(); err != nil {
		return access{}, fmt.Errorf("%w send: %w", config.ErrInvalid, err)
	}
	if a.denied, err = receive.Denying(!receive.None()); err != nil {
		return access{}, fmt.Errorf("%w receive: %w", config.ErrInvalid, err)
	}
	if p.Rate != 0 {
		a.limit = []cantc.Action{cantc.Limit(p.Rate, cmp.Or(p.Burst, config.DefaultBurst))}
	}
	return a, nil
}
