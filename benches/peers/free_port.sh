#!/usr/bin/env bash
# Prints a free loopback port, for servers that cannot choose one themselves. It is below the ephemeral ports, thousands
# of which stay in TIME_WAIT for a minute after a handshake bench.
set -euo pipefail
read -r clients_from _ </proc/sys/net/ipv4/ip_local_port_range
exec python3 - "$clients_from" <<'PYTHON'
import random, socket, sys

for port in random.sample(range(10_000, int(sys.argv[1])), k=100):
    with socket.socket() as candidate:
        try:
            candidate.bind(("127.0.0.1", port))
        except OSError:
            continue
        print(port)
        break
else:
    sys.exit("no port is free")
PYTHON
