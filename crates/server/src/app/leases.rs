//! Which workshops this server decides for, among several on one database.
//!
//! Workshops are dealt to [`SHARDS`] shards by their id, and each shard has a lease in the store. Every write on the
//! strength of a lease carries its fence, so a server that was asleep for longer than its lease can't undo what its
//! successor decided. A server alone on its database (SQLite) decides for all and needs none.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use clarateach_ids::WorkshopId;
use clarateach_store::{Fence, Lease, Store, StoreError};
use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

/// How many shards there are.
pub const SHARDS: u32 = 8;
/// How long a lease lasts unless it is renewed. With the time until others look, what a dead server held is taken over
/// within ten seconds.
pub const TTL: Duration = Duration::from_secs(7);
/// How often leases are renewed, and free ones looked for.
pub const RENEWAL: Duration = Duration::from_secs(2);
/// So long before a lease ends by the store's clock, its holder does not count on it any more.
const MARGIN: Duration = Duration::from_secs(1);

/// The lease for a workshop's shard is not held (any more).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("another server decides for this workshop by now")]
pub struct NotHeld;

#[derive(Debug)]
struct Held {
    lease: Lease,
    until: Instant,
    /// Which gain it was.
    gain: u64,
}

#[derive(Debug, Default)]
struct Hand {
    held: BTreeMap<u32, Held>,
    /// Moves on with every lease that was gained.
    gains: u64,
    /// Gains up to this are decided for: since them everything was looked at anew.
    taken_over: u64,
    replicas: u32,
}

/// The leases of this server.
#[derive(Debug)]
pub struct Leases {
    /// None: alone.
    holder: Option<String>,
    hand: Mutex<Hand>,
}

/// Which shard a workshop belongs to.
#[must_use]
pub fn shard_of(id: &WorkshopId) -> u32 {
    let hash = blake3::hash(id.as_str().as_bytes());
    u32::from(hash.as_bytes()[0]) % SHARDS
}

fn name(shard: u32) -> String {
    format!("reconcile/{shard}")
}

/// How many shards one of `replicas` servers holds at most.
const fn fair_share(replicas: u32) -> u32 {
    SHARDS.div_ceil(if replicas == 0 { 1 } else { replicas })
}

impl Leases {
    /// Of a server that is alone on its database.
    #[must_use]
    pub fn sole() -> Self {
        Self { holder: None, hand: Mutex::new(Hand { gains: 1, replicas: 1, ..Hand::default() }) }
    }

    /// Of one of several servers, called `holder`.
    #[must_use]
    pub fn shared(holder: String) -> Self {
        Self { holder: Some(holder), hand: Mutex::default() }
    }

    fn hand(&self) -> MutexGuard<'_, Hand> {
        self.hand.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there may be other servers.
    #[must_use]
    pub const fn are_shared(&self) -> bool {
        self.holder.is_some()
    }

    /// What goes with each write for a workshop.
    ///
    /// # Errors
    /// [`NotHeld`]: then nothing is to be decided for it here.
    pub fn fence(&self, id: &WorkshopId) -> Result<Option<Fence>, NotHeld> {
        if self.holder.is_none() {
            return Ok(None);
        }
        let hand = self.hand();
        let held = hand
            .held
            .get(&shard_of(id))
            .filter(|held| held.until > Instant::now() && held.gain <= hand.taken_over)
            .ok_or(NotHeld)?;
        Ok(Some(held.lease.fence()))
    }

    /// Whether this server decides for a workshop now.
    #[must_use]
    pub fn owns(&self, id: &WorkshopId) -> bool {
        self.fence(id).is_ok()
    }

    /// Moves on with every lease that was gained: what was known before it may have been changed by others since.
    #[must_use]
    pub fn gains(&self) -> u64 {
        self.hand().gains
    }

    /// Everything was looked at anew since `gains` were counted: from here on what was gained by then is decided for.
    pub fn take_over(&self, gains: u64) {
        let mut hand = self.hand();
        hand.taken_over = hand.taken_over.max(gains);
    }

    /// The shards decided for now, and how many servers there are.
    #[must_use]
    pub fn held(&self) -> (Vec<u32>, u32) {
        let hand = self.hand();
        if self.holder.is_none() {
            return ((0..SHARDS).collect(), 1);
        }
        let now = Instant::now();
        let held = hand.held.iter().filter(|(_, held)| held.until > now).map(|(shard, _)| *shard).collect();
        (held, hand.replicas)
    }

    /// Gives a sign of life, renews what is held, takes what is free and gives back what is more than a fair share.
    /// Whether anything was gained.
    ///
    /// # Errors
    /// When the store fails; what is held runs out by itself then.
    pub async fn renew(&self, store: &dyn Store, now: Timestamp) -> Result<bool, StoreError> {
        let Some(holder) = &self.holder else { return Ok(false) };
        let ttl = SignedDuration::try_from(TTL).unwrap_or(SignedDuration::from_secs(7));
        let replicas = store.note_replica(holder, ttl, now).await?;
        let share = usize::try_from(fair_share(replicas)).unwrap_or(usize::MAX);
        let mine: Vec<u32> = {
            let mut hand = self.hand();
            hand.replicas = replicas;
            hand.held.keys().copied().collect()
        };
        for shard in mine.iter().skip(share) {
            let given_back = self.hand().held.remove(shard);
            if let Some(held) = given_back {
                store.release_lease(&held.lease.fence(), holder).await?;
                tracing::info!(shard, replicas, "gave a shard to another server");
            }
        }
        let others = (0..SHARDS).filter(|shard| !mine.contains(shard));
        let mut gained = false;
        // Each server begins elsewhere, so that they don't all ask for the same one.
        let start = u32::from(blake3::hash(holder.as_bytes()).as_bytes()[0]) % SHARDS;
        let mut others: Vec<_> = others.collect();
        others.sort_by_key(|shard| (shard + SHARDS - start) % SHARDS);
        for shard in mine.iter().take(share).copied().chain(others) {
            let held = self.hand().held.len();
            let is_mine = mine.contains(&shard);
            if !is_mine && held >= share {
                break;
            }
            let asked = Instant::now();
            match store.acquire_lease(&name(shard), holder, ttl, now).await? {
                Some(lease) => {
                    let mut hand = self.hand();
                    let until = asked + TTL - MARGIN;
                    let before = hand.held.get(&shard).filter(|before| before.lease.token == lease.token);
                    let gain = if let Some(before) = before {
                        before.gain
                    } else {
                        hand.gains += 1;
                        gained = true;
                        tracing::info!(shard, token = lease.token, replicas, "decides for a shard");
                        hand.gains
                    };
                    hand.held.insert(shard, Held { lease, until, gain });
                }
                None => {
                    if self.hand().held.remove(&shard).is_some() {
                        tracing::warn!(shard, "another server took a shard whose lease ran out");
                    }
                }
            }
        }
        Ok(gained)
    }

    /// Takes the lease `name` for what only one server is to do at a time; it is not renewed and runs out by itself. Whether
    /// this server has it: always, when it is alone.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn alone_for(&self, store: &dyn Store, name: &str, now: Timestamp) -> Result<bool, StoreError> {
        let Some(holder) = &self.holder else { return Ok(true) };
        let ttl = SignedDuration::try_from(TTL).unwrap_or(SignedDuration::from_secs(7));
        Ok(store.acquire_lease(name, holder, ttl, now).await?.is_some())
    }

    /// Forgets what is held without giving it back, as a kill would.
    pub fn abandon(&self) {
        self.hand().held.clear();
    }

    /// Gives everything back, so that others need not wait.
    pub async fn release(&self, store: &dyn Store) {
        let Some(holder) = &self.holder else { return };
        let held = std::mem::take(&mut self.hand().held);
        for held in held.into_values() {
            if let Err(error) = store.release_lease(&held.lease.fence(), holder).await {
                tracing::debug!(%error, "a lease could not be given back; it runs out by itself");
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_fair_and_cover_all() {
        for replicas in 1..20 {
            assert!(fair_share(replicas) * replicas >= SHARDS);
        }
        assert_eq!((fair_share(1), fair_share(2), fair_share(3), fair_share(0)), (8, 4, 3, 8));
    }

    #[test]
    fn workshops_are_dealt_to_all_shards() {
        let mut dealt = [0; SHARDS as usize];
        for _ in 0..4000 {
            dealt[shard_of(&WorkshopId::random()) as usize] += 1;
        }
        assert!(dealt.iter().all(|count| *count > 300), "{dealt:?}");
    }

    #[test]
    fn whoever_is_alone_decides_for_all_without_a_fence() {
        let leases = Leases::sole();
        assert_eq!(leases.fence(&WorkshopId::random()), Ok(None));
        let leases = Leases::shared("a".to_owned());
        assert_eq!(leases.fence(&WorkshopId::random()), Err(NotHeld));
    }
}
