package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/vxcan/vxcan/pkg/bus"
)

// A user without root has no buses but those in the network namespace that his Podman makes for all his containers.

// rootlessNetns is where Podman notes that namespace, in $XDG_RUNTIME_DIR (libpod/networking_linux.go of Podman 4,
// libnetwork/internal/rootlessnetns of containers/common).
var rootlessNetns = []string{"netns/rootless-netns*", "containers/networks/rootless-netns/rootless-netns"}

const unshare = "podman unshare --rootless-netns"

// hasRootlessNetns reports whether this is a user who has such a namespace, and is not in it.
func hasRootlessNetns() bool {
	_, err := exec.LookPath("podman")
	run := os.Getenv("XDG_RUNTIME_DIR")
	isThere := func(pattern string) bool {
		found, _ := filepath.Glob(filepath.Join(run, pattern))
		return len(found) > 0
	}
	return os.Geteuid() != 0 && err == nil && run != "" && slices.ContainsFunc(rootlessNetns, isThere)
}

// enterRootless runs a command again in that namespace, where its user is root, and does not return. Where there is none it does
// nothing. It is for commands that end at once: Podman passes no signals on.
func enterRootless(cmd *cobra.Command) error {
	if !hasRootlessNetns() {
		return nil
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "vxcanctl: in the network namespace of this user's containers; for the buses of the host: sudo %s%s\n", cmd.CommandPath(), orLent())
	args := append(append(strings.Fields(unshare), self), os.Args[1:]...)
	podman, err := exec.LookPath(args[0])
	if err == nil {
		err = syscall.Exec(podman, args, os.Environ())
	}
	return fmt.Errorf("podman: %w", err)
}

// asRoot is needsRoot for a command that ends at once.
func asRoot(cmd *cobra.Command) error {
	if err := enterRootless(cmd); err != nil {
		return err
	}
	return needsRoot(cmd, os.Geteuid())
}

// toType is a command as this user types it.
func toType(command string) string {
	if !isOfPodman() {
		return command
	}
	return forUser.Replace(command)
}

// isOfPodman reports whether this is a namespace of rootless Podman, which tells so by this variable, and none of another
// container engine.
func isOfPodman() bool { return os.Getenv("_CONTAINERS_USERNS_CONFIGURED") != "" && bus.IsRootless() }

// forUser makes a command of root one of a user, who is root in his namespace only.
var forUser = strings.NewReplacer("sudo podman ", "podman ", "sudo nerdctl ", "nerdctl ", "sudo vxcanctl heal", "vxcanctl heal",
	"sudo vxcanctl status", "vxcanctl status", "sudo ", unshare+" ")
