package lend

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/config"
)

// consents are in a directory that only root can write, as /etc is.
func consents(t *testing.T) Consents {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, who alone can consent")
	}
	return Consents{Dir: t.TempDir()}
}

func TestConsent(t *testing.T) {
	c := consents(t)
	c.Dir = filepath.Join(c.Dir, "vxcan", "lend")
	defer unix.Umask(unix.Umask(0o077)) // of a careful root, whose users read the files all the same
	if err := c.Write("vcan0", 1000, "rate=1000", "send=100-1FF,302", "mtu=16", "limit=2"); err != nil {
		t.Fatal(err)
	}
	if err := c.Write("can0", 1000, "physical=true", "bitrate=500000"); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]os.FileMode{filepath.Dir(c.Dir): 0o755, c.Dir: 0o755, c.Dir + "/vcan0": 0o755, c.path("vcan0", 1000): 0o644} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%v, %v, want mode %o", info, err, want)
		}
	}
	got, err := c.Read("vcan0", 1000)
	want, n := config.Policy{Send: "100-1FF,302", Rate: 1000}, got.Network
	if err != nil || n.Hub.Name != "vcan0" || n.Endpoint.Policy != want || n.Endpoint.MTU != 16 || got.Limit != 2 {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := c.Read("can0", 1000); err != nil || !got.Network.Hub.Physical || got.Network.Hub.Controller.Bitrate != 500_000 || got.Limit != DefaultLimit {
		t.Errorf("%+v, %v", got, err)
	}
	all, err := c.List()
	if err != nil || len(all) != 2 || all[0].Hub != "can0" || all[1].Network.Endpoint.Policy != want {
		t.Errorf("list: %+v, %v", all, err)
	}
	for _, hub := range []string{"can0", "vcan0"} {
		if err := c.Remove(hub, 1000); err != nil {
			t.Error(err)
		}
		if _, err := c.Read(hub, 1000); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "sudo vxcanctl lend "+hub+" --user 1000") {
			t.Errorf("removed: %v", err)
		}
	}
	if left, err := os.ReadDir(c.Dir); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// TestConsentRefused: what could be another's word than root's, and what cannot be read as a whole, counts for nothing.
func TestConsentRefused(t *testing.T) {
	const uid = 1000
	for name, c := range map[string]struct {
		damage func(dir, path string) error
		want   string
	}{
		"link": {func(dir, path string) error {
			return errors.Join(os.Rename(path, dir+"/x"), os.Symlink(dir+"/x", path))
		}, "link"},
		"directory":    {func(_, path string) error { return errors.Join(os.Remove(path), os.Mkdir(path, 0o755)) }, "is no file"},
		"pipe":         {func(_, path string) error { return errors.Join(os.Remove(path), unix.Mkfifo(path, 0o644)) }, "is no file"},
		"another's":    {func(_, path string) error { return os.Chown(path, uid, 0) }, "chown root"},
		"writable":     {func(_, path string) error { return os.Chmod(path, 0o646) }, "go-w"},
		"group's":      {func(_, path string) error { return os.Chmod(path, 0o664) }, "go-w"},
		"hub writable": {func(dir, _ string) error { return os.Chmod(dir+"/vcan0", 0o777) }, "go-w"},
		"hub is a link": {func(dir, _ string) error {
			return errors.Join(os.Rename(dir+"/vcan0", dir+"/x"), os.Symlink(dir+"/x", dir+"/vcan0"))
		}, "is no file"},
		"all writable": {func(dir, _ string) error { return os.Chmod(dir, 0o1777) }, "go-w"},
		"bad list":     {func(_, path string) error { return os.WriteFile(path, []byte("send=12345\n"), 0o644) }, `key "send"`},
		"unknown key":  {func(_, path string) error { return os.WriteFile(path, []byte("sned=123\n"), 0o644) }, `key "sned": want`},
		"no value":     {func(_, path string) error { return os.WriteFile(path, []byte("send\n"), 0o644) }, `key "send"`},
		"another hub":  {func(_, path string) error { return os.WriteFile(path, []byte("hub=can0\n"), 0o644) }, `key "hub"`},
		"twice":        {func(_, path string) error { return os.WriteFile(path, []byte("rate=1\nrate=2\n"), 0o644) }, "twice"},
		"burst alone":  {func(_, path string) error { return os.WriteFile(path, []byte("burst=5\n"), 0o644) }, "burst needs rate"},
		"endless line": {func(_, path string) error { return os.WriteFile(path, make([]byte, 2*maxConsent), 0o644) }, ""},
		"policy cut off": {func(_, path string) error {
			return os.WriteFile(path, []byte(strings.Repeat("# x\n", maxConsent/4)+"send=none\n"), 0o644)
		}, "longer than"},
		"of another user": {func(dir, path string) error { return os.Rename(path, dir+"/vcan0/1001") }, "not lent to user 1000"},
	} {
		t.Run(name, func(t *testing.T) {
			consents := consents(t)
			if err := consents.Write("vcan0", uid, "send=100"); err != nil {
				t.Fatal(err)
			}
			if err := c.damage(consents.Dir, filepath.Join(consents.Dir, "vcan0/1000")); err != nil {
				t.Fatal(err)
			}
			n, err := consents.Read("vcan0", uid)
			if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%+v, %v; want %q", n, err, c.want)
			}
		})
	}
	c := consents(t)
	for _, hub := range []string{"", ".", "..", "../x", "a/b", "vcan0-rx"} {
		if _, err := c.Read(hub, uid); !errors.Is(err, config.ErrInvalid) {
			t.Errorf("hub %q: %v", hub, err)
		}
	}
	for _, lines := range [][]string{{"send=12345"}, {"hub=vcan1"}, {"interface=can1"}, {"lent=true"}, {"limit=0"}, {"limit=x"}, {"bitrate=500000"}, {"rate=1\nrate=2"}} {
		err := c.Write("vcan0", uid, lines...)
		if left, _ := os.ReadDir(c.Dir); !errors.Is(err, config.ErrInvalid) || len(left) > 0 {
			t.Errorf("written %q: %v, left %v", lines, err, left)
		}
	}
	if err := os.MkdirAll(c.Dir+"/vcan0", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(c.Dir+"/vcan0/alice", nil, 0o644), os.WriteFile(c.Dir+"/notes", nil, 0o644), c.Write("vcan1", uid)); err != nil {
		t.Fatal(err)
	}
	all, err := c.List()
	if err != nil || len(all) != 3 || all[0].Err == nil || !strings.Contains(all[0].Err.Error(), "notes is no directory of consents: remove it") ||
		all[1].Err == nil || !strings.Contains(all[1].Err.Error(), "no ID of a user: remove it") || all[2].Hub != "vcan1" || all[2].Err != nil {
		t.Errorf("beside files that are no consents: %+v, %v", all, err)
	}
}

// TestAdmit: the users of consents may write to the socket, and others may not, whatever was so before.
func TestAdmit(t *testing.T) {
	dir := consents(t).Dir
	for _, d := range []string{filepath.Dir(dir), dir} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	socket := filepath.Join(dir, "socket")
	l, err := net.Listen("unixpacket", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c := Consents{Dir: filepath.Join(dir, "lend")}
	expect := func(admitted ...uint32) {
		t.Helper()
		if err := c.Admit(socket); err != nil {
			t.Fatal(err)
		}
		for _, uid := range []uint32{0, 1000, 1001, 4000, 65534} {
			cmd := exec.Command("test", "-w", socket)
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
			if err := cmd.Run(); (err == nil) != (uid == 0 || slices.Contains(admitted, uid)) {
				t.Errorf("user %d: %v; %v are to be let in", uid, err, admitted)
			}
		}
	}
	expect()
	for _, hub := range []string{"vcan0", "vcan1"} {
		for _, uid := range []uint32{1001, 1000} {
			if err := c.Write(hub, uid); err != nil {
				t.Fatal(err)
			}
		}
	}
	expect(1000, 1001)
	if err := errors.Join(c.Remove("vcan0", 1000), c.Remove("vcan1", 1000)); err != nil {
		t.Fatal(err)
	}
	expect(1001)
	if err := c.Admit(socket + "0"); err != nil {
		t.Errorf("without a socket: %v", err)
	}
	for _, uid := range []uint32{1<<32 - 1, 4000} { // no user's, and one whose consent cannot be read
		if err := os.WriteFile(c.path("vcan0", uid), []byte("nonsense"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	expect(1001, 4000)
	for uid := range 9000 {
		if err := os.WriteFile(c.path("vcan0", uint32(100_000+uid)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	expect(1000, 1001, 4000, 65534) // more than an access list holds
}
