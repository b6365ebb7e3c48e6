// Command vm runs a command as root on a kernel that has CAN, and passes on its output and exit status.
//
// Where this machine's kernel has CAN and the caller is root, the command runs here, in namespaces of its own: without
// this machine's network, daemons and containers, and with copies of /etc, /opt and /var/lib to write to. Elsewhere vm
// boots User Mode Linux from Debian's package on this machine's own root file system, copy on write: what the command
// writes goes to a scratch disk, never to this machine, but for what it writes to the directory of -keep.
//
//	vm [-suite NAME] [-boot] [-qemu [-cpus N | -icount]] [-disk FILE] [-keep DIR] [-mem MIB] command [argument ...]
//
// With -suite, or VXCAN_VM_SUITE in the environment, it boots another Debian release, with that release's kernel and
// container runtimes. Its root is made on first use and kept in $XDG_CACHE_HOME/vxcan or /var/cache/vxcan; of this
// machine the command sees the outermost Go module that it starts in (or else that directory), and the directory of its
// own file. Static binaries run in all of them.
//
// With -qemu it emulates a PC instead, on any host, and boots Debian's own kernel there: several CPUs, and two CAN
// controllers on one wire (modprobe kvaser_pci), but ten times as slow, and without stdin.
//
// With -icount that PC has one CPU and a clock that counts its instructions: one is a nanosecond, on every host and
// under any load. A wait for this machine would make the clock jump, so the disk of that PC is in its memory; what the
// command needs of the root must be read before it is measured.
//
// The command finds VXCAN_VM in its environment: "booted" on a kernel of its own, else "here".
//
// On a terminal the command has one of its own, with job control, and ^C reaches it. ^] three times within a second ends
// the machine.
//
// It fits `go test -exec`: the working directory, the environment and every path mean the same inside.
package main

import (
	"flag"
	"fmt"
	"os"
)

// exitTrouble is the exit status when vm itself fails, as with env(1) and chroot(1).
const exitTrouble = 125

// startedEnv tells a command that vm runs it, and on which kernel.
const (
	startedEnv    = "VXCAN_VM"
	startedBooted = "booted"
	startedHere   = "here"
)

const usage = `usage: vm [-suite name] [-boot] [-qemu [-cpus n | -icount]] [-disk file] [-keep dir] [-mem MiB] command [argument ...]

Runs a command as root on a kernel that has CAN: on this one, if you are root and it has, and else on one that is booted
for it, in a second or two, on the files of this machine. What it writes there is not kept. The exit status is the
command's, or 125 if vm fails. On a terminal, ^C reaches the command, and ^] three times within a second ends the machine.

	vm sh -c 'ip link add dev vcan0 type vcan && ip link set vcan0 up && ./test.sh'
	go test -exec vm ./...

`

func main() {
	switch {
	case os.Getpid() != 1:
	case os.Getenv(scratchEnv) != "":
		initMain()
	case os.Getenv(startedEnv) == startedHere:
		hereMain()
	}
	var m machine
	flag.StringVar(&m.suite, "suite", os.Getenv("VXCAN_VM_SUITE"), "Debian release to boot, by `name`, instead of this machine's own")
	flag.BoolVar(&m.alwaysBoot, "boot", false, "boot a kernel even where this one has CAN")
	flag.StringVar(&m.disk, "disk", "", "`file` to keep as the machine's disk; the next boot with it is a reboot")
	flag.StringVar(&m.keep, "keep", "", "`directory` to keep, made if it is missing: what the command writes there is on this machine")
	flag.BoolVar(&m.qemu, "qemu", false, "emulate a PC instead of booting User Mode Linux")
	flag.IntVar(&m.cpus, "cpus", 2, "`number` of CPUs of that PC")
	flag.BoolVar(&m.icount, "icount", false, "one CPU for that PC, a clock that counts its instructions as nanoseconds, and its disk in memory")
	flag.IntVar(&m.memMiB, "mem", 2048, "memory of the booted machine in `MiB`")
	flag.Usage = func() {
		fmt.Fprint(flag.CommandLine.Output(), usage)
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() == 0 || m.icount && (!m.qemu || m.disk != "") {
		flag.Usage()
		os.Exit(2)
	}
	status, err := m.run(flag.Args())
	if err != nil {
		fmt.Fprintln(os.Stderr, "vm:", err)
		os.Exit(exitTrouble)
	}
	os.Exit(status)
}
