package bus

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/canid"
	"github.com/vxcan/vxcan/pkg/cantc"
)

// DefaultBurst is how many frames a container with a rate may send at once.
const DefaultBurst = 10

// Policy is what an endpoint may send and hear, as the network's configuration says it. The zero Policy allows all.
type Policy struct {
	Send    string `json:"send,omitempty"`    // as canid.ParseIDs reads it; "" is all
	Receive string `json:"receive,omitempty"` // the same
	Rate    uint32 `json:"rate,omitempty"`    // frames per second that it may send; 0 is any number
	Burst   uint32 `json:"burst,omitempty"`   // of them at once; 0 is DefaultBurst
}

// String is the policy as it is configured.
func (p Policy) String() string {
	var words []string
	add := func(key string, value any, set bool) {
		if set {
			words = append(words, fmt.Sprintf("%s %v", key, value))
		}
	}
	add("send", p.Send, p.Send != "")
	add("receive", p.Receive, p.Receive != "")
	add("rate", p.Rate, p.Rate != 0)
	add("burst", p.Burst, p.Burst != 0)
	if words == nil {
		return "no policy"
	}
	return strings.Join(words, ", ")
}

// access is a policy as the kernel carries it out.
type access struct {
	sends, hears bool              // anything at all
	allowed      []unix.SockFilter // matches what it may send
	denied       []unix.SockFilter // matches what it may not hear, nil if there is nothing
	limited      bool              // there may be frames that it may not send
	limit        []cantc.Action    // of the rate, perhaps none
}

// nothing is the access of an endpoint that is cut off.
var nothing = Policy{Send: "none", Receive: "none"}

// compile fails with ErrInvalid for a policy that cannot be read, or that is too long for the kernel.
func (p Policy) compile() (a access, err error) {
	send, errSend := parseIDs("send", p.Send)
	receive, errReceive := parseIDs("receive", p.Receive)
	if err := errors.Join(errSend, errReceive); err != nil {
		return access{}, err
	}
	a = access{sends: !send.None(), hears: !receive.None(), limited: !send.All()}
	if a.allowed, err = send.Allowing(); err != nil {
		return access{}, fmt.Errorf("%w send: %w", ErrInvalid, err)
	}
	if a.denied, err = receive.Denying(true); err != nil {
		return access{}, fmt.Errorf("%w receive: %w", ErrInvalid, err)
	}
	if p.Rate != 0 {
		burst := p.Burst
		if burst == 0 {
			burst = DefaultBurst
		}
		a.limit = []cantc.Action{cantc.Limit(p.Rate, burst)}
	}
	return a, nil
}

func parseIDs(key, text string) (canid.IDs, error) {
	if text == "" {
		text = "all"
	}
	ids, err := canid.ParseIDs(text)
	if err != nil {
		return ids, fmt.Errorf("%w %s: %w", ErrInvalid, key, err)
	}
	return ids, nil
}
