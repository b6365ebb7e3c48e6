package lend

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/bus"
	"github.com/vxcan/vxcan/pkg/cantest"
	"github.com/vxcan/vxcan/pkg/config"
)

// asBorrower is the environment variable that makes of this program the user who asks, and its value the socket.
const asBorrower = "VXCAN_TEST_BORROWER"

func TestMain(m *testing.M) {
	switch socket := os.Getenv(asBorrower); {
	case socket == "":
		os.Exit(m.Run())
	case os.Geteuid() != 0: // the user, who makes a user namespace in which he is root
		if err := enterUserNamespace(); err != nil {
			fmt.Fprintln(os.Stderr, "user namespace:", err)
			os.Exit(1)
		}
	default:
		borrow(socket)
	}
}

func enterUserNamespace() error {
	cmd := exec.Command(os.Args[0])
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{os.NewFile(3, "given")}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNET | unix.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
	}
	return cmd.Run()
}

// order is what a borrower is told to send: a packet as it is, and descriptors with it.
type order struct {
	Packet string
	Files  []string // paths; "given" is what the test has handed over; or names in odd
}

// odd are descriptors that a user can make and that nobody expects. With these, a call may wait for the user.
var odd = map[string]func() (int, error){
	"file of a dead file system":      func() (int, error) { return openDead(unix.O_PATH) },
	"file that nobody lets be closed": func() (int, error) { return openDead(unix.O_RDONLY) },
	"lingering socket":                lingering,
	"socket that is sent to itself": func() (int, error) {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return -1, err
		}
		self := &unix.SockaddrUnix{Name: fmt.Sprint("@self-", os.Getpid())}
		return fd, errors.Join(unix.Bind(fd, self), unix.Sendmsg(fd, []byte("x"), unix.UnixRights(fd), self, 0))
	},
	"epoll":   func() (int, error) { return unix.EpollCreate1(unix.EPOLL_CLOEXEC) },
	"inotify": func() (int, error) { return unix.InotifyInit1(unix.IN_CLOEXEC) },
	"process": func() (int, error) { return unix.PidfdOpen(os.Getpid(), 0) },
	"memory":  func() (int, error) { return unix.MemfdCreate("net", unix.MFD_CLOEXEC) },
}

// dead are files of openDead. They may be closed once mayClose is.
var (
	dead     []int
	mayClose = make(chan struct{})
)

// openDead opens a file of a file system (fuse.h) that answers what opening one takes, and nothing that is asked later, of its
// attributes or when it is closed (FUSE_FLUSH), until this process ends: without an answer, that would wait for itself.
func openDead(flags int) (int, error) {
	dev, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("/dev/fuse: %w", err)
	}
	const place = "/mnt/file" // in this process's mount namespace
	if err := errors.Join(unix.Mount("tmpfs", filepath.Dir(place), "tmpfs", 0, ""), os.WriteFile(place, nil, 0o600)); err != nil {
		return -1, err
	}
	if err := unix.Mount("dead", place, "fuse", unix.MS_NOSUID|unix.MS_NODEV, fmt.Sprintf("fd=%d,rootmode=100000,user_id=0,group_id=0", dev)); err != nil {
		return -1, fmt.Errorf("mount: %w", err)
	}
	go func() {
		const headerIn, headerOut = 40, 16 // struct fuse_in_header, fuse_out_header
		const fuseOpen, fuseFlush, fuseInit = 14, 25, 26
		answers := map[uint32][]byte{fuseInit: make([]byte, 64), fuseOpen: make([]byte, 16), fuseFlush: nil}
		question := make([]byte, 1<<17)
		for {
			n, err := unix.Read(dev, question)
			if err != nil {
				return
			}
			opcode := binary.NativeEndian.Uint32(question[4:])
			body, ok := answers[opcode]
			if n < headerIn || !ok {
				continue
			}
			if opcode == fuseFlush {
				<-mayClose
			}
			if opcode == fuseInit { // version 7.31, and the largest write
				binary.NativeEndian.PutUint32(body[0:], 7)
				binary.NativeEndian.PutUint32(body[4:], 31)
				binary.NativeEndian.PutUint32(body[20:], 1<<12)
			}
			said := binary.NativeEndian.AppendUint32(nil, uint32(headerOut+len(body)))
			said = append(append(said, 0, 0, 0, 0), question[8:16]...) // no error; of this question
			if _, err := unix.Write(dev, append(said, body...)); err != nil {
				return
			}
		}
	}()
	fd, err := unix.Open(place, flags|unix.O_CLOEXEC, 0)
	dead = append(dead, fd)
	return fd, err
}

// lingering is a TCP socket whose closing waits for what was sent, which the other end never reads.
func lingering() (int, error) {
	if err := exec.Command("ip", "link", "set", "lo", "up").Run(); err != nil {
		return -1, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return -1, err
	}
	to := &unix.SockaddrInet4{Port: l.Addr().(*net.TCPAddr).Port, Addr: [4]byte{127, 0, 0, 1}}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	err = errors.Join(unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: 3600}), unix.Connect(fd, to), unix.SetNonblock(fd, true))
	for err == nil {
		_, err = unix.Write(fd, make([]byte, 1<<16))
	}
	if errors.Is(err, unix.EAGAIN) {
		err = unix.SetNonblock(fd, false)
	}
	return fd, err
}

// borrow sends what it is told on standard input, and says what is answered.
func borrow(socket string) {
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		var o order
		if err := json.Unmarshal(lines.Bytes(), &o); err != nil {
			panic(err)
		}
		var fds []int
		for _, path := range o.Files {
			fd, err := 3, error(nil)
			if open, ok := odd[path]; ok {
				fd, err = open()
			} else if path != "given" {
				fd, err = unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
			}
			if err != nil {
				panic(err)
			}
			fds = append(fds, fd)
		}
		var rights []byte
		if fds != nil {
			rights = unix.UnixRights(fds...)
		}
		said, err := askOnce(socket, []byte(o.Packet), rights)
		for try := 1; err != nil && try < 5; try++ { // as a Borrower does: this machine may be slow
			said, err = askOnce(socket, []byte(o.Packet), rights)
		}
		if err != nil {
			said, _ = json.Marshal(answer{Error: "no answer: " + err.Error()})
		}
		fmt.Printf("%s\n", said)
	}
	close(mayClose)
	for _, fd := range dead {
		unix.Close(fd)
	}
	os.Exit(0)
}

// askOnce sends one packet to the service and returns its answer.
func askOnce(socket string, packet, rights []byte) ([]byte, error) {
	conn, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: socket, Net: "unixpacket"})
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if _, _, err := conn.WriteMsgUnix(packet, rights, nil); err != nil {
		return nil, err
	}
	said := make([]byte, 1<<16)
	n, err := conn.Read(said)
	return said[:n], err
}

// borrower is a user in a network namespace of his own.
type borrower struct {
	t      *testing.T
	orders io.Writer
	said   *bufio.Reader
	netns  string // as root sees it
}

func newBorrower(t *testing.T, socket string, uid uint32, given string) borrower {
	t.Helper()
	self, err := os.ReadFile("/proc/self/exe") // which the user may not reach where it is
	if err != nil {
		t.Fatal(err)
	}
	program := fmt.Sprintf("/tmp/borrower-%d-%d", os.Getpid(), uid)
	if err := os.WriteFile(program, self, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(program) })
	file, err := os.Open(given)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	cmd := exec.Command(program)
	cmd.Env = append(os.Environ(), asBorrower+"="+socket)
	cmd.ExtraFiles = []*os.File{file}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		if err := cmd.Wait(); err != nil {
			t.Error("borrower:", err)
		}
	})
	b := borrower{t: t, orders: stdin, said: bufio.NewReader(stdout)}
	b.ask(order{Packet: "hello"}) // then it is there
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", cmd.Process.Pid))
	if err != nil || len(strings.Fields(string(children))) != 1 {
		// The one who forks may be another thread.
		out, _ := exec.Command("pgrep", "-P", fmt.Sprint(cmd.Process.Pid)).Output()
		children = out
	}
	b.netns = "/proc/" + strings.TrimSpace(string(children)) + "/ns/net"
	return b
}

func (b borrower) ask(o order) (a answer) {
	b.t.Helper()
	line, err := json.Marshal(o)
	if err != nil {
		b.t.Fatal(err)
	}
	if _, err := fmt.Fprintf(b.orders, "%s\n", line); err != nil {
		b.t.Fatal(err)
	}
	said, err := b.said.ReadBytes('\n')
	if err != nil {
		b.t.Fatal("the borrower ends:", err)
	}
	if err := json.Unmarshal(said, &a); err != nil {
		b.t.Fatalf("answer %q: %v", said, err)
	}
	return a
}

const ownNetns = "/proc/self/ns/net"

// request asks for an interface of this name, for a container of the same name.
func (b borrower) request(v verb, name string) answer {
	b.t.Helper()
	return b.ask(order{Packet: packet(b.t, newRequest(v, name)), Files: []string{ownNetns}})
}

func newRequest(v verb, name string) request {
	return request{Verb: v, Hub: "vcan0", Network: "canbus0", ContainerID: name, IfName: "eth0", Interface: name, ContIfs: []string{name}}
}

func packet(t *testing.T, r request) string {
	t.Helper()
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// lender is a service that lends.
type lender struct {
	Service
	socket string
}

func newLender(t *testing.T) *lender {
	t.Helper()
	cantest.Require(t)
	l := &lender{Service{Host: &bus.Host{StateDir: t.TempDir()}, Consents: consents(t)}, fmt.Sprintf("/tmp/lend-%d", os.Getpid())}
	listener, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: l.socket, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	if err := os.Chmod(l.socket, 0o666); err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			conn, err := listener.AcceptUnix()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_ = l.Serve(context.Background(), conn, slog.New(slog.DiscardHandler))
			}()
		}
	}()
	t.Cleanup(func() {
		if err := l.Host.Remove(context.Background(), "vcan0"); err != nil && !errors.Is(err, bus.ErrNoBus) {
			t.Error(err)
		}
	})
	return l
}

// endpoints are the attachments on the bus.
func (l *lender) endpoints(t *testing.T) (all []string) {
	t.Helper()
	buses, err := l.Host.Status(context.Background(), "vcan0")
	if err != nil && !errors.Is(err, bus.ErrNoBus) {
		t.Fatal(err)
	}
	for _, b := range buses {
		for _, e := range b.Endpoints {
			all = append(all, e.Attachment.String()+" "+e.Policy.String())
		}
	}
	slices.Sort(all)
	return all
}

// TestLend: who has a consent is on the bus with its policy, and with no more; what he takes away is his own.
func TestLend(t *testing.T) {
	l := newLender(t)
	alice := newBorrower(t, l.socket, 1000, ownNetns)
	bob := newBorrower(t, l.socket, 1001, ownNetns)
	expect := func(when string, a answer, words string, there ...string) {
		t.Helper()
		if (a.Error != "") != (words != "") || !strings.Contains(a.Error, words) || a.Damage != nil {
			t.Errorf("%s: %+v, want %q", when, a, words)
		}
		if got := l.endpoints(t); !slices.Equal(got, there) {
			t.Errorf("%s: on the bus are %q, want %q", when, got, there)
		}
	}
	lendTo := func(uid uint32, lines ...string) {
		t.Helper()
		if err := l.Consents.Write("vcan0", uid, lines...); err != nil {
			t.Fatal(err)
		}
	}
	const ofAlice, ofBob = "lent-1000 canbus0/a/eth0 send 100-1FF, rate 1000", "lent-1001 canbus0/a/eth0 no policy"
	expect("not lent", alice.request(attach, "a"), "refused: bus vcan0 is not lent to user 1000: sudo vxcanctl lend vcan0 --user 1000")
	lendTo(1000, "send=100-1FF", "rate=1000")
	expect("attach", alice.request(attach, "a"), "", ofAlice)
	expect("again", alice.request(attach, "a"), "", ofAlice)
	expect("check", alice.request(check, "a"), "", ofAlice)
	expect("another without", bob.request(attach, "a"), "not lent to user 1001", ofAlice)
	lendTo(1001)
	expect("the same names of another", bob.request(attach, "a"), "", ofAlice, ofBob)
	lendTo(1000, "send=100", "rate=1000")
	if a := alice.request(check, "a"); len(a.Damage) == 0 || !strings.Contains(a.Damage[0], "100-1FF") {
		t.Errorf("check after the consent was narrowed: %+v", a)
	}
	const narrowed = "lent-1000 canbus0/a/eth0 send 100, rate 1000"
	expect("attach after that", alice.request(attach, "a"), "", narrowed, ofBob)
	expect("detach", bob.request(detach, "a"), "", narrowed)
	expect("detach again", bob.request(detach, "a"), "", narrowed)
	if err := l.Consents.Remove("vcan0", 1000); err != nil {
		t.Fatal(err)
	}
	expect("revoked", alice.request(attach, "b"), "not lent", narrowed)
	expect("check, revoked", alice.request(check, "a"), "not lent", narrowed)
	expect("detach, revoked", alice.request(detach, "a"), "")

	const limit = 3
	lendTo(1000, "limit=3")
	for i := range limit {
		if a := alice.request(attach, fmt.Sprint("can", i)); a.Error != "" {
			t.Fatal(a.Error)
		}
	}
	if a := alice.request(attach, "more"); !strings.Contains(a.Error, "3 interfaces of lent-1000 are on bus vcan0") {
		t.Errorf("beyond the limit: %+v", a)
	}
	if a := alice.request(attach, "can2"); a.Error != "" {
		t.Errorf("one that is there, at the limit: %+v", a)
	}
	expect("another, at the limit", bob.request(detach, "can2"), "", l.endpoints(t)...)
	for i := range limit {
		alice.request(detach, fmt.Sprint("can", i))
	}
	expect("all gone", answer{}, "")
}

// TestLendHostile: what nobody would ask who means well is refused with a word, leaves nothing, and ends nothing.
func TestLendHostile(t *testing.T) {
	l := newLender(t)
	if err := errors.Join(l.Consents.Write("vcan0", 1000), l.Consents.Write("vcan0", 0)); err != nil {
		t.Fatal(err)
	}
	bob := newBorrower(t, l.socket, 1001, ownNetns)
	good := packet(t, newRequest(attach, "a"))
	with := func(change func(r *request)) string {
		r := newRequest(attach, "a")
		change(&r)
		return packet(t, r)
	}
	own := []string{ownNetns}
	for name, c := range map[string]struct {
		o     order
		given string
		want  string
	}{
		"no namespace":          {order{good, nil}, "", "no network namespace came"},
		"the host's":            {order{good, []string{"given"}}, ownNetns, "not one of user 1000"},
		"another user's":        {order{good, []string{"given"}}, bob.netns, "not one of user 1000"},
		"init's":                {order{good, []string{"given"}}, "/proc/1/ns/net", "not one of user 1000"},
		"a user namespace":      {order{good, []string{"/proc/self/ns/user"}}, "", "no network namespace"},
		"a mount namespace":     {order{good, []string{"/proc/self/ns/mnt"}}, "", "no network namespace"},
		"a file":                {order{good, []string{"/etc/passwd"}}, "", "no network namespace"},
		"a directory":           {order{good, []string{"/"}}, "", "no network namespace"},
		"two namespaces":        {order{good, []string{ownNetns, ownNetns}}, "", "refused"},
		"the host's behind":     {order{good, []string{ownNetns, "given"}}, ownNetns, "refused"},
		"many":                  {order{good, slices.Repeat(own, 200)}, "", "refused"},
		"half a request":        {order{good[:len(good)/2], own}, "", "no request"},
		"a request and a half":  {order{good + good[:9], own}, "", "no request"},
		"a log line":            {order{with(func(r *request) { r.Verb = verb("x\ntime=now msg=asked user=0") }), own}, "", "verb"},
		"no JSON":               {order{"\x00\xff", own}, "", "no request"},
		"an array":              {order{"[" + good + "]", own}, "", "no request"},
		"null":                  {order{"null", own}, "", "verb"},
		"too long":              {order{with(func(r *request) { r.ContIfs = slices.Repeat([]string{"can0"}, maxPacket/5) }), own}, "", "more than a request"},
		"no verb":               {order{with(func(r *request) { r.Verb = "" }), own}, "", "verb"},
		"another verb":          {order{with(func(r *request) { r.Verb = "remove" }), own}, "", "verb"},
		"hub is a path":         {order{with(func(r *request) { r.Hub = "../../../tmp/x" }), own}, "", "invalid device name"},
		"hub not lent":          {order{with(func(r *request) { r.Hub = "can0" }), own}, "", "not lent"},
		"hub is a backplane":    {order{with(func(r *request) { r.Hub = "vcan0-rx" }), own}, "", "invalid hub"},
		"interface is a path":   {order{with(func(r *request) { r.Interface = "../can0" }), own}, "", "invalid device name"},
		"interface has newline": {order{with(func(r *request) { r.Interface = "can0\n" }), own}, "", "invalid device name"},
		"no interface":          {order{with(func(r *request) { r.Interface = "" }), own}, "", "invalid device name"},
		"the loopback":          {order{with(func(r *request) { r.Interface = "lo" }), own}, "", "lo"},
		"name with a blank":     {order{with(func(r *request) { r.Network = "a b" }), own}, "", "invalid network"},
		"name with an escape":   {order{with(func(r *request) { r.Name = "\x1b[31mx" }), own}, "", "invalid name"},
		"name for a shell":      {order{with(func(r *request) { r.ContainerID = "$(reboot)" }), own}, "", "invalid containerID"},
		"long name":             {order{with(func(r *request) { r.Entry = strings.Repeat("x", 1000) }), own}, "", "invalid entry"},
		"names too long for it": {order{with(func(r *request) { r.Entry, r.Network = strings.Repeat("x", 120), strings.Repeat("y", 120) }), own}, "", "bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			given := c.given
			if given == "" {
				given = "/dev/null"
			}
			alice := newBorrower(t, l.socket, 1000, given)
			if a := alice.ask(c.o); !strings.Contains(a.Error, c.want) || a.Error == "" || a.Results != nil {
				t.Errorf("%+v, want %q", a, c.want)
			}
			if there := l.endpoints(t); there != nil {
				t.Errorf("on the bus: %q", there)
			}
			if a := alice.request(attach, "good"); a.Error != "" {
				t.Errorf("a request afterwards: %+v", a)
			}
			alice.request(detach, "good")
		})
	}
	for name := range odd {
		t.Run(name, func(t *testing.T) {
			if strings.Contains(name, "file") {
				for _, args := range [][]string{{"modprobe", "fuse"}, {"chmod", "666", "/dev/fuse"}} {
					if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
						t.Fatalf("%v: %v: %s", args, err, out)
					}
				}
			}
			alice := newBorrower(t, l.socket, 1000, "/dev/null")
			start := time.Now()
			if a := alice.ask(order{good, []string{name}}); !strings.Contains(a.Error, "no network namespace") || time.Since(start) > longest/2 {
				t.Errorf("after %v: %+v", time.Since(start), a)
			}
			if a := alice.request(attach, "good"); a.Error != "" {
				t.Errorf("a request afterwards: %+v", a)
			}
			alice.request(detach, "good")
		})
	}
	t.Run("root", func(t *testing.T) {
		conn, err := Borrower{Socket: l.socket}.dial()
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
		_, err = Borrower{Socket: l.socket}.Attach(context.Background(), nil, bus.Request{
			Attachment: config.Attachment{Runtime: "cni", Network: "canbus0", ContainerID: "a"}, Hub: config.Hub{Name: "vcan0"},
			Place: bus.Place{NetnsPath: ownNetns, Interface: "can0"},
		})
		if err == nil || !strings.Contains(err.Error(), "root needs no lent bus") {
			t.Error(err)
		}
	})
	t.Run("says nothing", func(t *testing.T) {
		conn, err := Borrower{Socket: l.socket}.dial()
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		start := time.Now()
		if n, err := conn.Read(make([]byte, 1<<10)); !errors.Is(err, io.EOF) || time.Since(start) > 10*patience {
			t.Errorf("after %v: %d bytes, %v", time.Since(start), n, err)
		}
	})
	t.Run("many", func(t *testing.T) {
		requests := 200
		if cantest.IsThorough() {
			requests = 10_000
		}
		for range requests {
			if a := bob.request(attach, "a"); !strings.Contains(a.Error, "not lent to user 1001") {
				t.Fatalf("%+v", a)
			}
		}
	})
}

// TestNobodyLends: the error says how it begins, and DEL is none.
func TestNobodyLends(t *testing.T) {
	b := Borrower{Socket: t.TempDir() + "/none"}
	r := bus.Request{Hub: config.Hub{Name: "vcan0"}, Place: bus.Place{NetnsPath: ownNetns}}
	for what, err := range map[string]error{"check": b.Check(context.Background(), r, nil), "ready": b.Ready()} {
		if err == nil || !strings.Contains(err.Error(), "sudo systemctl enable --now vxcan-lend.socket") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := b.Detach(context.Background(), "vcan0", r.Attachment); err != nil {
		t.Error(err)
	}
}

// FuzzServe: whatever comes in place of a request, there is an answer, and nothing is granted.
func FuzzServe(f *testing.F) {
	r, err := json.Marshal(newRequest(attach, "a"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(r)
	f.Add([]byte(`{"verb":"check","hub":"vcan0","contIfs":[""]}`))
	f.Add([]byte("{}"))
	s := Service{Host: &bus.Host{StateDir: f.TempDir()}, Consents: Consents{Dir: f.TempDir()}}
	f.Fuzz(func(t *testing.T, packet []byte) {
		if len(packet) == 0 {
			return
		}
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		var ends [2]*net.UnixConn
		for i, fd := range fds {
			file := os.NewFile(uintptr(fd), "")
			conn, err := net.FileConn(file)
			if err = errors.Join(err, file.Close()); err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			ends[i] = conn.(*net.UnixConn)
		}
		if _, err := ends[0].Write(packet); errors.Is(err, unix.EMSGSIZE) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
		got, err := peek(ends[1])
		if err == nil {
			granted := func(answer) error { t.Errorf("granted: %q", packet); return nil }
			if err = s.do(context.Background(), 1000, got, ends[1], granted); err == nil && got.Verb != detach {
				t.Errorf("no error for %q", packet)
			}
		}
	})
}
