//! The gateway as its users see it: a real server in front, a real HTTP server in the seat, TCP between them.

#![allow(clippy::unwrap_used, reason = "a test that can not go on fails")]

mod harness;
mod hostile;
mod leases;
mod previews;
mod proxying;
mod tokens;
mod websockets;
