//! The one error of a call, and the one map to the API's codes.

use clarateach_api::ErrorCode;
use clarateach_runtime::RuntimeError;
use clarateach_store::StoreError;

/// A call that was not carried out. Display is what the caller is told.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct AppError {
    /// For programs.
    pub code: ErrorCode,
    /// For people; says nothing internal.
    pub message: String,
    /// What is behind it, for the log only.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl AppError {
    /// With a code and a sentence.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), source: None }
    }

    /// A field of the request can't be used.
    pub fn field(field: &str, problem: impl std::fmt::Display) -> Self {
        Self::new(ErrorCode::InvalidField, format!("{field}: {problem}"))
    }

    /// Something broke here.
    pub fn internal(source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self {
            code: ErrorCode::Internal,
            message: "Something broke on the server; the x-request-id of this answer finds it in the log."
                .to_owned(),
            source: Some(Box::new(source)),
        }
    }

    /// There is no such workshop, or it isn't the caller's: the two look the same.
    #[must_use]
    pub fn no_workshop() -> Self {
        Self::new(ErrorCode::NotFound, "There is no workshop with this id.")
    }
}

impl From<StoreError> for AppError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NotFound { what } => {
                Self::new(ErrorCode::NotFound, format!("There is no such {what}."))
            }
            StoreError::Conflict { message } => Self::new(ErrorCode::Conflict, message),
            error @ StoreError::Unavailable { .. } => Self {
                code: ErrorCode::StoreUnavailable,
                message: "The database can't be used right now; nothing was changed. Try again in a moment."
                    .to_owned(),
                source: Some(Box::new(error)),
            },
            // Only what a reconciler writes is fenced, and nobody waits for its answer.
            error @ (StoreError::Fenced { .. } | StoreError::Internal { .. }) => Self::internal(error),
        }
    }
}

impl From<RuntimeError> for AppError {
    fn from(error: RuntimeError) -> Self {
        let code = match &error {
            RuntimeError::ImageNotFound { .. } => ErrorCode::ImageNotFound,
            RuntimeError::InvalidSpec { .. } => ErrorCode::InvalidField,
            RuntimeError::NotFound { .. } => ErrorCode::NotFound,
            RuntimeError::StaleGeneration { .. } => ErrorCode::Conflict,
            RuntimeError::Unreachable { .. } => ErrorCode::SeatUnreachable,
            RuntimeError::AtCapacity { .. }
            | RuntimeError::Unavailable { .. }
            | RuntimeError::Failed { .. } => ErrorCode::RuntimeUnavailable,
        };
        Self { code, message: error.to_string(), source: Some(Box::new(error)) }
    }
}
