#!/usr/bin/env bash
# Runs a command with loopback's receive work steered to CPU 1, as a network card would leave it to the other machine.
#
#   benches/steer.sh [--each-its-own] COMMAND...
#
# Without it the core that sends on loopback also does the receiver's half of TCP, and a third to a half of what a
# server seems to cost is really its clients'. Acknowledgements go to CPU 1, too, so that clients pay for what the
# server's kernel does with them. With --each-its-own each CPU does the receive work of the programs that run there, as
# two machines do; but each packet interrupts the other CPU, which costs both.
#
# Needs root. All settings are put back afterwards, however the command ends.
set -euo pipefail

# File, then what is written to it.
settings=(/sys/class/net/lo/queues/rx-0/rps_cpus 2)
if [[ "${1:-}" == --each-its-own ]]; then
    shift
    settings=(
        /sys/class/net/lo/queues/rx-0/rps_cpus 3
        # The kernel notes on which CPU a connection was last read or written, in tables with room for all of them.
        /sys/class/net/lo/queues/rx-0/rps_flow_cnt 65536
        /proc/sys/net/core/rps_sock_flow_entries 65536
    )
fi
# The queue between the two cores is short by default and drops packets of a large fan-out, which TCP then sends again.
settings+=(/proc/sys/net/core/netdev_max_backlog 1000000)

before=()
for ((index = 0; index < ${#settings[@]}; index += 2)); do
    before+=("$(cat "${settings[index]}")")
done

put_back() {
    for ((index = 0; index < ${#settings[@]}; index += 2)); do
        echo "${before[index / 2]}" >"${settings[index]}"
    done
}
trap put_back EXIT
trap 'exit 130' INT TERM HUP

for ((index = 0; index < ${#settings[@]}; index += 2)); do
    echo "${settings[index + 1]}" >"${settings[index]}"
done
"$@"
