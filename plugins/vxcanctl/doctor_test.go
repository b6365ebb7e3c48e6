package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vxcan/vxcan/pkg/bus"
	"github.com/vxcan/vxcan/pkg/config"
)

// soundHost has everything, so that each case can take one thing away.
func soundHost(t *testing.T) *machine {
	t.Helper()
	m := &machine{
		root: t.TempDir(), release: "6.12.0-1-amd64",
		host:     fakeLooker{all: twoBuses()[1:]},
		rootless: func() bool { return false },
		try:      func(bus.Module) error { return nil },
		unit:     func(string) (string, bool) { return "enabled", true },
		podmans:  func() string { return "" },
	}
	m.write(t, "etc/os-release", "ID=debian\nVERSION_ID=\"13\"\n")
	m.write(t, "proc/sys/net/core/netdev_max_backlog", "65536\n")
	m.write(t, "lib/modules/6.12.0-1-amd64/modules.dep", "kernel/drivers/net/can/vcan.ko.xz:\nkernel/drivers/net/can/vxcan.ko.xz:\nkernel/net/can/can-gw.ko.xz: kernel/net/can/can.ko.xz\n"+
		"kernel/net/sched/sch_ingress.ko.xz:\nkernel/net/sched/cls_bpf.ko.xz:\nkernel/net/sched/act_gact.ko.xz:\nkernel/net/sched/act_skbedit.ko.xz:\nkernel/net/sched/act_mirred.ko.xz:\nkernel/net/sched/sch_drr.ko.xz:\nkernel/net/sched/cls_fw.ko.xz:\nkernel/net/ipv4/ip_gre.ko.xz:\nkernel/net/ipv6/ip6_gre.ko.xz:\nkernel/net/netfilter/nf_tables.ko.xz:\nkernel/net/netfilter/nft_ct.ko.xz:\n")
	m.write(t, "lib/modules/6.12.0-1-amd64/modules.builtin", "kernel/net/sched/act_police.ko\n")
	for _, program := range []string{"usr/bin/podman", "usr/bin/newuidmap", "usr/sbin/dockerd", "usr/bin/containerd", "usr/bin/crictl", "usr/local/bin/nerdctl", "usr/local/bin/k3s"} {
		m.write(t, program, "")
	}
	for _, plugin := range []string{"usr/local/libexec/netavark/vxcan", "usr/lib/podman/netavark", "opt/cni/bin/vxcan", "opt/cni/bin/bridge", "var/lib/rancher/k3s/data/cni/vxcan"} {
		m.write(t, plugin, "")
	}
	return m
}

func (m *machine) write(t *testing.T, path, content string) {
	t.Helper()
	path = filepath.Join(m.root, path)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o644)); err != nil {
		t.Fatal(err)
	}
}

// device is a network device with an rps_cpus for each of its receive queues.
func (m *machine) device(t *testing.T, name, alias string, rpsCPUs ...string) {
	t.Helper()
	dir := "sys/class/net/" + name
	m.write(t, dir+"/ifalias", alias)
	m.write(t, dir+"/queues/tx-0/xps_cpus", "3\n")
	for i, mask := range rpsCPUs {
		m.write(t, fmt.Sprintf("%s/queues/rx-%d/rps_cpus", dir, i), mask)
	}
}

func (m *machine) remove(t *testing.T, paths ...string) {
	t.Helper()
	for _, path := range paths {
		if err := os.RemoveAll(filepath.Join(m.root, path)); err != nil {
			t.Fatal(err)
		}
	}
}

// lacking makes the kernel lack modules.
func lacking(modules ...string) func(bus.Module) error {
	return func(m bus.Module) error {
		if slices.Contains(modules, m.Name) {
			return fmt.Errorf("%w: module %s", bus.ErrNoKernelSupport, m.Name)
		}
		return nil
	}
}

// TestDoctor breaks a host in every way that doctor knows of.
func TestDoctor(t *testing.T) {
	longTX, longRX := config.BackplaneNames("can-left-wheel")
	for name, test := range map[string]struct {
		damage func(m *machine)
		want   []string // level, code, words and remedy of what is not ok
	}{
		"sound":              {func(m *machine) {}, nil},
		"no vcan on Debian":  {func(m *machine) { m.try = lacking("vcan") }, []string{"failure VX101 module vcan (CONFIG_CAN_VCAN) cannot be used: sudo apt install --reinstall linux-image-$(uname -r)"}},
		"no queues":          {func(m *machine) { m.try = lacking("sch_drr", "cls_fw") }, []string{"warning VX113 module sch_drr (CONFIG_NET_SCH_DRR) cannot be used, which a queue of each container on a controller needs", "warning VX114 module cls_fw"}},
		"no rate":            {func(m *machine) { m.try = lacking("act_police") }, []string{"warning VX109 module act_police (CONFIG_NET_ACT_POLICE) cannot be used, which the key rate needs: sudo apt"}},
		"not permitted":      {func(m *machine) { m.try = func(bus.Module) error { return bus.ErrPermission } }, slices.Repeat([]string{"warning VX1"}, len(bus.Modules)-2)},
		"no root":            {func(m *machine) { m.uid, m.try = 1000, nil }, []string{"warning VX100 not root"}},
		"no root, no module": {func(m *machine) { m.uid, m.try = 1000, nil; m.remove(t, "lib/modules/6.12.0-1-amd64/modules.builtin") }, []string{"warning VX100", "warning VX109 module act_police (CONFIG_NET_ACT_POLICE) is not there"}},
		"rootless": {func(m *machine) {
			m.rootless, m.try = func() bool { return true }, lacking("can-gw", "sch_drr", "cls_fw", "ip_gre", "ip6_gre", "nf_tables", "nft_ct")
		}, nil},
		"a user": {func(m *machine) {
			m.uid, m.try = 1000, nil
			m.write(t, "usr/bin/pasta", "")
			m.write(t, "proc/net/route", "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU\neth0 00000000 0101A8C0 0003 0 0 0 00000000 0\n")
		}, []string{"warning VX100"}},
		"a user, all wrong": {func(m *machine) {
			m.uid, m.try = 1000, nil
			m.remove(t, "usr/bin/newuidmap")
			m.write(t, "usr/bin/pasta", "")
			m.write(t, "proc/sys/user/max_user_namespaces", "0\n")
			m.write(t, "proc/sys/kernel/unprivileged_userns_clone", "0\n")
			m.write(t, "proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1\n")
			m.write(t, "proc/net/route", "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU\neth0 0001A8C0 00000000 0001 0 0 0 00FFFFFF 0\n")
		}, []string{
			"warning VX100",
			"warning VX209 rootless: this host lets no user make a user namespace: sudo sysctl -w user.max_user_namespaces=10000",
			"warning VX209 rootless: this host lets no user make a user namespace: sudo sysctl -w kernel.unprivileged_userns_clone=1",
			"warning VX209 rootless: AppArmor lets no program without a profile use a user namespace: sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
			"warning VX209 rootless: newuidmap is missing, so that a container has one user ID only: install the package uidmap",
			"warning VX209 rootless: this host has no route, without which pasta lets Podman start no container on a network: install slirp4netns, and write",
		}},
		"a user, with slirp4netns and Ubuntu's profile": {func(m *machine) {
			m.uid, m.try = 1000, nil
			m.write(t, "usr/bin/pasta", "")
			m.write(t, "etc/apparmor.d/podman", "")
			m.write(t, "proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1\n")
			m.write(t, "etc/containers/containers.conf", "[network]\ndefault_rootless_network_cmd = \"slirp4netns\"\n")
		}, []string{"warning VX100"}},
		"no tunnels": {func(m *machine) {
			m.try = lacking("ip_gre", "ip6_gre")
			m.write(t, "sys/module/ip_gre/refcnt", "0")
			m.write(t, "sys/module/ip6_gre/refcnt", "0")
		}, []string{"warning VX115 module ip_gre (CONFIG_NET_IPGRE) cannot be used, which the key hosts needs: sudo apt", "warning VX116 module ip6_gre"}},
		"no nftables": {func(m *machine) { m.try = lacking("nf_tables", "nft_ct") }, []string{
			"warning VX117 module nf_tables (CONFIG_NF_TABLES_INET) cannot be used, which the key hosts (but for unprotected) needs", "warning VX118 module nft_ct",
		}},
		"trunk that drops, unprotected": {func(m *machine) {
			m.host = fakeLooker{all: []bus.BusStatus{{Hub: "vcan0", Kind: "vcan", Up: true, MTU: 72, Unprotected: true, Trunks: []bus.TrunkStatus{
				{Local: "10.9.0.1", Peer: "10.9.0.2", Device: "vg1", Up: true, Heard: 5}, {Local: "10.9.0.1", Peer: "10.9.0.3", Device: "vg2", Up: true, Lost: 7},
			}}}}
		}, []string{"warning VX305 bus vcan0: 7 frames to host 10.9.0.3 were dropped on this host since the trunk was made: look at the way to it: ip -s link show vg2; ip route get 10.9.0.3", "warning VX306 bus vcan0 spans other hosts unprotected: any container of these hosts may"}},
		"old kernel": {func(m *machine) { m.release = "5.10.0-1-amd64" }, []string{"warning VX111 Linux 5.10.0-1-amd64 is older than 6.1"}},
		"kernel upgraded": {func(m *machine) {
			m.release, m.try = "6.12.1-1-amd64", lacking("vxcan")
			m.write(t, "proc/modules", "ext4 1 0")
		}, []string{"failure VX102 module vxcan (CONFIG_CAN_VXCAN) cannot be used: reboot"}},
		"foreign kernel": {func(m *machine) { m.release, m.try = "6.18.0-fc", lacking("vxcan") }, []string{"failure VX102 module vxcan (CONFIG_CAN_VXCAN) cannot be used: use a kernel with CONFIG_CAN_VXCAN"}},
		"short backlog":  {func(m *machine) { m.write(t, "proc/sys/net/core/netdev_max_backlog", "1000") }, []string{"warning VX112 net.core.netdev_max_backlog is 1000: a burst may lose frames on a bus with 2 containers: sudo sysctl -w net.core.netdev_max_backlog=65536"}},
		"in a pod": {func(m *machine) {
			m.inPod, m.try = true, nil
			m.remove(t, "usr", "lib/modules/6.12.0-1-amd64/modules.builtin")
		}, []string{"warning VX109 module act_police (CONFIG_NET_ACT_POLICE) is not there"}},
		"no runtime":      {func(m *machine) { m.remove(t, "usr/bin", "usr/sbin", "usr/local/bin") }, []string{"warning VX200 no container runtime"}},
		"wrong directory": {func(m *machine) { m.remove(t, "usr/local/libexec/netavark/vxcan") }, []string{"failure VX201 podman: netavark plugin vxcan is not in /usr/local/libexec/netavark or /usr/libexec/netavark or /usr/local/lib/netavark or /usr/lib/netavark: sudo make install"}},
		"other directory": {func(m *machine) {
			m.write(t, "etc/containers/containers.conf.d/a.conf", "[network]\nnetavark_plugin_dirs = [\n \"/srv/a\", \"/srv/b\",\n]")
		}, []string{"failure VX201 podman: netavark plugin vxcan is not in /srv/a or /srv/b: sudo mkdir -p /srv/a && sudo ln -sf /usr/local/libexec/netavark/vxcan /srv/a/"}},
		"Podman of Debian 12": {func(m *machine) { m.podmans = func() string { return "podman version 4.3.1\n" } }, []string{"failure VX201 podman: 4.3.1 with netavark knows no network driver but its own: 4.5 is the first: sudo apt install containernetworking-plugins, and write network_backend"}},
		"other backend": {func(m *machine) {
			m.write(t, "etc/containers/containers.conf", "# network_backend = \"netavark\"\nnetwork_backend = \"cni\"")
			m.remove(t, "opt/cni/bin/vxcan")
			m.write(t, "etc/containerd/config.toml", `bin_dir = "/var/lib/rancher/k3s/data/cni"`)
		}, []string{"failure VX202 podman: CNI plugin vxcan is not in /opt/cni/bin or /usr/local/libexec/cni or /usr/libexec/cni or /usr/local/lib/cni or /usr/lib/cni: sudo make install CNI_BIN=/opt/cni/bin",
			"failure VX207 nerdctl: CNI plugin vxcan is not in /opt/cni/bin: sudo make install CNI_BIN=/opt/cni/bin"}},
		"noted backend": {func(m *machine) {
			m.write(t, "var/lib/containers/storage/defaultNetworkBackend", "cni")
			m.remove(t, "usr/local/libexec/netavark/vxcan")
		}, nil},
		"no netavark":     {func(m *machine) { m.remove(t, "usr/lib/podman/netavark", "usr/local/libexec/netavark/vxcan") }, nil},
		"nothing enabled": {func(m *machine) { m.unit = func(string) (string, bool) { return "disabled", true } }, []string{"warning VX203 podman: podman-restart.service is disabled", "warning VX204 docker: vxcan-docker.socket is disabled, so that Docker has no driver vxcan: sudo systemctl enable --now vxcan-docker.socket"}},
		"lent, not enabled": {func(m *machine) {
			m.write(t, "etc/vxcan/lend/vcan0/1000", "send=12345\n")
			m.unit = func(unit string) (string, bool) {
				return map[bool]string{true: "disabled", false: "enabled"}[unit == "vxcan-lend.socket"], true
			}
		}, []string{"warning VX208 refused: ", "warning VX208 buses are lent, and vxcan-lend.socket is disabled, so that nobody gets them: sudo systemctl enable --now vxcan-lend.socket"}},
		"Podman not used": {func(m *machine) {
			m.unit = func(unit string) (string, bool) {
				return map[string]string{"vxcan-docker.socket": "enabled"}[unit], true
			}
			m.host = fakeLooker{}
			m.write(t, "etc/containers/networks/lan.json", `{"name":"lan","driver":"bridge"}`)
			m.write(t, "etc/cni/net.d/canbus0.conflist", `{"plugins":[{"type":"vxcan"}]}`) // of nerdctl
		}, nil},
		"network of Podman": {func(m *machine) {
			m.unit = func(unit string) (string, bool) {
				return map[string]string{"vxcan-docker.socket": "enabled"}[unit], true
			}
			m.host = fakeLooker{}
			m.write(t, "etc/containers/networks/canbus0.json", "{\n     \"driver\": \"vxcan\"}")
		}, []string{"warning VX203 podman: podman-restart.service is "}},
		"network of Podman 4": {func(m *machine) {
			m.unit = func(unit string) (string, bool) {
				return map[string]string{"vxcan-docker.socket": "enabled"}[unit], true
			}
			m.host = fakeLooker{}
			m.remove(t, "usr/lib/podman/netavark", "usr/local/bin/nerdctl", "usr/local/bin/k3s")
			m.write(t, "etc/cni/net.d/canbus0.conflist", `{"plugins":[{"type":"vxcan"}]}`)
		}, []string{"warning VX203 podman: podman-restart.service is "}},
		"no driver": {func(m *machine) {
			m.unit = func(unit string) (string, bool) { return "enabled", unit != "vxcan-docker.socket" }
		}, []string{"failure VX204 docker: the driver vxcan-docker is not installed"}},
		"driver without socket": {func(m *machine) {
			m.unit = func(string) (string, bool) { return "", false }
			m.write(t, "run/docker/plugins/vxcan.sock", "")
		}, nil},
		"containerd's own":     {func(m *machine) { m.write(t, "etc/containerd/config.toml", `bin_dir = "/usr/lib/cni"`) }, []string{"failure VX205 containerd: CNI plugin vxcan is not in /usr/lib/cni: sudo mkdir -p /usr/lib/cni && sudo ln -sf /opt/cni/bin/vxcan /usr/lib/cni/"}},
		"containerd of Docker": {func(m *machine) { m.remove(t, "opt/cni/bin/vxcan", "usr/local/bin/nerdctl", "usr/bin/crictl") }, nil},
		"nerdctl, other directory": {func(m *machine) {
			m.remove(t, "opt/cni", "usr/bin/crictl")
			m.write(t, "usr/lib/cni/bridge", "")
		}, []string{"failure VX207 nerdctl: CNI plugin vxcan is not in /usr/lib/cni: sudo make install CNI_BIN=/usr/lib/cni"}},
		"nerdctl, its directory": {func(m *machine) {
			m.write(t, "etc/nerdctl/nerdctl.toml", `cni_path = "/usr/lib/cni"`)
		}, []string{"failure VX207 nerdctl takes all CNI plugins from /usr/lib/cni, and bridge is in /opt/cni/bin: sudo sed -i 's|^ *cni_path *=.*|cni_path = \"/opt/cni/bin\"|' /etc/nerdctl/nerdctl.toml"}},
		"nerdctl, plugins elsewhere": {func(m *machine) {
			m.remove(t, "opt/cni/bin/bridge")
			m.write(t, "usr/lib/cni/bridge", "")
		}, []string{"failure VX207 nerdctl takes all CNI plugins from /opt/cni/bin, and bridge is in /usr/lib/cni: sudo mkdir -p /etc/nerdctl && echo 'cni_path = \"/usr/lib/cni\"' | sudo tee -a /etc/nerdctl/nerdctl.toml"}},
		"k3s":                  {func(m *machine) { m.remove(t, "var/lib/rancher/k3s/data/cni/vxcan") }, []string{"failure VX206 k3s: CNI plugin vxcan is not in /var/lib/rancher/k3s/data/cni or"}},
		"unreadable bus":       {func(m *machine) { m.host = fakeLooker{err: errors.New("locked")} }, []string{"failure VX300 locked"}},
		"bus-off, short queue": {func(m *machine) { m.host = fakeLooker{all: twoBuses()} }, []string{"failure VX301 bus can-engine with 1 container: controller can-engine (gs_usb) is bus-off: look for", "warning VX302 transmit queue of controller can-engine holds 10 frames, so that bursts lose frames: sudo ip link set can-engine txqueuelen 1000"}},
		"passive": {func(m *machine) {
			all := twoBuses()[:1]
			all[0].Differences, all[0].Controller.State, all[0].Controller.Queue = nil, "error-passive", 1000
			m.host = fakeLooker{all: all}
		}, []string{"warning VX303 controller can-engine is error-passive"}},
		"steering": {func(m *machine) {
			m.device(t, "vcan0", "vxcan hub", "0")
			m.device(t, "vcan0-rx", "vxcan backplane vcan0", "3")
			m.device(t, "vx1", "", "0", "00000001,00000000\n")
			m.device(t, "eth0", "", "3")
			m.device(t, "vcan1-tx", "vxcan backplane vcan1", "3")
		}, []string{"warning VX304 rps_cpus is set on vcan0-rx, vx1 of bus vcan0, not on all of its devices to the same CPU, so that frames of one sender may arrive out of order: " +
			"for dev in vcan0-rx vx1; do echo 0 | sudo tee /sys/class/net/$dev/queues/rx-*/rps_cpus; done"}},
		"steering of a long hub": {func(m *machine) {
			all := twoBuses()[1:]
			all[0].Hub = "can-left-wheel"
			m.host = fakeLooker{all: all}
			for _, name := range []string{"can-left-wheel", longTX, longRX, "vx1", "vx2"} {
				m.device(t, name, "", "f")
			}
		}, []string{"warning VX304 rps_cpus is set on can-left-wheel, " + longRX + ", " + longTX + " and 2 more of bus can-left-wheel, not on all of its devices to the same CPU, so that frames of one sender may arrive out of order: " +
			"for dev in can-left-wheel " + longRX + " " + longTX + " vx1 vx2; do"}},
		"steering of all but one": {func(m *machine) {
			for name, mask := range map[string]string{"vcan0": "1", "vcan0-tx": "1", "vcan0-rx": "1", "vx1": "1", "vx2": "0"} {
				m.device(t, name, "", mask)
			}
		}, []string{"warning VX304 rps_cpus is set on vcan0, vcan0-rx, vcan0-tx and 1 more of bus vcan0, not on all"}},
		"steering to two CPUs": {func(m *machine) {
			for name, mask := range map[string]string{"vcan0": "1", "vcan0-tx": "1", "vcan0-rx": "1", "vx1": "2", "vx2": "1"} {
				m.device(t, name, "", mask)
			}
		}, []string{"warning VX304 rps_cpus is set on vcan0, vcan0-rx, vcan0-tx and 2 more of bus vcan0, not on all"}},
		"steering to one CPU": {func(m *machine) {
			for _, name := range []string{"vcan0", "vcan0-tx", "vcan0-rx", "vx1", "vx2"} {
				m.device(t, name, "", "00000001,00000000\n")
			}
		}, nil},
		"no steering": {func(m *machine) {
			for _, name := range []string{"vcan0", "vcan0-tx", "vcan0-rx", "vx1", "vx2"} {
				m.device(t, name, "", "00000000,00000000\n", "0\n")
			}
		}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			m := soundHost(t)
			test.damage(m)
			all := slices.DeleteFunc(examine(t.Context(), m), func(f finding) bool { return f.Level == fine })
			var got []string
			for _, f := range all {
				got = append(got, fmt.Sprintf("%s %s %s: %s", f.Level, f.Code, f.What, f.Remedy))
			}
			if !slices.EqualFunc(got, test.want, strings.HasPrefix) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(test.want, "\n"))
			}
			for _, f := range all {
				if !slices.ContainsFunc(codes[:], func(c code) bool { return c.code == f.Code }) {
					t.Errorf("%s has no explanation", f.Code)
				}
			}
		})
	}
}

// TestCodes: numbers rise, and each module has one.
func TestCodes(t *testing.T) {
	for i, c := range codes[1:] {
		if c.code <= codes[i].code {
			t.Errorf("%s comes after %s", c.code, codes[i].code)
		}
	}
	for _, m := range bus.Modules {
		if !slices.ContainsFunc(codes[:], func(c code) bool { return c.title == "kernel module "+m.Name }) {
			t.Errorf("%s has no code", m.Name)
		}
	}
}

// TestDoctorExit: 0, 1 for a failure, with --strict also for a warning, and every format.
func TestDoctorExit(t *testing.T) {
	sound, warned, failing := soundHost(t), soundHost(t), soundHost(t)
	warned.uid, failing.try = 1000, lacking("vxcan")
	for _, test := range []struct {
		m     *machine
		args  string
		fails bool
		words string
	}{
		{sound, "", false, "kernel\n  ok   module vcan\n"},
		{sound, "--strict", false, "buses\n  ok   bus vcan0 with 2 containers\n"},
		{sound, "-o short", false, ""},
		{warned, "", false, "  warn not root"},
		{warned, "--strict", true, "  warn not root"},
		{failing, "", true, "  FAIL module vxcan (CONFIG_CAN_VXCAN) cannot be used [VX102]\n       sudo apt install"},
		{failing, "-o short", true, "kernel\n  FAIL module vxcan"},
		{failing, "-o json", true, "{\n  \"version\": 1,\n  \"findings\": [\n    {\n      \"code\": \"VX101\",\n      \"category\": \"kernel\",\n      \"level\": \"ok\","},
		{failing, "--explain vx112", false, "VX112, queue for bursts\nA frame waits"},
		{failing, "--explain VX999", true, ""},
		{failing, "-o yaml", true, ""},
	} {
		var out bytes.Buffer
		cmd := newDoctor(test.m)
		cmd.SetArgs(strings.Fields(test.args))
		cmd.SetOut(&out)
		cmd.SetErr(io.Discard)
		if err := cmd.Execute(); (err != nil) != test.fails || !strings.Contains(out.String(), test.words) || test.words == "" && out.Len() > 0 && !test.fails {
			t.Errorf("%s: %v\n%s", test.args, err, &out)
		}
	}
}

// TestReadmeKernels: the table of kernels in README.md has a row for each system that doctor has a remedy for, and the rest are
// told the options of a kernel.
func TestReadmeKernels(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	configs := []string{"CONFIG_CAN", "CONFIG_CAN_RAW", "CONFIG_NET_CLS_ACT"}
	for _, m := range bus.Modules {
		configs = append(configs, m.Config)
	}
	var rows []string
	for _, row := range [][2]string{
		{"Debian 12 and 13; Ubuntu from 25.10", "in the kernel packages"},
		{"Debian *cloud* kernels", "none: `sudo apt install linux-image-$(dpkg --print-architecture)`, reboot"},
		{"Ubuntu up to 25.04", "`can-gw` is there, `vcan` and `vxcan` are not: `sudo apt install linux-modules-extra-$(uname -r)`"},
		{"Ubuntu *azure* kernels", "none: `sudo apt install linux-generic`, boot that kernel"},
		{"Raspberry Pi OS", "`vxcan` only in kernels from September 2026 on: `sudo apt full-upgrade`, reboot; or build the module"},
		{"Fedora", "`sudo dnf install kernel-modules kernel-modules-extra`"},
		{"WSL2", "`can-gw`, from 6.18 on `vcan`, never `vxcan`: build a kernel with CONFIG_CAN_VCAN and CONFIG_CAN_VXCAN, or take [vm](integration/vm/README.md) in a container"},
		{"Docker Desktop", "none: use a virtual machine with Debian or Ubuntu"},
		{"Yocto, Buildroot", strings.Join(configs, ", ")},
	} {
		rows = append(rows, fmt.Sprintf("| %s | %s |\n", row[0], row[1]))
	}
	if table := strings.Join(rows, ""); !strings.Contains(string(readme), table) {
		t.Errorf("README.md lacks this table:\n%s", table)
	}
}

func TestKernelRemedy(t *testing.T) {
	for want, s := range map[string]system{
		"--reinstall":         {id: "debian", version: "13", release: "6.12.0-1-amd64"},
		"dpkg":                {id: "debian", version: "12", release: "6.1.0-1-cloud-amd64"},
		"modules-extra":       {id: "ubuntu", like: "debian", version: "24.04", release: "6.8.0-1-generic"},
		"linux-generic":       {id: "ubuntu", like: "debian", version: "24.04", release: "6.8.0-1-azure"},
		"full-upgrade":        {id: "debian", version: "12", release: "6.12.0+rpt-rpi-v8"},
		"dnf":                 {id: "fedora", version: "43", release: "6.17.0-1.fc43.x86_64"},
		"WSL2":                {id: "ubuntu", version: "24.04", release: "6.6.0-microsoft-standard-WSL2"},
		"virtual machine":     {id: "alpine", version: "3.20", release: "6.10.0-linuxkit"},
		"CONFIG_CAN_VCAN":     {id: "poky", version: "5.0", release: "6.6.0-yocto-standard"},
		"image-$(uname -r)":   {id: "ubuntu", like: "debian", version: "26.04", release: "7.0.0-1-generic"},
		"install --reinstall": {id: "linuxmint", like: "ubuntu debian", version: "23", release: "6.14.0-1-generic"},
	} {
		if got := kernelRemedy(s, bus.Modules[0]); !strings.Contains(got, want) {
			t.Errorf("%+v: %s, want %s", s, got, want)
		}
	}
}
