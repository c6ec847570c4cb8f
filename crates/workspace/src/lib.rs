//! The server inside every seat: terminals over WebSocket, files, port discovery, health.
//!
//! One static binary, `workspace serve` (also the default without arguments), is the entrypoint of a container or a
//! plain child process. It is reached only through a gateway that knows the seat's secret.
//!
//! In a microVM it is also the first process, started as `/init` or `/sbin/init`: see [`pid1::guest`].
//!
//! # Environment
//!
//! Read once at start, overwritten in memory and not passed on; every other variable goes to the learner's shell.
//!
//! | variable | default | takes |
//! |---|---|---|
//! | `CLARATEACH_SECRET` | none, required | the secret that each request must carry |
//! | `CLARATEACH_SECRET_FILE` | | a file to read it from instead; removed after reading, or refused if the learner could read it |
//! | `CLARATEACH_LISTEN` | `tcp:0.0.0.0:7681` | `tcp:ADDRESS:PORT` or `unix:/path` |
//! | `CLARATEACH_ROOT` | the current directory, `/workspace` if that is `/` | the workspace directory; made and given to the learner if need be |
//! | `CLARATEACH_UID` | `1000` | the learner's uid, or `self` to stay who we are |
//! | `CLARATEACH_SHELL` | passwd's, else bash, else sh | an absolute path |
//! | `CLARATEACH_PORTS` | `namespace` | `tree` counts only listeners of our own process tree |
//!
//! # HTTP
//!
//! Every request carries `x-clarateach-secret`; without it the answer is 401, but for `GET /health`. Refusals are
//! `{"error":{"code","message"}}`. The paths are listed in [`clarateach_seatproto::terminal`],
//! [`clarateach_seatproto::files`] and [`clarateach_seatproto::ports`].
//!
//! # How it is built
//!
//! One thread runs all connections and terminals; nothing is queued per viewer, for a viewer is a position in the
//! terminal's ring of recent output ([`terminal`]). A few threads of their own, which the kernel sees as the learner,
//! do the file work ([`files`]). Memory stays flat whatever readers do.

pub mod config;
mod events;
pub mod files;
mod http;
mod json;
mod learner;
#[allow(unsafe_code)]
pub mod pid1;
pub mod ports;
pub mod server;
#[allow(unsafe_code)]
pub mod terminal;

/// Writes one line to standard error, where containers and runtimes keep a seat's log.
pub fn say(message: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "workspace: {message}");
}
