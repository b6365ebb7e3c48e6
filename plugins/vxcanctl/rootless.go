package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/spf13/cobra"
)

// A user without root has no buses but those in the network namespace that his Podman makes for all his containers.

// rootlessNetns is where Podman notes that namespace, in $XDG_RUNTIME_DIR (libpod/networking_linux.go of Podman 4,
// libnetwork/internal/rootlessnetns of containers/common).
var rootlessNetns = []string{"netns/rootless-netns*", "containers/networks/rootless-netns/rootless-netns"}

// enterRootless runs the command again in that namespace, where its user is root, and does not return. Where there is none it does
// nothing.
func enterRootless(cmd *cobra.Command, _ []string) error {
	podman, err := exec.LookPath("podman")
	run := os.Getenv("XDG_RUNTIME_DIR")
	isThere := func(pattern string) bool {
		found, _ := filepath.Glob(filepath.Join(run, pattern))
		return len(found) > 0
	}
	if os.Geteuid() == 0 || err != nil || run == "" || cmd.Name() == "generate" || !slices.ContainsFunc(rootlessNetns, isThere) {
		return nil
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "vxcanctl: in the network namespace of this user's containers; for the buses of the host: sudo vxcanctl %s\n", cmd.Name())
	args := append([]string{podman, "unshare", "--rootless-netns", self}, os.Args[1:]...)
	return fmt.Errorf("%s: %w", podman, syscall.Exec(podman, args, os.Environ()))
}
