//! The control plane over several workers: spread, lost and found, drained, forgotten, refused.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod double;
mod harness;
mod registry;
mod replicas;
mod scaling;
mod seats;
