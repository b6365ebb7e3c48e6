package bus

import (
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/plugins/pkg/ns"

	"github.com/vxcan/vxcan/pkg/cangw"
	"github.com/vxcan/vxcan/pkg/canlink"
	"github.com/vxcan/vxcan/pkg/cantest"
)

// hooked is the real kernel; before is called before each call to it, with the name of the call.
type hooked struct {
	kernel
	before func(call string)
}

func (h *hooked) Links(names ...string) ([]canlink.Link, error) {
	h.before("Links")
	return h.kernel.Links(names...)
}

func (h *hooked) AllLinks() ([]canlink.Link, error) {
	h.before("AllLinks")
	return h.kernel.AllLinks()
}

func (h *hooked) AddVcan(name string, index int, alias string) error {
	h.before("AddVcan")
	return h.kernel.AddVcan(name, index, alias)
}

func (h *hooked) AddPair(p canlink.Pair) (canlink.Link, error) {
	h.before("AddPair")
	return h.kernel.AddPair(p)
}

func (h *hooked) SetUp(index int) error {
	h.before("SetUp")
	return h.kernel.SetUp(index)
}

func (h *hooked) Jobs() ([]cangw.Job, error) {
	h.before("Jobs")
	return h.kernel.Jobs()
}

func (h *hooked) AddRules(rules ...cangw.Rule) error {
	h.before("AddRules")
	return h.kernel.AddRules(rules...)
}

func (h *hooked) Delete(indexes ...int) error {
	h.before("Delete")
	return h.kernel.Delete(indexes...)
}

// hook calls before before each call to the kernel of a host's verbs.
func (w *world) hook(before func(call string)) {
	w.host.dial = func() (kernel, error) {
		k, err := dialKernel()
		return &hooked{k, before}, err
	}
}

func (w *world) unhook() { w.host.dial = nil }

// TestTakeBack: a pod joins a transient hub that another pod made, the other leaves, and the ADD fails. The hub goes
// then.
func TestTakeBack(t *testing.T) {
	w := newWorld(t)
	one, two := cantest.NewNetns(t), cantest.NewNetns(t)
	before := w.inventory()
	transient := func(id string, netns ns.NetNS) Request {
		r := request("vcan5", id, netns)
		r.Transient = true
		return r
	}
	first := transient("one", one)
	w.do(func() error {
		_, err := w.host.Attach(context.Background(), first)
		return err
	})
	second := transient("two", two)
	bad := request("lo", "two", two)
	calls := 0
	w.hook(func(call string) {
		if call == "AllLinks" {
			if calls++; calls == 2 { // of the second bus
				w.unhook()
				if err := w.host.Detach(context.Background(), "vcan5", first.Attachment); err != nil {
					t.Error(err)
				}
			}
		}
	})
	w.do(func() error {
		_, err := w.host.Attach(context.Background(), second, bad)
		t.Logf("calls %d: %v", calls, err)
		return nil
	})
	if after := w.inventory(); !slices.Equal(before.links, after.links) || !slices.Equal(before.files, after.files) {
		t.Errorf("before %v, after %v", before, after)
	}
	w.do(func() error { return w.host.Detach(context.Background(), "vcan5", second.Attachment) })
	if after := w.inventory(); !slices.Equal(before.links, after.links) || !slices.Equal(before.files, after.files) {
		t.Errorf("after DEL: before %v, after %v", before, after)
	}
}

// TestCheckDeath: another container dies between the two lists that CHECK reads, which is no damage.
func TestCheckDeath(t *testing.T) {
	for _, at := range []string{"AllLinks", "Jobs"} {
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
			for n := 1; n < 30; n++ {
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
						_, err = w.host.Attach(context.Background(), request("vcan0", "box", box))
						return nil
					})
					w.unhook()
					if where == "" { // ADD makes fewer calls than that
						return
					}
					inv := w.inventory()
					if didIt && strings.HasPrefix(name, "replaced") && !slices.Contains(inv.links, "vcan0") {
						t.Errorf("before %s: the administrator's vcan0 is gone; ADD said %v", where, err)
					}
					if err != nil {
						t.Logf("before %s: ADD: %v", where, err)
					}
					if err != nil && slices.ContainsFunc(inv.links, func(l string) bool { return l == hostIfName(request("vcan0", "box", box).Attachment) }) {
						t.Errorf("before %s: ADD failed and left the pair", where)
					}
					if err == nil && !strings.Contains(name, "dummy") {
						w.attach("vcan0", "late", w.crowd)
						w.do(func() error {
							e := w.host.Check(context.Background(), Spec{Hub: "vcan0"}, request("vcan0", "box", box).Attachment, []string{"can0"}, box.Path())
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
		if call == "AddPair" && !done {
			done = true
			hook := w.host.dial
			w.unhook()
			if _, err := w.host.Attach(context.Background(), request("vcan0", "box", box)); err != nil {
				t.Error(err)
			}
			w.host.dial = hook
		}
	})
	w.do(func() error {
		r := request("vcan1", "box", box)
		r.Interface = "can0"
		_, err := w.host.Attach(context.Background(), r)
		t.Logf("second: %v", err)
		return nil
	})
	w.unhook()
	_, notices := w.attach("vcan0", "c1", w.crowd)
	t.Logf("notices %q", notices)
	w.expectExactlyOnce(port{w.netns, "vcan0"}, port{box, "can0"})
}

// TestBroughtUp: systemd-networkd, or a udev rule for CAN devices, brings the container end up between Join and the
// move into the container. It has not been in a container, and the next ADD of another container must leave it.
func TestBroughtUp(t *testing.T) {
	w := newWorld(t)
	first, _ := w.attach("vcan0", "c0", w.crowd)
	w.ends = []Result{first}
	var made Result
	w.do(func() (err error) {
		made, err = w.host.AttachHere(context.Background(), Spec{Hub: "vcan0"}, Attachment{Runtime: "test", Network: "net", ContainerID: "private"})
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
		_, err := w.host.Attach(context.Background(), request("vcan0", "c0", w.crowd))
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
