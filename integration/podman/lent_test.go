package podman

import (
	"regexp"
	"strings"
	"testing"

	"github.com/vxcan/vxcan/integration/harness"
	"github.com/vxcan/vxcan/pkg/cantest"
)

// TestLent: a user without any rights has containers on a bus of the host, and on a controller, with what root consents to and
// with nothing else.
func TestLent(t *testing.T) {
	p := harness.NewRootlessPodman(t, "lent0")
	harness.Lends(t)
	lend := func(args ...string) string { return harness.Vxcanctl(t, append([]string{"lend"}, args...)...) }
	start := func(name string) error {
		_, err := harness.TryAsUser("podman", "run", "-d", "--network", "lent0", "--name", name, "busybox")
		return err
	}
	if err := start("early"); err == nil || !strings.Contains(err.Error(), "no bus is lent on this host to user 4242: sudo vxcanctl lend HUB --user 4242") {
		t.Errorf("not lent: %v", err)
	}

	lend("vcan0", "--user", harness.RootlessUser)
	p.Run("a", "--network", "lent0")
	p.Run("b", "--network", "lent0")
	c := harness.NewContainer(t, "c")
	harness.On(c).Add(t)
	stations := func() []harness.Station {
		return []harness.Station{harness.Host("vcan0"), p.Station("a", "can0"), p.Station("b", "can0"), c.On("can0")}
	}
	harness.ExpectExactlyOnce(t, stations(), 500, true)
	p.Do("restart", "--time", "0", "a")
	harness.ExpectExactlyOnce(t, stations(), 5, true)
	harness.Command(t, "ip", "link", "del", "vcan0")
	harness.Vxcanctl(t, "heal")
	harness.ExpectExactlyOnce(t, stations(), 5, true)

	// Narrowed: from the next start on.
	if said := lend("vcan0", "--user", harness.RootlessUser, "--send", "100"); !strings.Contains(said, "vcan0: a runs with no policy until it starts again") {
		t.Errorf("vxcanctl lend says %q", said)
	}
	p.Do("restart", "--time", "0", "a", "b")
	harness.ExpectSends(t, p.Station("a", "can0"), "vcan0", true, false)
	if said := harness.Vxcanctl(t, "status"); !strings.Contains(said, "healthy") || !strings.Contains(said, "send 100") ||
		!regexp.MustCompile(`(?m)^  a +lent-4242 +lent0 +can0 `).MatchString(said) {
		t.Errorf("status of the host:\n%s", said)
	}

	// What ends all of the user's ends his endpoints too.
	harness.LogOut(t)
	p.Do("start", "a", "b")
	harness.ExpectSends(t, p.Station("b", "can0"), "vcan0", true, false)

	// Revoked: at once, and for good.
	if said := lend("vcan0", "--user", harness.RootlessUser, "--revoke"); strings.Count(said, "off the bus") != 2 {
		t.Errorf("vxcanctl lend --revoke says %q", said)
	}
	if _, err := harness.TryAsUser("podman", "exec", "a", "ip", "link", "show", "can0"); err == nil {
		t.Error("a container still has its interface")
	}
	if err := start("late"); err == nil || !strings.Contains(err.Error(), "no bus is lent on this host to user 4242") {
		t.Errorf("revoked: %v", err)
	}
	p.Do("rm", "--force", "--time", "0", "a", "b", "early", "late")
	if n := harness.Recorded(t, "vcan0"); n != 1 {
		t.Errorf("%d endpoints on record, want that of root", n)
	}

	// A controller, of the name that the network has: on the wire, also after the adapter was pulled out.
	harness.On(c).OK(t, "DEL")
	harness.Vxcanctl(t, "remove", "vcan0")
	adapter := cantest.NewController(t, "vcan0")
	lend("vcan0", "--user", harness.RootlessUser, "--physical", "--bitrate", "500000")
	p.Run("d", "--network", "lent0")
	onWire := []harness.Station{harness.Host("vcan0"), p.Station("d", "can0")}
	harness.ExpectOnWire(t, adapter, onWire, 20)
	harness.ExpectErrorFrames(t, adapter, onWire...)
	adapter.Unplug()
	adapter = cantest.NewController(t, "vcan0")
	harness.Vxcanctl(t, "heal", "vcan0")
	harness.ExpectOnWire(t, adapter, onWire, 20)
	p.Do("rm", "--force", "--time", "0", "d")
}
