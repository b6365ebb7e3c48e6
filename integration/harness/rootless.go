package harness

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"
	"golang.org/x/sys/unix"
)

// A user without any rights, whose Podman is rootless.
const (
	RootlessUser = "driver"
	rootlessUID  = 4242
	RootlessHome = "/home/" + RootlessUser
)

// RootlessRun is what a login makes for the user, and what goes when he logs out.
var RootlessRun = fmt.Sprint("/run/user/", rootlessUID)

// NewUser makes a user, who logs in. His processes end with the test.
func NewUser(t testing.TB) {
	t.Helper()
	Command(t, "mount", "-t", "tmpfs", "-o", "mode=755,size=1g", "tmpfs", "/home")
	t.Cleanup(func() { Command(t, "umount", "--lazy", "/home") })
	Command(t, "useradd", "--create-home", "--uid", strconv.Itoa(rootlessUID), RootlessUser)
	t.Cleanup(func() { Command(t, "userdel", RootlessUser) })
	LogIn(t)
	t.Cleanup(func() { endUser(t) })
}

// NewRootlessUser makes a user on a host with nothing on it, where rootless runtimes find what systemd makes otherwise.
func NewRootlessUser(t testing.TB) {
	t.Helper()
	FreshHost(t)
	Command(t, "mount", "--make-rshared", "/")
	NewUser(t)
	Command(t, "modprobe", "tun")
	Command(t, "sh", "-c", "mkdir -p /dev/net; test -e /dev/net/tun || mknod /dev/net/tun c 10 200; chmod 666 /dev/net/tun")
	Command(t, "chmod", "u+s", "/usr/bin/newuidmap", "/usr/bin/newgidmap")
}

// NewRootlessPodman makes a user and does what he would: he has our plugin in Podman's directories, makes networks and imports
// an image.
func NewRootlessPodman(t testing.TB, networks ...string) Podman {
	t.Helper()
	NewRootlessUser(t)
	p := Podman{T: t, Backend: "cni", as: AsUserArgs()}
	config, conf := RootlessHome+"/.config", "[engine]\ncgroup_manager=\"cgroupfs\"\ninfra_image=\"localhost/busybox\"\ninfra_command=\"/bin/sleep 100000\"\nevents_logger=\"file\"\n[containers]\nlog_driver=\"k8s-file\"\n[network]\n"
	if HasNetavark() {
		p.Backend = "netavark"
		plugins := RootlessHome + "/plugins"
		Command(t, "install", "-D", "-t", plugins, filepath.Join(BinDir(t), "netavark", "vxcan"))
		conf += fmt.Sprintf("firewall_driver=\"none\"\ndefault_rootless_network_cmd=\"slirp4netns\"\nnetavark_plugin_dirs=[%q]\n", plugins)
	} else {
		Command(t, "install", "-D", "-t", "/opt/cni/bin", filepath.Join(BinDir(t), "vxcan"))
	}
	for _, dir := range []string{config + "/containers", config + "/cni/net.d"} {
		Command(t, "mkdir", "-p", dir)
	}
	Write(t, config+"/containers/containers.conf", conf)
	Write(t, config+"/containers/storage.conf", "[storage]\ndriver=\"vfs\"\n")
	for _, name := range networks {
		if p.Backend == "cni" {
			Command(t, "install", "-m", "644", "-t", config+"/cni/net.d", Repo("conflist/")+podmanNetworks[name].conflist+".conflist")
		}
	}
	Command(t, "chown", "-R", RootlessUser, RootlessHome)
	for _, name := range networks {
		if p.Backend == "netavark" {
			p.Do(append(append([]string{"network", "create", "-d", "vxcan"}, podmanNetworks[name].options...), name)...)
		}
	}
	about := p.Do("info", "--format", "Podman {{.Version.Version}}, {{.Host.OCIRuntime.Name}}, {{.Host.NetworkBackend}}, rootless {{.Host.Security.Rootless}}")
	if t.Log(about); !strings.HasSuffix(about, ", "+p.Backend+", rootless true") {
		t.Fatalf("%s; want the network backend %s, rootless", about, p.Backend)
	}
	image := BusyboxImage(t)
	Command(t, "install", "-o", RootlessUser, image, RootlessHome+"/busybox.tar")
	p.Do("import", "--quiet", "--change", `CMD ["/bin/sleep","100000"]`, RootlessHome+"/busybox.tar", "busybox")
	return p
}

// AsUserArgs is the command that runs another one as the user, with more variables in its environment.
func AsUserArgs(env ...string) []string {
	return append([]string{
		"setpriv", "--reuid", RootlessUser, "--regid", RootlessUser, "--init-groups", "--inh-caps=-all",
		"env", "-u", "CONTAINERS_CONF", "-C", RootlessHome, "HOME=" + RootlessHome, "USER=" + RootlessUser, "XDG_RUNTIME_DIR=" + RootlessRun,
	}, env...)
}

// UserCommand is a command that the user runs.
func UserCommand(args ...string) *exec.Cmd {
	command := append(AsUserArgs(), args...)
	return exec.Command(command[0], command[1:]...)
}

// AsUser runs a command as the user.
func AsUser(t testing.TB, args ...string) string {
	t.Helper()
	command := append(AsUserArgs(), args...)
	return Command(t, command[0], command[1:]...)
}

// TryAsUser is AsUser for what may fail.
func TryAsUser(args ...string) (string, error) {
	command := append(AsUserArgs(), args...)
	return Try(command[0], command[1:]...)
}

// RootlessFile makes a file of the user's, in his home directory.
func RootlessFile(t testing.TB, name, content string) {
	t.Helper()
	path := filepath.Join(RootlessHome, name)
	AsUser(t, "mkdir", "-p", filepath.Dir(path))
	Write(t, path, content)
	Command(t, "chown", RootlessUser, path)
}

// LogIn makes what systemd-logind makes.
func LogIn(t testing.TB) {
	t.Helper()
	Command(t, "install", "-d", "-m", "700", "-o", RootlessUser, RootlessRun)
}

// LogOut ends all processes of the user, and removes his directory below /run, as systemd-logind does. He logs in again.
func LogOut(t testing.TB) {
	t.Helper()
	endUser(t)
	LogIn(t)
}

func endUser(t testing.TB) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); len(userProcesses("")) > 0; time.Sleep(50 * time.Millisecond) {
		for _, pid := range userProcesses("") {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		if time.Now().After(deadline) {
			t.Fatalf("processes of %s do not end: %v", RootlessUser, userProcesses(""))
		}
	}
	Command(t, "sh", "-c", "awk '$2 ~ \"^"+RootlessRun+"/\" { print $2 }' /proc/mounts | xargs -r umount --lazy; rm -rf "+RootlessRun)
}

// userProcesses are those of the user whose command line begins with a text.
func userProcesses(command string) (pids []int) {
	all, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range all {
		var st unix.Stat_t
		line, err := os.ReadFile(dir + "/cmdline")
		if unix.Stat(dir, &st) != nil || st.Uid != rootlessUID || err != nil || !strings.HasPrefix(string(line), command) {
			continue
		}
		if state, _ := os.ReadFile(dir + "/stat"); strings.Contains(string(state), ") Z ") {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(dir)); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// RootlessHost is where a program in the network namespace that plays the user's host sends and hears: the hub.
func (p Podman) RootlessHost(hub string) Station {
	p.T.Helper()
	command := append(AsUserArgs(), "podman", "unshare", "--rootless-netns", "sleep", "123456")
	cmd := exec.Command(command[0], command[1:]...)
	if err := cmd.Start(); err != nil {
		p.T.Fatal(err)
	}
	sleeps := func() []int { return userProcesses("sleep\x00123456") }
	defer func() {
		for _, pid := range sleeps() {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		defer time.AfterFunc(10*time.Second, func() { _ = cmd.Process.Kill() }).Stop() // if it has not come to that
		_ = cmd.Wait()
	}()
	for deadline := time.Now().Add(30 * time.Second); len(sleeps()) == 0; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			p.T.Fatal("podman unshare --rootless-netns does not start")
		}
	}
	netns, err := ns.GetNS(fmt.Sprintf("/proc/%d/ns/net", sleeps()[0]))
	if err != nil {
		p.T.Fatal(err)
	}
	p.T.Cleanup(func() { netns.Close() })
	return Station{"the user's host", netns, hub}
}
