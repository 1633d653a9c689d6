//! Kernels on slices: masking and UTF-8.
//!
//! [`mask`] applies the masking key of a frame, [`utf8`] validates text; the functions that do both touch memory once.
//! The kernels are independent of frames, messages and connections, and do not allocate.
//!
//! Masking is written here, once per instruction set, and the best set of this CPU is chosen on first use. The
//! environment variable `RINGFEED_SIMD` (`avx512`, `avx2`, `sse2`, `neon` or `scalar`) requests a kernel. A name that
//! is unknown, or not supported by this CPU, is ignored: check [`kernel_name`] after setting it. Validation uses the
//! `simdutf8` crate. Its AVX2 validator runs fused with the kernels `avx512` and `avx2`; for unmasked text, and with
//! the other kernels, the crate makes its own choice and does not read the variable.
#![allow(unsafe_code)]

pub mod mask;
pub mod utf8;

pub use mask::kernel_name;
