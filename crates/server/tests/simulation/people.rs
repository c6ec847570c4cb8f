//! Learners and instructors, and what they do.

use std::sync::{Arc, Mutex, PoisonError};

use clarateach_api::ExtendWorkshop;
use clarateach_ids::{JoinCode, SeatNumber, SessionId, WorkshopId};
use clarateach_lifecycle::{EndReason, Wanted};
use clarateach_server::app::access::Caller;
use clarateach_server::app::clock::Clock;
use clarateach_server::app::workshops::ENV_PURPOSE;
use clarateach_store::{CodeHash, JoinDecision, JoinWish, NewWorkshop, StoreError};
use jiff::SignedDuration;

use crate::dice::Dice;
use crate::server::Server;
use crate::world::World;

/// A workshop as its instructor knows it.
#[derive(Debug, Clone)]
pub(crate) struct Class {
    pub(crate) id: WorkshopId,
    pub(crate) seats: u32,
    join_code: JoinCode,
}

/// A learner with a browser.
#[derive(Debug)]
pub(crate) struct Learner {
    class: Class,
    name: String,
    /// What the learner was last told.
    told: Mutex<Told>,
}

#[derive(Debug, Default)]
struct Told {
    session: Option<SessionId>,
    code: Option<CodeHash>,
}

/// A join code from dice: eight symbols of its alphabet.
fn join_code(dice: &mut Dice) -> JoinCode {
    const ALPHABET: &[u8] = b"34679ACDEFGHJKMNPQRTWXY";
    let text: String = (0..8).map(|_| char::from(ALPHABET[dice.below(ALPHABET.len())])).collect();
    text.parse().unwrap()
}

impl Class {
    pub(crate) fn draw(dice: &mut Dice) -> Self {
        let id = dice.id("w").parse().unwrap();
        Self { id, seats: u32::try_from(1 + dice.below(5)).unwrap(), join_code: join_code(dice) }
    }

    /// As the API does, but that nothing of it is drawn from the operating system.
    pub(crate) async fn create(self, world: Arc<World>, server: Arc<Server>, minutes: Option<i64>) {
        let now = server.clock.now();
        let new = NewWorkshop {
            id: self.id.clone(),
            owner: clarateach_ids::UserId::admin(),
            name: "Simulated".to_owned(),
            join_code: self.join_code,
            seats: self.seats,
            runtime: "firecracker".to_owned(),
            image: "image".to_owned(),
            env_names: Vec::new(),
            env_sealed: server.app.sealer.seal(ENV_PURPOSE, b"{}"),
            memory_mb: 512,
            vcpus: 2,
            disk_mb: 1024,
            wanted: Wanted::Running,
            ends_at: minutes.map(|minutes| now + SignedDuration::from_mins(minutes)),
            now,
        };
        let created = server.app.store.create_workshop(new).await;
        world.trace.note(&format!("created {}: {:?}", self.id, created.err()));
        server.app.wake.notify_one();
    }

    pub(crate) fn seat(&self, dice: &mut Dice) -> SeatNumber {
        SeatNumber::new(u32::try_from(1 + dice.below(self.seats as usize)).unwrap()).unwrap()
    }

    pub(crate) async fn want(self, world: Arc<World>, server: Arc<Server>, wanted: Wanted) {
        let now = server.clock.now();
        let done = server.app.set_wanted(&Caller::Admin, &self.id, wanted, now).await;
        world.trace.note(&format!("{} wanted {wanted}: {:?}", self.id, done.err().map(|e| e.to_string())));
    }

    pub(crate) async fn reset(self, world: Arc<World>, server: Arc<Server>, seat: SeatNumber) {
        let now = server.clock.now();
        let done = server.app.reset_seat(&Caller::Admin, &self.id, seat, now).await;
        let done = done.map(|seat| seat.generation).map_err(|error| error.to_string());
        world.trace.note(&format!("{} seat {seat} reset: {done:?}", self.id));
    }

    pub(crate) async fn evict(self, world: Arc<World>, server: Arc<Server>, seat: SeatNumber) {
        let now = server.clock.now();
        let done = server.app.evict(&Caller::Admin, &self.id, seat, now).await;
        world.trace.note(&format!(
            "{} seat {seat} evicted: {:?}",
            self.id,
            done.err().map(|e| e.to_string())
        ));
    }

    pub(crate) async fn extend(self, world: Arc<World>, server: Arc<Server>, minutes: u32) {
        let now = server.clock.now();
        let wish = ExtendWorkshop { ends_at: None, minutes: Some(minutes) };
        let done = server.app.extend_workshop(&Caller::Admin, &self.id, wish, now).await;
        world.trace.note(&format!("{} extended: {:?}", self.id, done.err().map(|e| e.to_string())));
    }
}

impl Learner {
    pub(crate) fn draw(dice: &mut Dice, class: &Class) -> Self {
        Self { class: class.clone(), name: dice.id("l"), told: Mutex::default() }
    }

    /// Joins, or comes back: by the browser's mark, and `with_code` by the session code too.
    pub(crate) async fn join(self: Arc<Self>, world: Arc<World>, server: Arc<Server>, with_code: bool) {
        let (new_session, new_code) = {
            let mut dice = world.dice();
            let session: SessionId = dice.id("s").parse().unwrap();
            (session, CodeHash(*blake3::hash(dice.id("c").as_bytes()).as_bytes()))
        };
        let (before, returning_code) = {
            let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            (told.session.clone(), told.code.filter(|_| with_code))
        };
        let wish = JoinWish {
            join_code: self.class.join_code,
            new_session,
            new_code,
            returning_code,
            client_id: Some(format!("browser-of-{}", self.name)),
            name: Some(self.name.clone()),
            now: server.clock.now(),
        };
        let decision = server.app.store.join(wish).await;
        server.app.wake.notify_one();
        let (session, code_is_new, heard) = match decision {
            Ok(JoinDecision::Seated { session, seat, code_is_new, .. }) => {
                let heard = format!("seated at {} in generation {}", seat.key, seat.generation);
                (session, code_is_new, heard)
            }
            Ok(JoinDecision::Waiting { session, place, code_is_new, .. }) => {
                (session, code_is_new, format!("place {place} in line"))
            }
            other => {
                world.trace.note(&format!("{} joins {}: {other:?}", self.name, self.class.id));
                return;
            }
        };
        world.trace.note(&format!("{} joins {} as {}: {heard}", self.name, self.class.id, session.id));
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.session = Some(session.id.clone());
        if code_is_new {
            told.code = Some(new_code);
        }
        drop(told);
        // One browser has one session, until that is over.
        if let Some(before) = before.filter(|before| *before != session.id)
            && world.is_active(&before)
        {
            world.broken(&format!("{} was {before} and is {} now", self.name, session.id));
        }
    }

    pub(crate) async fn leave(self: Arc<Self>, world: Arc<World>, server: Arc<Server>) {
        let session = self.told.lock().unwrap_or_else(PoisonError::into_inner).session.clone();
        let Some(session) = session else { return };
        let left = server.app.store.end_session(&session, EndReason::Left, server.clock.now()).await;
        let left = match left {
            Ok(_) | Err(StoreError::NotFound { .. }) => "gone".to_owned(),
            Err(error) => error.to_string(),
        };
        world.trace.note(&format!("{} leaves as {session}: {left}", self.name));
        server.app.wake.notify_one();
    }
}
