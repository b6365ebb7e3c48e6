package main

import (
	"fmt"
	"os/exec"
	"strconv"
	"time"
)

// The predecessor is the Docker driver that vxcan's users come from. For an attach it starts these processes, in this
// order; Docker itself moves and renames the container end, by netlink. Its gateway rules are a mesh: two a direction,
// classic and FD, to the hub and to every peer.

// mesh makes a predecessor's hub with n endpoints on it.
func (b *bench) mesh(hub string, n int) error {
	if err := run("ip", "link", "add", "dev", hub, "mtu", "72", "type", "vcan"); err != nil {
		return err
	}
	if err := run("ip", "link", "set", "up", hub); err != nil {
		return err
	}
	for range n {
		if _, err := b.meshAttach(hub); err != nil {
			return err
		}
	}
	return nil
}

// meshAttach attaches one more endpoint, whose netns stays, and returns the netns.
func (b *bench) meshAttach(hub string) (id string, err error) {
	if id, err = b.netns(); err != nil {
		return "", err
	}
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
			return "", err
		}
	}
	for _, other := range append([]string{hub}, b.meshes[hub]...) {
		for _, ends := range [][2]string{{other, host}, {host, other}} {
			for _, flags := range []string{"-e", "-eX"} {
				if err := run("cangw", "-A", "-s", ends[0], "-d", ends[1], flags); err != nil {
					return "", err
				}
			}
		}
	}
	b.meshes[hub] = append(b.meshes[hub], host)
	return id, nil
}

// predecessor measures one more attach to n endpoints, and takes it away again.
func (b *bench) predecessor(name, hub string, n int) error {
	if got := len(b.meshes[hub]); got != n {
		return fmt.Errorf("%s has %d endpoints, want %d", hub, got, n)
	}
	start := time.Now()
	id, err := b.meshAttach(hub)
	took := time.Since(start)
	if err != nil {
		return err
	}
	b.note(name, took)
	host := b.meshes[hub][n]
	b.meshes[hub] = b.meshes[hub][:n]
	if out, err := exec.Command("ip", "link", "del", host).CombinedOutput(); err != nil {
		return fmt.Errorf("delete %s: %w: %s", host, err, out)
	}
	return b.dropNetns(id)
}
