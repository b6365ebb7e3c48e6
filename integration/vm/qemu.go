package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

const qemuPath = "/usr/bin/qemu-system-x86_64"

// qemuModules is what init needs before it can reach modprobe, dependencies aside.
var qemuModules = []string{"virtio_pci", "virtio_blk", "virtio_console", "9pnet_virtio", "9p", "crc32c_generic", "ext4", "overlay"}

// Names in the initramfs, and its mount tags.
const (
	modulesDir = "/modules" // in the order to load them
	rootTag    = "root"     // the machine's root
	hostTag    = "host"     // all of this machine's files
)

// qemuCommand is the command that boots Debian's own kernel on an emulated PC, with two CAN controllers on one wire.
func (m *machine) qemuCommand(root *rootFS, scratch, disk string) ([]string, error) {
	kernels, err := filepath.Glob(filepath.Join(root.dir, "boot/vmlinuz-*"))
	if err != nil {
		return nil, err
	}
	if len(kernels) == 0 {
		return nil, errors.New("no kernel for QEMU in /boot: apt-get install qemu-system-x86 linux-image-amd64")
	}
	release := strings.TrimPrefix(filepath.Base(kernels[len(kernels)-1]), "vmlinuz-")
	initramfs := filepath.Join(scratch, "initramfs")
	if err := writeInitramfs(initramfs, filepath.Join(root.dir, "lib/modules", release)); err != nil {
		return nil, fmt.Errorf("make initramfs: %w", err)
	}
	// The kernel checks its timer during a loop of instructions. On a busy machine the emulated timer is late, and the kernel
	// panics ("IO-APIC + timer doesn't work").
	options := "console=ttyS0 panic=-1 no_timer_check "
	cpu := []string{"-accel", "tcg,thread=multi", "-cpu", "max", "-smp", fmt.Sprint(m.cpus)}
	if m.icount {
		// Without sleep, the clock goes on to the next timer as soon as the CPU has nothing to do. A string instruction
		// counts once for each element: a kernel that believes bytes to be fast (ERMS) would clear a page in 4096, and
		// most of what a new process takes would be that.
		cpu = []string{
			"-accel", "tcg,thread=single", "-cpu", "max,-erms,-fsrm", "-smp", "1",
			"-icount", "shift=0,sleep=off", "-rtc", "clock=vm",
		}
		// Else it is up to the random addresses of a process how many huge pages it gets, which are cleared for it.
		options += "transparent_hugepage=madvise "
	}
	return append([]string{
		qemuPath, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-machine", "q35", "-m", fmt.Sprint(m.memMiB),
		"-kernel", "/boot/vmlinuz-" + release, "-initrd", root.hostPath(initramfs),
		"-append", options + scratchEnv + "=" + scratch,
		"-virtfs", "local,path=/,readonly=on,multidevs=remap,security_model=none,mount_tag=" + rootTag,
		"-virtfs", "local,path=" + root.hostPath("/") + ",multidevs=remap,security_model=none,mount_tag=" + hostTag,
		"-drive", "if=virtio,format=raw,cache=unsafe,file=" + root.hostPath(disk),
		// The kernel's own words go to its log, the command's to our stdout and stderr (see pipeOutput), unmixed.
		"-chardev", "file,id=log,append=on,path=" + root.hostPath(filepath.Join(scratch, logFile)), "-serial", "chardev:log",
		"-chardev", "file,id=out,path=/proc/self/fd/3", "-chardev", "file,id=err,path=/proc/self/fd/4",
		"-device", "virtio-serial-pci", "-device", "virtconsole,chardev=out", "-device", "virtconsole,chardev=err",
		"-object", "can-bus,id=wire",
		"-device", "kvaser_pci,canbus=wire", "-device", "kvaser_pci,canbus=wire",
	}, cpu...), nil
}

// writeInitramfs makes a root that holds this program and modules: a cpio archive in the format that the kernel's
// Documentation/driver-api/early-userspace/buffer-format.rst calls newc.
func writeInitramfs(path, modules string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	files, err := moduleFiles(modules, qemuModules)
	if err != nil {
		return err
	}
	var archive bytes.Buffer
	ino := 0
	add := func(name string, mode int, data []byte) {
		ino++
		fmt.Fprintf(&archive, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00",
			ino, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name)+1, 0, name)
		pad(&archive)
		archive.Write(data)
		pad(&archive)
	}
	program, err := os.ReadFile(self)
	if err != nil {
		return err
	}
	add("init", 0o100755, program)
	add("dev", 0o040755, nil)
	add(modulesDir[1:], 0o040755, nil)
	for i, file := range files {
		data, err := os.ReadFile(filepath.Join(modules, file))
		if err != nil {
			return err
		}
		add(fmt.Sprintf("%s/%03d-%s", modulesDir[1:], i, filepath.Base(file)), 0o100644, data)
	}
	add("TRAILER!!!", 0, nil)
	return os.WriteFile(path, archive.Bytes(), 0o600)
}

func pad(b *bytes.Buffer) {
	for b.Len()%4 != 0 {
		b.WriteByte(0)
	}
}

// moduleFiles lists the files of some modules, dependencies first. A module that modules.dep lacks is built in.
func moduleFiles(dir string, names []string) ([]string, error) {
	f, err := os.Open(filepath.Join(dir, "modules.dep"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	files := make(map[string][]string) // by module name: its dependencies, the deepest last, after its own file
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		file, dependencies, _ := strings.Cut(lines.Text(), ":")
		name, _, _ := strings.Cut(filepath.Base(file), ".ko")
		files[name] = append([]string{file}, strings.Fields(dependencies)...)
	}
	var ordered []string
	seen := make(map[string]bool)
	for _, name := range names {
		for i := len(files[name]) - 1; i >= 0; i-- {
			if file := files[name][i]; !seen[file] {
				seen[file] = true
				ordered = append(ordered, file)
			}
		}
	}
	return ordered, lines.Err()
}
