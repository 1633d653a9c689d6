#!/usr/bin/env bash
# Ringfeed against other servers, in alternation. See benches/README.md.
#
#   benches/peers/run.sh [--no-steering] [--deflate] [--rounds N] [--duration 2s] [--case TEXT]
#
# Installs the peers below the target directory: Bun and ws from npm (needs node and npm), the Rust servers by cargo.
set -euo pipefail
cd "$(dirname "$0")/../.."

steer=(benches/steer.sh)
if [[ "${1:-}" == --no-steering ]]; then
    steer=()
    shift
fi
plan=peers
if [[ "${1:-}" == --deflate ]]; then
    plan=deflate
    shift
fi
target=${CARGO_TARGET_DIR:-target}
mkdir -p "$target/peers/node"
cp benches/peers/package.json benches/peers/package-lock.json "$target/peers/node/"
npm ci --prefix "$target/peers/node" --ignore-scripts --no-audit --no-fund
# Puts the program for this machine in its place; the only install script that is needed.
(cd "$target/peers/node/node_modules/bun" && node install.js)
cargo build --release --manifest-path benches/peers/Cargo.toml --target-dir "$target/peers"
cargo build --release --package ringfeed --package loadgen --package compare
"${steer[@]}" "$target/release/compare" "$plan" --peers "$target/peers" "$@"
