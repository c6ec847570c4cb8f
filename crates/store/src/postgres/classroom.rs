//! What a group of joins of one workshop is decided on: read once under the lock of the workshop's row, changed in
//! memory, written down at once. The table of decisions is [`JoinDecision`]'s.

use std::collections::{HashMap, VecDeque};

use clarateach_ids::{JoinCode, SeatNumber};
use clarateach_lifecycle::{SessionState, Wanted};
use futures_util::future::{try_join, try_join4};
use jiff::Timestamp;

use super::database::Write;
use super::failure::{Failure, Outcome, conflict};
use super::rows::{self, known_sessions, session_columns};
use super::seats::{self, Held};
use super::{events, workshops};
use crate::{CodeHash, JoinDecision, JoinWish, SessionRecord, WorkshopRecord, event_data};

/// A session that is known, or was made just now.
struct Known {
    record: SessionRecord,
    code: CodeHash,
    client: Option<String>,
    line: Option<i64>,
    is_new: bool,
    changed: bool,
}

/// Who a learner turned out to be: an index of [`Classroom::sessions`].
enum Recognised {
    ByCode(usize),
    ByClient(usize),
    Ended(usize),
    No,
}

pub(super) struct Classroom {
    workshop: WorkshopRecord,
    sessions: Vec<Known>,
    by_code: HashMap<[u8; 32], usize>,
    /// Of sessions that are not over.
    by_client: HashMap<String, usize>,
    /// Ready free seats, the lowest number first.
    free: VecDeque<Held>,
    /// Free seats, ready or not.
    obtainable: u32,
    /// The orders of those in line, ascending.
    line: Vec<i64>,
    /// Seats that were held before, by number.
    held: HashMap<SeatNumber, Held>,
    occupied: Vec<Held>,
}

impl Classroom {
    /// Locks the workshop with this join code and reads what the decisions on `wishes` need; `None` when there is none.
    ///
    /// All of it is asked for at once. What comes after the lock is carried out when the lock is had, and reads what was
    /// committed until then.
    pub(super) async fn lock(write: &Write, code: &JoinCode, wishes: &[&JoinWish]) -> Outcome<Option<Self>> {
        let code = code.to_string();
        let codes: Vec<&[u8]> = wishes
            .iter()
            .filter_map(|wish| wish.returning_code.as_ref())
            .map(|code| code.0.as_slice())
            .collect();
        let clients: Vec<&str> = wishes.iter().filter_map(|wish| wish.client_id.as_deref()).collect();
        write.prepare(&[workshops::LOCK_BY_CODE, KNOWN, seats::HELD, LINE, seats::FREE]).await?;
        let (workshop, known, held, (line, (free, obtainable))) = try_join4(
            workshops::lock_by_code(write, &code),
            known(write, &code, &codes, &clients),
            seats::held_by(write, &code, &codes, &clients),
            try_join(line(write, &code), seats::free(write, &code)),
        )
        .await?;
        let Some(workshop) = workshop else { return Ok(None) };
        let mut classroom = Self {
            workshop,
            sessions: Vec::new(),
            by_code: HashMap::new(),
            by_client: HashMap::new(),
            free,
            obtainable,
            line,
            held: held.into_iter().map(|held| (held.record.key.seat, held)).collect(),
            occupied: Vec::new(),
        };
        for known in known {
            classroom.admit(known);
        }
        Ok(Some(classroom))
    }

    fn admit(&mut self, known: Known) -> usize {
        let i = self.sessions.len();
        self.by_code.insert(known.code.0, i);
        if let Some(client) = &known.client
            && known.record.state != SessionState::Ended
        {
            self.by_client.insert(client.clone(), i);
        }
        self.sessions.push(known);
        i
    }

    fn recognise(&self, wish: &JoinWish) -> Recognised {
        let by_code = wish.returning_code.and_then(|code| self.by_code.get(&code.0)).copied();
        let ended = match by_code {
            Some(i) if self.sessions[i].record.state != SessionState::Ended => return Recognised::ByCode(i),
            other => other,
        };
        if let Some(i) = wish.client_id.as_deref().and_then(|client| self.by_client.get(client)) {
            return Recognised::ByClient(*i);
        }
        ended.map_or(Recognised::No, Recognised::Ended)
    }

    /// Decides one; what follows for the others is in the classroom.
    pub(super) fn join(&mut self, write: &Write, wish: &JoinWish) -> Outcome<JoinDecision> {
        if self.workshop.wanted == Wanted::Deleted {
            return Ok(JoinDecision::NotFound);
        }
        let known = self.recognise(wish);
        if let Recognised::Ended(i) = known {
            return Ok(JoinDecision::Ended { reason: self.sessions[i].record.end_reason });
        }
        match self.workshop.wanted {
            Wanted::Created => return Ok(JoinDecision::NotRunning),
            Wanted::Stopped => return Ok(JoinDecision::Ended { reason: None }),
            _ if self.workshop.ends_at.is_some_and(|ends_at| ends_at <= wish.now) => {
                return Ok(JoinDecision::Ended { reason: None });
            }
            _ => {}
        }
        match known {
            Recognised::ByCode(i) => self.come_back(wish, i, false),
            Recognised::ByClient(i) => self.come_back(wish, i, true),
            _ if self.workshop.locked => Ok(JoinDecision::Locked),
            _ => self.newcomer(write, wish),
        }
    }

    /// No event: people come back at every reload.
    fn come_back(&mut self, wish: &JoinWish, i: usize, code_is_new: bool) -> Outcome<JoinDecision> {
        let known = &mut self.sessions[i];
        known.changed = true;
        known.record.last_seen_at = known.record.last_seen_at.max(whole_milliseconds(wish.now));
        if let Some(name) = &wish.name {
            known.record.name = Some(rows::text(name));
        }
        if code_is_new {
            if self.by_code.insert(wish.new_code.0, i).is_some_and(|other| other != i) {
                return Err(taken());
            }
            self.by_code.remove(&known.code.0);
            known.code = wish.new_code;
        } else if let Some(client) = &wish.client_id
            && known.client.is_none()
            && !self.by_client.contains_key(client)
        {
            // A session made without a browser's mark gets that of the first browser that shows its code, unless that
            // browser has a session already.
            known.client = Some(client.clone());
            self.by_client.insert(client.clone(), i);
        }
        let (session, line) = (known.record.clone(), known.line);
        let workshop = Box::new(self.workshop.clone());
        if let Some(line) = line {
            let ahead = self.line.partition_point(|other| *other < line);
            let place = u32::try_from(ahead).unwrap_or(u32::MAX).saturating_add(1);
            return Ok(JoinDecision::Waiting { session, place, workshop, code_is_new });
        }
        let seat = session.seat.and_then(|seat| self.held.get(&seat)).map(|held| held.record.clone());
        let seat =
            seat.ok_or_else(|| Failure::Unreadable(format!("session {} has no seat", session.id).into()))?;
        Ok(JoinDecision::Seated { session, seat, workshop, returning: true, code_is_new })
    }

    fn newcomer(&mut self, write: &Write, wish: &JoinWish) -> Outcome<JoinDecision> {
        let in_line = u32::try_from(self.line.len()).unwrap_or(u32::MAX);
        let free = if in_line == 0 { self.free.pop_front() } else { None };
        if free.is_none() && in_line >= self.obtainable {
            return Ok(JoinDecision::Full);
        }
        if self.by_code.contains_key(&wish.new_code.0) {
            return Err(taken());
        }
        let now = whole_milliseconds(wish.now);
        let session = SessionRecord {
            id: wish.new_session.clone(),
            workshop: self.workshop.id.clone(),
            seat: free.as_ref().map(|seat| seat.record.key.seat),
            state: if free.is_some() { SessionState::Active } else { SessionState::Waiting },
            end_reason: None,
            name: wish.name.as_deref().map(rows::text),
            created_at: now,
            last_seen_at: now,
        };
        let line = free.is_none().then(|| self.line.last().map_or(1, |last| last + 1));
        self.line.extend(line);
        let client = wish.client_id.clone();
        self.admit(Known {
            record: session.clone(),
            code: wish.new_code,
            client,
            line,
            is_new: true,
            changed: false,
        });
        let data = event_data::of_session(&session, [("waiting", free.is_none().into())]);
        events::add(write, &self.workshop.id, now, "session.joined", &data);
        let workshop = Box::new(self.workshop.clone());
        match free {
            Some(mut held) => {
                self.obtainable -= 1;
                seats::occupy(write, &mut held, &session, now);
                let seat = held.record.clone();
                self.held.insert(seat.key.seat, held.clone());
                self.occupied.push(held);
                Ok(JoinDecision::Seated { session, seat, workshop, returning: false, code_is_new: true })
            }
            None => Ok(JoinDecision::Waiting { session, place: in_line + 1, workshop, code_is_new: true }),
        }
    }

    /// Writes down what has become of it, events included, all at once: the first that fails is the one that says why.
    pub(super) async fn store(&self, write: &Write) -> Outcome<()> {
        let new: Vec<&Known> = self.sessions.iter().filter(|known| known.is_new).collect();
        let changed: Vec<&Known> =
            self.sessions.iter().filter(|known| known.changed && !known.is_new).collect();
        write.prepare(&[INSERT, UPDATE, seats::STORE]).await?;
        write.prepare(&events::STATEMENTS).await?;
        try_join4(
            insert(write, &self.workshop, &new),
            update(write, &changed),
            seats::store(write, &self.workshop.id, &self.occupied),
            events::flush(write),
        )
        .await?;
        Ok(())
    }
}

const KNOWN: &str = concat!(
    "SELECT ",
    session_columns!(),
    ", code_hash, client_id, line FROM sessions WHERE ",
    known_sessions!()
);

/// Sessions with these codes, or of these browsers.
async fn known(write: &Write, join_code: &str, codes: &[&[u8]], clients: &[&str]) -> Outcome<Vec<Known>> {
    let rows = write.query(KNOWN, &[&join_code, &codes, &clients]).await?;
    rows.iter()
        .map(|row| {
            let code: &[u8] = rows::value(row, "code_hash")?;
            let code = code.try_into().map_err(|_| Failure::Unreadable("a code's hash".into()))?;
            Ok(Known {
                record: rows::session(row)?,
                code: CodeHash(code),
                client: rows::value(row, "client_id")?,
                line: rows::value(row, "line")?,
                is_new: false,
                changed: false,
            })
        })
        .collect()
}

const LINE: &str = "SELECT line FROM sessions
     WHERE workshop_id = (SELECT id FROM workshops WHERE join_code = $1) AND state = 'waiting' ORDER BY line";

/// The orders of those in line, ascending.
async fn line(write: &Write, join_code: &str) -> Outcome<Vec<i64>> {
    write.query(LINE, &[&join_code]).await?.iter().map(|row| rows::value(row, "line")).collect()
}

/// Columns of many rows at once.
struct Columns<'a> {
    ids: Vec<&'a str>,
    codes: Vec<&'a [u8]>,
    clients: Vec<Option<&'a str>>,
    names: Vec<Option<&'a str>>,
    seen: Vec<i64>,
}

impl<'a> Columns<'a> {
    fn of(sessions: &[&'a Known]) -> Self {
        Self {
            ids: sessions.iter().map(|known| known.record.id.as_str()).collect(),
            codes: sessions.iter().map(|known| known.code.0.as_slice()).collect(),
            clients: sessions.iter().map(|known| known.client.as_deref()).collect(),
            names: sessions.iter().map(|known| known.record.name.as_deref()).collect(),
            seen: sessions.iter().map(|known| known.record.last_seen_at.as_millisecond()).collect(),
        }
    }
}

const INSERT: &str =
    "INSERT INTO sessions (workshop_id, id, state, seat, line, code_hash, client_id, name, created_at,
         last_seen_at)
     SELECT $1, new.* FROM unnest($2::text[], $3::text[], $4::int8[], $5::int8[], $6::bytea[], $7::text[],
         $8::text[], $9::int8[], $10::int8[]) AS new";

async fn insert(write: &Write, workshop: &WorkshopRecord, new: &[&Known]) -> Outcome<()> {
    if new.is_empty() {
        return Ok(());
    }
    let columns = Columns::of(new);
    let states: Vec<&str> = new.iter().map(|known| known.record.state.as_str()).collect();
    let seats: Vec<Option<i64>> =
        new.iter().map(|known| known.record.seat.map(|seat| i64::from(seat.get()))).collect();
    let lines: Vec<Option<i64>> = new.iter().map(|known| known.line).collect();
    let created: Vec<i64> = new.iter().map(|known| known.record.created_at.as_millisecond()).collect();
    write
        .execute(
            INSERT,
            &[
                &workshop.id.as_str(),
                &columns.ids,
                &states,
                &seats,
                &lines,
                &columns.codes,
                &columns.clients,
                &columns.names,
                &created,
                &columns.seen,
            ],
        )
        .await
        .map_err(|failure| if failure.is_taken() { taken() } else { failure })?;
    Ok(())
}

const UPDATE: &str = "UPDATE sessions SET last_seen_at = greatest(last_seen_at, new.seen), name = new.name,
         code_hash = new.code, client_id = new.client
     FROM unnest($1::text[], $2::bytea[], $3::text[], $4::text[], $5::int8[]) AS new (id, code, client, name, seen)
     WHERE sessions.id = new.id";

async fn update(write: &Write, changed: &[&Known]) -> Outcome<()> {
    if changed.is_empty() {
        return Ok(());
    }
    let columns = Columns::of(changed);
    write
        .execute(UPDATE, &[&columns.ids, &columns.codes, &columns.clients, &columns.names, &columns.seen])
        .await
        .map_err(|failure| if failure.is_taken() { taken() } else { failure })?;
    Ok(())
}

/// Ids and codes are random: this is a caller that used one twice.
fn taken() -> Failure {
    conflict("the new session's id or code is taken; draw another")
}

/// As it will be read back.
fn whole_milliseconds(at: Timestamp) -> Timestamp {
    Timestamp::from_millisecond(at.as_millisecond()).unwrap_or(at)
}
