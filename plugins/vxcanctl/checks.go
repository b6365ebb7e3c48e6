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

// machine is a host that doctor looks at.
type machine struct {
	root string // of its files
	uid  int
	host looker
	// inPod reports that this is a container without the capabilities of root, as in the DaemonSet: it sees the kernel and the
	// buses of its host, but neither its programs nor its files.
	inPod bool
	// What is nil is as on this host.
	rootless func() bool                               // as bus.IsRootless
	try      func(m bus.Module) error                  // as Module.Try
	enabled  func(unit string) (state string, ok bool) // as systemctl is-enabled
	podmans  func() string                             // as podman --version
	release  string                                    // as uname -r
}

func (m *machine) read(path string) string {
	content, _ := os.ReadFile(filepath.Join(m.root, path))
	return string(content)
}

func (m *machine) has(path string) bool {
	_, err := os.Stat(filepath.Join(m.root, path))
	return err == nil
}

// installed reports whether there is a program.
func (m *machine) installed(program string) bool {
	return slices.ContainsFunc([]string{"/usr/local/sbin/", "/usr/local/bin/", "/usr/sbin/", "/usr/bin/", "/sbin/", "/bin/"},
		func(dir string) bool { return m.has(dir + program) })
}

func (m *machine) system() system {
	s := system{release: m.release}
	if s.release == "" {
		var name unix.Utsname
		if unix.Uname(&name) == nil {
			s.release = unix.ByteSliceToString(name.Release[:])
		}
	}
	s.foreign = !m.has("/lib/modules/" + s.release)
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

// unit is what systemctl is-enabled says of a unit. ok reports whether there is such a unit.
func (m *machine) unit(name string) (state string, ok bool) {
	if m.enabled != nil {
		return m.enabled(name)
	}
	out, _ := exec.Command("systemctl", "is-enabled", "--", name).Output() // its status is 1 for a unit that is not enabled
	state = strings.TrimSpace(string(out))
	return state, state != "" && state != "not-found"
}

// kernel tries the kernel.
func (m *machine) kernel() (all []finding) {
	add := func(code string, l level, what, remedy string) {
		all = append(all, finding{code, "kernel", l, what, remedy})
	}
	system, rootless := m.system(), m.isRootless()
	switch {
	case rootless:
		add("VX110", fine, "user namespace: the buses of this user, without controllers", "")
	case m.uid != 0:
		add("VX100", warning, "not root: kernel modules are only looked for, and buses not at all", "sudo vxcanctl doctor")
	case m.inPod:
		add("VX100", fine, "a container without capabilities: kernel modules are only looked for, and runtimes not at all", "")
	}
	for _, module := range bus.Modules {
		if rootless && !module.Rootless {
			continue
		}
		loaded := !module.Leaves || m.has("/sys/module/"+module.Name)
		if !loaded && system.foreign { // whose files do not tell
			continue
		}
		f := m.module(system, module, m.uid == 0 && !m.inPod && loaded)
		i := slices.IndexFunc(codes[:], func(c code) bool { return c.title == "kernel module "+module.Name })
		f.Code = codes[i].code
		all = append(all, f)
	}
	if major, minor := kernelVersion(system.release); major < 6 || major == 6 && minor < 1 {
		add("VX111", warning, "Linux "+system.release+" is older than 6.1: programs inside one container do not hear each other", "use a newer kernel")
	} else {
		add("VX111", fine, "Linux "+system.release, "")
	}
	return all
}

func (m *machine) isRootless() bool {
	if m.rootless != nil {
		return m.rootless()
	}
	return bus.IsRootless()
}

func kernelVersion(release string) (major, minor int) {
	_, _ = fmt.Sscanf(release, "%d.%d", &major, &minor)
	return major, minor
}

// module tries one kernel module, or only looks for it.
func (m *machine) module(s system, module bus.Module, tried bool) finding {
	f := finding{Category: "kernel", Level: fine, What: "module " + module.Name}
	missing := func(why string) {
		f.Level, f.What, f.Remedy = failure, f.What+" "+why, kernelRemedy(s, module)
		if others, _ := filepath.Glob(filepath.Join(m.root, "lib/modules/*")); s.foreign && len(others) > 0 && m.read("/proc/modules") != "" {
			f.Remedy = "reboot: the modules of the running kernel are not on the disk any more"
		}
		if module.For != "" {
			f.Level, f.What = warning, f.What+", which "+module.For+" needs"
		}
	}
	if !tried {
		if !m.onDisk(s, module.Name) {
			missing("(" + module.Config + ") is not there")
		} else {
			f.What += " is there"
		}
		return f
	}
	try := bus.Module.Try
	if m.try != nil {
		try = m.try
	}
	switch err := try(module); {
	case errors.Is(err, bus.ErrNoKernelSupport):
		missing("(" + module.Config + ") cannot be used")
	case err != nil:
		f.Level, f.What = warning, f.What+" could not be tried: "+config.OneLine(err)
	}
	return f
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
func (m *machine) backlog(buses []bus.BusStatus) []finding {
	now, err := strconv.Atoi(strings.TrimSpace(m.read("/proc/sys/net/core/netdev_max_backlog")))
	if err != nil { // a netns that is not the first one
		return nil
	}
	largest := 2 // the first bus will have as many
	for _, s := range buses {
		largest = max(largest, len(s.Endpoints))
	}
	f := finding{"VX112", "kernel", fine, fmt.Sprintf("net.core.netdev_max_backlog is %d", now), ""}
	if what, command := bus.ShortBacklog(now, largest); what != "" {
		f.Level, f.What, f.Remedy = warning, what, command
	}
	return []finding{f}
}
