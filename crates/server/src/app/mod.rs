//! What the control plane does, without HTTP.

pub mod access;
pub mod clock;
pub mod directory;
pub mod error;
pub mod events;
pub mod fleet;
pub mod leases;
pub mod overview;
pub mod reconcile;
pub mod runtimes;
pub mod scaling;
pub mod seal;
pub mod sessions;
pub mod signer;
pub mod throttle;
pub mod view;
pub mod workshops;

use std::sync::Arc;
use std::time::Instant;

use clarateach_gateway::Gateway;
use clarateach_ids::InstallationId;
use clarateach_store::Store;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use clock::Clock;
use directory::Directory;
use fleet::Fleet;
use leases::Leases;
use reconcile::Progress;
use runtimes::Runtimes;
use scaling::Bulletin;
use seal::Sealer;
use signer::Signer;
use throttle::Throttle;

/// The parts that every call shares.
pub struct App {
    /// The settings.
    pub config: Config,
    /// What the reconciler decides by.
    pub clock: Arc<dyn Clock>,
    /// What is wanted and who holds what.
    pub store: Arc<dyn Store>,
    /// What makes environments.
    pub runtimes: Arc<Runtimes>,
    /// The workers.
    pub fleet: Arc<Fleet>,
    /// Which workshops are decided for here.
    pub leases: Arc<Leases>,
    /// The way into seats.
    pub gateway: Arc<Gateway>,
    /// Where the gateway finds seats.
    pub directory: Arc<Directory>,
    /// Seals secrets.
    pub sealer: Arc<Sealer>,
    /// Signs seat tokens.
    pub signer: Signer,
    /// Whose environments are ours.
    pub installation: InstallationId,
    /// Wakes the reconciler.
    pub wake: Arc<Notify>,
    /// What the reconciler is fetching.
    pub progress: Arc<Progress>,
    /// What is said of the fleet that grows and shrinks, and to it.
    pub scaling: Arc<Bulletin>,
    /// Counts failed attempts by address.
    pub throttle: Throttle,
    /// Cancelled when the server closes: endless answers end.
    pub closing: CancellationToken,
    /// When the server started.
    pub started: Instant,
}

impl std::fmt::Debug for App {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("App").field("installation", &self.installation).finish_non_exhaustive()
    }
}
