//! The error body: `{"error":{"code":"NO_SEATS","message":"…"}}` with the matching HTTP status.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

macro_rules! error_codes {
    ($($(#[$doc:meta])* $name:ident = $status:literal,)+) => {
        /// What went wrong, for programs. Each code belongs to one HTTP status.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
        #[serde(rename_all = "SCREAMING_SNAKE_CASE")]
        pub enum ErrorCode { $($(#[$doc])* $name,)+ }

        impl ErrorCode {
            /// The HTTP status that goes with the code.
            #[must_use]
            pub const fn status(self) -> u16 {
                match self { $(Self::$name => $status,)+ }
            }
        }
    };
}

error_codes! {
    /// The body is not JSON.
    MalformedJson = 400,
    /// A path, query or header can't be understood.
    BadRequest = 400,
    /// Nobody is logged in, or the token is wrong or out of date.
    Unauthorized = 401,
    /// Somebody is logged in, but this is not theirs; or the Host or Origin is foreign.
    Forbidden = 403,
    /// There is no such thing.
    NotFound = 404,
    /// The path exists, but not with this method.
    MethodNotAllowed = 405,
    /// The workshop is not running (yet).
    NotRunning = 409,
    /// Every seat is taken.
    NoSeats = 409,
    /// The instructor has closed the door for newcomers.
    JoiningLocked = 403,
    /// The workshop or session has ended.
    Ended = 410,
    /// The thing is in a state in which this can't be done.
    Conflict = 409,
    /// The body is larger than this call takes.
    TooLarge = 413,
    /// The body is not `application/json`.
    UnsupportedMediaType = 415,
    /// A field is unknown, missing, of the wrong type or out of range.
    InvalidField = 422,
    /// The image can't be had.
    ImageNotFound = 422,
    /// No runtime can serve this.
    NoRuntime = 422,
    /// Too many failures from this address; try later.
    TooManyAttempts = 429,
    /// Something broke here; the request id finds it in the logs.
    Internal = 500,
    /// The seat's environment does not answer.
    SeatUnreachable = 502,
    /// The database can't be used now (locked, read-only, full); nothing was changed.
    StoreUnavailable = 503,
    /// The runtime's backend does not answer now.
    RuntimeUnavailable = 503,
}

/// Code and sentence.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ErrorDetail {
    /// For programs.
    pub code: ErrorCode,
    /// For people: what is wrong and what to do.
    pub message: String,
}

/// The body of every error.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// Code and sentence.
    pub error: ErrorDetail,
}

impl ErrorBody {
    /// The body for `code` with a sentence.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { error: ErrorDetail { code, message: message.into() } }
    }
}
