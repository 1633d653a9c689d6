#!/usr/bin/env bash
# Ringfeed against other servers, in alternation. See benches/README.md.
#
#   benches/peers/run.sh [--no-steering | --each-its-own] [--deflate | --capacity | --tickers | --neighbours | --tls]
#                        [--rounds N] [--duration 2s] [--case TEXT]
#
# Installs the peers: Bun and ws from npm (needs node and npm) and the Rust servers by cargo, below the target
# directory; nats-server, mosquitto and nginx with nchan by apt, unless they are installed.
set -euo pipefail
cd "$(dirname "$0")/../.."

steer=(benches/steer.sh)
case "${1:-}" in
--no-steering)
    steer=()
    shift
    ;;
--each-its-own)
    steer+=(--each-its-own)
    shift
    ;;
esac
plan=peers
case "${1:-}" in
--deflate | --capacity | --tickers | --neighbours | --tls)
    plan=${1#--}
    shift
    ;;
esac
packages=()
command -v nats-server >/dev/null || packages+=(nats-server)
command -v mosquitto >/dev/null || packages+=(mosquitto)
[[ -e /usr/lib/nginx/modules/ngx_nchan_module.so ]] || packages+=(nginx libnginx-mod-nchan)
if ((${#packages[@]})); then
    apt-get update -q
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${packages[@]}"
fi
target=${CARGO_TARGET_DIR:-target}
mkdir -p "$target/peers/node"
cp benches/peers/package.json benches/peers/package-lock.json "$target/peers/node/"
npm ci --prefix "$target/peers/node" --ignore-scripts --no-audit --no-fund
# Installs the binary for this machine; no other install script is needed.
(cd "$target/peers/node/node_modules/bun" && node install.js)
cargo build --release --manifest-path benches/peers/Cargo.toml --target-dir "$target/peers"
cargo build --release --package ringfeed --package loadgen --package compare
"${steer[@]}" "$target/release/compare" "$plan" --peers "$target/peers" "$@"
