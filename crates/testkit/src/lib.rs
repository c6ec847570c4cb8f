//! Simulated runtime, fault injection, wait-for and leak counters for tests. A dev-dependency only.

pub mod docker;
pub mod dockerd;
pub mod firecracker_double;
pub mod guest_kernel;
pub mod leaks;
pub mod postgres;
pub mod seat_binary;
mod skip;
mod wait;

pub use clarateach_runtime_simulated as simulated;
pub use guest_kernel::{GuestKernel, guest_kernel};
pub use skip::skip;
pub use wait::{wait_for, wait_for_blocking};
