// Package qemu tests a CAN FD adapter on USB and two SJA1000 on PCI, both emulated, whose drivers are the kernel's. The first
// tests show that the USB adapter is to its driver what a real one is.
package qemu

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/integration/harness"
	"github.com/vxcan/vxcan/pkg/cantest"
)

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
	text := harness.ControllerState(t, name)
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

	harness.SetUpUSB(t, "slot0")
	t.Logf("when set up: %q", adapter.Commands())
	before := detailsOf(t, "slot0")
	data := before.LinkInfo.Data
	if before.LinkInfo.Kind != "can" || before.MTU != 72 || data.BitTiming.BitRate != 500000 ||
		data.DataBitTiming.BitRate != 2000000 || !slices.Contains(data.Modes, "FD") {
		t.Errorf("set up as %+v", before)
	}
	for _, ohms := range []int{120, 0} {
		harness.Command(t, "ip", "link", "set", "slot0", "type", "can", "termination", strconv.Itoa(ohms))
		if got := detailsOf(t, "slot0").LinkInfo.Data.Terminated; got != ohms {
			t.Errorf("termination %d, want %d", got, ohms)
		}
	}
	harness.Command(t, "ip", "link", "set", "slot0", "down")
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
		if _, err := harness.Try("ip", "link", "show", "dev", "slot0"); err == nil {
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
		harness.SetUpUSB(t, "slot0")
	}
}

// TestUSBAdapterFrames: classic and FD frames pass in both directions at the same time, each exactly once and in order.
// The host hears its own when they were sent.
func TestUSBAdapterFrames(t *testing.T) {
	const count = 1000
	adapter := cantest.NewUSBAdapter(t, "slot0", "A1B2C3")
	harness.SetUpUSB(t, "slot0")
	onWire, onHost := adapter.Listen(), cantest.Listen(t, nil, "slot0")
	sender := cantest.NewSender(t, nil, "slot0")
	fromWire, fromHost := harness.Mixed(0x100, count), harness.Mixed(0x200, count)
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

// TestUSBAdapterTrouble: while nobody acknowledges, nothing is on the wire or heard as sent. Errors that the adapter
// reports are heard as error frames, and its state is seen. After bus-off, down and up help.
func TestUSBAdapterTrouble(t *testing.T) {
	adapter := cantest.NewUSBAdapter(t, "slot0", "A1B2C3")
	harness.SetUpUSB(t, "slot0")
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
	sent := harness.Numbered(50)
	adapter.Pace(cantest.Stopped)
	send(sent)
	expectSent("nobody acknowledges", nil)
	adapter.Pace(cantest.Unlimited)
	expectSent("acknowledged again", sent)

	errors := harness.StartCandump(t, nil, "slot0", 3)
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
		harness.WaitForState(t, "slot0", `"state":"`+c.wantInLink+`"`)
	}
	said := errors()
	t.Logf("candump -e:\n%s", said)
	for _, words := range []string{"tx-error-warning", "tx-error-passive", "bus-off", "error-counter-tx-rx{{128}{5}}"} {
		if !strings.Contains(said, words) {
			t.Errorf("candump says no %s", words)
		}
	}
	send(harness.Numbered(5))
	expectSent("bus-off", sent)
	harness.Command(t, "ip", "link", "set", "slot0", "down")
	harness.Command(t, "ip", "link", "set", "slot0", "up")
	harness.WaitForState(t, "slot0", `"state":"ERROR-ACTIVE"`)

	errors = harness.StartCandump(t, nil, "slot0", 2)
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

// TestUSBAdapterSetUp: from a fresh CAN FD adapter to a container on it by its network's configuration alone. After a
// replug vxcanctl heal sets it up again, and the sockets from before hear the wire, without a container starting.
func TestUSBAdapterSetUp(t *testing.T) {
	harness.FreshHost(t)
	adapter := cantest.NewUSBAdapter(t, "slot0", "A1B2C3")
	const network = harness.OnController + `,"bitrate":500000,"fd":true,"dbitrate":2000000,"termination":120,"restart-ms":100`
	a, b := harness.NewContainer(t, "a"), harness.NewContainer(t, "b")
	for members, words := range map[string][]string{
		`,"bitrate":500000,"termination":60`:       {"slot0 (gs_usb)", "termination 60", "120"},
		`,"bitrate":999999999`:                     {"slot0 (gs_usb)", "bitrate 999999999", "nearest"},
		`,"bitrate":500000,"triple-sampling":true`: {"slot0 (gs_usb)", "not supported: triple-sampling"},
		`,"bitrate":500000,"presume-ack":true`:     {"slot0 (gs_usb)", "not supported: presume-ack"},
	} {
		harness.On(a).With(harness.OnController+members).Fails(t, "ADD", 7, words...)
	}
	result, log := harness.On(a).With(network).Add(t)
	t.Logf("%s", log)
	if !strings.Contains(log, "no restart-ms") {
		t.Errorf("no warning that the adapter has no restart-ms: %s", log)
	}
	harness.On(b).With(network).Add(t)
	state := harness.ControllerState(t, "slot0")
	for _, word := range []string{`"mtu":72`, `"txqlen":1000`, `"bitrate":500000`, `"bitrate":2000000`, `"termination":120`, `"FD"`} {
		if !strings.Contains(state, word) {
			t.Errorf("no %s: %s", word, state)
		}
	}
	if err := harness.On(a).With(network).Check(t, result); err != nil {
		t.Error(err)
	}
	harness.On(harness.NewContainer(t, "c")).With(harness.OnController+`,"bitrate":250000,"name":"other"`).Fails(t, "ADD", 7, "slot0 is up with", "want 250000")
	parties := func() []harness.Party {
		return []harness.Party{{Name: "wire", Listener: adapter.Listen(), Send: adapter.Send, Echo: false}, harness.Host("slot0").Party(t),
			a.On("can0").Party(t), b.On("can0").Party(t)}
	}
	harness.Exchange(t, parties(), 50, true)

	sender, inB := cantest.NewSender(t, a.Netns, "can0"), cantest.Listen(t, b.Netns, "can0")
	const rounds = 3
	for round := range rounds {
		adapter.Unplug()
		harness.Vxcanctl(t, "heal", "slot0") // as a udev event that comes late has it: no error
		if err := sender.Send(cantest.Frame{ID: 0x100, Data: fmt.Sprint("away", round)}); err != nil {
			t.Errorf("round %d: unplugged, a container cannot send: %v", round, err)
		}
		adapter.Plug()
		start := time.Now()
		log := harness.Vxcanctl(t, "heal", "slot0")
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
	harness.Exchange(t, parties(), 50, true)
	harness.Vxcanctl(t, "heal", "--udev", "nosuchbus")
	harness.Vxcanctl(t, "heal")
}
