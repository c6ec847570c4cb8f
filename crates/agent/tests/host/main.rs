//! The agent's binary on this host: real VMs on QEMU, in a network namespace of their own.

#![allow(clippy::unwrap_used, reason = "a test fails with a panic")]

mod flow;
mod kills;
mod preemption;
mod refusals;
mod scripts;
mod worker;
