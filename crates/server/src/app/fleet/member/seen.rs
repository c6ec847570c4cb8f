//! What is known of a worker, and what follows from it: whether it takes seats, how many, and why not. Nothing here asks
//! the worker or anybody else.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use clarateach_api::agent::SeatKeys;
use clarateach_ids::{SeatKey, SessionId};
use clarateach_runtime::{Environment, ImageRef, RuntimeKind};
use clarateach_runtime_worker::Sighting;
use clarateach_store::{WorkerRecord, WorkerWish};
use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use crate::app::fleet::health::{Health, Pulse};
use crate::app::fleet::placement::ImageSight;

/// The most that clocks may differ: seat tokens and ends of seats are read by the worker's clock.
pub const MAX_SKEW: SignedDuration = SignedDuration::from_secs(60);

/// A worker's environments, by seat.
pub type Environments = Arc<BTreeMap<SeatKey, Environment>>;

/// What a worker showed.
#[derive(Debug)]
pub(super) struct Observed {
    pub(super) environments: Environments,
    /// Changes known of when it was asked.
    pub(super) mark: u64,
    pub(super) at: Instant,
}

/// What is known of a worker.
#[derive(Debug)]
pub struct Seen {
    pub(super) record: WorkerRecord,
    pub(super) pulse: Pulse,
    pub(super) kind: Option<RuntimeKind>,
    pub(super) sighting: Option<Sighting>,
    pub(super) last_seen_at: Option<Timestamp>,
    pub(super) last_error: Option<String>,
    pub(super) observed: Option<Observed>,
    /// Counts what may have changed what it shows.
    pub(super) mark: u64,
    /// Seats that were called, each with the mark of then.
    pub(super) called: BTreeMap<SeatKey, u64>,
    pub(super) images: HashMap<ImageRef, ImageSight>,
    pub(super) full_until: Option<Instant>,
    /// Another worker that is the same host, and goes first.
    pub(super) same_as: Option<String>,
    /// Whether the name that it gives itself was compared with the others'.
    pub(super) compared: bool,
    /// Whether it has these keys.
    pub(super) keys: Option<SeatKeys>,
    /// Whether the agent is to be told that it takes seats again.
    pub(super) undrain: bool,
    /// Learners who use their seats at the worker itself, and when they were last heard of.
    pub(super) learners: BTreeMap<SessionId, Timestamp>,
}

impl Seen {
    /// As it is recorded.
    pub const fn record(&self) -> &WorkerRecord {
        &self.record
    }

    /// What it said of itself last.
    pub const fn sighting(&self) -> Option<&Sighting> {
        self.sighting.as_ref()
    }

    /// When that was.
    pub const fn last_seen_at(&self) -> Option<Timestamp> {
        self.last_seen_at
    }

    /// What it showed last, with the seats that were called since; whether it is as of now.
    pub fn observed(&self) -> Option<(Environments, BTreeSet<SeatKey>, bool)> {
        let observed = self.observed.as_ref()?;
        let called = self.called.iter().filter(|(_, mark)| **mark > observed.mark);
        Some((
            Arc::clone(&observed.environments),
            called.map(|(key, _)| key.clone()).collect(),
            observed.mark >= self.mark,
        ))
    }

    /// How many environments it showed last.
    pub fn shown(&self) -> u32 {
        let count = self.observed.as_ref().map_or(0, |observed| observed.environments.len());
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// How many seats fit: what its agent says, or less where less was asked for.
    pub fn capacity(&self) -> u32 {
        let said = self.sighting.as_ref().map(|sighting| sighting.info.capacity);
        match (said, self.record.capacity) {
            (Some(said), Some(given)) => said.min(given),
            (said, given) => said.or(given).unwrap_or(0),
        }
    }

    /// Whether it said a moment ago that it is full.
    pub fn is_full(&self) -> bool {
        self.full_until.is_some_and(|until| until > Instant::now())
    }

    /// How far an image is on it.
    pub fn image(&self, image: &ImageRef) -> ImageSight {
        self.images.get(image).copied().unwrap_or(ImageSight::Unknown)
    }

    /// Whether seats are to leave it.
    pub fn is_leaving(&self) -> bool {
        self.record.wish == WorkerWish::Draining
            || self.sighting.as_ref().is_some_and(|sighting| sighting.info.preempted)
    }

    /// Whether its agent takes no seats because a server of this installation told it so.
    pub(super) fn is_drained_by_us(&self) -> bool {
        self.sighting.as_ref().is_some_and(|sighting| sighting.drained_by_us)
    }

    /// Whether learners may be sent to it directly.
    pub fn takes_learners(&self, keys: Option<&SeatKeys>) -> Option<&str> {
        let has_keys = self.keys.is_some() && self.keys.as_ref() == keys;
        self.record.public_url.as_deref().filter(|_| has_keys && self.pulse.answers(Instant::now()))
    }

    /// Why no new seats are placed on it, or what is wrong with it.
    pub fn problem(&self, local: &BTreeSet<RuntimeKind>) -> Option<String> {
        let now = Instant::now();
        let health = self.pulse.health(now);
        let said = || self.last_error.clone();
        match health {
            Health::Starting => return Some(said().unwrap_or_else(|| "It has not answered yet.".to_owned())),
            Health::Suspect | Health::Lost => {
                return Some(said().unwrap_or_else(|| "It does not answer.".to_owned()));
            }
            Health::Unauthorized => {
                return Some(said().unwrap_or_else(|| "It refuses the token.".to_owned()));
            }
            Health::Incompatible => {
                return Some(said().unwrap_or_else(|| {
                    let theirs = self.sighting.as_ref().map_or("?", |sighting| &sighting.info.version);
                    let ours = env!("CARGO_PKG_VERSION");
                    format!(
                        "Its agent is version {theirs}, which does not go with {ours}; upgrade the older one."
                    )
                }));
            }
            Health::Alive => {}
        }
        let sighting = self.sighting.as_ref()?;
        if let Some(other) = &self.same_as {
            return Some(format!(
                "It is the same host as worker {other}, by its own name; forget one of them."
            ));
        }
        if let Some(skew) = sighting.clock_skew.filter(|skew| skew.abs() > MAX_SKEW) {
            let seconds = skew.as_secs();
            return Some(format!("Its clock differs from the server's by {seconds} s; set both by NTP."));
        }
        match sighting.info.vmm.kind.parse::<RuntimeKind>() {
            Err(_) => {
                return Some(format!("It makes {:?} seats, which are not known.", sighting.info.vmm.kind));
            }
            Ok(kind) if local.contains(&kind) => {
                return Some(format!(
                    "This server makes {kind} seats itself; set VMM=off (or SIMULATED_RUNTIME=off) to use workers."
                ));
            }
            Ok(kind) if self.record.kind.as_deref() != Some(kind.as_str()) => {
                return Some(format!("That it makes {kind} seats could not be written down yet."));
            }
            Ok(_) => {}
        }
        if sighting.info.preempted {
            return Some("Its cloud is about to take it away.".to_owned());
        }
        if let Some(problem) = &sighting.info.vmm.problem {
            return Some(format!("It can't make seats: {problem}"));
        }
        if self.record.wish == WorkerWish::Active && self.is_drained_by_us() {
            return Some("Its agent has not been told yet that the drain is over.".to_owned());
        }
        if sighting.info.draining && self.record.wish == WorkerWish::Active && !self.undrain {
            return Some("Its agent takes no new seats: it was told to drain on the worker.".to_owned());
        }
        None
    }

    /// Whether it has said who it is, and nobody knows yet whether another worker is the same host.
    pub const fn is_newcomer(&self) -> bool {
        self.sighting.is_some() && !self.compared
    }

    /// Whether new seats may be placed on it.
    pub fn takes_seats(&self, local: &BTreeSet<RuntimeKind>) -> bool {
        self.record.wish == WorkerWish::Active
            && self.compared
            && self.sighting.as_ref().is_some_and(|sighting| !sighting.info.draining)
            && self.problem(local).is_none()
    }
}
