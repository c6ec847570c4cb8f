//! Creating, changing and ending workshops.

use std::collections::BTreeMap;

use clarateach_api::agent::RevokedSession;
use clarateach_api::{CreateWorkshop, ErrorCode, ExtendWorkshop};
use clarateach_gateway::EndedWhy;
use clarateach_ids::{JoinCode, SeatKey, SeatNumber, SessionId, UserId, WorkshopId};
use clarateach_lifecycle::{EndReason, Wanted};
use clarateach_runtime::{ImageRef, RuntimeError};
use clarateach_store::{NewWorkshop, SeatRecord, StoreError, WorkshopRecord};
use jiff::{SignedDuration, Timestamp};

use super::App;
use super::access::Caller;
use super::error::AppError;

/// What the sealed environment of a workshop is sealed for.
pub const ENV_PURPOSE: &str = "workshop env";

const MAX_NAME: usize = 100;
const MAX_ENV: usize = 64;
const MAX_ENV_NAME: usize = 128;
const MAX_ENV_VALUE: usize = 8 * 1024;
const MAX_DURATION_MINUTES: u32 = 30 * 24 * 60;
/// Join codes are random; two draws that hit taken ones in a row mean something else is wrong.
const CODE_DRAWS: usize = 5;

/// Whether a character shows nothing, or changes how its neighbours are shown: controls, marks of direction, fillers and
/// whatever else Unicode calls default ignorable (DerivedCoreProperties.txt), variation selectors of emoji aside.
fn is_invisible(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}')
        || matches!(c, '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}')
        || matches!(c, '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}')
        || matches!(c, '\u{e0000}'..='\u{e0fff}')
}

/// Joiners are what Persian words and families of emoji are written with; anywhere but between two others they hide.
fn hides(text: &str) -> bool {
    let joins = |c: &char| matches!(c, '\u{200c}' | '\u{200d}');
    let mut before = None;
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        let joined = joins(&c)
            && before.is_some_and(|c: char| !c.is_whitespace() && !joins(&c))
            && rest.peek().is_some_and(|c| !c.is_whitespace());
        if is_invisible(c) && !joined {
            return true;
        }
        before = Some(c);
    }
    false
}

/// Checks a text that people see: 1 to `max` characters, all of which can be seen.
///
/// # Errors
/// `INVALID_FIELD` naming `field`.
pub fn check_name(field: &str, text: &str, max: usize) -> Result<String, AppError> {
    let whole = text;
    let text = text.trim();
    if text.is_empty() {
        return Err(AppError::field(field, "must not be empty"));
    }
    if text.chars().count() > max {
        return Err(AppError::field(field, format_args!("must have at most {max} characters")));
    }
    if hides(whole) {
        return Err(AppError::field(field, "must not contain control characters or invisible ones"));
    }
    Ok(text.to_owned())
}

fn check_range(field: &str, value: u32, low: u32, high: u32) -> Result<u32, AppError> {
    if (low..=high).contains(&value) {
        Ok(value)
    } else {
        Err(AppError::field(field, format_args!("must be a whole number from {low} to {high}")))
    }
}

fn check_env(env: &BTreeMap<String, String>) -> Result<(), AppError> {
    if env.len() > MAX_ENV {
        return Err(AppError::field("env", format_args!("must have at most {MAX_ENV} variables")));
    }
    for (name, value) in env {
        let mut bytes = name.bytes();
        let starts = bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
        if !starts || !bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_') || name.len() > MAX_ENV_NAME {
            return Err(AppError::field(
                "env",
                format_args!(
                    "{name:?} is not a variable name: letters, digits and _, not starting with a digit"
                ),
            ));
        }
        if name.starts_with("CLARATEACH_") {
            return Err(AppError::field("env", format_args!("{name} is reserved")));
        }
        if value.len() > MAX_ENV_VALUE || value.contains('\0') {
            return Err(AppError::field(
                "env",
                format_args!("the value of {name} must have at most {MAX_ENV_VALUE} bytes and no NUL"),
            ));
        }
    }
    Ok(())
}

fn check_image(image: &str) -> Result<ImageRef, AppError> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'/' | b':' | b'@');
    let starts = image.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    if image.len() > 255 || !starts || !image.bytes().all(fits) {
        return Err(AppError::field("image", "must be an image name such as python:3.12-slim"));
    }
    Ok(ImageRef(image.to_owned()))
}

fn end_time(
    now: Timestamp,
    ends_at: Option<Timestamp>,
    minutes: Option<u32>,
) -> Result<Option<Timestamp>, AppError> {
    let longest = SignedDuration::from_mins(i64::from(MAX_DURATION_MINUTES));
    match (ends_at, minutes) {
        (Some(_), Some(_)) => {
            Err(AppError::field("ends_at", "give either ends_at or duration_minutes, not both"))
        }
        (Some(at), None) if at <= now => Err(AppError::field("ends_at", "must be in the future")),
        (Some(at), None) if at > now + longest => {
            Err(AppError::field("ends_at", "must be at most 30 days away"))
        }
        (Some(at), None) => Ok(Some(at)),
        (None, Some(minutes)) => {
            let minutes = check_range("duration_minutes", minutes, 1, MAX_DURATION_MINUTES)?;
            Ok(Some(now + SignedDuration::from_mins(i64::from(minutes))))
        }
        (None, None) => Ok(None),
    }
}

/// An ended session as workers are told.
fn revoked(session: &SessionId, why: &EndedWhy) -> RevokedSession {
    RevokedSession { session_id: session.clone(), reason: why.to_string() }
}

impl App {
    /// Records a new workshop and wakes the reconciler.
    ///
    /// # Errors
    /// `INVALID_FIELD`, `IMAGE_NOT_FOUND`, `NO_RUNTIME`, and what the store and runtime say.
    pub async fn create_workshop(
        &self,
        caller: &Caller,
        wish: CreateWorkshop,
        now: Timestamp,
    ) -> Result<WorkshopRecord, AppError> {
        let owner: UserId = caller.user_id()?;
        let name = check_name("name", &wish.name, MAX_NAME)?;
        let seats = check_range("seats", wish.seats, 1, self.config.seats.max_seats)?;
        check_env(&wish.env)?;
        let memory_mb = check_range("memory_mb", wish.memory_mb.unwrap_or(512), 64, 65_536)?;
        let vcpus = check_range("vcpus", wish.vcpus.unwrap_or(2), 1, 64)?;
        let disk_mb = check_range("disk_mb", wish.disk_mb.unwrap_or(10_240), 256, 1_048_576)?;
        let ends_at = end_time(now, wish.ends_at, wish.duration_minutes)?;
        let image = check_image(wish.image.as_deref().unwrap_or(&self.config.seats.default_image))?;
        let runtime = self.runtimes.choose(wish.runtime.as_deref()).await?;
        let resolved = match runtime.resolve(&image).await {
            // Nobody can say before there is a worker; seats say so if it has no such image.
            Err(RuntimeError::Unavailable { .. }) if self.runtimes.is_coming(runtime.kind()) => Ok(image),
            resolved => resolved,
        };
        let image = resolved.map_err(|error| match error {
            // The caller chose, or left the choice to us: either way another runtime, or a later try, may do.
            RuntimeError::Unavailable { message } => AppError::new(ErrorCode::NoRuntime, message),
            error => error.into(),
        })?;
        let env = serde_json::to_vec(&wish.env).map_err(AppError::internal)?;
        let mut new = NewWorkshop {
            id: WorkshopId::random(),
            owner,
            name,
            join_code: JoinCode::random(),
            seats,
            runtime: runtime.kind().as_str().to_owned(),
            image: image.0,
            env_names: wish.env.keys().cloned().collect(),
            env_sealed: self.sealer.seal(ENV_PURPOSE, &env),
            memory_mb,
            vcpus,
            disk_mb,
            wanted: if wish.autostart { Wanted::Running } else { Wanted::Created },
            ends_at,
            now,
        };
        for _ in 1..CODE_DRAWS {
            match self.store.create_workshop(new.clone()).await {
                Err(StoreError::Conflict { .. }) => new.join_code = JoinCode::random(),
                Ok(workshop) => {
                    self.wake.notify_one();
                    self.scaling.ask();
                    return Ok(workshop);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(self.store.create_workshop(new).await?)
    }

    /// The workshop with `id`, when it is the caller's.
    ///
    /// # Errors
    /// `NOT_FOUND`, also for another's.
    pub async fn workshop_of(&self, caller: &Caller, id: &WorkshopId) -> Result<WorkshopRecord, AppError> {
        caller.user_id()?;
        let workshop = self.store.workshop(id).await.map_err(|error| match error {
            StoreError::NotFound { .. } => AppError::no_workshop(),
            error => error.into(),
        })?;
        caller.require_owner(&workshop)?;
        Ok(workshop)
    }

    /// Writes down what the caller wants of a workshop and wakes the reconciler.
    ///
    /// # Errors
    /// `NOT_FOUND`; `CONFLICT` when the workshop is being deleted.
    pub async fn set_wanted(
        &self,
        caller: &Caller,
        id: &WorkshopId,
        wanted: Wanted,
        now: Timestamp,
    ) -> Result<WorkshopRecord, AppError> {
        let before = self.workshop_of(caller, id).await?;
        if wanted == Wanted::Stopped && before.wanted == Wanted::Created {
            return Ok(before);
        }
        if wanted == Wanted::Running && before.ends_at.is_some_and(|end| end <= now) {
            self.store.set_ends_at(id, None, now).await?;
        }
        // Who is at a worker directly has no stream here that could be closed.
        let holders = if self.fleet.has_public_workers() && before.wanted == Wanted::Running {
            let seats = self.store.seats(id).await?;
            seats.into_iter().filter_map(|(_, holder)| holder.map(|session| session.id)).collect()
        } else {
            Vec::new()
        };
        let workshop = self.store.set_wanted(id, wanted, now).await?;
        self.wake.notify_one();
        let why = match wanted {
            Wanted::Deleted => EndedWhy::WorkshopEnded,
            Wanted::Stopped => EndedWhy::WorkshopStopped,
            Wanted::Running | Wanted::Created => return Ok(workshop),
        };
        self.close_workshop(id, &why);
        self.fleet.revoke(&holders.iter().map(|session| revoked(session, &why)).collect::<Vec<_>>());
        Ok(workshop)
    }

    /// Forgets where the seats of a workshop are and closes every stream into them.
    pub fn close_workshop(&self, id: &WorkshopId, why: &EndedWhy) {
        self.directory.forget_workshop(id);
        for (session, presence) in self.gateway.connected() {
            if presence.seat.workshop == *id {
                self.gateway.end_session(&session, why);
            }
        }
    }

    /// Moves the end of a workshop.
    ///
    /// # Errors
    /// `INVALID_FIELD`, `CONFLICT` when it has stopped, `NOT_FOUND`.
    pub async fn extend_workshop(
        &self,
        caller: &Caller,
        id: &WorkshopId,
        wish: ExtendWorkshop,
        now: Timestamp,
    ) -> Result<WorkshopRecord, AppError> {
        let workshop = self.workshop_of(caller, id).await?;
        let ends_at = match (wish.ends_at, wish.minutes) {
            (None, None) | (Some(_), Some(_)) => {
                return Err(AppError::field("minutes", "give exactly one of ends_at and minutes"));
            }
            (None, Some(minutes)) => {
                let minutes = check_range("minutes", minutes, 1, MAX_DURATION_MINUTES)?;
                let from = workshop.ends_at.map_or(now, |end| end.max(now));
                end_time(now, Some(from + SignedDuration::from_mins(i64::from(minutes))), None)?
            }
            (at @ Some(_), None) => end_time(now, at, None)?,
        };
        if matches!(workshop.wanted, Wanted::Stopped | Wanted::Deleted) {
            return Err(AppError::new(
                ErrorCode::Conflict,
                "The workshop has stopped; start it again instead.",
            ));
        }
        let workshop = self.store.set_ends_at(id, ends_at, now).await?;
        // Workers end seats by themselves when they are cut off: they are told the new end.
        self.wake.notify_one();
        Ok(workshop)
    }

    /// The seat `seat` of a workshop that is the caller's.
    fn seat_key(workshop: &WorkshopRecord, seat: SeatNumber) -> Result<SeatKey, AppError> {
        if seat.get() > workshop.seats {
            return Err(AppError::new(
                ErrorCode::NotFound,
                format!("The workshop has seats 1 to {}.", workshop.seats),
            ));
        }
        Ok(SeatKey { workshop: workshop.id.clone(), seat })
    }

    /// Rebuilds a seat from scratch; whoever holds it keeps it.
    ///
    /// # Errors
    /// `NOT_FOUND`; `CONFLICT` when the workshop isn't wanted running.
    pub async fn reset_seat(
        &self,
        caller: &Caller,
        id: &WorkshopId,
        seat: SeatNumber,
        now: Timestamp,
    ) -> Result<SeatRecord, AppError> {
        let workshop = self.workshop_of(caller, id).await?;
        let key = Self::seat_key(&workshop, seat)?;
        if workshop.wanted != Wanted::Running {
            return Err(AppError::new(
                ErrorCode::Conflict,
                "The workshop is not running, so there is nothing to reset.",
            ));
        }
        let record = self.store.reset_seat(&key, now).await?;
        self.directory.forget(&key);
        self.gateway.seat_rebuilt(&key, record.generation);
        self.wake.notify_one();
        Ok(record)
    }

    /// Ends the session that holds a seat. No-op on a free seat.
    ///
    /// # Errors
    /// `NOT_FOUND`.
    pub async fn evict(
        &self,
        caller: &Caller,
        id: &WorkshopId,
        seat: SeatNumber,
        now: Timestamp,
    ) -> Result<(), AppError> {
        let workshop = self.workshop_of(caller, id).await?;
        let key = Self::seat_key(&workshop, seat)?;
        let seats = self.store.seats(id).await?;
        let holder = seats.into_iter().find(|(record, _)| record.key == key).and_then(|(_, session)| session);
        if let Some(session) = holder {
            self.store.end_session(&session.id, EndReason::Evicted, now).await?;
            self.directory.forget(&key);
            self.gateway.end_session(&session.id, &EndedWhy::Evicted);
            self.fleet.revoke(&[revoked(&session.id, &EndedWhy::Evicted)]);
            self.wake.notify_one();
        }
        Ok(())
    }

    /// The seat record of a caller's workshop, with what is needed to look into it.
    ///
    /// # Errors
    /// `NOT_FOUND`; `CONFLICT` when nothing can be seen there.
    pub async fn seat_to_visit(
        &self,
        caller: &Caller,
        id: &WorkshopId,
        seat: SeatNumber,
    ) -> Result<SeatRecord, AppError> {
        let workshop = self.workshop_of(caller, id).await?;
        let key = Self::seat_key(&workshop, seat)?;
        let seats = self.store.seats(id).await?;
        let record = seats.into_iter().map(|(record, _)| record).find(|record| record.key == key);
        match record {
            Some(record) if workshop.wanted == Wanted::Running => Ok(record),
            _ => Err(AppError::new(
                ErrorCode::Conflict,
                "The workshop is not running, so there is no seat to look into.",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for bad in ["", "  ", "a\nb", "a\0", "\u{202e}evil", &"x".repeat(101)] {
            assert!(check_name("name", bad, 100).is_err(), "{bad:?}");
        }
        assert_eq!(check_name("name", " Rust für alle ", 100).unwrap(), "Rust für alle");
        assert!(check_name("name", &"é".repeat(100), 100).is_ok());
    }

    #[test]
    fn names_show_all_that_they_hold() {
        for bad in ["a\u{61c}b", "a\u{ad}b", "\u{2060}", "a\u{e0041}", "a\u{200b}b", "\u{ffa0}", "a\u{2066}b"]
        {
            assert!(check_name("name", bad, 100).is_err(), "{bad:?}");
        }
        for hidden in ["\u{200d}", "a\u{200d}", "\u{200d}a", "a\u{200d}\u{200d}b", "a \u{200c}b"] {
            assert!(check_name("name", hidden, 100).is_err(), "{hidden:?}");
        }
        for joined in ["👩\u{200d}💻 Python", "می\u{200c}خواهم", "❤\u{fe0f}\u{200d}🔥", "שלום", "日本語"]
        {
            assert_eq!(check_name("name", joined, 100).unwrap(), joined);
        }
    }

    #[test]
    fn env_is_checked() {
        let one = |name: &str, value: &str| check_env(&BTreeMap::from([(name.to_owned(), value.to_owned())]));
        for bad in ["", "1A", "A-B", "A=B", "A B", "É", "CLARATEACH_SECRET", &"A".repeat(129)] {
            assert!(one(bad, "x").is_err(), "{bad:?}");
        }
        assert!(one("API_KEY", "x\0y").is_err());
        assert!(one("API_KEY", &"x".repeat(8193)).is_err());
        assert!(one("_a1", "").is_ok());
    }

    #[test]
    fn ends_are_in_the_future_and_given_once() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let later = now + SignedDuration::from_mins(5);
        assert!(end_time(now, Some(now), None).is_err());
        assert!(end_time(now, Some(later), Some(5)).is_err());
        assert!(end_time(now, None, Some(0)).is_err());
        assert!(end_time(now, Some(now + SignedDuration::from_hours(24 * 31)), None).is_err());
        assert_eq!(end_time(now, None, Some(5)).unwrap(), Some(later));
        assert_eq!(end_time(now, None, None).unwrap(), None);
    }

    #[test]
    fn images_that_could_be_options_or_paths_are_refused() {
        for bad in ["", "-v", "/etc", "a b", "a\n", "a;b", "é", &"a".repeat(256)] {
            assert!(check_image(bad).is_err(), "{bad:?}");
        }
        assert!(check_image("registry.example.org:5000/team/image@sha256:abc").is_ok());
    }
}
