package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// The predecessor is the Docker driver that vxcan's users come from. For an attach it starts these processes, in this
// order; Docker itself moves and renames the container end, by netlink. Its gateway rules are a mesh: two a direction,
// classic and FD, to the hub and to every peer.

// predecessorIntoMemory puts the predecessor's programs and their libraries into memory. The machine's root is an overlay:
// what is changed there is copied to its upper layer, which is in memory where instructions are counted. To open a file of
// the lower layer is to ask the host.
func predecessorIntoMemory() error {
	files := []string{"/etc/ld.so.cache"}
	for _, name := range []string{"ip", "cangw"} {
		program, err := exec.LookPath(name)
		if err != nil {
			return err
		}
		out, err := exec.Command("ldd", program).Output()
		if err != nil {
			return fmt.Errorf("ldd %s: %w", program, err)
		}
		files = append(files, program)
		for word := range strings.FieldsSeq(string(out)) {
			if filepath.IsAbs(word) {
				files = append(files, word)
			}
		}
	}
	for _, file := range files {
		info, err := os.Stat(file)
		if err != nil {
			return err
		}
		if err := os.Chmod(file, info.Mode()); err != nil {
			return err
		}
	}
	return nil
}

// mesh makes a predecessor's hub with n endpoints on it.
func (b *bench) mesh(hub string, n int) error {
	err := b.on(hub, func() error {
		return errors.Join(run("ip", "link", "add", "dev", hub, "mtu", "72", "type", "vcan"), run("ip", "link", "set", "up", hub))
	})
	if err != nil {
		return err
	}
	for range n {
		if _, err := b.meshMember(hub); err != nil {
			return err
		}
	}
	return nil
}

// meshMember attaches one more endpoint, which stays, and returns its netns.
func (b *bench) meshMember(hub string) (id string, err error) {
	if id, err = b.netns(); err == nil {
		err = b.on(hub, func() error { return b.meshAttach(hub, id, addRules) })
	}
	return id, err
}

// meshAttach attaches one more endpoint, on its host. add makes its rules: counted as the predecessor does, one process
// each; else in this process, which is quicker.
func (b *bench) meshAttach(hub, id string, add func(pairs [][2]string) error) error {
	b.count++
	host := "pre" + strconv.Itoa(b.count)
	peer := host + "p"
	for _, args := range [][]string{
		{"link", "add", "dev", host, "mtu", "72", "type", "vxcan", "peer", "name", peer, "mtu", "72"},
		{"link", "set", "up", host},
		{"link", "set", peer, "netns", id},
		{"-netns", id, "link", "set", peer, "name", "can0", "up"},
	} {
		if err := run("ip", args...); err != nil {
			return err
		}
	}
	var pairs [][2]string
	for _, other := range append([]string{hub}, b.meshes[hub]...) {
		pairs = append(pairs, [2]string{other, host}, [2]string{host, other})
	}
	if err := add(pairs); err != nil {
		return err
	}
	b.meshes[hub] = append(b.meshes[hub], host)
	return nil
}

func addRulesByProcess(pairs [][2]string) error {
	for _, pair := range pairs {
		for _, flags := range []string{"-e", "-eX"} {
			if err := run("cangw", "-A", "-s", pair[0], "-d", pair[1], flags); err != nil {
				return err
			}
		}
	}
	return nil
}

// predecessor counts one more attach to n endpoints, and takes it away again.
func (b *bench) predecessor(name, hub string, n int) error {
	if got := len(b.meshes[hub]); got != n {
		return fmt.Errorf("%s has %d endpoints, want %d", hub, got, n)
	}
	a, err := b.box(name)
	if err != nil {
		return err
	}
	took, err := b.countOn(hub, func() error { return b.meshAttach(hub, a.id, addRulesByProcess) })
	if err != nil {
		return err
	}
	b.note(name, took)
	host := b.meshes[hub][n]
	b.meshes[hub] = b.meshes[hub][:n]
	return b.on(hub, func() error { return run("ip", "link", "del", host) })
}
