#!/usr/bin/env bash
# AddressSanitizer over what handles memory by itself: unit tests of buf, ring, topics, conn, simd and gateway, then the
# tests of the wire and of hostile clients against an instrumented binary.
#
#     tests/sanitize/run.sh [ARGUMENT OF CARGO TEST …]
#
# Needs the stable toolchain of this repository and nothing else: RUSTC_BOOTSTRAP lets it take the unstable flag. The
# binary is built without mimalloc (--cfg ringfeed_sanitize), whose blocks the sanitizer would not know. Everything goes
# to target/sanitize. On two CPUs the tests take three minutes, and the first build some more than that.
#
# What it sees: reads and writes outside of any block, stack frame or global, or after its end, by instrumented Rust
# code. What it cannot see: what the kernel writes (a receive at a wrong place in a mapping that is ours is no
# error to it: the checks in src/buf are for that), std itself, which comes without instrumentation, data races, and
# reads of memory that was never written. Leaks are not looked for: the process ends with its shards running.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

export RUSTC_BOOTSTRAP=1
export RUSTFLAGS="-Zsanitizer=address --cfg ringfeed_sanitize"
export ASAN_OPTIONS="detect_leaks=0:abort_on_error=1:detect_stack_use_after_return=1:quarantine_size_mb=64"
cargo=(cargo test --locked --target x86_64-unknown-linux-gnu --target-dir target/sanitize)

step() { printf '\n=== %s\n' "$*"; "$@"; }

step "${cargo[@]}" "$@" --lib -- buf:: ring:: topics:: conn:: simd:: gateway::

# Tests that bound the server's memory: freed blocks stay with the sanitizer for a while, and each block has a margin,
# so that the process is several times its size.
skipped=(a_subscriber_to_a_hundred_thousand_topics slow_handshakes_by_the_thousand one_request_for_many_histories
    answers_to_a_client_that_does_not_read topics_without_publications many_bombs_take_no_memory)
# It publishes for so long here that its subscriber is pinged.
skipped+=(conflate_keeps_the_newest_of_each_key)
step "${cargo[@]}" "$@" --no-fail-fast --test wire --test hostile -- "${skipped[@]/#/--skip=}"
