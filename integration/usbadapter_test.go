package integration

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/cantest"
)

// These tests need bin/vm -qemu. The first ones show that the emulated USB adapter is to the kernel's own driver what a
// real one is.

// setUpUSB does what the owner of an adapter does.
func setUpUSB(t testing.TB, name string) {
	t.Helper()
	command(t, "ip", "link", "set", name, "up", "txqueuelen", "4000",
		"type", "can", "bitrate", "500000", "dbitrate", "2000000", "fd", "on")
}

// canDetails is what `ip -details` shows of a CAN controller.
type canDetails struct {
	Index    int `json:"ifindex"`
	MTU      int `json:"mtu"`
	LinkInfo struct {
		Kind string `json:"info_kind"`
		Data struct {
			State      string   `json:"state"`
			Modes      []string `json:"ctrlmode"`
			Terminated int      `json:"termination"`
			BitTiming  struct {
				BitRate int `json:"bitrate"`
			} `json:"bittiming"`
			DataBitTiming struct {
				BitRate int `json:"bitrate"`
			} `json:"data_bittiming"`
		} `json:"info_data"`
	} `json:"linkinfo"`
}

func detailsOf(t testing.TB, name string) canDetails {
	t.Helper()
	text := controllerState(t, name)
	var all []canDetails
	if err := json.Unmarshal([]byte(text), &all); err != nil || len(all) != 1 {
		t.Fatalf("%v: %s", err, text)
	}
	return all[0]
}

// TestUSBAdapter: the kernel's driver finds the adapter, sets it up as it is told, and its device goes and comes with it.
func TestUSBAdapter(t *testing.T) {
	adapter := cantest.NewUSBAdapter(t, "slot0", "A1B2C3")
	t.Logf("at the plug: %q", adapter.Commands())
	serial, err := os.ReadFile("/sys/class/net/slot0/device/../serial")
	if got := strings.TrimSpace(string(serial)); err != nil || got != "A1B2C3" {
		t.Errorf("serial number %q, %v", got, err)
	}
	driver, err := filepath.EvalSymlinks("/sys/class/net/slot0/device/driver")
	if err != nil || filepath.Base(driver) != "gs_usb" {
		t.Errorf("driver %s, %v", driver, err)
	}

	setUpUSB(t, "slot0")
	t.Logf("when set up: %q", adapter.Commands())
	before := detailsOf(t, "slot0")
	data := before.LinkInfo.Data
	if before.LinkInfo.Kind != "can" || before.MTU != 72 || data.BitTiming.BitRate != 500000 ||
		data.DataBitTiming.BitRate != 2000000 || !slices.Contains(data.Modes, "FD") {
		t.Errorf("set up as %+v", before)
	}
	for _, ohms := range []int{120, 0} {
		command(t, "ip", "link", "set", "slot0", "type", "can", "termination", strconv.Itoa(ohms))
		if got := detailsOf(t, "slot0").LinkInfo.Data.Terminated; got != ohms {
			t.Errorf("termination %d, want %d", got, ohms)
		}
	}
	command(t, "ip", "link", "set", "slot0", "down")
	want := []string{
		"bitrate 500000 sample-point 0.875", "dbitrate 2000000 dsample-point 0.750", "start fd",
		"termination on", "termination off", "reset",
	}
	var got []string
	for deadline := time.Now().Add(5 * time.Second); !slices.Equal(got, want) && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		got = slices.DeleteFunc(adapter.Commands(), func(c string) bool { return !slices.Contains(want, c) })
	}
	if !slices.Equal(got, want) { // the adapter may take the last one a moment after the driver's call
		t.Errorf("the adapter was told %q, want %q", adapter.Commands(), want)
	}

	for range 3 {
		start := time.Now()
		adapter.Unplug()
		if _, err := try("ip", "link", "show", "dev", "slot0"); err == nil {
			t.Fatal("the unplugged device is there")
		}
		unplugged := time.Since(start)
		adapter.Plug()
		t.Logf("unplugged in %v, plugged in %v", unplugged, time.Since(start)-unplugged)
		after := detailsOf(t, "slot0")
		if after.Index <= before.Index || after.LinkInfo.Data.BitTiming.BitRate != 0 {
			t.Errorf("plugged again it is %+v, before it was %+v", after, before)
		}
		before = after
		setUpUSB(t, "slot0")
	}
}

// TestUSBAdapterFrames: classic and FD frames pass in both directions at the same time, each exactly once and in order.
// The host hears its own when they were sent.
func TestUSBAdapterFrames(t *testing.T) {
	const count = 1000
	adapter := cantest.NewUSBAdapter(t, "slot0", "A1B2C3")
	setUpUSB(t, "slot0")
	onWire, onHost := adapter.Listen(), cantest.Listen(t, nil, "slot0")
	sender := cantest.NewSender(t, nil, "slot0")
	fromWire, fromHost := mixed(0x100, count), mixed(0x200, count)
	start, done := time.Now(), make(chan error)
	go func() {
		for _, f := range fromWire {
			if err := adapter.Send(f); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	for _, f := range fromHost {
		if err := sender.Send(f); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	cantest.WaitQuiet(len(fromHost)*2+len(fromWire), onWire, onHost)
	t.Logf("%d frames in each direction took %v", len(fromHost), time.Since(start))
	if got := onWire.InOrder(); !slices.Equal(got, fromHost) {
		t.Errorf("on the wire are %d frames, or in another order, want %d", len(got), len(fromHost))
	}
	if got := onHost.InOrder(); !slices.Equal(got, fromWire) {
		t.Errorf("the host hears %d frames, or in another order, want %d", len(got), len(fromWire))
	}
	_, own := onHost.Heard()
	for _, f := range fromHost {
		if own[f] != 1 {
			t.Errorf("the host hears its own %v %d times", f, own[f])
			break
		}
	}
}

// mixed are classic and FD frames by turns.
func mixed(id uint32, count int) []cantest.Frame {
	var all []cantest.Frame
	for i := range count {
		number := fmt.Sprintf("%08d", i)
		all = append(all, cantest.Frame{ID: id, Data: number},
			cantest.Frame{ID: id | unix.CAN_EFF_FLAG, FD: true, Data: strings.Repeat(number, 8)})
	}
	return all
}

// TestUSBAdapterTrouble: while nobody acknowledges, nothing is on the wire or heard as sent. Errors that the adapter
// reports are heard as error frames, and its state is seen. After bus-off, down and up help.
func TestUSBAdapterTrouble(t *testing.T) {
	adapter := cantest.NewUSBAdapter(t, "slot0", "A1B2C3")
	setUpUSB(t, "slot0")
	wire, host := adapter.Listen(), cantest.Listen(t, nil, "slot0")
	sender := cantest.NewSender(t, nil, "slot0")
	expectSent := func(when string, want []cantest.Frame) {
		t.Helper()
		cantest.WaitQuiet(2*len(want), wire, host)
		if got := wire.InOrder(); !slices.Equal(got, want) {
			t.Errorf("%s: %d frames on the wire, want %d", when, len(got), len(want))
		}
		if _, own := host.Heard(); len(own) != len(want) {
			t.Errorf("%s: %d frames heard as sent, want %d", when, len(own), len(want))
		}
	}
	send := func(all []cantest.Frame) {
		t.Helper()
		for _, f := range all {
			if err := sender.Send(f); err != nil {
				t.Fatal(err)
			}
		}
	}
	sent := numbered(50)
	adapter.Pace(cantest.Stopped)
	send(sent)
	expectSent("nobody acknowledges", nil)
	adapter.Pace(cantest.Unlimited)
	expectSent("acknowledged again", sent)

	errors := startCandump(t, nil, "slot0", 3)
	for _, c := range []struct {
		state      cantest.State
		tx, rx     uint8
		wantInLink string
	}{
		{cantest.ErrorWarning, 96, 0, "ERROR-WARNING"},
		{cantest.ErrorPassive, 128, 5, "ERROR-PASSIVE"},
		{cantest.BusOff, 248, 0, "BUS-OFF"},
	} {
		if err := adapter.SetState(c.state, c.tx, c.rx); err != nil {
			t.Fatal(err)
		}
		waitForState(t, "slot0", `"state":"`+c.wantInLink+`"`)
	}
	said := errors()
	t.Logf("candump -e:\n%s", said)
	for _, words := range []string{"tx-error-warning", "tx-error-passive", "bus-off", "error-counter-tx-rx{{128}{5}}"} {
		if !strings.Contains(said, words) {
			t.Errorf("candump says no %s", words)
		}
	}
	send(numbered(5))
	expectSent("bus-off", sent)
	command(t, "ip", "link", "set", "slot0", "down")
	command(t, "ip", "link", "set", "slot0", "up")
	waitForState(t, "slot0", `"state":"ERROR-ACTIVE"`)

	errors = startCandump(t, nil, "slot0", 2)
	if err := adapter.Send(cantest.Frame{ID: unix.CAN_ERR_FLAG | unix.CAN_ERR_ACK, Data: strings.Repeat("\x00", 8)}); err != nil {
		t.Fatal(err)
	}
	if err := adapter.SendOverflow(cantest.Frame{ID: 0x321, Data: "x"}); err != nil {
		t.Fatal(err)
	}
	said = errors()
	t.Logf("candump -e:\n%s", said)
	for _, words := range []string{"no-acknowledgement-on-tx", "rx-overflow"} {
		if !strings.Contains(said, words) {
			t.Errorf("candump says no %s", words)
		}
	}
}

// startCandump has candump hear a number of error frames, and no others, in a container or, if that is nil, on the host. The
// function it returns waits for them.
func startCandump(t testing.TB, c *container, name string, count int) (words func() string) {
	t.Helper()
	var in []string
	if c != nil {
		in = []string{"ip", "netns", "exec", c.id}
	}
	var out strings.Builder
	args := append(slices.Clone(in), "candump", "-e", "-T", "20000", "-n", strconv.Itoa(count), name+",92345678:DFFFFFFF,#FFFFFFFF")
	cmd, cancel := limited(args[0], args[1:]...)
	t.Cleanup(cancel)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	args = append(in, "cat", "/proc/net/can/rcvlist_err")
	table := ""
	socket := func() bool { // net/can/proc.c lists the sockets of each device by their error filters
		table, _ = try(args[0], args[1:]...)
		return strings.Contains(table, name+" ") && !strings.Contains(table, "("+name+": no entry)")
	}
	for deadline := time.Now().Add(20 * time.Second); !socket(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("candump does not listen: %s, %s", table, out.String())
		}
	}
	return func() string {
		_ = cmd.Wait()
		return out.String()
	}
}

// TestUSBAdapterRestart: a device that is set down, or an adapter that is unplugged, while frames are on their way in both
// directions, afterwards takes and sends each new frame exactly once, and no old one.
func TestUSBAdapterRestart(t *testing.T) {
	adapter := cantest.NewUSBAdapter(t, "slot0", "A1B2C3")
	setUpUSB(t, "slot0")
	packets := func(direction string) int {
		t.Helper()
		text := strings.TrimSpace(command(t, "cat", "/sys/class/net/slot0/statistics/"+direction+"_packets"))
		n, err := strconv.Atoi(text)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	const rounds, count = 10, 100
	for round := range rounds {
		if round%3 == 2 {
			adapter.Pace(cantest.Stopped) // ten frames stay in the adapter
		}
		sender, ended := cantest.NewSender(t, nil, "slot0"), make(chan bool)
		go func() {
			defer close(ended)
			for _, f := range numbered(3 * count) {
				if adapter.Send(f) != nil || sender.Send(f) != nil {
					return // the device went
				}
			}
		}()
		time.Sleep(time.Duration(round) * 5 * time.Millisecond)
		if round%2 == 0 {
			command(t, "ip", "link", "set", "slot0", "down")
		} else {
			adapter.Unplug()
		}
		<-ended
		sender.Close()
		adapter.Pace(cantest.Unlimited)
		rx, tx := 0, 0
		if round%2 == 0 {
			rx, tx = packets("rx"), packets("tx")
			command(t, "ip", "link", "set", "slot0", "up")
		} else {
			adapter.Plug()
			setUpUSB(t, "slot0")
		}
		wire, host := adapter.Listen(), cantest.Listen(t, nil, "slot0")
		sender = cantest.NewSender(t, nil, "slot0")
		fromWire, fromHost := mixed(0x100, count), mixed(0x200, count)
		for i := range fromWire {
			if err := adapter.Send(fromWire[i]); err != nil {
				t.Fatal(err)
			}
			if err := sender.Send(fromHost[i]); err != nil {
				t.Fatal(err)
			}
		}
		cantest.WaitQuiet(3*len(fromWire), wire, host)
		if got := host.InOrder(); !slices.Equal(got, fromWire) {
			t.Errorf("round %d: the host hears %d frames, want %d in order", round, len(got), len(fromWire))
		}
		if got := wire.InOrder(); !slices.Equal(got, fromHost) {
			t.Errorf("round %d: on the wire are %d frames, want %d in order", round, len(got), len(fromHost))
		}
		rx, tx = packets("rx")-rx, packets("tx")-tx
		// From 6.6 on the driver counts what it has sent as received, too.
		if (rx != len(fromWire) && rx != len(fromWire)+len(fromHost)) || tx != len(fromHost) {
			t.Errorf("round %d: the driver counts %d received, %d sent; want %d", round, rx, tx, len(fromWire))
		}
		wire.Close()
		host.Close()
		sender.Close()
	}
}

// TestUSBAdapters: two adapters on one wire, told apart by their serial numbers.
func TestUSBAdapters(t *testing.T) {
	a, b := cantest.NewUSBAdapter(t, "slot0", "A1B2C3"), cantest.NewUSBAdapter(t, "slot1", "D4E5F6")
	a.Connect(b)
	setUpUSB(t, "slot0")
	setUpUSB(t, "slot1")
	sent := mixed(0x300, 100)
	for _, way := range [][2]string{{"slot0", "slot1"}, {"slot1", "slot0"}} {
		sender, there := cantest.NewSender(t, nil, way[0]), cantest.Listen(t, nil, way[1])
		for _, f := range sent {
			if err := sender.Send(f); err != nil {
				t.Fatal(err)
			}
		}
		cantest.WaitQuiet(len(sent), there)
		if got := there.InOrder(); !slices.Equal(got, sent) {
			t.Errorf("%s hears %d frames of %d, or in another order", way[1], len(got), len(sent))
		}
		there.Close()
	}
}

// TestUSBAdapterBus: four containers, the host and the wire of a CAN FD controller each hear every frame of the others
// exactly once.
func TestUSBAdapterBus(t *testing.T) {
	freshHost(t)
	write(t, "/proc/sys/net/core/netdev_max_backlog", "65536") // as make install sets it
	adapter := cantest.NewUSBAdapter(t, "slot0", "A1B2C3")
	setUpUSB(t, "slot0")
	command(t, "ip", "link", "set", "slot0", "txqueuelen", "20000") // for all that five stations send at once
	parties := []party{{"wire", adapter.Listen(), adapter.Send, false}, station{"host", nil, "slot0"}.party(t)}
	for i := range 4 {
		c := newContainer(t, fmt.Sprintf("c%d", i))
		on(c).with(onController + `,"mtu":72`).add(t)
		parties = append(parties, station{c.id, c.netns, "can0"}.party(t))
	}
	exchange(t, parties, 1000, true)
}

// TestUSBAdapterSetUp: from a fresh CAN FD adapter to a container on it by its network's configuration alone. After a
// replug vxcanctl heal sets it up again, and the sockets from before hear the wire, without a container starting.
func TestUSBAdapterSetUp(t *testing.T) {
	freshHost(t)
	adapter := cantest.NewUSBAdapter(t, "slot0", "A1B2C3")
	const network = onController + `,"bitrate":500000,"fd":true,"dbitrate":2000000,"termination":120,"restart-ms":100`
	a, b := newContainer(t, "a"), newContainer(t, "b")
	for members, words := range map[string][]string{
		`,"bitrate":500000,"termination":60`:       {"slot0 (gs_usb)", "termination 60", "120"},
		`,"bitrate":999999999`:                     {"slot0 (gs_usb)", "bitrate 999999999", "nearest"},
		`,"bitrate":500000,"triple-sampling":true`: {"slot0 (gs_usb)", "not supported: triple-sampling"},
		`,"bitrate":500000,"presume-ack":true`:     {"slot0 (gs_usb)", "not supported: presume-ack"},
	} {
		on(a).with(onController+members).fails(t, "ADD", 7, words...)
	}
	result, log := on(a).with(network).add(t)
	t.Logf("%s", log)
	if !strings.Contains(log, "no restart-ms") {
		t.Errorf("no warning that the adapter has no restart-ms: %s", log)
	}
	on(b).with(network).add(t)
	state := controllerState(t, "slot0")
	for _, word := range []string{`"mtu":72`, `"txqlen":1000`, `"bitrate":500000`, `"bitrate":2000000`, `"termination":120`, `"FD"`} {
		if !strings.Contains(state, word) {
			t.Errorf("no %s: %s", word, state)
		}
	}
	if err := on(a).with(network).check(t, result); err != nil {
		t.Error(err)
	}
	on(newContainer(t, "c")).with(onController+`,"bitrate":250000,"name":"other"`).fails(t, "ADD", 7, "slot0 is up with", "want 250000")
	parties := func() []party {
		return []party{{"wire", adapter.Listen(), adapter.Send, false}, station{"host", nil, "slot0"}.party(t),
			station{"a", a.netns, "can0"}.party(t), station{"b", b.netns, "can0"}.party(t)}
	}
	exchange(t, parties(), 50, true)

	sender, inB := cantest.NewSender(t, a.netns, "can0"), cantest.Listen(t, b.netns, "can0")
	const rounds = 3
	for round := range rounds {
		adapter.Unplug()
		vxcanctl(t, "heal", "slot0") // as a udev event that comes late has it: no error
		if err := sender.Send(cantest.Frame{ID: 0x100, Data: fmt.Sprint("away", round)}); err != nil {
			t.Errorf("round %d: unplugged, a container cannot send: %v", round, err)
		}
		adapter.Plug()
		start := time.Now()
		log := vxcanctl(t, "heal", "slot0")
		wire := adapter.Listen()
		back, out := cantest.Frame{ID: 0x7E8, Data: fmt.Sprint("back", round)}, cantest.Frame{ID: 0x7E0, Data: fmt.Sprint("out", round)}
		if err := errors.Join(adapter.Send(back), sender.Send(out)); err != nil {
			t.Fatal(err)
		}
		cantest.WaitQuiet(1, wire)
		t.Logf("round %d: healed in %v: %s", round, time.Since(start), log)
		if heard, _ := inB.Heard(); heard[back] != 1 {
			t.Errorf("round %d: the socket from before hears the wire %d times, want 1", round, heard[back])
		}
		if got := wire.InOrder(); !slices.Equal(got, []cantest.Frame{out}) {
			t.Errorf("round %d: on the wire is %v, want %v", round, got, out)
		}
		wire.Close()
	}
	inB.Close()
	exchange(t, parties(), 50, true)
	vxcanctl(t, "heal", "--udev", "nosuchbus")
	vxcanctl(t, "heal")
}

// vxcanctl runs vxcanctl and returns what it says.
func vxcanctl(t testing.TB, args ...string) string {
	t.Helper()
	out, err := exec.Command(filepath.Join(binDir(t), "vxcanctl"), args...).CombinedOutput()
	if err != nil {
		t.Errorf("vxcanctl %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}
