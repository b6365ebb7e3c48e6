package cantc

import (
	"errors"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/canlink"
	"github.com/vxcan/vxcan/pkg/cantest"
	"github.com/vxcan/vxcan/pkg/rtnl"
)

const dev = 5000 // the ifindex of device v0

// host is a network namespace with a device v0.
type host struct {
	*Conn
	netns ns.NetNS
}

func newHost(t *testing.T) host {
	t.Helper()
	cantest.Require(t)
	h := host{netns: cantest.NewNetns(t)}
	conn, err := rtnl.DialAt(h.netns)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	h.Conn = On(conn)
	if err := canlink.On(conn).AddVcan("v0", dev, canlink.FDMTU, ""); err != nil {
		t.Fatal(err)
	}
	return h
}

func (h host) tc(t *testing.T, args string) {
	t.Helper()
	argv := strings.Fields(args)
	for i, arg := range argv {
		if arg == "BYTECODE" {
			argv[i] = "1,6 0 0 4294967295"
		}
	}
	err := h.netns.Do(func(ns.NetNS) error {
		out, err := exec.Command("tc", argv...).CombinedOutput()
		if err != nil {
			t.Errorf("tc %s: %v: %s", args, err, out)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

var all = []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: 0xffffffff}}

// A filter of another kind or protocol at our priority is named, and the command of the error's comment ends it.
func TestOtherFilter(t *testing.T) {
	for _, dir := range []Direction{Ingress, Egress} {
		for args, want := range map[string]Entry{
			"protocol all matchall action ok":              {Kind: "matchall", Protocol: unix.ETH_P_ALL},
			"protocol ip matchall action ok":               {Kind: "matchall", Protocol: unix.ETH_P_IP},
			"protocol can handle 1 bpf bytecode BYTECODE":  {Kind: "bpf", Protocol: unix.ETH_P_CAN},
			"protocol ip handle 1 bpf bytecode BYTECODE":   {Kind: "bpf", Protocol: unix.ETH_P_IP},
			"protocol all handle 99 bpf bytecode BYTECODE": {},
			"protocol all chain 5 matchall action ok":      {},
		} {
			h := newHost(t)
			h.tc(t, "qdisc add dev v0 clsact")
			h.tc(t, "filter add dev v0 "+dir.String()+" pref 8 "+args)
			h.tc(t, "filter add dev v0 "+dir.String()+" pref 9 protocol ip matchall action ok")
			f := Filter{Hook{dev, dir, 8, 1}, all, []Action{Drop()}}
			err := h.Set(f)
			if want.Kind == "" {
				if err != nil {
					t.Errorf("%s: %v", args, err)
				}
				list, err := h.List(f.Hook)
				if err != nil || !slices.ContainsFunc(list, Entry.Ours) || (len(list) > 1) != strings.Contains(args, "handle 99") {
					t.Errorf("%s: list %+v, %v", args, list, err)
				}
				continue
			}
			want.Hook = f.Hook
			var other *OtherFilterError
			if !errors.As(err, &other) {
				t.Errorf("%s: %v, want an OtherFilterError", args, err)
				continue
			}
			got := other.Entry
			got.Handle = f.Handle
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s (- want, + got)\n%s", args, diff)
			}
			if filters, err := h.Get(f.Hook); err != nil || len(filters) > 0 && (filters[0].Program != nil || want.Protocol != unix.ETH_P_ALL) {
				t.Errorf("%s: %+v, %v; want no program", args, filters, err)
			}
			if err := h.Delete(f.Hook); err != nil {
				t.Errorf("%s: %v", args, err)
			}
			if err := h.Set(f); !errors.As(err, &other) {
				t.Errorf("%s: deleted, which is of another program: %v", args, err)
			}
			h.tc(t, "filter del dev v0 "+dir.String()+" pref 8")
			if err := h.Set(f); err != nil {
				t.Errorf("%s, after tc filter del: %v", args, err)
			}
		}
	}
}

// A qdisc that is bound to a shared block is named; the other direction works.
func TestSharedBlock(t *testing.T) {
	for _, dir := range []Direction{Ingress, Egress} {
		h := newHost(t)
		h.tc(t, "qdisc add dev v0 "+dir.String()+"_block 22 clsact")
		f, other := Filter{Hook{dev, dir, 8, 1}, all, []Action{Drop()}}, Filter{Hook{dev, 1 - dir, 8, 1}, all, []Action{Drop()}}
		found, err := h.Qdiscs(dev, dev+1000)
		if err != nil || len(found) != 1 || found[0].Kind != "clsact" || found[0].Blocks[dir] != 22 || !found[0].Prevents(dir) || found[0].Prevents(1-dir) {
			t.Errorf("%s: %+v, %v", dir, found, err)
		}
		if err := h.Set(other, f); !errors.Is(err, unix.EOPNOTSUPP) {
			t.Errorf("%s: %v", dir, err)
		}
		if filters, err := h.Get(f.Hook, other.Hook); err != nil || len(filters) != 1 || !filters[0].Equal(other) {
			t.Errorf("%s: %+v, %v; want that of the other direction", dir, filters, err)
		}
		if err := h.Delete(f.Hook, other.Hook); err != nil {
			t.Errorf("%s: %v", dir, err)
		}
		h.tc(t, "qdisc del dev v0 clsact")
		if err := h.Set(f, other); err != nil {
			t.Errorf("%s, after tc qdisc del: %v", dir, err)
		}
	}
}

func TestOtherQdisc(t *testing.T) {
	h := newHost(t)
	for _, want := range [][]Qdisc{nil, {{Dev: dev, Kind: "ingress"}}, nil} {
		if found, err := h.Qdiscs(dev); err != nil || !slices.Equal(found, want) || len(found) > 0 && !(found[0].Prevents(Ingress) && found[0].Prevents(Egress)) {
			t.Errorf("%+v, %v; want %+v", found, err, want)
		}
		if want == nil {
			h.tc(t, "qdisc add dev v0 ingress")
		} else if err := h.DeleteQdiscs(dev); err != nil {
			t.Error(err)
		}
	}
}

// Programs of the maximum length (BPF_MAXINSNS of linux/bpf_common.h), set and read back in one call each.
func TestManyLongPrograms(t *testing.T) {
	h := newHost(t)
	program := make([]unix.SockFilter, 4096)
	for i := range program {
		program[i] = all[0]
	}
	var filters []Filter
	var hooks []Hook
	for i := range 60 {
		f := Filter{Hook{dev, Direction(i % 2), uint16(i + 1), 1}, program, []Action{Limit(1000, 10), Mark(1), Drop()}}
		filters, hooks = append(filters, f), append(hooks, f.Hook)
	}
	for range 2 { // the second time they are replaced
		if err := h.Set(filters...); err != nil {
			t.Fatal(err)
		}
		got, err := h.Get(hooks...)
		if err != nil || len(got) != len(filters) {
			t.Fatalf("%d filters, %v; want %d", len(got), err, len(filters))
		}
		for i, f := range got {
			if !f.Equal(filters[i]) {
				t.Errorf("filter %d is another one: %d instructions, %+v", i, len(f.Program), f.Actions)
			}
		}
	}
	if err := h.Delete(hooks...); err != nil {
		t.Error(err)
	}
}
