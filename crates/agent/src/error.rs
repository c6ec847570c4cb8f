//! A refusal of the API: code, sentence, and what the log should know besides.

use clarateach_api::agent::{AgentErrorBody, AgentErrorCode};
use clarateach_runtime::RuntimeError;

use crate::state::StateError;

/// Why a call was not carried out.
#[derive(Debug, thiserror::Error)]
#[error("{}", .body.error.message)]
pub struct AgentError {
    /// What the caller is told.
    pub body: AgentErrorBody,
    /// What only the log is told.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl AgentError {
    /// With a code and a sentence.
    pub fn new(code: AgentErrorCode, message: impl Into<String>) -> Self {
        Self { body: AgentErrorBody::new(code, message), source: None }
    }

    /// Something of ours broke: the caller is told nothing of it.
    pub fn internal(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        let message = "Something broke in the agent; its log knows more, by the request id.";
        Self { source: Some(source.into()), ..Self::new(AgentErrorCode::Internal, message) }
    }

    /// Its code.
    #[must_use]
    pub fn code(&self) -> AgentErrorCode {
        self.body.error.code
    }
}

impl From<RuntimeError> for AgentError {
    fn from(error: RuntimeError) -> Self {
        let code = match &error {
            RuntimeError::StaleGeneration { .. } => AgentErrorCode::StaleGeneration,
            RuntimeError::NotFound { .. } => AgentErrorCode::VmNotFound,
            RuntimeError::AtCapacity { .. } => AgentErrorCode::AtCapacity,
            RuntimeError::ImageNotFound { .. } => AgentErrorCode::ImageNotFound,
            RuntimeError::InvalidSpec { .. } => AgentErrorCode::InvalidRequest,
            RuntimeError::Unreachable { .. } => AgentErrorCode::VmUnreachable,
            RuntimeError::Unavailable { .. } => AgentErrorCode::Unavailable,
            RuntimeError::Failed { .. } if error.reason().code == "NO_SPACE" => AgentErrorCode::NoSpace,
            RuntimeError::Failed { .. } => AgentErrorCode::VmFailed,
        };
        let mut refusal = Self::new(code, error.to_string());
        let detail = &mut refusal.body.error;
        match &error {
            RuntimeError::StaleGeneration { seen, .. } => detail.seen = Some(seen.0),
            RuntimeError::AtCapacity { used, total } => {
                (detail.used, detail.capacity) = (Some(*used), Some(*total));
            }
            _ => {}
        }
        refusal
    }
}

impl From<StateError> for AgentError {
    fn from(error: StateError) -> Self {
        Self::internal(error)
    }
}
