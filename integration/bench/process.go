package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// plugin is a CNI plugin to be executed.
type plugin struct {
	host string // which one it is executed on
	path string
	conf string // JSON
}

// vxcan is ours, on a hub and a host of its own.
func vxcan(hub string) plugin {
	return plugin{hub, pluginDir + "/vxcan", fmt.Sprintf(`{"cniVersion":"1.0.0","name":"bench-%s","type":"vxcan","hub":%q}`, hub, hub)}
}

var (
	bridge   = plugin{"bridge", pluginDir + "/bridge", `{"cniVersion":"1.0.0","name":"bench","type":"bridge","bridge":"br-bench"}`}
	loopback = plugin{"loopback", pluginDir + "/loopback", `{"cniVersion":"1.0.0","name":"bench","type":"loopback"}`}
)

// attachment is a container's interface.
type attachment struct{ id, ifName string }

func (a attachment) netnsPath() string { return netnsPath(a.id) }

func netnsPath(name string) string { return "/run/netns/" + name }

// process is a program that is ready to start: all that can be done before is done, so that to run it is to fork, execute
// and wait.
type process struct {
	path  string
	argv  []string
	attr  os.ProcAttr // with files in memory
	state *os.ProcessState
}

func newProcess(path string, args, env []string, stdin string) (*process, error) {
	p := &process{path: path, argv: append([]string{path}, args...), attr: os.ProcAttr{Env: env}}
	for _, content := range []string{stdin, "", ""} {
		f, err := memoryFile(content)
		if err != nil {
			p.close()
			return nil, err
		}
		p.attr.Files = append(p.attr.Files, f)
	}
	return p, nil
}

func memoryFile(content string) (*os.File, error) {
	fd, err := unix.MemfdCreate("bench", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "bench")
	if _, err = f.WriteString(content); err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func (p *process) close() {
	for _, f := range p.attr.Files {
		f.Close()
	}
}

func (p *process) start() (*os.Process, error) { return os.StartProcess(p.path, p.argv, &p.attr) }

func (p *process) run() error {
	started, err := p.start()
	if err != nil {
		return err
	}
	p.state, err = started.Wait()
	return err
}

// result is what the process wrote to stdout, or an error if it failed.
func (p *process) result() ([]byte, error) {
	out, err := contentOf(p.attr.Files[1])
	if err != nil || p.state.Success() {
		return out, err
	}
	words, err := contentOf(p.attr.Files[2])
	return out, errors.Join(fmt.Errorf("%s: %v: %s%s", strings.Join(p.argv, " "), p.state, out, words), err)
}

func contentOf(f *os.File) ([]byte, error) {
	return io.ReadAll(io.NewSectionReader(f, 0, 1<<20))
}

// ready is a call of a plugin.
func (p plugin) ready(verb string, a attachment, prevResult []byte) (*process, error) {
	conf := p.conf
	if prevResult != nil {
		conf = strings.TrimSuffix(conf, "}") + `,"prevResult":` + string(prevResult) + "}"
	}
	return newProcess(p.path, nil, p.env(verb, a), conf)
}

func (p plugin) env(verb string, a attachment) []string {
	return []string{
		"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "CNI_COMMAND=" + verb, "CNI_CONTAINERID=" + a.id, "CNI_NETNS=" + a.netnsPath(),
		"CNI_IFNAME=" + a.ifName, "CNI_PATH=" + pluginDir,
	}
}

// call executes a plugin and returns what that costs.
func (b *bench) call(p plugin, verb string, a attachment, prevResult []byte) (took cost, result []byte, err error) {
	call, err := p.ready(verb, a, prevResult)
	if err != nil {
		return cost{}, nil, err
	}
	defer call.close()
	if took, err = b.countOn(p.host, call.run); err != nil {
		return cost{}, nil, err
	}
	if result, err = call.result(); err != nil {
		return cost{}, nil, fmt.Errorf("%s: %w", verb, err)
	}
	took.faults = faultsOf(call)
	return took, result, nil
}

func faultsOf(p *process) int64 {
	if usage, ok := p.state.SysUsage().(*syscall.Rusage); ok {
		return usage.Minflt
	}
	return 0
}

// cost is what something took of the whole machine. While nothing can go on, the clock still does.
type cost struct {
	instructions time.Duration // a nanosecond is one
	waiting      time.Duration // with nothing to do for the CPU, for example for RCU
	faults       int64         // page faults of the process, if it is one
}

// countOn counts what something takes on a host. A pause before is for what the kernel still has to do for what was
// before: it takes devices apart after who deleted them has gone. The pause takes no time where instructions are counted.
func (b *bench) countOn(host string, do func() error) (took cost, err error) {
	time.Sleep(time.Second)
	err = b.on(host, func() error {
		idle, err := idleTime()
		if err != nil {
			return err
		}
		start := time.Now()
		err = do()
		all := time.Since(start)
		if err != nil {
			return err
		}
		after, err := idleTime()
		took = cost{instructions: all - (after - idle), waiting: after - idle}
		return err
	})
	return took, err
}

// idleTime is how long this machine's one CPU has had nothing to do.
func idleTime() (time.Duration, error) {
	list, err := os.ReadFile("/proc/timer_list")
	if err != nil {
		return 0, err
	}
	_, value, _ := bytes.Cut(list, []byte(".idle_sleeptime"))
	fields := bytes.Fields(value[:min(len(value), 100)])
	if len(fields) < 2 {
		return 0, fmt.Errorf("no idle_sleeptime in /proc/timer_list")
	}
	n, err := strconv.ParseInt(string(fields[1]), 10, 64)
	return time.Duration(n), err
}

// on does something on a host, which is a network namespace: the devices and rules of one contestant are not to be in
// another one's way.
func (b *bench) on(host string, do func() error) error {
	name := "host-" + host
	if !b.hosts[name] {
		if err := run("ip", "netns", "add", name); err != nil {
			return err
		}
		b.hosts[name] = true
	}
	return in(netnsPath(name), do)
}

// in does something in a network namespace.
func in(path string, do func() error) (retErr error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer home.Close()
	there, err := os.Open(path)
	if err != nil {
		return err
	}
	defer there.Close()
	if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter %s: %w", path, err)
	}
	defer func() {
		if err := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); err != nil {
			panic(err) // all that follows would be in the wrong one
		}
	}()
	return do()
}

// box is where one of the things is attached that are measured in every round, which leave it empty.
func (b *bench) box(name string) (a attachment, err error) {
	if b.boxes[name] == (attachment{}) {
		id, err := b.netns()
		if err != nil {
			return attachment{}, err
		}
		b.boxes[name] = attachment{id, "can0"}
	}
	return b.boxes[name], nil
}

// netns makes the network namespace of a container.
func (b *bench) netns() (id string, err error) {
	b.count++
	id = "b" + strconv.Itoa(b.count)
	return id, run("ip", "netns", "add", id)
}

// run runs a program by name and fails with its words.
func run(name string, args ...string) error {
	path, err := exec.LookPath(name)
	if err != nil {
		return err
	}
	p, err := newProcess(path, args, []string{"PATH=" + filepath.Dir(path)}, "")
	if err != nil {
		return err
	}
	defer p.close()
	if err := p.run(); err != nil {
		return err
	}
	_, err = p.result()
	return err
}
