#!/bin/sh
# What the next boot does by itself, on a system that is up: no chroot, no image. build.sh puts this into the scripts that
# run after an installation.
if [ -d /run/systemd/system ] || [ -e /run/openrc/softlevel ]; then
	if modprobe -a vcan vxcan can-gw 2>/dev/null; then
		echo 'vxcan: the kernel modules vcan, vxcan and can-gw are loaded, now and at each boot'
	else
		echo 'vxcan: this kernel lacks a module; sudo vxcanctl doctor says which, and what helps'
	fi
	backlog=/proc/sys/net/core/netdev_max_backlog file=/usr/lib/sysctl.d/40-vxcan.conf
	if [ -w $backlog ] && [ "$(cat $backlog)" -lt 65536 ]; then
		# systemd's knows the order of the files, and one of the administrator may come behind ours.
		/usr/lib/systemd/systemd-sysctl --prefix=net/core/netdev_max_backlog 2>/dev/null || sysctl -p $file >/dev/null || true
		echo "vxcan: net.core.netdev_max_backlog is $(cat $backlog), now and at each boot ($file)"
	fi
fi
