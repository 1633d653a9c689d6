#!/usr/bin/env bash
# Ringfeed against the bare send(2) loop, in alternation. See benches/README.md.
#
#   benches/floor/run.sh [--no-steering] [--rounds N] [--duration 2s] [--case TEXT]
set -euo pipefail
cd "$(dirname "$0")/../.."

steer=(benches/steer.sh)
if [[ "${1:-}" == --no-steering ]]; then
    steer=()
    shift
fi
cargo build --release --package ringfeed --package loadgen --package floor --package compare
"${steer[@]}" "${CARGO_TARGET_DIR:-target}/release/compare" floor "$@"
