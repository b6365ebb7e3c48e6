package main

import (
	"errors"
	"fmt"
	"strings"
)

// Buses to a wire: the hub is an end of a vxcan pair, with a transmit queue as a controller has, and the other end is the wire.
// In oneQueue the frames of all members wait together, and in queueEach each member has a queue of its own.
var (
	oneQueue  = physical("wire0", false)
	queueEach = physical("wire1", true)
)

func physical(hub string, fair bool) plugin {
	p := vxcan(hub)
	p.conf = strings.TrimSuffix(p.conf, "}") + fmt.Sprintf(`,"physical":true,"fair-queue":%v}`, fair)
	return p
}

// wire makes the hub of such a bus, and puts a container on it. The stations are the container and the wire.
func (b *bench) wire(name string, p plugin) error {
	id, err := b.netns()
	if err != nil {
		return err
	}
	err = b.on(p.host, func() error {
		err := run("ip", "link", "add", p.host, "mtu", "72", "txqueuelen", "1000", "type", "vxcan", "peer", "name", "can0", "mtu", "72", "netns", id)
		// A vxcan has no queue otherwise. vxcan leaves one alone that somebody has chosen.
		if err == nil && p == oneQueue {
			err = run("tc", "qdisc", "add", "dev", p.host, "root", "pfifo", "limit", "1000")
		}
		return errors.Join(err, run("ip", "link", "set", p.host, "up"), run("ip", "-netns", id, "link", "set", "can0", "up"))
	})
	if err != nil {
		return err
	}
	t, err := b.starOf(name, p, 1)
	t.stations = append(t.stations, station{netnsPath(id), "can0"})
	b.wires = append(b.wires, t)
	return err
}
