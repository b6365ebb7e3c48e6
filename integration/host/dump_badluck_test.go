package host

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/integration/harness"
	"github.com/vxcan/vxcan/pkg/cantest"
)

// TestDumpOptions: filters are candump's, --from takes names and IDs, -n ends, and long names are cut where canplayer needs
// that.
func TestDumpOptions(t *testing.T) {
	harness.FreshHost(t)
	a, b := harness.NewContainer(t, "a"), harness.NewContainer(t, "abcdef012345678")
	harness.On(a).Add(t)
	pod := harness.On(b)
	pod.Env = []string{"CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=lab;K8S_POD_NAME=engine-7d9f8c6b5-x2v4z"}
	result, _ := pod.Add(t)
	device := harness.HostIf(result)
	filter := "123:7FF,00000200:1FFFFFFF"
	runs := map[string]struct {
		b     *background
		lines []string // of log lines without the time
	}{
		"all":      {startControl(t, "dump", "-L", "vcan0"), []string{"a 123#R4", "a 124#", "lab/engine~" + device[11:] + " 00000200##51122", "vcan0 7FF#01"}},
		"filters":  {startControl(t, "dump", "-L", "any,"+filter), []string{"a@vcan0 123#R4", "lab/engine~" + device[11:] + " 00000200##51122"}},
		"inverted": {startControl(t, "dump", "-L", "vcan0,123~7FF,124~7FF,j"), []string{"lab/engine~" + device[11:] + " 00000200##51122", "vcan0 7FF#01"}},
		"hub":      {startControl(t, "dump", "-L", "vcan0", "--from", "vcan0"), []string{"vcan0 7FF#01"}},
		"pod":      {startControl(t, "dump", "-L", "vcan0", "--from", "lab/engine-7d9f8c6b5-x2v4z"), []string{"lab/engine~" + device[11:] + " 00000200##51122"}},
		"two":      {startControl(t, "dump", "-L", "vcan0", "--from", "abcdef", "--from=vcan0"), []string{"lab/engine~" + device[11:] + " 00000200##51122", "vcan0 7FF#01"}},
		"count":    {startControl(t, "dump", "-L", "vcan0", "-n", "2"), []string{"a 123#R4", "a 124#"}},
	}
	oracle := startCandump(t, "-L", "vcan0-rx,"+filter)
	unknown := startControl(t, "dump", "vcan0", "--from", "nobody")
	unknown.expectSaid(t, "nobody is called nobody yet")
	inA := func(words ...string) {
		harness.Command(t, "ip", append([]string{"netns", "exec", "a", "cansend", "can0"}, words...)...)
	}
	inA("123#R4")
	inA("124#")
	harness.Command(t, "ip", "netns", "exec", b.ID, "cansend", "can0", "00000200##11122")
	harness.Command(t, "cansend", "vcan0", "7FF#01")
	withoutTime := func(text string) (lines []string) {
		for line := range strings.Lines(text) {
			m := logLine.FindStringSubmatch(line)
			if m == nil {
				t.Fatalf("line %q", line)
			}
			lines = append(lines, m[2]+" "+m[3])
		}
		return lines
	}
	runs["count"].b.wait(t) // ends by itself
	for name, run := range runs {
		out := ""
		if name == "count" {
			out = run.b.output(t)
		} else {
			out = run.b.end(t)
		}
		if got := withoutTime(out); !slices.Equal(got, run.lines) {
			t.Errorf("%s: %q, want %q; %s", name, got, run.lines, run.b.said(t))
		}
	}
	if got := withoutTime(oracle.end(t)); !slices.Equal(got, []string{"vcan0-rx 123#R4", "vcan0-rx 00000200##51122"}) {
		t.Errorf("candump with the same filters: %q", got)
	}
	if out := unknown.end(t); out != "" {
		t.Errorf("of nobody: %s", out)
	}
	for args, want := range map[string]string{
		"dump can9":             "bus can9: there is no such bus",
		"learn can9":            "bus can9: there is no such bus",
		"dump vcan0,123":        `invalid filter "123"`,
		"dump vcan0 -t x":       `invalid timestamp "x"`,
		"dump vcan0 -L -o json": "none of the others can be",
		"learn":                 "accepts 1 arg(s), received 0",
		"learn vcan0 --for 0s":  "invalid time 0s",
		"learn vcan0 --for 1s":  "bus vcan0 was silent for 1s: nothing was learned",
	} {
		if out, words, status := harness.Control(t, nil, strings.Fields(args)...); status != 1 || out != "" || !strings.Contains(words, want) {
			t.Errorf("vxcanctl %s: exit status %d, %s%s", args, status, out, words)
		}
	}
	noRoot := []string{"setpriv", "--reuid=65534", "--clear-groups"}
	old := []string{"strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=setsockopt", "-e", "inject=setsockopt:error=ENOPROTOOPT:when=1"}
	for _, verb := range []string{"dump", "learn"} {
		want := "vxcanctl: ask a CAN socket for marks: protocol not available: this kernel does not tell the sender of a frame; Linux 6.0 and newer do"
		if out, words, status := harness.Control(t, old, verb, "vcan0"); status != 1 || out != "" || !strings.HasPrefix(words, want) {
			t.Errorf("%s on an old kernel: exit status %d, %s%s", verb, status, out, words)
		}
		if out, words, status := harness.Control(t, noRoot, verb, "vcan0"); status != 1 || out != "" || words != "vxcanctl: "+verb+" needs root: run it with sudo\n" {
			t.Errorf("%s without root: exit status %d, %s%s", verb, status, out, words)
		}
	}
}

// TestDumpComeAndGo: while hub, backplane and a member go and come, dump says so, goes on, and has each frame that was on
// the bus. At the end it tells what a policy denied.
func TestDumpComeAndGo(t *testing.T) {
	harness.FreshHost(t)
	if _, words, status := harness.Control(t, nil, "dump"); status != 1 || words != "vxcanctl: no bus on this host\n" {
		t.Errorf("without a bus: exit status %d, %s", status, words)
	}
	a := harness.NewContainer(t, "a")
	harness.On(a).With(`"send":"100-1FF"`).Add(t)
	dump, all := startControl(t, "dump", "-L", "vcan0"), startControl(t, "dump", "-L")
	var want []string
	send := func(id uint32) {
		t.Helper()
		harness.SendAll(t, a, []cantest.Frame{{ID: id}})
		want = append(want, fmt.Sprintf("%03X#", id))
	}
	expect := func(words string) {
		t.Helper()
		for _, d := range []*background{dump, all} {
			d.expectSaid(t, "vxcanctl: bus vcan0: "+words+"\n")
		}
	}
	send(0x100)
	late := harness.NewContainer(t, "late")
	harness.On(late).Add(t)
	expect("late has joined")
	harness.SendAll(t, late, []cantest.Frame{{ID: 0x7ff}})
	want = append(want, "7FF#")
	harness.On(late).OK(t, "DEL")
	expect("late has left")

	harness.Command(t, "ip", "link", "del", "vcan0")
	expect("the hub is missing: frames of containers only; sudo vxcanctl heal vcan0")
	send(0x101)
	harness.Vxcanctl(t, "heal")
	expect("hub and backplane are there again")
	send(0x102)
	harness.Command(t, "ip", "link", "del", "vcan0-tx")
	expect("the backplane is missing: waiting until it is repaired; sudo vxcanctl heal vcan0")
	harness.Vxcanctl(t, "heal")
	expect("hub and backplane are there again")
	send(0x103)
	harness.Command(t, "ip", "link", "set", "vcan0-rx", "down")
	expect("the backplane is down: waiting until it is repaired; sudo vxcanctl heal vcan0")
	harness.Vxcanctl(t, "heal")
	expect("hub and backplane are there again")
	send(0x104)
	harness.SendAll(t, a, []cantest.Frame{{ID: 0x200}, {ID: 0x201}})

	harness.On(a).OK(t, "DEL")
	harness.Command(t, "ip", "link", "del", "vcan0")
	harness.Command(t, "ip", "link", "del", "vcan0-tx")
	expect("it is gone: waiting until it comes back")
	b := harness.NewContainer(t, "b")
	harness.On(b).Add(t)
	expect("hub and backplane are there again")
	harness.SendAll(t, b, []cantest.Frame{{ID: 0x105}})
	want = append(want, "105#")
	harness.On(harness.NewContainer(t, "other")).With(`"hub":"vcan1"`).Add(t)
	all.expectSaid(t, "bus vcan1: other has joined")
	harness.Command(t, "cansend", "vcan1", "300#")
	for _, d := range []*background{dump, all} {
		var got []string
		for line := range strings.Lines(d.end(t)) {
			if m := logLine.FindStringSubmatch(line); m != nil {
				got = append(got, m[3])
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%v: %q, want %q\n%s", d.cmd.Args, got, want, d.said(t))
		}
		want = append(want, "300#") // on the other bus
	}
	t.Logf("%s", all.said(t))

	denied := startControl(t, "dump", "vcan0")
	c := harness.NewContainer(t, "c")
	harness.On(c).With(`"send":"100"`).Add(t)
	harness.SendAll(t, c, []cantest.Frame{{ID: 0x100}, {ID: 0x101}, {ID: 0x102}})
	denied.end(t)
	denied.expectSaid(t, "vxcanctl: 1 frame\nvxcanctl: bus vcan0: not shown, because they never were on the bus: 2 frames that its policy denied of c\n")
}

// TestDumpStopped: in a flood of ten seconds or more that dump does not read, it loses frames and tells how many, and the
// other members lose none.
func TestDumpStopped(t *testing.T) {
	harness.FreshHost(t)
	a, b := harness.NewContainer(t, "a"), harness.NewContainer(t, "b")
	harness.On(a).Add(t)
	harness.On(b).Add(t)
	dump := startControl(t, "dump", "-L", "vcan0")
	others := []*cantest.Listener{cantest.Listen(t, nil, "vcan0"), cantest.Listen(t, b.Netns, "can0")}
	sender := cantest.NewSender(t, a.Netns, "can0")
	dump.signal(t, unix.SIGSTOP)
	const rate, least = 20_000, 50_000 // frames a second; more than the kernel keeps
	sent, begin := 0, time.Now()
	for time.Since(begin) < 10*time.Second || sent < least {
		if err := sender.Send(cantest.Frame{ID: 0x100, Data: fmt.Sprintf("%08d", sent)}); err != nil {
			t.Fatal(err)
		}
		if sent++; sent%rate == 0 {
			time.Sleep(time.Until(begin.Add(time.Duration(sent/rate) * time.Second)))
		}
	}
	took := time.Since(begin)
	dump.signal(t, unix.SIGCONT)
	cantest.WaitQuiet(2*sent, others...)
	for i, l := range others {
		if heard, _ := l.Heard(); len(heard) != sent {
			t.Errorf("listener %d: %d of %d frames", i, len(heard), sent)
		}
	}
	shown := strings.Count(dump.end(t), " a 100#")
	m := regexp.MustCompile(`^vxcanctl: (\d+) frames; bus vcan0 had (\d+) frames more, lost because vxcanctl did not read in time\n$`).FindStringSubmatch(dump.said(t)[dump.expected:])
	if m == nil {
		t.Fatalf("%d sent, %d shown: %s", sent, shown, dump.said(t))
	}
	lost, _ := strconv.Atoi(m[2])
	t.Logf("%d frames in %v, %d shown, %d lost", sent, took, shown, lost)
	if lost == 0 || m[1] != strconv.Itoa(shown) || shown+lost != sent {
		t.Errorf("%d sent, %d shown: %s", sent, shown, dump.said(t))
	}
}
