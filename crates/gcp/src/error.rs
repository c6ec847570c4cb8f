//! What can go wrong, and what kind of thing that is.

use std::time::Duration;

use http::StatusCode;
use serde::Deserialize;

use crate::credentials::CredentialsError;
use crate::model::Operation;
use crate::names::BadName;

/// A call that did not do what it was to do.
#[derive(Debug, thiserror::Error)]
pub enum GcpError {
    /// A name that can't be part of a URL.
    #[error(transparent)]
    BadName(#[from] BadName),
    /// Nobody to call as.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// No answer.
    #[error("{call}: no answer from {endpoint}")]
    Unreachable {
        /// What was called.
        call: String,
        /// Whom.
        endpoint: String,
        /// Why.
        source: reqwest::Error,
    },
    /// An answer that says no.
    #[error("{call}: {refusal}")]
    Refused {
        /// What was called.
        call: String,
        /// What was said.
        refusal: Refusal,
    },
    /// An answer that is not the API's.
    #[error("{call}: the answer can't be understood")]
    Unreadable {
        /// What was called.
        call: String,
        /// Why.
        source: serde_json::Error,
    },
    /// An operation that ended with errors.
    #[error("{operation} of {target} failed: {}", .errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Operation {
        /// `insert`, `delete`, …
        operation: String,
        /// The thing's name.
        target: String,
        /// Never empty.
        errors: Vec<OperationError>,
    },
    /// An operation that is still not over.
    #[error("{operation} of {target} is not over after {} s; it goes on at Google", .after.as_secs())]
    Unfinished {
        /// `insert`, `delete`, …
        operation: String,
        /// The thing's name.
        target: String,
        /// How long was waited.
        after: Duration,
    },
}

/// One error of an operation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct OperationError {
    /// `QUOTA_EXCEEDED`, `ZONE_RESOURCE_POOL_EXHAUSTED`, …
    pub code: String,
    /// For people.
    pub message: String,
}

/// What the API said instead of doing it. Source of the shape: Compute Engine, "Error responses".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message} ({} {reason})", .status.as_u16())]
pub struct Refusal {
    /// HTTP status.
    pub status: StatusCode,
    /// `notFound`, `alreadyExists`, `quotaExceeded`, …
    pub reason: String,
    /// For people.
    pub message: String,
    /// `Retry-After`.
    pub retry_after: Option<Duration>,
}

/// What kind of thing went wrong, for those who do something about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It is not there.
    NotFound,
    /// Something of that name is there.
    AlreadyExists,
    /// Somebody uses it.
    InUse,
    /// It is just being changed.
    NotReady,
    /// The project may have no more of it; trying again does not help.
    QuotaExceeded,
    /// The zone has no machine left; another zone or a later time may.
    ZoneExhausted,
    /// Too many calls a minute.
    RateLimited,
    /// The credentials are not, or no longer, good.
    Unauthorized,
    /// They are, and it is not allowed.
    Forbidden,
    /// The request is wrong.
    Invalid,
    /// The service or the way to it has a bad moment.
    Unavailable,
    /// None of these.
    Other,
}

impl GcpError {
    /// What kind of thing it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::BadName(_) => Kind::Invalid,
            Self::Credentials(_) => Kind::Unauthorized,
            Self::Unreachable { .. } | Self::Unfinished { .. } => Kind::Unavailable,
            Self::Unreadable { .. } => Kind::Other,
            Self::Refused { refusal, .. } => refusal.kind(),
            Self::Operation { errors, .. } => {
                errors.first().map_or(Kind::Other, |error| kind_of(&error.code))
            }
        }
    }

    /// The error and what caused it in one line.
    #[must_use]
    pub fn one_line(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            if !text.contains(&cause_text) {
                text.push_str(": ");
                text.push_str(&cause_text);
            }
            source = cause.source();
        }
        text
    }

    /// Whether sending the same again may help.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { source, .. } => !source.is_builder() && !source.is_redirect(),
            Self::Refused { refusal, .. } => matches!(refusal.kind(), Kind::RateLimited | Kind::Unavailable),
            _ => false,
        }
    }

    /// The errors of an operation that is over, if it has any.
    pub(crate) fn of(operation: &Operation) -> Option<Self> {
        let mut errors: Vec<OperationError> = operation
            .error
            .iter()
            .flat_map(|error| error.errors.iter().flatten())
            .map(|error| OperationError {
                code: error.code.clone().unwrap_or_default(),
                message: error.message.clone().unwrap_or_default(),
            })
            .collect();
        if errors.is_empty() {
            let status = operation.http_error_status_code.filter(|status| *status >= 400)?;
            let message = operation.http_error_message.clone().unwrap_or_default();
            errors.push(OperationError { code: status.to_string(), message });
        }
        Some(Self::Operation {
            operation: operation.operation_type.clone().unwrap_or_else(|| "an operation".to_owned()),
            target: operation.target().to_owned(),
            errors,
        })
    }
}

impl Refusal {
    /// From an answer; whatever is not of Google's shape is kept as the message, shortened.
    pub(crate) fn read(status: StatusCode, retry_after: Option<Duration>, body: &[u8]) -> Self {
        #[derive(Deserialize)]
        struct Body {
            error: Inner,
        }
        #[derive(Deserialize)]
        struct Inner {
            #[serde(default)]
            message: String,
            #[serde(default)]
            status: Option<String>,
            #[serde(default)]
            errors: Vec<Item>,
        }
        #[derive(Deserialize)]
        struct Item {
            #[serde(default)]
            reason: String,
        }
        let (message, reason) = match serde_json::from_slice::<Body>(body) {
            Ok(Body { error }) => {
                let reason = error.errors.into_iter().next().map(|item| item.reason).or(error.status);
                (error.message, reason.unwrap_or_default())
            }
            Err(_) => {
                let text: String = String::from_utf8_lossy(body).chars().take(200).collect();
                (if text.is_empty() { "no reason given".to_owned() } else { text }, String::new())
            }
        };
        Self { status, reason, message, retry_after }
    }

    fn kind(&self) -> Kind {
        match kind_of(&self.reason) {
            Kind::Other => {}
            kind => return kind,
        }
        match self.status.as_u16() {
            400 => Kind::Invalid,
            401 => Kind::Unauthorized,
            403 => Kind::Forbidden,
            404 => Kind::NotFound,
            409 => Kind::AlreadyExists,
            408 | 500..=599 => Kind::Unavailable,
            429 => Kind::RateLimited,
            _ => Kind::Other,
        }
    }
}

/// By the reason of a refusal or the code of an operation's error.
fn kind_of(code: &str) -> Kind {
    match code {
        "notFound" | "RESOURCE_NOT_FOUND" => Kind::NotFound,
        "alreadyExists" | "RESOURCE_ALREADY_EXISTS" => Kind::AlreadyExists,
        "resourceInUseByAnotherResource" | "RESOURCE_IN_USE_BY_ANOTHER_RESOURCE" => Kind::InUse,
        "resourceNotReady" | "RESOURCE_NOT_READY" => Kind::NotReady,
        "quotaExceeded" | "QUOTA_EXCEEDED" => Kind::QuotaExceeded,
        "rateLimitExceeded" | "userRateLimitExceeded" | "RATE_LIMIT_EXCEEDED" => Kind::RateLimited,
        "ZONE_RESOURCE_POOL_EXHAUSTED" | "ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS" | "STOCKOUT" => {
            Kind::ZoneExhausted
        }
        "authError" | "UNAUTHENTICATED" => Kind::Unauthorized,
        "backendError" | "internalError" | "UNAVAILABLE" => Kind::Unavailable,
        "forbidden" | "accessNotConfigured" | "PERMISSIONS_ERROR" => Kind::Forbidden,
        "invalid" | "badRequest" | "required" | "INVALID_USAGE" => Kind::Invalid,
        _ => Kind::Other,
    }
}
