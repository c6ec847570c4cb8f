//! The agent as its callers see it, over seats that are not real.

#![allow(clippy::unwrap_used, reason = "a test fails with a panic")]

mod access;
mod bad_input;
mod documented;
mod harness;
mod preemption;
mod proxy;
mod tls;
mod tunnels;
mod vms;
mod worker;
