#!/usr/bin/env bash
# Runs a command with loopback's receive work steered to CPU 1, as a network card would leave it to the other machine.
#
#   benches/steer.sh COMMAND...
#
# Without it the core that sends on loopback also does the receiver's half of TCP, and a third to a half of what a
# server seems to cost is really its clients'. Needs root. Both settings are put back afterwards, however the command
# ends.
set -euo pipefail

steering=/sys/class/net/lo/queues/rx-0/rps_cpus
backlog=/proc/sys/net/core/netdev_max_backlog
steering_before=$(cat $steering)
backlog_before=$(cat $backlog)

put_back() {
    echo "$steering_before" >$steering
    echo "$backlog_before" >$backlog
}
trap put_back EXIT
trap 'exit 130' INT TERM HUP

# The queue between the two cores is short by default and drops packets of a large fan-out, which TCP then sends again.
echo 2 >$steering
echo 1000000 >$backlog
"$@"
