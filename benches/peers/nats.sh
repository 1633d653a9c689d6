#!/usr/bin/env bash
# nats-server with a WebSocket listener, uncompressed.
#
# It prints its address before it listens: the reader must retry until a connection succeeds.
set -euo pipefail
port=$("$(dirname "$0")/free_port.sh")
directory=$(mktemp -d)
cat >"$directory/nats.conf" <<CONF
listen: "127.0.0.1:-1"
websocket { listen: "127.0.0.1:$port", no_tls: true, compression: false }
CONF
echo "listening on ws://127.0.0.1:$port"
echo ready
exec nats-server -c "$directory/nats.conf" -l "$directory/log"
