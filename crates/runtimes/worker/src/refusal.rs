//! The two refusals that a control plane tells apart from a worker that is merely away.

use clarateach_runtime::RuntimeError;

const TOKEN: &str = "its agent does not accept this server's token";
const INCOMPATIBLE: &str = "its agent speaks another version of the API";

/// The worker answers and lets this caller in no more, or never did.
#[must_use]
pub fn token_refused(address: &str) -> RuntimeError {
    let message = format!("worker {address}: {TOKEN}; both sides take it from AGENT_TOKEN of the worker");
    RuntimeError::Unavailable { message }
}

/// The worker answers in a way that can't be understood, because of `why`.
#[must_use]
pub fn incompatible(address: &str, why: &str) -> RuntimeError {
    RuntimeError::Unavailable { message: format!("worker {address}: {INCOMPATIBLE}: {why}") }
}

/// Whether the worker answered and refused the token.
#[must_use]
pub fn is_token_refused(error: &RuntimeError) -> bool {
    matches!(error, RuntimeError::Unavailable { message } if message.contains(TOKEN))
}

/// Whether the worker answered what can't be understood.
#[must_use]
pub fn is_incompatible(error: &RuntimeError) -> bool {
    matches!(error, RuntimeError::Unavailable { message } if message.contains(INCOMPATIBLE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_are_told_apart() {
        let (token, other) = (token_refused("w:1"), incompatible("w:1", "capacity: missing"));
        assert!(is_token_refused(&token) && !is_incompatible(&token), "{token}");
        assert!(is_incompatible(&other) && !is_token_refused(&other), "{other}");
        let away = RuntimeError::Unavailable { message: "worker w:1: does not answer".to_owned() };
        assert!(!is_token_refused(&away) && !is_incompatible(&away));
    }
}
