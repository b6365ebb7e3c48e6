package config

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
)

const (
	name15 = "abcdefghijklmno"
	name16 = "abcdefghijklmnop"
)

func TestCheckName(t *testing.T) {
	for _, name := range []string{"a", "0", "can0", "vcan-0", "a.b", "...", "_", "vx@can0", "öüß", name15} {
		if err := CheckName(name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for name, words := range map[string]string{
		"":           "empty; want 1 to 15 bytes",
		name16:       `"abcdefghijklmnop": 16 bytes, at most 15 are allowed`,
		"öüßöüßöü":   "16 bytes",
		".":          `"."`,
		"..":         `".."`,
		"all":        `"all"`,
		"a/b":        `"/" is not allowed`,
		"../etc":     `"/" is not allowed`,
		"eth0:1":     `":" is not allowed`,
		"can%d":      `"%" is not allowed`,
		"can 0":      `" " is not allowed`,
		" can0":      `" " is not allowed`,
		"can0\n":     `"\n" is not allowed`,
		"can\t0":     `"\t" is not allowed`,
		"can\x000":   `"\x00" is not allowed`,
		"can\x1b[0m": `"\x1b" is not allowed`,
		"can\u00a00": `"\u00a0" is not allowed`,
		"can\xff":    "\"\ufffd\" is not allowed", // not UTF-8
	} {
		err := CheckName(name)
		if !errors.Is(err, ErrInvalid) || !strings.Contains(fmt.Sprint(err), words) {
			t.Errorf("%q: %v, want ErrInvalid and %q", name, err, words)
		}
	}
}

func TestCheckInterface(t *testing.T) {
	for _, name := range []string{"can0", "can%d", "%d", "a%db", ".%d", "abcdefghijklm%d", name15} {
		if err := CheckInterface(name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, name := range []string{
		"", name16, "abcdefghijklmn%d", "can%", "can%s", "can%d%d", "can%%d", "can%dx%", "a/%d", "a:%d", "a %d", "%d/", ".", "..",
	} {
		if err := CheckInterface(name); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: %v, want ErrInvalid", name, err)
		}
	}
}

func TestMatches(t *testing.T) {
	for _, test := range []struct {
		name, wanted string
		want         bool
	}{
		{"can0", "can0", true},
		{"can1", "can0", false},
		{"can0", "can%d", true},
		{"can17", "can%d", true},
		{"can", "can%d", false},
		{"canx", "can%d", false},
		{"can0x", "can%d", false},
		{"vcan0", "can%d", false},
		{"c0n", "c%dn", true},
		{"cn", "c%dn", false},
		{"0", "%d", true},
		{"can%d", "can%d", false},
	} {
		if got := matches(test.name, test.wanted); got != test.want {
			t.Errorf("%q for %q: %v", test.name, test.wanted, got)
		}
	}
}

// hostName is what our host-side names look like: they tell DEL of any release what to delete, and never change.
var hostName = regexp.MustCompile(`^(vx|tx|rx)[0-9a-v]{13}$`)

func TestHostIfName(t *testing.T) {
	id := strings.Repeat("0123456789abcdef", 4)
	seen := make(map[string]Attachment)
	for _, a := range []Attachment{
		{},
		{"cni", "canbus0", id, "eth0", ""},
		{"cni", "canbus0", id, "eth0", "can0"},
		{"cni", "canbus0", id, "eth1", ""},
		{"cni", "canbus0", id[:63], "eth0", ""},
		{"cni", "canbus0", id[:12], "eth0", ""}, // a runtime's short ID is another one
		{"cni", "canbus1", id, "eth0", ""},
		{"netavark", "canbus0", id, "eth0", ""},
		{"docker", "canbus0", id, "eth0", ""},
		// Where a part begins matters.
		{"cni", "a", "b", "c", "d"}, {"cni", "ab", "", "c", "d"}, {"cni", "", "ab", "c", "d"}, {"cni", "a", "bc", "", "d"},
		{"cni", "a", "", "bc", "d"}, {"cni", "a", "b", "", "cd"}, {"cni", "a", "b", "cd", ""}, {"cnia", "", "b", "c", "d"},
		{"cni", "a b", "c", "d", ""}, {"cni", "a", "b c", "d", ""}, {"cni", "a-b", "c", "d", ""}, {"cni", "a", "b-c", "d", ""},
		{"cni", "a/b", "c", "d", ""}, {"cni", "a", "b/c", "d", ""},
	} {
		name := a.HostIf()
		if !hostName.MatchString(name) || CheckName(name) != nil || name != a.HostIf() {
			t.Errorf("%v: %q", a, name)
		}
		if other, ok := seen[name]; ok {
			t.Errorf("%q for %v and for %v", name, a, other)
		}
		seen[name] = a
	}
}

// A changed name would leave behind what an earlier release made: by
// printf 'cni\0canbus0\0id\0eth0\0can0' | sha256sum | cut -c 1-16 | xxd -r -p | base32 | tr A-Z2-7 0-9a-v | tr -d =
func TestHostIfNameStays(t *testing.T) {
	if got := (Attachment{"cni", "canbus0", "id", "eth0", "can0"}).HostIf(); got != "vxt9nqtto1rveps" {
		t.Error(got)
	}
}

func TestBackplaneNames(t *testing.T) {
	seen := make(map[string]string)
	for _, hub := range []string{"c", "vcan0", "vcan1", "abcdefghijkl", "abcdefghijklm", "abcdefghijklmn", name15, "abcdefghijklmnp"} {
		tx, rx := BackplaneNames(hub)
		for _, name := range []string{tx, rx} {
			if CheckName(name) != nil {
				t.Errorf("%s: %q", hub, name)
			}
			if other, ok := seen[name]; ok {
				t.Errorf("%q for %s and for %s", name, hub, other)
			}
			seen[name] = hub
		}
		if short := len(hub) <= 12; short != (tx == hub+"-tx" && rx == hub+"-rx") || short == hostName.MatchString(tx) {
			t.Errorf("%s: %q, %q", hub, tx, rx)
		}
	}
}

// Any name that is accepted can be a device, part of a file's name, and a word of an alias.
func FuzzCheckName(f *testing.F) {
	for _, name := range []string{"can0", "can%d", "..", "a/b", name15, name16, "\xff", "a\x00b"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if CheckName(name) == nil {
			if name == "" || len(name) > 15 || name == "." || name == ".." || name == "all" || name == "default" || strings.ContainsAny(name, "/:% \t\n\v\f\r\x00\u0085\u00a0") {
				t.Errorf("%q accepted", name)
			}
			if CheckInterface(name) != nil {
				t.Errorf("%q is a name of a device, but not of an interface", name)
			}
		}
		if CheckInterface(name) == nil && strings.Contains(name, "%d") && !matches(strings.Replace(name, "%d", "12", 1), name) {
			t.Errorf("%q does not match itself", name)
		}
	})
}

func TestCanMake(t *testing.T) {
	for _, hub := range []string{"vcan0", "vcan12", "bench1", "can-engine", "can", "engine", "candy", "vcan", "slope", "enough", "wlan", "english"} {
		if !CanMake(hub) {
			t.Errorf("%s cannot be made", hub)
		}
	}
	for _, hub := range []string{"can0", "can12", "slcan0", "eth0", "wlan1", "lo", "enp0s31f6", "eno1", "ens3", "wlp2s0", "wlx00c0ca", "wwan0", "usb0"} {
		if CanMake(hub) {
			t.Errorf("%s can be made", hub)
		}
	}
}

func TestInterfaceOn(t *testing.T) {
	for _, test := range []struct{ hub, name, want string }{
		{"vcan0", "can0", "can0"}, {"vcan0", "can%d", "can0"}, {"vcan12", "can%d", "can12"}, {"bench1", "a%db", "a1b"},
		{"engine", "can0", "can0"}, {"can-7", "%d", "7"}, {"vcan0", "", ""},
	} {
		if got, err := InterfaceOn(test.hub, test.name); got != test.want || err != nil {
			t.Errorf("%s on %s: %q, %v", test.name, test.hub, got, err)
		}
	}
	for hub, name := range map[string]string{"engine": "can%d", "vcan0x": "can%d", "vcan123456": "abcdefghij%d"} {
		if got, err := InterfaceOn(hub, name); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s on %s: %q, %v", name, hub, got, err)
		}
	}
}
