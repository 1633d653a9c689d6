#!/usr/bin/env bash
# Prints a port of loopback that nobody uses. For servers that cannot be told to choose one themselves.
set -euo pipefail
exec python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
