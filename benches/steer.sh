#!/usr/bin/env bash
# Runs a command with loopback's receive work steered to CPU 1, since on a real network the other machine does it.
#
#   benches/steer.sh [--each-its-own] COMMAND...
#
# Without steering the sending core also does the receiver's half of TCP on loopback, and a third to a half of the
# server's measured cost really belongs to its clients. Acknowledgements go to CPU 1, too, so the work that they cause
# in the server's kernel is charged to the clients. With --each-its-own each CPU does the receive work of its own
# programs, as two machines do; but each packet interrupts the other CPU, which costs both.
#
# Needs root. Restores all settings afterwards, however the command ends.
set -euo pipefail

# Pairs of a file and its new content.
settings=(/sys/class/net/lo/queues/rx-0/rps_cpus 2)
if [[ "${1:-}" == --each-its-own ]]; then
    shift
    settings=(
        /sys/class/net/lo/queues/rx-0/rps_cpus 3
        # The kernel records the CPU that last read or wrote each connection, in tables large enough for all of them.
        /sys/class/net/lo/queues/rx-0/rps_flow_cnt 65536
        /proc/sys/net/core/rps_sock_flow_entries 65536
    )
fi
# The default queue between the two cores is short: it drops packets of a large fan-out, which TCP then retransmits.
settings+=(/proc/sys/net/core/netdev_max_backlog 1000000)

before=()
for ((index = 0; index < ${#settings[@]}; index += 2)); do
    before+=("$(cat "${settings[index]}")")
done

restore() {
    for ((index = 0; index < ${#settings[@]}; index += 2)); do
        echo "${before[index / 2]}" >"${settings[index]}"
    done
}
trap restore EXIT
trap 'exit 130' INT TERM HUP

for ((index = 0; index < ${#settings[@]}; index += 2)); do
    echo "${settings[index + 1]}" >"${settings[index]}"
done
"$@"
