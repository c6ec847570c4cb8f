//! Compares one workshop's wish with what its runtime shows and says what to do and what to write down. Pure: a test
//! can read every decision.

use std::collections::{BTreeMap, BTreeSet};

use clarateach_ids::{Generation, SeatKey, SeatNumber};
use clarateach_lifecycle::{
    EnvironmentSight, SeatState, SeatTally, Wanted, WorkshopStatus, observe_seat, workshop_status,
};
use clarateach_runtime::{Environment, EnvironmentState, Reason};
use clarateach_store::{SeatRecord, SeatWrite, WorkshopRecord};
use jiff::{SignedDuration, Timestamp};

use crate::app::fleet::merge::WORKER_UNREACHABLE;
use crate::app::fleet::registry::WORKER_FORGOTTEN;

/// How long an environment may take from apply to ready before it counts as failed.
const START_WITHIN: SignedDuration = SignedDuration::from_secs(90);
/// How long a free seat's environment may stay silent before it is made anew.
const SILENT_AT_MOST: SignedDuration = SignedDuration::from_secs(20);
/// After so many failures in a row a seat is shown as failed; it is still tried now and then.
pub const SHOWN_AS_FAILED_AFTER: u32 = 3;
/// The reason of an apply of which nobody knows what came.
const UNANSWERED: &str = "RUNTIME_UNAVAILABLE";
/// The reason of an apply that a worker has written down it is never to fulfil.
const STALE: &str = "STALE_GENERATION";
const FIRST_RETRY: SignedDuration = SignedDuration::from_secs(1);
const SLOWEST_RETRY: SignedDuration = SignedDuration::from_secs(60);

/// One thing to ask of the runtime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Make or restart this generation of a seat.
    Apply(SeatNumber, Generation),
    /// Remove everything of a seat up to this generation.
    Remove(SeatKey, Generation),
}

/// What was learned about an apply since the last look.
pub type Failures = BTreeMap<(SeatNumber, Generation), Reason>;

/// What is known of a workshop when it is looked at.
#[derive(Debug)]
pub struct Sight<'a> {
    /// The wish.
    pub workshop: &'a WorkshopRecord,
    /// Its seats, each with whether a learner holds it.
    pub seats: &'a [(SeatRecord, bool)],
    /// What the runtime shows of it.
    pub environments: &'a [Environment],
    /// Calls to the runtime that have not come back.
    pub in_flight: &'a BTreeSet<SeatKey>,
    /// Applies that were refused or failed since the last look.
    pub failures: &'a Failures,
    /// Free seats that should be made anew elsewhere: their worker is being drained.
    pub leaving: &'a BTreeSet<SeatNumber>,
    /// Whether the image is ready to be used; else why it can't be.
    pub image: ImageState,
    /// Now.
    pub now: Timestamp,
}

/// Whether environments can be made from the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageState {
    /// It is there.
    Ready,
    /// It is being fetched.
    Fetching,
    /// It can't be had, for now.
    Failed(Reason),
}

/// What to do and what to write down.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// To ask of the runtime.
    pub actions: Vec<Action>,
    /// Seats whose record changes.
    pub seats: Vec<SeatWrite>,
    /// The workshop's status after it.
    pub status: Option<WorkshopStatus>,
    /// Why.
    pub reason: Option<(String, String)>,
    /// Nothing of a workshop that is to be deleted is left.
    pub purge: bool,
    /// When to look again, should nothing happen until then.
    pub look_again: Option<Timestamp>,
}

fn backoff(attempts: u32) -> SignedDuration {
    let doubled = FIRST_RETRY.checked_mul(1 << attempts.saturating_sub(1).min(16)).unwrap_or(SLOWEST_RETRY);
    doubled.min(SLOWEST_RETRY)
}

fn pair(reason: &Reason) -> (String, String) {
    (reason.code.clone(), reason.message.clone())
}

const fn sight_of(state: EnvironmentState) -> EnvironmentSight {
    match state {
        EnvironmentState::Starting => EnvironmentSight::Starting,
        EnvironmentState::Ready => EnvironmentSight::Ready,
        EnvironmentState::Unresponsive => EnvironmentSight::Unresponsive,
        EnvironmentState::Stopped => EnvironmentSight::Stopped,
        EnvironmentState::Failed => EnvironmentSight::Failed,
        EnvironmentState::Removing => EnvironmentSight::Absent,
    }
}

/// The decisions for one workshop.
#[must_use]
pub fn plan(sight: &Sight<'_>) -> Plan {
    match sight.workshop.wanted {
        Wanted::Running => run(sight),
        Wanted::Created | Wanted::Stopped | Wanted::Deleted => clear(sight),
    }
}

/// Nothing is wanted: remove what is there, and what may come back.
fn clear(sight: &Sight<'_>) -> Plan {
    let mut plan = Plan::default();
    let mut left = 0;
    for environment in sight.environments {
        left += 1;
        if !sight.in_flight.contains(&environment.key) {
            plan.actions.push(Action::Remove(environment.key.clone(), environment.generation));
        }
    }
    let busy = sight.seats.iter().filter(|(seat, _)| sight.in_flight.contains(&seat.key)).count();
    for (seat, _) in sight.seats {
        if seat.state != SeatState::Pending || seat.reason.is_some() {
            plan.seats.push(SeatWrite {
                state: SeatState::Pending,
                reason: None,
                attempts: 0,
                retry_at: None,
                ..unchanged(seat)
            });
        }
    }
    let tally =
        SeatTally { environments: left.max(u32::try_from(busy).unwrap_or(u32::MAX)), ..SeatTally::default() };
    settle(&mut plan, sight, tally);
    plan.purge = sight.workshop.wanted == Wanted::Deleted && tally.environments == 0;
    plan
}

fn unchanged(seat: &SeatRecord) -> SeatWrite {
    SeatWrite {
        seat: seat.key.seat,
        generation: seat.generation,
        next_generation: seat.generation,
        state: seat.state,
        reason: seat.reason.clone(),
        attempts: seat.attempts,
        retry_at: seat.retry_at,
        only_if_free: false,
    }
}

fn differs(write: &SeatWrite, seat: &SeatRecord) -> bool {
    SeatWrite { only_if_free: false, ..write.clone() } != unchanged(seat)
}

fn run(sight: &Sight<'_>) -> Plan {
    let mut plan = Plan::default();
    let mut tally = SeatTally::default();
    let environments = newest(sight.environments);
    for (seat, held) in sight.seats {
        let decision =
            Seat { sight, seat, held: *held, environment: environments.get(&seat.key.seat).copied() }
                .decide();
        match decision.write.state {
            SeatState::Ready | SeatState::Unreachable => tally.usable += 1,
            SeatState::Pending | SeatState::Starting => tally.underway += 1,
            SeatState::Failed => tally.failed += 1,
        }
        if let Some(at) = decision.write.retry_at.filter(|at| *at > sight.now) {
            plan.look_again = Some(plan.look_again.map_or(at, |earlier| earlier.min(at)));
        }
        if differs(&decision.write, seat) {
            plan.seats.push(decision.write);
        }
        plan.actions.extend(decision.action);
    }
    let seats = u32::try_from(sight.seats.len()).unwrap_or(u32::MAX);
    for environment in sight.environments.iter().filter(|e| e.key.seat.get() > seats) {
        plan.actions.push(Action::Remove(environment.key.clone(), environment.generation));
    }
    tally.environments = u32::try_from(sight.environments.len()).unwrap_or(u32::MAX);
    settle(&mut plan, sight, tally);
    plan
}

/// Of each seat what was made last: a worker that was away may still show an older make of it.
fn newest(environments: &[Environment]) -> BTreeMap<SeatNumber, &Environment> {
    let mut newest: BTreeMap<SeatNumber, &Environment> = BTreeMap::new();
    for environment in environments {
        let known = newest.entry(environment.key.seat).or_insert(environment);
        if environment.generation > known.generation {
            *known = environment;
        }
    }
    newest
}

fn settle(plan: &mut Plan, sight: &Sight<'_>, tally: SeatTally) {
    let status = workshop_status(sight.workshop.status, sight.workshop.wanted, tally);
    let reason = match (&sight.image, status) {
        (ImageState::Failed(reason), WorkshopStatus::Error | WorkshopStatus::Provisioning) => {
            Some(pair(reason))
        }
        (_, WorkshopStatus::Error) => {
            let written = plan.seats.iter().find_map(|write| write.reason.clone());
            written.or_else(|| sight.seats.iter().find_map(|(seat, _)| seat.reason.clone()))
        }
        _ => None,
    };
    if status != sight.workshop.status || reason != sight.workshop.reason {
        plan.status = Some(status);
        plan.reason = reason;
    }
}

struct Decision {
    write: SeatWrite,
    action: Option<Action>,
}

struct Seat<'a> {
    sight: &'a Sight<'a>,
    seat: &'a SeatRecord,
    held: bool,
    environment: Option<&'a Environment>,
}

impl Seat<'_> {
    fn decide(&self) -> Decision {
        if self.sight.in_flight.contains(&self.seat.key) {
            return self.leave();
        }
        if let Some(reason) = self.sight.failures.get(&(self.seat.key.seat, self.seat.generation)) {
            return if reason.code == UNANSWERED { self.unanswered(reason) } else { self.failed(reason) };
        }
        self.looked_at()
    }

    fn looked_at(&self) -> Decision {
        match self.environment {
            // A store that was restored from a backup: the runtime knows a newer make than the store does.
            Some(environment) if environment.generation > self.seat.generation => self.catch_up(environment),
            Some(environment) if environment.generation == self.seat.generation => self.seen(environment),
            _ => self.absent(),
        }
    }

    /// Nobody knows what came of the apply. What is there decides; where nothing is, the seat says why not yet, also one
    /// that failed for another reason before.
    fn unanswered(&self, reason: &Reason) -> Decision {
        let decision = self.looked_at();
        let shown = matches!(decision.write.state, SeatState::Starting | SeatState::Failed)
            && decision.action.is_some();
        if !shown {
            return decision;
        }
        let write = SeatWrite { reason: Some(pair(reason)), ..decision.write };
        Decision { write, ..decision }
    }

    fn leave(&self) -> Decision {
        Decision { write: unchanged(self.seat), action: None }
    }

    fn write(&self, state: SeatState, reason: Option<(String, String)>) -> SeatWrite {
        SeatWrite { state, reason, ..unchanged(self.seat) }
    }

    fn apply(&self) -> Option<Action> {
        Some(Action::Apply(self.seat.key.seat, self.seat.generation))
    }

    fn due(&self) -> bool {
        self.seat.retry_at.is_none_or(|at| at <= self.sight.now)
    }

    fn catch_up(&self, environment: &Environment) -> Decision {
        if self.held {
            // A held seat never changes by itself; a person decides.
            let message = "The database is older than this seat's environment, as after restoring a backup. \
                           Reset the seat, or evict its learner.";
            let reason = Some(("NEWER_ENVIRONMENT".to_owned(), message.to_owned()));
            return Decision { write: self.write(SeatState::Unreachable, reason), action: None };
        }
        let next_generation = environment.generation.next();
        let write = SeatWrite { next_generation, only_if_free: true, ..self.write(SeatState::Pending, None) };
        Decision { write, action: None }
    }

    fn seen(&self, environment: &Environment) -> Decision {
        let state = observe_seat(self.seat.state, sight_of(environment.state));
        match environment.state {
            EnvironmentState::Ready if !self.held && self.sight.leaving.contains(&self.seat.key.seat) => {
                self.anew(None)
            }
            EnvironmentState::Ready => {
                let write = SeatWrite { attempts: 0, retry_at: None, ..self.write(state, None) };
                Decision { write, action: None }
            }
            EnvironmentState::Removing => self.leave(),
            EnvironmentState::Starting if state == SeatState::Starting => self.starting(),
            EnvironmentState::Starting => {
                Decision { write: self.write(state, self.seat.reason.clone()), action: None }
            }
            EnvironmentState::Unresponsive => self.silent(environment, state),
            EnvironmentState::Stopped | EnvironmentState::Failed => {
                let reason = environment.reason.clone().unwrap_or_else(|| {
                    Reason::new("ENVIRONMENT_ENDED", "The seat's environment has ended without saying why.")
                });
                self.ended(&reason)
            }
        }
    }

    /// On its way to ready, within a time.
    fn starting(&self) -> Decision {
        if self.seat.state != SeatState::Starting || self.seat.retry_at.is_none() || self.was_out_of_sight() {
            let retry_at = Some(self.sight.now + START_WITHIN);
            let write = SeatWrite { retry_at, ..self.write(SeatState::Starting, None) };
            return Decision { write, action: None };
        }
        if self.due() {
            let message = format!("The seat did not become ready within {} seconds.", START_WITHIN.as_secs());
            return self.failed(&Reason::new("START_TIMEOUT", message));
        }
        self.leave()
    }

    /// It was never ready, and its worker can't be asked: what a free seat was about to become there, it may as well
    /// become elsewhere. It is not called unreachable: nobody could use it yet.
    fn starting_out_of_sight(&self, reason: Option<(String, String)>) -> Decision {
        if self.was_out_of_sight() && self.due() {
            return self.anew(reason);
        }
        let retry_at =
            if self.was_out_of_sight() { self.seat.retry_at } else { Some(self.sight.now + SILENT_AT_MOST) };
        Decision { write: SeatWrite { retry_at, ..self.write(SeatState::Starting, reason) }, action: None }
    }

    fn was_out_of_sight(&self) -> bool {
        let of_worker = |(code, _): &(String, String)| code == WORKER_UNREACHABLE;
        self.seat.retry_at.is_some() && self.seat.reason.as_ref().is_some_and(of_worker)
    }

    /// Runs and does not answer: a learner's seat is left alone, a free one is made anew after a while.
    fn silent(&self, environment: &Environment, state: SeatState) -> Decision {
        let reason = environment.reason.as_ref().map(pair);
        let away = environment.reason.as_ref().is_some_and(|reason| reason.code == WORKER_UNREACHABLE);
        if away && !self.held && state == SeatState::Starting {
            return self.starting_out_of_sight(reason);
        }
        if self.held || state == SeatState::Starting {
            return if state == SeatState::Starting {
                self.starting()
            } else {
                Decision { write: self.write(state, reason), action: None }
            };
        }
        if self.seat.state == SeatState::Unreachable && self.seat.retry_at.is_some() && self.due() {
            return self.anew(reason);
        }
        let retry_at = match self.seat.state {
            SeatState::Unreachable if self.seat.retry_at.is_some() => self.seat.retry_at,
            _ => Some(self.sight.now + SILENT_AT_MOST),
        };
        Decision { write: SeatWrite { retry_at, ..self.write(state, reason) }, action: None }
    }

    /// No environment of this generation.
    fn absent(&self) -> Decision {
        let was_there = matches!(self.seat.state, SeatState::Ready | SeatState::Unreachable);
        if was_there && !self.held {
            return self.anew(None);
        }
        // A runtime shows a disk without its environment too. So nothing of what a learner sits on is left, and an
        // apply would give them an empty one without a word.
        if was_there && self.environment.is_none() {
            let message = "The seat's environment and its disk were removed from outside. Reset the seat to give its \
                           learner a fresh one.";
            let reason = match &self.seat.reason {
                Some(told) if told.0 == WORKER_FORGOTTEN => Some(told.clone()),
                Some((code, _)) if code == WORKER_UNREACHABLE => {
                    let message = "The worker that had this seat and its disk was given up, or came back without \
                                   them. Reset the seat to give its learner a fresh one.";
                    Some((WORKER_FORGOTTEN.to_owned(), message.to_owned()))
                }
                _ => Some(("DISK_GONE".to_owned(), message.to_owned())),
            };
            let write = SeatWrite { retry_at: None, ..self.write(SeatState::Unreachable, reason) };
            return Decision { write, action: None };
        }
        let state = if was_there { SeatState::Unreachable } else { self.seat.state };
        match &self.sight.image {
            ImageState::Failed(reason) => {
                let state = if was_there { state } else { SeatState::Failed };
                Decision { write: self.write(state, Some(pair(reason))), action: None }
            }
            ImageState::Fetching => {
                let state = if was_there { state } else { SeatState::Pending };
                Decision { write: SeatWrite { retry_at: None, ..self.write(state, None) }, action: None }
            }
            // `Starting` with a time to be ready by, and nothing there: the apply never happened. Ask again.
            ImageState::Ready if self.seat.state == SeatState::Starting || self.due() => {
                let state = match state {
                    SeatState::Unreachable | SeatState::Failed => state,
                    _ => SeatState::Starting,
                };
                let write = SeatWrite { retry_at: None, ..self.write(state, self.kept_reason(state)) };
                Decision { write, action: self.apply() }
            }
            ImageState::Ready => {
                Decision { write: self.write(state, self.seat.reason.clone()), action: None }
            }
        }
    }

    fn kept_reason(&self, state: SeatState) -> Option<(String, String)> {
        let stays = |(code, _): &(String, String)| state != SeatState::Starting || code == UNANSWERED;
        self.seat.reason.clone().filter(stays)
    }

    /// What is there has ended, or never came up. That of a held seat is not replaced, so it goes on showing while the
    /// seat waits for its next try: it counts once.
    fn ended(&self, reason: &Reason) -> Decision {
        let counted =
            matches!(self.seat.state, SeatState::Pending | SeatState::Failed) && self.seat.retry_at.is_some();
        if !self.held || !counted {
            return self.failed(reason);
        }
        if !self.due() {
            return self.leave();
        }
        let state =
            if self.seat.state == SeatState::Failed { SeatState::Failed } else { SeatState::Starting };
        let write = SeatWrite { retry_at: None, ..self.write(state, self.kept_reason(state)) };
        Decision { write, action: self.apply() }
    }

    /// It could not be made, or it ended. A held seat is started again in place, on its own disk; a free one is made
    /// anew. Both wait a little longer each time. A held seat that never was ready goes on to its next make when its
    /// worker has written down that it is not to make this one: nobody has worked in it, and maybe nobody else has room.
    fn failed(&self, reason: &Reason) -> Decision {
        let was_ready = matches!(self.seat.state, SeatState::Ready | SeatState::Unreachable);
        // The wait that was set with the last failure is over, or this is the first.
        if self.held && was_ready {
            if self.seat.state == SeatState::Unreachable && self.seat.retry_at.is_some() {
                return if self.due() {
                    let write = SeatWrite {
                        retry_at: None,
                        ..self.write(SeatState::Unreachable, Some(pair(reason)))
                    };
                    Decision { write, action: self.apply() }
                } else {
                    self.leave()
                };
            }
            // The first restart is at once: most deaths are one of a kind.
            let attempts = self.seat.attempts + 1;
            let action = if attempts == 1 { self.apply() } else { None };
            let retry_at = if attempts == 1 { None } else { Some(self.sight.now + backoff(attempts - 1)) };
            let write =
                SeatWrite { attempts, retry_at, ..self.write(SeatState::Unreachable, Some(pair(reason))) };
            return Decision { write, action };
        }
        let attempts = self.seat.attempts + 1;
        let state = if attempts >= SHOWN_AS_FAILED_AFTER { SeatState::Failed } else { SeatState::Pending };
        let renews = !self.held || (!self.seat.was_ready && reason.code == STALE);
        let write = SeatWrite {
            next_generation: if renews { self.seat.generation.next() } else { self.seat.generation },
            attempts,
            retry_at: Some(self.sight.now + backoff(attempts)),
            only_if_free: !self.held,
            ..self.write(state, Some(pair(reason)))
        };
        Decision { write, action: None }
    }

    /// A free seat, from scratch.
    fn anew(&self, reason: Option<(String, String)>) -> Decision {
        let write = SeatWrite {
            next_generation: self.seat.generation.next(),
            retry_at: None,
            only_if_free: true,
            ..self.write(SeatState::Pending, reason)
        };
        Decision { write, action: None }
    }
}
