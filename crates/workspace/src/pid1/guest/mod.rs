//! The first process of a microVM: from the kernel's hand to a serving workspace, and to the end.
//!
//! ```text
//! boot            mounts, modules, base image read-only, control channel
//!   └─ park       answers the host; nothing of a seat is there yet. Snapshots are taken here
//!        └─ configure   entropy, clock, upper drive, overlay, identity, network, switch of roots
//!             └─ exec   `workspace guest`: the server, with the control channel, as a process with a memory of its own
//! ```
//!
//! Executing itself anew after it was configured gives every clone of a snapshot its own address space layout, and frees
//! what booting took. If the image has an init of its own, that becomes process 1 and the server its child.
//!
//! Started as `/init` of the initramfs, or as `/sbin/init` by a kernel whose drivers are built in and that has mounted the
//! base image itself: both ways lead to the same.

mod base;
mod channel;
mod control;
mod ending;
mod freshness;
mod handover;
mod identity;
mod interface;
mod kernel;
mod root;
mod serving;

use std::path::Path;

use clarateach_seatproto::guest::{GuestConfig, GuestReply, GuestState};
use thiserror::Error;

use base::Base;
use channel::Channel;
pub use serving::live;

/// Something that a guest could not do.
#[derive(Debug, Error)]
pub(crate) enum GuestError {
    /// A call to the kernel failed.
    #[error("{operation}: {source}")]
    Kernel {
        /// What was tried, on what.
        operation: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// What the host sent can't be used.
    #[error("{0}")]
    Refused(String),
    /// A device did not come.
    #[error("{0}")]
    Absent(String),
}

impl GuestError {
    /// For `map_err`: what was tried.
    fn during<E: Into<std::io::Error>>(operation: impl Into<String>) -> impl FnOnce(E) -> GuestError {
        let operation = operation.into();
        move |source| GuestError::Kernel { operation, source: source.into() }
    }
}

/// Whether the kernel started us as the first process of a machine, rather than a runtime as that of a container.
#[must_use]
pub fn is_first_process() -> bool {
    let name = std::env::args_os().next();
    let name = name.as_deref().and_then(|name| Path::new(name).file_name());
    std::process::id() == 1 && name.is_some_and(|name| name == "init" || name == "clarateach-init")
}

/// Boots the machine, waits to be configured, and becomes its server. What can't go on is said on the console and ends
/// the machine, so that the host sees it at once.
pub fn boot() -> ! {
    ending::on_panic();
    match start() {
        Ok(never) => match never {},
        Err(problem) => {
            crate::say(&format!("this machine can't start: {problem}"));
            ending::power_off()
        }
    }
}

enum Never {}

fn start() -> Result<Never, GuestError> {
    kernel::prepare()?;
    let base = Base::mount()?;
    let Some(mut channel) = Channel::find()? else {
        crate::say("no control channel: starting without a workspace server");
        let upper = root::switch(base, None)?;
        return handover::without_server(upper);
    };
    let config = park(&mut channel, &base);
    let problem = match become_seat(base, &config) {
        Ok(upper) => handover::to_server(&channel, upper.as_ref(), &config),
        Err(problem) => problem,
    };
    crate::say(&format!("this machine could not become its seat: {problem}"));
    control::broken(&mut channel, &problem)
}

/// Waits for a configuration that can be used.
fn park(channel: &mut Channel, base: &Base) -> GuestConfig {
    crate::say(&format!("parked: {base}, waiting to be configured over {channel}"));
    loop {
        let Some(config) = control::until_configured(channel) else { continue };
        match identity::check(&config).and_then(|()| handover::check(&config)) {
            Ok(()) => return config,
            Err(problem) => channel.answer(&GuestReply::Error { message: problem.to_string() }),
        }
    }
}

/// Everything between being told who we are and having become it.
fn become_seat(base: Base, config: &GuestConfig) -> Result<Option<root::Upper>, GuestError> {
    freshness::credit_entropy(&config.entropy)?;
    freshness::set_clock(config.unix_ms)?;
    let upper = root::switch(base, Some(&config.hostname))?;
    identity::write(config)?;
    interface::bring_up(config.network.as_ref())?;
    Ok(upper)
}

/// The state that a reply carries while the server runs.
const RUNNING: GuestReply = GuestReply::Ok { state: GuestState::Running };
