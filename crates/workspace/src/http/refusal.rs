//! What a request is refused with.

use clarateach_seatproto::{ErrorBody, ErrorDetail};
use http::{Response, StatusCode};
use thiserror::Error;

use super::{Body, json_bytes};

/// A status, a code for programs and a sentence for people.
#[derive(Clone, Debug, Error)]
#[error("{message}")]
pub(crate) struct Refusal {
    /// HTTP status.
    pub(crate) status: StatusCode,
    /// Word in capitals.
    pub(crate) code: &'static str,
    /// What to do about it.
    pub(crate) message: String,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Refusal {
        Refusal { status, code, message: message.into() }
    }

    pub(crate) fn not_found(what: impl std::fmt::Display) -> Refusal {
        Refusal::new(StatusCode::NOT_FOUND, "NOT_FOUND", format!("{what} does not exist"))
    }

    pub(crate) fn too_large(limit: u64) -> Refusal {
        let message = format!("this is over the limit of {limit} bytes");
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "TOO_LARGE", message)
    }

    /// A fault of ours: logged here, and nothing of it told.
    pub(crate) fn internal(cause: &dyn std::fmt::Display) -> Refusal {
        crate::say(&format!("internal fault: {cause}"));
        Refusal::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "INTERNAL",
            "something went wrong in the seat; try again",
        )
    }

    /// What a failed system call on a file means to the caller.
    pub(crate) fn from_errno(errno: rustix::io::Errno, path: &str) -> Refusal {
        use rustix::io::Errno as E;
        let named = if path.is_empty() { "the workspace" } else { path };
        let (status, code, message) = match errno {
            E::NOENT => (StatusCode::NOT_FOUND, "NOT_FOUND", format!("{named} does not exist")),
            E::XDEV | E::LOOP => (
                StatusCode::FORBIDDEN,
                "OUTSIDE_WORKSPACE",
                format!("{named} leads out of the workspace, or its links go round in circles"),
            ),
            E::NOTDIR => (
                StatusCode::CONFLICT,
                "NOT_A_DIRECTORY",
                format!("{named} lies in something that is no directory"),
            ),
            E::ISDIR => (StatusCode::CONFLICT, "IS_DIRECTORY", format!("{named} is a directory")),
            E::EXIST | E::NOTEMPTY => {
                (StatusCode::CONFLICT, "ALREADY_EXISTS", format!("{named} is there already"))
            }
            E::ACCESS | E::PERM => (
                StatusCode::FORBIDDEN,
                "PERMISSION_DENIED",
                format!("the learner may not do this to {named}"),
            ),
            E::NOSPC | E::DQUOT => {
                (StatusCode::INSUFFICIENT_STORAGE, "NO_SPACE", "the disk of this seat is full".to_owned())
            }
            E::FBIG => (StatusCode::PAYLOAD_TOO_LARGE, "TOO_LARGE", format!("{named} would be too large")),
            E::ROFS => {
                (StatusCode::FORBIDDEN, "READ_ONLY", format!("{named} lies on a read-only file system"))
            }
            E::NAMETOOLONG => (StatusCode::BAD_REQUEST, "INVALID_PATH", "the path is too long".to_owned()),
            E::INVAL => (StatusCode::BAD_REQUEST, "INVALID_PATH", format!("{named} can't be used for this")),
            E::BUSY | E::TXTBSY => (StatusCode::CONFLICT, "BUSY", format!("{named} is in use")),
            E::NXIO => (StatusCode::CONFLICT, "NOT_A_FILE", format!("{named} is not a regular file")),
            other => return Refusal::internal(&format!("{named}: {other}")),
        };
        Refusal::new(status, code, message)
    }

    /// The answer that says so.
    pub(crate) fn into_response(self) -> Response<Body> {
        let body = ErrorBody { error: ErrorDetail { code: self.code.to_owned(), message: self.message } };
        json_bytes(self.status, serde_json::to_vec(&body).unwrap_or_default().into())
    }
}
