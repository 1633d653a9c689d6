//! The `ringfeed` binary.

use std::process::ExitCode;

// AddressSanitizer knows the blocks of its own allocator only: `tests/sanitize/run.sh`.
#[cfg(not(ringfeed_sanitize))]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    ringfeed::cli::run()
}
