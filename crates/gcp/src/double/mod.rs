//! A Compute Engine API for tests: one project, kept in memory, that behaves as documented.
//!
//! Changes are operations that are `PENDING`, then `RUNNING`, then `DONE`; errors have Google's shape; lists have pages; requests are
//! held against the discovery document, so that a field or parameter that the real API does not know is refused here too. What can
//! be arranged: faults of single calls, quota, a zone without machines, preemption, tokens that expire, calls that are held before
//! or after they took effect. Sources: the discovery document, and Compute Engine's pages "Instance life cycle", "Handling API
//! responses", "Spot VMs", "Troubleshooting resource errors".
//!
//! Stricter than Google: a snapshot fails when its disk goes before it is ready.

mod answers;
mod attached;
mod faults;
mod filter;
mod identity;
mod instances;
mod operations;
mod routes;
pub mod schema;
mod storage;
mod world;

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub use faults::{Fault, Side};
pub use world::Recorded;
use world::World;

/// A token that is good until [`ComputeDouble::expire_tokens`].
pub const TOKEN: &str = "ya29.double-token";
/// The only project.
pub const PROJECT: &str = "clarateach";

/// How it behaves.
#[derive(Debug, Clone)]
pub struct Options {
    /// How long an operation takes.
    pub operation: Duration,
    /// Entries on a page of a list, at most; lists ask for 500.
    pub page: usize,
    /// CPUs that may run at once.
    pub cpus: u32,
    /// Every how many-th call is answered with 503 before anything is done; 0: none.
    pub unavailable_every: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { operation: Duration::from_millis(40), page: 500, cpus: 1_000, unavailable_every: 0 }
    }
}

pub(crate) struct Shared {
    world: Mutex<World>,
    options: Options,
    /// Told whenever an operation has moved.
    moved: watch::Sender<u64>,
    /// Base URL of this server.
    base: String,
}

impl Shared {
    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// A running double; stops when it is dropped.
#[allow(missing_debug_implementations)]
pub struct ComputeDouble {
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

impl Drop for ComputeDouble {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl ComputeDouble {
    /// Starts one on a free port of the loopback address.
    ///
    /// # Panics
    /// When there is none.
    pub async fn start(options: Options) -> Self {
        Self::listen(options, 0).await
    }

    /// Starts one on a port.
    ///
    /// # Panics
    /// When it is taken.
    pub async fn listen(options: Options, port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("a port of the loopback address");
        let base = format!("http://{}", listener.local_addr().expect("a bound listener has an address"));
        let shared = Arc::new(Shared {
            world: Mutex::new(World::new(options.cpus)),
            options,
            moved: watch::channel(0).0,
            base,
        });
        let router = routes::router(shared.clone());
        let server = tokio::spawn(async move {
            let _ = axum::serve(listener, router).await;
        });
        Self { shared, server }
    }

    /// What [`crate::Endpoint`] and `GCP_API_URL` take.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("{}/compute/v1", self.shared.base)
    }

    /// An OAuth token endpoint that gives good tokens.
    #[must_use]
    pub fn token_uri(&self) -> String {
        format!("{}/token", self.shared.base)
    }

    /// What `GCE_METADATA_HOST` takes.
    #[must_use]
    pub fn metadata_host(&self) -> String {
        self.shared.base.trim_start_matches("http://").to_owned()
    }

    /// No token given so far is good any more.
    pub fn expire_tokens(&self) {
        self.shared.world().tokens.clear();
    }

    /// Tokens that this service account signs itself are good.
    pub fn trust_service_account(&self, email: &str) {
        self.shared.world().service_accounts.insert(email.to_owned());
    }

    /// Whether the token endpoint and the metadata server give tokens.
    pub fn give_tokens(&self, give: bool) {
        self.shared.world().gives_tokens = give;
    }

    /// Something goes wrong with the next calls whose method and path contain `about`, like `POST zones/us-central1-a/instances`.
    pub fn fail(&self, about: &str, fault: Fault, times: usize) {
        self.shared.world().faults.add(about, fault, times);
    }

    /// Holds the `nth` call from now on (the first is 1) before or after it took effect, for ever; [`Self::is_holding`] tells when.
    pub fn hold(&self, nth: u64, side: Side) {
        let mut world = self.shared.world();
        let at = world.recorded.len() as u64 + nth;
        world.faults.hold(at, side);
    }

    /// Whether a call is being held.
    #[must_use]
    pub fn is_holding(&self) -> bool {
        self.shared.world().faults.is_holding()
    }

    /// Lets held calls go, and holds none any more.
    pub fn release(&self) {
        self.shared.world().faults.release();
        self.shared.moved.send_modify(|count| *count += 1);
    }

    /// Whether a zone has no machine left.
    pub fn exhaust(&self, zone: &str, exhausted: bool) {
        let mut world = self.shared.world();
        if exhausted {
            world.exhausted.insert(zone.to_owned());
        } else {
            world.exhausted.remove(zone);
        }
    }

    /// A zone does not answer: lists over all zones say so.
    pub fn cut_off(&self, zone: &str) {
        self.shared.world().unreachable.insert(zone.to_owned());
    }

    /// CPUs that may run at once.
    pub fn set_quota(&self, cpus: u32) {
        self.shared.world().cpus = cpus;
    }

    /// Google wants the machine of a Spot instance back: it is stopped, and an operation of type `compute.instances.preempted` says so.
    ///
    /// # Panics
    /// When there is no such running Spot instance.
    pub fn preempt(&self, zone: &str, name: &str) {
        instances::preempt(&self.shared, zone, name);
    }

    /// Writes on an instance's serial console.
    pub fn print(&self, zone: &str, name: &str, text: &str) {
        self.shared.world().print(zone, name, text);
    }

    /// Puts an instance there that somebody made by hand: running, standard, without nested virtualisation, its boot disk holding
    /// `content`.
    pub fn put_instance(&self, zone: &str, name: &str, content: &str) {
        instances::put(&self.shared, zone, name, content);
    }

    /// Attaches another disk to an instance, as somebody would by hand: of 200 GB, it goes with the instance.
    ///
    /// # Panics
    /// When the instance is not there.
    pub fn put_disk(&self, zone: &str, instance: &str, disk: &str, content: &str) {
        attached::put_disk(&self.shared, zone, instance, disk, content);
    }

    /// Changes fields of an instance, as somebody would by hand.
    ///
    /// # Panics
    /// When it is not there.
    pub fn change_instance(&self, zone: &str, name: &str, change: impl FnOnce(&mut Value)) {
        let mut world = self.shared.world();
        let instance =
            world.instances.get_mut(&(zone.to_owned(), name.to_owned())).expect("the instance is there");
        change(&mut instance.value);
    }

    /// Changes fields of a disk, as somebody would by hand.
    ///
    /// # Panics
    /// When it is not there.
    pub fn change_disk(&self, zone: &str, name: &str, change: impl FnOnce(&mut Value)) {
        let mut world = self.shared.world();
        let disk = world.disks.get_mut(&(zone.to_owned(), name.to_owned())).expect("the disk is there");
        change(&mut disk.value);
    }

    /// An instance as the API shows it.
    #[must_use]
    pub fn instance(&self, zone: &str, name: &str) -> Option<Value> {
        let world = self.shared.world();
        world.instances.get(&(zone.to_owned(), name.to_owned())).map(|instance| instance.value.clone())
    }

    /// Names of all instances of all zones.
    #[must_use]
    pub fn instance_names(&self) -> Vec<String> {
        self.shared.world().instances.keys().map(|(_, name)| name.clone()).collect()
    }

    /// A disk as the API shows it.
    #[must_use]
    pub fn disk(&self, zone: &str, name: &str) -> Option<Value> {
        self.shared.world().disks.get(&(zone.to_owned(), name.to_owned())).map(|disk| disk.value.clone())
    }

    /// Names of all disks of all zones.
    #[must_use]
    pub fn disk_names(&self) -> Vec<String> {
        self.shared.world().disks.keys().map(|(_, name)| name.clone()).collect()
    }

    /// What a disk holds.
    #[must_use]
    pub fn disk_content(&self, zone: &str, name: &str) -> Option<String> {
        self.shared.world().disks.get(&(zone.to_owned(), name.to_owned())).map(|disk| disk.content.clone())
    }

    /// Somebody writes on a disk.
    ///
    /// # Panics
    /// When it is not there.
    pub fn write_disk(&self, zone: &str, name: &str, content: &str) {
        let mut world = self.shared.world();
        let disk = world.disks.get_mut(&(zone.to_owned(), name.to_owned())).expect("the disk is there");
        content.clone_into(&mut disk.content);
    }

    /// A snapshot as the API shows it.
    #[must_use]
    pub fn snapshot(&self, name: &str) -> Option<Value> {
        self.shared.world().snapshots.get(name).map(|snapshot| snapshot.value.clone())
    }

    /// Names of all snapshots.
    #[must_use]
    pub fn snapshot_names(&self) -> Vec<String> {
        self.shared.world().snapshots.keys().cloned().collect()
    }

    /// Everything that holds `content`: disks, and snapshots that are ready.
    #[must_use]
    pub fn holders_of(&self, content: &str) -> Vec<String> {
        let world = self.shared.world();
        let disks = world.disks.iter().filter(|(_, disk)| disk.content == content);
        let snapshots = world
            .snapshots
            .iter()
            .filter(|(_, snapshot)| snapshot.content == content && snapshot.value["status"] == "READY");
        disks
            .map(|((_, name), _)| format!("disk {name}"))
            .chain(snapshots.map(|(name, _)| format!("snapshot {name}")))
            .collect()
    }

    /// Every call so far that came with a good token, in order.
    #[must_use]
    pub fn recorded(&self) -> Vec<Recorded> {
        self.shared.world().recorded.clone()
    }
}
