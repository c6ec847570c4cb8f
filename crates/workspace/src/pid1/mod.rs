//! What a seat's first process owes the rest: keep its secret, reap every child, and end them all when told to. In a
//! microVM, where nobody was there before it, also everything that makes a machine of it: [`guest`].

mod environment;
pub mod guest;
mod oom;
mod processes;

pub use environment::{close_memory, scrub_environment};
pub(crate) use oom::{give_up_oom_protection, is_spared_by_oom};
pub(crate) use processes::{descendants, end_all, reap, session_members};
