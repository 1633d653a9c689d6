//! The vectors of x86-64, with a kernel for each: SSE2, AVX2 and AVX-512.

use core::arch::x86_64::{
    __m128i, __m256i, __m512i, _mm_loadu_si128, _mm_movemask_epi8, _mm_or_si128, _mm_set1_epi32, _mm_storeu_si128,
    _mm_xor_si128, _mm256_loadu_si256, _mm256_movemask_epi8, _mm256_or_si256, _mm256_set1_epi32, _mm256_storeu_si256,
    _mm256_xor_si256, _mm512_loadu_si512, _mm512_movepi8_mask, _mm512_or_si512, _mm512_set1_epi32, _mm512_storeu_si512,
    _mm512_xor_si512,
};

use simdutf8::basic::imp::x86::avx2::ChunkedUtf8ValidatorImp as Avx2Validator;

use super::choose::Kernel;
use super::text;
use super::vector::{self, Vector, Walk};

/// The kernels supported by this CPU, best first.
pub(super) fn kernels() -> impl Iterator<Item = &'static dyn Kernel> {
    [Avx512::detect(), Avx2::detect(), Sse2::detect()].into_iter().flatten()
}

/// 64 bytes at a time. A value proves that this CPU has AVX-512 F and BW, and AVX2 for the validator.
struct Avx512(());

impl Avx512 {
    fn detect() -> Option<&'static dyn Kernel> {
        let present = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx2");
        present.then_some(&Avx512(()))
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    fn run(&self, bytes: &mut [u8], key: [u8; 4], phase: usize) -> bool {
        // SAFETY: this function is compiled for, and only callable with, the instructions of `__m512i`.
        unsafe { vector::unmask_is_ascii::<__m512i>(bytes, key, phase) }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx2")]
    fn run_utf8(&self, bytes: &mut [u8], key: [u8; 4], phase: usize) -> bool {
        // SAFETY: this function is compiled for, and only callable with, the instructions of `__m512i`.
        let walk = unsafe { vector::unmask_while_ascii::<__m512i>(bytes, key, phase) };
        walk.ascii_len == bytes.len() || self.run_utf8_rest(bytes, walk, key, phase)
    }

    /// Never inlined, since the validator needs a stack frame, which would slow down ASCII.
    #[target_feature(enable = "avx512f,avx512bw,avx2")]
    #[inline(never)]
    fn run_utf8_rest(&self, bytes: &mut [u8], walk: Walk, key: [u8; 4], phase: usize) -> bool {
        // SAFETY: this function is compiled for, and only callable with, the instructions of `__m512i` and AVX2.
        unsafe { text::unmask_rest_is_utf8::<__m512i, Avx2Validator>(bytes, walk, key, phase) }
    }
}

impl Kernel for Avx512 {
    fn name(&self) -> &'static str {
        "avx512"
    }

    fn unmask_is_ascii(&self, bytes: &mut [u8], key: [u8; 4], phase: usize) -> bool {
        // SAFETY: `self` exists, so `detect` has found AVX-512 F and BW.
        unsafe { self.run(bytes, key, phase) }
    }

    fn unmask_is_utf8(&self, bytes: &mut [u8], key: [u8; 4], phase: usize) -> bool {
        // SAFETY: `self` exists, so `detect` has found AVX-512 F and BW and AVX2.
        unsafe { self.run_utf8(bytes, key, phase) }
    }
}

/// 32 bytes at a time. A value proves that this CPU has AVX2.
struct Avx2(());

impl Avx2 {
    fn detect() -> Option<&'static dyn Kernel> {
        is_x86_feature_detected!("avx2").then_some(&Avx2(()))
    }

    #[target_feature(enable = "avx2")]
    fn run(&self, bytes: &mut [u8], key: [u8; 4], phase: usize) -> bool {
        // SAFETY: this function is compiled for, and only callable with, the instructions of `__m256i`.
        unsafe { vector::unmask_is_ascii::<__m256i>(bytes, key, phase) }
    }

    #[target_feature(enable = "avx2")]
    fn run_utf8(&self, bytes: &mut [u8], key: [u8; 4], phase: usize) -> bool {
        // SAFETY: this function is compiled for, and only callable with, the instructions of `__m256i`.
        let walk = unsafe { vector::unmask_while_ascii::<__m256i>(bytes, key, phase) };
        walk.ascii_len == bytes.len() || self.run_utf8_rest(bytes, walk, key, phase)
    }

    /// Never inlined, since the validator needs a stack frame, which would slow down ASCII.
    #[target_feature(enable = "avx2")]
    #[inline(never)]
    fn run_utf8_rest(&self, bytes: &mut [u8], walk: Walk, key: [u8; 4], phase: usize) -> bool {
        // SAFETY: this function is compiled for, and only callable with, the instructions of `__m256i` and AVX2.
        unsafe { text::unmask_rest_is_utf8::<__m256i, Avx2Validator>(bytes, walk, key, phase) }
    }
}

impl Kernel for Avx2 {
    fn name(&self) -> &'static str {
        "avx2"
    }

    fn unmask_is_ascii(&self, bytes: &mut [u8], key: [u8; 4], phase: usize) -> bool {
        // SAFETY: `self` exists, so `detect` has found AVX2.
        unsafe { self.run(bytes, key, phase) }
    }

    fn unmask_is_utf8(&self, bytes: &mut [u8], key: [u8; 4], phase: usize) -> bool {
        // SAFETY: `self` exists, so `detect` has found AVX2.
        unsafe { self.run_utf8(bytes, key, phase) }
    }
}

/// 16 bytes at a time, on any x86-64.
struct Sse2(());

impl Sse2 {
    fn detect() -> Option<&'static dyn Kernel> {
        Some(&Sse2(()))
    }
}

impl Kernel for Sse2 {
    fn name(&self) -> &'static str {
        "sse2"
    }

    fn unmask_is_ascii(&self, bytes: &mut [u8], key: [u8; 4], phase: usize) -> bool {
        // SAFETY: every x86-64 CPU has SSE2.
        unsafe { vector::unmask_is_ascii::<__m128i>(bytes, key, phase) }
    }
}

/// Implements [`Vector`] for a register, given its size and the intrinsics by role.
macro_rules! vector {
    (
        $register:ty, $bytes:literal, $splat:ident, $load:ident, $store:ident, $xor:ident, $or:ident, $high_bits:ident
    ) => {
        impl Vector for $register {
            const BYTES: usize = $bytes;

            #[inline(always)]
            unsafe fn splat(key: u32) -> Self {
                // SAFETY: the caller of the trait guarantees the instructions.
                unsafe { $splat(key.cast_signed()) }
            }

            #[inline(always)]
            unsafe fn load(source: *const u8) -> Self {
                // SAFETY: the caller of the trait guarantees the instructions and for `BYTES` readable bytes.
                unsafe { $load(source.cast()) }
            }

            #[inline(always)]
            unsafe fn store(self, target: *mut u8) {
                // SAFETY: the caller of the trait guarantees the instructions and for `BYTES` writable bytes.
                unsafe { $store(target.cast(), self) }
            }

            #[inline(always)]
            unsafe fn xor(self, other: Self) -> Self {
                // SAFETY: the caller of the trait guarantees the instructions.
                unsafe { $xor(self, other) }
            }

            #[inline(always)]
            unsafe fn or(self, other: Self) -> Self {
                // SAFETY: the caller of the trait guarantees the instructions.
                unsafe { $or(self, other) }
            }

            #[inline(always)]
            unsafe fn is_ascii(self) -> bool {
                // SAFETY: the caller of the trait guarantees the instructions.
                unsafe { $high_bits(self) == 0 }
            }
        }
    };
}

vector!(__m128i, 16, _mm_set1_epi32, _mm_loadu_si128, _mm_storeu_si128, _mm_xor_si128, _mm_or_si128, _mm_movemask_epi8);
vector!(
    __m256i,
    32,
    _mm256_set1_epi32,
    _mm256_loadu_si256,
    _mm256_storeu_si256,
    _mm256_xor_si256,
    _mm256_or_si256,
    _mm256_movemask_epi8
);
vector!(
    __m512i,
    64,
    _mm512_set1_epi32,
    _mm512_loadu_si512,
    _mm512_storeu_si512,
    _mm512_xor_si512,
    _mm512_or_si512,
    _mm512_movepi8_mask
);
