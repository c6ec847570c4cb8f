//! Seats, and giving them to sessions. All of it under the lock of the workshop's row: what is read here stays so until
//! the transaction has ended.

use std::collections::{HashMap, VecDeque};

use clarateach_ids::{Generation, SeatKey, SeatNumber, WorkshopId};
use clarateach_lifecycle::{SeatState, SeatStatus, seat_status};
use jiff::Timestamp;
use tokio_postgres::Row;

use super::database::{Session, Write};
use super::failure::{Failure, Outcome, not_found};
use super::rows::{self, known_sessions};
use super::{events, sessions, workshops};
use crate::{SeatRecord, SeatWrite, SessionRecord, StoreError, event_data};

/// A seat, the id of the session that holds it and its learner's name.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) record: SeatRecord,
    pub(super) holder: Option<String>,
    learner: Option<String>,
}

impl Held {
    fn of(row: &Row) -> Outcome<Self> {
        Ok(Self {
            record: rows::seat(row)?,
            holder: rows::value(row, "session_id")?,
            learner: rows::value(row, "learner")?,
        })
    }

    /// Its seat anew, with whoever holds it.
    fn renewed(&self) -> Self {
        Self { record: self.record.renewed(), ..self.clone() }
    }

    fn status(&self) -> SeatStatus {
        seat_status(self.record.state, self.holder.is_some())
    }

    pub(super) fn is_free_and_ready(&self) -> bool {
        self.holder.is_none() && self.record.state == SeatState::Ready
    }
}

macro_rules! held {
    ($rest:expr) => {
        held!(where "seats.workshop_id = $1 ", $rest)
    };
    (where $workshop:expr, $rest:expr) => {
        concat!(
            "SELECT seats.workshop_id, n, generation, seats.state, reason_code, reason_text, attempts, retry_at,
                 session_id, ready_generation, sessions.name AS learner
             FROM seats LEFT JOIN sessions ON sessions.id = seats.session_id WHERE ",
            $workshop,
            $rest
        )
    };
}

/// Free seats of the workshop with a join code.
pub(super) const FREE: &str = held!(
    where "seats.workshop_id = (SELECT id FROM workshops WHERE join_code = $1) ",
    "AND session_id IS NULL ORDER BY n"
);

/// Seats there that sessions hold which are known by [`known_sessions`].
pub(super) const HELD: &str = held!(
    where "seats.workshop_id = (SELECT id FROM workshops WHERE join_code = $1) ",
    concat!("AND session_id IN (SELECT id FROM sessions WHERE ", known_sessions!(), ")")
);

pub(super) async fn find(db: &Session, key: &SeatKey) -> Outcome<Option<Held>> {
    let seat = db
        .query_opt(held!("AND seats.n = $2"), &[&key.workshop.as_str(), &i64::from(key.seat.get())])
        .await?;
    seat.as_ref().map(Held::of).transpose()
}

/// Which make each of these seats is at.
pub(super) async fn generations(
    db: &Session,
    id: &WorkshopId,
    seats: &[i64],
) -> Outcome<HashMap<SeatNumber, Generation>> {
    let found = db.query(held!("AND seats.n = ANY($2::int8[])"), &[&id.as_str(), &seats]).await?;
    let all = found.iter().map(|row| rows::seat(row).map(|seat| (seat.key.seat, seat.generation)));
    all.collect()
}

pub(super) async fn all(db: &Session, id: &WorkshopId) -> Outcome<Vec<Held>> {
    let seats = db.query(held!("ORDER BY n"), &[&id.as_str()]).await?;
    seats.iter().map(Held::of).collect()
}

/// Those of the workshop with a join code that sessions with these codes, or of these browsers, hold.
pub(super) async fn held_by(
    db: &Session,
    join_code: &str,
    codes: &[&[u8]],
    clients: &[&str],
) -> Outcome<Vec<Held>> {
    let seats = db.query(HELD, &[&join_code, &codes, &clients]).await?;
    seats.iter().map(Held::of).collect()
}

/// Ready free seats of the workshop with a join code, the lowest numbers first, and how many are free at all: failed
/// ones are tried again.
pub(super) async fn free(db: &Session, join_code: &str) -> Outcome<(VecDeque<Held>, u32)> {
    let seats = db.query(FREE, &[&join_code]).await?;
    let obtainable = u32::try_from(seats.len()).unwrap_or(u32::MAX);
    let seats: Vec<Held> = seats.iter().map(Held::of).collect::<Outcome<_>>()?;
    Ok((seats.into_iter().filter(Held::is_free_and_ready).collect(), obtainable))
}

/// Records `seats` seats at their first generation, pending.
pub(super) async fn create(write: &Write, id: &WorkshopId, seats: u32) -> Outcome<()> {
    write
        .execute(
            "INSERT INTO seats (workshop_id, n, generation, state)
             SELECT $1, n, 1, 'pending' FROM generate_series(1, $2::int8) AS n",
            &[&id.as_str(), &i64::from(seats)],
        )
        .await?;
    Ok(())
}

/// Adds `seat.<status>`.
fn announce(write: &Write, held: &Held, now: Timestamp) {
    let kind = format!("seat.{}", held.status());
    let data = event_data::of_seat(&held.record, held.learner.as_deref());
    events::add(write, &held.record.key.workshop, now, kind, &data);
}

/// Announces what people can see of the difference.
fn announce_change(write: &Write, before: &Held, after: &Held, now: Timestamp) {
    let seen = |held: &Held| (held.status(), held.record.generation, held.record.reason.clone());
    if seen(before) != seen(after) {
        announce(write, after, now);
    }
}

/// What [`store`] sends.
pub(super) const STORE: &str =
    "UPDATE seats SET generation = new.generation, state = new.state, reason_code = new.reason_code,
         reason_text = new.reason_text, attempts = new.attempts, retry_at = new.retry_at,
         session_id = new.session_id,
         ready_generation = CASE WHEN new.was_ready THEN new.generation ELSE seats.ready_generation END
     FROM unnest($2::int8[], $3::int8[], $4::text[], $5::text[], $6::text[], $7::int8[], $8::int8[], $9::text[],
             $10::bool[])
         AS new (n, generation, state, reason_code, reason_text, attempts, retry_at, session_id, was_ready)
     WHERE seats.workshop_id = $1 AND seats.n = new.n";

/// Writes seats of one workshop down.
pub(super) async fn store(write: &Write, id: &WorkshopId, seats: &[Held]) -> Outcome<()> {
    if seats.is_empty() {
        return Ok(());
    }
    let column = |value: fn(&Held) -> i64| -> Vec<i64> { seats.iter().map(value).collect() };
    let words: Vec<&str> = seats.iter().map(|held| held.record.state.as_str()).collect();
    let reasons = seats.iter().map(|held| held.record.reason.as_ref());
    let codes: Vec<Option<&str>> =
        reasons.clone().map(|reason| reason.map(|(code, _)| code.as_str())).collect();
    let texts: Vec<Option<&str>> = reasons.map(|reason| reason.map(|(_, text)| text.as_str())).collect();
    let retry: Vec<Option<i64>> =
        seats.iter().map(|held| held.record.retry_at.map(Timestamp::as_millisecond)).collect();
    let holders: Vec<Option<&str>> = seats.iter().map(|held| held.holder.as_deref()).collect();
    let were_ready: Vec<bool> = seats.iter().map(|held| held.record.was_ready).collect();
    write
        .execute(
            STORE,
            &[
                &id.as_str(),
                &column(|held| i64::from(held.record.key.seat.get())),
                &column(|held| held.record.generation.0.cast_signed()),
                &words,
                &codes,
                &texts,
                &column(|held| i64::from(held.record.attempts)),
                &retry,
                &holders,
                &were_ready,
            ],
        )
        .await?;
    Ok(())
}

/// A start: no seat is what it was before the stop.
pub(super) async fn renew_all(write: &Write, id: &WorkshopId, now: Timestamp) -> Outcome<()> {
    let mut seats = all(write, id).await?;
    for held in &mut seats {
        let next = held.renewed();
        announce_change(write, held, &next, now);
        *held = next;
    }
    store(write, id, &seats).await
}

/// Whoever holds it keeps it.
pub(super) async fn reset(write: &Write, key: &SeatKey, now: Timestamp) -> Outcome<SeatRecord> {
    match workshops::lock(write, &key.workshop).await {
        Err(Failure::Refused(StoreError::NotFound { .. })) => return Err(not_found("seat")),
        other => other?,
    };
    let held = find(write, key).await?.ok_or_else(|| not_found("seat"))?;
    let next = held.renewed();
    let data = event_data::of_seat(&next.record, next.learner.as_deref());
    events::add(write, &key.workshop, now, "seat.reset", &data);
    announce_change(write, &held, &next, now);
    store(write, &key.workshop, std::slice::from_ref(&next)).await?;
    Ok(next.record)
}

/// Its session is over: the next learner gets a fresh one.
pub(super) async fn vacate(write: &Write, key: &SeatKey, now: Timestamp) -> Outcome<()> {
    let Some(held) = find(write, key).await? else { return Ok(()) };
    let mut next = held.renewed();
    (next.holder, next.learner) = (None, None);
    announce_change(write, &held, &next, now);
    store(write, &key.workshop, &[next]).await
}

/// All sessions are over, and so are the environments: nothing is made anew.
pub(super) async fn vacate_all(write: &Write, id: &WorkshopId) -> Outcome<()> {
    write
        .execute(
            "UPDATE seats SET session_id = NULL WHERE workshop_id = $1 AND session_id IS NOT NULL",
            &[&id.as_str()],
        )
        .await?;
    Ok(())
}

/// Gives a ready free seat to an active session, and announces it; the caller writes it down.
pub(super) fn occupy(write: &Write, seat: &mut Held, session: &SessionRecord, now: Timestamp) {
    seat.holder = Some(session.id.as_str().to_owned());
    seat.learner.clone_from(&session.name);
    announce(write, seat, now);
}

/// Writes down what the reconciler saw of seats, unless a newer decision has been made since; then, when the workshop
/// runs, gives ready free seats to those in line: first come, first served.
pub(super) async fn observe(
    write: &Write,
    id: &WorkshopId,
    wishes: &[SeatWrite],
    runs: bool,
    now: Timestamp,
) -> Outcome<Vec<SessionRecord>> {
    let line = if runs { sessions::in_line(write, id).await? } else { Vec::new() };
    if wishes.is_empty() && line.is_empty() {
        return Ok(Vec::new());
    }
    let mut seats = all(write, id).await?;
    let mut changed = vec![false; seats.len()];
    for wish in wishes {
        let Some(i) = seats.iter().position(|held| held.record.key.seat == wish.seat) else { continue };
        if let Some(next) = observed(&seats[i], wish)? {
            announce_change(write, &seats[i], &next, now);
            seats[i] = next;
            changed[i] = true;
        }
    }
    let mut line = line.into_iter();
    let mut seated = Vec::new();
    let free = seats.iter().enumerate().filter(|(_, held)| held.is_free_and_ready()).map(|(i, _)| i);
    for i in free.collect::<Vec<_>>() {
        let Some(mut session) = line.next() else { break };
        sessions::activate(write, &mut session, seats[i].record.key.seat, now);
        occupy(write, &mut seats[i], &session, now);
        changed[i] = true;
        seated.push(session);
    }
    sessions::store_seated(write, &seated).await?;
    let mut changed = changed.into_iter();
    seats.retain(|_| changed.next().unwrap_or(false));
    store(write, id, &seats).await?;
    Ok(seated)
}

/// What becomes of a seat by a write; `None` when it is out of date.
fn observed(held: &Held, wish: &SeatWrite) -> Outcome<Option<Held>> {
    if held.record.generation != wish.generation {
        return Ok(None);
    }
    // A held seat that was ready never becomes a new one by itself: its learner's work would be gone.
    let renews = wish.next_generation > wish.generation;
    if held.holder.is_some() && (wish.only_if_free || (renews && held.record.was_ready)) {
        return Ok(None);
    }
    let key = held.record.key.clone();
    if wish.next_generation < wish.generation {
        let story = format!("seat {key} is at {}, not {}", wish.generation, wish.next_generation);
        let wrong = StoreError::Internal { operation: "write down a seat", source: story.into() };
        return Err(Failure::Refused(wrong));
    }
    let record = SeatRecord {
        key,
        generation: wish.next_generation,
        state: wish.state,
        was_ready: wish.state.has_been_ready() || (held.record.was_ready && !renews),
        reason: rows::reason_text(wish.reason.as_ref()),
        attempts: wish.attempts,
        retry_at: wish.retry_at,
    };
    Ok(Some(Held { record, holder: held.holder.clone(), learner: held.learner.clone() }))
}

/// Every seat with the session that holds it.
pub(super) async fn list(db: &Session, id: &WorkshopId) -> Outcome<Vec<(SeatRecord, Option<SessionRecord>)>> {
    workshops::get(db, id).await?;
    let mut sessions = sessions::active(db, id).await?;
    let seats = all(db, id).await?;
    Ok(seats
        .into_iter()
        .map(|held| {
            let holder = sessions.remove(&held.record.key.seat);
            (held.record, holder)
        })
        .collect())
}
