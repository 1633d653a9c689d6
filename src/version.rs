//! The version, revision, target and compiler of this build; `build.rs` collects them.

/// The version of the package.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit; `unknown` outside of a repository, and in builds without optimisation.
pub(crate) const REVISION: &str = env!("RINGFEED_REVISION");

/// The platform, as `x86_64-unknown-linux-gnu`.
pub(crate) const TARGET: &str = env!("RINGFEED_TARGET");

/// `release`, or `debug`.
pub(crate) const PROFILE: &str = env!("RINGFEED_PROFILE");

/// The compiler, as `1.95.0`.
pub(crate) const RUSTC: &str = env!("RINGFEED_RUSTC");
