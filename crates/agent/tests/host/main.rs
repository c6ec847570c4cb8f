//! The agent's binary on this host: real VMs on QEMU, in a network namespace of their own.

mod flow;
mod kills;
mod refusals;
mod worker;
