package integration

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// newNetavarkPodman is newPodman for what only its newer network backend can do. Podman 4 may be without it, and then
// there is nothing to test (false); that is no skip, which says that something is missing here.
func newNetavarkPodman(t testing.TB, networks ...string) (podman, bool) {
	t.Helper()
	if hasNetavark() {
		return newPodman(t, networks...), true
	}
	version := strings.TrimSpace(command(t, "podman", "--version"))
	if !strings.HasPrefix(version, "podman version 4.") {
		t.Fatalf("%s without netavark: apt-get install netavark", version)
	}
	t.Logf("nothing to test: %s with the CNI backend", version)
	return podman{}, false
}

// TestPodmanNetwork: a network is a command and nothing more, says what it is, and leaves no endpoint when it goes. Its
// containers leave it and come back while they run.
func TestPodmanNetwork(t *testing.T) {
	freshHost(t)
	p, ok := newNetavarkPodman(t)
	if !ok {
		return
	}
	p.do("network", "create", "-d", "vxcan", "plain")
	p.do("network", "create", "-d", "vxcan", "--label", "line=3", "-o", "hub=vcan3", "-o", "mtu=16", "--interface-name", "body", "full")
	p.do("network", "create", "-d", "vxcan", "-o", "hub=vcan5", "-o", "interface=can%d", "numbered")
	if got := p.do("network", "inspect", "--format", "{{.Options.interface}}", "numbered"); got != "can%d" {
		t.Errorf("inspect: interface %s, want it as written", got)
	}
	p.do("network", "rm", "numbered")
	var networks []struct {
		Name, Driver     string
		DNSEnabled       bool              `json:"dns_enabled"`
		NetworkInterface string            `json:"network_interface"`
		Options, Labels  map[string]string // what netavark gets and what users look for
		IPAMOptions      map[string]string `json:"ipam_options"`
		Subnets          []any
	}
	if err := json.Unmarshal([]byte(p.do("network", "inspect", "plain", "full")), &networks); err != nil || len(networks) != 2 {
		t.Fatalf("%v, %v", networks, err)
	}
	plain, full := networks[0], networks[1]
	if o := plain.Options; plain.Driver != "vxcan" || plain.DNSEnabled || plain.IPAMOptions["driver"] != "none" || plain.Subnets != nil ||
		len(o) != 2 || o["hub"] != "vcan0" || o["interface"] != "can0" {
		t.Errorf("inspect: %+v", plain)
	}
	if o := full.Options; full.Labels["line"] != "3" || full.NetworkInterface != "body" ||
		len(o) != 3 || o["hub"] != "vcan3" || o["mtu"] != "16" || o["interface"] != "body" {
		t.Errorf("inspect: %+v", full)
	}

	p.run("a", "--network", "plain")
	p.run("b", "--network", "plain", "--network", "full:interface_name=can9")
	host := station{"host", nil, "vcan0"}
	all := []station{host, p.station("a", "can0"), p.station("b", "can0")}
	expectExactlyOnce(t, all, 50, true)
	expectExactlyOnce(t, []station{{"host", nil, "vcan3"}, p.station("b", "can9")}, 50, false)

	p.do("network", "disconnect", "plain", "b")
	if got := onBus(t, "vcan0"); len(got) != 1 {
		t.Errorf("endpoints after one of two disconnected: %v", got)
	}
	expectExactlyOnce(t, []station{host, p.station("a", "can0")}, 5, true)
	p.do("network", "connect", "plain", "b")
	p.do("network", "connect", "full", "a") // where it gets the network's name
	expectExactlyOnce(t, all, 50, true)
	expectExactlyOnce(t, []station{{"host", nil, "vcan3"}, p.station("b", "can9"), p.station("a", "body")}, 50, false)

	// Podman knows b's first interface as eth0, and after a reload as can0; it is the same one.
	p.do("network", "reload", "--all")
	p.do("network", "reload", "a")
	p.do("network", "disconnect", "plain", "a")
	if got := onBus(t, "vcan0"); len(got) != 1 {
		t.Errorf("endpoints after a reload and a disconnect: %v", got)
	}
	p.do("network", "connect", "plain", "a")
	expectExactlyOnce(t, all, 5, true)

	// A second network with the same name is refused. Podman has noted it nevertheless, and cannot start the container until
	// one of the two is disconnected: which one a restart names depends on which one Podman attaches first.
	p.do("network", "create", "-d", "vxcan", "-o", "hub=vcan4", "same")
	const cure = "podman network disconnect same a"
	_, err := try("podman", "network", "connect", "same", "a")
	expectOneLine(t, err, "Error: ", cure)
	_, err = try("podman", "restart", "a")
	if err == nil || !strings.Contains(err.Error(), "podman network disconnect ") {
		t.Errorf("restart after a connect that failed: %v", err)
	}
	t.Log(err)
	command(t, "sh", "-c", cure)
	p.do("start", "a")
	expectExactlyOnce(t, []station{host, p.station("a", "can0"), p.station("b", "can0")}, 5, true)
	p.do("network", "rm", "same")

	if _, err := try("podman", "network", "rm", "plain"); err == nil {
		t.Error("a network in use was removed")
	}
	p.do("network", "rm", "--force", "--time", "0", "plain", "full")
	if ends := hostEnds(t); len(ends) > 0 {
		t.Errorf("%v endpoints left behind", ends)
	}
	if got := p.do("network", "ls", "--quiet", "--filter", "driver=vxcan"); got != "" {
		t.Errorf("networks left behind: %s", got)
	}
}

// onBus names the host ends on a hub's bus by what they say of themselves.
func onBus(t testing.TB, hub string) []string {
	t.Helper()
	var names []string
	for _, l := range links(t) {
		if strings.HasPrefix(l.Alias, "vxcan "+hub+" ") {
			names = append(names, l.Name)
		}
	}
	return names
}

// TestPodmanPod: the containers of a pod share one interface. A container in a user namespace of its own has one too.
func TestPodmanPod(t *testing.T) {
	freshHost(t)
	p, ok := newNetavarkPodman(t, "canbus0")
	if !ok {
		return
	}
	p.do("pod", "create", "--name", "pod", "--network", "canbus0", "--infra-image", "busybox", "--infra-command", "/bin/sleep 100000")
	p.run("one", "--pod", "pod")
	p.run("two", "--pod", "pod")
	p.run("mapped", "--network", "canbus0", "--uidmap", "0:100000:65536", "--gidmap", "0:100000:65536")
	expectExactlyOnce(t, []station{{"host", nil, "vcan0"}, p.station("one", "can0"), p.station("mapped", "can0")}, 50, true)
	if ends := hostEnds(t); len(ends) != 2 {
		t.Errorf("%v endpoints of a pod of two and a container, want 2", ends)
	}
	p.do("pod", "rm", "--force", "--time", "0", "pod")
	p.do("rm", "--force", "mapped")
	if ends := hostEnds(t); len(ends) > 0 {
		t.Errorf("%v endpoints left behind", ends)
	}
}

// TestPodmanWrongUse: what the user sees: one line that says what to do, and nothing is left of it.
func TestPodmanWrongUse(t *testing.T) {
	freshHost(t)
	p, ok := newNetavarkPodman(t, "canbus0", "canbus1")
	if !ok {
		return
	}
	p.do("network", "create", "-d", "vxcan", "-o", "hub=can9", "-o", "physical=true", "controller")
	p.do("network", "create", "-d", "vxcan", "-o", "hub=lo", "loopback")
	p.run("neighbour", "--network", "canbus0", "--network", "canbus1")
	before := slices.Concat(canLinks(t), wiring(t))

	create := []string{"network", "create", "-d", "vxcan", "wrong"}
	run := []string{"run", "--rm", "--name", "wrong", "busybox"}
	for _, c := range []struct {
		command []string
		more    string
		words   []string
	}{
		{create, "-o hubb=vcan1", []string{`"hubb"`, "hub, physical, interface, mtu, send, receive"}},
		{create, "-o mtu=1500", []string{"1500", "16", "72"}},
		{create, "-o physical", []string{"true or false"}},
		{create, "-o interface=can/0", []string{`"interface"`, `"/"`}},
		{create, "-o hub=vcan5678901234567", []string{`"hub"`, "15"}},
		{create, "--interface-name can1 -o interface=can2", []string{"can1", "can2"}},
		{create, "-o hub=engine -o interface=can%d", []string{"can%d", `"engine" ends in none`, "name the interface"}},
		{create, "-o hub=engine --interface-name can%d", []string{"can%d", `"engine" ends in none`}},
		{create, "--subnet 10.9.0.0/24", []string{"no IP", "--subnet"}},
		{create, "--ipv6", []string{"no IP", "--ipv6"}},
		{create, "--dns 1.1.1.1", []string{"no IP", "--dns"}},
		{create, "--ipam-driver dhcp", []string{"no IP", "--ipam-driver dhcp"}},
		{run, "--network controller", []string{"can9", "no such device", "driver"}},
		{run, "--network loopback", []string{"lo", "not a CAN device"}},
		{run, "--network canbus0 --ip 10.9.0.2", []string{"no IP", "--ip"}},
		{run, "--network canbus0 --mac-address 02:00:00:00:00:01", []string{"no MAC", "--mac-address"}},
		{run, "--network canbus0:vlan=3", []string{"vlan", "interface_name"}},
		{run, "--network canbus0 --network canbus1:interface_name=can0", []string{"can0", "already", ":interface_name=", "podman network disconnect"}},
	} {
		args := slices.Insert(slices.Clone(c.command), len(c.command)-1, strings.Fields(c.more)...)
		t.Run(c.command[0]+" "+c.more, func(t *testing.T) {
			_, err := try("podman", args...)
			if err == nil {
				t.Fatal("accepted")
			}
			_, said, _ := strings.Cut(err.Error(), "\n") // behind the command
			if said = strings.TrimSpace(said); !strings.HasPrefix(said, "Error: ") || strings.Contains(said, "\n") {
				t.Errorf("not one line: %s", said)
			}
			for _, w := range c.words {
				if !strings.Contains(said, w) {
					t.Errorf("lacks %q", w)
				}
			}
			t.Log(said)
			if after := slices.Concat(canLinks(t), wiring(t)); !slices.Equal(after, before) {
				t.Errorf("devices, rules and filters: %v, before: %v", after, before)
			}
		})
	}
	if got := p.do("ps", "--all", "--format", "{{.Names}}"); got != "neighbour" {
		t.Errorf("containers: %s", got)
	}
	if _, err := try("podman", "network", "exists", "wrong"); err == nil {
		t.Error("a network that was refused exists")
	}
	if netns, _ := filepath.Glob("/run/netns/netns-*"); len(netns) != 1 {
		t.Errorf("namespaces of one container: %v", netns)
	}
}

// TestPodmanQuadlet: the files of conflist/podman pass Podman's generator, and what it makes of them works.
func TestPodmanQuadlet(t *testing.T) {
	freshHost(t)
	p, ok := newNetavarkPodman(t)
	if !ok {
		return
	}
	units, err := filepath.Abs("../conflist/podman")
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("QUADLET_UNIT_DIRS", units)
	out, err := try("/usr/libexec/podman/quadlet", "-dryrun")
	if err != nil {
		t.Fatal(err)
	}
	p.do("load", "--quiet", "-i", imageArchive(t, lateImage, "candump"))
	started := 0
	for line := range strings.Lines(out) {
		if start, ok := strings.CutPrefix(strings.TrimSpace(line), "ExecStart="); ok {
			started++
			// As systemd would; and these two options need one.
			start = strings.NewReplacer("%t", "/run", "%N", "engine", "--cgroups=split", "", "--sdnotify=conmon", "").Replace(start)
			t.Log(start)
			command(t, "sh", "-c", start)
		}
	}
	if started != 3 || !strings.Contains(out, "canbus0-network.service") {
		t.Fatalf("%d commands in\n%s", started, out)
	}
	name := p.do("ps", "--format", "{{.Names}}")
	p.run("other", "--network", "canbus0", "--network", "canbus1")
	expectExactlyOnce(t, []station{{"host", nil, "vcan0"}, p.station(name, "can0"), p.station("other", "can0")}, 50, true)
	expectExactlyOnce(t, []station{{"host", nil, "vcan1"}, p.station("other", "can1")}, 5, true)
	p.do("rm", "--force", "--time", "0", name, "other")
	p.do("network", "rm", "canbus0", "canbus1")
	if files, _ := os.ReadDir("/var/lib/containers/networks"); len(files) > 1 { // a lock file
		t.Errorf("left behind: %v", files)
	}
}
