//! What a seat's first process owes the rest: keep its secret, reap every child, and end them all when told to.

mod environment;
mod processes;

pub use environment::{close_memory, scrub_environment};
pub(crate) use processes::{descendants, end_all, reap, session_members};
