package rtnl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/cantest"
)

// The kernel of any machine answers these, and to anyone.

func dial(t *testing.T) Conn {
	t.Helper()
	c, err := Dial()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func getLink(name string) *nl.NetlinkRequest {
	r := nl.NewNetlinkRequest(unix.RTM_GETLINK, 0)
	r.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	if name != "" {
		r.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	}
	return r
}

// Replies are matched to requests, whichever of them fail.
func TestBatch(t *testing.T) {
	const ok, missing = "lo", "nosuchdevice"
	for _, names := range [][]string{
		{}, {ok}, {missing}, {ok, missing}, {missing, ok}, {ok, missing, ok}, {missing, ok, missing}, {ok, ok, ok},
	} {
		c := dial(t)
		var requests []*nl.NetlinkRequest
		for _, name := range names {
			requests = append(requests, getLink(name))
		}
		for round := range 2 { // nothing of the first is left in the socket
			replies, err := c.Batch(requests...)
			if err != nil || len(replies) != len(names) {
				t.Fatalf("%v, round %d: %d replies, %v", names, round, len(replies), err)
			}
			for i, r := range replies {
				if name := names[i]; (name == ok) != (r.Err == nil) || (name == ok) != (len(r.Data) > unix.SizeofIfInfomsg) ||
					name == missing && !errors.Is(r.Err, unix.ENODEV) {
					t.Errorf("%v, round %d, reply %d: %d bytes, %v", names, round, i, len(r.Data), r.Err)
				}
			}
		}
	}
}

// Requests of any number, in as many datagrams as it takes.
func TestBatchMany(t *testing.T) {
	for what, request := range map[string]func() *nl.NetlinkRequest{
		"errors":  func() *nl.NetlinkRequest { return getLink("nosuchdevice") },
		"answers": func() *nl.NetlinkRequest { return getLink("lo") },
		"errors with a long request": func() *nl.NetlinkRequest {
			r := nl.NewNetlinkRequest(unix.RTM_NEWTFILTER, 0)
			r.AddRawData(make([]byte, 34<<10)) // a struct tcmsg of device 0, and no attribute that the kernel reads
			return r
		},
	} {
		c := dial(t)
		number := 3000
		if what == "errors with a long request" {
			number = 100
		}
		requests := make([]*nl.NetlinkRequest, number)
		for i := range requests {
			requests[i] = request()
		}
		replies, err := c.Batch(requests...)
		if err != nil || len(replies) != number {
			t.Fatalf("%s: %d replies, %v", what, len(replies), err)
		}
		for i, r := range replies {
			if (r.Data != nil) != (what == "answers") || (r.Err != nil) == (what == "answers") {
				t.Fatalf("%s: reply %d: %d bytes, %v", what, i, len(r.Data), r.Err)
			}
		}
	}
}

func TestDo(t *testing.T) {
	c := dial(t)
	if err := Do(c, getLink("lo"), getLink("lo")); err != nil {
		t.Error(err)
	}
	if err := Do(c, getLink("lo"), getLink("nosuchdevice"), getLink("lo")); !errors.Is(err, unix.ENODEV) {
		t.Error(err)
	}
}

func TestDump(t *testing.T) {
	c := dial(t)
	messages := 0
	datagrams, err := c.Dump(getLink(""), func([]byte) error { messages++; return nil })
	if err != nil || messages < 1 || datagrams < 1 || datagrams > messages {
		t.Fatalf("%d messages in %d datagrams, %v", messages, datagrams, err)
	}
	stop := errors.New("enough")
	if _, err := c.Dump(getLink(""), func([]byte) error { return stop }); err != stop {
		t.Errorf("%v, want the callback's error", err)
	}
	if again, err := c.Dump(getLink(""), func([]byte) error { return nil }); err != nil || again < 1 {
		t.Errorf("after a dump that was given up: %d datagrams, %v", again, err)
	}
	if replies, err := c.Batch(getLink("lo")); err != nil || replies[0].Err != nil || replies[0].Data == nil {
		t.Errorf("after a dump that was given up: %+v, %v", replies, err)
	}
}

// A dump that the kernel gives up ends like a whole one, but for the error number. Here: there is no such network namespace.
func TestDumpFails(t *testing.T) {
	c := dial(t)
	r := getLink("")
	r.AddData(nl.NewRtAttr(unix.IFLA_TARGET_NETNSID, nl.Uint32Attr(4711)))
	if datagrams, err := c.Dump(r, func([]byte) error { return nil }); !errors.Is(err, unix.EINVAL) {
		t.Errorf("%d datagrams, %v; want EINVAL", datagrams, err)
	}
	if _, err := c.Dump(getLink(""), func([]byte) error { return nil }); err != nil {
		t.Error(err)
	}
}

// The names of drivers come by the same socket; lo has none.
func TestDriver(t *testing.T) {
	if driver, err := dial(t).Driver("nosuchdevice"); !errors.Is(err, unix.ENODEV) {
		t.Errorf("%q, %v; want ENODEV", driver, err)
	}
	if driver, err := dial(t).Driver("lo"); !errors.Is(err, unix.EOPNOTSUPP) {
		t.Errorf("%q, %v; want EOPNOTSUPP", driver, err)
	}
}

func TestDialAt(t *testing.T) {
	cantest.Require(t)
	c, err := DialAt(cantest.NewNetns(t))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	messages := 0
	if _, err := c.Dump(getLink(""), func([]byte) error { messages++; return nil }); err != nil || messages != 1 {
		t.Errorf("%d devices, %v; want lo alone", messages, err)
	}
}

// A process that sends us what looks like an answer is not believed.
func TestForgedReply(t *testing.T) {
	cantest.Require(t)
	c := dial(t)
	if err := Do(c, getLink("lo")); err != nil { // the first request binds the socket
		t.Fatal(err)
	}
	address, err := unix.Getsockname(c.(*socket).fd)
	if err != nil {
		t.Fatal(err)
	}
	request := getLink("lo")
	forged := unhex(t, errorDatagram)
	binary.NativeEndian.PutUint32(forged[8:12], request.Seq)
	if err := unix.Sendto(dial(t).(*socket).fd, forged, 0, address); err != nil {
		t.Fatal(err)
	}
	if replies, err := c.Batch(request); err != nil || replies[0].Err != nil || replies[0].Data == nil {
		t.Errorf("%+v, %v", replies, err)
	}
}

// TestBatchRefused: who may not ask netfilter gets one error for a whole datagram, and does not wait for more.
func TestBatchRefused(t *testing.T) {
	cantest.Require(t)
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for ever: the thread ends with the goroutine
		header, data := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, [2]unix.CapUserData{}
		if err := unix.Capset(&header, &data[0]); err != nil {
			done <- err
			return
		}
		conn, err := DialNetfilter()
		if err != nil {
			done <- err
			return
		}
		get := func() *nl.NetlinkRequest {
			r := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_CTNETLINK<<8|1, 0) // IPCTNL_MSG_CT_GET
			r.AddData(&nl.Nfgenmsg{NfgenFamily: unix.AF_INET})
			return r
		}
		replies, err := conn.Batch(get(), get(), get())
		for i, r := range replies {
			if !errors.Is(r.Err, ErrPermission) {
				err = errors.Join(err, fmt.Errorf("answer %d: %w, want %w", i, r.Err, ErrPermission))
			}
		}
		done <- errors.Join(err, conn.Close())
	}()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("no end")
	}
}
