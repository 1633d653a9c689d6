//! The vector of AArch64, with its kernel: NEON.

use core::arch::aarch64::{uint8x16_t, veorq_u8, vld1q_u8, vmaxvq_u8, vorrq_u8, vst1q_u8};

use super::choose::Kernel;
use super::vector::{self, Vector};

/// The kernels supported by this CPU.
pub(super) fn kernels() -> impl Iterator<Item = &'static dyn Kernel> {
    Neon::detect().into_iter()
}

/// 16 bytes at a time. A value proves that this CPU has NEON.
struct Neon(());

impl Neon {
    fn detect() -> Option<&'static dyn Kernel> {
        std::arch::is_aarch64_feature_detected!("neon").then_some(&Neon(()))
    }

    #[target_feature(enable = "neon")]
    fn run(&self, bytes: &mut [u8], key: [u8; 4], phase: usize) -> bool {
        // SAFETY: this function is compiled for, and only callable with, the instructions of `uint8x16_t`.
        unsafe { vector::unmask_is_ascii::<uint8x16_t>(bytes, key, phase) }
    }
}

impl Kernel for Neon {
    fn name(&self) -> &'static str {
        "neon"
    }

    fn unmask_is_ascii(&self, bytes: &mut [u8], key: [u8; 4], phase: usize) -> bool {
        // SAFETY: `self` exists, so `detect` has found NEON.
        unsafe { self.run(bytes, key, phase) }
    }
}

impl Vector for uint8x16_t {
    const BYTES: usize = 16;

    #[inline(always)]
    unsafe fn splat(key: u32) -> Self {
        let pattern = [key.to_le(); 4];
        // SAFETY: the caller of the trait guarantees the instructions, and `pattern` has 16 bytes.
        unsafe { vld1q_u8(pattern.as_ptr().cast()) }
    }

    #[inline(always)]
    unsafe fn load(source: *const u8) -> Self {
        // SAFETY: the caller of the trait guarantees the instructions and for `BYTES` readable bytes.
        unsafe { vld1q_u8(source) }
    }

    #[inline(always)]
    unsafe fn store(self, target: *mut u8) {
        // SAFETY: the caller of the trait guarantees the instructions and for `BYTES` writable bytes.
        unsafe { vst1q_u8(target, self) }
    }

    #[inline(always)]
    unsafe fn xor(self, other: Self) -> Self {
        // SAFETY: the caller of the trait guarantees the instructions.
        unsafe { veorq_u8(self, other) }
    }

    #[inline(always)]
    unsafe fn or(self, other: Self) -> Self {
        // SAFETY: the caller of the trait guarantees the instructions.
        unsafe { vorrq_u8(self, other) }
    }

    #[inline(always)]
    unsafe fn is_ascii(self) -> bool {
        // SAFETY: the caller of the trait guarantees the instructions.
        unsafe { vmaxvq_u8(self) < 0x80 }
    }
}
