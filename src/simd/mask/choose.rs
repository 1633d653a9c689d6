//! Chooses the masking kernel of this process, on first use.

use std::sync::OnceLock;

use super::scalar::Scalar;

/// The environment variable that names the kernel to use.
const VARIABLE: &str = "RINGFEED_SIMD";

/// A masking implementation. A value of an implementing type proves that this CPU supports it: only a constructor that
/// has checked the CPU creates one.
pub(super) trait Kernel: Sync {
    /// The name in `RINGFEED_SIMD` and in logs.
    fn name(&self) -> &'static str;

    /// Implements [`unmask_is_ascii`](super::unmask_is_ascii), for any length.
    fn unmask_is_ascii(&self, bytes: &mut [u8], key: [u8; 4], phase: usize) -> bool;

    /// Implements [`unmask_is_utf8`](super::unmask_is_utf8), for any length. A kernel without a fused validator makes a
    /// second pass over text that is not ASCII.
    fn unmask_is_utf8(&self, bytes: &mut [u8], key: [u8; 4], phase: usize) -> bool {
        self.unmask_is_ascii(bytes, key, phase) || simdutf8::basic::from_utf8(bytes).is_ok()
    }
}

/// The kernel of this process.
#[inline]
pub(super) fn kernel() -> &'static dyn Kernel {
    static CHOSEN: OnceLock<&'static dyn Kernel> = OnceLock::new();
    *CHOSEN.get_or_init(|| choose(std::env::var(VARIABLE).ok().as_deref()))
}

/// The kernel with the `wanted` name, or else the best one.
fn choose(wanted: Option<&str>) -> &'static dyn Kernel {
    let kernels = available();
    let named = kernels.iter().find(|kernel| Some(kernel.name()) == wanted);
    *named.unwrap_or(&kernels[0])
}

/// All kernels supported by this CPU, best first. The scalar kernel is always the last, and the only one under Miri,
/// which interprets few vector instructions.
pub(super) fn available() -> Vec<&'static dyn Kernel> {
    let mut kernels: Vec<&'static dyn Kernel> = Vec::new();
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    kernels.extend(super::x86::kernels());
    #[cfg(all(target_arch = "aarch64", not(miri)))]
    kernels.extend(super::neon::kernels());
    kernels.push(&Scalar);
    kernels
}

#[cfg(test)]
mod tests {
    use super::{available, choose};

    #[test]
    fn a_name_chooses_a_supported_kernel_and_no_name_the_best() {
        let best = available()[0].name();
        assert_eq!(choose(None).name(), best);
        assert_eq!(choose(Some("no such kernel")).name(), best);
        for kernel in available() {
            assert_eq!(choose(Some(kernel.name())).name(), kernel.name());
        }
    }
}
