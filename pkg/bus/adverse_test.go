package bus

import (
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/plugins/pkg/ns"

	"github.com/vxcan/vxcan/pkg/cantest"
)

// TestTakenBack: a pod joins a hub that another pod made, and its ADD fails at its second hub: the first stays, as the
// other is on it, and goes with that.
func TestTakenBack(t *testing.T) {
	w := newWorld(t)
	one, two := cantest.NewNetns(t), cantest.NewNetns(t)
	empty := w.inventory()
	transient := func(id string, netns ns.NetNS) Request {
		r := request("vcan5", id, netns)
		r.Hub.Transient = true
		return r
	}
	first := transient("one", one)
	w.do(func() error {
		_, err := w.host.Attach(context.Background(), nil, first)
		return err
	})
	before := w.inventory()
	w.do(func() error {
		if _, err := w.host.Attach(context.Background(), nil, transient("two", two), request("lo", "two", two)); err == nil {
			t.Error("a hub that is no CAN device: no error")
		}
		return nil
	})
	if after := w.inventory(); !before.equal(after) {
		t.Errorf("before %v, after %v", before, after)
	}
	w.do(func() error { return w.host.Detach(context.Background(), "vcan5", first.Attachment) })
	if after := w.inventory(); !empty.equal(after) {
		t.Errorf("at first %v, after DEL %v", empty, after)
	}
}

// TestCheckDeath: another container dies between the two lists that CHECK reads, which is no damage.
func TestCheckDeath(t *testing.T) {
	for _, at := range []string{"dump links", "dump jobs"} {
		w := newWorld(t)
		other := cantest.NewNetns(t)
		end, _ := w.attach("vcan0", "c0", w.crowd)
		w.ends = []Result{end}
		dying, _ := w.attach("vcan0", "c1", other)
		done := false
		w.hook(func(call string) {
			if call == at && !done {
				done = true
				if err := other.Do(func(ns.NetNS) error { return exec.Command("ip", "link", "del", dying.ContIf).Run() }); err != nil {
					t.Error(err)
				}
			}
		})
		if err := w.check(); err != nil {
			t.Errorf("at %s: CHECK: %v", at, err)
		}
	}
}

// TestHubChanges: at each call to the kernel, the administrator does something to the hub. ADD may fail, but not
// take away what it has not made, and afterwards CHECK or the next ADD is content.
func TestHubChanges(t *testing.T) {
	if testing.Short() {
		t.Skip("many failures of our own, which depend on no kernel")
	}
	for name, commands := range map[string][]string{
		"deleted":           {"ip link del vcan0"},
		"renamed":           {"ip link set vcan0 down", "ip link set vcan0 name other up"},
		"replaced by vcan":  {"ip link del vcan0", "ip link add vcan0 type vcan", "ip link set vcan0 alias mine up"},
		"replaced by dummy": {"ip link del vcan0", "ip link add vcan0 type dummy", "ip link set vcan0 alias mine up"},
		"down":              {"ip link set vcan0 down"},
		"tx deleted":        {"ip link del vcan0-tx"},
		"flushed":           {"cangw -F"},
	} {
		for _, others := range []int{0, 1} {
			first, step := cantest.Steps(name)
			for n, more := first+others, true; more && n < 60; n += 3 * step { // some of the messages, with another container others
				ok := t.Run(fmt.Sprintf("%s, %d others, call %d", name, others, n), func(t *testing.T) {
					w := newWorld(t)
					box := cantest.NewNetns(t)
					for i := range others {
						w.attach("vcan0", fmt.Sprint("c", i), w.crowd)
					}
					calls, where := 0, ""
					var didIt bool
					w.hook(func(call string) {
						if calls++; calls == n {
							where = call
							didIt = true
							_ = w.netns.Do(func(ns.NetNS) error {
								for _, line := range commands {
									words := strings.Fields(line)
									if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
										didIt = words[0] == "cangw"
										_ = out
									}
								}
								return nil
							})
						}
					})
					var err error
					w.do(func() error {
						_, err = w.host.Attach(context.Background(), nil, request("vcan0", "box", box))
						return nil
					})
					w.unhook()
					if more = where != ""; !more { // ADD sends fewer messages than that
						return
					}
					inv := w.inventory()
					if didIt && strings.HasPrefix(name, "replaced") && !slices.Contains(inv.links, "vcan0") {
						t.Errorf("before %s: the administrator's vcan0 is gone; ADD said %v", where, err)
					}
					if err != nil {
						t.Logf("before %s: ADD: %v", where, err)
					}
					if err != nil && slices.ContainsFunc(inv.links, func(l string) bool { return l == request("vcan0", "box", box).Attachment.HostIf() }) {
						t.Errorf("before %s: ADD failed and left the pair", where)
					}
					if err == nil && !strings.Contains(name, "dummy") {
						w.attach("vcan0", "late", w.crowd)
						w.do(func() error {
							e := w.host.Check(context.Background(), request("vcan0", "box", box), []string{"can-box"})
							if e != nil {
								t.Errorf("before %s: CHECK: %v", where, e)
							}
							return nil
						})
					}
				})
				_ = ok
			}
		}
	}
}

// TestTwoHubsAtOnce: the same attachment on two hubs at the same time. The one that fails must not take the
// other's endpoint.
func TestTwoHubsAtOnce(t *testing.T) {
	w := newWorld(t)
	box := cantest.NewNetns(t)
	done := false
	w.hook(func(call string) {
		if call == "add pair" && !done {
			done = true
			hook := w.host.dial
			w.unhook()
			if _, err := w.host.Attach(context.Background(), nil, request("vcan0", "box", box)); err != nil {
				t.Error(err)
			}
			w.host.dial = hook
		}
	})
	w.do(func() error {
		r := request("vcan1", "box", box)
		_, err := w.host.Attach(context.Background(), nil, r)
		t.Logf("second: %v", err)
		return nil
	})
	w.unhook()
	_, notices := w.attach("vcan0", "c1", w.crowd)
	t.Logf("notices %q", notices)
	w.expectExactlyOnce(port{w.netns, "vcan0"}, port{box, "can-box"})
}

// TestBroughtUp: systemd-networkd, or a udev rule for CAN devices, brings the container end up between Join and the
// move into the container. It has not been in a container, and the next ADD of another container must leave it.
func TestBroughtUp(t *testing.T) {
	w := newWorld(t)
	first, _ := w.attach("vcan0", "c0", w.crowd)
	w.ends = []Result{first}
	var made Result
	w.do(func() (err error) {
		made, err = w.here("private")
		return err
	})
	w.up(w.netns, made.ContIf)
	if err := w.check(); err != nil {
		t.Errorf("CHECK: %v", err)
	}
	w.attach("vcan0", "c1", w.crowd)
	if !slices.Contains(w.inventory().links, made.ContIf) {
		t.Error("the container end is gone before Docker could move it")
	}
}

// TestAltName: the name of a backplane is an alternative name of another program's device, which must keep its alias.
func TestAltName(t *testing.T) {
	w := newWorld(t)
	w.run("ip link add d0 type dummy", "ip link set d0 alias mine", "ip link property add dev d0 altname vcan0-rx")
	w.do(func() error {
		_, err := w.host.Attach(context.Background(), nil, request("vcan0", "c0", w.crowd))
		if err == nil || !strings.Contains(err.Error(), "d0") {
			t.Errorf("ADD: %v, want words about d0", err)
		}
		return nil
	})
	w.do(func() error {
		out, err := exec.Command("ip", "-d", "link", "show", "d0").CombinedOutput()
		if !strings.Contains(string(out), "alias mine") {
			t.Errorf("the alias of somebody else's device has changed: %s", out)
		}
		return err
	})
}
