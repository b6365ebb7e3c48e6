package bus

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vxcan/vxcan/pkg/canlink"
	"github.com/vxcan/vxcan/pkg/cantest"
	"github.com/vxcan/vxcan/pkg/config"
	"github.com/vxcan/vxcan/pkg/plan"
)

func (w *world) status(hubs ...string) (all []BusStatus, err error) {
	w.t.Helper()
	w.do(func() error { all, err = w.host.Status(context.Background(), hubs...); return nil })
	return all, err
}

func (w *world) attachWith(id string, policy config.Policy) Result {
	w.t.Helper()
	r := request("vcan0", id, w.crowd)
	r.Endpoint.Policy, r.Endpoint.Name = policy, "lab/"+id
	var results []Result
	w.do(func() (err error) { results, err = w.host.Attach(context.Background(), nil, r); return err })
	return results[0]
}

func (w *world) send(from port, id uint32, count int) {
	w.t.Helper()
	sender := cantest.NewSender(w.t, from.netns, from.name)
	defer sender.Close()
	for range count {
		if err := sender.Send(cantest.Frame{ID: id, Data: "x"}); err != nil {
			w.t.Fatal(err)
		}
	}
}

// TestStatus: after known traffic every counter is right, own and denied frames are not taken for lost ones, and the look
// changes nothing.
func TestStatus(t *testing.T) {
	w := newWorld(t)
	limited := config.Policy{Send: "123", Receive: "200"}
	a, b, c := w.attachWith("a", config.Policy{}), w.attachWith("b", limited), w.attachWith("c", config.Policy{Rate: 100, Burst: 5})
	time.Sleep(200 * time.Millisecond) // until there may be a burst
	w.send(port{w.crowd, a.ContIf}, 0x100, 3)
	w.send(port{w.crowd, a.ContIf}, 0x200, 2)
	w.send(port{w.crowd, b.ContIf}, 0x123, 4)
	w.send(port{w.crowd, b.ContIf}, 0x124, 6)
	w.send(port{w.crowd, c.ContIf}, 0x300, 20)
	w.send(port{w.netns, "vcan0"}, 0x200, 7)
	time.Sleep(200 * time.Millisecond)
	before := w.inventory()
	all, err := w.status()
	if err != nil || len(all) != 1 {
		t.Fatalf("%+v, %v; want one bus", all, err)
	}
	passed := all[0].Endpoints[2].Sent // which depends on the clock
	if passed < 3 || passed > 15 {
		t.Errorf("%d frames passed a rate of 100/s with a burst of 5", passed)
	}
	endpoint := func(r Result, id string, e EndpointStatus) EndpointStatus {
		e.Attachment, e.Name = request("vcan0", id, w.crowd).Attachment, "lab/"+id
		e.HostIf, e.Interface, e.Up = r.HostIf, r.ContIf, true
		return e
	}
	want := BusStatus{
		Hub: "vcan0", Kind: "vcan", Up: true, MTU: 72, Sent: 7, Heard: 5 + 4 + passed, Differences: []Difference{},
		Traffic: canlink.Traffic{RxFrames: 16 + passed, TxFrames: 16 + passed, RxBytes: 16 + passed, TxBytes: 16 + passed},
		Endpoints: []EndpointStatus{
			endpoint(a, "a", EndpointStatus{Sent: 5, Heard: 4 + passed + 7}),
			endpoint(b, "b", EndpointStatus{Policy: limited, Sent: 4, DeniedSend: 6, Heard: 2 + 7, DeniedReceive: 3 + passed}),
			endpoint(c, "c", EndpointStatus{Policy: config.Policy{Rate: 100, Burst: 5}, Sent: passed, OverRate: 20 - passed, Heard: 5 + 4 + 7}),
		},
	}
	if diff := cmp.Diff(want, all[0]); diff != "" {
		t.Errorf("(- want, + got)\n%s", diff)
	}
	if after := w.inventory(); !slices.Equal(before.files, after.files) || !slices.Equal(before.links, after.links) || !slices.Equal(before.rules, after.rules) {
		t.Errorf("before %+v, after %+v", before, after)
	}
	w.run("ip link set " + a.HostIf + " down")
	w.send(port{w.crowd, b.ContIf}, 0x123, 3)
	time.Sleep(100 * time.Millisecond)
	all, err = w.status("vcan0")
	if err != nil || all[0].Endpoints[0].Lost != 3 || all[0].Endpoints[0].Up {
		t.Errorf("%+v, %v; want three frames lost for a", all, err)
	}
	want.Differences = []Difference{{Kind: plan.HostEndDown, HostIfs: []string{a.HostIf}, What: "host end " + a.HostIf + " of test net/a is down", Cure: plan.ByAnyAdd, ByHeal: true}}
	if diff := cmp.Diff(want.Differences, all[0].Differences); diff != "" {
		t.Errorf("(- want, + got)\n%s", diff)
	}
}

// TestStatusOf: which buses there are, by records and by aliases, and what is wrong with each.
func TestStatusOf(t *testing.T) {
	w := newWorld(t)
	if all, err := w.status(); err != nil || len(all) > 0 || len(w.inventory().files) > 0 {
		t.Errorf("on a fresh host: %+v, %v, %v", all, err, w.inventory().files)
	}
	if _, err := w.status("vcan0"); !errors.Is(err, ErrNoBus) || len(w.inventory().files) > 0 {
		t.Errorf("of no bus: %v, %v", err, w.inventory().files)
	}
	end, _ := w.attach("vcan0", "a", w.crowd)
	w.attach("vcan1", "b", w.crowd)
	w.attachHere("moving")
	expect := func(what string, want ...string) {
		t.Helper()
		all, err := w.status()
		var got []string
		for _, s := range all {
			got = append(got, fmt.Sprint(s.Hub, " ", len(s.Endpoints)))
			for _, d := range s.Differences {
				got = append(got, strings.Split(d.What, " (")[0])
			}
		}
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %q, %v; want %q", what, got, err, want)
		}
	}
	expect("two buses", "vcan0 2", "vcan1 1")
	w.run("rm -r " + w.host.StateDir)
	expect("without records", "vcan0 2", "vcan1 1")
	w.run("ip link del vcan1")
	expect("without a hub", "vcan0 2", "vcan1 1", "hub vcan1 is missing")
	inside := func(words ...string) {
		t.Helper()
		w.run("nsenter --net=" + w.crowd.Path() + " " + strings.Join(words, " "))
	}
	inside("ip link set", end.ContIf, "down")
	expect("with a container end down", "vcan0 2", "container end "+end.ContIf+" of test net/a is down", "vcan1 1", "hub vcan1 is missing")
	inside("ip link del", end.ContIf)
	expect("without a container end", "vcan0 1", "vcan1 1", "hub vcan1 is missing")
}

// TestHubs: controllers and vcans, with or without a bus, and none of the devices that vxcan makes for one.
func TestHubs(t *testing.T) {
	w := newWorld(t)
	w.attach("vcan0", "a", w.crowd)
	w.run("ip link add can-engine type vcan")
	var got []string
	w.do(func() (err error) { got, err = w.host.Hubs(); return err })
	slices.Sort(got)
	if want := []string{"can-engine", "vcan0"}; !slices.Equal(got, want) {
		t.Errorf("hubs %q, want %q", got, want)
	}
}

// TestDifferencesOf: each difference names the host ends of the endpoints that it is about.
func TestDifferencesOf(t *testing.T) {
	w := newWorld(t)
	a, b := w.attachWith("a", config.Policy{Send: "123"}), w.attachWith("b", config.Policy{})
	for _, damage := range []struct {
		command string
		kind    plan.Kind
		hostIfs []string
	}{
		{"ip link set " + b.HostIf + " down", plan.HostEndDown, []string{b.HostIf}},
		{"tc filter del dev " + a.HostIf + " ingress pref 1", plan.FilterWrong, []string{a.HostIf}},
		{"tc filter del dev vcan0 ingress pref 1", plan.FilterWrong, nil},
		{"cangw -F", plan.RuleMissing, []string{a.HostIf, b.HostIf}},
		{"cangw -A -s vcan0-rx -d " + b.HostIf + " -e -i -l 1", plan.RuleUnwanted, []string{b.HostIf}},
		{"cangw -A -s vcan0-rx -d " + b.HostIf + " -i -l 1", plan.RuleDoubled, []string{b.HostIf}},
		{"rm -r " + w.host.StateDir, plan.PolicyLost, []string{a.HostIf}},
	} {
		w.run(damage.command)
		all, err := w.status()
		if err != nil || len(all) != 1 || !slices.ContainsFunc(all[0].Differences, func(d Difference) bool {
			return d.Kind == damage.kind && slices.Equal(d.HostIfs, damage.hostIfs)
		}) {
			t.Errorf("%s: %+v, %v", damage.command, all, err)
		}
		w.do(func() error { _, err := w.host.Heal(context.Background(), "vcan0"); return err })
	}
}

// TestModules: this kernel has them all, and trying them leaves nothing.
func TestModules(t *testing.T) {
	cantest.Require(t)
	if out, err := exec.Command("modprobe", "-a", "ip_gre", "ip6_gre").CombinedOutput(); err != nil { // which have devices in each netns
		t.Fatalf("%v: %s", err, out)
	}
	w := newWorld(t)
	before := w.inventory()
	w.do(func() error {
		for _, m := range Modules {
			if err := m.Try(); cantest.LacksTables() && m.For == byTable { // which are said to be missing where they are
				if err == nil {
					t.Errorf("%s: no error", m.Name)
				}
			} else if err != nil {
				t.Errorf("%s: %v", m.Name, err)
			}
		}
		return nil
	})
	if got := w.inventory(); !before.equal(got) {
		t.Errorf("left: %+v", got)
	}
}
