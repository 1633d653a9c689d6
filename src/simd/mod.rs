//! Kernels on slices: masking and UTF-8.
//!
//! [`mask`] applies the masking key of a frame, [`utf8`] decides whether a text is one; the functions that do both
//! touch memory once. Nothing here knows of frames, messages or connections, and nothing allocates.
//!
//! Masking is written here, once per instruction set, and the best set this CPU has is chosen on first use. The
//! environment variable `RINGFEED_SIMD` (`avx512`, `avx2`, `sse2`, `neon` or `scalar`) asks for a certain one. A name
//! that is unknown, or that this CPU can't run, is ignored, so whoever sets it should look at [`kernel_name`].
//! Validation is the `simdutf8` crate's. Its AVX2 validator runs fused with the kernels `avx512` and `avx2`; where
//! there is nothing to unmask, and with the other kernels, the crate makes its own choice and does not read the
//! variable.
#![allow(unsafe_code)]

pub mod mask;
pub mod utf8;

pub use mask::kernel_name;
