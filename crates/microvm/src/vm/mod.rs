//! A VM's life: one task per seat changes it, others ask that task and read what it publishes.
//!
//! ```text
//!            apply                 VMM runs the guest      configured, port open
//! (nothing) ──────▶ making ───────────────▶ booting ───────────────▶ live ──(probe)──▶ ready ◀─▶ unresponsive
//!                     │ a step fails:          │                       │
//!                     │ undone                 └────── VMM ends ───────┤
//!                     ▼                                                ▼
//!                   failed ──apply──▶ making               stopped ──apply──▶ restarting ──▶ booting
//!
//! from everywhere: remove, not_after, a higher generation ──▶ removing ──▶ (nothing)
//! ```
//!
//! | module | its job |
//! |---|---|
//! | `phase` | the diagram as pure functions: what a new process does with what it finds, what is shown |
//! | `board` | what is published of every seat; who has which address; how a seat's task is reached |
//! | `task` | the one task that changes a seat: takes requests, starts and ends lives |
//! | `life` | one run of a VM from disk to death: the steps, and the undoing of each |
//! | `boot` | telling a guest who it is, and finding out whether it is well |
//! | `console` | the tail of what it printed |

mod board;
mod boot;
mod console;
mod life;
mod phase;
mod task;

use std::net::Ipv4Addr;

use clarateach_ids::{Generation, MacAddr, SeatKey};
use clarateach_runtime::{Environment, EnvironmentState, ImageRef, Reason};
use jiff::Timestamp;

use crate::config::Readiness;

pub(crate) use board::{Board, Request, Wish};
pub(crate) use console::tail;
pub(crate) use life::undo;
pub(crate) use phase::{Adoption, Phase, shown};
pub(crate) use task::{Origin, run};

/// A VM as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vm {
    /// The seat it was made for.
    pub key: SeatKey,
    /// Which make of the seat it is.
    pub generation: Generation,
    /// Its own name: on its VMM's command line, its directories and its cgroup.
    pub instance: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its MAC address.
    pub mac: MacAddr,
    /// How far it is.
    pub state: EnvironmentState,
    /// Why, where that needs saying.
    pub reason: Option<Reason>,
    /// Its VMM's process id while it runs.
    pub pid: Option<i32>,
    /// Whether its guest has been started: a create is answered then.
    pub started: bool,
    /// Whether it was started from a snapshot.
    pub restored: bool,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When it ends by itself.
    pub not_after: Option<Timestamp>,
    /// How it is found ready.
    pub readiness: Readiness,
    /// The image it was made from.
    pub image: ImageRef,
    /// Processors.
    pub vcpus: u32,
    /// Memory in MiB.
    pub memory_mb: u32,
    /// Size of its upper drive in MiB.
    pub disk_mb: u32,
}

impl Vm {
    /// As the trait has it.
    #[must_use]
    pub fn environment(&self) -> Environment {
        Environment {
            key: self.key.clone(),
            generation: self.generation,
            state: self.state,
            reason: self.reason.clone(),
            address: Some(self.address.to_string()),
            handle: self.pid.map(|pid| pid.to_string()),
            not_after: self.not_after,
        }
    }
}
