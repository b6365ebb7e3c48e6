package rtnl

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/cantest"
)

// change is a request of a length that is answered by an acknowledgement.
func change(length int) message {
	r := nl.NewNetlinkRequest(unix.RTM_NEWTFILTER, 0)
	r.AddRawData(make([]byte, length-unix.SizeofNlMsghdr))
	return r.Serialize()
}

func look(flags uint16) message {
	r := getLink("lo")
	r.Flags |= flags
	return r.Serialize()
}

func TestFit(t *testing.T) {
	const short, filter = 40, 34 << 10
	usual, narrow, none := room{sendSize, receiveQueue}, room{sendSize, 2 * 212992}, room{}
	for _, test := range []struct {
		name     string
		room     room
		messages []message
		want     int
	}{
		{"no requests", usual, nil, 0},
		{"one, which is too long", none, []message{change(filter), change(short)}, 1},
		{"filters by their bytes", usual, slices.Repeat([]message{change(filter)}, 60), 3},
		{"as many bytes as there can be", usual, slices.Repeat([]message{change(sendSize / 4)}, 5), 4},
		{"padding counts", usual, slices.Repeat([]message{change(sendSize/4 - 1)}, 5), 4},
		{"changes by their bytes", usual, slices.Repeat([]message{change(short)}, 5000), sendSize / short},
		{"changes by their answers", narrow, slices.Repeat([]message{change(short)}, 5000), 104},
		{"look-ups by their answers", usual, slices.Repeat([]message{look(0)}, 5000), receiveQueue / (answerRoom + ackRoom)},
		{"look-ups in a small buffer", narrow, slices.Repeat([]message{look(0)}, 5000), 2},
		{"an echo is as long as an answer", narrow, slices.Repeat([]message{look(unix.NLM_F_ECHO | unix.NLM_F_ACK)}, 5000), 2},
		{"what Conn.Batch promises", narrow, append(slices.Repeat([]message{change(2 << 10)}, 31), look(0)), 32},
	} {
		if got := test.room.fit(test.messages); got != test.want {
			t.Errorf("%s: %d, want %d", test.name, got, test.want)
		}
	}
}

func TestEach(t *testing.T) {
	names := []string{"lo", "none1", "lo", "none2"}
	var seen []string
	err := Each(dial(t), names, getLink, func(name string, r Reply) error {
		seen = append(seen, name)
		if (name == "lo") != (r.Err == nil) || (name == "lo") != (r.Data != nil) {
			t.Errorf("%s: %+v", name, r)
		}
		if r.Err != nil {
			return fmt.Errorf("%s: %w", name, r.Err)
		}
		return nil
	})
	if !slices.Equal(seen, names) {
		t.Errorf("handled %v, want %v", seen, names)
	}
	if !errors.Is(err, unix.ENODEV) || !strings.Contains(err.Error(), "none1") || !strings.Contains(err.Error(), "none2") {
		t.Errorf("%v, want both errors", err)
	}
	if err := Each(dial(t), nil, getLink, func(string, Reply) error { return errors.New("called") }); err != nil {
		t.Error(err)
	}
}

// altNames is as many alternative names as a device can have, so that a message of it takes more than 64 KiB.
const altNames = 480

// longAnswers sends what has the longest answers, in the network namespace of c.
func longAnswers(c Conn) error {
	r := nl.NewNetlinkRequest(unix.RTM_NEWLINKPROP, 0)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = 1 // lo
	r.AddData(msg)
	list := nl.NewRtAttr(unix.IFLA_PROP_LIST|unix.NLA_F_NESTED, nil)
	for i := range altNames {
		list.AddRtAttr(unix.IFLA_ALT_IFNAME, nl.ZeroTerminated(fmt.Sprintf("%0127d", i)))
	}
	r.AddData(list)
	if err := Do(c, r); err != nil {
		return fmt.Errorf("add alternative names: %w", err)
	}
	const longest = altNames * 132
	lookUps := make([]int, 300)
	err := Each(c, lookUps, func(int) *nl.NetlinkRequest { return getLink("lo") }, func(_ int, r Reply) error {
		if r.Err != nil || len(r.Data) < longest {
			return fmt.Errorf("answer of %d bytes, %w", len(r.Data), r.Err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for range 2 { // the kernel has seen how long the reads are by then
		size, request := 0, getLink("")
		request.AddData(nl.NewRtAttr(unix.IFLA_EXT_MASK, nl.Uint32Attr(1<<3))) // without a mask the kernel takes no care of long messages
		if _, err := c.Dump(request, func(data []byte) error { size += len(data); return nil }); err != nil || size < longest {
			return errors.Join(fmt.Errorf("dump of %d bytes", size), err)
		}
	}
	for number, request := range map[int]func(int) *nl.NetlinkRequest{
		3000: func(int) *nl.NetlinkRequest { return getLink("nosuchdevice") },
		50: func(int) *nl.NetlinkRequest {
			r := nl.NewNetlinkRequest(unix.RTM_NEWTFILTER, 0)
			r.AddRawData(make([]byte, 34<<10))
			return r
		},
	} {
		err := Each(c, make([]int, number), request, func(_ int, r Reply) error {
			if r.Err == nil {
				return errors.New("a request that must fail did not")
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func TestLongAnswers(t *testing.T) {
	cantest.Require(t)
	c, err := DialAt(cantest.NewNetns(t))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got := c.(*socket).room; got != (room{sendSize, receiveQueue}) {
		t.Errorf("buffers: %+v", got)
	}
	if err := longAnswers(c); err != nil {
		t.Error(err)
	}
}

// helperEnv makes this test binary a process that runs longAnswers.
const helperEnv = "VXCAN_RTNL_HELPER"

func TestMain(m *testing.M) {
	if os.Getenv(helperEnv) == "" {
		os.Exit(m.Run())
	}
	if err := inUserNamespace(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func inUserNamespace() error {
	c, err := Dial()
	if err != nil {
		return err
	}
	defer c.Close()
	if room := c.(*socket).room; room.receive == receiveQueue {
		return fmt.Errorf("a user namespace has %+v", room)
	}
	return longAnswers(c)
}

// A user namespace may not make the buffer as large as it likes.
func TestUserNamespace(t *testing.T) {
	cantest.Require(t)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), helperEnv+"=1")
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNET, UidMappings: ids, GidMappings: ids,
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}
