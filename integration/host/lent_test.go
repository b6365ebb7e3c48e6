package host

import (
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vxcan/vxcan/integration/harness"
	"github.com/vxcan/vxcan/pkg/cantest"
)

// expectHealthy fails the test unless a bus has so many endpoints, and nothing to repair.
func expectHealthy(t *testing.T, endpoints int) {
	t.Helper()
	if s := harness.StatusOf(t, "vcan0"); len(s) != 1 || len(s[0].Endpoints) != endpoints || len(s[0].Differences) > 0 {
		t.Errorf("status: %v, want %d endpoints and no difference", s, endpoints)
	}
	if said := harness.Vxcanctl(t, "heal"); said != "vcan0: nothing to repair\n" {
		t.Errorf("heal has something to repair: %s", said)
	}
}

// TestLentKilled: the service that lends is killed at a message of an attach: to the kernel (sendto), or at what it writes (the
// record, its log, its answer). The user's next call puts right what is left of it, and so does the same one, which asks again.
func TestLentKilled(t *testing.T) {
	harness.FreshHost(t)
	harness.NewUser(t)
	lender := harness.NewLender(t)
	harness.Vxcanctl(t, "lend", "vcan0", "--user", harness.RootlessUser, "--rate", "100000")
	a, b := harness.NewUserContainer(t, "a"), harness.NewUserContainer(t, "b")
	harness.OnLent(a).Add(t)
	stations := []harness.Station{harness.Host("vcan0"), a.On("can0"), b.On("can0")}
	round := 0
	at := func(name string) func(t *testing.T, n int) bool {
		return func(t *testing.T, n int) (reached bool) {
			lender.KillEach(t, name, n)
			first := harness.OnLent(b)
			first.Run = func(cmd *exec.Cmd) error { // which does not wait for another service
				if err := cmd.Start(); err != nil {
					return err
				}
				ended := make(chan error, 1)
				go func() { ended <- cmd.Wait() }()
				for !lender.HasKilled() && len(ended) == 0 {
					time.Sleep(10 * time.Millisecond)
				}
				_ = cmd.Process.Kill()
				return <-ended
			}
			_, _, err := first.Exec(t, "ADD")
			if reached = lender.KillNone(t); !reached {
				if err != nil {
					t.Error(err)
				}
				return reached
			}
			if round++; round%2 == 0 { // else DEL finds what the killed service has left
				harness.OnLent(b).Add(t)
				expectHealthy(t, 2)
			}
			harness.OnLent(b).OK(t, "DEL")
			expectHealthy(t, 1)

			lender.KillOnce(t, name, n)
			harness.OnLent(b).Add(t)
			t.Logf("killed in an ADD that asks again: %t", lender.KillNone(t)) // the calls of a thread are counted, and not always the same
			expectHealthy(t, 2)
			harness.ExpectExactlyOnce(t, stations, 5, true)
			lender.KillOnce(t, name, n)
			harness.OnLent(b).OK(t, "DEL")
			lender.KillNone(t)
			expectHealthy(t, 1)
			return reached
		}
	}
	harness.AtEach(t, "sendto", at("sendto"))
	for n := 1; n <= 2; n++ {
		t.Run(fmt.Sprint("write ", n), func(t *testing.T) {
			if reached := at("write")(t, n); !reached && n == 1 {
				t.Error("the service was not killed")
			}
		})
	}
}

// TestLentAgain: an ADD of a container that is on a lent bus fails, because nobody takes its result, and the container keeps its
// interface. DEL takes that off, also when the key lent was removed from its network by then.
func TestLentAgain(t *testing.T) {
	harness.FreshHost(t)
	harness.NewUser(t)
	harness.NewLender(t)
	harness.Vxcanctl(t, "lend", "vcan0", "--user", harness.RootlessUser)
	c := harness.NewUserContainer(t, "c")
	lent := harness.OnLent(c)
	edited := lent.With(`"lent":false`)
	edited.Wrap = append(edited.Wrap, "unshare", "--user", "--map-root-user", "--net") // where a rootless runtime calls
	for _, del := range []harness.Call{lent, edited} {
		lent.Add(t)
		if _, log, err := lent.Untaken().Exec(t, "ADD"); err == nil {
			t.Errorf("ADD without a result succeeds: %s", log)
		}
		inside := func() string {
			return harness.Command(t, "nsenter", "--net="+c.Path, "ip", "-brief", "link", "show", "type", "vxcan")
		}
		if got := inside(); !strings.HasPrefix(got, "can0@") {
			t.Errorf("in the container after an ADD that failed: %q", got)
		}
		del.OK(t, "DEL")
		if got := inside(); got != "" {
			t.Errorf("in the container after DEL: %s", got)
		}
	}
}

// TestLentAtOnce: twelve containers of a user start at once where eight may be on the bus. A revocation takes these off while
// they send.
func TestLentAtOnce(t *testing.T) {
	harness.FreshHost(t)
	harness.NewUser(t)
	harness.Lends(t)
	lend := func(args ...string) string {
		return harness.Vxcanctl(t, append([]string{"lend", "vcan0", "--user", harness.RootlessUser}, args...)...)
	}
	asUser := func(command string) (string, error) {
		return harness.TryAsUser(harness.BinDir(t)+"/vxcanctl", command)
	}
	if said, err := asUser("lend"); err != nil || said != "nothing is lent: sudo vxcanctl lend HUB --user driver\n" {
		t.Errorf("a user is shown %q, %v", said, err)
	}
	lend("--limit", "8")
	root := harness.NewContainer(t, "root")
	harness.On(root).Add(t)
	stations := []harness.Station{harness.Host("vcan0"), root.On("can0")}
	const containers, limit = 12, 8
	boxes, errs := make([]*harness.Container, containers), make([]error, containers)
	var all sync.WaitGroup
	for i := range boxes {
		boxes[i] = harness.NewUserContainer(t, fmt.Sprint("c", i))
	}
	for i, box := range boxes {
		all.Add(1)
		go func() {
			defer all.Done()
			_, _, errs[i] = harness.OnLent(box).Exec(t, "ADD")
		}()
	}
	all.Wait()
	var attached []*harness.Container
	for i, err := range errs {
		switch {
		case err == nil:
			attached = append(attached, boxes[i])
			stations = append(stations, boxes[i].On("can0"))
		case !strings.Contains(err.Error(), "8 interfaces of lent-4242 are on bus vcan0 already, and no more are allowed (vxcanctl lend --limit)"):
			t.Error(err)
		}
	}
	if len(attached) != limit {
		t.Fatalf("%d of %d are on the bus, want %d", len(attached), containers, limit)
	}
	expectHealthy(t, limit+1)
	harness.ExpectExactlyOnce(t, stations, 10, true)
	if said, err := asUser("lend"); err != nil || said != "vcan0  driver  no policy, 8 of 8 interfaces\n" {
		t.Errorf("the user is shown %q, %v", said, err)
	}
	if _, err := asUser("status"); err == nil || !strings.Contains(err.Error(), "what is lent to you: vxcanctl lend") {
		t.Errorf("the user's status: %v", err)
	}

	sent := make([]error, limit)
	for i, box := range attached {
		sender := cantest.NewSender(t, box.Netns, "can0")
		all.Add(1)
		go func() {
			defer all.Done()
			for end := time.Now().Add(time.Minute); sent[i] == nil && time.Now().Before(end); time.Sleep(time.Millisecond) {
				sent[i] = sender.Send(cantest.Frame{ID: 0x100, Data: box.ID})
			}
		}()
	}
	said := lend("--revoke")
	all.Wait() // for their interfaces to go
	if strings.Count(said, "off the bus") != limit || slices.Contains(sent, nil) {
		t.Errorf("vxcanctl lend --revoke says %q; sending ended with %v", said, errors.Join(sent...))
	}
	if ends := harness.HostEnds(t); len(ends) != 1 {
		t.Errorf("host ends %q, want that of root", ends)
	}
	expectHealthy(t, 1)
	harness.ExpectExactlyOnce(t, stations[:2], 10, true)
	for i, box := range boxes {
		if _, _, err := harness.OnLent(box).Exec(t, "DEL"); err != nil {
			t.Errorf("DEL of %d: %v", i, err)
		}
	}
}
