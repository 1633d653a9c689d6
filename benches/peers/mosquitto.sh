#!/usr/bin/env bash
# mosquitto with a WebSocket listener, for anybody, which keeps nothing.
#
# It says where before it listens: whoever reads that must try again until somebody answers.
set -euo pipefail
port=$("$(dirname "$0")/free_port.sh")
directory=$(mktemp -d)
# With a bound on what waits for a subscriber it would drop messages. The listener on a path nobody uses: version 2.0.11
# ends if all are for WebSockets.
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
