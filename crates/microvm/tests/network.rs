//! The network of microVMs against a real kernel, in network namespaces of its own.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may panic, and prints what it measured")]

#[path = "network/tap.rs"]
mod tap;
#[path = "network/world.rs"]
mod world;

#[path = "network/dns.rs"]
mod dns;
#[path = "network/ensure.rs"]
mod ensure;
#[path = "network/isolation.rs"]
mod isolation;
#[path = "network/leftovers.rs"]
mod leftovers;
#[path = "network/other_firewalls.rs"]
mod other_firewalls;
#[path = "network/reach.rs"]
mod reach;
