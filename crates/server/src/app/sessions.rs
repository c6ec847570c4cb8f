//! Joining and coming back.

use clarateach_api::{
    ErrorCode, JoinRequest, Joined, SeatToken, SessionState as ApiState, SessionView, WaitingInLine,
};
use clarateach_ids::{JoinCode, SessionCode, SessionId};
use clarateach_lifecycle::{SeatState, SessionState, Wanted};
use clarateach_seatproto::token::{Role, SEAT_TOKEN_SECONDS, SeatClaims};
use clarateach_store::{
    CodeHash, JoinDecision, JoinWish, NewEvent, SeatRecord, SessionRecord, StoreError, WorkshopRecord,
};
use jiff::Timestamp;

use super::App;
use super::access::Caller;
use super::error::AppError;
use super::workshops::check_name;

const MAX_LEARNER_NAME: usize = 60;
/// So many ended sessions of a browser in one workshop still leave the next one a code that a repeated join gives again.
const MOST_ENDED: u32 = 32;

/// What a join comes to.
#[derive(Debug)]
pub enum JoinAnswer {
    /// 200: a seat.
    Seated(Joined),
    /// 202: a place in line.
    Waiting(WaitingInLine),
}

fn code_hash(code: &SessionCode) -> CodeHash {
    CodeHash(*blake3::hash(code.canonical()).as_bytes())
}

fn unknown_join_code() -> AppError {
    AppError::new(ErrorCode::NotFound, "No workshop has this code; check it with your instructor.")
}

/// 16 to 128 letters, digits, `-` and `_`: enough that two browsers can't draw the same one.
fn check_client_id(text: &str) -> Result<String, AppError> {
    let fits = text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    if (16..=128).contains(&text.len()) && fits {
        Ok(text.to_owned())
    } else {
        Err(AppError::field("client_id", "must be 16 to 128 letters, digits, '-' or '_'"))
    }
}

impl App {
    /// Gives a learner a seat or a place in line. Safe to repeat.
    ///
    /// # Errors
    /// `NOT_FOUND`, `NOT_RUNNING`, `NO_SEATS`, `JOINING_LOCKED`, `ENDED`, `INVALID_FIELD`.
    pub async fn join(
        &self,
        base: &str,
        request: JoinRequest,
        now: Timestamp,
    ) -> Result<JoinAnswer, AppError> {
        let join_code: JoinCode = request.code.parse().map_err(|_| unknown_join_code())?;
        let given_code: Option<SessionCode> = request
            .session_code
            .as_deref()
            .filter(|text| !text.is_empty())
            .map(|text| text.parse().map_err(|problem| AppError::field("session_code", problem)))
            .transpose()?;
        let client_id = request.client_id.as_deref().map(check_client_id).transpose()?;
        let name = request
            .name
            .as_deref()
            .filter(|name| !name.trim().is_empty())
            .map(|name| check_name("name", name, MAX_LEARNER_NAME))
            .transpose()?;
        // The same browser gets the same code again, so that the one its learner wrote down stays good.
        let mut new_code = match &client_id {
            Some(client_id) => self.sealer.session_code(&join_code, client_id, 0),
            None => SessionCode::random(),
        };
        let mut wish = JoinWish {
            join_code,
            new_session: SessionId::random(),
            new_code: code_hash(&new_code),
            returning_code: given_code.as_ref().map(code_hash),
            client_id,
            name,
            now,
        };
        let mut ended = 0;
        let decision = loop {
            match self.store.join(wish.clone()).await {
                // The code is that of a session of this browser which was ended: the one after it has the next code.
                Err(StoreError::Conflict { .. }) if ended <= MOST_ENDED => {
                    ended += 1;
                    new_code = match &wish.client_id {
                        Some(client_id) if ended <= MOST_ENDED => {
                            self.sealer.session_code(&wish.join_code, client_id, ended)
                        }
                        _ => SessionCode::random(),
                    };
                    wish.new_code = code_hash(&new_code);
                }
                decided => break decided?,
            }
        };
        metrics::counter!("clarateach_joins_total", "outcome" => outcome(&decision)).increment(1);
        let code = |is_new: bool| match &given_code {
            Some(given) if !is_new => given.expose(),
            _ => new_code.expose(),
        };
        match decision {
            JoinDecision::Seated { session, seat, workshop, returning, code_is_new } => {
                let (token, expires_at) = self.learner_token(&session, &seat, now)?;
                Ok(JoinAnswer::Seated(Joined {
                    status: session_status(&session, &workshop, Some(&seat), now).0,
                    token,
                    endpoint: self.endpoint(base, &workshop, &seat).await,
                    seat: seat.key.seat,
                    workshop_id: workshop.id,
                    workshop_name: workshop.name,
                    session_code: code(code_is_new),
                    name: session.name,
                    expires_at,
                    ends_at: workshop.ends_at,
                    returning,
                }))
            }
            JoinDecision::Waiting { session, place, workshop, code_is_new } => {
                self.wake.notify_one();
                Ok(JoinAnswer::Waiting(WaitingInLine {
                    status: ApiState::Waiting,
                    place,
                    session_code: code(code_is_new),
                    workshop_id: workshop.id,
                    workshop_name: workshop.name,
                    name: session.name,
                }))
            }
            JoinDecision::NotFound => Err(unknown_join_code()),
            JoinDecision::NotRunning => Err(AppError::new(
                ErrorCode::NotRunning,
                "The workshop has not been started yet; try again when your instructor says so.",
            )),
            JoinDecision::Locked => Err(AppError::new(
                ErrorCode::JoiningLocked,
                "The instructor has closed the workshop for newcomers; ask for it to be opened.",
            )),
            JoinDecision::Full => Err(AppError::new(
                ErrorCode::NoSeats,
                "The workshop is full: every seat is taken. Ask your instructor.",
            )),
            JoinDecision::Ended { reason } => Err(AppError::new(
                ErrorCode::Ended,
                reason.map_or("The workshop has ended.", clarateach_lifecycle::EndReason::sentence),
            )),
        }
    }

    /// How the session with `code` is, with a fresh token when its seat answers.
    ///
    /// # Errors
    /// `NOT_FOUND` for a code that is nobody's, or whose workshop has been removed.
    pub async fn session(&self, base: &str, code: &str, now: Timestamp) -> Result<SessionView, AppError> {
        let unknown = || {
            AppError::new(
                ErrorCode::NotFound,
                "This session code is not known; its workshop may have ended and been removed.",
            )
        };
        let code: SessionCode = code.parse().map_err(|_| unknown())?;
        let found = self.store.session_by_code(&code_hash(&code)).await;
        let (session, workshop, seat, place) = found.map_err(|error| match error {
            StoreError::NotFound { .. } => unknown(),
            error => error.into(),
        })?;
        let (status, reason) = session_status(&session, &workshop, seat.as_ref(), now);
        let (token, expires_at) = match (&seat, status) {
            (Some(seat), ApiState::Ready) => {
                let (token, expires_at) = self.learner_token(&session, seat, now)?;
                (Some(token), Some(expires_at))
            }
            _ => (None, None),
        };
        let has_seat = status != ApiState::Ended;
        let seat = seat.filter(|_| has_seat);
        let endpoint = match &seat {
            Some(seat) => Some(self.endpoint(base, &workshop, seat).await),
            None => None,
        };
        Ok(SessionView {
            status,
            token,
            expires_at,
            endpoint,
            seat: seat.map(|seat| seat.key.seat),
            place,
            reason,
            name: session.name,
            workshop_id: workshop.id,
            workshop_name: workshop.name,
            ends_at: workshop.ends_at,
        })
    }

    fn learner_token(
        &self,
        session: &SessionRecord,
        seat: &SeatRecord,
        now: Timestamp,
    ) -> Result<(String, Timestamp), AppError> {
        self.token(session.id.clone(), Role::Learner, seat, now)
    }

    fn token(
        &self,
        session: SessionId,
        role: Role,
        seat: &SeatRecord,
        now: Timestamp,
    ) -> Result<(String, Timestamp), AppError> {
        // Whole seconds, as in the token itself.
        let expires_at =
            Timestamp::from_second(now.as_second() + SEAT_TOKEN_SECONDS).map_err(AppError::internal)?;
        let claims = SeatClaims {
            aud: self.installation.clone(),
            workshop: seat.key.workshop.clone(),
            seat: seat.key.seat,
            generation: seat.generation,
            session,
            role,
            iat: now.as_second(),
            exp: expires_at.as_second(),
        };
        let token = self.signer.sign(&claims).map_err(AppError::internal)?;
        Ok((token, expires_at))
    }

    /// A token with which an instructor looks into a seat. Leaves an event: learners' seats are not entered unseen.
    ///
    /// # Errors
    /// As [`App::seat_to_visit`].
    pub async fn visit(
        &self,
        base: &str,
        caller: &Caller,
        id: &clarateach_ids::WorkshopId,
        seat: clarateach_ids::SeatNumber,
        now: Timestamp,
    ) -> Result<SeatToken, AppError> {
        let seat = self.seat_to_visit(caller, id, seat).await?;
        let (token, expires_at) = self.token(SessionId::random(), Role::Instructor, &seat, now)?;
        self.store
            .add_event(NewEvent {
                workshop: id.clone(),
                kind: "seat.visited".to_owned(),
                data: serde_json::json!({ "seat": seat.key.seat, "by": caller.user_id()? }),
                now,
            })
            .await?;
        let workshop = self.store.workshop(id).await?;
        Ok(SeatToken { token, endpoint: self.endpoint(base, &workshop, &seat).await, expires_at })
    }

    /// Where a seat is reached: at its worker, when that has a public URL and knows our keys; else here.
    async fn endpoint(&self, base: &str, workshop: &WorkshopRecord, seat: &SeatRecord) -> String {
        let remote = workshop.runtime.parse().is_ok_and(|kind| self.runtimes.is_remote(kind));
        let direct = if remote { self.fleet.public_url(&seat.key, seat.generation).await } else { None };
        let base = direct.as_deref().unwrap_or(base);
        format!("{base}/proxy/{}/{}", seat.key.workshop, seat.key.seat)
    }
}

fn outcome(decision: &JoinDecision) -> &'static str {
    match decision {
        JoinDecision::Seated { returning: true, .. } => "returned",
        JoinDecision::Seated { .. } => "seated",
        JoinDecision::Waiting { .. } => "waiting",
        JoinDecision::NotFound => "not_found",
        JoinDecision::NotRunning => "not_running",
        JoinDecision::Locked => "locked",
        JoinDecision::Full => "full",
        JoinDecision::Ended { .. } => "ended",
    }
}

/// What a learner is told of a session.
fn session_status(
    session: &SessionRecord,
    workshop: &WorkshopRecord,
    seat: Option<&SeatRecord>,
    now: Timestamp,
) -> (ApiState, Option<String>) {
    if session.state == SessionState::Ended {
        let sentence =
            session.end_reason.map_or("Your session has ended.", clarateach_lifecycle::EndReason::sentence);
        return (ApiState::Ended, Some(sentence.to_owned()));
    }
    match workshop.wanted {
        Wanted::Deleted => (ApiState::Ended, Some("The workshop has ended and is being removed.".to_owned())),
        Wanted::Stopped | Wanted::Created => {
            let sentence = if workshop.ends_at.is_some_and(|end| end <= now) {
                "The workshop has reached its end."
            } else {
                "The workshop has been stopped by the instructor."
            };
            (ApiState::Ended, Some(sentence.to_owned()))
        }
        Wanted::Running => match (session.state, seat.map(|seat| seat.state)) {
            (SessionState::Active, Some(SeatState::Ready)) => (ApiState::Ready, None),
            (SessionState::Active, Some(SeatState::Unreachable | SeatState::Failed)) => {
                let sentence =
                    "Your seat does not answer right now; it is kept, and you come back by yourself.";
                (ApiState::Unreachable, Some(sentence.to_owned()))
            }
            _ => (ApiState::Waiting, None),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_ids_that_could_be_guessed_or_are_hostile_are_refused() {
        for bad in ["", "short", "has space in the id", "ünïcödé-ünïcödé-x", &"a".repeat(129)] {
            assert!(check_client_id(bad).is_err(), "{bad:?}");
        }
        assert!(check_client_id("0123456789abcdef").is_ok());
    }
}
