//! The real binary, as a seat runs it: started with a secret, spoken to over a Unix socket or TCP.
//!
//! As root the learner is uid 1000; as anybody else the seat runs with `CLARATEACH_UID=self`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod events;
mod files;
mod harness;
mod lifecycle;
mod links;
mod ports;
mod strain;
mod terminal;
mod viewers;
