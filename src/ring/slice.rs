//! How long the kernel lets a thread run before others have their turn, which has no safe wrapper.

use std::io;
use std::time::Duration;

/// Has the kernel give the calling thread slices of the CPU that are as short as `slice` (0.1 to 100 ms), and earlier
/// ones in exchange: when it wakes, it runs before a thread whose slices are longer, and need not wait for that one's
/// to be over. Its share of the CPU stays what it is. Threads that it starts from now on take after it.
///
/// For threads that seldom have something to do and then little, beside ones that always have.
///
/// # Errors
/// The kernel's: a seccomp filter may forbid it. A thread with a real-time policy is left as it is.
pub fn shorten_slice(slice: Duration) -> io::Result<()> {
    let mut attributes = attributes()?;
    if !matches!(attributes.sched_policy as i32, libc::SCHED_OTHER | libc::SCHED_BATCH | libc::SCHED_IDLE) {
        return Ok(());
    }
    attributes.sched_runtime = slice.as_nanos() as u64;
    let start: *const libc::sched_attr = &attributes;
    // SAFETY: the kernel reads the attributes, which say their size, before the call returns.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, start, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Those of the calling thread.
fn attributes() -> io::Result<libc::sched_attr> {
    let size = size_of::<libc::sched_attr>() as u32;
    let mut attributes = libc::sched_attr {
        size,
        sched_policy: 0,
        sched_flags: 0,
        sched_nice: 0,
        sched_priority: 0,
        sched_runtime: 0,
        sched_deadline: 0,
        sched_period: 0,
    };
    let start: *mut libc::sched_attr = &mut attributes;
    // SAFETY: the kernel writes at most `size` bytes, before the call returns, and any number is a valid
    // value of each field.
    let result = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, start, size, 0) };
    if result == 0 { Ok(attributes) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_slice_changes() {
        let before = attributes().unwrap();
        shorten_slice(Duration::from_micros(700)).unwrap();
        let after = attributes().unwrap();
        assert_ne!(before.sched_runtime, 700_000);
        assert_eq!(after.sched_runtime, 700_000);
        assert_eq!((after.sched_policy, after.sched_nice), (before.sched_policy, before.sched_nice));
    }
}
