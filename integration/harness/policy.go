package harness

import (
	"testing"

	"github.com/vxcan/vxcan/pkg/cantest"
)

// ExpectSends sends two frames from a container, and fails the test unless the hub hears those that it may send.
func ExpectSends(t *testing.T, from Station, hub string, first, second bool) {
	t.Helper()
	ExpectPass(t, from, Host(hub), first, second)
}

// ExpectPass is ExpectSends for any receiver.
func ExpectPass(t *testing.T, from, to Station, first, second bool) {
	t.Helper()
	l, s := cantest.Listen(t, to.Netns, to.IfName), cantest.NewSender(t, from.Netns, from.IfName)
	defer l.Close()
	defer s.Close()
	frames := map[cantest.Frame]bool{{ID: 0x100}: first, {ID: 0x200}: second}
	want := 0
	for f, may := range frames {
		if may {
			want++
		}
		if err := s.Send(f); err != nil {
			t.Error(err)
		}
	}
	cantest.WaitQuiet(want, l)
	for f, may := range frames {
		if got := l.Has(f); got != may {
			t.Errorf("from %s to %s: %03X arrives: %v, want %v", from.Name, to.Name, f.ID, got, may)
		}
	}
}
