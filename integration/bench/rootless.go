package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// rootless counts the same on a bus in a user namespace, where filters are in the place of gateway rules. This program runs
// itself there as root of the namespace.
func (b *bench) rootless() error {
	if os.Getenv(rootlessEnv) != "" {
		return b.inUserNamespace()
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	root := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}}
	var stdout bytes.Buffer
	cmd := exec.Command(self, "-measure", "rootless", fmt.Sprintf("-quick=%v", b.quick))
	cmd.Env, cmd.Stdout, cmd.Stderr = append(os.Environ(), rootlessEnv+"=1"), &stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNET | unix.CLONE_NEWNS, UidMappings: root, GidMappings: root,
	}
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("in a user namespace: %w", err)
	}
	r := newResults()
	if err := json.Unmarshal(stdout.Bytes(), &r); err != nil {
		return err
	}
	for name := range r.Samples {
		b.results.Samples["rootless "+name], b.results.Waits["rootless "+name] = r.Samples[name], r.Waits[name]
	}
	return nil
}

const rootlessEnv = "VXCAN_BENCH_ROOTLESS"

func (b *bench) inUserNamespace() error {
	rounds := 7 // no more than of what they are compared with
	if b.quick {
		rounds = 5
	}
	// Namespaces of this one's own, beside those that are there by the same names.
	if err := errors.Join(os.MkdirAll("/run/netns", 0o755), unix.Mount("tmpfs", "/run/netns", "tmpfs", 0, "")); err != nil {
		return fmt.Errorf("mount /run/netns: %w", err)
	}
	many, err := b.star(31)
	if err != nil {
		return err
	}
	two, err := b.star(2)
	if err != nil {
		return err
	}
	if err := b.pair("", empty); err != nil { // warm
		return err
	}
	clear(b.results.Samples)
	clear(b.results.Waits)
	for range rounds {
		if err := b.pair("", empty); err != nil {
			return err
		}
		if err := b.send("delivery, star", delivery, many); err != nil {
			return err
		}
		if err := b.send("passage, star", passage, two); err != nil {
			return err
		}
	}
	return nil
}

// dumped counts what a delivered frame takes beside a vxcanctl dump, which reads none of them meanwhile.
func (b *bench) dumped(t topology, hub string, rounds int) error {
	dump := exec.Command(pluginDir+"/vxcanctl", "dump", hub, "-o", "json")
	out, err := dump.StdoutPipe()
	if err != nil {
		return err
	}
	if err := b.on(hub, dump.Start); err != nil {
		return err
	}
	defer func() {
		_ = dump.Process.Kill()
		_ = dump.Wait()
	}()
	// It listens once it has shown a frame.
	for listens := false; !listens; {
		if _, err := delivery(t); err != nil {
			return err
		}
		_ = out.(*os.File).SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		n, err := out.Read(make([]byte, 1))
		if listens = n > 0; err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return fmt.Errorf("vxcanctl dump: %w", err)
		}
	}
	if err := dump.Process.Signal(unix.SIGSTOP); err != nil {
		return err
	}
	for range rounds {
		if err := b.send("delivery, star, dump", delivery, t); err != nil {
			return err
		}
	}
	return nil
}
