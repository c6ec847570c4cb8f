//! What must never happen, looked at whenever the store or a host changes.

use std::collections::{BTreeMap, BTreeSet};

use clarateach_ids::{Generation, SeatKey, SessionId, WorkshopId};
use clarateach_lifecycle::{EndReason, SeatState, Wanted, WorkshopStatus};
use clarateach_store::{
    Fence, JoinDecision, JoinWish, NewWorkshop, Placement, SessionRecord, Store, StoreError, WorkerRecord,
    WorkerWish, WorkshopRecord, WorkshopWrite,
};
use jiff::Timestamp;

use crate::host::{Gone, Host};
use crate::world::{World, at_once};

/// What is remembered to tell right from wrong.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    /// The first thing that must never happen and did.
    pub(crate) broken: Option<String>,
    /// Who waits, in the order in which they came.
    lines: BTreeMap<WorkshopId, Vec<SessionId>>,
    /// Who sits where.
    seated: BTreeMap<SeatKey, SessionId>,
    /// Makes of seats that have been ready.
    ready: BTreeSet<(SeatKey, Generation)>,
    /// Makes of seats that their worker ended when their time had come.
    expired: BTreeSet<(SeatKey, Generation)>,
    /// Each lease's token since it last changed hands.
    tokens: BTreeMap<String, u64>,
    /// How often what happened, to show that a run was worth it.
    pub(crate) counts: BTreeMap<&'static str, u64>,
}

impl Rules {
    pub(crate) fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    /// Whether its worker ended this make of a seat, disk and all, since nobody told it of a later end.
    pub(crate) fn has_expired(&self, key: &SeatKey, generation: Generation) -> bool {
        self.expired.contains(&(key.clone(), generation))
    }

    fn leave(&mut self, session: &SessionId) {
        for line in self.lines.values_mut() {
            line.retain(|waiting| waiting != session);
        }
        self.seated.retain(|_, sits| sits != session);
    }

    fn clear(&mut self, workshop: &WorkshopId) {
        self.lines.remove(workshop);
        self.seated.retain(|key, _| key.workshop != *workshop);
    }
}

impl World {
    /// Whether somebody waits or sits under this session.
    pub(crate) fn is_active(&self, session: &SessionId) -> bool {
        let rules = self.rules();
        rules.seated.values().any(|sits| sits == session)
            || rules.lines.values().flatten().any(|w| w == session)
    }

    fn sit(&self, key: SeatKey, session: &SessionId) {
        let sits = self.rules().seated.insert(key.clone(), session.clone());
        if let Some(other) = sits.filter(|other| other != session) {
            self.broken(&format!("{key} was given to {session} while {other} sits there"));
        }
    }

    /// A lease was had.
    pub(crate) fn leased(&self, lease: &clarateach_store::Lease) {
        self.rules().tokens.insert(lease.name.clone(), lease.token);
    }

    /// A write on the strength of a lease was accepted.
    fn decided(&self, fence: Option<&Fence>) {
        let Some(fence) = fence else { return };
        let now = self.rules().tokens.get(&fence.lease).copied();
        if now != Some(fence.token) {
            self.broken(&format!("{} was written with token {}, and has {now:?}", fence.lease, fence.token));
        }
    }

    // --- the store -------------------------------------------------------------------------------------------------

    pub(crate) fn create_workshop(&self, new: NewWorkshop) -> Result<WorkshopRecord, StoreError> {
        at_once(self.store.create_workshop(new))
    }

    pub(crate) fn set_wanted(
        &self,
        id: &WorkshopId,
        wanted: Wanted,
        now: Timestamp,
    ) -> Result<WorkshopRecord, StoreError> {
        let workshop = at_once(self.store.set_wanted(id, wanted, now))?;
        if wanted == Wanted::Deleted {
            self.rules().clear(id);
        }
        Ok(workshop)
    }

    pub(crate) fn purge_workshop(&self, id: &WorkshopId, fence: Option<&Fence>) -> Result<(), StoreError> {
        at_once(self.store.purge_workshop(id, self.shown(fence.cloned()).as_ref()))?;
        self.decided(fence);
        self.rules().count("workshops removed");
        if let Some(left) = self.there_is(id).first() {
            self.broken(&format!("{id} was called gone while there is {left}"));
        }
        Ok(())
    }

    pub(crate) fn end_session(
        &self,
        id: &SessionId,
        reason: EndReason,
        now: Timestamp,
    ) -> Result<SessionRecord, StoreError> {
        let ended = at_once(self.store.end_session(id, reason, now))?;
        self.rules().leave(id);
        Ok(ended)
    }

    pub(crate) fn set_worker_wish(&self, id: &str, wish: WorkerWish) -> Result<WorkerRecord, StoreError> {
        let worker = at_once(self.store.set_worker_wish(id, wish))?;
        if wish == WorkerWish::Forgotten
            && let Some(host) = self.host(&worker.address)
        {
            host.forgotten();
        }
        Ok(worker)
    }

    pub(crate) fn place(&self, fence: Option<&Fence>, placement: Placement) -> Result<Placement, StoreError> {
        let placed = at_once(self.store.place(self.shown(fence.cloned()).as_ref(), placement));
        match &placed {
            Ok(_) => self.decided(fence),
            Err(StoreError::Fenced { .. }) => self.rules().count("placements fenced off"),
            Err(_) => {}
        }
        placed
    }

    pub(crate) fn unplace(
        &self,
        key: &SeatKey,
        worker: &str,
        generation: Generation,
    ) -> Result<(), StoreError> {
        at_once(self.store.unplace(key, worker, generation))?;
        for host in self.hosts().into_iter().filter(|host| host.id == worker && !host.was_forgotten()) {
            if host.environments().iter().any(|e| e.key == *key && e.generation <= generation) {
                self.broken(&format!("{worker} was said to have nothing of {key} left, and has"));
            }
        }
        Ok(())
    }

    pub(crate) fn join(&self, wish: JoinWish) -> Result<JoinDecision, StoreError> {
        let drawn = wish.new_session.clone();
        let decision = at_once(self.store.join(wish))?;
        match &decision {
            JoinDecision::Seated { session, seat, returning, .. } => {
                let waiting = self.rules().lines.get(&session.workshop).map_or(0, Vec::len);
                if !returning && waiting > 0 {
                    self.broken(&format!("{} was seated before {waiting} who wait", session.id));
                }
                let sits = self.rules().seated.get(&seat.key).cloned();
                if *returning && sits.as_ref() != Some(&session.id) {
                    self.broken(&format!(
                        "{} came back and was led to {}, not its own",
                        session.id, seat.key
                    ));
                }
                self.sit(seat.key.clone(), &session.id);
                self.rules().count("learners seated at once");
            }
            JoinDecision::Waiting { session, place, .. } => {
                let expected = {
                    let mut rules = self.rules();
                    let line = rules.lines.entry(session.workshop.clone()).or_default();
                    if session.id == drawn {
                        line.push(session.id.clone());
                    }
                    line.iter().position(|waiting| *waiting == session.id).map(|n| n + 1)
                };
                if expected != Some(usize::try_from(*place).unwrap()) {
                    self.broken(&format!("{} is told place {place}, and has {expected:?}", session.id));
                }
            }
            _ => {}
        }
        Ok(decision)
    }

    pub(crate) fn write_workshop(&self, write: WorkshopWrite) -> Result<Vec<SessionRecord>, StoreError> {
        let (id, fence) = (write.id.clone(), write.fence.clone());
        let write = WorkshopWrite { fence: self.shown(write.fence.clone()), ..write };
        let before = at_once(self.store.seats(&id))?;
        let status_before = at_once(self.store.workshop(&id))?.status;
        let changed: BTreeSet<_> = write.seats.iter().map(|seat| seat.seat).collect();
        let seated = match at_once(self.store.write_workshop(write)) {
            Err(error) => {
                if matches!(error, StoreError::Fenced { .. }) {
                    self.rules().count("writes fenced off");
                }
                return Err(error);
            }
            Ok(seated) => seated,
        };
        self.decided(fence.as_ref());
        for session in &seated {
            let first = {
                let mut rules = self.rules();
                let line = rules.lines.entry(id.clone()).or_default();
                if line.is_empty() { None } else { Some(line.remove(0)) }
            };
            if first.as_ref() != Some(&session.id) {
                self.broken(&format!("{} was seated before {first:?}, who came first", session.id));
            }
            let Some(seat) = session.seat else { continue };
            self.sit(SeatKey { workshop: id.clone(), seat }, &session.id);
            self.rules().count("learners seated from the line");
        }
        let after = at_once(self.store.seats(&id))?;
        for ((was, held_by), (is, holds)) in before.iter().zip(&after) {
            if is.generation < was.generation {
                self.broken(&format!("{} went back from {} to {}", is.key, was.generation, is.generation));
            }
            if let Some(held_by) = held_by {
                if is.generation != was.generation {
                    // But for a make that no worker ever had ready: nobody can have worked in it.
                    if self.rules().ready.contains(&(was.key.clone(), was.generation)) {
                        self.broken(&format!(
                            "{}, which {} holds, was made anew by itself",
                            is.key, held_by.id
                        ));
                    }
                    self.rules().count("held seats made anew that never were ready");
                }
                if holds.as_ref().map(|session| &session.id) != Some(&held_by.id) {
                    self.broken(&format!("{} was taken from {} by itself", is.key, held_by.id));
                }
            }
            let newly_ready = is.state == SeatState::Ready && changed.contains(&is.key.seat);
            if newly_ready && !self.rules().ready.contains(&(is.key.clone(), is.generation)) {
                self.broken(&format!("{} is called ready at {}, and never was", is.key, is.generation));
            }
        }
        let status = at_once(self.store.workshop(&id))?.status;
        if status != status_before {
            self.claims(&id, status);
        }
        Ok(seated)
    }

    fn was_ready(&self, id: &WorkshopId) -> bool {
        self.rules().ready.iter().any(|(key, _)| key.workshop == *id)
    }

    /// What a status says is so.
    fn claims(&self, id: &WorkshopId, status: WorkshopStatus) {
        match status {
            WorkshopStatus::Stopped => {
                self.rules().count("workshops stopped");
                if let Some(left) = self.there_is(id).first() {
                    self.broken(&format!("{id} is called stopped while there is {left}"));
                }
            }
            WorkshopStatus::Running if !self.was_ready(id) => {
                self.broken(&format!("{id} is called running, and none of its seats ever was ready"));
            }
            _ => {}
        }
    }

    // --- hosts -----------------------------------------------------------------------------------------------------

    /// An environment has come to be.
    pub(crate) fn made(&self, host: &Host, key: &SeatKey, generation: Generation) {
        self.trace.note(&format!("{}: made {key} at {generation}", host.id));
        self.rules().count("environments made");
        if host.was_forgotten() {
            return;
        }
        let this = format!("{key} at generation {generation} on {}", host.id);
        for other in self.hosts().into_iter().filter(|other| other.id != host.id && !other.was_forgotten()) {
            if other.environments().iter().any(|e| e.key == *key && e.generation == generation) {
                self.broken(&format!("there are two: {this} and on {}", other.id));
            }
        }
        let placements = at_once(self.store.placements(Some(&key.workshop))).unwrap_or_default();
        if !placements
            .iter()
            .any(|row| row.key == *key && row.worker == host.id && row.generation >= generation)
        {
            self.broken(&format!("made without being placed: {this}"));
        }
        match at_once(self.store.workshop(&key.workshop)) {
            Err(_) => self.broken(&format!("made for a workshop that is gone: {this}")),
            Ok(workshop)
                if workshop.wanted != Wanted::Running && workshop.status == WorkshopStatus::Stopped =>
            {
                self.broken(&format!("made for a workshop that is called stopped: {this}"));
            }
            Ok(_) => {}
        }
        let seats = at_once(self.store.seats(&key.workshop)).unwrap_or_default();
        if !seats.iter().any(|(seat, _)| seat.key == *key && seat.generation >= generation) {
            self.broken(&format!("made before anybody wanted it: {this}"));
        }
    }

    /// An environment is ready for the first time, or again.
    pub(crate) fn ready(&self, host: &Host, key: &SeatKey, generation: Generation) {
        self.trace.note(&format!("{}: ready {key} at {generation}", host.id));
        self.rules().ready.insert((key.clone(), generation));
    }

    /// An environment is gone, with its disk.
    pub(crate) fn gone(&self, host: &Host, key: &SeatKey, generation: Generation, how: Gone) {
        self.trace.note(&format!("{}: gone {key} at {generation}: {how:?}", host.id));
        self.rules().count(match how {
            Gone::Replaced => "environments replaced",
            Gone::Removed => "environments removed",
            Gone::Expired => "environments ended by their worker",
        });
        if how == Gone::Expired {
            self.rules().expired.insert((key.clone(), generation));
        }
        if how == Gone::Expired || host.was_forgotten() {
            return;
        }
        if let Some((wanted, holder)) = self.wanted(key)
            && wanted == generation
        {
            let holder = holder.unwrap_or_else(|| "nobody".to_owned());
            let host = &host.id;
            self.broken(&format!(
                "{key} at {generation} on {host} is gone ({how:?}) while it is wanted; it is held by {holder}"
            ));
        }
    }

    /// Looks at everything: after each step, whatever it was.
    pub(crate) fn inspect(&self) {
        let workshops = at_once(self.store.workshops(None)).unwrap();
        let mut sits = BTreeMap::new();
        for (workshop, _) in &workshops {
            for (seat, holder) in at_once(self.store.seats(&workshop.id)).unwrap() {
                if let Some(session) = holder {
                    sits.insert(seat.key, session.id);
                }
            }
        }
        let remembered = self.rules().seated.clone();
        if sits != remembered {
            self.broken(&format!("the store seats {sits:?}, and those seated were {remembered:?}"));
        }
        let placements = at_once(self.store.placements(None)).unwrap();
        let mut makes: BTreeMap<(SeatKey, Generation), String> = BTreeMap::new();
        for host in self.hosts().into_iter().filter(|host| !host.was_forgotten()) {
            if let Some(key) = host.overdue() {
                self.broken(&format!("{key} should have ended on {} by itself", host.id));
            }
            for environment in host.environments() {
                let (key, generation) = (environment.key, environment.generation);
                let covered = placements
                    .iter()
                    .any(|row| row.key == key && row.worker == host.id && row.generation >= generation);
                if !covered {
                    self.broken(&format!("{key} at {generation} is on {} and not placed there", host.id));
                }
                if let Some(other) = makes.insert((key.clone(), generation), host.id.clone()) {
                    self.broken(&format!("{key} at {generation} is on {other} and on {}", host.id));
                }
            }
        }
    }
}
