package plan

import (
	"errors"
	"strings"
	"testing"

	"github.com/vxcan/vxcan/pkg/canlink"
	"github.com/vxcan/vxcan/pkg/config"
)

func attachment(runtime, network, id, ifName, entry string) config.Attachment {
	return config.Attachment{Runtime: runtime, Network: network, ContainerID: id, IfName: ifName, Entry: entry}
}

func TestAlias(t *testing.T) {
	id := strings.Repeat("0123456789abcdef", 4)
	for _, a := range []config.Attachment{
		attachment("cni", "canbus0", id, "eth0", "can0"),
		attachment("cni", "canbus0", id, "eth0", ""),
		{Runtime: "cni"},
		attachment("cni", "", "", "", ""),
	} {
		for _, p := range []config.Policy{{}, {Send: "none"}} {
			text := Alias(config.Hub{Name: "vcan0", Physical: a.IfName == "", Transient: a.Entry == ""}, a, p)
			want := Aliased{a, "vcan0", p != config.Policy{}, a.IfName == "", a.Entry == ""}
			if got, ok := ParseAlias(text); !ok || got != want || !strings.HasPrefix(text, "vxcan vcan0 ") {
				t.Errorf("%+v: %q, back as %+v, %v", a, text, got, ok)
			}
		}
	}
}

// What does not fit, or would be read back as something else, is refused.
func TestCheckAlias(t *testing.T) {
	fits := config.Attachment{Runtime: "cni", ContainerID: "id", IfName: "eth0"}
	fits.Network = strings.Repeat("n", canlink.MaxAlias-len("vxcan vcan0 cni  id eth0 "))
	if err := CheckAlias(config.Hub{Name: "vcan0"}, fits, config.Policy{}); err != nil {
		t.Error(err)
	}
	long := fits
	long.Network += "n"
	for words, a := range map[string]config.Attachment{
		"256 bytes of 255": long,
		"cni a b/id/eth0":  attachment("cni", "a b", "id", "eth0", ""),
		"cni net/id/eth0":  attachment("cni", "net", "id", "eth0", "a b"),
		"cni net/id/eth0 ": attachment("cni", "net", "id", "eth0 ", ""),
	} {
		if err := CheckAlias(config.Hub{Name: "vcan0"}, a, config.Policy{}); !errors.Is(err, config.ErrInvalid) || !strings.Contains(err.Error(), words) {
			t.Errorf("%+v: %v, want %q", a, err, words)
		}
	}
}

func TestParseAliasOfOthers(t *testing.T) {
	for _, text := range []string{"", "vxcan", "my CAN bus", "vxcan vcan0 cni n id eth0", "vxcan vcan0 cni n id eth0 can0 ", "VXCAN vcan0 cni n id eth0 can0", "vxcan vcan0 cni n id eth0 can0 police"} {
		if a, ok := ParseAlias(text); ok {
			t.Errorf("%q: %+v", text, a)
		}
	}
}

// TestForgedAlias: no device but a host end is an endpoint, whatever alias a container has given to its end before its runtime
// moved that back. Nor is a second device of an attachment.
func TestForgedAlias(t *testing.T) {
	a := Record{Attachment: attachment("cni", "net", "a", "eth0", "")}
	hub := config.Hub{Name: "vcan0"}
	alias := Alias(hub, a.Attachment, config.Policy{})
	host := canlink.Link{Name: a.HostIf(), Index: 5, Kind: canlink.Vxcan, Alias: alias, PeerElsewhere: true, PeerIndex: 2}
	twin, back, bare := host, host, host
	bare.Alias, bare.Index = "", 8
	twin.Name, twin.Index = "foo", 6
	back.Name, back.Index, back.PeerElsewhere = "can0", 7, false
	for name, test := range map[string]struct {
		links []canlink.Link
		want  string
	}{
		"renamed":                    {[]canlink.Link{twin}, "foo"},
		"moved back":                 {[]canlink.Link{back}, ""},
		"moved back, of one renamed": {[]canlink.Link{back, twin, back}, "foo"},
		"twin before":                {[]canlink.Link{twin, host, back}, host.Name},
		"twin behind":                {[]canlink.Link{host, back, twin}, host.Name},
		"name of another":            {[]canlink.Link{bare, twin}, "foo"},
	} {
		if got := (View{Links: test.links}).HostEnd(a.Attachment); got.Name != test.want {
			t.Errorf("%s: host end %q, want %q", name, got.Name, test.want)
		}
		for _, records := range [][]Record{nil, {a}} {
			var got []string
			for _, e := range (View{Links: test.links}).Endpoints("vcan0", records) {
				got = append(got, e.Host.Name)
				if (e.Renamed != "") != (e.Host.Name == "foo") {
					t.Errorf("%s: %+v", name, e)
				}
			}
			if strings.Join(got, " ") != test.want {
				t.Errorf("%s, %d records: %q, want %q", name, len(records), got, test.want)
			}
		}
	}
}

func FuzzAlias(f *testing.F) {
	f.Add("vcan0", "cni", "canbus0", "id", "eth0", "")
	f.Add("vcan0", "cni", "a b", "", " ", "can0")
	f.Fuzz(func(t *testing.T, hub, runtime, network, id, ifName, entry string) {
		a := attachment(runtime, network, id, ifName, entry)
		if CheckAlias(config.Hub{Name: hub, Physical: true}, a, config.Policy{Rate: 1}) != nil {
			return
		}
		text := Alias(config.Hub{Name: hub, Physical: true}, a, config.Policy{Rate: 1})
		if got, ok := ParseAlias(text); !ok || got.Hub != hub || got.Attachment != a || !got.Policy || !got.Physical || len(text) > canlink.MaxAlias {
			t.Errorf("%q back as %+v, %v", text, got, ok)
		}
	})
}
