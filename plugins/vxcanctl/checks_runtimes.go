package main

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/vxcan/vxcan/pkg/bus"
	"github.com/vxcan/vxcan/pkg/config"
	"github.com/vxcan/vxcan/pkg/lend"
)

// runtimes looks at each runtime that is installed.
func (m *machine) runtimes(buses []bus.BusStatus) {
	if m.inPod {
		return
	}
	before := len(m.found)
	if m.installed("podman") {
		m.podman(buses)
	}
	if isRootlessRuntime() { // the others are root's
		return
	}
	if m.uid != 0 {
		m.ofUser()
	}
	if m.installed("dockerd") {
		m.docker()
	}
	m.lending()
	nerdctl := m.installed("nerdctl")
	if m.installed("containerd") && (m.installed("kubelet") || m.installed("crictl") || !nerdctl && !m.installed("dockerd")) {
		conf := m.read("/etc/containerd/config.toml")
		m.plugin("VX205", "containerd: CNI plugin", stringsOf(conf, "bin_dirs", stringsOf(conf, "bin_dir", "/opt/cni/bin")...), "CNI_BIN")
	}
	if nerdctl {
		m.nerdctl()
	}
	if m.installed("k3s") {
		m.plugin("VX206", "k3s: CNI plugin", []string{"/var/lib/rancher/k3s/data/cni", "/var/lib/rancher/k3s/data/current/bin"}, "CNI_BIN")
	}
	if len(m.found) == before {
		m.add("VX200", warning, "no container runtime was found", "install Podman, Docker or containerd")
	}
}

// ofUser looks for what a user's own runtime needs of the host.
func (m *machine) ofUser() {
	add := func(what, remedy string) { m.add("VX209", warning, "rootless: "+what, remedy) }
	podman := m.installed("podman")
	if !podman && !m.installed("rootlesskit") {
		return
	}
	for _, file := range []string{"user/max_user_namespaces", "kernel/unprivileged_userns_clone"} {
		if strings.TrimSpace(m.read("/proc/sys/"+file)) == "0" {
			add("this host lets no user make a user namespace", "sudo sysctl -w "+strings.Replace(file, "/", ".", 1)+map[bool]string{true: "=10000", false: "=1"}[file[0] == 'u'])
		}
	}
	// Ubuntu's profile for Podman lets it.
	if strings.TrimSpace(m.read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")) == "1" && (!podman || !m.has("/etc/apparmor.d/podman")) {
		add("AppArmor lets no program without a profile use a user namespace", "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0")
	}
	if !m.installed("newuidmap") {
		add("newuidmap is missing, so that a container has one user ID only", "install the package uidmap (Debian, Ubuntu) or shadow-utils")
	}
	const line = `default_rootless_network_cmd = "slirp4netns"`
	set := stringsOf(m.containersConf(), "default_rootless_network_cmd")
	if podman && m.installed("pasta") && !slices.Contains(set, "slirp4netns") && !m.hasRoute() {
		add("this host has no route, without which pasta lets Podman start no container on a network", "install slirp4netns, and write below [network] in ~/.config/containers/containers.conf: "+line)
	}
}

// hasRoute reports whether there is a default route, as /proc/net has it for IPv4 and IPv6.
func (m *machine) hasRoute() bool {
	for line := range strings.Lines(m.read("/proc/net/route")) {
		if fields := strings.Fields(line); len(fields) > 7 && fields[1] == "00000000" && fields[7] == "00000000" {
			return true
		}
	}
	for line := range strings.Lines(m.read("/proc/net/ipv6_route")) {
		if fields := strings.Fields(line); len(fields) > 9 && fields[1] == "00" && fields[9] != "lo" && strings.Trim(fields[0], "0") == "" {
			return true
		}
	}
	return false
}

// plugin looks for vxcan in directories of which a runtime takes any. variable is what make install calls the first one.
func (m *machine) plugin(code, what string, dirs []string, variable string) {
	for _, dir := range dirs {
		if m.has(dir + "/vxcan") {
			m.add(code, fine, what+" "+dir+"/vxcan", "")
			return
		}
	}
	wanted, elsewhere := dirs[max(slices.IndexFunc(dirs, m.has), 0)], netavarkDirs
	remedy := "sudo make install, or install the package vxcan"
	if variable != "" {
		elsewhere = cniDirs
		remedy = "sudo make install " + variable + "=" + wanted
	}
	for _, dir := range elsewhere {
		if m.has(dir + "/vxcan") {
			if remedy = "sudo ln -sf " + dir + "/vxcan " + wanted + "/"; !m.has(wanted) { // a copy would stay behind at an upgrade
				remedy = "sudo mkdir -p " + wanted + " && " + remedy
			}
		}
	}
	m.add(code, failure, what+" vxcan is not in "+strings.Join(dirs, " or "), remedy)
}

var (
	netavarkDirs = []string{"/usr/local/libexec/netavark", "/usr/libexec/netavark", "/usr/local/lib/netavark", "/usr/lib/netavark"}
	cniDirs      = []string{"/opt/cni/bin", "/usr/local/libexec/cni", "/usr/libexec/cni", "/usr/local/lib/cni", "/usr/lib/cni"}
)

func (m *machine) podman(buses []bus.BusStatus) {
	conf := m.containersConf()
	backend := m.podmanBackend(conf)
	if backend == "cni" {
		m.plugin("VX202", "podman: CNI plugin", stringsOf(conf, "cni_plugin_dirs", cniDirs...), "CNI_BIN")
	} else if old := m.oldPodman(); old != "" {
		m.add("VX201", failure, "podman: "+old+" with netavark knows no network driver but its own: 4.5 is the first",
			`sudo apt install containernetworking-plugins, and write network_backend = "cni" below [network] in /etc/containers/containers.conf`)
	} else {
		m.plugin("VX201", "podman: netavark plugin", stringsOf(conf, "netavark_plugin_dirs", netavarkDirs...), "")
	}
	if state, ok := m.unit("podman-restart.service"); ok && !isRootlessRuntime() && state != "enabled" && m.usesPodman(buses, conf, backend) {
		m.add("VX203", warning, "podman: podman-restart.service is "+state+", so that --restart starts no container after a reboot",
			"sudo systemctl enable podman-restart.service")
	}
}

// usesPodman reports whether Podman has a container on a bus, or a network of vxcan. A network of CNI is that of any runtime:
// it counts where there is no other one.
func (m *machine) usesPodman(buses []bus.BusStatus, conf, backend string) bool {
	for _, s := range buses {
		if slices.ContainsFunc(s.Endpoints, func(e bus.EndpointStatus) bool { return runtimeOf(e) == "podman" }) {
			return true
		}
	}
	dir := "/etc/containers/networks"
	if backend == "cni" {
		if dir = "/etc/cni/net.d"; m.installed("nerdctl") || m.installed("kubelet") || m.installed("k3s") {
			return false
		}
	}
	dir = cmp.Or(stringsOf(conf, "network_config_dir", dir)[0], dir)
	files, _ := filepath.Glob(filepath.Join(m.root, dir, "*"))
	return slices.ContainsFunc(files, func(path string) bool {
		content, _ := os.ReadFile(path)
		return ourNetwork.Match(content)
	})
}

// ourNetwork is in the file of a network of vxcan, of netavark or CNI.
var ourNetwork = regexp.MustCompile(`"(driver|type)":\s*"vxcan"`)

// containersConf is containers.conf and what is in its directories, in the order in which Podman reads them.
func (m *machine) containersConf() (text string) {
	paths := []string{"/usr/share/containers/containers.conf", "/etc/containers/containers.conf"}
	for _, dir := range []string{"/usr/share/containers/containers.conf.d", "/etc/containers/containers.conf.d"} {
		more, _ := filepath.Glob(filepath.Join(m.root, dir, "*.conf"))
		for _, path := range more {
			paths = append(paths, strings.TrimPrefix(path, filepath.Clean(m.root)))
		}
	}
	if isRootlessRuntime() || m.uid != 0 {
		paths = append(paths, filepath.Join(os.Getenv("HOME"), ".config/containers/containers.conf"))
	}
	for _, path := range paths {
		text += m.read(path) + "\n"
	}
	return text
}

// podmanBackend is netavark or cni: as configured, or as Podman wrote down when it was first started, or what is there.
func (m *machine) podmanBackend(conf string) string {
	there := "cni"
	if m.has("/usr/lib/podman/netavark") || m.has("/usr/libexec/podman/netavark") {
		there = "netavark"
	}
	return cmp.Or(stringsOf(conf, "network_backend", "")[0], strings.TrimSpace(m.read("/var/lib/containers/storage/defaultNetworkBackend")), there)
}

// oldPodman is the version of a Podman whose netavark takes no driver of others; "" for a newer one.
func (m *machine) oldPodman() string {
	if found := regexp.MustCompile(`version (4\.[0-4]\.\S*)`).FindStringSubmatch(m.podmans()); found != nil {
		return found[1]
	}
	return ""
}

// stringsOf are the strings that a TOML text says last of a key, of whatever table: one, or an array; otherwise if it says none.
func stringsOf(text, key string, otherwise ...string) (values []string) {
	found := regexp.MustCompile(`(?m)^\s*`+key+`\s*=\s*(\[[^\]]*\]|["'][^"'\n]*["'])`).FindAllStringSubmatch(text, -1)
	if len(found) > 0 {
		for _, quoted := range regexp.MustCompile(`["']([^"'\n]*)["']`).FindAllStringSubmatch(found[len(found)-1][1], -1) {
			values = append(values, quoted[1])
		}
	}
	if values == nil {
		return otherwise
	}
	return values
}

func (m *machine) docker() {
	const unit = "vxcan-docker.socket"
	switch state, ok := m.unit(unit); {
	case ok && state == "enabled":
		m.add("VX204", fine, "docker: "+unit+" is enabled", "")
	case m.has("/run/docker/plugins/vxcan.sock"):
		m.add("VX204", fine, "docker: the driver is there (/run/docker/plugins/vxcan.sock)", "")
	case !ok && m.uid != 0: // /run/docker is for root alone
		m.add("VX204", warning, "docker: there is no unit "+unit+", and without root no other sign of the driver can be seen", "sudo vxcanctl doctor")
	case !ok:
		m.add("VX204", failure, "docker: the driver vxcan-docker is not installed", "sudo make install")
	default:
		m.add("VX204", warning, "docker: "+unit+" is "+state+", so that Docker has no driver vxcan", "sudo systemctl enable --now "+unit)
	}
}

// lending looks at what is lent, if anything is.
func (m *machine) lending() {
	if m.rootless() { // where root's files are nobody's
		return
	}
	const unit = "vxcan-lend.socket"
	consents, err := lend.Consents{Dir: filepath.Join(m.root, lend.ConsentsDir)}.List()
	if err != nil {
		m.add("VX208", warning, "what is lent cannot be read: "+config.OneLine(err), "")
	}
	for _, c := range consents {
		if c.Err != nil {
			m.add("VX208", warning, plain(config.OneLine(c.Err)), "sudo vxcanctl lend")
		}
	}
	switch state, ok := m.unit(unit); {
	case len(consents) == 0:
	case !ok:
		m.add("VX208", failure, "buses are lent, and there is no unit "+unit, "sudo make install")
	case state != "enabled":
		m.add("VX208", warning, "buses are lent, and "+unit+" is "+state+", so that nobody gets them", "sudo systemctl enable --now "+unit)
	default:
		m.add("VX208", fine, unit+" is enabled", "")
	}
}

const nerdctlConf = "/etc/nerdctl/nerdctl.toml"

// nerdctl looks where nerdctl does: it takes all plugins from one directory, and if none is configured, from the first
// that there is. It makes its own network of bridge before it starts any container.
func (m *machine) nerdctl() {
	dirs := stringsOf(m.read(nerdctlConf), "cni_path")
	configured := len(dirs) > 0
	if !configured {
		dirs = nerdctlDirs[max(slices.IndexFunc(nerdctlDirs, m.has), 0):][:1]
	}
	if i := slices.IndexFunc(nerdctlDirs, func(dir string) bool { return m.has(dir + "/bridge") }); i >= 0 && !m.has(dirs[0]+"/bridge") {
		remedy := fmt.Sprintf(`sudo mkdir -p /etc/nerdctl && echo 'cni_path = "%s"' | sudo tee -a %s`, nerdctlDirs[i], nerdctlConf)
		if configured { // a second line of this key, and nerdctl would not start
			remedy = fmt.Sprintf(`sudo sed -i 's|^ *cni_path *=.*|cni_path = "%s"|' %s`, nerdctlDirs[i], nerdctlConf)
		}
		m.add("VX207", failure, "nerdctl takes all CNI plugins from "+dirs[0]+", and bridge is in "+nerdctlDirs[i], remedy)
	} else {
		m.plugin("VX207", "nerdctl: CNI plugin", dirs, "CNI_BIN")
	}
}

// nerdctlDirs are cniDirs in the order of nerdctl.
var nerdctlDirs = []string{"/opt/cni/bin", "/usr/local/libexec/cni", "/usr/local/lib/cni", "/usr/libexec/cni", "/usr/lib/cni"}
