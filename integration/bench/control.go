package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"
	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/bus"
	"github.com/vxcan/vxcan/pkg/cangw"
	"github.com/vxcan/vxcan/pkg/canlink"
	"github.com/vxcan/vxcan/pkg/rtnl"
)

// pluginDir is where plugins are installed, ours and the reference plugins that Debian's containernetworking-plugins has
// in referenceDir, side by side on the machine's own disk: from a file system of its host's, a program takes some 5 ms
// more to start.
const (
	pluginDir    = "/opt/cni/bin"
	referenceDir = "/usr/lib/cni"
)

// install copies the plugins to where they are called.
func (b *bench) install(ours string) error {
	plugins := []string{ours + "/vxcan"}
	for _, p := range []plugin{bridge, ptp, lo, {path: "host-local"}} {
		plugins = append(plugins, filepath.Join(referenceDir, filepath.Base(p.path)))
	}
	return run("install", append([]string{"-D", "-t", pluginDir}, plugins...)...)
}

// many is the size of the large bus.
const many = 100

// plugin is a CNI plugin to be executed.
type plugin struct {
	host string // which one it is executed on
	path string
	conf string // JSON
}

// vxcan is ours, on a hub and a host of its own.
func (b *bench) vxcan(hub string) plugin {
	return plugin{hub, pluginDir + "/vxcan", fmt.Sprintf(
		`{"cniVersion":"1.0.0","name":"bench-%s","type":"vxcan","hub":%q,"interface":"can0"}`, hub, hub)}
}

var (
	bridge = plugin{"bridge", pluginDir + "/bridge", `{"cniVersion":"1.0.0","name":"bench","type":"bridge","bridge":"br-bench"}`}
	ptp    = plugin{"ptp", pluginDir + "/ptp", `{"cniVersion":"1.0.0","name":"bench","type":"ptp","ipam":{"type":"host-local","subnet":"10.99.0.0/16"}}`}
	lo     = plugin{"loopback", pluginDir + "/loopback", `{"cniVersion":"1.0.0","name":"bench","type":"loopback"}`}
)

// command is a call of a plugin, yet to be executed.
func (p plugin) command(verb, id string, prevResult []byte) *exec.Cmd {
	conf := p.conf
	if prevResult != nil {
		conf = strings.TrimSuffix(conf, "}") + `,"prevResult":` + string(prevResult) + "}"
	}
	cmd := exec.Command(p.path)
	cmd.Env = append(os.Environ(), "CNI_COMMAND="+verb, "CNI_CONTAINERID="+id, "CNI_NETNS=/run/netns/"+id,
		"CNI_IFNAME=eth0", "CNI_PATH="+filepath.Dir(p.path))
	cmd.Stdin = strings.NewReader(conf)
	return cmd
}

// call executes a plugin and returns how long that took.
func (b *bench) call(p plugin, verb, id string, prevResult []byte) (took time.Duration, stdout []byte, err error) {
	cmd := p.command(verb, id, prevResult)
	var out, words bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &words
	took, err = b.timeOn(p.host, cmd.Run)
	if err != nil {
		return 0, nil, fmt.Errorf("%s %s: %w: %s%s", filepath.Base(p.path), verb, err, out.String(), words.String())
	}
	return took, out.Bytes(), nil
}

// on calls do on a host, which is a network namespace: the devices and rules of one contestant are not to be in another
// one's way.
func (b *bench) on(host string, do func() error) error {
	if b.hosts[host] == nil {
		name := "host-" + host
		if err := run("ip", "netns", "add", name); err != nil {
			return err
		}
		netns, err := ns.GetNS("/run/netns/" + name)
		if err != nil {
			return err
		}
		b.hosts[host] = netns
	}
	return b.hosts[host].Do(func(ns.NetNS) error { return do() })
}

// timeOn measures how long something takes on a host.
func (b *bench) timeOn(host string, do func() error) (took time.Duration, err error) {
	unix.Sync() // or the fsync of one would have to wait for what others wrote
	time.Sleep(settle)
	err = b.on(host, func() error {
		start := time.Now()
		err := do()
		took = time.Since(start)
		return err
	})
	return took, err
}

// settle is a pause before whatever is measured, for what the kernel still has to do for what was before: it takes
// devices apart behind the back of who deleted them.
const settle = 100 * time.Millisecond

// pair measures ADD and DEL of one more container.
func (b *bench) pair(name string, p plugin) error {
	id, err := b.box(name)
	if err != nil {
		return err
	}
	took, _, err := b.call(p, "ADD", id, nil)
	if err != nil {
		return err
	}
	b.note(name+" ADD", took)
	if took, _, err = b.call(p, "DEL", id, nil); err != nil {
		return err
	}
	b.note(name+" DEL", took)
	return nil
}

// control measures what it takes to attach a container: one round of everything, one after the other, and the ratios
// within it.
func (b *bench) control() error {
	few, large := b.vxcan("vcan0"), b.vxcan("vcan1")
	version := func(name string) error {
		took, _, err := b.call(few, "VERSION", "x", nil)
		b.note(name, took)
		return err
	}
	steps := []func() error{
		func() error { return version("VERSION") },
		func() error { return b.pair("warm", b.vxcan("vcan3")) },
		func() error { return b.pair("1 endpoint", few) },
		b.floor,
		func() error { return version("VERSION, later") },
		func() error { return b.pair("100 endpoints", large) },
		func() error { return b.check("CHECK, 1 endpoint", few, b.one) },
		func() error { return b.check("CHECK, 100 endpoints", large, b.hundredth) },
		b.cold,
		b.warmProcess,
		func() error { return b.pair("bridge", bridge) },
		func() error { return b.pair("ptp", ptp) },
		func() error { return b.pair("loopback", lo) },
		func() error { return b.predecessor("predecessor, 1 endpoint", "pre0", 1) },
		func() error { return b.predecessor("predecessor, 30 endpoints", "pre1", 30) },
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	last := func(name string) float64 { return float64(b.results.Samples[name][len(b.results.Samples[name])-1]) }
	for name, value := range map[string]float64{
		"ADD ÷ bridge ADD":        last("warm ADD") / last("bridge ADD"),
		"ADD ÷ VERSION":           last("warm ADD") / last("VERSION"),
		"ADD ÷ (VERSION + floor)": last("warm ADD") / (last("VERSION") + last("floor: netlink of an ADD")),
		"ADD 100 ÷ 1":             (last("100 endpoints ADD") / last("VERSION, later")) / (last("1 endpoint ADD") / last("VERSION")),
		"predecessor ÷ ADD, 1":    last("predecessor, 1 endpoint") / last("1 endpoint ADD"),
		"predecessor ÷ ADD, 30":   last("predecessor, 30 endpoints") / last("1 endpoint ADD"),
		"cold ÷ warm":             last("cold ADD") / last("warm ADD"),
		"DEL ÷ bridge DEL":        last("warm DEL") / last("bridge DEL"),
		"CHECK 100 ÷ 1":           last("CHECK, 100 endpoints") / last("CHECK, 1 endpoint"),
	} {
		b.results.Ratios[name] = append(b.results.Ratios[name], value)
	}
	return nil
}

// prepare makes what is there before anything is measured: a bus with one endpoint, one with a hundred, and the
// predecessor's two.
func (b *bench) prepare() error {
	info, err := os.Stat(b.vxcan("").path)
	if err != nil {
		return err
	}
	b.results.BinaryBytes = info.Size()
	// A hub that is warm, and has nobody on it.
	warm := b.vxcan("vcan3")
	first, err := b.stay(warm)
	if err != nil {
		return err
	}
	if _, _, err := b.call(warm, "DEL", first.id, nil); err != nil {
		return err
	}
	err = b.on(warm.host, func() (err error) {
		b.results.PeakKiB, err = peakMemory(warm.command("ADD", first.id, nil))
		return err
	})
	if err != nil {
		return err
	}
	if _, _, err := b.call(warm, "DEL", first.id, nil); err != nil {
		return err
	}
	if b.one, err = b.stay(b.vxcan("vcan0")); err != nil {
		return err
	}
	for range many {
		if b.hundredth, err = b.stay(b.vxcan("vcan1")); err != nil {
			return err
		}
	}
	if err := b.on("vcan1", func() (err error) { b.results.Rules, err = countRules(); return err }); err != nil {
		return err
	}
	if err := b.mesh("pre0", 1); err != nil {
		return err
	}
	return b.mesh("pre1", 30)
}

// countRules counts a host's gateway rules by cangw.
func countRules() (n int, err error) {
	cmd := exec.Command("cangw", "-L")
	out, err := cmd.Output()
	if cmd.ProcessState == nil { // its exit status means nothing
		return 0, err
	}
	return bytes.Count(out, []byte("cangw -A")), nil
}

// attached is an endpoint that stays.
type attached struct {
	id     string
	result []byte
}

func (b *bench) stay(p plugin) (attached, error) {
	id, err := b.netns()
	if err != nil {
		return attached{}, err
	}
	_, result, err := b.call(p, "ADD", id, nil)
	return attached{id, result}, err
}

func (b *bench) check(name string, p plugin, a attached) error {
	took, _, err := b.call(p, "CHECK", a.id, a.result)
	b.note(name, took)
	return err
}

// cold measures an ADD that finds nothing: no hub, no backplane, no record.
func (b *bench) cold() error {
	p := b.vxcan("vcan2")
	id, err := b.box("cold")
	if err != nil {
		return err
	}
	took, _, err := b.call(p, "ADD", id, nil)
	if err != nil {
		return err
	}
	b.note("cold ADD", took)
	if _, _, err := b.call(p, "DEL", id, nil); err != nil {
		return err
	}
	for _, device := range []string{"vcan2", "vcan2-tx"} {
		if err := b.on("vcan2", func() error { return run("ip", "link", "del", device) }); err != nil {
			return err
		}
	}
	return os.Remove(bus.DefaultStateDir + "/vcan2.json")
}

// floor measures the netlink messages of a warm ADD, from this process: what of it is the kernel's.
func (b *bench) floor() error {
	id, err := b.box("floor")
	if err != nil {
		return err
	}
	took, err := b.timeOn("vcan0", func() error { return netlinkOfADD("/run/netns/"+id, "floor0") })
	if err != nil {
		return err
	}
	b.note("floor: netlink of an ADD", took)
	return b.on("vcan0", func() error { return run("ip", "link", "del", "floor0") })
}

func netlinkOfADD(netnsPath, hostIf string) error {
	netns, err := ns.GetNS(netnsPath)
	if err != nil {
		return err
	}
	defer netns.Close()
	home, err := rtnl.Dial()
	if err != nil {
		return err
	}
	defer home.Close()
	container, err := rtnl.DialAt(netns)
	if err != nil {
		return err
	}
	defer container.Close()
	links, err := canlink.On(home).Get("vcan0", "vcan0-tx", "vcan0-rx", hostIf)
	if err != nil {
		return err
	}
	peek, err := rtnl.Dial() // where a hundred others are, the rest of the list would be in the way
	if err != nil {
		return err
	}
	defer peek.Close()
	if _, _, err := cangw.Peek(peek, func([]cangw.Job) bool { return true }); err != nil {
		return err
	}
	const index = 1 << 19 // below those that an ADD draws
	err = canlink.On(home).AddPair(canlink.Pair{Name: hostIf, PeerName: "can0", MTU: canlink.FDMTU, Index: index, Alias: "bench", PeerNetns: netns})
	if err != nil {
		return err
	}
	tx, rx := uint32(links[1].Index), uint32(links[2].Index)
	err = cangw.On(home).Add(
		cangw.Rule{Src: index, Dst: tx, Flags: cangw.IIFTxOK}, cangw.Rule{Src: index, Dst: tx, Flags: cangw.IIFTxOK | cangw.FD},
		cangw.Rule{Src: rx, Dst: index}, cangw.Rule{Src: rx, Dst: index, Flags: cangw.FD})
	if err != nil {
		return err
	}
	_, err = canlink.On(container).SetUp(index)
	return err
}

// warmProcess measures all of an ADD but the exec: the same code, called in this process.
func (b *bench) warmProcess() error {
	id, err := b.box("warm process")
	if err != nil {
		return err
	}
	a := bus.Attachment{Runtime: "bench", Network: "bench", ContainerID: id, IfName: "eth0"}
	var h bus.Host
	took, err := b.timeOn("vcan0", func() error {
		_, err := h.Attach(context.Background(), bus.Spec{Hub: "vcan0"}, a, bus.Target{NetnsPath: "/run/netns/" + id, Interface: "can0"})
		return err
	})
	if err != nil {
		return err
	}
	b.note("ADD without exec", took)
	return b.on("vcan0", func() error { return h.Detach(context.Background(), "vcan0", a) })
}

// box is the network namespace for one of the things that are measured in every round, which leaves it empty. A new one
// each time would keep the kernel busy with taking the old ones apart.
func (b *bench) box(name string) (id string, err error) {
	if b.boxes[name] == "" {
		b.boxes[name], err = b.netns()
	}
	return b.boxes[name], err
}

// netns makes the network namespace of a container.
func (b *bench) netns() (id string, err error) {
	b.count++
	id = "b" + strconv.Itoa(b.count)
	return id, run("ip", "netns", "add", id)
}

// run runs a program and fails with its words.
func run(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return nil
}
