//! What can be wrong with io_uring on a host, and what its operator can do about it.

use std::{fmt, fs, io};

/// The oldest kernel that has all that the ring uses: incremental receive buffers came with 6.12.
pub const KERNEL_NEEDED: (u32, u32) = (6, 12);

/// Why a ring could not be set up. Its text names the remedy.
#[derive(Debug)]
pub enum StartError {
    /// The kernel is older than [`KERNEL_NEEDED`]; holds what it calls itself.
    KernelTooOld(String),
    /// `kernel.io_uring_disabled` forbids it; holds the value.
    Disabled(u8),
    /// A seccomp filter or security module forbids it, though the kernel would allow it.
    Forbidden,
    /// The kernel was built without it, or a seccomp filter hides it.
    Missing,
    /// Rings and receive buffers are charged to `RLIMIT_MEMLOCK`, and it is too small.
    MemoryLocked,
    /// `RLIMIT_NOFILE` is too small even for many tables of descriptors; holds the size that each would need.
    TooManyFiles(u32),
    /// The process may open no more descriptors.
    NoDescriptor,
    /// Anything else, with the step that failed.
    Other(&'static str, io::Error),
}

impl StartError {
    /// Finds out why `step` failed with `error`.
    pub fn diagnose(step: &'static str, error: io::Error) -> StartError {
        let disabled = fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok();
        let disabled = disabled.and_then(|text| text.trim().parse::<u8>().ok()).unwrap_or(0);
        match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) if disabled > 0 => StartError::Disabled(disabled),
            Some(libc::EPERM | libc::EACCES) => StartError::Forbidden,
            Some(libc::ENOSYS) => StartError::Missing,
            Some(libc::ENOMEM) => StartError::MemoryLocked,
            Some(libc::EMFILE) => StartError::NoDescriptor,
            Some(libc::EINVAL) if is_too_old(&kernel_release()) => StartError::KernelTooOld(kernel_release()),
            _ => StartError::Other(step, error),
        }
    }

    /// Fails if the running kernel is known to be too old.
    pub(super) fn check_kernel() -> Result<(), StartError> {
        let release = kernel_release();
        if is_too_old(&release) { Err(StartError::KernelTooOld(release)) } else { Ok(()) }
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor) = KERNEL_NEEDED;
        match self {
            StartError::KernelTooOld(found) => {
                write!(f, "this kernel is {found}, and Linux {major}.{minor} or newer is needed: upgrade the kernel")
            }
            StartError::Disabled(value) => write!(
                f,
                "io_uring is turned off on this host (kernel.io_uring_disabled = {value}): \
                 try `sysctl -w kernel.io_uring_disabled=0`{}",
                if *value == 1 { ", or run as root or in the kernel.io_uring_group" } else { "" }
            ),
            StartError::Forbidden => f.write_str(
                "io_uring is forbidden to this process, most likely by a container's seccomp profile: allow \
                 io_uring_setup, io_uring_enter and io_uring_register (Docker: --security-opt seccomp=PROFILE.json)",
            ),
            StartError::Missing => write!(
                f,
                "this kernel ({}) offers no io_uring: a kernel with CONFIG_IO_URING is needed, or a seccomp profile \
                 that does not hide it",
                kernel_release()
            ),
            StartError::MemoryLocked => f.write_str(
                "too little lockable memory for the rings: raise RLIMIT_MEMLOCK (`ulimit -l unlimited`, or \
                 LimitMEMLOCK=infinity in the systemd unit), or use fewer shards",
            ),
            StartError::TooManyFiles(wanted) => write!(
                f,
                "no room for so many connections in a shard's tables of descriptors: raise RLIMIT_NOFILE \
                 (`ulimit -n {wanted}`, or LimitNOFILE={wanted} in the systemd unit), or use more shards"
            ),
            StartError::NoDescriptor => f.write_str(
                "no descriptor is left for a ring: raise RLIMIT_NOFILE (`ulimit -n 1024`, or LimitNOFILE=1024 in the \
                 systemd unit)",
            ),
            StartError::Other(step, error) => write!(f, "io_uring: {step} failed: {error}"),
        }
    }
}

impl std::error::Error for StartError {}

fn kernel_release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// A release that can't be read is given the benefit of the doubt: the set-up itself will tell.
fn is_too_old(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) < KERNEL_NEEDED,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_compare_by_number() {
        let too_old = ["6.11.0-29-generic", "6.1.0", "5.15.167.4-microsoft-standard-WSL2", "4.19"];
        let new_enough = ["6.12.0", "6.18.44", "7.0-rc1", "10.0", "strange"];
        assert!(too_old.into_iter().all(is_too_old));
        assert!(!new_enough.into_iter().any(is_too_old));
    }

    #[test]
    fn each_error_names_its_remedy() {
        let remedies = [
            (StartError::KernelTooOld("5.4.0".into()), "6.12 or newer"),
            (StartError::Disabled(2), "sysctl -w kernel.io_uring_disabled=0"),
            (StartError::Disabled(1), "io_uring_group"),
            (StartError::Forbidden, "seccomp"),
            (StartError::Missing, "CONFIG_IO_URING"),
            (StartError::MemoryLocked, "LimitMEMLOCK"),
            (StartError::TooManyFiles(30_000), "ulimit -n 30000"),
            (StartError::NoDescriptor, "ulimit -n 1024"),
        ];
        for (error, remedy) in remedies {
            assert!(error.to_string().contains(remedy), "{error}");
            assert!(!error.to_string().contains('\n'), "one line: {error}");
        }
    }
}
