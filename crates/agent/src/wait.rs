//! Waiting for a VM to come as far as somebody wants.

use std::time::Duration;

use clarateach_ids::{Generation, SeatKey};
use clarateach_runtime::{Environment, EnvironmentState, Revision, Runtime, RuntimeError};
use tokio::time::Instant;

/// Why it is waited for no longer.
#[derive(Debug)]
pub(crate) enum Waited {
    /// It is far enough, or time was up: as it is.
    For(Environment),
    /// It is gone, or on its way out.
    InVain,
}

/// Waits until `enough` holds of the make of a seat, at most `patience`.
///
/// # Errors
/// When the runtime can't say.
pub(crate) async fn until(
    runtime: &dyn Runtime,
    key: &SeatKey,
    generation: Generation,
    patience: Duration,
    enough: impl Fn(&Environment) -> bool,
) -> Result<Waited, RuntimeError> {
    let deadline = Instant::now() + patience;
    let mut revision = Revision::default();
    loop {
        let all = runtime.observe().await?;
        let vm = all.into_iter().find(|vm| vm.key == *key && vm.generation == generation);
        match vm {
            None => return Ok(Waited::InVain),
            Some(vm) if vm.state == EnvironmentState::Removing => return Ok(Waited::InVain),
            Some(vm) if enough(&vm) || Instant::now() >= deadline => return Ok(Waited::For(vm)),
            Some(_) => {}
        }
        tokio::select! {
            next = runtime.watch(revision) => revision = next,
            () = tokio::time::sleep_until(deadline) => {}
        }
    }
}
