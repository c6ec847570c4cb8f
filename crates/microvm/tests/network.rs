//! The network of microVMs against a real kernel, in network namespaces of its own.

#![allow(clippy::unwrap_used, dead_code)]

#[path = "network/tap.rs"]
mod tap;
#[path = "network/world.rs"]
mod world;

#[path = "network/reach.rs"]
mod reach;
