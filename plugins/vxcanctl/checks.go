package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/bus"
	"github.com/vxcan/vxcan/pkg/config"
)

// machine is a host that doctor looks at, and what was found there.
type machine struct {
	root string // of its files
	uid  int
	host looker
	// inPod reports that this is a container without the capabilities of root, as in the DaemonSet: it sees the kernel and the
	// buses of its host, but neither its programs nor its files.
	inPod   bool
	release string // as uname -r

	rootless func() bool                               // as bus.IsRootless
	try      func(m bus.Module) error                  // as Module.Try
	unit     func(name string) (state string, ok bool) // as unitState
	podmans  func() string                             // as podman --version

	found []finding
}

func newMachine(host looker) *machine {
	m := machine{
		root: "/", uid: os.Geteuid(), host: host, inPod: os.Geteuid() == 0 && !hasNetAdmin(),
		rootless: bus.IsRootless, try: bus.Module.Try, unit: unitState, podmans: podmanVersion,
	}
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		m.release = unix.ByteSliceToString(name.Release[:])
	}
	return &m
}

// hasNetAdmin reports whether this process may change the network, as root may.
func hasNetAdmin() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	err := unix.Capget(&header, &data[0])
	return err != nil || data[0].Effective&(1<<unix.CAP_NET_ADMIN) != 0
}

// unitState is what systemctl is-enabled says of a unit. ok reports whether there is such a unit.
func unitState(name string) (state string, ok bool) {
	out, _ := exec.Command("systemctl", "is-enabled", "--", name).Output() // its status is 1 for a unit that is not enabled
	state = strings.TrimSpace(string(out))
	return state, state != "" && state != "not-found"
}

func podmanVersion() string {
	out, _ := exec.Command("podman", "--version").Output()
	return string(out)
}

// add notes what a check has found.
func (m *machine) add(code string, l level, what, remedy string) {
	m.found = append(m.found, finding{code, map[byte]string{'1': "kernel", '2': "runtimes", '3': "buses"}[code[2]], l, what, remedy})
}

func (m *machine) read(path string) string {
	content, _ := os.ReadFile(filepath.Join(m.root, path))
	return string(content)
}

func (m *machine) has(path string) bool {
	_, err := os.Stat(filepath.Join(m.root, path))
	return err == nil
}

func (m *machine) installed(program string) bool {
	return slices.ContainsFunc([]string{"/usr/local/sbin/", "/usr/local/bin/", "/usr/sbin/", "/usr/bin/", "/sbin/", "/bin/"},
		func(dir string) bool { return m.has(dir + program) })
}

func (m *machine) system() system {
	s := system{release: m.release, foreign: !m.has("/lib/modules/" + m.release)}
	for line := range strings.Lines(m.read("/etc/os-release")) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		value = strings.Trim(value, `"'`)
		switch key {
		case "ID":
			s.id = value
		case "ID_LIKE":
			s.like = value
		case "VERSION_ID":
			s.version = value
		}
	}
	return s
}

func (m *machine) kernel() {
	system, rootless := m.system(), m.rootless()
	switch {
	case rootless:
		m.add("VX110", fine, "user namespace: the buses of this user, without controllers", "")
	case m.uid != 0:
		m.add("VX100", warning, "not root: kernel modules are only looked for, and buses not at all", "sudo vxcanctl doctor")
	case m.inPod:
		m.add("VX100", fine, "a container without capabilities: kernel modules are only looked for, and runtimes not at all", "")
	}
	for _, module := range bus.Modules {
		if rootless && !module.Rootless {
			continue
		}
		loaded := !module.Leaves || m.has("/sys/module/"+module.Name)
		if !loaded && system.foreign { // whose files do not tell
			continue
		}
		m.module(system, module, m.uid == 0 && !m.inPod && loaded)
	}
	var major, minor int
	if _, _ = fmt.Sscanf(system.release, "%d.%d", &major, &minor); major < 6 || major == 6 && minor < 1 {
		m.add("VX111", warning, "Linux "+system.release+" is older than 6.1: programs inside one container do not hear each other", "use a newer kernel")
	} else {
		m.add("VX111", fine, "Linux "+system.release, "")
	}
}

// module tries one kernel module, or only looks for it.
func (m *machine) module(s system, module bus.Module, tried bool) {
	l, what, remedy := fine, "module "+module.Name, ""
	missing := func(why string) {
		l, what, remedy = failure, what+" "+why, kernelRemedy(s, module)
		if others, _ := filepath.Glob(filepath.Join(m.root, "lib/modules/*")); s.foreign && len(others) > 0 && m.read("/proc/modules") != "" {
			remedy = "reboot: the modules of the running kernel are not on the disk any more"
		}
		if module.For != "" {
			l, what = warning, what+", which "+module.For+" needs"
		}
	}
	var err error
	if tried {
		err = m.try(module)
	}
	switch {
	case errors.Is(err, bus.ErrNoKernelSupport):
		missing("(" + module.Config + ") cannot be used")
	case err != nil:
		l, what = warning, what+" could not be tried: "+config.OneLine(err)
	case tried:
	case m.onDisk(s, module.Name):
		what += " is there"
	default:
		missing("(" + module.Config + ") is not there")
	}
	i := slices.IndexFunc(codes[:], func(c code) bool { return c.title == "kernel module "+module.Name })
	m.add(codes[i].code, l, what, remedy)
}

// onDisk reports whether a kernel has a module, built in or as a file.
func (m *machine) onDisk(s system, name string) bool {
	under := strings.ReplaceAll(name, "-", "_")
	if m.has("/sys/module/" + under) {
		return true
	}
	file := regexp.MustCompile(`(?m)/` + strings.ReplaceAll(regexp.QuoteMeta(under), "_", "[-_]") + `\.ko[.:\n]`)
	for _, list := range []string{"modules.dep", "modules.builtin"} {
		if file.MatchString(m.read("/lib/modules/"+s.release+"/"+list) + "\n") {
			return true
		}
	}
	return false
}

// backlog compares the queue for bursts with the largest bus.
func (m *machine) backlog(buses []bus.BusStatus) {
	now, err := strconv.Atoi(strings.TrimSpace(m.read("/proc/sys/net/core/netdev_max_backlog")))
	if err != nil { // a netns that is not the first one
		return
	}
	largest := 2 // the first bus will have as many
	for _, s := range buses {
		largest = max(largest, len(s.Endpoints))
	}
	if what, command := bus.ShortBacklog(now, largest); what != "" {
		m.add("VX112", warning, what, command)
	} else {
		m.add("VX112", fine, fmt.Sprintf("net.core.netdev_max_backlog is %d", now), "")
	}
}
