package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// platform is what init finds differently in User Mode Linux and in QEMU.
type platform struct {
	uml         bool
	root, host  string // the machine's root, read-only, and all files of the machine that runs it
	disk        string // the device
	out, errOut string // consoles
	scratch     mount  // of the scratch directory, which data names, where it is wanted
}

// newPlatform tells the two apart, and makes root, host and the scratch directory readable and the disk mountable.
func newPlatform(release string) (platform, error) {
	scratch := os.Getenv(scratchEnv)
	modules, err := filepath.Glob(modulesDir + "/*")
	if err != nil {
		return platform{}, err
	}
	if len(modules) == 0 {
		return platform{
			uml: true, root: "/", host: hostDir, disk: "/dev/ubda", out: "/dev/tty1", errOut: "/dev/tty2",
			scratch: mount{"none", "", "hostfs", 0, scratch},
		}, loadModule(filepath.Join(umlModules, release, "kernel/fs/overlayfs/overlay.ko"))
	}
	for _, file := range modules {
		if err := loadModule(file); err != nil {
			return platform{}, err
		}
	}
	p := platform{root: "/root", host: hostDir, disk: "/dev/vda", out: "/dev/hvc0", errOut: "/dev/hvc1"}
	scratch = filepath.Join(p.host, scratch)
	p.scratch = mount{scratch, "", "", unix.MS_BIND, scratch}
	const options = "trans=virtio,version=9p2000.L,msize=262144,cache="
	return p, errors.Join(
		mount{"devtmpfs", "/dev", "devtmpfs", 0, ""}.do(),
		mount{rootTag, p.root, "9p", unix.MS_RDONLY, options + "loose"}.do(),
		mount{hostTag, p.host, "9p", 0, options + "none"}.do(),
	)
}

func loadModule(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	flags := 0
	if filepath.Ext(path) != ".ko" {
		flags = unix.MODULE_INIT_COMPRESSED_FILE
	}
	if err := unix.FinitModule(int(f.Fd()), "", flags); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("load %s: %w", path, err)
	}
	return nil
}
