#!/bin/sh
# Two containers and the host on one CAN bus, a reboot, and a repair, with the commands that a user types. Run by
# `make demo`, as root on a kernel with CAN that bin/vm made ours. The containers are Podman's; where there is no Podman
# they are network namespaces, joined by cnitool.
set -eu
cd "$(dirname "$0")/../.."
# It kills containers, and deletes network namespaces and vcan0, whoever made them. What it leaves goes with the kernel,
# or with the namespaces, that bin/vm made for it.
[ "${VXCAN_VM-}" ] || { echo "demo: not on this machine itself: make demo" >&2; exit 1; }
export PATH="$PWD/bin:$PATH" CNI_PATH="$PWD/bin" NETCONFPATH="$PWD/conflist"

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' INT TERM

title() { printf '\n\033[1m%s\033[0m\n' "$*"; }
die() { echo "demo: $*" >&2; exit 1; }

# show shows a command and runs it.
show() { prompt "$*"; "$@" 2>&1 || die "$1 failed with status $?"; }
quietly() { prompt "$*"; "$@" >"$tmp/out" 2>&1 || die "$* failed: $(cat "$tmp/out")"; }
prompt() { printf '\033[36m$ %s\033[0m\n' "$*"; }

# wait_for repeats a command until it succeeds, for two minutes: the machine may be busy.
wait_for() {
	for _ in $(seq 600); do
		"$@" && return
		sleep 0.2
	done
	return 1
}

# listening reports whether a program has a socket on a device. The device's gateway rules are in the same lists, as "gw".
listening() { # device [command that runs another in the device's namespace]
	device=$1
	shift
	"$@" sh -c 'cat /proc/net/can/rcvlist_*' | grep -q "^ *$device  *.* raw *$"
}

# Podman 3 and 4 with CNI, later ones with netavark. There may be no systemd, firewall and network here.
podman_setup() {
	printf '%s\n' '[engine]' 'cgroup_manager="cgroupfs"' 'events_logger="file"' '[containers]' 'log_driver="k8s-file"' '[network]' >"$tmp/containers.conf"
	export CONTAINERS_CONF="$tmp/containers.conf"
	case $(podman --version) in
	*' '[34].*)
		backend=cni
		echo 'network_backend="cni"' >>"$tmp/containers.conf"
		install -D -t /opt/cni/bin bin/vxcan
		;;
	*)
		backend=netavark
		printf '%s\n' 'firewall_driver="none"' "netavark_plugin_dirs=[\"$PWD/bin/netavark\"]" >>"$tmp/containers.conf"
		;;
	esac
	# An image with two programs of this machine.
	for program in candump cansend; do
		program=$(command -v $program)
		for file in "$program" $(ldd "$program" | grep -o '/[^ ]*'); do install -D "$file" "$tmp/image$file"; done
	done
	tar -C "$tmp/image" -c . | podman import --quiet - can-utils >/dev/null
}
podman_create() {
	case $backend in
	cni) quietly install -D -m 644 conflist/canbus0.conflist /etc/cni/net.d/canbus0.conflist ;;
	netavark) quietly podman network create -d vxcan canbus0 ;;
	esac
	for name in engine dashboard; do quietly podman run -d --name $name --network canbus0 can-utils candump can0; done
	podman_find
}
podman_start() {
	quietly podman start engine dashboard
	podman_find
}
# podman_find notes where the containers are.
podman_find() {
	podman inspect -f '{{.Name}} {{.State.Pid}} {{.State.ConmonPid}} {{.HostConfig.LogConfig.Path}}' engine dashboard |
		while read -r name pid conmon log; do
			echo "$pid" >"$tmp/$name.pid"
			echo "$conmon" >"$tmp/$name.conmon"
			ln -sf "$log" "$tmp/$name.log"
		done
}
podman_enter() { pid=$(cat "$tmp/$1.pid"); shift; nsenter --net="/proc/$pid/ns/net" "$@"; }
podman_exec() { quietly podman exec "$@"; }
podman_log() { cut -d ' ' -f 4- "$tmp/$1.log"; } # behind time, stream, and the mark of a full line
podman_show_log() { show podman logs --tail "$2" "$1"; }
podman_power_off() {
	# conmon first, which would have Podman clean up.
	# shellcheck disable=SC2046 # process numbers
	kill -9 $(cat "$tmp"/*.conmon "$tmp"/*.pid)
	rm -rf /run/libpod /run/crun /run/runc /dev/shm/libpod_lock # what is in memory of containers that run
}

# Without Podman.
netns_setup() { :; }
netns_create() {
	for name in engine dashboard; do
		quietly ip netns add $name
		quietly cnitool add canbus0 /run/netns/$name
		prompt "ip netns exec $name candump can0 >>$name.log &"
		ip netns exec $name candump can0 >>"$tmp/$name.log" &
	done
}
netns_start() { netns_create; }
netns_enter() { ip netns exec "$@"; }
netns_exec() { quietly ip netns exec "$@"; }
netns_log() { cat "$tmp/$1.log"; }
netns_show_log() { (cd "$tmp" && show tail -n "$2" "$1.log"); }
# shellcheck disable=SC2046 # process numbers
netns_power_off() { for name in engine dashboard; do kill -9 $(ip netns pids $name); done; }

# power_off ends everything that does not outlive a power failure, and nothing more: no runtime calls DEL.
power_off() {
	"${with}_power_off"
	# The kernel takes its time to delete what was in a network namespace.
	ip -all netns del
	wait_for no_host_end || die "host ends outlive their containers"
	for device in vcan0 vcan0-tx; do ip link del $device; done
}
no_host_end() { ! ip link show type vxcan | grep -q ': vx'; }

# ready waits until candump of both containers is there to hear.
ready() {
	for name in engine dashboard; do
		wait_for listening can0 "${with}_enter" $name || die "candump in $name does not listen"
		"${with}_log" $name | wc -l >"$tmp/$name.before"
	done
}

# heard prints what candump of a container has printed since ready, with one space between words.
heard() { "${with}_log" "$1" | tail -n "+$(($(cat "$tmp/$1.before") + 1))" | sed 's/  */ /g; s/^ //; s/ $//'; }

# heard_frames reports whether that is n frames, or more.
heard_frames() { [ "$(heard "$1" | wc -l)" -ge "$2" ]; }

# expect fails unless both containers heard these frames, each one once, and nothing else.
expect() { # frame ...
	for name in engine dashboard; do wait_for heard_frames $name $# || true; done
	sleep 1 # a frame might come twice
	printf '%s\n' "$@" >"$tmp/sent"
	for name in engine dashboard; do
		heard $name | cmp -s "$tmp/sent" || die "$name heard $(heard $name | paste -sd ,), and was sent $(paste -sd , "$tmp/sent")"
	done
}

# dumped waits for the n-th frame of dump and shows it.
dumped() { # n
	wait_for dump_has "$1" || die "vxcanctl dump shows less than $1 frames: $(cat "$tmp/dump")"
	tail -n "+$((shown + 1))" "$tmp/dump"
	shown=$(wc -l <"$tmp/dump")
}
dump_has() { [ "$(grep -cE '0C9|2A1|18FEF100' "$tmp/dump")" -ge "$1" ]; }

# talk has everybody send, and shows each frame with its sender, and what a container heard.
talk() {
	ready
	prompt 'vxcanctl dump vcan0 -n 3 &'
	timeout 600 vxcanctl dump vcan0 -n 3 >"$tmp/dump" 2>&1 &
	dump=$! shown=0
	wait_for listening vcan0-rx || die "vxcanctl dump does not listen: $(cat "$tmp/dump")"
	"${with}_exec" engine cansend can0 0C9#0FA01770
	dumped 1
	"${with}_exec" dashboard cansend can0 2A1##1CAFE0123
	dumped 2
	quietly cansend vcan0 18FEF100#02010C
	dumped 3
	wait $dump || die "vxcanctl dump failed: $(cat "$tmp/dump")"
	expect 'can0 0C9 [4] 0F A0 17 70' 'can0 2A1 [04] CA FE 01 23' 'can0 18FEF100 [3] 02 01 0C'
	for name in engine dashboard; do "${with}_show_log" $name 3; done
}

# hello has a container send, and shows what the other one heard.
hello() {
	ready
	"${with}_exec" engine cansend can0 "$1#$2"
	expect "can0 $1 [1] $2"
	"${with}_show_log" dashboard 1
}

with=netns
! command -v podman >/dev/null || with=podman
"${with}_setup"

title "Two containers join a CAN bus."
"${with}_create"

title "Both send, and so does the host. Everybody hears everything, once, and dump says who sent it."
talk
show vxcanctl

title "The power fails. Containers and bus are gone, and nobody cleaned up."
power_off
show ip link show type vxcan

title "The containers start again. Nothing else is done."
"${with}_start"
hello 123 01

title "Somebody deletes a part of the bus. vxcanctl says what is wrong, and repairs it."
quietly ip link del vcan0-tx
prompt vxcanctl
vxcanctl || true # its status may say so
show vxcanctl heal
hello 456 02

power_off
left=$(ip -brief link show type vcan; ip -brief link show type vxcan)
[ -z "$left" ] || die "left behind: $left"
