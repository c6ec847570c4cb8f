//! Joining and coming back.

use clarateach_ids::{SeatNumber, WorkshopId};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `POST /api/join`.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct JoinRequest {
    /// The workshop's join code; case and hyphens don't matter.
    #[schema(example = "K7QM-4XTP", max_length = 64)]
    pub code: String,
    /// What the instructor sees, at most 60 characters.
    #[serde(default)]
    #[schema(max_length = 60)]
    pub name: Option<String>,
    /// The code from an earlier join: gives the same seat on any device.
    #[serde(default)]
    #[schema(max_length = 64)]
    pub session_code: Option<String>,
    /// A random value that the browser keeps: the same one gives the same seat. 16 to 128 letters, digits, `-`, `_`.
    #[serde(default)]
    #[schema(min_length = 16, max_length = 128, pattern = "^[A-Za-z0-9_-]{16,128}$")]
    pub client_id: Option<String>,
}

/// The answer to a join that has a seat.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Joined {
    /// `ready`; for a seat that is held and can't be reached at the moment what `GET /api/session/{code}` says of it.
    pub status: SessionState,
    /// The seat token, a JWT good for five minutes; get a new one from `GET /api/session/{code}`.
    pub token: String,
    /// Base URL of the seat's workspace.
    #[schema(example = "http://localhost:8080/proxy/wabc/1")]
    pub endpoint: String,
    /// Seat number.
    #[schema(value_type = u32)]
    pub seat: SeatNumber,
    /// The workshop.
    #[schema(value_type = String)]
    pub workshop_id: WorkshopId,
    /// The workshop's name.
    pub workshop_name: String,
    /// With which to come back. Keep it secret.
    pub session_code: String,
    /// The name given.
    pub name: Option<String>,
    /// When the token ends.
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: Timestamp,
    /// When the workshop ends, if that is planned.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ends_at: Option<Timestamp>,
    /// Whether the learner held this seat already before this call.
    pub returning: bool,
}

/// The answer (202) to a join while seats are starting.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct WaitingInLine {
    /// Always `waiting` here.
    pub status: SessionState,
    /// Place in line, from 1.
    pub place: u32,
    /// With which to ask again (`GET /api/session/{code}`) and to come back. Keep it secret.
    pub session_code: String,
    /// The workshop.
    #[schema(value_type = String)]
    pub workshop_id: WorkshopId,
    /// The workshop's name.
    pub workshop_name: String,
    /// The name given.
    pub name: Option<String>,
}

/// How a session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SessionState {
    /// It has a seat that answers.
    Ready,
    /// It has a place in line, or its seat is starting again.
    Waiting,
    /// Its seat does not answer at the moment; the work in it is kept.
    Unreachable,
    /// It is over; the reason says why.
    Ended,
}

/// `GET /api/session/{code}`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SessionView {
    /// How the session is.
    pub status: SessionState,
    /// A fresh seat token, when ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// When that token ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
    /// Base URL of the seat's workspace, when it has a seat.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Seat number, when it has a seat.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u32>)]
    pub seat: Option<SeatNumber>,
    /// Place in line, from 1, when waiting for a first seat.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub place: Option<u32>,
    /// Why, when ended or unreachable: one sentence for the learner.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The name given.
    pub name: Option<String>,
    /// The workshop.
    #[schema(value_type = String)]
    pub workshop_id: WorkshopId,
    /// The workshop's name.
    pub workshop_name: String,
    /// When the workshop ends, if that is planned.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ends_at: Option<Timestamp>,
}
