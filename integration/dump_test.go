package integration

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/cantest"
)

// background is a program that runs beside the test.
type background struct {
	cmd           *exec.Cmd
	stdout, words string // files
	expected      int    // bytes of words
}

// start starts a program that listens on a device, and waits until it does.
func start(t testing.TB, device, name string, args ...string) *background {
	t.Helper()
	before := listeners(t, device)
	dir := t.TempDir()
	b := &background{stdout: filepath.Join(dir, "stdout"), words: filepath.Join(dir, "stderr")}
	cmd, cancel := limited(name, args...)
	b.cmd = cmd
	stdout, err := os.Create(b.stdout)
	if err != nil {
		t.Fatal(err)
	}
	defer stdout.Close()
	stderr, err := os.Create(b.words)
	if err != nil {
		t.Fatal(err)
	}
	defer stderr.Close()
	cmd.Stdout, cmd.Stderr = stdout, stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait()
	})
	for deadline := time.Now().Add(time.Minute); listeners(t, device) == before; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s does not listen on %s: %s", name, device, b.said(t))
		}
	}
	return b
}

// startControl is start for vxcanctl on bus vcan0.
func startControl(t testing.TB, args ...string) *background {
	t.Helper()
	return start(t, "vcan0-rx", filepath.Join(binDir(t), "vxcanctl"), args...)
}

// listeners counts the filters of CAN sockets on a device (net/can/proc.c).
func listeners(t testing.TB, device string) (count int) {
	t.Helper()
	for line := range strings.Lines(command(t, "sh", "-c", "cat /proc/net/can/rcvlist_*")) {
		if words := strings.Fields(line); len(words) > 0 && words[0] == device && words[len(words)-1] == "raw" {
			count++
		}
	}
	return count
}

func read(t testing.TB, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func (b *background) output(t testing.TB) string { return read(t, b.stdout) }

func (b *background) said(t testing.TB) string { return read(t, b.words) }

// signal sends the program a signal.
func (b *background) signal(t testing.TB, sig os.Signal) {
	t.Helper()
	if err := b.cmd.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
}

// end waits until the program has written nothing for a while, ends it by Ctrl-C and returns its output.
func (b *background) end(t testing.TB) string {
	t.Helper()
	for last := -1; ; time.Sleep(time.Second) {
		now := len(b.output(t))
		if now == last {
			break
		}
		last = now
	}
	b.signal(t, os.Interrupt)
	b.wait(t)
	return b.output(t)
}

// wait waits until the program has ended, with success.
func (b *background) wait(t testing.TB) {
	t.Helper()
	if err := b.cmd.Wait(); err != nil {
		t.Fatalf("%v: %v: %s", b.cmd.Args, err, b.said(t))
	}
}

// expectSaid waits until the program has said something, after what was expected before.
func (b *background) expectSaid(t testing.TB, words string) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		said := b.said(t)
		if i := strings.Index(said[b.expected:], words); i >= 0 {
			b.expected += i + len(words)
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%v has not said %q: %s", b.cmd.Args, words, said)
		}
	}
}

// logLine is a line of candump's log format.
var logLine = regexp.MustCompile(`^(\(\d{10}\.\d{6}\)) (\S+) ([0-9A-F]+##?.*)\n$`)

// TestDumpSenders: ten members send 10 020 classic, extended and CAN FD frames at the same time, and hear each other exactly
// once, while vxcanctl dump writes each format. Each frame is there once with its sender. candump on the same device has
// the same lines but for the sender, canplayer replays them, and Wireshark's dissector reads the file.
func TestDumpSenders(t *testing.T) {
	freshHost(t)
	const count = 334
	stations := []station{{"vcan0", nil, "vcan0"}}
	for _, name := range containerNames("c", 9) {
		c := newContainer(t, name)
		on(c).add(t)
		stations = append(stations, station{name, c.netns, "can0"})
	}
	total := 0
	for i := range stations {
		total += len(frames(i, count, true))
	}
	file := filepath.Join(t.TempDir(), "frames.pcapng")
	text, log, document, pcapng := startControl(t, "dump"), startControl(t, "dump", "-L", "vcan0"), startControl(t, "dump", "-o", "json"), startControl(t, "dump", "-w", file, "vcan0")
	oracle := start(t, "vcan0-rx", "candump", "-L", "-r", "67108864", "vcan0-rx")
	expectExactlyOnce(t, stations, count, true)

	all := map[string]int{} // frames and senders in log format
	for i, s := range stations {
		for _, f := range frames(i, count, true) {
			id, mark := fmt.Sprintf("%03X", f.ID), "#"
			if f.ID&unix.CAN_EFF_FLAG != 0 {
				id = fmt.Sprintf("%08X", f.ID&unix.CAN_EFF_MASK)
			}
			if f.FD {
				mark = "##4" // FDF, which the kernel sets
			}
			all[s.name+" "+id+mark+strings.ToUpper(hex.EncodeToString([]byte(f.Data)))]++
		}
	}
	expectFrames := func(format string, got map[string]int) {
		t.Helper()
		if !maps.Equal(got, all) {
			wrong := 0
			for line, n := range got {
				if all[line] != n {
					if wrong++; wrong < 5 {
						t.Errorf("%s: %d times %s", format, n, line)
					}
				}
			}
			t.Errorf("%s: %d of %d frames, %d wrong", format, len(got), len(all), wrong)
		}
	}
	lines := slices.Collect(strings.Lines(log.end(t)))
	got := map[string]int{}
	var plain []string
	for _, line := range lines {
		m := logLine.FindStringSubmatch(line)
		if m == nil {
			t.Fatalf("line %q", line)
		}
		got[m[2]+" "+m[3]]++
		plain = append(plain, m[1]+" vcan0-rx "+m[3]+"\n")
	}
	expectFrames("log", got)
	if want := slices.Collect(strings.Lines(oracle.end(t))); !slices.Equal(plain, want) {
		t.Errorf("%d lines, candump has %d, or others: %q, %q", len(plain), len(want), plain[:min(3, len(plain))], want[:min(3, len(want))])
	}

	got = map[string]int{}
	for line := range strings.Lines(document.end(t)) {
		var f struct {
			Hub, Sender, Runtime, Network, ContainerID, HostIf, Data string
			ID                                                       uint32
			Extended, FD                                             bool
		}
		if err := json.Unmarshal([]byte(line), &f); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if named := f.Runtime == "cni" && f.Network == "canbus0" && f.ContainerID == f.Sender && strings.HasPrefix(f.HostIf, "vx"); f.Hub != "vcan0" || named == (f.Sender == "vcan0") {
			t.Fatalf("document %s", line)
		}
		id, mark := fmt.Sprintf("%03X", f.ID), "#"
		if f.Extended {
			id = fmt.Sprintf("%08X", f.ID)
		}
		if f.FD {
			mark = "##4"
		}
		got[f.Sender+" "+id+mark+f.Data]++
	}
	expectFrames("json", got)

	got = map[string]int{}
	shape := regexp.MustCompile(`^ \(\d{10}\.\d{6}\)  vcan0  (\S+) +([0-9A-F]+) +\[(\d+)\]  ([0-9A-F ]+)\n$`)
	for line := range strings.Lines(text.end(t)) {
		m := shape.FindStringSubmatch(line)
		if m == nil {
			t.Fatalf("line %q", line)
		}
		mark := "#"
		if len(m[3]) == 2 {
			mark = "##4"
		}
		got[m[1]+" "+m[2]+mark+strings.ReplaceAll(m[4], " ", "")]++
	}
	expectFrames("text", got)

	pcapng.end(t)
	for _, b := range []*background{text, log, document, pcapng} {
		if words := b.said(t); words != fmt.Sprintf("vxcanctl: %d frames\n", total) {
			t.Errorf("%v says %s", b.cmd.Args, words)
		}
	}
	expectReplay(t, log.stdout, stations[3].name, frames(3, count, true))
	if os.Getenv("VXCAN_VM_SUITE") == "" { // the root of another release has none, and no other file
		expectFrames("tshark", dissected(t, file))
	}
}

// expectReplay fails the test unless canplayer sends the frames of one sender again, and no others.
func expectReplay(t *testing.T, log, sender string, want []cantest.Frame) {
	t.Helper()
	command(t, "ip", "link", "add", "vcan9", "mtu", "72", "type", "vcan")
	command(t, "ip", "link", "set", "vcan9", "up")
	l := cantest.Listen(t, nil, "vcan9")
	defer l.Close()
	command(t, "canplayer", "-t", "-I", log, "vcan9="+sender)
	cantest.WaitQuiet(len(want), l)
	heard, own := l.Heard()
	for f, n := range own {
		heard[f] += n
	}
	for _, f := range want {
		if heard[f] != 1 {
			t.Errorf("canplayer has sent %v %d times", f, heard[f])
		}
	}
	if l.Total() != len(want) {
		t.Errorf("canplayer has sent %d frames, want %d", l.Total(), len(want))
	}
}

// dissected is what Wireshark's dissector reads in a file, in log format.
func dissected(t *testing.T, file string) map[string]int {
	t.Helper()
	out := command(t, "tshark", "-r", file, "-T", "fields", "-e", "frame.interface_name", "-e", "can.id", "-e", "can.flags.xtd", "-e", "can.len",
		"-e", "canfd.flags.brs", "-e", "data.data")
	got := map[string]int{}
	for line := range strings.Lines(out) {
		words := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if len(words) != 6 {
			t.Fatalf("tshark: %q", line)
		}
		number, err := strconv.ParseUint(words[1], 0, 32)
		if err != nil {
			t.Fatalf("tshark: %q: %v", line, err)
		}
		id, mark := fmt.Sprintf("%03X", number), "#"
		if words[2] == "1" || words[2] == "True" {
			id = fmt.Sprintf("%08X", number)
		}
		if words[4] != "" {
			mark = "##4"
		}
		got[words[0]+" "+id+mark+strings.ToUpper(words[5])]++
	}
	return got
}

// TestDumpForms: a frame of each form is written as candump writes it.
func TestDumpForms(t *testing.T) {
	freshHost(t)
	on(newContainer(t, "a")).add(t)
	forms := []string{
		"123#", "123#11", "123#1122334455667788", "123#1122334455667788_E", "7FF#R", "123#R8", "123#R8_9", "00000123#R3", "1FFFFFFF#0102",
		"123##0", "123##311", "1FFFFFFF##1" + strings.Repeat("A5", 64), "123##2" + strings.Repeat("01", 12),
	}
	dump, oracle := startControl(t, "dump", "-L", "vcan0"), start(t, "vcan0-rx", "candump", "-L", "vcan0-rx")
	for _, form := range forms {
		command(t, "ip", "netns", "exec", "a", "cansend", "can0", form)
	}
	want := strings.ReplaceAll(oracle.end(t), " vcan0-rx ", " a ")
	if got := dump.end(t); got != want || strings.Count(got, "\n") != len(forms) {
		t.Errorf("%s\ncandump:\n%s", got, want)
	}
}

// TestDumpOptions: filters are candump's, --from takes names and IDs, -n ends, and long names are cut where canplayer needs
// that.
func TestDumpOptions(t *testing.T) {
	freshHost(t)
	a, b := newContainer(t, "a"), newContainer(t, "abcdef012345678")
	on(a).add(t)
	pod := on(b)
	pod.env = []string{"CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=lab;K8S_POD_NAME=engine-7d9f8c6b5-x2v4z"}
	result, _ := pod.add(t)
	device := hostIf(result)
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
	oracle := start(t, "vcan0-rx", "candump", "-L", "vcan0-rx,"+filter)
	unknown := startControl(t, "dump", "vcan0", "--from", "nobody")
	unknown.expectSaid(t, "nobody is called nobody yet")
	inA := func(words ...string) {
		command(t, "ip", append([]string{"netns", "exec", "a", "cansend", "can0"}, words...)...)
	}
	inA("123#R4")
	inA("124#")
	command(t, "ip", "netns", "exec", b.id, "cansend", "can0", "00000200##11122")
	command(t, "cansend", "vcan0", "7FF#01")
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
		if out, words, status := control(t, nil, strings.Fields(args)...); status != 1 || out != "" || !strings.Contains(words, want) {
			t.Errorf("vxcanctl %s: exit status %d, %s%s", args, status, out, words)
		}
	}
	noRoot := []string{"setpriv", "--reuid=65534", "--clear-groups"}
	old := []string{"strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=setsockopt", "-e", "inject=setsockopt:error=ENOPROTOOPT:when=1"}
	for _, verb := range []string{"dump", "learn"} {
		want := "vxcanctl: ask a CAN socket for marks: protocol not available: this kernel does not tell the sender of a frame; Linux 6.0 and newer do"
		if out, words, status := control(t, old, verb, "vcan0"); status != 1 || out != "" || !strings.HasPrefix(words, want) {
			t.Errorf("%s on an old kernel: exit status %d, %s%s", verb, status, out, words)
		}
		if out, words, status := control(t, noRoot, verb, "vcan0"); status != 1 || out != "" || words != "vxcanctl: "+verb+" needs root: run it with sudo\n" {
			t.Errorf("%s without root: exit status %d, %s%s", verb, status, out, words)
		}
	}
}

// TestDumpComeAndGo: while hub, backplane and a member go and come, dump says so, goes on, and has each frame that was on
// the bus. At the end it tells what a policy denied.
func TestDumpComeAndGo(t *testing.T) {
	freshHost(t)
	if _, words, status := control(t, nil, "dump"); status != 1 || words != "vxcanctl: no bus on this host\n" {
		t.Errorf("without a bus: exit status %d, %s", status, words)
	}
	a := newContainer(t, "a")
	on(a).with(`"send":"100-1FF"`).add(t)
	dump, all := startControl(t, "dump", "-L", "vcan0"), startControl(t, "dump", "-L")
	var want []string
	send := func(id uint32) {
		t.Helper()
		sendAll(t, a, []cantest.Frame{{ID: id}})
		want = append(want, fmt.Sprintf("%03X#", id))
	}
	expect := func(words string) {
		t.Helper()
		for _, d := range []*background{dump, all} {
			d.expectSaid(t, "vxcanctl: bus vcan0: "+words+"\n")
		}
	}
	send(0x100)
	late := newContainer(t, "late")
	on(late).add(t)
	expect("late has joined")
	sendAll(t, late, []cantest.Frame{{ID: 0x7ff}})
	want = append(want, "7FF#")
	on(late).ok(t, "DEL")
	expect("late has left")

	command(t, "ip", "link", "del", "vcan0")
	expect("the hub is missing: frames of containers only; sudo vxcanctl heal vcan0")
	send(0x101)
	vxcanctl(t, "heal")
	expect("hub and backplane are there again")
	send(0x102)
	command(t, "ip", "link", "del", "vcan0-tx")
	expect("the backplane is missing: waiting until it is repaired; sudo vxcanctl heal vcan0")
	vxcanctl(t, "heal")
	expect("hub and backplane are there again")
	send(0x103)
	command(t, "ip", "link", "set", "vcan0-rx", "down")
	expect("the backplane is down: waiting until it is repaired; sudo vxcanctl heal vcan0")
	vxcanctl(t, "heal")
	expect("hub and backplane are there again")
	send(0x104)
	sendAll(t, a, []cantest.Frame{{ID: 0x200}, {ID: 0x201}})

	on(a).ok(t, "DEL")
	command(t, "ip", "link", "del", "vcan0")
	command(t, "ip", "link", "del", "vcan0-tx")
	expect("it is gone: waiting until it comes back")
	b := newContainer(t, "b")
	on(b).add(t)
	expect("hub and backplane are there again")
	sendAll(t, b, []cantest.Frame{{ID: 0x105}})
	want = append(want, "105#")
	on(newContainer(t, "other")).with(`"hub":"vcan1"`).add(t)
	all.expectSaid(t, "bus vcan1: other has joined")
	command(t, "cansend", "vcan1", "300#")
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
	c := newContainer(t, "c")
	on(c).with(`"send":"100"`).add(t)
	sendAll(t, c, []cantest.Frame{{ID: 0x100}, {ID: 0x101}, {ID: 0x102}})
	denied.end(t)
	denied.expectSaid(t, "vxcanctl: 1 frame\nvxcanctl: bus vcan0: not shown, because they never were on the bus: 2 frames that its policy denied of c\n")
}

// TestDumpStopped: in a flood of ten seconds or more that dump does not read, it loses frames and tells how many, and the
// other members lose none.
func TestDumpStopped(t *testing.T) {
	freshHost(t)
	a, b := newContainer(t, "a"), newContainer(t, "b")
	on(a).add(t)
	on(b).add(t)
	dump := startControl(t, "dump", "-L", "vcan0")
	others := []*cantest.Listener{cantest.Listen(t, nil, "vcan0"), cantest.Listen(t, b.netns, "can0")}
	sender := cantest.NewSender(t, a.netns, "can0")
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
	m := regexp.MustCompile(`^vxcanctl: (\d+) frames; bus vcan0 had (\d+) frames more, lost because vxcanctl did not read in time\n$`).FindStringSubmatch(dump.said(t))
	if m == nil {
		t.Fatalf("%d sent, %d shown: %s", sent, shown, dump.said(t))
	}
	lost, _ := strconv.Atoi(m[2])
	t.Logf("%d frames in %v, %d shown, %d lost", sent, took, shown, lost)
	if lost == 0 || m[1] != strconv.Itoa(shown) || shown+lost != sent {
		t.Errorf("%d sent, %d shown: %s", sent, shown, dump.said(t))
	}
}

// TestLearn: the lists of a short lesson let the same traffic pass and nothing else.
func TestLearn(t *testing.T) {
	freshHost(t)
	containers := []*container{newContainer(t, "a"), newContainer(t, "b"), newContainer(t, "c")}
	const eff = unix.CAN_EFF_FLAG
	traffic := map[string][]uint32{
		"a": {0x100, 0x101, 0x102, 0x103, 0x18fef100 | eff}, "b": {0x200, 0x102}, "hub": {0x7df},
	}
	for _, c := range containers {
		on(c).add(t)
	}
	// run sends each frame of a container twice and those of the hub once, and returns what each container has heard. The
	// containers are to hear want frames, with the echo of their own.
	run := func(traffic map[string][]uint32, want int) map[string][]string {
		t.Helper()
		listeners := map[string]*cantest.Listener{}
		for _, c := range containers {
			listeners[c.id] = cantest.Listen(t, c.netns, "can0")
		}
		for range 2 {
			for _, c := range containers {
				for _, id := range traffic[c.id] {
					sendAll(t, c, []cantest.Frame{{ID: id}})
				}
			}
		}
		for _, id := range traffic["hub"] {
			if err := cantest.SendOnce("vcan0", cantest.Frame{ID: id}); err != nil {
				t.Fatal(err)
			}
		}
		cantest.WaitQuiet(want, slices.Collect(maps.Values(listeners))...)
		heard := map[string][]string{}
		for id, l := range listeners {
			l.Close()
			foreign, _ := l.Heard()
			for f, n := range foreign {
				heard[id] = append(heard[id], fmt.Sprintf("%08X %d times", f.ID, n))
			}
			slices.Sort(heard[id])
		}
		return heard
	}
	lesson := startControl(t, "learn", "vcan0", "--for", "10m", "-o", "json")
	text := startControl(t, "learn", "vcan0", "--for", "10m")
	before := run(traffic, 45)
	out := lesson.end(t)
	t.Logf("%s%s", text.end(t), text.said(t))
	for _, words := range []string{
		"vcan0: 15 frames in ", "\na (cni, network canbus0): sent 10 frames, heard 5 frames\n",
		"  \"send\": \"100-103,18FEF100\", \"receive\": \"102,200,7DF\"\n  -o send=100-103,18FEF100 -o receive=102,200,7DF\n  warning: heard once only: 7DF\n",
		"\nc (cni, network canbus0): sent 0 frames, heard 15 frames\n  \"send\": \"none\", \"receive\": \"100-103,200,7DF,18FEF100\"\n",
	} {
		if !strings.Contains(text.output(t), words) {
			t.Errorf("no %q", words)
		}
	}
	var document struct {
		Endpoints []struct{ ContainerID, Send, Receive string }
	}
	if err := json.Unmarshal([]byte(out), &document); err != nil || len(document.Endpoints) != len(containers) {
		t.Fatalf("%v: %s", err, out)
	}
	for i, e := range document.Endpoints {
		c := containers[i]
		on(c).ok(t, "DEL")
		on(c).with(fmt.Sprintf(`"send":%q,"receive":%q`, e.Send, e.Receive)).add(t)
		if e.ContainerID != c.id {
			t.Fatalf("endpoint %d is %s", i, e.ContainerID)
		}
	}
	if after := run(traffic, 45); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("with the lists:\n%v\nbefore:\n%v", after, before)
	}
	others := map[string][]uint32{
		"a": {0x0ff, 0x104, 0x18fef101 | eff, 0x200}, "b": {0x100, 0x201}, "c": {0x100, 0}, "hub": {0x7de, 0x100 | eff},
	}
	if heard := run(others, 16); len(heard) != 0 {
		t.Errorf("other frames pass: %v", heard)
	}
}

// TestControllerDump: error frames of a controller are shown, from the hub.
func TestControllerDump(t *testing.T) {
	freshHost(t)
	controller := cantest.NewController(t, "slot0")
	on(newContainer(t, "a")).with(setUpByUs).add(t)
	dump := start(t, "slot0-rx", filepath.Join(binDir(t), "vxcanctl"), "dump", "slot0")
	for _, line := range append([]string{"t12321122\r"}, errorLines...) {
		if err := controller.WriteRaw(line); err != nil {
			t.Fatal(err)
		}
	}
	out := dump.end(t)
	t.Logf("%s", out)
	for _, words := range []string{
		"  slot0       123   [2]  11 22\n", "  slot0  200000A8   [8]  00 00 00 19 00 00 00 00  ERRORFRAME protocol-violation,no-acknowledgement-on-tx,bus-error\n",
		"  slot0  20000204   [8]  00 10 00 00 00 00 00 80  ERRORFRAME controller-problem,error-counter-tx-rx\n", "ERRORFRAME bus-off\n",
	} {
		if !strings.Contains(out, words) {
			t.Errorf("no %q", words)
		}
	}
}
