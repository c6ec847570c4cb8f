//! Seats that exist in memory only: for tests, and to try the control plane with ten thousand seats.
//!
//! A [`World`] holds the environments, as Docker or a host would; a [`SimulatedRuntime`] is one process's view of it,
//! and opening another on the same world is what a restart is. Times are drawn from a seed, so that a run can be
//! repeated. What goes wrong is decided by the test, through the world.

mod mortal;
mod workspace;
mod world;

use std::sync::Arc;

use async_trait::async_trait;
use clarateach_ids::{Generation, SeatKey};
use clarateach_runtime::{
    BoxedSeatStream, Capacity, DesiredSeat, Environment, ImageRef, PrepareProgress, ProgressFn, Revision,
    Runtime, RuntimeError, RuntimeKind, SeatPort, SharedRuntime, tunnel,
};
use jiff::Timestamp;

pub use world::{SimulatedConfig, World};

/// Images that start with this are not there.
pub const MISSING_IMAGE_PREFIX: &str = "missing";

/// One process's view of a [`World`].
#[derive(Debug, Clone)]
pub struct SimulatedRuntime {
    world: Arc<World>,
}

impl SimulatedRuntime {
    /// A runtime on a world of its own. Must be called within a tokio runtime.
    #[must_use]
    pub fn new(config: SimulatedConfig) -> Self {
        Self::on(World::new(config))
    }

    /// A runtime on a world that is there already, as after a restart.
    #[must_use]
    pub fn on(world: Arc<World>) -> Self {
        Self { world }
    }

    /// Where faults are injected and leftovers counted.
    #[must_use]
    pub fn world(&self) -> &Arc<World> {
        &self.world
    }
}

fn check(desired: &DesiredSeat) -> Result<(), RuntimeError> {
    let refuse = |message: String| Err(RuntimeError::InvalidSpec { message });
    for (name, value) in &desired.env {
        if name.is_empty() || name.contains(['=', '\0']) || name.starts_with("CLARATEACH_") {
            return refuse(format!("{name:?} can't be the name of an environment variable"));
        }
        if value.contains('\0') {
            return refuse(format!("the value of the environment variable {name} holds a NUL"));
        }
    }
    if desired.vcpus == 0 {
        return refuse("a seat takes at least one processor".to_owned());
    }
    if desired.not_after.is_some_and(|at| at <= Timestamp::now()) {
        return refuse("the time it is to end has passed".to_owned());
    }
    Ok(())
}

#[async_trait]
impl Runtime for SimulatedRuntime {
    fn kind(&self) -> RuntimeKind {
        RuntimeKind::Simulated
    }

    async fn warnings(&self) -> Vec<String> {
        vec!["Simulated: nothing real runs in these seats".to_owned()]
    }

    async fn resolve(&self, image: &ImageRef) -> Result<ImageRef, RuntimeError> {
        self.world.up()?;
        if image.0.is_empty() || image.0.starts_with(MISSING_IMAGE_PREFIX) {
            let message = "no simulated image has that name".to_owned();
            return Err(RuntimeError::ImageNotFound { image: image.clone(), message });
        }
        Ok(image.clone())
    }

    async fn prepare(&self, image: &ImageRef, progress: ProgressFn) -> Result<(), RuntimeError> {
        self.resolve(image).await?;
        progress(PrepareProgress { step: "Simulated".to_owned(), bytes: Some((1, 1)) });
        Ok(())
    }

    async fn apply(&self, desired: DesiredSeat) -> Result<(), RuntimeError> {
        self.world.up()?;
        check(&desired)?;
        self.resolve(&desired.image).await?;
        self.world.has_room(&desired.key)?;
        let _decided = self.world.deciding.lock().await;
        self.world.generations.admit_apply(&desired.key, desired.generation, desired.not_after).await?;
        self.world.make(desired)
    }

    async fn observe(&self) -> Result<Vec<Environment>, RuntimeError> {
        self.world.up()?;
        Ok(self.world.environments())
    }

    async fn watch(&self, since: Revision) -> Revision {
        self.world.changed(since).await
    }

    async fn remove(&self, key: &SeatKey, generation: Generation) -> Result<(), RuntimeError> {
        self.world.up()?;
        self.world.generations.admit_remove(key, generation).await?;
        self.world.unmake(key, generation).await;
        Ok(())
    }

    async fn dial(&self, key: &SeatKey, port: SeatPort) -> Result<BoxedSeatStream, RuntimeError> {
        let (stream, secret) = self.world.dial(key)?;
        match port {
            SeatPort::Workspace => Ok(stream),
            SeatPort::App(port) => tunnel::through(stream, &secret, port)
                .await
                .map_err(|error| RuntimeError::Unreachable { key: key.clone(), message: error.to_string() }),
        }
    }

    async fn logs(&self, key: &SeatKey) -> Result<String, RuntimeError> {
        self.world.log(key)
    }

    async fn capacity(&self) -> Result<Capacity, RuntimeError> {
        self.world.up()?;
        Ok(self.world.capacity())
    }
}

#[async_trait]
impl SharedRuntime for SimulatedRuntime {
    async fn take_back(&self, key: &SeatKey, generation: Generation) -> Result<bool, RuntimeError> {
        self.world.up()?;
        let decided = self.world.deciding.lock().await;
        if self.world.has_begun(key, generation) {
            return Ok(false);
        }
        self.world.generations.admit_remove(key, generation).await?;
        drop(decided);
        self.world.unmake(key, generation).await;
        Ok(true)
    }
}
