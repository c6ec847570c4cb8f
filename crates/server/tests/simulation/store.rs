//! The store as one server reaches it: over a network that loses things, and watched by the rules.

use std::sync::Arc;

use async_trait::async_trait;
use clarateach_ids::{
    EventSeq, Generation, InstallationId, JoinCode, KeyId, SeatKey, SessionId, UserId, WorkshopId,
};
use clarateach_lifecycle::{EndReason, Wanted};
use clarateach_store::{
    CodeHash, EventRecord, Fence, JoinDecision, JoinWish, KeyRecord, Lease, NewEvent, NewWorkshop, Placement,
    SeatRecord, SessionRecord, Store, StoreError, TokenHash, UserRecord, WorkerRecord, WorkerWish,
    WorkshopCounts, WorkshopRecord, WorkshopWrite,
};
use jiff::{SignedDuration, Timestamp};
use tokio::time::sleep;

use crate::gate::Gate;
use crate::world::World;

/// Milliseconds to the database and back.
const AWAY: std::ops::Range<u64> = 0..4;
/// What is written on the strength of a lease.
const DECISIONS: [&str; 3] = ["write_workshop", "place", "purge_workshop"];
/// Milliseconds that a server sleeps over a decision: leases last seven seconds.
const NAP: std::ops::Range<u64> = 5_000..40_000;

/// One server's connection to the database.
#[derive(Debug)]
pub(crate) struct Connection {
    world: Arc<World>,
    gate: Arc<Gate>,
    server: String,
}

fn refused() -> StoreError {
    StoreError::Unavailable { message: "the simulated database is away".to_owned() }
}

impl Connection {
    pub(crate) fn new(world: Arc<World>, gate: Arc<Gate>, server: &str) -> Self {
        Self { world, gate, server: server.to_owned() }
    }

    async fn ask<T>(
        &self,
        name: &'static str,
        writes: bool,
        run: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        self.gate.pass().await;
        let weather = self.world.weather();
        let (there, back, refuse, silent) = {
            let mut dice = self.world.dice();
            (
                dice.span(&AWAY),
                dice.span(&AWAY),
                dice.chance(weather.store_refusals),
                writes && dice.chance(weather.store_silences),
            )
        };
        if DECISIONS.contains(&name) && self.gate.nods_off() {
            self.world.trace.note(&format!("{} falls asleep over {name}", self.server));
            let (gate, nap) = (Arc::clone(&self.gate), self.world.dice().span(&NAP));
            tokio::spawn(async move {
                sleep(nap).await;
                gate.wake();
            });
        }
        sleep(there).await;
        self.gate.pass().await;
        if refuse {
            return Err(refused());
        }
        let result = run.await;
        if writes && name != "note_replica" && name != "acquire_lease" {
            let outcome = result.as_ref().map(|_| "ok").map_err(ToString::to_string);
            self.world.trace.note(&format!("{} store: {name}: {outcome:?}", self.server));
        }
        sleep(back).await;
        self.gate.pass().await;
        if silent { Err(refused()) } else { result }
    }
}

/// Each call goes through [`Connection::ask`], the database's own clock in place of the caller's where it counts.
macro_rules! forward {
    ($($kind:ident fn $name:ident($($argument:ident: $type:ty),*) -> $answer:ty $(= |$own:ident| $run:expr)?;)+) => {
        #[async_trait]
        impl Store for Connection {
            $(
                async fn $name(&self $(, $argument: $type)*) -> Result<$answer, StoreError> {
                    let writes = stringify!($kind) == "write";
                    forward!(@run self, writes, $name, ($($argument),*) $(, |$own| $run)?)
                }
            )+

            fn event_wakes(&self) -> tokio::sync::broadcast::Receiver<WorkshopId> {
                self.world.store.event_wakes()
            }

            async fn close(&self) {}
        }
    };
    (@run $self:ident, $writes:ident, $name:ident, ($($argument:ident),*)) => {
        $self.ask(stringify!($name), $writes, $self.world.store.$name($($argument),*)).await
    };
    (@run $self:ident, $writes:ident, $name:ident, ($($argument:ident),*), |$own:ident| $run:expr) => {{
        let $own = &$self.world;
        $self.ask(stringify!($name), $writes, async { $run }).await
    }};
}

forward! {
    read fn installation() -> InstallationId;
    write fn check() -> ();
    write fn create_workshop(new: NewWorkshop) -> WorkshopRecord = |world| world.create_workshop(new);
    read fn workshop(id: &WorkshopId) -> WorkshopRecord;
    read fn workshop_by_code(code: &JoinCode) -> WorkshopRecord;
    read fn workshops(owner: Option<&UserId>) -> Vec<(WorkshopRecord, WorkshopCounts)>;
    read fn workshop_counts(id: &WorkshopId) -> WorkshopCounts;
    write fn set_wanted(id: &WorkshopId, wanted: Wanted, now: Timestamp) -> WorkshopRecord
        = |world| world.set_wanted(id, wanted, now);
    write fn set_ends_at(id: &WorkshopId, ends_at: Option<Timestamp>, now: Timestamp) -> WorkshopRecord;
    write fn set_locked(id: &WorkshopId, locked: bool, now: Timestamp) -> WorkshopRecord;
    write fn purge_workshop(id: &WorkshopId, fence: Option<&Fence>) -> () = |world| world.purge_workshop(id, fence);
    read fn seats(id: &WorkshopId) -> Vec<(SeatRecord, Option<SessionRecord>)>;
    write fn write_workshop(write: WorkshopWrite) -> Vec<SessionRecord> = |world| world.write_workshop(write);
    write fn reset_seat(key: &SeatKey, now: Timestamp) -> SeatRecord;
    write fn join(wish: JoinWish) -> JoinDecision = |world| world.join(wish);
    read fn session_by_code(code: &CodeHash) -> (SessionRecord, WorkshopRecord, Option<SeatRecord>, Option<u32>);
    write fn end_session(id: &SessionId, reason: EndReason, now: Timestamp) -> SessionRecord
        = |world| world.end_session(id, reason, now);
    write fn touch_sessions(seen: &[(SessionId, Timestamp)]) -> ();
    write fn add_event(event: NewEvent) -> EventSeq;
    read fn events(id: &WorkshopId, since: EventSeq, limit: u32) -> Vec<EventRecord>;
    write fn put_worker(worker: WorkerRecord) -> WorkerRecord;
    read fn workers() -> Vec<WorkerRecord>;
    write fn set_worker_wish(id: &str, wish: WorkerWish) -> WorkerRecord = |world| world.set_worker_wish(id, wish);
    write fn note_worker_kind(id: &str, kind: &str) -> ();
    write fn remove_worker(id: &str) -> ();
    write fn place(fence: Option<&Fence>, placement: Placement) -> Placement = |world| world.place(fence, placement);
    read fn placements(workshop: Option<&WorkshopId>) -> Vec<Placement>;
    write fn unplace(key: &SeatKey, worker: &str, generation: Generation) -> ()
        = |world| world.unplace(key, worker, generation);
    write fn acquire_lease(name: &str, holder: &str, ttl: SignedDuration, now: Timestamp) -> Option<Lease>
        = |world| {
            let _ = now;
            let lease = world.store.acquire_lease(name, holder, ttl, world.now()).await;
            lease.inspect(|lease| lease.iter().for_each(|lease| world.leased(lease)))
        };
    write fn release_lease(fence: &Fence, holder: &str) -> ();
    write fn note_replica(holder: &str, ttl: SignedDuration, now: Timestamp) -> u32
        = |world| { let _ = now; world.store.note_replica(holder, ttl, world.now()).await };
    write fn create_user(user: UserRecord, token: TokenHash) -> ();
    read fn user_by_token(token: &TokenHash) -> UserRecord;
    read fn users() -> Vec<UserRecord>;
    write fn delete_user(id: &UserId) -> ();
    read fn keys() -> Vec<KeyRecord>;
    write fn add_key(key: KeyRecord) -> ();
    write fn drop_keys_retired_before(before: Timestamp) -> ();
    write fn retire_keys_except(keep: &KeyId, at: Timestamp) -> ();
}
