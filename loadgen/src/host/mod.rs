//! This host as the kernel shows it: CPU time and memory of processes, and the CPU to run on.

pub(crate) mod heartbeat;
pub(crate) mod interrupt;
pub(crate) mod kernel_memory;
pub(crate) mod machine;
pub(crate) mod meter;
pub(crate) mod pin;
pub(crate) mod process;
pub(crate) mod sampler;
pub(crate) mod starvation;
