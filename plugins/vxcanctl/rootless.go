package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/vxcan/vxcan/pkg/bus"
)

// A user without root has no buses but those in the network namespace that his runtime makes for all his containers. rootlessEntry
// is the way there: a command that runs another one in it, as one types it, and as it is executed.
type rootlessEntry struct {
	typed string
	args  []string
}

const unshare = "podman unshare --rootless-netns"

// rootlessNetns is where Podman notes that namespace, in $XDG_RUNTIME_DIR (libpod/networking_linux.go of Podman 4,
// libnetwork/internal/rootlessnetns of containers/common).
var rootlessNetns = []string{"netns/rootless-netns*", "containers/networks/rootless-netns/rootless-netns"}

// rootlesskitEnv names the directory in which rootlesskit, which makes that namespace for nerdctl, notes it, and wayOfNerdctl is
// the way there by nerdctl's own tool. With --detach-netns, the network namespace is another one than that of the tool.
const rootlesskitEnv = "ROOTLESSKIT_STATE_DIR"

func wayOfNerdctl(dir string) string {
	way := "containerd-rootless-setuptool.sh nsenter --"
	if netns := filepath.Join(dir, "netns"); isFile(netns) {
		way += " nsenter --net=" + netns + " --"
	}
	return way
}

// findRootless finds the way of a user who is not root, and not in that namespace already. Podman's is there while a container is.
func findRootless() (rootlessEntry, bool) {
	run := os.Getenv("XDG_RUNTIME_DIR")
	if os.Geteuid() == 0 || run == "" {
		return rootlessEntry{}, false
	}
	isThere := func(pattern string) bool {
		found, _ := filepath.Glob(filepath.Join(run, pattern))
		return len(found) > 0
	}
	if _, err := exec.LookPath("podman"); err == nil && slices.ContainsFunc(rootlessNetns, isThere) {
		return rootlessEntry{unshare, strings.Fields(unshare)}, true
	}
	dir := filepath.Join(run, "containerd-rootless")
	child, _ := os.ReadFile(filepath.Join(dir, "child_pid"))
	pid := strings.TrimSpace(string(child))
	if !isProcess(pid) {
		return rootlessEntry{}, false
	}
	netns := "/proc/" + pid + "/root" + dir + "/netns" // it is mounted there only
	if !isFile(netns) {
		netns = "/proc/" + pid + "/ns/net"
	}
	return rootlessEntry{wayOfNerdctl(dir), []string{
		"env", rootlesskitEnv + "=" + dir, "nsenter", "--target", pid, "--user", "--preserve-credentials", "--mount", "--net=" + netns, "--",
	}}, true
}

func isFile(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// isProcess reports whether a process of this user has an ID.
func isProcess(pid string) bool {
	_, err := strconv.Atoi(pid)
	if err == nil {
		_, err = os.Readlink("/proc/" + pid + "/ns/user") // of another user's it may not be read
	}
	return err == nil
}

// enterRootless runs a command again in that namespace, where its user is root, and does not return. Where there is none it does
// nothing. It is for commands that end at once: Podman passes no signals on.
func enterRootless(cmd *cobra.Command) error {
	entry, ok := findRootless()
	if !ok {
		return nil
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "vxcanctl: in the network namespace of this user's containers; for the buses of the host: sudo %s%s\n", cmd.CommandPath(), orLent())
	args := append(append(entry.args, self), os.Args[1:]...)
	program, err := exec.LookPath(args[0])
	if err == nil {
		err = syscall.Exec(program, args, os.Environ())
	}
	return fmt.Errorf("%s: %w", args[0], err)
}

// asRoot is needsRoot for a command that enters the namespace by itself, unless it stays until a signal comes.
func asRoot(cmd *cobra.Command, stays bool) error {
	if !stays {
		if err := enterRootless(cmd); err != nil {
			return err
		}
	}
	return needsRoot(cmd, os.Geteuid())
}

// toType is a command as this user types it. In his namespace he is root.
func toType(command string) string {
	way := rootlessWay()
	if way == "" {
		return command
	}
	return strings.NewReplacer("sudo podman ", "podman ", "sudo nerdctl ", "nerdctl ", "sudo vxcanctl heal", "vxcanctl heal",
		"sudo vxcanctl status", "vxcanctl status", "sudo ", way+" ").Replace(command)
}

// rootlessWay is how one types the way into the namespace of a rootless runtime that this is, or "". Both runtimes tell by a variable
// that it is theirs.
func rootlessWay() string {
	dir := os.Getenv(rootlesskitEnv)
	switch {
	case !bus.IsRootless():
		return ""
	case os.Getenv("_CONTAINERS_USERNS_CONFIGURED") != "":
		return unshare
	case dir != "":
		return wayOfNerdctl(dir)
	}
	return ""
}

// isRootlessRuntime reports whether this is such a namespace, and none of another container engine.
func isRootlessRuntime() bool { return rootlessWay() != "" }
