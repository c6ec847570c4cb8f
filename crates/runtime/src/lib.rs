//! The Runtime trait, its specification types, what every runtime needs to know of a seat's workspace, and the conformance
//! tests; nothing else.
//!
//! A runtime makes environments for seats. It is told what is wanted ([`DesiredSeat`]) and says what is there
//! ([`Environment`]); how it gets from one to the other is its own affair. Whoever uses a runtime compares the two and
//! calls again: every call is idempotent and safe to repeat after a crash on either side.

#[cfg(feature = "conformance")]
pub mod conformance;
mod environment;
mod error;
pub mod generations;
pub mod probe;
mod spec;
pub mod tunnel;
pub mod workspace_bin;

use async_trait::async_trait;
use clarateach_ids::{Generation, SeatKey};
use tokio::io::{AsyncRead, AsyncWrite};

pub use environment::{Capacity, Environment, EnvironmentState, Reason, Revision};
pub use error::RuntimeError;
pub use generations::Generations;
pub use spec::{DesiredSeat, Egress, ImageRef, PrepareProgress, ProgressFn, RuntimeKind, SeatPort};

/// A byte stream into a seat: TCP, Unix socket, vsock or tunnel.
pub trait SeatStream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> SeatStream for T {}

/// What a dial gives.
pub type BoxedSeatStream = Box<dyn SeatStream>;

/// Makes, shows, connects to and removes environments.
///
/// **Generations.** Every apply and remove carries the seat's generation. A runtime persists the highest it has seen
/// for a seat and refuses lower ones with [`RuntimeError::StaleGeneration`], also after its own restart, so that a
/// stale caller can't undo a newer decision. A remove of generation g says "nothing up to and including g is wanted":
/// a later apply of g is refused as stale too, an apply of g + 1 is welcome.
#[async_trait]
pub trait Runtime: Send + Sync + 'static {
    /// Which kind this is.
    fn kind(&self) -> RuntimeKind;

    /// Anything an instructor should know about the isolation this runtime gives here and now, one sentence each;
    /// empty when it is as designed.
    async fn warnings(&self) -> Vec<String>;

    /// Whether `image` is here or could be fetched: the canonical reference to give in a [`DesiredSeat`]. Answers
    /// within a few seconds; downloads nothing.
    ///
    /// # Errors
    /// [`RuntimeError::ImageNotFound`] when it can't be had, [`RuntimeError::Unavailable`] when nobody can tell now.
    async fn resolve(&self, image: &ImageRef) -> Result<ImageRef, RuntimeError>;

    /// Gets `image` ready so that an apply is quick: pulls, converts, caches. Idempotent.
    ///
    /// # Errors
    /// As [`Runtime::resolve`].
    async fn prepare(&self, image: &ImageRef, progress: ProgressFn) -> Result<(), RuntimeError>;

    /// Writes the wish down and starts to fulfil it; progress comes from [`Runtime::observe`].
    ///
    /// The same generation again is a no-op while the environment lives; an environment that died is started again
    /// in place, on its own disk, and one that could not be made is tried again. A higher generation replaces the old
    /// environment, disk included.
    ///
    /// # Errors
    /// [`RuntimeError::StaleGeneration`], [`RuntimeError::AtCapacity`], [`RuntimeError::InvalidSpec`],
    /// [`RuntimeError::ImageNotFound`], [`RuntimeError::Unavailable`].
    async fn apply(&self, desired: DesiredSeat) -> Result<(), RuntimeError>;

    /// Every environment of this installation, half-made and dead ones included.
    ///
    /// # Errors
    /// [`RuntimeError::Unavailable`]: then nothing is known, which is not the same as "nothing is there".
    async fn observe(&self) -> Result<Vec<Environment>, RuntimeError>;

    /// Waits until what [`Runtime::observe`] would say may differ from what it said at `since`. May return early and
    /// for nothing; never misses a change. Start with [`Revision::default`].
    async fn watch(&self, since: Revision) -> Revision;

    /// Removes the environment of `key` up to `generation`, its disk and everything else that was made for it. Ok
    /// only when nothing of it is left; also when nothing was there.
    ///
    /// # Errors
    /// [`RuntimeError::StaleGeneration`] when a higher generation was seen, [`RuntimeError::Unavailable`] or
    /// [`RuntimeError::Failed`] when something is left: call again.
    async fn remove(&self, key: &SeatKey, generation: Generation) -> Result<(), RuntimeError>;

    /// Opens a byte stream to a port of the seat.
    ///
    /// # Errors
    /// [`RuntimeError::NotFound`] without an environment, [`RuntimeError::Unreachable`] when nothing answers.
    async fn dial(&self, key: &SeatKey, port: SeatPort) -> Result<BoxedSeatStream, RuntimeError>;

    /// The tail of what the environment printed, at most 64 KiB, for an instructor who wants to know why it failed.
    ///
    /// # Errors
    /// [`RuntimeError::NotFound`] without an environment.
    async fn logs(&self, key: &SeatKey) -> Result<String, RuntimeError>;

    /// How many environments there are and can be.
    ///
    /// # Errors
    /// [`RuntimeError::Unavailable`] when the backend doesn't answer; also serves as the readiness check.
    async fn capacity(&self) -> Result<Capacity, RuntimeError>;
}

/// A runtime that several callers share, whose calls may come late or twice: a worker's.
#[async_trait]
pub trait SharedRuntime: Runtime {
    /// Takes a make back that was refused: as [`Runtime::remove`], unless this very make has been begun. Then nothing is
    /// done, for somebody has asked for it again and was not refused. Whether it was taken back; from then on it is never
    /// made here.
    ///
    /// # Errors
    /// As [`Runtime::remove`].
    async fn take_back(&self, key: &SeatKey, generation: Generation) -> Result<bool, RuntimeError>;
}
