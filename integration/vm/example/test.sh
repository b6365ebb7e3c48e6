#!/bin/sh
# Tests both ECUs, as processes on a vcan device and as containers on a bus of vxcan: vm ./test.sh
set -eu
cd "$(dirname "$0")"

expect() { # answer what
	[ "$1" = 7E8#04410C1AF8 ] || { echo "FAIL $2: got $1" >&2; exit 1; }
	echo "ok   $2"
}

ip link add dev vcan1 type vcan
ip link set vcan1 up
./engine.sh vcan1 &
expect "$(./tester.sh vcan1)" 'processes on vcan1'

# Podman finds vxcan here, and there is no systemd to ask for cgroups.
export CONTAINERS_CONF_OVERRIDE=/run/containers.conf
cat >"$CONTAINERS_CONF_OVERRIDE" <<CONF
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
[network]
netavark_plugin_dirs = ["/run/netavark"]
CONF
install -D bin/netavark /run/netavark/vxcan
podman network create -d vxcan canbus0 >/dev/null

# The containers have the programs of this machine. An image would come from a file: podman load -i FILE.
mkdir /run/root
for dir in bin lib lib64; do ln -s "usr/$dir" "/run/root/$dir"; done
container() {
	podman run --network canbus0 --volume /usr:/usr:ro --volume "$PWD:/ecu:ro" --rootfs "$@"
}
container -d --name engine /run/root /ecu/engine.sh can0 >/dev/null
expect "$(container --rm /run/root /ecu/tester.sh can0)" 'containers on a bus'
