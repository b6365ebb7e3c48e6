package bus

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/plugins/pkg/ns"

	"github.com/vxcan/vxcan/pkg/cantest"
	"github.com/vxcan/vxcan/pkg/config"
	"github.com/vxcan/vxcan/pkg/plan"
)

// These tests are about endpoints that neither the name of a device nor the record of the bus that a call names can find. The
// alias can.

// detach is DEL.
func (w *world) detach(hub string, a config.Attachment) {
	w.t.Helper()
	w.do(func() error { return w.host.Detach(context.Background(), hub, a) })
}

// collect is a GC of some attachments.
func (w *world) collect(gone ...config.Attachment) {
	w.t.Helper()
	w.do(func() error {
		return w.host.Collect(context.Background(), func(a config.Attachment, _ bool) bool { return slices.Contains(gone, a) })
	})
}

// label sets the alias of a device.
func (w *world) label(name, alias string) {
	w.t.Helper()
	w.do(func() error {
		k, err := w.host.connect(nil)
		if err != nil {
			return err
		}
		link, err := k.link(name)
		return errors.Join(err, k.links.SetAlias(link.Index, alias), k.close())
	})
}

// differences are what status says of a bus.
func (w *world) differences(hub string) (words []string) {
	w.t.Helper()
	all, err := w.status(hub)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, d := range all[0].Differences {
		words = append(words, d.What+": "+d.Cure)
	}
	return words
}

// TestDetachEdited: DEL finds an attachment whatever was edited since its ADD, with or without the record, and nothing else. The
// bus that is named and has nothing of it stays as it is.
func TestDetachEdited(t *testing.T) {
	for _, lost := range []bool{false, true} {
		for _, hub := range []string{"vcan0", "vcan1", "vcan9", "", "no/name"} {
			for _, entry := range []string{"", "can7"} {
				t.Run(fmt.Sprintf("record lost %v, hub %q, interface %q", lost, hub, entry), func(t *testing.T) {
					w := newWorld(t)
					r := boxed("box", cantest.NewNetns(t), config.Policy{Send: "100"})
					r.IfName = "eth0"
					second := r
					second.Hub.Name, second.Entry, second.Place.Interface = "bench1", "can1", "can1"
					second.Hub.Transient = true
					other := r // another interface of the container
					other.IfName, other.Place.Interface, other.Endpoint = "eth1", "can2", config.Endpoint{}
					w.do(func() error {
						_, err := w.host.Attach(context.Background(), nil, r, second, other)
						return err
					})
					w.attach("vcan1", "stays", w.crowd)
					if lost {
						w.run("rm -r " + w.host.StateDir)
					}
					first := r.Attachment
					first.Entry = entry
					w.detach(hub, first)
					for name, there := range map[string]bool{r.HostIf(): false, second.HostIf(): false, "bench1": false, "bench1-tx": false, other.HostIf(): true, "vcan0": true} {
						if (w.view(name).Index != 0) != there {
							t.Errorf("%s is there: %v", name, !there)
						}
					}
					for _, name := range []string{"vcan0", "vcan1"} {
						if words := w.differences(name); len(words) > 0 {
							t.Errorf("%s: %q", name, words)
						}
					}
					before := w.inventory()
					w.detach(hub, first)
					if after := w.inventory(); !before.equal(after) {
						t.Errorf("DEL again: before %+v, after %+v", before, after)
					}
				})
			}
		}
	}
}

// TestCheckElsewhere: CHECK says that the container is on another bus than the configuration.
func TestCheckElsewhere(t *testing.T) {
	w := newWorld(t)
	w.attach("vcan0", "c0", w.crowd)
	w.attach("vcan1", "c1", w.crowd)
	r := request("vcan1", "c0", w.crowd)
	w.do(func() error {
		err := w.host.Check(context.Background(), r, []string{"can-c0"})
		want := "host end " + r.HostIf() + " is on bus vcan0, and the configuration says vcan1: remove the container and start it again"
		if err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
		return nil
	})
}

// TestHostEndRenamed: an endpoint whose host end was renamed stays one, with its policy, and whatever takes an endpoint away
// takes this one away.
func TestHostEndRenamed(t *testing.T) {
	for _, policy := range []config.Policy{{}, {Send: "100", Receive: "200"}} {
		for _, lost := range []bool{false, true} {
			for _, end := range []string{"DEL", "DEL, edited", "GC", "ADD", "ADD elsewhere", "cure"} {
				t.Run(fmt.Sprintf("policy %v, record lost %v, %s", policy, lost, end), func(t *testing.T) {
					w := newWorld(t)
					box, empty := cantest.NewNetns(t), cantest.NewNetns(t)
					r := boxed("box", box, policy)
					hub, inside := port{w.netns, "vcan0"}, port{box, "can0"}
					w.attach("vcan0", "other", w.crowd)
					w.attachAs("box", box, policy, false)
					works := func(p config.Policy) {
						t.Helper()
						if p == (config.Policy{}) {
							w.expectExactlyOnce(hub, inside, port{w.crowd, "can-other"})
							return
						}
						w.expectPolicy(p.Send, inside, hub)
						w.expectPolicy(p.Receive, hub, inside)
					}
					w.run("ip link set "+r.HostIf()+" down", "ip link set "+r.HostIf()+" name foo", "ip link set foo up")
					now := policy
					if lost {
						w.run("rm -r " + w.host.StateDir)
						if policy != (config.Policy{}) {
							now = config.Policy{Send: "none", Receive: "none"}
						}
					}
					w.heal("vcan0")
					works(now)
					want := fmt.Sprintf("host end %s of test net/box is named foo: ip link set foo down; ip link set foo name %[1]s up", r.HostIf())
					if words := w.differences("vcan0"); !slices.Contains(words, want) {
						t.Errorf("%q, want %q", words, want)
					}
					if all, err := w.status("vcan0"); err != nil || len(all[0].Endpoints) != 2 {
						t.Errorf("%+v, %v", all, err)
					}
					gone := true
					switch end {
					case "DEL":
						w.detach("vcan0", r.Attachment)
					case "DEL, edited":
						a := r.Attachment
						a.Entry = "can7"
						w.detach("vcan9", a)
					case "GC":
						w.collect(r.Attachment)
					case "cure":
						w.run("ip link set foo down", "ip link set foo name "+r.HostIf()+" up")
						gone = false
						works(now)
					case "ADD elsewhere":
						w.attachAs("box", empty, policy, false)
						inside.netns, gone = empty, false
						works(policy)
					case "ADD":
						w.attachAs("box", box, policy, false)
						gone = false
						works(policy)
					}
					if foo, there := w.view("foo"), w.view(r.HostIf()); foo.Index != 0 || (there.Index == 0) != gone {
						t.Errorf("foo is %+v, %s %+v", foo, r.HostIf(), there)
					}
					if words := w.differences("vcan0"); len(words) > 0 && !(lost && end == "cure") {
						t.Errorf("in the end: %q", words)
					}
				})
			}
		}
	}
}

// TestPodHubDeleted: of a bus that was made for a pod nothing stays when the pod has gone, also if somebody has deleted the hub.
func TestPodHubDeleted(t *testing.T) {
	for _, hub := range []string{"bench1", "left-front-door"} {
		for _, lost := range []bool{false, true} {
			for _, end := range []string{"DEL", "GC", "netns", "netns, GC", "heal, DEL"} {
				if end == "netns, GC" && lost {
					continue // nothing tells of it but the backplane, to heal
				}
				t.Run(fmt.Sprintf("hub %s, record lost %v, %s", hub, lost, end), func(t *testing.T) {
					w := newWorld(t)
					empty := w.inventory()
					g := newGuest(t, false)
					r := hostRequest(t, config.Hub{Name: hub, Transient: true}, g.path, config.Policy{Send: "100"})
					w.do(func() error {
						_, err := w.host.Attach(context.Background(), nil, r)
						return err
					})
					w.run("ip link del " + hub)
					if lost {
						if err := os.Remove(w.recordFile(hub)); err != nil {
							t.Fatal(err)
						}
					}
					healAll := func() {
						w.do(func() error {
							hubs, err := w.host.Buses()
							for _, hub := range hubs {
								if _, e := w.host.Heal(context.Background(), hub); !errors.Is(e, ErrNoBus) {
									err = errors.Join(err, e)
								}
							}
							return err
						})
					}
					if strings.HasPrefix(end, "netns") {
						if err := g.end(); err != nil {
							t.Fatal(err)
						}
						w.gone(r.HostIf())
					}
					switch end {
					case "heal, DEL":
						healAll()
						if w.view(hub).Index == 0 {
							t.Error("heal does not make the hub again")
						}
						fallthrough
					case "DEL":
						w.detach(hub, r.Attachment)
					case "GC", "netns, GC":
						w.collect(r.Attachment)
					case "netns":
						healAll()
					}
					if after := w.inventory(); !empty.equal(after) {
						t.Errorf("left: %+v", after)
					}
				})
			}
		}
	}
}

// TestEnd: status says of the ends of a pair what CHECK says.
func TestEnd(t *testing.T) {
	back := func(w *world, box ns.NetNS) { w.move(box, "can0", w.netns) }
	small := func(w *world, box ns.NetNS) {
		for _, words := range []string{"down", "mtu 16", "up"} {
			w.run("nsenter --net=" + box.Path() + " ip link set can0 " + words)
		}
	}
	for name, test := range map[string]struct {
		hubMTU, mtu int
		do          func(w *world, box ns.NetNS)
		commands    []string
		status      string // "" is nothing
		check       string
	}{
		"host end MTU": {72, 0, nil, []string{"ip link set HOSTIF down", "ip link set HOSTIF mtu 16 up"},
			"host end HOSTIF and container end can0 have MTU 16 and 72, want 72: remove the container and start it again", ""},
		"container end MTU": {72, 0, small, nil,
			"host end HOSTIF and container end can0 have MTU 72 and 16, want 72: remove the container and start it again", ""},
		"hub became FD": {16, 0, nil, []string{"ip link set mine down", "ip link set mine mtu 72 up"},
			"host end HOSTIF and container end can0 have MTU 16 and 16, want 72: remove the container and start it again", ""},
		"hub became FD, mtu 16": {16, 16, nil, []string{"ip link set mine down", "ip link set mine mtu 72 up"}, "", ""},
		"mtu 16, record lost":   {72, 16, nil, []string{"rm -r STATE"}, "", ""},
		"classic hub gone":      {16, 0, nil, []string{"ip link del mine"}, "hub mine: there is no such device: connect the controller or load its driver", ""},
		"moved back": {72, 0, back, nil,
			"container end can0 of test net/box is in the host's network namespace: remove the container and start it again", "container end of HOSTIF is not in"},
		"moved back and up": {72, 0, back, []string{"ip link set can0 up"},
			"container end can0 of test net/box is in the host's network namespace: remove the container and start it again", "container end of HOSTIF is not in"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.run(fmt.Sprintf("ip link add mine mtu %d type vcan", test.hubMTU), "ip link set mine alias mine up")
			box := cantest.NewNetns(t)
			r := boxed("box", box, config.Policy{})
			r.Hub, r.Endpoint.MTU = config.Hub{Name: "mine", Physical: true}, test.mtu
			w.do(func() error {
				_, err := w.host.Attach(context.Background(), nil, r)
				return err
			})
			words := strings.NewReplacer("HOSTIF", r.HostIf(), "STATE", w.host.StateDir)
			if test.do != nil {
				test.do(w, box)
			}
			for _, line := range test.commands {
				w.run(words.Replace(line))
			}
			w.heal("mine")
			if got := strings.Join(w.differences("mine"), "; "); got != words.Replace(test.status) {
				t.Errorf("status %q, want %q", got, test.status)
			}
			if test.check == "" {
				test.check = test.status
			}
			w.do(func() error {
				err := w.host.Check(context.Background(), r, []string{"can0"})
				if err != nil && strings.Contains(err.Error(), "MTU") && !strings.Contains(test.check, "MTU") {
					t.Errorf("CHECK %v", err)
				}
				if (err != nil) != (test.check != "") || err != nil && !strings.Contains(err.Error(), words.Replace(test.check)) {
					t.Errorf("CHECK %v, want %q", err, test.check)
				}
				return nil
			})
		})
	}
}

// TestAliasBehind: an ADD that brings a policy was killed between its record and the alias of the host end, or somebody has erased
// that. Heal puts the alias right, so that the endpoint and that it has a policy are known when the record is lost.
func TestAliasBehind(t *testing.T) {
	restricted := config.Policy{Send: "100", Receive: "200"}
	for _, test := range []struct {
		policy config.Policy
		erased bool
	}{{config.Policy{}, true}, {restricted, true}, {restricted, false}} {
		t.Run(fmt.Sprintf("policy %v, erased %v", test.policy, test.erased), func(t *testing.T) {
			w := newWorld(t)
			box := cantest.NewNetns(t)
			hub, inside := port{w.netns, "vcan0"}, port{box, "can0"}
			w.attach("vcan0", "other", w.crowd)
			end := w.attachAs("box", box, test.policy, false)
			r := boxed("box", box, test.policy)
			alias := ""
			if !test.erased {
				alias = plan.Alias(r.Hub, r.Attachment, config.Policy{})
			}
			w.label(end.HostIf, alias)
			want := "host end " + end.HostIf + " does not have the alias of test net/box: " + plan.ByAnyAdd
			if words := w.differences("vcan0"); !slices.Equal(words, []string{want}) {
				t.Errorf("%q, want %q", words, want)
			}
			if done := w.heal("vcan0"); !slices.Equal(done, []string{"labelled 1 host end"}) {
				t.Errorf("heal: %q", done)
			}
			works := func(p config.Policy) {
				t.Helper()
				w.expectPolicy(p.Send, inside, hub)
				w.expectPolicy(p.Receive, hub, inside)
			}
			works(test.policy)
			w.run("rm -r " + w.host.StateDir)
			w.heal("vcan0")
			if test.policy != (config.Policy{}) {
				test.policy = config.Policy{Send: "none", Receive: "none"}
			}
			works(test.policy)
		})
	}
}

// TestAliasErasedTwice: the record of a policy is lost, and then the alias is erased that tells of it. The container stays cut off
// until its own ADD, and CHECK says so.
func TestAliasErasedTwice(t *testing.T) {
	for _, healed := range []bool{false, true} {
		w := newWorld(t)
		box := cantest.NewNetns(t)
		p, cut := config.Policy{Send: "100", Receive: "200"}, config.Policy{Send: "none", Receive: "none"}
		hub, inside := port{w.netns, "vcan0"}, port{box, "can0"}
		w.attach("vcan0", "other", w.crowd)
		end := w.attachAs("box", box, p, false)
		w.run("rm -r " + w.host.StateDir)
		if healed { // else nothing is left that tells of the container
			w.heal("vcan0")
		}
		w.label(end.HostIf, "")
		w.heal("vcan0")
		if !healed {
			cut.Send = p.Send // by the filters that are there
		}
		w.expectPolicy(cut.Send, inside, hub)
		w.expectPolicy(cut.Receive, hub, inside)
		if err := w.checkAs("box", box, p, "can0"); err == nil {
			t.Errorf("healed %v: CHECK is silent", healed)
		}
		w.attachAs("box", box, p, false)
		w.expectPolicy(p.Send, inside, hub)
		w.expectPolicy(p.Receive, hub, inside)
		if words := w.differences("vcan0"); len(words) > 0 {
			t.Errorf("%q", words)
		}
	}
}

// TestAliasCopied: somebody gives a host end the alias of another one. Its name tells whose it is, and heal gives it its own.
func TestAliasCopied(t *testing.T) {
	w := newWorld(t)
	box := cantest.NewNetns(t)
	p := config.Policy{Send: "100", Receive: "200"}
	hub, inside := port{w.netns, "vcan0"}, port{box, "can0"}
	other, _ := w.attach("vcan0", "other", w.crowd)
	end := w.attachAs("box", box, p, false)
	w.label(end.HostIf, w.view(other.HostIf).Alias)
	if err := w.checkAs("box", box, p, "can0"); err == nil || !strings.Contains(err.Error(), "does not have the alias of test net/box") {
		t.Errorf("CHECK: %v", err)
	}
	w.heal("vcan0")
	w.expectPolicy(p.Send, inside, hub)
	w.expectPolicy(p.Receive, hub, inside)
	if words := w.differences("vcan0"); len(words) > 0 {
		t.Errorf("%q", words)
	}
	w.label(end.HostIf, w.view(other.HostIf).Alias)
	w.detach("vcan0", boxed("box", box, p).Attachment)
	if w.view(end.HostIf).Index != 0 || w.view(other.HostIf).Index == 0 {
		t.Error("DEL took off another container, or none")
	}
	w.expectExactlyOnce(hub, port{w.crowd, "can-other"})
}

// TestHostEndsSwapped: two host ends have each other's name. Each stays its container's, with its policy, and DEL and ADD of one
// never touch the other.
func TestHostEndsSwapped(t *testing.T) {
	for _, lost := range []bool{false, true} {
		t.Run(fmt.Sprintf("record lost %v", lost), func(t *testing.T) {
			w := newWorld(t)
			boxA, boxB := cantest.NewNetns(t), cantest.NewNetns(t)
			policyA, policyB := config.Policy{Send: "100", Receive: "none"}, config.Policy{Send: "none", Receive: "200"}
			hub, insideA, insideB := port{w.netns, "vcan0"}, port{boxA, "can0"}, port{boxB, "can0"}
			a, b := w.attachAs("a", boxA, policyA, false).HostIf, w.attachAs("b", boxB, policyB, false).HostIf
			w.run("ip link set "+a+" down", "ip link set "+b+" down", "ip link set "+a+" name foo",
				"ip link set "+b+" name "+a+" up", "ip link set foo name "+b+" up")
			if lost {
				w.run("rm -r " + w.host.StateDir)
				policyA, policyB = config.Policy{Send: "none", Receive: "none"}, config.Policy{Send: "none", Receive: "none"}
			}
			w.heal("vcan0")
			want := fmt.Sprintf("host end %s of test net/a is named %s: another device has the name %[1]s; rename it; then ip link set %[2]s down; ip link set %[2]s name %[1]s up", a, b)
			if words := w.differences("vcan0"); !slices.Contains(words, want) {
				t.Errorf("%q, want %q", words, want)
			}
			works := func() {
				t.Helper()
				w.expectPolicy(policyA.Send, insideA, hub)
				w.expectPolicy(policyA.Receive, hub, insideA)
			}
			works()
			w.expectPolicy(policyB.Send, insideB, hub)
			w.expectPolicy(policyB.Receive, hub, insideB)
			w.detach("vcan0", boxed("b", boxB, policyB).Attachment)
			works()
			if left := w.view(a); left.Index != 0 {
				t.Errorf("left of b: %+v", left)
			}
			w.do(func() error {
				want := fmt.Sprintf("invalid name: device %s has the name %[1]s, which the host end of test net/b needs: rename it", b)
				if _, err := w.host.Attach(context.Background(), nil, boxed("b", boxB, policyB)); err == nil || err.Error() != want {
					t.Errorf("%v, want %s", err, want)
				}
				return nil
			})
			works()
			w.detach("vcan0", boxed("a", boxA, policyA).Attachment)
			if left := w.view(b); left.Index != 0 {
				t.Errorf("left of a: %+v", left)
			}
		})
	}
}

// TestHostEndTaken: another program's device has the name that a host end is to get, or that one was given as a second name. ADD
// says which, with the command that ends it, and takes nothing away.
func TestHostEndTaken(t *testing.T) {
	name := boxed("box", cantest.NewNetns(t), config.Policy{}).HostIf()
	for _, test := range []struct{ made, words, cure string }{
		{"ip link add " + name + " type dummy", "device " + name + " has the name " + name + ", which the host end of test net/box needs: rename or delete it", "ip link del " + name},
		{"ip link add foo type dummy; ip link property add dev foo altname " + name, "device foo has the name " + name + ", which the host end of test net/box needs: ip link property del dev foo altname " + name,
			"ip link property del dev foo altname " + name},
	} {
		w := newWorld(t)
		w.attach("vcan0", "other", w.crowd)
		box := cantest.NewNetns(t)
		w.run(strings.Split(test.made, "; ")...)
		before := w.inventory()
		w.do(func() error {
			_, err := w.host.Attach(context.Background(), nil, boxed("box", box, config.Policy{}))
			if err == nil || err.Error() != "invalid name: "+test.words {
				t.Errorf("%v, want %s", err, test.words)
			}
			return nil
		})
		if after := w.inventory(); !before.equal(after) {
			t.Errorf("before %+v, after %+v", before, after)
		}
		w.run(test.cure)
		w.attachAs("box", box, config.Policy{}, false)
		w.expectExactlyOnce(port{w.netns, "vcan0"}, port{box, "can0"}, port{w.crowd, "can-other"})
	}
}

// TestDetachTwice: a network was edited between two ADDs of one container, and both interfaces are there. One DEL takes both off.
func TestDetachTwice(t *testing.T) {
	w := newWorld(t)
	box := cantest.NewNetns(t)
	first := boxed("box", box, config.Policy{})
	first.IfName, first.Entry = "eth0", "can0"
	second := first
	second.Hub.Name, second.Entry, second.Place.Interface = "vcan1", "can1", "can1"
	for _, r := range []Request{first, second} {
		w.do(func() error {
			_, err := w.host.Attach(context.Background(), nil, r)
			return err
		})
	}
	w.detach("vcan1", second.Attachment)
	for _, r := range []Request{first, second} {
		if left := w.view(r.HostIf()); left.Index != 0 {
			t.Errorf("left: %+v", left)
		}
	}
}

// TestHubHeld: another program's qdisc on the hub lets no ADD go on. Heal repairs the rest all the same: a container whose filters
// are gone, too, gets no more than its policy.
func TestHubHeld(t *testing.T) {
	w := newWorld(t)
	box := cantest.NewNetns(t)
	p := config.Policy{Send: "100", Receive: "200"}
	w.attach("vcan0", "other", w.crowd)
	end := w.attachAs("box", box, p, false)
	other, inside := port{w.crowd, "can-other"}, port{box, "can0"}
	w.run("tc qdisc del dev vcan0 clsact", "tc qdisc add dev vcan0 ingress", "tc qdisc del dev "+end.HostIf+" clsact")
	words := strings.Join(w.differences("vcan0"), "\n")
	if !strings.Contains(words, "tc qdisc del dev vcan0 ingress") || strings.Contains(words, plan.ByAnyAdd) || !strings.Contains(words, "but vxcanctl heal repairs it") {
		t.Errorf("status: %s", words)
	}
	w.do(func() error {
		if _, err := w.host.Heal(context.Background(), "vcan0"); err == nil || !strings.Contains(err.Error(), "tc qdisc del dev vcan0 ingress") {
			t.Errorf("heal: %v", err)
		}
		return nil
	})
	w.expectPolicy(p.Send, inside, other)
	w.expectPolicy(p.Receive, other, inside)
	w.run("tc qdisc del dev vcan0 ingress")
	w.heal("vcan0")
	w.expectPolicy(p.Send, inside, port{w.netns, "vcan0"})
	w.expectPolicy(p.Receive, port{w.netns, "vcan0"}, inside)
	if words := w.differences("vcan0"); len(words) > 0 {
		t.Errorf("%q", words)
	}
}

// TestHubGone: a hub that is not ours to make is gone. Heal repairs the rest: a container whose filters are gone, too, gets no more
// than its policy.
func TestHubGone(t *testing.T) {
	w := newWorld(t)
	box := cantest.NewNetns(t)
	p := config.Policy{Send: "100", Receive: "200"}
	w.run("ip link add can0 mtu 72 type vcan", "ip link set can0 up")
	r := boxed("box", box, p)
	r.Hub.Name = "can0"
	w.attach("can0", "other", w.crowd)
	w.do(func() error {
		_, err := w.host.Attach(context.Background(), nil, r)
		return err
	})
	w.run("ip link del can0", "tc qdisc del dev "+r.HostIf()+" clsact")
	w.do(func() error {
		if _, err := w.host.Heal(context.Background(), "can0"); err == nil || !strings.Contains(err.Error(), "hub can0 is not there") {
			t.Errorf("heal: %v", err)
		}
		return nil
	})
	w.expectPolicy(p.Send, port{box, "can0"}, port{w.crowd, "can-other"})
	w.expectPolicy(p.Receive, port{w.crowd, "can-other"}, port{box, "can0"})
}

// TestHubSwapped: the owner of a hub gives it another name, and its name to another vcan. What programs send on the old one does
// not get to the bus any more, and the new one is on it.
func TestHubSwapped(t *testing.T) {
	w := newWorld(t)
	box := cantest.NewNetns(t)
	w.run("ip link add mine mtu 72 type vcan", "ip link set mine up")
	r := boxed("box", box, config.Policy{})
	r.Hub = config.Hub{Name: "mine", Physical: true}
	w.do(func() error {
		_, err := w.host.Attach(context.Background(), nil, r)
		return err
	})
	w.run("ip link set mine down", "ip link set mine name old", "ip link set old up", "ip link add mine mtu 72 type vcan", "ip link set mine up")
	w.heal("mine")
	inside := port{box, "can0"}
	w.expectPolicy("none", port{w.netns, "old"}, inside)
	w.expectPolicy("none", inside, port{w.netns, "old"})
	w.expectExactlyOnce(port{w.netns, "mine"}, inside)
}
