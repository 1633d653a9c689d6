#!/usr/bin/env bash
# mosquitto with an anonymous WebSocket listener, without persistence.
#
# It prints its address before it listens: the reader must retry until a connection succeeds.
set -euo pipefail
port=$("$(dirname "$0")/free_port.sh")
directory=$(mktemp -d)
# With a limit on the queue of a subscriber it would drop messages. The listener on a path is unused: version 2.0.11
# exits if all listeners are for WebSockets.
cat >"$directory/mosquitto.conf" <<CONF
listener 0 $directory/socket
listener $port 127.0.0.1
protocol websockets
allow_anonymous true
set_tcp_nodelay true
max_queued_messages 0
persistence false
sys_interval 0
log_dest file $directory/log
log_type error
user $(id -un)
CONF
echo "listening on ws://127.0.0.1:$port"
echo ready
exec mosquitto -c "$directory/mosquitto.conf"
