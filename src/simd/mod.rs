//! Kernels on slices: masking and UTF-8. The best one this CPU has is chosen once per process.
#![allow(unsafe_code)]

pub mod mask;
pub mod utf8;
