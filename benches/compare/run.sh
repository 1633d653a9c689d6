#!/usr/bin/env bash
# Ringfeed against itself, in alternation: with clients of Centrifugo's protocol and with raw ones (topics), with a
# tenth of its subscribers stalled and with none (stalled), or with its control plane on the shards' CPU and on another
# (acknowledgements). See benches/README.md.
#
#   benches/compare/run.sh [--no-steering] topics|stalled|acknowledgements [--rounds N] [--duration 2s] [--case TEXT]
set -euo pipefail
cd "$(dirname "$0")/../.."

steer=(benches/steer.sh)
if [[ "${1:-}" == --no-steering ]]; then
    steer=()
    shift
fi
cargo build --release --package ringfeed --package loadgen --package compare
"${steer[@]}" "${CARGO_TARGET_DIR:-target}/release/compare" "$@"
