package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket/pcapgo"
	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/bus"
	"github.com/vxcan/vxcan/pkg/capture"
	"github.com/vxcan/vxcan/pkg/config"
)

func TestParseBuses(t *testing.T) {
	everything := capture.Filter{Errors: unix.CAN_ERR_MASK}
	for args, want := range map[string]struct {
		buses []capture.Bus
		rest  *capture.Filter
	}{
		"":            {nil, &everything},
		"vcan0 slot0": {[]capture.Bus{{Hub: "vcan0", Filter: everything}, {Hub: "slot0", Filter: everything}}, nil},
		"any,123:7FF vcan0": {
			[]capture.Bus{{Hub: "vcan0", Filter: everything}}, &capture.Filter{IDs: []unix.CanFilter{{Id: 0x123, Mask: 0x7ff}}},
		},
		"vcan0,12345678:DFFFFFFF,1~7ff,#FFFFFFFF,j": {[]capture.Bus{{Hub: "vcan0", Filter: capture.Filter{
			IDs: []unix.CanFilter{{Id: 0x12345678 | unix.CAN_EFF_FLAG, Mask: 0xdfffffff}, {Id: 1 | unix.CAN_INV_FILTER, Mask: 0x7ff}},
			All: true, Errors: 0xffffffff,
		}}}, nil},
	} {
		buses, rest, err := parseBuses(strings.Fields(args))
		if diff := cmp.Diff([]any{want.buses, want.rest}, []any{buses, rest}); err != nil || diff != "" {
			t.Errorf("%q: %v (- want, + got)\n%s", args, err, diff)
		}
	}
	for _, arg := range []string{"vcan0 vcan0,1:2", "vcan0,", "vcan0,123", "vcan0,123:", "vcan0,:7FF", "vcan0,12g:7FF", "vcan0,#", "vcan0,123456789:1", "vcan0,1:7FF,x", "vcan0" + strings.Repeat(",1:7FF", 513)} {
		if _, _, err := parseBuses(strings.Fields(arg)); err == nil {
			t.Errorf("%.40q is taken", arg)
		}
	}
}

// member is a container on vcan0 whose host end has this name.
func member(device, id string) capture.Member {
	return capture.Member{Hub: "vcan0", Index: 7, Device: device, Attachment: config.Attachment{Runtime: "cni", Network: "n", ContainerID: id}}
}

// named is a status with these names, by host end.
func namedStatus(names map[string]string) fakeLooker {
	s := bus.BusStatus{Hub: "vcan0"}
	for device, name := range names {
		s.Endpoints = append(s.Endpoints, bus.EndpointStatus{HostIf: device, Name: name, Attachment: member(device, "0123456789abcdef").Attachment})
	}
	return fakeLooker{all: []bus.BusStatus{s}}
}

// TestLabels: whatever a container is called, its label is one word, printable, not too long and its own.
func TestLabels(t *testing.T) {
	host := namedStatus(map[string]string{
		"vx0000000000001": "engine", "vx0000000000002": "engine", "vx0000000000003": "a\x1b[31mb\nc", "vx0000000000004": strings.Repeat("x", 200),
		"vx0000000000005": "", "vx0000000000006": "my engine", "vx0000000000007": strings.Repeat("é", 100),
	})
	for _, c := range []struct {
		most   int
		withAt bool
		want   []string
	}{
		{32, false, []string{"vcan0", "engine", "engine~0002", `a\x1b[31mb\nc`, strings.Repeat("x", 27) + "~0004", "0123456789ab", "my_engine", strings.Repeat("é", 13) + "~0007", "short", "device-7"}},
		{15, true, []string{"vcan0", "engine@vcan0", "engine@vca~0002", `a\x1b[31mb~0003`, "xxxxxxxxxx~0004", "0123456789~0005", "my_engine@vcan0", "ééééé~0007", "short@vcan0", "device-7@vcan0"}},
	} {
		s := newSenders(host, c.most, c.withAt)
		all := []capture.Member{{Hub: "vcan0", Device: "vcan0"}}
		for i := range 7 {
			all = append(all, member(fmt.Sprintf("vx%013d", i+1), "0123456789abcdef"))
		}
		all = append(all, member("vx0000000000008", "short"), capture.Member{Hub: "vcan0", Index: 7})
		for range 2 { // the same again
			for i, m := range all {
				got := s.label(t.Context(), m)
				if got != c.want[i] || len(got) > c.most || !utf8.ValidString(got) {
					t.Errorf("%d bytes at most: %q, want %q", c.most, got, c.want[i])
				}
			}
		}
	}
}

// TestLateName: a name that Docker tells later is found, but not asked for with each frame.
func TestLateName(t *testing.T) {
	m := member("vx1", "0123456789abcdef")
	m.Runtime = "docker"
	status := bus.BusStatus{Hub: "vcan0", Endpoints: []bus.EndpointStatus{{HostIf: "vx1", Attachment: m.Attachment}}}
	host := &countingLooker{fakeLooker: fakeLooker{all: []bus.BusStatus{status}}}
	s := newSenders(host, 32, false)
	for range 100 {
		if got := s.label(t.Context(), m); got != "0123456789ab" {
			t.Fatal(got)
		}
	}
	if asked := host.asked.Load(); asked != 1 {
		t.Errorf("asked %d times", asked)
	}
	status.Endpoints[0].Name = "web"
	s.asked["vx1"] = time.Now().Add(-time.Minute)
	if got := s.label(t.Context(), m); got != "web" || !s.is(t.Context(), m, []string{"web"}) {
		t.Error(got)
	}
}

type countingLooker struct {
	fakeLooker
	asked atomic.Int32
}

func (c *countingLooker) Status(ctx context.Context, hubs ...string) ([]bus.BusStatus, error) {
	c.asked.Add(1)
	return c.fakeLooker.Status(ctx, hubs...)
}

// TestFrameFormats: each form of a frame in each format; TestDumpForms compares the log with that of candump.
func TestFrameFormats(t *testing.T) {
	from := member("vx1", "0123456789abcdef")
	at := time.Unix(1795906269, 717574869).UTC()
	var text, log, document bytes.Buffer
	writers := []frameWriter{
		&textWriter{buffer: buffer{bufio.NewWriter(&text)}, stamp: "z", several: true},
		logWriter{buffer{bufio.NewWriter(&log)}}, jsonWriter{buffer{bufio.NewWriter(&document)}},
	}
	for i, f := range []capture.Frame{
		{ID: 0x123, Data: []byte{0x0a, 0xb0}},
		{ID: 0x123 | unix.CAN_RTR_FLAG, Data: make([]byte, 3)},
		{ID: 0x1234567 | unix.CAN_EFF_FLAG, Data: make([]byte, 8), DLC: 14, Lost: 5},
		{ID: 0x7ff, FD: true, Flags: capture.BRS | capture.ESI | capture.FDF, Data: make([]byte, 12)},
		{ID: unix.CAN_ERR_FLAG | unix.CAN_ERR_BUSOFF | unix.CAN_ERR_RESTARTED, Data: make([]byte, 8)},
	} {
		f.From, f.Time = from, at.Add(time.Duration(i)*time.Second)
		if i == 4 {
			f.From = capture.Member{Hub: "vcan0", Index: 3, Device: "vcan0"}
		}
		for _, w := range writers {
			if err := w.write(&f, []string{"engine", "engine", "engine", "engine", "vcan0"}[i]); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, w := range writers {
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	const container = `"hub":"vcan0","sender":"engine","runtime":"cni","network":"n","containerID":"0123456789abcdef","hostIf":"vx1",`
	for _, c := range []struct{ got, want string }{
		{text.String(), ` (000.000000)  vcan0  engine       123   [2]  0A B0
 (001.000000)  vcan0  engine       123   [3]  remote request
 -- 5 frames of vcan0 were lost here --
 (002.000000)  vcan0  engine  01234567   [8]  00 00 00 00 00 00 00 00
 (003.000000)  vcan0  engine       7FF  [12]  00 00 00 00 00 00 00 00 00 00 00 00
 (004.000000)  vcan0  vcan0   20000140   [8]  00 00 00 00 00 00 00 00  ERRORFRAME bus-off,restarted-after-bus-off
`},
		{log.String(), `(1795906269.717574) engine 123#0AB0
(1795906270.717574) engine 123#R3
(1795906271.717574) engine 01234567#0000000000000000_E
(1795906272.717574) engine 7FF##7000000000000000000000000
(1795906273.717574) vcan0 20000140#0000000000000000
`},
		{document.String(), `{"time":"2026-11-28T22:51:09.717574869Z",` + container + `"id":291,"length":2,"data":"0AB0"}
{"time":"2026-11-28T22:51:10.717574869Z",` + container + `"id":291,"remote":true,"length":3,"data":""}
{"time":"2026-11-28T22:51:11.717574869Z",` + strings.Replace(container, "}", "", 1) + `"id":19088743,"extended":true,"length":8,"dlc":14,"data":"0000000000000000","lost":5}
{"time":"2026-11-28T22:51:12.717574869Z",` + container + `"id":2047,"fd":true,"brs":true,"esi":true,"length":12,"data":"000000000000000000000000"}
{"time":"2026-11-28T22:51:13.717574869Z","hub":"vcan0","sender":"vcan0","id":320,"error":true,"length":8,"data":"0000000000000000"}
`},
	} {
		// ifName is empty here, and so is left out.
		if diff := cmp.Diff(c.want, c.got); diff != "" {
			t.Errorf("(- want, + got)\n%s", diff)
		}
	}
}

// TestTimestamps: the four of candump.
func TestTimestamps(t *testing.T) {
	at := time.Unix(1795906269, 717574869)
	for stamp, want := range map[string]string{"a": "1795906271.217574", "A": at.Add(1500 * time.Millisecond).Format("2006-01-02 15:04:05.000000"), "d": "001.000000", "z": "001.500000"} {
		w := &textWriter{stamp: stamp}
		w.appendTime(nil, at)
		w.appendTime(nil, at.Add(500*time.Millisecond))
		if got := string(w.appendTime(nil, at.Add(1500*time.Millisecond))); got != want {
			t.Errorf("%s: %s, want %s", stamp, got, want)
		}
	}
}

// TestPcapng: another library's reader finds an interface for each sender, and packets in the layout of the link type;
// TestDumpSenders has Wireshark read a file.
func TestPcapng(t *testing.T) {
	var file bytes.Buffer
	w, err := newPcapng("-", "vcan0", &file)
	if err != nil {
		t.Fatal(err)
	}
	at := time.Unix(1795906269, 717574869)
	long := strings.Repeat("x", 200)
	for _, f := range []struct {
		capture.Frame
		sender string
	}{
		{capture.Frame{From: member("vx1", "a"), Time: at, ID: 0x123, Data: []byte{1, 2, 3}, Lost: 2}, long},
		{capture.Frame{From: capture.Member{Hub: "vcan0", Device: "vcan0"}, Time: at, ID: 0x92345678, FD: true, Flags: capture.BRS, Data: []byte{4}}, "vcan0"},
		{capture.Frame{From: member("vx1", "a"), Time: at, ID: 0x456, DLC: 15, Data: make([]byte, 8)}, long},
	} {
		if err := w.write(&f.Frame, f.sender); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	r, err := pcapgo.NewNgReader(&file, pcapgo.NgReaderOptions{WantMixedLinkType: true})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for {
		data, ci, options, err := r.ReadPacketDataWithOptions()
		if err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		nic, err := r.Interface(ci.InterfaceIndex)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprintf("%s %d %x %q %v", nic.Name, nic.LinkType, data, options.Comments, ci.Timestamp.Equal(at)))
	}
	want := []string{
		long + ` 227 0000012303000000010203 ["vxcanctl lost 2 frames of the bus before this one"] true`,
		`vcan0 227 923456780105000004 [] true`, long + ` 227 000004560800000f0000000000000000 [] true`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(- want, + got)\n%s", diff)
	}
}

// TestKeptBack: what a policy has kept back since, also when its counters were made anew.
func TestKeptBack(t *testing.T) {
	before := []bus.BusStatus{{Hub: "vcan0", Endpoints: []bus.EndpointStatus{{HostIf: "vx1", DeniedSend: 5, OverRate: 2}}}}
	for want, e := range map[string]bus.EndpointStatus{
		"":                               {HostIf: "vx1", DeniedSend: 5, OverRate: 2},
		"1 frame that its policy denied": {HostIf: "vx1", DeniedSend: 6, OverRate: 2},
		"3 frames over its rate":         {HostIf: "vx1", DeniedSend: 5, OverRate: 5},
		"4 frames that its policy denied and 1 frame over its rate": {HostIf: "vx1", DeniedSend: 4, OverRate: 1},
		"7 frames that its policy denied":                           {HostIf: "vx2", DeniedSend: 7},
	} {
		if got := keptBackWords(before, "vcan0", e); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
