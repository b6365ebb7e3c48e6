package once

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/containernetworking/plugins/pkg/ns"
	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/integration/harness"
	"github.com/vxcan/vxcan/pkg/cantest"
)

// says runs vxcanctl, which must succeed, and fails the test unless this is what it says on stdout.
func says(t *testing.T, want string, args ...string) {
	t.Helper()
	out, words, status := harness.Control(t, nil, args...)
	if status != 0 || out != want {
		t.Errorf("vxcanctl %s: exit status %d, %q, %s; want %q", strings.Join(args, " "), status, out, words, want)
	}
}

// refuses runs vxcanctl, which must fail with one line that has these words.
func refuses(t *testing.T, words string, args ...string) {
	t.Helper()
	out, said, status := harness.Control(t, nil, args...)
	if status != 1 || out != "" || strings.Count(said, "\n") != 1 || !strings.HasPrefix(said, "vxcanctl: ") || !strings.Contains(said, words) {
		t.Errorf("vxcanctl %s: exit status %d, %q, %q; want %q", strings.Join(args, " "), status, out, said, words)
	}
}

// isolated starts a process in a network namespace that only it keeps.
func isolated(t *testing.T) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sleep", "1000")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = cmd.Process.Kill(), cmd.Wait() })
	return cmd
}

// closing closes the sockets of a part of a test at its end, so that they do not hold their network namespaces.
func closing(t *testing.T, part func(t *testing.T)) {
	t.Helper()
	t.Run("frames", part)
}

// TestAttach: a namespace of ip netns, that of a process, a container and programs on the host on one bus hear each other
// once. The bus survives its hub, what is gone goes from the record, and the bus goes when nothing is on it.
func TestAttach(t *testing.T) {
	harness.FreshHost(t)
	rig, c, process := harness.NewContainer(t, "rig"), harness.NewContainer(t, "c"), isolated(t)
	pid := strconv.Itoa(process.Process.Pid)
	result, _ := harness.On(c).Add(t)
	says(t, "vcan0: rig has can0\n", "attach", "vcan0", "--netns", "rig")
	before := harness.CANLinks(t)
	says(t, "vcan0: rig has can0\n", "attach", "vcan0", "--netns", rig.Path)
	says(t, "vcan0: sleep has can5\n", "attach", "vcan0", "--pid", pid, "-o", "interface=can5", "--mtu", "72")
	says(t, "vcan0: sleep has can5\n", "attach", "vcan0", "--netns", "/proc/"+pid+"/ns/net", "--interface", "can5")
	if after := harness.CANLinks(t); len(after) != len(before)+1 {
		t.Errorf("before %v, after %v", before, after)
	}
	harness.ExpectBus(t, "vcan0", 3)
	whole := func(n int) {
		t.Helper()
		stations := []harness.Station{{Name: "host", Netns: nil, IfName: "vcan0"}, {Name: "c", Netns: c.Netns, IfName: "can0"}, {Name: "rig", Netns: rig.Netns, IfName: "can0"}}
		closing(t, func(t *testing.T) {
			if n == 2 {
				harness.ExpectExactlyOnce(t, stations, 20, true)
				return
			}
			netns, err := ns.GetNS(fmt.Sprintf("/proc/%d/ns/net", process.Process.Pid))
			if err != nil {
				t.Fatal(err)
			}
			defer netns.Close()
			harness.ExpectExactlyOnce(t, append(stations, harness.Station{Name: "process", Netns: netns, IfName: "can5"}), 20, true)
		})
	}
	whole(3)
	harness.Command(t, "ip", "link", "del", "vcan0")
	says(t, "vcan0: made the hub again, set 2 filters, added 4 rules\n", "heal")
	says(t, "vcan0: nothing to repair\n", "heal", "vcan0")
	whole(3)
	refuses(t, "bus vcan0: it is in use by "+fmt.Sprintf("cni canbus0/c/eth0, rig (host vcan0/%s/can0), sleep (host vcan0/", netnsNumber(t, rig)), "remove", "vcan0")
	harness.ExpectBus(t, "vcan0", 3)

	_, _ = process.Process.Kill(), process.Wait()
	waitForEnds(t, 2)
	says(t, "vcan0: corrected the record\n", "heal", "vcan0")
	if got := harness.Recorded(t, "vcan0"); got != 2 {
		t.Errorf("%d endpoints in the record, want 2", got)
	}
	whole(2)

	says(t, "vcan0: detached can0 of rig\n", "detach", "vcan0", "--netns", "rig")
	says(t, "vcan0: nothing to detach: there is no can0 of rig on it\n", "detach", "vcan0", "--netns", "rig")
	harness.ExpectWiring(t, true, "vcan0", harness.HostIf(result))
	says(t, "vcan0: rig has can0\n", "attach", "vcan0", "--netns", "rig", "--name", "rig")
	rig.Netns.Close()
	harness.Command(t, "ip", "netns", "del", "rig")
	waitForEnds(t, 1)
	if _, log := harness.On(harness.NewContainer(t, "late")).Add(t); !strings.Contains(log, "dropped the record of host vcan0/") {
		t.Errorf("the next ADD of the bus: %s", log)
	}
	says(t, "vcan0: nothing to detach: there is no such network namespace: /run/netns/rig\n", "detach", "vcan0", "--netns", "rig")
	harness.Call{ContainerID: "late", Netns: "/run/netns/late"}.OK(t, "DEL")
	harness.On(c).OK(t, "DEL")
	says(t, "vcan0: removed\n", "remove", "vcan0")
	refuses(t, "bus vcan0: there is no such bus", "remove", "vcan0")
	refuses(t, "bus vcan0: there is no such bus", "heal", "vcan0")
	says(t, "", "heal", "--udev", "vcan0")
	says(t, harness.NoBus, "heal")
	harness.ExpectNothing(t)
}

// waitForEnds waits until so many host ends are left: the kernel takes its time with a network namespace.
func waitForEnds(t *testing.T, n int) {
	t.Helper()
	harness.WaitGone(t, "the pairs of what is gone to go", func() string {
		if all := harness.HostEnds(t); len(all) != n {
			return fmt.Sprint(all)
		}
		return ""
	})
}

// netnsNumber is the kernel's number of a container's network namespace.
func netnsNumber(t *testing.T, c *harness.Container) string {
	t.Helper()
	return strings.TrimSpace(harness.Command(t, "stat", "-L", "-c", "%i", c.Path))
}

// TestAttachPolicy: the policy of a namespace holds, another one replaces it, and it outlives the hub.
func TestAttachPolicy(t *testing.T) {
	harness.FreshHost(t)
	rig := harness.NewContainer(t, "rig")
	at := harness.Station{Name: "rig", Netns: rig.Netns, IfName: "can0"}
	host := harness.Station{Name: "host", Netns: nil, IfName: "vcan0"}
	harness.Vxcanctl(t, "attach", "vcan0", "--netns", "rig", "--send", "100", "-o", "receive=200")
	harness.ExpectPass(t, at, host, true, false)
	harness.ExpectPass(t, host, at, false, true)
	harness.Command(t, "ip", "link", "del", "vcan0")
	harness.Command(t, "cangw", "-F")
	harness.Vxcanctl(t, "heal")
	harness.ExpectPass(t, at, host, true, false)
	harness.ExpectPass(t, host, at, false, true)
	harness.Vxcanctl(t, "attach", "vcan0", "--netns", "rig", "--send", "200")
	harness.ExpectPass(t, at, host, false, true)
	harness.ExpectPass(t, host, at, true, true)
	harness.Vxcanctl(t, "attach", "vcan0", "--netns", "rig")
	harness.ExpectPass(t, at, host, true, true)
	if wrong := harness.WrongWith(t, "vcan0"); wrong != "" {
		t.Error(wrong)
	}
}

// TestAttachRefused: what cannot be attached is refused in a line, and leaves nothing.
func TestAttachRefused(t *testing.T) {
	harness.FreshHost(t)
	rig := harness.NewContainer(t, "rig")
	harness.Command(t, "ip", "-netns", "rig", "link", "add", "can1", "type", "dummy")
	ended := exec.Command("true")
	if err := ended.Run(); err != nil {
		t.Fatal(err)
	}
	for words, args := range map[string][]string{
		"/proc/1/ns/net: it is the host's; the container needs one of its own": {"vcan0", "--pid", "1"},
		"/proc/self/ns/net: it is the host's":                                  {"vcan0", "--netns", "/proc/self/ns/net"},
		fmt.Sprintf("process %d has ended", ended.Process.Pid):                 {"vcan0", "--pid", strconv.Itoa(ended.Process.Pid)},
		"invalid network namespace /etc/passwd: it is none":                    {"vcan0", "--netns", "/etc/passwd"},
		"invalid network namespace /proc/self/ns/uts: it is none":              {"vcan0", "--netns", "/proc/self/ns/uts"},
		"there is no such network namespace: /run/netns/nobody":                {"vcan0", "--netns", "nobody"},
		"has one of that name already; choose another name (--interface NAME)": {"vcan0", "--netns", rig.Path, "--interface", "can1"},
		"hub can7 is not there: for a controller set":                          {"can7", "--netns", "rig"},
		"hub can7: there is no such device: connect the controller":            {"can7", "--netns", "rig", "--physical"},
		`option "rate": invalid value "0"`:                                     {"vcan0", "--netns", "rig", "-o", "rate=0"},
		"names that end in -tx and -rx are those of backplanes":                {"vcan0-tx", "--netns", "rig"},
	} {
		refuses(t, words, append([]string{"attach"}, args...)...)
		harness.ExpectNothing(t)
	}
	// A second bus for the same name.
	harness.Vxcanctl(t, "attach", "vcan0", "--netns", "rig")
	refuses(t, "interface can0: the container (/run/netns/rig) has one of that name already", "attach", "vcan1", "--netns", "rig")
	harness.ExpectBus(t, "vcan0", 1)
	for _, args := range [][]string{{"attach", "vcan0", "--netns", "rig"}, {"detach", "vcan0", "--netns", "rig"}, {"remove", "vcan0"}} {
		if _, words, status := harness.Control(t, []string{"setpriv", "--reuid=65534", "--clear-groups"}, args...); status != 1 || !strings.Contains(words, args[0]+" needs root: run it with sudo") {
			t.Errorf("%v without root: exit status %d, %s", args, status, words)
		}
	}
}

// TestAttachKilled: attach is killed at any message to the kernel. The same call again makes the bus whole; so does heal for
// the others on it, and what is left of the killed one goes with its namespace.
func TestAttachKilled(t *testing.T) {
	harness.AtEach(t, "killed", func(t *testing.T, n int) bool {
		harness.FreshHost(t)
		neighbour, rig := harness.NewContainer(t, "neighbour"), harness.NewContainer(t, "rig")
		harness.Vxcanctl(t, "attach", "vcan0", "--netns", "neighbour")
		args := append(harness.Injecting("signal=KILL", n), filepath.Join(harness.BinDir(t), "vxcanctl"), "attach", "vcan0", "--netns", "rig")
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); !harness.Killed(t, out, err) {
			return false
		}
		stations := []harness.Station{{Name: "host", Netns: nil, IfName: "vcan0"}, {Name: "neighbour", Netns: neighbour.Netns, IfName: "can0"}}
		if n%2 == 0 {
			says(t, "vcan0: rig has can0\n", "attach", "vcan0", "--netns", "rig")
			harness.ExpectBus(t, "vcan0", 2)
			harness.ExpectExactlyOnce(t, append(stations, harness.Station{Name: "rig", Netns: rig.Netns, IfName: "can0"}), 5, true)
			return true
		}
		rig.Netns.Close()
		harness.Command(t, "ip", "netns", "del", "rig")
		waitForEnds(t, 1)
		harness.Vxcanctl(t, "heal")
		harness.ExpectBus(t, "vcan0", 1)
		if got := harness.Recorded(t, "vcan0"); got != 1 {
			t.Errorf("%d endpoints in the record, want 1", got)
		}
		closing(t, func(t *testing.T) { harness.ExpectExactlyOnce(t, stations, 5, true) })
		return true
	})
}

// TestAttachService: the units of conflist/host under systemd. The service has can0 when it starts, keeps its bus when it
// starts again and when the hub goes, and leaves nothing when its unit stops. A service with PrivateNetwork is attached by its
// process, and collected when it has ended.
func TestAttachService(t *testing.T) {
	harness.FreshHost(t)
	s := harness.StartSystemd(t)
	harness.Install(t, "/etc/systemd/system", harness.Repo("conflist/host/can-netns@.service"), harness.Repo("conflist/host/engine.service"))
	harness.InstallText(t, "/etc/systemd/system/private.service", "[Service]\nPrivateNetwork=yes\nExecStart=sleep 1000\n")
	harness.InstallText(t, "/etc/systemd/system/early.service", `[Service]
PrivateNetwork=yes
ExecStartPre=+/bin/sh -c 'nsenter -t 1 -n vxcanctl attach vcan0 --pid $$$$ --name %n'
ExecStart=/bin/sh -c 'ip -br link show can0; exec sleep 1000'
`)
	s.Run("systemctl", "daemon-reload")
	answers := func() {
		t.Helper()
		host := cantest.Listen(t, nil, "vcan0")
		defer host.Close()
		answer := cantest.Frame{ID: 0x223, Data: "\x01"}
		s.WaitFor("an answer of the service", func() bool {
			if err := cantest.NewSender(t, nil, "vcan0").Send(cantest.Frame{ID: 0x123}); err != nil {
				t.Error(err)
			}
			cantest.WaitQuiet(1, host)
			return host.Has(answer)
		})
	}
	s.Run("systemctl", "start", "engine.service")
	answers()
	harness.ExpectBus(t, "vcan0", 1)
	before := harness.HostEnds(t)
	s.Run("systemctl", "restart", "engine.service")
	if after := harness.HostEnds(t); !slices.Equal(before, after) {
		t.Errorf("the service started again: %v, then %v", before, after)
	}
	answers()
	harness.Command(t, "ip", "link", "del", "vcan0")
	harness.Vxcanctl(t, "heal")
	answers()
	if names := endpointNames(t); !slices.Equal(names, []string{"engine"}) {
		t.Errorf("status shows %q", names)
	}

	s.Run("systemctl", "start", "private.service", "early.service")
	pid := strings.TrimSpace(s.Run("systemctl", "show", "-P", "MainPID", "private.service"))
	t.Logf("%s", s.Run("vxcanctl", "attach", "vcan0", "--pid", pid, "--interface", "can1"))
	harness.ExpectBus(t, "vcan0", 3)
	if names := endpointNames(t); !slices.Equal(names, []string{"early.service", "engine", "sleep"}) {
		t.Errorf("status shows %q", names)
	}
	if log := s.Run("journalctl", "-u", "early.service", "-o", "cat"); !strings.Contains(log, "can0@") {
		t.Errorf("the service had no can0 when it started: %s", log)
	}
	early := s.Netns(s.Run("systemctl", "show", "-P", "MainPID", "early.service"))
	closing(t, func(t *testing.T) {
		harness.ExpectExactlyOnce(t, []harness.Station{{Name: "host", Netns: nil, IfName: "vcan0"}, {Name: "early", Netns: early, IfName: "can0"}}, 5, true)
	})
	if err := early.Close(); err != nil {
		t.Error(err)
	}
	s.Run("systemctl", "stop", "private.service", "early.service")
	s.WaitFor("the private ones to go", func() bool { return len(harness.HostEnds(t)) == 1 })
	s.Run("systemctl", "stop", "can-netns@engine.service")
	if state, _ := s.Try("systemctl", "is-active", "engine.service"); state != "inactive\n" {
		t.Errorf("the service without its namespace is %s", state)
	}
	s.WaitFor("the namespace to go", func() bool {
		_, err := s.Try("test", "-e", "/run/netns/engine")
		return err != nil && len(harness.HostEnds(t)) == 0
	})
	harness.Vxcanctl(t, "heal")
	harness.ExpectUnused(t, "vcan0")
	says(t, "vcan0: removed\n", "remove", "vcan0")
	harness.ExpectNothing(t)
}

// endpointNames are the names of all endpoints, sorted.
func endpointNames(t *testing.T) (names []string) {
	t.Helper()
	for _, b := range harness.StatusOf(t) {
		for _, e := range b.Endpoints {
			names = append(names, fmt.Sprint(e["name"]))
		}
	}
	slices.Sort(names)
	return names
}
