//! The agent as its callers see it, over seats that are not real.

mod access;
mod bad_input;
mod harness;
mod proxy;
mod tunnels;
mod vms;
mod worker;
