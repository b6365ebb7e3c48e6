package podman

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vxcan/vxcan/integration/harness"
)

// TestPodmanNetwork: a network is a command and nothing more, says what it is, and leaves no endpoint when it goes. Its
// containers leave it and come back while they run.
func TestPodmanNetwork(t *testing.T) {
	harness.FreshHost(t)
	p, ok := harness.NewNetavarkPodman(t)
	if !ok {
		return
	}
	p.Do("network", "create", "-d", "vxcan", "plain")
	p.Do("network", "create", "-d", "vxcan", "--label", "line=3", "-o", "hub=vcan3", "-o", "mtu=16", "--interface-name", "body", "full")
	p.Do("network", "create", "-d", "vxcan", "-o", "hub=vcan5", "-o", "interface=can%d", "numbered")
	if got := p.Do("network", "inspect", "--format", "{{.Options.interface}}", "numbered"); got != "can%d" {
		t.Errorf("inspect: interface %s, want it as written", got)
	}
	p.Do("network", "rm", "numbered")
	var networks []struct {
		Name, Driver     string
		DNSEnabled       bool              `json:"dns_enabled"`
		NetworkInterface string            `json:"network_interface"`
		Options, Labels  map[string]string // what netavark gets and what users look for
		IPAMOptions      map[string]string `json:"ipam_options"`
		Subnets          []any
	}
	if err := json.Unmarshal([]byte(p.Do("network", "inspect", "plain", "full")), &networks); err != nil || len(networks) != 2 {
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

	p.Run("a", "--network", "plain")
	p.Run("b", "--network", "plain", "--network", "full:interface_name=can9")
	host := harness.Host("vcan0")
	all := []harness.Station{host, p.Station("a", "can0"), p.Station("b", "can0")}
	harness.ExpectExactlyOnce(t, all, 50, true)
	harness.ExpectExactlyOnce(t, []harness.Station{harness.Host("vcan3"), p.Station("b", "can9")}, 50, false)

	p.Do("network", "disconnect", "plain", "b")
	if got := onBus(t, "vcan0"); len(got) != 1 {
		t.Errorf("endpoints after one of two disconnected: %v", got)
	}
	harness.ExpectExactlyOnce(t, []harness.Station{host, p.Station("a", "can0")}, 5, true)
	p.Do("network", "connect", "plain", "b")
	p.Do("network", "connect", "full", "a") // where it gets the network's name
	harness.ExpectExactlyOnce(t, all, 50, true)
	harness.ExpectExactlyOnce(t, []harness.Station{harness.Host("vcan3"), p.Station("b", "can9"), p.Station("a", "body")}, 50, false)

	// Podman knows b's first interface as eth0, and after a reload as can0; it is the same one.
	p.Do("network", "reload", "--all")
	p.Do("network", "reload", "a")
	p.Do("network", "disconnect", "plain", "a")
	if got := onBus(t, "vcan0"); len(got) != 1 {
		t.Errorf("endpoints after a reload and a disconnect: %v", got)
	}
	p.Do("network", "connect", "plain", "a")
	harness.ExpectExactlyOnce(t, all, 5, true)

	// A second network with the same name is refused. Podman has noted it nevertheless, and cannot start the container until
	// one of the two is disconnected: which one a restart names depends on which one Podman attaches first.
	p.Do("network", "create", "-d", "vxcan", "-o", "hub=vcan4", "same")
	const cure = "podman network disconnect same a"
	_, err := harness.Try("podman", "network", "connect", "same", "a")
	harness.ExpectOneLine(t, err, "Error: ", cure)
	_, err = harness.Try("podman", "restart", "a")
	if err == nil || !strings.Contains(err.Error(), "podman network disconnect ") {
		t.Errorf("restart after a connect that failed: %v", err)
	}
	t.Log(err)
	harness.Command(t, "sh", "-c", cure)
	p.Do("start", "a")
	harness.ExpectExactlyOnce(t, []harness.Station{host, p.Station("a", "can0"), p.Station("b", "can0")}, 5, true)
	p.Do("network", "rm", "same")

	if _, err := harness.Try("podman", "network", "rm", "plain"); err == nil {
		t.Error("a network in use was removed")
	}
	p.Do("network", "rm", "--force", "--time", "0", "plain", "full")
	if ends := harness.HostEnds(t); len(ends) > 0 {
		t.Errorf("%v endpoints left behind", ends)
	}
	if got := p.Do("network", "ls", "--quiet", "--filter", "driver=vxcan"); got != "" {
		t.Errorf("networks left behind: %s", got)
	}
}

// onBus names the host ends on a hub's bus by what they say of themselves.
func onBus(t testing.TB, hub string) []string {
	t.Helper()
	var names []string
	for _, l := range harness.Links(t) {
		if strings.HasPrefix(l.Alias, "vxcan "+hub+" ") {
			names = append(names, l.Name)
		}
	}
	return names
}

// TestPodmanPod: the containers of a pod share one interface. A container in a user namespace of its own has one too.
func TestPodmanPod(t *testing.T) {
	harness.FreshHost(t)
	p, ok := harness.NewNetavarkPodman(t, "canbus0")
	if !ok {
		return
	}
	p.Do("pod", "create", "--name", "pod", "--network", "canbus0", "--infra-image", "busybox", "--infra-command", "/bin/sleep 100000")
	p.Run("one", "--pod", "pod")
	p.Run("two", "--pod", "pod")
	p.Run("mapped", "--network", "canbus0", "--uidmap", "0:100000:65536", "--gidmap", "0:100000:65536")
	harness.ExpectExactlyOnce(t, []harness.Station{harness.Host("vcan0"), p.Station("one", "can0"), p.Station("mapped", "can0")}, 50, true)
	if ends := harness.HostEnds(t); len(ends) != 2 {
		t.Errorf("%v endpoints of a pod of two and a container, want 2", ends)
	}
	p.Do("pod", "rm", "--force", "--time", "0", "pod")
	p.Do("rm", "--force", "mapped")
	if ends := harness.HostEnds(t); len(ends) > 0 {
		t.Errorf("%v endpoints left behind", ends)
	}
}

// TestPodmanWrongUse: what the user sees: one line that says what to do, and nothing is left of it.
func TestPodmanWrongUse(t *testing.T) {
	harness.FreshHost(t)
	p, ok := harness.NewNetavarkPodman(t, "canbus0", "canbus1")
	if !ok {
		return
	}
	p.Do("network", "create", "-d", "vxcan", "-o", "hub=can9", "-o", "physical=true", "controller")
	p.Do("network", "create", "-d", "vxcan", "-o", "hub=lo", "loopback")
	p.Run("neighbour", "--network", "canbus0", "--network", "canbus1")
	before := slices.Concat(harness.CANLinks(t), harness.Wiring(t))

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
			_, err := harness.Try("podman", args...)
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
			if after := slices.Concat(harness.CANLinks(t), harness.Wiring(t)); !slices.Equal(after, before) {
				t.Errorf("devices, rules and filters: %v, before: %v", after, before)
			}
		})
	}
	if got := p.Do("ps", "--all", "--format", "{{.Names}}"); got != "neighbour" {
		t.Errorf("containers: %s", got)
	}
	if _, err := harness.Try("podman", "network", "exists", "wrong"); err == nil {
		t.Error("a network that was refused exists")
	}
	if netns, _ := filepath.Glob("/run/netns/netns-*"); len(netns) != 1 {
		t.Errorf("namespaces of one container: %v", netns)
	}
}

// TestPodmanQuadlet: the files of conflist/podman pass Podman's generator, and what it makes of them works.
func TestPodmanQuadlet(t *testing.T) {
	harness.FreshHost(t)
	p, ok := harness.NewNetavarkPodman(t)
	if !ok {
		return
	}
	units, err := filepath.Abs(harness.Repo("conflist/podman"))
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("QUADLET_UNIT_DIRS", units)
	out, err := harness.Try("/usr/libexec/podman/quadlet", "-dryrun")
	if err != nil {
		t.Fatal(err)
	}
	p.Do("load", "--quiet", "-i", harness.ImageArchive(t, harness.LateImage, "candump"))
	commands := quadletCommands(out, "/run")
	if len(commands) != 3 || !strings.Contains(out, "canbus0-network.service") {
		t.Fatalf("%d commands in\n%s", len(commands), out)
	}
	for _, command := range commands {
		t.Log(command)
		harness.Command(t, "sh", "-c", command)
	}
	name := p.Do("ps", "--format", "{{.Names}}")
	p.Run("other", "--network", "canbus0", "--network", "canbus1")
	harness.ExpectExactlyOnce(t, []harness.Station{harness.Host("vcan0"), p.Station(name, "can0"), p.Station("other", "can0")}, 50, true)
	harness.ExpectExactlyOnce(t, []harness.Station{harness.Host("vcan1"), p.Station("other", "can1")}, 5, true)
	p.Do("rm", "--force", "--time", "0", name, "other")
	p.Do("network", "rm", "canbus0", "canbus1")
	if files, _ := os.ReadDir("/var/lib/containers/networks"); len(files) > 1 { // a lock file
		t.Errorf("left behind: %v", files)
	}
}

// quadletCommands are those of what Podman's generator makes of conflist/podman, as systemd would run them with a directory for
// what is of this boot. Two options need a systemd.
func quadletCommands(units, runtimeDir string) (all []string) {
	words := strings.NewReplacer("%t", runtimeDir, "%N", "engine", "--cgroups=split", "", "--sdnotify=conmon", "")
	for line := range strings.Lines(units) {
		if start, ok := strings.CutPrefix(strings.TrimSpace(line), "ExecStart="); ok {
			all = append(all, words.Replace(start))
		}
	}
	return all
}
