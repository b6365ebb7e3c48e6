#!/bin/sh
# Two containers and the host on one CAN bus, and the bus back after a reboot. Run by `make demo`, as root on a kernel
# with CAN that bin/vm made ours. With Podman's CNI backend the containers are Podman's; else they are network
# namespaces, joined by cnitool.
set -eu
cd "$(dirname "$0")/../.."
# It deletes containers, vcan0 and CNI's state, whosever they are.
[ "${VXCAN_VM-}" ] || { echo "demo: not on this machine itself: make demo" >&2; exit 1; }
export CNI_PATH="$PWD/bin" NETCONFPATH="$PWD/conflist"

tmp=$(mktemp -d)
trap 'clean; rm -rf "$tmp"' EXIT
trap 'exit 1' INT TERM

title() { printf '\n\033[1m%s\033[0m\n' "$*"; }
die() { echo "demo: $*" >&2; exit 1; }

# With Podman, while it knows CNI: containers of busybox.
podman_setup() {
	case $(podman --version) in *' '[34].*) ;; *) return 1 ;; esac
	# There may be no systemd.
	printf '%s\n' '[engine]' 'cgroup_manager="cgroupfs"' 'events_logger="file"' '[network]' 'network_backend="cni"' >"$tmp/containers.conf"
	export CONTAINERS_CONF="$tmp/containers.conf"
	install -D -t /opt/cni/bin bin/vxcan
	install -D -m 644 -t /etc/cni/net.d conflist/canbus0.conflist
	install -D /bin/busybox "$tmp/root/bin/sleep"
}
podman_start() {
	if [ -e "$tmp/$1.pid" ]; then # it was started before
		podman start "$1"
	else
		podman run --detach --name "$1" --network canbus0 --stop-signal KILL --pidfile "$tmp/$1.pid" \
			--conmon-pidfile "$tmp/$1.conmon" --rootfs "$tmp/root" sleep 1000
	fi
}
podman_power_off() {
	# conmon first, which would have Podman clean up.
	for who in engine dashboard; do kill -9 "$(cat "$tmp/$who.conmon")" "$(cat "$tmp/$who.pid")"; done
	rm -rf /run/libpod /run/crun /run/runc /dev/shm/libpod_lock # what is in memory of containers that run
}
podman_in() { pid=$(cat "$tmp/$1.pid"); shift; nsenter --net="/proc/$pid/ns/net" "$@"; }
podman_clean() { podman rm --force --ignore engine dashboard >/dev/null 2>&1; }

# Without: network namespaces.
netns_start() { ip netns add "$1" && bin/cnitool add canbus0 "/run/netns/$1"; }
netns_power_off() { :; }
netns_in() { name=$1; shift; ip netns exec "$name" "$@"; }
netns_clean() { netns_gone; }

# netns_gone deletes all network namespaces and waits until the kernel, which takes its time, has deleted what was in.
netns_gone() {
	ip -all netns del
	while ip link show type vxcan | grep -q ': vx'; do sleep 0.1; done
}

power_off() {
	"${with}_power_off"
	netns_gone
	for device in vcan0 vcan0-tx; do ip link del "$device"; done
}

clean() {
	"${with}_clean" || true
	for device in vcan0 vcan0-tx; do ip link del "$device" 2>/dev/null || true; done
	rm -rf /var/lib/cni/vxcan
}

# start starts both containers and shows what that put right, and what they got.
start() {
	for name in engine dashboard; do
		"${with}_start" "$name" >/dev/null 2>"$tmp/log" || die "$name does not start: $(cat "$tmp/log")"
		sed -n '/attached/d; s/.*msg="*\([^"]*\)"* cmd=.*/    \1/p' "$tmp/log"
		printf '    %-10s has %s\n' "$name" "$("${with}_in" "$name" ip -brief link | sed -n 's/^\(can[^@]*\)@.*/\1/p')"
	done
}

# talk has everybody send, and shows who heard what: every frame once, in every column.
talk() {
	# Until it has been quiet for a while: frames might come twice.
	"${with}_in" engine candump -L -T 1500 can0 >"$tmp/engine" &
	"${with}_in" dashboard candump -L -T 1500 can0 >"$tmp/dashboard" &
	candump -L -T 1500 vcan0 >"$tmp/host" &
	sleep 1
	cat >"$tmp/plan" <<-PLAN
		engine 0C9#0FA01770
		engine 18FEF100##1CAFE0123456789AB
		dashboard 3D0#01
		dashboard 2A1##100112233445566778899AABB
		host 7DF#02010C
		host 00000123##0DECADE
	PLAN
	while read -r who frame; do
		case $who in
		host) cansend vcan0 "$frame" ;;
		*) "${with}_in" "$who" cansend can0 "$frame" ;;
		esac
	done <"$tmp/plan"
	wait
	printf '    %-10s  %-31s %-31s %s\n' from 'engine hears' 'dashboard hears' 'the host hears'
	awk -v plan="$tmp/plan" '
		function bare(frame) { sub(/##./, "##", frame); return frame } # candump shows a flag of the kernel there
		FILENAME != plan { heard[FILENAME, bare($3)]++; next }
		{
			printf "    %-10s", $1
			for (i = 1; i < ARGC - 1; i++) {
				n = heard[ARGV[i], bare($2)]
				printf "  %-30s", n == 1 ? $2 : n ? "more than once" : "lost"
				once += n == 1
			}
			print ""
		}
		END { exit once != 18 }' "$tmp/engine" "$tmp/dashboard" "$tmp/host" "$tmp/plan" ||
		die "not every frame arrived exactly once"
}

gateway_rules() { cangw -L | grep -c cangw || true; }

# filters are those of the host ends and the hub, two each.
filters() {
	for device in $(bus_devices | sed 's/[ @].*//'); do
		for direction in ingress egress; do tc filter show dev "$device" "$direction"; done
	done | grep -c handle || true
}

bus_devices() { ip -brief link show type vcan; ip -brief link show type vxcan; }

if command -v podman >/dev/null && with=podman && podman_setup; then
	what="Podman containers"
else
	with=netns what="network namespaces"
fi

title "Two containers ($what) on the bus of conflist/canbus0.conflist"
start
title "Everybody sends, classic and FD. Everybody hears everything, once."
talk

title "The power fails: containers, bus, gateway rules and filters are gone. Nobody cleaned up."
power_off
echo "    CAN devices: $(bus_devices | wc -l), gateway rules: $(gateway_rules)"

title "The same containers start again. Nothing else is done."
start
talk
title "$(gateway_rules) gateway rules and $(filters) filters for 2 containers and the host. That was all."
clean
[ -z "$(bus_devices)" ] || die "left behind: $(bus_devices)"
