package bus

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/plugins/pkg/ns"

	"github.com/vxcan/vxcan/pkg/cangw"
	"github.com/vxcan/vxcan/pkg/canlink"
	"github.com/vxcan/vxcan/pkg/cantc"
	"github.com/vxcan/vxcan/pkg/cantest"
)

var errInjected = errors.New("injected failure")

// faulty is the real kernel, but for one call that fails.
type faulty struct {
	kernel
	countdown *int // the call that brings it to 0 fails
	called    *string
}

func (f *faulty) step(name string) error {
	*f.countdown--
	if *f.countdown == 0 {
		*f.called = name
		return errInjected
	}
	return nil
}

func (f *faulty) Links(names ...string) ([]canlink.Link, error) {
	if err := f.step("Links"); err != nil {
		return nil, err
	}
	return f.kernel.Links(names...)
}

func (f *faulty) AllLinks() ([]canlink.Link, error) {
	if err := f.step("AllLinks"); err != nil {
		return nil, err
	}
	return f.kernel.AllLinks()
}

func (f *faulty) AddVcan(name string, index int, alias string) error {
	return errors.Join(f.step("AddVcan"), f.unlessFailed(func() error { return f.kernel.AddVcan(name, index, alias) }))
}

func (f *faulty) AddPair(p canlink.Pair) (canlink.Link, error) {
	if err := f.step("AddPair"); err != nil {
		return canlink.Link{}, err
	}
	return f.kernel.AddPair(p)
}

func (f *faulty) SetAlias(index int, alias string) error {
	return errors.Join(f.step("SetAlias"), f.unlessFailed(func() error { return f.kernel.SetAlias(index, alias) }))
}

func (f *faulty) SetUp(index int) error {
	return errors.Join(f.step("SetUp"), f.unlessFailed(func() error { return f.kernel.SetUp(index) }))
}

func (f *faulty) Jobs() ([]cangw.Job, error) {
	if err := f.step("Jobs"); err != nil {
		return nil, err
	}
	return f.kernel.Jobs()
}

// AddRules fails half-way, as a batch may.
func (f *faulty) AddRules(rules ...cangw.Rule) error {
	if err := f.step("AddRules"); err != nil {
		return errors.Join(err, f.kernel.AddRules(rules[:len(rules)/2]...))
	}
	return f.kernel.AddRules(rules...)
}

func (f *faulty) DeleteRules(rules ...cangw.Rule) error {
	return errors.Join(f.step("DeleteRules"), f.unlessFailed(func() error { return f.kernel.DeleteRules(rules...) }))
}

func (f *faulty) Delete(indexes ...int) error {
	return errors.Join(f.step("Delete"), f.unlessFailed(func() error { return f.kernel.Delete(indexes...) }))
}

func (f *faulty) Filters(hooks ...cantc.Hook) ([]cantc.Installed, error) {
	if err := f.step("Filters"); err != nil {
		return nil, err
	}
	return f.kernel.Filters(hooks...)
}

// SetFilters fails half-way, as a batch may.
func (f *faulty) SetFilters(filters ...cantc.Filter) error {
	if err := f.step("SetFilters"); err != nil {
		return errors.Join(err, f.kernel.SetFilters(filters[:len(filters)/2]...))
	}
	return f.kernel.SetFilters(filters...)
}

func (f *faulty) DeleteFilters(hooks ...cantc.Hook) error {
	return errors.Join(f.step("DeleteFilters"), f.unlessFailed(func() error { return f.kernel.DeleteFilters(hooks...) }))
}

func (f *faulty) In(netns ns.NetNS) (container, error) {
	if err := f.step("In"); err != nil {
		return nil, err
	}
	c, err := f.kernel.In(netns)
	return &faultyContainer{c, f}, err
}

// unlessFailed does the real thing unless this was the call to fail.
func (f *faulty) unlessFailed(do func() error) error {
	if *f.countdown == 0 {
		return nil
	}
	return do()
}

type faultyContainer struct {
	container
	f *faulty
}

func (c *faultyContainer) SetUp(index int) (canlink.Link, error) {
	if err := c.f.step("SetUp in the container"); err != nil {
		return canlink.Link{}, err
	}
	return c.container.SetUp(index)
}

func (c *faultyContainer) LinkAt(index int) (canlink.Link, error) {
	if err := c.f.step("LinkAt in the container"); err != nil {
		return canlink.Link{}, err
	}
	return c.container.LinkAt(index)
}

// TestAttachFails lets every call to the kernel fail in turn: on a new bus nothing may be left, and on one that is in
// use, all must be as before. So must a hub that is somebody else's.
func TestAttachFails(t *testing.T) {
	cantest.Require(t)
	for _, here := range []bool{false, true} {
		for _, before := range []string{"nothing", "a hub", "a neighbour"} {
			for n, failed := 1, true; failed; n++ {
				t.Run(fmt.Sprintf("here %v, before: %s, call %d", here, before, n), func(t *testing.T) {
					failed = attachFailingAt(t, n, here, before)
				})
				if n > 40 {
					t.Fatal("no end of calls")
				}
			}
		}
	}
}

// attachFailingAt tells whether Attach, or AttachHere, got as far as its nth call to the kernel, which failed then.
func attachFailingAt(t *testing.T, n int, here bool, there string) bool {
	hostNS, neighbour, box := cantest.NewNetns(t), cantest.NewNetns(t), cantest.NewNetns(t)
	dir := t.TempDir()
	sound := &Host{StateDir: dir}
	countdown, called := n, ""
	breaking := &Host{StateDir: dir, dial: func() (kernel, error) {
		k, err := dialKernel()
		return &faulty{k, &countdown, &called}, err
	}}
	spec := Spec{Hub: "vcan0", Policy: Policy{Send: "100-1FF", Receive: "200", Rate: 10}}
	attach := func(h *Host, id string, netns ns.NetNS) error {
		a := Attachment{Runtime: "test", Network: "net", ContainerID: id, IfName: "eth0"}
		if here {
			_, err := h.AttachHere(context.Background(), spec, a)
			return err
		}
		_, err := h.Attach(context.Background(), Request{spec, a, Target{NetnsPath: netns.Path(), Interface: "can0"}})
		return err
	}
	var before, after inventory
	err := hostNS.Do(func(ns.NetNS) error {
		switch there {
		case "a hub":
			for _, command := range []string{"link add vcan0 mtu 72 type vcan", "link set vcan0 up"} {
				if out, err := exec.Command("ip", strings.Fields(command)...).CombinedOutput(); err != nil {
					return fmt.Errorf("%w: %s", err, out)
				}
			}
		case "a neighbour":
			if err := attach(sound, "neighbour", neighbour); err != nil {
				return err
			}
		}
		before = takeInventory(t, dir)
		err := attach(breaking, "box", box)
		after = takeInventory(t, dir)
		return err
	})
	if called == "" {
		if err != nil {
			t.Errorf("without a failure: %v", err)
		}
		return false
	}
	if !errors.Is(err, errInjected) {
		t.Errorf("%s failed and Attach said %v", called, err)
	}
	if !before.equal(after) {
		t.Errorf("%s failed: before %+v, after %+v", called, before, after)
	}
	if err := box.Do(func(ns.NetNS) error {
		if left := takeInventory(t, dir).links; !slices.Equal(left, []string{"lo"}) {
			t.Errorf("%s failed, and the container has %v", called, left)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return true
}

type inventory struct {
	links, files []string
	rules        []cangw.Rule
	filters      []string
}

func (i inventory) equal(j inventory) bool {
	return slices.Equal(i.links, j.links) && slices.Equal(i.rules, j.rules) && slices.Equal(i.files, j.files) && slices.Equal(i.filters, j.filters)
}

// takeInventory lists what is in the current netns and in the state directory.
func takeInventory(t *testing.T, dir string) inventory {
	t.Helper()
	k, err := dialKernel()
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	links, err := k.AllLinks()
	if err != nil {
		t.Fatal(err)
	}
	jobs, err := k.Jobs()
	if err != nil {
		t.Fatal(err)
	}
	var all inventory
	var where []cantc.Hook
	for _, l := range links {
		all.links = append(all.links, l.Name)
		where = append(where, hooks(l.Index, true)...)
	}
	filters, err := k.Filters(where...)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range filters {
		all.filters = append(all.filters, fmt.Sprint(f.Filter))
	}
	for _, j := range jobs {
		all.rules = append(all.rules, j.Rule)
	}
	if all.files, err = filepath.Glob(dir + "/*"); err != nil {
		t.Fatal(err)
	}
	return all
}
