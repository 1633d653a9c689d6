//! Pins this program to one CPU.

use rustix::thread::{CpuSet, sched_setaffinity};

use crate::error::Error;

/// Pins this thread, and those it starts, to `cpu`.
///
/// # Errors
/// If there is no such CPU, or this process may not use it.
pub(crate) fn to_cpu(cpu: Option<u32>) -> Result<(), Error> {
    let Some(cpu) = cpu else { return Ok(()) };
    let refused = || Error::new(format!("can't run on CPU {cpu}: there is none, or it is not allowed"));
    if cpu as usize >= CpuSet::MAX_CPU {
        return Err(refused());
    }
    let mut set = CpuSet::new();
    set.set(cpu as usize);
    sched_setaffinity(None, &set).map_err(|_| refused())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_cpu_is_named() {
        for cpu in [1000, u32::MAX] {
            assert!(to_cpu(Some(cpu)).unwrap_err().to_string().contains(&cpu.to_string()));
        }
        assert!(to_cpu(None).is_ok());
    }
}
