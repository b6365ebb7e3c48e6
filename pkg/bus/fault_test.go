package bus

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"testing"

	"github.com/containernetworking/plugins/pkg/ns"

	"github.com/vxcan/vxcan/pkg/cangw"
	"github.com/vxcan/vxcan/pkg/canlink"
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
// use, all must be as before.
func TestAttachFails(t *testing.T) {
	cantest.Require(t)
	for _, here := range []bool{false, true} {
		for _, inUse := range []bool{false, true} {
			for n, failed := 1, true; failed; n++ {
				t.Run(fmt.Sprintf("here %v, in use %v, call %d", here, inUse, n), func(t *testing.T) {
					failed = attachFailingAt(t, n, here, inUse)
				})
				if n > 40 {
					t.Fatal("no end of calls")
				}
			}
		}
	}
}

// attachFailingAt tells whether Attach, or AttachHere, got as far as its nth call to the kernel, which failed then.
func attachFailingAt(t *testing.T, n int, here, inUse bool) bool {
	hostNS, neighbour, box := cantest.NewNetns(t), cantest.NewNetns(t), cantest.NewNetns(t)
	dir := t.TempDir()
	sound := &Host{StateDir: dir}
	countdown, called := n, ""
	breaking := &Host{StateDir: dir, dial: func() (kernel, error) {
		k, err := dialKernel()
		return &faulty{k, &countdown, &called}, err
	}}
	attach := func(h *Host, id string, netns ns.NetNS) error {
		a := Attachment{Runtime: "test", Network: "net", ContainerID: id, IfName: "eth0"}
		if here {
			_, err := h.AttachHere(context.Background(), Spec{Hub: "vcan0"}, a)
			return err
		}
		_, err := h.Attach(context.Background(), Request{Spec{Hub: "vcan0"}, a, Target{NetnsPath: netns.Path(), Interface: "can0"}})
		return err
	}
	var before, after inventory
	err := hostNS.Do(func(ns.NetNS) error {
		if inUse {
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
	if !slices.Equal(before.links, after.links) || !slices.Equal(before.rules, after.rules) || !slices.Equal(before.files, after.files) {
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
	for _, l := range links {
		all.links = append(all.links, l.Name)
	}
	for _, j := range jobs {
		all.rules = append(all.rules, j.Rule)
	}
	if all.files, err = filepath.Glob(dir + "/*"); err != nil {
		t.Fatal(err)
	}
	return all
}
